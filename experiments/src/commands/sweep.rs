use std::{ffi::OsStr, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use kindling_record::RunDirectory;
use kindling_report::{group, groups_json, groups_table};
use kindling_training::{Grid, Settings};
use serde_json::Value;

use crate::{
    arguments::{ConfigArguments, PlaceArguments},
    commands::{Misuse, Outcome},
    dashboard::terminal_width,
    output::{notice, print},
    sweep::{Planned, Swept, sweep as run_all},
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
    let mut flags = arguments.flags.0.clone();
    if let Some(count) = arguments.seeds {
        flags = flags.with_seeds(count);
    }
    let grids = match &arguments.grid {
        None => vec![flags],
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let grids = Grid::from_json(&text).with_context(|| path.display().to_string())?;
            grids.into_iter().map(|grid| flags.clone().or(grid)).collect()
        }
    };
    let mut plan = Vec::new();
    for grid in grids {
        for (names, config) in grid.configs()? {
            let start = arguments.name.clone().unwrap_or_else(|| config.model.to_string());
            plan.push(Planned { name: run_name(&start, &names), config });
        }
    }
    for planned in &plan {
        RunDirectory::check_name(&planned.name)?;
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
        print(groups_table(&groups, terminal_width()));
    }
    Ok(outcome)
}

/// Says what did not come to an end, and how the whole ended: a diverged run is a result, a failed one is not.
pub(crate) fn outcome_of(swept: &Swept) -> Outcome {
    for (name, error) in &swept.failures {
        notice(format_args!("{name} failed: {error}"));
    }
    if swept.interrupted {
        notice("interrupted; the same command goes on where it was");
        Outcome::Interrupted
    } else if swept.failures.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    }
}

/// `mlp-learning-rate-0.1-seed-1`: what names of runs may hold of a combination's values.
fn run_name(start: &str, values: &[String]) -> String {
    let parts: Vec<String> = values.iter().filter(|value| !value.starts_with("model ")).cloned().collect();
    let name = std::iter::once(start.to_owned()).chain(parts).collect::<Vec<_>>().join("-");
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

    #[test]
    fn names_of_runs_hold_what_varies() {
        let names = ["model mlp", "learning_rate 0.1", "hidden 64-32", "seed 2"].map(str::to_owned);
        assert_eq!(run_name("mlp", &names), "mlp-learning-rate-0.1-hidden-64-32-seed-2");
    }
}
