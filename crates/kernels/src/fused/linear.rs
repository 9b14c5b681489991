//! Linear layers.

use burn::{
    backend::{TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

use super::{Gradients, on_host};
use crate::{
    Activation,
    composed::vector,
    cpu::{Level, linear},
    host::Host,
};

fn sizes<B: Host>(x: &FloatTensor<B>, weight: &FloatTensor<B>) -> linear::Sizes {
    let (x, weight) = (x.shape(), weight.shape());
    linear::Sizes { batch: x[0], inputs: weight[0], outputs: weight[1] }
}

fn forward<'a, B: Host>(
    x: &'a FloatTensor<B>,
    weight: &'a FloatTensor<B>,
    bias: &'a FloatTensor<B>,
    activation: Activation,
) -> Option<linear::Forward<'a>> {
    let [x_floats, weight_floats, bias] = [B::floats(x)?, B::floats(weight)?, B::floats(bias)?];
    let sizes = sizes::<B>(x, weight);
    Some(linear::Forward { sizes, x: x_floats, weight: weight_floats, bias: Some(bias), activation })
}

/// A layer's output, for packed tensors; nothing where they are not on the host.
pub(super) fn infer<B: Host>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &FloatTensor<B>,
    activation: Activation,
) -> Option<FloatTensor<B>> {
    let it = forward::<B>(x, weight, bias, activation)?;
    let shape = Shape::new([it.sizes.batch, it.sizes.outputs]);
    Some(B::tensor(linear::forward(Level::best(), it), shape, x))
}

/// A backend whose linear layer may have gradients of its own: the slices', or others, as libtorch has.
pub(crate) trait LinearGradients: Host {
    /// Whether the functions below are there for these tensors.
    fn has_linear(tensors: &[&FloatTensor<Self>], _: Activation) -> bool {
        on_host::<Self>(tensors)
    }

    /// A layer's output for packed tensors, and what [`linear_backward`](Self::linear_backward) needs of it where there is
    /// an activation: a ReLU's output, or what another is applied to.
    fn linear_train(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> Option<(FloatTensor<Self>, Option<FloatTensor<Self>>)> {
        let it = forward::<Self>(x, weight, &bias, activation)?;
        let shape = Shape::new([it.sizes.batch, it.sizes.outputs]);
        let (y, before) = linear::train(Level::best(), it);
        let y = Self::tensor(y, shape.clone(), x);
        let before = before.map(|before| Self::tensor(before, shape, x));
        let behind = if activation == Activation::Relu { Some(y.clone()) } else { before };
        Some((y, behind))
    }

    /// The gradients of a layer's x, if wanted, weight and bias; `activation` comes with what
    /// [`linear_train`](Self::linear_train) gave for it.
    fn linear_backward(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        activation: Option<(Activation, &FloatTensor<Self>)>,
        dy: &FloatTensor<Self>,
        wants_x: bool,
    ) -> Option<Gradients<Self, 2>> {
        let sizes = sizes::<Self>(x, weight);
        let activation = match activation {
            Some((activation, numbers)) => Some((activation, Self::floats(numbers)?)),
            None => None,
        };
        let [x_floats, weight_floats, dy] = [Self::floats(x)?, Self::floats(weight)?, Self::floats(dy)?];
        let it = linear::Backward { sizes, x: x_floats, weight: weight_floats, activation, dy, wants_x };
        let gradients = linear::backward(Level::best(), it);
        Some((
            gradients.x.map(|dx| Self::tensor(dx, x.shape(), x)),
            [Self::tensor(gradients.weight, weight.shape(), x), Self::tensor(gradients.bias, vector(sizes.outputs), x)],
        ))
    }
}

#[cfg(feature = "cube")]
impl LinearGradients for burn::backend::Cube {}
#[cfg(feature = "remote")]
impl LinearGradients for burn::backend::Remote {}
#[cfg(feature = "capture")]
impl LinearGradients for burn::backend::capture::CaptureBackend {}
