use burn::tensor::{Device, FloatDType, activation::softmax};
use kindling_config::Config;
use kindling_data::{ImageSet, ImageSource, Normalization};
use kindling_models::Network;
use kindling_training::{Order, batches};

use crate::ClassificationError;

/// A row of class probabilities for each of `images`, by `network` on `device`, which has no autodiff and takes `largest`
/// bytes in one piece.
///
/// The config says how large a batch is; its limit of batches does not count.
///
/// # Errors
/// When the device fails.
pub fn probabilities<N: Network>(
    network: &N,
    config: &Config,
    images: &ImageSet,
    normalization: &Normalization,
    device: &Device,
    largest: Option<u64>,
) -> Result<Vec<Vec<f32>>, ClassificationError> {
    let source = ImageSource::new(images.clone(), normalization.clone(), "").with_largest(largest);
    let mut rows = Vec::with_capacity(images.count());
    for batch in batches(&source, config.training.batch_size, None, Order::File, 0, device) {
        let logits = network.forward(batch?.images); // [batch, classes]
        let classes = logits.dims()[1];
        let probabilities = softmax(logits.cast(FloatDType::F32), 1); // [batch, classes]
        let numbers = probabilities.try_into_data().map_err(ClassificationError::backend)?;
        let numbers: Vec<f32> = numbers.iter::<f32>().collect();
        rows.extend(numbers.chunks_exact(classes).map(<[f32]>::to_vec));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};
    use kindling_models::{ImageShape, MlpConfig, NetworkConfig};
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn every_image_gets_the_softmax_of_its_own_logits_beyond_any_limit_of_batches() {
        let device = Device::flex();
        let config = fixtures::config(json!({
            "network": { "name": "mlp", "hidden": [6] },
            "training": { "batch_size": 2, "limit_batches": 1 },
        }));
        let shape = ImageShape { channels: 3, height: 2, width: 2, classes: 5 };
        let network = MlpConfig { hidden: vec![6] }.init(shape, 1, &device).unwrap();
        let bytes: Vec<u8> = (0..60).map(|byte| byte * 4).collect();
        let images = ImageSet::new(bytes.clone(), vec![0; 5], [3, 2, 2]).unwrap();
        let (mean, std) = ([0.25, 0.5, 0.75], [0.5]);
        let normalization = Normalization::new(&mean, &std);
        let rows = probabilities(&network, &config, &images, &normalization, &device, None).unwrap();
        assert_eq!(rows.len(), 5);
        for (row, bytes) in rows.iter().zip(bytes.chunks(12)) {
            let normal = |(place, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - mean[place / 4] as f32) / 0.5;
            let pixels: Vec<f32> = bytes.iter().enumerate().map(normal).collect();
            let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 2, 2]), &device);
            let logits: Vec<f64> = network.forward(pixels).into_data().iter::<f64>().collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            for (found, logit) in row.iter().zip(&logits) {
                // Five exponentials in f32, of logits from a batch of another size.
                assert!((f64::from(*found) - logit.exp() / sum).abs() < 1e-5, "{row:?}, logits {logits:?}");
            }
        }
        assert!(rows[0] != rows[4], "each image has a row of its own");
    }
}
