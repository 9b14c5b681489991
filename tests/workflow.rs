//! What people do around a training: sweeps, comparisons, reports, a closer look at weights and gradients.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::program::{SHORT, command, in_workspace, kindling, record, text, with, write_rows};

const SWEEP: [&str; 12] = [
    "sweep",
    "mlp",
    "--hidden",
    "16",
    "--dataset",
    "synthetic",
    "--epochs",
    "2",
    "--limit-batches=5",
    "--learning-rate",
    "0.1,0.01",
    "--seeds=2",
];

pub(crate) fn runs(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.join("runs")).into_iter().flatten();
    // Beside runs there may be, for a moment, the file by which a program tries whether it can write there.
    let mut runs: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("run.json").exists()).collect();
    runs.sort();
    runs
}

fn json(place: &Path, arguments: &[&str]) -> Value {
    let output = kindling(place, arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_sweep_trains_every_combination_once_and_never_again() {
    let place = tempfile::tempdir().unwrap();
    let groups = json(place.path(), &[&SWEEP[..], &["--json"]].concat());
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 2);
    assert!(groups.iter().all(|group| group["runs"].as_array().unwrap().len() == 2), "{groups:?}");
    let first = runs(place.path());
    assert_eq!(first.len(), 4);
    let again = kindling(place.path(), &SWEEP);
    assert!(again.status.success() && runs(place.path()) == first);
    assert!(text(&again.stderr).contains("4 of 4 runs are already finished"), "{}", text(&again.stderr));
    // The row of the first rate: its label in three words, then its number of runs.
    let shown = text(&again.stdout);
    let row = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|words| words.starts_with(&["learning", "rate", "0.1"]));
    assert_eq!(row.as_ref().and_then(|words| words.get(3)), Some(&"2"), "{shown}");
    // One value more takes its own runs alone.
    let more = [&SWEEP[..9], &["--learning-rate", "0.1,0.01,0.001", "--seeds=2"]].concat();
    assert!(kindling(place.path(), &more).status.success());
    assert_eq!(runs(place.path()).len(), 6);
}

#[test]
fn a_run_of_a_sweep_has_the_weights_of_the_same_training_alone() {
    let place = tempfile::tempdir().unwrap();
    assert!(kindling(place.path(), &SWEEP).status.success());
    let run = runs(place.path()).into_iter().find(|run| run.to_string_lossy().contains("0.01-seed-2")).unwrap();
    let alone = ["train", "--runs-dir", "alone/runs", "--config"];
    let config = run.join("run.json");
    assert!(kindling(place.path(), &[&alone[..], &[config.to_str().unwrap()]].concat()).status.success());
    let [alone] = &runs(&place.path().join("alone"))[..] else { panic!("expected one run") };
    let weights = |run: &Path| fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(alone));
}

#[test]
fn a_diverged_run_and_a_failed_one_stop_no_sweep() {
    let place = tempfile::tempdir().unwrap();
    let grid = r#"[
        {"model": "mlp", "hidden": [16], "dataset": "synthetic", "epochs": 1, "limit_batches": 5,
         "learning_rate": [1e38, 0.1]},
        {"model": "mlp", "dataset": "idx", "epochs": 1},
        {"model": "mlp", "hidden": [8], "dataset": "synthetic", "epochs": 1, "limit_batches": 5}
    ]"#;
    fs::write(place.path().join("grid.json"), grid).unwrap();
    let output = kindling(place.path(), &["sweep", "--grid", "grid.json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("data set `idx` needs the directory"), "{}", text(&output.stderr));
    let statuses: Vec<_> = runs(place.path()).iter().map(|run| record(run).status.to_string()).collect();
    assert_eq!(statuses.len(), 3);
    assert_eq!(statuses.iter().filter(|status| *status == "diverged").count(), 1);
    assert_eq!(statuses.iter().filter(|status| *status == "finished").count(), 2);
    // Without the one that failed, a diverged run is a result like any other.
    fs::write(place.path().join("grid.json"), grid.replace("idx", "synthetic")).unwrap();
    assert!(kindling(place.path(), &["sweep", "--grid", "grid.json", "--limit-batches", "5"]).status.success());
}

#[test]
fn an_interrupted_sweep_resumes_the_run_that_it_was_at() {
    let place = tempfile::tempdir().unwrap();
    // So many epochs that it cannot end before it is told to.
    let sweep = ["sweep", "mlp", "--hidden", "8", "--dataset", "synthetic", "--limit-batches", "1", "--seeds", "2"];
    let interrupted_at = |is_there: &dyn Fn(&Path) -> bool| {
        let arguments = [&sweep[..], &["--epochs", "1000000"]].concat();
        let mut child = command(place.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !runs(place.path()).iter().any(|run| is_there(run)) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was told to");
            thread::sleep(Duration::from_millis(5));
        }
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success() && child.wait().unwrap().code() == Some(130));
    };
    interrupted_at(&|run: &Path| run.join("checkpoints/index.json").exists());
    let [begun] = &runs(place.path())[..] else { panic!("expected one run") };
    let before = record(begun);
    assert_eq!((before.status.to_string().as_str(), before.parts.len()), ("interrupted", 1));
    interrupted_at(&|run: &Path| record(run).parts.len() == 2 && record(run).epochs.len() > before.epochs.len());
    assert_eq!(runs(place.path()), std::slice::from_ref(begun), "it was resumed, it did not begin again");
}

