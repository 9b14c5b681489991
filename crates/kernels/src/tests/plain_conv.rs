//! Convolution layers against plain loops, at ties, at NaN and at infinity.

use burn::tensor::{DType, Device};

use super::{
    check_distance,
    conv_case::{CHANNELS_OF_BOTH_WAYS, ConvCase, GRADIENTS, Sizes},
    distance, doubles, product_sum, slopes,
};
use crate::{Activation, ChannelOrder, ConvLayer, Epilogue, Pool, cpu::Level};

/// x, weight, bias, scale, shift and residual with the channels first; empty where a layer does not have them.
pub(super) type Arrays = [Vec<f64>; 6];

/// A layer as its definition reads, by plain loops in f64.
pub(super) struct PlainLayer {
    sizes: Sizes,
    convolved: Vec<f64>,
    /// What the layer normalises as it comes and normalised, and what it takes the activation of.
    seen: Vec<f64>,
    normal: Vec<f64>,
    linear: Vec<f64>,
    /// `1 / √(variance + ε)`, or 1.
    inverse: Vec<f64>,
    activated: Vec<f64>,
    pub(super) output: Vec<f64>,
}

impl PlainLayer {
    pub(super) fn forward(
        sizes: Sizes,
        [x, weight, bias, gamma, beta, residual]: &Arrays,
        given: Option<[Vec<f64>; 2]>,
    ) -> Self {
        let ConvLayer { epsilon, epilogue, .. } = sizes.layer;
        let (first, last) = pools_of(epilogue);
        let [height, width] = sizes.convolved();
        let convolved = if sizes.kernel == 0 {
            x.clone()
        } else {
            let places = 0..sizes.batch * sizes.outputs * height * width;
            let bias = |place: usize| bias.get(place / (height * width) % sizes.outputs).copied().unwrap_or(0.0);
            places.map(|at| bias(at) + taps(sizes, at).map(|(from, tap)| x[from] * weight[tap]).sum::<f64>()).collect()
        };
        let seen = pooled(&convolved, first, [height, width]);
        let [height, width] = sizes.normalised();
        let channel = |place: usize| place / (height * width) % sizes.outputs;
        let (mean, inverse) = match (epsilon, given) {
            (None, _) => (vec![0.0; sizes.outputs], vec![1.0; sizes.outputs]),
            (Some(epsilon), given) => {
                let [mean, variance] = given.unwrap_or_else(|| {
                    let mean = means(sizes, |place| seen[place]);
                    let variance = means(sizes, |place| (seen[place] - mean[channel(place)]).powi(2));
                    [mean, variance]
                });
                (mean, variance.iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect())
            }
        };
        let normal: Vec<f64> =
            seen.iter().enumerate().map(|(at, z)| (z - mean[channel(at)]) * inverse[channel(at)]).collect();
        let mut linear = normal.clone();
        if epsilon.is_some() {
            linear.iter_mut().enumerate().for_each(|(at, a)| *a = gamma[channel(at)] * *a + beta[channel(at)]);
        }
        residual_places(sizes).for_each(|(from, to)| linear[to] += residual[from]);
        let activated: Vec<f64> = linear.iter().map(|&a| activate(epilogue.activation, a)[0]).collect();
        let output = pooled(&activated, last, [height, width]);
        Self { sizes, convolved, seen, normal, linear, inverse, activated, output }
    }

