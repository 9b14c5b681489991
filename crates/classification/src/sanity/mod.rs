//! What to check before a long training: Karpathy, "A Recipe for Training Neural Networks",
//! <http://karpathy.github.io/2019/04/25/recipe/>.

mod bench;
mod dead;
mod slopes;

use burn::module::Module;
use kindling_config::{Config, Precision};
use kindling_data::{ImageData, LabelProblem};
use kindling_models::{Network, NetworkConfig};
use kindling_training::{Order, named_parameters};

use self::bench::{Bench, first_batch};
pub use self::bench::{CheckDevice, CheckResult};
use crate::{ClassificationError, run::seeded, splits::train_order};

/// Steps within which one batch is overfitted.
const STEPS: usize = 300;
/// Steps of the training that is done twice.
const REPEATED: usize = 20;
/// How far its losses may be apart where the device does not repeat bits, as a share of them.
const NEAR: f64 = 1e-4;

type Check<C> = fn(&Bench<'_, C>) -> Result<CheckResult, ClassificationError>;

/// Checks `config` on `data`; each result is told as it is found.
///
/// Data that nothing can be learned from is the only result where it is found: every other check would blame the network
/// for it. Gradients are compared with slopes in f32 alone: a half type rounds the steps away that slopes are measured by.
///
/// # Errors
/// When the network cannot take the images, or the device fails.
pub(crate) fn sanity_checks<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    device: CheckDevice<'_>,
    on_check: &mut dyn FnMut(&CheckResult),
) -> Result<Vec<CheckResult>, ClassificationError> {
    let problems = data.label_problems();
    let result = labels(data, &problems);
    on_check(&result);
    let mut results = vec![result];
    if problems.iter().any(LabelProblem::prevents_learning) {
        return Ok(results);
    }
    let bench = Bench::new(network, config, data, device)?;
    let mut checks: Vec<Check<C>> = vec![initial_loss];
    if config.training.precision == Precision::F32 {
        checks.push(slopes::gradients_are_right);
    }
    checks.extend([dead::no_dead_layers as Check<C>, overfits_one_batch, evaluates_the_same_twice, same_result_twice]);
    for check in checks {
        let result = check(&bench)?;
        on_check(&result);
        results.push(result);
    }
    Ok(results)
}

/// Whether the labels can be learned from; `problems` are theirs.
fn labels(data: &ImageData, problems: &[LabelProblem]) -> CheckResult {
    let sentences: Vec<String> = problems.iter().map(ToString::to_string).collect();
    CheckResult {
        name: "data",
        passed: !problems.iter().any(LabelProblem::prevents_learning),
        wanted: "training images of at least two classes".to_owned(),
        found: if problems.is_empty() {
            format!("training images of all {} classes", data.classes.len())
        } else {
            sentences.join("; ")
        },
        advice: "the label files, and the list of class names",
    }
}

fn initial_loss<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let model = bench.model()?;
    let totals = bench.step(&model, bench.batch()?)?.sums.read()?;
    let (loss, wanted) = (totals.loss(), bench.chance_loss());
    // PyTorch's initial weights give logits with a standard deviation of up to 0.6, which adds half its square to the loss; a
    // network that is sure of itself without a reason is off by more. Each block of a residual network adds a branch that
    // batch norm gives a variance of 1, which the last layer's weights by He et al. double: its loss grows with its
    // depth, from 3.4 of resnet-20 to 7.0 of resnet-56 in ten classes, and falls within a few steps.
    let is_normalized = named_parameters(&model).iter().any(|parameter| parameter.kind == "BatchNorm");
    let most = if is_normalized { 4.0 } else { 1.25 };
    Ok(CheckResult {
        name: "loss before training",
        passed: loss > 0.75 * wanted && loss < most * wanted,
        wanted: format!(
            "near ln {} = {wanted:.3}, the loss of a uniform prediction{}",
            bench.data.classes.len(),
            if is_normalized {
                format!(", or below {:.3} behind sums of batch norms", most * wanted)
            } else {
                String::new()
            }
        ),
        found: format!("{loss:.3}"),
        advice: "the last layer's initial weights, or pixels far from [0, 1] (data.pixel_mean, data.pixel_std)",
    })
}

fn overfits_one_batch<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let enough = 0.05 * bench.chance_loss();
    let images = bench.plain.set().count();
    let mut is_overfitted = false;
    let batch = bench.batch()?;
    let losses = bench.train(std::iter::repeat_with(|| Ok(batch.clone())).take(STEPS), |totals| {
        is_overfitted = totals.loss() < enough && totals.sums[1] as usize == images;
        is_overfitted
    })?;
    let last = losses.last().copied().unwrap_or(f64::NAN);
    Ok(CheckResult {
        name: "overfits one batch",
        passed: is_overfitted,
        wanted: format!("a loss below {enough:.3} and all {images} images correct within {STEPS} steps"),
        found: format!(
            "a loss of {last:.3} after {} steps{}",
            losses.len(),
            if is_overfitted { format!(", all {images} correct") } else { String::new() }
        ),
        advice: "a learning rate that is too high or too low (the command `lr-find` finds one), or a network that is too small",
    })
}

