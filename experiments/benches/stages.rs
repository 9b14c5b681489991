//! Where the time of a CNN's training step goes: each of the kernels' operations on its own, on flex at the sizes of the
//! preset, forward and backward, with its arithmetic and the rate that comes to.
//!
//!     just bench-stages [BATCH] [REPEATS]
//!
//! Prints a Markdown table of medians. A backward pass is what forward and backward together take beyond forward.

#![recursion_limit = "512"]
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use kindling_kernels::{
    ChannelOrder, ConvBlock, Level, conv_block, cross_entropy, linear, linear_relu, sgd_step, threads,
};

kindling_workbench::allocator!();

/// Milliseconds forward and backward, and how many multiplications and additions each has by definition.
struct Stage {
    name: &'static str,
    forward: f64,
    backward: f64,
    operations: [f64; 2],
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let batch: usize = arguments.next().map_or(64, |count| count.parse().unwrap());
    let repeats: usize = arguments.next().map_or(300, |count| count.parse().unwrap());
    let (plain, tracked) = (Layers::new(batch, &Device::flex()), Layers::new(batch, &Device::flex().autodiff()));
    let convolution =
        |inputs: usize, outputs: usize, pixels: usize| 2.0 * (batch * inputs * outputs * 9 * pixels) as f64;
    let layer = |inputs: usize, outputs: usize| 2.0 * (batch * inputs * outputs) as f64;
    let (one, two) = (convolution(1, 32, 784), convolution(32, 64, 196));
    let (three, four) = (layer(3136, 128), layer(128, 10));
    let stages = [
        stage("block 1", repeats, [one, one], || plain.block_1(), || tracked.block_1()),
        stage("block 2", repeats, [two, 2.0 * two], || plain.block_2(), || tracked.block_2()),
        stage("linear 3136 to 128, ReLU", repeats, [three, 2.0 * three], || plain.linear_1(), || tracked.linear_1()),
        stage("linear 128 to 10", repeats, [four, 2.0 * four], || plain.linear_2(), || tracked.linear_2()),
        stage("cross entropy", repeats, [0.0; 2], || plain.loss(), || tracked.loss()),
    ];
    let matrix = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.05), &Device::flex());
    let mut weights = matrix([3136, 128]);
    let gradient = matrix([3136, 128]);
    let update = median(repeats, || {
        weights =
            sgd_step(std::mem::replace(&mut weights, Tensor::empty([1, 1], &Device::flex())), gradient.clone(), 0.1);
    });

    println!("flex, batch {batch}, {} threads, {}, median of {repeats}\n", threads(), Level::best());
    println!("| stage | forward, ms | backward, ms | GFLOP/s forward | GFLOP/s backward |\n|---|--:|--:|--:|--:|");
    for Stage { name, forward, backward, operations } in &stages {
        let rate = |operations: f64, milliseconds: f64| match operations {
            0.0 => "-".to_owned(),
            _ => format!("{:.0}", operations / milliseconds / 1e6),
        };
        let rates = [rate(operations[0], *forward), rate(operations[1], *backward)];
        println!("| {name} | {forward:.3} | {backward:.3} | {} | {} |", rates[0], rates[1]);
    }
    println!("| update of 3136 x 128 weights | {update:.3} | | | |");
    let total: f64 = stages.iter().map(|stage| stage.forward + stage.backward).sum::<f64>() + update;
    println!("\nsum {total:.2} ms, {:.0} images/s", batch as f64 / total * 1e3);

    for size in [1024, 2048] {
        let (a, b) = (matrix([size, size]), matrix([size, size]));
        let zeros = Tensor::<1>::zeros([size], &Device::flex());
        let milliseconds = median(20, || drop(linear(a.clone(), b.clone(), zeros.clone())));
        println!("product of {size}x{size}: {:.0} GFLOP/s", 2.0 * (size as f64).powi(3) / milliseconds / 1e6);
    }
    let (a, b) = (Tensor::<1>::ones([1 << 25], &Device::flex()), Tensor::<1>::ones([1 << 25], &Device::flex()));
    let mut a = a;
    let milliseconds = median(9, || {
        a = sgd_step(std::mem::replace(&mut a, Tensor::empty([1], &Device::flex())), b.clone(), 0.0);
    });
    println!("memory, two arrays read and one written: {:.1} GB/s", 3.0 * f64::from(1 << 27) / milliseconds / 1e6);
}

