//! Groups of runs in a table for a terminal, and as JSON.

use kindling_record::{MetricRecord, StepRecord};
use serde_json::{Map, Value, json};

use crate::{
    curves::Split,
    differences::{Key, keys, listed},
    document::BEST,
    groups::{has_folds, repeats, runs_text},
    metrics::{best, metrics, sample_text},
    plot::{Axis, LineChart, Point, Series, Style},
    run::{Group, Run},
    run_report::{at_best, with_count},
    statistics::Sample,
    table::{duration, table},
};

/// The groups, one a row, with their test metrics as mean ± standard deviation over their runs, and where runs are folds
/// of a cross-validation with the validation metrics at the best epoch; below it what tells them apart, and the runs of
/// each. Folded to fit `width` columns if given.
#[must_use]
pub fn groups_table(groups: &[Group], width: Option<u16>) -> String {
    let mut columns: Vec<(Split, MetricRecord)> = Vec::new();
    if has_folds(groups) {
        columns.extend(metrics(groups).into_iter().map(|metric| (Split::Valid, metric)));
    }
    columns.extend(tested_metrics(groups).into_iter().map(|metric| (Split::Test, metric)));
    let mut header = vec!["configuration".to_owned(), "runs".to_owned()];
    header.extend(columns.iter().map(|(split, metric)| format!("{split} {}", metric.name)));
    header.extend(["best epoch", "time"].map(str::to_owned));
    let right: Vec<usize> = (1..header.len()).collect();
    let mut rows: Vec<Vec<String>> = groups.iter().map(|group| vec![group.label.clone(), runs_text(group)]).collect();
    for (split, metric) in &columns {
        let sample = |group: &Group| match split {
            Split::Test => tested(group, metric),
            _ => validated(group, metric),
        };
        let samples: Vec<Option<Sample>> = groups.iter().map(sample).collect();
        let best = best(metric, &samples);
        for (index, (row, sample)) in rows.iter_mut().zip(&samples).enumerate() {
            let mark = if best.contains(&index) { BEST } else { "" };
            row.push(sample.as_ref().map_or_else(String::new, |sample| {
                with_count(sample_text(metric, sample), sample.n, groups[index].runs.len()) + mark
            }));
        }
    }
    for (row, group) in rows.iter_mut().zip(groups) {
        let best = group.sample(|run| run.record.best_epoch.map(|epoch| epoch as f64));
        row.push(best.map_or_else(String::new, |best| match best.std {
            Some(std) => format!("{:.1} ± {std:.1}", best.mean),
            None => format!("{:.0}", best.mean),
        }));
        row.push(group.sample(|run| Some(run.record.seconds)).map_or_else(String::new, |time| duration(time.mean)));
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let table = table(&header, &right, width, rows);
    let different = keys(groups).different;
    let places = groups.iter().enumerate().map(|(index, group)| {
        // The only key that differs may be the label already.
        let is_label = |key: &Key| key.values[index].as_ref().is_some_and(|value| group.label.ends_with(value));
        let is_told = matches!(&different[..], [key] if is_label(key));
        let differences = if is_told { String::new() } else { listed(&different, index) };
        let title = [group.label.clone(), differences].join(", ");
        let title = title.trim_end_matches(", ");
        let runs: Vec<String> = group.runs.iter().map(|run| format!("  {}", run.directory.path().display())).collect();
        format!("{title}:\n{}", runs.join("\n"))
    });
    let places: Vec<String> = places.chain(repeats(groups)).collect();
    let limited = groups.iter().any(|group| group.runs.iter().any(Run::is_limited));
    let warning = if limited { "\nlimited to a few batches: these metrics are of a part of the data\n" } else { "" };
    let best = if groups.len() > 1 { "* best mean\n" } else { "" };
    format!("{table}\n{best}{warning}\n{}", places.join("\n"))
}

/// The metrics that any of the runs was tested by.
fn tested_metrics(groups: &[Group]) -> Vec<MetricRecord> {
    let mut metrics = metrics(groups);
    metrics.retain(|metric| groups.iter().any(|group| tested(group, metric).is_some()));
    metrics
}

fn tested(group: &Group, metric: &MetricRecord) -> Option<Sample> {
    group.sample(|run| run.record.test.as_ref()?.get(&metric.name))
}

/// The metric on the validation split at each run's best epoch.
fn validated(group: &Group, metric: &MetricRecord) -> Option<Sample> {
    group.sample(|run| at_best(run, &metric.name, Split::Valid))
}

/// The same as JSON: for each group its label, what tells it apart, its test metrics, its validation metrics at
/// the best epochs, its runs, and further ones of their seeds.
#[must_use]
pub fn groups_json(groups: &[Group]) -> Value {
    let (all, metrics) = (metrics(groups), tested_metrics(groups));
    let run = |run: &Run| {
        let test: Option<Map<String, Value>> = run.record.test.as_ref().map(|test| {
            let finite = |metric: &MetricRecord| test.get(&metric.name).filter(|value| value.is_finite());
            metrics.iter().map(|metric| (metric.name.clone(), json!(finite(metric)))).collect()
        });
        json!({
            "id": run.record.id,
            "path": run.directory.path(),
            "status": run.status,
            "seed": run.seed(),
            "fold": run.fold(),
            "test": test,
            "best_epoch": run.record.best_epoch,
            "epochs": run.record.epochs.len(),
            "seconds": run.record.seconds,
        })
    };
    let different = keys(groups).different;
    let group = |(index, group): (usize, &Group)| {
        let samples = |of: fn(&Group, &MetricRecord) -> Option<Sample>| {
            let shown = |sample: Sample| json!({ "mean": sample.mean, "std": sample.std, "n": sample.n });
            let values = all.iter().filter_map(|metric| Some((metric.name.clone(), shown(of(group, metric)?))));
            values.collect::<Map<_, _>>()
        };
        let differences = different.iter().map(|key| (key.path.clone(), json!(key.values[index])));
        let [runs, repeats] = [&group.runs, &group.repeats].map(|runs| runs.iter().map(run).collect::<Vec<_>>());
        json!({
            "label": group.label,
            "differences": differences.collect::<Map<_, _>>(),
            "test": samples(tested),
            "valid": samples(validated),
            "runs": runs,
            "repeats": repeats,
        })
    };
    groups.iter().enumerate().map(group).collect()
}

/// The mean absolute gradient over the steps that have gradients: of all parameters, and of each layer's.
#[must_use]
pub fn gradient_chart(steps: &[StepRecord]) -> LineChart {
    let with_gradients = || steps.iter().filter_map(|step| Some((step.step as f64, step.gradient.as_ref()?)));
    let layers = with_gradients().next().map_or(0, |(_, gradient)| gradient.layers.len());
    let point = |x: f64, y: f64| Point { x, y, std: None };
    let all = Series {
        label: "all".to_owned(),
        points: with_gradients().map(|(x, gradient)| point(x, gradient.mean_abs)).collect(),
        color: 0,
        style: Style::Measured,
    };
    let layer = |index: usize| Series {
        label: with_gradients().next().map_or_else(String::new, |(_, gradient)| gradient.layers[index].layer.clone()),
        points: with_gradients()
            .filter_map(|(x, gradient)| Some(point(x, gradient.layers.get(index)?.mean_abs)))
            .collect(),
        color: index + 1,
        style: Style::Measured,
    };
    LineChart {
        x: Axis { label: "step".to_owned(), ..Axis::default() },
        y: Axis { label: "mean absolute gradient".to_owned(), logarithmic: true, range: None },
        series: std::iter::once(all).chain((0..layers).map(layer)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group,
        run_report::fixtures::{epoch, run},
    };

    #[test]
    fn a_copied_run_is_named_and_counts_once_in_the_table_and_in_json() {
        let place = tempfile::tempdir().unwrap();
        let runs = ["a", "copy"].map(|id| run(place.path(), id, json!({})));
        let groups = group(runs.to_vec());
        let shown = groups_table(&groups, None);
        assert!(shown.ends_with("Each seed counts once. Left out: copy (seed 1 beside a)."), "{shown}");
        let found = groups_json(&groups);
        assert_eq!((&found[0]["test"]["accuracy"]["n"], &found[0]["runs"][0]["id"]), (&json!(1), &json!("a")));
        assert_eq!(found[0]["repeats"][0]["id"], "copy");
    }

    #[test]
    fn a_cross_validation_shows_the_mean_of_its_folds_on_the_validation_and_the_test_split() {
        let place = tempfile::tempdir().unwrap();
        let of = |fold: usize, accuracy: f64| {
            let mut epoch = epoch(1, 0.5, 10.0);
            epoch["metrics"]["valid/accuracy"] = json!(accuracy);
            let config = json!({ "protocol": { "folds": 2, "fold": fold } });
            run(place.path(), &format!("mlp-fold-{fold}"), json!({ "config": config, "epochs": [epoch] }))
        };
        let groups = group(vec![of(1, 0.5), of(2, 0.75)]);
        let shown = groups_table(&groups, None);
        for wanted in ["n = 2 folds", "valid accuracy", "62.50 ± 17.68 %", "test accuracy"] {
            assert!(shown.contains(wanted), "{wanted} in {shown}");
        }
        let found = groups_json(&groups);
        assert_eq!((&found[0]["valid"]["accuracy"]["mean"], &found[0]["runs"][1]["fold"]), (&json!(0.625), &json!(2)));
    }
}
