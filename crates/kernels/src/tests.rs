//! The operations against Burn's own, against plain loops in f64, and against what their documentation promises.
//!
//! Every test of numbers runs at each level of the CPU. The references go through Burn's tensors and not through this
//! crate, so they do not depend on which operations the program has chosen.

#![allow(clippy::float_cmp)] // What is compared so has to be the same to the last bit.

use std::{
    array,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use burn::tensor::{
    Device, Shape, Tensor, TensorData,
    activation::relu,
    module,
    ops::{ConvOptions, MaxPoolOptions},
};
use proptest::prelude::*;

use crate::{
    ChannelOrder, ConvBlock, ConvBlockOutput,
    cpu::{Level, block, cross_entropy, linear, parallel, sgd_step},
};

/// What batch norm adds to the variance, PyTorch's default.
const EPSILON: f64 = 1e-5;

/// 2⁻²⁴: an f32 is rounded by at most this much of itself.
const UNIT: f64 = 0.5 / 8_388_608.0;

/// How far apart, by [`distance`], results of the same data may be.
///
/// A sum of n numbers of either sign is off by about 2⁻²⁴ √n of its size when every addition is rounded. The longest here
/// are over a channel's 141 570 values, of 130 images of 33x33, which makes 2.2e-5; Winograd's transforms and the roundings
/// of batch norm come on top. One wrong number of N is a distance of about 1 / √N, so among the 3.3 million of the largest
/// array, 5.5e-4, it shows.
const CLOSE: f64 = 1e-4;

/// Multiplications of the largest convolution: at the slowest level a tenth of a second for each of its passes.
const MOST_WORK: usize = 30_000_000;

// Numbers and how they are compared.

/// SplitMix64 (Steele, Lea and Flood 2014): a seed gives the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between -1 and 1.
    fn reals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.draw() >> 40) as f32 / 8_388_608.0 - 1.0).collect()
    }

    /// Of either sign, between 0.5 and 1.5.
    fn factors(&mut self, count: usize) -> Vec<f32> {
        self.reals(count).iter().map(|&real| real + 0.5 * real.signum()).collect()
    }

    /// Whole, of either sign, between 1 and 3.
    fn wholes(&mut self, count: usize) -> Vec<f32> {
        const WHOLES: [f32; 6] = [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0];
        (0..count).map(|_| WHOLES[(self.draw() % 6) as usize]).collect()
    }
}

fn doubles(floats: &[f32]) -> Vec<f64> {
    floats.iter().copied().map(f64::from).collect()
}

fn length(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|number| number * number).sum::<f64>().sqrt()
}

/// The length of the difference of two arrays, relative to that of the second.
fn distance<F: Copy + Into<f64>, E: Copy + Into<f64>>(found: &[F], expected: &[E]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(&found, &expected)| {
        let (found, expected): (f64, f64) = (found.into(), expected.into());
        found - expected
    });
    length(differences) / length(expected.iter().map(|&expected| expected.into()))
}

/// NaN is far from everything.
fn check_distance<E: Copy + Into<f64>>(what: &str, found: &[f32], expected: &[E]) {
    let distance = distance(found, expected);
    assert!(distance <= CLOSE, "{what} is {distance:e} from what is expected");
}

/// Each element within a bound of its own; NaN is within none.
fn check_elements<E: Copy + Into<f64>>(what: &str, found: &[f32], expected: &[E], bound: impl Fn(usize) -> f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let expected: f64 = expected.into();
        let difference = (f64::from(found) - expected).abs();
        assert!(difference <= bound(index), "{what}: element {index} is {found} instead of {expected}");
    }
}

fn largest(numbers: &[f32]) -> f64 {
    numbers.iter().fold(0.0, |largest: f64, number| largest.max(f64::from(number.abs())))
}

/// The derivatives of a loss by every `step`th number of one array, by central differences.
fn slopes<const N: usize>(
    arrays: &[Vec<f64>; N],
    which: usize,
    step: usize,
    loss: impl Fn(&[Vec<f64>; N]) -> f64,
) -> Vec<f64> {
    // Rounding makes about 1e-16 / 1e-6 of the loss, the curvature less.
    const MOVE: f64 = 1e-6;
    let mut arrays = arrays.clone();
    (0..arrays[which].len())
        .step_by(step)
        .map(|at| {
            let number = arrays[which][at];
            let [above, below] = [MOVE, -MOVE].map(|by| {
                arrays[which][at] = number + by;
                loss(&arrays)
            });
            arrays[which][at] = number;
            (above - below) / (2.0 * MOVE)
        })
        .collect()
}

fn product_sum(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

// Burn's tensors.

fn tensor<const D: usize>(numbers: &[f32], dims: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), Shape::new(dims)), device)
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn linear_by_burn(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, rectified: bool) -> Tensor<2> {
    let y = module::linear(x, weight, Some(bias));
    if rectified { relu(y) } else { y }
}

fn convolution(x: Tensor<4>, block: &ConvBlock) -> Tensor<4> {
    let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
    module::conv2d(x, block.weight.clone(), Some(block.bias.clone()), options)
}

fn pool(normalised: Tensor<4>) -> Tensor<4> {
    module::max_pool2d(relu(normalised), MaxPoolOptions::new([2, 2]))
}

fn block_by_burn(x: Tensor<4>, block: ConvBlock) -> ConvBlockOutput {
    let convolved = convolution(x, &block);
    let normalised = module::batch_norm_train(convolved, block.gamma, block.beta, block.epsilon);
    ConvBlockOutput { output: pool(normalised.output), mean: normalised.mean, variance: normalised.variance }
}

fn inference_by_burn(x: Tensor<4>, block: ConvBlock, mean: Tensor<1>, variance: Tensor<1>) -> Tensor<4> {
    let convolved = convolution(x, &block);
    pool(module::batch_norm(convolved, block.gamma, block.beta, mean, variance, block.epsilon))
}

// Linear layers.

#[derive(Clone, Debug)]
struct LinearCase {
    sizes: linear::Sizes,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

impl LinearCase {
    fn new(sizes: linear::Sizes, seed: u64) -> Self {
        let linear::Sizes { batch, inputs, outputs } = sizes;
        let mut numbers = Numbers(seed);
        Self {
            sizes,
            x: numbers.reals(batch * inputs),
            weight: numbers.reals(inputs * outputs),
            bias: numbers.reals(outputs),
            dy: numbers.reals(batch * outputs),
        }
    }

    /// The same without signs: each of its results is the sum of the magnitudes of what the other's result sums.
    fn magnitudes(&self) -> Self {
        let unsigned = |numbers: &[f32]| -> Vec<f32> { numbers.iter().map(|number| number.abs()).collect() };
        Self {
            sizes: self.sizes,
            x: unsigned(&self.x),
            weight: unsigned(&self.weight),
            bias: unsigned(&self.bias),
            dy: unsigned(&self.dy),
        }
    }

    fn arrays(&self) -> [Vec<f64>; 3] {
        [doubles(&self.x), doubles(&self.weight), doubles(&self.bias)]
    }

    fn forward(&self, level: Level, relu: bool) -> Vec<f32> {
        let it = linear::Forward { sizes: self.sizes, x: &self.x, weight: &self.weight, bias: Some(&self.bias), relu };
        linear::forward(level, it)
    }

