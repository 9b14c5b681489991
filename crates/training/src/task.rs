use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{FloatDType, Tensor},
};
use kindling_record::{MetricRecord, Metrics, TestRecord};

use crate::TrainingError;

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
        let mut totals = Totals::default();
        for batch in batches {
            totals.add(&self.evaluate(batch?).read()?);
        }
        Ok(TestRecord { metrics: totals.metrics("test", Self::METRICS), confusion: None })
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
    pub(crate) fn record(&self) -> MetricRecord {
        let (name, unit) = (self.name.to_owned(), self.unit.map(str::to_owned));
        MetricRecord { name, higher_is_better: self.higher_is_better, unit }
    }
}

/// Sums of a task's metrics over the samples of a batch, on the device.
#[derive(Clone, Debug)]
pub struct Sums {
    samples: usize,
    sums: Vec<Tensor<1>>,
}

impl Sums {
    /// Sums over `samples` samples: a tensor `[1]` for each of the task's metrics, in their order.
    ///
    /// They may carry autodiff; no gradient flows through them.
    #[must_use]
    pub fn new(samples: usize, sums: impl IntoIterator<Item = Tensor<1>>) -> Self {
        // Where a half type counts, it would stop at 2,048.
        let sums = sums.into_iter().map(|sum| sum.without_autodiff().cast(FloatDType::F32)).collect();
        Self { samples, sums }
    }

    /// Waits for the device and reads them.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(self) -> Result<Totals, TrainingError> {
        let sums = match self.sums.len() {
            0 => return Ok(Totals { samples: self.samples, sums: Vec::new() }),
            _ => Tensor::cat(self.sums, 0), // [metrics]
        };
        let sums = sums.try_into_data().map_err(TrainingError::backend)?;
        Ok(Totals { samples: self.samples, sums: sums.iter::<f64>().collect() })
    }
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

/// The gradients of a batch, and what it measured.
pub struct Step {
    /// Of the mean loss over the batch.
    pub gradients: GradientsParams,
    /// Sums over its samples.
    pub totals: Totals,
}

/// Computes the gradients of a batch on one device.
///
/// # Errors
/// When the device fails, or the task measures something else than it says.
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
    Ok(Step { gradients, totals: sums.read()? })
}