    /// The gradients of the arrays; `given` is whether the statistics were.
    pub(super) fn backward(&self, [x, weight, bias, gamma, ..]: &Arrays, dy: &[f64], given: bool) -> Arrays {
        let sizes = self.sizes;
        let ConvLayer { epsilon, epilogue, .. } = sizes.layer;
        let (first, last) = pools_of(epilogue);
        let [height, width] = sizes.normalised();
        let channel = |place: usize| place / (height * width) % sizes.outputs;
        let mut g = unpooled(&self.activated, last, [height, width], dy);
        g.iter_mut().zip(&self.linear).for_each(|(g, &a)| *g *= activate(epilogue.activation, a)[1]);
        let mut dresidual = vec![0.0; sizes.residual.map_or(0, |sides| sizes.batch * sides.iter().product::<usize>())];
        residual_places(sizes).for_each(|(from, to)| dresidual[from] += g[to]);
        let (mut dgamma, mut dbeta, mut dseen) = (Vec::new(), Vec::new(), g.clone());
        if epsilon.is_some() {
            let (mean, mean_normal) = (means(sizes, |at| g[at]), means(sizes, |at| g[at] * self.normal[at]));
            for (at, dz) in dseen.iter_mut().enumerate() {
                let channel = channel(at);
                let of_statistics = mean[channel] + self.normal[at] * mean_normal[channel];
                *dz = gamma[channel] * self.inverse[channel] * (g[at] - if given { 0.0 } else { of_statistics });
            }
            let count = (sizes.batch * height * width) as f64;
            [dgamma, dbeta] = [mean_normal, mean].map(|means| means.iter().map(|mean| mean * count).collect());
        }
        let dz = unpooled(&self.convolved, first, sizes.convolved(), &dseen);
        debug_assert!(first.is_some() || self.seen == self.convolved);
        if sizes.kernel == 0 {
            return [dz, Vec::new(), Vec::new(), dgamma, dbeta, dresidual];
        }
        let (mut dx, mut dweight, mut dbias) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; bias.len()]);
        let pixels: usize = sizes.convolved().iter().product();
        for (place, dz) in dz.iter().enumerate() {
            for (from, tap) in taps(sizes, place) {
                dx[from] += dz * weight[tap];
                dweight[tap] += dz * x[from];
            }
            if sizes.bias {
                dbias[place / pixels % sizes.outputs] += dz;
            }
        }
        [dx, dweight, dbias, dgamma, dbeta, dresidual]
    }
}

/// The pooling before batch norm and that at the end.
fn pools_of(epilogue: Epilogue) -> (Option<Pool>, Option<Pool>) {
    if epilogue.pool_first { (epilogue.pool, None) } else { (None, epilogue.pool) }
}

/// What the convolution multiplies for one place of its output: places in x and in the weights.
fn taps(sizes: Sizes, place: usize) -> impl Iterator<Item = (usize, usize)> {
    let Sizes { inputs, outputs, height, width, kernel, layer, .. } = sizes;
    let [down, across] = sizes.convolved();
    let (channel, row, column) = (place / (down * across), place / across % down, place % across);
    let (image, output) = (channel / outputs, channel % outputs);
    let group = inputs / layer.groups;
    let first = output / (outputs / layer.groups) * group;
    (0..group * kernel * kernel).filter_map(move |tap| {
        let inside = |at: usize, tap: usize, side: usize| {
            (at * layer.stride + tap).checked_sub(layer.padding).filter(|&at| at < side)
        };
        let row = inside(row, tap / kernel % kernel, height)?;
        let column = inside(column, tap % kernel, width)?;
        let from = ((image * inputs + first + tap / (kernel * kernel)) * height + row) * width + column;
        Some((from, output * group * kernel * kernel + tap))
    })
}

/// Places of a residual, and of what they are added to.
fn residual_places(sizes: Sizes) -> impl Iterator<Item = (usize, usize)> {
    let ([height, width], stride) = (sizes.normalised(), sizes.layer.epilogue.residual_stride);
    let [channels, rows, columns] = sizes.residual.unwrap_or_default();
    (0..sizes.batch * channels * height * width).map(move |at| {
        let (plane, row, column) = (at / (height * width), at / width % height, at % width);
        let to = (plane / channels * sizes.outputs + plane % channels) * height * width + row * width + column;
        ((plane * rows + row * stride) * columns + column * stride, to)
    })
}

/// The means over each channel of what a function gives for its places.
fn means(sizes: Sizes, value: impl Fn(usize) -> f64) -> Vec<f64> {
    let pixels: usize = sizes.normalised().iter().product();
    let mut means = vec![0.0; sizes.outputs];
    for place in 0..sizes.batch * sizes.outputs * pixels {
        means[place / pixels % sizes.outputs] += value(place) / (sizes.batch * pixels) as f64;
    }
    means
}