    fn backward(&self, level: Level, y: Option<&[f32]>, wants_x: bool) -> linear::Gradients {
        let it = linear::Backward { sizes: self.sizes, x: &self.x, weight: &self.weight, y, dy: &self.dy, wants_x };
        linear::backward(level, it)
    }

    fn tensors(&self, device: &Device) -> (Tensor<2>, Tensor<2>, Tensor<1>) {
        let linear::Sizes { batch, inputs, outputs } = self.sizes;
        (
            tensor(&self.x, [batch, inputs], device),
            tensor(&self.weight, [inputs, outputs], device),
            tensor(&self.bias, [outputs], device),
        )
    }

    /// The output of a layer and the gradients of x, weight and bias, on a device that differentiates.
    fn differentiate(
        &self,
        device: &Device,
        layer: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
    ) -> (Vec<f32>, [Vec<f32>; 3]) {
        let (x, weight, bias) = self.tensors(device);
        let (x, weight, bias) = (x.require_grad(), weight.require_grad(), bias.require_grad());
        let y = layer(x.clone(), weight.clone(), bias.clone());
        let dy = tensor(&self.dy, y.dims(), device);
        let gradients = (y.clone() * dy).sum().backward();
        let found = [
            floats(x.grad(&gradients).unwrap()),
            floats(weight.grad(&gradients).unwrap()),
            floats(bias.grad(&gradients).unwrap()),
        ];
        (floats(y), found)
    }
}

fn plain_linear(sizes: linear::Sizes, [x, weight, bias]: &[Vec<f64>; 3], relu: bool) -> Vec<f64> {
    let linear::Sizes { batch, inputs, outputs } = sizes;
    (0..batch * outputs)
        .map(|at| {
            let (image, output) = (at / outputs, at % outputs);
            let products = (0..inputs).map(|input| x[image * inputs + input] * weight[input * outputs + output]);
            let y = bias[output] + products.sum::<f64>();
            if relu { y.max(0.0) } else { y }
        })
        .collect()
}

/// Some of them longer than the parts in which the layer takes its sums, of 128 and of 512 terms.
fn linear_sizes() -> impl Strategy<Value = linear::Sizes> {
    let batch = prop_oneof![2 => 1..=130_usize, 1 => 110..=140_usize];
    let inputs = prop_oneof![5 => 1..=150_usize, 1 => 600..=700_usize];
    let outputs = prop_oneof![5 => 1..=70_usize, 1 => 300..=600_usize];
    (batch, inputs, outputs).prop_map(|(batch, inputs, outputs)| linear::Sizes { batch, inputs, outputs })
}

/// How far two sums of the same terms can be apart, for the sum of the terms' magnitudes.
///
/// In whatever order, each of n products passes at most n roundings, its own and those of the sums that it is in. So a sum
/// is off by at most `n 2⁻²⁴` of the magnitudes (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section
/// 4.2). One term more covers the second order, and that the magnitudes are rounded as well.
fn sums_apart(terms: usize, magnitude: f32) -> f64 {
    2.0 * (terms + 1) as f64 * UNIT * f64::from(magnitude)
}

// Convolution blocks.

#[derive(Clone, Debug)]
struct BlockCase {
    sizes: block::Sizes,
    /// With the channels first, whatever the sizes say: it is turned on its way to the block.
    x: Vec<f32>,
    weight: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    bias: Vec<f32>,
    /// As `x`.
    dy: Vec<f32>,
}

impl BlockCase {
    fn real(sizes: block::Sizes, seed: u64) -> Self {
        let block::Sizes { batch, inputs, outputs, height, width, .. } = sizes;
        let mut numbers = Numbers(seed);
        Self {
            sizes,
            x: numbers.reals(batch * inputs * height * width),
            weight: numbers.reals(outputs * inputs * 9),
            gamma: numbers.factors(outputs),
            beta: numbers.reals(outputs),
            bias: numbers.reals(outputs),
            dy: numbers.reals(batch * outputs * (height / 2) * (width / 2)),
        }
    }

    /// A case whose gradients do not depend on rounding by more than their own.
    ///
    /// Which value of a pool is the largest, and whether it passes the ReLU, changes at a touch when two values, or a value
    /// and zero, are nearly equal; among millions of pools some are. Images, kernels and biases of whole numbers make a
    /// convolution of whole numbers, which every way to sum them up gives exactly, Winograd's transforms with their
    /// quarters too. So values are equal or well apart, and [`settled`](Self::settled) puts the ReLU's edge between them.
    /// The gradients of the output are positive, so that those of gamma and beta do not cancel out.
    fn whole(sizes: block::Sizes, seed: u64) -> Self {
        let real = Self::real(sizes, seed);
        let mut numbers = Numbers(!seed);
        Self {
            x: numbers.wholes(real.x.len()),
            weight: numbers.wholes(real.weight.len()),
            bias: numbers.wholes(real.bias.len()),
            dy: real.dy.iter().map(|&dy| 1.0 + 0.5 * dy).collect(),
            ..real
        }
        .settled()
    }

    /// The same with shifts for which the ReLU's edge is half way between two whole numbers, about half a deviation from
    /// the mean: it keeps three of four pools.
    fn settled(mut self) -> Self {
        let block::Sizes { batch, outputs, height, width, .. } = self.sizes;
        let (x, block) = self.tensors(&Device::flex());
        let convolved = floats(convolution(x, &block));
        let count = (batch * height * width) as f64;
        self.beta = (0..outputs)
            .map(|channel| {
                let planes = convolved.chunks_exact(height * width).skip(channel).step_by(outputs);
                let values = planes.flatten().copied().map(f64::from);
                let mean = values.clone().sum::<f64>() / count;
                let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
                let gamma = f64::from(self.gamma[channel]);
                let edge = mean.floor() + 0.5 + gamma.signum() * (variance.sqrt() / 2.0).round();
                (gamma * (mean - edge) / (variance + EPSILON).sqrt()) as f32
            })
            .collect();
        self
    }

    /// In the order of the gradients, the bias last.
    fn arrays(&self) -> [Vec<f64>; 5] {
        [doubles(&self.x), doubles(&self.weight), doubles(&self.gamma), doubles(&self.beta), doubles(&self.bias)]
    }

    fn parameters(&self) -> block::Parameters<'_> {
        block::Parameters {
            weight: &self.weight,
            bias: Some(&self.bias),
            gamma: &self.gamma,
            beta: &self.beta,
            epsilon: EPSILON as f32,
        }
    }

    /// x in the order of its sizes.
    fn images(&self) -> Vec<f32> {
        laid_out(&self.x, self.sizes.batch, self.sizes.inputs, self.sizes.x_order)
    }

    fn train(&self, level: Level) -> (Vec<f32>, block::Statistics, block::Saved) {
        let (y, statistics, saved) = block::train(level, self.sizes, &self.images(), self.parameters(), None);
        (planes(&y, self.sizes.batch, self.sizes.outputs, self.sizes.y_order), statistics, saved)
    }

    fn infer(&self, level: Level, statistics: &block::Statistics) -> Vec<f32> {
        let y = block::infer(level, self.sizes, &self.images(), self.parameters(), statistics);
        planes(&y, self.sizes.batch, self.sizes.outputs, self.sizes.y_order)
    }

