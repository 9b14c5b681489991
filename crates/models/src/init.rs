//! Initial weights: PyTorch's distributions, drawn on the host so that every backend starts from the same numbers.

use std::{f64::consts::TAU, iter};

use burn::{
    module::{self, Param, ParamId},
    nn::{Linear, PaddingConfig2d, conv::Conv2d},
    tensor::{Device, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::whitening::{cosines, in_both_signs};

/// Draws a network's weights from one stream, one layer after the other.
///
/// The parameters are lazy: each knows where in the stream its numbers are, and draws them when they are first needed.
pub(crate) struct Initializer<'a> {
    /// The seed of the stream.
    key: [u8; 32],
    /// Where the next parameter's numbers begin, in words.
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

    /// [`Self::linear`] without the bias.
    pub(crate) fn linear_without_bias(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear { weight: self.uniform([inputs, outputs], inputs), bias: None }
    }

    /// [`Self::linear`] with a weight from N(0, 2 / inputs), which is `kaiming_normal_`.
    pub(crate) fn kaiming_linear(&mut self, inputs: usize, outputs: usize) -> Linear {
        Linear { weight: self.kaiming([inputs, outputs], inputs), bias: Some(self.uniform([outputs], inputs)) }
    }

    /// A 3x3 convolution that keeps height and width, with weight `[outputs, inputs, 3, 3]` and bias `[outputs]`.
    pub(crate) fn convolution(&mut self, inputs: usize, outputs: usize) -> Conv2d {
        let fan_in = inputs.saturating_mul(9);
        let weight = self.uniform([outputs, inputs, 3, 3], fan_in);
        convolution(weight, Some(self.uniform([outputs], fan_in)), 3, 1)
    }

    /// A convolution without a bias that keeps height and width but for its stride, with weight
    /// `[outputs, inputs, kernel, kernel]` from N(0, 2 / fan_in), which is `kaiming_normal_`.
    pub(crate) fn kaiming_convolution(
        &mut self,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Conv2d {
        let fan_in = inputs.saturating_mul(kernel * kernel);
        convolution(self.kaiming([outputs, inputs, kernel, kernel], fan_in), None, kernel, stride)
    }

    /// A 3x3 convolution without a bias that keeps height and width, with weight `[outputs, inputs, 3, 3]`. Its first
    /// outputs, as many as there are inputs, are the inputs themselves (`torch.nn.init.dirac_`); the others have
    /// [`Self::convolution`]'s weights.
    pub(crate) fn dirac_convolution(&mut self, inputs: usize, outputs: usize) -> Conv2d {
        let bound = bound(inputs.saturating_mul(9));
        let weight = self.parameter([outputs, inputs, 3, 3], 1, move |random, count| {
            let mut values: Vec<f32> = iter::repeat_with(|| random.random_range(-bound..bound)).take(count).collect();
            for (output, filter) in values.chunks_exact_mut(9 * inputs.max(1)).take(inputs).enumerate() {
                filter.fill(0.0);
                filter[output * 9 + 4] = 1.0;
            }
            values
        });
        convolution(weight, None, 3, 1)
    }

    /// A convolution, padded by half of what its kernel has beside the middle, whose weight
    /// `[2 * directions, channels, size, size]` is frozen, with a bias of zeros.
    ///
    /// Its filters are of an orthonormal basis of the patches, and the same once more with the other sign: products of
    /// cosines (DCT-II) over channels, rows and columns, the lowest frequencies first. Of three channels these are the
    /// brightness and two differences of colours. So come out the principal components of natural images' patches,
    /// about (Olshausen and Field, "Natural image statistics and efficient coding", 1996); they are not scaled by the
    /// variances, which only the images have.
    pub(crate) fn whitening_convolution(&mut self, channels: usize, size: usize, directions: usize) -> Conv2d {
        let outputs = directions.saturating_mul(2);
        let draw = move |_: &mut ChaCha8Rng, count| {
            let mut filters = cosines(channels, size);
            filters.truncate(count / 2);
            in_both_signs(filters)
        };
        let weight = self.parameter([outputs, channels, size, size], 0, draw);
        let bias = module::Initializer::Zeros.init([outputs], self.device);
        let mut it = convolution(weight.set_require_grad(false), Some(bias), size, 1);
        let padding = size.saturating_sub(1) / 2;
        it.padding = PaddingConfig2d::Explicit(padding, padding, padding, padding);
        it
    }

    /// U(±1/√fan_in): what PyTorch's `kaiming_uniform_(a=√5)` comes to for weights, and what it uses for biases
    /// (`torch.nn.Linear.reset_parameters`).
    fn uniform<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = bound(fan_in);
        self.parameter(shape, 1, move |random, count| {
            iter::repeat_with(|| random.random_range(-bound..bound)).take(count).collect()
        })
    }

    /// N(0, 2 / fan_in), by Box and Muller's transform: He et al., "Delving deep into rectifiers",
    /// <https://arxiv.org/abs/1502.01852>, equation 10.
    fn kaiming<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let std = (2.0 / fan_in as f64).sqrt();
        self.parameter(shape, 2, move |random, count| {
            let mut normal = || {
                // In (0, 1], so that the logarithm is finite.
                let radius = (-2.0 * (1.0 - f64::from(random.random::<f32>())).ln()).sqrt();
                std * radius * (TAU * f64::from(random.random::<f32>())).cos()
            };
            iter::repeat_with(|| normal() as f32).take(count).collect()
        })
    }

    /// A parameter whose numbers `draw` takes from the stream, `words` words each.
    fn parameter<const D: usize>(
        &mut self,
        shape: [usize; D],
        words: u128,
        draw: impl Fn(&mut ChaCha8Rng, usize) -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let (key, position) = (self.key, self.position);
        let count = shape.iter().fold(1, |count: u128, &side| count.saturating_mul(side as u128));
        self.position = self.position.saturating_add(count.saturating_mul(words));
        let make = move |device: &Device, require_grad: bool| {
            let mut random = ChaCha8Rng::from_seed(key);
            random.set_word_pos(position);
            let data = TensorData::new(draw(&mut random, count as usize), shape);
            device.memory_persistent_allocations(data, |data| {
                let tensor = Tensor::from_data(data, device);
                if require_grad { tensor.require_grad() } else { tensor }
            })
        };
        Param::uninitialized(ParamId::new(), make, self.device.clone(), true, shape.into())
    }
}

