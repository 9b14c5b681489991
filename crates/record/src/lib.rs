//! The run directory and the run record.
//!
//! Everything a run leaves behind goes through this crate: [`RunRecord`] is the content of `run.json`, [`RunDirectory`]
//! is the place it lives in, [`StepLog`] is its `steps.jsonl`, and [`EvaluationRecord`] is its `evaluation.json`. These
//! are plain data types with atomic writing, an operating-system lock and a lease for machines that it does not reach.
//! The layout and the schema are described in ARCHITECTURE.md.
//!
//! This crate knows neither tensors nor models, and it never prints: whatever reads runs (tables, plots, reports)
//! can depend on it alone.

mod atomic;
mod dataset;
mod directory;
mod error;
mod evaluation;
mod lease;
mod list;
mod lock;
pub mod number;
mod run;
mod steps;

pub use atomic::{replace_file, sync_directory};
pub use dataset::{ClassCounts, DatasetRecord, ImagesRecord};
pub use directory::RunDirectory;
pub use error::RecordError;
pub use evaluation::{
    CalibrationBin, CalibrationRecord, ClassRecord, ConfusedPair, EvaluationRecord, MisclassifiedRecord, MistakeRecord,
};
pub use lease::Holder;
pub use list::{ListedRun, list_runs};
pub use lock::{RunLock, lock_directory};
pub use run::{
    DivergenceRecord, EpochRecord, InitialWeightsRecord, MachineRecord, MetricRecord, Metrics, PartRecord, RunRecord,
    RunStatus, SCHEMA, Setup, TestRecord, Timings,
};
pub use steps::{GradientRecord, LayerGradient, StepLog, StepRecord, read_steps};

/// The time, RFC 3339 in UTC, to the second.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as [`now`] writes it, in seconds since 1970, UTC; none where it is something else.
#[must_use]
pub fn unix_seconds(time: &str) -> Option<f64> {
    Some(time.parse::<jiff::Timestamp>().ok()?.as_millisecond() as f64 / 1e3)
}
