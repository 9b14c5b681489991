use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use kindling_kernels as kernels;

/// Scales all gradients so that their norm, taken together, is at most `limit`.
///
/// This is PyTorch's `clip_grad_norm_`; Burn's own clipping takes the norm of each tensor by itself. The norm stays
/// on the device: nothing is read back.
#[must_use]
pub fn clip_by_global_norm<M: Module>(module: &M, mut gradients: GradientsParams, limit: f64) -> GradientsParams {
    let mut squares = SumOfSquares { gradients: &gradients, sum: None };
    module.visit(&mut squares);
    let Some(sum) = squares.sum else { return gradients };
    let scale = (sum.sqrt() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0); // [1]
    let mut scaling = Scaling { gradients: &mut gradients, scale };
    module.visit(&mut scaling);
    gradients
}

struct SumOfSquares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = kernels::sum_of_squares(gradient);
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scaling<'a> {
    gradients: &'a mut GradientsParams,
    scale: Tensor<1>,
}

impl ModuleVisitor for Scaling<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, kernels::scaled(gradient, self.scale.clone()));
        }
    }
}
