//! Steps of optimizers against Burn's.

use burn::{
    backend::Flex,
    optim::{
        AdamConfig, AdamWConfig, AdjustLrFn, MuonConfig, Optimizer, SgdConfig, decay::WeightDecayConfig,
        momentum::MomentumConfig,
    },
    tensor::{Device, FloatDType, Shape, Tensor, TensorData},
};
use proptest::prelude::*;

use super::{Numbers, check_distance, distance, floats, tensor};
use crate::{
    AdamStep, KernelOps, MomentumStep, MuonStep, WeightDecay,
    cpu::{Level, muon, steps},
    host::Host,
};

const RATE: f64 = 0.1;
/// Steps that are taken, with a gradient each.
const STEPS: usize = 4;
/// How far results of the same arithmetic may be apart: a few roundings of each of the steps.
const ROUNDING: f64 = 4e-6;

#[derive(Clone, Debug)]
struct Case {
    dims: [usize; 2],
    parameter: Vec<f32>,
    gradients: [Vec<f32>; STEPS],
}

impl Case {
    fn new(dims: [usize; 2], seed: u64) -> Self {
        let (mut numbers, count) = (Numbers(seed), dims[0] * dims[1]);
        Self { dims, parameter: numbers.reals(count), gradients: std::array::from_fn(|_| numbers.reals(count)) }
    }

    fn by_burn(&self, optimizer: &impl Optimizer) -> Vec<f32> {
        self.by_burn_from(optimizer, |parameter| parameter)
    }

    /// With something done to the parameter before each step.
    fn by_burn_from(&self, optimizer: &impl Optimizer, prepare: impl Fn(Tensor<2>) -> Tensor<2>) -> Vec<f32> {
        let mut parameter = tensor(&self.parameter, self.dims, &Device::flex());
        let mut state = None;
        for gradient in &self.gradients {
            parameter = prepare(parameter);
            let gradient = tensor(gradient, self.dims, &Device::flex());
            (parameter, state) = optimizer.step(RATE, parameter, gradient, state);
        }
        floats(parameter)
    }

    /// After the steps of a closure on the parameter, the gradient, two states that begin as zeros, and the step's
    /// number.
    fn by(&self, mut step: impl FnMut(&mut [f32], &[f32], [&mut [f32]; 2], usize)) -> Vec<f32> {
        let mut parameter = self.parameter.clone();
        let [mut first, mut second] = [vec![0.0; parameter.len()], vec![0.0; parameter.len()]];
        for (index, gradient) in self.gradients.iter().enumerate() {
            step(&mut parameter, gradient, [&mut first, &mut second], index + 1);
        }
        parameter
    }

    /// The same through tensors of a device.
    fn by_tensors(
        &self,
        device: &Device,
        mut step: impl FnMut(Tensor<2>, Tensor<2>, [Tensor<2>; 2], usize) -> (Tensor<2>, [Tensor<2>; 2]),
    ) -> Vec<f32> {
        let mut parameter = tensor(&self.parameter, self.dims, device);
        let mut states = [parameter.zeros_like(), parameter.zeros_like()];
        for (index, gradient) in self.gradients.iter().enumerate() {
            (parameter, states) = step(parameter, tensor(gradient, self.dims, device), states, index + 1);
        }
        floats(parameter)
    }
}

fn devices() -> Vec<Device> {
    vec![
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ]
}

fn check_rounding(what: &str, found: &[f32], expected: &[f32]) {
    let distance = distance(found, expected);
    assert!(distance <= ROUNDING, "{what} is {distance:e} from what is expected");
}

/// Sizes within a task and over several; not so small that all numbers may be close to zero.
fn sizes() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![3 => [3_usize..20, 3_usize..20], 1 => [100_usize..120, 300_usize..320]]
}

/// The step of Burn's Muon whose rate is scaled as `AdjustLrFn::MatchRmsAdamW` does.
fn muon_step(dims: [usize; 2], weight_decay: f64, norm: Option<f64>) -> MuonStep {
    let scaled_rate = RATE * 0.2 * (dims[0].max(dims[1]) as f64).sqrt();
    MuonStep { rate: RATE, scaled_rate, momentum: 0.95, nesterov: true, weight_decay, norm }
}

