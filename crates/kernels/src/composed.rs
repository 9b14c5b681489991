//! The operations of Burn that each of this crate's stands for. They are differentiable where Burn's are.

use burn::{
    backend::{
        Backend, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Scalar, Shape, ops::ConvOptions},
};

/// A block's parameters on a backend.
#[derive(Clone, Debug)]
pub(crate) struct BlockTensors<B: Backend> {
    pub(crate) weight: FloatTensor<B>,
    pub(crate) bias: FloatTensor<B>,
    pub(crate) gamma: FloatTensor<B>,
    pub(crate) beta: FloatTensor<B>,
}

pub(crate) fn linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    relu: bool,
) -> FloatTensor<B> {
    let y = B::linear(x, weight, Some(bias));
    if relu { B::relu(y) } else { y }
}

pub(crate) fn conv_block<B: Backend>(
    x: FloatTensor<B>,
    it: BlockTensors<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let convolved = B::conv2d(x, it.weight, Some(it.bias), options());
    let normalised = B::batch_norm_train(convolved, it.gamma, it.beta, epsilon);
    (pool::<B>(normalised.output), normalised.mean, normalised.variance)
}

pub(crate) fn conv_block_inference<B: Backend>(
    x: FloatTensor<B>,
    it: BlockTensors<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let convolved = B::conv2d(x, it.weight, Some(it.bias), options());
    pool::<B>(B::batch_norm(convolved, it.gamma, it.beta, mean, variance, epsilon))
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

pub(crate) fn select_rows<B: Backend>(matrix: FloatTensor<B>, indices: IntTensor<B>) -> FloatTensor<B> {
    B::float_select(matrix, 0, indices)
}

pub(crate) fn sgd_step<B: Backend>(parameter: FloatTensor<B>, gradient: FloatTensor<B>, rate: f64) -> FloatTensor<B> {
    B::float_sub(parameter, B::float_mul_scalar(gradient, Scalar::Float(rate)))
}

fn options() -> ConvOptions<2> {
    ConvOptions::new([1, 1], [1, 1], [1, 1], 1)
}

fn pool<B: Backend>(normalised: FloatTensor<B>) -> FloatTensor<B> {
    B::max_pool2d(B::relu(normalised), [2, 2], [2, 2], [0, 0], [1, 1], false)
}

/// The shape of a vector.
pub(crate) fn vector(length: usize) -> Shape {
    Shape::new([length])
}
