//! Cross entropy.

use super::{Numbers, check_elements, doubles};
use crate::cpu::{Level, cross_entropy};

/// The losses and the gradient of the logits.
pub(super) fn plain_cross_entropy(
    logits: &[f64],
    targets: &[usize],
    smoothing: f64,
    dlosses: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let classes = logits.len() / targets.len();
    let (mut losses, mut dlogits) = (Vec::new(), Vec::new());
    for ((logits, &target), dloss) in logits.chunks_exact(classes).zip(targets).zip(dlosses) {
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let mean = logits.iter().sum::<f64>() / classes as f64;
        losses.push((1.0 - smoothing) * (log_sum - logits[target]) + smoothing * (log_sum - mean));
        for (class, logit) in logits.iter().enumerate() {
            let wanted = smoothing / classes as f64 + if class == target { 1.0 - smoothing } else { 0.0 };
            dlogits.push(dloss * ((logit - log_sum).exp() - wanted));
        }
    }
    (losses, dlogits)
}

/// Logits between -5 and 5, targets, and gradients of the losses.
pub(super) fn cross_entropy_case(batch: usize, classes: usize) -> (Vec<f32>, Vec<usize>, Vec<f32>) {
    let mut numbers = Numbers(4);
    let logits = numbers.reals(batch * classes).iter().map(|&real| 5.0 * real).collect();
    let targets = (0..batch).map(|_| (numbers.draw() % classes as u64) as usize).collect();
    (logits, targets, numbers.reals(batch))
}

/// The losses are below 14, and an f32 of that size is rounded by 1e-6 at most, a few times.
pub(super) const CROSS_ENTROPY_CLOSE: f64 = 1e-5;

#[test]
fn a_cross_entropy_is_that_of_plain_loops() {
    for (batch, classes) in [(1, 1), (300, 10), (129, 37)] {
        let (logits, targets, dlosses) = cross_entropy_case(batch, classes);
        for smoothing in [0.0_f32, 0.1] {
            let (losses, dlogits) =
                plain_cross_entropy(&doubles(&logits), &targets, f64::from(smoothing), &doubles(&dlosses));
            for level in Level::available() {
                let (found, saved) = cross_entropy::forward(level, &logits, targets.clone(), smoothing);
                check_elements(&format!("losses, {level}"), &found, &losses, |_| CROSS_ENTROPY_CLOSE);
                let found = cross_entropy::backward(level, &saved, &dlosses);
                check_elements(&format!("dlogits, {level}"), &found, &dlogits, |_| CROSS_ENTROPY_CLOSE);
            }
        }
    }
}

#[test]
fn a_class_that_is_ruled_out_does_not_count() {
    for level in Level::available() {
        let (losses, saved) = cross_entropy::forward(level, &[2.0, f32::NEG_INFINITY], vec![0], 0.0);
        assert_eq!(losses, [0.0]);
        assert_eq!(cross_entropy::backward(level, &saved, &[1.0]), [0.0, 0.0]);
    }
}
