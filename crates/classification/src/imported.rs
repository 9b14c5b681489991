//! Networks with weights that are used: those of a run, and those of a file from elsewhere.

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use kindling_config::Config;
use kindling_data::ImageData;
use kindling_models::{Network, NetworkConfig};
use kindling_record::{ClassCounts, DatasetRecord, MetricRecord};
use kindling_training::{
    Metric, Task, named_parameters, trainable_parameters,
    weights::{self, Rename, Transferred, WeightsError, WeightsFile, transfer_from},
};

use crate::{
    ClassificationError, Classifier,
    run::{fresh, weights_metadata},
    splits::{dataset_record, normalization, splits},
};

/// A network with its weights, whatever its type.
pub trait TrainedNetwork: Send {
    /// # Shapes
    /// - images, normalized: `[batch, channels, height, width]`
    /// - logits: `[batch, classes]`
    fn logits(&self, images: Tensor<4>) -> Tensor<2>;

    /// The weights as a file of Burn's own, with these entries of metadata.
    ///
    /// # Errors
    /// When a tensor cannot be read back from the device.
    fn burnpack(&self, entries: &BTreeMap<String, String>) -> Result<Vec<u8>, WeightsError>;
}

impl<N: Network> TrainedNetwork for N {
    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward(images)
    }

    fn burnpack(&self, entries: &BTreeMap<String, String>) -> Result<Vec<u8>, WeightsError> {
        weights::burnpack(self, entries)
    }
}

/// What becomes of a weights file from elsewhere: the parts of a run that was not trained here.
pub struct Imported {
    /// The content of `model.safetensors`.
    pub weights: Vec<u8>,
    /// What was taken from the file, and what not.
    pub transferred: Transferred,
    /// Number of parameters.
    pub parameters: usize,
    /// The data set: what the classes are, and what the weights can be tested on. No split of it was trained on here.
    pub dataset: DatasetRecord,
    /// What the task measures.
    pub metrics: Vec<MetricRecord>,
}

/// As [`AnyNetwork::import`](crate::AnyNetwork::import); `device` has no autodiff.
pub(crate) fn import<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    file: &WeightsFile,
    renames: &[Rename],
    device: &Device,
) -> Result<Imported, ClassificationError> {
    let splits = splits(config, data)?;
    let normalization = normalization(config, &splits.train)?;
    let root = Classifier::<C::Network>::ROOT;
    // With autodiff, so that its parameters are known as such.
    let model = fresh(network, config, data, &splits.train, &device.clone().autodiff())?.valid();
    let parameters = trainable_parameters(&named_parameters(&model.clone().unfreeze()));
    let (model, transferred) = transfer_from(model, root, file, renames)?;
    let weights = weights::with_metadata(&weights::write(&model, root)?, &weights_metadata(data, &normalization))?;
    let mut dataset = dataset_record(config, data, &splits, &normalization);
    // Which images the weights saw where they come from is not known.
    (dataset.train, dataset.valid) = (0, 0);
    if let Some(images) = &mut dataset.images {
        images.counts = ClassCounts { test: std::mem::take(&mut images.counts.test), ..ClassCounts::default() };
    }
    let metrics = Classifier::<C::Network>::METRICS.iter().map(Metric::record).collect();
    Ok(Imported { weights, transferred, parameters, dataset, metrics })
}
