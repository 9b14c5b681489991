use burn::{
    data::dataloader::DataLoader,
    tensor::{FloatDType, Tensor, activation::softmax},
};
use kindling_data::ImageBatch;
use kindling_models::Network;
use kindling_record::TestRecord;

use crate::{
    TrainingError,
    classification::{Prediction, confusion},
    cross_entropy,
};

/// The figures of a network on a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy over the images, in nats.
    pub loss: f64,
    /// Fraction of correctly classified images.
    pub accuracy: f64,
    /// `confusion[target][predicted]` counts images.
    pub confusion: Vec<Vec<usize>>,
}

/// Evaluates `network`, which must be on a device without autodiff, on one epoch of `loader`; returns nothing if
/// `should_stop`, called after each batch, says so.
///
/// # Errors
/// When the data or the device fails.
pub fn evaluate(
    network: &Network,
    loader: &dyn DataLoader<ImageBatch>,
    classes: usize,
    should_stop: &mut dyn FnMut() -> bool,
) -> Result<Option<Evaluation>, TrainingError> {
    let seen = look(network, loader, should_stop, &mut |_| Ok(()))?;
    Ok(seen.map(|seen| seen.evaluation(classes)))
}

/// As [`evaluate`], with what the network makes of each image, in the loader's order.
///
/// # Errors
/// When the data or the device fails.
pub(crate) fn evaluate_each(
    network: &Network,
    loader: &dyn DataLoader<ImageBatch>,
    classes: usize,
) -> Result<(Evaluation, Vec<Prediction>), TrainingError> {
    let mut confidences: Vec<f32> = Vec::new();
    let seen = look(network, loader, &mut || false, &mut |logits| {
        // In f32 as the loss: a half type would leave three digits.
        let largest = softmax(logits.clone().cast(FloatDType::F32), 1).max_dim(1); // [batch, 1]
        confidences.extend(largest.try_into_data().map_err(TrainingError::backend)?.iter::<f32>());
        Ok(())
    })?;
    let Some(seen) = seen else { return Err(TrainingError::backend("the evaluation was stopped")) };
    let predictions = seen.pairs.iter().zip(confidences);
    let predictions =
        predictions.map(|(&(target, predicted), confidence)| Prediction::new(target, predicted, confidence));
    let predictions = predictions.collect();
    Ok((seen.evaluation(classes), predictions))
}

/// What one epoch of a loader has shown.
struct Seen {
    loss_sum: f64,
    /// Target and predicted class of each image.
    pairs: Vec<(usize, usize)>,
}

impl Seen {
    fn evaluation(&self, classes: usize) -> Evaluation {
        let confusion = confusion(&self.pairs, classes);
        let correct: usize = (0..classes).map(|class| confusion[class][class]).sum();
        let images = self.pairs.len() as f64;
        Evaluation { loss: self.loss_sum / images, accuracy: correct as f64 / images, confusion }
    }
}

/// The one loop: runs `network` over `loader` and shows every batch's logits `[batch, classes]` to `see`.
fn look(
    network: &Network,
    loader: &dyn DataLoader<ImageBatch>,
    should_stop: &mut dyn FnMut() -> bool,
    see: &mut dyn FnMut(&Tensor<2>) -> Result<(), TrainingError>,
) -> Result<Option<Seen>, TrainingError> {
    let mut seen = Seen { loss_sum: 0.0, pairs: Vec::with_capacity(loader.num_items()) };
    for batch in loader.iter() {
        let batch = batch.map_err(TrainingError::backend)?;
        let logits = network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0).sum(); // [1]
        see(&logits)?;
        let predicted = logits.argmax(1).squeeze_dim::<1>(1); // [batch]
        seen.loss_sum += losses.try_into_data().map_err(TrainingError::backend)?.iter::<f64>().sum::<f64>();
        let targets = batch.targets.try_into_data().map_err(TrainingError::backend)?;
        let predicted = predicted.try_into_data().map_err(TrainingError::backend)?;
        // What is no class at all is counted nowhere.
        let class = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        seen.pairs.extend(targets.iter::<i64>().map(class).zip(predicted.iter::<i64>().map(class)));
        if should_stop() {
            return Ok(None);
        }
    }
    Ok(Some(seen))
}

impl From<Evaluation> for TestRecord {
    fn from(evaluation: Evaluation) -> Self {
        let Evaluation { loss, accuracy, confusion } = evaluation;
        Self { loss, accuracy, confusion }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use kindling_data::{BatchLoader, DeviceSplit, Normalization, Order, synthetic};
    use kindling_models::{ImageShape, MlpConfig, NetworkConfig};

    use super::*;

    #[test]
    fn keeping_the_predictions_changes_no_figure_and_gives_one_for_each_image() {
        let device = Device::flex();
        let network = NetworkConfig::Mlp(MlpConfig { hidden: vec![8] }).init(ImageShape::MNIST, 1, &device).unwrap();
        // The last batch has a single image.
        let images = synthetic::draw().test.select(&(0..65).collect::<Vec<_>>());
        let split = DeviceSplit::new(&images, Normalization::default(), &device, None);
        let loader = BatchLoader::new(split, 16, Order::File, &device);
        let plain = evaluate(&network, &loader, 10, &mut || false).unwrap().unwrap();
        let (kept, predictions) = evaluate_each(&network, &loader, 10).unwrap();
        assert_eq!(plain, kept);
        assert_eq!(plain.confusion.iter().flatten().sum::<usize>(), 65);
        assert_eq!(predictions.len(), 65);
        // Softmax by hand, in f64.
        let pixels: Vec<f32> = images.pixels().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [65, 1, 28, 28]), &device);
        let logits: Vec<f64> = network.forward(pixels).into_data().iter::<f64>().collect();
        for ((logits, prediction), &label) in logits.chunks(10).zip(&predictions).zip(images.labels()) {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let confidence = 1.0 / logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>();
            // Ten exponentials in f32, of logits from batches of another size.
            assert!((prediction.confidence - confidence).abs() < 1e-5, "{prediction:?}, by hand {confidence}");
            assert!((logits[prediction.predicted] - largest).abs() < 1e-5, "{prediction:?}: {logits:?}");
            assert_eq!(prediction.target, usize::from(label));
        }
    }

    #[test]
    fn an_evaluation_is_asked_to_stop_after_each_batch_and_then_returns_nothing() {
        let device = Device::flex();
        let network = NetworkConfig::Mlp(MlpConfig { hidden: vec![] }).init(ImageShape::MNIST, 1, &device).unwrap();
        let split = DeviceSplit::new(&synthetic::draw().test, Normalization::default(), &device, None);
        let loader = BatchLoader::new(split, 400, Order::File, &device);
        // 1,000 images: three batches.
        for (stop_after, is_whole) in [(1, false), (3, false), (4, true)] {
            let mut batches = 0;
            let evaluation = evaluate(&network, &loader, 10, &mut || {
                batches += 1;
                batches == stop_after
            });
            assert_eq!((evaluation.unwrap().is_some(), batches), (is_whole, stop_after.min(3)));
        }
    }
}
