//! The step of stochastic gradient descent.

use super::{Level, output::Output, output::Target, parallel};

/// Elements in a task: few enough to share, and many enough to be worth it.
const BLOCK: usize = 1 << 15;

/// `parameters -= rate * gradient`
pub(crate) fn in_place(level: Level, parameters: &mut [f32], gradient: &[f32], rate: f32) {
    assert_eq!(parameters.len(), gradient.len());
    let target = Target::of(parameters);
    parallel::for_each(gradient.len().div_ceil(BLOCK), |block| {
        let gradient = &gradient[block * BLOCK..gradient.len().min((block + 1) * BLOCK)];
        // SAFETY: each task has a block of its own.
        let parameters = unsafe { target.slice(block * BLOCK, gradient.len()) };
        level.vectorize(
            #[inline(always)]
            || {
                for (parameter, gradient) in parameters.iter_mut().zip(gradient) {
                    *parameter -= rate * gradient;
                }
            },
        );
    });
}

/// `parameters - rate * gradient`
pub(crate) fn apart(level: Level, parameters: &[f32], gradient: &[f32], rate: f32) -> Vec<f32> {
    assert_eq!(parameters.len(), gradient.len());
    let mut output = Output::new(parameters.len());
    let target = output.target();
    parallel::for_each(gradient.len().div_ceil(BLOCK), |block| {
        let range = block * BLOCK..gradient.len().min((block + 1) * BLOCK);
        let (parameters, gradient) = (&parameters[range.clone()], &gradient[range]);
        level.vectorize(
            #[inline(always)]
            || {
                for (index, (parameter, gradient)) in parameters.iter().zip(gradient).enumerate() {
                    // SAFETY: each task has a block of its own.
                    unsafe { target.set(block * BLOCK + index, parameter - rate * gradient) };
                }
            },
        );
    });
    // SAFETY: the tasks have written every block.
    unsafe { output.finish() }
}
