//! Statistics of a step's gradients.

use burn::{module::Module, optim::GradientsParams};
use kindling_record::{GradientRecord, LayerGradient};

use crate::{
    TrainingError,
    parameters::{each_number, name},
};

/// Mean, mean absolute value and norm of all gradients taken as one list of numbers, and of each layer's.
///
/// They are read back and summed on the host in f64, in the module's order: the same on every backend. Layers are named
/// as inside `root`.
///
/// # Errors
/// When the device fails.
pub fn statistics<M: Module>(
    module: &M,
    root: &str,
    gradients: &GradientsParams,
) -> Result<GradientRecord, TrainingError> {
    let mut layers: Vec<(String, Sums)> = Vec::new();
    // Batch norm's running statistics have none.
    each_number(module, Some(gradients), |parameter, values| {
        let layer = name(&parameter.layer, root);
        if layers.last().is_none_or(|(last, _)| last != layer) {
            layers.push((layer.to_owned(), Sums::default()));
        }
        if let Some((_, sums)) = layers.last_mut() {
            values.for_each(|value| sums.take(value));
        }
        true
    })?;
    let mut total = Sums::default();
    for (_, sums) in &layers {
        total.add(sums);
    }
    let layers = layers.into_iter().map(|(layer, sums)| LayerGradient {
        layer,
        parameters: sums.count,
        mean: sums.mean(),
        mean_abs: sums.mean_abs(),
        norm: sums.norm(),
    });
    Ok(GradientRecord { mean: total.mean(), mean_abs: total.mean_abs(), norm: total.norm(), layers: layers.collect() })
}

#[derive(Default)]
struct Sums {
    count: usize,
    sum: f64,
    absolute: f64,
    squares: f64,
}

impl Sums {
    fn take(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.absolute += value.abs();
        self.squares += value * value;
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.absolute += other.absolute;
        self.squares += other.squares;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn mean_abs(&self) -> f64 {
        self.absolute / self.count as f64
    }

    fn norm(&self) -> f64 {
        self.squares.sqrt()
    }
}
