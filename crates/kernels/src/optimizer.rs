//! Steps of optimizers and what goes with them: the functions, and the operations of Burn that they stand for.

use burn::{backend::Dispatch, tensor::Tensor};

use crate::{
    KernelOps,
    cpu::{muon, steps},
};

/// The hyperparameters of [`momentum_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MomentumStep {
    /// The learning rate.
    pub rate: f64,
    /// By which the velocity is multiplied.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Times the parameter, added to the gradient.
    pub weight_decay: f64,
}

/// The hyperparameters of [`adam_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// The learning rate.
    pub rate: f64,
    /// By which the mean of the gradients is multiplied.
    pub beta_1: f32,
    /// By which the mean of their squares is multiplied.
    pub beta_2: f32,
    /// What is added to the root of the corrected mean of squares.
    pub epsilon: f32,
    /// The weight decay.
    pub weight_decay: WeightDecay,
    /// Which step of this parameter it is, from 1 on.
    pub time: usize,
}

/// How [`adam_step`] decays weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightDecay {
    /// So many times the parameter is added to the gradient: Adam's.
    Added(f64),
    /// The parameter is multiplied by 1 minus the learning rate times so much: AdamW's.
    Decoupled(f64),
}

/// The hyperparameters of [`muon_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonStep {
    /// The learning rate.
    pub rate: f64,
    /// By which the orthogonal matrix is multiplied: the learning rate, scaled by the matrix's sizes.
    pub scaled_rate: f64,
    /// By which the velocity is multiplied.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Decoupled: the parameter is multiplied by 1 minus the learning rate times so much.
    pub weight_decay: f64,
    /// The Frobenius norm that the parameter is brought to before all else.
    pub norm: Option<f64>,
}

impl AdamStep {
    /// What bias correction divides the first and the second moment by.
    fn corrections(&self) -> [f32; 2] {
        [self.beta_1, self.beta_2].map(|beta| 1.0 - beta.powi(i32::try_from(self.time).unwrap_or(i32::MAX)))
    }

    /// The step on slices.
    pub(crate) fn constants(&self) -> steps::Adam {
        let [correction_1, correction_2] = self.corrections().map(f64::from);
        steps::Adam {
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: (f64::from(self.epsilon) * correction_2.sqrt()) as f32,
            rate: (self.rate * correction_2.sqrt() / correction_1) as f32,
            decay: if let WeightDecay::Added(decay) = self.weight_decay { decay as f32 } else { 0.0 },
            kept: self.kept() as f32,
        }
    }

    /// By which decoupled weight decay multiplies the parameter.
    fn kept(&self) -> f64 {
        match self.weight_decay {
            WeightDecay::Added(_) => 1.0,
            WeightDecay::Decoupled(decay) => 1.0 - self.rate * decay,
        }
    }
}

impl MuonStep {
    /// The step on slices.
    pub(crate) fn constants(&self) -> muon::Muon {
        muon::Muon {
            rate: self.scaled_rate as f32,
            momentum: self.momentum as f32,
            nesterov: self.nesterov,
            kept: self.kept() as f32,
            norm: self.norm.map(|norm| norm as f32),
        }
    }

    /// By which weight decay multiplies the parameter.
    fn kept(&self) -> f64 {
        1.0 - self.rate * self.weight_decay
    }
}

/// A step of gradient descent, `parameter - rate * gradient`, in the parameter's own memory if it is the only reference
/// to it.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn sgd_step<const D: usize>(parameter: Tensor<D>, gradient: Tensor<D>, rate: f64) -> Tensor<D> {
    decayed_sgd_step(parameter, gradient, rate, 0.0)
}

/// A step of gradient descent as [`sgd_step`], with `weight_decay` times the parameter added to the gradient.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn decayed_sgd_step<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    rate: f64,
    weight_decay: f64,
) -> Tensor<D> {
    check(&parameter, [&gradient]);
    Tensor::from_dispatch(Dispatch::sgd_step(parameter.into_dispatch(), gradient.into_dispatch(), rate, weight_decay))
}

/// A step of SGD with momentum, as Burn's `Sgd` and PyTorch's `SGD` have it: the parameter and its velocity, each in
/// its own memory if that is the only reference to it. The velocity is zero at first.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn momentum_step<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Tensor<D>,
    step: MomentumStep,
) -> (Tensor<D>, Tensor<D>) {
    check(&parameter, [&gradient, &velocity]);
    let (parameter, velocity) =
        Dispatch::momentum_step(parameter.into_dispatch(), gradient.into_dispatch(), velocity.into_dispatch(), step);
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(velocity))
}

