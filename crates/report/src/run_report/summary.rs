//! The results of groups of runs, in tables.

use kindling_record::{MetricRecord, RunRecord, RunStatus};

use crate::{
    curves::{Split, evaluated_splits, measured},
    differences::{Key, are_letters, keys, listed},
    document::TableBlock,
    metrics::{metric, metrics},
    run::{Group, Run, key, marks},
    run_report::columns::Columns,
    statistics::Sample,
    table::{NONE, duration, grouped, samples},
};

/// So many keys that differ are columns beside results; more have a table of their own.
const KEYS_BESIDE: usize = 4;

/// The keys that are columns beside results, and those that are too many for that and stand elsewhere.
pub(crate) fn beside(different: &[Key]) -> (&[Key], &[Key]) {
    different.split_at(if different.len() > KEYS_BESIDE { 0 } else { different.len() })
}

/// The groups side by side: one table for one metric.
///
/// Its values on each of `splits` at the last epoch and the best of all epochs, and those of the final test where it is
/// another split. The caption says what a reader has to know about single runs.
#[must_use]
pub fn comparison_table(groups: &[Group], metric: &str, splits: &[Split]) -> TableBlock {
    let metric = self::metric(groups, metric);
    let name = &metric.name;
    // Letters are explained.
    let different = if are_letters(groups) { keys(groups).different } else { Vec::new() };
    let (beside, below) = beside(&different);
    let mut columns = Columns::new(groups, beside);
    for &split in splits {
        let value = |run: &Run| run.last(|epoch| measured(epoch, name, split));
        columns.metric(&format!("{split} {name}, last epoch"), &metric, value);
        columns
            .metric(&format!("{split} {name}, best of all epochs"), &metric, |run| best_of_epochs(run, &metric, split));
    }
    if !splits.contains(&Split::Test) {
        columns.metric(&format!("test {name}"), &metric, |run| tested(run, name));
    }
    let mut caption = "Mean ± standard deviation over a configuration's runs.".to_owned();
    for (index, group) in groups.iter().enumerate() {
        let keys = Some(listed(below, index)).filter(|keys| !keys.is_empty());
        let notes: Vec<String> = keys.into_iter().chain(remarks(group)).collect();
        if !notes.is_empty() {
            caption.extend([" ", &group.label, ": ", &notes.join("; "), "."]);
        }
    }
    columns.table(&caption)
}

/// The results of the groups, a row for each, with the values that they have of the keys in `different`.
pub(crate) fn summary_table(groups: &[Group], different: &[Key]) -> TableBlock {
    let mut columns = Columns::new(groups, different);
    columns.text("parameters", |group| each(group, |record| Some(record.parameters)));
    columns.text("epochs", |group| {
        let planned = group.runs.first().and_then(|run| key(&run.record, "training.epochs"));
        let epochs = each(group, |record| Some(record.epochs.len()));
        planned.map_or_else(|| epochs.clone(), |planned| format!("{epochs} of {planned}"))
    });
    columns.text("best epoch", |group| each(group, |record| record.best_epoch));
    let is_tested = groups.iter().flat_map(|group| &group.runs).any(|run| run.record.test.is_some());
    let evaluated = evaluated_splits(groups);
    for metric in &metrics(groups) {
        let name = &metric.name;
        for &split in evaluated.iter().filter(|&&split| split == Split::Valid || !is_tested) {
            columns.metric(&format!("{split} {name}"), metric, |run| at_best(run, name, split));
        }
        columns.metric(&format!("test {name}"), metric, |run| tested(run, name));
    }
    let mut runs = groups.iter().flat_map(|group| &group.runs).map(|run| samples(&run.record));
    let all_images = runs.all(|samples| samples == "images");
    columns.text(if all_images { "images/s" } else { "samples/s" }, |group| {
        group.sample(|run| run.record.samples_per_second).map_or_else(|| NONE.to_owned(), throughput)
    });
    columns.text("time per run", |group| {
        group.sample(|run| Some(run.record.seconds)).map_or_else(|| NONE.to_owned(), |time| duration(time.mean))
    });
    let valid = if evaluated.contains(&Split::Valid) { " Valid metrics are those of the best epoch." } else { "" };
    let common = columns.common(&["runs", "parameters", "epochs", "best epoch"]);
    let common = common.map_or_else(String::new, |common| format!(" {common}"));
    columns.table(&format!(
        "Mean ± standard deviation over a configuration's runs.{valid} Test metrics are those of the reported \
         weights: the best epoch's, or the last where the protocol is `assignment`. Throughput is that of training \
         steps, times are whole runs with evaluation and checkpoints.{common}"
    ))
}

