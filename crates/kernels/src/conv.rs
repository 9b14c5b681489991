//! The convolution layer on tensors: what it takes, what it gives, and what it checks.

use std::convert::Infallible;

use burn::{
    backend::{
        Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, ExtensionType,
        tensor::FloatTensor,
    },
    tensor::Tensor,
};

use crate::{ConvLayer, KernelOps};

/// What a layer computes with beside its input; each of it may be absent.
#[derive(Clone, Debug, Default)]
pub struct ConvTensors {
    /// The convolution's, `[outputs, inputs / groups, kernel, kernel]`. A layer without it has no convolution: its outputs
    /// are its inputs, with what follows.
    pub weight: Option<Tensor<4>>,
    /// The convolution's, `[outputs]`.
    pub bias: Option<Tensor<1>>,
    /// Batch norm's scale and shift, `[outputs]` each.
    pub norm: Option<[Tensor<1>; 2]>,
    /// The mean and the variance that batch norm takes instead of the batch's, `[outputs]` each.
    pub statistics: Option<[Tensor<1>; 2]>,
    /// `[batch, channels, height, width]`, with at most as many channels as the output; see
    /// [`Epilogue::residual_stride`](crate::Epilogue::residual_stride).
    pub residual: Option<Tensor<4>>,
}

/// What [`conv_layer`] gives.
#[derive(Clone, Debug)]
pub struct ConvOutput {
    /// `[batch, outputs, height, width]`, of the size that [`ConvLayer::output`] says.
    pub output: Tensor<4>,
    /// Where batch norm has taken the batch's own.
    pub statistics: Option<BatchStatistics>,
}

/// A batch's statistics of each channel before batch norm; no gradient passes them.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// `[channels]`
    pub mean: Tensor<1>,
    /// With `count` as its divisor, `[channels]`.
    pub variance: Tensor<1>,
    /// How many values each channel has.
    pub count: usize,
}

/// A convolution and what follows it in one operation: pooling if it is first, batch norm, the residual, the activation,
/// and pooling otherwise, each if the layer has it.
///
/// On a device with autodiff gradients pass it to the input, the parameters and the residual; where nothing has one, nothing
/// is kept.
///
/// # Shapes
/// - x: `[batch, inputs, height, width]`
/// - output: `[batch, outputs, height, width]`, of the size that [`ConvLayer::output`] says
///
/// # Panics
/// When the shapes do not fit together, or nothing is left of the images.
#[must_use]
pub fn conv_layer(x: Tensor<4>, tensors: ConvTensors, layer: ConvLayer) -> ConvOutput {
    let count = tensors.check(x.dims(), layer);
    let pair = |pair: [Tensor<1>; 2]| pair.map(Tensor::into_dispatch);
    let operands = ConvOperands {
        x: x.into_dispatch(),
        weight: tensors.weight.map(Tensor::into_dispatch),
        bias: tensors.bias.map(Tensor::into_dispatch),
        norm: tensors.norm.map(pair),
        statistics: tensors.statistics.map(pair),
        residual: tensors.residual.map(Tensor::into_dispatch),
    };
    let (output, statistics) = Dispatch::conv_layer(operands, layer);
    let statistics = statistics.map(|(mean, variance)| BatchStatistics {
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
        count,
    });
    ConvOutput { output: Tensor::from_dispatch(output), statistics }
}

