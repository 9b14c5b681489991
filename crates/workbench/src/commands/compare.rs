use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use kindling_record::RunDirectory;
use kindling_report::{
    Against, Group, Point, Run, Split, chart, comparison_table, epoch_series, evaluated_splits, group, metrics, table,
};
use serde_json::{Value, json};

use crate::{
    Workbench,
    arguments::RunsDirectory,
    figure,
    outcome::{Misuse, Outcome},
    output::{notice, print},
    terminal,
};

/// Arguments of `compare`.
#[derive(Args)]
pub(crate) struct CompareArguments {
    /// The runs: ids, prefixes that no other run has, or paths; those that differ by their seed alone are taken
    /// together
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// The metric to compare, such as accuracy [default: all in tables, the loss as curves]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// On which split; train is the mean over an epoch in which the weights change [default: valid or test, whichever
    /// the runs have after each epoch]
    #[arg(long = "split", value_name = "LIST", value_delimiter = ',', value_parser = named(Split::ALL, Split::as_str))]
    splits: Vec<Split>,
    /// The x axis; seconds are those of training steps
    #[arg(long, default_value = "epoch", value_parser = named(Against::ALL, Against::as_str))]
    against: Against,
    /// Write the curves to FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print JSON with the curves' points instead of tables
    #[arg(long)]
    json: bool,
}

/// The command `compare`.
pub(crate) fn compare(_: &Workbench, arguments: &CompareArguments) -> Result<Outcome> {
    if let Some(path) = &arguments.output {
        figure::check(path)?;
    }
    let groups = group(read_runs(&arguments.runs_dir.path, &arguments.runs)?);
    let splits = splits(&arguments.splits, &groups)?;
    let metrics = names_of_metrics(arguments.metric.as_deref(), &groups)?;
    if let Some(path) = arguments.output.as_ref().filter(|_| splits.is_empty()) {
        bail!(Misuse(format!("--output {}: these runs were imported and have no curves", path.display())));
    }
    let curves = chart(&groups, metrics.first().map_or("loss", String::as_str), &splits, arguments.against)?;
    let outcome = arguments.output.as_ref().map_or(Outcome::Done, |path| figure::keep(&curves, path));
    if arguments.json {
        let described = groups.iter().map(|group| group_json(group, &metrics, &splits, arguments.against));
        print(serde_json::to_string_pretty(&described.collect::<Result<Vec<_>>>()?)?);
        return Ok(outcome);
    }
    let width = terminal::width();
    for metric in &metrics {
        let block = comparison_table(&groups, metric, &splits);
        let header: Vec<&str> = block.header.iter().map(String::as_str).collect();
        print(table(&header, &block.right, width, block.rows));
        print(block.caption + "\n");
    }
    if let Some(width) = width.filter(|_| !curves.series.is_empty()) {
        print(figure::terminal(&curves, width));
    }
    Ok(outcome)
}

/// Reads the runs that `wanted` names; one that is named twice is read once.
pub(crate) fn read_runs(runs_dir: &Path, wanted: &[String]) -> Result<Vec<Run>> {
    let mut places = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    for name in wanted {
        let directory = RunDirectory::find(runs_dir, name)?;
        let place = fs::canonicalize(directory.path())
            .with_context(|| format!("{} cannot be found again", directory.path().display()))?;
        if let Some(index) = places.iter().position(|known| *known == place) {
            notice(format_args!("{name} is the run {} again, which counts once", runs[index].record.id));
            continue;
        }
        places.push(place);
        runs.push(Run::read(directory)?);
    }
    Ok(runs)
}

/// The metrics to compare: the one `wanted`, or all that the runs have, the loss first.
fn names_of_metrics(wanted: Option<&str>, groups: &[Group]) -> Result<Vec<String>> {
    let there: Vec<String> = metrics(groups).into_iter().map(|metric| metric.name).collect();
    match wanted {
        None => Ok(there),
        Some(wanted) if there.iter().any(|name| name == wanted) => Ok(vec![wanted.to_owned()]),
        Some(wanted) => {
            bail!(Misuse(format!("--metric: none of these runs has `{wanted}`; they have {}", there.join(", "))))
        }
    }
}

