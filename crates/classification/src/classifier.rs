use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{FloatDType, Int, Tensor, TensorReadError},
    train::{InferenceStep, ItemLazy, TrainOutput, TrainStep},
};
use kindling_data::ImageBatch;
use kindling_kernels as kernels;
use kindling_models::Network;

/// A network with its loss: what burn-train trains.
#[derive(Module, Debug)]
pub struct Classifier {
    /// Maps images to logits.
    pub network: Network,
    /// Share of the target spread evenly over the classes during training.
    label_smoothing: f64,
}

impl Classifier {
    /// Trains `network` on the cross entropy with the given label smoothing.
    #[must_use]
    pub fn new(network: Network, label_smoothing: f64) -> Self {
        Self { network, label_smoothing }
    }
}

/// The cross entropy of each image, in nats and in f32: with smoothing `s`, `(1 - s)` of it against the target and `s` against
/// the even distribution, as PyTorch's `cross_entropy` has it.
///
/// # Shapes
/// - logits: `[batch, classes]`
/// - targets: `[batch]`
/// - output: `[batch]`
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>, label_smoothing: f64) -> Tensor<1> {
    // In f32 whatever the network computes in: half a type's range is soon too little for sums of exponentials.
    kernels::cross_entropy(logits.cast(FloatDType::F32), targets, label_smoothing)
}

/// What a step leaves for the metrics: on the device first, and numbers once it is read.
// There is one at a time; a box would only add an allocation to every step.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum BatchOutput {
    /// `[2]`: the sum of the losses and the number of correct images.
    OnDevice(Tensor<1>, usize),
    /// Read back.
    Read(BatchFigures),
}

/// The figures of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchFigures {
    /// Number of images.
    pub images: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// How many were classified correctly.
    pub correct: usize,
    /// The speed of training so far in this epoch.
    pub images_per_second: f64,
}

impl BatchFigures {
    /// Mean loss.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images as f64
    }

    /// Counts the images of `other` as well.
    pub(crate) fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
    }

    /// Fraction of correct images.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}

impl BatchOutput {
    fn new(logits: Tensor<2>, targets: Tensor<1, Int>, losses: Tensor<1>) -> Self {
        let images = targets.dims()[0];
        let predicted = logits.argmax(1).squeeze_dim::<1>(1); // [batch]
        // Where `float` makes a half type, it would stop counting at 256.
        let correct = predicted.equal(targets).float().cast(FloatDType::F32).sum(); // [1]
        Self::OnDevice(Tensor::cat(vec![losses.sum(), correct], 0), images)
    }

    /// Waits for the device and reads the figures.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(self) -> Result<BatchFigures, TensorReadError> {
        match self {
            Self::Read(figures) => Ok(figures),
            Self::OnDevice(sums, images) => {
                let sums: Vec<f64> = sums.try_into_data()?.iter::<f64>().collect();
                let (loss_sum, correct) = (sums[0], sums[1]);
                // The count is a whole number that an f32 holds exactly: batches have far fewer than 2^24 images.
                Ok(BatchFigures { images, loss_sum, correct: correct as usize, images_per_second: 0.0 })
            }
        }
    }
}

impl ItemLazy for BatchOutput {
    fn sync(self) -> Result<Self, burn::tensor::ExecutionError> {
        Ok(self)
    }
}

impl TrainStep for Classifier {
    type Input = ImageBatch;
    type Output = BatchOutput;

    fn step(&self, batch: ImageBatch) -> TrainOutput<BatchOutput> {
        let images = batch.targets.dims()[0];
        let logits = self.network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), self.label_smoothing); // [batch]
        // The shares' gradients add up to those of the mean over the whole batch.
        let objective = if images == batch.whole {
            losses.clone().mean()
        } else {
            losses.clone().sum().div_scalar(batch.whole as f64)
        };
        let gradients = GradientsParams::from_grads(objective.backward(), self);
        let output = BatchOutput::new(logits.inner(), batch.targets.inner(), losses.inner());
        TrainOutput { grads: gradients, item: output }
    }
}

impl InferenceStep for Classifier {
    type Input = ImageBatch;
    type Output = BatchOutput;

    fn step(&self, batch: ImageBatch) -> BatchOutput {
        let logits = self.network.forward(batch.images); // [batch, classes]
        let losses = cross_entropy(logits.clone(), batch.targets.clone(), 0.0); // [batch]
        BatchOutput::new(logits, batch.targets, losses)
    }
}
