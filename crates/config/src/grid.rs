//! Sweeps: every combination of values for the keys of a config.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    Config, ConfigError, Partial, Registry, Section, file,
    keys::{path_of, plain, section},
    resolve,
};

/// The most runs of a grid: far more than a person waits for.
const LARGEST: usize = 10_000;

/// Paths of the keys of cross-validation: with the number of folds alone, each of the folds is tried.
const FOLDS: &str = "protocol.folds";
const FOLD: &str = "protocol.fold";

/// Values to try for some keys of a config; the first key varies slowest. From a file, keys come in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// Keys as typed, each with its values.
    axes: Vec<(String, Values)>,
    /// What every combination says where the axes do not.
    base: Partial,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    /// As a file has them: one value or a list of them, which only the key's default tells apart.
    Typed(Value),
    /// As flags have them, one text for each time that a flag is given; commas separate values, or the items of a list.
    Texts(Vec<String>),
    /// Each a value to try.
    Listed(Vec<Value>),
}

impl Grid {
    /// Reads one grid, or a list of them, from the bytes of a file in TOML or JSON: objects whose keys are those of a
    /// config, with or without their section, each with a value or a list of values to try. `seeds` is short for `seed`
    /// with 1 up to that number. A list of grids is a JSON list, or the list `grids` of an object (TOML's `[[grids]]`).
    ///
    /// # Errors
    /// When it is none of these, or gives a key twice. Unknown keys and wrong values show in [`configs`](Self::configs).
    pub fn from_file(bytes: impl AsRef<[u8]>) -> Result<Vec<Self>, ConfigError> {
        let grids = match file::parse(bytes.as_ref())? {
            Value::Array(grids) => grids,
            Value::Object(mut object) if object.len() == 1 && object.contains_key("grids") => {
                match object.remove("grids") {
                    Some(Value::Array(grids)) => grids,
                    other => return Err(ConfigError::invalid("grids", "a list of grids", &other.unwrap_or_default())),
                }
            }
            grid => vec![grid],
        };
        grids.into_iter().map(|grid| Self::from_object(file::object(grid)?)).collect()
    }

    fn from_object(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut grid = Self::default();
        for (key, value) in object {
            match value {
                Value::Object(keys) if section(&key).is_some() => {
                    for (name, value) in keys {
                        grid.insert(format!("{key}.{name}"), Values::Typed(value))?;
                    }
                }
                value if key == "seeds" => {
                    let Some(count) = value.as_u64().filter(|&count| count > 0) else {
                        return Err(ConfigError::invalid("seeds", "at least 1", &value));
                    };
                    grid.insert("seed".to_owned(), seeds(count))?;
                }
                value => grid.insert(key, Values::Typed(value))?,
            }
        }
        Ok(grid)
    }

    fn insert(&mut self, key: String, values: Values) -> Result<(), ConfigError> {
        if self.axes.iter().any(|(known, _)| is_same(known, &key)) {
            let twice = if last(&key) == "seed" { "seed` or `seeds" } else { &key };
            return Err(ConfigError::twice(twice));
        }
        self.axes.push((key, values));
        Ok(())
    }

    fn replace(mut self, key: &str, values: Values) -> Self {
        match self.axes.iter_mut().find(|(known, _)| is_same(known, key)) {
            Some((_, old)) => *old = values,
            None => self.axes.push((key.to_owned(), values)),
        }
        self
    }

    /// The same with these values to try for `key`, in place of those it may have had.
    #[must_use]
    pub fn with(self, key: &str, values: Vec<Value>) -> Self {
        self.replace(key, Values::Listed(values))
    }

    /// The same with the values that texts of flags are for `key`: commas separate values to try; where the key takes
    /// lists, each text is one of them. In place of those it may have had.
    #[must_use]
    pub fn with_texts(self, key: &str, texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.replace(key, Values::Texts(texts.into_iter().map(Into::into).collect()))
    }

