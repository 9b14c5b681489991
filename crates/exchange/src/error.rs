use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

use kindling_classification::ClassificationError;
use kindling_record::RecordError;
use kindling_training::weights::WeightsError;
use thiserror::Error;

/// What can go wrong between runs and other programs.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The run was trained on something else.
    #[error("{run} was not trained on images")]
    NoImages {
        /// Id of the run.
        run: String,
    },
    /// The run's weights, config or network do not fit together.
    #[error(transparent)]
    Classification(#[from] ClassificationError),
    /// A part of the run cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file from elsewhere, or one for elsewhere, is not what it should be.
    #[error("{path}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was wanted and what was found.
        message: String,
    },
    /// A weights file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A name that should be read as another is none of the file's.
    #[error("--rename {from}=…: no tensor of the file has this name or begins with it; did you mean `{nearest}`?")]
    Rename {
        /// The name.
        from: String,
        /// One that the file has.
        nearest: String,
    },
    /// A line of the step log is no step.
    #[error("{path}: the line at byte {place} is no step: {message}", path = path.display())]
    Steps {
        /// The step log.
        path: PathBuf,
        /// Where the line begins.
        place: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The page that runs a network does not have one of its operations.
    #[error("pages cannot compute `{operation}`, which this network needs; export it with --format onnx instead")]
    PageOperation {
        /// Name of the operation, with the option that is missing.
        operation: String,
    },
    /// The graph is not one that can be computed.
    #[error("the network cannot be put into a page: {message}")]
    PageNetwork {
        /// What is wrong with it.
        message: String,
    },
    /// The network cannot be written as an ONNX graph.
    #[error(
        "the network has the operation `{operation}`{}, which ONNX export does not know; compose it of others, or export \
         the weights alone (--format safetensors)",
        after.as_ref().map_or_else(String::new, |layer| format!(" after layer `{layer}`"))
    )]
    OnnxOperation {
        /// Burn's name of the operation.
        operation: String,
        /// The last layer before it that has weights.
        after: Option<String>,
    },
    /// What the network does depends on how many images it gets at once.
    #[error(
        "the network {what} when a batch has another number of images, and an ONNX graph takes any number; make it not \
         depend on the size of the batch"
    )]
    OnnxBatch {
        /// What differs, as what the network does.
        what: String,
    },
}

impl ExchangeError {
    /// What is wrong with a file.
    pub(crate) fn file(path: &Path, message: impl Display) -> Self {
        Self::File { path: path.to_path_buf(), message: message.to_string() }
    }

    /// Returns a closure for `map_err` that adds `path` to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
