//! Steps of optimizers and sums over gradients, each in one pass over its arrays.

use std::ops::Range;

use super::{Level, output::Target, parallel};

/// Elements in a task: few enough to share, and many enough to be worth it. Sums are taken in parts of as many.
const BLOCK: usize = 1 << 14;

/// Runs `work` for the ranges that make up `length` elements.
fn in_blocks(length: usize, work: impl Fn(Range<usize>) + Sync) {
    parallel::for_each(length.div_ceil(BLOCK), |block| work(block * BLOCK..length.min((block + 1) * BLOCK)));
}

/// A block of an array.
///
/// # Safety
/// Nobody else uses the block meanwhile.
unsafe fn block<'a>(target: Target<'a>, range: &Range<usize>) -> &'a mut [f32] {
    // SAFETY: the caller's promise, and the arrays here have values.
    unsafe { target.slice(range.start, range.len()) }
}

/// `parameters -= rate * (gradient + decay * parameters)`
pub(crate) fn sgd(level: Level, parameters: &mut [f32], gradient: &[f32], rate: f32, decay: f32) {
    assert_eq!(parameters.len(), gradient.len());
    let target = Target::of(parameters);
    in_blocks(gradient.len(), |range| {
        // SAFETY: each task has a block of its own.
        let (parameters, gradient) = (unsafe { block(target, &range) }, &gradient[range]);
        level.vectorize(
            #[inline(always)]
            || {
                for (parameter, gradient) in parameters.iter_mut().zip(gradient) {
                    *parameter -= rate * decayed(*parameter, *gradient, decay);
                }
            },
        );
    });
}

/// A gradient with that of the weight decay, which without one does not depend on the parameter.
#[inline(always)]
fn decayed(parameter: f32, gradient: f32, decay: f32) -> f32 {
    if decay == 0.0 { gradient } else { parameter * decay + gradient }
}

/// Constants of [`momentum`].
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names)] // Its name in formulas and papers.
pub(crate) struct Momentum {
    pub(crate) rate: f32,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
    /// Times the parameters, added to the gradient.
    pub(crate) decay: f32,
}

/// `velocity = momentum * velocity + g`, then `parameters -= rate * velocity`, or with Nesterov's momentum
/// `rate * (momentum * velocity + g)`, where `g` is the gradient with its weight decay.
pub(crate) fn momentum(level: Level, parameters: &mut [f32], gradient: &[f32], velocity: &mut [f32], it: Momentum) {
    assert_eq!([parameters.len(), velocity.len()], [gradient.len(); 2]);
    let (parameters, velocity) = (Target::of(parameters), Target::of(velocity));
    in_blocks(gradient.len(), |range| {
        // SAFETY: each task has a block of its own.
        let (parameters, velocity) = unsafe { (block(parameters, &range), block(velocity, &range)) };
        let gradient = &gradient[range];
        level.vectorize(
            #[inline(always)]
            || {
                for ((parameter, velocity), gradient) in parameters.iter_mut().zip(&mut *velocity).zip(gradient) {
                    let gradient = decayed(*parameter, *gradient, it.decay);
                    *velocity = gradient + *velocity * it.momentum;
                    let update = if it.nesterov { *velocity * it.momentum + gradient } else { *velocity };
                    *parameter -= update * it.rate;
                }
            },
        );
    });
}

/// Constants of [`adam`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    pub(crate) beta_1: f32,
    pub(crate) beta_2: f32,
    /// What is added to the root, times the correction of the second moment.
    pub(crate) epsilon: f32,
    /// The learning rate, with the corrections of both moments.
    pub(crate) rate: f32,
    /// Times the parameters, added to the gradient.
    pub(crate) decay: f32,
    /// By which the parameters are multiplied before the step.
    pub(crate) kept: f32,
}

/// `moment_1 = beta_1 * moment_1 + (1 - beta_1) * g`, `moment_2 = beta_2 * moment_2 + (1 - beta_2) * g²`, then
/// `parameters = kept * parameters - rate * moment_1 / (√moment_2 + epsilon)`, where `g` is the gradient with its added
/// weight decay.
pub(crate) fn adam(level: Level, parameters: &mut [f32], gradient: &[f32], moments: [&mut [f32]; 2], it: Adam) {
    let [moment_1, moment_2] = moments;
    assert_eq!([parameters.len(), moment_1.len(), moment_2.len()], [gradient.len(); 3]);
    let [parameters, moment_1, moment_2] = [parameters, moment_1, moment_2].map(Target::of);
    let (share_1, share_2) = (1.0 - it.beta_1, 1.0 - it.beta_2);
    in_blocks(gradient.len(), |range| {
        // SAFETY: each task has a block of its own.
        let (parameters, moment_1, moment_2) =
            unsafe { (block(parameters, &range), block(moment_1, &range), block(moment_2, &range)) };
        let gradient = &gradient[range];
        level.vectorize(
            #[inline(always)]
            || {
                let moments = moment_1.iter_mut().zip(&mut *moment_2);
                for ((parameter, gradient), (moment_1, moment_2)) in parameters.iter_mut().zip(gradient).zip(moments) {
                    let gradient = decayed(*parameter, *gradient, it.decay);
                    *moment_1 = *moment_1 * it.beta_1 + gradient * share_1;
                    *moment_2 = *moment_2 * it.beta_2 + gradient * gradient * share_2;
                    *parameter = *parameter * it.kept - *moment_1 * it.rate / (moment_2.sqrt() + it.epsilon);
                }
            },
        );
    });
}

/// `average = decay * average + (1 - decay) * values`
pub(crate) fn average(level: Level, average: &mut [f32], values: &[f32], decay: f64) {
    assert_eq!(average.len(), values.len());
    let target = Target::of(average);
    let (decay, share) = (decay as f32, (1.0 - decay) as f32);
    in_blocks(values.len(), |range| {
        // SAFETY: each task has a block of its own.
        let (average, values) = (unsafe { block(target, &range) }, &values[range]);
        level.vectorize(
            #[inline(always)]
            || {
                for (average, value) in average.iter_mut().zip(values) {
                    *average = *average * decay + value * share;
                }
            },
        );
    });
}

/// `values *= factor`
pub(crate) fn scale(level: Level, values: &mut [f32], factor: f32) {
    let (length, target) = (values.len(), Target::of(values));
    in_blocks(length, |range| {
        // SAFETY: each task has a block of its own.
        let values = unsafe { block(target, &range) };
        level.vectorize(
            #[inline(always)]
            || values.iter_mut().for_each(|value| *value *= factor),
        );
    });
}

/// The sum of the squares, with the same bits at every level.
pub(crate) fn sum_of_squares(level: Level, values: &[f32]) -> f32 {
    /// Sums beside one another, for vectors.
    const LANES: usize = 32;
    let mut parts = vec![0.0; values.len().div_ceil(BLOCK)];
    let target = Target::of(&mut parts);
    in_blocks(values.len(), |range| {
        let mut sums = [0.0_f64; LANES];
        level.vectorize(
            #[inline(always)]
            || {
                let (whole, rest) = values[range.clone()].as_chunks::<LANES>();
                for chunk in whole {
                    for (sum, value) in sums.iter_mut().zip(chunk) {
                        *sum += f64::from(*value) * f64::from(*value);
                    }
                }
                for (sum, value) in sums.iter_mut().zip(rest) {
                    *sum += f64::from(*value) * f64::from(*value);
                }
            },
        );
        // SAFETY: each task has a part of its own.
        unsafe { target.set(range.start / BLOCK, sums.iter().sum::<f64>() as f32) };
    });
    parts.into_iter().map(f64::from).sum::<f64>() as f32
}
