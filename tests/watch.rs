//! The page of runs as they train, through the program: what a browser would ask, over HTTP.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use burn::tensor::Device;
use kindling_record::RunStatus;
use serde_json::Value;

use crate::{
    program::{command, kindling, only_run, record, text},
    resume::{CONFIG, Training, check_same, stopped_run, whole},
};

/// A training that never ends by itself, however fast the machine is.
const ENDLESS: [&str; 9] =
    ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--limit-batches=2", "--epochs", "1000000"];

/// `kindling watch`, which ends with the test.
struct Watch {
    child: Child,
    address: String,
}

impl Watch {
    fn start(place: &Path, arguments: &[&str]) -> Self {
        let arguments = [&["watch", "--port", "0"], arguments].concat();
        let mut child = command(place, &arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { child, address }
    }

    /// Status and body of the response.
    fn ask(&self, method: &str, target: &str, origin: Option<&str>) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{origin}Content-Length: 0\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The row of the only run.
    fn row(&self) -> String {
        let (status, body) = self.ask("GET", "/parts", None);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["parts"]["runs"]["html"].as_str().unwrap().to_owned()
    }

    /// The epochs that the only run is shown to have.
    fn epochs(&self) -> f64 {
        let row = self.row();
        let value = row.split("data-label=\"progress\" data-value=\"").nth(1).unwrap();
        value.split('"').next().unwrap().parse().unwrap()
    }

    /// What came of a button.
    fn press(&self, action: &str, id: &str) -> (u16, Value) {
        let origin = format!("http://{}", self.address);
        let (status, body) = self.ask("POST", &format!("/{action}?id={id}"), Some(&origin));
        (status, serde_json::from_str(&body).unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id(run: &Path) -> &str {
    run.file_name().unwrap().to_str().unwrap()
}

/// Asks until it is so.
fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_is_seen_to_train_and_the_page_stops_it_as_ctrl_c_does() {
    let place = tempfile::tempdir().unwrap();
    let training = Training::start(place.path(), &ENDLESS);
    let watch = Watch::start(place.path(), &["--control"]);
    let run = only_run(place.path());
    let first = watch.epochs();
    until(|| watch.epochs() > first);
    assert!(watch.row().contains("data-status=\"running\""));
    assert!(watch.ask("GET", "/", None).1.contains(id(&run)));

    let (status, answer) = watch.press("resume", id(&run));
    assert_eq!((status, answer["ask"].is_null()), (409, true), "{answer}");
    // Not from another page, and not by a link.
    assert_eq!(watch.ask("POST", &format!("/stop?id={}", id(&run)), Some("http://example.org")).0, 403);
    assert_eq!(watch.ask("GET", &format!("/stop?id={}", id(&run)), None).0, 404);
    let (status, answer) = watch.press("stop", id(&run));
    assert_eq!(status, 200, "{answer}");
    assert!(answer["said"].as_str().unwrap().contains("keeps a checkpoint"), "{answer}");
    let (code, said) = training.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(record(&run).status, RunStatus::Interrupted);
    assert!(watch.row().contains("data-status=\"interrupted\""));
    let (status, answer) = watch.press("stop", id(&run));
    assert_eq!(status, 409, "{answer}");
}

#[test]
fn a_run_resumed_from_the_page_ends_with_the_weights_of_one_that_was_never_stopped() {
    let place = tempfile::tempdir().unwrap();
    let runs = place.path().join("runs");
    let run = stopped_run(&runs, CONFIG, ("flex", Device::flex()), 14);
    let watch = Watch::start(place.path(), &["--control"]);
    let (status, answer) = watch.press("resume", id(&run));
    assert_eq!(status, 200, "{answer}");
    until(|| watch.row().contains("data-status=\"finished\""));
    check_same(&run, &whole(place.path()));
    assert_eq!(record(&run).parts.len(), 2);
    // What the process says is in the run's log, which the page shows.
    let page = watch.ask("GET", &format!("/run?id={}", id(&run)), None).1;
    assert!(page.contains("backend: flex on "), "{page}");

    // One that cannot be resumed says why.
    let lost = stopped_run(&runs, CONFIG, ("flex", Device::flex()), 1);
    std::fs::remove_dir_all(lost.join("checkpoints")).unwrap();
    std::fs::write(lost.join("checkpoints"), "none").unwrap();
    let (status, answer) = watch.press("resume", id(&lost));
    assert_eq!(status, 500, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("cannot be resumed: "), "{answer}");
}

#[test]
fn a_page_that_was_started_without_control_only_shows() {
    let place = tempfile::tempdir().unwrap();
    let run = stopped_run(&place.path().join("runs"), CONFIG, ("flex", Device::flex()), 1);
    let watch = Watch::start(place.path(), &[]);
    for action in ["stop", "resume"] {
        let (status, answer) = watch.press(action, id(&run));
        assert_eq!(status, 403, "{answer}");
    }
    assert!(!watch.row().contains("data-action"));
    assert_eq!(record(&run).status, RunStatus::Interrupted);

    // A second page wants another port, and one that others reach a token.
    let port = watch.address.rsplit(':').next().unwrap();
    let second = kindling(place.path(), &["watch", "--port", port]);
    assert_eq!(second.status.code(), Some(1), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains(&format!("port {port} of 127.0.0.1 is in use")), "{}", text(&second.stderr));
    let open = kindling(place.path(), &["watch", "--port", "0", "--listen", "0.0.0.0"]);
    assert_eq!(open.status.code(), Some(2), "{}", text(&open.stderr));
    assert!(text(&open.stderr).contains("--token"), "{}", text(&open.stderr));
    let none = kindling(place.path(), &["watch", "--port", "0", "vgg"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
}
