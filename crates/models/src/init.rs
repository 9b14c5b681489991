//! Initial weights: PyTorch's distribution, drawn on the host so that every backend starts from the same numbers.

use burn::{
    module::{Param, ParamId},
    nn::{Linear, PaddingConfig2d, conv::Conv2d},
    tensor::{Device, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// Draws a network's weights from one stream, one layer after the other.
///
/// The parameters are lazy: each knows where in the stream its numbers are, and draws them when they are first needed.
pub(crate) struct Initializer<'a> {
    /// The seed of the stream.
    key: [u8; 32],
    /// Where the next parameter's numbers begin. A number takes one word.
    position: u128,
    device: &'a Device,
}

impl<'a> Initializer<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[16..23].copy_from_slice(b"weights");
        Self { key, position: 0, device }
    }

    /// A linear layer with weight `[inputs, outputs]` and bias `[outputs]`.
    pub(crate) fn linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear { weight: self.uniform([inputs, outputs], inputs), bias: Some(self.uniform([outputs], inputs)) }
    }

    /// A 3x3 convolution that keeps height and width, with weight `[outputs, inputs, 3, 3]` and bias `[outputs]`.
    pub(crate) fn convolution(&mut self, inputs: usize, outputs: usize) -> Conv2d {
        let fan_in = inputs.saturating_mul(9);
        Conv2d {
            weight: self.uniform([outputs, inputs, 3, 3], fan_in),
            bias: Some(self.uniform([outputs], fan_in)),
            stride: [1; 2],
            kernel_size: [3; 2],
            dilation: [1; 2],
            groups: 1,
            padding: PaddingConfig2d::Explicit(1, 1, 1, 1),
        }
    }

    /// U(±1/√fan_in): what PyTorch's `kaiming_uniform_(a=√5)` comes to for weights, and what it uses for biases
    /// (`torch.nn.Linear.reset_parameters`).
    fn uniform<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        let (key, position) = (self.key, self.position);
        let count = shape.iter().fold(1, |count: u128, &side| count.saturating_mul(side as u128));
        self.position = self.position.saturating_add(count);
        let draw = move |device: &Device, require_grad: bool| {
            let mut random = ChaCha8Rng::from_seed(key);
            random.set_word_pos(position);
            let values: Vec<f32> = (0..count as usize).map(|_| random.random_range(-bound..bound)).collect();
            let data = TensorData::new(values, shape);
            device.memory_persistent_allocations(data, |data| {
                let tensor = Tensor::from_data(data, device);
                if require_grad { tensor.require_grad() } else { tensor }
            })
        };
        Param::uninitialized(ParamId::new(), draw, self.device.clone(), true, shape.into())
    }
}
