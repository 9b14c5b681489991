use burn::{
    config::Config,
    module::{Initializer, Module, Param, RunningState},
    tensor::{Device, Shape, Tensor},
};

use super::conv_layer;
use crate::{BatchStatistics, Epilogue};

/// Config of a [`BatchNorm`]; the defaults are PyTorch's.
#[derive(Config, Debug)]
pub struct BatchNormConfig {
    /// Channels of the input and the output.
    pub channels: usize,
    /// The share of the new batch in the running statistics.
    #[config(default = 0.1)]
    pub momentum: f64,
    /// What is added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// Batch normalisation over the channels of `[batch, channels, ...]`.
///
/// On a device with autodiff the layer takes the batch's statistics and updates the running ones. Elsewhere, and where scale
/// and shift are both frozen, it is in evaluation: it takes the running ones and leaves them as they are. A layer of which
/// only the scale or only the shift is frozen is in training.
///
/// It is Burn's own layer with PyTorch's running variance: it estimates the variance of the population (divisor n - 1),
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
    /// See [`BatchNormConfig::momentum`].
    pub momentum: f64,
    /// See [`BatchNormConfig::epsilon`].
    pub epsilon: f64,
}

impl BatchNormConfig {
    /// Makes a layer that changes nothing before it is trained.
    #[must_use]
    pub fn init(&self, device: &Device) -> BatchNorm {
        // Views of one number: state cannot be lazy, and a network is also made to count its parameters.
        let running = |value: f64| {
            // A `Shape`, since of an array `expand` takes some numbers for negative ones.
            RunningState::new(Tensor::<1>::full([1], value, device).expand(Shape::new([self.channels])))
        };
        BatchNorm {
            gamma: Initializer::Ones.init([self.channels], device),
            beta: Initializer::Zeros.init([self.channels], device),
            running_mean: running(0.0),
            running_var: running(1.0),
            momentum: self.momentum,
            epsilon: self.epsilon,
        }
    }
}

impl BatchNorm {
    /// A layer by the config's defaults.
    #[must_use]
    pub fn new(channels: usize, device: &Device) -> Self {
        BatchNormConfig::new(channels).init(device)
    }

    /// By the batch's statistics or the running ones, as the type's documentation says.
    ///
    /// # Shapes
    /// - x: `[batch, channels, ...]`
    /// - output: as x
    ///
    /// # Panics
    /// When `x` has another number of channels, or fewer than two dimensions.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let shape = x.dims();
        // Four dimensions stay as they are, so that channels which are last in memory do.
        let images = if D == 4 {
            Tensor::from_dispatch(x.into_dispatch())
        } else {
            x.reshape([shape[0], shape[1], shape[2..].iter().product(), 1])
        };
        let y = conv_layer(images, None, Some(self), None, Epilogue::default()); // [batch, channels, ..., ...]
        if D == 4 { Tensor::from_dispatch(y.into_dispatch()) } else { y.reshape(shape) }
    }

    /// Scale and shift, `[channels]` each.
    pub(super) fn learned(&self) -> [Tensor<1>; 2] {
        [self.gamma.val(), self.beta.val()]
    }

    /// The running mean and variance, `[channels]` each.
    pub(super) fn running(&self, device: &Device) -> [Tensor<1>; 2] {
        [&self.running_mean, &self.running_var].map(|running| running.value().to_device(device))
    }

    /// Whether the layer takes the running statistics.
    pub(super) fn is_in_evaluation(&self) -> bool {
        !self.learned().iter().any(Tensor::is_require_grad)
    }

    /// Takes a batch's statistics into the running ones.
    pub(super) fn remember(&self, batch: BatchStatistics) {
        let count = batch.count as f64;
        self.update(&self.running_mean, batch.mean.detach());
        self.update(&self.running_var, batch.variance.detach().mul_scalar(count / (count - 1.0).max(1.0)));
    }

    fn update(&self, running: &RunningState<Tensor<1>>, batch: Tensor<1>) {
        let old = running.value_sync().to_device(&batch.device());
        running.update((old * (1.0 - self.momentum) + batch * self.momentum).detach());
    }
}
