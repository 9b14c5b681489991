use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// Three epochs of four steps each, of which the second has gradients, in a directory that shows as much as a test wants.
struct Run {
    place: tempfile::TempDir,
    directory: RunDirectory,
    /// The whole step log.
    lines: Vec<String>,
}

const EPOCHS: usize = 3;
const STEPS: usize = 4;

impl Run {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(&place.path().join("runs"), "mlp").unwrap();
        Self { place, directory, lines: lines(0.0) }
    }

    fn target(&self) -> PathBuf {
        self.place.path().join("tensorboard/mlp")
    }

    /// Writes a record with so many epochs.
    fn record(&self, status: &str, epochs: usize, parts: usize) {
        let epoch = |epoch: usize| {
            json!({
                "epoch": epoch, "learning_rate": 0.1, "seconds": 8.0, "samples_per_second": 50.0,
                "evaluation_seconds": 2.0,
                "metrics": { "train/loss": 1.0 / epoch as f64, "valid/accuracy": 0.25 * epoch as f64, "valid/loss": "NaN" },
            })
        };
        let part = json!({
            "started": "2026-01-02T03:04:05Z", "backend": "flex", "device": "a processor", "devices": 1,
            "kernels": "composed", "instructions": "AVX2",
        });
        let is_finished = status == "finished";
        let record = json!({
            "schema": kindling_record::SCHEMA, "id": "mlp", "status": status, "started": "2026-01-02T03:04:05Z",
            "parts": vec![part; parts], "backend": "flex", "device": "a processor",
            "config": { "network": { "name": "mlp", "hidden": [16] }, "training": { "seed": 1, "patience": null } },
            "versions": { "kindling": "0.1.0" },
            "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
            "dataset": {
                "name": "synthetic", "source": null, "sha256": "00ff", "protocol": "assignment", "train": 100, "valid": 0,
                "test": 10, "classes": ["coat", "boot"], "height": 28, "width": 28, "background": 0,
            },
            "model": "mlp", "parameters": 1, "metrics": [], "monitor": "valid/loss",
            "epochs": (1..=epochs).map(epoch).collect::<Vec<_>>(), "seconds": if is_finished { 33.0 } else { 0.0 },
            "test": is_finished.then(|| json!({ "metrics": { "test/loss": 0.5, "test/accuracy": 0.75 } })),
            "timings": {
                "start_up_seconds": 1.0, "compilation_seconds": 0.0, "training_seconds": 4.0, "evaluation_seconds": 1.0,
                "checkpoint_seconds": 0.0,
            },
        });
        self.directory.write_record(&serde_json::from_value(record).unwrap()).unwrap();
    }

    /// Shows the first bytes of the step log.
    fn log(&self, bytes: usize) {
        fs::write(self.directory.steps(), &self.lines.concat()[..bytes]).unwrap();
    }

    fn bytes(&self, steps: usize) -> usize {
        self.lines[..steps].iter().map(String::len).sum()
    }

    /// Evaluates the run, with one mistake.
    fn evaluate(&self) {
        let evaluation = json!({
            "schema": kindling_record::SCHEMA, "evaluated": "2026-01-02T03:05:05Z", "backend": "flex", "device": "x",
            "kernels": "composed", "images": 10, "loss": 0.5, "accuracy": 0.75, "macro_f1": 0.7, "top_k": [0.75],
            "confusion": [[3, 2], [1, 4]], "calibration": { "error": 0.01, "bins": [] }, "confused": [],
            "classes": [{ "name": "coat", "images": 5, "precision": 0.75, "recall": 0.6, "f1": null }],
            "mistakes": [
                { "index": 7, "target": 0, "predicted": 1, "confidence": 0.875, "picture": "01.png", "file": "a/b.jpg" },
                { "index": 8, "target": 0, "predicted": 1, "confidence": 0.5, "picture": "gone.png" },
            ],
        });
        fs::write(self.directory.evaluation(), evaluation.to_string()).unwrap();
        fs::create_dir(self.directory.mistakes()).unwrap();
        image::GrayImage::new(3, 2).save(self.directory.mistakes().join("01.png")).unwrap();
    }

    fn finish(&self) {
        self.log(self.bytes(EPOCHS * STEPS));
        self.record("finished", EPOCHS, 1);
    }
}

