//! Whether the backward pass gives the slopes of the loss.

use std::cell::Cell;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Tensor, TensorData},
};
use kindling_data::ImageBatch;
use kindling_models::{Network, NetworkConfig};
use kindling_training::{TrainingError, named_parameters};

use super::bench::{Bench, CheckResult};
use crate::{ClassificationError, Classifier, cross_entropy, run::seeded};

/// How far the weights are moved to either side, at first: by so much, or as far as the loss needs to change clearly.
///
/// A ReLU or a maximum that changes sides on the way bends the loss. The shorter the way, the fewer do; moved less than
/// this, the loss of the usual networks changes by too few of its digits.
const STRIDE: f64 = 1e-3;
/// The longest way.
const LONGEST: f64 = 1e-2;
/// How often the way is halved where the loss bends on it.
const HALVINGS: usize = 5;
/// The least change of the loss that can be measured, as a share of it: losses in f32 are known to 1e-7.
const RESOLUTION: f64 = 2e-6;
/// How far apart the slopes at a stride and at half of it may be where the loss is straight, as a share of them.
const STRAIGHT: f64 = 0.01;
/// The same for the slopes to the two sides.
const SIDES: f64 = 0.02;
/// How far a slope may be from the one that the gradient gives, as a share of it. In a simulation of 770 networks of one
/// to four layers, on bars and on noise, none was off by more than 0.027.
const TOLERANCE: f64 = 0.05;
/// Directions drawn for each tensor, of which the steepest is taken: a slope near zero is hard to measure.
const DRAWS: u64 = 8;

/// The loss's slope in one direction.
#[derive(Clone, Debug, PartialEq)]
struct Slope {
    /// The tensor that is moved.
    name: String,
    /// By the gradient.
    computed: f64,
    /// By differences; none where the loss bends at every stride, or hardly changes.
    measured: Option<f64>,
}

impl Slope {
    /// How far the two are apart, as a share of the computed one.
    fn off(&self) -> Option<f64> {
        self.measured.map(|measured| (measured / self.computed - 1.0).abs())
    }
}

/// The gradient of one tensor, on the host.
pub(super) struct Gradient {
    id: ParamId,
    /// As in the weights file, in Burn's words: `bn1.gamma`.
    pub(super) name: String,
    /// The module that holds the tensor, and its type.
    pub(super) layer: String,
    pub(super) kind: String,
    pub(super) values: Vec<f64>,
}

/// Losses that are kept in memory at most.
const LOSSES_KEPT: usize = 16;

/// The derivative along a direction is the gradient's product with it.
pub(super) fn gradients_are_right<C: NetworkConfig>(bench: &Bench<'_, C>) -> Result<CheckResult, ClassificationError> {
    let (model, batch) = (bench.model()?, bench.batch()?);
    let computed = bench.step(&model, batch.clone())?.gradients;
    Ok(judge(&slopes(bench, &model, &batch, gradients(&model.network, &computed)?)?))
}

