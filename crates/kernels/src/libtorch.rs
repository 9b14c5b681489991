//! libtorch has a linear layer and an SGD step of its own: those that PyTorch uses, in fewer passes than Burn's operations.

use burn::{
    backend::{LibTorch, TensorMetadata, tensor::FloatTensor},
    tensor::DType,
};

use crate::{
    Activation, Kernels, composed,
    fused::{Gradients, LinearGradients},
    host::Host,
    ops::KernelOps,
    optimizer,
};

impl Host for LibTorch {}

impl LinearGradients for LibTorch {
    fn has_linear(_: &[&FloatTensor<Self>], activation: Activation) -> bool {
        Kernels::chosen() == Kernels::Auto && matches!(activation, Activation::None | Activation::Relu)
    }

    fn linear_train(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> Option<(FloatTensor<Self>, Option<FloatTensor<Self>>)> {
        let y = Self::linear_layer(x.clone(), weight.clone(), bias, activation);
        let behind = (activation == Activation::Relu).then(|| y.clone());
        Some((y, behind))
    }

    fn linear_backward(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        behind: Option<(Activation, &FloatTensor<Self>)>,
        dy: &FloatTensor<Self>,
        wants_x: bool,
    ) -> Option<Gradients<Self, 2>> {
        let dy = match behind {
            Some((_, y)) => y.tensor.threshold_backward(&dy.tensor, 0.0),
            None => dy.tensor.shallow_clone(),
        };
        let dweight = x.tensor.transpose(0, 1).mm(&dy); // [inputs, outputs]
        let dbias = dy.sum_dim_intlist(&[0_i64][..], false, dy.kind()); // [outputs]
        let dx = wants_x.then(|| dy.mm(&weight.tensor.transpose(0, 1))); // [batch, inputs]
        Some((dx.map(FloatTensor::<Self>::new), [dweight, dbias].map(FloatTensor::<Self>::new)))
    }
}

impl KernelOps for LibTorch {
    fn linear_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if !Self::has_linear(&[], activation) {
            return composed::linear::<Self>(x, weight, bias, activation);
        }
        let mut y = bias.tensor.addmm(&x.tensor, &weight.tensor); // [batch, outputs]
        FloatTensor::<Self>::new(if activation == Activation::Relu { y.relu_() } else { y })
    }

    fn sgd_step(
        mut parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rate: f64,
        weight_decay: f64,
    ) -> FloatTensor<Self> {
        // A factor in a half type would round the rate, which is a number of Rust's elsewhere.
        if Kernels::chosen() != Kernels::Auto || gradient.dtype() != DType::F32 || weight_decay != 0.0 {
            return optimizer::composed::sgd_step::<Self>(parameter, gradient, rate, weight_decay);
        }
        let options = (gradient.tensor.kind(), gradient.tensor.device());
        let factor = gradient.tensor.new_full([0_i64; 0], -rate, options);
        let stepped = parameter.mut_ops(|parameter| parameter.addcmul_(&gradient.tensor, &factor));
        stepped.unwrap_or_else(|| optimizer::composed::sgd_step::<Self>(parameter, gradient, rate, weight_decay))
    }
}
