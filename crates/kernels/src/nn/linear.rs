use burn::{
    config::Config,
    module::{Module, Param},
    nn::{self, Initializer},
    tensor::{Device, Tensor},
};

use crate::Activation;

/// Config of a [`Linear`] layer.
#[derive(Config, Debug)]
pub struct LinearConfig {
    /// Number of inputs.
    pub inputs: usize,
    /// Number of outputs.
    pub outputs: usize,
    /// What follows.
    #[config(default = "Activation::None")]
    pub activation: Activation,
    /// Whether there is a bias.
    #[config(default = true)]
    pub bias: bool,
    /// Distribution of the initial weights and biases: U(±1/√inputs), as in PyTorch.
    #[config(default = "Initializer::KaimingUniform { gain: 1.0 / 3.0f64.sqrt(), fan_out_only: false }")]
    pub initializer: Initializer,
}

/// A linear layer with an activation; see [`crate::linear_activated`].
#[derive(Module, Debug)]
pub struct Linear {
    /// `[inputs, outputs]`; `[outputs, inputs]` in a PyTorch file.
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`
    pub bias: Option<Param<Tensor<1>>>,
    /// What follows.
    #[module(skip)]
    pub activation: Activation,
}

impl LinearConfig {
    /// Makes the layer. Its parameters are drawn from the device's generator when they are first used.
    #[must_use]
    pub fn init(&self, device: &Device) -> Linear {
        let (fan_in, fan_out) = (Some(self.inputs), Some(self.outputs));
        Linear {
            weight: self.initializer.init_with([self.inputs, self.outputs], fan_in, fan_out, device),
            bias: self.bias.then(|| self.initializer.init_with([self.outputs], fan_in, fan_out, device)),
            activation: self.activation,
        }
    }
}

impl Linear {
    /// # Shapes
    /// - x: `[batch, inputs]`
    /// - output: `[batch, outputs]`
    ///
    /// # Panics
    /// When `x` has another number of columns.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        layer(x, &self.weight, self.bias.as_ref(), self.activation)
    }
}

/// Burn's linear layer by [`crate::linear`]: `[batch, inputs]` to `[batch, outputs]`.
///
/// # Panics
/// When `x` has another number of columns.
#[must_use]
pub fn linear(x: Tensor<2>, layer: &nn::Linear) -> Tensor<2> {
    self::layer(x, &layer.weight, layer.bias.as_ref(), Activation::None)
}

/// Burn's linear layer with a ReLU behind it, by [`crate::linear_relu`]: `[batch, inputs]` to `[batch, outputs]`.
///
/// # Panics
/// When `x` has another number of columns.
#[must_use]
pub fn linear_relu(x: Tensor<2>, layer: &nn::Linear) -> Tensor<2> {
    self::layer(x, &layer.weight, layer.bias.as_ref(), Activation::Relu)
}

fn layer(
    x: Tensor<2>,
    weight: &Param<Tensor<2>>,
    bias: Option<&Param<Tensor<1>>>,
    activation: Activation,
) -> Tensor<2> {
    let weight = weight.val();
    // The kernels always add a bias.
    let bias = bias.map_or_else(|| Tensor::zeros([weight.dims()[1]], &x.device()), Param::val);
    crate::linear_activated(x, weight, bias, activation)
}
