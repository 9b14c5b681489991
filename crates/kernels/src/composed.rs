//! The operations of Burn that each of this crate's stands for. They are differentiable where Burn's are.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::{
    backend::{
        Backend, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Distribution, Scalar, Shape, ops::ConvOptions},
};

use crate::{Activation, ConvLayer, Pool, conv::ConvPrimitives};

/// What a convolution layer gives: its output, and the batch's mean and variance if it has taken them.
pub(crate) type ConvOutputs<B> = (FloatTensor<B>, Option<(FloatTensor<B>, FloatTensor<B>)>);

pub(crate) fn linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    activated::<B>(B::linear(x, weight, Some(bias)), activation)
}

/// An activation of each number.
pub(crate) fn activated<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::None => x,
        Activation::Relu => B::relu(x),
        Activation::Gelu => {
            // Not `B::gelu`, whose gradient is that of the approximation with tanh on most backends.
            let twice = B::float_erf(B::float_mul_scalar(x.clone(), Scalar::Float(FRAC_1_SQRT_2)));
            let twice = B::float_add_scalar(twice, Scalar::Float(1.0));
            B::float_mul(B::float_mul_scalar(x, Scalar::Float(0.5)), twice)
        }
        Activation::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
    }
}

/// The output of a convolution layer, and mean and variance where they are the batch's. Burn's operations choose the order of
/// its channels.
pub(crate) fn conv_layer<B: Backend>(it: ConvPrimitives<B>, layer: ConvLayer) -> ConvOutputs<B> {
    let ConvLayer { stride, padding, groups, epsilon, epilogue } = layer;
    let mut x = it.x;
    if let Some(weight) = it.weight {
        x = B::conv2d(x, weight, it.bias, ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups));
    }
    let (first, last) = if epilogue.pool_first { (epilogue.pool, None) } else { (None, epilogue.pool) };
    x = pooled::<B>(x, first);
    let mut batch = None;
    if let (Some([gamma, beta]), Some(epsilon)) = (it.norm, epsilon) {
        if let Some([mean, variance]) = it.statistics {
            x = B::batch_norm(x, gamma, beta, mean, variance, epsilon);
        } else {
            let normalised = B::batch_norm_train(x, gamma, beta, epsilon);
            x = normalised.output;
            batch = Some((normalised.mean, normalised.variance));
        }
    }
    if let Some(residual) = it.residual {
        let channels = x.shape()[1];
        x = B::float_add(x, strided::<B>(residual, epilogue.residual_stride, channels));
    }
    (pooled::<B>(activated::<B>(x, epilogue.activation), last), batch)
}

fn pooled<B: Backend>(x: FloatTensor<B>, pool: Option<Pool>) -> FloatTensor<B> {
    match pool {
        None => x,
        Some(Pool::Max { size, stride }) => B::max_pool2d(x, [size; 2], [stride; 2], [0, 0], [1, 1], false),
        Some(Pool::Average { size, stride }) => B::avg_pool2d(x, [size; 2], [stride; 2], [0, 0], true, false),
        Some(Pool::Global) => B::float_mean_dim(B::float_mean_dim(x, 3), 2),
    }
}

/// Every `stride`th pixel of a residual, with zeros for the channels that it lacks (option A of He et al.,
/// <https://arxiv.org/abs/1512.03385>, section 4.2).
fn strided<B: Backend>(residual: FloatTensor<B>, stride: usize, channels: usize) -> FloatTensor<B> {
    // Means of single pixels: the gradient of Burn's slices with steps wants contiguous tensors of libtorch.
    let residual = match stride {
        1 => residual,
        _ => B::avg_pool2d(residual, [1, 1], [stride, stride], [0, 0], true, false),
    };
    let mut missing = residual.shape();
    missing[1] = channels - missing[1];
    if missing[1] == 0 {
        return residual;
    }
    let zeros = B::float_zeros(missing, &residual.device(), residual.dtype().into());
    B::float_cat(vec![residual, zeros], 1)
}

pub(crate) fn cross_entropy<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    smoothing: f64,
) -> FloatTensor<B> {
    let batch = logits.shape()[0];
    let log_probabilities = B::log_softmax(logits, 1); // [batch, classes]
    let on_target = B::float_gather(1, log_probabilities.clone(), B::int_reshape(targets, Shape::new([batch, 1])));
    let on_target = B::float_neg(B::float_reshape(on_target, vector(batch)));
    if smoothing == 0.0 {
        return on_target;
    }
    let on_average = B::float_neg(B::float_reshape(B::float_mean_dim(log_probabilities, 1), vector(batch)));
    B::float_add(
        B::float_mul_scalar(on_target, Scalar::Float(1.0 - smoothing)),
        B::float_mul_scalar(on_average, Scalar::Float(smoothing)),
    )
}

pub(crate) fn normalize_rows<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    B::layer_norm(x, gamma, Some(beta), epsilon)
}

pub(crate) fn dropout<B: Backend>(x: FloatTensor<B>, probability: f64) -> FloatTensor<B> {
    let kept = 1.0 - probability;
    let mask = B::float_random(x.shape(), Distribution::Bernoulli(kept), &x.device(), x.dtype().into());
    B::float_mul_scalar(B::float_mul(x, mask), Scalar::Float(1.0 / kept))
}

pub(crate) fn select_rows<B: Backend>(matrix: FloatTensor<B>, indices: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(matrix, 0, indices)
}

/// The shape of a vector.
pub(crate) fn vector(length: usize) -> Shape {
    Shape::new([length])
}
