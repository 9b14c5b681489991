use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use kindling_config::{Grid, Registry};
use kindling_record::RunDirectory;
use kindling_report::{group, groups_json, groups_table};
use serde_json::json;

use crate::{
    Workbench,
    arguments::{GridArguments, PlaceArguments},
    outcome::{Misuse, Outcome},
    output::{notice, print},
    sweep::{
        Part, Planned, cluster,
        known::with_weights_of_runs,
        plan, request,
        status::{Standing, counts, standings_json, standings_table, survey},
        sweep_part,
    },
    tensorboard::TensorboardArguments,
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
    tensorboard: TensorboardArguments,
    #[command(flatten)]
    shared: SharedArguments,
    #[command(flatten)]
    grid: GridArguments,
}

const SHARED: &str = "Several machines with a shared directory of runs";

/// Arguments of a sweep that several machines share.
#[derive(Args)]
struct SharedArguments {
    /// Submit what is left as an array job of Slurm, a run each, with these options of sbatch, as in
    /// "--partition=gpu --gres=gpu:1 --time=1:00:00"; the same command again submits what is left then
    #[arg(long, help_heading = SHARED, value_name = "OPTIONS", allow_hyphen_values = true)]
    slurm: Option<String>,
    /// With --slurm: train at most N of the runs at the same time
    #[arg(long, help_heading = SHARED, value_name = "N", requires = "slurm")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,
    /// Show where each run stands, on any machine, and train none
    #[arg(long, help_heading = SHARED, conflicts_with_all = ["slurm", "shard"])]
    status: bool,
    /// Train the I-th of N shares of the runs, for any scheduler: start N processes, from 1/N to N/N
    #[arg(long, help_heading = SHARED, value_name = "I/N", conflicts_with = "slurm")]
    shard: Option<Part>,
    /// The plan that a task of an array job trains a run of
    #[arg(long, hide = true, value_name = "FILE", requires = "only")]
    planned: Option<PathBuf>,
    /// The index of that run
    #[arg(long, hide = true, value_name = "INDEX", requires = "planned")]
    #[arg(conflicts_with_all = ["slurm", "status", "shard"])]
    only: Option<usize>,
}

/// The command `sweep`.
pub(crate) fn sweep(workbench: &Workbench, arguments: &SweepArguments) -> Result<Outcome> {
    if !arguments.dry_run {
        // The program may start itself again here, and a grid from a pipe can be read only once.
        request(&arguments.place)?;
    }
    let shared = &arguments.shared;
    let plan = match &shared.planned {
        Some(path) => plan::read(workbench, path)?,
        None => typed_plan(workbench, arguments)?,
    };
    if arguments.dry_run {
        for planned in &plan {
            print(&planned.name);
        }
        return Ok(Outcome::Done);
    }
    if shared.status || shared.slurm.is_some() {
        let plan = with_weights_of_runs(&plan, &arguments.place)?;
        let standings = survey(workbench, &plan, &arguments.place)?;
        return match &shared.slurm {
            Some(options) => submit(arguments, &plan, &standings, options),
            None => show(arguments, &standings),
        };
    }
    let wanted = match (shared.only, shared.shard) {
        (Some(index), _) if index >= plan.len() => {
            bail!(Misuse(format!("--only: expected an index below {}, found {index}", plan.len())))
        }
        (Some(index), _) => Part::One(index),
        (None, part) => part.unwrap_or_default(),
    };
    let swept = sweep_part(workbench, &plan, wanted, &arguments.place, &arguments.tensorboard)?;
    let outcome = swept.outcome();
    let groups = group(swept.runs.into_iter().flatten().collect());
    if arguments.json {
        print(serde_json::to_string_pretty(&groups_json(&groups))?);
    } else if !groups.is_empty() {
        print(groups_table(&groups, terminal::width()));
    }
    Ok(outcome)
}

/// Shows where the runs stand.
fn show(arguments: &SweepArguments, standings: &[Standing]) -> Result<Outcome> {
    if arguments.json {
        print(serde_json::to_string_pretty(&standings_json(standings))?);
    } else {
        print(standings_table(standings, terminal::width()));
        notice(counts(standings));
    }
    Ok(Outcome::Done)
}

/// Submits what is left to Slurm.
fn submit(arguments: &SweepArguments, plan: &[Planned], standings: &[Standing], options: &str) -> Result<Outcome> {
    notice(counts(standings));
    let left: Vec<usize> = (0..plan.len()).filter(|index| standings[*index].state.is_left()).collect();
    let Some(first) = plan.first().filter(|_| !left.is_empty()) else {
        notice("nothing is left to submit");
        if arguments.json {
            print(json!({ "job": null, "runs": [] }));
        }
        return Ok(Outcome::Done);
    };
    let label = &run_name(arguments.name.as_deref(), &first.config.network.name, &[]);
    let at_once = arguments.shared.at_once.map(|at_once| at_once as usize);
    let job = cluster::submit(plan, &left, label, (options, at_once), (&arguments.place, &arguments.tensorboard))?;
    let (id, script) = (&job.id, job.script.display());
    notice(format_args!("submitted {} of {} runs as job {id}: {script}", left.len(), plan.len()));
    notice(format_args!("their output is beside it, in job-{id}_*.txt"));
    notice(format_args!(
        "look: the same command with --status in place of --slurm, or squeue --jobs {id}; cancel: scancel {id}"
    ));
    if arguments.json {
        let runs: Vec<_> = left.iter().map(|index| &plan[*index].name).collect();
        print(serde_json::to_string_pretty(&json!({ "job": id, "script": job.script, "runs": runs }))?);
    } else {
        print(id);
    }
    Ok(Outcome::Done)
}

/// The runs that the arguments ask for.
fn typed_plan(workbench: &Workbench, arguments: &SweepArguments) -> Result<Vec<Planned>> {
    let registry = workbench.registry();
    let grids = arguments.grid.grids(arguments.seeds, &registry)?;
    let (plan, repeated) = plan_of(&grids, arguments.name.as_deref(), &registry)?;
    if repeated > 0 {
        let all = plan.len() + repeated;
        notice(format_args!("{repeated} of {all} combinations repeat others and are left out"));
    }
    if plan.is_empty() {
        bail!(Misuse("expected at least one run, found an empty list of grids".to_owned()));
    }
    plan.iter().try_for_each(|planned| workbench.check_keys(&planned.config))?;
    Ok(plan)
}

/// The runs of all combinations, each config once and each with a name of its own; and how many came again.
fn plan_of(grids: &[Grid], name: Option<&str>, registry: &Registry) -> Result<(Vec<Planned>, usize)> {
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
        let (plan, repeated) = plan_of(&Grid::from_file(grid).unwrap(), name, &registry).unwrap();
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
