//! What training minimizes: cross entropy with label smoothing, class weights and mixed targets.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, activation::log_softmax};
use kindling_data::Mixed;
use kindling_kernels as kernels;

/// The cross entropy of each image, in nats and in f32: with smoothing `s`, `(1 - s)` of it against the target and `s`
/// against the uniform distribution, as PyTorch's `cross_entropy` has it.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - targets: `[batch]`
/// - output: `[batch]`
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, label_smoothing: f64) -> Tensor<1> {
    // In f32 whatever the network computes in: half a type's range is soon too little for sums of exponentials.
    kernels::cross_entropy(logits.cast(FloatDType::F32), targets, label_smoothing)
}

/// What the losses of a batch's images come to.
pub(crate) struct BatchLoss {
    /// `[1]`, to be minimized.
    pub(crate) mean: Tensor<1>,
    /// `[1]`: the same times the number of images.
    pub(crate) sum: Tensor<1>,
}

/// The loss of a batch, as PyTorch's `CrossEntropyLoss(weight, label_smoothing)` has it.
///
/// With class weights `w`, smoothing `s` and `p = softmax(logits)`, an image of class `t` has the loss `-(1 - s) w[t]
/// ln p[t] - s / classes Σ w[c] ln p[c]`, and the mean is the sum of these over the sum of `w[t]`; a batch whose images
/// all have weight 0 is divided by their number. An image that is mixed with another has `1 - share` of the loss and
/// weight of its own class and `share` of those of the other's.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - targets: `[batch]`
pub(crate) fn batch_loss(
    logits: &Tensor<2>,
    targets: &Tensor<1, Int>,
    mixed: Option<&Mixed>,
    label_smoothing: f64,
    class_weights: Option<&[f64]>,
) -> BatchLoss {
    let class_weights = class_weights.map(|weights| on_device(weights, &logits.device())); // [classes]
    let losses = |targets: &Tensor<1, Int>| weighted(logits, targets, label_smoothing, class_weights.as_ref());
    let (mut own, mut weights) = losses(targets); // [batch]
    if let Some(Mixed { targets: other, share }) = mixed {
        let share = share.clone().cast(FloatDType::F32);
        let blend = |own: Tensor<1>, other| own * (1.0 - share.clone()) + other * share.clone();
        let (other, other_weights) = losses(other);
        own = blend(own, other);
        weights = weights.zip(other_weights).map(|(own, other)| blend(own, other));
    }
    let Some(weights) = weights else { return BatchLoss { mean: own.clone().mean(), sum: own.sum() } };
    let images = targets.dims()[0] as f64;
    let total = weights.sum(); // [1]
    let total = total.clone().mask_fill(total.equal_elem(0.0), images);
    let mean = own.sum() / total; // [1]
    BatchLoss { mean: mean.clone(), sum: mean * images }
}

/// The loss of each image times its weight, and these weights where there are any: `[batch]` both.
fn weighted(
    logits: &Tensor<2>,
    targets: &Tensor<1, Int>,
    smoothing: f64,
    class_weights: Option<&Tensor<1>>,
) -> (Tensor<1>, Option<Tensor<1>>) {
    let Some(class_weights) = class_weights else {
        return (cross_entropy(logits.clone(), targets.clone(), smoothing), None);
    };
    let weights = class_weights.clone().select(0, targets.clone()); // [batch]
    let mut losses = cross_entropy(logits.clone(), targets.clone(), 0.0) * weights.clone(); // [batch]
    if smoothing > 0.0 {
        let classes = logits.dims()[1] as f64;
        let all = log_softmax(logits.clone().cast(FloatDType::F32), 1) * class_weights.clone().unsqueeze::<2>();
        let all = all.sum_dim(1).squeeze_dim::<1>(1); // [batch]
        losses = losses * (1.0 - smoothing) - all * (smoothing / classes);
    }
    (losses, Some(weights))
}

