//! What a config makes of a data set: its splits, and sources of their batches.

use burn::tensor::FloatDType;
use kindling_config::{ClassWeights, Config, ConfigError, Normalize, Precision, Protocol, Sampler, Validated};
use kindling_data::{
    ImageData, ImageSet, ImageSource, Normalization, Splits, assignment_splits, fold_splits, validated_splits,
};
use kindling_models::ImageShape;
use kindling_record::{ClassCounts, DatasetRecord, ImagesRecord, RunRecord};
use kindling_training::{Order, TrainingError};

use crate::ClassificationError;

/// The splits that the config's protocol makes.
///
/// # Errors
/// When there are too few images for a validation split or the folds.
pub fn splits(config: &Config, data: &ImageData) -> Result<Splits, ClassificationError> {
    let seed = config.training.seed;
    match config.protocol {
        Protocol::Validated(Validated { folds: Some(folds), fold: Some(fold), .. }) => {
            Ok(fold_splits(data, seed, folds, fold)?)
        }
        Protocol::Validated(_) => Ok(validated_splits(data, seed)?),
        Protocol::Assignment(_) => Ok(assignment_splits(data)),
    }
}

/// What a network must take and give for `data`.
#[must_use]
pub fn image_shape(data: &ImageData) -> ImageShape {
    let [channels, height, width] = data.train.shape();
    ImageShape { channels, height, width, classes: data.classes.len() }
}

/// The source of the training split, with the config's augmentations and sampler, for devices that take `largest` bytes
/// in one piece.
#[must_use]
pub fn train_source(
    config: &Config,
    data: &ImageData,
    train: ImageSet,
    normalization: &Normalization,
    largest: Option<u64>,
) -> ImageSource {
    let seed = config.training.seed;
    let source = source(config, data, train, "train", normalization, largest);
    let source = source.augmented_by(&config.data.augment, seed);
    match config.data.sampler {
        Sampler::Uniform => source,
        Sampler::Balanced => source.balanced(data.classes.len(), seed),
    }
}

/// The source of any split for evaluation; `split` is its name.
#[must_use]
pub fn source(
    config: &Config,
    data: &ImageData,
    set: ImageSet,
    split: &str,
    normalization: &Normalization,
    largest: Option<u64>,
) -> ImageSource {
    // The test split is the same in every protocol and for every seed, and without a validation split so is the other.
    let digest = match &config.protocol {
        Protocol::Validated(validated) if split != "test" => {
            let fold = match (validated.fold, validated.folds) {
                (Some(fold), Some(folds)) => format!(", fold {fold} of {folds}"),
                _ => String::new(),
            };
            format!("{} {split} validated, seed {}{fold}", data.sha256, config.training.seed)
        }
        _ => format!("{} {split}", data.sha256),
    };
    ImageSource::new(set, normalization.clone(), digest).with_largest(largest)
}

/// How the config has pixels normalized: by its own numbers, or with `normalize = auto` by the mean and the standard
/// deviation of each channel of `train`; a channel that is the same everywhere is divided by 1.
///
/// # Errors
/// When the config has neither one number nor one for each channel.
pub fn normalization(config: &Config, train: &ImageSet) -> Result<Normalization, ClassificationError> {
    if config.data.normalize == Normalize::Auto {
        return Ok(Normalization::of(train));
    }
    checked(Normalization::new(&config.data.pixel_mean, &config.data.pixel_std), train.channels())
}

/// How the run of `record` normalized pixels, for images of `channels` channels.
///
/// # Errors
/// When there is neither one number nor one for each channel.
pub fn recorded_normalization(
    config: &Config,
    record: &RunRecord,
    channels: usize,
) -> Result<Normalization, ClassificationError> {
    let images = record.dataset.images.as_ref().filter(|images| !images.pixel_mean.is_empty());
    // Older records have the numbers in their config alone.
    let data = &config.data;
    let (mean, std) =
        images.map_or((&data.pixel_mean, &data.pixel_std), |images| (&images.pixel_mean, &images.pixel_std));
    checked(Normalization::new(mean, std), channels)
}

