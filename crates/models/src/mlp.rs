use burn::{
    module::Module,
    nn::Linear,
    tensor::{Device, Tensor},
};
use kindling_kernels::nn;
use serde::{Deserialize, Serialize};

use crate::{ImageShape, ModelError, Network, NetworkConfig, init::Initializer};

/// A multilayer perceptron: flattened pixels, hidden layers with ReLU, logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of each hidden layer; none makes a linear classifier.
    pub hidden: Vec<usize>,
}

/// See [`MlpConfig`]; `layers.0.weight` and so on in PyTorch's naming.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Default for MlpConfig {
    /// The preset `mlp`.
    fn default() -> Self {
        Self { hidden: vec![512; 2] }
    }
}

impl NetworkConfig for MlpConfig {
    type Network = Mlp;

    const HELP: &'static [(&'static str, &'static str)] =
        &[("hidden", "Widths of the hidden layers; an empty list makes a linear classifier")];

    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Mlp, ModelError> {
        if self.hidden.contains(&0) {
            return Err(ModelError::EmptyLayer { key: "hidden widths", widths: self.hidden.clone() });
        }
        let mut initializer = Initializer::new(seed, device);
        Ok(Mlp { layers: self.sizes(shape).map(|(inputs, outputs)| initializer.linear(inputs, outputs)).collect() })
    }
}

impl MlpConfig {
    /// (inputs, outputs) of each linear layer.
    fn sizes(&self, shape: ImageShape) -> impl Iterator<Item = (usize, usize)> {
        let inputs = std::iter::once(shape.channels * shape.height * shape.width).chain(self.hidden.clone());
        let outputs = self.hidden.clone().into_iter().chain([shape.classes]);
        inputs.zip(outputs)
    }
}

impl Network for Mlp {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = images.flatten::<2>(1, 3); // [batch, channels * height * width]
        let Some((last, hidden)) = self.layers.split_last() else { return x };
        let x = hidden.iter().fold(x, nn::linear_relu); // [batch, width of the last hidden layer]
        nn::linear(x, last)
    }
}
