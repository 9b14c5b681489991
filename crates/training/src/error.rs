use std::path::PathBuf;

use kindling_data::DataError;
use kindling_models::ModelError;
use kindling_record::RecordError;
use thiserror::Error;

/// What can be wrong with a config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// JSON with a mistake, or with a value of the wrong type.
    #[error("config: {0}")]
    Malformed(String),
    /// A file in another format; what it seems to be.
    #[error("expected a config in JSON, found {0}")]
    NotJson(String),
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
    /// A value that requires one of another key.
    #[error("`{field}` requires {wanted} (got `{found}`)")]
    Requires {
        /// The key of the value.
        field: &'static str,
        /// The key and the value that it requires.
        wanted: &'static str,
        /// The other key's value as given.
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
    /// The directory of a new run is that of another.
    #[error(
        "{}: this directory holds a run or parts of one; train in another one{}",
        path.display(),
        if path.join("run.json").is_file() { format!(", or run: kindling resume {}", path.display()) } else { String::new() }
    )]
    Taken {
        /// The run directory.
        path: PathBuf,
    },
    /// A run has no checkpoint that it can be resumed from.
    #[error(
        "{}: no checkpoint can be read ({}); train the run again with `kindling train --config {}`",
        path.display(),
        causes.join("; "),
        record.display()
    )]
    NoCheckpoint {
        /// The checkpoints' directory.
        path: PathBuf,
        /// What is wrong with each, with its path.
        causes: Vec<String>,
        /// The run's record, which has its config.
        record: PathBuf,
    },
    /// Training takes more memory than there is.
    #[error(
        "{what}: {}{} parameters would take about {} in training (weights, gradients, moments, activations, images), {}; \
         choose smaller widths, smaller batches, or fewer or smaller images",
        if *parameters == usize::MAX { "more than " } else { "" },
        grouped(*parameters as u64),
        gibibytes(*needed),
        memory.map_or("more than any machine has".to_owned(), |bytes| format!("this machine has {}", gibibytes(bytes as f64)))
    )]
    CannotFit {
        /// What of the config decides it.
        what: String,
        /// Number of trainable parameters; the largest number where it is beyond counting.
        parameters: usize,
        /// An estimate, in bytes.
        needed: f64,
        /// The machine's memory, in bytes, where it is known.
        memory: Option<u64>,
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

/// A number of bytes in GiB.
fn gibibytes(bytes: f64) -> String {
    let gibibytes = bytes / f64::from(1_u32 << 30);
    if gibibytes < 10.0 { format!("{gibibytes:.1} GiB") } else { format!("{} GiB", grouped(gibibytes.round() as u64)) }
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
