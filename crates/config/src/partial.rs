use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    Augmentation, Config, ConfigError, Registry, file,
    keys::{SECTIONS, Table, path_of, section, unknown},
    resolve::value,
};

/// A partial config: only the keys that a file or flags set.
///
/// A null stands for a value that is unset: the layers below say nothing about its key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    sections: BTreeMap<&'static str, Map<String, Value>>,
    /// Keys of no section, which `resolve` refuses, since only then it is known which networks there are.
    strangers: Map<String, Value>,
}

impl Partial {
    /// Reads the bytes of a file, in TOML or JSON: a config, or a whole `run.json` that holds one.
    ///
    /// # Errors
    /// When it is neither, or as [`from_object`](Self::from_object).
    pub fn from_file(bytes: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let mut object = file::object(file::parse(bytes.as_ref())?)?;
        if object.contains_key("schema")
            && let Some(Value::Object(config)) = object.remove("config")
        {
            object = config;
        }
        Self::from_object(object)
    }

    /// Reads a JSON object of sections, each an object or only the name of a variant. Paths of keys are understood too.
    ///
    /// # Errors
    /// When a key is given twice, a declared section has an unknown key, or a declared key a value of the wrong type or
    /// outside its range. What concerns networks, data sets and other variants shows in [`resolve`](Self::resolve).
    pub fn from_object(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut partial = Self::default();
        for (key, value) in object {
            match (section(&key), key.split_once('.')) {
                (Some(table), _) => {
                    for (name, value) in table.keys_of(value)? {
                        partial.insert(table, &name, value)?;
                    }
                }
                (None, Some((name, key))) if let Some(table) = section(name) => partial.insert(table, key, value)?,
                _ => {
                    partial.strangers.insert(key, value);
                }
            }
        }
        for table in &SECTIONS {
            if let Some(keys) = partial.sections.get(table.name) {
                table.check_declared(keys)?;
            }
        }
        Ok(partial)
    }

    fn insert(&mut self, table: &Table, key: &str, value: Value) -> Result<(), ConfigError> {
        match self.sections.entry(table.name).or_default().insert(key.to_owned(), value) {
            Some(_) => Err(ConfigError::twice(&format!("{}.{key}", table.name))),
            None => Ok(()),
        }
    }

    /// Sets a key, such as `optimizer.beta_1`, to a value; null unsets it, in layers below too. The name of a section
    /// stands for the name of its variant, and a declared key may go without its section. Nothing is checked.
    pub fn set(&mut self, key: &str, value: Value) {
        let path = path_of(key, &Registry::default()).unwrap_or_else(|_| key.to_owned());
        if let (Some(table), Value::Object(keys)) = (section(key), &value) {
            self.sections.entry(table.name).or_default().extend(keys.clone());
            return;
        }
        match path.split_once('.') {
            Some((name, key)) if let Some(table) = section(name) => {
                self.sections.entry(table.name).or_default().insert(key.to_owned(), value);
            }
            _ => {
                self.strangers.insert(path, value);
            }
        }
    }

    /// The same with the value that `text` is for a key, with or without its section: JSON, a number such as `.5`, a list
    /// such as `64,32` for a key that takes one, or a text; `none` unsets the key.
    ///
    /// # Errors
    /// When there is no such key, or it takes no such value.
    pub fn with_text(mut self, key: &str, text: &str, registry: &Registry) -> Result<Self, ConfigError> {
        let path = path_of(key, registry)?;
        let value = value(&path, text, registry)?;
        self.set(&path, value);
        Ok(self)
    }

    /// Whether something is said about a key, with or without its section: a value, or that it is unset.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        let path = path_of(key, &Registry::default()).unwrap_or_else(|_| key.to_owned());
        match path.split_once('.') {
            Some((name, key)) => {
                section(name).and_then(|table| self.sections.get(table.name)).is_some_and(|keys| keys.contains_key(key))
            }
            None => self.sections.values().any(|keys| keys.contains_key(key)),
        }
    }

    /// The value of the key of this path, where there is one.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        let (name, key) = path.split_once('.')?;
        self.sections.get(name)?.get(key)
    }

    /// These values, and those of `below` where these say nothing. Where these name another variant of a section than
    /// `below` does, its keys of the section are left out, but for those that all variants have (`data.augment`).
    #[must_use]
    pub fn over(mut self, below: Self) -> Self {
        for (name, mut lower) in below.sections {
            let upper = self.sections.entry(name).or_default();
            if let (Some(above), Some(below)) = (upper.get("name"), lower.get("name"))
                && above != below
                && !below.is_null()
            {
                let is_common = |key: &str| section(name).is_some_and(|table| table.is_common(key));
                lower.retain(|key, _| is_common(key));
            }
            for (key, value) in lower {
                upper.entry(key).or_insert(value);
            }
        }
        for (key, value) in below.strangers {
            self.strangers.entry(key).or_insert(value);
        }
        self
    }

    /// Fills in what is left open and checks the whole.
    ///
    /// # Errors
    /// When the network is missing, a key or the name of a variant is unknown, a value is of the wrong type or outside its
    /// range, or two do not go together.
    pub fn resolve(mut self, registry: &Registry) -> Result<Config, ConfigError> {
        if let Some(key) = self.strangers.keys().next() {
            return Err(unknown(key, registry));
        }
        let mut complete = |name: &str| {
            let table = section(name).ok_or_else(|| unknown(name, registry))?;
            table.complete(self.sections.remove(name).unwrap_or_default(), registry)
        };
        let mut config = Config {
            network: typed(complete("network")?)?,
            data: typed(complete("data")?)?,
            optimizer: typed(complete("optimizer")?)?,
            schedule: typed(complete("schedule")?)?,
            protocol: typed(complete("protocol")?)?,
            training: typed(complete("training")?)?,
        };
        Augmentation::sort("data.augment", &mut config.data.augment)?;
        config.check()?;
        Ok(config)
    }
}

