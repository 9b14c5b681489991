//! Convolution layers with their numbers, for the tests that compare them.

use burn::tensor::{DType, Device, Tensor};

use super::{
    CLOSE, EPSILON, Numbers, check_distance, doubles, length,
    plain_conv::{Arrays, activate, windows, winner},
    tensor_of,
};
use crate::{
    Activation, ChannelOrder, ConvLayer, ConvTensors, Epilogue, Pool,
    cpu::{
        Level,
        conv::{self, Images, Parameters, Saved, Statistics, Wanted},
    },
};

/// Channels that are convolved by the definition, and channels that are convolved by Winograd's tiles.
pub(super) const CHANNELS_OF_BOTH_WAYS: [[usize; 2]; 2] = [[3, 5], [16, 17]];

/// The names of a layer's gradients in their order.
pub(super) const GRADIENTS: [&str; 6] = ["x", "weight", "bias", "gamma", "beta", "residual"];

/// A layer and the shapes of what it gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// 0 without a convolution.
    pub(super) kernel: usize,
    pub(super) bias: bool,
    /// Whether batch norm takes given statistics.
    pub(super) given: bool,
    /// Channels, height and width.
    pub(super) residual: Option<[usize; 3]>,
    pub(super) layer: ConvLayer,
    /// Of x, of the residual and of the output's gradient.
    pub(super) orders: [ChannelOrder; 3],
}

impl Sizes {
    /// 3x3 convolution with padding 1, batch norm, ReLU and 2x2 max pooling; everything with the channels first.
    pub(super) fn block(batch: usize, [inputs, outputs]: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let epilogue = Epilogue { activation: Activation::Relu, pool: Some(Pool::MAX_2), ..Epilogue::default() };
        let layer = ConvLayer { stride: 1, padding: 1, groups: 1, epsilon: Some(EPSILON), epilogue };
        let orders = [ChannelOrder::First; 3];
        Self {
            batch,
            inputs,
            outputs,
            height,
            width,
            kernel: 3,
            bias: true,
            given: false,
            residual: None,
            layer,
            orders,
        }
    }

    pub(super) fn convolved(self) -> [usize; 2] {
        self.layer.convolved(self.kernel.max(1), [self.height, self.width]).unwrap()
    }

    /// The size of what batch norm sees.
    pub(super) fn normalised(self) -> [usize; 2] {
        if self.layer.epilogue.pool_first { self.output() } else { self.convolved() }
    }

    pub(super) fn output(self) -> [usize; 2] {
        self.layer.output(self.kernel.max(1), [self.height, self.width]).unwrap()
    }

    /// Numbers that an output sees without a border.
    fn taps(self) -> usize {
        self.inputs / self.layer.groups * self.kernel * self.kernel
    }

    /// Whether batch norm takes the batch's statistics.
    fn takes_statistics(self) -> bool {
        self.layer.epsilon.is_some() && !self.given
    }
}

/// Numbers for a layer; all of its arrays have the channels first, and are turned on their way.
#[derive(Clone, Debug)]
pub(super) struct ConvCase {
    pub(super) sizes: Sizes,
    pub(super) x: Vec<f32>,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) residual: Vec<f32>,
    pub(super) dy: Vec<f32>,
    /// The statistics, if they are given, and for inference.
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

impl ConvCase {
    pub(super) fn real(sizes: Sizes, seed: u64) -> Self {
        let Sizes { batch, inputs, outputs, height, width, .. } = sizes;
        let mut numbers = Numbers(seed);
        let normal = if sizes.layer.epsilon.is_some() { outputs } else { 0 };
        Self {
            sizes,
            x: numbers.reals(batch * inputs * height * width),
            weight: numbers.reals(outputs * sizes.taps()),
            bias: numbers.reals(if sizes.bias { outputs } else { 0 }),
            gamma: numbers.factors(normal),
            beta: numbers.reals(normal),
            residual: numbers.reals(sizes.residual.map_or(0, |sides| batch * sides.iter().product::<usize>())),
            dy: numbers.reals(batch * outputs * sizes.output().iter().product::<usize>()),
            mean: numbers.reals(outputs),
            variance: numbers.factors(outputs).iter().map(|factor| factor.abs()).collect(),
        }
    }

