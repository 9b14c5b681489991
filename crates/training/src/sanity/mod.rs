//! What people should check before a long training: Karpathy, "A Recipe for Training Neural Networks",
//! <http://karpathy.github.io/2019/04/25/recipe/>.

use burn::{
    data::dataloader::DataLoader,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Tensor},
    train::TrainStep,
};
use kindling_data::{ImageBatch, ImageData, ImageSet, Order};
use serde::Serialize;

use crate::{
    BatchFigures, Classifier, ExperimentConfig, LearningRates, TrainingError, clip_by_global_norm, gradients,
    init_optimizer,
    predict::contained,
    run::{loader, shape, splits},
};

/// Images in the batch that most checks look at.
const BATCH: usize = 64;
/// Steps that a batch has to be learnt by heart in.
const STEPS: usize = 300;
/// Steps of the training that is done twice.
const REPEATED: usize = 20;
/// How far, along a layer's gradient, its weights are moved to either side.
const STRIDE: f64 = 1e-2;

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

/// Checks `config` on `data` and a device without autodiff that takes `largest` bytes in one piece; each result is told
/// as it is found.
///
/// # Errors
/// When the network cannot take the images, or the device fails.
pub fn sanity_checks(
    config: &ExperimentConfig,
    data: &ImageData,
    (device, largest): (&Device, Option<u64>),
    on_check: &mut dyn FnMut(&CheckResult),
) -> Result<Vec<CheckResult>, TrainingError> {
    contained(|| {
        let bench = Bench::new(config, data, device, largest)?;
        let mut results = Vec::new();
        for check in [initial_loss, gradients_are_right, no_dead_layers, one_batch_by_heart, same_result_twice] {
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
    /// The first images of an epoch in shuffled order: all classes are among them.
    images: ImageSet,
}

impl<'a> Bench<'a> {
    fn new(
        config: &ExperimentConfig,
        data: &'a ImageData,
        device: &Device,
        largest: Option<u64>,
    ) -> Result<Self, TrainingError> {
        let train = splits(config, data)?.train;
        let order = kindling_data::epoch_order(Order::Shuffled { seed: config.seed }, 1, train.count());
        let first: Vec<usize> = order.into_iter().take(BATCH).collect();
        // One batch, of all the images there are.
        let config = ExperimentConfig { batch_size: BATCH, limit_batches: None, ..config.clone() };
        Ok(Self { config, data, device: device.clone().autodiff(), largest, images: train.select(&first) })
    }

    fn model(&self) -> Result<Classifier, TrainingError> {
        let network = self.config.network()?.init(shape(self.data), self.config.seed, &self.device)?;
        Ok(Classifier::new(network, 0.0))
    }

    fn batch(&self) -> Result<ImageBatch, TrainingError> {
        let loader = loader(&self.config, &self.images, Order::File, (&self.device, self.largest));
        let first = loader.iter().next().transpose().map_err(TrainingError::backend)?;
        first.ok_or_else(|| TrainingError::backend("expected images to train on, found none"))
    }

    fn step(&self, model: &Classifier) -> Result<(GradientsParams, BatchFigures), TrainingError> {
        let output = TrainStep::step(model, self.batch()?);
        Ok((output.grads, output.item.read().map_err(TrainingError::backend)?))
    }

    /// Trains on the one batch until `is_enough`, at most `steps` steps, and gives the losses.
    fn train(&self, steps: usize, mut is_enough: impl FnMut(&BatchFigures) -> bool) -> Result<Vec<f64>, TrainingError> {
        let mut model = self.model()?;
        let mut optimizer = init_optimizer(&self.config, &model);
        let rates = LearningRates::new(&self.config, &model);
        let mut losses = Vec::new();
        for _ in 0..steps {
            let (gradients, figures) = self.step(&model)?;
            losses.push(figures.loss());
            if is_enough(&figures) || !figures.loss_sum.is_finite() {
                break;
            }
            let gradients = match self.config.clip_norm {
                Some(limit) => clip_by_global_norm(&model, gradients, limit),
                None => gradients,
            };
            model = optimizer.step(rates.scaled(1.0), model, gradients);
        }
        Ok(losses)
    }

    /// The loss of knowing nothing.
    fn ignorance(&self) -> f64 {
        (self.data.classes.len() as f64).ln()
    }
}

fn initial_loss(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let (_, figures) = bench.step(&bench.model()?)?;
    let (loss, wanted) = (figures.loss(), bench.ignorance());
    Ok(CheckResult {
        name: "loss before training",
        // PyTorch's initial weights give logits with a deviation of up to 0.6 behind batch norm, which adds half its
        // square to the loss; a network that is sure of itself without a reason is off by more.
        passed: (loss - wanted).abs() < 0.25 * wanted,
        wanted: format!("near ln {} = {wanted:.3}, the loss of knowing nothing", bench.data.classes.len()),
        found: format!("{loss:.3}"),
        advice: "the last layer's initial weights, or pixels far from [0, 1] (pixel_mean, pixel_deviation)",
    })
}

/// The derivative along a layer's gradient is that gradient's norm.
fn gradients_are_right(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let model = bench.model()?;
    let (gradients, _) = bench.step(&model)?;
    let mut worst = (0.0, String::new());
    for layer in gradients::statistics(&model, &gradients)?.layers {
        let loss = |side: f64| -> Result<f64, TrainingError> {
            let by = side * STRIDE / layer.norm;
            let moved =
                model.clone().map(&mut Shift { path: Vec::new(), layer: &layer.layer, gradients: &gradients, by });
            Ok(bench.step(&moved)?.1.loss())
        };
        if layer.norm > 0.0 {
            let slope = (loss(1.0)? - loss(-1.0)?) / (2.0 * STRIDE);
            let off = (slope / layer.norm - 1.0).abs();
            if off.is_nan() || off > worst.0 {
                worst = (off, layer.layer);
            }
        }
    }
    Ok(CheckResult {
        name: "gradients",
        // Losses in f32 are known to 1e-7 of themselves, slopes of about 0.1 then to 1e-4; ReLU and pooling bend the
        // loss within a stride by a few hundredths at most.
        passed: worst.0 < 0.05,
        wanted: "each layer's within 5 % of the slope of the loss along it".to_owned(),
        found: format!("at most {:.2} % off, in {}", worst.0 * 100.0, worst.1),
        advice: "the backward pass of that layer; --kernels composed tells whether it is Kindling's own",
    })
}

fn no_dead_layers(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let model = bench.model()?;
    let (gradients, _) = bench.step(&model)?;
    let mut units = Units { path: Vec::new(), gradients: &gradients, dead: Vec::new(), error: None };
    model.visit(&mut units);
    if let Some(error) = units.error {
        return Err(error);
    }
    let silent = gradients::statistics(&model, &gradients)?.layers.into_iter();
    let silent: Vec<String> = silent.filter(|l| !l.norm.is_finite() || l.norm == 0.0).map(|l| l.layer).collect();
    let worst = units.dead.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let share = worst.map_or(0.0, |(_, share)| *share);
    Ok(CheckResult {
        name: "no dead layers",
        passed: silent.is_empty() && share <= 0.5,
        wanted: "a finite gradient in every layer, and at most half of a layer's units silent for the batch".to_owned(),
        found: if silent.is_empty() {
            format!(
                "at most {:.0} % silent{}",
                share * 100.0,
                worst.map_or(String::new(), |(name, _)| format!(", in {name}"))
            )
        } else {
            format!("no gradient in {}", silent.join(", "))
        },
        advice: "initial weights, or a layer that nothing reaches",
    })
}

fn one_batch_by_heart(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let enough = 0.05 * bench.ignorance();
    let is_enough = |figures: &BatchFigures| figures.loss() < enough && figures.correct == figures.images;
    let mut learnt = false;
    let losses = bench.train(STEPS, |figures| {
        learnt = is_enough(figures);
        learnt
    })?;
    let last = losses.last().copied().unwrap_or(f64::NAN);
    Ok(CheckResult {
        name: "learns one batch by heart",
        passed: learnt,
        wanted: format!("a loss below {enough:.3} and all {BATCH} images right within {STEPS} steps"),
        found: format!("a loss of {last:.3} after {} steps{}", losses.len(), if learnt { ", all right" } else { "" }),
        advice: "a learning rate that is too high or too low (kindling lr-find), or a network that is too small",
    })
}

fn same_result_twice(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let [first, second] = [bench.train(REPEATED, |_| false)?, bench.train(REPEATED, |_| false)?];
    let is_same = first.len() == second.len() && first.iter().zip(&second).all(|(a, b)| a.to_bits() == b.to_bits());
    let off = first.iter().zip(&second).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max);
    Ok(CheckResult {
        name: "same result twice",
        // GPUs add in the order in which their threads end.
        passed: is_same || off < 1e-4,
        wanted: format!("equal losses in {REPEATED} steps, or within 1e-4 of them where a device adds in any order"),
        found: if is_same { "equal to the bit".to_owned() } else { format!("up to {off:.1e} apart") },
        advice: "something that is not decided by the seed",
    })
}

/// Moves one layer's weights along their gradient.
struct Shift<'a> {
    path: Vec<String>,
    layer: &'a str,
    gradients: &'a GradientsParams,
    by: f64,
}

impl ModuleMapper for Shift<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if layer(&self.path) != self.layer {
            return param;
        }
        match self.gradients.get::<D>(param.id) {
            Some(gradient) => {
                param.map(|tensor| Tensor::from_inner(tensor.inner() + gradient.mul_scalar(self.by)).require_grad())
            }
            None => param,
        }
    }
}

