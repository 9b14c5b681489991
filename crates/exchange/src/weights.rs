//! The weights of a run as files of their own, with what it takes to use them.

use std::{collections::BTreeMap, fs};

use burn::tensor::Device;
use kindling_training::weights::with_metadata;
use serde_json::json;

use crate::{ExchangeError, ExportedRun};

/// The run's `model.safetensors`, with the names of the classes, the network's config and the run's id among its metadata.
///
/// # Errors
/// When the weights cannot be read, or the run was not trained on images.
pub fn safetensors(run: &ExportedRun<'_>) -> Result<Vec<u8>, ExchangeError> {
    let path = run.directory.weights();
    let file = fs::read(&path).map_err(ExchangeError::io(path))?;
    Ok(with_metadata(&file, &metadata(run)?)?)
}

/// The weights as Burn's own file, for the module that the run trained: names and layout are Burn's.
///
/// A Burn program that has this module loads it:
///
/// ```no_run
/// use burn::{nn::LinearConfig, store::{BurnpackStore, ModuleSnapshot}, tensor::Device};
///
/// let mut network = LinearConfig::new(784, 10).init(&Device::default());
/// network.load_from(&mut BurnpackStore::from_file("mlp.bpk"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As for [`safetensors`], and when the device fails.
pub fn burn(run: &ExportedRun<'_>, device: &Device) -> Result<Vec<u8>, ExchangeError> {
    let network = run.network.trained(run.config, run.directory, run.shape()?, device)?;
    Ok(network.burnpack(&metadata(run)?)?)
}

/// What the use of the weights takes beside them, each as JSON but for texts: the classes, the images' shape, the numbers
/// that pixels in `[0, 1]` are normalized by, the network, and where it comes from.
///
/// # Errors
/// When the run was not trained on images.
pub fn metadata(run: &ExportedRun<'_>) -> Result<BTreeMap<String, String>, ExchangeError> {
    let (shape, normalization) = (run.shape()?, run.normalization()?);
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let entries = [
        ("channels", json!(shape.channels)),
        ("height", json!(shape.height)),
        ("width", json!(shape.width)),
        ("classes", json!(run.classes())),
        ("pixel_mean", json!(normalization.mean)),
        ("pixel_std", json!(normalization.std)),
        ("network", json!(run.config.network)),
        ("dataset", json!(run.record.dataset.name)),
        ("run", json!(run.record.id)),
        ("kindling", json!(env!("CARGO_PKG_VERSION"))),
    ];
    Ok(entries.map(|(name, value)| (name.to_owned(), text(&value))).into())
}
