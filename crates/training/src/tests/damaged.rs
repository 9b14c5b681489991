//! Runs whose checkpoints were damaged, and directories that hold another run.

use std::{cell::RefCell, path::PathBuf, rc::Rc};

use super::*;

/// The directory of a run stopped in its third epoch, and what it would have come to.
fn stopped_in_the_third_epoch(place: &TempDir) -> (RunDirectory, Outcome) {
    let directory = new_run(place);
    case().fit(&directory, stopping(8, |phase| phase == Phase::Train)).unwrap();
    (directory, case().whole(place))
}

fn case() -> Case {
    Case { optimizer: 1, schedule: 3, ema: Some((0.9, true)), ..Case::default() }
}

fn index(directory: &RunDirectory) -> serde_json::Value {
    serde_json::from_slice(&fs::read(directory.checkpoints().join("index.json")).unwrap()).unwrap()
}

fn named(directory: &RunDirectory, key: &str) -> PathBuf {
    directory.checkpoints().join(index(directory)[key].as_str().unwrap())
}

#[test]
fn a_damaged_latest_checkpoint_is_told_and_the_one_before_leads_to_the_same_bits() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 7] = [
        ("ema.bpk", alter),
        ("model.bpk", |path| fs::write(path, &fs::read(path).unwrap()[..100]).unwrap()),
        ("model.bpk", |path| fs::remove_file(path).unwrap()),
        ("optimizer.bpk", alter),
        ("optimizer.bpk", |path| fs::write(path, "").unwrap()),
        ("state.json", |path| fs::write(path, "{").unwrap()),
        // A digit: still JSON.
        ("state.json", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replacen("\"step\": 8", "\"step\": 9", 1)).unwrap();
        }),
    ];
    for (file, harm) in harms {
        let place = place();
        let (directory, whole) = stopped_in_the_third_epoch(&place);
        let (latest, previous) = (named(&directory, "latest"), named(&directory, "previous"));
        harm(&latest.join(file));
        let told = Rc::new(RefCell::new(Vec::new()));
        let seen = told.clone();
        let host = host(&Interrupter::new(), move |event| {
            if let Event::DamagedCheckpoint { path, message, instead } = event {
                assert!(!message.is_empty());
                seen.borrow_mut().push((path.to_path_buf(), instead.to_path_buf()));
            }
        });
        assert_eq!(case().resume(&directory, host).unwrap().status, RunStatus::Finished, "{file}");
        assert_eq!(*told.borrow(), [(latest.join(file), previous)]);
        assert!(outcome(&directory) == whole, "{file}");
    }
}

#[test]
fn after_falling_back_the_damaged_checkpoint_is_never_taken_again() {
    let place = place();
    let (directory, whole) = stopped_in_the_third_epoch(&place);
    let (latest, previous) = (named(&directory, "latest"), named(&directory, "previous"));
    let intact = fs::read(latest.join("model.bpk")).unwrap();
    alter(&latest.join("model.bpk"));
    // Stopped before its first checkpoint, and then the damaged file is whole again.
    let error = case().resume(
        &directory,
        host(&Interrupter::new(), |event| {
            assert!(!matches!(event, Event::Step { .. }), "the machine fails");
        }),
    );
    assert!(error.unwrap_err().to_string().contains("the machine fails"));
    assert_eq!(named(&directory, "latest"), previous);
    fs::write(latest.join("model.bpk"), intact).unwrap();
    let told = Rc::new(RefCell::new(0));
    let seen = told.clone();
    let host = host(&Interrupter::new(), move |event| {
        *seen.borrow_mut() += usize::from(matches!(event, Event::DamagedCheckpoint { .. }));
    });
    case().resume(&directory, host).unwrap();
    assert_eq!(*told.borrow(), 0);
    assert!(outcome(&directory) == whole);
    assert!(!latest.exists(), "it is removed with the next checkpoint");
}

#[test]
fn a_damaged_index_is_told_and_the_newest_checkpoint_is_taken() {
    let place = place();
    let (directory, whole) = stopped_in_the_third_epoch(&place);
    let (latest, index) = (named(&directory, "latest"), directory.checkpoints().join("index.json"));
    fs::write(&index, "{ \"latest\": \"st").unwrap();
    let told = Rc::new(RefCell::new(Vec::new()));
    let seen = told.clone();
    let host = host(&Interrupter::new(), move |event| {
        if let Event::DamagedCheckpoint { path, instead, .. } = event {
            seen.borrow_mut().push((path.to_path_buf(), instead.to_path_buf()));
        }
    });
    case().resume(&directory, host).unwrap();
    assert_eq!(*told.borrow(), [(index, latest)]);
    assert!(outcome(&directory) == whole);
}

#[test]
fn a_run_without_a_whole_checkpoint_is_an_error_that_names_the_files_and_what_to_do() {
    let place = place();
    let (directory, _) = stopped_in_the_third_epoch(&place);
    let mut broken = Vec::new();
    for entry in fs::read_dir(directory.checkpoints()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            alter(&path.join("model.bpk"));
            broken.push(path.join("model.bpk").display().to_string());
        }
    }
    let before = fs::read(directory.path().join("run.json")).unwrap();
    let message = case().resume(&directory, patient()).unwrap_err().to_string();
    assert!(broken.len() >= 2 && broken.iter().all(|path| message.contains(path)), "{message}");
    let advice = format!("with the config in {}", directory.path().join("run.json").display());
    assert!(message.contains(&advice), "{message}");
    assert!(fs::read(directory.path().join("run.json")).unwrap() == before);

    fs::remove_dir_all(directory.checkpoints()).unwrap();
    let message = case().resume(&directory, patient()).unwrap_err().to_string();
    assert!(message.contains("expected one of the 2 epochs in run.json, found none") && message.contains(&advice));
}

#[test]
fn a_directory_that_holds_another_run_is_refused_and_left_as_it_is() {
    for left in ["run.json", "checkpoints", "steps.jsonl"] {
        let place = place();
        let directory = new_run(&place);
        case().fit(&directory, stopping(5, |phase| phase == Phase::Train)).unwrap();
        for other in ["run.json", "checkpoints", "steps.jsonl", "lock"] {
            let path = directory.path().join(other);
            if other != left && path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else if other != left {
                fs::remove_file(path).unwrap();
            }
        }
        let error = case().fit(&directory, patient()).unwrap_err();
        assert!(matches!(error, TrainingError::Taken { .. }), "{left}: {error}");
        assert_eq!(error.to_string().contains(", or resume it"), left == "run.json", "{error}");
        let found = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(found.collect::<Vec<_>>(), [left]);
    }
}