/// An activation and its derivative.
pub(super) fn activate(activation: Activation, x: f64) -> [f64; 2] {
    match activation {
        Activation::None => [x, 1.0],
        Activation::Relu if x > 0.0 => [x, 1.0],
        Activation::Relu => [0.0, 0.0],
        Activation::Gelu => {
            let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
            // The normal distribution by Simpson's rule from 0, with steps of 0.05 at most where it is not 0 or 1.
            let (end, steps) = (x.clamp(-10.0, 10.0), 200);
            let step = end / f64::from(steps);
            let weight = |at: i32| if at == 0 || at == steps { 1.0 } else { f64::from(2 + at % 2 * 2) };
            let below =
                0.5 + step / 3.0 * (0..=steps).map(|at| weight(at) * density(f64::from(at) * step)).sum::<f64>();
            [x * below, below + x * density(x)]
        }
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            [x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))]
        }
    }
}

/// The places of each pool in a plane.
pub(super) fn windows(pool: Option<Pool>, [height, width]: [usize; 2]) -> Vec<Vec<usize>> {
    let ([down, across], stride) = match pool {
        None => ([1, 1], 1),
        Some(Pool::Global) => ([height, width], 1),
        Some(Pool::Max { size, stride } | Pool::Average { size, stride }) => ([size; 2], stride),
    };
    let starts = |side: usize, size: usize| (0..=side - size).step_by(stride);
    starts(height, down)
        .flat_map(|y| starts(width, across).map(move |x| (y, x)))
        .map(|(y, x)| (0..down * across).map(|at| (y + at / across) * width + x + at % across).collect())
        .collect()
}

/// The first of the largest in a window.
pub(super) fn winner(plane: &[f64], window: &[usize]) -> usize {
    window.iter().copied().reduce(|best, at| if plane[at] > plane[best] { at } else { best }).unwrap()
}

fn pooled(values: &[f64], pool: Option<Pool>, [height, width]: [usize; 2]) -> Vec<f64> {
    let windows = windows(pool, [height, width]);
    let of = |plane: &[f64], window: &Vec<usize>| match pool {
        Some(Pool::Max { .. }) => plane[winner(plane, window)],
        _ => window.iter().map(|&at| plane[at]).sum::<f64>() / window.len() as f64,
    };
    values.chunks_exact(height * width).flat_map(|plane| windows.iter().map(move |window| of(plane, window))).collect()
}

/// The gradient of what was pooled.
fn unpooled(values: &[f64], pool: Option<Pool>, [height, width]: [usize; 2], dy: &[f64]) -> Vec<f64> {
    let windows = windows(pool, [height, width]);
    let mut gradient = vec![0.0; values.len()];
    let planes = values.chunks_exact(height * width).zip(gradient.chunks_exact_mut(height * width));
    for ((plane, gradient), dy) in planes.zip(dy.chunks_exact(windows.len())) {
        for (window, dy) in windows.iter().zip(dy) {
            match pool {
                Some(Pool::Max { .. }) => gradient[winner(plane, window)] += dy,
                _ => window.iter().for_each(|&at| gradient[at] += dy / window.len() as f64),
            }
        }
    }
    gradient
}

