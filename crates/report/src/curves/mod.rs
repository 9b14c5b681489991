//! Curves of groups of runs: over epochs, steps and seconds.

mod terms;

use std::collections::BTreeMap;

use kindling_record::{EpochRecord, RecordError, StepRecord, read_steps};

pub use self::terms::{Against, Split};
use crate::{
    error::ReportError,
    metrics::{is_fraction, metric, titled},
    plot::{Axis, LineChart, Point, Series, Style},
    ranking::prominent,
    run::{Group, Run},
    statistics::Sample,
};

/// From this ratio of the largest to the smallest on, losses stand on a logarithmic axis.
const WIDE: f64 = 50.0;

/// The curve of a group: mean and standard deviation over those of its runs that got that far.
///
/// A point for each epoch that any run has; for the training loss against steps, one for each step, from
/// `steps.jsonl`. Other metrics against steps stand at the last step of their epoch; against seconds they stand at
/// the sum of the epochs' mean training seconds so far. Where a run left the finite numbers the curve breaks.
///
/// # Errors
/// When steps cannot be read or counted.
pub fn epoch_series(
    group: &Group,
    color: usize,
    metric: &str,
    split: Split,
    against: Against,
) -> Result<Series, ReportError> {
    let points = match (metric, split, against) {
        ("loss", Split::Train, Against::Step) => {
            let steps: Vec<_> =
                group.runs.iter().map(|run| read_steps(&run.directory.steps())).collect::<Result<_, _>>()?;
            over_steps(&steps, |step| Some(step.loss))
        }
        _ => over_epochs(group, against, |epoch| measured(epoch, metric, split))?,
    };
    Ok(Series { label: group.marked_label(), points, color, style: Style::Measured })
}

/// The groups' curves over a common axis; `splits` without values are left out.
///
/// Of more than ten groups the eight that are best by the metric they monitor have colours and labels, and the others
/// are grey: nobody tells forty colours apart, and a table has the labels of all. All charts of the same groups show
/// the same ones.
///
/// # Errors
/// As [`epoch_series`].
pub fn chart(groups: &[Group], metric: &str, splits: &[Split], against: Against) -> Result<LineChart, ReportError> {
    let prominent = prominent(groups);
    let color = |index| prominent.iter().position(|&one| one == index);
    colored_chart(groups, &(0..groups.len()).map(color).collect::<Vec<_>>(), metric, splits, against)
}

/// The same with a colour for each group, which it keeps whatever stands beside it; those without one are grey. Of
/// several splits each has a colour of its own.
///
/// # Errors
/// As [`epoch_series`].
pub fn colored_chart(
    groups: &[Group],
    colors: &[Option<usize>],
    metric: &str,
    splits: &[Split],
    against: Against,
) -> Result<LineChart, ReportError> {
    let mut series = Vec::new();
    for (group, &color) in groups.iter().zip(colors) {
        for (offset, &split) in splits.iter().enumerate() {
            let color_of_split = color.unwrap_or(0) * splits.len() + offset;
            let mut one = epoch_series(group, color_of_split, metric, split, against)?;
            if splits.len() > 1 {
                let split = described(metric, split, against);
                one.label = if groups.len() > 1 { format!("{}, {split}", one.label) } else { split.to_owned() };
            }
            if color.is_none() {
                one.style = Style::Context;
            }
            if !one.points.is_empty() {
                series.push(one);
            }
        }
    }
    Ok(with_axes(series, groups, metric, splits, against))
}

/// The training loss of each batch over the steps: what [`chart`] reads from step logs, of points that were read already.
#[must_use]
pub fn step_chart(series: Vec<Series>, groups: &[Group]) -> LineChart {
    with_axes(series, groups, "loss", &[Split::Train], Against::Step)
}

fn with_axes(series: Vec<Series>, groups: &[Group], metric: &str, splits: &[Split], against: Against) -> LineChart {
    let known = self::metric(groups, metric);
    let name = match (splits, metric, against) {
        ([Split::Train], "loss", Against::Step) => "train loss of each batch".to_owned(),
        ([split], _, _) => format!("{split} {metric}"),
        _ => metric.to_owned(),
    };
    let label = if is_fraction(&known) { format!("{name} (fraction)") } else { titled(&name, &known) };
    let logarithmic = !known.higher_is_better && is_wide(&series);
    LineChart {
        x: Axis { label: against.axis().to_owned(), ..Axis::default() },
        y: Axis { label, logarithmic, range: None },
        series,
    }
}

