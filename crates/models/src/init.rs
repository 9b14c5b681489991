//! Initial weights: PyTorch's distribution, drawn on the host so that every backend starts from the same numbers.

use burn::{
    module::Param,
    nn::{
        Linear, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// Draws a network's weights one layer after the other.
pub(crate) struct Initializer<'a> {
    random: ChaCha8Rng,
    device: &'a Device,
}

impl<'a> Initializer<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[16..23].copy_from_slice(b"weights");
        Self { random: ChaCha8Rng::from_seed(key), device }
    }

    /// A linear layer with weight `[inputs, outputs]` and bias `[outputs]`.
    pub(crate) fn linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear { weight: self.uniform([inputs, outputs], inputs), bias: Some(self.uniform([outputs], inputs)) }
    }

    /// A 3x3 convolution that keeps height and width, with weight `[outputs, inputs, 3, 3]` and bias `[outputs]`.
    pub(crate) fn convolution(&mut self, inputs: usize, outputs: usize) -> Conv2d {
        let fan_in = inputs * 9;
        let mut convolution = Conv2dConfig::new([inputs, outputs], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(self.device);
        convolution.weight = self.uniform([outputs, inputs, 3, 3], fan_in);
        convolution.bias = Some(self.uniform([outputs], fan_in));
        convolution
    }

    /// U(±1/√fan_in): what PyTorch's `kaiming_uniform_(a=√5)` comes to for weights, and what it uses for biases
    /// (`torch.nn.Linear.reset_parameters`).
    fn uniform<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.random.random_range(-bound..bound)).collect();
        Param::from_data(TensorData::new(values, shape), self.device)
    }
}