/// The splits to compare: those `wanted`, or where none are, those evaluated after each epoch.
fn splits(wanted: &[Split], groups: &[Group]) -> Result<Vec<Split>> {
    let records = || groups.iter().flat_map(|group| &group.runs).map(|run| &run.record);
    if records().all(|record| record.epochs.is_empty()) {
        // Runs that were imported have no epochs, and a test once they were evaluated.
        if records().any(|record| record.test.is_some()) && wanted.is_empty() {
            return Ok(Vec::new());
        }
        bail!(
            "expected runs to compare epoch by epoch, found none that has finished its first one; one that was imported is \
             compared once it is evaluated"
        );
    }
    let there = evaluated_splits(groups);
    if wanted.is_empty() {
        return Ok(if there.is_empty() { vec![Split::Train] } else { there });
    }
    let mut splits = Vec::new();
    for &split in wanted {
        if split != Split::Train && !there.contains(&split) {
            let there: Vec<&str> = there.iter().map(|split| split.as_str()).collect();
            bail!(Misuse(format!(
                "--split {split}: none of these runs has {split} metrics after each epoch; they have train, {}",
                there.join(", ")
            )));
        }
        if !splits.contains(&split) {
            splits.push(split);
        }
    }
    Ok(splits)
}

fn group_json(group: &Group, metrics: &[String], splits: &[Split], against: Against) -> Result<Value> {
    let mut series = Vec::new();
    for metric in metrics {
        for &split in splits {
            let points = epoch_series(group, 0, metric, split, against)?.points;
            series.push(json!({
                "metric": metric,
                "split": split.as_str(),
                "against": against.as_str(),
                "points": points.iter().map(point_json).collect::<Vec<_>>(),
            }));
        }
    }
    let ids = |runs: &[Run]| runs.iter().map(|run| run.record.id.clone()).collect::<Vec<_>>();
    let (runs, repeats) = (ids(&group.runs), ids(&group.repeats));
    Ok(json!({ "label": group.label, "runs": runs, "n": runs.len(), "repeats": repeats, "series": series }))
}

/// A point with numbers as in records: those that are not finite are texts.
fn point_json(point: &Point) -> Value {
    let y = if point.y.is_finite() { json!(point.y) } else { json!(point.y.to_string()) };
    json!({ "x": point.x, "y": y, "std": point.std })
}

