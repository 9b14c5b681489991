//! One file for each command.

mod bench;
mod check;
mod compare;
mod doctor;
mod evaluate;
mod gradients;
mod lr_find;
mod models;
mod predict;
mod report;
mod reproduce;
mod resume;
mod runs;
mod samples;
mod serve;
mod sweep;
mod train;

use std::process::ExitCode;

use kindling_record::RecordError;
use kindling_training::{ConfigError, TrainingError};
use thiserror::Error;

pub(crate) use self::{
    bench::bench,
    check::{CheckArguments, check},
    compare::{CompareArguments, compare},
    doctor::doctor,
    evaluate::evaluate,
    gradients::{GradientsArguments, gradients},
    lr_find::{LrFindArguments, lr_find},
    models::models,
    predict::{PredictArguments, predict},
    report::{ReportArguments, report},
    reproduce::{ReproduceArguments, reproduce},
    resume::resume,
    runs::runs,
    samples::{SamplesArguments, samples},
    serve::serve,
    sweep::{SweepArguments, sweep},
    train::train,
};

/// Exit code of a run that its user stopped, as shells have it for Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that make no sense together or here.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// How a command ended, if no error ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    BadArguments,
    Diverged,
    Interrupted,
}

impl Outcome {
    /// A config that makes no sense is a matter of arguments; everything else is a failure.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        let is_misuse = error.chain().any(|cause| {
            cause.is::<Misuse>()
                || cause.is::<ConfigError>()
                || matches!(cause.downcast_ref(), Some(TrainingError::Config(_)))
                || matches!(cause.downcast_ref(), Some(RecordError::InvalidName { .. }))
        });
        if is_misuse { Self::BadArguments } else { Self::Failed }
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