/// Those of valid and test that the groups have metrics of after each epoch.
#[must_use]
pub fn evaluated_splits(groups: &[Group]) -> Vec<Split> {
    let has = |split: Split| {
        let mut epochs = groups.iter().flat_map(|group| &group.runs).flat_map(|run| &run.record.epochs);
        epochs.any(|epoch| epoch.splits().contains(&split.as_str()))
    };
    [Split::Valid, Split::Test].into_iter().filter(|split| has(*split)).collect()
}

/// The metric of an epoch, if it was measured.
pub(crate) fn measured(epoch: &EpochRecord, metric: &str, split: Split) -> Option<f64> {
    epoch.get(&format!("{split}/{metric}"))
}

/// Mean and standard deviation of what `value` finds in the runs' steps, at each step.
pub(crate) fn over_steps(runs: &[Vec<StepRecord>], value: impl Fn(&StepRecord) -> Option<f64>) -> Vec<Point> {
    let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for step in runs.iter().flatten() {
        if let Some(found) = value(step) {
            values.entry(step.step).or_default().push(found);
        }
    }
    values.into_iter().filter_map(|(step, values)| point(step as f64, values)).collect()
}

fn over_epochs(
    group: &Group,
    against: Against,
    value: impl Fn(&EpochRecord) -> Option<f64>,
) -> Result<Vec<Point>, ReportError> {
    let mut epochs: BTreeMap<usize, Vec<(&Run, &EpochRecord)>> = BTreeMap::new();
    for run in &group.runs {
        for epoch in &run.record.epochs {
            epochs.entry(epoch.epoch).or_default().push((run, epoch));
        }
    }
    let longest = group.runs.iter().max_by_key(|run| run.record.epochs.len());
    let ends = match (against, longest) {
        (Against::Step, Some(run)) => last_steps(run)?,
        _ => BTreeMap::new(),
    };
    let mut seconds = 0.0;
    let mut points = Vec::new();
    for (number, there) in epochs {
        // Means of sums would go back where a slow run ends before a fast one.
        seconds += Sample::of(there.iter().map(|(_, epoch)| epoch.seconds)).map_or(0.0, |sample| sample.mean);
        let x = match against {
            Against::Epoch => number as f64,
            Against::Step => *ends.get(&number).ok_or_else(|| no_steps(there[0].0, number))? as f64,
            Against::Seconds => seconds,
        };
        points.extend(point(x, there.iter().filter_map(|(_, epoch)| value(epoch))));
    }
    Ok(points)
}

/// Mean and standard deviation of `values` at `x`; not a number where one of them is none.
fn point(x: f64, values: impl IntoIterator<Item = f64>) -> Option<Point> {
    let sample = Sample::of(values)?;
    let y = if sample.mean.is_finite() { sample.mean } else { f64::NAN };
    Some(Point { x, y, std: sample.std.filter(|std| std.is_finite()) })
}

/// The last step of each epoch, from the run's step log.
fn last_steps(run: &Run) -> Result<BTreeMap<usize, usize>, ReportError> {
    Ok(read_steps(&run.directory.steps())?.into_iter().map(|step| (step.epoch, step.step)).collect())
}

fn no_steps(run: &Run, epoch: usize) -> ReportError {
    ReportError::Record(RecordError::Malformed {
        path: run.directory.steps(),
        message: format!("expected the steps of epoch {epoch}, found none; compare by epochs"),
    })
}

/// How a split's metric comes about, in a legend's words.
fn described(metric: &str, split: Split, against: Against) -> &'static str {
    match (metric, split, against) {
        ("loss", Split::Train, Against::Step) => "train (each batch)",
        _ => split.as_str(),
    }
}

