use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::{
    ChannelOrder,
    nn::{self, BatchNorm},
};
use serde::{Deserialize, Serialize};

use crate::{ImageShape, ModelError, Network, NetworkConfig, init::Initializer};

/// A convolutional network: two or three blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then two linear
/// layers with ReLU between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CnnConfig {
    /// Channels after each convolution.
    pub channels: Vec<usize>,
    /// Width of the hidden linear layer.
    pub hidden: usize,
}

/// See [`CnnConfig`]; `conv1.weight`, `bn1.running_mean`, `fc1.weight` and so on in PyTorch's naming.
#[derive(Module, Debug)]
pub struct Cnn {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    // A network of two blocks lacks these, and its files do too.
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    fc1: Linear,
    fc2: Linear,
}

impl Default for CnnConfig {
    /// The preset `cnn`.
    fn default() -> Self {
        Self { channels: vec![32, 64], hidden: 128 }
    }
}

impl NetworkConfig for CnnConfig {
    type Network = Cnn;

    const HELP: &'static [(&'static str, &'static str)] = &[
        ("channels", "Channels after each convolution block; two or three blocks"),
        ("hidden", "Width of the hidden linear layer"),
    ];

    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Cnn, ModelError> {
        let ([first, second], third) = self.blocks()?;
        self.check(shape)?;
        let mut initializer = Initializer::new(seed, device);
        Ok(Cnn {
            conv1: initializer.convolution(shape.channels, first),
            bn1: BatchNorm::new(first, device),
            conv2: initializer.convolution(first, second),
            bn2: BatchNorm::new(second, device),
            conv3: third.map(|third| initializer.convolution(second, third)),
            bn3: third.map(|third| BatchNorm::new(third, device)),
            fc1: initializer.linear(self.features(shape), self.hidden),
            fc2: initializer.linear(self.hidden, shape.classes),
        })
    }
}

impl CnnConfig {
    /// Whether every layer has units, and the images are large enough to be halved by each block.
    fn check(&self, shape: ImageShape) -> Result<(), ModelError> {
        if self.channels.contains(&0) {
            return Err(ModelError::EmptyLayer { key: "channels", widths: self.channels.clone() });
        }
        if self.hidden == 0 {
            return Err(ModelError::EmptyLayer { key: "the hidden width", widths: vec![0] });
        }
        let least = 1 << self.channels.len();
        if shape.height.min(shape.width) < least {
            return Err(ModelError::TooSmall { network: "a cnn", least, height: shape.height, width: shape.width });
        }
        Ok(())
    }

    /// The channels of the first two blocks, and of the third if there is one.
    fn blocks(&self) -> Result<([usize; 2], Option<usize>), ModelError> {
        match self.channels[..] {
            [first, second] => Ok(([first, second], None)),
            [first, second, third] => Ok(([first, second], Some(third))),
            _ => Err(ModelError::Blocks { channels: self.channels.clone() }),
        }
    }

    /// Numbers that the last block leaves for the linear layers.
    fn features(&self, shape: ImageShape) -> usize {
        let halved = |side: usize| self.channels.iter().fold(side, |side, _| side / 2);
        self.channels.last().map_or(0, |channels| channels.saturating_mul(halved(shape.height) * halved(shape.width)))
    }
}

impl Network for Cnn {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // In the margin: the preset on images of 28x28 pixels in ten classes.
        let x = nn::conv_block(images, &self.conv1, &self.bn1, ChannelOrder::Last); // [batch, 32, 14, 14]
        let x = if let (Some(conv3), Some(bn3)) = (&self.conv3, &self.bn3) {
            let x = nn::conv_block(x, &self.conv2, &self.bn2, ChannelOrder::Last); // [batch, 64, 7, 7]
            nn::conv_block(x, conv3, bn3, ChannelOrder::First) // [batch, 128, 3, 3]
        } else {
            nn::conv_block(x, &self.conv2, &self.bn2, ChannelOrder::First) // [batch, 64, 7, 7]
        };
        let x = x.flatten::<2>(1, 3); // [batch, 3136], or [batch, 1152] after three blocks
        let x = nn::linear_relu(x, &self.fc1); // [batch, 128]
        nn::linear(x, &self.fc2) // [batch, 10]
    }
}
