//! Runs that were killed, stopped and damaged end as if nothing had happened. The crate `training` proves the same for
//! every place where a run can be stopped; here it is the program's turn.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{self, Child, ChildStderr, Command, Stdio},
    sync::LazyLock,
    thread,
};

use burn::{tensor::Device, train::Interrupter};
use kindling_classification::{AnyNetwork, network};
use kindling_data::{ImageData, synthetic};
use kindling_kernels::Level;
use kindling_models::MlpConfig;
use kindling_record::{RunDirectory, RunRecord, RunStatus};
use kindling_training::{Event, Host, Phase, Place};

use crate::program::{command, config, kindling, only_run, record, text, with};

static SHAPES: LazyLock<ImageData> = LazyLock::new(synthetic::draw);

/// Six batches in each of four epochs: moments and a schedule are state to lose, and augmentations a place.
pub(crate) const CONFIG: &str = r#"{
    "network": {"name": "mlp", "hidden": [16, 8]}, "data": {"name": "synthetic", "augment": ["shift", "flip", "erase"]},
    "optimizer": "momentum", "schedule": "cosine",
    "training": {"epochs": 4, "limit_batches": 6, "batch_size": 16, "gradient_steps": 10}
}"#;

/// The network of the configs here, with any widths.
fn mlp() -> Box<dyn AnyNetwork> {
    network("mlp", &MlpConfig::default())
}

/// Trains in this process, on one device of a backend, and does `after_step` after each training step; their number and
/// what stops the run are its arguments.
fn host((backend, device): (&str, Device), mut after_step: impl FnMut(usize, &Interrupter) + 'static) -> Host {
    let mut host = Host::silent(Place {
        backend: backend.to_owned(),
        device_name: "this process".to_owned(),
        kernels: format!("fused, {}", Level::best()),
        instructions: Level::best().to_string(),
        ..Place::new(device)
    });
    let stop = host.interrupter.clone();
    let mut steps = 0;
    host.on_event = Box::new(move |event| {
        if let Event::Step { phase: Phase::Train } = event {
            steps += 1;
            after_step(steps, &stop);
        }
    });
    host
}

/// Begins a run in `runs`, in this process and on a device of a backend, and stops it after so many steps.
pub(crate) fn stopped_run(runs: &Path, text: &str, place: (&str, Device), steps: usize) -> PathBuf {
    let directory = RunDirectory::create(runs, "mlp").unwrap();
    let host = host(place, move |step, interrupter| {
        if step == steps {
            interrupter.stop(None);
        }
    });
    let record = mlp().train(&config(text), &SHAPES, &directory, host).unwrap();
    assert_eq!(record.status, RunStatus::Interrupted);
    directory.path().to_path_buf()
}

/// A run of [`CONFIG`], changed by `flags`, that the program trains to its end in `directory/runs`.
fn trained(place: &Path, directory: &str, flags: &[&str]) -> PathBuf {
    fs::write(place.join("config.json"), CONFIG).unwrap();
    let runs = format!("{directory}/runs");
    let output = kindling(place, &with(&["train", "--config", "config.json", "--runs-dir", &runs], flags));
    assert!(output.status.success(), "{}", text(&output.stderr));
    only_run(&place.join(directory))
}

/// The same run, never stopped.
pub(crate) fn whole(place: &Path) -> PathBuf {
    trained(place, "whole", &[])
}

