//! Runs that are stopped, killed and gone on with end as if nothing had happened.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use kindling_record::{RunDirectory, read_steps};

use crate::program::{command, kindling, only_run, record, text};

/// Long enough to be caught in the middle: batch norm, momentum and a schedule all have state to lose.
const TRAIN: [&str; 18] = [
    "train",
    "cnn",
    "--dataset",
    "synthetic",
    "--epochs",
    "3",
    "--limit-batches",
    "25",
    "--batch-size",
    "16",
    "--optimizer",
    "momentum",
    "--schedule",
    "cosine",
    "--clip-norm",
    "1",
    "--label-smoothing",
    "0.1",
];

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("model.safetensors")).unwrap()
}

fn start(directory: &Path, arguments: &[&str]) -> Child {
    command(directory, arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the run in `directory` has written something, and returns it.
fn wait_for_run(directory: &Path) -> PathBuf {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        let runs = fs::read_dir(directory.join("runs")).into_iter().flatten();
        if let Some(run) = runs.map(|entry| entry.unwrap().path()).find(|run| run.join("run.json").exists()) {
            return run;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("no run appeared");
}

fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A run that nobody stops.
fn uninterrupted(place: &Path, arguments: &[&str]) -> PathBuf {
    let output = kindling(place, &[arguments, &["--runs-dir", "whole/runs"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    only_run(&place.join("whole"))
}

/// Which checkpoints a run has: changes with every one.
fn checkpoints(run: &Path) -> Option<String> {
    fs::read_to_string(run.join("checkpoints/index.json")).ok()
}

/// Waits until `child` has written a checkpoint since `before`; it must still be training then.
fn wait_for_checkpoint(child: &mut Child, run: &Path, before: Option<&str>) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while checkpoints(run).as_deref() == before {
        assert!(Instant::now() < deadline, "no checkpoint appeared");
        thread::sleep(Duration::from_millis(2));
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
}

#[test]
fn a_run_stopped_by_a_signal_resumes_to_the_same_bits() {
    for backend in ["flex", "ndarray"] {
        let place = tempfile::tempdir().unwrap();
        let mut arguments = TRAIN.to_vec();
        arguments[1] = "cnn";
        (arguments[5], arguments[7]) = ("10", "40");
        arguments.extend(["--backend", backend, "--augment", "shift,flip,erase", "--gradient-steps", "1000"]);
        let whole = uninterrupted(place.path(), &arguments);

        let mut child = start(place.path(), &arguments);
        let run = wait_for_run(place.path());
        wait_for_checkpoint(&mut child, &run, None);
        thread::sleep(Duration::from_millis(20));
        signal(&child, "-TERM");
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
        let id = run.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(stderr.contains(&format!("kindling resume runs/{id}")), "{stderr}");
        assert_eq!(record(&run).status.to_string(), "interrupted");
        assert!(record(&run).epochs.len() < 10);

        let resumed = kindling(place.path(), &["resume", &id]);
        assert!(resumed.status.success(), "{}", text(&resumed.stderr));
        assert!(weights(&run) == weights(&whole), "{backend}");
        assert_eq!(record(&run).test, record(&whole).test);
        assert_eq!(record(&run).parts.len(), 2);
        // Batch norm's running statistics forget within a few epochs: what they lost shows in valid losses only.
        let losses = |run: &Path| {
            record(run).epochs.iter().map(|epoch| (epoch.train_loss, epoch.valid_loss)).collect::<Vec<_>>()
        };
        assert_eq!(losses(&run), losses(&whole));
        assert!(read_steps(&run.join("steps.jsonl")).unwrap() == read_steps(&whole.join("steps.jsonl")).unwrap());
    }
}

#[test]
fn a_run_killed_ten_times_ends_with_the_same_bits() {
    for optimizer in ["momentum", "muon"] {
        let place = tempfile::tempdir().unwrap();
        let mut arguments = TRAIN.to_vec();
        (arguments[1], arguments[5], arguments[7], arguments[11]) = ("mlp", "60", "60", optimizer);
        arguments.extend(["--hidden", "64,32,64"]);
        let whole = uninterrupted(place.path(), &arguments);

        let mut child = start(place.path(), &arguments);
        let run = wait_for_run(place.path());
        let id = run.file_name().unwrap().to_str().unwrap().to_owned();
        let mut before = None;
        for kill in 0..10 {
            wait_for_checkpoint(&mut child, &run, before.as_deref());
            // Moments without a pattern that training could fall into step with.
            thread::sleep(Duration::from_millis(kill * 7 % 23));
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            child.kill().unwrap();
            child.wait().unwrap();
            before = checkpoints(&run);
            child = start(place.path(), &["resume", &id]);
        }
        assert!(child.wait().unwrap().success());
        assert!(weights(&run) == weights(&whole), "{optimizer}");
        assert!(read_steps(&run.join("steps.jsonl")).unwrap() == read_steps(&whole.join("steps.jsonl")).unwrap());
        assert_eq!(record(&run).parts.len(), 11);
        let left: Vec<_> = fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() <= 3, "the index, the latest and the best: {left:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_kernels_it_was_begun_with() {
    let place = tempfile::tempdir().unwrap();
    let mut arguments = TRAIN.to_vec();
    (arguments[1], arguments[5]) = ("mlp", "20");
    arguments.extend(["--hidden", "32", "--kernels", "composed"]);
    let whole = uninterrupted(place.path(), &arguments);
    let mut child = start(place.path(), &arguments);
    let run = wait_for_run(place.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(record(&run).status.to_string(), "running", "it ended before it was killed");
    let resumed = kindling(place.path(), &["resume", "mlp"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let parts: Vec<_> = record(&run).parts.into_iter().map(|part| part.kernels).collect();
    assert_eq!(parts, ["composed", "composed"]);
    assert!(weights(&run) == weights(&whole));
}

#[test]
fn a_run_whose_checkpoints_are_gone_is_not_gone_on_with() {
    let place = tempfile::tempdir().unwrap();
    let mut child = start(place.path(), &TRAIN);
    let run = wait_for_run(place.path());
    while record(&run).epochs.is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let refused = kindling(place.path(), &["resume", "cnn"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("expected a checkpoint of the"), "{}", text(&refused.stderr));
}

#[test]
fn a_dead_run_is_listed_as_interrupted_and_a_finished_one_has_nothing_to_resume() {
    let place = tempfile::tempdir().unwrap();
    let mut child = start(place.path(), &TRAIN);
    let run = wait_for_run(place.path());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(record(&run).status.to_string(), "running", "nobody was left to write another");
    let listed = text(&kindling(place.path(), &["runs"]).stdout);
    assert!(listed.contains("interrupted"), "{listed}");

    assert!(kindling(place.path(), &["resume", "cnn"]).status.success());
    let before = fs::read(run.join("run.json")).unwrap();
    let again = kindling(place.path(), &["resume", "cnn"]);
    assert!(again.status.success());
    assert!(text(&again.stderr).contains("is finished: there is nothing to resume"));
    assert!(fs::read(run.join("run.json")).unwrap() == before);
}

#[test]
fn a_run_that_another_process_writes_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let mut child = start(place.path(), &TRAIN);
    let run = wait_for_run(place.path());
    // The test holds the lock, so that the moment does not matter.
    child.kill().unwrap();
    child.wait().unwrap();
    let directory = RunDirectory::find(&place.path().join("runs"), "cnn").unwrap();
    let _lock = directory.lock().unwrap();
    let before = fs::read(run.join("run.json")).unwrap();
    let refused = kindling(place.path(), &["resume", "cnn"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another process is writing this run"), "{}", text(&refused.stderr));
    assert!(fs::read(run.join("run.json")).unwrap() == before);
    assert!(text(&kindling(place.path(), &["runs"]).stdout).contains("running"));
}

#[test]
fn a_checkpoint_that_is_damaged_is_an_error_that_names_it() {
    let place = tempfile::tempdir().unwrap();
    let mut child = start(place.path(), &TRAIN);
    let run = wait_for_run(place.path());
    let index = run.join("checkpoints/index.json");
    while !index.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first checkpoint");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(record(&run).status.to_string(), "running", "it ended before it was killed");
    let latest = serde_json::from_slice::<serde_json::Value>(&fs::read(&index).unwrap()).unwrap();
    let model = run.join("checkpoints").join(latest["latest"].as_str().unwrap()).join("model.bpk");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    let refused = kindling(place.path(), &["resume", "cnn"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("model.bpk"), "{}", text(&refused.stderr));
}
