//! libtorch has a linear layer and an SGD step of its own: those that PyTorch uses, in fewer passes than Burn's operations.

use burn::{
    backend::{LibTorch, TensorMetadata, tensor::FloatTensor},
    tensor::DType,
};

use crate::{
    Kernels, composed,
    fused::{Gradients, LinearGradients},
    host::Host,
    ops::KernelOps,
};

impl Host for LibTorch {}

impl LinearGradients for LibTorch {
    fn has_linear(_: &[&FloatTensor<Self>]) -> bool {
        Kernels::chosen() == Kernels::Auto
    }

    fn linear_backward(
        x: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        y: Option<&FloatTensor<Self>>,
        dy: &FloatTensor<Self>,
        wants_x: bool,
    ) -> Option<Gradients<Self, 2>> {
        let dy = match y {
            Some(y) => y.tensor.threshold_backward(&dy.tensor, 0.0),
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
        relu: bool,
    ) -> FloatTensor<Self> {
        if !Self::has_linear(&[]) {
            return composed::linear::<Self>(x, weight, bias, relu);
        }
        let mut y = bias.tensor.addmm(&x.tensor, &weight.tensor); // [batch, outputs]
        FloatTensor::<Self>::new(if relu { y.relu_() } else { y })
    }

    fn sgd_step(mut parameter: FloatTensor<Self>, gradient: FloatTensor<Self>, rate: f64) -> FloatTensor<Self> {
        // A factor in a half type would round the rate, which is a number of Rust's elsewhere.
        if !Self::has_linear(&[]) || gradient.dtype() != DType::F32 {
            return composed::sgd_step::<Self>(parameter, gradient, rate);
        }
        let options = (gradient.tensor.kind(), gradient.tensor.device());
        let factor = gradient.tensor.new_full([0_i64; 0], -rate, options);
        let stepped = parameter.mut_ops(|parameter| parameter.addcmul_(&gradient.tensor, &factor));
        stepped.unwrap_or_else(|| composed::sgd_step::<Self>(parameter, gradient, rate))
    }
}