fn evaluates_the_same_twice<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let device = bench.device.clone().inner();
    let network = bench.model()?.network.valid();
    let images = first_batch(&bench.plain, Order::File, 0, &device)?.images;
    let logits = |seed| {
        let logits = seeded(&device, seed, || network.forward(images.clone())); // [batch, classes]
        let logits = logits.try_into_data().map_err(ClassificationError::backend)?;
        Ok::<Vec<f64>, ClassificationError>(logits.iter().collect())
    };
    let (first, second) = (logits(1)?, logits(2)?);
    let apart = first.iter().zip(&second).filter(|(a, b)| a.to_bits() != b.to_bits()).map(|(a, b)| (a - b).abs());
    let apart = apart.max_by(f64::total_cmp).unwrap_or_default();
    let size = first.iter().fold(0.0_f64, |size, logit| size.max(logit.abs()));
    // Like `compare`, but a half type rounds what is added in another order to few digits.
    let allowed = if bench.repeats_bits { 0.0 } else { 0.01 * size };
    Ok(CheckResult {
        name: "evaluates the same twice",
        passed: apart <= allowed,
        wanted: "the same logits for the same images, however the device's generator is seeded".to_owned(),
        found: if apart == 0.0 { "equal to the bit".to_owned() } else { format!("logits up to {apart:.1e} apart") },
        advice: "a layer that draws in evaluation as well: one such as dropout must ask `x.device().is_autodiff()`",
    })
}

fn same_result_twice<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let losses = || {
        // As a training has them: in its order, with its augmentations.
        let order = train_order(&bench.config);
        bench.train((1..=REPEATED).map(|epoch| first_batch(&bench.augmented, order, epoch, &bench.device)), |_| false)
    };
    Ok(compare(&losses()?, &losses()?, bench.repeats_bits))
}

