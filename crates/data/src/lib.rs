//! Image sets for Kindling: Fashion-MNIST, any other set in MNIST's format, and a drawn one for offline trials.
//!
//! A [`Dataset`] is what a config names; it loads an [`ImageData`]: train and test images as bytes in memory. An
//! [`ImageSet`] is a Burn `Dataset`, and [`ImageBatcher`] a Burn `Batcher`, so Burn's own loaders work with them.
//! Training uses an [`ImageSource`] instead: the split lives on the device once, and a batch is one gather;
//! [`Augmentation`] is one more.
//!
//! ```
//! use kindling_data::{ImageSource, Normalization, synthetic};
//! use kindling_training::Source;
//!
//! let data = synthetic::draw();
//! let source = ImageSource::new(data.train, Normalization::default(), data.sha256);
//! assert_eq!(source.len(), 6_000);
//! ```
//!
//! This crate knows no models, never prints, and never picks a device; downloads report through a callback.

mod augment;
mod batch;
mod classes;
mod dataset;
mod device_split;
mod download;
mod error;
pub mod fashion_mnist;
mod idx;
pub mod idx_set;
mod image_set;
mod label_problem;
mod listing;
mod package;
mod signature;
mod source;
mod split;
pub mod synthetic;

pub use augment::Augmentation;
pub use batch::{ImageBatch, ImageBatcher, Normalization};
pub use dataset::{Dataset, FashionMnist, Idx, Load, Synthetic};
pub use download::{FetchEvent, Limits};
pub use error::DataError;
pub use image_set::{ImageData, ImageItem, ImageSet};
pub use label_problem::LabelProblem;
pub use source::ImageSource;
pub use split::{Splits, assignment_splits, validated_splits};
