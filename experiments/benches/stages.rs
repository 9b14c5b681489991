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
    ChannelOrder, ConvBlock, Level, conv_block, cross_entropy, descend, linear, linear_relu, threads,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let device = Device::flex().autodiff();
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let matrix = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.05), &device);
    let vector = |length: usize| Tensor::<1>::random([length], Distribution::Normal(0.0, 1.0), &device).require_grad();

    let block = |inputs: usize, outputs: usize, order: ChannelOrder| ConvBlock {
        weight: random([outputs, inputs, 3, 3]).require_grad(),
        bias: vector(outputs),
        gamma: vector(outputs),
        beta: vector(outputs),
        epsilon: 1e-5,
        order,
    };
    let (first, second) = (block(1, 32, ChannelOrder::Last), block(32, 64, ChannelOrder::First));
    let images = random([batch, 1, 28, 28]);
    // As the first block leaves them: with their channels inside.
    let middle = random([batch, 14, 14, 32]).permute([0, 3, 1, 2]).require_grad();
    let features = matrix([batch, 3136]).require_grad();
    let hidden = matrix([batch, 128]).require_grad();
    let logits = matrix([batch, 10]).require_grad();
    let (weight_1, weight_2) = (matrix([3136, 128]).require_grad(), matrix([128, 10]).require_grad());
    let (bias_1, bias_2) = (vector(128), vector(10));
    let targets = Tensor::<1, Int>::from_ints(vec![3; batch].as_slice(), &device);

    let convolution =
        |inputs: usize, outputs: usize, pixels: usize| 2.0 * (batch * inputs * outputs * 9 * pixels) as f64;
    let layer = |inputs: usize, outputs: usize| 2.0 * (batch * inputs * outputs) as f64;
    let (one, two) = (convolution(1, 32, 784), convolution(32, 64, 196));
    let stages = [
        stage("block 1", repeats, [one, one], || conv_block(images.clone(), first.clone()).output),
        stage("block 2", repeats, [two, 2.0 * two], || conv_block(middle.clone(), second.clone()).output),
        stage("linear 3136 to 128, ReLU", repeats, [layer(3136, 128), 2.0 * layer(3136, 128)], || {
            linear_relu(features.clone(), weight_1.clone(), bias_1.clone())
        }),
        stage("linear 128 to 10", repeats, [layer(128, 10), 2.0 * layer(128, 10)], || {
            linear(hidden.clone(), weight_2.clone(), bias_2.clone())
        }),
        stage("cross entropy", repeats, [0.0; 2], || cross_entropy(logits.clone(), targets.clone(), 0.0)),
    ];
    let mut weights = matrix([3136, 128]).inner();
    let gradient = matrix([3136, 128]).inner();
    let update = median(repeats, || {
        weights =
            descend(std::mem::replace(&mut weights, Tensor::empty([1, 1], &Device::flex())), gradient.clone(), 0.1);
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
        let (a, b) = (matrix([size, size]).inner(), matrix([size, size]).inner());
        let zeros = Tensor::<1>::zeros([size], &Device::flex());
        let milliseconds = median(20, || drop(linear(a.clone(), b.clone(), zeros.clone())));
        println!("product of {size}x{size}: {:.0} GFLOP/s", 2.0 * (size as f64).powi(3) / milliseconds / 1e6);
    }
    let (a, b) = (Tensor::<1>::ones([1 << 25], &Device::flex()), Tensor::<1>::ones([1 << 25], &Device::flex()));
    let mut a = a;
    let milliseconds = median(9, || {
        a = descend(std::mem::replace(&mut a, Tensor::empty([1], &Device::flex())), b.clone(), 0.0);
    });
    println!("memory, two arrays read and one written: {:.1} GB/s", 3.0 * f64::from(1 << 27) / milliseconds / 1e6);
}

fn stage<const D: usize>(
    name: &'static str,
    repeats: usize,
    operations: [f64; 2],
    forward: impl Fn() -> Tensor<D>,
) -> Stage {
    let alone = median(repeats, || drop(forward()));
    let dy = Tensor::<D>::random(forward().dims(), Distribution::Normal(0.0, 1.0), &Device::flex().autodiff());
    let both = median(repeats, || {
        // The gradient of the sum of the products is dy, at the cost of a product more.
        drop((forward() * dy.clone()).sum().backward());
    });
    let y = forward().detach().require_grad();
    let product = median(repeats, || drop((y.clone() * dy.clone()).sum().backward()));
    Stage { name, forward: alone, backward: both - alone - product, operations }
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