impl ConvTensors {
    /// Whether all fits together; how many values each channel has where batch norm sees it.
    fn check(&self, [batch, inputs, height, width]: [usize; 4], layer: ConvLayer) -> usize {
        let ConvLayer { stride, padding, groups, epsilon, epilogue } = layer;
        let (outputs, kernel) = if let Some([outputs, group, down, across]) = self.weight.as_ref().map(Tensor::dims) {
            assert_eq!(down, across, "a convolution layer's kernel is square");
            assert!(groups > 0 && outputs % groups == 0, "{outputs} outputs do not divide into {groups} groups");
            assert_eq!(inputs, group * groups, "a convolution of {} channels was given {inputs}", group * groups);
            (outputs, down)
        } else {
            let plain = self.bias.is_none() && [stride, padding, groups] == [1, 0, 1];
            assert!(plain, "a layer without a convolution has no bias, stride 1, no padding and one group");
            (inputs, 1)
        };
        let vectors = self.norm.iter().chain(&self.statistics).flatten().chain(&self.bias);
        for vector in vectors {
            assert_eq!(vector.dims(), [outputs], "bias, scale, shift, mean and variance have a number for each output");
        }
        assert_eq!(self.norm.is_some(), epsilon.is_some(), "batch norm has scale, shift and epsilon");
        assert!(self.statistics.is_none() || self.norm.is_some(), "only batch norm takes statistics");
        let size = [height, width];
        let (convolved, output) = (layer.convolved(kernel, size), layer.output(kernel, size));
        let [Some(convolved), Some(output)] = [convolved, output] else {
            panic!("a convolution layer leaves nothing of images of {height}x{width} (kernel {kernel}, {layer:?})")
        };
        let normalised = if epilogue.pool_first { output } else { convolved };
        if let Some([images, channels, height, width]) = self.residual.as_ref().map(Tensor::dims) {
            let stride = epilogue.residual_stride;
            let fits = stride > 0 && [height, width].map(|side| side.div_ceil(stride)) == normalised;
            assert!(
                images == batch && (1..=outputs).contains(&channels) && fits,
                "a residual of {images} images with {channels} channels of {height}x{width}, taken with stride {stride}, \
                 does not fit {batch} with {outputs} of {}x{}",
                normalised[0],
                normalised[1],
            );
        }
        batch * normalised[0] * normalised[1]
    }
}

/// The tensors of a layer with its input, on any backend; see [`ConvTensors`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // They are those of `ConvTensors`.
pub struct ConvOperands<T> {
    pub x: T,
    pub weight: Option<T>,
    pub bias: Option<T>,
    pub norm: Option<[T; 2]>,
    pub statistics: Option<[T; 2]>,
    pub residual: Option<T>,
}

/// The tensors of a layer on a backend.
pub type ConvPrimitives<B> = ConvOperands<FloatTensor<B>>;

impl<T> ConvOperands<T> {
    /// The parts by a function, or its first error.
    pub(crate) fn try_map<U, E>(self, mut part: impl FnMut(T) -> Result<U, E>) -> Result<ConvOperands<U>, E> {
        let x = part(self.x)?;
        let mut pair = |[first, second]: [T; 2]| Ok([part(first)?, part(second)?]);
        let (norm, statistics) = (self.norm.map(&mut pair).transpose()?, self.statistics.map(pair).transpose()?);
        Ok(ConvOperands {
            x,
            weight: self.weight.map(&mut part).transpose()?,
            bias: self.bias.map(&mut part).transpose()?,
            norm,
            statistics,
            residual: self.residual.map(part).transpose()?,
        })
    }

    /// The parts by a function.
    pub(crate) fn map<U>(self, mut part: impl FnMut(T) -> U) -> ConvOperands<U> {
        let Ok(mapped) = self.try_map(|it| Ok::<_, Infallible>(part(it)));
        mapped
    }

    pub(crate) fn as_ref(&self) -> ConvOperands<&T> {
        ConvOperands {
            x: &self.x,
            weight: self.weight.as_ref(),
            bias: self.bias.as_ref(),
            norm: self.norm.as_ref().map(<[T; 2]>::each_ref),
            statistics: self.statistics.as_ref().map(<[T; 2]>::each_ref),
            residual: self.residual.as_ref(),
        }
    }

    /// Those that are there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let vectors = self.norm.iter().chain(&self.statistics).flatten();
        [&self.x].into_iter().chain(&self.weight).chain(&self.bias).chain(vectors).chain(&self.residual)
    }

    /// Those that have gradients, in the order x, weight, bias, scale, shift, residual.
    pub(crate) fn parents(&self) -> [Option<&T>; 6] {
        let [gamma, beta] = self.norm.as_ref().map(<[T; 2]>::each_ref).map_or([None, None], |pair| pair.map(Some));
        [Some(&self.x), self.weight.as_ref(), self.bias.as_ref(), gamma, beta, self.residual.as_ref()]
    }
}

/// As Burn derives it for types without options.
impl<B: Backend> ExtensionType<B> for ConvPrimitives<B> {
    type Target = ConvPrimitives<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        self.map(|tensor| DispatchTensor { kind: map_kind(BackendTensor::Float(tensor)), autodiff })
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        target.map(|tensor| unwrap_kind(tensor).float())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        Some(&target.x)
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        Some(&target.x)
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        target.iter().fold(DispatchAutodiffContext::Disabled, |context, tensor| context.merge(tensor.autodiff))
    }
}
