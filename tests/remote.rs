//! Devices in other processes: `kindling serve`, and training on one or several of them.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use kindling_record::{RunStatus, read_steps};

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
        Self::start_with(place, &["--listen", "127.0.0.1:0"]).0
    }

    /// The server, and what it said before it served.
    fn start_with(place: &Path, arguments: &[&str]) -> (Self, Vec<String>) {
        let mut child = command(place, &[&["serve", "--backend", "flex"], arguments].concat())
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

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TRAIN: [&str; 8] = ["train", "cnn", "--dataset", "synthetic", "--batch-size", "16", "--dashboard", "never"];
const SHORT: [&str; 4] = ["--epochs", "1", "--limit-batches", "5"];

/// The run that [`TRAIN`] with these arguments leaves in `place/name`.
fn trained(place: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let runs = format!("{name}/runs");
    let arguments = [&TRAIN[..], &SHORT, &["--runs-dir", &runs], arguments].concat();
    let output = command(place, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    only_run(&place.join(name))
}

/// The lines of the run's steps.
fn steps(run: &Path) -> String {
    text(&std::fs::read(run.join("steps.jsonl")).unwrap())
}

/// What the arguments of a training on servers are refused with, and the exit code.
fn refused(place: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(place, &[&TRAIN[..], &["--backend", "remote"], arguments].concat()).output().unwrap();
    assert!(!place.join("runs").exists());
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_run_on_a_served_device_has_the_losses_of_a_local_one() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path());
    let far = trained(place.path(), "far", &["--backend", "remote", "--remote", &server.url]);
    // What goes over the network is Burn's own operations.
    let near = trained(place.path(), "near", &["--backend", "flex", "--kernels", "composed"]);
    // The server is flex: the same operations in the same order.
    assert_eq!(steps(&far), steps(&near));
    assert_eq!(record(&far).device, server.url);
}

#[test]
fn a_run_on_two_servers_has_the_losses_of_two_local_devices_and_without_batch_norms_of_one() {
    let place = tempfile::tempdir().unwrap();
    let servers = [Server::start(place.path()), Server::start(place.path())];
    let urls = format!("{},{}", servers[0].url, servers[1].url);
    let both = ["--backend", "remote", "--remote", &urls];
    let far = trained(place.path(), "far", &both);
    let near = trained(place.path(), "near", &["--backend", "flex", "--kernels", "composed", "--devices", "2"]);
    assert_eq!(steps(&far), steps(&near));
    let part = &record(&far).parts[0];
    assert_eq!((part.devices, part.device.as_str()), (2, &*format!("2 devices: {}", urls.replace(',', ", "))));

    let losses = |name: &str, arguments: &[&str]| {
        let output =
            command(place.path(), &[&["train", "mlp"], &TRAIN[2..], &SHORT, &["--runs-dir", name], arguments].concat())
                .output()
                .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let run = PathBuf::from(text(&output.stdout).lines().last().unwrap());
        let steps = read_steps(&place.path().join(run).join("steps.jsonl")).unwrap();
        steps.into_iter().map(|step| step.loss).collect::<Vec<_>>()
    };
    let (two, one) = (losses("two", &both), losses("one", &["--backend", "flex", "--kernels", "composed"]));
    assert_eq!((two.len(), one.len()), (5, 5));
    // Sums of f32 in another order, over five steps.
    assert!(two.iter().zip(&one).all(|(two, one)| (two / one - 1.0).abs() < 1e-4), "{two:?}, {one:?}");
}

#[test]
fn devices_of_one_server_and_a_device_taken_twice_share_a_batch() {
    let place = tempfile::tempdir().unwrap();
    let (server, _) = Server::start_with(place.path(), &["--devices", "2", "--listen", "127.0.0.1:0"]);
    let near = trained(place.path(), "near", &["--backend", "flex", "--kernels", "composed", "--devices", "2"]);
    let url = &server.url;
    let named = format!("{url}#0,{url}#1");
    let ways: [&[&str]; 3] =
        [&["--remote", url, "--devices", "2"], &["--remote", &named], &["--remote", url, "--remote", url]];
    for (name, way) in ["counted", "named", "twice"].into_iter().zip(ways) {
        let far = trained(place.path(), name, &[&["--backend", "remote"], way].concat());
        assert_eq!(steps(&far), steps(&near), "{name}");
    }
    let (code, message) = refused(place.path(), &["--remote", &format!("{url}#2")]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains(&format!("no device 2 at {url}: the server offers 2")), "{message}");
}

#[test]
fn a_server_that_is_lost_interrupts_the_run_which_resumes_on_the_others_and_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let mut servers = [Server::start(place.path()), Server::start(place.path())];
    let urls = format!("{},{}", servers[0].url, servers[1].url);
    // It never ends by itself, however fast the machine is.
    let long = ["--epochs", "1000000", "--limit-batches", "20", "--backend", "remote", "--remote", &urls];
    let training = Training::start(place.path(), &[&TRAIN[..], &long].concat());
    let run = only_run(place.path());
    servers[1].kill();
    let (code, message) = training.end();
    assert_eq!(code, Some(130), "{message}");
    let lost = format!("the server {} was lost after step ", servers[1].url);
    assert!(message.contains(&lost) && message.contains(" is kept\n"), "{message}");
    let way = format!(" --remote {urls}  (without a server: leave it out of --remote)");
    assert!(message.contains("interrupted; resume with: ") && message.contains(&way), "{message}");
    let interrupted = record(&run);
    assert_eq!(interrupted.status, RunStatus::Interrupted);
    assert!(interrupted.error.unwrap().starts_with(&lost) && !interrupted.epochs.is_empty());

    // On the server that is left, then without any.
    let mut epochs = interrupted.epochs.len();
    let left = ["--remote", &servers[0].url];
    for more in [&left[..], &["--backend", "flex"]] {
        let resumed = Training::start(place.path(), &[&["resume", run.to_str().unwrap()], more].concat());
        resumed.signal("-TERM");
        assert_eq!(resumed.end().0, Some(130));
        let stopped = record(&run);
        assert!(stopped.epochs.len() > epochs);
        assert_eq!((stopped.status, stopped.error), (RunStatus::Interrupted, None));
        epochs = stopped.epochs.len();
    }
    let parts = record(&run).parts;
    let found: Vec<_> = parts.iter().map(|part| (part.backend.as_str(), part.devices)).collect();
    assert_eq!(found, [("remote", 2), ("remote", 1), ("flex", 1)]);
}

