//! Training and evaluation of image classifiers on burn-train.
//!
//! [`train`] and [`resume`] are the entries: an [`ExperimentConfig`] is all that goes in, a run directory is all that
//! comes out. Underneath, [`Classifier`] is the one wrapper that knows losses, and a learning strategy of its own
//! runs inside burn-train's `SupervisedTraining`: it stops within an epoch, keeps the best weights, and resumes
//! exactly.
//!
//! This crate names no backend, parses no arguments, and never prints: the device, the renderer and the wish to stop
//! come from the caller.

mod checkpoint;
mod classification;
mod classifier;
mod clip;
mod config;
mod config_file;
mod divergence;
mod early_stopping;
mod error;
mod evaluation;
mod fit;
mod gradients;
mod grid;
mod host;
mod lr_range;
mod metrics;
mod optimizer;
mod predict;
mod replicas;
mod run;
mod sanity;
mod schedule;
mod session;
mod settings;
mod sgd_step;
mod silent;
mod splits;
#[cfg(test)]
mod tests;
mod warm_up;

pub use checkpoint::Checkpoint;
pub use classification::{Prediction, calibration, class_records, confused_pairs, mistakes};
pub use classifier::{BatchFigures, BatchOutput, Classifier, cross_entropy};
pub use clip::clip_by_global_norm;
pub use config::{
    AugmentationName, DatasetName, ExperimentConfig, OptimizerName, OrderName, Precision, Protocol, ScheduleName,
    StoppingMetric,
};
pub use error::{ConfigError, TrainingError};
pub use evaluation::{Evaluation, evaluate};
pub use fit::check;
pub use grid::Grid;
pub use host::{Event, Host, MakeRenderer, OnEvent, Phase};
pub use lr_range::{LearningRateRange, RangePoint, RangeTest, SMOOTHING, lr_range_test};
pub use optimizer::{LearningRates, init_optimizer};
pub use predict::predict;
pub use run::{BURN_VERSION, check_data, resume, test, train};
pub use sanity::{CheckDevice, CheckResult, sanity_checks};
pub use schedule::Schedule;
pub use settings::Settings;
pub use silent::Silent;
