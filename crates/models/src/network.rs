use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::ImageShape;

/// An image classifier: a Burn module that maps images to logits.
pub trait Network: Module + ModuleDisplay + 'static {
    /// # Shapes
    /// - images: `[batch, channels, height, width]`
    /// - logits: `[batch, classes]`
    fn forward(&self, images: Tensor<4>) -> Tensor<2>;
}

/// The config of a network: its keys are those of the section `network` in a config file, and it makes the module.
pub trait NetworkConfig: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The module that this config makes.
    type Network: Network;

    /// A line of help for each key, as (key, help).
    const HELP: &'static [(&'static str, &'static str)] = &[];

    /// Makes the network with fresh weights.
    ///
    /// Parameters may be lazy, as those of Burn's own layers are, and should be: the network is also made to count its
    /// parameters before anything is allocated. Burn's initializers draw from the device's generator, which the caller
    /// has seeded; `seed` is for a network that draws its weights itself.
    ///
    /// # Errors
    /// When the config makes no network for such images: [`ModelError::Invalid`] with the reason.
    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Self::Network, ModelError>;

    /// Returns how many training images the network [adapts](Self::adapt) to; 0 for none, which is the default.
    fn sample(&self, _shape: ImageShape) -> usize {
        0
    }

    /// Adapts a network with fresh weights to the data, such as by statistics of the images; by default it stays as it is.
    ///
    /// Called once before the first step of a new run, where [`sample`](Self::sample) asks for images: with so many of them,
    /// or all where there are fewer, from the beginning of the training split in the data set's own order. A resumed run has
    /// the weights of its checkpoint, and weights to start from replace what this returns. Burn's generator is seeded.
    /// A parameter changes with `Param::map`, and stays trainable or frozen.
    ///
    /// # Shapes
    /// - images: `[count, channels, height, width]`, normalized, without augmentations, on the network's device, and the same
    ///   numbers on every device
    ///
    /// # Errors
    /// When the network cannot adapt to such images: [`ModelError::Invalid`] with the reason.
    fn adapt(&self, network: Self::Network, _images: Tensor<4>) -> Result<Self::Network, ModelError> {
        Ok(network)
    }

    /// Returns how many numbers of an image are in a channel where a batch norm of the network has the fewest: with one
    /// number, batches of one image cannot be trained on. By default as many as there can be, as without batch norms.
    fn normalized_pixels(&self, _shape: ImageShape) -> usize {
        usize::MAX
    }
}

/// What can go wrong with a network.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A layer without units.
    #[error("{key} must be at least 1 (got {widths:?})")]
    EmptyLayer {
        /// What was given, in words.
        key: &'static str,
        /// The widths as given.
        widths: Vec<usize>,
    },
    /// A cnn with another number of blocks.
    #[error("a cnn has two or three convolution blocks (got {} with channels {channels:?})", channels.len())]
    Blocks {
        /// The channels as given.
        channels: Vec<usize>,
    },
    /// A residual network of a depth that its blocks do not come to.
    #[error("the depth of a {network} must be 6n + {rest} with n from 1 to {most} (got {depth})")]
    Depth {
        /// The kind of network.
        network: &'static str,
        /// Layers beside the blocks.
        rest: usize,
        /// The largest number of blocks in a stage.
        most: usize,
        /// The depth as given.
        depth: usize,
    },
    /// Pooling would leave nothing.
    #[error(
        "{network} pools its images: this one needs at least {least}x{least} pixels (got {height}x{width}); use an mlp \
         or a resnet"
    )]
    TooSmall {
        /// The kind of network, with its article.
        network: &'static str,
        /// Pixels that both sides need.
        least: usize,
        /// Pixels in a column.
        height: usize,
        /// Pixels in a row.
        width: usize,
    },
    /// Any other reason, for networks of a user's own.
    #[error("{0}")]
    Invalid(String),
}
