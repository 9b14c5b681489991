use kindling_config::ConfigError;
use kindling_data::DataError;
use kindling_models::ModelError;
use kindling_record::RecordError;
use kindling_training::{TrainingError, weights::WeightsError};
use thiserror::Error;

/// Errors of classification.
#[derive(Debug, Error)]
pub enum ClassificationError {
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data is wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Training or evaluation failed, or the run directory has another run.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The run directory cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A run's weights do not belong to the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl ClassificationError {
    /// What a backend said.
    pub(crate) fn backend(error: impl std::fmt::Display) -> Self {
        TrainingError::backend(error).into()
    }
}
