//! A section as typed, checked and completed by the table of its keys.

use serde_json::{Map, Value};

use crate::{
    ConfigError, Registry, Section,
    augment::typed,
    keys::{Table, section, unknown},
    kind::{Kind, either},
};

impl Table {
    /// The keys of a section as a file has it: an object, or only a name.
    pub(crate) fn keys_of(&self, value: Value) -> Result<Map<String, Value>, ConfigError> {
        match value {
            Value::Object(keys) => Ok(keys),
            name @ (Value::String(_) | Value::Null) if self.is_named() => {
                Ok(Map::from_iter([("name".to_owned(), name)]))
            }
            Value::Null => Ok(Map::new()),
            other => {
                let wanted = if self.is_named() { "a name or an object of keys" } else { "an object of keys" };
                Err(ConfigError::invalid(self.name, wanted, &other))
            }
        }
    }

    /// The kinds of values that a key has in the section's variants.
    pub(crate) fn kinds(&self, key: &str, registry: &Registry) -> Vec<Kind> {
        if let Some(field) = self.field(key) {
            return vec![field.kind];
        }
        self.variations(registry).iter().filter_map(|section| section.keys.get(key)).map(Kind::of).collect()
    }

    /// Checks what no registry is needed for.
    pub(crate) fn check_declared(&self, keys: &Map<String, Value>) -> Result<(), ConfigError> {
        for (key, value) in keys {
            match self.field(key) {
                Some(field) if !value.is_null() => drop(field.read(&format!("{}.{key}", self.name), value)?),
                Some(_) => {}
                None if self.is_registered() => {}
                None if key == "name" && self.is_named() => drop(self.named(value, &Registry::default())?),
                None => return Err(unknown(&format!("{}.{key}", self.name), &Registry::default())),
            }
        }
        Ok(())
    }

    /// The section with all its keys.
    pub(crate) fn complete(
        &self,
        given: Map<String, Value>,
        registry: &Registry,
    ) -> Result<Map<String, Value>, ConfigError> {
        self.check_declared(&given)?;
        let chosen = if self.is_named() {
            self.named(given.get("name").unwrap_or(&Value::Null), registry)?
        } else {
            self.variations(registry).remove(0)
        };
        let mut complete = chosen.keys.clone();
        for (key, value) in given {
            if key == "name" && self.is_named() {
                continue;
            }
            let Some(default) = chosen.keys.get(&key) else {
                self.check_elsewhere(&key, &value, &chosen, registry)?;
                continue;
            };
            if value.is_null() {
                continue;
            }
            let path = format!("{}.{key}", self.name);
            let value = match self.field(&key) {
                Some(field) => field.read(&path, &value)?,
                None => Kind::of(default).read(&path, &value)?,
            };
            complete.insert(key, value);
        }
        if self.is_named() {
            complete.insert("name".to_owned(), chosen.name.into());
        }
        Ok(complete)
    }

    /// Refuses a key that the chosen variant does not have, unless another has it and it is only unset.
    fn check_elsewhere(
        &self,
        key: &str,
        value: &Value,
        chosen: &Section,
        registry: &Registry,
    ) -> Result<(), ConfigError> {
        let variations = self.variations(registry);
        let owners = variations.iter().filter(|section| section.keys.contains_key(key));
        let owners: Vec<String> = owners.map(|section| format!("`{}`", section.name)).collect();
        let path = format!("{}.{key}", self.name);
        if owners.is_empty() {
            let mut known = registry.clone();
            if self.name == "network" {
                known.networks.retain(|section| section.name == chosen.name);
            }
            return Err(unknown(&path, &known));
        }
        if value.is_null() {
            return Ok(());
        }
        let wanted = format!("{} {}", self.what(), either(&owners));
        Err(ConfigError::Requires { key: path, wanted, found: chosen.name.clone() })
    }
}

