use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Int, Tensor},
};

use crate::{
    ChannelOrder,
    composed::{self, BlockTensors},
};

/// What a convolution block learns, and its constant.
#[derive(Clone, Debug)]
pub struct ConvBlock {
    /// The convolution's, `[outputs, inputs, 3, 3]`.
    pub weight: Tensor<4>,
    /// The convolution's, `[outputs]`.
    pub bias: Tensor<1>,
    /// Batch norm's scale, `[outputs]`.
    pub gamma: Tensor<1>,
    /// Batch norm's shift, `[outputs]`.
    pub beta: Tensor<1>,
    /// What batch norm adds to the variance.
    pub epsilon: f64,
    /// Where the output has its channels in memory. The tensor is the same; a block that follows takes it faster with the
    /// channels last, and what flattens it with the channels first.
    pub order: ChannelOrder,
}

/// What [`conv_block`] gives.
#[derive(Clone, Debug)]
pub struct ConvBlockOutput {
    /// `[batch, outputs, height / 2, width / 2]`
    pub output: Tensor<4>,
    /// The batch's mean of each channel of the convolution, `[outputs]`; no gradient passes it.
    pub mean: Tensor<1>,
    /// The batch's variance of each channel, with the number of values as its divisor, `[outputs]`; no gradient passes it.
    pub variance: Tensor<1>,
}

/// The operations on a backend's tensors. The bodies here compose Burn's operations, for every backend that has none of its
/// own.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "libtorch"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Autodiff
)]
pub trait KernelOps: Backend {
    /// See [`linear`] and [`linear_relu`].
    fn linear_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        relu: bool,
    ) -> FloatTensor<Self> {
        composed::linear::<Self>(x, weight, bias, relu)
    }

    /// See [`conv_block`].
    fn conv_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        order: ChannelOrder,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = order; // Burn's operations have an order of their own.
        composed::conv_block::<Self>(x, BlockTensors { weight, bias, gamma, beta }, epsilon)
    }

    /// See [`conv_block_inference`].
    #[allow(clippy::too_many_arguments)] // They are one layer's tensors.
    fn conv_block_inference(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        order: ChannelOrder,
    ) -> FloatTensor<Self> {
        let _ = order; // As above.
        composed::conv_block_inference::<Self>(x, BlockTensors { weight, bias, gamma, beta }, mean, variance, epsilon)
    }

    /// See [`cross_entropy`].
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, smoothing: f64) -> FloatTensor<Self> {
        composed::cross_entropy::<Self>(logits, targets, smoothing)
    }

    /// See [`select_rows`].
    fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        composed::select_rows::<Self>(matrix, indices)
    }

    /// See [`sgd_step`].
    fn sgd_step(parameter: FloatTensor<Self>, gradient: FloatTensor<Self>, rate: f64) -> FloatTensor<Self> {
        composed::sgd_step::<Self>(parameter, gradient, rate)
    }
}

#[cfg(feature = "cube")]
impl KernelOps for burn::backend::Cube {}
#[cfg(feature = "remote")]
impl KernelOps for burn::backend::Remote {}

/// A linear layer, `x W + b`.
///
/// # Shapes
/// - x: `[batch, inputs]`
/// - weight: `[inputs, outputs]`
/// - bias: `[outputs]`
/// - output: `[batch, outputs]`
///
/// # Panics
/// When the shapes do not fit together.
#[must_use]
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    layer(x, weight, bias, false)
}

/// A linear layer with a ReLU behind it, `max(x W + b, 0)`. Shapes and panics as for [`linear`].
#[must_use]
pub fn linear_relu(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    layer(x, weight, bias, true)
}

fn layer(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, relu: bool) -> Tensor<2> {
    let ([_, inputs], [rows, outputs]) = (x.dims(), weight.dims());
    assert_eq!(inputs, rows, "a linear layer of {rows} inputs was given {inputs}");
    assert_eq!(bias.dims(), [outputs], "a linear layer's bias has one number for each output");
    Tensor::from_dispatch(Dispatch::linear_layer(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), relu))
}

