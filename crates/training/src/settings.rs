use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    ConfigError,
    config::{
        AugmentationName, DatasetName, OptimizerName, OrderName, Precision, Protocol, ScheduleName, StoppingMetric,
    },
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
    /// How the data is split and which figures are reported.
    protocol: Protocol,
    /// In which order an epoch sees the training images.
    order: OrderName,
    /// What is changed at random in every training image each time it is seen.
    augment: Vec<AugmentationName>,
    /// Caps every split at so many batches.
    limit_batches: usize,
    /// How often the training images are seen.
    epochs: usize,
    /// Images in a batch.
    batch_size: usize,
    /// Decides weights, order and split.
    seed: u64,
    /// The update rule.
    optimizer: OptimizerName,
    /// Its learning rate, before the schedule.
    learning_rate: f64,
    /// Momentum of `momentum` and `muon`.
    momentum: f64,
    /// Whether `momentum` looks ahead; `muon` always does.
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
    /// What `step` multiplies the learning rate by.
    step_factor: f64,
    /// Share of the target spread evenly over the classes.
    label_smoothing: f64,
    /// Largest norm of all gradients together.
    clip_norm: f64,
    /// Epochs without improvement after which training ends.
    early_stopping: usize,
    /// What has to improve.
    early_stopping_metric: StoppingMetric,
    /// Steps at the start of the run whose gradients' statistics go into `steps.jsonl`.
    gradient_steps: usize,
}

impl Settings {
    /// Reads settings from JSON: a config, or a whole `run.json` that holds one.
    ///
    /// # Errors
    /// When it is not a JSON object, or has an unknown key or a value of the wrong type.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let malformed = |error: serde_json::Error| ConfigError::Malformed(error.to_string());
        let mut object: Map<String, Value> = serde_json::from_str(text).map_err(malformed)?;
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
        assert!(message("[1]").starts_with("config: invalid type: sequence"));
        assert!(message("{").starts_with("config: EOF"));
    }

    #[test]
    fn a_whole_record_gives_its_config() {
        let settings = Settings::from_json(r#"{"schema": 1, "id": "x", "config": {"epochs": 3}}"#).unwrap();
        assert_eq!(settings, Settings { epochs: Some(3), ..Settings::default() });
    }

    #[test]
    fn flags_override_a_file() {
        let flags = Settings { epochs: Some(2), ..Settings::default() };
        let file = Settings { epochs: Some(9), seed: Some(7), ..Settings::default() };
        assert_eq!(flags.or(file), Settings { epochs: Some(2), seed: Some(7), ..Settings::default() });
    }
}
