use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::ChannelOrder;

use crate::{BatchNorm, ImageShape, LayerSummary, fused, init::Initializer, layers};

/// A convolutional network: two blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then two linear
/// layers with ReLU between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CnnConfig {
    /// Channels after each convolution.
    pub channels: [usize; 2],
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
    fc1: Linear,
    fc2: Linear,
}

impl CnnConfig {
    pub(crate) fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Cnn {
        let mut initializer = Initializer::new(seed, device);
        let [first, second] = self.channels;
        Cnn {
            conv1: initializer.convolution(1, first),
            bn1: BatchNorm::new(first, device),
            conv2: initializer.convolution(first, second),
            bn2: BatchNorm::new(second, device),
            fc1: initializer.linear(self.features(shape), self.hidden),
            fc2: initializer.linear(self.hidden, shape.classes),
        }
    }

    pub(crate) fn layers(&self, shape: ImageShape) -> Vec<LayerSummary> {
        let [first, second] = self.channels;
        let (height, width) = (shape.height, shape.width);
        vec![
            layers::convolution("conv1", 1, first, [height, width]),
            layers::batch_norm("bn1", &[first, height, width]),
            layers::plain("", "ReLU, max pool 2x2", &[first, height / 2, width / 2]),
            layers::convolution("conv2", first, second, [height / 2, width / 2]),
            layers::batch_norm("bn2", &[second, height / 2, width / 2]),
            layers::plain("", "ReLU, max pool 2x2", &[second, height / 4, width / 4]),
            layers::linear("fc1", self.features(shape), self.hidden),
            layers::plain("", "ReLU", &[self.hidden]),
            layers::linear("fc2", self.hidden, shape.classes),
        ]
    }

    /// Numbers that the second block leaves for the linear layers.
    fn features(&self, shape: ImageShape) -> usize {
        self.channels[1] * (shape.height / 4) * (shape.width / 4)
    }
}

impl Cnn {
    /// # Shapes
    /// - images: `[batch, 1, height, width]`
    /// - logits: `[batch, classes]`
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = fused::conv_block(images, &self.conv1, &self.bn1, ChannelOrder::Last); // [batch, 32, 14, 14]
        let x = fused::conv_block(x, &self.conv2, &self.bn2, ChannelOrder::First); // [batch, 64, 7, 7]
        let x = x.flatten::<2>(1, 3); // [batch, 3136]
        let x = fused::linear_relu(x, &self.fc1); // [batch, 128]
        fused::linear(x, &self.fc2) // [batch, 10]
    }
}
