use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use burn::{
    data::dataloader::DataLoader,
    tensor::{Device, FloatDType, activation::softmax},
};
use kindling_data::{BatchLoader, DeviceSplit, ImageSet, Normalization, Order};
use kindling_models::{ImageShape, Network};
use kindling_record::{RecordError, RunDirectory};

use crate::{ExperimentConfig, Settings, TrainingError, run::message};

/// The probability of each class for each of `images`, by the weights of the finished run in `directory`, on `device`,
/// which has no autodiff and takes `largest` bytes in one piece.
///
/// The images have the size of those that the run was trained on, and their bytes mean the same; their labels do not
/// matter.
///
/// # Errors
/// When the weights cannot be read or are for images of another size, or the device fails.
pub fn predict(
    directory: &RunDirectory,
    images: &ImageSet,
    device: &Device,
    largest: Option<u64>,
) -> Result<Vec<Vec<f32>>, TrainingError> {
    let record = directory.read_record()?;
    let config = Settings::from_object(record.config)?.resolve()?;
    let [height, width] = images.size();
    let shape = ImageShape { height, width, classes: record.dataset.classes.len() };
    contained(|| {
        let network = trained_network(directory, &config, shape, device)?;
        probabilities(&network, &config, images, device, largest)
    })
}

/// The network with the weights that the run in `directory` ended with.
pub(crate) fn trained_network(
    directory: &RunDirectory,
    config: &ExperimentConfig,
    shape: ImageShape,
    device: &Device,
) -> Result<Network, TrainingError> {
    let path = directory.weights();
    let weights = fs::read(&path).map_err(|source| RecordError::Io { path, source })?;
    Ok(config.network()?.init(shape, config.seed, device)?.with_safetensors(weights)?)
}

/// Runs `work`, and turns a panic into an error: Burn panics where a backend fails.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T, TrainingError>) -> Result<T, TrainingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(TrainingError::backend(message(&*panic))))
}

/// A row of probabilities for each image, whatever the config says about the number of batches.
fn probabilities(
    network: &Network,
    config: &ExperimentConfig,
    images: &ImageSet,
    device: &Device,
    largest: Option<u64>,
) -> Result<Vec<Vec<f32>>, TrainingError> {
    let normalization = Normalization { mean: config.pixel_mean as f32, deviation: config.pixel_deviation as f32 };
    let split = DeviceSplit::new(images, normalization, device, largest);
    let loader = BatchLoader::new(split, config.batch_size, Order::File, device);
    let mut rows = Vec::with_capacity(images.count());
    for batch in loader.iter() {
        let batch = batch.map_err(TrainingError::backend)?;
        let logits = network.forward(batch.images); // [batch, classes]
        let classes = logits.dims()[1];
        let probabilities = softmax(logits.cast(FloatDType::F32), 1); // [batch, classes]
        let numbers = probabilities.try_into_data().map_err(TrainingError::backend)?;
        let numbers: Vec<f32> = numbers.iter::<f32>().collect();
        rows.extend(numbers.chunks_exact(classes).map(<[f32]>::to_vec));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};
    use kindling_models::ModelName;

    use super::*;

    #[test]
    fn every_image_gets_the_softmax_of_its_own_logits_beyond_any_limit_of_batches() {
        let device = Device::flex();
        let settings = Settings {
            model: Some(ModelName::Mlp),
            hidden: Some(vec![6]),
            batch_size: Some(2),
            limit_batches: Some(1),
            pixel_mean: Some(0.25),
            pixel_deviation: Some(0.5),
            ..Settings::default()
        };
        let config = settings.resolve().unwrap();
        let shape = ImageShape { height: 3, width: 4, classes: 5 };
        let network = config.network().unwrap().init(shape, 1, &device).unwrap();
        let bytes: Vec<u8> = (0..60).map(|byte| byte * 4).collect();
        let images = ImageSet::new(bytes.clone(), vec![0; 5], 3, 4).unwrap();
        let rows = probabilities(&network, &config, &images, &device, None).unwrap();
        assert_eq!(rows.len(), 5);
        for (row, bytes) in rows.iter().zip(bytes.chunks(12)) {
            let pixels: Vec<f32> = bytes.iter().map(|&byte| (f32::from(byte) / 255.0 - 0.25) / 0.5).collect();
            let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 1, 3, 4]), &device);
            let logits: Vec<f64> = network.forward(pixels).into_data().iter::<f64>().collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            for (found, logit) in row.iter().zip(&logits) {
                // Five exponentials in f32, of logits from a batch of another size.
                assert!((f64::from(*found) - logit.exp() / sum).abs() < 1e-5, "{row:?}, logits {logits:?}");
            }
        }
        assert!(rows[0] != rows[4], "each image has a row of its own");
    }

    #[test]
    fn a_panic_of_the_backend_is_an_error_with_its_message() {
        let error = contained::<()>(|| panic!("out of memory")).unwrap_err();
        assert_eq!(error.to_string(), "training failed: out of memory");
    }
}
