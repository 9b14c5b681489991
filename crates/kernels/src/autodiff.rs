//! The operations' gradients: those of the slices where the tensors have them, else those of the composition.

use std::cell::RefCell;

use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            NodeId,
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::{FloatTensor, IntTensor},
    },
    tensor::Shape,
};

use crate::{
    Activation, ConvLayer,
    composed::{self, ConvOutputs},
    conv::ConvPrimitives,
    cpu::{
        conv::{Saved, Wanted},
        cross_entropy, layer_norm,
    },
    fused::{self, LinearGradients, conv::Packed},
    host::Host,
    ops::KernelOps,
};

impl<B: LinearGradients + KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn linear_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if !B::has_linear(&[x.primitive(), weight.primitive(), bias.primitive()], activation) {
            return composed::linear::<Self>(x, weight, bias, activation);
        }
        match Linear.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let [x, weight, bias] = [x, weight, bias].map(|tensor| B::packed(tensor.into_primitive()));
                let Some((y, behind)) = B::linear_train(&x, &weight, bias, activation) else {
                    unreachable!("what has a linear layer of its own has its output")
                };
                prepared.finish((x, weight, behind.map(|behind| (activation, behind))), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::linear_layer(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                activation,
            )),
        }
    }

    fn conv_layer(operands: ConvPrimitives<Self>, layer: ConvLayer) -> ConvOutputs<Self> {
        if !operands.iter().any(Tracked::<B, C>::is_tracked) {
            let (output, batch) = B::conv_layer(operands.map(Tracked::<B, C>::into_primitive), layer);
            return untracked_statistics::<B, C>(Tracked::<B, C>::new(output), batch);
        }
        tracked_layer::<B, C>(&operands, layer).unwrap_or_else(|| composed::conv_layer::<Self>(operands, layer))
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>, smoothing: f64) -> FloatTensor<Self> {
        if fused::on_host::<B>(&[logits.primitive()])
            && let OpsKind::Tracked(prepared) = CrossEntropy.prepare::<C>([logits.node()]).compute_bound().stateful()
        {
            let packed = B::packed(logits.primitive().clone());
            if let Some((losses, saved)) = fused::cross_entropy::<B>(&packed, &targets, smoothing) {
                return prepared.finish((packed.shape(), saved), losses);
            }
        }
        composed::cross_entropy::<Self>(logits, targets, smoothing)
    }

    fn normalize_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let parts = [&x, &gamma, &beta];
        if fused::on_host::<B>(&parts.map(FloatTensor::<Self>::primitive))
            && let OpsKind::Tracked(prepared) =
                LayerNorm.prepare::<C>(parts.map(FloatTensor::<Self>::node)).compute_bound().stateful()
        {
            let [x, gamma, beta] = parts.map(|tensor| B::packed(tensor.primitive().clone()));
            if let Some((y, saved)) = fused::normalize_rows::<B>(&x, &gamma, &beta, epsilon) {
                return prepared.finish((x, gamma, saved), y);
            }
        }
        composed::normalize_rows::<Self>(x, gamma, beta, epsilon)
    }

    fn dropout(x: FloatTensor<Self>, probability: f64) -> FloatTensor<Self> {
        match Dropout.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let packed = B::packed(x.primitive().clone());
                match fused::dropout::<B>(&packed, probability) {
                    Some((y, key)) => prepared.finish((key, probability), y),
                    None => composed::dropout::<Self>(x, probability),
                }
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::dropout(x.into_primitive(), probability)),
        }
    }

    fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        if matrix.is_tracked() {
            return composed::select_rows::<Self>(matrix, indices);
        }
        FloatTensor::<Self>::new(B::select_rows(matrix.into_primitive(), indices))
    }
}

/// A tensor with autodiff.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// The results of a layer whose output has its node already.
fn untracked_statistics<B: Backend, C: CheckpointStrategy>(
    output: Tracked<B, C>,
    batch: Option<(FloatTensor<B>, FloatTensor<B>)>,
) -> ConvOutputs<Autodiff<B, C>> {
    (output, batch.map(|(mean, variance)| (Tracked::<B, C>::new(mean), Tracked::<B, C>::new(variance))))
}

/// A convolution layer where the tensors are on the host and one of them has a gradient, but not the given statistics.
fn tracked_layer<B: Host, C: CheckpointStrategy>(
    operands: &ConvPrimitives<Autodiff<B, C>>,
    layer: ConvLayer,
) -> Option<ConvOutputs<Autodiff<B, C>>> {
    let primitives = operands.as_ref().map(Tracked::<B, C>::primitive);
    let all: Vec<_> = primitives.iter().copied().collect();
    if !fused::on_host::<B>(&all) || operands.statistics.iter().flatten().any(Tracked::<B, C>::is_tracked) {
        return None;
    }
    // What the layer does not have is a parent without a gradient.
    let absent = Tracked::<B, C>::new(operands.x.primitive().clone());
    let parents = operands.parents().map(|parent| parent.unwrap_or(&absent).node());
    let OpsKind::Tracked(prepared) = Convolution.prepare::<C>(parents).compute_bound().stateful() else { return None };
    let packed = Packed::<B>::new(primitives.map(Clone::clone));
    let (output, batch, saved) = packed.train(layer)?;
    Some(untracked_statistics::<B, C>(prepared.finish((packed, layer, saved), output), batch))
}