/// In f32 whatever the device's own precision is.
fn on_device(weights: &[f64], device: &Device) -> Tensor<1> {
    let weights: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
    let count = weights.len();
    Tensor::from_data(TensorData::new(weights, [count]), (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [[f64; 3]; 4] = [[2.0, -1.0, 0.5], [0.25, 1.5, -0.75], [-1.25, 0.0, 3.0], [0.5, 0.5, 0.5]];
    const TARGETS: [usize; 4] = [0, 1, 1, 2];
    const OTHERS: [usize; 4] = [2, 1, 0, 0];
    const SHARES: [f64; 4] = [0.25, 0.5, 0.0, 0.75];
    const WEIGHTS: [f64; 3] = [0.5, 2.0, 1.25];

    /// The loss by its definition, in f64.
    fn expected(logits: &[[f64; 3]; 4], smoothing: f64, weights: Option<[f64; 3]>, is_mixed: bool) -> f64 {
        let w = weights.unwrap_or([1.0; 3]);
        let (mut sum, mut total) = (0.0, 0.0);
        for (image, row) in logits.iter().enumerate() {
            let exponentials: f64 = row.iter().map(|logit| logit.exp()).sum();
            let minus_log = |class: usize| exponentials.ln() - row[class];
            let loss = |target: usize| {
                let all: f64 = (0..3).map(|class| w[class] * minus_log(class)).sum();
                (1.0 - smoothing) * w[target] * minus_log(target) + smoothing / 3.0 * all
            };
            let share = if is_mixed { SHARES[image] } else { 0.0 };
            sum += (1.0 - share) * loss(TARGETS[image]) + share * loss(OTHERS[image]);
            total += (1.0 - share) * w[TARGETS[image]] + share * w[OTHERS[image]];
        }
        sum / total
    }

    fn int(values: [usize; 4], device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::from(values.map(|value| value as i32)), device)
    }

    /// The mean loss, its sum over the images, and the gradient of the mean.
    fn found(smoothing: f64, weights: Option<[f64; 3]>, is_mixed: bool) -> (f64, f64, Vec<f64>) {
        let device = Device::flex().autodiff();
        let logits = Tensor::<2>::from_data(TensorData::from(LOGITS), &device).require_grad();
        let share = Tensor::from_data(TensorData::from(SHARES), &device);
        let mixed = is_mixed.then(|| Mixed { targets: int(OTHERS, &device), share });
        let weights = weights.as_ref().map(|weights| &weights[..]);
        let loss = batch_loss(&logits, &int(TARGETS, &device), mixed.as_ref(), smoothing, weights);
        let gradient = logits.grad(&loss.mean.backward()).unwrap().into_data().iter::<f64>().collect();
        let [mean, sum] = [loss.mean, loss.sum].map(|loss| loss.into_data().iter::<f64>().sum::<f64>());
        (mean, sum, gradient)
    }

    #[test]
    fn weights_smoothing_and_mixed_targets_give_the_loss_and_the_slopes_of_the_definition() {
        for smoothing in [0.0, 0.1, 0.75] {
            for weights in [None, Some(WEIGHTS), Some([0.0, 1.0, 0.0])] {
                for is_mixed in [false, true] {
                    let of = |logits: &_| expected(logits, smoothing, weights, is_mixed);
                    let (mean, sum, gradient) = found(smoothing, weights, is_mixed);
                    // A few roundings in f32 of numbers up to 4.
                    assert!((mean - of(&LOGITS)).abs() < 1e-6, "{smoothing}, {weights:?}, {is_mixed}: {mean}");
                    assert!((sum - 4.0 * mean).abs() < 1e-5);
                    for (index, found) in gradient.iter().enumerate() {
                        let moved = |by: f64| {
                            let mut logits = LOGITS;
                            logits[index / 3][index % 3] += by;
                            of(&logits)
                        };
                        // Central differences in f64 are right to 1e-9 here, gradients in f32 to a few 1e-8.
                        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                        assert!((found - slope).abs() < 1e-6, "{index}: {found}, by differences {slope}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_weighted_loss_is_pytorchs() {
        // weight = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64); logits likewise, as above
        // torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=s)(logits, torch.tensor([0, 1, 1, 2]))
        // torch 2.9.0
        for (smoothing, loss) in [(0.0, 1.439_901_467_885_837_5), (0.1, 1.446_259_432_711_352)] {
            // A few roundings in f64, in another order.
            assert!((expected(&LOGITS, smoothing, Some(WEIGHTS), false) - loss).abs() < 1e-14, "{smoothing}");
        }
    }

    #[test]
    fn a_batch_without_any_weight_has_a_loss_of_zero_and_no_gradient() {
        let device = Device::flex().autodiff();
        let logits = Tensor::<2>::from_data(TensorData::from(LOGITS), &device).require_grad();
        let loss = batch_loss(&logits, &int([0, 0, 2, 2], &device), None, 0.0, Some(&[0.0, 1.0, 0.0]));
        let gradient = logits.grad(&loss.mean.backward()).unwrap();
        assert_eq!(loss.mean.into_data().iter::<f64>().collect::<Vec<_>>(), [0.0]);
        assert!(gradient.into_data().iter::<f64>().all(|slope| slope == 0.0));
    }
}
