use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{FloatDType, Tensor, Transaction},
};
use kindling_record::{MetricRecord, Metrics, TestRecord};

use crate::{DeferredSums, FixedBatch, TrainingError};

/// A trainable Burn module with its loss and metrics.
///
/// [`train`](Self::train) runs on a device with autodiff and [`evaluate`](Self::evaluate) on one without, with dropout and
/// the like switched off.
pub trait Task: Module + 'static {
    /// The input of a training or evaluation step, made by a [`Source`](crate::Source).
    type Batch: Send + 'static;

    /// What a step measures, the loss first.
    const METRICS: &'static [Metric];

    /// Path of the module inside the task whose names weights files and messages use: with `network`, the parameter
    /// `network.fc1.weight` is written as `fc1.weight`. Parameters outside it keep their whole paths.
    const ROOT: &'static str = "";

    /// Plural name of samples, for messages and plots.
    const SAMPLES: &'static str = "samples";

    /// Returns the loss of a batch, to be minimized, with the sums of the metrics over its samples.
    fn train(&self, batch: Self::Batch) -> Objective;

    /// Returns the sums of the metrics over the samples of a batch.
    fn evaluate(&self, batch: Self::Batch) -> Sums;

    /// Evaluates the run's final weights on the test split.
    ///
    /// # Errors
    /// When a batch cannot be made or the device fails.
    fn test(
        &self,
        batches: &mut dyn Iterator<Item = Result<Self::Batch, TrainingError>>,
    ) -> Result<TestRecord, TrainingError> {
        let device = self.devices().into_iter().next().unwrap_or_default();
        let (mut deferred, mut totals) = (DeferredSums::new(&device), Totals::default());
        for batch in batches {
            deferred.push((), self.evaluate(batch?));
            if deferred.is_due() {
                deferred.read()?.iter().for_each(|((), read)| totals.add(read));
            }
        }
        deferred.read()?.iter().for_each(|((), read)| totals.add(read));
        Ok(TestRecord {
            metrics: totals.metrics("test", Self::METRICS),
            confusion: None,
            test_time_augmentation: Vec::new(),
        })
    }
}

/// A number that a task measures, as a mean over samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, such as `loss`: in records it follows the split, as in `valid/loss`.
    pub name: &'static str,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// Its unit, if it has one.
    pub unit: Option<&'static str>,
}

impl Metric {
    /// The loss.
    pub const LOSS: Self = Self::lower("loss");
    /// The fraction of samples that are classified correctly.
    pub const ACCURACY: Self = Self::higher("accuracy");

    /// A metric of which smaller values are better.
    #[must_use]
    pub const fn lower(name: &'static str) -> Self {
        Self { name, higher_is_better: false, unit: None }
    }

    /// A metric of which larger values are better.
    #[must_use]
    pub const fn higher(name: &'static str) -> Self {
        Self { name, higher_is_better: true, unit: None }
    }

    /// As records have it.
    #[must_use]
    pub fn record(&self) -> MetricRecord {
        let (name, unit) = (self.name.to_owned(), self.unit.map(str::to_owned));
        MetricRecord { name, higher_is_better: self.higher_is_better, unit }
    }
}

/// Sums of a task's metrics over the samples of a batch, on the device.
#[derive(Clone, Debug)]
pub struct Sums {
    samples: usize,
    /// For each metric a tensor `[1]` for each part of the batch, on the device that computed it.
    sums: Vec<Vec<Tensor<1>>>,
}

impl Sums {
    /// Sums over `samples` samples: a tensor `[1]` for each of the task's metrics, in their order.
    ///
    /// They may carry autodiff; no gradient flows through them.
    #[must_use]
    pub fn new(samples: usize, sums: impl IntoIterator<Item = Tensor<1>>) -> Self {
        // Where a half type counts, it would stop at 2,048.
        let sums = sums.into_iter().map(|sum| vec![sum.without_autodiff().cast(FloatDType::F32)]).collect();
        Self { samples, sums }
    }

    /// Adds the samples of another part of the batch, which may be on another device; nothing is read or moved.
    pub(crate) fn join(&mut self, other: Self) {
        self.samples += other.samples;
        self.sums.iter_mut().zip(other.sums).for_each(|(sums, other)| sums.extend(other));
    }

    /// The same in memory of their own.
    pub(crate) fn in_own_memory(&self) -> Self {
        let own = |parts: &Vec<_>| parts.iter().map(Tensor::in_own_memory).collect();
        Self { samples: self.samples, sums: self.sums.iter().map(own).collect() }
    }

