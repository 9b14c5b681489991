use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Args;
use kindling_config::{Grid, Registry};
use kindling_record::RunDirectory;
use kindling_report::{group, groups_json, groups_table};

use crate::{
    Workbench,
    arguments::{GridArguments, PlaceArguments},
    outcome::{Misuse, Outcome},
    output::{notice, print},
    sweep::{Planned, request, sweep as run_all},
    terminal,
};

/// Arguments of `sweep`.
#[derive(Args)]
pub(crate) struct SweepArguments {
    #[command(flatten)]
    place: PlaceArguments,
    /// Train with each of the seeds 1 to N
    #[arg(long, value_name = "N", conflicts_with = "training.seed", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// How the runs' names begin [default: the model]
    #[arg(long)]
    name: Option<String>,
    /// Only list the planned runs
    #[arg(long)]
    dry_run: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    grid: GridArguments,
}

/// The command `sweep`.
pub(crate) fn sweep(workbench: &Workbench, arguments: &SweepArguments) -> Result<Outcome> {
    if !arguments.dry_run {
        // The program may start itself again here, and a grid from a pipe can be read only once.
        request(&arguments.place)?;
    }
    let registry = workbench.registry();
    let grids = arguments.grid.grids(arguments.seeds, &registry)?;
    let (plan, repeated) = plan(&grids, arguments.name.as_deref(), &registry)?;
    if repeated > 0 {
        let all = plan.len() + repeated;
        notice(format_args!("{repeated} of {all} combinations repeat others and are left out"));
    }
    if plan.is_empty() {
        bail!(Misuse("expected at least one run, found an empty list of grids".to_owned()));
    }
    plan.iter().try_for_each(|planned| workbench.check_keys(&planned.config))?;
    if arguments.dry_run {
        for planned in &plan {
            print(&planned.name);
        }
        return Ok(Outcome::Done);
    }
    let swept = run_all(workbench, &plan, &arguments.place)?;
    let outcome = swept.outcome();
    let groups = group(swept.runs.into_iter().flatten().collect());
    if arguments.json {
        print(serde_json::to_string_pretty(&groups_json(&groups))?);
    } else if !groups.is_empty() {
        print(groups_table(&groups, terminal::width()));
    }
    Ok(outcome)
}

/// The runs of all combinations, each config once and each with a name of its own; and how many came again.
fn plan(grids: &[Grid], name: Option<&str>, registry: &Registry) -> Result<(Vec<Planned>, usize)> {
    let (mut plan, mut repeated) = (Vec::<Planned>::new(), 0);
    let mut names = BTreeSet::new();
    for grid in grids {
        for (values, config) in grid.configs(registry)? {
            if plan.iter().any(|planned| planned.config == config) {
                repeated += 1;
                continue;
            }
            let wanted = run_name(name, &config.network.name, &values);
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

/// Name of a run, such as `mlp-learning-rate-0.1-seed-1`, with the characters that a name may have.
fn run_name(start: Option<&str>, model: &str, values: &[String]) -> String {
    // The network is the name's start where none is given.
    let parts = values.iter().filter(|value| start.is_some() || !value.starts_with("network "));
    let name = [start.unwrap_or(model)].into_iter().chain(parts.map(String::as_str)).collect::<Vec<_>>().join("-");
    // `1e+16` is `1e16`, and `1e-16` is not.
    let name = name.replace("e+", "e");
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(grid: &str, name: Option<&str>) -> (Vec<String>, usize) {
        let registry = Workbench::new("kindling").registry();
        let (plan, repeated) = plan(&Grid::from_file(grid).unwrap(), name, &registry).unwrap();
        (plan.into_iter().map(|planned| planned.name).collect(), repeated)
    }

    #[test]
    fn names_of_runs_hold_what_varies() {
        let (names, _) =
            planned(r#"{"model": "mlp", "hidden": [[64, 32], [8]], "learning_rate": 0.1, "seeds": 2}"#, None);
        assert_eq!(names[..2], ["mlp-hidden-64-32-seed-1", "mlp-hidden-64-32-seed-2"]);
        let (names, _) = planned(r#"{"model": ["mlp", "cnn"], "augment": [[], ["flip"]]}"#, Some("new"));
        assert_eq!(names[1..3], ["new-augment-none-network-cnn", "new-augment-flip-network-mlp"]);
        let (names, _) = planned(r#"{"model": "mlp", "augment": [["crop:padding=2"], ["flip"]], "folds": 3}"#, None);
        assert_eq!(names[2..4], ["mlp-augment-crop-padding-2-fold-3", "mlp-augment-flip-fold-1"]);
        let (names, _) = planned(r#"{"model": "cnn", "folds": 3, "fold": 2}"#, None);
        assert_eq!(names, ["cnn-fold-2"]);
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
            {"model": "mlp", "augment": ["shift:pixels=2", {"name": "flip"}], "seed": 1}
        ]"#;
        let (names, repeated) = planned(grid, None);
        assert_eq!((names.len(), repeated), (1, 36));
    }
}
