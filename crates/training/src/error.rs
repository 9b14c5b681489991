use std::{error::Error as StdError, fmt::Display, path::PathBuf};

use kindling_record::RecordError;
use thiserror::Error;

/// Why a batch could not be made.
pub type SourceError = Box<dyn StdError + Send + Sync>;

/// Weights that cannot be written, or do not belong to the module.
#[derive(Debug, Error)]
#[error("weights: {0}")]
pub struct WeightsError(pub(crate) String);

impl WeightsError {
    pub(crate) fn new(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

/// What can end a run, or keep it from starting.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// A setting of the trainer outside its range, or one that does not go with the task.
    #[error("{name}: expected {wanted}, found {found}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What would do.
        wanted: String,
        /// What was given.
        found: String,
    },
    /// A parameter is frozen that the weights to start from do not have.
    #[error(
        "freeze: `{parameter}` is frozen but not taken from the weights ({reason}){}; leave it out of `training.freeze`, \
         or start from weights that have it in the network's shape",
        if others.is_empty() { String::new() } else { format!(", and neither are {}", others.join(", ")) }
    )]
    FrozenFresh {
        /// The first such parameter.
        parameter: String,
        /// Why it was not taken.
        reason: String,
        /// The others, each quoted.
        others: Vec<String>,
    },
    /// The task does not measure what it says.
    #[error("the task's step: {0}")]
    Task(String),
    /// A batch cannot be made.
    #[error("a batch cannot be made: {0}")]
    Source(#[source] SourceError),
    /// The run directory cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Weights cannot be written or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
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
        if path.join("run.json").is_file() { ", or resume it" } else { "" }
    )]
    Taken {
        /// The run directory.
        path: PathBuf,
    },
    /// A run has no checkpoint that it can be resumed from.
    #[error(
        "{}: no checkpoint can be read ({}); train the run again in another directory with the config in {}",
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
    /// The task has other parameters than the checkpoint.
    #[error("{}: the checkpoint is of another network: {difference}; resume it with the one that it was started with", path.display())]
    Mismatch {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The first parameter that differs.
        difference: String,
    },
    /// Training takes more memory than there is.
    #[error(
        "{what}: {}{} parameters would take about {} in training (weights, gradients, moments, data), {}; choose a \
         smaller network or a smaller data set",
        if *parameters == usize::MAX { "more than " } else { "" },
        grouped(*parameters as u64),
        gibibytes(*needed),
        memory.map_or("more than any machine has".to_owned(), |bytes| format!("but this machine has {}", gibibytes(bytes as f64)))
    )]
    CannotFit {
        /// What makes it so large.
        what: String,
        /// Parameters of the network; the largest number there is where they are more.
        parameters: usize,
        /// An estimate, in bytes.
        needed: f64,
        /// The machine's memory, in bytes, where it is known.
        memory: Option<u64>,
    },
    /// The data is not what the run was begun with.
    #[error("this run was trained on {wanted}, and the data here is {found}; use the data that it was trained on")]
    OtherData {
        /// The data of the run.
        wanted: String,
        /// The data at hand.
        found: String,
    },
    /// A finished run cannot be trained further.
    #[error("epochs: {epochs} for a run that has {done}: {reason}")]
    CannotExtend {
        /// Epochs asked for.
        epochs: usize,
        /// Epochs that it has.
        done: usize,
        /// Why not, and what to do.
        reason: String,
    },
    /// The backend failed or panicked; what it said.
    #[error("training failed: {0}")]
    Backend(String),
}

impl TrainingError {
    /// What a backend or burn-train said.
    pub fn backend(error: impl Display) -> Self {
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