#[test]
fn gradients_are_recorded_for_the_steps_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let arguments = ["gradients", "cnn", "--dataset", "synthetic", "--steps", "12", "--output", "g.svg"];
    let found = json(place.path(), &[&arguments[..], &["--json"]].concat());
    let steps = found["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 12);
    let layers = steps[0]["gradient"]["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| layer["layer"].as_str().unwrap()).collect::<Vec<_>>()[0], "conv1");
    assert!(fs::read_to_string(place.path().join("g.svg")).unwrap().contains("</svg>"));
    let table = kindling(place.path(), &arguments[..6]);
    assert!(text(&table.stdout).contains("fc1"), "{}", text(&table.stdout));
    assert_eq!(runs(place.path()).len(), 1, "the same steps are not taken twice");
}

#[test]
fn compare_and_report_show_what_runs_have() {
    let place = tempfile::tempdir().unwrap();
    assert!(kindling(place.path(), &SWEEP).status.success());
    let all = runs(place.path());
    let ids: Vec<&str> = all.iter().map(|run| run.file_name().unwrap().to_str().unwrap()).collect();
    let compared = json(place.path(), &[&["compare"], &ids[..], &["--json"]].concat());
    assert_eq!(compared.as_array().or_else(|| compared["groups"].as_array()).unwrap().len(), 2, "{compared}");
    let drawn = kindling(place.path(), &[&["compare"], &ids[..], &["--output", "curves.png"]].concat());
    assert!(drawn.status.success(), "{}", text(&drawn.stderr));
    assert!(fs::read(place.path().join("curves.png")).unwrap().starts_with(b"\x89PNG"));
    let refused = kindling(place.path(), &[&["compare"], &ids[..], &["--output", "curves.pdf"]].concat());
    assert_eq!(refused.status.code(), Some(2));

    let evaluated = kindling(place.path(), &["evaluate", ids[0]]);
    // The test set of a limited run is not whole.
    assert!(evaluated.status.success(), "{}", text(&evaluated.stderr));
    let reported = kindling(place.path(), &[&["report"], &ids[..], &["--output", "report"]].concat());
    assert!(reported.status.success(), "{}", text(&reported.stderr));
    let html = fs::read_to_string(place.path().join("report/report.html")).unwrap();
    for forbidden in ["<script", "http-equiv=\"refresh", "@import", "src=\"http"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    assert!(html.contains("<svg") && html.contains("synthetic"));
    let markdown = fs::read_to_string(place.path().join("report/report.md")).unwrap();
    for figure in markdown.split("](figures/").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(place.path().join("report/figures").join(figure).is_file(), "{figure}");
    }
}

#[test]
fn evaluate_keeps_what_it_found_and_predict_agrees_with_the_pictures_of_mistakes() {
    let place = tempfile::tempdir().unwrap();
    let train = ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--learning-rate", "0.02"];
    assert!(kindling(place.path(), &train).status.success());
    let run = runs(place.path()).remove(0);
    let found = json(place.path(), &["evaluate", run.to_str().unwrap(), "--json"]);
    let kept: Value = serde_json::from_str(&fs::read_to_string(run.join("evaluation.json")).unwrap()).unwrap();
    assert_eq!(found["accuracy"], kept["accuracy"]);
    assert_eq!(kept["accuracy"], serde_json::to_value(record(&run).test.unwrap().get("accuracy")).unwrap());
    let mistakes = kept["mistakes"].as_array().unwrap();
    assert!(!mistakes.is_empty(), "a net that weak makes some");
    for mistake in mistakes {
        let picture = run.join("mistakes").join(mistake["picture"].as_str().unwrap());
        let guess =
            json(place.path(), &["predict", run.to_str().unwrap(), picture.to_str().unwrap(), "--as-is", "--json"]);
        let first = &guess[0]["predictions"][0];
        assert_eq!(first["label"], mistake["predicted"], "{guess} {mistake}");
    }
}

#[test]
fn views_of_the_test_images_are_recorded_and_only_an_evaluation_with_the_same_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let train = with(&SHORT, &["--test-time-augmentation", "shift,flip"]);
    assert!(kindling(place.path(), &train).status.success());
    let run = runs(place.path()).remove(0);
    let test = record(&run).test.unwrap();
    assert_eq!(test.test_time_augmentation, ["flip", "shift"]);
    let evaluate = |more: &[&str]| {
        let found = json(place.path(), &[&["evaluate", run.to_str().unwrap(), "--json"], more].concat());
        let kept = fs::read_to_string(run.join("evaluation.json")).ok();
        (found, kept.map(|kept| serde_json::from_str::<Value>(&kept).unwrap()))
    };
    let (plain, kept) = evaluate(&["--test-time-augmentation", "none"]);
    assert_eq!((&plain["test_time_augmentation"], &kept), (&serde_json::json!([]), &None));
    let (found, kept) = evaluate(&[]);
    assert_eq!(found["test_time_augmentation"], serde_json::json!(["flip", "shift"]));
    assert_eq!((found["loss"].as_f64(), found["accuracy"].as_f64()), (test.get("loss"), test.get("accuracy")));
    assert_ne!(found["loss"], plain["loss"]);
    let (flipped, after) = evaluate(&["--test-time-augmentation", "flip"]);
    assert!(flipped["loss"] != found["loss"] && flipped["loss"] != plain["loss"]);
    assert_eq!(after, kept);
    assert_eq!(evaluate(&["--test-time-augmentation", "flip,shift"]).0["loss"], found["loss"]);

    let said = kindling(place.path(), &["evaluate", run.to_str().unwrap(), "--test-time-augmentation", "none"]);
    let (table, notice) = (text(&said.stdout), text(&said.stderr));
    assert!(table.contains("the run itself, on flex with test-time augmentation flip,shift: "), "{table}");
    assert!(!table.contains("kept in") && notice.contains("not kept: "), "{table}{notice}");

    let samples = ["samples", "--dataset", "synthetic", "--output", "sheet.png"];
    assert!(kindling(place.path(), &samples).status.success());
    let predict = |more: &[&str]| {
        json(place.path(), &[&["predict", run.to_str().unwrap(), "sheet.png", "--as-is", "--json"], more].concat())
    };
    let own = predict(&[]);
    assert_eq!(own, predict(&["--test-time-augmentation", "flip,shift"]));
    assert_ne!(own, predict(&["--test-time-augmentation", "none"]));
    let refused = kindling(place.path(), &["evaluate", "mlp", "--test-time-augmentation", "flip,turn"]);
    let wanted = "invalid value 'flip,turn' for '--test-time-augmentation <LIST>': expected `flip`, `shift`, `flip,shift` or \
                  `none`";
    assert!(refused.status.code() == Some(2) && text(&refused.stderr).contains(wanted), "{}", text(&refused.stderr));
}

