use burn::{
    module::Module,
    tensor::{FloatDType, Int, Tensor},
};
use kindling_data::ImageBatch;
use kindling_models::Network;
use kindling_record::TestRecord;
use kindling_training::{Metric, Objective, Sums, Task, TrainingError};

use crate::{cross_entropy, evaluate};

/// What a classifier measures.
pub(crate) const METRICS: [Metric; 2] = [Metric::LOSS, Metric::ACCURACY];

/// A network with its loss: the [`Task`] of image classification.
// The derive looks for the name `Module` among the bounds.
#[derive(Module, Debug)]
pub struct Classifier<N: Module> {
    /// Maps images to logits.
    pub network: N,
    /// Share of the target spread evenly over the classes during training.
    label_smoothing: f64,
}

impl<N: Network> Classifier<N> {
    /// Trains `network` on the cross entropy with the given label smoothing.
    #[must_use]
    pub fn new(network: N, label_smoothing: f64) -> Self {
        Self { network, label_smoothing }
    }
}

impl<N: Network> Task for Classifier<N> {
    type Batch = ImageBatch;

    const METRICS: &'static [Metric] = &METRICS;
    const ROOT: &'static str = "network";
    const SAMPLES: &'static str = "images";

    fn train(&self, batch: ImageBatch) -> Objective {
        let logits = self.network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), self.label_smoothing); // [batch]
        let sums = sums(logits.without_autodiff(), batch.targets.inner(), losses.clone().without_autodiff());
        Objective::new(losses.mean(), sums)
    }

    fn evaluate(&self, batch: ImageBatch) -> Sums {
        let logits = self.network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0); // [batch]
        sums(logits, batch.targets, losses)
    }

    /// Adds the confusion matrix.
    fn test(
        &self,
        batches: &mut dyn Iterator<Item = Result<ImageBatch, TrainingError>>,
    ) -> Result<TestRecord, TrainingError> {
        Ok(evaluate(&self.network, batches)?.into())
    }
}

/// The sum of the losses and the number of correct images.
fn sums(logits: Tensor<2>, targets: Tensor<1, Int>, losses: Tensor<1>) -> Sums {
    let images = targets.dims()[0];
    let predicted = logits.argmax(1).squeeze_dim::<1>(1); // [batch]
    // Where `float` makes a half type, it would stop counting at 256.
    let correct = predicted.equal(targets).float().cast(FloatDType::F32).sum(); // [1]
    Sums::new(images, [losses.sum(), correct])
}
