//! Whole reports on few and on many runs, for tests.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    fixtures::{run, steps},
    run_report,
};
use crate::{Block, Document, Group, Plot, Run, differences::LONGEST_LABEL, document::TableBlock, group, write};

/// As long as a mark behind a label may be: ` (synthetic, limited)`.
const MARKS: usize = 21;
/// A longer cell would make a row of a table several lines high.
const LONGEST_CELL: usize = 72;

/// A finished run of the protocol `validated` with `config` laid over the usual one; the losses fall towards `floor`.
fn trained(place: &Path, id: &str, floor: f64, changes: Value) -> Run {
    let epochs: Vec<Value> = (1..=10)
        .map(|epoch| {
            let loss = floor + 0.6 * (-0.4 * f64::from(epoch)).exp() + 0.01 * (f64::from(epoch) * 7.0 * floor).sin();
            json!({
                "epoch": epoch,
                "metrics": {
                    "train/loss": loss * 0.9, "train/accuracy": 1.0 - loss * 0.3,
                    "valid/loss": loss, "valid/accuracy": 1.0 - loss * 0.33,
                },
                "learning_rate": 0.1,
                "seconds": 3.0 + floor,
                "samples_per_second": 18_000.0,
                "evaluation_seconds": 0.2,
            })
        })
        .collect();
    let test = json!({
        "metrics": { "test/loss": floor + 0.02, "test/accuracy": 1.0 - floor * 0.35 },
        "confusion": (0..10).map(|target| (0..10).map(|predicted| match predicted {
            _ if predicted == target => 870,
            _ if (predicted + target) % 4 == 0 => 31,
            _ => 4,
        }).collect::<Vec<_>>()).collect::<Vec<_>>(),
    });
    let classes =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
    let usual = json!({
        "epochs": epochs,
        "best_epoch": 10,
        "monitor": "valid/loss",
        "test": test,
        "dataset": { "protocol": "validated", "train": 55_000, "valid": 5_000, "test": 10_000, "classes": classes },
        "samples_per_second": 18_000.0 + 4000.0 * floor,
        "config": {
            "data": { "augment": [], "pixel_mean": 0.0, "pixel_std": 1.0 },
            "optimizer": { "weight_decay": 0.0 },
            "schedule": { "name": "constant", "warm_up_epochs": 0 },
            "protocol": { "name": "validated", "order": "shuffled", "monitor": "valid/loss" },
            "training": {
                "epochs": 10, "batch_size": 64, "label_smoothing": 0.0, "precision": "f32", "clip_norm": null,
            },
        },
    });
    let mut whole = usual;
    super::fixtures::lay_over(&mut whole, changes);
    run(place, id, whole)
}

/// Two runs that have little in common.
fn two(place: &Path) -> Vec<Run> {
    let cnn = json!({
        "model": "cnn",
        "parameters": 421_834,
        "backend": "wgpu",
        "config": {
            "network": { "name": "cnn", "channels": [32, 64], "hidden": 128 },
            "data": { "augment": ["shift", "flip"], "pixel_mean": 0.286, "pixel_std": 0.353 },
            "optimizer": {
                "name": "adamw", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "weight_decay": 0.01,
            },
            "schedule": { "name": "cosine", "warm_up_epochs": 1 },
            "training": { "batch_size": 128, "clip_norm": 1.0, "label_smoothing": 0.05, "gradient_steps": 30 },
        },
    });
    let gradients = json!({ "config": { "training": { "gradient_steps": 30 } } });
    let runs =
        vec![trained(place, "mlp-20260102-030405", 0.33, gradients), trained(place, "cnn-20260102-030405", 0.25, cnn)];
    for run in &runs {
        let layer = |name: &str, mean: f64| json!({ "layer": name, "parameters": 9, "mean": 0.0, "mean_abs": mean, "norm": 1.0 });
        let lines: Vec<Value> = (0..30)
            .map(|step| {
                let mean = 0.01 / (1.0 + f64::from(step));
                let layers = ["conv1", "conv2", "fc1", "fc2"].map(|name| layer(name, mean * name.len() as f64));
                json!({ "gradient": { "mean": mean * 0.1, "mean_abs": mean, "norm": mean * 100.0, "layers": layers } })
            })
            .collect();
        steps(run, &lines);
    }
    runs
}

