use std::path::PathBuf;

use kindling_data::DataError;
use kindling_models::ModelError;
use kindling_record::RecordError;
use thiserror::Error;

/// What can be wrong with a config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is not JSON, or a value has the wrong type.
    #[error("config: {0}")]
    Malformed(String),
    /// A key that no config has.
    #[error("config: unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
    /// Without a model there is nothing to train.
    #[error("config: `model` is missing; `kindling models` lists what there is")]
    NoModel,
    /// A value outside its range, or one that does not go with another.
    #[error("{field}: expected {wanted}, found {found}")]
    Invalid {
        /// The key of the value.
        field: &'static str,
        /// What would do.
        wanted: String,
        /// The value as given.
        found: String,
    },
    /// The network cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// What can end a run.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network cannot be built, or its weights not be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run directory cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A checkpoint cannot be read.
    #[error("{path}: {message}", path = path.display())]
    Checkpoint {
        /// The checkpoint's directory or file.
        path: PathBuf,
        /// What was wrong with it.
        message: String,
    },
    /// The data is not what the run was begun with.
    #[error("this run was begun on {wanted}, and the data here is {found}; name the right directory with --data-dir")]
    OtherData {
        /// The data of the run.
        wanted: String,
        /// The data at hand.
        found: String,
    },
    /// The backend failed or panicked; what it said.
    #[error("training failed: {0}")]
    Backend(String),
}

impl TrainingError {
    /// What a backend or burn-train said.
    pub(crate) fn backend(error: impl std::fmt::Display) -> Self {
        Self::Backend(error.to_string())
    }
}