    fn backward(&self, level: Level, saved: &block::Saved, wants_x: bool) -> block::Gradients {
        let block::Sizes { batch, inputs, outputs, x_order, y_order, .. } = self.sizes;
        let dy = laid_out(&self.dy, batch, outputs, y_order);
        let found = block::backward(level, self.sizes, &self.images(), &self.weight, saved, &dy, wants_x);
        block::Gradients { x: found.x.map(|dx| planes(&dx, batch, inputs, x_order)), ..found }
    }

    /// The gradients of x, weight, gamma and beta.
    fn gradients(&self, level: Level) -> [Vec<f32>; 4] {
        let saved = self.train(level).2;
        let found = self.backward(level, &saved, true);
        [found.x.unwrap(), found.weight, found.gamma, found.beta]
    }

    fn tensors(&self, device: &Device) -> (Tensor<4>, ConvBlock) {
        let block::Sizes { batch, inputs, outputs, height, width, .. } = self.sizes;
        let block = ConvBlock {
            weight: tensor(&self.weight, [outputs, inputs, 3, 3], device),
            bias: tensor(&self.bias, [outputs], device),
            gamma: tensor(&self.gamma, [outputs], device),
            beta: tensor(&self.beta, [outputs], device),
            epsilon: EPSILON,
            order: ChannelOrder::First,
        };
        (tensor(&self.x, [batch, inputs, height, width], device), block)
    }

    /// The output of a block and the gradients of x, weight, gamma, beta and bias, on a device that differentiates.
    fn differentiate(
        &self,
        device: &Device,
        operation: impl Fn(Tensor<4>, ConvBlock) -> ConvBlockOutput,
    ) -> (Vec<f32>, [Vec<f32>; 5]) {
        let (x, block) = self.tensors(device);
        let x = x.require_grad();
        let block = ConvBlock {
            weight: block.weight.require_grad(),
            bias: block.bias.require_grad(),
            gamma: block.gamma.require_grad(),
            beta: block.beta.require_grad(),
            ..block
        };
        let y = operation(x.clone(), block.clone()).output;
        let dims = y.dims();
        let dy = tensor(&self.dy[..dims.iter().product::<usize>()], dims, device);
        let gradients = (y.clone() * dy).sum().backward();
        let found = [
            floats(x.grad(&gradients).unwrap()),
            floats(block.weight.grad(&gradients).unwrap()),
            floats(block.gamma.grad(&gradients).unwrap()),
            floats(block.beta.grad(&gradients).unwrap()),
            floats(block.bias.grad(&gradients).unwrap()),
        ];
        (floats(y), found)
    }
}

/// The names of a block's gradients in their order.
const BLOCK_GRADIENTS: [&str; 4] = ["x", "weight", "gamma", "beta"];

/// Images that have their channels first, in an order.
fn laid_out(images: &[f32], batch: usize, channels: usize, order: ChannelOrder) -> Vec<f32> {
    match order {
        ChannelOrder::First => images.to_vec(),
        ChannelOrder::Last => turned(images, batch, channels),
    }
}

/// Images in an order, with their channels first.
fn planes(images: &[f32], batch: usize, channels: usize, order: ChannelOrder) -> Vec<f32> {
    match order {
        ChannelOrder::First => images.to_vec(),
        ChannelOrder::Last => turned(images, batch, images.len() / (batch * channels)),
    }
}

/// Each image, a matrix of so many rows, transposed.
fn turned(images: &[f32], batch: usize, rows: usize) -> Vec<f32> {
    let columns = images.len() / (batch * rows);
    images
        .chunks_exact(rows * columns)
        .flat_map(|image| (0..rows * columns).map(move |at| image[at % rows * columns + at / rows]))
        .collect()
}

fn block_sizes() -> impl Strategy<Value = block::Sizes> {
    // Every other time as many channels as Winograd's convolution takes.
    let channels = || prop_oneof![1..=70_usize, (1..=4_usize).prop_map(|sixteens| 16 * sixteens)];
    let side = || prop_oneof![2..=33_usize, 2..=7_usize];
    let order = || prop_oneof![Just(ChannelOrder::First), Just(ChannelOrder::Last)];
    (1..=130_usize, channels(), channels(), side(), side(), order(), order()).prop_map(
        |(batch, inputs, outputs, height, width, x_order, y_order)| {
            let most = MOST_WORK / (9 * inputs * outputs * height * width);
            // Of a few values batch norm's gradient can be nothing but what rounding leaves of their differences.
            let least = 16_usize.div_ceil((height / 2) * (width / 2));
            block::Sizes { x_order, y_order, batch: batch.min(most).max(least), inputs, outputs, height, width }
        },
    )
}

/// A block as its definition reads, by plain loops in f64.
struct PlainBlock {
    /// The convolution's, `[batch, outputs, height, width]`.
    convolved: Vec<f64>,
    mean: Vec<f64>,
    /// `1 / √(variance + ε)`
    inverse: Vec<f64>,
    /// For each pool the place in `convolved` of the first of its largest.
    winners: Vec<usize>,
    output: Vec<f64>,
}

impl PlainBlock {
    fn forward(sizes: block::Sizes, [x, weight, gamma, beta, bias]: &[Vec<f64>; 5]) -> Self {
        let block::Sizes { batch, outputs, height, width, .. } = sizes;
        let channel = |place: usize| place / (height * width) % outputs;
        let convolved: Vec<f64> = (0..batch * outputs * height * width)
            .map(|place| {
                let products = taps(sizes, place).map(|(from, tap)| x[from] * weight[tap]);
                bias[channel(place)] + products.sum::<f64>()
            })
            .collect();
        let mean = means(sizes, |place| convolved[place]);
        let variance = means(sizes, |place| (convolved[place] - mean[channel(place)]).powi(2));
        let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let normalised = |place: usize| {
            let channel = channel(place);
            gamma[channel] * ((convolved[place] - mean[channel]) * inverse[channel]) + beta[channel]
        };
        let (down, across) = (height / 2, width / 2);
        let winners: Vec<usize> = (0..batch * outputs * down * across)
            .map(|pool| {
                let (plane, row, column) = (pool / (down * across), pool / across % down, pool % across);
                let first = (plane * height + 2 * row) * width + 2 * column;
                let mut winner = first;
                for place in [first + 1, first + width, first + width + 1] {
                    if normalised(place) > normalised(winner) {
                        winner = place;
                    }
                }
                winner
            })
            .collect();
        let output = winners.iter().map(|&winner| normalised(winner).max(0.0)).collect();
        Self { convolved, mean, inverse, winners, output }
    }

    /// The gradients of x, weight, gamma and beta.
    fn backward(&self, sizes: block::Sizes, [x, weight, gamma, ..]: &[Vec<f64>; 5], dy: &[f64]) -> [Vec<f64>; 4] {
        let block::Sizes { batch, outputs, height, width, .. } = sizes;
        let channel = |place: usize| place / (height * width) % outputs;
        let mut passed = vec![0.0; self.convolved.len()];
        for ((&winner, &y), &dy) in self.winners.iter().zip(&self.output).zip(dy) {
            passed[winner] = if y > 0.0 { dy } else { 0.0 };
        }
        let normal = |place: usize| (self.convolved[place] - self.mean[channel(place)]) * self.inverse[channel(place)];
        let mean_passed = means(sizes, |place| passed[place]);
        let mean_normal = means(sizes, |place| passed[place] * normal(place));
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        for (place, passed) in passed.iter().enumerate() {
            let at = channel(place);
            let dz = gamma[at] * self.inverse[at] * (passed - mean_passed[at] - normal(place) * mean_normal[at]);
            for (from, tap) in taps(sizes, place) {
                dx[from] += dz * weight[tap];
                dweight[tap] += dz * x[from];
            }
        }
        let count = (batch * height * width) as f64;
        let sums = |means: Vec<f64>| -> Vec<f64> { means.iter().map(|mean| mean * count).collect() };
        [dx, dweight, sums(mean_normal), sums(mean_passed)]
    }
}

