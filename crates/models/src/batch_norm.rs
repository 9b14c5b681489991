use burn::{
    module::{Initializer, Module, Param, RunningState},
    tensor::{
        Device, Tensor,
        module::{batch_norm, batch_norm_train},
    },
};

/// PyTorch's default.
const EPSILON: f64 = 1e-5;
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

    /// Normalises by the batch's statistics on a device with autodiff, and by the running ones elsewhere.
    ///
    /// # Shapes
    /// - input and output: `[batch, channels, height, width]`
    #[must_use]
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let device = input.device();
        if !device.is_autodiff() {
            let (mean, var) = (self.running_mean.value(), self.running_var.value());
            return batch_norm(
                input,
                self.gamma.val(),
                self.beta.val(),
                mean.to_device(&device),
                var.to_device(&device),
                EPSILON,
            );
        }
        let [batch, _, height, width] = input.dims();
        let count = (batch * height * width) as f64;
        let normalised = batch_norm_train(input, self.gamma.val(), self.beta.val(), EPSILON);
        let population_var = normalised.variance.detach().mul_scalar(count / (count - 1.0).max(1.0));
        update(&self.running_mean, normalised.mean.detach(), &device);
        update(&self.running_var, population_var, &device);
        normalised.output
    }
}

fn update(running: &RunningState<Tensor<1>>, batch: Tensor<1>, device: &Device) {
    let old = running.value_sync().to_device(device);
    running.update((old * (1.0 - MOMENTUM) + batch * MOMENTUM).detach());
}