/// The value that `text` is for the key of this path.
pub(crate) fn value(path: &str, text: &str, registry: &Registry) -> Result<Value, ConfigError> {
    if matches!(text, "none" | "null") {
        return Ok(Value::Null);
    }
    let (name, key) = path.split_once('.').unwrap_or((path, ""));
    let Some(table) = section(name) else { return Err(unknown(path, registry)) };
    if key == "name" {
        return table.named(&text.into(), registry).map(|_| text.into());
    }
    let kinds = table.kinds(key, registry);
    let parts = || text.split(',').filter(|text| !text.is_empty());
    let list = || match typed(text) {
        single @ Value::Object(_) => Value::Array(vec![single]),
        _ => parts().map(typed).collect(),
    };
    let texts = || parts().map(Value::from).collect::<Value>();
    let readings: [&dyn Fn() -> Value; 4] = [&|| typed(text), &list, &texts, &|| text.into()];
    for value in readings.iter().map(|reading| reading()) {
        if let Some(kind) = kinds.iter().find(|kind| kind.admits(&value)) {
            return kind.read(path, &value).map(|_| value);
        }
    }
    let wanted = kinds.first().map_or_else(String::new, ToString::to_string);
    Err(ConfigError::invalid(path, wanted, &typed(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Config, Partial, keys::tests::registry};

    fn resolved(text: &str) -> Result<Config, ConfigError> {
        Partial::from_file(text)?.resolve(&registry())
    }

    const MISTAKES: &[(&str, &str)] = &[
        ("{}", "config: `network` is missing; the command `models` lists what there is"),
        (r#"{"network": "mpl"}"#, "config: unknown network `mpl`; did you mean `mlp`? Known: mlp, cnn"),
        (
            r#"{"network": "mlp", "data": "fashion"}"#,
            "config: unknown data set `fashion`; did you mean `fashion-mnist`? Known: fashion-mnist, idx",
        ),
        (
            r#"{"optimizer": "lion"}"#,
            "config: unknown optimizer `lion`; did you mean `muon`? Known: sgd, momentum, adam, adamw, muon",
        ),
        (r#"{"training": {"epoch": 1}}"#, "config: unknown key `training.epoch`; did you mean `training.epochs`?"),
        (r#"{"epochs": 1}"#, "config: unknown key `epochs`; did you mean `training.epochs`?"),
        (r#"{"hidden": [1]}"#, "config: unknown key `hidden`; did you mean `network.hidden`?"),
        (r#"{"optimiser": "sgd"}"#, "config: unknown key `optimiser`; did you mean `optimizer`?"),
        (
            r#"{"network": {"name": "mlp", "hiden": 1}}"#,
            "config: unknown key `network.hiden`; did you mean `network.hidden`?",
        ),
        (
            r#"{"network": {"name": "mlp", "hidden": "wide"}}"#,
            "network.hidden: expected a list of whole numbers, found \"wide\"",
        ),
        (r#"{"network": {"name": "cnn", "hidden": [8]}}"#, "network.hidden: expected a whole number, found [8]"),
        (r#"{"network": {"name": "mlp", "channels": [8]}}"#, "`network.channels` requires network `cnn` (got `mlp`)"),
        (
            r#"{"network": "mlp", "data": {"transpose": true}}"#,
            "`data.transpose` requires data set `idx` (got `fashion-mnist`)",
        ),
        (
            r#"{"network": "mlp", "optimizer": {"nesterov": true}}"#,
            "`optimizer.nesterov` requires optimizer `momentum` (got `sgd`)",
        ),
        (
            r#"{"network": "mlp", "schedule": {"name": "one-cycle", "warm_up_epochs": 1}}"#,
            "`schedule.warm_up_epochs` requires schedule `constant`, `step`, `cosine`, `linear` or `warm-restarts` (got `one-cycle`)",
        ),
        (r#"{"training": {"epochs": 0}}"#, "training.epochs: expected at least 1, found 0"),
        (r#"{"training": {"epochs": "ten"}}"#, "training.epochs: expected a whole number, found \"ten\""),
        (r#"{"training": {"epochs": 1.5}}"#, "training.epochs: expected a whole number, found 1.5"),
        (r#"{"training": {"precision": "f8"}}"#, "training.precision: expected f32, bf16 or f16, found \"f8\""),
        (r#"{"training": "long"}"#, "training: expected an object of keys, found \"long\""),
        (r#"{"optimizer": {"learning_rate": -1}}"#, "optimizer.learning_rate: expected at least 0, found -1"),
        (r#"{"optimizer": {"beta_1": 1}}"#, "optimizer.beta_1: expected at least 0 and below 1, found 1"),
        (
            r#"{"data": {"augment": ["flip", "crop:padding=-1"]}}"#,
            "data.augment.crop.padding: expected 1 to 4096, found -1",
        ),
        (
            r#"{"data": {"augment": 3}}"#,
            "data.augment: expected a list of augmentations such as \"crop:padding=2\", found 3",
        ),
        (
            r#"{"network": "mlp", "data": {"augment": ["flip", "flip:probability=1"]}}"#,
            "data.augment: expected `flip` once, found flip and flip:probability=1",
        ),
        (
            r#"{"data": {"image_size": "9x5000"}}"#,
            "data.image_size: expected a size such as 32 or 64x48 (height x width) of 1 to 4096 pixels a side, found \
             \"9x5000\"",
        ),
        (r#"{"data": {"channels": 3}}"#, "data.channels: expected grey or rgb, found 3"),
        (r#"{"data": {"pixel_std": [1, 0]}}"#, "data.pixel_std: expected above 0, found [1,0]"),
        (
            r#"{"network": "mlp", "data": {"channels": "rgb", "pixel_mean": [0, 1]}}"#,
            "data.pixel_mean: expected one number, or one for each channel, found [0.0,1.0]",
        ),
        (
            r#"{"network": "mlp", "data": {"pixel_mean": [0, 1], "pixel_std": [1, 1, 1]}}"#,
            "data.pixel_mean: expected one number, or one for each channel, found [0.0,1.0]",
        ),
        (
            r#"{"network": "mlp", "data": {"normalize": "auto", "pixel_std": 2}}"#,
            "`data.normalize` auto excludes `data.pixel_std` (got 2)",
        ),
        (
            r#"{"network": "mlp", "data": {"normalize": "auto", "pixel_mean": [0.5, 0.25, 0]}}"#,
            "`data.normalize` auto excludes `data.pixel_mean` (got 0.5,0.25,0)",
        ),
        (
            r#"{"training": {"class_weights": [0, 0]}}"#,
            "training.class_weights: expected balanced, or a number for each class, each at least 0 and one above 0, \
             found [0,0]",
        ),
        (
            r#"{"training": {"class_weights": "even"}}"#,
            "training.class_weights: expected balanced, or a number for each class, found \"even\"",
        ),
        (r#"{"protocol": {"folds": 1}}"#, "protocol.folds: expected at least 2, found 1"),
        (
            r#"{"network": "mlp", "protocol": {"folds": 5, "fold": 6}}"#,
            "protocol.fold: expected at most the 5 of protocol.folds, found 6",
        ),
        (r#"{"network": "mlp", "protocol": {"folds": 5}}"#, "`protocol.folds` requires `protocol.fold` (got `none`)"),
        (r#"{"network": "mlp", "protocol": {"fold": 1}}"#, "`protocol.fold` requires `protocol.folds` (got `none`)"),
        (
            r#"{"network": "mlp", "schedule": {"warm_up_epochs": 11}}"#,
            "schedule.warm_up_epochs: expected at most the 10 epochs of the run, found 11",
        ),
        (
            r#"{"network": "mlp", "optimizer": "adam", "training": {"precision": "f16"}}"#,
            "training.precision: expected f32 or bf16 with the optimizers `adam`, `adamw` and `muon`, found f16",
        ),
        (
            r#"{"network": "mlp", "protocol": {"monitor": "test/loss"}}"#,
            "protocol.monitor: expected a metric such as valid/loss with the protocol `validated`, found test/loss",
        ),
        (
            r#"{"network": "mlp", "training": {"ema_evaluate": true}}"#,
            "`training.ema_evaluate` requires `training.ema_decay` (got `none`)",
        ),
        (r#"{"network": "mlp", "model": "cnn"}"#, "config: `network.name` is given twice"),
        (r#"{"training": {"seed": 1}, "training.seed": 1}"#, "config: `training.seed` is given twice"),
        ("[1]", "config: expected an object of keys and values, found [1]"),
    ];

    #[test]
    fn mistakes_are_told_with_the_path_of_the_key() {
        for (text, expected) in MISTAKES {
            assert_eq!(resolved(text).unwrap_err().to_string(), *expected, "{text}");
        }
    }

    #[test]
    fn values_are_completed_and_old_ones_still_resolve() {
        let data = |keys: &str| resolved(&format!(r#"{{"network": "mlp", "data": {{{keys}}}}}"#)).unwrap().flat();
        let old = data(r#""augment": ["flip"], "pixel_mean": 0.25, "pixel_std": 1"#);
        assert_eq!(old["data.augment"], json!([{"name": "flip", "probability": 0.5, "alternate": false}]));
        assert_eq!((&old["data.pixel_mean"], &old["data.pixel_std"]), (&json!([0.25]), &json!([1.0])));
        let new =
            data(r#""augment": "crop:padding=2", "image_size": 32, "channels": "rgb", "pixel_mean": [0, 0.5, 1]"#);
        assert_eq!(new["data.augment"], json!([{"name": "crop", "padding": 2, "edge": "background"}]));
        assert_eq!((&new["data.image_size"], &new["data.channels"]), (&json!("32x32"), &json!("rgb")));
    }

    #[test]
    fn keys_of_a_users_own_take_what_serde_may_make_of_their_types() {
        let network = |keys: &str| resolved(&format!(r#"{{"network": {{"name": "cnn", {keys}}}}}"#)).map(|c| c.network);
        assert_eq!(network(r#""dropout": 0.5"#).unwrap().keys["dropout"], json!(0.5));
        assert_eq!(network(r#""rate": 1"#).unwrap().keys["rate"].to_string(), "1.0");
        assert_eq!(network(r#""channels": 8"#).unwrap().keys["channels"], json!([8]));
        assert_eq!(network(r#""activation": {"leaky": 0.1}"#).unwrap().keys["activation"], json!({"leaky": 0.1}));
        assert_eq!(
            network(r#""activation": 3"#).unwrap_err().to_string(),
            "network.activation: expected a text, found 3"
        );
    }
}
