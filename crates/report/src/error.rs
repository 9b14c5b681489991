use std::{io, path::PathBuf};

use kindling_record::RecordError;
use thiserror::Error;

/// What can go wrong with a report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file of the report could not be written, or one that it needs not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A run could not be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A plot could not be drawn.
    #[error("{plot} cannot be drawn: {message}")]
    Plot {
        /// Which.
        plot: String,
        /// Why.
        message: String,
    },
}
