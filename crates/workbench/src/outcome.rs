//! How commands end, and the exit codes for it.

use std::{error::Error, process::ExitCode};

use kindling_classification::ClassificationError;
use kindling_config::ConfigError;
use kindling_data::DataError;
use kindling_exchange::ExchangeError;
use kindling_record::RecordError;
use kindling_training::TrainingError;

/// Exit code of a run that its user stopped, as shells have it for Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Arguments that make no sense together or here: the program ends with the exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(
    /// What is wrong, what was expected, and what to do next.
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
    if let Some(ExchangeError::Classification(error)) = cause.downcast_ref() {
        return is_misuse(error);
    }
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
                || matches!(cause.downcast_ref(), Some(ExchangeError::Rename { .. }))
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
