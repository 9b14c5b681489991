use burn::{
    module::Module,
    nn::Linear,
    tensor::{Device, Tensor},
};

use crate::{ImageShape, LayerSummary, fused, init::Initializer, layers};

/// A multilayer perceptron: flattened pixels, hidden layers with ReLU, logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlpConfig {
    /// Width of each hidden layer; none makes a linear classifier.
    pub hidden: Vec<usize>,
}

/// See [`MlpConfig`]; `layers.0.weight` and so on in PyTorch's naming.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl MlpConfig {
    pub(crate) fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Mlp {
        let mut initializer = Initializer::new(seed, device);
        Mlp { layers: self.sizes(shape).map(|(inputs, outputs)| initializer.linear(inputs, outputs)).collect() }
    }

    pub(crate) fn layers(&self, shape: ImageShape) -> Vec<LayerSummary> {
        let last = self.hidden.len();
        let mut summaries = Vec::new();
        for (index, (inputs, outputs)) in self.sizes(shape).enumerate() {
            summaries.push(layers::linear(format!("layers.{index}"), inputs, outputs));
            if index < last {
                summaries.push(layers::plain("", "ReLU", &[outputs]));
            }
        }
        summaries
    }

    /// (inputs, outputs) of each linear layer.
    fn sizes(&self, shape: ImageShape) -> impl Iterator<Item = (usize, usize)> {
        let inputs = std::iter::once(shape.height * shape.width).chain(self.hidden.clone());
        let outputs = self.hidden.clone().into_iter().chain([shape.classes]);
        inputs.zip(outputs)
    }
}

impl Mlp {
    /// # Shapes
    /// - images: `[batch, 1, height, width]`
    /// - logits: `[batch, classes]`
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = images.flatten::<2>(1, 3); // [batch, height * width]
        let Some((last, hidden)) = self.layers.split_last() else { return x };
        let x = hidden.iter().fold(x, fused::linear_relu); // [batch, width of the last hidden layer]
        fused::linear(x, last)
    }
}
