use burn::{
    module::{Initializer, Module, Param, RunningState},
    tensor::{Device, Tensor},
};

/// PyTorch's default: the share of the new batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Batch normalisation over the channels of `[batch, channels, height, width]`.
///
/// Burn's own layer with PyTorch's running variance: it estimates the variance of the population (divisor n - 1),
/// where Burn's takes that of the batch (divisor n). The fields have Burn's names, which its PyTorch adapter expects.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[channels]`.
    gamma: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    beta: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
}

impl BatchNorm {
    /// What is added to the variance: PyTorch's default.
    pub(crate) const EPSILON: f64 = 1e-5;

    /// A layer that changes nothing before it is trained.
    #[must_use]
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
        }
    }

    /// Scale and shift, `[channels]` each.
    pub(crate) fn learned(&self) -> (Tensor<1>, Tensor<1>) {
        (self.gamma.val(), self.beta.val())
    }

    /// The running mean and variance, `[channels]` each.
    pub(crate) fn running(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        (self.running_mean.value().to_device(device), self.running_var.value().to_device(device))
    }

    /// Takes a batch's statistics into the running ones: its mean, and its variance with `count` as the divisor, the
    /// number of values that each channel had; `[channels]` each.
    pub(crate) fn remember(&self, mean: Tensor<1>, variance: Tensor<1>, count: usize) {
        let count = count as f64;
        let device = mean.device();
        update(&self.running_mean, mean.detach(), &device);
        update(&self.running_var, variance.detach().mul_scalar(count / (count - 1.0).max(1.0)), &device);
    }
}

fn update(running: &RunningState<Tensor<1>>, batch: Tensor<1>, device: &Device) {
    let old = running.value_sync().to_device(device);
    running.update((old * (1.0 - MOMENTUM) + batch * MOMENTUM).detach());
}
