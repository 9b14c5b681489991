//! Training and inference steps on random images, to be timed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use burn::{
    data::dataloader::DataLoader,
    optim::ModuleOptimizer,
    tensor::{Device, Distribution, Tensor},
    train::TrainStep,
};
use kindling_data::{BatchLoader, DeviceSplit, ImageSet, Normalization, Order};
use kindling_kernels::Kernels;
use kindling_models::{ImageShape, ModelName};
use kindling_training::{BatchFigures, Classifier, LearningRates, Settings, init_optimizer};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::arguments::{Batches, Mode};

/// Images that batches are made from: 26 MB as f32, more than the caches hold.
pub(crate) const IMAGES: usize = 8192;

/// What is timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) model: ModelName,
    /// Widths of the hidden layers, where they are not the model's own.
    pub(crate) hidden: Option<Vec<usize>>,
    pub(crate) batch: usize,
    pub(crate) mode: Mode,
    pub(crate) batches: Batches,
}

/// A task on a device, with everything made that its steps need.
pub(crate) struct Workload {
    mode: Mode,
    /// Chosen anew for every run: workloads with others take turns in one program.
    kernels: Kernels,
    /// Taken while the optimizer changes it: with a single owner, it does so in place.
    model: Option<Classifier>,
    optimizer: ModuleOptimizer,
    rates: LearningRates,
    loader: BatchLoader,
    device: Device,
}

impl Workload {
    /// For a device that takes `largest` bytes in one piece.
    pub(crate) fn new(task: &Task, device: &Device, largest: Option<u64>, kernels: Kernels) -> Result<Self> {
        kernels.choose();
        let settings = Settings {
            model: Some(task.model),
            hidden: task.hidden.clone(),
            batch_size: Some(task.batch),
            learning_rate: Some(0.01),
            ..Settings::default()
        };
        let config = settings.resolve()?;
        let device = match task.mode {
            Mode::Train => device.clone().autodiff(),
            Mode::Infer => device.clone(),
        };
        let network = config.network()?.init(ImageShape::MNIST, config.seed, &device)?;
        let model = Classifier::new(network, 0.0);
        let order = match task.batches {
            Batches::Gather => Order::Shuffled { seed: config.seed },
            Batches::Slice => Order::File,
        };
        // Whole batches only, so that every step is the same work; a copy of a smaller set would fit the caches.
        let images = IMAGES.next_multiple_of(task.batch);
        let split = DeviceSplit::new(&random_images(images)?, Normalization::default(), &device, largest);
        let loader = BatchLoader::new(split, task.batch, order, &device);
        let rates = LearningRates::new(&config, &model);
        Ok(Self {
            mode: task.mode,
            kernels,
            optimizer: init_optimizer(&config, &model),
            model: Some(model),
            rates,
            loader,
            device,
        })
    }

    /// Takes `steps` steps and waits for the device; each reads its loss back, as training does.
    pub(crate) fn run(&mut self, steps: usize) -> Result<Duration> {
        self.kernels.choose();
        let mut left = steps;
        let mut loss = 0.0;
        self.device.sync()?;
        let start = Instant::now();
        while left > 0 {
            let batches = self.loader.starting_at(1, 0);
            for batch in batches.iter().take(left) {
                let batch = batch.context("the next batch")?;
                let model = self.model.take().context("an earlier step failed")?;
                let (model, figures) = match self.mode {
                    Mode::Train => {
                        let output = TrainStep::step(&model, batch);
                        let figures = output.item.read()?;
                        (self.optimizer.step(self.rates.scaled(1.0), model, output.grads), figures)
                    }
                    Mode::Infer => {
                        let logits = model.network.forward(batch.images); // [batch, classes]
                        let correct = logits.argmax(1).squeeze_dim::<1>(1).equal(batch.targets).int().sum(); // [1]
                        correct.try_into_data()?;
                        (model, BatchFigures { images: 1, ..BatchFigures::default() })
                    }
                };
                self.model = Some(model);
                loss += figures.loss();
                left -= 1;
            }
        }
        self.device.sync()?;
        let seconds = start.elapsed();
        anyhow::ensure!(f64::is_finite(loss), "expected finite losses, found {loss}");
        Ok(seconds)
    }
}

/// Makes an error of a panic: Burn panics where a backend fails, and the others' figures must not be lost with it.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| bail!("it failed; what it said is above"))
}

/// The rate of a product of two square matrices of f32 in GFLOP/s: the best of several.
pub(crate) fn matmul_gflops(device: &Device, size: usize, repeats: usize) -> Result<f64> {
    let [a, b] = [(); 2].map(|()| Tensor::<2>::random([size, size], Distribution::Uniform(-1.0, 1.0), device));
    let mut best = Duration::MAX;
    // The first compiles kernels, and is never the best.
    for _ in 0..=repeats {
        device.sync()?;
        let start = Instant::now();
        // Held until the device is done, since a lazy backend leaves out what nobody holds.
        let product = a.clone().matmul(b.clone());
        device.sync()?;
        best = best.min(start.elapsed());
        drop(product);
    }
    Ok(2.0 * (size as f64).powi(3) / best.as_secs_f64() / 1e9)
}

fn random_images(count: usize) -> Result<ImageSet> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let ImageShape { height, width, classes } = ImageShape::MNIST;
    let pixels = (0..count * height * width).map(|_| random.random()).collect();
    let labels = (0..count).map(|_| random.random_range(0..classes) as u8).collect();
    ImageSet::new(pixels, labels, height, width).context("random images")
}