/// The parameter, of this Frobenius norm if there is one.
fn normalized(parameter: Tensor<2>, norm: Option<f64>) -> Tensor<2> {
    let Some(norm) = norm else { return parameter };
    let found = parameter.clone().square().sum().sqrt().reshape([1, 1]);
    parameter * norm / found
}

fn added(decay: f32) -> Option<WeightDecayConfig> {
    (decay > 0.0).then(|| WeightDecayConfig::new(decay))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn steps_of_sgd_are_burns(dims in sizes(), decayed: bool, seed: u64) {
        let (case, decay) = (Case::new(dims, seed), if decayed { 0.05 } else { 0.0 });
        let expected = case.by_burn(&SgdConfig::new().with_weight_decay(added(decay)).build());
        for level in Level::available() {
            let found = case.by(|parameter, gradient, _, _| steps::sgd(level, parameter, gradient, RATE as f32, decay));
            check_rounding(&level.to_string(), &found, &expected);
        }
        for device in devices() {
            let found = case.by_tensors(&device, |parameter, gradient, states, _| {
                (crate::decayed_sgd_step(parameter, gradient, RATE, decay.into()), states)
            });
            check_rounding("through tensors", &found, &expected);
        }
    }

    #[test]
    fn steps_with_momentum_are_burns(dims in sizes(), nesterov: bool, decayed: bool, seed: u64) {
        let (case, decay) = (Case::new(dims, seed), if decayed { 0.05 } else { 0.0 });
        let momentum = MomentumConfig { momentum: 0.9, dampening: 0.0, nesterov };
        let burns = SgdConfig::new().with_weight_decay(added(decay)).with_momentum(Some(momentum)).build();
        let expected = case.by_burn(&burns);
        let it = steps::Momentum { rate: RATE as f32, momentum: 0.9, nesterov, decay };
        for level in Level::available() {
            let found =
                case.by(|parameter, gradient, [velocity, _], _| steps::momentum(level, parameter, gradient, velocity, it));
            check_rounding(&level.to_string(), &found, &expected);
        }
        let step = MomentumStep { rate: RATE, momentum: 0.9, nesterov, weight_decay: decay.into() };
        for device in devices() {
            let found = case.by_tensors(&device, |parameter, gradient, [velocity, other], _| {
                let (parameter, velocity) = crate::momentum_step(parameter, gradient, velocity, step);
                (parameter, [velocity, other])
            });
            check_rounding("through tensors", &found, &expected);
        }
    }

    #[test]
    fn steps_of_adam_and_adamw_are_burns(dims in sizes(), decoupled: bool, decay in 0_u8..2, seed: u64) {
        let (case, decay) = (Case::new(dims, seed), f32::from(decay) * 0.05);
        let expected = if decoupled {
            case.by_burn(&AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay).build())
        } else {
            case.by_burn(&AdamConfig::new().with_epsilon(1e-8).with_weight_decay(added(decay)).build())
        };
        let weight_decay =
            if decoupled { WeightDecay::Decoupled(decay.into()) } else { WeightDecay::Added(decay.into()) };
        let step = |time| AdamStep { rate: RATE, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay, time };
        for level in Level::available() {
            let found = case.by(|parameter, gradient, moments, time| {
                steps::adam(level, parameter, gradient, moments, step(time).constants());
            });
            check_rounding(&level.to_string(), &found, &expected);
        }
        for device in devices() {
            let found = case.by_tensors(&device, |parameter, gradient, moments, time| {
                crate::adam_step(parameter, gradient, moments, step(time))
            });
            check_rounding("through tensors", &found, &expected);
        }
    }

    #[test]
    fn steps_of_muon_are_burns(
        // Square, wide and tall; within one panel of columns and over several; long enough for parts.
        dims in prop_oneof![[1_usize..40, 1_usize..40], [1_usize..20, 60_usize..300], [130_usize..700, 1_usize..50]],
        norm in prop_oneof![Just(None), Just(Some(3.0))],
        seed: u64,
    ) {
        let case = Case::new(dims, seed);
        let momentum = MomentumConfig { momentum: 0.95, dampening: 0.0, nesterov: true };
        let burns = MuonConfig::new()
            .with_weight_decay(added(0.05))
            .with_momentum(momentum)
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        let expected = case.by_burn_from(&burns, |parameter| normalized(parameter, norm));
        let step = muon_step(dims, 0.05, norm);
        for level in Level::available() {
            let found = case.by(|parameter, gradient, [velocity, _], _| {
                muon::step(level, dims, parameter, gradient, velocity, step.constants());
            });
            check_distance(&level.to_string(), &found, &expected);
        }
        for device in devices() {
            let found = case.by_tensors(&device, |parameter, gradient, [velocity, other], _| {
                let (parameter, velocity) = crate::muon_step(parameter, gradient, velocity, step);
                (parameter, [velocity, other])
            });
            check_distance("through tensors", &found, &expected);
        }
    }

    #[test]
    fn averages_sums_and_factors_are_those_of_their_formulas(dims in sizes(), seed: u64) {
        let case = Case::new(dims, seed);
        let (values, others) = (&case.parameter, &case.gradients[0]);
        let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        let averages: Vec<f32> = values.iter().zip(others).map(|(&old, &new)| old * 0.75 + new * 0.25).collect();
        let tenths: Vec<f32> = values.iter().map(|&value| value * 0.1).collect();
        for level in Level::available() {
            let sum = steps::sum_of_squares(level, values);
            assert!((f64::from(sum) / squares - 1.0).abs() <= ROUNDING, "{level}");
            let mut average = values.clone();
            steps::average(level, &mut average, others, 0.75);
            assert!(average == averages, "{level}");
            let mut scaled = values.clone();
            steps::scale(level, &mut scaled, 0.1);
            assert!(scaled == tenths, "{level}");
        }
        for device in devices() {
            let [tensor, other] = [values, others].map(|numbers| tensor(numbers, dims, &device));
            let sum = floats(crate::sum_of_squares(tensor.clone()))[0];
            assert!((f64::from(sum) / squares - 1.0).abs() <= ROUNDING);
            assert!(floats(crate::moving_average(tensor.clone(), other, 0.75)) == averages);
            let factor = Tensor::from_floats([0.1], &device);
            assert!(floats(crate::scaled(tensor.clone(), factor)) == tenths);
            assert!(floats(crate::scaled(tensor.clone(), Tensor::from_floats([1.0], &device))) == *values);
            assert!(floats(tensor) == *values, "a tensor that somebody holds changed");
        }
    }
}

