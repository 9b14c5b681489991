//! What burn-train shows: exact means over samples, not over batches.

use std::sync::Arc;

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    tensor::TensorReadError,
    train::{
        ItemLazy,
        logger::MetricLogger,
        metric::{
            Adaptor, Metric as BurnMetric, MetricAttributes, MetricDefinition, MetricMetadata, MetricName, Numeric,
            NumericAttributes, NumericEntry, SerializedEntry,
            store::{EpochSummary, MetricsUpdate, Split},
        },
    },
};

use crate::{Metric, Totals};

/// What a batch measured, for the dashboard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) totals: Totals,
    /// Throughput of training so far in this epoch.
    pub(crate) samples_per_second: f64,
}

impl ItemLazy for Shown {
    fn sync(self) -> Result<Self, burn::tensor::ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Shown> for Shown {
    fn adapt(&self) -> Shown {
        self.clone()
    }
}

/// Which number of a batch.
#[derive(Clone, Copy)]
enum Of {
    Metric(usize),
    LearningRate,
    Throughput,
}

/// A number of a batch and its mean over the samples of the epoch so far.
#[derive(Clone)]
pub(crate) struct SampleMean {
    name: MetricName,
    higher_is_better: bool,
    unit: Option<String>,
    of: Of,
    batch: f64,
    sum: f64,
    samples: usize,
}

impl SampleMean {
    /// The task's metrics.
    pub(crate) fn all(metrics: &[Metric]) -> Vec<Self> {
        let one = |(index, metric): (usize, &Metric)| {
            let unit = metric.unit.map(str::to_owned);
            Self { unit, ..Self::new(&capitalized(metric.name), metric.higher_is_better, Of::Metric(index)) }
        };
        metrics.iter().enumerate().map(one).collect()
    }

    pub(crate) fn learning_rate() -> Self {
        Self::new("Learning rate", false, Of::LearningRate)
    }

    /// Of `samples` per second.
    pub(crate) fn throughput(samples: &str) -> Self {
        Self::new(&format!("{} per second", capitalized(samples)), true, Of::Throughput)
    }

    fn new(name: &str, higher_is_better: bool, of: Of) -> Self {
        let name = Arc::new(name.to_owned());
        Self { name, higher_is_better, unit: None, of, batch: 0.0, sum: 0.0, samples: 0 }
    }

    fn mean(&self) -> f64 {
        if self.samples == 0 { f64::NAN } else { self.sum / self.samples as f64 }
    }

    fn entry(&self) -> SerializedEntry {
        let mean = self.mean();
        let shown = if mean.abs() >= 1000.0 { format!("{mean:.0}") } else { format!("{mean:.4}") };
        SerializedEntry::new(shown, mean.to_string())
    }
}

/// `learning rate` as `Learning rate`.
fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl BurnMetric for SampleMean {
    type Input = Shown;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: self.unit.clone(), higher_is_better: self.higher_is_better }.into()
    }

    fn update(&mut self, shown: &Shown, metadata: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        self.batch = match self.of {
            Of::Metric(index) => shown.totals.mean(index),
            Of::LearningRate => metadata.lr.as_ref().map_or(0.0, ModuleLearningRate::base),
            Of::Throughput => shown.samples_per_second,
        };
        self.sum += self.batch * shown.totals.samples as f64;
        self.samples += shown.totals.samples;
        Ok(self.entry())
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry())
    }

    fn clear(&mut self) {
        (self.sum, self.samples) = (0.0, 0);
    }
}

impl Numeric for SampleMean {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.batch))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Aggregated { aggregated_value: self.mean(), count: self.samples })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.mean())
    }
}

/// Stands in for burn-train's metric files: `run.json` and `steps.jsonl` hold what they would.
pub(crate) struct NoMetricFiles;

impl MetricLogger for NoMetricFiles {
    fn log(&mut self, _update: MetricsUpdate, _epoch: usize, _split: &Split) {}

    fn read_numeric(&mut self, name: &str, _epoch: usize, _split: &Split) -> Result<Vec<NumericEntry>, String> {
        Err(format!("{name} is not kept in files of its own; read run.json"))
    }

    fn log_metric_definition(&mut self, _definition: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