/// What a reader has to know about the group's metrics: data that is not whole or not real, runs that ended early.
pub(crate) fn remarks(group: &Group) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(first) = group.runs.first() {
        if marks(first).contains(&"synthetic") {
            remarks.push("synthetic data".to_owned());
        }
        let limit = key(&first.record, "training.limit_batches");
        remarks.extend(limit.map(|limit| format!("limited to {limit} batches of each split")));
    }
    for run in &group.runs {
        let whose = if group.runs.len() > 1 { run.repetition() + " " } else { String::new() };
        remarks.extend(ending(run).map(|ending| format!("{whose}{ending}")));
    }
    remarks
}

/// How a run ended, unless it went through all its epochs or stopped early.
fn ending(run: &Run) -> Option<String> {
    let record = &run.record;
    let epochs = record.epochs.len();
    match run.status {
        RunStatus::Finished => None,
        RunStatus::Imported => Some(
            record
                .initial_weights
                .as_ref()
                .map_or_else(|| "imported".to_owned(), |weights| format!("imported from {}", weights.source)),
        ),
        RunStatus::Interrupted => {
            // Where it was not its user, the record says what it was.
            let why = record.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            Some(format!("interrupted after {epochs} epoch{}{why}", if epochs == 1 { "" } else { "s" }))
        }
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

fn tested(run: &Run, metric: &str) -> Option<f64> {
    run.record.test.as_ref()?.get(metric)
}

/// The metric at the run's best epoch.
pub(crate) fn at_best(run: &Run, metric: &str, split: Split) -> Option<f64> {
    let best = run.record.epochs.iter().find(|epoch| Some(epoch.epoch) == run.record.best_epoch);
    measured(best?, metric, split)
}

/// The best value of all epochs.
fn best_of_epochs(run: &Run, metric: &MetricRecord, split: Split) -> Option<f64> {
    let values = run.record.epochs.iter().filter_map(|epoch| measured(epoch, &metric.name, split));
    values.filter(|value| !value.is_nan()).reduce(if metric.higher_is_better { f64::max } else { f64::min })
}

fn throughput(sample: Sample) -> String {
    // Whole numbers of samples, well below 2^53.
    let whole = |throughput: f64| grouped(throughput.round() as usize);
    match sample.std {
        Some(std) => format!("{} ± {}", whole(sample.mean), whole(std)),
        None => whole(sample.mean),
    }
}

/// The runs' counts: one where they agree, else from the smallest to the largest.
fn each(group: &Group, count: impl Fn(&RunRecord) -> Option<usize>) -> String {
    let mut counts: Vec<usize> = group.runs.iter().filter_map(|run| count(&run.record)).collect();
    counts.sort_unstable();
    match (counts.first(), counts.last()) {
        (Some(first), Some(last)) if first == last => grouped(*first),
        (Some(first), Some(last)) => format!("{} to {}", grouped(*first), grouped(*last)),
        _ => NONE.to_owned(),
    }
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
            "config": { "training": { "seed": 2 } },
            "test": null,
            "epochs": [],
            "best_epoch": null,
            "diverged": { "step": 7, "layer": "fc1", "quantity": "weight" },
        });
        let limited = json!({
            "config": { "training": { "limit_batches": 5 }, "data": { "name": "synthetic" } },
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
    fn a_summary_has_a_row_for_each_configuration_and_remarks_say_what_is_amiss() {
        let place = tempfile::tempdir().unwrap();
        let groups = groups(place.path());
        let table = summary_table(&groups, &[]);
        let header =
            ["configuration", "runs", "epochs", "test loss (nats)", "test accuracy", "images/s", "time per run"];
        assert_eq!((table.header.as_slice(), table.rows.len()), (&header.map(str::to_owned)[..], 2));
        assert!(table.rows.iter().all(|row| row.len() == header.len()));
        assert_eq!(table.rows[0][1..4], ["2 (1 diverged)", "0 to 3 of 3", "0.5000 (n = 1)"]);
        assert!(table.caption.contains("The same for all: parameters 669,706, best epoch 1."), "{}", table.caption);
        assert_eq!(table.rows[1][0], "B (synthetic, limited)");
        assert_eq!(remarks(&groups[0]), ["seed 2 diverged at step 7 (weight in fc1)"]);
        // Nobody holds the run's lock.
        let expected = ["synthetic data", "limited to 5 batches of each split", "interrupted after 1 epoch"];
        assert_eq!(remarks(&groups[1]), expected);
    }

    #[test]
    fn a_comparison_has_the_last_epoch_and_the_best_and_marks_the_best_of_all() {
        let place = tempfile::tempdir().unwrap();
        let groups = groups(place.path());
        let loss = comparison_table(&groups, "loss", &[Split::Test]);
        // The labels are letters, which the keys explain.
        assert_eq!(loss.header[..4], ["configuration", "`data.name`", "`training.limit_batches`", "runs"]);
        assert_eq!(loss.header[4..], ["test loss, last epoch (nats)", "test loss, best of all epochs (nats)"]);
        assert_eq!(loss.rows[0][1..3], ["fashion-mnist", "none"]);
        assert_eq!(loss.rows[0][4..6], ["0.7500 (n = 1)", "0.2500 (n = 1) *"]);
        assert!(loss.caption.contains(": seed 2 diverged at step 7 (weight in fc1)."), "{}", loss.caption);
        let train = comparison_table(&groups, "accuracy", &[Split::Train]);
        assert_eq!(train.header[6], "test accuracy");
        assert_eq!(train.rows[0][4..7], ["80.00 % (n = 1)", "80.00 % (n = 1)", "75.00 % (n = 1)"]);
    }

    #[test]
    fn metrics_of_a_task_of_its_own_are_shown_as_they_are_and_a_run_without_test_has_none() {
        let place = tempfile::tempdir().unwrap();
        let metrics = json!([
            { "name": "loss", "higher_is_better": false, "unit": null },
            { "name": "psnr", "higher_is_better": true, "unit": "dB" },
        ]);
        let epochs = |psnr: f64| {
            let values =
                json!({ "train/loss": 2e-5, "train/psnr": psnr, "valid/loss": 3e-5, "valid/psnr": psnr + 0.5 });
            let mut epoch = epoch(1, 0.5, 10.0);
            epoch["metrics"] = json!(null);
            epoch["metrics"] = values;
            epoch
        };
        let of = |id: &str, psnr: f64, width: usize| {
            let mut run = run(
                place.path(),
                id,
                json!({
                    "model": "autoencoder", "metrics": metrics, "monitor": "valid/psnr", "test": null,
                    "config": { "width": width }, "epochs": [epochs(psnr)],
                }),
            );
            run.record.dataset.images = None;
            run
        };
        let groups = group(vec![of("small", 20.0, 8), of("large", 30.0, 64)]);
        assert_eq!(groups[0].label, "width 8");
        let table = summary_table(&groups, &[]);
        assert_eq!(table.header[1..4], ["valid loss", "valid psnr (dB)", "samples/s"]);
        assert_eq!(table.rows[1][1..3], ["3.000e-5", "30.5000 *"]);
    }
}
