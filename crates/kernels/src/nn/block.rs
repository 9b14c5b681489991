use burn::{
    config::Config,
    module::Module,
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{BatchNorm, batch_norm::is_in_evaluation, linear::bias_or_zeros};
use crate::ChannelOrder;

/// Config of a [`ConvBlock`].
#[derive(Config, Debug)]
pub struct ConvBlockConfig {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Whether the output has its channels last in memory: faster when another block follows, slower when the output is
    /// flattened. The values and their indices are the same.
    #[config(default = false)]
    pub channels_last: bool,
}

/// 3x3 convolution with padding 1, batch norm, ReLU and 2x2 max pooling; see [`crate::conv_block`].
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// The convolution, with weight `[outputs, inputs, 3, 3]`.
    pub conv: Conv2d,
    /// The batch norm over the convolution's channels.
    pub norm: BatchNorm,
    /// See [`ConvBlockConfig::channels_last`].
    pub channels_last: bool,
}

impl ConvBlockConfig {
    /// Makes the block. Its weights are drawn from the device's generator when they are first used.
    #[must_use]
    pub fn init(&self, device: &Device) -> ConvBlock {
        let conv = Conv2dConfig::new([self.inputs, self.outputs], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(device);
        ConvBlock { conv, norm: BatchNorm::new(self.outputs, device), channels_last: self.channels_last }
    }
}

impl ConvBlock {
    /// On a device with autodiff batch norm takes the batch's statistics and updates the running ones; elsewhere, and where
    /// its scale is frozen, it takes the running ones and leaves them as they are.
    ///
    /// # Shapes
    /// - x: `[batch, inputs, height, width]`
    /// - output: `[batch, outputs, height / 2, width / 2]`
    ///
    /// # Panics
    /// When `x` has another number of channels.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let order = if self.channels_last { ChannelOrder::Last } else { ChannelOrder::First };
        conv_block(x, &self.conv, &self.norm, order)
    }
}

/// Convolution, batch norm, ReLU and 2x2 max pooling: `[batch, inputs, height, width]` to
/// `[batch, outputs, height / 2, width / 2]`.
///
/// On a device with autodiff batch norm takes the batch's statistics and updates the running ones; elsewhere, and where its
/// scale is frozen, it takes the running ones and leaves them as they are. `order` is that of the output's memory. Of the convolution only the parameters count: it is taken with
/// stride 1 and padding 1.
///
/// # Panics
/// When `x` has another number of channels, or the convolution's kernel is not 3x3.
#[must_use]
pub fn conv_block(x: Tensor<4>, convolution: &Conv2d, norm: &BatchNorm, order: ChannelOrder) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let device = x.device();
    let weight = convolution.weight.val();
    let bias = bias_or_zeros(convolution.bias.as_ref(), weight.dims()[0], &device);
    let (gamma, beta) = norm.learned();
    let is_in_evaluation = is_in_evaluation(&gamma);
    let block = crate::ConvBlock { weight, bias, gamma, beta, epsilon: BatchNorm::EPSILON, order };
    if is_in_evaluation {
        let (mean, variance) = norm.running(&device);
        return crate::conv_block_inference(x, block, mean, variance);
    }
    let block = crate::conv_block(x, block);
    norm.remember(block.mean, block.variance, batch * height * width);
    block.output
}
