//! Whether every layer learns.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};

use super::{Bench, CheckResult, step};
use crate::{
    TrainingError,
    gradients::{self, layer_name},
};

pub(super) fn no_dead_layers(bench: &Bench<'_>) -> Result<CheckResult, TrainingError> {
    let model = bench.model()?;
    let (gradients, _) = step(&model, bench.batch()?)?;
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
        let layer = layer_name(&self.path);
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