/// What the convolution multiplies for one place of its output: places in x and in the weights.
fn taps(sizes: block::Sizes, place: usize) -> impl Iterator<Item = (usize, usize)> {
    let block::Sizes { inputs, outputs, height, width, .. } = sizes;
    let (channel, row, column) = (place / (height * width), place / width % height, place % width);
    let (image, output) = (channel / outputs, channel % outputs);
    (0..inputs * 9).filter_map(move |tap| {
        let row = (row + tap / 3 % 3).checked_sub(1).filter(|&row| row < height)?;
        let column = (column + tap % 3).checked_sub(1).filter(|&column| column < width)?;
        let from = ((image * inputs + tap / 9) * height + row) * width + column;
        Some((from, output * inputs * 9 + tap))
    })
}

/// The means over each channel of what a function gives for its places.
fn means(sizes: block::Sizes, value: impl Fn(usize) -> f64) -> Vec<f64> {
    let block::Sizes { batch, outputs, height, width, .. } = sizes;
    let mut means = vec![0.0; outputs];
    for place in 0..batch * outputs * height * width {
        means[place / (height * width) % outputs] += value(place) / (batch * height * width) as f64;
    }
    means
}

/// Sizes with the channels first.
fn sizes_of(batch: usize, [inputs, outputs]: [usize; 2], [height, width]: [usize; 2]) -> block::Sizes {
    let (x_order, y_order) = (ChannelOrder::First, ChannelOrder::First);
    block::Sizes { x_order, y_order, batch, inputs, outputs, height, width }
}

/// Channels that are convolved by the definition, and channels that are convolved by Winograd's tiles.
const BOTH_WAYS: [[usize; 2]; 2] = [[3, 5], [16, 17]];

// Against Burn.

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_linear_layer_is_burns(sizes in linear_sizes(), relu: bool, seed: u64) {
        let linear::Sizes { batch, inputs, outputs } = sizes;
        let (case, device) = (LinearCase::new(sizes, seed), Device::flex().autodiff());
        let (y, gradients) =
            case.differentiate(&device, |x, weight, bias| linear_by_burn(x, weight, bias, relu));
        // Without a ReLU, which would only leave some of them out.
        let (y_magnitudes, magnitudes) = case
            .magnitudes()
            .differentiate(&device, |x, weight, bias| linear_by_burn(x, weight, bias, false));
        for level in Level::available() {
            let found = case.forward(level, relu);
            check_elements(&format!("y, {level}"), &found, &y, |at| sums_apart(inputs + 1, y_magnitudes[at]));
            for wants_x in [false, true] {
                // Of Burn's output, so that rounding does not decide about a ReLU's edge.
                let found = case.backward(level, relu.then_some(&y[..]), wants_x);
                prop_assert_eq!(found.x.is_some(), wants_x);
                let found = [("x", found.x), ("weight", Some(found.weight)), ("bias", Some(found.bias))];
                let terms = [outputs, batch, batch];
                for (which, (name, found)) in found.into_iter().enumerate() {
                    let Some(found) = found else { continue };
                    check_elements(&format!("d{name}, {level}"), &found, &gradients[which], |at| {
                        sums_apart(terms[which], magnitudes[which][at])
                    });
                }
            }
        }
    }

    /// Pooling and ReLU pass a difference on, at most as it is, so that real numbers can be compared one by one. What is
    /// normalised is off by as much as the convolution is in its deviations: a sum of 630 products by about 2⁻²⁴ √630 =
    /// 1.5e-6, the worst of a million of them by five times that, Winograd's by a few times more. A tap left out would be
    /// 1 / √630 = 4e-2.
    #[test]
    fn the_output_of_a_block_is_burns(sizes in block_sizes(), seed: u64) {
        let case = BlockCase::real(sizes, seed);
        let (x, block) = case.tensors(&Device::flex());
        let found = block_by_burn(x.clone(), block.clone());
        let (y, mean, variance) = (floats(found.output), floats(found.mean), floats(found.variance));
        // A mean is closer than what it is of.
        let mean_bound = 1e-5 * (largest(&variance).sqrt() + largest(&mean));
        let y_bound = 1e-4 * largest(&y).max(1.0);

        let mut numbers = Numbers(seed ^ 1);
        let given = block::Statistics {
            mean: numbers.reals(sizes.outputs),
            variance: numbers.factors(sizes.outputs).iter().map(|factor| factor.abs()).collect(),
        };
        let vector = |numbers: &[f32]| tensor(numbers, [sizes.outputs], &Device::flex());
        let inferred = floats(inference_by_burn(x, block, vector(&given.mean), vector(&given.variance)));
        let inferred_bound = 1e-4 * largest(&inferred).max(1.0);

        for level in Level::available() {
            let (found, statistics, _) = case.train(level);
            check_elements(&format!("y, {level}"), &found, &y, |_| y_bound);
            check_elements(&format!("mean, {level}"), &statistics.mean, &mean, |_| mean_bound);
            check_distance(&format!("variance, {level}"), &statistics.variance, &variance);
            let found = case.infer(level, &given);
            check_elements(&format!("inference, {level}"), &found, &inferred, |_| inferred_bound);
        }
    }

    #[test]
    fn the_gradients_of_a_block_are_burns(sizes in block_sizes(), seed: u64) {
        let case = BlockCase::whole(sizes, seed);
        let (y, [dx, dweight, dgamma, dbeta, dbias]) =
            case.differentiate(&Device::flex().autodiff(), block_by_burn);
        // The block says that its bias has no gradient; what Burn finds is rounding, beside sums of as many terms.
        prop_assert!(length(doubles(&dbias).into_iter()) <= CLOSE * length(doubles(&dbeta).into_iter()));
        for level in Level::available() {
            let (found, _, saved) = case.train(level);
            check_distance(&format!("y, {level}"), &found, &y);
            for wants_x in [false, true] {
                let found = case.backward(level, &saved, wants_x);
                prop_assert_eq!(found.x.is_some(), wants_x);
                if let Some(found) = found.x {
                    check_distance(&format!("dx, {level}"), &found, &dx);
                }
                check_distance(&format!("dweight, {level}"), &found.weight, &dweight);
                check_distance(&format!("dgamma, {level}"), &found.gamma, &dgamma);
                check_distance(&format!("dbeta, {level}"), &found.beta, &dbeta);
            }
        }
    }
}

// Against plain loops.

/// A step through an array that leaves about 150 of its numbers, of all the taps of a kernel.
fn sparsely(length: usize) -> usize {
    (length / 150) | 1
}

