//! Runs made by hand, for tests.

use std::{fs, path::Path};

use kindling_record::{
    CalibrationBin, CalibrationRecord, ClassRecord, ConfusedPair, EvaluationRecord, MistakeRecord, RunDirectory,
};
use serde_json::{Value, json};

use crate::Run;

/// A finished run of `mlp` in `place`, with `changes` laid over its record.
pub(crate) fn run(place: &Path, id: &str, changes: Value) -> Run {
    let mut record = json!({
        "schema": kindling_record::SCHEMA,
        "id": id,
        "status": "finished",
        "started": "2026-01-02T03:04:05Z",
        "parts": [part("flex", "fused, AVX2", 1, "AVX2")],
        "config": {
            "network": { "name": "mlp", "hidden": [512, 512] },
            "data": { "name": "fashion-mnist" },
            "optimizer": { "name": "sgd", "learning_rate": 0.1 },
            "protocol": { "name": "assignment" },
            "training": { "batch_size": 32, "epochs": 3, "limit_batches": null, "gradient_steps": null, "seed": 1 },
        },
        "backend": "flex",
        "device": "a processor, 2 threads",
        "versions": { "burn": "0.22.1", "kindling": "0.1.0" },
        "machine": { "platform": "linux x86_64", "processor": "a processor", "threads": 2 },
        "dataset": {
            "name": "fashion-mnist",
            "source": "/data",
            "sha256": "00ff",
            "protocol": "assignment",
            "train": 100,
            "valid": 0,
            "test": 4,
            "classes": ["Coat", "Bag"],
            "height": 28,
            "width": 28,
            "background": 0,
        },
        "model": "mlp",
        "parameters": 669_706,
        "metrics": [
            { "name": "loss", "higher_is_better": false, "unit": "nats" },
            { "name": "accuracy", "higher_is_better": true, "unit": null },
        ],
        "monitor": "test/loss",
        "epochs": [epoch(1, 0.5, 10.0)],
        "best_epoch": 1,
        "stopped_early": null,
        "test": { "metrics": { "test/loss": 0.5, "test/accuracy": 0.75 }, "confusion": [[2, 0], [1, 1]] },
        "seconds": 40.0,
        "samples_per_second": 1234.0,
        "timings": {
            "start_up_seconds": 1.0,
            "compilation_seconds": 0.0,
            "training_seconds": 30.0,
            "evaluation_seconds": 8.0,
            "checkpoint_seconds": 1.0,
        },
        "diverged": null,
        "error": null,
    });
    lay_over(&mut record, changes);
    let directory = place.join(id);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("run.json"), record.to_string()).unwrap();
    Run::read(RunDirectory::find(place, id).unwrap()).unwrap()
}

/// A part of a run that computed by these means.
pub(crate) fn part(backend: &str, kernels: &str, devices: usize, instructions: &str) -> Value {
    json!({
        "started": "2026-01-02T03:04:05Z",
        "backend": backend,
        "device": "a processor, 2 threads",
        "devices": devices,
        "kernels": kernels,
        "instructions": instructions,
    })
}

/// An epoch of the protocol `assignment`.
pub(crate) fn epoch(number: usize, test_loss: f64, seconds: f64) -> Value {
    json!({
        "epoch": number,
        "metrics": {
            "train/loss": test_loss + 0.1,
            "train/accuracy": 0.8,
            "test/loss": test_loss,
            "test/accuracy": 0.75,
        },
        "learning_rate": 0.1,
        "seconds": seconds,
        "samples_per_second": 100.0 / seconds,
        "evaluation_seconds": 1.0,
    })
}

/// An evaluation of four images of two classes, with two mistakes.
pub(crate) fn evaluation() -> EvaluationRecord {
    let class = |name: &str, precision| ClassRecord {
        name: name.to_owned(),
        images: 2,
        precision,
        recall: Some(0.5),
        f1: None,
    };
    let bin =
        |from: f64, confidence, accuracy| CalibrationBin { from, to: from + 0.5, images: 2, confidence, accuracy };
    let mistake = |index, confidence, picture: &str, file: Option<&str>| MistakeRecord {
        index,
        target: 1,
        predicted: 0,
        confidence,
        picture: picture.to_owned(),
        file: file.map(str::to_owned),
    };
    EvaluationRecord {
        schema: kindling_record::SCHEMA,
        evaluated: "2026-01-02T03:04:05Z".to_owned(),
        backend: "flex".to_owned(),
        device: "a processor".to_owned(),
        kernels: "composed".to_owned(),
        test_time_augmentation: Vec::new(),
        images: 4,
        loss: 0.5,
        accuracy: 0.75,
        balanced_accuracy: Some(0.5),
        macro_f1: Some(0.25),
        weighted_f1: Some(0.125),
        top_k: vec![0.75],
        confusion: vec![vec![2, 0], vec![1, 1]],
        classes: vec![class("Coat", Some(0.75)), class("Bag", None)],
        calibration: CalibrationRecord {
            error: 0.125,
            bins: vec![bin(0.0, None, None), bin(0.5, Some(0.8), Some(0.75))],
        },
        confused: vec![ConfusedPair { target: 1, predicted: 0, images: 1 }],
        mistakes: vec![mistake(3, 0.98765, "01.png", Some("test/bag/7.jpg")), mistake(2, 0.9, "gone.png", None)],
        misclassified: None,
    }
}

/// Writes a step log with `changes` for each step.
pub(crate) fn steps(run: &Run, changes: &[Value]) {
    let lines = changes.iter().enumerate().map(|(index, changes)| {
        let mut step = json!({ "step": index + 1, "epoch": 1, "loss": 1.0, "learning_rate": 0.1 });
        lay_over(&mut step, changes.clone());
        format!("{step}\n")
    });
    fs::write(run.directory.steps(), lines.collect::<Vec<_>>().concat()).unwrap();
}

/// Objects are merged key by key; everything else is replaced.
pub(super) fn lay_over(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, change) in changes {
                lay_over(object.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes,
    }
}
