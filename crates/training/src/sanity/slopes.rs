//! Whether the backward pass gives the slopes of the loss.

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::GradientsParams,
    tensor::Tensor,
};

use super::{Bench, CheckResult, step};
use crate::{
    TrainingError,
    gradients::{self, layer_name},
};

/// How far, along a layer's gradient, its weights are moved to either side.
const STRIDE: f64 = 1e-2;
/// How far a slope may be from its gradient, as a share of it.
///
/// Losses in f32 are known to 1e-7 of themselves, slopes of about 0.1 then to 1e-4; ReLU and pooling bend the loss within
/// a stride by a few hundredths at most.
const TOLERANCE: f64 = 0.05;

/// A layer's gradient, measured and computed.
#[derive(Clone, Debug, PartialEq)]
struct Layer {
    name: String,
    /// The loss's derivative along the layer's gradient, by central differences.
    slope: f64,
    /// The gradient's norm, which the derivative should be.
    norm: f64,
}

impl Layer {
    /// How far the two are apart, as a share of the norm.
    fn off(&self) -> f64 {
        (self.slope / self.norm - 1.0).abs()
    }
}

/// The derivative along a layer's gradient is that gradient's norm.
pub(super) fn gradients_are_right(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    Ok(judge(&slopes(bench)?))
}

fn slopes(bench: &Bench<'_>) -> Result<Vec<Layer>, TrainingError> {
    let model = bench.model()?;
    let (gradients, _) = step(&model, bench.batch()?)?;
    let mut slopes = Vec::new();
    for layer in gradients::statistics(&model, &gradients)?.layers {
        // One that is zero has no direction; that it is there is another check's to see.
        if layer.norm == 0.0 {
            continue;
        }
        let loss = |side: f64| -> Result<f64, TrainingError> {
            let by = side * STRIDE / layer.norm;
            let mut shift = Shift { path: Vec::new(), layer: &layer.layer, gradients: &gradients, by };
            Ok(step(&model.clone().map(&mut shift), bench.batch()?)?.1.loss())
        };
        let slope = (loss(1.0)? - loss(-1.0)?) / (2.0 * STRIDE);
        slopes.push(Layer { name: layer.layer, slope, norm: layer.norm });
    }
    Ok(slopes)
}

fn judge(slopes: &[Layer]) -> CheckResult {
    // `total_cmp` puts what is no number, of whichever sign, above all that is: `off` is an absolute value.
    let worst = slopes.iter().max_by(|a, b| a.off().total_cmp(&b.off()));
    CheckResult {
        name: "gradients",
        passed: worst.is_some_and(|worst| worst.off() < TOLERANCE),
        wanted: format!("each layer's within {:.0} % of the slope of the loss along it", TOLERANCE * 100.0),
        found: match worst {
            Some(worst) => format!("at most {:.2} % off, in {}", worst.off() * 100.0, worst.name),
            None => "no layer with a gradient".to_owned(),
        },
        advice: "the backward pass of that layer; --kernels composed tells whether it is Kindling's own",
    }
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
        if layer_name(&self.path) != self.layer {
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_data::synthetic;

    use super::*;
    use crate::Settings;

    fn measured() -> Vec<Layer> {
        let config = Settings::from_json(r#"{"model": "mlp", "hidden": [16], "dataset": "synthetic"}"#);
        let config = config.and_then(Settings::resolve).unwrap();
        let data = synthetic::draw();
        let device = super::super::CheckDevice { device: &Device::flex(), largest: None, repeats_bits: true };
        slopes(&Bench::new(&config, &data, device).unwrap()).unwrap()
    }

    #[test]
    fn the_slopes_of_a_network_are_its_gradients() {
        let slopes = measured();
        let layers: Vec<_> = slopes.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(layers, ["layers.0", "layers.1"]);
        assert!(judge(&slopes).passed, "{slopes:?}");
    }

    #[test]
    fn a_gradient_that_is_wrong_is_found_with_its_layer() {
        for wrong in [2.0, 0.9, -1.0, f64::NAN, -f64::NAN, f64::INFINITY] {
            let mut slopes = measured();
            slopes[0].norm *= wrong;
            let result = judge(&slopes);
            assert!(!result.passed && result.found.ends_with("in layers.0"), "{wrong}: {result:?}");
        }
        assert!(!judge(&[]).passed);
    }
}
