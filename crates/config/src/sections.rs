//! The sections of a config: every key with its type, default, range, flag and help.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Augmentation, ClassWeights, ConfigError, ImageSize, Kind, Range,
    declare::{Field, Typed, Variant, object},
};

/// What a network or a data set brings to a config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The name by which a config chooses it.
    pub name: String,
    /// All its keys with their defaults.
    pub keys: Map<String, Value>,
    /// A line of help for some of the keys.
    pub help: Vec<(String, String)>,
}

impl Section {
    /// The section whose keys are the fields of `defaults`, with these lines of help.
    ///
    /// # Panics
    /// When `defaults` is neither a struct with named fields nor one without fields, or the help names a key that is none
    /// of them.
    #[must_use]
    pub fn of<T: Serialize>(name: &str, defaults: &T, help: &[(&str, &str)]) -> Self {
        let keys = match serde_json::to_value(defaults) {
            Ok(Value::Object(keys)) => keys,
            Ok(Value::Null) => Map::new(),
            other => panic!("the config of `{name}` is no struct with named fields: {other:?}"),
        };
        for (key, _) in help {
            assert!(keys.contains_key(*key), "the help of `{name}` names `{key}`, which is none of its keys");
        }
        let help = help.iter().map(|&(key, help)| (key.to_owned(), help.to_owned())).collect();
        Self { name: name.to_owned(), keys, help }
    }

    /// What the keys of a config describe, which are all of this section's; `path` is that of the section, such as
    /// `network`.
    ///
    /// # Errors
    /// When the type does not take them, with the path of the key whose value is the reason.
    pub fn parsed<T: DeserializeOwned>(&self, path: &str, keys: &Map<String, Value>) -> Result<T, ConfigError> {
        let parse = |keys: &Map<String, Value>| {
            // A struct without fields is nothing in serde's eyes.
            let nothing = || serde_json::from_value(Value::Null).ok().filter(|_| keys.is_empty());
            nothing().map_or_else(|| serde_json::from_value::<T>(Value::Object(keys.clone())), Ok)
        };
        parse(keys).map_err(|error| {
            // Serde does not tell where it is: the default with this value alone does.
            let refused = keys.iter().find_map(|(key, value)| {
                let mut alone = self.keys.clone();
                alone.insert(key.clone(), value.clone());
                Some(format!("{path}.{key}: {}", parse(&alone).err()?))
            });
            ConfigError::Malformed(refused.unwrap_or_else(|| format!("{path} `{}`: {error}", self.name)))
        })
    }
}

/// The networks and data sets that a config can choose from. The first data set is the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    /// The networks.
    pub networks: Vec<Section>,
    /// The data sets.
    pub datasets: Vec<Section>,
}

/// The network with its complete keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Name of the network.
    pub name: String,
    /// The network's own keys.
    #[serde(flatten)]
    pub keys: Map<String, Value>,
}

section! {
    /// The data set with its complete keys, and what is done to its images.
    Data {
        /// Random changes of training images, drawn anew in each epoch: names, with the parameters that are to differ
        /// from these, as in flip,crop:padding=2.
        augment: Vec<Augmentation> = Vec::new(), Any, Some("augment");
        /// Subtracted from pixels in [0, 1]: one number, or one for each channel.
        pixel_mean: Vec<f64> = vec![0.0], Any, Some("pixel-mean");
        /// Divides pixels after that: one number, or one for each channel.
        pixel_std: Vec<f64> = vec![1.0], Positive, Some("pixel-std");
        /// Whether pixel_mean and pixel_std are as given, or auto: those of the training split.
        normalize: Normalize = Normalize::Given, Any, Some("normalize");
        /// Size to which images are brought, as in 32 or 64x48 (height x width); by default they keep their own.
        image_size: Option<ImageSize> = None, Any, Some("image-size");
        /// Channels to which images are brought; by default those that the data set has.
        channels: Option<Channels> = None, Any, Some("channels");
        /// How a picture of another shape is brought to the size of images.
        fit: Fit = Fit::Crop, Any, Some("fit");
        /// How often training images are drawn: uniform, each once in an epoch; balanced, each class as often.
        sampler: Sampler = Sampler::Uniform, Any, Some("sampler");
    }
    other {
        /// Name of the data set.
        name: String,
        /// The data set's own keys.
        #[serde(flatten)]
        keys: Map<String, Value>
    }
}

names! {
    /// Where the numbers come from by which pixels are normalized.
    Normalize {
        /// From `pixel_mean` and `pixel_std`.
        Given = "given",
        /// Mean and standard deviation of the training split, for each channel.
        Auto = "auto",
    }
}

names! {
    /// The channels of images.
    Channels {
        /// One: luma.
        Grey = "grey",
        /// Three: red, green, blue.
        Rgb = "rgb",
    }
}