/// Two slopes for each tensor: along its gradient, which a wrong factor or sign changes, and along a direction in which
/// every entry takes part, which shows those that a gradient lacks.
fn slopes<C: NetworkConfig>(
    bench: &Bench<'_, C>,
    model: &Classifier<C::Network>,
    batch: &ImageBatch,
    gradients: Vec<Gradient>,
) -> Result<Vec<Slope>, ClassificationError> {
    let losses = Cell::new(0_usize);
    let loss = |model: &Classifier<C::Network>| {
        losses.set(losses.get() + 1);
        // Burn frees what nobody differentiated when something is: without that each loss would stay in memory.
        if losses.get().is_multiple_of(LOSSES_KEPT) {
            bench.step(model, batch.clone()).map_err(TrainingError::backend)?;
        }
        // A network that draws at random draws the same each time.
        seeded(&bench.device, bench.config.training.seed, || loss(&model.network, batch))
    };
    let start = loss(model)?;
    let mut slopes = Vec::new();
    for gradient in gradients {
        let norm = product(&gradient.values, &gradient.values).sqrt();
        // One that is zero has no direction; that it is there is another check's to see.
        if norm == 0.0 {
            continue;
        }
        if !norm.is_finite() {
            slopes.push(Slope { name: gradient.name, computed: norm, measured: Some(f64::NAN) });
            continue;
        }
        let along: Vec<f64> = gradient.values.iter().map(|value| value / norm).collect();
        let drawn = (0..DRAWS).map(|draw| signs(draw, along.len()));
        let steepness = |direction: &Vec<f64>| product(&gradient.values, direction).abs();
        let across = drawn.max_by(|a, b| steepness(a).total_cmp(&steepness(b)));
        for direction in [Some(along), across].into_iter().flatten() {
            let computed = product(&gradient.values, &direction);
            let mut shift = Shift { id: gradient.id, direction: &direction, by: 0.0 };
            let measured = measure(start, computed, |by| {
                shift.by = by;
                loss(&model.clone().map(&mut shift))
            })?;
            slopes.push(Slope { name: gradient.name.clone(), computed, measured });
        }
    }
    Ok(slopes)
}

/// The slope of `loss` at 0, where its value is `start`; none where it bends however short the way.
fn measure(
    start: f64,
    computed: f64,
    mut loss: impl FnMut(f64) -> Result<f64, TrainingError>,
) -> Result<Option<f64>, TrainingError> {
    let mut stride = (20.0 * RESOLUTION * start / computed.abs()).clamp(STRIDE, LONGEST);
    let mut before: Option<f64> = None;
    let mut agreements = 0;
    for _ in 0..=HALVINGS {
        let (ahead, behind) = (loss(stride)?, loss(-stride)?);
        let slope = (ahead - behind) / (2.0 * stride);
        // A slope of zero, which no difference is a small share of, may be what a wrong gradient has.
        let scale = slope.abs().max(computed.abs());
        if scale * stride < RESOLUTION * start {
            break;
        }
        let sides = (ahead - start) / stride - (start - behind) / stride;
        let is_straight = before.is_some_and(|before| (slope - before).abs() <= STRAIGHT * scale);
        agreements = if is_straight && sides.abs() <= SIDES * scale { agreements + 1 } else { 0 };
        // Once may be chance.
        if agreements == 2 {
            return Ok(Some(slope));
        }
        before = Some(slope);
        stride /= 2.0;
    }
    Ok(None)
}

fn judge(slopes: &[Slope]) -> CheckResult {
    let kept: Vec<(f64, &str)> = slopes.iter().filter_map(|slope| Some((slope.off()?, slope.name.as_str()))).collect();
    // `total_cmp` puts what is no number, of whichever sign, above all that is: these are absolute values.
    let worst = kept.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    let left_out = match slopes.len() - kept.len() {
        0 => String::new(),
        count => format!("; {count} of {} slopes left out: the loss bends there, or hardly changes", slopes.len()),
    };
    CheckResult {
        name: "gradients",
        passed: worst.is_some_and(|(off, _)| *off < TOLERANCE),
        wanted: format!("each tensor's within {:.0} % of the slopes of the loss", TOLERANCE * 100.0),
        found: match worst {
            Some((off, name)) => format!("at most {:.2} % off, in {name}{left_out}", off * 100.0),
            None => format!("no slope to compare with{left_out}"),
        },
        advice: "the backward pass of that layer; --kernels composed tells whether it is Kindling's own",
    }
}

/// The mean loss over `batch` in training mode, summed on the host in f64: a sum in f32 would cost a digit.
fn loss<N: Network>(network: &N, batch: &ImageBatch) -> Result<f64, TrainingError> {
    let logits = network.forward(batch.images.clone()); // [batch, classes]
    let losses = cross_entropy(logits, batch.targets.clone(), 0.0).inner(); // [batch]
    let images = losses.dims()[0] as f64;
    let losses = losses.try_into_data().map_err(TrainingError::backend)?;
    Ok(losses.iter::<f64>().sum::<f64>() / images)
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A direction of norm 1 whose entries differ by their signs alone, the same on every machine.
fn signs(draw: u64, count: usize) -> Vec<f64> {
    let size = 1.0 / (count as f64).sqrt();
    // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
    let mut state = draw;
    let mut sign = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        if mixed >> 63 == 0 { size } else { -size }
    };
    (0..count).map(|_| sign()).collect()
}

