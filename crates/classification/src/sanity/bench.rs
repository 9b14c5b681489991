//! What checks have in common: the network with a batch of images, and what one of them finds.

use burn::tensor::Device;
use kindling_config::Config;
use kindling_data::{ImageBatch, ImageData, ImageSet, ImageSource};
use kindling_models::NetworkConfig;
use kindling_training::{Order, Step, Totals, batches, epoch_order, training_step};
use serde::Serialize;

use crate::{
    ClassificationError, Classifier, init_optimizer, learning_rates,
    run::{clipped, fresh, seeded},
    splits::{normalization, source, splits, train_source},
};

/// Images in the batch that most checks look at.
const BATCH: usize = 64;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub passed: bool,
    /// How it should be.
    pub wanted: String,
    /// How it is.
    pub found: String,
    /// What to look at where it is not.
    pub advice: &'static str,
}

/// Where the checks compute.
#[derive(Clone, Copy, Debug)]
pub struct CheckDevice<'a> {
    /// A device without autodiff.
    pub device: &'a Device,
    /// How many bytes it takes in one piece, where that is known.
    pub largest: Option<u64>,
    /// Whether the same steps give the same bits on it.
    pub repeats_bits: bool,
}

/// What the checks share.
pub(super) struct Bench<'a, C> {
    pub(super) network: &'a C,
    /// Without label smoothing and class weights, so that the loss of a uniform prediction is known; all layers are
    /// trained, from fresh weights.
    pub(super) config: Config,
    pub(super) data: &'a ImageData,
    train: ImageSet,
    pub(super) device: Device,
    pub(super) repeats_bits: bool,
    /// The first images of an epoch in shuffled order, as they are and as training sees them.
    pub(super) plain: ImageSource,
    pub(super) augmented: ImageSource,
}

impl<'a, C: NetworkConfig> Bench<'a, C> {
    pub(super) fn new(
        network: &'a C,
        config: &Config,
        data: &'a ImageData,
        place: CheckDevice<'_>,
    ) -> Result<Self, ClassificationError> {
        let train = splits(config, data)?.train;
        let order = epoch_order(Order::Shuffled { seed: config.training.seed }, 1, train.count());
        let first: Vec<usize> = order.into_iter().take(BATCH).collect();
        let images = train.select(&first);
        let mut config = config.clone();
        config.training.label_smoothing = 0.0;
        config.training.class_weights = None;
        let normalization = normalization(&config, &train)?;
        let CheckDevice { device, largest, repeats_bits } = place;
        Ok(Self {
            network,
            data,
            device: device.clone().autodiff(),
            repeats_bits,
            plain: source(&config, data, images.clone(), "train", &normalization, largest),
            augmented: train_source(&config, data, images, &normalization, largest),
            config,
            train,
        })
    }

    pub(super) fn model(&self) -> Result<Classifier<C::Network>, ClassificationError> {
        fresh(self.network, &self.config, self.data, &self.train, &self.device)
    }

    /// All the images, as they are.
    pub(super) fn batch(&self) -> Result<ImageBatch, ClassificationError> {
        first_batch(&self.plain, Order::File, 0, &self.device)
    }

    /// The gradients of a batch, where a network that draws at random draws the same each time.
    pub(super) fn step(&self, model: &Classifier<C::Network>, batch: ImageBatch) -> Result<Step, ClassificationError> {
        Ok(seeded(&self.device, self.config.training.seed, || training_step(model, batch))?)
    }

    /// Trains on `batches`, until `is_enough` or a loss that is not finite, and gives the losses.
    pub(super) fn train(
        &self,
        batches: impl Iterator<Item = Result<ImageBatch, ClassificationError>>,
        mut is_enough: impl FnMut(&Totals) -> bool,
    ) -> Result<Vec<f64>, ClassificationError> {
        let mut model = self.model()?;
        let mut optimizer = init_optimizer(&self.config.optimizer, &model);
        let rates = learning_rates(&self.config.optimizer, &model);
        let mut losses = Vec::new();
        for batch in batches {
            let Step { gradients, sums } = training_step(&model, batch?)?;
            let totals = sums.read()?;
            losses.push(totals.loss());
            if is_enough(&totals) || !totals.loss().is_finite() {
                break;
            }
            let gradients = clipped(&self.config, &model, gradients);
            model = optimizer.step(rates.scaled(1.0), model, gradients);
        }
        Ok(losses)
    }

    /// The loss of a uniform prediction.
    pub(super) fn chance_loss(&self) -> f64 {
        (self.data.classes.len() as f64).ln()
    }
}

/// The first batch of an epoch, of all the images there are.
pub(super) fn first_batch(
    source: &ImageSource,
    order: Order,
    epoch: usize,
    device: &Device,
) -> Result<ImageBatch, ClassificationError> {
    let first = batches(source, BATCH, None, order, epoch, device).next().transpose()?;
    first.ok_or_else(|| ClassificationError::backend("expected images to train on, found none"))
}
