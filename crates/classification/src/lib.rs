//! Image classification: what a config of Kindling makes of the engine, for any network.
//!
//! [`Classifier`] is the task: a network with its cross entropy, accuracy and confusion matrix. [`network()`] registers a
//! network's config under a name and hides its type: an [`AnyNetwork`] is trained, resumed, tested, asked for predictions,
//! checked and timed. Without a config, a [`Classifier`] is a `Task` for the engine's own `Trainer` like any other.
//!
//! ```
//! use kindling_classification::network;
//! use kindling_models::{ImageShape, MlpConfig};
//!
//! let mlp = network("small", &MlpConfig { hidden: vec![32] });
//! let section = mlp.section();
//! assert_eq!((section.name.as_str(), &section.keys["hidden"]), ("small", &serde_json::json!([32])));
//! let layers = mlp.layers(&section.keys, ImageShape::MNIST, &burn::tensor::Device::flex())?;
//! assert_eq!(layers.iter().map(|layer| layer.parameters).sum::<usize>(), 784 * 32 + 32 + 32 * 10 + 10);
//! # Ok::<(), kindling_classification::ClassificationError>(())
//! ```
//!
//! This crate names no backend, parses no arguments, and never prints: devices, renderers and the wish to stop come from
//! the caller.

mod classifier;
mod error;
mod evaluation;
mod fit;
#[cfg(test)]
mod fixtures;
mod imported;
mod loss;
mod lr_range;
mod network;
mod optimizer;
mod predictions;
mod predictor;
mod reference_step;
mod run;
mod sanity;
mod splits;
mod steps;
#[cfg(test)]
mod tests;
mod views;
mod workload;

pub use classifier::Classifier;
pub use error::ClassificationError;
pub use evaluation::{Evaluation, evaluate, evaluate_each};
pub use imported::{Imported, TrainedNetwork};
pub use loss::cross_entropy;
pub use lr_range::{LearningRateRange, RangePoint, RangeTest, SMOOTHING};
pub use network::{AnyNetwork, network};
pub use optimizer::{init_optimizer, learning_rates};
pub use predictions::{
    Prediction, balanced_accuracy, calibration, class_records, confused_pairs, macro_f1, misclassified, mistakes,
    top_k, weighted_f1,
};
pub use predictor::{Predictor, preparation};
pub use reference_step::ReferenceStep;
pub use sanity::{CheckDevice, CheckResult};
pub use splits::{
    check_data, class_weights, dtype, image_shape, normalization, recorded_normalization, source, splits, train_order,
    train_source,
};
pub use views::Views;
pub use workload::{IMAGES, Workload, WorkloadConfig};