/// Whether two runs have the same weights and the same steps, to the bit.
pub(crate) fn check_same(run: &Path, whole: &Path) {
    for file in ["model.safetensors", "steps.jsonl"] {
        assert!(fs::read(run.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "{file}");
    }
    assert_eq!(record(run).test, record(whole).test);
}

/// A program that is training and has finished an epoch since it was started.
pub(crate) struct Training {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Training {
    pub(crate) fn start(place: &Path, arguments: &[&str]) -> Self {
        let mut child = command(place, arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("epoch ") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended before its first epoch did");
        }
        Self { child, lines }
    }

    /// Sends it a signal, as in `-TERM`.
    pub(crate) fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Its exit code, and what else it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let said = self.lines.lines().map(Result::unwrap).collect::<Vec<_>>().join("\n");
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn a_killed_run_is_listed_as_interrupted_and_resumes_to_the_same_bits() {
    /// Where the process that kills itself trains, and after how many steps it does.
    const PLACE: &str = "KINDLING_TEST_PLACE";
    const STEPS: &str = "KINDLING_TEST_STEPS";
    const SELF: &str = "resume::a_killed_run_is_listed_as_interrupted_and_resumes_to_the_same_bits";
    if let (Some(runs), Some(steps)) = (env::var_os(PLACE), env::var_os(STEPS)) {
        let steps: usize = steps.to_str().unwrap().parse().unwrap();
        let host = host(("flex", Device::flex()), move |step, _| {
            if step == steps {
                Command::new("kill").args(["-KILL", &process::id().to_string()]).status().unwrap();
                // It may take an instant.
                thread::park();
            }
        });
        let runs = Path::new(&runs);
        let died = if let Ok(directory) = RunDirectory::find(runs, "mlp") {
            mlp().resume(&config(CONFIG), &SHAPES, &directory, host)
        } else {
            mlp().train(&config(CONFIG), &SHAPES, &RunDirectory::create(runs, "mlp").unwrap(), host)
        };
        panic!("it should have died: {died:?}");
    }

    let place = tempfile::tempdir().unwrap();
    // Before the first checkpoint, in the second epoch and in the third.
    for steps in [4, 9, 8] {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", SELF]).env(PLACE, place.path().join("runs")).env(STEPS, steps.to_string());
        let output = child.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{}", text(&output.stdout));
    }
    let run = only_run(place.path());
    assert_eq!(record(&run).status, RunStatus::Running, "nobody was left to write another");
    assert!(text(&kindling(place.path(), &["runs"]).stdout).contains("interrupted"));

    let resumed = kindling(place.path(), &["resume", "mlp"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    check_same(&run, &whole(place.path()));
    let before = fs::read(run.join("run.json")).unwrap();
    let again = kindling(place.path(), &["resume", "mlp"]);
    assert!(again.status.success());
    assert!(text(&again.stderr).contains("is finished; there is nothing to resume"), "{}", text(&again.stderr));
    assert!(fs::read(run.join("run.json")).unwrap() == before);
}

#[test]
fn a_signal_stops_a_run_which_resumes_with_its_kernels() {
    let place = tempfile::tempdir().unwrap();
    // So many epochs that it never ends by itself, however fast the machine is.
    let arguments = ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--limit-batches", "2"];
    let arguments = [&arguments[..], &["--epochs", "1000000", "--kernels", "composed"]].concat();
    let stopped = |arguments: &[&str], signal: &str| -> RunRecord {
        let training = Training::start(place.path(), arguments);
        training.signal(signal);
        let (code, said) = training.end();
        assert_eq!(code, Some(130), "{said}");
        let run = only_run(place.path());
        let id = run.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&format!("resume runs/{id}")), "{said}");
        let record = record(&run);
        assert_eq!(record.status, RunStatus::Interrupted);
        assert!(run.join("checkpoints/index.json").exists());
        record
    };
    let first = stopped(&arguments, "-TERM");
    let second = stopped(&["resume", "mlp"], "-INT");
    assert!(second.epochs.len() > first.epochs.len() && second.epochs[..first.epochs.len()] == first.epochs);
    let kernels: Vec<_> = second.parts.iter().map(|part| part.kernels.as_str()).collect();
    assert_eq!(kernels, ["composed", "composed"]);
}

#[test]
fn a_run_that_another_process_writes_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let run = stopped_run(&place.path().join("runs"), CONFIG, ("flex", Device::flex()), 1);
    let directory = RunDirectory::find(&place.path().join("runs"), "mlp").unwrap();
    // The test is the other process.
    let _lock = directory.lock().unwrap();
    directory.write_record(&RunRecord { status: RunStatus::Running, ..record(&run) }).unwrap();
    let before = fs::read(run.join("run.json")).unwrap();
    let refused = kindling(place.path(), &["resume", "mlp"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another process is writing this run"), "{}", text(&refused.stderr));
    assert!(fs::read(run.join("run.json")).unwrap() == before);
    assert!(text(&kindling(place.path(), &["runs"]).stdout).contains("running"));
}

#[test]
fn a_damaged_checkpoint_is_told_and_passed_over_and_without_a_whole_one_it_is_said_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    // In the third epoch.
    let run = stopped_run(&place.path().join("runs"), CONFIG, ("flex", Device::flex()), 14);
    let model = |checkpoint: &str| run.join("checkpoints").join(checkpoint).join("model.bpk");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("checkpoints/index.json")).unwrap()).unwrap();
    let latest = model(index["latest"].as_str().unwrap());
    let bytes = fs::read(&latest).unwrap();
    fs::write(&latest, &bytes[..bytes.len() / 2]).unwrap();
    let resumed = kindling(place.path(), &["resume", "mlp"]);
    let said = text(&resumed.stderr);
    assert!(resumed.status.success(), "{said}");
    assert!(said.contains("model.bpk: expected CRC-32 ") && said.contains("resuming from "), "{said}");
    check_same(&run, &whole(place.path()));

    let run = stopped_run(&place.path().join("lost/runs"), CONFIG, ("flex", Device::flex()), 14);
    for checkpoint in fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        if checkpoint.is_dir() {
            fs::remove_file(checkpoint.join("state.json")).unwrap();
        }
    }
    let refused = kindling(place.path(), &["resume", run.to_str().unwrap()]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let advice =
        format!("train the run again in another directory with the config in {}", run.join("run.json").display());
    assert!(said.contains("state.json") && said.contains(&advice) && !said.contains("is kept"), "{said}");
}

#[test]
fn a_finished_run_is_trained_further_to_the_weights_of_a_run_that_was_planned_so() {
    let place = tempfile::tempdir().unwrap();
    let constant = ["--schedule", "constant"];
    let run = trained(place.path(), ".", &with(&constant, &["--epochs", "2"]));
    let short = record(&run);
    let resumed = kindling(place.path(), &["resume", "mlp", "--epochs", "4"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let whole = trained(place.path(), "whole", &constant);
    check_same(&run, &whole);
    let (found, expected) = (record(&run), record(&whole));
    assert_eq!((found.status, found.parts.len(), found.epochs.len()), (RunStatus::Finished, 2, 4));
    assert_eq!((&found.config, found.best_epoch), (&expected.config, expected.best_epoch));
    assert!(found.epochs[..2] == short.epochs);
    // And it cannot be made shorter.
    let shorter = kindling(place.path(), &["resume", "mlp", "--epochs", "3"]);
    assert_eq!(shorter.status.code(), Some(2), "{}", text(&shorter.stderr));
    assert!(text(&shorter.stderr).contains("a run cannot be shortened"), "{}", text(&shorter.stderr));
    assert_eq!(record(&run), found);
}

#[test]
fn a_run_whose_schedule_ends_with_its_epochs_is_not_trained_further() {
    let place = tempfile::tempdir().unwrap();
    let run = trained(place.path(), ".", &["--epochs", "2"]);
    let before = fs::read(run.join("run.json")).unwrap();
    let refused = kindling(place.path(), &["resume", "mlp", "--epochs", "4"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("its schedule `cosine` was laid out for 2 epochs; train another with 4"), "{said}");
    assert!(!said.contains("is kept") && !said.contains("failed"), "{said}");
    assert!(fs::read(run.join("run.json")).unwrap() == before);
}
