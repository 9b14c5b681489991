//! Training and inference steps on random images, to be timed.

use std::time::{Duration, Instant};

use burn::{
    optim::ModuleOptimizer,
    tensor::{Device, FloatDType},
};
use kindling_config::Config;
use kindling_data::{ImageBatch, ImageSet, ImageSource, Normalization};
use kindling_kernels::Kernels;
use kindling_models::{ImageShape, Network, NetworkConfig};
use kindling_training::{DeferredSums, LearningRates, Order, Step, Sums, Totals, batches, training_step};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::{
    ClassificationError, Classifier, fit::check_planes, init_optimizer, learning_rates, optimizer::check_optimizer,
    run::fresh_for,
};

/// Images that batches are made from: 26 MB at 28x28, more than the caches hold.
pub const IMAGES: usize = 32_768;

/// What is timed.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// The images' shape and the number of classes.
    pub shape: ImageShape,
    /// Images in a batch; optimizer, precision and the rest are the config's.
    pub batch_size: usize,
    /// Whether a step trains, or only runs the network forward.
    pub trains: bool,
    /// The order of the images: a shuffled one is gathered, the file's is made of slices.
    pub order: Order,
    /// Chosen anew for every run: workloads with others take turns in one program.
    pub kernels: Kernels,
}

/// A network on a device, with everything made that its steps need.
pub trait Workload {
    /// Images in the batch of a step.
    fn images(&self) -> usize;

    /// Takes `steps` steps and waits for the device; losses, or numbers of correct images, are read back as training and
    /// evaluation do: see [`DeferredSums`].
    ///
    /// # Errors
    /// When the device fails, an earlier run failed, or a loss is not finite.
    fn run(&mut self, steps: usize) -> Result<Duration, ClassificationError>;
}

/// The workload of any network.
struct Steps<N: Network> {
    config: WorkloadConfig,
    /// Taken while the optimizer changes it: with a single owner, it does so in place.
    model: Option<Classifier<N>>,
    optimizer: ModuleOptimizer,
    rates: LearningRates,
    source: ImageSource,
    /// What steps measured, until it is read.
    deferred: DeferredSums<()>,
    /// The epoch that the next run begins with, from 1.
    epoch: usize,
    /// With autodiff where a step trains.
    device: Device,
}

/// Makes the workload of `network` on `device`, which has no autodiff and takes `largest` bytes in one piece.
pub(crate) fn workload<C: NetworkConfig>(
    network: &C,
    config: &Config,
    workload: WorkloadConfig,
    device: &Device,
    largest: Option<u64>,
) -> Result<Box<dyn Workload>, ClassificationError> {
    workload.kernels.choose();
    let device = if workload.trains { device.clone().autodiff() } else { device.clone() };
    let model = fresh_for(network, config, workload.shape, &device)?;
    if workload.trains {
        check_planes(network, config, workload.shape, workload.batch_size)?;
        check_optimizer(&config.optimizer, &config.network, &model)?;
    }
    // Whole batches only, so that every step is the same work; a copy of a smaller set would fit the caches.
    let images = IMAGES.next_multiple_of(workload.batch_size);
    let source = ImageSource::new(random_images(workload.shape, images)?, Normalization::default(), "random");
    Ok(Box::new(Steps {
        optimizer: init_optimizer(&config.optimizer, &model),
        rates: learning_rates(&config.optimizer, &model),
        model: Some(model),
        source: source.with_largest(largest),
        deferred: DeferredSums::new(&device),
        epoch: 1,
        device,
        config: workload,
    }))
}

impl<N: Network> Workload for Steps<N> {
    fn images(&self) -> usize {
        self.config.batch_size
    }

    fn run(&mut self, steps: usize) -> Result<Duration, ClassificationError> {
        self.config.kernels.choose();
        self.device.sync().map_err(ClassificationError::backend)?;
        let start = Instant::now();
        // Nothing waits: it is only told that steps begin.
        self.deferred.read()?;
        let (mut left, mut loss) = (steps, 0.0);
        while left > 0 {
            let (source, device) = (&self.source, &self.device);
            let epoch = batches(source, self.config.batch_size, None, self.config.order, self.epoch, device);
            self.epoch += 1;
            for batch in epoch.take(left) {
                let model = self.model.take();
                let model = model.ok_or_else(|| ClassificationError::backend("an earlier step failed"))?;
                let (sums, gradients) = if self.config.trains {
                    let Step { sums, gradients } = training_step(&model, batch?)?;
                    (sums, Some(gradients))
                } else {
                    (infer(&model.network, batch?), None)
                };
                self.deferred.push((), sums);
                if self.deferred.is_due() {
                    loss += losses(&self.deferred.read()?);
                }
                self.model = Some(match gradients {
                    Some(gradients) => self.optimizer.step(self.rates.scaled(1.0), model, gradients),
                    None => model,
                });
                left -= 1;
            }
        }
        loss += losses(&self.deferred.read()?);
        self.device.sync().map_err(ClassificationError::backend)?;
        let seconds = start.elapsed();
        if f64::is_finite(loss) {
            Ok(seconds)
        } else {
            Err(ClassificationError::backend(format!("expected finite losses, found {loss}")))
        }
    }
}

/// Runs the network forward, and counts the correct images.
fn infer<N: Network>(network: &N, batch: ImageBatch) -> Sums {
    let images = batch.targets.dims()[0];
    let logits = network.forward(batch.images); // [batch, classes]
    let correct = logits.argmax(1).squeeze_dim::<1>(1).equal(batch.targets); // [batch]
    Sums::new(images, [correct.float().cast(FloatDType::F32).sum()])
}

/// The sum of the mean losses of steps that were read.
fn losses(read: &[((), Totals)]) -> f64 {
    read.iter().map(|((), totals)| totals.loss()).sum()
}

pub(crate) fn random_images(shape: ImageShape, count: usize) -> Result<ImageSet, ClassificationError> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let ImageShape { channels, height, width, classes } = shape;
    let mut pixels = vec![0; count * channels * height * width];
    random.fill(&mut pixels[..]);
    let labels = (0..count).map(|_| random.random_range(0..classes) as u16).collect();
    Ok(ImageSet::new(pixels, labels, [channels, height, width])?)
}