/// The whole step log, with `more` added to the losses.
fn lines(more: f64) -> Vec<String> {
    let line = |step: usize| {
        let mut line = json!({
            "step": step, "epoch": (step - 1) / STEPS + 1, "loss": 1.0 / step as f64 + more, "learning_rate": 0.5,
        });
        if step == 2 {
            let values = json!({ "mean": 0.1, "mean_abs": 0.2, "norm": 0.3 });
            let layer = json!({ "layer": "fc1", "parameters": 3, "mean": 0.4, "mean_abs": 0.5, "norm": "inf" });
            line["gradient"] = values;
            line["gradient"]["layers"] = json!([layer]);
        }
        format!("{line}\n")
    };
    (1..=EPOCHS * STEPS).map(line).collect()
}

/// The events of the only file of ours in `target` that is not empty.
fn events(target: &Path) -> Vec<Event> {
    let mut files = ours(target).unwrap();
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    assert_eq!(files.len(), 1, "{files:?}");
    read_events(&fs::read(&files[0]).unwrap()).unwrap()
}

/// The same without times, and what does not equal itself as text.
fn without_times(target: &Path) -> Vec<String> {
    events(target).into_iter().map(|event| format!("{:?}", Event { wall_time: 0.0, ..event })).collect()
}

/// Step and value of all scalars with this tag.
fn scalars(events: &[Event], tag: &str) -> Vec<(i64, f32)> {
    let mut found = Vec::new();
    for Event { step, what, .. } in events {
        let Some(What::Summary(summary)) = what else { continue };
        for value in summary.value.iter().filter(|value| value.tag == tag) {
            let Some(Content::SimpleValue(scalar)) = value.content else { panic!("{value:?}") };
            found.push((*step, scalar));
        }
    }
    found
}

