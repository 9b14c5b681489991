//! Runs and reproductions made by hand, for tests.

use std::{fs, path::Path};

use kindling_record::RunDirectory;
use kindling_report::Run;
use serde_json::{Value, json};

use super::{
    measured::{Reproduction, Row},
    reference::{Question, Reference},
};

/// A reproduction with these rows.
pub(crate) fn reproduction(rows: Vec<Row>) -> Reproduction {
    let reference = Reference::read().unwrap();
    Reproduction { reference, command: "kindling reproduce".to_owned(), quick: false, samples: None, rows }
}

pub(crate) fn row(question: Question, name: &'static str, runs: Vec<Run>) -> Row {
    Row { question, name, runs }
}

/// A row of runs that differ by their seed, each with one of the curves, and with `more` in its record.
pub(crate) fn seeds(place: &Path, question: Question, name: &'static str, curves: &[Vec<f64>], more: &Value) -> Row {
    let runs = curves.iter().enumerate().map(|(seed, curve)| {
        let mut changes = json!({ "config": { "training": { "seed": seed, "early_stopping": 3 } } });
        lay_over(&mut changes, more);
        trained(place, &format!("{}-{}-{seed}", question.number(), name.replace(' ', "-")), curve, &changes)
    });
    Row { question, name, runs: runs.collect() }
}

/// A finished run with a test accuracy for each epoch, losses that are 1 less the accuracy, and `changes` laid over it.
pub(crate) fn trained(place: &Path, id: &str, accuracies: &[f64], changes: &Value) -> Run {
    let epochs = accuracies.iter().enumerate().map(|(index, accuracy)| {
        let loss = 1.0 - accuracy;
        let metrics = json!({
            "train/loss": loss + 0.1, "train/accuracy": 0.8, "test/loss": loss, "test/accuracy": accuracy,
        });
        json!({
            "epoch": index + 1, "metrics": metrics, "learning_rate": 0.1, "seconds": 10.0,
            "samples_per_second": 10.0, "evaluation_seconds": 1.0,
        })
    });
    let highest = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = accuracies.iter().position(|accuracy| accuracy.total_cmp(&highest).is_eq()).map(|index| index + 1);
    let started = "2026-01-02T03:04:05Z";
    let mut record = json!({
        "schema": kindling_record::SCHEMA, "id": id, "status": "finished", "started": started, "backend": "flex",
        "device": "a processor", "versions": { "burn": "0.22.1" }, "model": "mlp", "parameters": 669_706,
        "parts": [{
            "started": started, "backend": "flex", "device": "a processor", "devices": 1, "kernels": "fused, AVX2",
            "instructions": "AVX2",
        }],
        "config": {
            "network": { "name": "mlp" }, "optimizer": { "name": "sgd", "learning_rate": 0.1 },
            "training": { "epochs": 3, "batch_size": 32, "seed": 1, "limit_batches": null },
        },
        "machine": { "platform": "linux x86_64", "processor": "a processor", "threads": 2 },
        "dataset": {
            "name": "fashion-mnist", "sha256": "00ff", "protocol": "assignment", "train": 100, "valid": 0, "test": 4,
            "classes": ["Coat", "Bag"], "height": 28, "width": 28, "background": 0,
        },
        "metrics": [
            { "name": "loss", "higher_is_better": false, "unit": "nats" },
            { "name": "accuracy", "higher_is_better": true },
        ],
        "monitor": "test/loss", "epochs": epochs.collect::<Vec<Value>>(), "best_epoch": best, "seconds": 40.0,
        "test": { "metrics": { "test/loss": 0.5, "test/accuracy": 0.75 }, "confusion": [[2, 0], [1, 1]] },
        "timings": {
            "start_up_seconds": 1.0, "compilation_seconds": 0.0, "training_seconds": 30.0, "evaluation_seconds": 8.0,
            "checkpoint_seconds": 1.0,
        },
    });
    lay_over(&mut record, changes);
    let directory = place.join(id);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("run.json"), record.to_string()).unwrap();
    Run::read(RunDirectory::find(place, id).unwrap()).unwrap()
}

/// Writes a step log with `changes` for each step.
pub(crate) fn steps(run: &Run, changes: &[Value]) {
    let line = |(index, changes): (usize, &Value)| {
        let mut step = json!({ "step": index + 1, "epoch": 1, "loss": 1.0, "learning_rate": 0.1 });
        lay_over(&mut step, changes);
        format!("{step}\n")
    };
    fs::write(run.directory.steps(), changes.iter().enumerate().map(line).collect::<String>()).unwrap();
}

/// Objects are merged key by key; everything else is replaced.
fn lay_over(value: &mut Value, changes: &Value) {
    match (value, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, change) in changes {
                lay_over(object.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, changes) => *value = changes.clone(),
    }
}

/// One run for every row of every question: of two epochs, with two steps, gradients, and a diverged one.
pub(crate) fn full(place: &Path) -> Reproduction {
    let mut rows = Vec::new();
    for question in Question::ALL {
        for (index, &name) in question.rows().iter().enumerate() {
            let changes = match (question, name) {
                (Question::LearningRates, "1") => json!({
                    "status": "diverged", "diverged": { "step": 3, "layer": "fc1", "quantity": "weight" },
                }),
                (Question::Gradients, _) => {
                    json!({ "config": { "training": { "gradient_steps": 2, "limit_batches": 2 } } })
                }
                _ => json!({}),
            };
            let run = trained(place, &format!("{}-{index}", question.number()), &[0.5, 0.75], &changes);
            let step = if question == Question::Gradients { gradient(0.1, 0.5, 1.0) } else { json!({}) };
            steps(&run, &[step.clone(), step]);
            rows.push(row(question, name, vec![run]));
        }
    }
    reproduction(rows)
}

/// A step with these statistics of its gradients, those of its only layer `fc1` among them.
pub(crate) fn gradient(mean: f64, absolute: f64, norm: f64) -> Value {
    let layer = json!({ "layer": "fc1", "parameters": 2, "mean": mean, "mean_abs": absolute, "norm": norm });
    json!({ "gradient": { "mean": mean, "mean_abs": absolute, "norm": norm, "layers": [layer] } })
}