    /// The same with one text more for `key`, as [`with_texts`](Self::with_texts) has them; in place of values that are no
    /// texts.
    #[must_use]
    pub fn with_text(mut self, key: &str, text: &str) -> Self {
        match self.axes.iter_mut().find(|(known, _)| is_same(known, key)) {
            Some((_, Values::Texts(texts))) => {
                texts.push(text.to_owned());
                self
            }
            _ => self.with_texts(key, [text]),
        }
    }

    /// The same with the seeds from 1 up to `count`.
    #[must_use]
    pub fn with_seeds(mut self, count: u64) -> Self {
        self.axes.retain(|(key, _)| !is_same(key, "seed"));
        self.replace("seed", seeds(count))
    }

    /// Whether there are values for `key`, with or without its section.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.axes.iter().any(|(known, _)| is_same(known, key))
    }

    /// The same, with every combination laid over `base`.
    #[must_use]
    pub fn over(self, base: Partial) -> Self {
        Self { base, ..self }
    }

    /// These values, and those of `other` for the keys that these leave open.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        let open = other.axes.into_iter().filter(|(key, _)| !self.has(key));
        let open: Vec<_> = open.collect();
        self.axes.extend(open);
        self
    }

    /// Every combination, resolved; each with its values of the keys that have several, as in `learning_rate 0.1`.
    /// Where `folds` has a value and `fold` has none, each of the folds is tried.
    ///
    /// # Errors
    /// When a key is unknown or has no value, a combination makes no sense, with the message of its config, or there are
    /// more than 10,000.
    pub fn configs(&self, registry: &Registry) -> Result<Vec<(Vec<String>, Config)>, ConfigError> {
        let mut axes = self.read(registry)?;
        // An axis without values stands for all folds of the combination.
        let folds = axes.iter().find(|(path, _)| path == FOLDS).map(|(_, values)| values.clone()).unwrap_or_default();
        let most = folds.iter().filter_map(Value::as_u64).max().unwrap_or(1);
        if !folds.is_empty() && !axes.iter().any(|(path, _)| path == FOLD) {
            axes.push((FOLD.to_owned(), Vec::new()));
        }
        let count = |values: &[Value]| {
            if values.is_empty() { usize::try_from(most).unwrap_or(usize::MAX) } else { values.len() }
        };
        let size = axes.iter().fold(1_usize, |size, (_, values)| size.saturating_mul(count(values)));
        if size > LARGEST {
            return Err(ConfigError::Malformed(format!("expected at most {LARGEST} combinations, found {size}")));
        }
        let mut combinations = vec![(Vec::new(), Partial::default())];
        for (path, values) in &axes {
            let extend = |(labels, partial): &(Vec<String>, Partial)| {
                let (labels, partial) = (labels.clone(), partial.clone());
                let values = if values.is_empty() { all_folds(&partial) } else { values.clone() };
                let is_single = values.len() == 1;
                values.into_iter().map(move |value| {
                    let (mut labels, mut partial) = (labels.clone(), partial.clone());
                    // A single fold is one of several runs all the same.
                    if !is_single || (path == FOLD && !value.is_null()) {
                        labels.push(format!("{} {}", label(path), plain(&value).replace(',', "-")));
                    }
                    partial.set(path, value);
                    (labels, partial)
                })
            };
            combinations = combinations.iter().flat_map(extend).collect();
        }
        let resolve =
            |(labels, partial): (_, Partial)| Ok((labels, partial.over(self.base.clone()).resolve(registry)?));
        combinations.into_iter().map(resolve).collect()
    }

    /// The paths of the keys and the values to try for each.
    fn read(&self, registry: &Registry) -> Result<Vec<(String, Vec<Value>)>, ConfigError> {
        let paths: Vec<String> = self.axes.iter().map(|(key, _)| path_of(key, registry)).collect::<Result<_, _>>()?;
        // Whether a key of a network takes lists is decided by the networks that are tried.
        let of_base = ["network", "data"].into_iter().filter_map(|section| {
            let name = self.base.get(&format!("{section}.name"))?.as_str()?;
            Some((section, vec![name.to_owned()]))
        });
        let chosen: BTreeMap<&str, Vec<String>> =
            of_base.chain(paths.iter().zip(&self.axes).filter_map(names)).collect();
        let among = |all: &[Section], section: &str| {
            let tried = chosen.get(section);
            all.iter().filter(|one| tried.is_none_or(|names| names.contains(&one.name))).cloned().collect()
        };
        let tried =
            Registry { networks: among(&registry.networks, "network"), datasets: among(&registry.datasets, "data") };
        let mut axes: Vec<(String, Vec<Value>)> = Vec::new();
        for (path, (key, values)) in paths.into_iter().zip(&self.axes) {
            let values = self::values(&path, values, &tried, registry)?;
            if values.is_empty() {
                return Err(ConfigError::Malformed(format!("{key}: expected at least one value, found none")));
            }
            if axes.iter().any(|(known, _)| *known == path) {
                return Err(ConfigError::twice(&path));
            }
            axes.push((path, values));
        }
        Ok(axes)
    }
}

