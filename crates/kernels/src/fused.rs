//! The operations on the slices of a backend that has them.

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use crate::{
    Kernels,
    composed::vector,
    cpu::{
        Level,
        block::{self, Saved, Statistics},
        descend, linear,
    },
    host::Host,
    ops::BlockTensors,
};

/// Whether every one of the tensors can be had as a slice of `f32`.
pub(crate) fn on_host<B: Host>(tensors: &[&FloatTensor<B>]) -> bool {
    Kernels::chosen() == Kernels::Auto
        && tensors.iter().all(|tensor| {
            tensor.dtype() == burn::tensor::DType::F32
                && tensor.shape().num_elements() > 0
                && B::floats(&B::packed((*tensor).clone())).is_some()
        })
}

/// Sizes of a linear layer.
fn linear_sizes<B: Host>(x: &FloatTensor<B>, weight: &FloatTensor<B>) -> linear::Sizes {
    let (x, weight) = (x.shape(), weight.shape());
    linear::Sizes { batch: x[0], inputs: weight[0], outputs: weight[1] }
}

/// Forward of a linear layer, for packed tensors; nothing where they are not on the host.
pub(crate) fn linear<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &FloatTensor<B>,
    relu: bool,
) -> Option<FloatTensor<B>> {
    let sizes = linear_sizes::<B>(x, weight);
    let it =
        linear::Forward { sizes, x: B::floats(x)?, weight: B::floats(weight)?, bias: Some(B::floats(bias)?), relu };
    let y = linear::forward(Level::best(), it);
    Some(B::tensor(y, Shape::new([sizes.batch, sizes.outputs]), x))
}

/// The gradients of x, if wanted, weight and bias.
pub(crate) fn linear_backward<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    y: Option<&FloatTensor<B>>,
    dy: &FloatTensor<B>,
    wants_x: bool,
) -> Option<(Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>)> {
    let sizes = linear_sizes::<B>(x, weight);
    let y = match y {
        Some(y) => Some(B::floats(y)?),
        None => None,
    };
    let it = linear::Backward { sizes, x: B::floats(x)?, weight: B::floats(weight)?, y, dy: B::floats(dy)?, wants_x };
    let gradients = linear::backward(Level::best(), it);
    Some((
        gradients.x.map(|dx| B::tensor(dx, x.shape(), x)),
        B::tensor(gradients.weight, weight.shape(), x),
        B::tensor(gradients.bias, vector(sizes.outputs), x),
    ))
}

/// Sizes of a block; nothing where pooling leaves nothing.
fn block_sizes<B: Host>(x: &FloatTensor<B>, weight: &FloatTensor<B>) -> Option<block::Sizes> {
    let (x, outputs) = (x.shape(), weight.shape()[0]);
    (x[2] >= 2 && x[3] >= 2).then(|| block::Sizes { batch: x[0], inputs: x[1], outputs, height: x[2], width: x[3] })
}

fn parameters<B: Host>(it: &BlockTensors<B>, epsilon: f64) -> Option<block::Parameters<'_>> {
    Some(block::Parameters {
        weight: B::floats(&it.weight)?,
        bias: Some(B::floats(&it.bias)?),
        gamma: B::floats(&it.gamma)?,
        beta: B::floats(&it.beta)?,
        epsilon: epsilon as f32,
    })
}

fn output_shape(sizes: block::Sizes) -> Shape {
    Shape::new([sizes.batch, sizes.outputs, sizes.height / 2, sizes.width / 2])
}

/// Forward of a block in training: output, mean, variance, and what backward needs.
pub(crate) fn conv_block<B: Host>(
    x: &FloatTensor<B>,
    it: &BlockTensors<B>,
    epsilon: f64,
) -> Option<([FloatTensor<B>; 3], Saved)> {
    let sizes = block_sizes::<B>(x, &it.weight)?;
    let (y, statistics, saved) = block::train(Level::best(), sizes, B::floats(x)?, parameters::<B>(it, epsilon)?);
    let outputs = [
        B::tensor(y, output_shape(sizes), x),
        B::tensor(statistics.mean, vector(sizes.outputs), x),
        B::tensor(statistics.variance, vector(sizes.outputs), x),
    ];
    Some((outputs, saved))
}