/// Counts units whose bias has no gradient at all: their ReLU lets nothing through for any image.
struct Units<'a> {
    path: Vec<String>,
    gradients: &'a GradientsParams,
    /// Layers and the share of their units that are silent.
    dead: Vec<(String, f64)>,
    error: Option<TrainingError>,
}

impl ModuleVisitor for Units<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_shift = self.path.last().is_some_and(|name| name == "bias" || name == "beta");
        let layer = layer(&self.path);
        // Behind a convolution, batch norm takes the bias's effect away, and its gradient with it.
        if !is_shift || layer.starts_with("conv") {
            return;
        }
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        match gradient.try_into_data() {
            Ok(values) => {
                let (mut count, mut silent) = (0, 0);
                values.iter::<f32>().for_each(|value| {
                    count += 1;
                    silent += usize::from(value == 0.0);
                });
                self.dead.push((layer, silent as f64 / f64::from(count.max(1))));
            }
            Err(error) => {
                self.error.get_or_insert(TrainingError::backend(error));
            }
        }
    }
}

/// `network.Mlp.layers.0.weight` is of the layer `layers.0`.
fn layer(path: &[String]) -> String {
    path.get(2..path.len().saturating_sub(1)).unwrap_or_default().join(".")
}

#[cfg(test)]
mod tests {
    use kindling_data::synthetic;