/// The section whose name an axis varies, with the names.
fn names<'a>((path, (_, values)): (&'a String, &(String, Values))) -> Option<(&'a str, Vec<String>)> {
    let section = path.strip_suffix(".name")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let names = match values {
        Values::Typed(Value::Array(values)) | Values::Listed(values) => values.iter().filter_map(text).collect(),
        Values::Typed(value) => text(value).into_iter().collect(),
        Values::Texts(texts) => texts.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect(),
    };
    Some((section, names))
}

/// The values to try for the key of this path.
fn values(path: &str, values: &Values, tried: &Registry, registry: &Registry) -> Result<Vec<Value>, ConfigError> {
    let (name, key) = path.split_once('.').unwrap_or((path, ""));
    let kinds = section(name).map_or_else(Vec::new, |table| table.kinds(key, tried));
    let takes_lists = kinds.iter().any(|kind| kind.is_list());
    // A list that the key takes is one value to try, another holds several: `["balanced", [1, 2]]`, `[["flip"], []]`.
    let is_one = |list: &Value| kinds.iter().any(|kind| kind.is_list() && kind.admits(list));
    let has_lists = |values: &[Value]| !values.is_empty() && values.iter().all(Value::is_array);
    match values {
        Values::Listed(values) => Ok(values.clone()),
        Values::Typed(list @ Value::Array(values)) if !is_one(list) || has_lists(values) => Ok(values.clone()),
        Values::Typed(value) => Ok(vec![value.clone()]),
        Values::Texts(texts) => {
            let single = texts.iter().flat_map(|text| text.split(if takes_lists { '\0' } else { ',' }));
            single.map(|text| resolve::value(path, text, registry)).collect()
        }
    }
}

/// The folds from 1 up to their number; null where that makes no sense, which the config's message tells.
fn all_folds(partial: &Partial) -> Vec<Value> {
    match partial.get(FOLDS).and_then(Value::as_u64) {
        Some(folds @ 1..) => (1..=folds).map(Value::from).collect(),
        _ => vec![Value::Null],
    }
}

/// The seeds from 1 up to `count`, but no more than it takes to be refused.
fn seeds(count: u64) -> Values {
    Values::Listed((1..=count).take(LARGEST + 1).map(Value::from).collect())
}

/// Whether two keys as typed are one; a key without a section is that of any section.
fn is_same(a: &str, b: &str) -> bool {
    let full = |key: &str| path_of(key, &Registry::default()).unwrap_or_else(|_| key.to_owned());
    let (a, b) = (full(a), full(b));
    a == b || (a.contains('.') != b.contains('.') && last(&a) == last(&b))
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A key in a label: its name without the section, or the section's name.
fn label(path: &str) -> &str {
    path.strip_suffix(".name").unwrap_or_else(|| last(path))
}

#[cfg(test)]
mod tests;
