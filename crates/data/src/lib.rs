//! Image sets for Kindling: Fashion-MNIST, any other set in MNIST's format, and a drawn one for offline trials.
//!
//! [`fashion_mnist::load`], [`idx_set::load`] and [`synthetic::draw`] give an [`ImageData`]: train and test images as
//! bytes in memory. An [`ImageSet`] is a Burn `Dataset`, and [`ImageBatcher`] a Burn `Batcher`, so Burn's own loaders
//! work with them. Training uses [`BatchLoader`] instead: the split lives on the device once, an epoch's order is a
//! pure function of (seed, epoch), and a batch is one gather; [`Augmentation`] is one more.
//!
//! This crate knows no models, never prints, and never picks a device; downloads report through a callback.

mod augment;
mod batch;
mod classes;
mod device_split;
mod download;
mod error;
pub mod fashion_mnist;
mod idx;
pub mod idx_set;
mod image_set;
mod label_problem;
mod listing;
mod loader;
mod order;
mod package;
mod signature;
mod split;
pub mod synthetic;

pub use augment::Augmentation;
pub use batch::{ImageBatch, ImageBatcher, Normalization};
pub use device_split::DeviceSplit;
pub use download::{FetchEvent, Limits};
pub use error::DataError;
pub use image_set::{ImageData, ImageItem, ImageSet};
pub use label_problem::LabelProblem;
pub use loader::BatchLoader;
pub use order::{Order, epoch_order};
pub use split::{Splits, assignment_splits, validated_splits};
