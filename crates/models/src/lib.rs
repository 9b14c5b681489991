//! The image classifiers of Kindling, and the two traits for a network of one's own.
//!
//! A [`NetworkConfig`] makes a [`Network`], a Burn module that maps images `[batch, channels, height, width]` to logits
//! `[batch, classes]`. [`presets`] lists the networks that have a name, and [`layers()`] reads the table of any module.
//! All are PyTorch's equals: the same weights and batches give the same logits, gradients and running statistics
//! (`assets/golden` has the proof).
//!
//! ```
//! use burn::{
//!     module::Module,
//!     nn::{Linear, LinearConfig},
//!     tensor::{Device, Tensor},
//! };
//! use kindling_models::{ImageShape, ModelError, Network, NetworkConfig, layers, trainable_parameters};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct BottleneckConfig {
//!     width: usize,
//! }
//!
//! #[derive(Module, Debug)]
//! struct Bottleneck {
//!     narrow: Linear,
//!     classify: Linear,
//! }
//!
//! impl NetworkConfig for BottleneckConfig {
//!     type Network = Bottleneck;
//!
//!     fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Bottleneck, ModelError> {
//!         let pixels = shape.channels * shape.height * shape.width;
//!         Ok(Bottleneck {
//!             narrow: LinearConfig::new(pixels, self.width).init(device),
//!             classify: LinearConfig::new(self.width, shape.classes).init(device),
//!         })
//!     }
//! }
//!
//! impl Network for Bottleneck {
//!     fn forward(&self, images: Tensor<4>) -> Tensor<2> {
//!         self.classify.forward(self.narrow.forward(images.flatten(1, 3)))
//!     }
//! }
//!
//! # fn main() -> Result<(), ModelError> {
//! let network = BottleneckConfig { width: 8 }.init(ImageShape::MNIST, 42, &Device::flex())?;
//! assert_eq!(trainable_parameters(&layers(&network)), 784 * 8 + 8 + 8 * 10 + 10);
//! # Ok(())
//! # }
//! ```
//!
//! This crate knows neither data sets nor losses: softmax, targets and optimizers belong to training.

mod airbench;
mod cnn;
mod init;
mod layers;
mod mlp;
mod network;
mod preset;
mod resnet;
mod whitening;
mod wrn;

pub use airbench::{Airbench, AirbenchConfig};
pub use cnn::{Cnn, CnnConfig};
pub use layers::{LayerSummary, layers, trainable_parameters};
pub use mlp::{Mlp, MlpConfig};
pub use network::{ModelError, Network, NetworkConfig};
pub use preset::{Preset, REFERENCE, presets};
pub use resnet::{Resnet, ResnetConfig};
pub use whitening::Whitening;
pub use wrn::{Wrn, WrnConfig};

/// What the data asks of a network's first and last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Channels of an image: 1 for grey, 3 for colour.
    pub channels: usize,
    /// Pixels in a column.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

impl ImageShape {
    /// MNIST's and Fashion-MNIST's: one channel of 28x28 pixels in ten classes.
    pub const MNIST: Self = Self { channels: 1, height: 28, width: 28, classes: 10 };
}

#[cfg(test)]
mod tests;
