use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    Choice, ConfigError, Data, Normalize, Optimizer, Precision, Protocol, Registry, Schedule, Training,
    declare::object, keys::plain, print,
};

/// Everything that decides a run, but the data's bytes and the backend: all that enters training.
///
/// Made by [`Partial::resolve`](crate::Partial::resolve), which checks it; serialized, it is the `config` of a `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The network.
    pub network: Choice,
    /// The data set, and what is done to its images.
    pub data: Data,
    /// The update rule.
    pub optimizer: Optimizer,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// How the data is split and which metrics are reported.
    pub protocol: Protocol,
    /// How long, in what batches and numbers, and with what safeguards a run trains.
    pub training: Training,
}

impl Config {
    /// The config as it stands in `run.json`: an object for each section.
    #[must_use]
    pub fn to_object(&self) -> Map<String, Value> {
        object(self)
    }

    /// The config as a TOML file, with a comment for each key. A key without a value is a comment too, since TOML has no
    /// null.
    #[must_use]
    pub fn to_toml(&self, registry: &Registry) -> String {
        print::toml(&self.to_object(), registry)
    }

    /// The values by the paths of their keys, such as `optimizer.beta_1`.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, Value> {
        let sections = self.to_object().into_iter().filter_map(|(section, keys)| match keys {
            Value::Object(keys) => Some((section, keys)),
            _ => None,
        });
        let paths = |(section, keys): (String, Map<String, Value>)| {
            keys.into_iter().map(move |(key, value)| (format!("{section}.{key}"), value))
        };
        sections.flat_map(paths).collect()
    }

    /// Checks what concerns several keys.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (training, warm_up) = (&self.training, self.schedule.warm_up_epochs());
        if warm_up > training.epochs {
            let wanted = format!("at most the {} epochs of the run", training.epochs);
            return Err(invalid("schedule.warm_up_epochs", wanted, &warm_up));
        }
        if training.accumulate > training.batch_size {
            let wanted = format!("at most the {} images of training.batch_size", training.batch_size);
            return Err(invalid("training.accumulate", wanted, &training.accumulate));
        }
        let is_adaptive = matches!(self.optimizer, Optimizer::Adam(_) | Optimizer::Adamw(_) | Optimizer::Muon(_));
        if training.precision == Precision::F16 && is_adaptive {
            // Adam's epsilon of 1e-8 and the squares of most gradients are zero in f16, and so is what it divides by.
            let wanted = "f32 or bf16 with the optimizers `adam`, `adamw` and `muon`";
            return Err(invalid("training.precision", wanted, &training.precision));
        }
        if training.ema_evaluate && training.ema_decay.is_none() {
            return Err(requires("training.ema_evaluate", "training.ema_decay"));
        }
        let (split, monitor) = (self.protocol.evaluated_split(), self.protocol.monitor());
        if monitor.strip_prefix(split).is_none_or(|metric| metric.strip_prefix('/').is_none_or(str::is_empty)) {
            let protocol = self.protocol.name();
            let wanted = format!("a metric such as {split}/loss with the protocol `{protocol}`");
            return Err(invalid("protocol.monitor", wanted, &monitor));
        }
        if let Protocol::Validated(validated) = &self.protocol {
            match (validated.folds, validated.fold) {
                (None, Some(_)) => return Err(requires("protocol.fold", "protocol.folds")),
                (Some(_), None) => return Err(requires("protocol.folds", "protocol.fold")),
                (Some(folds), Some(fold)) if fold > folds => {
                    return Err(invalid("protocol.fold", format!("at most the {folds} of protocol.folds"), &fold));
                }
                _ => {}
            }
        }
        self.data.check_pixels()
    }
}

impl Data {
    /// Checks the numbers by which pixels are normalized.
    fn check_pixels(&self) -> Result<(), ConfigError> {
        for (other, numbers, default) in
            [("data.pixel_mean", &self.pixel_mean, [0.0]), ("data.pixel_std", &self.pixel_std, [1.0])]
        {
            if self.normalize == Normalize::Auto && *numbers != default {
                return Err(ConfigError::Excludes {
                    key: "data.normalize".to_owned(),
                    value: self.normalize.to_string(),
                    other: other.to_owned(),
                    found: plain(&numbers.as_slice().into()),
                });
            }
        }
        let channels = match self.channels {
            Some(channels) => channels.count(),
            None => self.pixel_mean.len().max(self.pixel_std.len()),
        };
        for (key, numbers) in [("data.pixel_mean", &self.pixel_mean), ("data.pixel_std", &self.pixel_std)] {
            if numbers.len() != 1 && (numbers.is_empty() || numbers.len() != channels) {
                let wanted = "one number, or one for each channel";
                return Err(ConfigError::invalid(key, wanted, &numbers.as_slice().into()));
            }
        }
        Ok(())
    }
}

