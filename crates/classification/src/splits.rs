//! What a config makes of a data set: its splits, and loaders of their batches.

use burn::tensor::Device;
use kindling_data::{
    BatchLoader, DeviceSplit, ImageData, ImageSet, Normalization, Order, Splits, assignment_splits, validated_splits,
};
use kindling_models::ImageShape;
use kindling_record::DatasetRecord;

use crate::{ExperimentConfig, OrderName, Protocol, TrainingError, config::name_of};

pub(crate) fn splits(config: &ExperimentConfig, data: &ImageData) -> Result<Splits, TrainingError> {
    match config.protocol {
        Protocol::Validated => Ok(validated_splits(data, config.seed)?),
        Protocol::Assignment => Ok(assignment_splits(data)),
    }
}

pub(crate) fn shape(data: &ImageData) -> ImageShape {
    let [height, width] = data.train.size();
    ImageShape { height, width, classes: data.classes.len() }
}

/// The data set as the run's record has it.
pub(crate) fn dataset(config: &ExperimentConfig, data: &ImageData, splits: &Splits) -> DatasetRecord {
    let limit = config.limit_batches.map_or(usize::MAX, |batches| batches.saturating_mul(config.batch_size));
    let limited = |set: &ImageSet| set.count().min(limit);
    let [height, width] = data.train.size();
    DatasetRecord {
        name: data.name.to_owned(),
        source: data.source.as_ref().map(|path| path.display().to_string()),
        sha256: data.sha256.clone(),
        protocol: name_of(&config.protocol),
        train: limited(&splits.train),
        valid: splits.valid.as_ref().map_or(0, limited),
        test: limited(&splits.test),
        classes: data.classes.clone(),
        height,
        width,
        background: splits.train.background(),
    }
}

/// A loader of what is trained on: in the config's order, with its augmentations.
pub(crate) fn train_loader(config: &ExperimentConfig, set: &ImageSet, device: (&Device, Option<u64>)) -> BatchLoader {
    let order = match config.order {
        OrderName::File => Order::File,
        OrderName::Shuffled => Order::Shuffled { seed: config.seed },
    };
    let augmentations: Vec<_> = config.augment.iter().map(|name| name.augmentation()).collect();
    loader(config, set, order, device).augmented_by(&augmentations, config.seed)
}

/// A loader for a device that takes so many bytes in one piece.
pub(crate) fn loader(
    config: &ExperimentConfig,
    set: &ImageSet,
    order: Order,
    (device, largest): (&Device, Option<u64>),
) -> BatchLoader {
    // Pixels are f32 on every device.
    let normalization = Normalization { mean: config.pixel_mean as f32, deviation: config.pixel_deviation as f32 };
    let split = DeviceSplit::new(set, normalization, device, largest);
    BatchLoader::new(split, config.batch_size, order, device).limited_to(config.limit_batches)
}
