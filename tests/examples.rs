//! The programs in `examples`, run as their users run them: whole, and killed and resumed.

use std::{
    fs,
    io::{Write, pipe},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use kindling_record::{EpochRecord, RunStatus};
use serde_json::Value;

use crate::program::{VARIABLES, only_run, record, text, with};

/// The program of an example, which cargo puts beside those of the workspace.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_kindling")).with_file_name("examples").join(name);
    assert!(
        path.is_file(),
        "{}: no such example; `cargo test` builds it, `cargo test --test` does not",
        path.display()
    );
    path
}

/// Runs `program` in the workspace, where it finds Fashion-MNIST as the program `kindling` does.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for variable in VARIABLES.iter().filter(|name| **name != "KINDLING_DATA_DIR") {
        command.env_remove(variable);
    }
    command
}

fn run(name: &str, arguments: &[&str]) -> Output {
    let output = command(program(name)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output.stderr));
    output
}

/// Whether two runs ended with the same bits.
fn check_same(run: &Path, whole: &Path) {
    for file in ["model.safetensors", "steps.jsonl"] {
        assert!(fs::read(run.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "{file}");
    }
    let (found, expected) = (record(run), record(whole));
    let metrics = |epochs: &[EpochRecord]| epochs.iter().map(|epoch| epoch.metrics.clone()).collect::<Vec<_>>();
    assert_eq!((found.status, metrics(&found.epochs)), (RunStatus::Finished, metrics(&expected.epochs)));
    assert_eq!((found.best_epoch, found.stopped_early), (expected.best_epoch, expected.stopped_early));
    assert_eq!((found.parts.len(), expected.parts.len()), (2, 1));
}

#[test]
fn a_network_of_ones_own_has_the_commands_and_its_keys() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let (runs, report) = (path("runs"), path("report"));
    let small = ["mine", "--dataset", "synthetic", "--limit-batches", "2", "--epochs", "1", "--runs-dir", &runs];
    run("own_network", &with(&["train", "--dashboard", "never"], &small));
    let trained = only_run(place);
    let found = record(&trained);
    // 16 channels of 5x5, and 16 * 4 * 4 numbers to ten classes.
    assert_eq!((found.model.as_str(), found.parameters), ("mine", 16 * 26 + 10 * (16 * 16 + 1)));
    assert_eq!((found.status, &found.config["network"]["channels"]), (RunStatus::Finished, &16.into()));
    let names = String::from_utf8_lossy(&fs::read(trained.join("model.safetensors")).unwrap()).into_owned();
    assert!(["conv.weight", "conv.bias", "head.weight", "head.bias"].iter().all(|name| names.contains(name)));

    let swept = run("own_network", &with(&["sweep", "--set", "network.channels=2,4", "--json"], &small));
    let groups: Value = serde_json::from_slice(&swept.stdout).unwrap();
    let labels: Vec<_> = groups.as_array().unwrap().iter().map(|group| group["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["channels 2", "channels 4"]);
    let ids: Vec<_> = groups.as_array().unwrap().iter().map(|group| group["runs"][0]["id"].as_str().unwrap()).collect();
    let reported = run("own_network", &with(&["report", "--runs-dir", &runs, "--output", &report], &ids));
    assert_eq!(text(&reported.stdout).trim(), format!("{report}/report.html"));
    let html = fs::read_to_string(format!("{report}/report.html")).unwrap();
    assert!(html.contains("channels 2") && html.contains("channels 4"));
    // Messages tell users to type the name of their own program.
    let refused = command(program("own_network")).args(["train", "mine", "--set", "chanels=8"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("did you mean `network.channels`?"), "{}", text(&refused.stderr));
    let none = run("own_network", &["runs", "--runs-dir", &path("none")]);
    assert!(text(&none.stderr).contains("`mine train MODEL` makes one"), "{}", text(&none.stderr));
}

#[test]
fn a_task_of_ones_own_that_is_killed_and_resumed_ends_with_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    let arguments = |runs: &str| [place.path().join(runs).to_str().unwrap().to_owned(), "4".to_owned()];
    // It shows each epoch on standard error, where it waits after the first while nobody reads: the pipe is full.
    let (reader, writer) = pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let filling = thread::spawn(move || while filler.write_all(&[b'\n'; 64]).is_ok() {});
    let mut child = command(program("own_task"));
    let mut child = child.args(arguments("runs")).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let runs = place.path().join("runs");
    let epochs = || {
        let entry = fs::read_dir(&runs).ok()?.next()?.ok()?.path();
        entry.join("run.json").is_file().then(|| record(&entry).epochs.len())
    };
    while epochs().is_none_or(|epochs| epochs == 0) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first epoch did");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    drop(reader);
    filling.join().unwrap();
    let killed = record(&only_run(place.path()));
    assert!(killed.status == RunStatus::Running && killed.epochs.len() < 5, "{killed:?}");
    let names: Vec<_> = killed.metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!((names, killed.model.as_str()), (vec!["loss", "close"], "autoencoder"));

    let [runs, batches] = arguments("runs");
    run("own_task", &[&runs, &batches]);
    let [whole, batches] = arguments("whole/runs");
    run("own_task", &[&whole, &batches]);
    check_same(&only_run(place.path()), &only_run(&place.path().join("whole")));
}

#[test]
fn data_of_ones_own_is_trained_on_and_a_kill_in_the_midst_of_writing_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let runs = place.path().join("runs");
    // The record grows with every epoch: the system kills what writes a file of more than so many blocks.
    let mut limited = command("sh");
    limited.args(["-c", r#"ulimit -c 0; ulimit -f 24; exec "$0" "$@""#]).arg(program("own_data")).arg(&runs);
    let killed = limited.output().unwrap();
    // SIGXFSZ, on Linux and on macOS.
    assert_eq!(killed.status.signal(), Some(25), "{}", text(&killed.stderr));
    let run = only_run(place.path());
    let left = record(&run);
    assert!(left.status == RunStatus::Running && !left.epochs.is_empty() && left.epochs.len() < 200, "{left:?}");

    self::run("own_data", &[runs.to_str().unwrap()]);
    let whole = place.path().join("whole/runs");
    self::run("own_data", &[whole.to_str().unwrap()]);
    check_same(&run, &only_run(&place.path().join("whole")));
    let found = record(&run);
    assert_eq!((found.monitor.as_str(), found.metrics[1].unit.as_deref()), ("valid/absolute error", Some("mpg")));
    // Of a standard deviation of six.
    let error = found.epochs[found.best_epoch.unwrap() - 1].get("valid/absolute error").unwrap();
    assert!(error < 5.0, "{error}");
}
