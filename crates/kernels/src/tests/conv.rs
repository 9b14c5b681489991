//! Convolution layers against the composition of Burn's operations, for drawn layers.

use burn::tensor::{DType, Device};
use proptest::{prelude::*, sample::select};

use super::{
    EPSILON, check_distance, check_elements,
    conv_case::{ConvCase, Sizes, numbers},
    largest,
};
use crate::{
    Activation, ChannelOrder, ConvLayer, Epilogue, Pool,
    cpu::{Level, conv::Wanted},
};

/// Multiplications of the largest convolution: at the slowest level some hundredths of a second for each of its passes.
const MOST_WORK: usize = 10_000_000;

const POOLS: [Option<Pool>; 9] = [
    None,
    None,
    Some(Pool::MAX_2),
    Some(Pool::MAX_2),
    Some(Pool::Max { size: 3, stride: 2 }),
    Some(Pool::Max { size: 2, stride: 1 }),
    Some(Pool::Average { size: 2, stride: 2 }),
    Some(Pool::Average { size: 3, stride: 2 }),
    Some(Pool::Global),
];

fn layers() -> impl Strategy<Value = Sizes> {
    let side = || prop_oneof![3..=33_usize, 3..=8_usize];
    // Some of them are as many as Winograd's convolution takes.
    let channels = || select(vec![1, 3, 5, 16, 16, 24, 32, 33, 64]);
    let order = || select(vec![ChannelOrder::First, ChannelOrder::Last]);
    let convolution = (select(vec![0, 1, 1, 2, 3, 3, 3, 3, 5]), 1..=2_usize, 0..=3_usize, 0..5, any::<bool>());
    let images = (1..=130_usize, channels(), channels(), side(), side());
    let activation = select(vec![Activation::None, Activation::Relu, Activation::Gelu, Activation::Silu]);
    let epilogue = (activation, select(POOLS.to_vec()), any::<bool>(), 0..3, 0..4);
    let orders = [order(), order(), order(), order()];
    (convolution, images, epilogue, orders).prop_filter_map(
        "nothing is left of the images",
        |((kernel, stride, padding, groups, bias), images, (activation, pool, pool_first, norm, residual), orders)| {
            let (batch, mut inputs, mut outputs, height, width): (usize, usize, usize, usize, usize) = images;
            let (mut stride, mut padding, mut bias) = (stride, padding, bias);
            let groups = match groups {
                _ if kernel == 0 => {
                    (stride, padding, bias, outputs) = (1, 0, false, inputs);
                    1
                }
                0 => {
                    (inputs, outputs) = (inputs.next_multiple_of(2), outputs.next_multiple_of(2));
                    2
                }
                1 => {
                    outputs = inputs;
                    inputs
                }
                _ => 1,
            };
            let (residual_stride, order) = (if residual == 3 { 2 } else { 1 }, orders[3]);
            let epilogue = Epilogue { activation, pool, pool_first, residual_stride, order };
            let layer = ConvLayer { stride, padding, groups, epsilon: (norm > 0).then_some(EPSILON), epilogue };
            let [down, across] = layer.convolved(kernel.max(1), [height, width])?;
            let output = layer.output(kernel.max(1), [height, width])?;
            let [rows, columns] = if pool_first { output } else { [down, across] };
            let residual = match residual {
                0 | 1 => None,
                2 => Some([outputs, rows, columns]),
                _ => Some([outputs.div_ceil(2), 2 * rows - rows % 2, 2 * columns - columns % 2]),
            };
            let work = (inputs / groups * kernel * kernel + 10) * outputs * down * across;
            // Of a few values batch norm's gradient can be nothing but what rounding leaves of their differences.
            let least = 16_usize.div_ceil(output.iter().product());
            let batch = batch.min(MOST_WORK / work).max(least);
            let (given, orders) = (norm == 2, [orders[0], orders[1], orders[2]]);
            Some(Sizes { batch, inputs, outputs, height, width, kernel, bias, given, residual, layer, orders })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Pooling and activations pass a difference on, at most little more than it is, so that real numbers can be compared
    /// one by one. What is normalised is off by as much as the convolution is in its deviations: a sum of 1600 products by
    /// about 2⁻²⁴ √1600 = 2.4e-6, the worst of a million of them by five times that, Winograd's by a few times more. A tap
    /// left out would be 1 / √1600 = 2.5e-2.
    #[test]
    fn the_output_of_a_layer_is_burns(sizes in layers(), seed: u64) {
        let case = ConvCase::real(sizes, seed);
        let (x, tensors) = case.tensors(&Device::flex(), DType::F64);
        let wanted = crate::conv_layer(x, tensors, sizes.layer);
        let y = numbers(wanted.output);
        let bound = |y: &[f64]| {
            let bound = 1e-4 * y.iter().fold(1.0, |most: f64, y| most.max(y.abs()));
            move |_| bound
        };
        let inferring = ConvCase { sizes: Sizes { given: sizes.layer.epsilon.is_some(), ..sizes }, ..case.clone() };
        let (x, tensors) = inferring.tensors(&Device::flex(), DType::F64);
        let inferred = numbers(crate::conv_layer(x, tensors, sizes.layer).output);
        for level in Level::available() {
            let (found, statistics, _) = case.train(level);
            check_elements(&format!("y, {level}"), &found, &y, bound(&y));
            if let Some(wanted) = &wanted.statistics {
                let [mean, variance] = statistics.unwrap();
                let [wanted_mean, wanted_variance] = [&wanted.mean, &wanted.variance].map(|it| numbers(it.clone()));
                // A mean is closer than what it is of.
                let mean_bound = 1e-5 * (largest(&variance).sqrt() + largest(&mean));
                check_elements(&format!("mean, {level}"), &mean, &wanted_mean, |_| mean_bound);
                check_distance(&format!("variance, {level}"), &variance, &wanted_variance);
            }
            check_elements(&format!("inference, {level}"), &case.infer(level), &inferred, bound(&inferred));
        }
    }

    #[test]
    fn the_gradients_of_a_layer_are_burns(sizes in layers(), seed: u64) {
        let Some(case) = ConvCase::decided(sizes, seed) else { return Err(TestCaseError::reject("a close decision")) };
        let (y, wanted) = case.differentiate(&Device::flex().autodiff(), DType::F64);
        let wanted = wanted.map(Option::unwrap_or_default);
        for level in Level::available() {
            let (found, _, saved) = case.train(level);
            check_distance(&format!("y, {level}"), &found, &y);
            for is_wanted in [false, true] {
                let has_residual = sizes.residual.is_some();
                let gradients =
                    case.backward(level, &saved, Wanted { x: is_wanted, weight: true, residual: !is_wanted && has_residual });
                prop_assert_eq!([gradients[0].is_some(), gradients[5].is_some()], [is_wanted, !is_wanted && has_residual]);
                let mut wanted = wanted.clone();
                wanted[if is_wanted { 5 } else { 0 }].clear();
                case.check_gradients(&format!("{level}"), &gradients, &wanted);
            }
        }
    }
}