/// Whether the losses of a training done twice are the same: to the bit, or nearly where the device adds in any order.
fn compare(first: &[f64], second: &[f64], to_the_bit: bool) -> CheckResult {
    let pairs = || first.iter().zip(second);
    let is_long = first.len() == second.len();
    let is_same = is_long && pairs().all(|(a, b)| a.to_bits() == b.to_bits());
    let is_near = is_long && pairs().all(|(a, b)| a.to_bits() == b.to_bits() || (a - b).abs() <= NEAR * a.abs());
    CheckResult {
        name: "same result twice",
        passed: is_same || (!to_the_bit && is_near),
        wanted: if to_the_bit {
            format!("equal losses in {REPEATED} steps")
        } else {
            // GPUs add in the order in which their threads end.
            format!("losses within {NEAR:.0e} of one another in {REPEATED} steps")
        },
        found: if is_same {
            "equal to the bit".to_owned()
        } else if is_long {
            let different = pairs().filter(|(a, b)| a.to_bits() != b.to_bits());
            let off = different.map(|(a, b)| ((a - b) / a).abs()).max_by(f64::total_cmp).unwrap_or_default();
            format!("up to {off:.1e} apart")
        } else {
            format!("a loss that is not finite after {} steps, and after {}", first.len(), second.len())
        },
        advice: "something that is not decided by the seed",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    use burn::{
        nn::{Linear, LinearConfig},
        tensor::{Device, Tensor},
    };
    use kindling_data::synthetic;
    use kindling_models::{CnnConfig, ImageShape, MlpConfig, ModelError, ResnetConfig};
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    static SHAPES: LazyLock<ImageData> = LazyLock::new(synthetic::draw);

    fn failures(network: &impl NetworkConfig, config: Value) -> Vec<&'static str> {
        let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
        let results = sanity_checks(network, &fixtures::config(config), &SHAPES, device, &mut |_| {}).unwrap();
        assert_eq!(results.len(), 7);
        results.into_iter().filter(|result| !result.passed).map(|result| result.name).collect()
    }

    #[test]
    fn networks_with_their_defaults_pass() {
        let mlp = MlpConfig { hidden: vec![512; 2] };
        assert_eq!(failures(&mlp, json!({ "network": "mlp" })), [""; 0]);
        let cnn = CnnConfig { channels: vec![32, 64], hidden: 128 };
        assert_eq!(failures(&cnn, json!({ "network": "cnn" })), [""; 0]);
    }

    #[test]
    fn a_deep_residual_network_may_begin_with_a_larger_loss_and_one_without_batch_norms_may_not() {
        let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
        let config = fixtures::config(json!({ "network": "mlp" }));
        let found = |network: &ResnetConfig| initial_loss(&Bench::new(network, &config, &SHAPES, device).unwrap());
        let result = found(&ResnetConfig { depth: 20, width: 16 }).unwrap();
        // Far above a uniform prediction, as it is in PyTorch from the same weights.
        assert!(result.passed && result.found.parse::<f64>().unwrap() > 2.9, "{result:?}");
        assert!(result.wanted.ends_with("or below 9.210 behind sums of batch norms"), "{}", result.wanted);
    }

    #[test]
    fn configs_that_cannot_learn_fail_where_it_shows() {
        let mlp = MlpConfig { hidden: vec![512; 2] };
        let still = json!({ "network": "mlp", "optimizer": { "name": "sgd", "learning_rate": 0.0 } });
        assert_eq!(failures(&mlp, still), ["overfits one batch"]);
        let wild = json!({ "network": "mlp", "optimizer": { "name": "sgd", "learning_rate": 1e6 } });
        assert!(failures(&mlp, wild).contains(&"overfits one batch"));
        let bright = json!({ "network": "mlp", "data": { "name": "synthetic", "pixel_std": 0.001 } });
        assert!(failures(&mlp, bright).contains(&"loss before training"));
    }

    /// A linear classifier with a layer that nothing reaches, and noise in evaluation, each where it is asked for.
    #[derive(Clone, Serialize, Deserialize)]
    struct Flawed {
        is_unreached: bool,
        is_noisy: bool,
    }

    #[derive(Module, Debug)]
    struct FlawedNetwork {
        classify: Linear,
        unreached: Option<Linear>,
        is_noisy: bool,
    }

    impl NetworkConfig for Flawed {
        type Network = FlawedNetwork;

        fn init(&self, shape: ImageShape, _: u64, device: &Device) -> Result<FlawedNetwork, ModelError> {
            Ok(FlawedNetwork {
                classify: LinearConfig::new(shape.channels * shape.height * shape.width, shape.classes).init(device),
                unreached: self.is_unreached.then(|| LinearConfig::new(2, 2).init(device)),
                is_noisy: self.is_noisy,
            })
        }
    }

    impl Network for FlawedNetwork {
        fn forward(&self, images: Tensor<4>) -> Tensor<2> {
            // Burn's generator is shared with the tests beside this one.
            static DRAWN: AtomicU32 = AtomicU32::new(1);
            let is_evaluation = !images.device().is_autodiff();
            let logits = self.classify.forward(images.flatten(1, 3)); // [batch, classes]
            let noise = || f64::from(DRAWN.fetch_add(1, Ordering::Relaxed));
            if self.is_noisy && is_evaluation { logits * noise() } else { logits }
        }
    }

    #[test]
    fn a_layer_that_nothing_reaches_and_a_network_that_draws_in_evaluation_are_found() {
        let checked = |is_unreached, is_noisy| {
            let failures = failures(&Flawed { is_unreached, is_noisy }, json!({ "network": "mlp" }));
            // Whether it learns at this rate is of no interest.
            failures.into_iter().filter(|name| *name != "overfits one batch").collect::<Vec<_>>()
        };
        assert_eq!(checked(false, false), [""; 0]);
        assert_eq!(checked(true, false), ["no dead layers"]);
        assert_eq!(checked(false, true), ["evaluates the same twice"]);
    }

    #[test]
    fn data_of_one_class_is_the_only_failure_and_a_class_without_training_images_is_told() {
        let config = fixtures::config(json!({ "network": { "name": "mlp", "hidden": [8] } }));
        let of = |is_wanted: &dyn Fn(u16) -> bool| {
            let train = &SHAPES.train;
            let wanted: Vec<usize> = (0..train.count()).filter(|&index| is_wanted(train.labels()[index])).collect();
            let mut data = SHAPES.clone();
            data.train = train.select(&wanted);
            let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
            let mut told = 0;
            let mlp = MlpConfig { hidden: vec![8] };
            let results = sanity_checks(&mlp, &config, &data, device, &mut |_| told += 1).unwrap();
            assert_eq!(told, results.len());
            results
        };
        let one = of(&|label| label == 3);
        assert!(one.len() == 1 && one[0].name == "data" && !one[0].passed, "{one:?}");
        assert_ne!(one[0].found, of(&|_| true)[0].found);
        let nine = of(&|label| label != 3);
        assert!(nine.len() == 7 && nine[0].passed && nine[0].found.contains("frame"), "{nine:?}");
    }

    #[test]
    fn losses_that_differ_in_number_or_by_what_is_no_number_are_not_the_same() {
        let same = |first: &[f64], second: &[f64], to_the_bit| compare(first, second, to_the_bit).passed;
        assert!(same(&[2.0, 1.0, f64::NAN], &[2.0, 1.0, f64::NAN], true));
        assert!(same(&[2.0, 0.0], &[2.0001, 0.0], false));
        assert!(!same(&[2.0, 0.0], &[2.0001, 0.0], true));
        for other in [&[2.0, 1.0][..], &[2.0, 1.0, f64::NAN], &[2.0, 1.0, 0.9], &[]] {
            assert!(!same(&[2.0, 1.0, 0.8], other, false), "{other:?}");
            assert!(!same(other, &[2.0, 1.0, 0.8], false), "{other:?}");
        }
    }
}
