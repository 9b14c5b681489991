//! What groups of runs came to, in tables.

use kindling_record::{RunRecord, RunStatus};
use serde_json::Value;

use crate::{
    curves::{Quantity, Split, figure},
    document::TableBlock,
    groups::{Group, Run, with_repeats},
    statistics::Sample,
    table::{duration, grouped},
};

/// What stands where there is no figure.
pub(crate) const NONE: &str = "–";

/// The groups side by side: one table for one quantity.
///
/// The figures of the last epoch and of the best on each of `splits`, and those of the final test where it is another.
#[must_use]
pub fn comparison_table(groups: &[Group], quantity: Quantity, splits: &[Split]) -> TableBlock {
    let mut header = vec!["configuration".to_owned()];
    for split in splits {
        header.push(format!("{split} {quantity}, last epoch"));
        header.push("best epoch".to_owned());
    }
    let is_tested = groups.iter().flat_map(|group| &group.runs).any(|run| run.record.test.is_some());
    let shows_test = is_tested && !splits.contains(&Split::Test);
    if shows_test {
        header.push(format!("test {quantity}, reported weights"));
    }
    let right = (1..header.len()).collect();
    header.push("remarks".to_owned());
    let rows = groups.iter().map(|group| {
        let mut row = vec![marked_label(group)];
        for &split in splits {
            let last = group.sample(|run| run.last(|epoch| figure(epoch, quantity, split)));
            row.push(shown(last, quantity));
            row.push(shown(group.sample(|run| best(run, quantity, split)), quantity));
        }
        if shows_test {
            row.push(shown(group.sample(|run| tested(run, quantity)), quantity));
        }
        row.push(remarks(group));
        row
    });
    let unit = match quantity {
        Quantity::Loss => "Losses in nats",
        Quantity::Accuracy => "Accuracies",
    };
    let caption = format!("{unit}: mean ± standard deviation over the n runs of a configuration.");
    TableBlock { caption: with_repeats(&caption, groups), header, right, rows: rows.collect() }
}

/// All that is known of the groups, a row for each.
pub(crate) fn summary_table(groups: &[Group]) -> TableBlock {
    let header = [
        "configuration",
        "parameters",
        "epochs",
        "accuracy, last epoch",
        "test accuracy",
        "test loss (nats)",
        "best epoch",
        "images/s",
        "time per run",
        "remarks",
    ];
    let rows = groups.iter().map(|group| {
        let last = group.sample(|run| run.last(|epoch| epoch.valid_accuracy.or(epoch.test_accuracy)));
        let planned = group.runs.first().and_then(|run| run.record.config.get("epochs"));
        let epochs = each(group, |record| Some(record.epochs.len()));
        let time = group.sample(|run| Some(run.record.seconds));
        vec![
            marked_label(group),
            each(group, |record| Some(record.parameters)),
            planned.map_or_else(|| epochs.clone(), |planned| format!("{epochs} of {planned}")),
            shown(last, Quantity::Accuracy),
            shown(group.sample(|run| tested(run, Quantity::Accuracy)), Quantity::Accuracy),
            shown(group.sample(|run| tested(run, Quantity::Loss)), Quantity::Loss),
            each(group, |record| record.best_epoch),
            group.sample(|run| run.record.images_per_second).map_or_else(|| NONE.to_owned(), speed),
            time.map_or_else(|| NONE.to_owned(), |time| duration(time.mean)),
            remarks(group),
        ]
    });
    let caption = "Mean ± standard deviation over the n runs of a configuration. The last epoch's accuracy is that on \
                   the validation images (protocol `validated`) or the test images (`assignment`); the test figures are \
                   those of the reported weights: the best epoch's (`validated`) or the last (`assignment`). Images per \
                   second are those of training steps, times are whole runs with evaluation and checkpoints.";
    TableBlock {
        caption: with_repeats(caption, groups),
        header: header.map(str::to_owned).to_vec(),
        right: (1..=8).collect(),
        rows: rows.collect(),
    }
}

/// The group's label, with a mark where its figures are not those of the whole Fashion-MNIST.
pub(crate) fn marked_label(group: &Group) -> String {
    let Some(first) = group.runs.first() else { return group.label.clone() };
    let name = first.record.dataset.name.as_str();
    let is_usual = name == "fashion-mnist" || group.label.contains(name);
    let data = if is_usual { String::new() } else { format!(" on {name}") };
    let limited = if limit(&first.record).is_some() { " (limited)" } else { "" };
    format!("{}{data}{limited}", group.label)
}

/// What a reader has to know about the group's figures: data that is not whole or not real, runs that ended early.
pub(crate) fn remarks(group: &Group) -> String {
    let mut remarks = Vec::new();
    if let Some(first) = group.runs.first() {
        if first.record.dataset.name == "synthetic" {
            remarks.push("synthetic data".to_owned());
        }
        remarks.extend(limit(&first.record).map(|limit| format!("limited to {limit} batches of each split")));
    }
    for run in &group.runs {
        let whose = if group.runs.len() > 1 { format!("seed {} ", seed(&run.record)) } else { String::new() };
        remarks.extend(ending(run).map(|ending| format!("{whose}{ending}")));
    }
    remarks.join("; ")
}

/// The seed of a run as its config has it.
pub(crate) fn seed(record: &RunRecord) -> String {
    record.config.get("seed").map_or_else(|| NONE.to_owned(), Value::to_string)
}

