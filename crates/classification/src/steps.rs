//! Burn's optimizers in one pass over the weights, with states whose records are those of Burn's.

use burn::{
    optim::{AdamWState, AdaptiveMomentumState, Optimizer, RecordState, SgdState, StateSink, StateSource, join_path},
    tensor::{Device, Tensor},
};
use kindling_config::MuonScaling;
use kindling_kernels::{self as kernels, AdamStep, MomentumStep, MuonStep, WeightDecay};

/// Stochastic gradient descent without momentum: Burn's `Sgd`.
#[derive(Clone, Debug)]
pub(crate) struct Sgd {
    pub(crate) weight_decay: f64,
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        _state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let weights = kernels::decayed_sgd_step(weights, gradient, rate, self.weight_decay);
        (weights, Some(SgdState::new(None)))
    }

    fn to_device<const D: usize>(state: Self::State<D>, _device: &Device) -> Self::State<D> {
        state
    }
}

/// Stochastic gradient descent with momentum: Burn's `Sgd` without dampening.
#[derive(Clone, Debug)]
#[allow(clippy::struct_field_names)] // Its name in formulas and papers.
pub(crate) struct Momentum {
    pub(crate) momentum: f64,
    pub(crate) nesterov: bool,
    pub(crate) weight_decay: f64,
}

impl Optimizer for Momentum {
    type State<const D: usize> = Velocity<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let velocity = state.map_or_else(|| gradient.zeros_like(), |state| state.0);
        let Self { momentum, nesterov, weight_decay } = *self;
        let step = MomentumStep { rate, momentum, nesterov, weight_decay };
        let (weights, velocity) = kernels::momentum_step(weights, gradient, velocity, step);
        (weights, Some(Velocity(velocity)))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        Velocity(state.0.to_device(device))
    }
}

/// Adam, and with decoupled weight decay AdamW.
#[derive(Clone, Debug)]
pub(crate) struct Adam {
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: WeightDecay,
}

impl Optimizer for Adam {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (time, moments) = match state.map(|state| state.momentum) {
            Some(AdaptiveMomentumState { time, moment_1, moment_2, .. }) => (time + 1, [moment_1, moment_2]),
            None => (1, [gradient.zeros_like(), gradient.zeros_like()]),
        };
        // Burn holds these as f32.
        let [beta_1, beta_2, epsilon] = [self.betas[0], self.betas[1], self.epsilon].map(|number| number as f32);
        let step = AdamStep { rate, beta_1, beta_2, epsilon, weight_decay: self.weight_decay, time };
        let (weights, [moment_1, moment_2]) = kernels::adam_step(weights, gradient, moments, step);
        (weights, Some(AdamWState::new(AdaptiveMomentumState::new(time, moment_1, moment_2))))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// Muon, for matrices `[inputs, outputs]`, as Burn keeps linear weights, and filters `[outputs, inputs, height, width]`,
/// which are taken as matrices `[outputs, inputs * height * width]`.
#[derive(Clone, Debug)]
pub(crate) struct Muon {
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) scaling: MuonScaling,
    /// Whether parameters are brought to the norm √outputs before each step.
    pub(crate) normalized: bool,
}

impl Muon {
    /// The step of a parameter of this shape, and the matrix that it is taken as.
    fn of(&self, rate: f64, shape: &[usize]) -> (MuonStep, [usize; 2]) {
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        let (inputs, outputs) = if shape.len() == 2 { (rows, columns) } else { (columns, rows) };
        let scaled_rate = match self.scaling {
            MuonScaling::Moonshot => rate * 0.2 * (rows.max(columns) as f64).sqrt(),
            MuonScaling::Jordan => rate * (outputs as f64 / inputs as f64).max(1.0).sqrt(),
        };
        let (momentum, weight_decay) = (self.momentum, self.weight_decay);
        let norm = self.normalized.then(|| (outputs as f64).sqrt());
        (MuonStep { rate, scaled_rate, momentum, nesterov: true, weight_decay, norm }, [rows, columns])
    }
}

impl Optimizer for Muon {
    type State<const D: usize> = Velocity<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weights: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let velocity = state.map_or_else(|| gradient.zeros_like(), |state| state.0);
        let shape = weights.shape();
        let (step, matrix) = self.of(rate, &weights.dims());
        let [weights, gradient, velocity] = [weights, gradient, velocity].map(|tensor| tensor.reshape(matrix));
        let (weights, velocity) = kernels::muon_step(weights, gradient, velocity, step);
        (weights.reshape(shape.clone()), Some(Velocity(velocity.reshape(shape))))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        Velocity(state.0.to_device(device))
    }
}

