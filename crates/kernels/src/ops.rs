use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Int, Tensor},
};

use crate::{
    Activation, ConvLayer, composed,
    conv::ConvPrimitives,
    optimizer::{self, AdamStep, MomentumStep, MuonStep},
};

/// The operations on a backend's tensors. The bodies here compose Burn's operations, for every backend that has none of its
/// own.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "libtorch"),
    Cube: cfg(feature = "cube"),
    Remote: cfg(feature = "remote"),
    Capture: cfg(feature = "capture"),
    Autodiff
)]
pub trait KernelOps: Backend {
    /// See [`linear_activated`].
    fn linear_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        composed::linear::<Self>(x, weight, bias, activation)
    }

    /// See [`conv_layer`](crate::conv_layer): the output, and mean and variance where they are the batch's.
    #[allow(clippy::type_complexity)] // A function's three results.
    fn conv_layer(
        #[extension_type] operands: ConvPrimitives<Self>,
        layer: ConvLayer,
    ) -> (FloatTensor<Self>, Option<(FloatTensor<Self>, FloatTensor<Self>)>) {
        composed::conv_layer::<Self>(operands, layer)
    }

    /// See [`cross_entropy`].
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, smoothing: f64) -> FloatTensor<Self> {
        composed::cross_entropy::<Self>(logits, targets, smoothing)
    }

    /// See [`layer_norm`].
    fn normalize_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        composed::normalize_rows::<Self>(x, gamma, beta, epsilon)
    }

    /// See [`dropout`].
    fn dropout(x: FloatTensor<Self>, probability: f64) -> FloatTensor<Self> {
        composed::dropout::<Self>(x, probability)
    }

    /// See [`select_rows`].
    fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        composed::select_rows::<Self>(matrix, indices)
    }

    /// See [`sgd_step`](crate::sgd_step) and [`decayed_sgd_step`](crate::decayed_sgd_step).
    fn sgd_step(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rate: f64,
        weight_decay: f64,
    ) -> FloatTensor<Self> {
        optimizer::composed::sgd_step::<Self>(parameter, gradient, rate, weight_decay)
    }

    /// See [`momentum_step`](crate::momentum_step).
    fn momentum_step(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        step: MomentumStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        optimizer::composed::momentum_step::<Self>(parameter, gradient, velocity, step)
    }

    /// See [`adam_step`](crate::adam_step).
    fn adam_step(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        optimizer::composed::adam_step::<Self>(parameter, gradient, moment_1, moment_2, step)
    }

    /// See [`muon_step`](crate::muon_step).
    fn muon_step(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        step: MuonStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        optimizer::composed::muon_step::<Self>(parameter, gradient, velocity, step)
    }

    /// See [`moving_average`](crate::moving_average).
    fn moving_average(average: FloatTensor<Self>, value: FloatTensor<Self>, decay: f64) -> FloatTensor<Self> {
        optimizer::composed::moving_average::<Self>(average, value, decay)
    }

    /// See [`sum_of_squares`](crate::sum_of_squares).
    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        optimizer::composed::sum_of_squares::<Self>(tensor)
    }

    /// See [`scaled`](crate::scaled).
    fn scaled(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        optimizer::composed::scaled::<Self>(tensor, factor)
    }
}

#[cfg(feature = "cube")]
impl KernelOps for burn::backend::Cube {}
#[cfg(feature = "remote")]
impl KernelOps for burn::backend::Remote {}
#[cfg(feature = "capture")]
impl KernelOps for burn::backend::capture::CaptureBackend {}

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
    linear_activated(x, weight, bias, Activation::None)
}

/// A linear layer with a ReLU behind it, `max(x W + b, 0)`. Shapes and panics as for [`linear`].
#[must_use]
pub fn linear_relu(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    linear_activated(x, weight, bias, Activation::Relu)
}

/// A linear layer with an activation of each of its outputs. Shapes as for [`linear`].
///
/// # Panics
/// When the shapes do not fit together.
#[must_use]
pub fn linear_activated(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, activation: Activation) -> Tensor<2> {
    let ([_, inputs], [rows, outputs]) = (x.dims(), weight.dims());
    assert_eq!(inputs, rows, "a linear layer of {rows} inputs was given {inputs}");
    assert_eq!(bias.dims(), [outputs], "a linear layer's bias has one number for each output");
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_layer(x, weight, bias, activation))
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

/// Layer norm over the last dimension, `γ (x - mean) / √(variance + ε) + β` with each row's mean and variance (divisor
/// n), as PyTorch's `layer_norm` has it.
///
/// # Shapes
/// - x: `[..., features]`
/// - gamma, beta: `[features]`
/// - output: as x
///
/// # Panics
/// When the shapes do not fit together.
#[must_use]
pub fn layer_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let features = x.dims()[D - 1];
    assert_eq!([gamma.dims(), beta.dims()], [[features]; 2], "layer norm has one gamma and one beta for each feature");
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(Dispatch::normalize_rows(x, gamma, beta, epsilon))
}

/// Dropout in training: each number is zero with a probability, and multiplied by `1 / (1 - probability)` otherwise.
///
/// The mask is drawn from the device's generator. Where tensors are slices, that draws one key, and the mask is a
/// function of the key and each number's index: after the same seed it has the same bits for any number of threads.
///
/// # Panics
/// When the probability is not in `[0, 1)`.
#[must_use]
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    assert!((0.0..1.0).contains(&probability), "a dropout probability is in [0, 1), found {probability}");
    if probability == 0.0 {
        return x;
    }
    Tensor::from_dispatch(Dispatch::dropout(x.into_dispatch(), probability))
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