/// How a run ended, unless it went through all its epochs.
fn ending(run: &Run) -> Option<String> {
    let record = &run.record;
    let epochs = record.epochs.len();
    match run.status {
        RunStatus::Finished => record.stopped_early.as_ref().map(|_| format!("stopped early after epoch {epochs}")),
        RunStatus::Interrupted if epochs == 1 => Some("interrupted after 1 epoch".to_owned()),
        RunStatus::Interrupted => Some(format!("interrupted after {epochs} epochs")),
        RunStatus::Running => Some(format!("still running, epoch {}", epochs + 1)),
        RunStatus::Failed => {
            Some(record.error.as_ref().map_or_else(|| "failed".to_owned(), |error| format!("failed: {error}")))
        }
        RunStatus::Diverged => Some(record.diverged.as_ref().map_or_else(
            || "diverged".to_owned(),
            |diverged| {
                let place = diverged.layer.as_ref().map_or_else(String::new, |layer| format!(" in {layer}"));
                format!("diverged at step {} ({}{place})", diverged.step, diverged.quantity)
            },
        )),
    }
}

/// The number of batches that every split is limited to.
fn limit(record: &RunRecord) -> Option<&Value> {
    record.config.get("limit_batches").filter(|limit| !limit.is_null())
}

fn tested(run: &Run, quantity: Quantity) -> Option<f64> {
    run.record.test.as_ref().map(|test| match quantity {
        Quantity::Loss => test.loss,
        Quantity::Accuracy => test.accuracy,
    })
}

/// The best figure of all epochs.
fn best(run: &Run, quantity: Quantity, split: Split) -> Option<f64> {
    let figures = run.record.epochs.iter().filter_map(|epoch| figure(epoch, quantity, split));
    match quantity {
        Quantity::Loss => figures.filter(|loss| !loss.is_nan()).reduce(f64::min),
        Quantity::Accuracy => figures.reduce(f64::max),
    }
}

fn shown(sample: Option<Sample>, quantity: Quantity) -> String {
    match (sample, quantity) {
        (None, _) => NONE.to_owned(),
        (Some(sample), Quantity::Loss) => sample.fixed(4),
        (Some(sample), Quantity::Accuracy) => sample.percent(),
    }
}

fn speed(sample: Sample) -> String {
    // Speeds are whole numbers of images well below 2^53.
    let whole = |speed: f64| grouped(speed.round() as usize);
    match sample.deviation {
        Some(deviation) => format!("{} ± {} (n = {})", whole(sample.mean), whole(deviation), sample.n),
        None => format!("{} (n = 1)", whole(sample.mean)),
    }
}

/// The runs' counts: one where they agree, else each, in the order of the seeds.
fn each(group: &Group, count: impl Fn(&RunRecord) -> Option<usize>) -> String {
    let mut counts: Vec<String> =
        group.runs.iter().map(|run| count(&run.record).map_or_else(|| NONE.to_owned(), grouped)).collect();
    if counts.windows(2).all(|pair| pair[0] == pair[1]) {
        counts.truncate(1);
    }
    counts.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{epoch, run},
    };

    fn groups(place: &std::path::Path) -> Vec<Group> {
        let epochs = json!([epoch(1, 0.5, 10.0), epoch(2, 0.25, 10.0), epoch(3, 0.75, 10.0)]);
        let diverged = json!({
            "status": "diverged",
            "config": { "seed": 2 },
            "test": null,
            "epochs": [],
            "best_epoch": null,
            "diverged": { "step": 7, "layer": "fc1", "quantity": "weight" },
        });
        let limited = json!({
            "config": { "limit_batches": 5, "dataset": "synthetic" },
            "dataset": { "name": "synthetic", "sha256": "11" },
            "status": "running",
        });
        group(vec![
            run(place, "mlp-1", json!({ "epochs": epochs })),
            run(place, "mlp-2", diverged),
            run(place, "mlp-3", limited),
        ])
    }

    #[test]
    fn a_summary_has_a_row_for_each_configuration_and_says_what_is_amiss() {
        let place = tempfile::tempdir().unwrap();
        let table = summary_table(&groups(place.path()));
        assert_eq!(table.rows.len(), 2);
        assert!(table.rows.iter().all(|row| row.len() == table.header.len()));
        let first = &table.rows[0];
        assert_eq!(first[1..5], ["669,706", "3; 0 of 3", "75.00 % (n = 1)", "75.00 % (n = 1)"]);
        assert_eq!(first[9], "seed 2 diverged at step 7 (weight in fc1)");
        let second = &table.rows[1];
        assert!(second[0].contains("synthetic") && second[0].ends_with(" (limited)"), "{}", second[0]);
        // Nobody holds the run's lock.
        assert_eq!(second[9], "synthetic data; limited to 5 batches of each split; interrupted after 1 epoch");
    }

    #[test]
    fn a_comparison_has_the_last_epoch_and_the_best() {
        let place = tempfile::tempdir().unwrap();
        let groups = groups(place.path());
        let loss = comparison_table(&groups, Quantity::Loss, &[Split::Test]);
        assert_eq!(loss.header, ["configuration", "test loss, last epoch", "best epoch", "remarks"]);
        assert_eq!(loss.rows[0][1..3], ["0.7500 (n = 1)", "0.2500 (n = 1)"]);
        let train = comparison_table(&groups, Quantity::Accuracy, &[Split::Train]);
        assert_eq!(train.header[3], "test accuracy, reported weights");
        assert_eq!(train.rows[0][1..4], ["80.00 % (n = 1)", "80.00 % (n = 1)", "75.00 % (n = 1)"]);
    }
}
