//! The operations' gradients: those of the slices where the tensors have them, else those of the composition.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};

use burn::tensor::Shape;

use crate::{
    ChannelOrder,
    composed::{self, BlockTensors},
    cpu::{block::Saved, cross_entropy},
    fused::{self, LinearGradients},
    host::Host,
    ops::KernelOps,
};

impl<B: LinearGradients + KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn linear_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        relu: bool,
    ) -> FloatTensor<Self> {
        if !B::has_linear(&[x.primitive(), weight.primitive(), bias.primitive()]) {
            return composed::linear::<Self>(x, weight, bias, relu);
        }
        match Linear.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let [x, weight, bias] = [x, weight, bias].map(|tensor| B::packed(tensor.into_primitive()));
                let y = B::linear_layer(x.clone(), weight.clone(), bias, relu);
                prepared.finish((x, weight, relu.then(|| y.clone())), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::linear_layer(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                relu,
            )),
        }
    }

    fn conv_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        order: ChannelOrder,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let it = BlockTensors { weight, bias, gamma, beta };
        match tracked_block::<B, C>(&x, &it, None, epsilon, order) {
            Some([output, mean, variance]) => (output, mean, variance),
            None => composed::conv_block::<Self>(x, it, epsilon),
        }
    }

    fn conv_block_inference(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        order: ChannelOrder,
    ) -> FloatTensor<Self> {
        if ![&x, &weight, &bias, &gamma, &beta, &mean, &variance].into_iter().any(FloatTensor::<Self>::is_tracked) {
            let [x, weight, bias, gamma, beta, mean, variance] =
                [x, weight, bias, gamma, beta, mean, variance].map(FloatTensor::<Self>::into_primitive);
            let y = B::conv_block_inference(x, weight, bias, gamma, beta, mean, variance, epsilon, order);
            return FloatTensor::<Self>::new(y);
        }
        let it = BlockTensors { weight, bias, gamma, beta };
        match tracked_block::<B, C>(&x, &it, Some([&mean, &variance]), epsilon, order) {
            Some([output, ..]) => output,
            None => composed::conv_block_inference::<Self>(x, it, mean, variance, epsilon),
        }
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

    fn select_rows(matrix: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        if matrix.is_tracked() {
            return composed::select_rows::<Self>(matrix, indices);
        }
        FloatTensor::<Self>::new(B::select_rows(matrix.into_primitive(), indices))
    }

    fn sgd_step(parameter: FloatTensor<Self>, gradient: FloatTensor<Self>, rate: f64) -> FloatTensor<Self> {
        composed::sgd_step::<Self>(parameter, gradient, rate)
    }
}

/// A tensor with autodiff.
type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// A block by given statistics, or else by the batch's, where the tensors are on the host and one of them has a gradient:
/// output, mean and variance.
fn tracked_block<B: LinearGradients + KernelOps, C: CheckpointStrategy>(
    x: &Tracked<B, C>,
    it: &BlockTensors<Autodiff<B, C>>,
    given: Option<[&Tracked<B, C>; 2]>,
    epsilon: f64,
    order: ChannelOrder,
) -> Option<[Tracked<B, C>; 3]> {
    let parts = [x, &it.weight, &it.bias, &it.gamma, &it.beta];
    let tensors: Vec<_> =
        parts.into_iter().chain(given.into_iter().flatten()).map(Tracked::<B, C>::primitive).collect();
    if !fused::on_host::<B>(&tensors) || given.is_some_and(|given| given.into_iter().any(Tracked::<B, C>::is_tracked)) {
        return None;
    }
    let OpsKind::Tracked(prepared) = Block.prepare::<C>(parts.map(Tracked::<B, C>::node)).compute_bound().stateful()
    else {
        return None;
    };
    let packed = |tensor: &Tracked<B, C>| B::packed(tensor.primitive().clone());
    let [weight, bias, gamma, beta] = [&it.weight, &it.bias, &it.gamma, &it.beta].map(packed);
    let (images, it, given) =
        (x.primitive().clone(), BlockTensors { weight, bias, gamma, beta }, given.map(|it| it.map(packed)));
    let given = given.as_ref().map(|[mean, variance]| [mean, variance]);
    let ([output, mean, variance], saved) = fused::conv_block::<B>(&images, &it, given, epsilon, order)?;
    let output = prepared.finish((images, it.weight, saved), output);
    Some([output, Tracked::<B, C>::new(mean), Tracked::<B, C>::new(variance)])
}

#[derive(Debug)]
struct Linear;

impl<B: LinearGradients> Backward<B, 3> for Linear {
    /// x, weight, and the output behind a ReLU.
    type State = (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let dy = B::packed(gradients.consume::<B>(&ops.node));
        let (x, weight, y) = ops.state;
        let Some((dx, [dweight, dbias])) = B::linear_backward(&x, &weight, y.as_ref(), &dy, x_node.is_some()) else {
            unreachable!("what has a linear layer of its own has its gradients")
        };
        for (node, gradient) in [(x_node, dx), (weight_node, Some(dweight)), (bias_node, Some(dbias))] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Block;

impl<B: Host> Backward<B, 5> for Block {
    /// x, the weight, and what forward saved.
    type State = (FloatTensor<B>, FloatTensor<B>, Saved);

    fn backward(self, ops: Ops<Self::State, 5>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let dy = gradients.consume::<B>(&ops.node);
        let (x, weight, saved) = ops.state;
        let wants_x = ops.parents[0].is_some();
        let Some((dx, parameters)) = fused::conv_block_backward::<B>(&x, &weight, &saved, &dy, wants_x) else {
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