/// A gradient as training has it: of rank 64, with singular values over three orders of magnitude.
fn long_gradient(rows: usize, columns: usize) -> Vec<f32> {
    let mut numbers = Numbers(19);
    let mut gradient = vec![0.0; rows * columns];
    for rank in 0..64 {
        let [left, right] = [rows, columns].map(|length| numbers.reals(length));
        let size = 0.9_f32.powi(rank);
        for (row, left) in gradient.chunks_exact_mut(columns).zip(&left) {
            row.iter_mut().zip(&right).for_each(|(sum, right)| *sum += size * left * right);
        }
    }
    gradient
}

#[test]
fn a_step_of_muon_is_burns_where_singular_values_are_far_apart() {
    let dims = [400, 96];
    let case = Case { gradients: std::array::from_fn(|_| long_gradient(400, 96)), ..Case::new(dims, 20) };
    let momentum = MomentumConfig { momentum: 0.95, dampening: 0.0, nesterov: true };
    let burns = MuonConfig::new().with_momentum(momentum).with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW).build();
    let expected = case.by_burn(&burns);
    let step = muon_step(dims, 0.0, None);
    for level in Level::available() {
        let found = case.by(|parameter, gradient, [velocity, _], _| {
            muon::step(level, dims, parameter, gradient, velocity, step.constants());
        });
        check_distance(&level.to_string(), &found, &expected);
    }
}

