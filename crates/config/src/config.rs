mod choices;

use kindling_models::{ModelName, NetworkConfig};
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::choices::{
    AugmentationName, DatasetName, OptimizerName, OrderName, Precision, Protocol, ScheduleName, StoppingMetric,
};
use crate::{ConfigError, Settings};

/// Everything that decides a run, but the data's bytes and the backend: all that enters training.
///
/// Made by [`Settings::resolve`]; the fields are those of [`Settings`], each with its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // each field is documented in `Settings`
pub struct ExperimentConfig {
    pub model: ModelName,
    pub hidden: Option<Vec<usize>>,
    pub precision: Precision,
    pub dataset: DatasetName,
    pub transpose: bool,
    pub pixel_mean: f64,
    pub pixel_deviation: f64,
    pub protocol: Protocol,
    pub order: OrderName,
    pub augment: Vec<AugmentationName>,
    pub limit_batches: Option<usize>,
    pub epochs: usize,
    pub batch_size: usize,
    pub seed: u64,
    pub optimizer: OptimizerName,
    pub learning_rate: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub beta_1: f64,
    pub beta_2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    pub adamw_learning_rate: f64,
    pub schedule: ScheduleName,
    pub warm_up_epochs: usize,
    pub step_epochs: usize,
    pub step_factor: f64,
    pub label_smoothing: f64,
    pub clip_norm: Option<f64>,
    pub early_stopping: Option<usize>,
    pub early_stopping_metric: Option<StoppingMetric>,
    pub gradient_steps: Option<usize>,
}

impl Settings {
    /// Fills in what is left open and checks the whole.
    ///
    /// # Errors
    /// When the model is missing, a value is outside its range, or two values do not go together.
    pub fn resolve(self) -> Result<ExperimentConfig, ConfigError> {
        let optimizer = self.optimizer.unwrap_or(OptimizerName::Sgd);
        let protocol = self.protocol.unwrap_or(Protocol::Validated);
        let config = ExperimentConfig {
            model: self.model.ok_or(ConfigError::NoModel)?,
            hidden: self.hidden,
            precision: self.precision.unwrap_or(Precision::F32),
            dataset: self.dataset.unwrap_or(DatasetName::FashionMnist),
            transpose: self.transpose.unwrap_or(false),
            pixel_mean: self.pixel_mean.unwrap_or(0.0),
            pixel_deviation: self.pixel_deviation.unwrap_or(1.0),
            protocol,
            order: self.order.unwrap_or(match protocol {
                Protocol::Validated => OrderName::Shuffled,
                Protocol::Assignment => OrderName::File,
            }),
            augment: in_order(self.augment.unwrap_or_default()),
            limit_batches: self.limit_batches,
            epochs: self.epochs.unwrap_or(10),
            batch_size: self.batch_size.unwrap_or(64),
            seed: self.seed.unwrap_or(42),
            optimizer,
            learning_rate: self.learning_rate.unwrap_or(match optimizer {
                OptimizerName::Sgd => 0.1,
                // A momentum of 0.9 multiplies the steps by ten.
                OptimizerName::Momentum => 0.01,
                OptimizerName::Adam | OptimizerName::Adamw | OptimizerName::Muon => 0.001,
            }),
            momentum: self.momentum.unwrap_or(match optimizer {
                OptimizerName::Muon => 0.95,
                _ => 0.9,
            }),
            nesterov: self.nesterov.unwrap_or(false),
            beta_1: self.beta_1.unwrap_or(0.9),
            beta_2: self.beta_2.unwrap_or(0.999),
            epsilon: self.epsilon.unwrap_or(1e-8),
            weight_decay: self.weight_decay.unwrap_or(match optimizer {
                OptimizerName::Adamw | OptimizerName::Muon => 0.01,
                _ => 0.0,
            }),
            adamw_learning_rate: self.adamw_learning_rate.unwrap_or(0.001),
            schedule: self.schedule.unwrap_or(ScheduleName::Constant),
            warm_up_epochs: self.warm_up_epochs.unwrap_or(0),
            step_epochs: self.step_epochs.unwrap_or(5),
            step_factor: self.step_factor.unwrap_or(0.1),
            label_smoothing: self.label_smoothing.unwrap_or(0.0),
            clip_norm: self.clip_norm,
            early_stopping: self.early_stopping,
            early_stopping_metric: self.early_stopping_metric.or(match (self.early_stopping, protocol) {
                (None, _) => None,
                (Some(_), Protocol::Validated) => Some(StoppingMetric::ValidLoss),
                (Some(_), Protocol::Assignment) => Some(StoppingMetric::TestLoss),
            }),
            gradient_steps: self.gradient_steps,
        };
        config.check()?;
        Ok(config)
    }
}

