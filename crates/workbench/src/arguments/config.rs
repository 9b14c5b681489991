//! What makes a config: a file, and flags that override it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, builder::TypedValueParser};
use kindling_models::ModelName;
use kindling_training::{
    AugmentationName, ConfigError, DatasetName, OptimizerName, OrderName, Precision, Protocol, ScheduleName, Settings,
    StoppingMetric,
};
use serde_json::{Map, Number, Value};

use super::{from_name, names};
use crate::commands::Misuse;

/// A config file, and flags that override it.
#[derive(Args)]
pub(crate) struct ConfigArguments {
    /// The network: mlp, mlp-deep, mlp-wide, cnn or cnn-deep; may be left out when --config names it
    #[arg(value_parser = names(&ModelName::ALL.map(ModelName::as_str)).try_map(|name| name.parse::<ModelName>()))]
    model: Option<ModelName>,
    /// Read the config from a JSON file: a config, or the run.json of a run; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the config, as in beta_2=0.99, or unset one that the file sets, as in clip_norm=none; can be
    /// repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Passes over the training images [default: 10]
    #[arg(long, value_name = "N", help_heading = "Training")]
    epochs: Option<usize>,
    /// Learning rate, before the schedule [default: 0.1; 0.01 with momentum; 0.001 with adam, adamw, muon]
    #[arg(long, value_name = "X", help_heading = "Training")]
    learning_rate: Option<f64>,
    /// Images in a batch [default: 64]
    #[arg(long, value_name = "N", help_heading = "Training")]
    batch_size: Option<usize>,
    /// Seed of weights, order and split [default: 42]
    #[arg(long, value_name = "N", help_heading = "Training")]
    seed: Option<u64>,
    /// Widths of the hidden layers of mlp, such as 512,512 [default: 512,512]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Training")]
    hidden: Option<Vec<usize>>,
    /// Number type of the whole network; losses are in f32 all the same, and there is no loss scaling [default: f32]
    #[arg(long, help_heading = "Training", value_parser = names(&["f32", "bf16", "f16"]).try_map(from_name::<Precision>))]
    precision: Option<Precision>,
    /// Update rule; all but muon have PyTorch's semantics and defaults [default: sgd]
    #[arg(long, help_heading = "Training", value_parser = names(&["sgd", "momentum", "adam", "adamw", "muon"]).try_map(from_name::<OptimizerName>))]
    optimizer: Option<OptimizerName>,
    /// Momentum of the optimizers momentum [default: 0.9] and muon [default: 0.95]
    #[arg(long, value_name = "X", help_heading = "Training")]
    momentum: Option<f64>,
    /// Nesterov momentum, with the optimizer momentum [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Training")]
    nesterov: Option<bool>,
    /// With muon: the learning rate of AdamW, which trains all but the hidden matrices [default: 0.001]
    #[arg(long, value_name = "X", help_heading = "Training")]
    adamw_learning_rate: Option<f64>,
    /// Weight decay: decoupled with adamw and muon [default: 0.01], otherwise added to the gradient [default: 0]
    #[arg(long, value_name = "X", help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Share of each target that is spread evenly over the classes [default: 0]
    #[arg(long, value_name = "X", help_heading = "Training")]
    label_smoothing: Option<f64>,
    /// Largest norm of all gradients taken together [default: none]
    #[arg(long, value_name = "X", help_heading = "Training")]
    clip_norm: Option<f64>,
    /// How the learning rate changes [default: constant]
    #[arg(long, help_heading = "Training", value_parser = names(&["constant", "step", "cosine", "one-cycle"]).try_map(from_name::<ScheduleName>))]
    schedule: Option<ScheduleName>,
    /// Epochs over which the learning rate rises from zero [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    warm_up_epochs: Option<usize>,
    /// Epochs between the drops of the schedule step [default: 5]
    #[arg(long, value_name = "N", help_heading = "Training")]
    step_epochs: Option<usize>,
    /// Factor of the learning rate at each drop [default: 0.1]
    #[arg(long, value_name = "X", help_heading = "Training")]
    step_factor: Option<f64>,
    /// Stop after so many epochs without improvement [default: never]
    #[arg(long, value_name = "PATIENCE", help_heading = "Training")]
    early_stopping: Option<usize>,
    /// Metric of early stopping [default: valid_loss; test_loss with the protocol assignment]
    #[arg(long, help_heading = "Training", value_parser = names(&["valid_loss", "valid_accuracy", "test_loss"]).try_map(from_name::<StoppingMetric>))]
    early_stopping_metric: Option<StoppingMetric>,
    /// Write statistics of the gradients of the first N steps into steps.jsonl [default: none]
    #[arg(long, value_name = "N", help_heading = "Training")]
    gradient_steps: Option<usize>,

