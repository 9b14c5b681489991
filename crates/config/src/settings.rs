use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    ConfigError,
    config::{
        AugmentationName, DatasetName, OptimizerName, OrderName, Precision, Protocol, ScheduleName, StoppingMetric,
    },
    config_file,
};
use kindling_models::ModelName;

/// Defines [`Settings`] with one optional field for each key of a config.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// A config as typed: what a file or the flags say, and nothing for what they leave open.
        ///
        /// [`resolve`](Self::resolve) fills in the rest and checks it.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        pub struct Settings {
            $($(#[$doc])* #[serde(default)] pub $name: Option<$type>,)*
        }

        impl Settings {
            /// The keys of a config.
            pub const KEYS: &[&str] = &[$(stringify!($name)),*];

            /// Whether `key` has a value.
            #[must_use]
            pub fn has(&self, key: &str) -> bool {
                [$((stringify!($name), self.$name.is_some())),*].contains(&(key, true))
            }

            /// The same without a value for `key`.
            #[must_use]
            pub fn without(mut self, key: &str) -> Self {
                $(if key == stringify!($name) {
                    self.$name = None;
                })*
                self
            }

            /// These settings, and those of `other` where these leave something open.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

settings! {
    /// The network.
    model: ModelName,
    /// Widths of the hidden layers, for the model `mlp`.
    hidden: Vec<usize>,
    /// The number type of weights, activations and gradients.
    precision: Precision,
    /// What to train on.
    dataset: DatasetName,
    /// Whether rows and columns of the images are swapped, as EMNIST needs.
    transpose: bool,
    /// Subtracted from pixels in [0, 1].
    pixel_mean: f64,
    /// Divides pixels after that.
    pixel_deviation: f64,
    /// How the data is split and which metrics are reported.
    protocol: Protocol,
    /// Order of the training images in an epoch.
    order: OrderName,
    /// Random changes of training images, drawn anew in each epoch.
    augment: Vec<AugmentationName>,
    /// Caps every split at so many batches.
    limit_batches: usize,
    /// Passes over the training images.
    epochs: usize,
    /// Images in a batch.
    batch_size: usize,
    /// Seed of weights, order and split.
    seed: u64,
    /// The update rule.
    optimizer: OptimizerName,
    /// Learning rate, before the schedule.
    learning_rate: f64,
    /// Momentum of `momentum` and `muon`.
    momentum: f64,
    /// Whether `momentum` is Nesterov's; `muon`'s always is.
    nesterov: bool,
    /// Decay of the first moment of `adam`, `adamw` and `muon`'s `AdamW`.
    beta_1: f64,
    /// Decay of the second moment of the same.
    beta_2: f64,
    /// Added to the denominator of the same.
    epsilon: f64,
    /// Decay of the weights: decoupled for `adamw` and `muon`, added to the gradient otherwise.
    weight_decay: f64,
    /// Learning rate of `AdamW` for what `muon` does not train.
    adamw_learning_rate: f64,
    /// How the learning rate changes.
    schedule: ScheduleName,
    /// Epochs over which the learning rate rises from zero.
    warm_up_epochs: usize,
    /// Epochs between the drops of `step`.
    step_epochs: usize,
    /// Factor of the learning rate at each drop.
    step_factor: f64,
    /// Share of the target spread evenly over the classes.
    label_smoothing: f64,
    /// Largest norm of all gradients together.
    clip_norm: f64,
    /// Epochs without improvement after which training ends.
    early_stopping: usize,
    /// Metric of early stopping.
    early_stopping_metric: StoppingMetric,
    /// Steps at the start of the run whose gradients' statistics go into `steps.jsonl`.
    gradient_steps: usize,
}

impl Settings {
    /// Reads settings from the JSON of a file: a config, or a whole `run.json` that holds one.
    ///
    /// # Errors
    /// When it is not a JSON object, or has a key twice, an unknown key or a value of the wrong type.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let mut object = config_file::parse_object(json.as_ref())?;
        if object.contains_key("schema")
            && let Some(Value::Object(config)) = object.remove("config")
        {
            object = config;
        }
        Self::from_object(object)
    }

    /// Reads settings from a JSON object.
    ///
    /// # Errors
    /// When it has an unknown key or a value of the wrong type.
    pub fn from_object(object: Map<String, Value>) -> Result<Self, ConfigError> {
        if let Some(key) = object.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            return Err(ConfigError::UnknownKey { key: key.clone(), nearest: nearest_key(key) });
        }
        for (key, value) in &object {
            // One key at a time, since serde does not say which key a wrong value belongs to.
            let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            serde_json::from_value::<Self>(alone).map_err(|error| ConfigError::Malformed(format!("{key}: {error}")))?;
        }
        serde_json::from_value(Value::Object(object)).map_err(|error| ConfigError::Malformed(error.to_string()))
    }
}

fn nearest_key(key: &str) -> &'static str {
    let key = key.replace('-', "_").to_lowercase();
    let similarity = |known: &&&str| strsim::normalized_damerau_levenshtein(&key, known);
    Settings::KEYS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> String {
        Settings::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        assert_eq!(
            message(r#"{"learning-rate": 1}"#),
            "config: unknown key `learning-rate`; did you mean `learning_rate`?"
        );
        assert_eq!(message(r#"{"epoch": 1}"#), "config: unknown key `epoch`; did you mean `epochs`?");
        assert_eq!(message(r#"{"LR_schedul": 1}"#), "config: unknown key `LR_schedul`; did you mean `schedule`?");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_key() {
        assert!(message(r#"{"epochs": "ten"}"#).starts_with("config: epochs: invalid type: string \"ten\""));
        assert!(message(r#"{"epochs": -1}"#).starts_with("config: epochs: invalid value: integer `-1`"));
        assert!(message(r#"{"model": "vgg"}"#).contains("config: model: unknown variant `vgg`, expected one of"));
        assert_eq!(message("[1]"), "config: expected an object of keys and values, found [1]");
        assert!(message("{").starts_with("config: EOF"));
    }

    #[test]
    fn a_whole_record_gives_its_config() {
        let settings = Settings::from_json(r#"{"schema": 1, "id": "x", "config": {"epochs": 3}}"#).unwrap();
        assert_eq!(settings, Settings { epochs: Some(3), ..Settings::default() });
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused_in_a_record_too() {
        assert!(message(r#"{"epochs": 1, "epochs": 2}"#).starts_with("config: `epochs` is there twice"));
        let record = r#"{"schema": 2, "config": {"epochs": 1, "epochs": 2}}"#;
        assert!(message(record).starts_with("config: `epochs` is there twice"));
    }

    #[test]
    fn a_setting_can_be_taken_back() {
        let settings = Settings { epochs: Some(2), seed: Some(7), ..Settings::default() };
        assert!(settings.has("epochs") && !settings.has("model") && !settings.has("no such key"));
        assert_eq!(settings.without("seed"), Settings { epochs: Some(2), ..Settings::default() });
    }

    #[test]
    fn flags_override_a_file() {
        let flags = Settings { epochs: Some(2), ..Settings::default() };
        let file = Settings { epochs: Some(9), seed: Some(7), ..Settings::default() };
        assert_eq!(flags.or(file), Settings { epochs: Some(2), seed: Some(7), ..Settings::default() });
    }
}
