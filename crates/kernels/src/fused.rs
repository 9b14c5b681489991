//! The operations on the slices of a backend that has them.

use burn::{
    backend::{
        TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape},
};

use crate::{
    Kernels,
    composed::{BlockTensors, vector},
    cpu::{
        Level,
        block::{self, ChannelOrder, Saved, Statistics},
        cross_entropy, linear, rows, sgd_step,
    },
    host::Host,
};

/// Whether every one of the tensors can be had as a slice of `f32`.
pub(crate) fn on_host<B: Host>(tensors: &[&FloatTensor<B>]) -> bool {
    B::ON_HOST
        && Kernels::chosen() == Kernels::Auto
        && tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.shape().num_elements() > 0)
}

/// The gradient of x, if wanted, and those of the parameters.
pub(crate) type Gradients<B, const N: usize> = (Option<FloatTensor<B>>, [FloatTensor<B>; N]);

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
) -> Option<Gradients<B, 2>> {
    let sizes = linear_sizes::<B>(x, weight);
    let y = match y {
        Some(y) => Some(B::floats(y)?),
        None => None,
    };
    let it = linear::Backward { sizes, x: B::floats(x)?, weight: B::floats(weight)?, y, dy: B::floats(dy)?, wants_x };
    let gradients = linear::backward(Level::best(), it);
    Some((
        gradients.x.map(|dx| B::tensor(dx, x.shape(), x)),
        [B::tensor(gradients.weight, weight.shape(), x), B::tensor(gradients.bias, vector(sizes.outputs), x)],
    ))
}

/// A backend whose linear layer may have gradients of its own: the slices', or others, as libtorch has.
pub(crate) trait LinearGradients: Host {
    /// Whether [`linear_backward`](Self::linear_backward) goes with the backend's linear layer for these tensors.
    fn has_linear(tensors: &[&FloatTensor<Self>]) -> bool {
        on_host::<Self>(tensors)
    }

    /// The gradients of a linear layer's x, if wanted, weight and bias; `y` is its output where a ReLU is behind it.
    fn linear_backward(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        y: Option<&FloatTensor<Self>>,
        dy: &FloatTensor<Self>,
        wants_x: bool,
    ) -> Option<Gradients<Self, 2>> {
        linear_backward::<Self>(x, weight, y, dy, wants_x)
    }
}

#[cfg(feature = "cube")]
impl LinearGradients for burn::backend::Cube {}
#[cfg(feature = "remote")]
impl LinearGradients for burn::backend::Remote {}

/// Images as they lie: a packed tensor of them, and where it has their channels.
fn images<B: Host>(tensor: &FloatTensor<B>) -> (FloatTensor<B>, ChannelOrder) {
    let last = B::float_permute(tensor.clone(), &[0, 2, 3, 1]);
    if B::floats(&last).is_some() {
        return (last, ChannelOrder::Last);
    }
    (B::packed(tensor.clone()), ChannelOrder::First)
}

/// A tensor of images `[batch, channels, height, width]` from memory in an order of channels.
fn from_images<B: Host>(
    floats: Vec<f32>,
    [batch, channels, height, width]: [usize; 4],
    order: ChannelOrder,
    like: &FloatTensor<B>,
) -> FloatTensor<B> {
    match order {
        ChannelOrder::First => B::tensor(floats, Shape::new([batch, channels, height, width]), like),
        ChannelOrder::Last => {
            let tensor = B::tensor(floats, Shape::new([batch, height, width, channels]), like);
            B::float_permute(tensor, &[0, 3, 1, 2])
        }
    }
}