    /// Data set [default: fashion-mnist]
    #[arg(long, help_heading = "Data", value_parser = names(&["fashion-mnist", "idx", "synthetic"]).try_map(from_name::<DatasetName>))]
    dataset: Option<DatasetName>,
    /// validated validates on a twelfth of the training images and tests the best epoch once; assignment trains on all
    /// and tests after each epoch [default: validated]
    #[arg(long, help_heading = "Data", value_parser = names(&["validated", "assignment"]).try_map(from_name::<Protocol>))]
    protocol: Option<Protocol>,
    /// Order of the images in an epoch [default: shuffled; file with the protocol assignment]
    #[arg(long, help_heading = "Data", value_parser = names(&["shuffled", "file"]).try_map(from_name::<OrderName>))]
    order: Option<OrderName>,
    /// Random changes of training images, drawn anew in each epoch: shift (by up to 2 pixels), flip (left to right),
    /// erase (a rectangle) [default: none]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Data", value_parser = names(&["shift", "flip", "erase"]).try_map(from_name::<AugmentationName>))]
    augment: Option<Vec<AugmentationName>>,
    /// Use only the first N batches of every split; the record says so
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit_batches: Option<usize>,
    /// Swap rows and columns of the images, as EMNIST needs; with --dataset idx [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data")]
    transpose: Option<bool>,
    /// Subtract this from pixels in [0, 1] [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Data")]
    pixel_mean: Option<f64>,
    /// Divide pixels by this after that [default: 1]
    #[arg(long, value_name = "X", help_heading = "Data")]
    pixel_deviation: Option<f64>,
}

impl ConfigArguments {
    /// What flags, --set and the file say, in this order of precedence, with nothing filled in.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let set = self.set()?;
        let mut file = self.file()?;
        for (key, _) in set.iter().filter(|(_, value)| value.is_null()) {
            file = file.without(key);
        }
        Ok(self.flags().or(Settings::from_object(set)?).or(file))
    }

    fn file(&self) -> Result<Settings> {
        let Some(path) = &self.config else { return Ok(Settings::default()) };
        let json = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Settings::from_json(json).with_context(|| path.display().to_string())
    }

    /// What --set says: a value for each key, and null for one that it unsets.
    fn set(&self) -> Result<Map<String, Value>> {
        let flags = self.flags();
        let mut set = Map::new();
        for pair in &self.set {
            let Some((key, text)) = pair.split_once('=') else {
                bail!(Misuse(format!("--set: expected KEY=VALUE, found `{pair}`")));
            };
            let value = value(key, text).with_context(|| format!("--set {pair}"))?;
            if flags.has(key) || set.contains_key(key) {
                bail!(Misuse(format!("--set {pair}: `{key}` is given twice; leave one of the two out")));
            }
            set.insert(key.to_owned(), value);
        }
        Ok(set)
    }

    fn flags(&self) -> Settings {
        Settings {
            model: self.model,
            hidden: self.hidden.clone(),
            precision: self.precision,
            dataset: self.dataset,
            transpose: self.transpose,
            pixel_mean: self.pixel_mean,
            pixel_deviation: self.pixel_deviation,
            protocol: self.protocol,
            order: self.order,
            augment: self.augment.clone(),
            limit_batches: self.limit_batches,
            epochs: self.epochs,
            batch_size: self.batch_size,
            seed: self.seed,
            optimizer: self.optimizer,
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            adamw_learning_rate: self.adamw_learning_rate,
            schedule: self.schedule,
            warm_up_epochs: self.warm_up_epochs,
            step_epochs: self.step_epochs,
            step_factor: self.step_factor,
            label_smoothing: self.label_smoothing,
            clip_norm: self.clip_norm,
            early_stopping: self.early_stopping,
            early_stopping_metric: self.early_stopping_metric,
            gradient_steps: self.gradient_steps,
            ..Settings::default()
        }
    }
}

