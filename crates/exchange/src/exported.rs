use kindling_classification::{AnyNetwork, recorded_normalization};
use kindling_config::Config;
use kindling_data::Normalization;
use kindling_models::ImageShape;
use kindling_record::{ImagesRecord, RunDirectory, RunRecord};

use crate::ExchangeError;

/// A run whose weights can be used, with its network.
#[derive(Clone, Copy)]
pub struct ExportedRun<'a> {
    /// Its directory, which has the weights.
    pub directory: &'a RunDirectory,
    /// Its record.
    pub record: &'a RunRecord,
    /// The record's config.
    pub config: &'a Config,
    /// The network that the config names.
    pub network: &'a dyn AnyNetwork,
}

impl ExportedRun<'_> {
    /// What the record has about the images.
    ///
    /// # Errors
    /// When the run was not trained on images.
    pub fn images(&self) -> Result<&ImagesRecord, ExchangeError> {
        self.record.dataset.images.as_ref().ok_or_else(|| ExchangeError::NoImages { run: self.record.id.clone() })
    }

    /// The shape of an image, and the number of classes.
    ///
    /// # Errors
    /// As for [`images`](Self::images).
    pub fn shape(&self) -> Result<ImageShape, ExchangeError> {
        let ImagesRecord { channels, height, width, ref classes, .. } = *self.images()?;
        Ok(ImageShape { channels, height, width, classes: classes.len() })
    }

    /// How pixels in [0, 1] are normalized: one number for all channels, or one for each.
    ///
    /// # Errors
    /// As for [`images`](Self::images), and when there is neither one number nor one for each channel.
    pub fn normalization(&self) -> Result<Normalization, ExchangeError> {
        Ok(recorded_normalization(self.config, self.record, self.images()?.channels)?)
    }

    /// Names of the classes, in the order of their labels.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.record.dataset.classes()
    }
}
