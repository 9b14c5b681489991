use std::collections::BTreeMap;

use burn::tensor::{FloatDType, Tensor, TensorData, Transaction, activation::softmax};
use kindling_data::ImageBatch;
use kindling_models::Network;
use kindling_record::{Metrics, TestRecord};
use kindling_training::TrainingError;

use crate::{
    Views, cross_entropy,
    predictions::{Prediction, confusion},
};

/// The metrics of a network on a split.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy over the images, in nats.
    pub loss: f64,
    /// Fraction of correctly classified images.
    pub accuracy: f64,
    /// `confusion[target][predicted]` counts images.
    pub confusion: Vec<Vec<usize>>,
    /// The views of each image.
    pub views: Views,
}

impl From<Evaluation> for TestRecord {
    fn from(Evaluation { loss, accuracy, confusion, views }: Evaluation) -> Self {
        let metrics = [("test/loss", loss), ("test/accuracy", accuracy)];
        let metrics: BTreeMap<_, _> = metrics.map(|(name, value)| (name.to_owned(), value)).into();
        Self { metrics: Metrics(metrics), confusion: Some(confusion), test_time_augmentation: views.names() }
    }
}

/// The batches that an evaluation goes through.
type Batches<'a> = dyn Iterator<Item = Result<ImageBatch, TrainingError>> + 'a;

/// Evaluates `network`, which must be on a device without autodiff, on `batches`, by these views of each image.
///
/// # Errors
/// When a batch cannot be made or the device fails.
pub fn evaluate<N: Network>(
    network: &N,
    views: &Views,
    batches: &mut Batches<'_>,
) -> Result<Evaluation, TrainingError> {
    Ok(look(network, views, batches, &mut |_, _| Ok(()))?.evaluation(views))
}

/// As [`evaluate`], with what the network makes of each image, in their order.
///
/// # Errors
/// When a batch cannot be made or the device fails.
pub fn evaluate_each<N: Network>(
    network: &N,
    views: &Views,
    batches: &mut Batches<'_>,
) -> Result<(Evaluation, Vec<Prediction>), TrainingError> {
    let mut predictions = Vec::new();
    let seen = look(network, views, batches, &mut |logits, pairs| {
        // In f32 as the loss: a half type would leave three digits.
        let logits = logits.clone().cast(FloatDType::F32);
        let classes = logits.dims()[1].max(1);
        let largest = softmax(logits.clone(), 1).max_dim(1); // [batch, 1]
        let confidences = largest.try_into_data().map_err(TrainingError::backend)?;
        let logits = logits.try_into_data().map_err(TrainingError::backend)?;
        let logits: Vec<f32> = logits.iter::<f32>().collect();
        let images = logits.chunks_exact(classes).zip(confidences.iter::<f32>()).zip(pairs);
        predictions.extend(images.map(|((logits, confidence), &(target, predicted))| {
            Prediction::new(target, predicted, confidence).ranked(rank(logits, target))
        }));
        Ok(())
    })?;
    Ok((seen.evaluation(views), predictions))
}

/// The place of `target` among the classes, the most probable first, from 1; of equals the first class comes first, and
/// what is no number is above all.
fn rank(logits: &[f32], target: usize) -> usize {
    let own = logits.get(target).copied().unwrap_or(f32::NAN);
    let is_below = |(class, logit): (usize, &f32)| *logit < own || (*logit <= own && class > target);
    let others = logits.iter().enumerate().filter(|(class, _)| *class != target);
    1 + others.filter(|other| !is_below(*other)).count()
}

/// What the batches have shown.
#[derive(Default)]
struct Seen {
    classes: usize,
    loss_sum: f64,
    /// Target and predicted class of each image.
    pairs: Vec<(usize, usize)>,
}

impl Seen {
    fn evaluation(&self, views: &Views) -> Evaluation {
        let confusion = confusion(&self.pairs, self.classes);
        let correct: usize = (0..self.classes).map(|class| confusion[class][class]).sum();
        let images = self.pairs.len() as f64;
        let (loss, accuracy) = (self.loss_sum / images, correct as f64 / images);
        Evaluation { loss, accuracy, confusion, views: views.clone() }
    }
}

/// Sees a batch's logits `[batch, classes]` with target and predicted class of each image.
type See<'a> = dyn FnMut(&Tensor<2>, &[(usize, usize)]) -> Result<(), TrainingError> + 'a;