#[test]
fn a_server_that_is_lost_before_the_first_checkpoint_leaves_a_run_that_begins_anew() {
    let place = tempfile::tempdir().unwrap();
    let mut server = Server::start(place.path());
    let slow = ["--batch-size", "1", "--limit-batches", "500", "--epochs", "1"];
    let remote = ["--backend", "remote", "--remote", &server.url];
    let arguments = [&TRAIN[..4], &TRAIN[6..], &slow, &remote].concat();
    let child = command(place.path(), &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = || {
        let mut runs = std::fs::read_dir(place.path().join("runs")).ok()?;
        runs.next().filter(|run| run.as_ref().is_ok_and(|run| run.path().join("run.json").exists()))
    };
    while begun().is_none() {
        std::thread::yield_now();
    }
    server.kill();
    let output = child.wait_with_output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("there is no checkpoint yet, and a resume begins anew"), "{message}");
    let run = only_run(place.path());
    let resumed = command(place.path(), &["resume", run.to_str().unwrap(), "--backend", "flex"]).output().unwrap();
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
}

#[test]
fn a_server_that_others_can_reach_is_refused_unless_anyone_is_allowed_and_warns_then() {
    let place = tempfile::tempdir().unwrap();
    let output = command(place.path(), &["serve", "--backend", "flex", "--listen", "0.0.0.0:3999"]).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--allow-anyone") && message.contains("ssh -N -L 3999:127.0.0.1:3999"), "{message}");
    let warns = |arguments: &[&str]| {
        let (_server, said) = Server::start_with(place.path(), arguments);
        said.iter().any(|line| line.starts_with("warning: "))
    };
    assert!(warns(&["--listen", "0.0.0.0:0", "--allow-anyone"]));
    assert!(!warns(&["--listen", "127.0.0.1:0"]));
}

#[test]
fn servers_that_are_none_are_named() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path());
    let (code, message) = refused(place.path(), &["--remote", &format!("{},http://gpu:3000", server.url)]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("expected ws://HOST:PORT or ws://HOST:PORT#INDEX, found http://gpu:3000"), "{message}");
    let (code, message) = refused(place.path(), &["--remote", &server.url, "--remote", "ws://127.0.0.1:9"]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("no device at ws://127.0.0.1:9: "), "{message}");
    // What listens there is another program, which says nothing of what a server says.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", other.local_addr().unwrap());
    let answering = std::thread::spawn(move || drop(other.accept()));
    let (code, message) = refused(place.path(), &["--remote", &url]);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains(&format!("no device at {url}: ")), "{message}");
    answering.join().unwrap();
}

#[test]
fn a_recorded_step_is_refused_on_a_server() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path());
    let (code, message) = refused(place.path(), &["--remote", &server.url, "--graph", "--optimizer", "sgd"]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("graph: expected a GPU of this machine that records steps"), "{message}");
}
