//! Layer norm and dropout.

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::{Distribution, IntDType, Shape},
};

use super::{Gradients, on_host};
use crate::{
    composed::vector,
    cpu::{Level, dropout, layer_norm},
    host::Host,
};

/// A layer norm of packed tensors, and what backward needs; nothing where they are not on the host.
pub(crate) fn normalize_rows<B: Host>(
    x: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    epsilon: f64,
) -> Option<(FloatTensor<B>, layer_norm::Saved)> {
    if !on_host::<B>(&[x, gamma, beta]) {
        return None;
    }
    let [floats, gamma, beta] = [B::floats(x)?, B::floats(gamma)?, B::floats(beta)?];
    let (y, saved) = layer_norm::forward(Level::best(), floats, gamma, beta, epsilon as f32);
    Some((B::tensor(y, x.shape(), x), saved))
}

/// The gradients of x, if wanted, gamma and beta.
pub(crate) fn normalize_rows_backward<B: Host>(
    x: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    saved: &layer_norm::Saved,
    dy: &FloatTensor<B>,
    wants_x: bool,
) -> Option<Gradients<B, 2>> {
    let (floats, scales, dy) = (B::floats(x)?, B::floats(gamma)?, B::floats(dy)?);
    let it = layer_norm::backward(Level::best(), floats, scales, saved, dy, wants_x);
    let parameters = [it.gamma, it.beta].map(|gradient| B::tensor(gradient, vector(scales.len()), x));
    Some((it.x.map(|dx| B::tensor(dx, x.shape(), x)), parameters))
}

/// A dropout of a packed tensor, and its mask's key; nothing where it is not on the host.
pub(crate) fn dropout<B: Host>(x: &FloatTensor<B>, probability: f64) -> Option<(FloatTensor<B>, u64)> {
    if !on_host::<B>(&[x]) {
        return None;
    }
    // Whole numbers that an `f64` tells apart, as which the distribution has its bounds.
    let keys = Distribution::Uniform(0.0, 9_007_199_254_740_992.0);
    let key = B::int_random(Shape::new([1]), keys, &x.device(), IntDType::I64);
    let key = *B::indices(&key)?.first()? as u64;
    Some((dropout_backward::<B>(x, key, probability)?, key))
}

/// The gradient of x for a packed one of the output.
pub(crate) fn dropout_backward<B: Host>(dy: &FloatTensor<B>, key: u64, probability: f64) -> Option<FloatTensor<B>> {
    let floats = dropout::apply(Level::best(), B::floats(dy)?, key, probability);
    Some(B::tensor(floats, dy.shape(), dy))
}
