//! Sweeps: every combination of values for the keys of a config.

use serde_json::{Map, Value};

use crate::{ConfigError, ExperimentConfig, Settings, config_file};

/// The most runs of a grid: far more than a person waits for.
const LARGEST: usize = 10_000;
/// Keys whose single value is a list already.
const LISTS: [&str; 2] = ["hidden", "augment"];

/// Values to try for some keys of a config; the first key varies slowest. From JSON, keys come in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    axes: Vec<(String, Vec<Value>)>,
}

impl Grid {
    /// Reads one grid, or a list of them, from JSON: objects whose keys are those of a config, with a value, or a list of
    /// values to try. `seeds` is short for `seed` with 1 up to that number.
    ///
    /// # Errors
    /// When it is neither, or has an unknown key or a value of the wrong type.
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Vec<Self>, ConfigError> {
        let grids = match config_file::parse(json.as_ref())? {
            Value::Array(grids) => grids,
            grid => vec![grid],
        };
        grids.into_iter().map(Self::from_value).collect()
    }

    fn from_value(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(object) = value else {
            return Err(ConfigError::Malformed(format!("expected an object of keys and values, found {value}")));
        };
        let mut grid = Self::default();
        if object.contains_key("seed") && object.contains_key("seeds") {
            return Err(ConfigError::Malformed("expected seed or seeds, found both".to_owned()));
        }
        for (key, value) in object {
            if key == "seeds" {
                let Some(count) = value.as_u64().filter(|&count| count > 0) else {
                    return Err(ConfigError::Malformed(format!("seeds: expected a number from 1 up, found {value}")));
                };
                grid = grid.with_seeds(count);
                continue;
            }
            let is_list_of_lists = |values: &[Value]| !values.is_empty() && values.iter().all(Value::is_array);
            let values = match value {
                Value::Array(values) if !LISTS.contains(&key.as_str()) || is_list_of_lists(&values) => values,
                single => vec![single],
            };
            grid = grid.with(&key, values)?;
        }
        Ok(grid)
    }

    /// The same with these values for `key`, in place of those it may have had.
    ///
    /// # Errors
    /// When there is no such key, no value, or one of the wrong type.
    pub fn with(mut self, key: &str, values: Vec<Value>) -> Result<Self, ConfigError> {
        if values.is_empty() {
            return Err(ConfigError::Malformed(format!("{key}: expected at least one value, found none")));
        }
        for value in &values {
            Settings::from_object(Map::from_iter([(key.to_owned(), value.clone())]))?;
        }
        match self.axes.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = values,
            None => self.axes.push((key.to_owned(), values)),
        }
        Ok(self)
    }

    /// The same with the seeds from 1 up to `count`.
    #[must_use]
    pub fn with_seeds(mut self, count: u64) -> Self {
        self.axes.retain(|(key, _)| key != "seed");
        // No more than it takes to be refused.
        let seeds = (1..=count).take(LARGEST + 1).map(Value::from).collect();
        self.axes.push(("seed".to_owned(), seeds));
        self
    }

    /// These values, and those of `other` for the keys that these leave open.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        let open = other.axes.into_iter().filter(|(key, _)| self.axes.iter().all(|(known, _)| known != key));
        let open: Vec<_> = open.collect();
        self.axes.extend(open);
        self
    }

    /// Every combination, resolved; each with its values of the keys that have several, as in `learning_rate 0.1`.
    ///
    /// # Errors
    /// When a combination makes no sense, with the message of its config, or there are more than 10,000.
    pub fn configs(&self) -> Result<Vec<(Vec<String>, ExperimentConfig)>, ConfigError> {
        let size = self.axes.iter().fold(1_usize, |size, (_, values)| size.saturating_mul(values.len()));
        if size > LARGEST {
            return Err(ConfigError::Malformed(format!("expected at most {LARGEST} combinations, found {size}")));
        }
        let mut combinations = vec![(Vec::new(), Map::new())];
        for (key, values) in &self.axes {
            let extend = |(names, object): &(Vec<String>, Map<String, Value>)| {
                let (names, object) = (names.clone(), object.clone());
                values
                    .iter()
                    .map(move |value| {
                        let (mut names, mut object) = (names.clone(), object.clone());
                        object.insert(key.clone(), value.clone());
                        if values.len() > 1 {
                            names.push(format!("{key} {}", plain(value)));
                        }
                        (names, object)
                    })
                    .collect::<Vec<_>>()
            };
            combinations = combinations.iter().flat_map(extend).collect();
        }
        let resolve = |(names, object)| Ok((names, Settings::from_object(object)?.resolve()?));
        combinations.into_iter().map(resolve).collect()
    }
}

