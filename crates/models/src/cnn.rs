use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::ChannelOrder;

use crate::{BatchNorm, ImageShape, LayerSummary, ModelError, fused, init::Initializer, layers};

/// A convolutional network: two or three blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then two linear
/// layers with ReLU between them.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl CnnConfig {
    /// # Errors
    /// When there are not two or three blocks, or the images are too small for them.
    pub(crate) fn check(&self, shape: ImageShape) -> Result<(), ModelError> {
        self.blocks()?;
        let least = 1 << self.channels.len();
        if shape.height.min(shape.width) < least {
            return Err(ModelError::TooSmall { least, height: shape.height, width: shape.width });
        }
        Ok(())
    }

    /// # Errors
    /// When there are not two or three blocks.
    pub(crate) fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Cnn, ModelError> {
        let ([first, second], third) = self.blocks()?;
        let mut initializer = Initializer::new(seed, device);
        Ok(Cnn {
            conv1: initializer.convolution(1, first),
            bn1: BatchNorm::new(first, device),
            conv2: initializer.convolution(first, second),
            bn2: BatchNorm::new(second, device),
            conv3: third.map(|third| initializer.convolution(second, third)),
            bn3: third.map(|third| BatchNorm::new(third, device)),
            fc1: initializer.linear(self.features(shape), self.hidden),
            fc2: initializer.linear(self.hidden, shape.classes),
        })
    }

    pub(crate) fn layers(&self, shape: ImageShape) -> Vec<LayerSummary> {
        let (mut inputs, mut height, mut width) = (1, shape.height, shape.width);
        let mut summaries = Vec::new();
        for (number, &outputs) in (1..).zip(&self.channels) {
            summaries.push(layers::convolution(format!("conv{number}"), inputs, outputs, [height, width]));
            summaries.push(layers::batch_norm(format!("bn{number}"), &[outputs, height, width]));
            (inputs, height, width) = (outputs, height / 2, width / 2);
            summaries.push(layers::plain("", "ReLU, max pool 2x2", &[outputs, height, width]));
        }
        summaries.push(layers::linear("fc1", self.features(shape), self.hidden));
        summaries.push(layers::plain("", "ReLU", &[self.hidden]));
        summaries.push(layers::linear("fc2", self.hidden, shape.classes));
        summaries
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

impl Cnn {
    /// # Shapes
    /// - images: `[batch, 1, height, width]`
    /// - logits: `[batch, classes]`
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = fused::conv_block(images, &self.conv1, &self.bn1, ChannelOrder::Last); // [batch, 32, 14, 14]
        let x = if let (Some(conv3), Some(bn3)) = (&self.conv3, &self.bn3) {
            let x = fused::conv_block(x, &self.conv2, &self.bn2, ChannelOrder::Last); // [batch, 64, 7, 7]
            fused::conv_block(x, conv3, bn3, ChannelOrder::First) // [batch, 128, 3, 3]
        } else {
            fused::conv_block(x, &self.conv2, &self.bn2, ChannelOrder::First) // [batch, 64, 7, 7]
        };
        let x = x.flatten::<2>(1, 3); // [batch, 3136], or [batch, 1152] after three blocks
        let x = fused::linear_relu(x, &self.fc1); // [batch, 128]
        fused::linear(x, &self.fc2) // [batch, 10]
    }
}