    /// Writes `sums` into the memory of these; false where that cannot be.
    pub(crate) fn overwrite(&mut self, sums: &Self) -> bool {
        let (to, from) = (self.sums.iter_mut().flatten(), sums.sums.iter().flatten());
        self.samples == sums.samples && to.zip(from).all(|(to, from)| to.overwrite(from))
    }

    /// Waits for the device and reads them: see [`DeferredSums`] for those of many steps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(self) -> Result<Totals, TrainingError> {
        Ok(read_all(&[self])?.remove(0))
    }
}

/// Reads all of these with one wait for each device.
pub(crate) fn read_all(all: &[Sums]) -> Result<Vec<Totals>, TrainingError> {
    let tensors: Vec<&Tensor<1>> = all.iter().flat_map(|sums| sums.sums.iter().flatten()).collect();
    let mut numbers = vec![f64::NAN; tensors.len()];
    let mut left: Vec<usize> = (0..tensors.len()).collect();
    while let Some(&first) = left.first() {
        let device = tensors[first].device();
        let (here, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|&index| tensors[index].device() == device);
        let register = |transaction: Transaction, &index: &usize| transaction.register(tensors[index].clone());
        let data = here.iter().fold(Transaction::default(), register).try_execute().map_err(TrainingError::backend)?;
        for (index, data) in here.into_iter().zip(data) {
            numbers[index] = data.iter::<f64>().next().unwrap_or(f64::NAN);
        }
        left = others;
    }
    let mut numbers = numbers.into_iter();
    let mut sum = |parts: &Vec<Tensor<1>>| numbers.by_ref().take(parts.len()).reduce(|a, b| a + b).unwrap_or(f64::NAN);
    let totals =
        |Sums { samples, sums }: &Sums| Totals { samples: *samples, sums: sums.iter().map(&mut sum).collect() };
    Ok(all.iter().map(totals).collect())
}

/// Sums of a task's metrics over samples, read back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Number of samples.
    pub samples: usize,
    /// The sum of each metric, in the task's order.
    pub sums: Vec<f64>,
}

impl Totals {
    /// The mean of the metric at this place over the samples; NaN where there is none.
    #[must_use]
    pub fn mean(&self, metric: usize) -> f64 {
        self.sums.get(metric).map_or(f64::NAN, |sum| sum / self.samples as f64)
    }

    /// The mean loss.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.mean(0)
    }

    /// Whether the loss is a finite number.
    pub(crate) fn is_finite(&self) -> bool {
        self.sums.first().is_some_and(|sum| sum.is_finite())
    }

    /// Adds the samples of `other`.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.sums.resize(other.sums.len().max(self.sums.len()), 0.0);
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
    }

    /// The means by name, as a split's in a record.
    #[must_use]
    pub fn metrics(&self, split: &str, metrics: &[Metric]) -> Metrics {
        let named = metrics.iter().enumerate();
        Metrics(named.map(|(index, metric)| (format!("{split}/{}", metric.name), self.mean(index))).collect())
    }
}

/// The loss to minimize in a training step, and its metrics.
#[derive(Clone, Debug)]
pub struct Objective {
    loss: Tensor<1>,
    sums: Sums,
}

impl Objective {
    /// Creates it from `loss`, `[1]`: the mean over the batch, to be minimized.
    #[must_use]
    pub fn new(loss: Tensor<1>, sums: Sums) -> Self {
        Self { loss, sums }
    }
}

/// The gradients of a batch, and what it measured; both on the device.
pub struct Step {
    /// Of the mean loss over the batch.
    pub gradients: GradientsParams,
    /// Sums over its samples.
    pub sums: Sums,
}

/// Computes the gradients of a batch on one device, without waiting for it.
///
/// # Errors
/// When the task measures something else than it says.
pub fn training_step<T: Task>(task: &T, batch: T::Batch) -> Result<Step, TrainingError> {
    weighted_step(task, batch, |_| 1.0)
}

/// As [`training_step`], with the loss of a batch of so many samples multiplied by `weight`.
pub(crate) fn weighted_step<T: Task>(
    task: &T,
    batch: T::Batch,
    weight: impl FnOnce(usize) -> f64,
) -> Result<Step, TrainingError> {
    let Objective { loss, sums } = task.train(batch);
    if sums.sums.len() != T::METRICS.len() || sums.samples == 0 {
        return Err(TrainingError::Task(format!(
            "expected sums of {} metrics over at least one sample, found {} over {}",
            T::METRICS.len(),
            sums.sums.len(),
            sums.samples
        )));
    }
    let weight = weight(sums.samples);
    let loss = if weight < 1.0 { loss.mul_scalar(weight) } else { loss };
    let gradients = GradientsParams::from_grads(loss.backward(), task);
    Ok(Step { gradients, sums })
}