    /// A case in which rounding decides nothing: which value of a pool is the largest, and whether one passes a ReLU. Of
    /// real numbers, where the convolution may be Winograd's; none where a pool before batch norm is not decided.
    pub(super) fn decided(sizes: Sizes, seed: u64) -> Option<Self> {
        let is_max = matches!(sizes.layer.epilogue.pool, Some(Pool::Max { .. }));
        if sizes.kernel != 3 || sizes.layer.stride != 1 || !is_max {
            return Some(Self::whole(sizes, seed).settled());
        }
        // Among fewer pools there is less that is close.
        let most = 5_000_usize.div_ceil(sizes.outputs * sizes.output().iter().product::<usize>()).max(2);
        let sizes = Sizes { batch: sizes.batch.min(most), ..sizes };
        let whole = Self::whole(sizes, seed);
        let Self { x, weight, .. } = Self::real(sizes, seed);
        let case = Self { x, weight, ..whole };
        if !sizes.layer.epilogue.pool_first {
            return Some(case.settled());
        }
        let layer = ConvLayer { epsilon: None, epilogue: Epilogue::default(), ..sizes.layer };
        let (x, tensors) = case.tensors(&Device::flex(), DType::F64);
        let tensors = ConvTensors { norm: None, statistics: None, residual: None, ..tensors };
        let convolved = numbers(crate::conv_layer(x, tensors, layer).output);
        let windows = windows(sizes.layer.epilogue.pool, sizes.convolved());
        let close = 1e-5 * convolved.iter().fold(0.0, |most: f64, a| most.max(a.abs()));
        let is_decided = |plane: &[f64], window: &Vec<usize>| {
            let largest = winner(plane, window);
            window.iter().all(|&at| at == largest || plane[largest] - plane[at] > close)
        };
        let mut planes = convolved.chunks_exact(sizes.convolved().iter().product());
        planes.all(|plane| windows.iter().all(|window| is_decided(plane, window))).then(|| case.settled())
    }

    /// A case whose convolution does not depend on rounding: images, kernels and biases of whole numbers make one of whole
    /// numbers, which every way to sum them up gives exactly, but for Winograd's. So the largest of a pool before batch norm
    /// is the same everywhere. The gradients of the output are positive, so that those of gamma and beta do not cancel out.
    pub(super) fn whole(sizes: Sizes, seed: u64) -> Self {
        let real = Self::real(sizes, seed);
        let mut numbers = Numbers(!seed);
        Self {
            x: numbers.wholes(real.x.len()),
            weight: numbers.wholes(real.weight.len()),
            bias: numbers.wholes(real.bias.len()),
            dy: real.dy.iter().map(|&dy| 1.0 + 0.5 * dy).collect(),
            ..real
        }
    }

    /// The same without a gradient for those outputs where rounding may decide which way it goes: at the edge of a ReLU,
    /// or where two values of a pool are nearly equal.
    pub(super) fn settled(mut self) -> Self {
        let epilogue = self.sizes.layer.epilogue;
        let last = if epilogue.pool_first { None } else { epilogue.pool };
        let before =
            Epilogue { activation: Activation::None, pool: epilogue.pool.filter(|_| last.is_none()), ..epilogue };
        let layer = ConvLayer { epilogue: before, ..self.sizes.layer };
        let (x, tensors) = self.tensors(&Device::flex(), DType::F64);
        let linear = numbers(crate::conv_layer(x, tensors, layer).output);
        let windows = windows(last, self.sizes.normalised());
        // Numbers of this size are rounded by a hundredth of it at most.
        let close = 1e-5 * (1.0 + linear.iter().fold(0.0, |most: f64, a| most.max(a.abs())));
        let pixels: usize = self.sizes.normalised().iter().product();
        let is_relu = epilogue.activation == Activation::Relu;
        let is_max = matches!(last, Some(Pool::Max { .. }));
        for (plane, dy) in linear.chunks_exact(pixels).zip(self.dy.chunks_exact_mut(windows.len())) {
            let value = |&a: &f64| if is_relu { a } else { activate(epilogue.activation, a)[0] };
            let values: Vec<f64> = plane.iter().map(value).collect();
            for (window, dy) in windows.iter().zip(dy) {
                let at_edge = |at: usize| is_relu && plane[at].abs() < close;
                let largest = winner(&values, window);
                let ties = |at: usize| plane[at] != plane[largest] && values[largest] - values[at] < close;
                let unsure = if is_max {
                    at_edge(largest) || window.iter().any(|&at| ties(at))
                } else {
                    window.iter().any(|&at| at_edge(at))
                };
                if unsure {
                    *dy = 0.0;
                }
            }
        }
        self
    }

