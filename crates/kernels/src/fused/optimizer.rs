//! Steps of optimizers on slices, in the memory of the tensors that nobody else holds.

use burn::backend::{TensorMetadata, tensor::FloatTensor};

use super::on_host;
use crate::{
    composed::vector,
    cpu::{
        Level, muon,
        steps::{self, Momentum},
    },
    host::Host,
    optimizer::{AdamStep, MomentumStep, MuonStep, composed},
};

/// Runs `work` on the slices of tensors to write to and of one to read, if all are on the host: the tensors written to,
/// or as they were. What others hold is copied first.
fn in_place<B: Host, const N: usize>(
    written: [FloatTensor<B>; N],
    read: &FloatTensor<B>,
    work: impl FnOnce([&mut [f32]; N], &[f32]),
) -> Result<[FloatTensor<B>; N], [FloatTensor<B>; N]> {
    let mut written = written.map(B::packed);
    let read = B::packed(read.clone());
    let all: Vec<_> = written.iter().chain([&read]).collect();
    let (true, Some(floats)) = (on_host::<B>(&all), B::floats(&read)) else { return Err(written) };
    for tensor in &mut written {
        if B::floats_mut(tensor).is_none()
            && let Some(floats) = B::floats(tensor).map(<[f32]>::to_vec)
        {
            *tensor = B::tensor(floats, tensor.shape(), tensor);
        }
    }
    let slices: Vec<_> = written.iter_mut().filter_map(B::floats_mut).collect();
    match <[&mut [f32]; N]>::try_from(slices) {
        Ok(slices) => work(slices, floats),
        Err(_) => return Err(written),
    }
    Ok(written)
}

pub(crate) fn sgd_step<B: Host>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    rate: f64,
    weight_decay: f64,
) -> FloatTensor<B> {
    let stepped = in_place::<B, 1>([parameter], &gradient, |[parameter], gradient| {
        steps::sgd(Level::best(), parameter, gradient, rate as f32, weight_decay as f32);
    });
    match stepped {
        Ok([parameter]) => parameter,
        Err([parameter]) => composed::sgd_step::<B>(parameter, gradient, rate, weight_decay),
    }
}

pub(crate) fn momentum_step<B: Host>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    velocity: FloatTensor<B>,
    step: MomentumStep,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let it = Momentum {
        rate: step.rate as f32,
        momentum: step.momentum as f32,
        nesterov: step.nesterov,
        decay: step.weight_decay as f32,
    };
    let stepped = in_place::<B, 2>([parameter, velocity], &gradient, |[parameter, velocity], gradient| {
        steps::momentum(Level::best(), parameter, gradient, velocity, it);
    });
    match stepped {
        Ok([parameter, velocity]) => (parameter, velocity),
        Err([parameter, velocity]) => composed::momentum_step::<B>(parameter, gradient, velocity, step),
    }
}

pub(crate) fn adam_step<B: Host>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    moment_1: FloatTensor<B>,
    moment_2: FloatTensor<B>,
    step: AdamStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let it = step.constants();
    let written = [parameter, moment_1, moment_2];
    let stepped = in_place::<B, 3>(written, &gradient, |[parameter, moment_1, moment_2], gradient| {
        steps::adam(Level::best(), parameter, gradient, [moment_1, moment_2], it);
    });
    match stepped {
        Ok([parameter, moment_1, moment_2]) => (parameter, moment_1, moment_2),
        Err([parameter, moment_1, moment_2]) => composed::adam_step::<B>(parameter, gradient, moment_1, moment_2, step),
    }
}

pub(crate) fn muon_step<B: Host>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    velocity: FloatTensor<B>,
    step: MuonStep,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sizes = parameter.shape().dims();
    let it = step.constants();
    let stepped = in_place::<B, 2>([parameter, velocity], &gradient, |[parameter, velocity], gradient| {
        muon::step(Level::best(), sizes, parameter, gradient, velocity, it);
    });
    match stepped {
        Ok([parameter, velocity]) => (parameter, velocity),
        Err([parameter, velocity]) => composed::muon_step::<B>(parameter, gradient, velocity, step),
    }
}

pub(crate) fn moving_average<B: Host>(average: FloatTensor<B>, value: FloatTensor<B>, decay: f64) -> FloatTensor<B> {
    let averaged = in_place::<B, 1>([average], &value, |[average], value| {
        steps::average(Level::best(), average, value, decay);
    });
    match averaged {
        Ok([average]) => average,
        Err([average]) => composed::moving_average::<B>(average, value, decay),
    }
}

pub(crate) fn sum_of_squares<B: Host>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let tensor = B::packed(tensor);
    match B::floats(&tensor).filter(|_| on_host::<B>(&[&tensor])) {
        Some(floats) => B::tensor(vec![steps::sum_of_squares(Level::best(), floats)], vector(1), &tensor),
        None => composed::sum_of_squares::<B>(tensor),
    }
}

pub(crate) fn scaled<B: Host>(tensor: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let scaled = in_place::<B, 1>([tensor], &factor, |[tensor], factor| {
        // Most gradients that are to be clipped are short enough, and their factor is exactly 1.
        #[allow(clippy::float_cmp)]
        if let [factor] = *factor
            && factor != 1.0
        {
            steps::scale(Level::best(), tensor, factor);
        }
    });
    match scaled {
        Ok([tensor]) => tensor,
        Err([tensor]) => composed::scaled::<B>(tensor, factor),
    }
}
