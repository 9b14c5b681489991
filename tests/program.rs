//! The program as its users run it: arguments, outputs, exit codes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use kindling_config::{Config, Partial};
use kindling_record::{RunRecord, read_steps};
use kindling_workbench::Workbench;
use serde_json::Value;

/// Variables that decide something beside the arguments.
pub(crate) const VARIABLES: [&str; 5] =
    ["KINDLING_DATA_DIR", "KINDLING_RUNS_DIR", "RAYON_NUM_THREADS", "BURN_DEVICE", "NO_COLOR"];

/// The CPU backends of this build, which have fused operations.
pub(crate) const FUSED: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
];

/// Runs `kindling` with the arguments in `directory`, where nothing but the arguments decides what it does.
pub(crate) fn kindling(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().unwrap()
}

pub(crate) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
    command.args(arguments).current_dir(directory);
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// A shell's script that runs its arguments in a process whose files can have at most so many blocks: of 512 bytes, or
/// 1,024 in some shells. What goes over it is an error, as on a full disk.
pub(crate) fn with_small_files(blocks: usize) -> String {
    format!(r#"trap "" XFSZ; ulimit -f {blocks}; exec "$0" "$@""#)
}

/// `kindling` in such a process.
pub(crate) fn small_files(directory: &Path, blocks: usize, arguments: &[&str]) -> Command {
    let plain = command(directory, arguments);
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(with_small_files(blocks)).arg(plain.get_program()).args(plain.get_args());
    limited.current_dir(directory);
    for variable in VARIABLES {
        limited.env_remove(variable);
    }
    limited
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs the program from the workspace, so that it finds the data that the user trains on.
pub(crate) fn in_workspace(runs: &Path, arguments: &[&str]) -> Output {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = command(&workspace, arguments);
    command.arg("--runs-dir").arg(runs);
    if let Some(directory) = std::env::var_os("KINDLING_DATA_DIR") {
        command.env("KINDLING_DATA_DIR", directory);
    }
    command.output().unwrap()
}

/// Writes a set in MNIST's format into `directory`: 60 images of 8x6 in three classes, each class with a row of its own
/// of this brightness.
pub(crate) fn write_rows(directory: &Path, brightness: u8) {
    let idx = |magic: u32, sizes: &[u32], content: Vec<u8>| {
        let words = std::iter::once(&magic).chain(sizes).flat_map(|word| word.to_be_bytes());
        words.chain(content).collect::<Vec<u8>>()
    };
    let labels: Vec<u8> = (0..60).map(|index| index % 3).collect();
    let pixels: Vec<u8> = labels
        .iter()
        .flat_map(|&label| (0..48).map(move |pixel| if pixel / 6 == usize::from(label) { brightness } else { 0 }))
        .collect();
    for split in ["train", "t10k"] {
        let write = |name: &str, bytes: Vec<u8>| fs::write(directory.join(format!("x-{split}-{name}")), bytes).unwrap();
        write("images-idx3-ubyte", idx(2051, &[60, 8, 6], pixels.clone()));
        write("labels-idx1-ubyte", idx(2049, &[60], labels.clone()));
    }
}

/// The one run in `directory/runs`.
pub(crate) fn only_run(directory: &Path) -> std::path::PathBuf {
    only_run_in(&directory.join("runs"))
}

/// The one run in `runs`.
pub(crate) fn only_run_in(runs: &Path) -> std::path::PathBuf {
    let mut found: Vec<_> = fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

pub(crate) fn record(run: &Path) -> RunRecord {
    serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap()
}

/// What the program makes of a config file.
pub(crate) fn config(text: &str) -> Config {
    Partial::from_file(text).and_then(|partial| partial.resolve(&Workbench::new("kindling").registry())).unwrap()
}

/// A short training on drawn shapes.
pub(crate) const SHORT: [&str; 9] =
    ["train", "mlp", "--hidden", "16", "--dataset", "synthetic", "--epochs", "2", "--limit-batches=5"];

pub(crate) fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

#[test]
fn training_prints_its_directory_last_and_leaves_a_complete_record() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &SHORT);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let run = place.path().join(stdout.lines().last().unwrap());
    assert_eq!(run.canonicalize().unwrap(), only_run(place.path()).canonicalize().unwrap());

    let value: Value = serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    for key in [
        "schema",
        "id",
        "status",
        "config",
        "backend",
        "device",
        "versions",
        "dataset",
        "model",
        "parameters",
        "metrics",
        "monitor",
        "epochs",
        "best_epoch",
        "test",
        "seconds",
        "samples_per_second",
        "diverged",
    ] {
        assert!(value.get(key).is_some(), "{key}");
    }
    assert_eq!(value["status"], "finished");
    assert_eq!(value["dataset"]["name"], "synthetic");
    assert_eq!(value["config"]["training"]["limit_batches"], 5);
    assert_eq!((value["dataset"]["train"].as_u64(), value["dataset"]["test"].as_u64()), (Some(320), Some(320)));
    let record = record(&run);
    assert_eq!(record.epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1, 2]);
    let test = record.test.unwrap();
    let confusion = test.confusion.as_ref().unwrap();
    let counted: usize = confusion.iter().flatten().sum();
    let correct: usize = (0..10).map(|class| confusion[class][class]).sum();
    assert_eq!(counted, 320);
    assert!((test.get("accuracy").unwrap() - correct as f64 / 320.0).abs() < 1e-12);
    assert!(run.join("model.safetensors").is_file() && run.join("log.txt").is_file());

    let steps = read_steps(&run.join("steps.jsonl")).unwrap();
    assert_eq!(steps.iter().map(|step| step.step).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(steps.iter().map(|step| step.epoch).collect::<Vec<_>>(), [[1; 5], [2; 5]].concat());
    let mean = steps[..5].iter().map(|step| step.loss).sum::<f64>() / 5.0;
    assert!((record.epochs[0].get("train/loss").unwrap() - mean).abs() < 1e-9, "five batches of one size");
}

#[test]
fn json_prints_the_record_itself() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &with(&SHORT, &["--json", "--protocol", "assignment"]));
    let printed: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, record(&only_run(place.path())));
    let first = &printed.epochs[0];
    assert!(first.get("valid/loss").is_none() && first.get("test/loss").is_some());
    let tested = printed.test.unwrap().get("accuracy");
    assert!(tested.is_some() && printed.epochs[1].get("test/accuracy") == tested);
}