/// What the layers of the preset take in, and what they learn.
struct Layers {
    images: Tensor<4>,
    first: ConvBlock,
    /// As the first block leaves it: with its channels inside.
    middle: Tensor<4>,
    second: ConvBlock,
    features: Tensor<2>,
    weight_1: Tensor<2>,
    bias_1: Tensor<1>,
    hidden: Tensor<2>,
    weight_2: Tensor<2>,
    bias_2: Tensor<1>,
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
}

impl Layers {
    fn new(batch: usize, device: &Device) -> Self {
        fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
            if tensor.device().is_autodiff() { tensor.require_grad() } else { tensor }
        }
        fn random<const D: usize>(shape: [usize; D], deviation: f64, device: &Device) -> Tensor<D> {
            leaf(Tensor::random(shape, Distribution::Normal(0.0, deviation), device))
        }
        let normal = Distribution::Normal(0.0, 1.0);
        let block = |inputs: usize, outputs: usize, order: ChannelOrder| ConvBlock {
            weight: random([outputs, inputs, 3, 3], 0.1, device),
            bias: random([outputs], 1.0, device),
            gamma: random([outputs], 1.0, device),
            beta: random([outputs], 1.0, device),
            epsilon: 1e-5,
            order,
        };
        Self {
            images: Tensor::random([batch, 1, 28, 28], normal, device),
            first: block(1, 32, ChannelOrder::Last),
            middle: leaf(Tensor::random([batch, 14, 14, 32], normal, device).permute([0, 3, 1, 2])),
            second: block(32, 64, ChannelOrder::First),
            features: random([batch, 3136], 1.0, device),
            weight_1: random([3136, 128], 0.02, device),
            bias_1: random([128], 0.02, device),
            hidden: random([batch, 128], 1.0, device),
            weight_2: random([128, 10], 0.1, device),
            bias_2: random([10], 0.1, device),
            logits: random([batch, 10], 1.0, device),
            targets: Tensor::from_ints(vec![3; batch].as_slice(), device),
        }
    }

    fn block_1(&self) -> Tensor<4> {
        conv_block(self.images.clone(), self.first.clone()).output
    }

    fn block_2(&self) -> Tensor<4> {
        conv_block(self.middle.clone(), self.second.clone()).output
    }

    fn linear_1(&self) -> Tensor<2> {
        linear_relu(self.features.clone(), self.weight_1.clone(), self.bias_1.clone())
    }

    fn linear_2(&self) -> Tensor<2> {
        linear(self.hidden.clone(), self.weight_2.clone(), self.bias_2.clone())
    }

    fn loss(&self) -> Tensor<1> {
        cross_entropy(self.logits.clone(), self.targets.clone(), 0.0)
    }
}

fn stage<const D: usize>(
    name: &'static str,
    repeats: usize,
    operations: [f64; 2],
    plain: impl Fn() -> Tensor<D>,
    tracked: impl Fn() -> Tensor<D>,
) -> Stage {
    let forward = median(repeats, || drop(plain()));
    let dy = Tensor::<D>::random(plain().dims(), Distribution::Normal(0.0, 1.0), &Device::flex().autodiff());
    // The gradient of the sum of the products with dy is dy, at the cost of the products.
    let both = median(repeats, || drop((tracked() * dy.clone()).sum().backward()));
    let y = Tensor::<D>::ones(dy.dims(), &Device::flex().autodiff()).require_grad();
    let product = median(repeats, || drop((y.clone() * dy.clone()).sum().backward()));
    Stage { name, forward, backward: (both - forward - product).max(0.0), operations }
}

/// The median time in milliseconds.
fn median(repeats: usize, mut work: impl FnMut()) -> f64 {
    (0..=repeats / 10).for_each(|_| work());
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