impl ExperimentConfig {
    /// The network's config.
    ///
    /// # Errors
    /// When `hidden` does not go with the model.
    pub fn network(&self) -> Result<NetworkConfig, ConfigError> {
        Ok(self.model.config(self.hidden.as_deref())?)
    }

    /// The config as it stands in `run.json`.
    #[must_use]
    pub fn to_object(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            other => unreachable!("a struct with plain fields is a JSON object, found {other:?}"),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.network()?;
        at_least_one("epochs", Some(self.epochs))?;
        at_least_one("batch_size", Some(self.batch_size))?;
        at_least_one("limit_batches", self.limit_batches)?;
        at_least_one("early_stopping", self.early_stopping)?;
        at_least_one("gradient_steps", self.gradient_steps)?;
        at_least_one("step_epochs", Some(self.step_epochs))?;
        let not_negative = |value: f64| value >= 0.0;
        let positive = |value: f64| value > 0.0;
        let fraction = |value: f64| (0.0..1.0).contains(&value);
        number("learning_rate", self.learning_rate, "a finite number, zero or more", not_negative)?;
        number("adamw_learning_rate", self.adamw_learning_rate, "a finite number, zero or more", not_negative)?;
        number("momentum", self.momentum, "a number from 0 up to, but not, 1", fraction)?;
        number("beta_1", self.beta_1, "a number from 0 up to, but not, 1", fraction)?;
        number("beta_2", self.beta_2, "a number from 0 up to, but not, 1", fraction)?;
        number("epsilon", self.epsilon, "a finite number above 0", positive)?;
        number("weight_decay", self.weight_decay, "a finite number, zero or more", not_negative)?;
        number("step_factor", self.step_factor, "a finite number above 0", positive)?;
        number("label_smoothing", self.label_smoothing, "a number from 0 up to, but not, 1", fraction)?;
        number("clip_norm", self.clip_norm.unwrap_or(1.0), "a finite number above 0", positive)?;
        number("pixel_mean", self.pixel_mean, "a finite number", |_| true)?;
        number("pixel_deviation", self.pixel_deviation, "a finite number above 0", positive)?;
        let needs =
            |field, wanted: &str, found: String| Err(ConfigError::Invalid { field, wanted: wanted.to_owned(), found });
        if self.nesterov && self.optimizer != OptimizerName::Momentum {
            let found = name_of(&self.optimizer);
            return Err(ConfigError::Requires { field: "nesterov", wanted: "optimizer `momentum`", found });
        }
        if self.warm_up_epochs > 0 && self.schedule == ScheduleName::OneCycle {
            return needs(
                "warm_up_epochs",
                "0, since `one-cycle` has a warm-up of its own",
                self.warm_up_epochs.to_string(),
            );
        }
        if self.warm_up_epochs > self.epochs {
            return needs(
                "warm_up_epochs",
                &format!("at most the {} epochs of the run", self.epochs),
                self.warm_up_epochs.to_string(),
            );
        }
        if self.precision == Precision::F16
            && matches!(self.optimizer, OptimizerName::Adam | OptimizerName::Adamw | OptimizerName::Muon)
        {
            // Adam's epsilon of 1e-8 and the squares of most gradients are zero in f16, and so is what it divides by.
            let wanted = "f32 or bf16 with the optimizers `adam`, `adamw` and `muon`";
            return needs("precision", wanted, name_of(&self.precision));
        }
        if self.transpose && self.dataset != DatasetName::Idx {
            let found = name_of(&self.dataset);
            return Err(ConfigError::Requires { field: "transpose", wanted: "dataset `idx`", found });
        }
        if let Some(metric) = self.early_stopping_metric
            && (metric == StoppingMetric::TestLoss) != (self.protocol == Protocol::Assignment)
        {
            let wanted = match self.protocol {
                Protocol::Validated => "`valid_loss` or `valid_accuracy` with the protocol `validated`",
                Protocol::Assignment => "`test_loss` with the protocol `assignment`",
            };
            return needs("early_stopping_metric", wanted, name_of(&metric));
        }
        Ok(())
    }
}

/// Each once and in the order of the enum: what is written otherwise trains the same.
fn in_order(mut names: Vec<AugmentationName>) -> Vec<AugmentationName> {
    names.sort_unstable();
    names.dedup();
    names
}