#[test]
fn a_records_config_trains_the_same_weights_again_and_flags_override_it() {
    let place = tempfile::tempdir().unwrap();
    assert!(kindling(place.path(), &SHORT).status.success());
    let first = only_run(place.path());
    let config = first.join("run.json");
    let again = ["train", "--runs-dir", "again/runs", "--config", config.to_str().unwrap()];
    assert!(kindling(place.path(), &again).status.success());
    let second = only_run(&place.path().join("again"));
    assert!(fs::read(first.join("model.safetensors")).unwrap() == fs::read(second.join("model.safetensors")).unwrap());
    assert_eq!(record(&first).config, record(&second).config);

    let other = ["train", "--runs-dir", "other/runs", "--config", config.to_str().unwrap(), "--seed", "7"];
    assert!(kindling(place.path(), &other).status.success());
    let third = only_run(&place.path().join("other"));
    assert_eq!(record(&third).config["training"]["seed"], 7);
    assert!(fs::read(first.join("model.safetensors")).unwrap() != fs::read(third.join("model.safetensors")).unwrap());
}

#[test]
fn any_number_of_threads_trains_the_same_weights() {
    let place = tempfile::tempdir().unwrap();
    // Wide enough that products are shared among threads.
    let arguments = ["train", "mlp", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "10", "--backend"];
    for &backend in FUSED {
        let weights = ["1", "2", "3"].map(|threads| {
            let runs = format!("{backend}-{threads}");
            let mut command = command(place.path(), &with(&arguments, &[backend, "--runs-dir", &runs]));
            assert!(command.env("RAYON_NUM_THREADS", threads).output().unwrap().status.success());
            let run = fs::read_dir(place.path().join(&runs)).unwrap().next().unwrap().unwrap().path();
            fs::read(run.join("model.safetensors")).unwrap()
        });
        assert!(weights[0] == weights[1] && weights[1] == weights[2], "{backend}");
    }
}