/// A step of Adam or AdamW, as Burn's and PyTorch's: the parameter and its first and second moment, each in its own
/// memory if that is the only reference to it. The moments are zero at first.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn adam_step<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    [moment_1, moment_2]: [Tensor<D>; 2],
    step: AdamStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    check(&parameter, [&gradient, &moment_1, &moment_2]);
    let (parameter, moment_1, moment_2) = Dispatch::adam_step(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        moment_1.into_dispatch(),
        moment_2.into_dispatch(),
        step,
    );
    (Tensor::from_dispatch(parameter), [moment_1, moment_2].map(Tensor::from_dispatch))
}

/// A step of Muon, as Burn's and its author's: the parameter and its velocity, each in its own memory if that is the only
/// reference to it. The velocity is zero at first.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn muon_step(
    parameter: Tensor<2>,
    gradient: Tensor<2>,
    velocity: Tensor<2>,
    step: MuonStep,
) -> (Tensor<2>, Tensor<2>) {
    check(&parameter, [&gradient, &velocity]);
    let (parameter, velocity) =
        Dispatch::muon_step(parameter.into_dispatch(), gradient.into_dispatch(), velocity.into_dispatch(), step);
    (Tensor::from_dispatch(parameter), Tensor::from_dispatch(velocity))
}

/// A moving average after one more value, `decay * average + (1 - decay) * value`, in the average's own memory if it is
/// the only reference to it.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn moving_average<const D: usize>(average: Tensor<D>, value: Tensor<D>, decay: f64) -> Tensor<D> {
    assert_eq!(average.dims(), value.dims(), "an average has its values' shape");
    Tensor::from_dispatch(Dispatch::moving_average(average.into_dispatch(), value.into_dispatch(), decay))
}

/// The sum of the squares of all elements, `[1]`, in `f32`.
#[must_use]
pub fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_of_squares(tensor.into_dispatch()))
}

/// All elements times `factor`, `[1]`, in the tensor's own memory if it is the only reference to it.
#[must_use]
pub fn scaled<const D: usize>(tensor: Tensor<D>, factor: Tensor<1>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::scaled(tensor.into_dispatch(), factor.into_dispatch()))
}

fn check<const D: usize, const N: usize>(parameter: &Tensor<D>, others: [&Tensor<D>; N]) {
    for other in others {
        assert_eq!(parameter.dims(), other.dims(), "a gradient has its parameter's shape, and so has the state");
    }
}

/// The operations of Burn's optimizers, in their order.
pub(crate) mod composed {
    use burn::{
        backend::{Backend, TensorMetadata, tensor::FloatTensor},
        tensor::{FloatDType, Scalar, Shape},
    };

    use super::{AdamStep, MomentumStep, MuonStep, WeightDecay};
    use crate::cpu::muon::{COEFFICIENTS, EPSILON, ITERATIONS};

    fn times<B: Backend>(tensor: FloatTensor<B>, factor: impl Into<f64>) -> FloatTensor<B> {
        B::float_mul_scalar(tensor, Scalar::Float(factor.into()))
    }

    fn over<B: Backend>(tensor: FloatTensor<B>, divisor: impl Into<f64>) -> FloatTensor<B> {
        B::float_div_scalar(tensor, Scalar::Float(divisor.into()))
    }

    fn decayed<B: Backend>(parameter: &FloatTensor<B>, gradient: FloatTensor<B>, decay: f64) -> FloatTensor<B> {
        if decay == 0.0 {
            return gradient;
        }
        B::float_add(times::<B>(parameter.clone(), decay as f32), gradient)
    }

    pub(crate) fn sgd_step<B: Backend>(
        parameter: FloatTensor<B>,
        gradient: FloatTensor<B>,
        rate: f64,
        weight_decay: f64,
    ) -> FloatTensor<B> {
        let gradient = decayed::<B>(&parameter, gradient, weight_decay);
        B::float_sub(parameter, times::<B>(gradient, rate))
    }

    /// The update and the velocity.
    fn momentum<B: Backend>(
        gradient: FloatTensor<B>,
        velocity: FloatTensor<B>,
        momentum: f64,
        nesterov: bool,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let momentum = momentum as f32;
        let velocity = B::float_add(gradient.clone(), times::<B>(velocity, momentum));
        let update =
            if nesterov { B::float_add(times::<B>(velocity.clone(), momentum), gradient) } else { velocity.clone() };
        (update, velocity)
    }

    pub(crate) fn momentum_step<B: Backend>(
        parameter: FloatTensor<B>,
        gradient: FloatTensor<B>,
        velocity: FloatTensor<B>,
        step: MomentumStep,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let gradient = decayed::<B>(&parameter, gradient, step.weight_decay);
        let (update, velocity) = momentum::<B>(gradient, velocity, step.momentum, step.nesterov);
        (B::float_sub(parameter, times::<B>(update, step.rate)), velocity)
    }

