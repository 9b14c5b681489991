//! The convolution layer on slices.

use burn::{
    backend::{Backend, TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::on_host;
use crate::{
    ChannelOrder, ConvLayer,
    composed::{ConvOutputs, vector},
    conv::{ConvOperands, ConvPrimitives},
    cpu::{
        Level,
        conv::{self, Images, Parameters, Saved, Statistics, Wanted},
    },
    host::Host,
};

/// Forward of a layer where nothing has a gradient; nothing where the tensors are not on the host.
pub(crate) fn forward<B: Host>(operands: &ConvPrimitives<B>, layer: ConvLayer) -> Option<ConvOutputs<B>> {
    let all: Vec<_> = operands.iter().collect();
    if !on_host::<B>(&all) {
        return None;
    }
    let packed = Packed::<B>::new(operands.clone());
    if operands.norm.is_some() && operands.statistics.is_none() {
        return packed.train(layer).map(|(output, batch, _)| (output, batch));
    }
    Some((packed.infer(layer)?, None))
}

/// The tensors of a layer one number after another, images in the order in which they are: with their channels last they are
/// tensors `[batch, height, width, channels]` here.
#[derive(Clone, Debug)]
pub(crate) struct Packed<B: Backend> {
    operands: ConvPrimitives<B>,
    x_order: ChannelOrder,
    residual_order: ChannelOrder,
}

/// The same as slices.
struct Slices<'a> {
    x: Images<'a>,
    parameters: Parameters<'a>,
    residual: Option<Images<'a>>,
    given: Option<Statistics>,
    /// `[batch, outputs, height, width]`
    output: [usize; 4],
}

impl<B: Host> Packed<B> {
    pub(crate) fn new(operands: ConvPrimitives<B>) -> Self {
        let (x, x_order) = packed_images::<B>(operands.x);
        let (residual, residual_order) = operands.residual.map(packed_images::<B>).unzip();
        let operands = ConvOperands { x, residual, ..operands }.map(B::packed);
        Self { operands, x_order, residual_order: residual_order.unwrap_or_default() }
    }

    /// Nothing where they are not on the host, or the layer leaves nothing.
    fn slices(&self, layer: ConvLayer) -> Option<Slices<'_>> {
        let floats = self.operands.as_ref().try_map(|tensor| B::floats(tensor).ok_or(())).ok()?;
        let x = images::<B>(floats.x, &self.operands.x, self.x_order);
        let residual = floats.residual.zip(self.operands.residual.as_ref());
        let residual = residual.map(|(floats, tensor)| images::<B>(floats, tensor, self.residual_order));
        let shape = self.operands.weight.as_ref().map(TensorMetadata::shape);
        let (outputs, kernel) = shape.map_or((x.channels, 1), |weight| (weight[0], weight[2]));
        let [height, width] = layer.output(kernel, [x.height, x.width])?;
        let parameters = Parameters { weight: floats.weight, kernel, outputs, bias: floats.bias, norm: floats.norm };
        let given =
            floats.statistics.map(|[mean, variance]| Statistics { mean: mean.to_vec(), variance: variance.to_vec() });
        let output = [x.batch, outputs, height, width];
        Some(Slices { x, parameters, residual, given, output })
    }

    /// Forward of a layer in training: the output, the batch's mean and variance if it takes them, and what backward needs.
    #[allow(clippy::type_complexity)] // A function's three results.
    pub(crate) fn train(
        &self,
        layer: ConvLayer,
    ) -> Option<(FloatTensor<B>, Option<(FloatTensor<B>, FloatTensor<B>)>, Saved)> {
        let Slices { x, parameters, residual, given, output } = self.slices(layer)?;
        let like = &self.operands.x;
        let (y, statistics, saved) = conv::forward(Level::best(), layer, x, parameters, residual, given.as_ref(), true);
        let vector = |floats: Vec<f32>| B::tensor(floats, vector(output[1]), like);
        let batch = statistics.map(|it| (vector(it.mean), vector(it.variance)));
        Some((image_tensor::<B>(y, output, layer.epilogue.order, like), batch, saved))
    }

    /// Forward of a layer whose statistics, if it has batch norm, are given.
    fn infer(&self, layer: ConvLayer) -> Option<FloatTensor<B>> {
        let Slices { x, parameters, residual, given, output } = self.slices(layer)?;
        let (y, ..) = conv::forward(Level::best(), layer, x, parameters, residual, given.as_ref(), false);
        Some(image_tensor::<B>(y, output, layer.epilogue.order, &self.operands.x))
    }

    /// The gradients of [`ConvOperands::parents`]: those that are wanted, and of the vectors all that are there. That of
    /// x is added to `sum`.
    pub(crate) fn backward(
        &self,
        layer: ConvLayer,
        saved: &Saved,
        dy: &FloatTensor<B>,
        wanted: Wanted,
        sum: Option<FloatTensor<B>>,
    ) -> Option<[Option<FloatTensor<B>>; 6]> {
        let mut sum = sum.map(|sum| match self.x_order {
            ChannelOrder::First => sum,
            ChannelOrder::Last => B::float_permute(sum, &[0, 2, 3, 1]),
        });
        let floats = sum.as_mut().and_then(B::floats_mut);
        let adds = floats.is_some();
        let Slices { x, parameters, residual, .. } = self.slices(layer)?;
        let (dy, dy_order) = packed_images::<B>(dy.clone());
        let dy = images::<B>(B::floats(&dy)?, &dy, dy_order);
        let found = conv::backward(Level::best(), layer, x, parameters, residual, saved, dy, wanted, floats);
        let like = &self.operands.x;
        let image_gradient = |floats: Vec<f32>, of: Images| {
            let shape = [of.batch, of.channels, of.height, of.width];
            image_tensor::<B>(floats, shape, of.order, like)
        };
        let vector = |floats: Vec<f32>| B::tensor(floats, vector(parameters.outputs), like);
        let weight = self.operands.weight.as_ref().filter(|_| wanted.weight);
        let weight = weight.map(|weight| B::tensor(found.weight, weight.shape(), like));
        let bias = parameters.bias.map(|_| vector(found.bias));
        let [gamma, beta] = found.norm.map_or([None, None], |norm| norm.map(|floats| Some(vector(floats))));
        let residual = found.residual.zip(residual).map(|(floats, residual)| image_gradient(floats, residual));
        let unpermuted = |sum: FloatTensor<B>| match self.x_order {
            ChannelOrder::First => sum,
            ChannelOrder::Last => B::float_permute(sum, &[0, 3, 1, 2]),
        };
        let dx = match (found.x.map(|floats| image_gradient(floats, x)), sum.map(unpermuted)) {
            (Some(dx), Some(sum)) if !adds => Some(B::float_add(dx, sum)),
            (dx, sum) => dx.or(sum),
        };
        Some([dx, weight, bias, gamma, beta, residual])
    }
}