#[test]
fn the_gradients_of_a_linear_layer_are_finite_differences() {
    let case = LinearCase::new(linear::Sizes { batch: 5, inputs: 7, outputs: 19 }, 1);
    let (arrays, dy) = (case.arrays(), doubles(&case.dy));
    for relu in [false, true] {
        let loss = |arrays: &[Vec<f64>; 3]| product_sum(&plain_linear(case.sizes, arrays, relu), &dy);
        let expected: [Vec<f64>; 3] = array::from_fn(|which| slopes(&arrays, which, 1, loss));
        for level in Level::available() {
            let y = case.forward(level, relu);
            let found = case.backward(level, relu.then_some(&y[..]), true);
            check_distance(&format!("dx, {level}"), &found.x.unwrap(), &expected[0]);
            check_distance(&format!("dweight, {level}"), &found.weight, &expected[1]);
            check_distance(&format!("dbias, {level}"), &found.bias, &expected[2]);
        }
    }
}

#[test]
fn the_gradients_of_a_block_are_finite_differences() {
    for channels in BOTH_WAYS {
        let case = BlockCase::real(sizes_of(3, channels, [5, 4]), 2);
        let (arrays, dy) = (case.arrays(), doubles(&case.dy));
        let loss = |arrays: &[Vec<f64>; 5]| product_sum(&PlainBlock::forward(case.sizes, arrays).output, &dy);
        let expected: [Vec<f64>; 5] =
            array::from_fn(|which| slopes(&arrays, which, sparsely(arrays[which].len()), loss));
        // That of the bias, which the block takes for zero; the differences are rounded by some 1e-9.
        assert!(expected[4].iter().all(|slope| slope.abs() < 1e-6));
        for level in Level::available() {
            for ((name, found), expected) in BLOCK_GRADIENTS.iter().zip(case.gradients(level)).zip(&expected) {
                let found: Vec<f32> = found.iter().copied().step_by(sparsely(found.len())).collect();
                check_distance(&format!("d{name}, {level}"), &found, expected);
            }
        }
    }
}

#[test]
fn the_first_of_equal_values_in_a_pool_has_the_gradient() {
    for channels in BOTH_WAYS {
        let mut case = BlockCase::whole(sizes_of(3, channels, [7, 6]), 3);
        // The pixels of each pool are equal, and the kernels see one pixel at a time.
        case.x = (0..case.x.len()).map(|at| case.x[at - at % 6 % 2 - at / 6 % 7 % 2 * 6]).collect();
        for (tap, weight) in case.weight.iter_mut().enumerate() {
            if tap % 9 != 4 {
                *weight = 0.0;
            }
        }
        let case = case.settled();
        let arrays = case.arrays();
        let expected = PlainBlock::forward(case.sizes, &arrays).backward(case.sizes, &arrays, &doubles(&case.dy));
        for level in Level::available() {
            for ((name, found), expected) in BLOCK_GRADIENTS.iter().zip(case.gradients(level)).zip(&expected) {
                check_distance(&format!("d{name}, {level}"), &found, expected);
            }
        }
    }
}

/// The losses and the gradient of the logits.
fn plain_cross_entropy(logits: &[f64], targets: &[usize], smoothing: f64, dlosses: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let classes = logits.len() / targets.len();
    let (mut losses, mut dlogits) = (Vec::new(), Vec::new());
    for ((logits, &target), dloss) in logits.chunks_exact(classes).zip(targets).zip(dlosses) {
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let mean = logits.iter().sum::<f64>() / classes as f64;
        losses.push((1.0 - smoothing) * (log_sum - logits[target]) + smoothing * (log_sum - mean));
        for (class, logit) in logits.iter().enumerate() {
            let wanted = smoothing / classes as f64 + if class == target { 1.0 - smoothing } else { 0.0 };
            dlogits.push(dloss * ((logit - log_sum).exp() - wanted));
        }
    }
    (losses, dlogits)
}

/// Logits between -5 and 5, targets, and gradients of the losses.
fn cross_entropy_case(batch: usize, classes: usize) -> (Vec<f32>, Vec<usize>, Vec<f32>) {
    let mut numbers = Numbers(4);
    let logits = numbers.reals(batch * classes).iter().map(|&real| 5.0 * real).collect();
    let targets = (0..batch).map(|_| (numbers.draw() % classes as u64) as usize).collect();
    (logits, targets, numbers.reals(batch))
}

/// The losses are below 14, and an f32 of that size is rounded by 1e-6 at most, a few times.
const CROSS_ENTROPY_CLOSE: f64 = 1e-5;

#[test]
fn a_cross_entropy_is_that_of_plain_loops() {
    for (batch, classes) in [(1, 1), (300, 10), (129, 37)] {
        let (logits, targets, dlosses) = cross_entropy_case(batch, classes);
        for smoothing in [0.0_f32, 0.1] {
            let (losses, dlogits) =
                plain_cross_entropy(&doubles(&logits), &targets, f64::from(smoothing), &doubles(&dlosses));
            for level in Level::available() {
                let (found, saved) = cross_entropy::forward(level, &logits, targets.clone(), smoothing);
                check_elements(&format!("losses, {level}"), &found, &losses, |_| CROSS_ENTROPY_CLOSE);
                let found = cross_entropy::backward(level, &saved, &dlosses);
                check_elements(&format!("dlogits, {level}"), &found, &dlogits, |_| CROSS_ENTROPY_CLOSE);
            }
        }
    }
}

#[test]
fn a_class_that_is_ruled_out_does_not_count() {
    for level in Level::available() {
        let (losses, saved) = cross_entropy::forward(level, &[2.0, f32::NEG_INFINITY], vec![0], 0.0);
        assert_eq!(losses, [0.0]);
        assert_eq!(cross_entropy::backward(level, &saved, &[1.0]), [0.0, 0.0]);
    }
}

#[test]
fn descent_multiplies_and_subtracts_once_for_each_number() {
    let mut numbers = Numbers(5);
    // Three tasks' worth.
    let (parameters, gradient) = (numbers.reals(70_001), numbers.reals(70_001));
    let expected: Vec<f32> =
        parameters.iter().zip(&gradient).map(|(&parameter, &gradient)| parameter - 0.1 * gradient).collect();
    for level in Level::available() {
        assert!(sgd_step::apart(level, &parameters, &gradient, 0.1) == expected, "{level}");
        let mut moved = parameters.clone();
        sgd_step::in_place(level, &mut moved, &gradient, 0.1);
        assert!(moved == expected, "{level}");
    }
}

// NaN and infinity.

#[test]
fn nan_and_infinity_pass_a_linear_layer_and_its_relu() {
    let case = LinearCase {
        sizes: linear::Sizes { batch: 3, inputs: 2, outputs: 5 },
        x: vec![f32::NAN, 1.0, f32::INFINITY, 1.0, f32::NEG_INFINITY, 1.0],
        weight: vec![1.0; 10],
        bias: vec![0.0; 5],
        dy: vec![1.0; 15],
    };
    for level in Level::available() {
        let y = case.forward(level, true);
        assert!(y[..5].iter().all(|y| y.is_nan()), "{level}: {y:?}");
        assert_eq!(y[5..10], [f32::INFINITY; 5], "{level}");
        assert_eq!(y[10..], [0.0; 5], "{level}");
        // The gradient passes where the output is NaN or infinite.
        let found = case.backward(level, Some(&y), true);
        assert_eq!(found.x.unwrap(), [5.0, 5.0, 5.0, 5.0, 0.0, 0.0], "{level}");
        assert_eq!(found.bias, [2.0; 5], "{level}");
        // Without a ReLU minus infinity stays too.
        assert_eq!(case.forward(level, false)[10..], [f32::NEG_INFINITY; 5], "{level}");
    }
}

