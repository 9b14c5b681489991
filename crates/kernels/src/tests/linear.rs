//! Linear layers.

use std::array;

use burn::tensor::{Device, Tensor, activation::relu, module};
use proptest::prelude::*;

use super::{
    Numbers, UNIT, check_distance, check_elements, doubles, floats, plain_conv::activate, product_sum, slopes, tensor,
};
use crate::{
    Activation,
    cpu::{Level, linear},
};

pub(super) fn linear_by_burn(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, rectified: bool) -> Tensor<2> {
    let y = module::linear(x, weight, Some(bias));
    if rectified { relu(y) } else { y }
}

#[derive(Clone, Debug)]
pub(super) struct LinearCase {
    pub(super) sizes: linear::Sizes,
    pub(super) x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

impl LinearCase {
    pub(super) fn new(sizes: linear::Sizes, seed: u64) -> Self {
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

    pub(super) fn arrays(&self) -> [Vec<f64>; 3] {
        [doubles(&self.x), doubles(&self.weight), doubles(&self.bias)]
    }

    fn layer(&self, activation: Activation) -> linear::Forward<'_> {
        let (x, weight, bias) = (&self.x, &self.weight, Some(&self.bias[..]));
        linear::Forward { sizes: self.sizes, x, weight, bias, activation }
    }

    pub(super) fn forward(&self, level: Level, relu: bool) -> Vec<f32> {
        linear::forward(level, self.layer(if relu { Activation::Relu } else { Activation::None }))
    }

    pub(super) fn backward(&self, level: Level, y: Option<&[f32]>, wants_x: bool) -> linear::Gradients {
        self.gradients(level, y.map(|y| (Activation::Relu, y)), wants_x)
    }

    fn gradients(&self, level: Level, activation: Option<(Activation, &[f32])>, wants_x: bool) -> linear::Gradients {
        let (x, weight, dy) = (&self.x, &self.weight, &self.dy);
        linear::backward(level, linear::Backward { sizes: self.sizes, x, weight, activation, dy, wants_x })
    }

    pub(super) fn tensors(&self, device: &Device) -> (Tensor<2>, Tensor<2>, Tensor<1>) {
        let linear::Sizes { batch, inputs, outputs } = self.sizes;
        (
            tensor(&self.x, [batch, inputs], device),
            tensor(&self.weight, [inputs, outputs], device),
            tensor(&self.bias, [outputs], device),
        )
    }

    /// The output of a layer and the gradients of x, weight and bias, on a device that differentiates.
    pub(super) fn differentiate(
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

pub(super) fn plain_linear(sizes: linear::Sizes, [x, weight, bias]: &[Vec<f64>; 3], relu: bool) -> Vec<f64> {
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

/// A linear layer with an activation that has a slope everywhere.
fn plain_activated(case: &LinearCase, activation: Activation, arrays: &[Vec<f64>; 3]) -> Vec<f64> {
    let before = plain_linear(case.sizes, arrays, false);
    before.into_iter().map(|before| activate(activation, before)[0]).collect()
}

/// Sizes with columns for one vector, for two, and for several tiles, and with more terms than are summed at once.
const ACTIVATED: [[usize; 3]; 3] = [[5, 7, 19], [33, 4, 10], [2, 140, 70]];

#[test]
fn gelu_and_silu_behind_a_linear_layer_are_plain_loops_and_finite_differences() {
    for (seed, [batch, inputs, outputs]) in (3..).zip(ACTIVATED) {
        let case = LinearCase::new(linear::Sizes { batch, inputs, outputs }, seed);
        let (arrays, dy) = (case.arrays(), doubles(&case.dy));
        for activation in [Activation::Gelu, Activation::Silu] {
            let loss = |arrays: &[Vec<f64>; 3]| product_sum(&plain_activated(&case, activation, arrays), &dy);
            let expected: [Vec<f64>; 3] = array::from_fn(|which| slopes(&arrays, which, 1, loss));
            let plain = plain_activated(&case, activation, &arrays);
            for level in Level::available() {
                let (y, before) = linear::train(level, case.layer(activation));
                assert!(linear::forward(level, case.layer(activation)) == y, "{activation:?}, {level}");
                check_distance(&format!("{activation:?}, {level}"), &y, &plain);
                let found = case.gradients(level, Some((activation, &before.unwrap())), true);
                check_distance(&format!("dx of {activation:?}, {level}"), &found.x.unwrap(), &expected[0]);
                check_distance(&format!("dweight of {activation:?}, {level}"), &found.weight, &expected[1]);
                check_distance(&format!("dbias of {activation:?}, {level}"), &found.bias, &expected[2]);
            }
            #[cfg(feature = "flex")]
            {
                use burn::tensor::FloatDType;
                let device = Device::flex().autodiff();
                #[allow(clippy::type_complexity)] // A function's type.
                let layers: [fn(Tensor<2>, Tensor<2>, Tensor<1>, Activation) -> Tensor<2>; 2] = [
                    crate::linear_activated,
                    // In f64, which is composed.
                    |x, weight, bias, activation| {
                        let [x, weight] = [x, weight].map(|tensor| tensor.cast(FloatDType::F64));
                        let y = crate::linear_activated(x, weight, bias.cast(FloatDType::F64), activation);
                        y.cast(FloatDType::F32)
                    },
                ];
                for layer in layers {
                    let (y, gradients) = case.differentiate(&device, |x, w, b| layer(x, w, b, activation));
                    check_distance(&format!("{activation:?} of tensors"), &y, &plain);
                    for (found, expected) in gradients.iter().zip(&expected) {
                        check_distance(&format!("a gradient of {activation:?} of tensors"), found, expected);
                    }
                }
            }
        }
    }
}

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
