//! What every backend of the build must do, beside PyTorch's numbers: train on real data, hand its runs and weights to
//! the others, share its batches among devices.
//!
//! `just test` runs these on the default build's, `just test-backends` on all.

use std::path::Path;

use kindling_record::{RunRecord, StepRecord, read_steps};
use serde_json::Value;

use crate::program::{command, in_workspace, only_run, only_run_in, record, text};
#[cfg(any(feature = "ndarray", feature = "wgpu", feature = "libtorch"))]
use crate::resume::stopped_run;

/// The backends of this build that need no server. One that finds no device fails the tests.
const BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "wgpu")]
    "vulkan",
    #[cfg(feature = "libtorch")]
    "libtorch",
];

/// 200 steps of `mlp` on Fashion-MNIST at a learning rate of 0.01, tested on 10,000 images.
const REAL: [&str; 14] = [
    "train",
    "mlp",
    "--learning-rate",
    "0.01",
    "--epochs",
    "1",
    "--limit-batches",
    "200",
    "--protocol",
    "assignment",
    "--seed",
    "1",
    "--dashboard",
    "never",
];

fn trained(runs: &Path, arguments: &[&str]) -> RunRecord {
    let output = in_workspace(runs, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_backend_learns_real_data_as_flex_does_and_the_others_agree_on_its_weights() {
    let place = tempfile::tempdir().unwrap();
    let accuracy = |backend: &str| {
        let record = trained(&place.path().join(backend), &[&REAL[..], &["--backend", backend]].concat());
        assert_eq!((record.backend.as_str(), record.dataset.test), (backend, 10_000));
        record.test.unwrap().get("accuracy").unwrap()
    };
    let flex = accuracy("flex");
    // 200 steps of this rate reach 0.52, where chance is 0.1: enough of the way for a wrong gradient to show.
    assert!(flex > 0.5, "{flex}");
    for &backend in BACKENDS {
        let own = if backend == "flex" { flex } else { accuracy(backend) };
        // Rounding moves single images across the boundaries between classes; a hundred of ten thousand are too many.
        assert!((own - flex).abs() <= 0.01, "{backend}: {own}, flex: {flex}");
        for &other in BACKENDS {
            let runs = place.path().join(backend);
            let run = only_run_in(&runs);
            let output = in_workspace(&runs, &["evaluate", run.to_str().unwrap(), "--backend", other, "--json"]);
            assert!(output.status.success(), "{backend} on {other}: {}", text(&output.stderr));
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["backend"], other);
            let found = found["accuracy"].as_f64().unwrap();
            // The same weights: ten of ten thousand images may lie so close to a boundary.
            assert!((found - own).abs() <= 0.001, "{backend}'s weights on {other}: {found}, on itself: {own}");
        }
    }
}

/// A run of `mlp` with a moving optimizer on drawn shapes.
const SHAPES: [&str; 12] = [
    "train",
    "mlp",
    "--hidden",
    "32",
    "--dataset",
    "synthetic",
    "--optimizer",
    "momentum",
    "--limit-batches",
    "12",
    "--dashboard",
    "never",
];

pub(crate) fn losses(run: &Path) -> Vec<f64> {
    let steps: Vec<StepRecord> = read_steps(&run.join("steps.jsonl")).unwrap();
    steps.iter().map(|step| step.loss).collect()
}

/// Compares losses of the same steps where only the order of sums differs.
pub(crate) fn check_losses(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        // f32 rounds at 6e-8; a few hundred steps amplify it, and a wrong sum is off in the first digits.
        assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{what}, step {}: {found}, {expected}", step + 1);
    }
}

#[cfg(any(feature = "ndarray", feature = "wgpu", feature = "libtorch"))]
#[test]
fn a_run_begun_on_one_backend_is_resumed_on_another() {
    let config = r#"{
        "network": {"name": "mlp", "hidden": [32]}, "data": "synthetic", "optimizer": "momentum",
        "training": {"limit_batches": 12, "epochs": 5}
    }"#;
    for (backend, device) in crate::golden::devices() {
        let other = if backend == "flex" { BACKENDS[1] } else { "flex" };
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        let file = file.to_str().unwrap();
        let whole = ["train", "--config", file, "--backend", other, "--runs-dir", "whole/runs"];
        assert!(command(place.path(), &whole).output().unwrap().status.success());
        // In the second epoch.
        let run = stopped_run(&place.path().join("runs"), config, (backend, device), 20);

        let output = command(place.path(), &["resume", run.to_str().unwrap(), "--backend", other]).output().unwrap();
        assert!(output.status.success(), "{backend} to {other}: {}", text(&output.stderr));
        let record = record(&run);
        assert_eq!(record.status.to_string(), "finished");
        let parts: Vec<_> = record.parts.iter().map(|part| part.backend.as_str()).collect();
        assert_eq!(parts, [backend, other]);
        let whole = only_run(&place.path().join("whole"));
        check_losses(&format!("{backend} to {other}"), &losses(&run), &losses(&whole));
    }
}

