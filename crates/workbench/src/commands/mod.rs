//! One file for each command, the list of them, and the program that runs the one that was typed.

mod bench;
mod check;
mod compare;
mod config;
mod doctor;
pub(crate) mod evaluate;
mod export;
mod gradients;
mod import;
mod lr_find;
mod models;
mod play;
mod predict;
mod report;
mod resume;
mod runs;
pub(crate) mod samples;
mod serve;
mod sweep;
pub(crate) mod train;
mod watch;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, Command};

use crate::{
    Workbench,
    arguments::{MODEL, config_flags, grid_flags, parse},
    outcome::Outcome,
    output::{name_program, notice, told},
    relaunch,
};

/// What a command does with the workbench and what was typed behind its name.
type Function = Box<dyn Fn(&Workbench, &ArgMatches) -> Result<Outcome>>;

/// A command: how it is typed, and what it does.
pub(crate) struct Entry {
    pub(crate) command: Command,
    pub(crate) run: Function,
}

/// Every command of the workbench, in the order in which the help lists them.
pub(crate) fn all(workbench: &Workbench) -> Vec<Entry> {
    let (registry, recipes) = (workbench.registry(), workbench.recipes());
    let with_config = |entry: Entry| Entry { command: config_flags(entry.command, &registry, recipes), ..entry };
    let with_network = |entry: Entry| Entry {
        command: config_flags(entry.command, &registry, recipes).mut_arg(MODEL, |model| model.long("network")),
        ..entry
    };
    let with_grid = |entry: Entry| Entry { command: grid_flags(entry.command, &registry, recipes), ..entry };
    let mut all = vec![
        entry(
            "samples",
            "Show images of the data set with their classes, and the shapes of images and batches",
            samples::samples,
        ),
        entry("models", "List the models, or the layers of one, with their shapes and parameters", models::models),
        with_config(entry(
            "check",
            "Check a model and its config before a long training; it starts fresh, without --weights, --freeze and \
             --class-weights",
            check::check,
        )),
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
        entry("watch", "Watch runs in a browser as they train; --control lets it stop and resume them", watch::watch),
        entry("compare", "Compare runs: a table, and curves", compare::compare),
        entry(
            "evaluate",
            "Evaluate a run's weights: metrics for each class, calibration, mistakes",
            evaluate::evaluate,
        ),
        entry("predict", "Classify pictures with a run's weights", predict::predict),
        entry("play", "Try a run, or two side by side, on drawings, pictures and the camera, in a browser", play::play),
        entry(
            "export",
            "Write a run for other programs: ONNX, PyTorch, Burn, the Hugging Face hub, TensorBoard, tables, a page",
            export::export,
        ),
        with_network(entry(
            "import",
            "Make a run of weights from elsewhere: safetensors, PyTorch's .pt, ONNX",
            import::import,
        )),
        entry("report", "Write a report of runs: HTML, Markdown, and every plot as SVG and PNG", report::report),
        entry("bench", "Compare the throughput of models, backends and batch sizes, and of PyTorch", bench::bench),
        entry(
            "doctor",
            "Show what this build and this machine have, measure it, and recommend a backend",
            doctor::doctor,
        ),
        entry("serve", "Offer a device to `train --backend remote` on this machine or another", serve::serve),
    ];
    let own = workbench.own_commands().iter();
    all.extend(own.map(|(command, run)| Entry { command: command.clone(), run: Box::new(*run) }));
    all
}

impl Workbench {
    /// Runs the command that the program's arguments name.
    #[must_use]
    pub fn main(self) -> ExitCode {
        name_program(self.program());
        match self.run() {
            Ok(outcome) => outcome.into(),
            Err(error) => {
                notice(format_args!("error: {}", told(&error)));
                Outcome::of_error(&error).into()
            }
        }
    }

    fn run(&self) -> Result<Outcome> {
        relaunch::without_empty_variables()?;
        let all = all(self);
        let matches = parse(self, all.iter().map(|entry| entry.command.clone()));
        let (name, matches) = matches.subcommand().context("expected a command, found none")?;
        let entry =
            all.iter().find(|entry| entry.command.get_name() == name).context("a command without a function")?;
        (entry.run)(self, matches)
    }
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
