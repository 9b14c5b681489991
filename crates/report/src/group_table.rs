//! Groups of runs in a table for a terminal, and as JSON.

use kindling_record::{StepRecord, TestRecord};
use serde_json::{Value, json};

use crate::{Axis, Group, LineChart, Point, Run, Series, Style, duration, groups::repeats, table};

/// The groups, one a row: what tells them apart, and their figures as mean ± standard deviation over their runs; below
/// it the runs of each. Folded to fit `width` columns if given.
#[must_use]
pub fn groups_table(groups: &[Group], width: Option<u16>) -> String {
    let header = ["runs", "test accuracy", "test loss", "best epoch", "time"];
    let rows = groups.iter().map(|group| {
        let ended = group.runs.iter().filter(|run| run.record.test.is_none()).map(|run| run.status.to_string());
        let ended: Vec<String> = ended.collect();
        let test = |figure: fn(&TestRecord) -> f64| {
            group.sample(|run| run.record.test.as_ref().map(figure)).map(|sample| (sample.percent(), sample.fixed(4)))
        };
        let accuracy = test(|test| test.accuracy).map(|(percent, _)| percent);
        let best = group.sample(|run| run.record.best_epoch.map(|epoch| epoch as f64));
        let time = group.sample(|run| Some(run.record.seconds));
        vec![
            group.label.clone(),
            accuracy.into_iter().chain((!ended.is_empty()).then(|| ended.join(", "))).collect::<Vec<_>>().join("; "),
            test(|test| test.loss).map_or_else(String::new, |(_, fixed)| fixed),
            best.map_or_else(String::new, |best| if best.n == 1 { format!("{:.0}", best.mean) } else { best.fixed(1) }),
            time.map_or_else(String::new, |time| duration(time.mean)),
        ]
    });
    let table = table(&header, &[1, 2, 3, 4], width, rows);
    let places = groups.iter().map(|group| {
        let runs: Vec<String> = group.runs.iter().map(|run| format!("  {}", run.directory.path().display())).collect();
        format!("{}:\n{}", group.label, runs.join("\n"))
    });
    let places: Vec<String> = places.chain(repeats(groups)).collect();
    let limited = groups.iter().any(|group| group.runs.iter().any(Run::is_limited));
    let warning = if limited { "\nlimited to a few batches: these figures are of a part of the data\n" } else { "" };
    format!("{table}\n{warning}\n{}", places.join("\n"))
}

/// The same as JSON: for each group its label, its runs, and further ones of their seeds, each with its figures.
#[must_use]
pub fn groups_json(groups: &[Group]) -> Value {
    let run = |run: &Run| {
        json!({
            "id": run.record.id,
            "path": run.directory.path(),
            "status": run.status,
            "seed": run.record.config.get("seed"),
            "test_accuracy": run.record.test.as_ref().map(|test| test.accuracy),
            "test_loss": run.record.test.as_ref().map(|test| test.loss).filter(|loss| loss.is_finite()),
            "best_epoch": run.record.best_epoch,
            "epochs": run.record.epochs.len(),
            "seconds": run.record.seconds,
        })
    };
    let accuracy = |group: &Group| {
        let sample = group.sample(|run| run.record.test.as_ref().map(|test| test.accuracy));
        sample.map(|sample| json!({ "mean": sample.mean, "deviation": sample.deviation, "n": sample.n }))
    };
    let group = |group: &Group| {
        let [runs, repeats] = [&group.runs, &group.repeats].map(|runs| runs.iter().map(run).collect::<Vec<_>>());
        json!({ "label": group.label, "test_accuracy": accuracy(group), "runs": runs, "repeats": repeats })
    };
    groups.iter().map(group).collect()
}

/// The mean absolute gradient over the steps that have gradients: of all parameters, and of each layer's.
#[must_use]
pub fn gradient_chart(steps: &[StepRecord]) -> LineChart {
    let with_gradients = || steps.iter().filter_map(|step| Some((step.step as f64, step.gradient.as_ref()?)));
    let layers = with_gradients().next().map_or(0, |(_, gradient)| gradient.layers.len());
    let point = |x: f64, y: f64| Point { x, y, deviation: None };
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
    use crate::{group, run_report::fixtures::run};

    #[test]
    fn a_copied_run_is_named_and_counts_once_in_the_table_and_in_json() {
        let place = tempfile::tempdir().unwrap();
        let runs = ["a", "copy"].map(|id| run(place.path(), id, json!({})));
        let groups = group(runs.to_vec());
        let shown = groups_table(&groups, None);
        assert!(shown.contains("(n = 1)") && !shown.contains("n = 2"), "{shown}");
        assert!(shown.ends_with("Each seed counts once. Left out: copy (seed 1 beside a)."), "{shown}");
        let found = groups_json(&groups);
        assert_eq!((&found[0]["test_accuracy"]["n"], &found[0]["runs"][0]["id"]), (&json!(1), &json!("a")));
        assert_eq!(found[0]["repeats"][0]["id"], "copy");
    }
}
