//! Statistics of a step's gradients.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use kindling_record::{GradientRecord, LayerGradient};

use crate::{Classifier, TrainingError};

/// Mean, mean absolute value and norm of all gradients taken as one list of numbers, and of each layer's.
///
/// They are read back and summed on the host in f64, in the network's order: the same on every backend.
///
/// # Errors
/// When the device fails.
pub(crate) fn statistics(model: &Classifier, gradients: &GradientsParams) -> Result<GradientRecord, TrainingError> {
    let mut visitor = Visitor { path: Vec::new(), gradients, layers: Vec::new(), error: None };
    model.visit(&mut visitor);
    if let Some(error) = visitor.error {
        return Err(error);
    }
    let mut total = Sums::default();
    for (_, sums) in &visitor.layers {
        total.add(sums);
    }
    let layers = visitor.layers.into_iter().map(|(layer, sums)| LayerGradient {
        layer,
        parameters: sums.count,
        mean: sums.mean(),
        mean_abs: sums.mean_abs(),
        norm: sums.norm(),
    });
    Ok(GradientRecord { mean: total.mean(), mean_abs: total.mean_abs(), norm: total.norm(), layers: layers.collect() })
}

/// The layer of a parameter of a classifier: `network.Mlp.layers.0.weight` is of `layers.0`.
pub(crate) fn layer_name(path: &[String]) -> String {
    path.get(2..path.len().saturating_sub(1)).unwrap_or_default().join(".")
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

struct Visitor<'a> {
    path: Vec<String>,
    gradients: &'a GradientsParams,
    layers: Vec<(String, Sums)>,
    error: Option<TrainingError>,
}

impl ModuleVisitor for Visitor<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Batch norm's running statistics have none.
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        let values = match gradient.try_into_data() {
            Ok(values) => values,
            Err(error) => {
                self.error.get_or_insert(TrainingError::backend(error));
                return;
            }
        };
        let layer = layer_name(&self.path);
        if self.layers.last().is_none_or(|(last, _)| *last != layer) {
            self.layers.push((layer, Sums::default()));
        }
        if let Some((_, sums)) = self.layers.last_mut() {
            values.iter::<f64>().for_each(|value| sums.take(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        tensor::{Device, TensorData},
        train::TrainStep,
    };
    use kindling_data::ImageBatch;
    use kindling_models::{ImageShape, ModelName};

    use super::*;

    /// All gradients in the network's order.
    struct Numbers<'a> {
        gradients: &'a GradientsParams,
        found: Vec<f64>,
    }

    impl ModuleVisitor for Numbers<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = self.gradients.get::<D>(param.id).map(Tensor::into_data);
            self.found.extend(values.iter().flat_map(|values| values.iter::<f64>()));
        }
    }

    #[test]
    fn statistics_are_those_of_the_numbers_themselves_and_leave_none_out() {
        let device = Device::flex().autodiff();
        let network = ModelName::Cnn.config(None).unwrap().init(ImageShape::MNIST, 1, &device).unwrap();
        let model = Classifier::new(network, 0.0);
        let pixels: Vec<f32> = (0..4 * 784).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
        let images = Tensor::<4>::from_data(TensorData::new(pixels, [4, 1, 28, 28]), &device);
        let targets = Tensor::from_data(TensorData::new(vec![0, 3, 3, 9], [4]), &device);
        let output = model.step(ImageBatch { images, targets, whole: 4 });
        let record = statistics(&model, &output.grads).unwrap();
        let names: Vec<_> = record.layers.iter().map(|layer| layer.layer.as_str()).collect();
        assert_eq!(names, ["conv1", "bn1", "conv2", "bn2", "fc1", "fc2"]);
        assert_eq!(record.layers.iter().map(|layer| layer.parameters).sum::<usize>(), 421_834);
        // The numbers themselves, one after another.
        let mut numbers = Numbers { gradients: &output.grads, found: Vec::new() };
        model.visit(&mut numbers);
        let count = numbers.found.len() as f64;
        assert_eq!(numbers.found.len(), 421_834);
        let mean = numbers.found.iter().sum::<f64>() / count;
        let mean_abs = numbers.found.iter().map(|number| number.abs()).sum::<f64>() / count;
        let norm = numbers.found.iter().map(|number| number.powi(2)).sum::<f64>().sqrt();
        // Sums in f64 of half a million numbers, in another order.
        assert!((record.mean - mean).abs() < 1e-9 * mean_abs, "{} {mean}", record.mean);
        assert!((record.mean_abs / mean_abs - 1.0).abs() < 1e-9 && (record.norm / norm - 1.0).abs() < 1e-9);
        // The last layer's are the last.
        let last = &numbers.found[421_834 - 1_290..];
        let mean_abs = last.iter().map(|number| number.abs()).sum::<f64>() / 1_290.0;
        assert!((record.layers[5].mean_abs / mean_abs - 1.0).abs() < 1e-9);
        // The parts make up the whole.
        let squares: f64 = record.layers.iter().map(|layer| layer.norm.powi(2)).sum();
        assert!((squares.sqrt() / record.norm - 1.0).abs() < 1e-12);
        let sum: f64 = record.layers.iter().map(|layer| layer.mean * layer.parameters as f64).sum();
        // Both are sums of the same numbers in f64, in another order.
        assert!((sum / 421_834.0 - record.mean).abs() < 1e-12 * record.mean_abs);
        assert!(record.mean.abs() <= record.mean_abs && record.mean_abs > 0.0);
    }
}
