//! Curves of groups of runs: over epochs, steps and seconds.

mod terms;

use std::collections::BTreeMap;

use kindling_record::{EpochRecord, RecordError, StepRecord, read_steps};
use serde_json::Value;

pub use self::terms::{Against, Quantity, Split};
use crate::{
    error::ReportError,
    groups::{Group, Run},
    plot::{Axis, LineChart, Point, Series, Style},
    run_report::marked_label,
    statistics::Sample,
};

/// From this ratio of the largest to the smallest on, losses stand on a logarithmic axis.
const WIDE: f64 = 50.0;

/// The curve of a group: mean and standard deviation over those of its runs that got so far.
///
/// A point for each epoch that any run has; for the training loss against steps, one for each step, from
/// `steps.jsonl`. Other figures against steps stand at the last step of their epoch; against seconds they stand at
/// the sum of the epochs' mean training seconds so far. Where a run left the finite numbers the curve breaks.
///
/// # Errors
/// When steps cannot be read or counted.
pub fn epoch_series(
    group: &Group,
    color: usize,
    quantity: Quantity,
    split: Split,
    against: Against,
) -> Result<Series, ReportError> {
    let points = match (quantity, split, against) {
        (Quantity::Loss, Split::Train, Against::Step) => {
            let steps: Vec<_> =
                group.runs.iter().map(|run| read_steps(&run.directory.steps())).collect::<Result<_, _>>()?;
            over_steps(&steps, |step| Some(step.loss))
        }
        _ => over_epochs(group, against, |epoch| figure(epoch, quantity, split))?,
    };
    Ok(Series { label: marked_label(group), points, color, style: Style::Measured })
}

/// The groups' curves over a common axis; `splits` without figures are left out.
///
/// # Errors
/// As [`epoch_series`].
pub fn chart(
    groups: &[Group],
    quantity: Quantity,
    splits: &[Split],
    against: Against,
) -> Result<LineChart, ReportError> {
    let mut series = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for (offset, &split) in splits.iter().enumerate() {
            let mut one = epoch_series(group, index * splits.len() + offset, quantity, split, against)?;
            if splits.len() > 1 {
                one.label = format!("{}, {}", one.label, described(quantity, split, against));
            }
            if !one.points.is_empty() {
                series.push(one);
            }
        }
    }
    let unit = quantity.unit();
    let label = match (splits, quantity, against) {
        ([Split::Train], Quantity::Loss, Against::Step) => format!("train loss of each batch ({unit})"),
        ([Split::Train], _, _) => format!("train {quantity}, mean over the epoch ({unit})"),
        ([split], _, _) => format!("{split} {quantity} ({unit})"),
        _ => format!("{quantity} ({unit})"),
    };
    let logarithmic = quantity == Quantity::Loss && is_wide(&series);
    Ok(LineChart {
        x: Axis { label: against.axis().to_owned(), ..Axis::default() },
        y: Axis { label, logarithmic, range: None },
        series,
    })
}

/// Those of valid and test that the groups have figures of after each epoch.
#[must_use]
pub fn evaluated_splits(groups: &[Group]) -> Vec<Split> {
    let has = |split| {
        let mut epochs = groups.iter().flat_map(|group| &group.runs).flat_map(|run| &run.record.epochs);
        epochs.any(|epoch| figure(epoch, Quantity::Loss, split).is_some())
    };
    [Split::Valid, Split::Test].into_iter().filter(|split| has(*split)).collect()
}

/// The figure of an epoch, if it was measured.
pub(crate) fn figure(epoch: &EpochRecord, quantity: Quantity, split: Split) -> Option<f64> {
    match (quantity, split) {
        (Quantity::Loss, Split::Train) => Some(epoch.train_loss),
        (Quantity::Loss, Split::Valid) => epoch.valid_loss,
        (Quantity::Loss, Split::Test) => epoch.test_loss,
        (Quantity::Accuracy, Split::Train) => Some(epoch.train_accuracy),
        (Quantity::Accuracy, Split::Valid) => epoch.valid_accuracy,
        (Quantity::Accuracy, Split::Test) => epoch.test_accuracy,
    }
}