/// A parser for the names of `all`.
fn named<T, const N: usize>(all: [T; N], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.map(name))
        .try_map(move |text| all.into_iter().find(|&value| name(value) == text).ok_or("no such name"))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;
    use crate::fixtures;

    /// A run with the protocol `assignment` and these losses on the test images.
    fn run(runs_dir: &Path, id: &str, seed: u64, losses: &[Value]) {
        let epochs: Vec<Value> = losses
            .iter()
            .enumerate()
            .map(|(index, loss)| {
                json!({
                    "epoch": index + 1, "metrics": {
                        "train/loss": 1.0, "train/accuracy": 0.5, "test/loss": loss, "test/accuracy": 0.5,
                    },
                    "learning_rate": 0.1, "seconds": 2.0, "samples_per_second": 50.0, "evaluation_seconds": 1.0,
                })
            })
            .collect();
        let config = fixtures::config("mlp", seed);
        fixtures::run(runs_dir, id, &json!({ "config": config, "epochs": epochs }));
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_run_that_is_named_twice_counts_once() {
        let runs_dir = tempfile::tempdir().unwrap();
        run(runs_dir.path(), "mlp-1", 1, &[json!(0.5)]);
        let path = runs_dir.path().join("mlp-1");
        let wanted = names(&["mlp", "mlp-1", path.to_str().unwrap()]);
        assert_eq!(read_runs(runs_dir.path(), &wanted).unwrap().len(), 1);
        assert!(read_runs(runs_dir.path(), &names(&["cnn"])).is_err());
    }

    #[test]
    fn json_has_the_runs_and_the_points_of_every_curve() {
        let runs_dir = tempfile::tempdir().unwrap();
        run(runs_dir.path(), "mlp-1", 1, &[json!("NaN"), json!(0.5)]);
        run(runs_dir.path(), "mlp-2", 2, &[json!(0.75), json!(0.5)]);
        let groups = group(read_runs(runs_dir.path(), &names(&["mlp-1", "mlp-2"])).unwrap());
        let found = group_json(&groups[0], &names(&["loss"]), &[Split::Test], Against::Seconds).unwrap();
        let points = json!([
            { "x": 2.0, "y": "NaN", "std": null },
            { "x": 4.0, "y": 0.5, "std": 0.0 },
        ]);
        let series = json!([{ "metric": "loss", "split": "test", "against": "seconds", "points": points }]);
        let runs = ["mlp-1", "mlp-2"];
        assert_eq!(found, json!({ "label": "mlp", "runs": runs, "n": 2, "repeats": [], "series": series }));
    }

    #[test]
    fn a_run_of_a_seed_that_is_there_is_a_repeat_and_moves_no_curve() {
        let runs_dir = tempfile::tempdir().unwrap();
        run(runs_dir.path(), "mlp-1", 7, &[json!(0.5)]);
        run(runs_dir.path(), "mlp-2", 7, &[json!(0.75)]);
        let groups = group(read_runs(runs_dir.path(), &names(&["mlp-2", "mlp-1"])).unwrap());
        let found = group_json(&groups[0], &names(&["loss"]), &[Split::Test], Against::Epoch).unwrap();
        assert_eq!((&found["runs"], &found["n"], &found["repeats"]), (&json!(["mlp-1"]), &json!(1), &json!(["mlp-2"])));
        assert_eq!(found["series"][0]["points"], json!([{ "x": 1.0, "y": 0.5, "std": null }]));
    }

    #[test]
    fn splits_default_to_what_was_evaluated_and_others_are_misuse() {
        let runs_dir = tempfile::tempdir().unwrap();
        run(runs_dir.path(), "mlp-1", 1, &[json!(0.5)]);
        run(runs_dir.path(), "cnn-1", 1, &[]);
        let groups = |name| group(read_runs(runs_dir.path(), &names(&[name])).unwrap());
        assert_eq!(splits(&[], &groups("mlp-1")).unwrap(), [Split::Test]);
        let twice = [Split::Train, Split::Test, Split::Train];
        assert_eq!(splits(&twice, &groups("mlp-1")).unwrap(), [Split::Train, Split::Test]);
        let refused = splits(&[Split::Valid], &groups("mlp-1")).unwrap_err();
        assert!(refused.is::<Misuse>() && refused.to_string().ends_with("they have train, test"), "{refused}");
        assert!(splits(&[], &groups("cnn-1")).unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn arguments_take_lists_of_splits_and_refuse_unknown_ones() {
        let parse = |arguments: &[&str]| -> Result<CompareArguments, clap::Error> {
            let command = CompareArguments::augment_args(Command::new("compare").no_binary_name(true));
            let matches = command.try_get_matches_from(arguments.iter().copied())?;
            <CompareArguments as clap::FromArgMatches>::from_arg_matches(&matches)
        };
        let arguments = parse(&["mlp", "cnn", "--split", "train,test", "--against", "seconds"]).unwrap();
        assert_eq!((arguments.runs.len(), arguments.against), (2, Against::Seconds));
        assert_eq!((arguments.splits, arguments.metric), (vec![Split::Train, Split::Test], None));
        for wrong in [&["mlp", "--split", "all"][..], &["mlp", "--against", "hours"], &[]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