/// All gradients, in the network's order.
pub(super) fn gradients<M: Module>(
    network: &M,
    gradients: &GradientsParams,
) -> Result<Vec<Gradient>, ClassificationError> {
    let mut found = Values { gradients, found: Vec::new() };
    network.visit(&mut found);
    let parameters = named_parameters(network);
    let named = |(id, values): (ParamId, Result<_, String>)| {
        let parameter = parameters.iter().find(|parameter| parameter.id == id)?.clone();
        Some(values.map_err(ClassificationError::backend).map(|values| Gradient {
            id,
            name: parameter.path,
            layer: parameter.layer,
            kind: parameter.kind,
            values,
        }))
    };
    found.found.into_iter().filter_map(named).collect()
}

struct Values<'a> {
    gradients: &'a GradientsParams,
    found: Vec<(ParamId, Result<Vec<f64>, String>)>,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let values = gradient.try_into_data().map(|values| values.iter::<f64>().collect());
            self.found.push((param.id, values.map_err(|error| error.to_string())));
        }
    }
}

/// Moves one tensor's weights.
struct Shift<'a> {
    id: ParamId,
    direction: &'a [f64],
    by: f64,
}

impl ModuleMapper for Shift<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.id != self.id {
            return param;
        }
        let shift: Vec<f32> = self.direction.iter().map(|entry| (entry * self.by) as f32).collect();
        param.map(|tensor| {
            let tensor = tensor.inner();
            let shift = Tensor::from_data(TensorData::new(shift, tensor.shape()), &tensor.device());
            Tensor::from_inner(tensor + shift).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_data::{ImageData, ImageSet};
    use kindling_models::MlpConfig;
    use serde_json::json;

    use super::*;
    use crate::{fixtures, sanity::CheckDevice};

    /// Dark bars on a light ground, one height for each of four classes: all pixels push a layer's units the same way, so
    /// that many of them change sides at once.
    fn light_bars() -> ImageData {
        let set = |count: usize| {
            let labels: Vec<u16> = (0..count).map(|image| (image % 4) as u16).collect();
            let noise = signs(count as u64, count * 784).into_iter().map(|sign| if sign > 0.0 { 12 } else { 0 });
            let ink = |pixel: usize| {
                let (image, row, column) = (pixel / 784, pixel % 784 / 28, pixel % 28);
                if (4..24).contains(&column) && row / 7 == image % 4 { 40 } else { 230 }
            };
            let pixels = noise.enumerate().map(|(pixel, noise)| ink(pixel) + noise).collect();
            ImageSet::new(pixels, labels, [1, 28, 28]).unwrap()
        };
        let classes = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        ImageData::new("idx", classes, set(400), set(40)).unwrap()
    }

    /// The slopes of an mlp, after `change` has gone over its gradients.
    fn measured(data: &ImageData, hidden: &[usize], seed: u64, change: impl Fn(&mut Gradient)) -> Vec<Slope> {
        let config = fixtures::config(json!({
            "network": { "name": "mlp", "hidden": hidden }, "training": { "seed": seed },
        }));
        let network = MlpConfig { hidden: hidden.to_vec() };
        let device = CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
        let bench = Bench::new(&network, &config, data, device).unwrap();
        let (model, batch) = (bench.model().unwrap(), bench.batch().unwrap());
        let computed = bench.step(&model, batch.clone()).unwrap().gradients;
        let mut gradients = gradients(&model.network, &computed).unwrap();
        gradients.iter_mut().for_each(change);
        slopes(&bench, &model, &batch, gradients).unwrap()
    }

    /// What is found where `change` has gone over one tensor's values.
    fn wrong(seed: u64, tensor: &str, change: impl Fn(&mut [f64])) -> CheckResult {
        judge(&measured(&light_bars(), &[16, 16], seed, |gradient| {
            if gradient.name == tensor {
                change(&mut gradient.values);
            }
        }))
    }

    #[test]
    fn right_gradients_pass_where_the_loss_bends_as_well() {
        let data = light_bars();
        for hidden in [&[][..], &[16], &[4], &[16, 16, 16]] {
            for seed in [1, 2, 3, 4, 5, 42] {
                let slopes = measured(&data, hidden, seed, |_| {});
                assert!(judge(&slopes).passed, "{hidden:?}, seed {seed}: {slopes:?}");
                let kept = slopes.iter().filter(|slope| slope.measured.is_some()).count();
                // One of hundreds cannot be measured; a check of nothing would pass as well.
                assert!(kept * 2 > slopes.len(), "{hidden:?}, seed {seed}: {slopes:?}");
            }
        }
    }

    #[test]
    fn a_gradient_that_is_wrong_in_one_tensor_is_found_with_its_name() {
        for tensor in ["layers.0.weight", "layers.1.bias", "layers.2.weight"] {
            for factor in [2.0, 1.1, 0.9, -1.0, 1e-4, 1e6, f64::NAN, -f64::NAN, f64::INFINITY] {
                let result = wrong(1, tensor, |values| values.iter_mut().for_each(|value| *value *= factor));
                assert!(!result.passed && result.found.contains(tensor), "{tensor} times {factor}: {result:?}");
            }
        }
    }

    #[test]
    fn a_gradient_that_lacks_entries_or_has_them_in_another_order_is_found() {
        let reversed = wrong(1, "layers.1.weight", <[f64]>::reverse);
        assert!(!reversed.passed && reversed.found.contains("layers.1.weight"), "{reversed:?}");
        // Whether a drawn direction shows what is lacking is a matter of chance, four times of five on its side.
        let lacking = (1..=6).filter(|&seed| {
            let every_other = |values: &mut [f64]| values.iter_mut().step_by(2).for_each(|value| *value = 0.0);
            !wrong(seed, "layers.1.weight", every_other).passed
        });
        assert!(lacking.count() >= 3);
    }

    #[test]
    fn nothing_that_could_be_compared_is_no_proof() {
        assert!(!judge(&[]).passed);
        let bent = Slope { name: "layers.0.weight".to_owned(), computed: 1.0, measured: None };
        let result = judge(&[bent.clone(), Slope { measured: Some(1.01), ..bent.clone() }]);
        assert!(result.passed && result.found.contains("; 1 of 2 slopes left out"), "{result:?}");
        assert!(!judge(&[bent]).passed);
    }

    #[test]
    fn a_slope_is_measured_where_the_loss_is_straight_and_nowhere_else() {
        let slope = |loss: fn(f64) -> f64, computed| measure(loss(0.0), computed, |by| Ok(loss(by))).unwrap();
        let found = slope(|x| 2.0 + 0.5 * x + 3.0 * x * x, 0.5).unwrap();
        assert!((found - 0.5).abs() < 1e-6, "{found}");
        // A bend on the way is left behind by a shorter one; one at the point itself is not.
        let found = slope(|x| 2.0 + 0.5 * x + 5.0 * (x - 3e-4).max(0.0), 0.5).unwrap();
        assert!((found - 0.5).abs() < 1e-6, "{found}");
        assert_eq!(slope(|x| 2.0 + 0.5 * x + 0.2 * x.abs(), 0.5), None);
        // A flat loss is a slope, where the gradient says otherwise; where it says so as well, nothing can be seen.
        assert_eq!(slope(|_| 2.0, 0.5), Some(0.0));
        assert_eq!(slope(|_| 2.0, 1e-9), None);
    }
}
