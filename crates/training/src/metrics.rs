//! The figures that burn-train shows: exact means over images, not over batches.

use std::sync::Arc;

use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    tensor::TensorReadError,
    train::{
        logger::MetricLogger,
        metric::{
            Adaptor, Metric, MetricAttributes, MetricDefinition, MetricMetadata, MetricName, Numeric,
            NumericAttributes, NumericEntry, SerializedEntry,
            store::{EpochSummary, MetricsUpdate, Split},
        },
    },
};

use crate::{BatchFigures, BatchOutput};

/// A figure of a batch and its mean over the images of the epoch so far.
#[derive(Clone)]
pub(crate) struct ImageMean {
    name: MetricName,
    higher_is_better: bool,
    of_batch: fn(&BatchFigures, &MetricMetadata) -> f64,
    batch: f64,
    sum: f64,
    images: usize,
}

impl ImageMean {
    pub(crate) fn loss() -> Self {
        Self::new("Loss", false, |figures, _| figures.loss())
    }

    pub(crate) fn accuracy() -> Self {
        Self::new("Accuracy", true, |figures, _| figures.accuracy())
    }

    pub(crate) fn learning_rate() -> Self {
        Self::new("Learning rate", false, |_, metadata| metadata.lr.as_ref().map_or(0.0, ModuleLearningRate::base))
    }

    pub(crate) fn images_per_second() -> Self {
        Self::new("Images per second", true, |figures, _| figures.images_per_second)
    }

    fn new(name: &str, higher_is_better: bool, of_batch: fn(&BatchFigures, &MetricMetadata) -> f64) -> Self {
        Self { name: Arc::new(name.to_owned()), higher_is_better, of_batch, batch: 0.0, sum: 0.0, images: 0 }
    }

    fn mean(&self) -> f64 {
        if self.images == 0 { f64::NAN } else { self.sum / self.images as f64 }
    }

    fn entry(&self) -> SerializedEntry {
        let mean = self.mean();
        let shown = if mean >= 1000.0 { format!("{mean:.0}") } else { format!("{mean:.4}") };
        SerializedEntry::new(shown, mean.to_string())
    }
}

impl Metric for ImageMean {
    type Input = BatchFigures;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: self.higher_is_better }.into()
    }

    fn update(
        &mut self,
        figures: &BatchFigures,
        metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.batch = (self.of_batch)(figures, metadata);
        self.sum += self.batch * figures.images as f64;
        self.images += figures.images;
        Ok(self.entry())
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry())
    }

    fn clear(&mut self) {
        (self.sum, self.images) = (0.0, 0);
    }
}

impl Numeric for ImageMean {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.batch))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Aggregated { aggregated_value: self.mean(), count: self.images })
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

impl Adaptor<BatchFigures> for BatchOutput {
    /// The session reads every output before it hands it on; what is still on the device has no figures to show.
    fn adapt(&self) -> BatchFigures {
        match self {
            Self::Read(figures) => *figures,
            Self::OnDevice(_, images) => {
                BatchFigures { images: *images, loss_sum: f64::NAN, ..BatchFigures::default() }
            }
        }
    }
}
