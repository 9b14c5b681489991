//! The page of `kindling play`, through the program and over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Stdio},
};

use serde_json::Value;

use crate::program::{command, kindling, only_run, text, write_rows};

/// A page that ends with the test.
struct Page {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Host and port.
    address: String,
}

impl Page {
    fn open(place: &Path, arguments: &[&str]) -> Self {
        let mut command = command(place, &[&["play", "--port", "0"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
        Self { child, stdout, address }
    }

    /// Status and body of the answer.
    fn ask(&self, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = text(&answer[..end]);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
    }

    fn json(&self, method: &str, target: &str, body: &[u8]) -> Value {
        let (status, body) = self.ask(method, target, body);
        assert_eq!(status, 200, "{target}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run on images of 8x6 in three classes.
fn run_on_rows(place: &Path) -> (PathBuf, PathBuf) {
    let data = place.join("rows");
    fs::create_dir(&data).unwrap();
    write_rows(&data, 200);
    let flags = ["--hidden", "8", "--dataset", "idx", "--epochs", "3", "--batch-size", "8", "--data-dir"];
    let output = kindling(place, &[&["train", "mlp"], &flags[..], &[data.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    (only_run(place), data)
}

#[test]
fn the_page_says_of_a_test_image_what_predict_says() {
    let place = tempfile::tempdir().unwrap();
    let (run, _) = run_on_rows(place.path());
    let run = run.to_str().unwrap();
    let mut page = Page::open(place.path(), &[run]);
    let facts = &page.json("GET", "/api/runs", &[])[0]["facts"];
    assert_eq!((facts["model"].as_str(), facts["classes"].as_array().map(Vec::len)), (Some("mlp"), Some(3)));
    for index in [0, 1, 59] {
        let (status, picture) = page.ask("GET", &format!("/api/test/{index}.png"), &[]);
        assert_eq!(status, 200);
        let file = place.path().join("image.png");
        fs::write(&file, &picture).unwrap();
        let said = kindling(place.path(), &["predict", run, file.to_str().unwrap(), "--as-is", "--json"]);
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        let probabilities = &page.json("POST", "/api/predict?as_is=1", &picture)[0]["probabilities"];
        for guess in said[0]["predictions"].as_array().unwrap() {
            // Printed in f32 by the one, and in f64 by the other.
            let [said, shown] = [&guess["probability"], &probabilities[guess["label"].as_u64().unwrap() as usize]]
                .map(|probability| probability.as_f64().unwrap() as f32);
            assert_eq!(said.to_bits(), shown.to_bits(), "{guess}");
        }
    }
    let tests = loop {
        let tests = page.json("GET", "/api/test?show=all", &[]);
        if tests["tested"] == tests["count"] {
            break tests;
        }
    };
    assert_eq!((tests["total"].as_u64(), &tests["problem"]), (Some(60), &Value::Null));
    assert_eq!(page.ask("GET", "/../../run.json", &[]).0, 404);
    assert_eq!(page.ask("POST", "/api/predict", b"no picture").0, 400);

    // Ctrl-C ends it well, and the address was all that it printed.
    let stopped = std::process::Command::new("kill").args(["-INT", &page.child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(page.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    page.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn a_run_whose_data_is_gone_can_be_played_with_beside_another() {
    let place = tempfile::tempdir().unwrap();
    let (run, data) = run_on_rows(place.path());
    let other = run.with_file_name("other");
    fs::create_dir(&other).unwrap();
    for file in ["run.json", "model.safetensors"] {
        fs::copy(run.join(file), other.join(file)).unwrap();
    }
    fs::remove_dir_all(&data).unwrap();
    let page = Page::open(place.path(), &[run.to_str().unwrap(), other.to_str().unwrap()]);
    let runs = page.json("GET", "/api/runs", &[]);
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["tests"], &runs[1]["tests"]), (2, &Value::Null, &Value::Null));
    let picture = image::GrayImage::from_fn(80, 60, |_, y| image::Luma([if y < 20 { 255 } else { 0 }]));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let answers = page.json("POST", "/api/predict", file.get_ref());
    assert_eq!(answers[0]["probabilities"], answers[1]["probabilities"]);
    let map = page.json("POST", "/api/occlusion?run=1", file.get_ref());
    assert_eq!(map["patch"], serde_json::json!([2, 2]));
}

#[test]
fn what_cannot_be_played_with_is_refused_before_the_page_is_there() {
    let place = tempfile::tempdir().unwrap();
    let (run, _) = run_on_rows(place.path());
    let run = run.to_str().unwrap();
    let refused = |arguments: &[&str], code: i32| {
        let output = kindling(place.path(), &[&["play"], arguments].concat());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{arguments:?}");
        text(&output.stderr)
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = refused(&[run, "--port", &port], 1);
    assert!(said.contains(&format!("--port: port {port} of 127.0.0.1 is in use by another program")), "{said}");
    let said = refused(&[run, "--listen", "0.0.0.0"], 2);
    assert!(
        said.contains("--listen: 0.0.0.0 can be reached from other machines") && said.contains("--token"),
        "{said}"
    );
    let said = refused(&[run, "--listen", "192.0.2.1", "--token", "12345678"], 2);
    assert!(said.contains("192.0.2.1 is not an address of this machine"), "{said}");
    assert!(refused(&[run, "--token", "short"], 2).contains("--token: a token needs at least 8 characters"));
    assert!(refused(&["none"], 1).contains("none"));
    refused(&[], 2);
    refused(&[run, run, run], 2);
}