/// A convolution block in training: 3x3 convolution with stride 1 and padding 1, batch norm by the batch's own statistics,
/// ReLU, 2x2 max pooling.
///
/// # Shapes
/// - x: `[batch, inputs, height, width]`
/// - output: `[batch, outputs, height / 2, width / 2]`
///
/// # Panics
/// When the shapes do not fit together.
#[must_use]
pub fn conv_block(x: Tensor<4>, block: ConvBlock) -> ConvBlockOutput {
    block.check(&x);
    let (output, mean, variance) = Dispatch::conv_block(
        x.into_dispatch(),
        block.weight.into_dispatch(),
        block.bias.into_dispatch(),
        block.gamma.into_dispatch(),
        block.beta.into_dispatch(),
        block.epsilon,
        block.order,
    );
    ConvBlockOutput {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// A convolution block in evaluation: as [`conv_block`], with the statistics that training has gathered, `[outputs]` each.
///
/// On a device with autodiff gradients pass it, as a frozen batch norm wants it; where nothing has one, nothing is kept.
///
/// # Panics
/// When the shapes do not fit together.
#[must_use]
pub fn conv_block_inference(x: Tensor<4>, block: ConvBlock, mean: Tensor<1>, variance: Tensor<1>) -> Tensor<4> {
    block.check(&x);
    assert_eq!([mean.dims(), variance.dims()], [block.bias.dims(); 2], "one mean and one variance for each output");
    Tensor::from_dispatch(Dispatch::conv_block_inference(
        x.into_dispatch(),
        block.weight.into_dispatch(),
        block.bias.into_dispatch(),
        block.gamma.into_dispatch(),
        block.beta.into_dispatch(),
        mean.into_dispatch(),
        variance.into_dispatch(),
        block.epsilon,
        block.order,
    ))
}

impl ConvBlock {
    fn check(&self, x: &Tensor<4>) {
        let ([_, channels, ..], [outputs, inputs, height, width]) = (x.dims(), self.weight.dims());
        assert_eq!(channels, inputs, "a convolution of {inputs} channels was given {channels}");
        assert_eq!([height, width], [3, 3], "a convolution block's kernel is 3x3");
        let vectors = [self.bias.dims(), self.gamma.dims(), self.beta.dims()];
        assert_eq!(vectors, [[outputs]; 3], "bias, gamma and beta have one number for each output");
    }
}

/// The cross entropy of each row of logits, in nats: with smoothing `s`, `1 - s` of it against the target and `s` against the
/// even distribution, as PyTorch's `cross_entropy` has it.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - targets: `[batch]`
/// - output: `[batch]`
///
/// # Panics
/// When there is not one target for each row, or one is no class.
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    assert_eq!(logits.dims()[0], targets.dims()[0], "one target for each row of logits");
    Tensor::from_dispatch(Dispatch::cross_entropy(logits.into_dispatch(), targets.into_dispatch(), smoothing))
}

/// The rows of a matrix at `indices`, in their order.
///
/// # Shapes
/// - matrix: `[rows, columns]`
/// - indices: `[selected]`
/// - output: `[selected, columns]`
///
/// # Panics
/// When there is no such row.
#[must_use]
pub fn select_rows(matrix: Tensor<2>, indices: Tensor<1, Int>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::select_rows(matrix.into_dispatch(), indices.into_dispatch()))
}

/// A step of gradient descent, `parameter - rate * gradient`, in the parameter's own memory if it is the only reference to it.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn sgd_step<const D: usize>(parameter: Tensor<D>, gradient: Tensor<D>, rate: f64) -> Tensor<D> {
    assert_eq!(parameter.dims(), gradient.dims(), "a gradient has its parameter's shape");
    Tensor::from_dispatch(Dispatch::sgd_step(parameter.into_dispatch(), gradient.into_dispatch(), rate))
}
