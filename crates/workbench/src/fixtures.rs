//! Runs made by hand, for tests.

use std::{fs, path::Path};

use kindling_record::{RunDirectory, SCHEMA};
use kindling_report::Run;
use serde_json::{Value, json};

/// A finished run of `mlp` in `runs_dir`, with `changes` in place of what its record has for these keys.
pub(crate) fn run(runs_dir: &Path, id: &str, changes: &Value) -> Run {
    let mut record = json!({
        "schema": SCHEMA, "id": id, "status": "finished", "started": "2026-01-02T03:04:05Z",
        "parts": [part("flex", "fused, AVX2", "AVX2")],
        "config": config("mlp", 1), "backend": "flex",
        "device": "a processor", "versions": {},
        "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
        "dataset": {
            "name": "fashion-mnist", "source": null, "sha256": "00ff", "protocol": "assignment", "train": 100,
            "valid": 0, "test": 10, "classes": [], "height": 28, "width": 28, "background": 0,
        },
        "model": "mlp", "parameters": 1, "metrics": metrics(), "monitor": "valid/loss", "epochs": [], "seconds": 5.0,
        "timings": {
            "start_up_seconds": 0.0, "compilation_seconds": 0.0, "training_seconds": 4.0, "evaluation_seconds": 1.0,
            "checkpoint_seconds": 0.0,
        },
    });
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    let directory = runs_dir.join(id);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("run.json"), record.to_string()).unwrap();
    Run::read(RunDirectory::find(runs_dir, id).unwrap()).unwrap()
}

/// What a record has of the config.
pub(crate) fn config(network: &str, seed: u64) -> Value {
    json!({ "network": { "name": network }, "training": { "batch_size": 64, "epochs": 2, "seed": seed } })
}

fn metrics() -> Value {
    json!([
        { "name": "loss", "higher_is_better": false, "unit": null },
        { "name": "accuracy", "higher_is_better": true, "unit": null },
    ])
}

/// A part that one device computed.
pub(crate) fn part(backend: &str, kernels: &str, instructions: &str) -> Value {
    json!({
        "started": "2026-01-02T03:04:05Z", "backend": backend, "device": "a processor", "devices": 1,
        "kernels": kernels, "instructions": instructions,
    })
}