/// Sizes of a block; nothing where pooling leaves nothing.
fn block_sizes<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    x_order: ChannelOrder,
    y_order: ChannelOrder,
) -> Option<block::Sizes> {
    let (x, outputs) = (x.shape(), weight.shape()[0]);
    let sizes = block::Sizes { batch: x[0], inputs: x[1], outputs, height: x[2], width: x[3], x_order, y_order };
    (sizes.height >= 2 && sizes.width >= 2).then_some(sizes)
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

fn output_shape(sizes: block::Sizes) -> [usize; 4] {
    [sizes.batch, sizes.outputs, sizes.height / 2, sizes.width / 2]
}

/// The given statistics of a block, packed.
fn statistics<B: Host>([mean, variance]: [&FloatTensor<B>; 2]) -> Option<Statistics> {
    Some(Statistics { mean: B::floats(mean)?.to_vec(), variance: B::floats(variance)?.to_vec() })
}

/// Forward of a block in training, for packed parameters, by given statistics or else by the batch's: output, mean,
/// variance, and what backward needs.
pub(crate) fn conv_block<B: Host>(
    x: &FloatTensor<B>,
    it: &BlockTensors<B>,
    given: Option<[&FloatTensor<B>; 2]>,
    epsilon: f64,
    order: ChannelOrder,
) -> Option<([FloatTensor<B>; 3], Saved)> {
    let (floats, x_order) = images::<B>(x);
    let sizes = block_sizes::<B>(x, &it.weight, x_order, order)?;
    let given = match given {
        Some(given) => Some(statistics::<B>(given)?),
        None => None,
    };
    let (floats, parameters) = (B::floats(&floats)?, parameters::<B>(it, epsilon)?);
    let (y, statistics, saved) = block::train(Level::best(), sizes, floats, parameters, given.as_ref());
    let outputs = [
        from_images::<B>(y, output_shape(sizes), order, x),
        B::tensor(statistics.mean, vector(sizes.outputs), x),
        B::tensor(statistics.variance, vector(sizes.outputs), x),
    ];
    Some((outputs, saved))
}

/// The gradients of x, if wanted, weight, bias, gamma and beta.
pub(crate) fn conv_block_backward<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    saved: &Saved,
    dy: &FloatTensor<B>,
    wants_x: bool,
) -> Option<Gradients<B, 4>> {
    let ((floats, x_order), (dy, y_order)) = (images::<B>(x), images::<B>(dy));
    let sizes = block_sizes::<B>(x, weight, x_order, y_order)?;
    let (level, weights) = (Level::best(), B::floats(weight)?);
    let gradients = block::backward(level, sizes, B::floats(&floats)?, weights, saved, B::floats(&dy)?, wants_x);
    let x_shape = [sizes.batch, sizes.inputs, sizes.height, sizes.width];
    Some((
        gradients.x.map(|dx| from_images::<B>(dx, x_shape, x_order, x)),
        [
            B::tensor(gradients.weight, weight.shape(), x),
            B::tensor(gradients.bias, vector(sizes.outputs), x),
            B::tensor(gradients.gamma, vector(sizes.outputs), x),
            B::tensor(gradients.beta, vector(sizes.outputs), x),
        ],
    ))
}

/// Forward of a block in evaluation, for packed parameters.
pub(crate) fn conv_block_inference<B: Host>(
    x: &FloatTensor<B>,
    it: &BlockTensors<B>,
    given: [&FloatTensor<B>; 2],
    epsilon: f64,
    order: ChannelOrder,
) -> Option<FloatTensor<B>> {
    let (floats, x_order) = images::<B>(x);
    let sizes = block_sizes::<B>(x, &it.weight, x_order, order)?;
    let statistics = statistics::<B>(given)?;
    let parameters = parameters::<B>(it, epsilon)?;
    let y = block::infer(Level::best(), sizes, B::floats(&floats)?, parameters, &statistics);
    Some(from_images::<B>(y, output_shape(sizes), order, x))
}

/// The losses of packed logits, and what backward needs.
pub(crate) fn cross_entropy<B: Host>(
    logits: &FloatTensor<B>,
    targets: &IntTensor<B>,
    smoothing: f64,
) -> Option<(FloatTensor<B>, cross_entropy::Saved)> {
    let floats = B::floats(logits)?;
    let (losses, saved) = cross_entropy::forward(Level::best(), floats, B::indices(targets)?, smoothing as f32);
    let batch = losses.len();
    Some((B::tensor(losses, vector(batch), logits), saved))
}

