use burn::{
    optim::{Optimizer, SgdState},
    tensor::{Device, Tensor},
};
use kindling_kernels as kernels;

/// Plain stochastic gradient descent: Burn's `Sgd` without its options, in one pass over the weights.
///
/// Its state is the empty one of `Sgd`, so that checkpoints of both are the same.
#[derive(Clone, Debug)]
pub(crate) struct SgdStep;

impl Optimizer for SgdStep {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        _state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        (kernels::sgd_step(weights, gradient, rate), Some(SgdState::new(None)))
    }

    fn to_device<const D: usize>(state: Self::State<D>, _device: &Device) -> Self::State<D> {
        state
    }
}