    pub(super) fn arrays(&self) -> Arrays {
        [&self.x, &self.weight, &self.bias, &self.gamma, &self.beta, &self.residual].map(|floats| doubles(floats))
    }

    /// Mean and variance, if they are given.
    pub(super) fn given(&self) -> Option<[Vec<f64>; 2]> {
        self.sizes.given.then(|| [doubles(&self.mean), doubles(&self.variance)])
    }

    fn statistics(&self) -> Statistics {
        Statistics { mean: self.mean.clone(), variance: self.variance.clone() }
    }

    fn parameters(&self) -> Parameters<'_> {
        let Sizes { kernel, outputs, bias, layer, .. } = self.sizes;
        Parameters {
            weight: (kernel > 0).then_some(&self.weight[..]),
            kernel: kernel.max(1),
            outputs,
            bias: bias.then_some(&self.bias[..]),
            norm: layer.epsilon.map(|_| [&self.gamma[..], &self.beta[..]]),
        }
    }

    /// Calls an operation with x and the residual as they are to lie in memory.
    fn with_images<T>(&self, operation: impl FnOnce(Images<'_>, Option<Images<'_>>) -> T) -> T {
        let Sizes { batch, inputs, height, width, residual, orders, .. } = self.sizes;
        let x = laid_out(&self.x, batch, inputs, orders[0]);
        let x = Images { floats: &x, batch, channels: inputs, height, width, order: orders[0] };
        let Some([channels, height, width]) = residual else { return operation(x, None) };
        let floats = laid_out(&self.residual, batch, channels, orders[1]);
        operation(x, Some(Images { floats: &floats, batch, channels, height, width, order: orders[1] }))
    }

    /// The output, the batch's mean and variance if they are taken, and what backward needs.
    pub(super) fn train(&self, level: Level) -> (Vec<f32>, Option<[Vec<f32>; 2]>, Saved) {
        let Sizes { batch, outputs, layer, given, .. } = self.sizes;
        let given = given.then(|| self.statistics());
        let (y, statistics, saved) = self.with_images(|x, residual| {
            conv::forward(level, layer, x, self.parameters(), residual, given.as_ref(), true)
        });
        let statistics = statistics.map(|it| [it.mean, it.variance]);
        (planes(&y, batch, outputs, layer.epilogue.order), statistics, saved)
    }

    /// By the given statistics, whatever the sizes say.
    pub(super) fn infer(&self, level: Level) -> Vec<f32> {
        let Sizes { batch, outputs, layer, .. } = self.sizes;
        let given = layer.epsilon.map(|_| self.statistics());
        let (y, ..) = self.with_images(|x, residual| {
            conv::forward(level, layer, x, self.parameters(), residual, given.as_ref(), false)
        });
        planes(&y, batch, outputs, layer.epilogue.order)
    }

    pub(super) fn backward(&self, level: Level, saved: &Saved, wanted: Wanted) -> [Option<Vec<f32>>; 6] {
        let Sizes { batch, inputs, outputs, layer, orders, residual: sides, .. } = self.sizes;
        let [height, width] = self.sizes.output();
        let floats = laid_out(&self.dy, batch, outputs, orders[2]);
        let dy = Images { floats: &floats, batch, channels: outputs, height, width, order: orders[2] };
        let backward = |wanted: Wanted, sum: Option<&mut [f32]>| {
            let parameters = self.parameters();
            self.with_images(|x, residual| {
                conv::backward(level, layer, x, parameters, residual, saved, dy, wanted, sum)
            })
        };
        let found = backward(wanted, None);
        if let Some(dx) = found.x.as_ref().filter(|dx| dx.iter().all(|dx| dx.is_finite())) {
            // The same is added to what is there, without the gradient of the weight too.
            let mut sum = vec![1.0; dx.len()];
            assert!(backward(Wanted { weight: false, ..wanted }, Some(&mut sum)).weight.is_empty());
            let ones_more: Vec<f64> = dx.iter().map(|dx| f64::from(*dx) + 1.0).collect();
            check_distance("the sum with dx", &sum, &ones_more);
        }
        let [gamma, beta] = found.norm.map_or([None, None], |norm| norm.map(Some));
        let some = |floats: Vec<f32>| (!floats.is_empty()).then_some(floats);
        let residual = found.residual.zip(sides).map(|(floats, sides)| planes(&floats, batch, sides[0], orders[1]));
        let x = found.x.map(|floats| planes(&floats, batch, inputs, orders[0]));
        [x, some(found.weight), some(found.bias), gamma, beta, residual]
    }

    /// All gradients.
    pub(super) fn gradients(&self, level: Level, saved: &Saved) -> [Option<Vec<f32>>; 6] {
        self.backward(level, saved, Wanted { x: true, weight: true, residual: self.sizes.residual.is_some() })
    }

    /// Gradients against those that are wanted; empty ones are for what is not there.
    pub(super) fn check_gradients(&self, what: &str, found: &[Option<Vec<f32>>; 6], wanted: &Arrays) {
        for (which, name) in GRADIENTS.iter().enumerate() {
            let Some(found) = &found[which] else {
                assert!(wanted[which].is_empty(), "d{name} of {what} is missing");
                continue;
            };
            // Batch norm takes a bias and the size of a single weight away: their gradients are what rounding leaves,
            // beside sums of as many terms.
            let is_nothing = self.sizes.takes_statistics() && (which == 2 || which == 1 && self.sizes.taps() == 1);
            if is_nothing {
                let [found, most] = [length(doubles(found).into_iter()), length(wanted[4].iter().copied())];
                assert!(found <= CLOSE * most, "d{name} of {what} is {found:e} instead of nothing");
            } else {
                check_distance(&format!("d{name} of {what}"), found, &wanted[which]);
            }
        }
    }

    /// x, and all that a layer gets beside it, on a device.
    pub(super) fn tensors(&self, device: &Device, dtype: DType) -> (Tensor<4>, ConvTensors) {
        let Sizes { batch, inputs, outputs, height, width, kernel, bias, given, residual, layer, orders } = self.sizes;
        let vector = |floats: &[f32]| tensor_of(floats, [floats.len()], device, dtype);
        let images = |floats: &[f32], [channels, height, width]: [usize; 3], order: ChannelOrder| match order {
            ChannelOrder::First => tensor_of(floats, [batch, channels, height, width], device, dtype),
            ChannelOrder::Last => {
                let turned = laid_out(floats, batch, channels, order);
                tensor_of(&turned, [batch, height, width, channels], device, dtype).permute([0, 3, 1, 2])
            }
        };
        let weight = [outputs, inputs / layer.groups, kernel, kernel];
        let tensors = ConvTensors {
            weight: (kernel > 0).then(|| tensor_of(&self.weight, weight, device, dtype)),
            bias: bias.then(|| vector(&self.bias)),
            norm: layer.epsilon.map(|_| [vector(&self.gamma), vector(&self.beta)]),
            statistics: given.then(|| [vector(&self.mean), vector(&self.variance)]),
            residual: residual.map(|sides| images(&self.residual, sides, orders[1])),
        };
        (images(&self.x, [inputs, height, width], orders[0]), tensors)
    }

    /// The output and the gradients by [`conv_layer`](crate::conv_layer), on a device that differentiates. In another type
    /// than `f32` it is the composition.
    pub(super) fn differentiate(&self, device: &Device, dtype: DType) -> (Vec<f64>, [Option<Vec<f64>>; 6]) {
        fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
            tensor.require_grad()
        }
        let (x, tensors) = self.tensors(device, dtype);
        let x = leaf(x);
        let tensors = ConvTensors {
            weight: tensors.weight.map(leaf),
            bias: tensors.bias.map(leaf),
            norm: tensors.norm.map(|norm| norm.map(leaf)),
            residual: tensors.residual.map(leaf),
            statistics: tensors.statistics,
        };
        let y = crate::conv_layer(x.clone(), tensors.clone(), self.sizes.layer).output;
        let dy = tensor_of(&self.dy, y.dims(), device, dtype);
        let gradients = (y.clone() * dy).sum().backward();
        let [gamma, beta] = tensors.norm.map_or([None, None], |norm| norm.map(Some));
        let vectors = [tensors.bias, gamma, beta].map(|it| Some(numbers(it?.grad(&gradients).unwrap())));
        let images = [Some(x), tensors.weight, tensors.residual].map(|it| Some(numbers(it?.grad(&gradients).unwrap())));
        let ([bias, gamma, beta], [x, weight, residual]) = (vectors, images);
        (numbers(y), [x, weight, bias, gamma, beta, residual])
    }
}

pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

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