/// A value's name in JSON, without quotes.
pub(crate) fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn at_least_one(field: &'static str, value: Option<usize>) -> Result<(), ConfigError> {
    match value {
        Some(0) => Err(ConfigError::Invalid { field, wanted: "at least 1".to_owned(), found: "0".to_owned() }),
        _ => Ok(()),
    }
}

fn number(field: &'static str, value: f64, wanted: &str, is_fine: impl Fn(f64) -> bool) -> Result<(), ConfigError> {
    if value.is_finite() && is_fine(value) {
        return Ok(());
    }
    Err(ConfigError::Invalid { field, wanted: wanted.to_owned(), found: value.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(json: &str) -> Result<ExperimentConfig, ConfigError> {
        Settings::from_json(json).and_then(Settings::resolve)
    }

    #[test]
    fn every_key_of_a_config_is_a_setting() {
        let mut keys: Vec<String> = resolved(r#"{"model": "mlp"}"#).unwrap().to_object().keys().cloned().collect();
        let mut known: Vec<String> = Settings::KEYS.iter().map(ToString::to_string).collect();
        keys.sort();
        known.sort();
        assert_eq!(keys, known);
    }

    #[test]
    fn what_is_left_open_follows_optimizer_and_protocol() {
        let sgd = resolved(r#"{"model": "mlp"}"#).unwrap();
        assert_eq!((sgd.learning_rate, sgd.weight_decay, sgd.order), (0.1, 0.0, OrderName::Shuffled));
        let adamw = resolved(r#"{"model": "mlp", "optimizer": "adamw", "protocol": "assignment"}"#).unwrap();
        assert_eq!((adamw.learning_rate, adamw.weight_decay, adamw.order), (0.001, 0.01, OrderName::File));
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_was_wanted() {
        let checks = [
            ("{}", "config: `model` is missing; `kindling models` lists what there is"),
            (r#"{"model": "cnn", "hidden": [8]}"#, "hidden widths go with the model `mlp`, not with `cnn`"),
            (r#"{"model": "mlp", "epochs": 0}"#, "epochs: expected at least 1, found 0"),
            (
                r#"{"model": "mlp", "learning_rate": -1}"#,
                "learning_rate: expected a finite number, zero or more, found -1",
            ),
            (r#"{"model": "mlp", "clip_norm": 0}"#, "clip_norm: expected a finite number above 0, found 0"),
            (r#"{"model": "mlp", "nesterov": true}"#, "`nesterov` requires optimizer `momentum` (got `sgd`)"),
            (
                r#"{"model": "mlp", "early_stopping_metric": "test_loss"}"#,
                "early_stopping_metric: expected `valid_loss` or `valid_accuracy` with the protocol `validated`, found test_loss",
            ),
            (
                r#"{"model": "mlp", "warm_up_epochs": 11}"#,
                "warm_up_epochs: expected at most the 10 epochs of the run, found 11",
            ),
        ];
        for (json, expected) in checks {
            assert_eq!(resolved(json).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn flags_can_change_protocol_and_optimizer_of_any_recorded_config() {
        for json in [r#"{"model": "mlp"}"#, r#"{"model": "mlp", "optimizer": "muon", "protocol": "assignment"}"#] {
            let recorded = Settings::from_object(resolved(json).unwrap().to_object()).unwrap();
            for protocol in [Protocol::Validated, Protocol::Assignment] {
                let flags =
                    Settings { protocol: Some(protocol), optimizer: Some(OptimizerName::Adamw), ..Settings::default() };
                flags.or(recorded.clone()).resolve().unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn a_config_read_back_from_its_own_json_is_the_same(
            epochs in 1_usize..100,
            seed: u64,
            learning_rate in 0.0..10.0_f64,
            clip_norm in proptest::option::of(0.001..10.0_f64),
            hidden in proptest::option::of(proptest::collection::vec(1_usize..2000, 0..4)),
            assignment: bool,
        ) {
            let settings = Settings {
                model: Some(ModelName::Mlp),
                epochs: Some(epochs),
                seed: Some(seed),
                learning_rate: Some(learning_rate),
                clip_norm,
                hidden,
                protocol: assignment.then_some(Protocol::Assignment),
                ..Settings::default()
            };
            let config = settings.resolve().unwrap();
            let text = serde_json::to_string(&config.to_object()).unwrap();
            prop_assert_eq!(resolved(&text).unwrap(), config);
        }
    }
}