#[test]
fn nan_and_infinity_reach_the_pools_that_see_them_and_no_others() {
    // With so many channels and pixels training convolves by Winograd's tiles, which would spread an infinity.
    let mut case = BlockCase::real(sizes_of(2, [16, 17], [6, 8]), 6);
    case.weight.fill(0.1);
    case.bias.fill(0.0);
    case.gamma = (0..17).map(|output| if output % 2 == 0 { 1.0 } else { -1.0 }).collect();
    case.beta.fill(0.0);
    let statistics = block::Statistics { mean: vec![0.0; 17], variance: vec![1.0; 17] };
    for special in [f32::NAN, f32::INFINITY] {
        case.x.fill(1.0);
        // In the first image and its channel 3 at row 2 and column 5: the convolution's rows 1 to 3 and columns 4 to 6 see
        // it, which are in the pools' rows 0 and 1 and columns 2 and 3.
        case.x[(3 * 6 + 2) * 8 + 5] = special;
        for level in Level::available() {
            for (at, y) in case.infer(level, &statistics).into_iter().enumerate() {
                let (column, row, output, image) = (at % 4, at / 4 % 3, at / 12 % 17, at / (12 * 17));
                let sees = image == 0 && row <= 1 && column >= 2;
                let right = match (sees, output % 2 == 0) {
                    (true, _) if special.is_nan() => y.is_nan(),
                    (true, true) => y == f32::INFINITY,
                    (false, true) => y > 0.0 && y.is_finite(),
                    (_, false) => y == 0.0,
                };
                assert!(right, "{level}, {special}: {y} of output {output} at row {row} and column {column}");
            }
        }
    }
}

#[test]
fn a_nan_in_training_is_in_the_statistics_and_everywhere_behind_them() {
    for channels in BOTH_WAYS {
        let mut case = BlockCase::real(sizes_of(2, channels, [6, 6]), 7);
        case.x[17] = f32::NAN;
        for level in Level::available() {
            let (y, statistics, _) = case.train(level);
            for numbers in [y, statistics.mean, statistics.variance] {
                assert!(numbers.iter().all(|number| number.is_nan()), "{level}: {numbers:?}");
            }
        }
    }
}

// The same bits.

/// The bits of everything that some cases come to.
fn bits(level: Level, (layer, blocks): &(LinearCase, [BlockCase; 2])) -> Vec<u32> {
    let y = layer.forward(level, true);
    let gradients = layer.backward(level, Some(&y), true);
    let mut arrays = vec![y, gradients.x.unwrap(), gradients.weight, gradients.bias];
    for case in blocks {
        let (y, statistics, saved) = case.train(level);
        let gradients = case.backward(level, &saved, true);
        arrays.extend([case.infer(level, &statistics), y, statistics.mean, statistics.variance]);
        arrays.extend([gradients.x.unwrap(), gradients.weight, gradients.gamma, gradients.beta]);
    }
    arrays.iter().flatten().map(|number| number.to_bits()).collect()
}

#[test]
fn bits_depend_neither_on_the_run_nor_on_the_number_of_threads() {
    let cases = (
        LinearCase::new(linear::Sizes { batch: 130, inputs: 600, outputs: 300 }, 8),
        [BlockCase::real(sizes_of(33, [16, 20], [8, 9]), 9), BlockCase::real(sizes_of(17, [3, 5], [9, 6]), 10)],
    );
    let mut spoiled = cases.clone();
    spoiled.0.x.fill(f32::NAN);
    spoiled.1.iter_mut().for_each(|case| case.x.fill(f32::NAN));
    for level in Level::available() {
        let expected = bits(level, &cases);
        // What this leaves in the buffers that operations share must not be seen by the next.
        bits(level, &spoiled);
        assert!(bits(level, &cases) == expected, "another run, {level}");
        // What a task calls runs on the task's thread alone.
        let alone: [Mutex<Vec<u32>>; 2] = Default::default();
        parallel::for_each(2, |task| *alone[task].lock().unwrap() = bits(level, &cases));
        for found in alone {
            assert!(found.into_inner().unwrap() == expected, "one thread, {level}");
        }
    }
}

// Threads.

fn each_task_runs_once(tasks: usize) {
    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    parallel::for_each(tasks, |task| {
        runs[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks} tasks");
}

/// Whether two tasks run at once, so that each sees the other begin. Another test may have the pool for itself, so it is
/// tried for a while.
fn threads_share_tasks() -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let (arrived, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
        parallel::for_each(2, |_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let waiting = Instant::now();
            while arrived.load(Ordering::SeqCst) < 2 && waiting.elapsed() < Duration::from_millis(20) {
                thread::yield_now();
            }
            met.fetch_add(arrived.load(Ordering::SeqCst) / 2, Ordering::SeqCst);
        });
        if met.into_inner() == 2 {
            return true;
        }
    }
    false
}

#[test]
fn every_task_runs_once() {
    [0, 1, 2, 3, 1000].into_iter().for_each(each_task_runs_once);
}

#[test]
fn every_task_of_a_call_from_within_a_task_runs_once() {
    parallel::for_each(5, |_| parallel::for_each(3, |_| each_task_runs_once(100)));
}

#[test]
fn every_task_of_several_threads_calls_runs_once() {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| [2, 3, 1000].into_iter().for_each(each_task_runs_once)));
        }
    });
}

#[test]
fn a_panic_in_a_task_is_the_calls_and_the_pool_goes_on() {
    for _ in 0..5 {
        // Every thread that takes part meets one.
        let call = panic::catch_unwind(|| parallel::for_each(64, |task| assert!(task < 32, "half of the tasks panic")));
        assert!(call.is_err());
    }
    [2, 3, 1000].into_iter().for_each(each_task_runs_once);
    assert!(crate::threads() == 1 || threads_share_tasks());
}

// Shapes that do not fit.

/// Calls what must panic, with a message that says so.
fn check_panic(part: &str, call: impl FnOnce()) {
    let payload = panic::catch_unwind(AssertUnwindSafe(call)).unwrap_err();
    let message = payload.downcast_ref::<String>().unwrap();
    assert!(message.contains(part), "{message}");
}

fn zeros<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    Tensor::zeros(dims, &Device::flex())
}

#[test]
fn shapes_that_do_not_fit_panic_and_the_message_says_which() {
    check_panic("a linear layer of 3 inputs was given 2", || {
        drop(crate::linear(zeros([4, 2]), zeros([3, 5]), zeros([5])));
    });
    check_panic("a linear layer's bias has one number for each output", || {
        drop(crate::linear_relu(zeros([4, 3]), zeros([3, 5]), zeros([3])));
    });
    let block = |weight: [usize; 4], vectors: usize| ConvBlock {
        weight: zeros(weight),
        bias: zeros([5]),
        gamma: zeros([vectors]),
        beta: zeros([5]),
        epsilon: EPSILON,
        order: ChannelOrder::First,
    };
    check_panic("a convolution of 2 channels was given 1", || {
        drop(crate::conv_block(zeros([4, 1, 6, 6]), block([5, 2, 3, 3], 5)));
    });
    check_panic("a convolution block's kernel is 3x3", || {
        drop(crate::conv_block(zeros([4, 2, 6, 6]), block([5, 2, 3, 5], 5)));
    });
    check_panic("bias, gamma and beta have one number for each output", || {
        drop(crate::conv_block(zeros([4, 2, 6, 6]), block([5, 2, 3, 3], 4)));
    });
    check_panic("one mean and one variance for each output", || {
        drop(crate::conv_block_inference(zeros([4, 2, 6, 6]), block([5, 2, 3, 3], 5), zeros([5]), zeros([1])));
    });
    check_panic("a gradient has its parameter's shape", || drop(crate::sgd_step(zeros([3, 2]), zeros([2, 3]), 0.1)));
    check_panic("a target is one of 3 classes, found 3", || {
        drop(cross_entropy::forward(Level::best(), &[0.0; 6], vec![0, 3], 0.0));
    });
}

