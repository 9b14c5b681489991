//! What people should check before a long training: Karpathy, "A Recipe for Training Neural Networks",
//! <http://karpathy.github.io/2019/04/25/recipe/>.

mod dead;
mod slopes;

use std::iter;

use burn::{data::dataloader::DataLoader, optim::GradientsParams, tensor::Device, train::TrainStep};
use kindling_data::{BatchLoader, ImageBatch, ImageData, ImageSet, LabelProblem, Order};
use serde::Serialize;

use crate::{
    BatchFigures, Classifier, ExperimentConfig, LearningRates, Precision, TrainingError,
    clip::clipped,
    init_optimizer,
    predict::contained,
    splits::{loader, shape, splits, train_loader},
};

/// Images in the batch that most checks look at.
const BATCH: usize = 64;
/// Steps within which one batch is overfitted.
const STEPS: usize = 300;
/// Steps of the training that is done twice.
const REPEATED: usize = 20;
/// How far its losses may be apart where the device does not repeat bits, as a share of them.
const NEAR: f64 = 1e-4;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub passed: bool,
    /// How it should be.
    pub wanted: String,
    /// How it is.
    pub found: String,
    /// What to look at where it is not.
    pub advice: &'static str,
}

/// Where the checks compute.
#[derive(Clone, Copy, Debug)]
pub struct CheckDevice<'a> {
    /// A device without autodiff.
    pub device: &'a Device,
    /// How many bytes it takes in one piece, where that is known.
    pub largest: Option<u64>,
    /// Whether the same steps give the same bits on it.
    pub repeats_bits: bool,
}

type Check = fn(&Bench<'_>) -> Result<CheckResult, TrainingError>;

/// Checks `config` on `data`; each result is told as it is found.
///
/// Data that nothing can be learned from is the only result where it is found: every other check would blame the network
/// for it. Gradients are compared with slopes in f32 alone: a half type rounds the steps away that slopes are measured by.
///
/// # Errors
/// When the network cannot take the images, or the device fails.
pub fn sanity_checks(
    config: &ExperimentConfig,
    data: &ImageData,
    device: CheckDevice<'_>,
    on_check: &mut dyn FnMut(&CheckResult),
) -> Result<Vec<CheckResult>, TrainingError> {
    contained(|| {
        let problems = data.label_problems();
        let result = labels(data, &problems);
        on_check(&result);
        let mut results = vec![result];
        if problems.iter().any(LabelProblem::prevents_learning) {
            return Ok(results);
        }
        let bench = Bench::new(config, data, device)?;
        let mut checks: Vec<Check> = vec![initial_loss];
        if config.precision == Precision::F32 {
            checks.push(slopes::gradients_are_right);
        }
        checks.extend([dead::no_dead_layers as Check, overfits_one_batch, same_result_twice]);
        for check in checks {
            let result = check(&bench)?;
            on_check(&result);
            results.push(result);
        }
        Ok(results)
    })
}

/// What the checks share.
struct Bench<'a> {
    config: ExperimentConfig,
    data: &'a ImageData,
    device: Device,
    largest: Option<u64>,
    repeats_bits: bool,
    /// The first images of an epoch in shuffled order.
    images: ImageSet,
}

impl<'a> Bench<'a> {
    fn new(config: &ExperimentConfig, data: &'a ImageData, place: CheckDevice<'_>) -> Result<Self, TrainingError> {
        let train = splits(config, data)?.train;
        let order = kindling_data::epoch_order(Order::Shuffled { seed: config.seed }, 1, train.count());
        let first: Vec<usize> = order.into_iter().take(BATCH).collect();
        // One batch, of all the images there are.
        let config = ExperimentConfig { batch_size: BATCH, limit_batches: None, ..config.clone() };
        let CheckDevice { device, largest, repeats_bits } = place;
        let device = device.clone().autodiff();
        Ok(Self { config, data, device, largest, repeats_bits, images: train.select(&first) })
    }

    fn model(&self) -> Result<Classifier, TrainingError> {
        let network = self.config.network()?.init(shape(self.data), self.config.seed, &self.device)?;
        Ok(Classifier::new(network, 0.0))
    }

    /// All the images, as they are.
    fn batch(&self) -> Result<ImageBatch, TrainingError> {
        first_batch(&loader(&self.config, &self.images, Order::File, (&self.device, self.largest)))
    }

    /// Trains on `batches`, until `is_enough` or a loss that is not finite, and gives the losses.
    fn train(
        &self,
        batches: impl Iterator<Item = Result<ImageBatch, TrainingError>>,
        mut is_enough: impl FnMut(&BatchFigures) -> bool,
    ) -> Result<Vec<f64>, TrainingError> {
        let mut model = self.model()?;
        let mut optimizer = init_optimizer(&self.config, &model);
        let rates = LearningRates::new(&self.config, &model);
        let mut losses = Vec::new();
        for batch in batches {
            let (gradients, figures) = step(&model, batch?)?;
            losses.push(figures.loss());
            if is_enough(&figures) || !figures.loss_sum.is_finite() {
                break;
            }
            let gradients = clipped(&self.config, &model, gradients);
            model = optimizer.step(rates.scaled(1.0), model, gradients);
        }
        Ok(losses)
    }

    /// The loss of a uniform prediction.
    fn chance_loss(&self) -> f64 {
        (self.data.classes.len() as f64).ln()
    }
}

/// The gradients of a step, and its figures.
fn step(model: &Classifier, batch: ImageBatch) -> Result<(GradientsParams, BatchFigures), TrainingError> {
    let output = TrainStep::step(model, batch);
    Ok((output.grads, output.item.read().map_err(TrainingError::backend)?))
}