/// The one loop: runs `network` over the views of `batches` and shows each one's logits `[batch, classes]`, with target
/// and predicted class of its images, to `see`.
fn look<N: Network>(
    network: &N,
    views: &Views,
    batches: &mut Batches<'_>,
    see: &mut See<'_>,
) -> Result<Seen, TrainingError> {
    let mut seen = Seen::default();
    for batch in batches {
        let batch = batch?;
        let logits = views.mean_logits(batch.images, |images| network.forward(images)); // [batch, classes]
        seen.classes = logits.dims()[1];
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0).sum(); // [1]
        let predicted = logits.clone().argmax(1).squeeze_dim::<1>(1); // [batch]
        // With one wait for the device.
        let read = Transaction::default().register(losses).register(batch.targets).register(predicted).try_execute();
        let [losses, targets, predicted]: [TensorData; 3] = read
            .map_err(TrainingError::backend)?
            .try_into()
            .map_err(|_| TrainingError::backend("expected three tensors"))?;
        seen.loss_sum += losses.iter::<f64>().sum::<f64>();
        // What is no class at all is counted nowhere.
        let class = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
        let before = seen.pairs.len();
        seen.pairs.extend(targets.iter::<i64>().map(class).zip(predicted.iter::<i64>().map(class)));
        see(&logits, &seen.pairs[before..])?;
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use kindling_data::{ImageSource, Normalization, synthetic};
    use kindling_models::{ImageShape, MlpConfig, NetworkConfig};
    use kindling_training::{Order, Task, batches};

    use super::*;
    use crate::Classifier;

    #[test]
    fn of_equal_logits_the_first_class_ranks_first_and_what_is_no_number_is_above() {
        assert_eq!([0, 1, 2].map(|target| rank(&[0.5, 2.0, -1.0], target)), [2, 1, 3]);
        assert_eq!([0, 1, 2].map(|target| rank(&[1.0; 3], target)), [1, 2, 3]);
        assert_eq!([0, 1].map(|target| rank(&[1.0, f32::NAN], target)), [2, 2]);
        assert_eq!(rank(&[1.0, 2.0], 7), 3);
    }

    #[test]
    fn keeping_the_predictions_changes_no_metric_and_gives_one_for_each_image() {
        let device = Device::flex();
        let network = MlpConfig { hidden: vec![8] }.init(ImageShape::MNIST, 1, &device).unwrap();
        // The last batch has a single image.
        let images = synthetic::draw().test.select(&(0..65).collect::<Vec<_>>());
        let source = ImageSource::new(images.clone(), Normalization::default(), "");
        let epoch = || batches(&source, 16, None, Order::File, 0, &device);
        let plain = evaluate(&network, &Views::default(), &mut epoch()).unwrap();
        let (kept, predictions) = evaluate_each(&network, &Views::default(), &mut epoch()).unwrap();
        assert_eq!(plain, kept);
        assert_eq!(plain.confusion.iter().flatten().sum::<usize>(), 65);
        assert_eq!(predictions.len(), 65);
        // The task's own sums and its test are the same numbers.
        let task = Classifier::new(network.clone(), 0.1);
        let record = task.test(&mut epoch()).unwrap();
        assert_eq!((record.get("loss"), record.get("accuracy")), (Some(plain.loss), Some(plain.accuracy)));
        let mut correct = 0.0;
        for batch in epoch() {
            correct += task.evaluate(batch.unwrap()).read().unwrap().sums[1];
        }
        assert!((correct / 65.0 - plain.accuracy).abs() < 1e-15);
        // Softmax by hand, in f64.
        let bytes = (0..images.count()).flat_map(|index| images.image(index));
        let pixels: Vec<f32> = bytes.map(|&byte| f32::from(byte) / 255.0).collect();
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [65, 1, 28, 28]), &device);
        let logits: Vec<f64> = network.forward(pixels).into_data().iter::<f64>().collect();
        for ((logits, prediction), &label) in logits.chunks(10).zip(&predictions).zip(images.labels()) {
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let confidence = 1.0 / logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>();
            // Ten exponentials in f32, of logits from batches of another size.
            assert!((prediction.confidence - confidence).abs() < 1e-5, "{prediction:?}, by hand {confidence}");
            assert!((logits[prediction.predicted] - largest).abs() < 1e-5, "{prediction:?}: {logits:?}");
            assert_eq!(prediction.target, usize::from(label));
            let above = logits.iter().filter(|logit| **logit > logits[prediction.target]).count();
            assert_eq!(prediction.rank, above + 1, "{prediction:?}: {logits:?}");
        }
    }
}