/// Through Burn's tensors, on the backends that have the operations.
#[cfg(feature = "flex")]
mod through_backends {
    #[cfg(feature = "ndarray")]
    use burn::backend::NdArray;
    use burn::{
        backend::Flex,
        tensor::{DType, Device, FloatDType, Int, Shape, Tensor, TensorData},
    };

    use super::{
        BOTH_WAYS, BlockCase, CROSS_ENTROPY_CLOSE, LinearCase, Numbers, PlainBlock, block_by_burn, check_distance,
        check_elements, cross_entropy_case, distance, doubles, floats, inference_by_burn, linear_by_burn,
        plain_cross_entropy, plain_linear, sizes_of, tensor,
    };
    use crate::{ChannelOrder, ConvBlock, ConvBlockOutput, KernelOps, cpu::linear, host::Host};

    fn devices() -> Vec<Device> {
        vec![
            Device::flex(),
            #[cfg(feature = "ndarray")]
            Device::ndarray(),
        ]
    }

    /// Each device, without and with gradients.
    fn all_devices() -> Vec<Device> {
        devices().into_iter().flat_map(|device| [device.clone(), device.autodiff()]).collect()
    }

    fn check_layer(
        ours: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
        burns: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
    ) {
        let case = LinearCase::new(linear::Sizes { batch: 9, inputs: 20, outputs: 33 }, 11);
        let (expected, expected_gradients) = case.differentiate(&Device::flex().autodiff(), burns);
        for device in all_devices() {
            let (x, weight, bias) = case.tensors(&device);
            check_distance("y", &floats(ours(x, weight, bias)), &expected);
        }
        for device in devices() {
            let (y, gradients) = case.differentiate(&device.autodiff(), &ours);
            check_distance("y with gradients", &y, &expected);
            for (found, expected) in gradients.iter().zip(&expected_gradients) {
                check_distance("a gradient", found, expected);
            }
        }
    }

    /// The same shape, of numbers in another order, with rows that are apart in memory.
    fn transposed(tensor: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = tensor.dims();
        tensor.reshape([columns, rows]).transpose()
    }

    #[test]
    fn a_linear_layer_is_burns_on_each_device() {
        check_layer(crate::linear, |x, weight, bias| linear_by_burn(x, weight, bias, false));
        check_layer(crate::linear_relu, |x, weight, bias| linear_by_burn(x, weight, bias, true));
        check_layer(
            |x, weight, bias| transposed(crate::linear_relu(transposed(x), transposed(weight), bias)),
            |x, weight, bias| transposed(linear_by_burn(transposed(x), transposed(weight), bias, true)),
        );
    }

    fn check_block(
        case: &BlockCase,
        ours: impl Fn(Tensor<4>, ConvBlock) -> ConvBlockOutput,
        burns: impl Fn(Tensor<4>, ConvBlock) -> ConvBlockOutput,
    ) {
        let (x, block) = case.tensors(&Device::flex());
        let expected = burns(x, block);
        let (mean, variance) = (floats(expected.mean), floats(expected.variance));
        let (expected, expected_gradients) = case.differentiate(&Device::flex().autodiff(), burns);
        for device in all_devices() {
            let (x, block) = case.tensors(&device);
            let found = ours(x, block);
            check_distance("y", &floats(found.output), &expected);
            check_distance("mean", &floats(found.mean), &mean);
            check_distance("variance", &floats(found.variance), &variance);
        }
        for device in devices() {
            let (y, gradients) = case.differentiate(&device.autodiff(), &ours);
            check_distance("y with gradients", &y, &expected);
            for (found, expected) in gradients[..4].iter().zip(&expected_gradients) {
                check_distance("a gradient", found, expected);
            }
            assert!(gradients[4].iter().all(|gradient| *gradient == 0.0), "the bias's gradient is zero");
        }
    }

    fn with_order(block: ConvBlock, order: ChannelOrder) -> ConvBlock {
        ConvBlock { order, ..block }
    }

    /// The kernel with its rows for columns.
    fn mirrored(block: ConvBlock) -> ConvBlock {
        ConvBlock { weight: block.weight.swap_dims(2, 3), ..block }
    }

    #[test]
    fn a_block_is_burns_on_each_device() {
        for channels in BOTH_WAYS {
            let case = BlockCase::whole(sizes_of(3, channels, [7, 6]), 12);
            for order in [ChannelOrder::First, ChannelOrder::Last] {
                check_block(&case, |x, block| crate::conv_block(x, with_order(block, order)), block_by_burn);
            }
            // Images with rows and columns exchanged, whose pixels are apart in memory. With the kernel's exchanged as well
            // the convolution has the same values, so that they stay apart from the ReLU's edge.
            check_block(
                &case,
                |x, block| crate::conv_block(x.swap_dims(2, 3), mirrored(block)),
                |x, block| block_by_burn(x.swap_dims(2, 3), mirrored(block)),
            );
        }
    }

    #[test]
    fn two_blocks_in_a_row_are_burns_on_each_device() {
        let case = BlockCase::real(sizes_of(3, [16, 16], [10, 9]), 13);
        for order in [ChannelOrder::First, ChannelOrder::Last] {
            check_block(
                &case,
                |x, block| crate::conv_block(crate::conv_block(x, with_order(block.clone(), order)).output, block),
                |x, block| block_by_burn(block_by_burn(x, block.clone()).output, block),
            );
        }
    }