/// Layers that together have everything, small enough for finite differences.
pub(super) fn some_layers() -> Vec<Sizes> {
    let block = Sizes::block(3, [3, 5], [5, 4]);
    let epilogue = Epilogue { order: ChannelOrder::Last, ..Epilogue::default() };
    let with = |sizes: Sizes, stride, padding, groups, epilogue| Sizes {
        layer: ConvLayer { stride, padding, groups, epilogue, ..sizes.layer },
        ..sizes
    };
    let relu = Epilogue { activation: Activation::Relu, ..epilogue };
    let silu = Epilogue { activation: Activation::Silu, pool: Some(Pool::Average { size: 2, stride: 1 }), ..epilogue };
    let first = Epilogue { activation: Activation::Gelu, pool: Some(Pool::MAX_2), pool_first: true, ..epilogue };
    let global = Epilogue { pool: Some(Pool::Global), ..relu };
    let mean_first = Epilogue { pool: Some(Pool::Average { size: 3, stride: 2 }), pool_first: true, ..epilogue };
    let overlapping = Epilogue { pool: Some(Pool::Max { size: 3, stride: 2 }), ..relu };
    let without = |sizes: Sizes| Sizes { layer: ConvLayer { epsilon: None, ..sizes.layer }, given: false, ..sizes };
    let given = |sizes: Sizes| Sizes { given: true, ..sizes };
    let identity = Sizes { kernel: 0, outputs: 3, bias: false, ..block };
    vec![
        block,
        given(block),
        Sizes::block(3, [16, 17], [5, 4]),
        // As a residual network has them: at once, with half the pixels and channels more, and at the end.
        Sizes { residual: Some([5, 5, 4]), bias: false, ..with(block, 1, 1, 1, relu) },
        Sizes { residual: Some([2, 5, 4]), ..with(block, 2, 1, 1, Epilogue { residual_stride: 2, ..relu }) },
        Sizes { kernel: 1, ..given(with(block, 2, 0, 1, epilogue)) },
        with(identity, 1, 0, 1, global),
        without(with(identity, 1, 0, 1, Epilogue { pool: Some(Pool::Global), ..epilogue })),
        // Others.
        Sizes { kernel: 5, ..with(block, 1, 2, 1, silu) },
        without(Sizes { kernel: 2, ..with(block, 2, 3, 1, overlapping) }),
        with(Sizes::block(3, [4, 6], [5, 4]), 1, 1, 2, first),
        with(Sizes::block(3, [5, 5], [5, 7]), 1, 1, 5, mean_first),
        Sizes { residual: Some([4, 2, 2]), ..with(block, 1, 1, 1, first) },
    ]
}

#[test]
fn the_gradients_of_plain_loops_are_finite_differences() {
    for (seed, sizes) in (20..).zip(some_layers()) {
        let case = ConvCase::real(sizes, seed);
        let (arrays, dy, given) = (case.arrays(), doubles(&case.dy), case.given());
        let loss = |arrays: &Arrays| product_sum(&PlainLayer::forward(sizes, arrays, given.clone()).output, &dy);
        let found = PlainLayer::forward(sizes, &arrays, given.clone()).backward(&arrays, &dy, given.is_some());
        for (which, name) in GRADIENTS.iter().enumerate() {
            // About 50 of the numbers, of all the taps of a kernel.
            let step = (found[which].len() / 50) | 1;
            let (found, wanted): (Vec<f64>, Vec<f64>) =
                (found[which].iter().copied().step_by(step).collect(), slopes(&arrays, which, step, loss));
            // The differences are rounded by some 1e-9, as is what the bias has for a gradient before batch norm.
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!(
                    (found - wanted).abs() <= 1e-6 * wanted.abs().max(1.0),
                    "d{name} of {sizes:?}: {found}, {wanted}"
                );
            }
        }
    }
}

#[test]
fn layers_and_their_gradients_are_those_of_plain_loops() {
    for (seed, sizes) in (40..).zip(some_layers()) {
        let case = ConvCase::real(sizes, seed);
        let (arrays, dy, given) = (case.arrays(), doubles(&case.dy), case.given());
        let plain = PlainLayer::forward(sizes, &arrays, given.clone());
        let wanted = plain.backward(&arrays, &dy, given.is_some());
        let (y, gradients) = case.differentiate(&Device::flex().autodiff(), DType::F64);
        assert!(distance(&y, &plain.output) <= 1e-6, "{sizes:?}");
        for ((name, found), wanted) in GRADIENTS.iter().zip(gradients).zip(&wanted) {
            let Some(found) = found else { continue };
            // That of a bias before batch norm is what rounding leaves.
            let is_close = distance(&found, wanted) <= 1e-6 || found.iter().all(|number| number.abs() < 1e-9);
            assert!(is_close, "d{name} of {sizes:?}");
        }
        for level in Level::available() {
            let (y, _, saved) = case.train(level);
            check_distance(&format!("y of {sizes:?}, {level}"), &y, &plain.output);
            case.check_gradients(&format!("{sizes:?}, {level}"), &case.gradients(level, &saved), &wanted);
        }
    }
}

