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
        let tensors = [&x, &weight, &bias, &gamma, &beta].map(FloatTensor::<Self>::primitive);
        let ready = fused::on_host::<B>(&tensors);
        let nodes = [x.node(), weight.node(), bias.node(), gamma.node(), beta.node()];
        if ready && let OpsKind::Tracked(prepared) = Block.prepare::<C>(nodes).compute_bound().stateful() {
            let packed = |tensor: &FloatTensor<Self>| B::packed(tensor.primitive().clone());
            let images = x.primitive().clone();
            let it = BlockTensors {
                weight: packed(&weight),
                bias: packed(&bias),
                gamma: packed(&gamma),
                beta: packed(&beta),
            };
            if let Some(([output, mean, variance], saved)) = fused::conv_block::<B>(&images, &it, epsilon, order) {
                let output = prepared.finish((images, it, saved), output);
                return (output, FloatTensor::<Self>::new(mean), FloatTensor::<Self>::new(variance));
            }
        }
        composed::conv_block::<Self>(x, BlockTensors { weight, bias, gamma, beta }, epsilon)
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
    /// x, the parameters, and what forward saved.
    type State = (FloatTensor<B>, BlockTensors<B>, Saved);

    fn backward(self, ops: Ops<Self::State, 5>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node, bias_node, gamma_node, beta_node] = ops.parents;
        let dy = gradients.consume::<B>(&ops.node);
        let (x, it, saved) = ops.state;
        let Some((dx, [dweight, dgamma, dbeta])) =
            fused::conv_block_backward::<B>(&x, &it.weight, &saved, &dy, x_node.is_some())
        else {
            unreachable!("what was on the host forward has its gradient there")
        };
        // Batch norm takes the mean away again, and the bias with it.
        let dbias = B::float_mul_scalar(it.bias, 0.0.into());
        let nodes = [x_node, weight_node, bias_node, gamma_node, beta_node];
        let found = [dx, Some(dweight), Some(dbias), Some(dgamma), Some(dbeta)];
        for (node, gradient) in nodes.into_iter().zip(found) {
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
