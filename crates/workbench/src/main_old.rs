//! `kindling`: trains image classifiers on any backend of Burn and keeps every run.
//!
//! This crate is the only one that parses arguments, picks a device, prints, and enables backends. Results go to
//! standard output, progress and notices to standard error.

// Backends nest generic types deeper than the compiler's default goes.
#![recursion_limit = "512"]
mod arguments;
mod backend;
mod commands;
mod dashboard;
mod data;
mod figure;
#[cfg(test)]
mod fixtures;
mod jpeg;
mod log_file;
mod machine;
mod output;
mod photo;
mod pictures;
mod progress;
mod pytorch;
mod relaunch;
mod reproduction;
mod signals;
mod sweep;
mod terminal;
mod workload;
mod writable;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;

use crate::{
    arguments::Command,
    commands::Outcome,
    output::{notice, told},
};

/// Keeps its pages between steps: half again as fast on the MLPs as the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Instant::now()) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            notice(format_args!("error: {}", told(&error)));
            Outcome::of_error(&error).into()
        }
    }
}

/// Runs the command that the arguments name, in a program started at `start`.
fn run(start: Instant) -> Result<Outcome> {
    relaunch::without_empty_variables()?;
    match arguments::parse().command {
        Command::Samples(arguments) => commands::samples(&arguments),
        Command::Models(arguments) => commands::models(&arguments),
        Command::Check(arguments) => commands::check(&arguments),
        Command::LrFind(arguments) => commands::lr_find(&arguments),
        Command::Train(arguments) => commands::train(*arguments, start),
        Command::Resume(arguments) => commands::resume(&arguments, start),
        Command::Sweep(arguments) => commands::sweep(&arguments),
        Command::Gradients(arguments) => commands::gradients(&arguments),
        Command::Runs(arguments) => commands::runs(&arguments),
        Command::Compare(arguments) => commands::compare(&arguments),
        Command::Evaluate(arguments) => commands::evaluate(&arguments),
        Command::Predict(arguments) => commands::predict(&arguments),
        Command::Report(arguments) => commands::report(&arguments),
        Command::Reproduce(arguments) => commands::reproduce(&arguments),
        Command::Bench(arguments) => commands::bench(&arguments),
        Command::Doctor(arguments) => commands::doctor(&arguments),
        Command::Serve(arguments) => commands::serve(&arguments),
    }
}
