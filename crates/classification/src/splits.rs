//! What a config makes of a data set: its splits, and sources of their batches.

use burn::tensor::FloatDType;
use kindling_config::{Augmentation, Config, Precision, Protocol};
use kindling_data::{ImageData, ImageSet, ImageSource, Normalization, Splits, assignment_splits, validated_splits};
use kindling_models::ImageShape;
use kindling_record::{DatasetRecord, ImagesRecord, RunRecord};
use kindling_training::{Order, TrainingError};

use crate::ClassificationError;

/// The splits that the config's protocol makes.
///
/// # Errors
/// When there are too few images for a validation split.
pub fn splits(config: &Config, data: &ImageData) -> Result<Splits, ClassificationError> {
    match config.protocol {
        Protocol::Validated(_) => Ok(validated_splits(data, config.training.seed)?),
        Protocol::Assignment(_) => Ok(assignment_splits(data)),
    }
}

/// What a network must take and give for `data`.
#[must_use]
pub fn image_shape(data: &ImageData) -> ImageShape {
    let [height, width] = data.train.size();
    ImageShape { channels: 1, height, width, classes: data.classes.len() }
}

/// The source of the training split, with the config's augmentations, for devices that take `largest` bytes in one piece.
#[must_use]
pub fn train_source(config: &Config, data: &ImageData, train: ImageSet, largest: Option<u64>) -> ImageSource {
    let augmentations: Vec<_> = config.data.augment.iter().map(|&name| augmentation(name)).collect();
    source(config, data, train, "train", largest).augmented_by(&augmentations, config.training.seed)
}

/// The source of any split for evaluation; `split` is its name.
#[must_use]
pub fn source(config: &Config, data: &ImageData, set: ImageSet, split: &str, largest: Option<u64>) -> ImageSource {
    // The test split is the same in every protocol and for every seed, and without a validation split so is the other.
    let digest = match config.protocol {
        Protocol::Validated(_) if split != "test" => {
            format!("{} {split} validated, seed {}", data.sha256, config.training.seed)
        }
        _ => format!("{} {split}", data.sha256),
    };
    ImageSource::new(set, normalization(config), digest).with_largest(largest)
}

/// The config's normalization of pixels.
#[must_use]
pub fn normalization(config: &Config) -> Normalization {
    // Pixels are f32 on every device.
    Normalization { mean: config.data.pixel_mean as f32, std: config.data.pixel_std as f32 }
}

/// The order of the training images.
#[must_use]
pub fn train_order(config: &Config) -> Order {
    match config.protocol.order() {
        kindling_config::Order::File => Order::File,
        kindling_config::Order::Shuffled => Order::Shuffled { seed: config.training.seed },
    }
}

/// The number type of tensors in a precision.
#[must_use]
pub fn dtype(precision: Precision) -> FloatDType {
    match precision {
        Precision::F32 => FloatDType::F32,
        Precision::Bf16 => FloatDType::BF16,
        Precision::F16 => FloatDType::F16,
    }
}

/// Checks that `data` is what the run of `record` was trained on.
///
/// # Errors
/// [`TrainingError::OtherData`] when it is not.
pub fn check_data(record: &RunRecord, data: &ImageData) -> Result<(), TrainingError> {
    if record.dataset.sha256 == data.sha256 {
        return Ok(());
    }
    Err(TrainingError::OtherData {
        wanted: format!("{} with SHA-256 {}", record.dataset.name, record.dataset.sha256),
        found: format!("{} with SHA-256 {}", data.name, data.sha256),
    })
}

/// The data set as the run's record has it.
pub(crate) fn dataset_record(config: &Config, data: &ImageData, splits: &Splits) -> DatasetRecord {
    let (limit, batch_size) = (config.training.limit_batches, config.training.batch_size);
    let limit = limit.map_or(usize::MAX, |batches| batches.saturating_mul(batch_size));
    let limited = |set: &ImageSet| set.count().min(limit);
    let [height, width] = data.train.size();
    DatasetRecord {
        name: data.name.clone(),
        sha256: data.sha256.clone(),
        train: limited(&splits.train),
        valid: splits.valid.as_ref().map_or(0, limited),
        test: limited(&splits.test),
        images: Some(ImagesRecord {
            source: data.source.as_ref().map(|path| path.display().to_string()),
            protocol: config.protocol.name().to_owned(),
            classes: data.classes.clone(),
            height,
            width,
            background: splits.train.background(),
        }),
    }
}

fn augmentation(name: Augmentation) -> kindling_data::Augmentation {
    match name {
        Augmentation::Shift => kindling_data::Augmentation::Shift,
        Augmentation::Flip => kindling_data::Augmentation::Flip,
        Augmentation::Erase => kindling_data::Augmentation::Erase,
    }
}
