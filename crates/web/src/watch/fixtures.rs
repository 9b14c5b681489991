//! Runs made by hand, for tests.

use std::{fs, path::Path};

use kindling_record::{RunDirectory, SCHEMA};
use serde_json::{Value, json};

/// A finished run of `mlp` in `place`, with `changes` laid over its record.
pub(super) fn run(place: &Path, id: &str, changes: Value) -> RunDirectory {
    let mut record = json!({
        "schema": SCHEMA, "id": id, "status": "finished", "started": "2026-01-02T03:04:05Z",
        "parts": [{
            "started": "2026-01-02T03:04:05Z", "backend": "flex", "device": "a processor", "devices": 1,
            "kernels": "fused, AVX2", "instructions": "AVX2",
        }],
        "config": {
            "network": { "name": "mlp", "hidden": [16] },
            "optimizer": { "name": "sgd", "learning_rate": 0.1 },
            "training": { "batch_size": 32, "epochs": 3, "seed": 1 },
        },
        "backend": "flex", "device": "a processor", "versions": { "burn": "0.22.1", "kindling": "0.1.0" },
        "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
        "dataset": {
            "name": "fashion-mnist", "source": null, "sha256": "00ff", "protocol": "validated", "train": 128, "valid": 8,
            "test": 4, "classes": ["Coat", "Bag"], "height": 28, "width": 28, "background": 0,
        },
        "model": "mlp", "parameters": 1234,
        "metrics": [
            { "name": "loss", "higher_is_better": false, "unit": "nats" },
            { "name": "accuracy", "higher_is_better": true, "unit": null },
        ],
        "monitor": "valid/loss", "epochs": [epoch(1, 0.5)], "best_epoch": 1,
        "test": { "metrics": { "test/loss": 0.5, "test/accuracy": 0.75 }, "confusion": [[2, 0], [1, 1]] },
        "seconds": 40.0, "samples_per_second": 1234.0,
        "timings": {
            "start_up_seconds": 1.0, "compilation_seconds": 0.0, "training_seconds": 30.0, "evaluation_seconds": 8.0,
            "checkpoint_seconds": 1.0,
        },
    });
    lay_over(&mut record, changes);
    let directory = place.join(id);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("run.json"), record.to_string()).unwrap();
    RunDirectory::find(place, id).unwrap()
}

/// Lays `changes` over the record of a run, as its process does: by another file.
pub(super) fn change(run: &RunDirectory, changes: Value) {
    let path = run.path().join("run.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    lay_over(&mut record, changes);
    kindling_record::replace_file(&path, record.to_string().as_bytes()).unwrap();
}

/// An epoch of 10 s, with an evaluation of 1 s.
pub(super) fn epoch(number: usize, valid_loss: f64) -> Value {
    json!({
        "epoch": number,
        "metrics": {
            "train/loss": valid_loss + 0.1, "train/accuracy": 0.8, "valid/loss": valid_loss, "valid/accuracy": 0.75,
        },
        "learning_rate": 0.1, "seconds": 10.0, "samples_per_second": 12.8, "evaluation_seconds": 1.0,
    })
}

/// Objects are merged key by key; everything else is replaced.
fn lay_over(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, change) in changes {
                lay_over(object.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes,
    }
}