#[test]
fn devices_that_share_every_batch_follow_the_losses_of_one() {
    let place = tempfile::tempdir().unwrap();
    for (name, devices) in [("one", "1"), ("two", "2"), ("three", "3"), ("five", "5")] {
        // 5,500 training images: a last batch of 3, of which the third and the fifth of five devices get nothing.
        let arguments = ["--epochs", "2", "--batch-size", "239", "--devices", devices, "--runs-dir"];
        let runs = format!("{name}/runs");
        // All batches, to the last.
        let arguments = [&SHAPES[..8], &SHAPES[10..], &arguments, &[runs.as_str()]].concat();
        let output = command(place.path(), &arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let run = |name: &str| only_run(&place.path().join(name));
    for (name, devices) in [("two", 2), ("three", 3), ("five", 5)] {
        check_losses(name, &losses(&run(name)), &losses(&run("one")));
        let (record, one) = (record(&run(name)), record(&run("one")));
        assert_eq!(record.parts[0].devices, devices);
        assert_eq!(record.dataset.train, one.dataset.train);
        let accuracy = |record: &RunRecord| record.epochs[0].get("train/accuracy").unwrap();
        let (found, expected) = (accuracy(&record), accuracy(&one));
        // The same images: rounding may move one across a boundary.
        assert!((found - expected).abs() <= 1.5 / record.dataset.train as f64, "{found}, {expected}");
    }
}

#[test]
fn several_devices_train_the_cnn_the_same_way_twice() {
    let place = tempfile::tempdir().unwrap();
    let bytes = |runs: &str| {
        let arguments = ["train", "cnn", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "3"];
        let more = ["--batch-size", "16", "--devices", "3", "--dashboard", "never", "--runs-dir", runs];
        let output = command(place.path(), &[&arguments[..], &more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let run = only_run(&place.path().join(runs.split('/').next().unwrap()));
        std::fs::read(run.join("model.safetensors")).unwrap()
    };
    assert!(bytes("a/runs") == bytes("b/runs"));
}

#[cfg(feature = "wgpu")]
#[test]
fn steps_that_a_gpu_backend_repeats_from_a_recording_have_the_same_bits() {
    // Learning rates that change, a smaller batch at the end of each epoch, targets that are mixed; batch norms.
    let mlp = ["mlp", "--hidden", "32", "--augment", "flip,mixup", "--epochs", "2", "--batch-size", "1000"];
    let cnn = ["cnn", "--set", "network.channels=4,8", "--epochs", "1", "--batch-size", "32", "--limit-batches", "5"];
    let common = ["--dataset", "synthetic", "--optimizer", "sgd", "--schedule", "cosine", "--dashboard", "never"];
    for (backend, model) in [("wgpu", mlp), ("vulkan", cnn)] {
        let place = tempfile::tempdir().unwrap();
        let trained = |name: &str, graph: &[&str]| {
            let runs = format!("{name}/runs");
            let rest = ["--backend", backend, "--runs-dir", &runs];
            let arguments = [&["train"][..], &model, &common, &rest, graph].concat();
            let output = command(place.path(), &arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            let run = only_run(&place.path().join(name));
            ["model.safetensors", "steps.jsonl"].map(|file| std::fs::read(run.join(file)).unwrap())
        };
        assert!(trained("plain", &[]) == trained("graph", &["--graph"]), "{model:?} on {backend}");
    }
}

#[test]
fn what_no_backend_can_repeat_from_a_recording_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let output = command(place.path(), &[&SHAPES[..6], &["--graph"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let message = refused(&["--optimizer", "momentum"]);
    assert!(message.contains("graph: expected plain gradient descent on one GPU"), "{message}");
    assert!(message.contains("found another optimizer"), "{message}");
    let message = refused(&["--optimizer", "sgd", "--clip-norm", "1"]);
    assert!(message.contains("`training.clip_norm`"), "{message}");
    let message = refused(&["--optimizer", "sgd"]);
    assert!(message.contains("graph: expected a GPU of this machine that records steps"), "{message}");
    assert!(!place.path().join("runs").exists());
}

#[test]
fn more_devices_than_images_in_a_batch_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let arguments = [&SHAPES[..], &["--batch-size", "2", "--devices", "3"]].concat();
    let output = command(place.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(
        message.contains("training.batch_size: expected at least one image for each of the 3 devices, found 2"),
        "{message}"
    );
    assert!(!place.path().join("runs").exists());
}

#[test]
fn half_precision_trains_is_recorded_and_leaves_weights_that_anyone_can_read() {
    for precision in ["bf16", "f16"] {
        let place = tempfile::tempdir().unwrap();
        let arguments = [&SHAPES[..], &["--epochs", "3", "--precision", precision, "--json"]].concat();
        let output = command(place.path(), &arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let record: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(record.config["training"]["precision"], precision);
        // The fused ones are for f32.
        assert_eq!(record.parts[0].kernels, "composed");
        let losses: Vec<_> = record.epochs.iter().map(|epoch| epoch.get("train/loss").unwrap()).collect();
        // In f32 it falls by 0.17; at 2.3 the numbers of bf16 lie 0.016 apart.
        assert!(losses[2] < losses[0] - 0.1, "{precision}: {losses:?}");
        let run = only_run(place.path());
        let evaluated = command(place.path(), &["evaluate", run.to_str().unwrap(), "--json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&evaluated.stdout).unwrap();
        let tested = record.test.unwrap().get("accuracy");
        assert!(tested.is_some() && found["accuracy"].as_f64() == tested);

        // Numbers of a half type are f32 whose last bits are zero.
        let bytes = std::fs::read(run.join("model.safetensors")).unwrap();
        let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let document: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        assert_eq!(document["layers.0.weight"]["dtype"], "F32");
        let zero_bits = if precision == "bf16" { 0xFFFF } else { 0xFFF };
        let words = bytes[header..].chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        assert!(words.clone().all(|word| word & zero_bits == 0));
        assert!(words.into_iter().any(|word| word != 0));
    }
}

#[cfg(feature = "libtorch")]
#[test]
fn cuda_that_is_not_there_is_an_error_and_never_the_cpu() {
    let place = tempfile::tempdir().unwrap();
    // Index 63: no machine has so many.
    let arguments = [&SHAPES[..], &["--backend", "libtorch-cuda:63"]].concat();
    let output = command(place.path(), &arguments).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    // The second where libtorch is the one that PyTorch publishes for the CPU.
    let reasons = ["expected a CUDA device with the index 63, found", "built with a libtorch for the CPU alone"];
    assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
    assert!(!place.path().join("runs").exists());
}

#[cfg(feature = "libtorch")]
#[test]
fn libtorch_cannot_be_served() {
    let place = tempfile::tempdir().unwrap();
    let output = command(place.path(), &["serve", "--backend", "libtorch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("libtorch cannot be served"));
}

#[cfg(feature = "wgpu")]
#[test]
fn a_gpu_that_is_not_there_is_an_error_with_the_package_that_brings_one() {
    let place = tempfile::tempdir().unwrap();
    let mut command = command(place.path(), &[&SHAPES[..], &["--backend", "vulkan"]].concat());
    // The loader's variables for a machine without any driver.
    command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
    let output = command.output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("error: backend `vulkan`: expected a GPU, found"), "{message}");
    assert!(message.contains("apt install mesa-vulkan-drivers"), "{message}");
    assert!(!place.path().join("runs").exists());
}

#[cfg(feature = "libtorch")]
#[test]
fn libtorchs_own_layers_train_as_burns_do_in_single_and_in_bfloat16() {
    let place = tempfile::tempdir().unwrap();
    let losses = |precision, kernels| {
        let more = ["--epochs", "3", "--backend", "libtorch", "--precision", precision, "--kernels", kernels];
        let arguments = [&SHAPES[..6], &SHAPES[8..], &["--json"], &more].concat();
        let output = command(place.path(), &arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let record: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
        record.epochs.iter().map(|epoch| epoch.get("train/loss").unwrap()).collect::<Vec<_>>()
    };
    // Rounding in f32, and in bf16, where numbers about 2 lie 0.016 apart.
    for (precision, tolerance) in [("f32", 1e-4), ("bf16", 0.02)] {
        let (own, burns) = (losses(precision, "auto"), losses(precision, "composed"));
        assert!(own[2] < own[0], "{precision}: {own:?}");
        for (own, burns) in own.iter().zip(&burns) {
            assert!((own - burns).abs() < tolerance, "{precision}: {own} {burns}");
        }
    }
}
