//! The cross entropy of a softmax.

use super::{
    Level,
    output::{Output, Target},
    parallel,
};

/// Rows in a task.
const ROWS: usize = 128;

/// What [`backward`] needs of forward.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// `[batch, classes]`
    log_probabilities: Vec<f32>,
    targets: Vec<usize>,
    smoothing: f32,
}

/// The losses, `[batch]`, of logits `[batch, classes]` and targets `[batch]`.
///
/// # Panics
/// When a target is no class.
pub(crate) fn forward(level: Level, logits: &[f32], targets: Vec<usize>, smoothing: f32) -> (Vec<f32>, Saved) {
    let classes = logits.len() / targets.len().max(1);
    assert_eq!(logits.len(), targets.len() * classes);
    if let Some(target) = targets.iter().find(|&&target| target >= classes) {
        panic!("a target is one of {classes} classes, found {target}");
    }
    let mut log_probabilities = Output::new(logits.len());
    let mut losses = vec![0.0; targets.len()];
    let (to, loss) = (log_probabilities.target(), Target::of(&mut losses));
    parallel::for_each(targets.len().div_ceil(ROWS), |block| {
        let rows = block * ROWS..targets.len().min((block + 1) * ROWS);
        level.vectorize(
            #[inline(always)]
            || {
                for row in rows.clone() {
                    let logits = &logits[row * classes..][..classes];
                    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
                    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
                    let log_sum = sum.ln();
                    let mut mean = 0.0;
                    for (class, logit) in logits.iter().enumerate() {
                        let log_probability = logit - largest - log_sum;
                        mean += log_probability;
                        // SAFETY: each task has rows of its own.
                        unsafe { to.set(row * classes + class, log_probability) };
                    }
                    let on_target = logits[targets[row]] - largest - log_sum;
                    // Where nothing is smoothed, an infinite loss elsewhere does not count.
                    let smoothed = if smoothing == 0.0 { 0.0 } else { smoothing * mean / classes as f32 };
                    // SAFETY: as above.
                    unsafe { loss.set(row, -((1.0 - smoothing) * on_target + smoothed)) };
                }
            },
        );
    });
    // SAFETY: the tasks have written every row.
    let log_probabilities = unsafe { log_probabilities.finish() };
    (losses, Saved { log_probabilities, targets, smoothing })
}

/// The gradient of the logits, `[batch, classes]`, for that of the losses, `[batch]`.
pub(crate) fn backward(level: Level, saved: &Saved, dlosses: &[f32]) -> Vec<f32> {
    let classes = saved.log_probabilities.len() / saved.targets.len().max(1);
    assert_eq!(dlosses.len(), saved.targets.len());
    let mut dlogits = Output::new(saved.log_probabilities.len());
    let to = dlogits.target();
    let share = saved.smoothing / classes as f32;
    parallel::for_each(dlosses.len().div_ceil(ROWS), |block| {
        let rows = block * ROWS..dlosses.len().min((block + 1) * ROWS);
        level.vectorize(
            #[inline(always)]
            || {
                for row in rows.clone() {
                    let log_probabilities = &saved.log_probabilities[row * classes..][..classes];
                    for (class, log_probability) in log_probabilities.iter().enumerate() {
                        let on_target = if class == saved.targets[row] { 1.0 - saved.smoothing } else { 0.0 };
                        let gradient = (log_probability.exp() - on_target - share) * dlosses[row];
                        // SAFETY: each task has rows of its own.
                        unsafe { to.set(row * classes + class, gradient) };
                    }
                }
            },
        );
    });
    // SAFETY: the tasks have written every row.
    unsafe { dlogits.finish() }
}