/// The first batch of the loader's next epoch.
fn first_batch(loader: &BatchLoader) -> Result<ImageBatch, TrainingError> {
    let first = loader.iter().next().transpose().map_err(TrainingError::backend)?;
    first.ok_or_else(|| TrainingError::backend("expected images to train on, found none"))
}

/// Whether the labels can be learned from; `problems` are theirs.
fn labels(data: &ImageData, problems: &[LabelProblem]) -> CheckResult {
    let sentences: Vec<String> = problems.iter().map(ToString::to_string).collect();
    CheckResult {
        name: "data",
        passed: !problems.iter().any(LabelProblem::prevents_learning),
        wanted: "training images of two classes at least".to_owned(),
        found: if problems.is_empty() {
            format!("training images of all {} classes", data.classes.len())
        } else {
            sentences.join("; ")
        },
        advice: "the label files, and the list of class names",
    }
}

fn initial_loss(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let (_, figures) = step(&bench.model()?, bench.batch()?)?;
    let (loss, wanted) = (figures.loss(), bench.chance_loss());
    Ok(CheckResult {
        name: "loss before training",
        // PyTorch's initial weights give logits with a standard deviation of up to 0.6 behind batch norm, which adds half its
        // square to the loss; a network that is sure of itself without a reason is off by more.
        passed: (loss - wanted).abs() < 0.25 * wanted,
        wanted: format!("near ln {} = {wanted:.3}, the loss of a uniform prediction", bench.data.classes.len()),
        found: format!("{loss:.3}"),
        advice: "the last layer's initial weights, or pixels far from [0, 1] (pixel_mean, pixel_deviation)",
    })
}

fn overfits_one_batch(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let enough = 0.05 * bench.chance_loss();
    let is_enough = |figures: &BatchFigures| figures.loss() < enough && figures.correct == figures.images;
    let mut learnt = false;
    let batch = bench.batch()?;
    let losses = bench.train(iter::repeat_with(|| Ok(batch.clone())).take(STEPS), |figures| {
        learnt = is_enough(figures);
        learnt
    })?;
    let last = losses.last().copied().unwrap_or(f64::NAN);
    Ok(CheckResult {
        name: "overfits one batch",
        passed: learnt,
        wanted: format!("a loss below {enough:.3} and all {} images right within {STEPS} steps", bench.images.count()),
        found: format!("a loss of {last:.3} after {} steps{}", losses.len(), if learnt { ", all right" } else { "" }),
        advice: "a learning rate that is too high or too low (kindling lr-find), or a network that is too small",
    })
}

fn same_result_twice(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let losses = || {
        // As a training has them: in its order, with its augmentations.
        let loader = train_loader(&bench.config, &bench.images, (&bench.device, bench.largest));
        bench.train(iter::repeat_with(|| first_batch(&loader)).take(REPEATED), |_| false)
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
    use std::sync::LazyLock;

    use kindling_data::synthetic;

    use super::*;
    use crate::Settings;

    static SHAPES: LazyLock<ImageData> = LazyLock::new(synthetic::draw);

    fn failures(config: &str) -> Vec<&'static str> {
        let config = Settings::from_json(config).and_then(Settings::resolve).unwrap();
        let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
        let results = sanity_checks(&config, &SHAPES, device, &mut |_| {}).unwrap();
        assert_eq!(results.len(), 6);
        results.into_iter().filter(|result| !result.passed).map(|result| result.name).collect()
    }

    #[test]
    fn networks_with_their_defaults_pass() {
        for model in ["mlp", "cnn"] {
            assert_eq!(failures(&format!(r#"{{"model": "{model}", "dataset": "synthetic"}}"#)), [""; 0], "{model}");
        }
    }

    #[test]
    fn configs_that_cannot_learn_fail_where_it_shows() {
        let still = r#"{"model": "mlp", "dataset": "synthetic", "learning_rate": 0}"#;
        assert_eq!(failures(still), ["overfits one batch"]);
        let wild = r#"{"model": "mlp", "dataset": "synthetic", "learning_rate": 1e6}"#;
        assert!(failures(wild).contains(&"overfits one batch"));
        let bright = r#"{"model": "mlp", "dataset": "synthetic", "pixel_deviation": 0.001}"#;
        assert!(failures(bright).contains(&"loss before training"));
    }

    #[test]
    fn data_of_one_class_is_the_only_failure_and_a_class_without_training_images_is_told() {
        let config = Settings::from_json(r#"{"model": "mlp", "hidden": [8], "dataset": "synthetic"}"#);
        let config = config.and_then(Settings::resolve).unwrap();
        let of = |is_wanted: &dyn Fn(u8) -> bool| {
            let train = &SHAPES.train;
            let wanted: Vec<usize> = (0..train.count()).filter(|&index| is_wanted(train.labels()[index])).collect();
            let data = ImageData { train: train.select(&wanted), ..SHAPES.clone() };
            let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
            let mut told = 0;
            let results = sanity_checks(&config, &data, device, &mut |_| told += 1).unwrap();
            assert_eq!(told, results.len());
            results
        };
        let one = of(&|label| label == 3);
        assert!(one.len() == 1 && one[0].name == "data" && !one[0].passed, "{one:?}");
        assert_ne!(one[0].found, of(&|_| true)[0].found);
        let nine = of(&|label| label != 3);
        assert!(nine.len() == 6 && nine[0].passed && nine[0].found.contains("frame"), "{nine:?}");
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