fn invalid(key: &str, wanted: impl Into<String>, found: &impl ToString) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), wanted: wanted.into(), found: found.to_string() }
}

/// A key without another that it needs.
fn requires(key: &str, other: &str) -> ConfigError {
    ConfigError::Requires { key: key.to_owned(), wanted: format!("`{other}`"), found: "none".to_owned() }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Partial, keys::tests::registry};

    /// Any config of the test registry.
    pub(crate) fn configs() -> impl Strategy<Value = Config> {
        let names = (0..2_usize, 0..2_usize, 0..5_usize, 0..4_usize, 0..2_usize);
        let numbers = (1..100_usize, any::<u64>(), 0.0..10.0_f64, 0.0..1.0_f64, 1e-300..1.0_f64);
        let options = (proptest::option::of(0.001..10.0_f64), proptest::option::of(1..9_usize), any::<bool>());
        let own = (
            proptest::collection::vec(1..2000_usize, 0..4),
            ".{0,8}",
            proptest::sample::subsequence(
                vec!["erase:scale_max=1", "shift", "crop:edge=reflect", "rotate:degrees=.5"],
                0..=4,
            ),
            (1..=4096_usize, 1..=4096_usize, proptest::collection::vec(0.001..9.0_f64, 1..4)),
        );
        (names, numbers, options, own).prop_map(|(names, numbers, options, own)| {
            let mut partial = Partial::default();
            partial.set("network", ["mlp", "cnn"][names.0].into());
            partial.set("data", ["fashion-mnist", "idx"][names.1].into());
            partial.set("optimizer", ["sgd", "momentum", "adam", "adamw", "muon"][names.2].into());
            partial.set("schedule", ["constant", "step", "cosine", "one-cycle"][names.3].into());
            partial.set("protocol", ["validated", "assignment"][names.4].into());
            partial.set("epochs", numbers.0.into());
            partial.set("seed", numbers.1.into());
            partial.set("learning_rate", numbers.2.into());
            partial.set("label_smoothing", numbers.3.into());
            partial.set("pixel_std", numbers.4.into());
            partial.set("clip_norm", options.0.into());
            partial.set("early_stopping", options.1.into());
            if options.2 {
                partial.set("ema_decay", numbers.3.into());
                partial.set("ema_evaluate", true.into());
            }
            if names.0 == 0 {
                partial.set("network.hidden", own.0.into());
            } else {
                partial.set("network.activation", serde_json::json!({ own.1.clone(): own.1 }));
                partial.set("network.dropout", options.0.into());
            }
            partial.set("augment", own.2.into());
            partial.set("image_size", format!("{}x{}", own.3.0, own.3.1).into());
            partial.set("class_weights", if options.2 { "balanced".into() } else { own.3.2.clone().into() });
            partial.set("pixel_mean", own.3.2.clone().into());
            partial.set("freeze", "conv*".into());
            if names.4 == 0 {
                partial.set("folds", 5.into());
                partial.set("fold", (names.2 + 1).into());
            }
            partial.resolve(&registry()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_config_read_back_from_its_own_json_is_the_same(config in configs()) {
            let text = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(Partial::from_file(text).unwrap().resolve(&registry()).unwrap(), config);
        }

        #[test]
        fn a_config_read_back_from_its_own_toml_is_the_same(config in configs()) {
            let text = config.to_toml(&registry());
            prop_assert_eq!(Partial::from_file(&text).unwrap().resolve(&registry()).unwrap(), config, "{}", text);
        }

        #[test]
        fn a_config_read_back_from_its_flat_keys_is_the_same(config in configs()) {
            let flat = config.flat().into_iter().collect();
            prop_assert_eq!(Partial::from_object(flat).unwrap().resolve(&registry()).unwrap(), config);
        }
    }
}
