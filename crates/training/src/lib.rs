//! Trains any Burn module into a run directory that can be resumed to the same bits.
//!
//! A [`Task`] is a module with its loss and metrics; a [`Source`] gives its batches by the numbers of their samples.
//! [`Trainer`] takes both with any of Burn's optimizers and trains: with checkpoints after any step, exact resume, the
//! best weights, early stopping, clipping, gradient accumulation, moving averages, several devices, a step log, and
//! burn-train's dashboard.
//!
//! ```
//! use burn::{
//!     module::Module,
//!     nn::{Linear, LinearConfig},
//!     optim::AdamConfig,
//!     tensor::{Device, Tensor, TensorData},
//! };
//! use kindling_record::RunDirectory;
//! use kindling_training::{Metric, Objective, Rows, Schedule, Source, SourceError, Sums, Task, Trainer};
//!
//! /// Fits a straight line.
//! #[derive(Module, Debug)]
//! struct Line {
//!     linear: Linear,
//! }
//!
//! impl Line {
//!     /// The squared distance of each prediction, `[batch]`.
//!     fn losses(&self, (x, y): (Tensor<2>, Tensor<2>)) -> Tensor<1> {
//!         (self.linear.forward(x) - y).square().flatten(0, 1)
//!     }
//! }
//!
//! impl Task for Line {
//!     type Batch = (Tensor<2>, Tensor<2>); // [batch, 1] each
//!     const METRICS: &'static [Metric] = &[Metric::LOSS];
//!
//!     fn train(&self, batch: Self::Batch) -> Objective {
//!         let losses = self.losses(batch);
//!         Objective::new(losses.clone().mean(), Sums::new(losses.dims()[0], [losses.sum()]))
//!     }
//!
//!     fn evaluate(&self, batch: Self::Batch) -> Sums {
//!         let losses = self.losses(batch);
//!         Sums::new(losses.dims()[0], [losses.sum()])
//!     }
//! }
//!
//! /// Points on y = 2x - 1.
//! struct Points(usize);
//!
//! impl Source for Points {
//!     type Batch = (Tensor<2>, Tensor<2>);
//!
//!     fn len(&self) -> usize {
//!         self.0
//!     }
//!
//!     fn digest(&self) -> String {
//!         format!("{} points", self.0)
//!     }
//!
//!     fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<Self::Batch, SourceError> {
//!         let x: Vec<f32> = rows.iter().map(|&row| row as f32 / self.0 as f32).collect();
//!         let x = Tensor::from_data(TensorData::new(x, [rows.len(), 1]), device);
//!         Ok((x.clone(), x * 2.0 - 1.0))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! device.seed(1);
//! let line = Line { linear: LinearConfig::new(1, 1).init(&device) };
//! let runs = tempfile::tempdir()?;
//! let directory = RunDirectory::create(runs.path(), "line")?;
//! let record = Trainer::new(line, AdamConfig::new().init())
//!     .learning_rate(0.1)
//!     .schedule(Schedule::cosine())
//!     .epochs(30)
//!     .batch_size(16)
//!     .fit(&directory, Points(200), Points(50))?;
//! assert!(record.epochs[29].get("valid/loss") < Some(1e-3));
//! # Ok(())
//! # }
//! ```
//!
//! This crate knows no image, no network, no data set and no backend, and it parses no arguments.

mod carried;
mod checkpoint;
mod clip;
mod deferred;
mod divergence;
mod early_stopping;
mod ema;
mod error;
mod feed;
mod fixed;
mod freeze;
pub mod gradients;
mod graph;
mod guard;
mod host;
mod lines;
mod metrics;
mod order;
mod parameters;
mod replicas;
mod run;
mod schedule;
mod session;
mod shell;
mod silent;
mod source;
mod start;
mod steps;
mod task;
#[cfg(test)]
mod tests;
mod trainer;
mod warm_up;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use clip::clip_by_global_norm;
pub use deferred::DeferredSums;
pub use error::{SourceError, TrainingError};
pub use fixed::FixedBatch;
pub use freeze::freeze;
pub use graph::check_graph;
pub use guard::contained;
pub use host::{BURN_VERSION, Event, Host, MakeRenderer, OnEvent, Phase, Place};
pub use kindling_kernels::nn::{Parameter, named_parameters};
pub use order::{Order, epoch_order, stream};
pub use parameters::{initialize, trainable_parameters};
pub use schedule::{LearningRates, RateSchedule, Schedule};
pub use session::{OnEpoch, OnStep};
pub use silent::Silent;
pub use source::{DatasetSource, Rows, Source, batches};

pub use task::{Metric, Objective, Step, Sums, Task, Totals, training_step};
pub use trainer::Trainer;
