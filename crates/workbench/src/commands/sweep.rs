use std::{collections::BTreeSet, ffi::OsStr, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use kindling_record::RunDirectory;
use kindling_report::{group, groups_json, groups_table};
use kindling_training::{Grid, Settings};
use serde_json::Value;

use crate::{
    arguments::{ConfigArguments, PlaceArguments},
    commands::{Misuse, Outcome},
    output::{notice, print},
    sweep::{Planned, Swept, request, sweep as run_all},
    terminal,
};

/// Arguments of `kindling sweep`.
#[derive(Args)]
pub(crate) struct SweepArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Read the grid from a JSON file: an object with a value, or a list of values to try, for each key of a config, and
    /// `seeds` for a number of seeds; or a list of such objects; flags override it
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Train with each of the seeds 1 to N
    #[arg(long, value_name = "N", conflicts_with = "seed", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How the runs' names begin [default: the model]
    #[arg(long)]
    name: Option<String>,
    /// Only list the runs that it would take
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: GridFlags,
}

/// The flags of `train` that make a config, each with a list of values.
struct GridFlags(Grid);

/// `kindling sweep`
pub(crate) fn sweep(arguments: &SweepArguments) -> Result<Outcome> {
    if !arguments.dry_run {
        // The program may start itself again here, and a grid from a pipe can be read only once.
        request(&arguments.place)?;
    }
    let mut flags = arguments.flags.0.clone();
    if let Some(count) = arguments.seeds {
        flags = flags.with_seeds(count);
    }
    let grids = match &arguments.grid {
        None => vec![flags],
        Some(path) => {
            let json = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let grids = Grid::from_json(json).with_context(|| path.display().to_string())?;
            grids.into_iter().map(|grid| flags.clone().or(grid)).collect()
        }
    };
    let (plan, repeated) = plan(&grids, arguments.name.as_deref())?;
    if repeated > 0 {
        let all = plan.len() + repeated;
        notice(format_args!("{repeated} of {all} combinations repeat others and are left out"));
    }
    if plan.is_empty() {
        bail!(Misuse("expected at least one run, found an empty list of grids".to_owned()));
    }
    if arguments.dry_run {
        for planned in &plan {
            print(&planned.name);
        }
        return Ok(Outcome::Done);
    }
    let swept = run_all(&plan, &arguments.place)?;
    let outcome = outcome_of(&swept);
    let groups = group(swept.runs.into_iter().flatten().collect());
    if arguments.json {
        print(serde_json::to_string_pretty(&groups_json(&groups))?);
    } else if !groups.is_empty() {
        print(groups_table(&groups, terminal::width()));
    }
    Ok(outcome)
}

/// Says what did not come to an end, and how the whole ended: a diverged run is a result, a failed one is not.
pub(crate) fn outcome_of(swept: &Swept) -> Outcome {
    for (name, error) in &swept.failures {
        notice(format_args!("{name} failed: {error}"));
    }
    if swept.interrupted {
        notice("interrupted; the same command resumes it");
        Outcome::Interrupted
    } else if swept.failures.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    }
}

/// The runs of all combinations, each config once and each with a name of its own; and how many came again.
fn plan(grids: &[Grid], name: Option<&str>) -> Result<(Vec<Planned>, usize)> {
    let (mut plan, mut repeated) = (Vec::<Planned>::new(), 0);
    let mut names = BTreeSet::new();
    for grid in grids {
        for (values, config) in grid.configs()? {
            if plan.iter().any(|planned| planned.config == config) {
                repeated += 1;
                continue;
            }
            let wanted = run_name(name, config.model.as_str(), &values);
            // Grids in a list may differ in what has a single value in each.
            let numbered = (2..).map(|number| format!("{wanted}-{number}"));
            let free = std::iter::once(wanted.clone()).chain(numbered).find(|name| !names.contains(name));
            let name = free.unwrap_or(wanted);
            RunDirectory::check_name(&name)?;
            names.insert(name.clone());
            plan.push(Planned { name, config });
        }
    }
    Ok((plan, repeated))
}