fn is_wide(series: &[Series]) -> bool {
    let points = series.iter().flat_map(|one| &one.points);
    let values: Vec<f64> = points.map(|point| point.y).filter(|y| y.is_finite()).collect();
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
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
            run(place, "mlp-2", json!({ "epochs": short, "config": { "training": { "seed": 2 } } })),
        ];
        let groups = group(runs);
        assert_eq!(groups.len(), 1);
        groups
    }

    fn close(points: &[Point], expected: &[(f64, f64, Option<f64>)]) {
        // Rounding of sums of a few numbers near 1.
        let is_near = |a: f64, b: f64| (a - b).abs() < 1e-12 * b.abs().max(1.0);
        assert_eq!(points.len(), expected.len(), "{points:?}");
        for (point, (x, y, std)) in points.iter().zip(expected) {
            let is_same = match (point.std, std) {
                (Some(found), Some(wanted)) => is_near(found, *wanted),
                (found, wanted) => found.is_none() && wanted.is_none(),
            };
            assert!(is_near(point.x, *x) && is_near(point.y, *y) && is_same, "{point:?}, expected {x} {y} {std:?}");
        }
    }

    #[test]
    fn a_curve_is_mean_and_standard_deviation_over_the_runs_that_got_so_far() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        let of = |against| epoch_series(&groups[0], 3, "loss", Split::Test, against).unwrap();
        // statistics.stdev([0.5, 0.7]) in Python.
        let std = Some(0.141_421_356_237_309_5);
        let by_epoch = of(Against::Epoch);
        close(&by_epoch.points, &[(1.0, 0.6, std), (2.0, 0.5, std), (3.0, 0.3, None)]);
        assert_eq!((by_epoch.color, by_epoch.label.as_str()), (3, "mlp"));
        let of_epochs = |epochs: &[usize]| epochs.iter().map(|epoch| json!({ "epoch": epoch })).collect::<Vec<_>>();
        steps(&groups[0].runs[0], &of_epochs(&[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]));
        steps(&groups[0].runs[1], &of_epochs(&[1, 1, 1, 1, 2, 2, 2, 2]));
        close(&of(Against::Step).points, &[(4.0, 0.6, std), (8.0, 0.5, std), (12.0, 0.3, None)]);
        close(&of(Against::Seconds).points, &[(15.0, 0.6, std), (30.0, 0.5, std), (40.0, 0.3, None)]);
    }

    #[test]
    fn the_training_loss_of_steps_is_read_from_their_log() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        steps(&groups[0].runs[0], &[json!({ "loss": 2.0 }), json!({ "loss": 1.0 })]);
        steps(&groups[0].runs[1], &[json!({ "loss": 4.0 })]);
        let series = epoch_series(&groups[0], 0, "loss", Split::Train, Against::Step).unwrap();
        close(&series.points, &[(1.0, 3.0, Some(std::f64::consts::SQRT_2)), (2.0, 1.0, None)]);
    }

    #[test]
    fn numbers_that_are_not_finite_break_the_curve() {
        let place = tempfile::tempdir().unwrap();
        let mut epochs = json!([epoch(1, 0.5, 10.0), epoch(2, 0.4, 10.0), epoch(3, 0.3, 10.0)]);
        epochs[1]["metrics"]["test/loss"] = json!("inf");
        let groups = group(vec![run(place.path(), "mlp-1", json!({ "epochs": epochs }))]);
        let series = epoch_series(&groups[0], 0, "loss", Split::Test, Against::Epoch).unwrap();
        let finite: Vec<bool> = series.points.iter().map(|point| point.y.is_finite()).collect();
        assert_eq!(finite, [true, false, true]);
    }

    #[test]
    fn a_chart_names_metrics_units_and_splits_and_leaves_out_what_was_not_measured() {
        let place = tempfile::tempdir().unwrap();
        let groups = two_runs(place.path());
        assert_eq!(evaluated_splits(&groups), [Split::Test]);
        let one = chart(&groups, "loss", &[Split::Test], Against::Seconds).unwrap();
        assert_eq!((one.x.label.as_str(), one.y.label.as_str()), ("training time (s)", "test loss (nats)"));
        let all = chart(&groups, "accuracy", &Split::ALL, Against::Epoch).unwrap();
        let labels: Vec<&str> = all.series.iter().map(|series| series.label.as_str()).collect();
        assert_eq!(labels, ["train", "test"]);
        assert_ne!(all.series[0].color, all.series[1].color);
        assert_eq!(all.y.label, "accuracy (fraction)");
        assert!(chart(&groups, "perplexity", &Split::ALL, Against::Epoch).unwrap().series.is_empty());
    }

    #[test]
    fn synthetic_and_limited_runs_are_marked_in_the_legend() {
        let place = tempfile::tempdir().unwrap();
        let changes = json!({
            "epochs": [epoch(1, 0.5, 10.0)],
            "config": { "training": { "limit_batches": 3 } },
            "dataset": { "name": "synthetic" },
        });
        let groups = group(vec![run(place.path(), "mlp-1", changes)]);
        let series = epoch_series(&groups[0], 0, "loss", Split::Test, Against::Epoch).unwrap();
        assert_eq!(series.label, "mlp (synthetic, limited)");
    }
}