/// Mean and deviation of what `figure` finds in the runs' steps, at each step.
pub(crate) fn over_steps(runs: &[Vec<StepRecord>], figure: impl Fn(&StepRecord) -> Option<f64>) -> Vec<Point> {
    let mut figures: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for step in runs.iter().flatten() {
        if let Some(found) = figure(step) {
            figures.entry(step.step).or_default().push(found);
        }
    }
    figures.into_iter().filter_map(|(step, figures)| point(step as f64, figures)).collect()
}

fn over_epochs(
    group: &Group,
    against: Against,
    figure: impl Fn(&EpochRecord) -> Option<f64>,
) -> Result<Vec<Point>, ReportError> {
    let mut epochs: BTreeMap<usize, Vec<(&Run, &EpochRecord)>> = BTreeMap::new();
    for run in &group.runs {
        for epoch in &run.record.epochs {
            epochs.entry(epoch.epoch).or_default().push((run, epoch));
        }
    }
    let mut seconds = 0.0;
    let mut points = Vec::new();
    for (number, there) in epochs {
        // Means of sums would go back where a slow run ends before a fast one.
        seconds += Sample::of(there.iter().map(|(_, epoch)| epoch.seconds)).map_or(0.0, |sample| sample.mean);
        let x = match against {
            Against::Epoch => number as f64,
            Against::Step => (number * steps_per_epoch(there[0].0)?) as f64,
            Against::Seconds => seconds,
        };
        points.extend(point(x, there.iter().filter_map(|(_, epoch)| figure(epoch))));
    }
    Ok(points)
}

/// Mean and deviation of `figures` at `x`; not a number where one of them is none.
fn point(x: f64, figures: impl IntoIterator<Item = f64>) -> Option<Point> {
    let sample = Sample::of(figures)?;
    let y = if sample.mean.is_finite() { sample.mean } else { f64::NAN };
    Some(Point { x, y, deviation: sample.deviation.filter(|deviation| deviation.is_finite()) })
}

fn steps_per_epoch(run: &Run) -> Result<usize, ReportError> {
    let batch_size = run.record.config.get("batch_size").and_then(Value::as_u64).filter(|&size| size > 0);
    batch_size.map(|size| run.record.dataset.train.div_ceil(size as usize)).ok_or_else(|| {
        ReportError::Record(RecordError::Malformed {
            path: run.directory.path().join("run.json"),
            message: "expected `batch_size` in the config to count steps by, found none; compare by epochs".to_owned(),
        })
    })
}

/// How a split's figure comes about, in a legend's words.
fn described(quantity: Quantity, split: Split, against: Against) -> &'static str {
    match (quantity, split, against) {
        (Quantity::Loss, Split::Train, Against::Step) => "train (each batch)",
        (_, Split::Train, _) => "train (mean over the epoch)",
        _ => split.as_str(),
    }
}

