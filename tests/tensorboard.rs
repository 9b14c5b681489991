//! Event files that the program writes while it trains, read back. `scripts/checks/tensorboard_reader.py` does the same with
//! TensorBoard's own reader.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kindling_exchange::tensorboard::{Content, Event, What, read_events};
use kindling_record::read_steps;

use crate::{
    program::{SHORT, kindling, only_run, record, text, with},
    resume::Training,
};

/// So many epochs that it never ends by itself, however fast the machine is.
const LONG: [&str; 9] =
    ["train", "mlp", "--hidden", "16", "--dataset", "synthetic", "--epochs", "1000000", "--limit-batches=5"];

/// The events of the one event file of a run that is not empty: what was replaced is.
fn events(log_dir: &Path) -> Vec<Event> {
    let files: Vec<PathBuf> = fs::read_dir(log_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut contents = files.iter().map(|path| fs::read(path).unwrap()).filter(|content| !content.is_empty());
    let events = read_events(&contents.next().unwrap()).unwrap();
    assert_eq!(contents.next(), None, "{files:?}");
    events
}

/// All numbers by their tags, with their steps.
fn scalars(log_dir: &Path) -> BTreeMap<String, Vec<(usize, f32)>> {
    let mut found = BTreeMap::<String, Vec<(usize, f32)>>::new();
    for Event { step, what, .. } in events(log_dir) {
        let Some(What::Summary(summary)) = what else { continue };
        for value in summary.value {
            if let Some(Content::SimpleValue(scalar)) = value.content {
                found.entry(value.tag).or_default().push((usize::try_from(step).unwrap(), scalar));
            }
        }
    }
    found
}

/// Checks that every step and every epoch of the run is there once.
fn check(log_dir: &Path, run: &Path) {
    let scalars = scalars(log_dir);
    let steps = read_steps(&run.join("steps.jsonl")).unwrap();
    let losses: Vec<(usize, f32)> = steps.iter().map(|step| (step.step, step.loss as f32)).collect();
    assert_eq!(scalars["step/loss"], losses);
    let record = record(run);
    let last = |epoch: usize| steps.iter().rfind(|step| step.epoch == epoch).unwrap().step;
    let of_epochs = |name: &str| -> Vec<(usize, f32)> {
        record.epochs.iter().map(|epoch| (last(epoch.epoch), epoch.get(name).unwrap() as f32)).collect()
    };
    assert_eq!(scalars["loss/train"], of_epochs("train/loss"));
    assert_eq!(scalars["accuracy/train"], of_epochs("train/accuracy"));
    match &record.test {
        Some(test) => assert_eq!(scalars["test/loss"], [(losses.len(), test.get("loss").unwrap() as f32)]),
        None => assert!(!scalars.contains_key("test/loss")),
    }
}

#[test]
fn a_training_leaves_an_event_file_beside_its_run_and_a_directory_can_be_named() {
    for (flag, log_dir) in [("--tensorboard", "tensorboard"), ("--tensorboard=logs/tb", "logs/tb")] {
        let place = tempfile::tempdir().unwrap();
        let output = kindling(place.path(), &with(&SHORT, &[flag]));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let run = only_run(place.path());
        check(&place.path().join(log_dir).join(run.file_name().unwrap()), &run);
    }
}

#[test]
fn a_run_that_is_stopped_and_resumed_has_every_step_once() {
    let place = tempfile::tempdir().unwrap();
    let interrupted = |arguments: &[&str]| {
        let training = Training::start(place.path(), arguments);
        training.signal("-INT");
        let (code, said) = training.end();
        assert_eq!(code, Some(130), "{said}");
        let run = only_run(place.path());
        check(&place.path().join("tensorboard").join(run.file_name().unwrap()), &run);
        run
    };
    let run = interrupted(&with(&LONG, &["--tensorboard"]));
    let resume = ["resume", run.file_name().unwrap().to_str().unwrap(), "--tensorboard"];
    interrupted(&resume);
    // A killed one leaves lines that no checkpoint has.
    let training = Training::start(place.path(), &resume);
    training.signal("-KILL");
    training.end();
    interrupted(&resume);
}

#[test]
fn a_sweep_leaves_an_event_file_for_each_of_its_runs() {
    let place = tempfile::tempdir().unwrap();
    let sweep = ["sweep", "mlp", "--hidden=8", "--dataset=synthetic", "--epochs=1", "--limit-batches=3", "--seeds=2"];
    let output = kindling(place.path(), &with(&sweep, &["--tensorboard"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let runs: Vec<PathBuf> =
        fs::read_dir(place.path().join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let runs: Vec<&PathBuf> = runs.iter().filter(|path| path.join("run.json").exists()).collect();
    assert_eq!(runs.len(), 2);
    for run in runs {
        check(&place.path().join("tensorboard").join(run.file_name().unwrap()), run);
    }
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told_before_the_training_and_later_costs_a_notice_alone() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    let output = kindling(place.path(), &with(&SHORT, &["--tensorboard=file"]));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("file cannot be written to: file is no directory"), "{said}");
    assert!(!place.path().join("runs").exists());

    let training = Training::start(place.path(), &with(&LONG, &["--tensorboard=logs"]));
    // What follows the run may make it in the meantime.
    let log_dir = place.path().join("logs");
    while fs::write(&log_dir, "in the way").is_err() {
        let _ = fs::remove_dir_all(&log_dir);
    }
    training.signal("-INT");
    let (code, said) = training.end();
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(said.matches("the event file in logs/").count(), 1, "{said}");
    assert!(said.contains("--format tensorboard"), "{said}");
}