#[test]
fn muon_leaves_weights_without_a_gradient_and_passes_nan_on() {
    for level in Level::available() {
        let mut zeros = [0.0; 6];
        muon::step(level, [3, 2], &mut zeros, &[0.0; 6], &mut [0.0; 6], muon_step([3, 2], 0.0, Some(2.0)).constants());
        assert!(zeros.iter().all(|&zero| zero == 0.0), "{level}");
        for dims in [[40, 3], [3, 40], [6, 5]] {
            let it = muon_step(dims, 0.0, None).constants();
            let (mut parameter, mut velocity) = (vec![1.0; dims[0] * dims[1]], vec![0.0; dims[0] * dims[1]]);
            let mut gradient = velocity.clone();
            muon::step(level, dims, &mut parameter, &gradient, &mut velocity, it);
            assert!(parameter.iter().all(|&weight| weight == 1.0), "{level}: {dims:?}");
            gradient[1] = f32::NAN;
            muon::step(level, dims, &mut parameter, &gradient, &mut velocity, it);
            assert!(parameter.iter().all(|weight| weight.is_nan()), "{level}: {dims:?}");
        }
    }
}

#[test]
fn numbers_of_another_type_take_burns_own_steps() {
    let case = Case::new([5, 4], 21);
    let doubles = |numbers: &[f32]| tensor(numbers, case.dims, &Device::flex()).cast(FloatDType::F64);
    let burns = MuonConfig::new()
        .with_weight_decay(added(0.05))
        .with_momentum(MomentumConfig { momentum: 0.95, dampening: 0.0, nesterov: true })
        .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
        .build();
    let [parameter, gradient] = [&case.parameter, &case.gradients[0]].map(|numbers| doubles(numbers));
    // Burn holds the decay as f32, and sums of squares are f32.
    for (norm, tolerance) in [(None, 1e-9), (Some(3.0), 1e-6)] {
        let (expected, _) = burns.step(RATE, normalized(parameter.clone(), norm), gradient.clone(), None);
        let step = muon_step(case.dims, 0.05, norm);
        let (found, _) = crate::muon_step(parameter.clone(), gradient.clone(), parameter.zeros_like(), step);
        let [found, expected] = [found, expected].map(|tensor| tensor.into_data().try_to_vec::<f64>().unwrap());
        assert!(distance(&found, &expected) <= tolerance, "{norm:?}");
    }
}

#[test]
fn a_step_stays_in_the_memory_of_tensors_that_nobody_else_holds() {
    fn check<B: Host + KernelOps>() {
        let tensor =
            || B::float_from_data(TensorData::new(vec![1.0_f32; 99], Shape::new([33, 3])), &B::Device::default());
        let place = |tensor: &burn::backend::tensor::FloatTensor<B>| B::floats(tensor).unwrap().as_ptr();
        let [parameter, moment_1, moment_2] = [tensor(), tensor(), tensor()];
        let before = [&parameter, &moment_1, &moment_2].map(place);
        let weight_decay = WeightDecay::Decoupled(0.1);
        let step = AdamStep { rate: RATE, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay, time: 1 };
        let (parameter, moment_1, moment_2) = B::adam_step(parameter, tensor(), moment_1, moment_2, step);
        assert_eq!([&parameter, &moment_1, &moment_2].map(place), before);
        let before = [&parameter, &moment_1].map(place);
        // As filters come, which have four dimensions, and go.
        let matrix = |tensor| B::float_reshape(tensor, Shape::new([33, 3]));
        let filters = |tensor| B::float_reshape(tensor, Shape::new([33, 1, 3, 1]));
        let [parameter, velocity] = [parameter, moment_1].map(|tensor| matrix(filters(tensor)));
        let (parameter, velocity) = B::muon_step(parameter, tensor(), velocity, muon_step([33, 3], 0.0, Some(1.0)));
        assert_eq!([parameter, velocity].map(|tensor| place(&filters(tensor))), before);
    }
    check::<Flex>();
    #[cfg(feature = "ndarray")]
    check::<burn::backend::NdArray>();
}