#[test]
fn predict_names_what_is_no_image_and_classifies_the_others() {
    let place = tempfile::tempdir().unwrap();
    let train = ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "5"];
    assert!(kindling(place.path(), &train).status.success());
    fs::write(place.path().join("no.png"), "not a picture").unwrap();
    let samples = ["samples", "--dataset", "synthetic", "--output", "sheet.png"];
    assert!(kindling(place.path(), &samples).status.success());
    let output = kindling(place.path(), &["predict", "mlp", "no.png", "sheet.png", "missing.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("no.png") && said.contains("missing.jpg"), "{said}");
    assert!(text(&output.stdout).contains("sheet.png"), "{}", text(&output.stdout));
}

#[test]
fn a_sweep_on_another_set_of_the_same_kind_is_another_sweep() {
    let place = tempfile::tempdir().unwrap();
    for (directory, brightness) in [("bright", 255), ("dim", 120)] {
        fs::create_dir(place.path().join(directory)).unwrap();
        write_rows(&place.path().join(directory), brightness);
    }
    let sweep = |directory| {
        let arguments = ["sweep", "mlp", "--hidden", "4", "--dataset", "idx", "--epochs", "1", "--data-dir", directory];
        let output = kindling(place.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        runs(place.path()).len()
    };
    assert_eq!([sweep("bright"), sweep("bright"), sweep("dim"), sweep("bright")], [1, 1, 2, 2]);
}

#[test]
fn augmentation_changes_what_is_trained_on_and_looked_for_and_always_alike() {
    let place = tempfile::tempdir().unwrap();
    let losses = |augment: &[&str]| {
        let train = ["train", "mlp", "--hidden", "16", "--dataset", "synthetic", "--epochs", "1", "--limit-batches=5"];
        let record = json(place.path(), &[&train[..], augment, &["--json"]].concat());
        let find = ["lr-find", "mlp", "--hidden", "16", "--dataset", "synthetic", "--steps", "20", "--json"];
        let points = json(place.path(), &[&find[..], augment].concat())["points"].clone();
        (record["epochs"][0]["metrics"]["train/loss"].clone(), points)
    };
    let (plain, mirrored) = (losses(&[]), losses(&["--augment", "flip"]));
    assert!(plain.0 != mirrored.0 && plain.1 != mirrored.1);
    let all = losses(&["--augment", "shift,flip,erase"]);
    assert!(all.0 != mirrored.0);
    // Their order is no part of a config.
    assert_eq!(all, losses(&["--augment", "erase,flip,shift,flip"]));
}

#[test]
fn samples_tell_the_shapes_of_real_batches() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &["samples", "--dataset", "synthetic"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for shape in ["[1, 28, 28]", "[64, 1, 28, 28]", "[64]"] {
        assert!(shown.contains(shape), "{shape}: {shown}");
    }
}

#[test]
fn check_passes_the_models_and_fails_a_config_that_cannot_learn() {
    let place = tempfile::tempdir().unwrap();
    let fine = kindling(place.path(), &["check", "mlp", "--dataset", "synthetic"]);
    assert!(fine.status.success(), "{}{}", text(&fine.stdout), text(&fine.stderr));
    let half = ["check", "mlp", "--dataset", "synthetic", "--precision", "bf16", "--json"];
    let half = json(place.path(), &half);
    let names: Vec<_> = half.as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    let expected = ["data", "loss before training", "no dead layers", "overfits one batch"];
    assert_eq!(names, [&expected[..], &["evaluates the same twice", "same result twice"]].concat());
    let stuck = kindling(place.path(), &["check", "mlp", "--dataset", "synthetic", "--learning-rate", "0"]);
    assert_eq!(stuck.status.code(), Some(1), "{}", text(&stuck.stdout));
}

#[test]
fn lr_find_suggests_a_rate_within_its_range() {
    let place = tempfile::tempdir().unwrap();
    let found = json(place.path(), &["lr-find", "mlp", "--dataset", "synthetic", "--steps", "100", "--json"]);
    let rate = found["suggestion"].as_f64().unwrap();
    assert!((1e-4..1.0).contains(&rate), "{found}");
}

#[test]
fn a_quick_reproduction_of_one_question_is_marked_as_such() {
    let place = tempfile::tempdir().unwrap();
    let report = place.path().join("report");
    let arguments = ["reproduce", "--only", "1.6", "--quick", "--output", report.to_str().unwrap()];
    let output = in_workspace(&place.path().join("runs"), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let html = fs::read_to_string(report.join("report.html")).unwrap();
    assert!(html.to_lowercase().contains("quick") && html.contains("not run"));
    assert_eq!(runs(place.path()).len(), 4);
    let refused = kindling(place.path(), &["reproduce", "--only", "1.9"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("expected some of 1.1, 1.2"), "{}", text(&refused.stderr));
}

#[test]
fn a_report_alone_is_of_the_runs_that_are_there() {
    let place = tempfile::tempdir().unwrap();
    let (runs_dir, report) = (place.path().join("runs"), place.path().join("report"));
    let alone = |only| {
        let arguments = ["reproduce", "--only", only, "--quick", "--report-only", "--output", report.to_str().unwrap()];
        in_workspace(&runs_dir, &arguments)
    };
    let nothing = alone("1.6");
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).contains("found none that is over"), "{}", text(&nothing.stderr));
    assert!(!report.exists());
    let trained =
        in_workspace(&runs_dir, &["reproduce", "--only", "1.6", "--quick", "--output", report.to_str().unwrap()]);
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let made = runs(place.path());
    let some = alone("1.6,1.7");
    assert!(some.status.success(), "{}", text(&some.stderr));
    assert!(text(&some.stderr).contains("1 of 5 runs are missing"), "{}", text(&some.stderr));
    assert_eq!(runs(place.path()), made);
}