/// The state of momentum, with the record of Burn's `SgdState` and `MuonState`.
#[derive(Clone, Debug)]
pub(crate) struct Velocity<const D: usize>(Tensor<D>);

impl<const D: usize> RecordState for Velocity<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(&join_path(prefix, "momentum"), "velocity", self.0.to_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let velocity = source.take_tensor(&join_path(prefix, "momentum"), "velocity")?;
        Some(Self(Tensor::from_data(velocity, device)))
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{Linear, LinearConfig},
        optim::{
            AdamConfig, AdamWConfig, AdjustLrFn, GradientsParams, ModuleOptimizer, MuonConfig, SgdConfig,
            decay::WeightDecayConfig, momentum::MomentumConfig,
        },
    };

    use super::*;

    /// Steps of a layer without bias, by gradients that differ.
    fn steps(optimizer: &mut ModuleOptimizer, mut layer: Linear, times: std::ops::Range<i64>) -> Linear {
        for time in times {
            let inner = layer.weight.val().inner();
            let numbers = Tensor::arange(time..time + 28, &inner.device()).float().square().sin();
            let mut gradients = GradientsParams::new();
            gradients.register(layer.weight.id, numbers.reshape([7, 4]));
            layer = optimizer.step(0.1, layer, gradients);
        }
        layer
    }

    fn muon(weight_decay: f64) -> Muon {
        Muon { momentum: 0.95, weight_decay, scaling: MuonScaling::Moonshot, normalized: false }
    }

    fn weights(layer: &Linear) -> Vec<f32> {
        layer.weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn records_of_burns_optimizers_continue_here_and_the_other_way() {
        let momentum = |momentum, nesterov| MomentumConfig { momentum, dampening: 0.0, nesterov };
        let decay = Some(WeightDecayConfig::new(0.05));
        let adam = |weight_decay| Adam { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay };
        let pairs: [(ModuleOptimizer, ModuleOptimizer); 5] = [
            (SgdConfig::new().with_weight_decay(decay.clone()).init(), Sgd { weight_decay: 0.05 }.into()),
            (
                SgdConfig::new().with_weight_decay(decay.clone()).with_momentum(Some(momentum(0.9, false))).init(),
                Momentum { momentum: 0.9, nesterov: false, weight_decay: 0.05 }.into(),
            ),
            (
                AdamConfig::new().with_epsilon(1e-8).with_weight_decay(decay.clone()).init(),
                adam(WeightDecay::Added(0.05)).into(),
            ),
            (
                AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.05).init(),
                adam(WeightDecay::Decoupled(0.05)).into(),
            ),
            (
                MuonConfig::new()
                    .with_weight_decay(decay)
                    .with_momentum(momentum(0.95, true))
                    .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                    .init(),
                muon(0.05).into(),
            ),
        ];
        let layer = LinearConfig::new(7, 4).with_bias(false).init(&Device::flex().autodiff());
        for (burns, ours) in pairs {
            let expected = weights(&steps(&mut burns.clone(), layer.clone(), 0..5));
            for (mut first, second) in [(burns.clone(), ours.clone()), (ours.clone(), burns), (ours.clone(), ours)] {
                let between = steps(&mut first, layer.clone(), 0..3);
                let mut second = second.from_bytes(first.into_bytes().unwrap()).unwrap();
                let found = weights(&steps(&mut second, between, 3..5));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_rate_of_zero_moves_nothing() {
        let layer = LinearConfig::new(7, 4).with_bias(false).init(&Device::flex().autodiff());
        let optimizers: [ModuleOptimizer; 4] = [
            Sgd { weight_decay: 0.1 }.into(),
            Momentum { momentum: 0.9, nesterov: true, weight_decay: 0.1 }.into(),
            Adam { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: WeightDecay::Decoupled(0.1) }.into(),
            muon(0.1).into(),
        ];
        for mut optimizer in optimizers {
            let mut gradients = GradientsParams::new();
            gradients.register(layer.weight.id, Tensor::<2>::ones([7, 4], &Device::flex()));
            let moved = optimizer.step(0.0, layer.clone(), gradients);
            assert_eq!(weights(&moved), weights(&layer));
        }
    }
}