fn typed<T: DeserializeOwned>(section: Map<String, Value>) -> Result<T, ConfigError> {
    serde_json::from_value(Value::Object(section)).map_err(|error| ConfigError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Adamw, Momentum, Order, augment, keys, keys::tests::registry};

    fn file(text: &str) -> Partial {
        Partial::from_file(text).unwrap()
    }

    fn resolved(text: &str) -> Result<Config, ConfigError> {
        Partial::from_file(text)?.resolve(&registry())
    }

    fn typed(pairs: &[(&str, &str)]) -> Result<Partial, ConfigError> {
        let start = Ok(Partial::default());
        pairs.iter().fold(start, |partial, (key, text)| partial?.with_text(key, text, &registry()))
    }

    #[test]
    fn what_is_left_open_follows_the_variant() {
        let config = resolved(r#"{"network": "mlp"}"#).unwrap();
        assert_eq!((config.optimizer.name(), config.optimizer.learning_rate()), ("sgd", 0.1));
        assert_eq!((config.data.name.as_str(), config.protocol.order()), ("fashion-mnist", Order::Shuffled));
        assert_eq!(config.network.keys["hidden"], json!([512, 512]));
        let config = resolved(r#"{"model": {"name": "cnn"}, "optimizer": "adamw", "protocol": "assignment"}"#).unwrap();
        assert_eq!(config.optimizer, Adamw { weight_decay: 0.01, ..Adamw::default() }.into());
        assert_eq!((config.protocol.order(), config.protocol.monitor()), (Order::File, "test/loss"));
    }

    #[test]
    fn a_whole_record_gives_its_config() {
        let record = file(r#"{"schema": 3, "id": "x", "config": {"training": {"epochs": 3}}}"#);
        assert_eq!(record, file("training.epochs = 3"));
        let message = Partial::from_file(r#"{"schema": 3, "config": {"seed": 1, "seed": 1}}"#).unwrap_err().to_string();
        assert!(message.starts_with("config: `seed` is there twice"), "{message}");
    }

    #[test]
    fn upper_layers_win_and_another_variant_drops_the_keys_below() {
        let flags = typed(&[("epochs", "2")]).unwrap();
        assert_eq!(flags.over(file("training = {epochs = 9, seed = 7}")), file("training = {epochs = 2, seed = 7}"));
        let below = file("optimizer = {name = 'momentum', learning_rate = 0.5, nesterov = true}");
        let adam = typed(&[("optimizer", "adam"), ("beta_1", ".8")]).unwrap();
        assert_eq!(adam.over(below.clone()), file("optimizer = {name = 'adam', beta_1 = 0.8}"));
        let same = typed(&[("optimizer", "momentum"), ("learning_rate", "1")]).unwrap();
        assert_eq!(same.over(below), file("optimizer = {name = 'momentum', learning_rate = 1, nesterov = true}"));
        let below = file("data = {name = 'idx', transpose = true, augment = ['flip']}");
        let data = typed(&[("dataset", "fashion-mnist")]).unwrap().over(below);
        assert_eq!(data, file("data = {name = 'fashion-mnist', augment = ['flip']}"));
        // A file that names no optimizer means its learning rate for whichever it is.
        let unnamed = typed(&[("optimizer", "adam")]).unwrap().over(file("optimizer.learning_rate = 0.5"));
        assert_eq!(unnamed, file("optimizer = {name = 'adam', learning_rate = 0.5}"));
    }

    #[test]
    fn flags_can_change_every_variant_of_a_recorded_config() {
        for text in [r#"{"network": "mlp"}"#, r#"{"network": "cnn", "optimizer": "muon", "protocol": "assignment"}"#] {
            let recorded = Partial::from_object(resolved(text).unwrap().to_object()).unwrap();
            for key in
                keys(&registry()).iter().filter(|key| key.path.split_once('.').is_some_and(|(_, key)| key == "name"))
            {
                for name in &key.choices {
                    let changed = typed(&[(&key.path, name)]).unwrap().over(recorded.clone()).resolve(&registry());
                    assert_eq!(changed.unwrap().flat()[&key.path], json!(name));
                }
            }
        }
    }

    #[test]
    fn every_key_can_be_set_by_its_path_and_by_its_name() {
        for name in ["cnn", "mlp"] {
            for optimizer in ["sgd", "momentum", "adam", "adamw", "muon"] {
                let partial = typed(&[("network", name), ("optimizer", optimizer)]).unwrap();
                let config = partial.clone().resolve(&registry()).unwrap();
                for (path, value) in config.flat().into_iter().filter(|(_, value)| !value.is_null()) {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let mut keys = vec![path.as_str()];
                    // The test network has channels too.
                    let is_unique = |name: &&str| !["name", "channels"].contains(name);
                    keys.extend(path.split_once('.').map(|(_, name)| name).filter(is_unique));
                    for key in keys {
                        let set = typed(&[(key, &text)]).unwrap();
                        assert!(set.has(key) && set.has(&path), "{key}");
                        assert_eq!(set.over(partial.clone()).resolve(&registry()).unwrap(), config, "{key}={text}");
                    }
                }
            }
        }
    }

    #[test]
    fn texts_are_json_or_as_flags_have_them() {
        let hidden = |text| typed(&[("model", "mlp"), ("hidden", text)]).unwrap().resolve(&registry()).unwrap().network;
        assert_eq!(hidden("64,32").keys["hidden"], json!([64, 32]));
        assert_eq!(hidden("64"), hidden("[64]"));
        let cnn = typed(&[("model", "cnn"), ("hidden", "64")]).unwrap().resolve(&registry()).unwrap();
        assert_eq!(cnn.network.keys["hidden"], json!(64));
        assert_eq!(typed(&[("beta_2", ".5")]).unwrap(), file("optimizer.beta_2 = 0.5"));
        let config = typed(&[("model", "mlp"), ("augment", "flip,shift,flip")]).unwrap().resolve(&registry()).unwrap();
        assert_eq!(config.data.augment, [augment::Flip::default().into(), augment::Shift::default().into()]);
        let [short, json] = ["flip,crop:padding=2", r#"["flip", {"name": "crop", "padding": 2}]"#]
            .map(|text| typed(&[("model", "mlp"), ("augment", text)]).unwrap().resolve(&registry()).unwrap());
        assert_eq!(short, json);
        let object = typed(&[("augment", r#"{"name": "crop", "padding": 2}"#)]).unwrap();
        assert_eq!(object, file(r#"{"data": {"augment": [{"name": "crop", "padding": 2}]}}"#));
        for (key, text, expected) in [
            ("pixel_mean", "0.5,.25,1", json!([0.5, 0.25, 1])),
            ("image_size", "64x48", json!("64x48")),
            ("image_size", "32", json!(32)),
            ("class_weights", "balanced", json!("balanced")),
            ("class_weights", "1,.5", json!([1, 0.5])),
            ("class_weights", "3", json!([3])),
            ("freeze", "conv1,block*", json!(["conv1", "block*"])),
            ("weights", "20250101", json!("20250101")),
        ] {
            let mut expected_partial = Partial::default();
            expected_partial.set(key, expected);
            assert_eq!(typed(&[(key, text)]).unwrap(), expected_partial, "{key}={text}");
        }
        let momentum = typed(&[("model", "mlp"), ("optimizer", "momentum"), ("nesterov", "true")]).unwrap();
        let expected = Momentum { nesterov: true, ..Momentum::default() };
        assert_eq!(momentum.resolve(&registry()).unwrap().optimizer, expected.into());
    }

    #[test]
    fn texts_that_fit_no_key_are_refused() {
        let message = |key: &str, text: &str| typed(&[(key, text)]).unwrap_err().to_string();
        assert_eq!(message("beta2", "1"), "config: unknown key `beta2`; did you mean `optimizer.beta_2`?");
        assert_eq!(message("beta2", "none"), message("beta2", "1"));
        assert_eq!(message("epochs", "ten"), "training.epochs: expected a whole number, found \"ten\"");
        assert_eq!(
            message("augment", "shift:pixel=1"),
            "config: unknown key `data.augment.shift.pixel`; did you mean \
                    `data.augment.shift.pixels`?"
        );
        assert!(message("model", "vgg").starts_with("config: unknown network `vgg`"));
        assert_eq!(message("name", "cnn"), "config: unknown key `name`; did you mean `network.name`?");
    }

    #[test]
    fn a_key_that_several_sections_have_needs_its_section() {
        let mut registry = registry();
        registry.networks[0].keys.insert("momentum".to_owned(), json!(0.1));
        let message = Partial::default().with_text("momentum", ".5", &registry).unwrap_err().to_string();
        assert_eq!(
            message,
            "config: `momentum` could be any of network.momentum, optimizer.momentum; give one of these"
        );
    }

    #[test]
    fn what_a_file_sets_can_be_unset() {
        let below = file("network = 'mlp'\ntraining = {clip_norm = 1, epochs = 3}");
        let config = typed(&[("clip_norm", "none")]).unwrap().over(below.clone()).resolve(&registry()).unwrap();
        assert_eq!((config.training.clip_norm, config.training.epochs), (None, 3));
        let mut partial = below;
        partial.set("epochs", Value::Null);
        assert!(partial.has("epochs") && !partial.has("seed"));
        assert_eq!(partial.resolve(&registry()).unwrap().training.epochs, 10);
    }
}
