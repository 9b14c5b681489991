//! What networks may be made of, each alone.

use burn::{
    module::{Module, Param},
    nn::{
        GroupNormConfig, InstanceNormConfig, PaddingConfig2d, RmsNormConfig,
        pool::{AdaptiveAvgPool2dConfig, AvgPool2dConfig, MaxPool2dConfig},
    },
    tensor::{
        Device, Int, Tensor, TensorData, activation,
        module::{conv_transpose1d, conv_transpose2d, conv1d, conv2d, interpolate},
        ops::{ConvOptions, ConvTransposeOptions, InterpolateMode, InterpolateOptions, PadMode},
        s,
    },
};
use kindling_models::{ImageShape, ModelError, Network, NetworkConfig};
use serde::{Deserialize, Serialize};

use super::Trained;

type Operation = fn(Tensor<4>) -> Tensor<4>;

/// A network of one of [`OPERATIONS`], and of what brings its output to three numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OneConfig {
    operation: String,
}

#[derive(Module, Debug)]
struct One {
    scale: Param<Tensor<1>>,
    operation: usize,
}

impl NetworkConfig for OneConfig {
    type Network = One;

    fn init(&self, _shape: ImageShape, _seed: u64, device: &Device) -> Result<One, ModelError> {
        let operation = OPERATIONS.iter().position(|(name, _)| *name == self.operation);
        let operation = operation.ok_or_else(|| ModelError::Invalid(format!("no operation `{}`", self.operation)))?;
        Ok(One { scale: burn::nn::Initializer::Ones.init([1], device), operation })
    }
}

impl Network for One {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let (batch, device) = (images.dims()[0], images.device());
        let y = (OPERATIONS[self.operation].1)(images) * self.scale.val().reshape([1, 1, 1, 1]);
        assert_eq!(y.dims()[0], batch, "{}", OPERATIONS[self.operation].0);
        let y = y.flatten::<2>(1, 3); // [batch, numbers]
        let numbers = y.dims()[1];
        let weights: Vec<f32> =
            (0..numbers * 3).map(|place| ((place * 7 % 11) as f32 - 5.0) / numbers as f32).collect();
        y.matmul(Tensor::<1>::from_floats(&*weights, &device).reshape([numbers, 3]))
    }
}

