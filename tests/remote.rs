//! A device in another process: `kindling serve`, and training on it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
};

use kindling_record::RunStatus;

use crate::{
    program::{command, only_run, record, text},
    resume::Training,
};

/// A server that ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(place: &Path) -> Self {
        Self::start_at(place, "127.0.0.1:0").0
    }

    /// The server, and what it said before it served.
    fn start_at(place: &Path, address: &str) -> (Self, Vec<String>) {
        let mut child = command(place, &["serve", "--backend", "flex", "--listen", address])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let line = loop {
            let line = lines.next().unwrap();
            if line.starts_with("serving at ") {
                break line;
            }
            said.push(line);
        };
        let url = line.trim_start_matches("serving at ").split(';').next().unwrap().to_owned();
        // A pipe that is not read blocks its writer.
        std::thread::spawn(move || lines.for_each(drop));
        (Self { child, url }, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TRAIN: [&str; 10] =
    ["train", "cnn", "--dataset", "synthetic", "--batch-size", "16", "--dashboard", "never", "--backend", "remote"];

#[test]
fn a_run_on_a_served_device_has_the_losses_of_a_local_one() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path());
    let short = ["--epochs", "1", "--limit-batches", "5"];
    let arguments = [&TRAIN[..], &short, &["--remote", &server.url, "--runs-dir", "far/runs"]].concat();
    let output = command(place.path(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    // What goes over the network is Burn's own operations.
    let near = ["--backend", "flex", "--kernels", "composed", "--runs-dir", "near/runs"];
    let arguments = [&TRAIN[..8], &short, &near].concat();
    assert!(command(place.path(), &arguments).output().unwrap().status.success());
    let steps = |name: &str| std::fs::read(only_run(&place.path().join(name)).join("steps.jsonl")).unwrap();
    // The server is flex: the same operations in the same order.
    assert_eq!(text(&steps("far")), text(&steps("near")));
    assert_eq!(record(&only_run(&place.path().join("far"))).device, server.url);
}

#[test]
fn a_server_that_goes_away_fails_the_run_which_resumes_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let mut server = Server::start(place.path());
    // It never ends by itself, however fast the machine is.
    let arguments = [&TRAIN[..], &["--epochs", "1000000", "--limit-batches", "20", "--remote", &server.url]].concat();
    let training = Training::start(place.path(), &arguments);
    let run = only_run(place.path());
    server.child.kill().unwrap();
    let (code, message) = training.end();
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("error: run "), "{message}");
    assert!(message.contains("last checkpoint is kept; ") && message.contains(" resume runs/cnn-"), "{message}");
    let failed = record(&run);
    assert_eq!(failed.status, RunStatus::Failed);
    assert!(failed.error.is_some() && !failed.epochs.is_empty());

    let resume = ["resume", run.to_str().unwrap(), "--backend", "flex"];
    let resumed = Training::start(place.path(), &resume);
    resumed.signal("-TERM");
    assert_eq!(resumed.end().0, Some(130));
    let stopped = record(&run);
    assert!(stopped.epochs.len() > failed.epochs.len());
    assert_eq!((stopped.status, stopped.error), (RunStatus::Interrupted, None));
    assert_eq!(stopped.parts.iter().map(|part| part.backend.as_str()).collect::<Vec<_>>(), ["remote", "flex"]);
}

#[test]
fn a_server_that_others_can_reach_warns() {
    let place = tempfile::tempdir().unwrap();
    let warns = |address| Server::start_at(place.path(), address).1.iter().any(|line| line.starts_with("warning: "));
    assert!(warns("0.0.0.0:0"));
    assert!(!warns("127.0.0.1:0"));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let place = tempfile::tempdir().unwrap();
    let arguments = [&TRAIN[..], &["--remote", "ws://127.0.0.1:9"]].concat();
    let output = command(place.path(), &arguments).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("no device at ws://127.0.0.1:9"), "{message}");
}
