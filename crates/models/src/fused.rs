//! Burn's layers by way of Kindling's kernels.

use burn::{
    module::Param,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::{self as kernels, ChannelOrder, ConvBlock};

use crate::BatchNorm;

/// `[batch, inputs]` to `[batch, outputs]`.
pub(crate) fn linear(x: Tensor<2>, layer: &Linear) -> Tensor<2> {
    let bias = bias(layer.bias.as_ref(), layer.weight.dims()[1], &x.device());
    kernels::linear(x, layer.weight.val(), bias)
}

/// A linear layer with a ReLU behind it: `[batch, inputs]` to `[batch, outputs]`.
pub(crate) fn linear_relu(x: Tensor<2>, layer: &Linear) -> Tensor<2> {
    let bias = bias(layer.bias.as_ref(), layer.weight.dims()[1], &x.device());
    kernels::linear_relu(x, layer.weight.val(), bias)
}

/// Convolution, batch norm, ReLU, pooling: `[batch, inputs, height, width]` to `[batch, outputs, height / 2, width / 2]`.
///
/// On a device with autodiff batch norm takes the batch's statistics, and remembers them; elsewhere it takes the running
/// ones. `order` is that of the output's memory.
pub(crate) fn conv_block(x: Tensor<4>, convolution: &Conv2d, norm: &BatchNorm, order: ChannelOrder) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let device = x.device();
    let weight = convolution.weight.val();
    let bias = bias(convolution.bias.as_ref(), weight.dims()[0], &device);
    let (gamma, beta) = norm.learned();
    let block = ConvBlock { weight, bias, gamma, beta, epsilon: BatchNorm::EPSILON, order };
    if !device.is_autodiff() {
        let (mean, variance) = norm.running(&device);
        return kernels::conv_block_inference(x, block, mean, variance);
    }
    let block = kernels::conv_block(x, block);
    norm.remember(block.mean, block.variance, batch * height * width);
    block.output
}

fn bias(bias: Option<&Param<Tensor<1>>>, outputs: usize, device: &Device) -> Tensor<1> {
    bias.map_or_else(|| Tensor::zeros([outputs], device), Param::val)
}