/// The gradients of x, if wanted, weight, gamma and beta.
pub(crate) fn conv_block_backward<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    saved: &Saved,
    dy: &FloatTensor<B>,
    wants_x: bool,
) -> Option<(Option<FloatTensor<B>>, [FloatTensor<B>; 3])> {
    let sizes = block_sizes::<B>(x, weight)?;
    let gradients =
        block::backward(Level::best(), sizes, B::floats(x)?, B::floats(weight)?, saved, B::floats(dy)?, wants_x);
    Some((
        gradients.x.map(|dx| B::tensor(dx, x.shape(), x)),
        [
            B::tensor(gradients.weight, weight.shape(), x),
            B::tensor(gradients.gamma, vector(sizes.outputs), x),
            B::tensor(gradients.beta, vector(sizes.outputs), x),
        ],
    ))
}

/// Forward of a block in evaluation.
pub(crate) fn conv_block_inference<B: Host>(
    x: &FloatTensor<B>,
    it: &BlockTensors<B>,
    [mean, variance]: [&FloatTensor<B>; 2],
    epsilon: f64,
) -> Option<FloatTensor<B>> {
    let sizes = block_sizes::<B>(x, &it.weight)?;
    let statistics = Statistics { mean: B::floats(mean)?.to_vec(), variance: B::floats(variance)?.to_vec() };
    let y = block::infer(Level::best(), sizes, B::floats(x)?, parameters::<B>(it, epsilon)?, &statistics);
    Some(B::tensor(y, output_shape(sizes), x))
}

/// A step of descent, for packed tensors.
pub(crate) fn descend<B: Host>(
    mut parameter: FloatTensor<B>,
    gradient: &FloatTensor<B>,
    rate: f64,
) -> Option<FloatTensor<B>> {
    let gradient = B::floats(gradient)?;
    if let Some(floats) = B::floats_mut(&mut parameter) {
        descend::in_place(Level::best(), floats, gradient, rate as f32);
        return Some(parameter);
    }
    let floats = descend::apart(Level::best(), B::floats(&parameter)?, gradient, rate as f32);
    Some(B::tensor(floats, parameter.shape(), &parameter))
}

/// The operations of a backend on the host: its slices where they serve, else the composition.
macro_rules! on_host {
    ($(#[$feature:meta])* $backend:ty) => {
        $(#[$feature])*
        impl crate::KernelOps for $backend {
            fn linear_layer(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                relu: bool,
            ) -> FloatTensor<Self> {
                let [x, weight, bias] = [x, weight, bias].map(Self::packed);
                let y = on_host::<Self>(&[&x, &weight, &bias]).then(|| linear::<Self>(&x, &weight, &bias, relu));
                y.flatten().unwrap_or_else(|| crate::composed::linear::<Self>(x, weight, bias, relu))
            }

            fn conv_block(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                epsilon: f64,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                let [x, weight, bias, gamma, beta] = [x, weight, bias, gamma, beta].map(Self::packed);
                let ready = on_host::<Self>(&[&x, &weight, &bias, &gamma, &beta]);
                let it = BlockTensors { weight, bias, gamma, beta };
                match ready.then(|| conv_block::<Self>(&x, &it, epsilon)).flatten() {
                    Some(([output, mean, variance], _)) => (output, mean, variance),
                    None => crate::composed::conv_block::<Self>(x, it, epsilon),
                }
            }

            fn conv_block_inference(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                mean: FloatTensor<Self>,
                variance: FloatTensor<Self>,
                epsilon: f64,
            ) -> FloatTensor<Self> {
                let [x, weight, bias, gamma, beta, mean, variance] =
                    [x, weight, bias, gamma, beta, mean, variance].map(Self::packed);
                let ready = on_host::<Self>(&[&x, &weight, &bias, &gamma, &beta, &mean, &variance]);
                let it = BlockTensors { weight, bias, gamma, beta };
                let y = ready.then(|| conv_block_inference::<Self>(&x, &it, [&mean, &variance], epsilon));
                y.flatten()
                    .unwrap_or_else(|| crate::composed::conv_block_inference::<Self>(x, it, mean, variance, epsilon))
            }

            fn descend(parameter: FloatTensor<Self>, gradient: FloatTensor<Self>, rate: f64) -> FloatTensor<Self> {
                let [parameter, gradient] = [parameter, gradient].map(Self::packed);
                if !on_host::<Self>(&[&parameter, &gradient]) {
                    return crate::composed::descend::<Self>(parameter, gradient, rate);
                }
                match descend::<Self>(parameter, &gradient, rate) {
                    Some(parameter) => parameter,
                    None => unreachable!("both are on the host"),
                }
            }
        }
    };
}

on_host!(
    #[cfg(feature = "flex")]
    burn::backend::Flex
);
on_host!(
    #[cfg(feature = "ndarray")]
    burn::backend::NdArray
);