    #[test]
    fn a_block_in_evaluation_is_burns_on_each_device() {
        for channels in BOTH_WAYS {
            let case = BlockCase::real(sizes_of(3, channels, [7, 6]), 14);
            let mut numbers = Numbers(15);
            let mean = numbers.reals(channels[1]);
            let variance: Vec<f32> = numbers.factors(channels[1]).iter().map(|factor| factor.abs()).collect();
            let given = |device: &Device| [&mean, &variance].map(|numbers| tensor(numbers, [numbers.len()], device));
            let (x, block) = case.tensors(&Device::flex());
            let [flex_mean, flex_variance] = given(&Device::flex());
            let expected = floats(inference_by_burn(x, block, flex_mean, flex_variance));
            for device in all_devices() {
                for order in [ChannelOrder::First, ChannelOrder::Last] {
                    let (x, block) = case.tensors(&device);
                    let [mean, variance] = given(&device);
                    let y = crate::conv_block_inference(x, with_order(block, order), mean, variance);
                    check_distance("y", &floats(y), &expected);
                }
            }
            let by = |operation: fn(Tensor<4>, ConvBlock, Tensor<1>, Tensor<1>) -> Tensor<4>, order| {
                move |x: Tensor<4>, block| {
                    let [mean, variance] = given(&x.device());
                    let output = operation(x, with_order(block, order), mean.clone(), variance.clone());
                    ConvBlockOutput { output, mean, variance }
                }
            };
            let burns = by(inference_by_burn, ChannelOrder::First);
            let (_, expected_gradients) = case.differentiate(&Device::flex().autodiff(), burns);
            for device in devices() {
                for order in [ChannelOrder::First, ChannelOrder::Last] {
                    let ours = by(crate::conv_block_inference, order);
                    let (y, gradients) = case.differentiate(&device.clone().autodiff(), ours);
                    check_distance("y with gradients", &y, &expected);
                    for (found, expected) in gradients.iter().zip(&expected_gradients) {
                        check_distance("a gradient", found, expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_cross_entropy_is_that_of_plain_loops_on_each_device() {
        let (batch, classes) = (300, 10);
        let (logits, targets, dlosses) = cross_entropy_case(batch, classes);
        let numbers: Vec<i64> = targets.iter().map(|&target| target as i64).collect();
        for smoothing in [0.0, 0.1] {
            let (losses, dlogits) = plain_cross_entropy(&doubles(&logits), &targets, smoothing, &doubles(&dlosses));
            for device in all_devices() {
                let targets =
                    Tensor::<1, Int>::from_data(TensorData::new(numbers.clone(), Shape::new([batch])), &device);
                let logits = tensor(&logits, [batch, classes], &device);
                if !device.is_autodiff() {
                    let found = floats(crate::cross_entropy(logits, targets, smoothing));
                    check_elements("losses", &found, &losses, |_| CROSS_ENTROPY_CLOSE);
                    continue;
                }
                let logits = logits.require_grad();
                let found = crate::cross_entropy(logits.clone(), targets, smoothing);
                let gradients = (found.clone() * tensor(&dlosses, [batch], &device)).sum().backward();
                check_elements("losses", &floats(found), &losses, |_| CROSS_ENTROPY_CLOSE);
                let found = floats(logits.grad(&gradients).unwrap());
                check_elements("dlogits", &found, &dlogits, |_| CROSS_ENTROPY_CLOSE);
            }
        }
    }

    #[test]
    fn a_step_of_descent_leaves_a_tensor_that_somebody_holds_as_it_was() {
        let mut numbers = Numbers(16);
        let (parameter, gradient) = (numbers.reals(40_000), numbers.reals(40_000));
        // Half a number is exact, so that there is one rounding only, the same for everybody.
        let expected: Vec<f32> =
            parameter.iter().zip(&gradient).map(|(&parameter, &gradient)| parameter - 0.5 * gradient).collect();
        for device in all_devices() {
            let tensors = || [&parameter, &gradient].map(|numbers| tensor(numbers, [200, 200], &device));
            let [moved, by] = tensors();
            assert!(floats(crate::sgd_step(moved, by, 0.5)) == expected, "{device:?}");
            let [held, by] = tensors();
            assert!(floats(crate::sgd_step(held.clone(), by, 0.5)) == expected, "{device:?}");
            assert!(floats(held) == parameter, "{device:?}");
            // Of tensors that do not lie in the order of their dimensions.
            let [moved, by] = tensors().map(Tensor::transpose);
            assert!(floats(crate::sgd_step(moved, by, 0.5).transpose()) == expected, "{device:?}");
        }
    }

    /// Where a parameter's numbers lie before and after a step.
    fn places<B: Host + KernelOps>() -> [*const f32; 2] {
        let tensor =
            || B::float_from_data(TensorData::new(vec![1.0_f32; 100], Shape::new([100])), &B::Device::default());
        let parameter = tensor();
        let before = B::floats(&parameter).unwrap().as_ptr();
        let parameter = B::sgd_step(parameter, tensor(), 0.5);
        [before, B::floats(&parameter).unwrap().as_ptr()]
    }

    #[test]
    fn a_step_of_descent_stays_in_the_memory_of_a_tensor_that_nobody_else_holds() {
        let [before, after] = places::<Flex>();
        assert_eq!(before, after);
        #[cfg(feature = "ndarray")]
        {
            let [before, after] = places::<NdArray>();
            assert_eq!(before, after);
        }
    }

    fn double<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
        tensor.cast(FloatDType::F64)
    }

    /// Fails where they are of another type.
    fn from_double<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn numbers_of_another_type_stay_of_that_type() {
        let layer = LinearCase::new(linear::Sizes { batch: 9, inputs: 20, outputs: 33 }, 17);
        let case = BlockCase::real(sizes_of(3, [3, 5], [7, 6]), 18);
        for device in all_devices() {
            // As exact as f64 is: f32 would be 1e-7 away.
            let (x, weight, bias) = layer.tensors(&device);
            let y = from_double(crate::linear_relu(double(x), double(weight), double(bias)));
            assert!(distance(&y, &plain_linear(layer.sizes, &layer.arrays(), true)) <= 1e-12, "{device:?}");

            let (x, block) = case.tensors(&device);
            let block = ConvBlock {
                weight: double(block.weight),
                bias: double(block.bias),
                gamma: double(block.gamma),
                beta: double(block.beta),
                ..block
            };
            let y = from_double(crate::conv_block(double(x), block).output);
            assert!(distance(&y, &PlainBlock::forward(case.sizes, &case.arrays()).output) <= 1e-12, "{device:?}");
        }
        // ndarray has no bf16. Its numbers have eight bits: every factor and every result is off by up to 2⁻⁹ of itself.
        let (x, weight, bias) = layer.tensors(&Device::flex());
        let y = crate::linear(x.cast(FloatDType::BF16), weight.cast(FloatDType::BF16), bias.cast(FloatDType::BF16));
        assert_eq!(y.dtype(), DType::BF16);
        let y = floats(y.cast(FloatDType::F32));
        assert!(distance(&y, &plain_linear(layer.sizes, &layer.arrays(), false)) <= 8.0 / 512.0);
    }

    #[test]
    fn flex_and_ndarray_are_on_the_host_with_and_without_gradients() {
        assert!(all_devices().iter().all(crate::is_on_host));
    }

    #[test]
    fn rows_come_in_the_order_of_their_indices() {
        for device in all_devices() {
            let matrix = Tensor::<1, Int>::arange(0..60, &device).float().reshape([20, 3]);
            let indices: Vec<i32> = (0..37).map(|index| index * 7 % 20).collect();
            let selected = crate::select_rows(matrix.clone(), Tensor::from_ints(indices.as_slice(), &device));
            assert_eq!(selected.dims(), [37, 3], "{device:?}");
            let expected = matrix.clone().select(0, Tensor::<1, Int>::from_ints(indices.as_slice(), &device));
            assert!(floats(selected) == floats(expected), "{device:?}");

            // The third and the first column of the transposed view, which is packed first.
            let columns = crate::select_rows(matrix.transpose(), Tensor::from_ints([2, 0], &device));
            let expected: Vec<f32> =
                [2, 0].into_iter().flat_map(|c| (0..20).map(move |r| (r * 3 + c) as f32)).collect();
            assert!(floats(columns) == expected, "{device:?}");
        }
    }

    #[test]
    fn gradients_pass_to_the_rows_that_were_selected() {
        for device in devices().into_iter().map(Device::autodiff) {
            let matrix = Tensor::<2>::ones([4, 2], &device).require_grad();
            let selected = crate::select_rows(matrix.clone(), Tensor::from_ints([1, 3, 1], &device));
            let gradients = selected.sum().backward();
            assert!(floats(matrix.grad(&gradients).unwrap()) == [0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0]);
        }
    }
}