/// `mlp-learning-rate-0.1-seed-1`: what names of runs may hold of a combination's values.
fn run_name(start: Option<&str>, model: &str, values: &[String]) -> String {
    // The model is the name's start where none is given.
    let parts = values.iter().filter(|value| start.is_some() || !value.starts_with("model "));
    let name = [start.unwrap_or(model)].into_iter().chain(parts.map(String::as_str)).collect::<Vec<_>>().join("-");
    // `1e+16` is `1e16`, and `1e-16` is not.
    let name = name.replace("e+", "e");
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

impl Args for GridFlags {
    fn augment_args(command: Command) -> Command {
        let train = ConfigArguments::augment_args(Command::new("train"));
        let keys = train.get_arguments().filter(|argument| Settings::KEYS.contains(&argument.get_id().as_str()));
        command.args(keys.cloned().map(|argument| {
            let argument = argument.action(ArgAction::Append);
            match argument.get_id().as_str() {
                "model" => argument.num_args(0..).help("The networks to train; may be left out with --grid"),
                // Their values are lists themselves: every occurrence is one value to try.
                "hidden" | "augment" => argument.help_heading("Values to try (each flag can be repeated)"),
                _ => argument.value_delimiter(',').help_heading("Values to try, separated by commas"),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for GridFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut grid = Grid::default();
        for key in Settings::KEYS {
            // Not all keys have flags.
            let Ok(Some(occurrences)) = matches.try_get_raw_occurrences(key) else { continue };
            if matches.value_source(key) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values: Vec<Value> = if matches!(*key, "hidden" | "augment") {
                occurrences.map(|occurrence| Value::Array(occurrence.map(value).collect())).collect()
            } else {
                occurrences.flatten().map(value).collect()
            };
            grid = grid
                .with(key, values)
                .map_err(|error| clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n")))?;
        }
        Ok(Self(grid))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = Self::from_arg_matches(matches)?.0.or(std::mem::take(&mut self.0));
        Ok(())
    }
}

/// A flag's text as JSON has it: a number or a truth value where it is one.
fn value(text: &OsStr) -> Value {
    let text = text.to_string_lossy();
    if let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(&text) {
        return value;
    }
    // Such as `.5`, which JSON does not know.
    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or_else(|| text.into(), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(arguments: &[&str]) -> Result<Grid, clap::Error> {
        let command = GridFlags::augment_args(Command::new("sweep"));
        let matches = command.try_get_matches_from([&["sweep"], arguments].concat())?;
        GridFlags::from_arg_matches(&matches).map(|flags| flags.0)
    }

    fn count(arguments: &[&str]) -> usize {
        grid(arguments).unwrap().configs().unwrap().len()
    }

    #[test]
    fn commas_separate_values_and_repeated_flags_add_to_them() {
        assert_eq!(count(&["mlp", "--learning-rate", "1,0.1,.01"]), 3);
        assert_eq!(count(&["mlp", "cnn", "--learning-rate", "1", "--learning-rate", "0.1"]), 4);
        assert_eq!(count(&["mlp", "--optimizer", "momentum", "--nesterov=true,false"]), 2);
    }

    #[test]
    fn a_list_is_one_value_of_hidden_and_augment() {
        assert_eq!(count(&["mlp", "--hidden", "64,32"]), 1);
        assert_eq!(count(&["mlp", "--hidden", "64,32", "--hidden", "128"]), 2);
        assert_eq!(count(&["cnn", "--augment", "shift,flip", "--augment", "erase"]), 2);
    }

    #[test]
    fn a_value_that_train_would_refuse_is_refused() {
        for arguments in [["mlp", "--epochs", "2,ten"], ["mlp", "--optimizer", "sgd,lion"]] {
            assert!(grid(&arguments).is_err(), "{arguments:?}");
        }
        assert!(grid(&["vgg"]).is_err());
    }

    fn planned(grid: &str, name: Option<&str>) -> (Vec<String>, usize) {
        let (plan, repeated) = plan(&Grid::from_json(grid).unwrap(), name).unwrap();
        (plan.into_iter().map(|planned| planned.name).collect(), repeated)
    }

    #[test]
    fn names_of_runs_hold_what_varies() {
        let (names, _) =
            planned(r#"{"model": "mlp", "hidden": [[64, 32], [8]], "learning_rate": 0.1, "seeds": 2}"#, None);
        assert_eq!(names[..2], ["mlp-hidden-64-32-seed-1", "mlp-hidden-64-32-seed-2"]);
        let (names, _) = planned(r#"{"model": ["mlp", "cnn"], "augment": [[], ["flip"]]}"#, Some("new"));
        assert_eq!(names[1..3], ["new-augment-none-model-cnn", "new-augment-flip-model-mlp"]);
    }

    #[test]
    fn no_two_runs_of_a_plan_have_one_name() {
        let (names, repeated) = planned(r#"{"model": "mlp", "learning_rate": [1e16, 1e-16, 1e15, 1e-15]}"#, None);
        assert_eq!(names[..2], ["mlp-learning-rate-1e16", "mlp-learning-rate-1e-16"]);
        assert_eq!((names.iter().collect::<BTreeSet<_>>().len(), repeated), (4, 0));
        let (names, _) = planned(r#"[{"model": "mlp", "seed": 1}, {"model": "mlp", "seed": 2}]"#, None);
        assert_eq!(names, ["mlp", "mlp-2"]);
    }

    #[test]
    fn values_that_mean_the_same_are_planned_once() {
        let grid = r#"[
            {"model": ["mlp", "mlp"], "learning_rate": [0.1, 1e-1, 0.10], "seed": [1, 1],
             "augment": [["shift", "flip"], ["flip", "shift"], ["flip", "shift", "flip"]]},
            {"model": "mlp", "augment": ["shift", "flip"], "seed": 1}
        ]"#;
        let (names, repeated) = planned(grid, None);
        assert_eq!((names.len(), repeated), (1, 36));
    }
}