/// Of images `[batch, 4, 6, 5]`; those in brackets cannot be exported.
const OPERATIONS: &[(&str, Operation)] = &[
    ("conv 1d", |x| {
        let (weight, bias) = (wave([6, 2, 3], &x), wave([6], &x));
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels, height * width]);
        let y = conv1d(x, weight, Some(bias), ConvOptions::new([2], [1], [2], 2)); // [batch, 6, 14]
        y.unsqueeze_dim(3)
    }),
    ("conv 2d", |x| {
        let weight = wave([6, 2, 3, 2], &x);
        conv2d(x, weight, None, ConvOptions::new([1, 2], [2, 1], [2, 1], 2))
    }),
    ("conv transpose 1d", |x| {
        let (weight, bias) = (wave([4, 3, 3], &x), wave([3], &x));
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels, height * width]);
        conv_transpose1d(x, weight, Some(bias), ConvTransposeOptions::new([2], [1], [1], [1], 1)).unsqueeze_dim(3)
    }),
    ("conv transpose 2d", |x| {
        let (weight, bias) = (wave([4, 3, 3, 2], &x), wave([6], &x));
        conv_transpose2d(x, weight, Some(bias), ConvTransposeOptions::new([2, 1], [1, 0], [1, 0], [1, 2], 2))
    }),
    ("interpolation to a larger size", |x| {
        let [nearest, linear, cubic] = [InterpolateMode::Nearest, InterpolateMode::Bilinear, InterpolateMode::Bicubic]
            .map(|mode| {
                interpolate(
                    x.clone(),
                    InterpolateOptions::new(mode).with_output_size([12, 10]).with_align_corners(false),
                )
            });
        nearest + linear * 2.0 + cubic * 3.0
    }),
    ("group norm", |x| GroupNormConfig::new(2, 4).init(&x.device()).forward(x)),
    ("instance norm", |x| InstanceNormConfig::new(4).init(&x.device()).forward(x)),
    ("rms norm", |x| RmsNormConfig::new(5).init(&x.device()).forward(x)),
    ("max pool", |x| MaxPool2dConfig::new([3, 2]).with_strides([2, 1]).with_padding(same(1)).init().forward(x)),
    ("max pool that rounds up", |x| {
        MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_ceil_mode(true).init().forward(x)
    }),
    ("average pool", |x| {
        let pool = AvgPool2dConfig::new([3, 2]).with_strides([2, 1]).with_padding(same(1));
        pool.with_count_include_pad(false).init().forward(x)
    }),
    ("average pool that rounds up", |x| {
        let pool = AvgPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(same(1));
        pool.with_ceil_mode(true).init().forward(x)
    }),
    ("average pool that rounds up and leaves out padding", |x| {
        let pool = AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).with_ceil_mode(true);
        pool.with_count_include_pad(false).init().forward(x)
    }),
    ("adaptive pool", |x| AdaptiveAvgPool2dConfig::new([3, 5]).init().forward(x)),
    ("adaptive pool of uneven pools", |x| AdaptiveAvgPool2dConfig::new([4, 3]).init().forward(x)),
    ("activations", |x| {
        let y = activation::leaky_relu(x.clone(), 0.1) + activation::hard_sigmoid(x.clone(), 0.2, 0.5);
        let y = y + activation::softplus(x.clone(), 1.5) - activation::log_sigmoid(x.clone());
        y + activation::silu(x.clone()) + activation::mish(x.clone()) + activation::softmin(x, 2)
    }),
    ("more activations", |x| {
        let y = activation::elu(x.clone(), 0.7) + activation::gelu(x.clone()) + activation::gelu_approximate(x.clone());
        let slopes = Tensor::<1>::from_floats([0.1, 0.2, 0.3, 0.4], &x.device());
        y + activation::prelu(x.clone(), slopes) + activation::tanh(x.clone()) + activation::log_softmax(x, 3)
    }),
    ("functions", |x| {
        let positive = x.clone().abs() + 0.5;
        let y = positive.clone().log() + positive.clone().sqrt() + positive.clone().recip() + positive.powf_scalar(1.5);
        let y = y + x.clone().exp().sin() - x.clone().cos().floor() + x.clone().ceil() + x.clone().erf();
        y + x.clone().powi_scalar(3)
            + x.clone().sign()
            + (x.clone() * 3.0).trunc()
            + x.clone().square().log1p()
            + x.clone().remainder_scalar(0.3)
            + x.clone().clamp(-0.2, 0.4)
            + x.clone().clamp_min(0.1)
            + x.clamp_max(0.1)
    }),
    ("comparisons and masks", |x| {
        let mask = x.clone().greater_elem(0.1).bool_or(x.clone().lower_equal_elem(-0.5));
        let other =
            x.clone().mask_where(mask.clone().bool_not(), x.clone() * 2.0).mask_fill(x.clone().lower_elem(-0.8), 3.0);
        other + mask.float() + x.clone().equal(activation::relu(x.clone())).int().float()
    }),
    ("reductions", |x| {
        let y = x.clone().sum_dim(1) + x.clone().mean_dim(2) + x.clone().max_dim(3) + x.clone().min_dim(1);
        let (largest, places) = x.clone().max_dim_with_indices(2);
        y + x.clone().prod_dim(3) + largest + places.float() + x.clone().argmax(1).float() + x.var(2)
    }),
    ("shapes", |x| {
        let [batch, channels, height, width] = x.dims();
        let y = x
            .clone()
            .swap_dims(1, 3)
            .reshape([batch * width, height * channels])
            .reshape([batch, width, height, channels]);
        Tensor::cat(vec![y.permute([0, 3, 2, 1]), x.repeat_dim(2, 2).flip([2, 3]).slice(s![.., .., 3..9, ..])], 3)
    }),
    ("slices", |x| {
        let y = x.clone().slice(s![.., 1..3, 0..6;2, ..]);
        let z = x.clone().slice_assign(s![.., 1..3, .., ..], x.clone().slice(s![.., 0..2, .., ..]) * 2.0);
        y.repeat_dim(1, 2).repeat_dim(2, 2) + z
    }),
    ("padding", |x| x.pad([(1, 2), (0, 1)], PadMode::Constant(0.5))),
    ("selection", |x| {
        let channels = Tensor::<1, Int>::from_ints([3, 1, 1, 0], &x.device());
        let places = Tensor::<4, Int>::zeros([x.dims()[0], 4, 6, 5], &x.device()) + 2;
        x.clone().select(1, channels) + x.gather(3, places)
    }),
    ("batch-sized constants", |x| {
        let zeros = Tensor::<4>::zeros(x.dims(), &x.device()) + Tensor::<4>::ones([x.dims()[0], 1, 1, 1], &x.device());
        x + zeros
    }),
    ("(sorts)", |x| x.sort(2)),
    ("(draws)", |x| x.clone() + x.random_like(burn::tensor::Distribution::Default)),
    ("(counts the images)", |x| x.clone() * (x.dims()[0] as f32)),
    ("(takes the last image)", |x| x.clone() + x.clone().slice(s![-1.., .., .., ..])),
    ("(numbers the images)", |x| {
        let numbers = Tensor::<1, Int>::arange(0..x.dims()[0] as i64, &x.device());
        x + numbers.float().reshape([-1, 1, 1, 1])
    }),
];

/// Numbers between -1 and 1 that no other tensor of this size has.
fn wave<const D: usize>(sizes: [usize; D], like: &Tensor<4>) -> Tensor<D> {
    let numbers: Vec<f32> =
        (0..sizes.iter().product()).map(|place: usize| (place as f32 * 1.7 + D as f32).sin()).collect();
    Tensor::from_data(TensorData::new(numbers, sizes), &like.device())
}

fn same(padding: usize) -> PaddingConfig2d {
    PaddingConfig2d::Explicit(padding, padding, padding, padding)
}

/// A run of the network of `operation`.
fn trained(operation: &str) -> Trained {
    Trained::new(&OneConfig { operation: operation.to_owned() }, [4, 6, 5])
}

#[test]
fn every_operation_that_is_known_is_the_same_in_tract() {
    for (name, _) in OPERATIONS.iter().filter(|(name, _)| !name.starts_with('(')) {
        trained(name).check(false);
    }
}

#[test]
fn an_operation_that_is_not_known_is_named_and_so_is_the_layer_before_it() {
    let refusal = |name: &str| trained(name).export(false).unwrap_err().to_string();
    let said = refusal("(sorts)");
    assert!(said.contains("`Sort`") && said.contains("ONNX export does not know"), "{said}");
    let said = refusal("(draws)");
    assert!(said.contains("`Random`"), "{said}");
    for (name, what) in [("(counts the images)", "`MulScalar`"), ("(takes the last image)", "`Slice`")] {
        let said = refusal(name);
        assert!(said.contains(what) && said.contains("another number of images"), "{said}");
    }
    assert!(refusal("(numbers the images)").contains("another number of images"));
}