fn checked(normalization: Normalization, channels: usize) -> Result<Normalization, ClassificationError> {
    for (key, numbers) in [("data.pixel_mean", &normalization.mean), ("data.pixel_std", &normalization.std)] {
        if ![1, channels].contains(&numbers.len()) {
            let wanted = match channels {
                1 => "one number for images of one channel".to_owned(),
                _ => format!("one number, or one for each of the {channels} channels"),
            };
            let (key, found) = (key.to_owned(), numbers.len().to_string());
            return Err(ConfigError::Invalid { key, wanted, found }.into());
        }
    }
    Ok(normalization)
}

/// The weights of `data`'s classes in the training loss, where the config asks for any; `train` is the training split.
///
/// `balanced` ones are scikit-learn's: `images / (classes * images of the class)`, with the classes that have images;
/// the others have the weight 0.
///
/// # Errors
/// When the config has not one weight for each class, or only classes without images have one above 0.
pub fn class_weights(
    config: &Config,
    data: &ImageData,
    train: &ImageSet,
) -> Result<Option<Vec<f64>>, ClassificationError> {
    let Some(wanted) = &config.training.class_weights else { return Ok(None) };
    let counts = train.class_counts(data.classes.len());
    let given = match wanted {
        ClassWeights::Balanced => {
            let classes = counts.iter().filter(|count| **count > 0).count();
            let weight = |count: &usize| match count {
                0 => 0.0,
                count => train.count() as f64 / (classes * count) as f64,
            };
            return Ok(Some(counts.iter().map(weight).collect()));
        }
        ClassWeights::Given(weights) => weights,
    };
    let invalid = |wanted: String, found: String| {
        Err(ConfigError::Invalid { key: "training.class_weights".to_owned(), wanted, found }.into())
    };
    if given.len() != counts.len() {
        return invalid(format!("one weight for each of the {} classes", counts.len()), given.len().to_string());
    }
    if given.iter().zip(&counts).all(|(weight, count)| *weight == 0.0 || *count == 0) {
        return invalid("a weight above 0 for a class that has training images".to_owned(), wanted.to_string());
    }
    Ok(Some(given.clone()))
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
pub(crate) fn dataset_record(
    config: &Config,
    data: &ImageData,
    splits: &Splits,
    normalization: &Normalization,
) -> DatasetRecord {
    let (limit, batch_size) = (config.training.limit_batches, config.training.batch_size);
    let limit = limit.map_or(usize::MAX, |batches| batches.saturating_mul(batch_size));
    let limited = |set: &ImageSet| set.count().min(limit);
    let counts = |set: &ImageSet| set.class_counts(data.classes.len());
    let ImageShape { channels, height, width, .. } = image_shape(data);
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
            channels,
            pixel_mean: normalization.mean.clone(),
            pixel_std: normalization.std.clone(),
            fit: data.fit.map(|fit| fit.to_string()),
            counts: ClassCounts {
                train: counts(&splits.train),
                valid: splits.valid.as_ref().map_or_else(Vec::new, counts),
                test: counts(&splits.test),
            },
            skipped: data.skipped.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use kindling_config::Config;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    /// Two images of 3 channels with 1x2 pixels of class 0 and six of class 1, of three classes, to train on; one to
    /// test.
    fn data() -> ImageData {
        let pixels = [[0, 0, 255, 255, 51, 51], [0, 255, 255, 255, 51, 51]].concat().repeat(4);
        let train = ImageSet::new(pixels, vec![0, 1, 1, 1, 0, 1, 1, 1], [3, 1, 2]).unwrap();
        let test = train.select(&[0]);
        ImageData::new("mine", ["a", "b", "c"].map(str::to_owned).to_vec(), train, test).unwrap()
    }

    fn config(data: &Value, training: &Value) -> Config {
        let mut keys = json!({ "name": "synthetic" });
        keys.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        fixtures::config(json!({ "network": "mlp", "data": keys, "training": training }))
    }

    fn weights(wanted: &Value) -> Result<Vec<f64>, String> {
        let (config, data) = (config(&json!({}), &json!({ "class_weights": wanted })), data());
        Ok(class_weights(&config, &data, &data.train).map_err(|error| error.to_string())?.unwrap())
    }

    #[test]
    fn balanced_weights_are_scikit_learns_and_classes_without_images_have_none() {
        // compute_class_weight("balanced", classes=np.unique(y), y=[0, 1, 1, 1, 0, 1, 1, 1]), scikit-learn 1.9.1
        assert_eq!(weights(&json!("balanced")).unwrap(), [2.0, 8.0 / 12.0, 0.0]);
        assert_eq!(weights(&json!([0.0, 2.5, 1.0])).unwrap(), [0.0, 2.5, 1.0]);
        let data = data();
        assert_eq!(class_weights(&config(&json!({}), &json!({})), &data, &data.train).unwrap(), None);
    }

    #[test]
    fn weights_that_do_not_fit_the_classes_are_refused() {
        let message = weights(&json!([1.0, 2.0])).unwrap_err();
        assert!(message.contains("class_weights") && message.contains("each of the 3 classes"), "{message}");
        let message = weights(&json!([0.0, 0.0, 1.0])).unwrap_err();
        assert!(message.contains("class that has training images") && message.contains("0,0,1"), "{message}");
    }

    #[test]
    fn pixel_statistics_are_given_for_all_channels_or_each_or_those_of_the_training_split() {
        let data = data();
        let of = |keys: &Value| normalization(&config(keys, &json!({})), &data.train);
        assert_eq!(of(&json!({})).unwrap(), Normalization { mean: vec![0.0], std: vec![1.0] });
        let each = json!({ "pixel_mean": [0.1, 0.2, 0.3], "pixel_std": 0.5 });
        assert_eq!(of(&each).unwrap(), Normalization { mean: vec![0.1, 0.2, 0.3], std: vec![0.5] });
        let auto = of(&json!({ "normalize": "auto" })).unwrap();
        // A quarter of the first channel is 1, and the others are the same everywhere.
        let expected = [(0.25, 0.1875_f64.sqrt()), (1.0, 1.0), (0.2, 1.0)];
        for ((mean, std), (wanted_mean, wanted_std)) in auto.mean.iter().zip(&auto.std).zip(expected) {
            assert!((mean - wanted_mean).abs() < 1e-12 && (std - wanted_std).abs() < 1e-12, "{auto:?}");
        }
        let message = of(&json!({ "pixel_mean": [0.1, 0.2] })).unwrap_err().to_string();
        assert!(message.contains("pixel_mean") && message.contains("each of the 3 channels"), "{message}");
    }

    #[test]
    fn every_fold_has_a_digest_and_images_of_its_own() {
        let data = data();
        let fold = |fold: usize| {
            let protocol = json!({ "name": "validated", "folds": 2, "fold": fold });
            let config = fixtures::config(json!({ "network": "mlp", "protocol": protocol }));
            let splits = splits(&config, &data).unwrap();
            let normalization = normalization(&config, &splits.train).unwrap();
            let digest = |set: &ImageSet, name| {
                kindling_training::Source::digest(&source(&config, &data, set.clone(), name, &normalization, None))
            };
            assert_eq!((splits.train.count(), splits.valid.as_ref().unwrap().count()), (4, 4));
            (digest(&splits.train, "train"), digest(&splits.test, "test"))
        };
        let (first, second) = (fold(1), fold(2));
        assert_ne!(first.0, second.0);
        assert_eq!(first.1, second.1);
        assert!(first.0.ends_with("train validated, seed 42, fold 1 of 2"), "{}", first.0);
    }
}
