use burn::tensor::{Device, FloatDType, Tensor, activation::softmax};
use kindling_config::{Config, Fit};
use kindling_data::{DataError, ImageSet, ImageSource, Normalization, photo::Preparation};
use kindling_models::ImageShape;
use kindling_record::{ImagesRecord, RunDirectory, RunRecord};
use kindling_training::{Order, batches};

use crate::{AnyNetwork, ClassificationError, TrainedNetwork, Views, network::guarded, splits::recorded_normalization};

/// A run's network in memory, with what images need on their way into it.
pub struct Predictor {
    network: Box<dyn TrainedNetwork>,
    normalization: Normalization,
    views: Views,
    shape: ImageShape,
    batch_size: usize,
    device: Device,
    /// The most bytes that the device takes in one piece, where that is known.
    largest: Option<u64>,
}

impl Predictor {
    /// Reads the weights of the run in `directory`, of this record and config, onto a device without autodiff.
    ///
    /// # Errors
    /// When the run was not trained on images, or its weights cannot be read or belong to another network.
    pub fn open(
        network: &dyn AnyNetwork,
        config: &Config,
        record: &RunRecord,
        directory: &RunDirectory,
        (device, largest): (&Device, Option<u64>),
    ) -> Result<Self, ClassificationError> {
        let images = record.dataset.images.as_ref();
        let images = images.ok_or_else(|| DataError::Unusable("the run was not trained on images".to_owned()))?;
        let &ImagesRecord { channels, height, width, .. } = images;
        let shape = ImageShape { channels, height, width, classes: images.classes.len() };
        Ok(Self {
            network: network.trained(config, directory, shape, device)?,
            normalization: recorded_normalization(config, record, channels)?,
            views: Views::of(config),
            shape,
            batch_size: config.training.batch_size,
            device: device.clone(),
            largest,
        })
    }

    /// Averages the logits over these views of each image instead of those of the run's config.
    #[must_use]
    pub fn viewed(self, views: Views) -> Self {
        Self { views, ..self }
    }

    /// What the network takes and gives.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Returns the probability of each class for each of `images`, in batches of the run's size: the softmax of the mean
    /// logits over the views.
    ///
    /// The images have the size and the channels of those that the run was trained on, and their bytes mean the same;
    /// they are normalized as those were, and their labels do not matter.
    ///
    /// # Errors
    /// When the images have another shape, or the device fails.
    pub fn probabilities(&self, images: &ImageSet) -> Result<Vec<Vec<f32>>, ClassificationError> {
        self.rows(images, |logits| softmax(logits, 1))
    }

    /// Returns the logit of each class for each of `images`, as [`probabilities`](Self::probabilities) does.
    ///
    /// # Errors
    /// As there.
    pub fn logits(&self, images: &ImageSet) -> Result<Vec<Vec<f32>>, ClassificationError> {
        self.rows(images, |logits| logits)
    }

    /// The rows of what `finish` makes of the logits of each batch, in f32.
    ///
    /// # Shapes
    /// - logits, and what becomes of them: `[batch, classes]`
    fn rows(
        &self,
        images: &ImageSet,
        finish: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Result<Vec<Vec<f32>>, ClassificationError> {
        let ImageShape { channels, height, width, classes } = self.shape;
        if images.shape() != [channels, height, width] {
            let message = format!(
                "expected images of [channels, height, width] {:?}, found {:?}",
                [channels, height, width],
                images.shape()
            );
            return Err(DataError::Unusable(message).into());
        }
        let source = ImageSource::new(images.clone(), self.normalization.clone(), "").with_largest(self.largest);
        guarded(|| {
            let mut rows = Vec::with_capacity(images.count());
            for batch in batches(&source, self.batch_size, None, Order::File, 0, &self.device) {
                let logits = self.views.mean_logits(batch?.images, |images| self.network.logits(images));
                let logits = logits.cast(FloatDType::F32); // [batch, classes]
                let numbers = finish(logits).try_into_data().map_err(ClassificationError::backend)?;
                let numbers: Vec<f32> = numbers.iter::<f32>().collect();
                rows.extend(numbers.chunks_exact(classes).map(<[f32]>::to_vec));
            }
            Ok(rows)
        })
    }
}

/// How a picture becomes an image like those of a run; `fit` is the one of its config.
#[must_use]
pub fn preparation(images: &ImagesRecord, fit: Fit) -> Preparation {
    Preparation {
        shape: [images.channels, images.height, images.width],
        fit: (images.fit.is_some() || images.channels != 1).then_some(fit),
        background: images.background,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use kindling_models::{MlpConfig, Network, NetworkConfig};

    use super::*;

    #[test]
    fn every_image_gets_its_own_logits_and_their_softmax() {
        let device = Device::flex();
        let shape = ImageShape { channels: 3, height: 2, width: 2, classes: 5 };
        let network = MlpConfig { hidden: vec![6] }.init(shape, 1, &device).unwrap();
        let bytes: Vec<u8> = (0..60).map(|byte| byte * 4).collect();
        let images = ImageSet::new(bytes.clone(), vec![0; 5], [3, 2, 2]).unwrap();
        let (mean, std) = ([0.25, 0.5, 0.75], [0.5]);
        let predictor = Predictor {
            network: Box::new(network.clone()),
            normalization: Normalization::new(&mean, &std),
            views: Views::default(),
            shape,
            batch_size: 2,
            device: device.clone(),
            largest: None,
        };
        let (rows, logits) = (predictor.probabilities(&images).unwrap(), predictor.logits(&images).unwrap());
        assert_eq!((rows.len(), logits.len()), (5, 5));
        for ((row, logits), bytes) in rows.iter().zip(&logits).zip(bytes.chunks(12)) {
            let normal = |(place, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - mean[place / 4] as f32) / 0.5;
            let pixels: Vec<f32> = bytes.iter().enumerate().map(normal).collect();
            let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 2, 2]), &device);
            let expected: Vec<f64> = network.forward(pixels).into_data().iter::<f64>().collect();
            let sum: f64 = expected.iter().map(|logit| logit.exp()).sum();
            for ((found, logit), expected) in row.iter().zip(logits).zip(&expected) {
                // Logits in f32 from a batch of another size, and five exponentials of them.
                assert!((f64::from(*logit) - expected).abs() < 1e-5, "{logits:?}, {expected}");
                assert!((f64::from(*found) - expected.exp() / sum).abs() < 1e-5, "{row:?}, logits {logits:?}");
            }
        }
        assert!(rows[0] != rows[4], "each image has a row of its own");
        let other = ImageSet::new(vec![0; 4], vec![0], [1, 2, 2]).unwrap();
        let refused = predictor.probabilities(&other).unwrap_err().to_string();
        assert_eq!(refused, "expected images of [channels, height, width] [3, 2, 2], found [1, 2, 2]");
    }
}
