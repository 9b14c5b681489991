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
    composed::vector,
    cpu::{Level, cross_entropy, rows},
    host::Host,
};

pub(crate) mod conv;
mod linear;
mod norm;
mod optimizer;

pub(crate) use linear::LinearGradients;
pub(crate) use norm::{dropout, dropout_backward, normalize_rows, normalize_rows_backward};

/// Whether every one of the tensors can be had as a slice of `f32`.
pub(crate) fn on_host<B: Host>(tensors: &[&FloatTensor<B>]) -> bool {
    B::ON_HOST
        && Kernels::chosen() == Kernels::Auto
        && tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.shape().num_elements() > 0)
}

/// The gradient of x, if wanted, and those of the parameters.
pub(crate) type Gradients<B, const N: usize> = (Option<FloatTensor<B>>, [FloatTensor<B>; N]);

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
                activation: crate::Activation,
            ) -> FloatTensor<Self> {
                let [x, weight, bias] = [x, weight, bias].map(Self::packed);
                let ready = on_host::<Self>(&[&x, &weight, &bias]);
                let y = ready.then(|| linear::infer::<Self>(&x, &weight, &bias, activation)).flatten();
                y.unwrap_or_else(|| crate::composed::linear::<Self>(x, weight, bias, activation))
            }

            fn conv_layer(
                operands: crate::conv::ConvPrimitives<Self>,
                layer: crate::ConvLayer,
            ) -> crate::composed::ConvOutputs<Self> {
                conv::forward::<Self>(&operands, layer)
                    .unwrap_or_else(|| crate::composed::conv_layer::<Self>(operands, layer))
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

            fn normalize_rows(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                epsilon: f64,
            ) -> FloatTensor<Self> {
                let [x, gamma, beta] = [x, gamma, beta].map(Self::packed);
                match normalize_rows::<Self>(&x, &gamma, &beta, epsilon) {
                    Some((y, _)) => y,
                    None => crate::composed::normalize_rows::<Self>(x, gamma, beta, epsilon),
                }
            }

            fn dropout(x: FloatTensor<Self>, probability: f64) -> FloatTensor<Self> {
                let x = Self::packed(x);
                match dropout::<Self>(&x, probability) {
                    Some((y, _)) => y,
                    None => crate::composed::dropout::<Self>(x, probability),
                }
            }

            fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
                let matrix = Self::packed(matrix);
                let selected = on_host::<Self>(&[&matrix]).then(|| select_rows::<Self>(&matrix, &indices));
                selected.flatten().unwrap_or_else(|| crate::composed::select_rows::<Self>(matrix, indices))
            }

            fn sgd_step(
                parameter: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                rate: f64,
                weight_decay: f64,
            ) -> FloatTensor<Self> {
                optimizer::sgd_step::<Self>(parameter, gradient, rate, weight_decay)
            }

            fn momentum_step(
                parameter: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                velocity: FloatTensor<Self>,
                step: crate::MomentumStep,
            ) -> (FloatTensor<Self>, FloatTensor<Self>) {
                optimizer::momentum_step::<Self>(parameter, gradient, velocity, step)
            }

            fn adam_step(
                parameter: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                moment_1: FloatTensor<Self>,
                moment_2: FloatTensor<Self>,
                step: crate::AdamStep,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                optimizer::adam_step::<Self>(parameter, gradient, moment_1, moment_2, step)
            }

            fn muon_step(
                parameter: FloatTensor<Self>,
                gradient: FloatTensor<Self>,
                velocity: FloatTensor<Self>,
                step: crate::MuonStep,
            ) -> (FloatTensor<Self>, FloatTensor<Self>) {
                optimizer::muon_step::<Self>(parameter, gradient, velocity, step)
            }

            fn moving_average(average: FloatTensor<Self>, value: FloatTensor<Self>, decay: f64) -> FloatTensor<Self> {
                optimizer::moving_average::<Self>(average, value, decay)
            }

            fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
                optimizer::sum_of_squares::<Self>(tensor)
            }

            fn scaled(tensor: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
                optimizer::scaled::<Self>(tensor, factor)
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
