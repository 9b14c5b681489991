use burn::data::dataloader::DataLoader;
use kindling_data::ImageBatch;
use kindling_models::Network;
use kindling_record::TestRecord;

use crate::{TrainingError, cross_entropy};

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

/// Evaluates `network`, which must be on a device without autodiff, on one epoch of `loader`; gives nothing if
/// `should_stop` says so before the end.
///
/// # Errors
/// When the data or the device fails.
pub fn evaluate(
    network: &Network,
    loader: &dyn DataLoader<ImageBatch>,
    classes: usize,
    should_stop: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>, TrainingError> {
    let mut confusion = vec![vec![0; classes]; classes];
    let (mut loss_sum, mut images) = (0.0, 0);
    for batch in loader.iter() {
        if should_stop() {
            return Ok(None);
        }
        let batch = batch.map_err(TrainingError::backend)?;
        let logits = network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0).sum(); // [1]
        let predicted = logits.argmax(1).squeeze_dim::<1>(1); // [batch]
        loss_sum += losses.try_into_data().map_err(TrainingError::backend)?.iter::<f64>().sum::<f64>();
        let targets = batch.targets.try_into_data().map_err(TrainingError::backend)?;
        let predicted = predicted.try_into_data().map_err(TrainingError::backend)?;
        for (target, predicted) in targets.iter::<i64>().zip(predicted.iter::<i64>()) {
            let cell = usize::try_from(target).ok().zip(usize::try_from(predicted).ok());
            if let Some(count) = cell.and_then(|(t, p)| confusion.get_mut(t)?.get_mut(p)) {
                *count += 1;
            }
            images += 1;
        }
    }
    let correct: usize = (0..classes).map(|class| confusion[class][class]).sum();
    let images = f64::from(images);
    Ok(Some(Evaluation { loss: loss_sum / images, accuracy: correct as f64 / images, confusion }))
}

impl From<Evaluation> for TestRecord {
    fn from(evaluation: Evaluation) -> Self {
        let Evaluation { loss, accuracy, confusion } = evaluation;
        Self { loss, accuracy, confusion }
    }
}
