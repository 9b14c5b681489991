use burn::{
    module::{Initializer, Module, Param, RunningState},
    tensor::{Device, Shape, Tensor, module},
};

/// PyTorch's default: the share of the new batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// Batch normalisation over the channels of `[batch, channels, ...]`.
///
/// Burn's own layer with PyTorch's running variance: it estimates the variance of the population (divisor n - 1),
/// where Burn's takes that of the batch (divisor n). The fields have Burn's names, which its PyTorch adapter expects.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[channels]`; `weight` in a PyTorch file.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[channels]`; `bias` in a PyTorch file.
    pub beta: Param<Tensor<1>>,
    /// Mean of each channel over the batches seen, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Variance of each channel over the batches seen, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
}

impl BatchNorm {
    /// What is added to the variance: PyTorch's default.
    pub(super) const EPSILON: f64 = 1e-5;

    /// A layer that changes nothing before it is trained.
    #[must_use]
    pub fn new(channels: usize, device: &Device) -> Self {
        // Views of one number: state cannot be lazy, and a network is also made to count its parameters.
        let running = |value: f64| {
            // A `Shape`, since of an array `expand` takes some numbers for negative ones.
            RunningState::new(Tensor::<1>::full([1], value, device).expand(Shape::new([channels])))
        };
        Self {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            running_mean: running(0.0),
            running_var: running(1.0),
        }
    }

    /// On a device with autodiff the layer takes the batch's statistics and updates the running ones; elsewhere, and where
    /// its scale is frozen, it takes the running ones and leaves them as they are.
    ///
    /// # Shapes
    /// - x: `[batch, channels, ...]`
    /// - output: as x
    ///
    /// # Panics
    /// When `x` has another number of channels.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = self.learned();
        assert_eq!(x.dims()[1], gamma.dims()[0], "batch norm has one scale for each channel");
        if is_in_evaluation(&gamma) {
            let (mean, variance) = self.running(&x.device());
            return module::batch_norm(x, gamma, beta, mean, variance, Self::EPSILON);
        }
        let count = x.shape().num_elements() / x.dims()[1];
        let normalised = module::batch_norm_train(x, gamma, beta, Self::EPSILON);
        self.remember(normalised.mean, normalised.variance, count);
        normalised.output
    }

    /// Scale and shift, `[channels]` each.
    pub(super) fn learned(&self) -> (Tensor<1>, Tensor<1>) {
        (self.gamma.val(), self.beta.val())
    }

    /// The running mean and variance, `[channels]` each.
    pub(super) fn running(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        (self.running_mean.value().to_device(device), self.running_var.value().to_device(device))
    }

    /// Takes a batch's statistics into the running ones: its mean, and its variance with `count` as the divisor, the
    /// number of values that each channel had; `[channels]` each.
    pub(super) fn remember(&self, mean: Tensor<1>, variance: Tensor<1>, count: usize) {
        let count = count as f64;
        let device = mean.device();
        update(&self.running_mean, mean.detach(), &device);
        update(&self.running_var, variance.detach().mul_scalar(count / (count - 1.0).max(1.0)), &device);
    }
}

/// Whether a layer with this scale takes the running statistics: without autodiff, or where the scale is frozen.
pub(super) fn is_in_evaluation(gamma: &Tensor<1>) -> bool {
    !gamma.is_require_grad()
}

fn update(running: &RunningState<Tensor<1>>, batch: Tensor<1>, device: &Device) {
    let old = running.value_sync().to_device(device);
    running.update((old * (1.0 - MOMENTUM) + batch * MOMENTUM).detach());
}
