//! The operations against Burn's own, against plain loops in f64, and against what their documentation promises.
//!
//! Every test of numbers runs at each level of the CPU. The references are the compositions of Burn's operations on numbers
//! of another type than the operations here have, or go through Burn's tensors and not through this crate, so they do not
//! depend on which operations the program has chosen.

#![allow(clippy::float_cmp)] // What is compared so has to be the same to the last bit.

#[cfg(feature = "flex")]
mod backends;
mod conv;
mod conv_case;
mod cross_entropy;
mod linear;
#[cfg(feature = "flex")]
mod norm;
#[cfg(feature = "flex")]
mod optimizer;
mod plain_conv;
mod threads;

use std::panic::{self, AssertUnwindSafe};

use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

use crate::{
    ConvLayer, ConvTensors, Epilogue, Pool,
    cpu::{self, Level},
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
    let difference = length(differences);
    // Where both are zero there is nothing to compare with.
    if difference == 0.0 { 0.0 } else { difference / length(expected.iter().map(|&expected| expected.into())) }
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
    tensor_of(numbers, dims, device, DType::F32)
}

fn tensor_of<const D: usize>(numbers: &[f32], dims: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), Shape::new(dims)), (device, dtype))
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

// Shapes that do not fit.

/// Calls what must panic, with a message that says so.
fn check_panic(part: &str, call: impl FnOnce()) {
    let payload = panic::catch_unwind(AssertUnwindSafe(call)).unwrap_err();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or(payload.downcast_ref::<&str>().copied()).unwrap();
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
    check_panic("a gradient has its parameter's shape", || drop(crate::sgd_step(zeros([3, 2]), zeros([2, 3]), 0.1)));
    check_panic("a target is one of 3 classes, found 3", || {
        drop(cpu::cross_entropy::forward(Level::best(), &[0.0; 6], vec![0, 3], 0.0));
    });
}

#[test]
fn convolution_layers_that_do_not_fit_panic_and_the_message_says_which() {
    let layer = ConvLayer { stride: 1, padding: 1, groups: 1, epsilon: None, epilogue: Epilogue::default() };
    let normal = ConvLayer { epsilon: Some(EPSILON), ..layer };
    let weight = |dims: [usize; 4]| ConvTensors { weight: Some(zeros(dims)), ..ConvTensors::default() };
    let residual = |dims: [usize; 4]| ConvTensors { residual: Some(zeros(dims)), ..weight([5, 2, 3, 3]) };
    let vector = || Some(zeros([5]));
    let norm = |channels| Some([zeros([5]), zeros([channels])]);
    let strided = Epilogue { residual_stride: 2, ..Epilogue::default() };
    let pooled = Epilogue { pool: Some(Pool::Max { size: 7, stride: 1 }), ..Epilogue::default() };
    for (message, tensors, layer) in vec![
        ("a convolution of 1 channels was given 2", weight([5, 1, 3, 3]), layer),
        ("a convolution layer's kernel is square", weight([5, 2, 3, 5]), layer),
        ("5 outputs do not divide into 2 groups", weight([5, 1, 3, 3]), ConvLayer { groups: 2, ..layer }),
        ("a layer without a convolution has no bias", ConvTensors::default(), layer),
        ("have a number for each output", ConvTensors { bias: vector(), ..weight([4, 2, 3, 3]) }, layer),
        ("have a number for each output", ConvTensors { norm: norm(4), ..weight([5, 2, 3, 3]) }, normal),
        ("batch norm has scale, shift and epsilon", ConvTensors { norm: norm(5), ..weight([5, 2, 3, 3]) }, layer),
        ("batch norm has scale, shift and epsilon", weight([5, 2, 3, 3]), normal),
        ("only batch norm takes statistics", ConvTensors { statistics: norm(5), ..weight([5, 2, 3, 3]) }, layer),
        ("leaves nothing of images of 6x6", weight([5, 2, 9, 9]), layer),
        ("leaves nothing of images of 6x6", weight([5, 2, 3, 3]), ConvLayer { epilogue: pooled, ..layer }),
        ("a residual of 4 images with 6 channels of 6x6", residual([4, 6, 6, 6]), layer),
        ("does not fit 4 with 5 of 6x6", residual([4, 5, 6, 7]), layer),
        ("taken with stride 2", residual([4, 5, 6, 6]), ConvLayer { epilogue: strided, ..layer }),
    ] {
        check_panic(message, || drop(crate::conv_layer(zeros([4, 2, 6, 6]), tensors, layer)));
    }
}