/// Images packed in the order in which they are, and that order.
fn packed_images<B: Host>(tensor: FloatTensor<B>) -> (FloatTensor<B>, ChannelOrder) {
    let last = B::float_permute(tensor.clone(), &[0, 2, 3, 1]);
    if B::floats(&last).is_some() {
        return (last, ChannelOrder::Last);
    }
    (B::packed(tensor), ChannelOrder::First)
}

/// Images for the slice of a packed tensor.
fn images<'a, B: Host>(floats: &'a [f32], tensor: &FloatTensor<B>, order: ChannelOrder) -> Images<'a> {
    let shape = tensor.shape();
    let [channels, height, width] = match order {
        ChannelOrder::First => [shape[1], shape[2], shape[3]],
        ChannelOrder::Last => [shape[3], shape[1], shape[2]],
    };
    Images { floats, batch: shape[0], channels, height, width, order }
}

/// A tensor `[batch, channels, height, width]` of images in an order.
fn image_tensor<B: Host>(
    floats: Vec<f32>,
    [batch, channels, height, width]: [usize; 4],
    order: ChannelOrder,
    like: &FloatTensor<B>,
) -> FloatTensor<B> {
    match order {
        ChannelOrder::First => B::tensor(floats, Shape::new([batch, channels, height, width]), like),
        ChannelOrder::Last => {
            let tensor = B::tensor(floats, Shape::new([batch, height, width, channels]), like);
            B::float_permute(tensor, &[0, 3, 1, 2])
        }
    }
}