#[derive(Debug)]
struct Linear;

impl<B: LinearGradients> Backward<B, 3> for Linear {
    /// x, weight, and an activation with what it needs.
    type State = (FloatTensor<B>, FloatTensor<B>, Option<(Activation, FloatTensor<B>)>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let dy = B::packed(gradients.consume::<B>(&ops.node));
        let (x, weight, activation) = ops.state;
        let activation = activation.as_ref().map(|(activation, behind)| (*activation, behind));
        let gradients_of_all = B::linear_backward(&x, &weight, activation, &dy, x_node.is_some());
        let Some((dx, [dweight, dbias])) = gradients_of_all else {
            unreachable!("what has a linear layer of its own has its gradients")
        };
        for (node, gradient) in [(x_node, dx), (weight_node, Some(dweight)), (bias_node, Some(dbias))] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

thread_local! {
    /// The nodes, but for leaves, that convolution layers of this thread have given a gradient, the newest last. A layer must
    /// not keep x to find out: Burn would never free a graph that is not differentiated.
    static GIVEN: RefCell<Vec<NodeId>> = const { RefCell::new(Vec::new()) };
}

/// How many of them are kept: a residual block is a few layers long.
const MOST_GIVEN: usize = 64;

fn give(node: NodeId) {
    GIVEN.with_borrow_mut(|given| {
        if given.len() == MOST_GIVEN {
            given.remove(0);
        }
        given.push(node);
    });
}

/// Whether a node was given a gradient, which is no longer remembered.
fn take_given(node: NodeId) -> bool {
    GIVEN.with_borrow_mut(|given| {
        let count = given.len();
        given.retain(|it| *it != node);
        given.len() < count
    })
}

#[derive(Debug)]
struct Convolution;

impl<B: Host> Backward<B, 6> for Convolution {
    /// The layer's tensors, the layer, and what forward saved.
    type State = (Packed<B>, ConvLayer, Saved);

    fn backward(self, ops: Ops<Self::State, 6>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dy = gradients.consume::<B>(&ops.node);
        take_given(ops.node.id);
        let (packed, layer, saved) = ops.state;
        let [x, weight, .., residual] = &ops.parents;
        let wanted = Wanted { x: x.is_some(), weight: weight.is_some(), residual: residual.is_some() };
        // What a residual has given x already is added to in place: Burn's sum would take another pass, on one thread, and
        // have the channels first.
        let sum = x.as_ref().filter(|x| take_given(x.id)).map(|x| gradients.consume::<B>(x));
        let Some(found) = packed.backward(layer, &saved, &dy, wanted, sum) else {
            unreachable!("what was on the host forward has its gradient there")
        };
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
                if node.order > 0 {
                    give(node.id);
                }
            }
        }
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: Host> Backward<B, 1> for CrossEntropy {
    /// The logits' shape, and what forward saved.
    type State = (Shape, cross_entropy::Saved);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [logits_node] = ops.parents;
        let dlosses = B::packed(gradients.consume::<B>(&ops.node));
        let (shape, saved) = ops.state;
        let Some(node) = logits_node else { return };
        let Some(dlogits) = fused::cross_entropy_backward::<B>(shape, &saved, &dlosses) else {
            unreachable!("what was on the host forward has its gradient there")
        };
        gradients.register::<B>(node.id, dlogits);
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: Host> Backward<B, 3> for LayerNorm {
    /// x, gamma, and what forward saved.
    type State = (FloatTensor<B>, FloatTensor<B>, layer_norm::Saved);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::packed(gradients.consume::<B>(&ops.node));
        let (x, gamma, saved) = ops.state;
        let wants_x = ops.parents[0].is_some();
        let Some((dx, parameters)) = fused::normalize_rows_backward::<B>(&x, &gamma, &saved, &dy, wants_x) else {
            unreachable!("what was on the host forward has its gradient there")
        };
        for (node, gradient) in ops.parents.into_iter().zip([dx].into_iter().chain(parameters.map(Some))) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Dropout;

impl<B: Host> Backward<B, 1> for Dropout {
    /// The mask's key, and the probability.
    type State = (u64, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let dy = B::packed(gradients.consume::<B>(&ops.node));
        let (key, probability) = ops.state;
        let Some(node) = node else { return };
        let Some(dx) = fused::dropout_backward::<B>(&dy, key, probability) else {
            unreachable!("what was on the host forward has its gradient there")
        };
        gradients.register::<B>(node.id, dx);
    }
}
