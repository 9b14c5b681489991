//! Image sets for Kindling: pictures in folders, tables and Parquet files, CIFAR, Fashion-MNIST and any other set in
//! MNIST's format, and a drawn one for offline trials.
//!
//! A [`Dataset`] is what a config names; it loads an [`ImageData`]: train, validation and test images as bytes, in memory
//! or in a file that is mapped into it. Pictures are decoded once, into a packed file in the user's cache. An
//! [`ImageSet`] is a Burn `Dataset`, and [`ImageBatcher`] a Burn `Batcher`, so Burn's own loaders work with them.
//! Training uses an [`ImageSource`] instead, which makes a batch from bytes in one pass; [`Augmentation`]s are part of it.
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
//! This crate knows no models, never prints, and never picks a device; what takes long reports through a callback.

mod augment;
mod batch;
mod cache;
mod cifar;
mod classes;
mod csv_set;
mod dataset;
mod device_split;
mod digest;
mod download;
mod error;
pub mod fashion_mnist;
mod fit;
mod folder;
mod idx;
pub mod idx_set;
mod image_data;
mod image_set;
mod label_problem;
mod listing;
mod pack;
mod package;
mod parquet_set;
pub mod photo;
pub mod picture;
mod sampler;
mod signature;
mod source;
mod split;
pub mod synthetic;
mod table_files;

pub use batch::{ImageBatch, ImageBatcher, Mixed, Normalization};
pub use cifar::Cifar;
pub use csv_set::Csv;
pub use dataset::{Dataset, FashionMnist, Idx, ImageOptions, Load, Synthetic};
pub use download::Limits;
pub use error::{DataError, LoadEvent};
pub use fit::fitted_picture;
pub use folder::Folder;
pub use image_data::ImageData;
pub use image_set::{ImageItem, ImageSet};
pub use kindling_config::{Augmentation, Channels, Fit, ImageSize, Sampler};
pub use label_problem::LabelProblem;
pub use parquet_set::Parquet;
pub use source::ImageSource;
pub use split::{Splits, assignment_splits, fold_splits, stratified, validated_splits};