/// Ten configurations of one network that differ in their learning rates, with three seeds each; one run diverged.
fn ten(place: &Path) -> Vec<Run> {
    let mut runs = Vec::new();
    for (index, rate) in [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001].into_iter().enumerate() {
        for seed in 1..=3 {
            let config = json!({ "optimizer": { "learning_rate": rate }, "training": { "seed": seed } });
            let floor = 0.3 + 0.02 * (index as f64 - 3.3).abs() + 0.004 * f64::from(seed);
            let mut changes = json!({ "config": config });
            if (index, seed) == (0, 2) {
                changes["status"] = json!("diverged");
                changes["test"] = json!(null);
                changes["diverged"] = json!({ "step": 71, "layer": "fc1", "quantity": "gradient of weight" });
            }
            runs.push(trained(place, &format!("mlp-learning-rate-{rate}-seed-{seed}-20260102-030405"), floor, changes));
        }
    }
    runs
}

/// A grid of forty configurations.
fn forty(place: &Path) -> Vec<Run> {
    let mut runs = Vec::new();
    for (i, rate) in [0.3, 0.1, 0.03, 0.01, 0.003].into_iter().enumerate() {
        for (j, batch) in [32, 64, 128, 256].into_iter().enumerate() {
            for (k, augment) in [json!([]), json!(["shift", "flip"])].into_iter().enumerate() {
                let id = format!("mlp-augment-{k}-batch-size-{batch}-learning-rate-{rate}-20260102-030405");
                let floor = 0.3 + 0.03 * (i as f64 - 1.2).abs() + 0.02 * j as f64 - 0.015 * k as f64;
                let config = json!({
                    "optimizer": { "learning_rate": rate },
                    "data": { "augment": augment },
                    "training": { "batch_size": batch },
                });
                runs.push(trained(place, &id, floor, json!({ "config": config })));
            }
        }
    }
    runs
}

/// Two ways to train on an uneven set in colour, each on three folds and evaluated.
fn uneven(place: &Path) -> Vec<Run> {
    let mut runs = Vec::new();
    let classes = ["healthy", "leaf-rust", "powdery-mildew"];
    for (sampler, recall) in [("uniform", 0.3), ("balanced", 0.7)] {
        for fold in 1..=3 {
            let recall = recall + 0.03 * f64::from(fold);
            let changes = json!({
                "model": "cnn",
                "parameters": 421_834,
                "test": { "confusion": [[480, 12, 8], [5, 40, 5], [4, 2, 4]] },
                "dataset": {
                    "name": "folder", "source": "/pictures/leaves", "train": 3_000, "valid": 1_500, "test": 560,
                    "classes": classes, "height": 48, "width": 64, "channels": 3, "fit": "crop",
                    "pixel_mean": [0.4853, 0.5562, 0.3406], "pixel_std": [0.2291, 0.2241, 0.225],
                    "counts": { "train": [2500, 450, 50], "valid": [1250, 225, 25], "test": [500, 50, 10] },
                    "skipped": ["train/healthy/0007.jpg", "train/leaf-rust/0113.jpg"],
                },
                "initial_weights": {
                    "source": "runs/cnn-20260101-101112/model.safetensors", "sha256": "00ff".repeat(16), "taken": 8,
                    "fresh": ["fc2.weight ([3, 128] here, [10, 128] in the file)", "fc2.bias"], "unused": [],
                },
                "frozen": ["conv1.weight", "conv1.bias"],
                "config": {
                    "network": { "name": "cnn", "hidden": 128 },
                    "data": { "name": "folder", "sampler": sampler, "augment": [
                        { "name": "flip", "probability": 0.5 }, { "name": "crop", "padding": 4, "edge": "reflect" },
                    ] },
                    "protocol": { "folds": 3, "fold": fold },
                },
            });
            let run = trained(place, &format!("cnn-{sampler}-fold-{fold}-20260102-030405"), 0.33, changes);
            let mistake = |index: usize| kindling_record::MistakeRecord {
                index,
                target: 1 + index % 2,
                predicted: 0,
                confidence: 0.99 - 0.01 * index as f64,
                picture: format!("{index:02}.png"),
                file: Some(format!("test/{}/{index:04}.jpg", classes[1 + index % 2])),
            };
            let evaluation = kindling_record::EvaluationRecord {
                balanced_accuracy: Some(recall),
                macro_f1: Some(recall - 0.05),
                weighted_f1: Some(0.93),
                top_k: vec![0.93, 0.98],
                confusion: vec![vec![480, 12, 8], vec![5, 40, 5], vec![4, 2, 4]],
                mistakes: (0..8).map(mistake).collect(),
                ..super::fixtures::evaluation()
            };
            run.directory.write_evaluation(&evaluation).unwrap();
            fs::create_dir(run.directory.mistakes()).unwrap();
            for index in 0..8_u8 {
                let image = image::RgbImage::from_fn(128, 96, |x, y| {
                    let (x, y) = ((x / 2) as u8, (y / 2) as u8);
                    image::Rgb([x * 3 + index * 8, 120 + y * 2, 40 + index * 20])
                });
                image.save(run.directory.mistakes().join(format!("{index:02}.png"))).unwrap();
            }
            runs.push(run);
        }
    }
    runs
}