#[test]
fn runs_lists_what_there_is() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &["runs"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(text(&output.stderr).contains("no runs in runs"));
    kindling(place.path(), &with(&SHORT, &["--name", "first"]));
    let listed = text(&kindling(place.path(), &["runs"]).stdout);
    assert!(
        listed.contains("first-") && listed.contains("mlp on synthetic (limited)") && listed.contains("2/2"),
        "{listed}"
    );
    let json: Value = serde_json::from_slice(&kindling(place.path(), &["runs", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["status"], "finished");
    assert_eq!(json[0]["epochs"], 2);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_as_diverged_with_its_place() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &with(&SHORT, &["--learning-rate", "1e30"]));
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let record = record(&only_run(place.path()));
    assert_eq!(record.status.to_string(), "diverged");
    let diverged = record.diverged.unwrap();
    assert_eq!((diverged.step, diverged.layer.as_deref()), (2, Some("layers.0")));
    assert!(text(&output.stdout).contains("diverged at step 2"));
    assert!(record.test.is_none());
    // Resuming leads nowhere, and says so with the same exit code.
    let again = kindling(place.path(), &["resume", &record.id]);
    assert_eq!(again.status.code(), Some(3));
    assert!(text(&again.stderr).contains("there is nothing to resume"));
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    let place = tempfile::tempdir().unwrap();
    let mut child = command(place.path(), &SHORT)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(record(&only_run(place.path())).status.to_string(), "finished");
}

#[test]
fn an_idx_set_of_any_size_and_number_of_classes_is_trained_on() {
    let place = tempfile::tempdir().unwrap();
    write_rows(place.path(), 255);
    fs::write(place.path().join("classes.txt"), "top\nmiddle\nbottom\n").unwrap();
    for model in ["mlp", "cnn"] {
        let arguments = ["train", model, "--dataset", "idx", "--data-dir", ".", "--epochs", "20", "--batch-size", "8"];
        let output = kindling(place.path(), &with(&arguments, &["--json"]));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let record: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(record.dataset.classes(), ["top", "middle", "bottom"]);
        assert_eq!((record.dataset.train, record.dataset.valid), (57, 3));
        assert!(
            (record.test.unwrap().get("accuracy").unwrap() - 1.0).abs() < 1e-12,
            "{model} learns three bright rows"
        );
    }
}

#[test]
fn help_and_models_read_as_they_should() {
    let place = tempfile::tempdir().unwrap();
    let shown = |arguments: &[&str]| {
        let output = command(place.path(), arguments).env("COLUMNS", "100").output().unwrap();
        text(&output.stdout)
    };
    insta::assert_snapshot!("help", shown(&["--help"]));
    insta::assert_snapshot!("help-train", shown(&["train", "--help"]));
    insta::assert_snapshot!("help-resume", shown(&["resume", "--help"]));
    insta::assert_snapshot!("help-evaluate", shown(&["evaluate", "--help"]));
    insta::assert_snapshot!("help-bench", shown(&["bench", "--help"]));
    insta::assert_snapshot!("help-serve", shown(&["serve", "--help"]));
    insta::assert_snapshot!("models", shown(&["models"]));
    let narrow = shown(&["models", "mlp", "--set", "hidden=16"]);
    assert!(narrow.starts_with("mlp: 12,730 trainable parameters") && !narrow.contains("cnn"), "{narrow}");
    assert!(narrow.contains("layers.0  Linear  16 x 784      12,560 "), "{narrow}");
}

#[test]
fn bench_times_every_contender_at_every_task() {
    let place = tempfile::tempdir().unwrap();
    let backends = FUSED.join(",");
    let tasks = ["bench", "mlp", "--widths", "16", "--batch-sizes", "4,8", "--backends", &backends];
    let arguments = with(&tasks, &["--kernels", "auto,composed", "--repeats", "3", "--seconds", "0.001"]);
    let output = kindling(place.path(), &with(&arguments, &["--json", "--save", "kept.json"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(place.path().join("kept.json")).unwrap()).unwrap();
    assert_eq!(kept[0], report);
    let measurements = report["measurements"].as_array().unwrap();
    // Two networks, two batch sizes, training and inference, the backends with two kernels.
    assert_eq!(measurements.len(), 8 * FUSED.len() * 2);
    let fused = format!("fused, {}", kindling_kernels::Level::best());
    let both = |name: &&str| [((*name).to_owned(), fused.clone()), (format!("{name} composed"), "composed".to_owned())];
    let contenders: Vec<_> = FUSED.iter().flat_map(both).collect();
    for (found, (contender, kernels)) in measurements.iter().zip(contenders.iter().cycle()) {
        assert_eq!((found["contender"].as_str(), found["kernels"].as_str()), (Some(&**contender), Some(&**kernels)));
    }
    for found in measurements {
        let speed = found["images_per_second"].as_f64().unwrap();
        let [low, high] = [0, 1].map(|index| found["images_per_second_range"][index].as_f64().unwrap());
        assert!(0.0 < low && low <= speed && speed <= high, "{found}");
        assert_eq!((&found["rounds"], found["step_seconds"].as_array().unwrap().len()), (&3.into(), 3));
    }
    let named = |index: usize| (measurements[index]["model"].as_str(), &measurements[index]["network"]["hidden"]);
    assert_eq!(named(0), (Some("mlp"), &serde_json::json!([512, 512])));
    assert_eq!(named(measurements.len() - 1), (Some("mlp hidden=16-16"), &serde_json::json!([16, 16])));
    assert!(report["command"].as_str().unwrap().starts_with("kindling bench mlp --widths 16"));
    let mut again = command(place.path(), &with(&arguments, &["--markdown"]));
    let markdown = text(&again.env("RAYON_NUM_THREADS", "3").output().unwrap().stdout);
    assert!(
        markdown.starts_with("| model | batch | mode | on | images/s | from | to | ratio |\n| --- | --: |"),
        "{markdown}"
    );
    assert!(markdown.contains("| flex |") && markdown.contains("| flex composed |"), "{markdown}");
    assert!(markdown.lines().last().unwrap().contains("3 threads"), "{markdown}");
}

#[test]
fn bench_takes_any_network_image_and_optimizer_and_keeps_one_report_of_each_command() {
    let place = tempfile::tempdir().unwrap();
    let network = ["bench", "resnet", "--set", "network.depth=8", "--set", "network.width=2", "--image-size", "8x6"];
    let more = ["--channels", "rgb", "--optimizers", "sgd,momentum", "--batch-sizes", "4", "--backends", "flex"];
    let quick = ["--repeats", "2", "--seconds", "0.001", "--save", "kept.json"];
    for modes in ["train", "infer", "infer"] {
        let output = kindling(place.path(), &[&network[..], &more, &quick, &["--modes", modes]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let kept: Value = serde_json::from_slice(&fs::read(place.path().join("kept.json")).unwrap()).unwrap();
    let measurements = |index: usize| kept[index]["measurements"].as_array().unwrap();
    assert_eq!(kept.as_array().unwrap().len(), 2);
    let optimizers: Vec<_> = measurements(0).iter().map(|found| found["optimizer"]["name"].as_str()).collect();
    assert_eq!(optimizers, [Some("sgd"), Some("momentum")]);
    // Without training there is nothing to choose.
    assert_eq!((measurements(1).len(), measurements(1)[0].get("optimizer")), (1, None));
    let found = &measurements(0)[0];
    assert_eq!((&found["model"], &found["image"]), (&"resnet depth=8 width=2".into(), &serde_json::json!([3, 8, 6])));
    let wrong = kindling(place.path(), &["bench", "mlp", "--set", "network.depth=8", "--backends", "flex"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
}

#[test]
fn the_page_of_benchmarks_is_what_its_script_makes_of_the_results() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bench/page.py");
    let output = Command::new("python3").arg(script).arg("--check").output().expect("python3 is needed");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn doctor_times_the_backends_of_the_build_and_recommends_one() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &["doctor", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    for backend in findings["backends"].as_array().unwrap() {
        let is_timed = backend["cnn_step_milliseconds"].as_f64().is_some_and(|step| step > 0.0);
        let says_why_not = backend["missing"].as_str().is_some_and(|why| !why.is_empty());
        assert!(is_timed != says_why_not, "{backend}");
        let is_fused = backend["kernels"].as_str().is_some_and(|kernels| kernels.starts_with("fused, "));
        assert_eq!(is_fused, FUSED.iter().any(|name| backend["name"] == *name), "{backend}");
    }
    assert_eq!(findings["kernels"]["instructions"], kindling_kernels::Level::best().to_string());
    assert_eq!(findings["kernels"]["threads"], findings["machine"]["threads"]);
    assert!(findings["recommendation"]["why"].as_str().unwrap().starts_with("of those in this build"));
}