/// 1/√fan_in.
fn bound(fan_in: usize) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

/// A convolution with this square kernel, padded by half of it.
fn convolution(weight: Param<Tensor<4>>, bias: Option<Param<Tensor<1>>>, kernel: usize, stride: usize) -> Conv2d {
    let padding = kernel / 2;
    Conv2d {
        weight,
        bias,
        stride: [stride; 2],
        kernel_size: [kernel; 2],
        dilation: [1; 2],
        groups: 1,
        padding: PaddingConfig2d::Explicit(padding, padding, padding, padding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a convolution's weight `[outputs, ...]`, one row for each output.
    fn filters(convolution: &Conv2d) -> Vec<Vec<f32>> {
        let weight = convolution.weight.val();
        let [outputs, inputs, height, width] = weight.dims();
        let values: Vec<f32> = weight.reshape([outputs, inputs * height * width]).into_data().iter::<f32>().collect();
        values.chunks(inputs * height * width).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn residual_networks_begin_with_the_variance_that_relu_halves_and_each_layer_with_numbers_of_its_own() {
        let device = Device::flex();
        let mut initializer = Initializer::new(1, &device);
        let (first, second) =
            (initializer.kaiming_convolution([16, 64], 3, 1), initializer.kaiming_convolution([16, 64], 3, 2));
        let (one, other) = (filters(&first).concat(), filters(&second).concat());
        let count = one.len() as f32;
        let mean = one.iter().sum::<f32>() / count;
        let variance = one.iter().map(|weight| weight * weight).sum::<f32>() / count;
        let fourth = one.iter().map(|weight| weight.powi(4)).sum::<f32>() / count;
        // Within four standard errors of 9,216 draws; a normal distribution's fourth moment is three times its variance squared.
        assert!(mean.abs() < 4.0 * (variance / count).sqrt(), "{mean}");
        assert!((variance / (2.0 / 144.0) - 1.0).abs() < 4.0 * (2.0 / count).sqrt(), "{variance}");
        assert!((fourth / (3.0 * variance * variance) - 1.0).abs() < 4.0 * (96.0 / 9.0 / count).sqrt(), "{fourth}");
        assert!(!one.windows(8).any(|weights| *weights == other[..8]));
        assert_eq!((first.stride, second.stride), ([1; 2], [2; 2]));
    }

    #[test]
    fn airbench_begins_with_an_orthonormal_basis_of_the_patches_in_both_signs_and_then_passes_channels_on() {
        let device = Device::flex().autodiff();
        for channels in [1, 2, 3] {
            let size = 2 + channels / 3;
            let whiten = Initializer::new(1, &device).whitening_convolution(channels, size, size * size * channels);
            assert!(!whiten.weight.is_require_grad() && whiten.bias.as_ref().unwrap().is_require_grad());
            let filters = filters(&whiten);
            let (positive, negative) = filters.split_at(size * size * channels);
            assert_eq!(negative.len(), size * size * channels);
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            for (index, filter) in positive.iter().enumerate() {
                assert!(filter.iter().zip(&negative[index]).all(|(a, b)| a.to_bits() == (-b).to_bits()));
                for (other, second) in positive.iter().enumerate() {
                    let expected = if index == other { 1.0 } else { 0.0 };
                    assert!((product(filter, second) - expected).abs() < 1e-6, "{index} {other}");
                }
            }
            // The first one is the mean.
            assert!(positive[0].iter().all(|value| (value - positive[0][0]).abs() < 1e-7 && *value > 0.0));
        }
        for (inputs, outputs) in [(3, 5), (5, 3)] {
            let filters = filters(&Initializer::new(1, &device).dirac_convolution(inputs, outputs));
            for (output, filter) in filters.iter().enumerate() {
                let expected: Vec<f32> = (0..9 * inputs).map(|at| f32::from(u8::from(at == 9 * output + 4))).collect();
                assert_eq!(*filter == expected, output < inputs, "{filter:?}");
            }
        }
    }
}