#[test]
fn the_first_of_equal_values_in_a_pool_has_the_gradient() {
    // By the definition: Winograd's transforms round what is equal.
    let mut case = ConvCase::whole(Sizes::block(3, [3, 5], [7, 6]), 3);
    // The pixels of each pool are equal, and the kernels see one pixel at a time.
    case.x = (0..case.x.len()).map(|at| case.x[at - at % 6 % 2 - at / 6 % 7 % 2 * 6]).collect();
    for (tap, weight) in case.weight.iter_mut().enumerate() {
        if tap % 9 != 4 {
            *weight = 0.0;
        }
    }
    let arrays = case.arrays();
    let plain = PlainLayer::forward(case.sizes, &arrays, None);
    let wanted = plain.backward(&arrays, &doubles(&case.dy), false);
    for level in Level::available() {
        let saved = case.train(level).2;
        case.check_gradients(&format!("{level}"), &case.gradients(level, &saved), &wanted);
    }
}

#[test]
fn pools_alone_pass_their_gradient_to_the_first_of_equal_values() {
    let epilogue = Epilogue { pool: Some(Pool::Max { size: 3, stride: 2 }), ..Epilogue::default() };
    let block = Sizes::block(2, [5, 5], [7, 7]);
    let layer = ConvLayer { padding: 0, epsilon: None, epilogue, ..block.layer };
    let mut case = ConvCase::whole(Sizes { kernel: 0, bias: false, layer, ..block }, 4);
    case.x.fill(1.0);
    case.dy.fill(1.0);
    let expected: Vec<f32> = (0..case.x.len())
        .map(|at| {
            let (row, column) = (at / 7 % 7, at % 7);
            if row % 2 == 0 && column % 2 == 0 && row < 5 && column < 5 { 1.0 } else { 0.0 }
        })
        .collect();
    for level in Level::available() {
        let saved = case.train(level).2;
        let [dx, ..] = case.gradients(level, &saved);
        assert!(dx.unwrap() == expected, "{level}");
    }
}

#[test]
fn nan_and_infinity_reach_the_pools_that_see_them_and_no_others() {
    // By the definition: Winograd's tiles spread what is not finite.
    let mut case = ConvCase::real(Sizes { given: true, ..Sizes::block(2, [3, 17], [6, 8]) }, 6);
    case.weight.fill(0.1);
    case.bias.fill(0.0);
    case.gamma = (0..17).map(|output| if output % 2 == 0 { 1.0 } else { -1.0 }).collect();
    case.beta.fill(0.0);
    case.mean.fill(0.0);
    case.variance.fill(1.0);
    for special in [f32::NAN, f32::INFINITY] {
        case.x.fill(1.0);
        // In the first image and its channel 2 at row 2 and column 5: the convolution's rows 1 to 3 and columns 4 to 6 see
        // it, which are in the pools' rows 0 and 1 and columns 2 and 3.
        case.x[(2 * 6 + 2) * 8 + 5] = special;
        for level in Level::available() {
            for (at, y) in case.infer(level).into_iter().enumerate() {
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
    for channels in CHANNELS_OF_BOTH_WAYS {
        let mut case = ConvCase::real(Sizes::block(2, channels, [6, 6]), 7);
        case.x[17] = f32::NAN;
        for level in Level::available() {
            let (y, statistics, _) = case.train(level);
            let [mean, variance] = statistics.unwrap();
            for numbers in [y, mean, variance] {
                assert!(numbers.iter().all(|number| number.is_nan()), "{level}: {numbers:?}");
            }
        }
    }
}
