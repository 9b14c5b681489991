//! Reproductions made by hand, for tests.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    Run,
    reproduction::{Question, Reference, Reproduction, Row},
    run_report::fixtures::{epoch, run, steps},
};

/// The reference of the sources.
pub(crate) fn reference() -> Reference {
    Reference::from_json(include_str!("../../../../assets/assignment/reference.json")).unwrap()
}

/// A reproduction with these rows.
pub(crate) fn reproduction(rows: Vec<Row>) -> Reproduction {
    Reproduction { reference: reference(), command: "kindling reproduce".to_owned(), quick: false, samples: None, rows }
}

pub(crate) fn row(question: Question, name: &str, runs: Vec<Run>) -> Row {
    Row { question, name: name.to_owned(), runs }
}

/// A finished run with a test accuracy for each epoch, losses that are 1 less the accuracy, and `changes` laid over it.
pub(crate) fn trained(place: &Path, id: &str, accuracies: &[f64], changes: &Value) -> Run {
    let epochs = accuracies.iter().enumerate().map(|(index, accuracy)| {
        let mut one = epoch(index + 1, 1.0 - accuracy, 10.0);
        one["test_accuracy"] = json!(accuracy);
        one
    });
    let epochs: Vec<Value> = epochs.collect();
    let highest = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = accuracies.iter().position(|accuracy| accuracy.total_cmp(&highest).is_eq()).map(|index| index + 1);
    let mut all = json!({ "epochs": epochs, "best_epoch": best });
    for (key, value) in changes.as_object().unwrap() {
        all[key.as_str()] = value.clone();
    }
    run(place, id, all)
}

/// One run for every row of every question: of two epochs, with two steps, gradients, and a diverged one.
pub(crate) fn full(place: &Path) -> Reproduction {
    let rows: [(Question, &[&str]); 7] = [
        (Question::FirstRun, &["mlp"]),
        (Question::LearningRates, &["1", "0.1", "0.01", "0.001"]),
        (Question::Convergence, &["1", "0.1", "0.01", "0.001"]),
        (Question::Structures, &["base", "deeper", "wider"]),
        (Question::Gradients, &["mlp", "cnn"]),
        (Question::Cnn, &["cnn"]),
        (Question::Suggestions, &["cnn", "more layers", "falling learning rate", "augmentation", "all"]),
    ];
    let mut reproduction = reproduction(Vec::new());
    for (question, names) in rows {
        for (index, name) in names.iter().enumerate() {
            let id = format!("{}-{index}", question.number());
            let changes = match (question, *name) {
                (Question::LearningRates, "1") => json!({
                    "status": "diverged",
                    "diverged": { "step": 3, "layer": "fc1", "quantity": "weight" },
                }),
                (Question::Gradients, _) => json!({ "config": { "gradient_steps": 2, "limit_batches": 2 } }),
                _ => json!({}),
            };
            let one = trained(place, &id, &[0.5, 0.75], &changes);
            let layer = json!({ "layer": "fc1", "parameters": 2, "mean": 0.1, "mean_abs": 0.5, "norm": 1.0 });
            let gradient = json!({ "mean": 0.1, "mean_abs": 0.5, "norm": 1.0, "layers": [layer] });
            match question {
                Question::Gradients => steps(&one, &[json!({ "gradient": gradient }), json!({ "gradient": gradient })]),
                _ => steps(&one, &[json!({}), json!({})]),
            }
            reproduction.rows.push(row(question, name, vec![one]));
        }
    }
    reproduction
}