impl Channels {
    /// The number of channels.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

names! {
    /// How a picture of another shape is brought to the size of images.
    Fit {
        /// Scaled until it covers the size; the middle remains.
        Crop = "crop",
        /// Scaled until it fits into the size, in the middle of its background.
        Pad = "pad",
        /// Scaled in each direction by itself.
        Stretch = "stretch",
    }
}

names! {
    /// How often training images are drawn.
    Sampler {
        /// Each once in an epoch.
        Uniform = "uniform",
        /// Each class as often as any other.
        Balanced = "balanced",
    }
}

variants! {
    /// How the data is split and which metrics are reported.
    Protocol {
        /// Order of the training images in an epoch.
        order: Order, Any, Some("order");
        /// Metric of an evaluated split that early stopping and the best epoch go by, as in valid/accuracy.
        monitor: String, Any, Some("monitor");
        /// Parts of equal size into which the training images are divided for cross-validation; needs fold.
        folds: Option<usize>, AtLeastTwo, Some("folds");
        /// The part, from 1, that is for validation in this run; needs folds.
        fold: Option<usize>, AtLeastOne, Some("fold");
        /// Changes of each image whose logits are averaged in the final test: flip adds the mirrored image, shift the
        /// image moved by a pixel along both diagonals, with half the weight on those not moved.
        test_time_augmentation: Vec<TestTimeAugmentation>, Any, Some("test-time-augmentation");
    }
    /// A part of the training images is for validation: the data set's own, a fold, or a twelfth; the best epoch is
    /// tested, once.
    Validated = "validated" {
        order: Order::Shuffled, monitor: "valid/loss".to_owned(), folds: None, fold: None,
        test_time_augmentation: Vec::new()
    }
    /// All training images train; the test set is evaluated after each epoch and the last epoch reported.
    Assignment = "assignment" { order: Order::File, monitor: "test/loss".to_owned() }
}

impl Protocol {
    /// Order of the training images in an epoch.
    #[must_use]
    pub fn order(&self) -> Order {
        match self {
            Self::Validated(Validated { order, .. }) | Self::Assignment(Assignment { order, .. }) => *order,
        }
    }

    /// Split and name of the metric that early stopping and the best epoch go by, as in `valid/loss`.
    #[must_use]
    pub fn monitor(&self) -> &str {
        match self {
            Self::Validated(Validated { monitor, .. }) | Self::Assignment(Assignment { monitor, .. }) => monitor,
        }
    }

    /// Changes of each image whose logits are averaged in the final test; none with `assignment`, which has no such test.
    #[must_use]
    pub fn test_time_augmentation(&self) -> &[TestTimeAugmentation] {
        match self {
            Self::Validated(validated) => &validated.test_time_augmentation,
            Self::Assignment(_) => &[],
        }
    }

    /// The split that is evaluated after each epoch: `valid` or `test`.
    #[must_use]
    pub fn evaluated_split(&self) -> &'static str {
        match self {
            Self::Validated(_) => "valid",
            Self::Assignment(_) => "test",
        }
    }
}

names! {
    /// A change of an image that is to be classified: the logits of all of its views are averaged.
    TestTimeAugmentation {
        /// The image, and mirrored left to right.
        Flip = "flip",
        /// The image with half the weight, and moved by a pixel to the upper left and to the lower right with a quarter
        /// each: `airbench94.py` in KellerJordan/cifar10-airbench.
        Shift = "shift",
    }
}

names! {
    /// Order of the training images in an epoch.
    Order {
        /// Another order in each epoch, decided by the seed.
        Shuffled = "shuffled",
        /// As they stand in the file.
        File = "file",
    }
}

section! {
    /// How long, in what batches and numbers, and with what safeguards a run trains.
    Training {
        /// Passes over the training images.
        epochs: usize = 10, AtLeastOne, Some("epochs");
        /// Images in a batch.
        batch_size: usize = 64, AtLeastOne, Some("batch-size");
        /// Seed of weights, order and split.
        seed: u64 = 42, NotNegative, Some("seed");
        /// Number type of the whole network; losses are in f32 all the same, and there is no loss scaling.
        precision: Precision = Precision::F32, Any, Some("precision");
        /// Share of each target that is spread evenly over the classes.
        label_smoothing: f64 = 0.0, Fraction, Some("label-smoothing");
        /// Weights of the classes in the loss: balanced (by their numbers of training images), or one for each class.
        class_weights: Option<ClassWeights> = None, Any, Some("class-weights");
        /// Weights to start from: a run, or the path of a file (.safetensors, .pt).
        weights: Option<String> = None, Any, Some("weights");
        /// Layers or parameters that keep their weights, as in conv1,block*.
        freeze: Vec<String> = Vec::new(), Any, Some("freeze");
        /// Largest norm of all gradients taken together.
        clip_norm: Option<f64> = None, Positive, Some("clip-norm");
        /// Stop after so many epochs without improvement.
        early_stopping: Option<usize> = None, AtLeastOne, Some("early-stopping");
        /// Use only the first N batches of every split; the record says so.
        limit_batches: Option<usize> = None, AtLeastOne, Some("limit-batches");
        /// Write statistics of the gradients of the first N steps into steps.jsonl.
        gradient_steps: Option<usize> = None, AtLeastOne, Some("gradient-steps");
        /// Parts in which a batch is computed, one after the other, to need less memory; their gradients are accumulated.
        accumulate: usize = 1, AtLeastOne, Some("accumulate");
        /// Decay of an exponential moving average of the weights.
        ema_decay: Option<f64> = None, Fraction, Some("ema-decay");
        /// Whether the averaged weights are evaluated and kept instead of the raw ones; needs ema_decay.
        ema_evaluate: bool = false, Any, Some("ema-evaluate");
    }
    other {}
}

names! {
    /// The number type of weights, activations, gradients and the optimizer's state; losses are always in f32.
    Precision {
        /// Single: 24 significant bits.
        F32 = "f32",
        /// Google Brain's half: the range of f32 with 8 significant bits.
        Bf16 = "bf16",
        /// IEEE half: 11 significant bits, and nothing above 65,504.
        F16 = "f16",
    }
}