#[test]
fn a_report_on_an_uneven_set_in_colour_shows_its_classes_its_scores_and_its_mistakes() {
    let place = tempfile::tempdir().unwrap();
    let (groups, document, page) = written(uneven(place.path()), &place.path().join("report"));
    assert_eq!(
        groups.iter().map(|group| group.label.as_str()).collect::<Vec<_>>(),
        ["sampler uniform", "sampler balanced"]
    );
    let names: Vec<&str> = document.sections.iter().map(|section| section.name.as_str()).collect();
    assert_eq!(names, ["summary", "configurations", "curves", "data", "test", "runs"]);
    let all = tables(&document);
    let [scores] = all.iter().filter(|table| table.header.contains(&"macro F1".to_owned())).collect::<Vec<_>>()[..]
    else {
        panic!("{all:?}")
    };
    assert_eq!((scores.rows[0][1].as_str(), scores.rows[1][3].as_str()), ("n = 3 folds", "76.00 ± 3.00 % *"));
    for wanted in
        ["50.0 to 1", "2 pictures could not be read", "(n = 3 folds)", "Starting weights", "test/leaf-rust/0000.jpg"]
    {
        assert!(page.contains(wanted), "{wanted}");
    }
}

/// The report on these runs, written to a directory, with its groups.
fn written(runs: Vec<Run>, to: &Path) -> (Vec<Group>, Document, String) {
    let groups = group(runs);
    let document = run_report(&groups, "kindling report RUN ...").unwrap();
    write(&document, to).unwrap();
    let page = fs::read_to_string(to.join("report.html")).unwrap();
    (groups, document, page)
}

fn tables(document: &Document) -> Vec<&TableBlock> {
    let blocks = document.sections.iter().flat_map(|section| &section.blocks);
    blocks.filter_map(|block| if let Block::Table(table) = block { Some(table) } else { None }).collect()
}

#[test]
fn a_report_on_2_10_or_40_configurations_has_short_labels_that_one_table_explains_and_no_legend_is_cut() {
    for (runs, count, curves) in [(two as fn(&Path) -> Vec<Run>, 2, 2), (ten, 10, 10), (forty, 40, 8)] {
        let place = tempfile::tempdir().unwrap();
        let (groups, document, page) = written(runs(place.path()), &place.path().join("report"));
        assert_eq!(groups.len(), count);
        let labels: Vec<String> = groups.iter().map(Group::marked_label).collect();
        assert!(labels.iter().all(|label| label.chars().count() <= LONGEST_LABEL + MARKS), "{labels:?}");
        // The first table has a column for each of a few keys; many have a table of their own.
        let has_keys = |table: &&&TableBlock| {
            let names = table.header.iter().chain(table.rows.iter().map(|row| &row[0]));
            names.into_iter().any(|name| name == "`optimizer.learning_rate`")
        };
        let all = tables(&document);
        let [keys] = all.iter().filter(has_keys).collect::<Vec<_>>()[..] else { panic!("{all:?}") };
        let named: Vec<&String> = keys.header.iter().chain(keys.rows.iter().map(|row| &row[0])).collect();
        for label in &labels {
            assert_eq!(named.iter().filter(|name| **name == label).count(), 1, "{label} in {named:?}");
        }
        for table in tables(&document) {
            let longest = table.rows.iter().flatten().map(|cell| cell.chars().count()).max().unwrap();
            assert!(longest <= LONGEST_CELL, "{longest}: {table:?}");
        }
        let charts = document.sections.iter().flat_map(|section| &section.blocks);
        for block in charts.filter(|block| matches!(block, Block::Chart(_))) {
            let Block::Chart(figure) = block else { continue };
            let drawn = figure.plot.inline_svg();
            assert!(page.contains(&drawn), "{}", figure.name);
            for series in figure.plot.series.iter().filter(|series| series.style != crate::Style::Context) {
                assert!(drawn.contains(&format!(">{}</text>", series.label)), "{} in {drawn}", series.label);
            }
            if figure.name.starts_with("curves") {
                assert_eq!(drawn.matches(" others</text>").count(), usize::from(curves < count));
                let shown = figure.plot.series.iter().filter(|series| series.style == crate::Style::Measured).count();
                assert_eq!(shown, curves, "{}", figure.name);
            }
        }
        assert!(page.contains("<div class=\"grid\">"));
    }
}