#[test]
fn a_run_is_exported_with_all_that_its_directory_has() {
    let run = Run::new();
    run.finish();
    run.evaluate();
    let path = export(&run.directory, &run.target()).unwrap();
    assert_eq!(path.parent(), Some(&*run.target()));
    let events = events(&run.target());
    assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
    assert_eq!(events[1].what, Some(What::SessionLog(SessionLog { status: 1 })));
    let losses = scalars(&events, "step/loss");
    let expected: Vec<(i64, f32)> = (1..=12).map(|step| (step, 1.0 / step as f32)).collect();
    assert_eq!(losses, expected);
    assert_eq!(scalars(&events, "step/gradient_norm"), [(2, 0.3)]);
    assert_eq!(scalars(&events, "gradient_norm/fc1"), [(2, f32::INFINITY)]);
    assert_eq!(scalars(&events, "loss/train"), [(4, 1.0), (8, 0.5), (12, 1.0 / 3.0)]);
    assert_eq!(scalars(&events, "accuracy/valid"), [(4, 0.25), (8, 0.5), (12, 0.75)]);
    assert_eq!(scalars(&events, "epoch/seconds"), [(4, 8.0), (8, 8.0), (12, 8.0)]);
    assert!(scalars(&events, "loss/valid").iter().all(|(_, loss)| loss.is_nan()));
    assert_eq!(scalars(&events, "test/accuracy"), [(12, 0.75)]);
    assert_eq!(scalars(&events, "evaluation/macro_f1"), [(12, 0.7)]);

    let values: Vec<&Value> = events
        .iter()
        .filter_map(|event| if let Some(What::Summary(summary)) = &event.what { Some(&summary.value) } else { None })
        .flatten()
        .collect();
    let value = |tag: &str| *values.iter().find(|value| value.tag == tag).unwrap();
    let text = |tag: &str| match &value(tag).content {
        Some(Content::Tensor(tensor)) => String::from_utf8(tensor.string_val[0].clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let config = text("config");
    let config = config.strip_prefix("```json\n").and_then(|config| config.strip_suffix("\n```")).unwrap();
    assert_eq!(serde_json::from_str::<Json>(config).unwrap()["training"]["seed"], 1);
    assert!(text("run").contains("| data, SHA-256 | 00ff |"), "{}", text("run"));
    assert!(text("evaluation/classes").contains("| coat | 5 | 75.00 % | 60.00 % | – |"));
    // The picture of the second mistake is gone.
    assert_eq!(values.iter().filter(|value| value.tag.starts_with("mistakes/")).count(), 1);
    let mistake = value("mistakes/01 coat as boot");
    assert_eq!(
        mistake.metadata.as_ref().unwrap().summary_description,
        "test image 7 (a/b.jpg): coat, taken for boot with a probability of 87.50 %"
    );
    let Some(Content::Image(image)) = &mistake.content else { panic!() };
    assert_eq!((image.height, image.width, image.colorspace), (2, 3, 1));
    assert_eq!(image.encoded_image_string, fs::read(run.directory.mistakes().join("01.png")).unwrap());
    let session = |name: &str| {
        let plugin = value(&format!("_hparams_/{name}")).metadata.clone().unwrap().plugin_data.unwrap();
        <Hyperparameters as prost::Message>::decode(&plugin.content[..]).unwrap().session.unwrap()
    };
    let Session::Start(start) = session("session_start_info") else { panic!() };
    let hyperparameters: Vec<(&str, Kind)> =
        start.hparams.iter().map(|(name, value)| (name.as_str(), value.kind.clone().unwrap())).collect();
    let kind = |text: &str| Kind::Text(text.to_owned());
    let expected =
        [("network.hidden", kind("[16]")), ("network.name", kind("mlp")), ("training.seed", Kind::Number(1.0))];
    assert_eq!(hyperparameters, expected);
    let Session::End(end) = session("session_end_info") else { panic!() };
    assert_eq!(end.status(), Status::Success);
}

#[test]
fn times_are_the_runs_seconds_evenly_spread_within_an_epoch() {
    let run = Run::new();
    run.finish();
    export(&run.directory, &run.target()).unwrap();
    let start = kindling_record::unix_seconds("2026-01-02T03:04:05Z").unwrap();
    assert_eq!(start as u64, 1_767_323_045);
    let seconds = |tag: &str| -> Vec<f64> {
        let has_tag = |event: &Event| match &event.what {
            Some(What::Summary(summary)) => summary.value.iter().any(|value| value.tag == tag),
            _ => false,
        };
        events(&run.target()).iter().filter(|event| has_tag(event)).map(|event| event.wall_time - start).collect()
    };
    let steps = [3.0, 5.0, 7.0, 9.0, 13.0, 15.0, 17.0, 19.0, 23.0, 25.0, 27.0, 29.0];
    assert_eq!(seconds("step/loss"), steps);
    assert_eq!(seconds("loss/train"), [11.0, 21.0, 31.0]);
    assert_eq!(seconds("test/loss"), [33.0]);
    // What is left of an epoch takes as long as before.
    run.record("running", 2, 1);
    export(&run.directory, &run.target()).unwrap();
    assert_eq!(seconds("step/loss"), steps);
}

#[test]
fn exporting_again_replaces_the_file_and_leaves_those_of_others() {
    let run = Run::new();
    run.finish();
    fs::create_dir_all(run.target()).unwrap();
    let other = run.target().join("events.out.tfevents.1.host.1.0");
    fs::write(&other, "another program's").unwrap();
    let first = export(&run.directory, &run.target()).unwrap();
    let before = without_times(&run.target());
    let second = export(&run.directory, &run.target()).unwrap();
    assert!(first < second, "{} and {}", first.display(), second.display());
    assert_eq!(without_times(&run.target()), before);
    assert_eq!(fs::read_to_string(&other).unwrap(), "another program's");
    // What reads the first file finds nothing more in it, and after an hour nobody does.
    assert_eq!(fs::metadata(&first).unwrap().len(), 0);
    File::options().write(true).open(&first).unwrap().set_modified(SystemTime::now() - 2 * RETIREMENT).unwrap();
    let third = export(&run.directory, &run.target()).unwrap();
    assert_eq!((first.exists(), second.exists(), third.exists()), (false, true, true));
}

#[test]
fn a_run_without_a_record_is_waited_for_and_one_without_a_step_log_counts_epochs() {
    let run = Run::new();
    let mut follower = Follower::new(&run.directory, &run.target());
    follower.update().unwrap();
    assert!(!run.target().exists());
    assert!(matches!(export(&run.directory, &run.target()), Err(ExchangeError::Record(_))));
    run.record("finished", 2, 1);
    follower.update().unwrap();
    let events = events(&run.target());
    assert_eq!(scalars(&events, "loss/train"), [(1, 1.0), (2, 0.5)]);
    assert_eq!(scalars(&events, "test/loss"), [(2, 0.5)]);
}

#[test]
fn a_broken_line_in_the_middle_is_an_error_of_the_export() {
    let run = Run::new();
    run.finish();
    let log = run.lines.concat().replace("\"step\":3", "\"step\":x");
    fs::write(run.directory.steps(), log).unwrap();
    let message = export(&run.directory, &run.target()).unwrap_err().to_string();
    assert!(message.contains(&format!("the line at byte {} is no step: ", run.bytes(2))), "{message}");
}

#[test]
fn after_a_resume_every_step_is_there_once() {
    for (parts, name) in [(1, "on the same machine"), (2, "by another process")] {
        let mut run = Run::new();
        let mut follower = Follower::new(&run.directory, &run.target());
        run.record("running", 1, 1);
        run.log(run.bytes(7));
        follower.update().unwrap();
        assert_eq!(scalars(&events(&run.target()), "step/loss").len(), 7);
        // The log is cut to the checkpoint's length, or has grown beyond what was read before anybody looks.
        for (steps, losses) in [(4, 4), (9, 8)] {
            run.lines = lines(10.0);
            run.log(run.bytes(steps));
            run.record("running", 1, parts);
            follower.update().unwrap();
            let found = scalars(&events(&run.target()), "step/loss");
            assert_eq!(found.len(), losses, "{name}: an epoch that the record does not know yet waits");
            assert!(found.iter().all(|(_, loss)| *loss > 10.0), "{name}: {found:?}");
        }
        run.log(run.bytes(12));
        run.record("finished", 3, parts);
        follower.update().unwrap();
        let found = scalars(&events(&run.target()), "step/loss");
        assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>(), "{name}");
        assert!(found.iter().all(|(_, loss)| *loss > 10.0), "{name}: {found:?}");
    }
}

#[test]
fn a_run_that_has_ended_and_is_trained_further_ends_once() {
    let run = Run::new();
    run.log(run.bytes(8));
    run.record("finished", 2, 1);
    let mut follower = Follower::new(&run.directory, &run.target());
    follower.update().unwrap();
    run.record("running", 2, 1);
    follower.update().unwrap();
    assert_eq!(scalars(&events(&run.target()), "test/loss"), []);
    run.finish();
    follower.update().unwrap();
    assert_eq!(scalars(&events(&run.target()), "test/loss"), [(12, 0.5)]);
    follower.update().unwrap();
    assert_eq!(scalars(&events(&run.target()), "test/loss"), [(12, 0.5)]);
}

#[test]
fn a_follower_whose_file_is_taken_away_begins_another() {
    let run = Run::new();
    run.record("running", 0, 1);
    run.log(run.bytes(2));
    let mut follower = Follower::new(&run.directory, &run.target());
    follower.update().unwrap();
    // An export replaces what the follower has begun.
    export(&run.directory, &run.target()).unwrap();
    run.log(run.bytes(3));
    follower.update().unwrap();
    assert_eq!(scalars(&events(&run.target()), "step/loss").len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever a follower sees when: lines without their end, steps of epochs that the record does not have yet, nothing
    /// new at all.
    #[test]
    fn following_writes_what_an_export_after_the_fact_writes(
        looks in prop::collection::vec((0.0..1.0f64, 0..=EPOCHS), 0..8),
        ends_early in any::<bool>(),
    ) {
        let run = Run::new();
        let mut follower = Follower::new(&run.directory, &run.target());
        let all = run.bytes(EPOCHS * STEPS);
        let mut looks: Vec<(usize, usize)> =
            looks.into_iter().map(|(share, epochs)| ((share * all as f64) as usize, epochs)).collect();
        looks.sort_unstable();
        let mut epochs = 0;
        for (bytes, known) in looks {
            // An epoch is in the record when its steps are on the disk.
            epochs = epochs.max((1..=known).take_while(|epoch| run.bytes(epoch * STEPS) <= bytes).count());
            run.log(bytes);
            run.record("running", epochs, 1);
            follower.update().unwrap();
        }
        if ends_early {
            run.log(run.bytes(10));
            run.record("interrupted", 2.max(epochs), 1);
        } else {
            run.finish();
        }
        prop_assume!(!ends_early || epochs < 3);
        follower.update().unwrap();
        let times: Vec<f64> = events(&run.target()).iter().map(|event| event.wall_time).collect();
        prop_assert!(times.is_sorted(), "{times:?}");
        let followed = without_times(&run.target());
        let exported = run.place.path().join("exported");
        export(&run.directory, &exported).unwrap();
        prop_assert_eq!(followed, without_times(&exported));
    }
}