    use super::*;
    use crate::Settings;

    fn failures(config: &str) -> Vec<&'static str> {
        let config = Settings::from_json(config).and_then(Settings::resolve).unwrap();
        let results = sanity_checks(&config, &synthetic::draw(), (&Device::flex(), None), &mut |_| {}).unwrap();
        assert_eq!(results.len(), 5);
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
        assert_eq!(failures(still), ["learns one batch by heart"]);
        let wild = r#"{"model": "mlp", "dataset": "synthetic", "learning_rate": 1e6}"#;
        assert!(failures(wild).contains(&"learns one batch by heart"));
        let bright = r#"{"model": "mlp", "dataset": "synthetic", "pixel_deviation": 0.001}"#;
        assert!(failures(bright).contains(&"loss before training"));
    }

    #[test]
    fn a_gradient_of_twice_its_size_is_found() {
        let config = Settings::from_json(r#"{"model": "mlp", "hidden": [16], "dataset": "synthetic"}"#);
        let config = config.and_then(Settings::resolve).unwrap();
        let data = synthetic::draw();
        let bench = Bench::new(&config, &data, &Device::flex(), None).unwrap();
        let model = bench.model().unwrap();
        let (gradients, figures) = bench.step(&model).unwrap();
        let record = gradients::statistics(&model, &gradients).unwrap();
        let moved = model.clone().map(&mut Shift {
            path: Vec::new(),
            layer: "layers.0",
            gradients: &gradients,
            by: STRIDE / record.layers[0].norm,
        });
        let slope = (bench.step(&moved).unwrap().1.loss() - figures.loss()) / STRIDE;
        // One-sided: the curvature shows, but no factor of two does.
        assert!((slope / record.layers[0].norm - 1.0).abs() < 0.2, "{slope} {}", record.layers[0].norm);
    }
}