    pub(crate) fn adam_step<B: Backend>(
        parameter: FloatTensor<B>,
        gradient: FloatTensor<B>,
        moment_1: FloatTensor<B>,
        moment_2: FloatTensor<B>,
        step: AdamStep,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let gradient = match step.weight_decay {
            WeightDecay::Added(decay) => decayed::<B>(&parameter, gradient, decay),
            WeightDecay::Decoupled(_) => gradient,
        };
        let square = B::float_mul(gradient.clone(), gradient.clone());
        let moment_1 = B::float_add(times::<B>(moment_1, step.beta_1), times::<B>(gradient, 1.0 - step.beta_1));
        let moment_2 = B::float_add(times::<B>(moment_2, step.beta_2), times::<B>(square, 1.0 - step.beta_2));
        let [correction_1, correction_2] = step.corrections();
        let (corrected, root, epsilon) = match step.weight_decay {
            WeightDecay::Added(_) => {
                let root = correction_2.sqrt();
                (
                    times::<B>(moment_1.clone(), root / correction_1),
                    B::float_sqrt(moment_2.clone()),
                    step.epsilon * root,
                )
            }
            WeightDecay::Decoupled(_) => (
                over::<B>(moment_1.clone(), correction_1),
                B::float_sqrt(over::<B>(moment_2.clone(), correction_2)),
                step.epsilon,
            ),
        };
        let update = B::float_div(corrected, B::float_add_scalar(root, Scalar::Float(epsilon.into())));
        let kept = step.kept();
        #[allow(clippy::float_cmp)] // Exactly 1 changes nothing.
        let parameter = if kept == 1.0 { parameter } else { times::<B>(parameter, kept) };
        (B::float_sub(parameter, times::<B>(update, step.rate)), moment_1, moment_2)
    }

    pub(crate) fn muon_step<B: Backend>(
        parameter: FloatTensor<B>,
        gradient: FloatTensor<B>,
        velocity: FloatTensor<B>,
        step: MuonStep,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (update, velocity) = momentum::<B>(gradient, velocity, step.momentum, step.nesterov);
        let update = times::<B>(orthogonal::<B>(update), step.scaled_rate);
        let parameter = if let Some(norm) = step.norm { normalized::<B>(parameter, norm) } else { parameter };
        let kept = step.kept();
        #[allow(clippy::float_cmp)] // Exactly 1 changes nothing.
        let parameter = if kept == 1.0 { parameter } else { times::<B>(parameter, kept) };
        (B::float_sub(parameter, update), velocity)
    }

    /// The parameter, of this Frobenius norm.
    fn normalized<B: Backend>(parameter: FloatTensor<B>, norm: f64) -> FloatTensor<B> {
        let found = B::float_sqrt(sum_of_squares::<B>(parameter.clone()));
        let factor = B::float_recip(B::float_clamp_min(found, Scalar::Float(EPSILON)));
        scaled::<B>(parameter, times::<B>(factor, norm))
    }

    fn orthogonal<B: Backend>(update: FloatTensor<B>) -> FloatTensor<B> {
        let is_tall = update.shape()[0] > update.shape()[1];
        let x = if is_tall { B::float_transpose(update) } else { update };
        let norm = B::float_sqrt(B::float_sum(B::float_mul(x.clone(), x.clone())));
        let norm = B::float_clamp_min(norm, Scalar::Float(EPSILON));
        let mut x = B::float_div(x, B::float_reshape(norm, Shape::new([1, 1])));
        let [a, b, c] = COEFFICIENTS;
        for _ in 0..ITERATIONS {
            let gram = B::float_matmul(x.clone(), B::float_transpose(x.clone()));
            let square = B::float_matmul(gram.clone(), gram.clone());
            let polynomial = B::float_add(times::<B>(gram, b), times::<B>(square, c));
            x = B::float_add(times::<B>(x.clone(), a), B::float_matmul(polynomial, x));
        }
        if is_tall { B::float_transpose(x) } else { x }
    }

    pub(crate) fn moving_average<B: Backend>(
        average: FloatTensor<B>,
        value: FloatTensor<B>,
        decay: f64,
    ) -> FloatTensor<B> {
        B::float_add(times::<B>(average, decay), times::<B>(value, 1.0 - decay))
    }

    pub(crate) fn sum_of_squares<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
        // A half type has neither the range nor the digits for a sum of squares.
        let tensor = B::float_cast(tensor, FloatDType::F32);
        B::float_sum(B::float_mul(tensor.clone(), tensor))
    }

    pub(crate) fn scaled<B: Backend>(tensor: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
        let factor = B::float_cast(factor, tensor.dtype().into());
        let factor = B::float_reshape(factor, Shape::from(vec![1; tensor.shape().num_dims()]));
        B::float_mul(tensor, factor)
    }
}
