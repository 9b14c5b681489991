//! One file for each command, and the list of them.

mod bench;
mod check;
mod compare;
mod config;
mod doctor;
pub(crate) mod evaluate;
mod gradients;
mod lr_find;
mod models;
mod predict;
mod report;
mod resume;
mod runs;
pub(crate) mod samples;
mod serve;
mod sweep;
mod train;

use std::{error::Error, process::ExitCode};

use anyhow::Result;
use clap::{ArgMatches, Args, Command};
use kindling_classification::ClassificationError;
use kindling_config::ConfigError;
use kindling_data::DataError;
use kindling_record::RecordError;
use kindling_training::TrainingError;

use crate::{
    Workbench,
    arguments::{config_flags, grid_flags},
};

/// Exit code of a run that its user stopped, as shells have it for Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that make no sense together or here: the program ends with the exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(
    /// What is wrong, what was expected, and the way on.
    pub String,
);

/// How a command ended, if no error ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 1.
    Failed,
    /// Exit code 2.
    BadArguments,
    /// A run diverged: exit code 3.
    Diverged,
    /// The user stopped it: exit code 130.
    Interrupted,
}

impl Outcome {
    /// A config that makes no sense is a matter of arguments; everything else is a failure.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        if error.chain().any(is_misuse) { Self::BadArguments } else { Self::Failed }
    }
}

/// Whether a cause lies in arguments or config.
fn is_misuse(cause: &(dyn Error + 'static)) -> bool {
    // These stand for what they hold, which is therefore no cause of its own.
    match cause.downcast_ref() {
        Some(ClassificationError::Config(_) | ClassificationError::Model(_)) => true,
        Some(ClassificationError::Training(error)) => is_misuse(error),
        Some(ClassificationError::Data(error)) => is_misuse(error),
        Some(ClassificationError::Record(error)) => is_misuse(error),
        _ => {
            cause.is::<Misuse>()
                || cause.is::<clap::Error>()
                || cause.is::<ConfigError>()
                || matches!(cause.downcast_ref(), Some(RecordError::InvalidName { .. }))
                || matches!(cause.downcast_ref(), Some(DataError::Directory(_)))
                || matches!(
                    cause.downcast_ref(),
                    Some(TrainingError::Setting { .. } | TrainingError::CannotExtend { .. })
                )
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::BadArguments => 2,
            Outcome::Diverged => 3,
            Outcome::Interrupted => INTERRUPTED,
        })
    }
}

/// What a command does with the workbench and what was typed behind its name.
type Function = Box<dyn Fn(&Workbench, &ArgMatches) -> Result<Outcome>>;

/// A command: how it is typed, and what it does.
pub(crate) struct Entry {
    pub(crate) command: Command,
    pub(crate) run: Function,
}

/// Every command of the workbench, in the order in which the help lists them.
pub(crate) fn all(workbench: &Workbench) -> Vec<Entry> {
    let registry = workbench.registry();
    let with_config = |entry: Entry| Entry { command: config_flags(entry.command, &registry), ..entry };
    let with_grid = |entry: Entry| Entry { command: grid_flags(entry.command, &registry), ..entry };
    let mut all = vec![
        entry(
            "samples",
            "Show images of the data set with their classes, and the shapes of images and batches",
            samples::samples,
        ),
        entry("models", "List the models with their layers, shapes and parameters", models::models),
        with_config(entry("check", "Check a model and its config before a long training", check::check)),
        with_config(entry("lr-find", "Find a learning rate by a short training in which it rises", lr_find::lr_find)),
        with_config(entry(
            "config",
            "Print the complete config of a command line, with a comment for each key",
            config::config,
        )),
        with_config(entry("train", "Train a model; the last line printed is the run's directory", train::train)),
        entry(
            "resume",
            "Resume an interrupted run to the same result as if it had never stopped, or train a finished one further",
            resume::resume,
        ),
        with_grid(entry(
            "sweep",
            "Train every combination of values for a config; finished runs are not run again",
            sweep::sweep,
        )),
        with_config(entry("gradients", "Show the gradients of a model's first steps", gradients::gradients)),
        entry("runs", "List the runs", runs::runs),
        entry("compare", "Compare runs: a table, and curves", compare::compare),
        entry(
            "evaluate",
            "Evaluate a run's weights: metrics for each class, calibration, mistakes",
            evaluate::evaluate,
        ),
        entry("predict", "Classify pictures with a run's weights", predict::predict),
        entry("report", "Write a report of runs: HTML, Markdown, and every plot as SVG and PNG", report::report),
        entry("bench", "Compare the throughput of models, backends and batch sizes, and of PyTorch", bench::bench),
        entry(
            "doctor",
            "Show what this build and this machine have, measure it, and recommend a backend",
            doctor::doctor,
        ),
        entry("serve", "Offer a device to `train --backend remote` on this machine or another", serve::serve),
    ];
    let own = workbench.own_commands().iter().map(|(command, run)| {
        let run = *run;
        Entry { command: command.clone(), run: Box::new(move |workbench, matches| run(workbench, matches)) }
    });
    all.extend(own);
    all
}

/// A command with the arguments `A`.
fn entry<A: Args + 'static>(
    name: &'static str,
    about: &'static str,
    run: fn(&Workbench, &A) -> Result<Outcome>,
) -> Entry {
    // The docstring of `A` would be shown otherwise.
    let command = A::augment_args(Command::new(name)).about(about).long_about(None::<&str>);
    let function = move |workbench: &Workbench, matches: &ArgMatches| run(workbench, &A::from_arg_matches(matches)?);
    Entry { command, run: Box::new(function) }
}

#[cfg(test)]
mod tests {
    use kindling_models::ModelError;

    use super::*;

    #[test]
    fn what_is_wrong_with_arguments_or_config_is_told_from_what_fails() {
        let outcome = |error: anyhow::Error| Outcome::of_error(&error.context("run mlp"));
        let setting =
            || TrainingError::Setting { name: "epochs", wanted: "at least 1".to_owned(), found: "0".to_owned() };
        for wrong in [
            Misuse("--steps: expected at least 1, found 0".to_owned()).into(),
            ConfigError::NoNetwork.into(),
            ClassificationError::Config(ConfigError::NoNetwork).into(),
            ClassificationError::Model(ModelError::Invalid("no layers".to_owned())).into(),
            ClassificationError::Training(setting()).into(),
            setting().into(),
        ] {
            assert_eq!(outcome(wrong), Outcome::BadArguments);
        }
        let backend = || TrainingError::Backend("out of memory".to_owned());
        for failed in [backend().into(), ClassificationError::Training(backend()).into(), anyhow::anyhow!("no space")] {
            assert_eq!(outcome(failed), Outcome::Failed);
        }
    }
}