/// The gradient of the logits.
pub(crate) fn cross_entropy_backward<B: Host>(
    shape: Shape,
    saved: &cross_entropy::Saved,
    dlosses: &FloatTensor<B>,
) -> Option<FloatTensor<B>> {
    let dlogits = cross_entropy::backward(Level::best(), saved, B::floats(dlosses)?);
    Some(B::tensor(dlogits, shape, dlosses))
}

/// Rows of a packed matrix.
pub(crate) fn select_rows<B: Host>(matrix: &FloatTensor<B>, indices: &IntTensor<B>) -> Option<FloatTensor<B>> {
    let (columns, indices) = (matrix.shape()[1], B::indices(indices)?);
    let selected = rows::select(B::floats(matrix)?, columns, &indices);
    Some(B::tensor(selected, Shape::new([indices.len(), columns]), matrix))
}

/// An SGD step, for packed tensors.
pub(crate) fn sgd_step<B: Host>(
    mut parameter: FloatTensor<B>,
    gradient: &FloatTensor<B>,
    rate: f64,
) -> Option<FloatTensor<B>> {
    let gradient = B::floats(gradient)?;
    if let Some(floats) = B::floats_mut(&mut parameter) {
        sgd_step::in_place(Level::best(), floats, gradient, rate as f32);
        return Some(parameter);
    }
    let floats = sgd_step::apart(Level::best(), B::floats(&parameter)?, gradient, rate as f32);
    Some(B::tensor(floats, parameter.shape(), &parameter))
}

/// The operations of a backend on the host: its slices where they serve, else the composition.
macro_rules! on_host {
    ($(#[$feature:meta])* $backend:ty) => {
        $(#[$feature])*
        impl LinearGradients for $backend {}

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
                order: ChannelOrder,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                let [weight, bias, gamma, beta] = [weight, bias, gamma, beta].map(Self::packed);
                let ready = on_host::<Self>(&[&x, &weight, &bias, &gamma, &beta]);
                let it = BlockTensors { weight, bias, gamma, beta };
                match ready.then(|| conv_block::<Self>(&x, &it, None, epsilon, order)).flatten() {
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
                order: ChannelOrder,
            ) -> FloatTensor<Self> {
                let [weight, bias, gamma, beta, mean, variance] =
                    [weight, bias, gamma, beta, mean, variance].map(Self::packed);
                let ready = on_host::<Self>(&[&x, &weight, &bias, &gamma, &beta, &mean, &variance]);
                let it = BlockTensors { weight, bias, gamma, beta };
                let y = ready.then(|| conv_block_inference::<Self>(&x, &it, [&mean, &variance], epsilon, order));
                y.flatten()
                    .unwrap_or_else(|| crate::composed::conv_block_inference::<Self>(x, it, mean, variance, epsilon))
            }

            fn cross_entropy(
                logits: FloatTensor<Self>,
                targets: IntTensor<Self>,
                smoothing: f64,
            ) -> FloatTensor<Self> {
                let logits = Self::packed(logits);
                let losses = on_host::<Self>(&[&logits]).then(|| cross_entropy::<Self>(&logits, &targets, smoothing));
                match losses.flatten() {
                    Some((losses, _)) => losses,
                    None => crate::composed::cross_entropy::<Self>(logits, targets, smoothing),
                }
            }

            fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
                let matrix = Self::packed(matrix);
                let selected = on_host::<Self>(&[&matrix]).then(|| select_rows::<Self>(&matrix, &indices));
                selected.flatten().unwrap_or_else(|| crate::composed::select_rows::<Self>(matrix, indices))
            }

            fn sgd_step(parameter: FloatTensor<Self>, gradient: FloatTensor<Self>, rate: f64) -> FloatTensor<Self> {
                let [parameter, gradient] = [parameter, gradient].map(Self::packed);
                if !on_host::<Self>(&[&parameter, &gradient]) {
                    return crate::composed::sgd_step::<Self>(parameter, gradient, rate);
                }
                match sgd_step::<Self>(parameter, &gradient, rate) {
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
