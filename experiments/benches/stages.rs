//! Where the time of a CNN's training step goes: each of the kernels' operations on its own, on flex at the sizes of the
//! preset, forward and backward, with its arithmetic and the rate that comes to; and what it takes to make a batch.
//!
//!     just bench-stages [BATCH] [REPEATS]
//!
//! Prints a Markdown table of medians. A backward pass is what forward and backward together take beyond forward.

#![recursion_limit = "512"]
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use burn::tensor::{Device, Distribution, Int, Tensor};
use kindling_data::{Augmentation, ImageSet, ImageSource, Normalization};
use kindling_kernels::{
    Activation, ChannelOrder, ConvLayer, ConvTensors, Epilogue, Level, Pool, conv_layer, cross_entropy, linear,
    linear_relu, select_rows, sgd_step, threads,
};
use kindling_training::{Order, Rows, Source, epoch_order};

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

    println!("\n| a batch from bytes | 28x28 grey, ms | 32x32 in colour, ms | of the step above |\n|---|--:|--:|--:|");
    let sources = [[1, 28, 28], [3, 32, 32]].map(random_images);
    for text in BATCHES {
        let augmentations: Vec<Augmentation> =
            text.split(',').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap()).collect();
        let times = sources.each_ref().map(|set| {
            let source =
                ImageSource::new(set.clone(), Normalization::default(), "random").augmented_by(&augmentations, 1);
            batch_time(&source, batch, repeats)
        });
        let name = if text.is_empty() { "gathered and normalised" } else { text };
        println!("| {name} | {:.3} | {:.3} | {:.1} % |", times[0], times[1], 100.0 * times[0] / total);
    }
    let floats = Tensor::<2>::random([IMAGES, 784], Distribution::Uniform(0.0, 1.0), &Device::flex());
    let order = epoch_order(Order::Shuffled { seed: 1 }, 1, IMAGES);
    let mut rows = order.chunks_exact(batch).cycle();
    let milliseconds = median(repeats, || {
        let picked: Vec<i32> = rows.next().unwrap().iter().map(|&row| row as i32).collect();
        drop(select_rows(floats.clone(), Tensor::from_ints(picked.as_slice(), &Device::flex())));
    });
    println!("\nrows of as many floats gathered: {milliseconds:.3} ms\n");

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

/// What is done to the images of a batch.
const BATCHES: [&str; 9] =
    ["", "flip", "flip,shift", "flip,crop", "color", "rotate", "resized-crop,flip,color,erase", "mixup", "cutmix"];

/// Images that batches are made from: more bytes than the caches hold.
const IMAGES: usize = 32_768;

fn random_images([channels, height, width]: [usize; 3]) -> ImageSet {
    // A generator of Numerical Recipes: anything that is not constant will do.
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let pixels = (0..IMAGES * channels * height * width).map(|_| byte()).collect();
    ImageSet::new(pixels, vec![0; IMAGES], [channels, height, width]).unwrap()
}

/// Milliseconds for a batch of a shuffled epoch.
fn batch_time(source: &ImageSource, batch: usize, repeats: usize) -> f64 {
    let order = epoch_order(Order::Shuffled { seed: 1 }, 1, IMAGES);
    let mut rows = order.chunks_exact(batch).cycle();
    median(repeats, || drop(source.batch(&Rows::new(rows.next().unwrap(), 1), &Device::flex()).unwrap()))
}

/// What the layers of the preset take in, and what they learn.
struct Layers {
    images: Tensor<4>,
    first: ConvTensors,
    /// As the first block leaves it: with its channels inside.
    middle: Tensor<4>,
    second: ConvTensors,
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
        let block = |inputs: usize, outputs: usize| ConvTensors {
            weight: Some(random([outputs, inputs, 3, 3], 0.1, device)),
            bias: Some(random([outputs], 1.0, device)),
            norm: Some([random([outputs], 1.0, device), random([outputs], 1.0, device)]),
            ..ConvTensors::default()
        };
        Self {
            images: Tensor::random([batch, 1, 28, 28], normal, device),
            first: block(1, 32),
            middle: leaf(Tensor::random([batch, 14, 14, 32], normal, device).permute([0, 3, 1, 2])),
            second: block(32, 64),
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
        block(self.images.clone(), &self.first, ChannelOrder::Last)
    }

    fn block_2(&self) -> Tensor<4> {
        block(self.middle.clone(), &self.second, ChannelOrder::First)
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

/// 3x3 convolution, batch norm, ReLU and 2x2 max pooling.
fn block(x: Tensor<4>, tensors: &ConvTensors, order: ChannelOrder) -> Tensor<4> {
    let (activation, pool) = (Activation::Relu, Some(Pool::MAX_2));
    let epilogue = Epilogue { activation, pool, order, ..Epilogue::default() };
    let layer = ConvLayer { stride: 1, padding: 1, groups: 1, epsilon: Some(1e-5), epilogue };
    conv_layer(x, tensors.clone(), layer).output
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