fn is_wide(series: &[Series]) -> bool {
    let points = series.iter().flat_map(|one| &one.points);
    let figures: Vec<f64> = points.map(|point| point.y).filter(|y| y.is_finite()).collect();
    let largest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    smallest > 0.0 && largest > WIDE * smallest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{epoch, run, steps},
    };

    /// Two runs that differ by their seed; the second ended after two of three epochs, and was half as fast.
    fn two_runs(place: &std::path::Path) -> Vec<Group> {
        let long = json!([epoch(1, 0.5, 10.0), epoch(2, 0.4, 10.0), epoch(3, 0.3, 10.0)]);
        let short = json!([epoch(1, 0.7, 20.0), epoch(2, 0.6, 20.0)]);
        let runs = vec![
            run(place, "mlp-1", json!({ "epochs": long })),
            run(place, "mlp-2", json!({ "epochs": short, "config": { "seed": 2 } })),
        ];
        let groups = group(runs);
        assert_eq!(groups.len(), 1);
        groups
    }

    fn close(points: &[Point], expected: &[(f64, f64, Option<f64>)]) {
        // Rounding of sums of a few numbers near 1.
        let is_near = |a: f64, b: f64| (a - b).abs() < 1e-12 * b.abs().max(1.0);
        assert_eq!(points.len(), expected.len(), "{points:?}");
        for (point, (x, y, deviation)) in points.iter().zip(expected) {
            let is_same = match (point.deviation, deviation) {
                (Some(found), Some(wanted)) => is_near(found, *wanted),
                (found, wanted) => found.is_none() && wanted.is_none(),
            };
            assert!(
                is_near(point.x, *x) && is_near(point.y, *y) && is_same,
                "{point:?}, expected {x} {y} {deviation:?}"
            );
        }
    }

    #[test]
    fn a_curve_is_mean_and_deviation_over_the_runs_that_got_so_far() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        let of = |against| epoch_series(&groups[0], 3, Quantity::Loss, Split::Test, against).unwrap();
        // statistics.stdev([0.5, 0.7]) in Python.
        let deviation = Some(0.141_421_356_237_309_5);
        let by_epoch = of(Against::Epoch);
        close(&by_epoch.points, &[(1.0, 0.6, deviation), (2.0, 0.5, deviation), (3.0, 0.3, None)]);
        assert_eq!((by_epoch.color, by_epoch.label.as_str()), (3, "mlp"));
        // 100 images in batches of 32 are 4 steps.
        close(&of(Against::Step).points, &[(4.0, 0.6, deviation), (8.0, 0.5, deviation), (12.0, 0.3, None)]);
        close(&of(Against::Seconds).points, &[(15.0, 0.6, deviation), (30.0, 0.5, deviation), (40.0, 0.3, None)]);
    }

    #[test]
    fn the_training_loss_of_steps_is_read_from_their_log() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        steps(&groups[0].runs[0], &[json!({ "loss": 2.0 }), json!({ "loss": 1.0 })]);
        steps(&groups[0].runs[1], &[json!({ "loss": 4.0 })]);
        let series = epoch_series(&groups[0], 0, Quantity::Loss, Split::Train, Against::Step).unwrap();
        close(&series.points, &[(1.0, 3.0, Some(std::f64::consts::SQRT_2)), (2.0, 1.0, None)]);
    }

    #[test]
    fn numbers_that_are_not_finite_break_the_curve() {
        let place = tempfile::tempdir().unwrap();
        let mut epochs = json!([epoch(1, 0.5, 10.0), epoch(2, 0.4, 10.0), epoch(3, 0.3, 10.0)]);
        epochs[1]["test_loss"] = json!("inf");
        let groups = group(vec![run(place.path(), "mlp-1", json!({ "epochs": epochs }))]);
        let series = epoch_series(&groups[0], 0, Quantity::Loss, Split::Test, Against::Epoch).unwrap();
        let finite: Vec<bool> = series.points.iter().map(|point| point.y.is_finite()).collect();
        assert_eq!(finite, [true, false, true]);
    }

    #[test]
    fn a_chart_names_quantities_units_and_splits_and_leaves_out_what_was_not_measured() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        assert_eq!(evaluated_splits(&groups), [Split::Test]);
        let one = chart(&groups, Quantity::Loss, &[Split::Test], Against::Seconds).unwrap();
        assert_eq!((one.x.label.as_str(), one.y.label.as_str()), ("training time (s)", "test loss (nats)"));
        let all = chart(&groups, Quantity::Accuracy, &Split::ALL, Against::Epoch).unwrap();
        let labels: Vec<&str> = all.series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(labels, ["mlp, train (mean over the epoch)", "mlp, test"]);
        assert_ne!(all.series[0].color, all.series[1].color);
        assert_eq!(all.y.label, "accuracy (fraction)");
    }

    #[test]
    fn synthetic_and_limited_runs_are_marked_in_the_legend() {
        let place = tempfile::tempdir().unwrap();
        let changes = json!({
            "epochs": [epoch(1, 0.5, 10.0)],
            "config": { "limit_batches": 3 },
            "dataset": { "name": "synthetic" },
        });
        let groups = group(vec![run(place.path(), "mlp-1", changes)]);
        let series = epoch_series(&groups[0], 0, Quantity::Loss, Split::Test, Against::Epoch).unwrap();
        assert_eq!(series.label, "mlp on synthetic (limited)");
    }
}
