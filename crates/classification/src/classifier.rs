use burn::{
    module::Module,
    tensor::{FloatDType, Int, Tensor},
};
use kindling_data::{ImageBatch, Mixed};
use kindling_models::Network;
use kindling_record::TestRecord;
use kindling_training::{Metric, Objective, Sums, Task, TrainingError};

use crate::{
    Views, evaluate,
    loss::{BatchLoss, batch_loss, cross_entropy},
};

/// What a classifier measures.
pub(crate) const METRICS: [Metric; 2] = [Metric::LOSS, Metric::ACCURACY];

/// A network with its loss: the [`Task`] of image classification.
///
/// `train/loss` is the loss that is minimized, with label smoothing, class weights and mixed targets; evaluations have
/// the plain cross entropy.
// The derive looks for the name `Module` among the bounds.
#[derive(Module, Debug)]
pub struct Classifier<N: Module> {
    /// Maps images to logits.
    pub network: N,
    /// Share of the target spread evenly over the classes during training.
    label_smoothing: f64,
    /// Weight of each class in the training loss; none where all weigh the same.
    #[module(skip)]
    class_weights: Option<Vec<f64>>,
    /// What the final test sees of each image.
    #[module(skip)]
    views: Views,
}

impl<N: Network> Classifier<N> {
    /// Trains `network` on the cross entropy with the given label smoothing.
    #[must_use]
    pub fn new(network: N, label_smoothing: f64) -> Self {
        Self { network, label_smoothing, class_weights: None, views: Views::default() }
    }

    /// Weighs each image in the training loss by the weight of its class, as PyTorch's
    /// `CrossEntropyLoss(weight, label_smoothing)` does: the mean over a batch is `Σ w l / Σ w`.
    ///
    /// A batch that is computed in parts, one after the other or on several devices, takes the mean of each part by
    /// that part's own weights, and adds the parts up by their numbers of images.
    ///
    /// # Panics
    /// In training, when there are fewer weights than classes.
    #[must_use]
    pub fn weighted(self, class_weights: impl Into<Option<Vec<f64>>>) -> Self {
        Self { class_weights: class_weights.into(), ..self }
    }

    /// Tests each image by the mean of the logits of these views; the evaluations after the epochs see the image alone.
    #[must_use]
    pub fn viewed(self, views: Views) -> Self {
        Self { views, ..self }
    }
}

impl<N: Network> Task for Classifier<N> {
    type Batch = ImageBatch;

    const METRICS: &'static [Metric] = &METRICS;
    const ROOT: &'static str = "network";
    const SAMPLES: &'static str = "images";

    fn train(&self, ImageBatch { images, targets, mixed }: ImageBatch) -> Objective {
        let logits = self.network.forward(images); // [batch, classes]
        let BatchLoss { mean, sum } =
            batch_loss(&logits, &targets, mixed.as_ref(), self.label_smoothing, self.class_weights.as_deref());
        // Of a mixed image the class with the larger share counts.
        let targets = match mixed {
            Some(Mixed { targets: other, share }) => targets.mask_where(share.greater_elem(0.5), other),
            None => targets,
        };
        Objective::new(mean, sums(logits.without_autodiff(), targets.inner(), sum.without_autodiff()))
    }

    fn evaluate(&self, batch: ImageBatch) -> Sums {
        let logits = self.network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0); // [batch]
        sums(logits, batch.targets, losses.sum())
    }

    /// Adds the confusion matrix, and the views of each image.
    fn test(
        &self,
        batches: &mut dyn Iterator<Item = Result<ImageBatch, TrainingError>>,
    ) -> Result<TestRecord, TrainingError> {
        Ok(evaluate(&self.network, &self.views, batches)?.into())
    }
}

/// The sum of the losses, `[1]`, and the number of correct images.
fn sums(logits: Tensor<2>, targets: Tensor<1, Int>, loss: Tensor<1>) -> Sums {
    let images = targets.dims()[0];
    let predicted = logits.argmax(1).squeeze_dim::<1>(1); // [batch]
    // Where `float` makes a half type, it would stop counting at 256.
    let correct = predicted.equal(targets).float().cast(FloatDType::F32).sum(); // [1]
    Sums::new(images, [loss, correct])
}