/// The value that `text` is for a key of a config: JSON, a number such as `.5`, a list such as `64,32` for a key that
/// takes one, or a text; null for `none`.
fn value(key: &str, text: &str) -> Result<Value, ConfigError> {
    let number = |text: &str| text.parse().ok().and_then(Number::from_f64).map(Value::Number);
    let plain = |text: &str| serde_json::from_str(text).ok().or_else(|| number(text)).unwrap_or_else(|| text.into());
    let checked =
        |value: Value| Settings::from_object(Map::from_iter([(key.to_owned(), value.clone())])).map(|_| value);
    let single = checked(if text == "none" { Value::Null } else { plain(text) });
    single.or_else(|error| checked(text.split(',').map(plain).collect()).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// The settings of these arguments, in the words of messages if there are none.
    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let command = ConfigArguments::augment_args(Command::new("train").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments.iter().copied()).map_err(|error| error.to_string())?;
        let arguments = ConfigArguments::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        arguments.settings().map_err(|error| crate::output::told(&error))
    }

    #[test]
    fn every_key_can_be_set_by_name() {
        let config = settings(&["cnn"]).unwrap().resolve().unwrap().to_object();
        for (key, value) in config.iter().filter(|(key, value)| *key != "model" && !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let found = settings(&["cnn", "--set", &format!("{key}={text}")]).unwrap();
            assert!(found.has(key), "{key}");
            assert_eq!(found.resolve().unwrap().to_object(), config, "{key}");
        }
    }

    #[test]
    fn values_are_json_or_as_flags_have_them() {
        let of = |pair: &str| settings(&["--set", pair]).unwrap();
        assert_eq!(of("hidden=64,32"), Settings { hidden: Some(vec![64, 32]), ..Settings::default() });
        assert_eq!(of("hidden=[64]"), of("hidden=64"));
        assert_eq!(of("beta_2=.5"), Settings { beta_2: Some(0.5), ..Settings::default() });
        assert_eq!(of("augment=flip"), settings(&["--augment", "flip"]).unwrap());
        assert_eq!(of("optimizer=adam"), settings(&["--optimizer", "adam"]).unwrap());
    }

    #[test]
    fn what_a_file_sets_can_be_set_otherwise_and_unset() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        fs::write(&path, r#"{"clip_norm": 1, "beta_1": 0.8, "epochs": 3}"#).unwrap();
        let config = ["--config", path.to_str().unwrap()];
        let changed = settings(&[&config[..], &["--set", "clip_norm=none", "--set", "beta_1=0.7"]].concat()).unwrap();
        assert_eq!(changed, Settings { beta_1: Some(0.7), epochs: Some(3), ..Settings::default() });
        let unset = settings(&[&config[..], &["--set", "epochs=null"]].concat()).unwrap();
        assert_eq!(unset.epochs, None);
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        let checks: [(&[&str], &str); 6] = [
            (&["--set", "beta2=1"], "--set beta2=1: config: unknown key `beta2`; did you mean `beta_2`?"),
            (&["--set", "beta2=none"], "--set beta2=none: config: unknown key `beta2`; did you mean `beta_2`?"),
            (&["--set", "epochs=ten"], "--set epochs=ten: config: epochs: invalid type: string \"ten\""),
            (&["--set", "epochs"], "--set: expected KEY=VALUE, found `epochs`"),
            (&["--set", "epochs=2", "--epochs", "3"], "--set epochs=2: `epochs` is given twice"),
            (&["--set", "epochs=2", "--set", "epochs=none"], "--set epochs=none: `epochs` is given twice"),
        ];
        for (arguments, expected) in checks {
            let message = settings(arguments).unwrap_err();
            assert!(message.starts_with(expected), "{arguments:?}: {message}");
        }
    }
}