/// A value without JSON's quotes and brackets.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("-"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only(text: &str) -> Grid {
        Grid::from_json(text).unwrap().remove(0)
    }

    #[test]
    fn the_first_key_varies_slowest_and_names_hold_what_varies() {
        let grid = Grid::default()
            .with("model", vec!["mlp".into()])
            .and_then(|grid| grid.with("learning_rate", vec![1.into(), 0.1.into()]))
            .unwrap()
            .with_seeds(2);
        let configs = grid.configs().unwrap();
        let figures: Vec<_> = configs.iter().map(|(_, config)| (config.learning_rate, config.seed)).collect();
        assert_eq!(figures, [(1.0, 1), (1.0, 2), (0.1, 1), (0.1, 2)]);
        assert_eq!(configs[2].0, ["learning_rate 0.1", "seed 1"]);
    }

    #[test]
    fn a_list_is_a_single_value_where_a_value_is_a_list() {
        assert_eq!(only(r#"{"model": "mlp", "hidden": [64, 32]}"#).configs().unwrap().len(), 1);
        assert_eq!(only(r#"{"model": "mlp", "hidden": [[64, 32], [128]]}"#).configs().unwrap().len(), 2);
        assert_eq!(only(r#"{"model": ["mlp", "cnn"], "augment": ["flip"]}"#).configs().unwrap().len(), 2);
    }

    #[test]
    fn the_keys_that_take_lists_are_known() {
        for key in Settings::KEYS {
            let takes_lists = Settings::from_object(Map::from_iter([((*key).to_owned(), Value::Array(Vec::new()))]));
            assert_eq!(takes_lists.is_ok(), LISTS.contains(key), "{key}");
        }
    }

    #[test]
    fn flags_take_the_place_of_a_files_values() {
        let file = only(r#"{"model": "mlp", "learning_rate": [1, 0.1], "seeds": 3}"#);
        let flags = Grid::default().with("learning_rate", vec![0.5.into()]).unwrap();
        let configs = flags.or(file).configs().unwrap();
        assert!(
            configs.len() == 3 && configs.iter().all(|(_, config)| config.learning_rate.to_bits() == 0.5_f64.to_bits())
        );
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| Grid::from_json(text).unwrap_err().to_string();
        assert!(message(r#"{"learning_rat": [1]}"#).contains("did you mean `learning_rate`"));
        assert!(message(r#"{"epochs": ["ten"]}"#).contains("config: epochs: invalid type"));
        assert!(message(r#"{"epochs": []}"#).contains("expected at least one value"));
        assert!(message(r#"{"seeds": 0}"#).contains("expected a number from 1 up, found 0"));
        assert!(message(r#"{"seed": [7, 8], "seeds": 3}"#).contains("expected seed or seeds, found both"));
        assert!(message("[1]").contains("expected an object of keys and values, found 1"));
    }

    #[test]
    fn more_combinations_than_anyone_waits_for_are_refused() {
        let grid = only(r#"{"model": "mlp", "seeds": 1000000000000}"#);
        assert!(grid.configs().unwrap_err().to_string().contains("expected at most 10000 combinations"));
    }

    proptest! {
        #[test]
        fn the_size_of_a_grid_is_the_product_of_its_axes(rates in 1_usize..5, seeds in 1_u64..5, sizes in 1_usize..5) {
            let grid = only(r#"{"model": "mlp"}"#)
                .with("learning_rate", (1..=rates).map(|n| (0.1 * n as f64).into()).collect())
                .and_then(|grid| grid.with("batch_size", (1..=sizes).map(Value::from).collect()))
                .unwrap()
                .with_seeds(seeds);
            let configs = grid.configs().unwrap();
            prop_assert_eq!(configs.len(), rates * seeds as usize * sizes);
            // And no combination comes twice.
            let mut names: Vec<_> = configs.iter().map(|(_, config)| format!("{config:?}")).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), configs.len());
        }
    }
}
