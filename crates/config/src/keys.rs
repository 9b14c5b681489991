//! All keys that a config can have: the declared ones, and those of the registered networks and data sets.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Augmentation, ConfigError, Data, Kind, Optimizer, Protocol, Range, Registry, Schedule, Section, Training,
    declare::{Field, Variant},
};

/// A key of a config.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Section and name, such as `optimizer.beta_1`.
    pub path: String,
    /// What it means, in a line without a full stop at its end; empty where a network or data set says nothing.
    pub help: String,
    /// The default of the first variant that has the key; null where there is none.
    pub default: Value,
    /// Its flag, if it has one, without the dashes.
    pub flag: Option<&'static str>,
    /// The numbers that it takes, such as `at least 1`; empty where any will do.
    pub range: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The names that it takes, where those are all that it takes, alone or in a list; augmentations with all
    /// parameters.
    pub choices: Vec<String>,
    /// The variants of the section that have the key, each with its default there; empty where all have it with one default.
    pub variants: Vec<(String, Value)>,
}

impl Key {
    /// The defaults in words, such as `0.1; 0.01 with momentum; 0.001 with adam, adamw, muon`; empty where there is none.
    #[must_use]
    pub fn default_text(&self) -> String {
        let mut groups: Vec<(&Value, Vec<&str>)> = vec![(&self.default, Vec::new())];
        for (name, default) in &self.variants {
            match groups.iter_mut().find(|(known, _)| *known == default) {
                Some((_, names)) => names.push(name),
                None => groups.push((default, vec![name])),
            }
        }
        let text = |(default, names): &(&Value, Vec<&str>)| match (plain(default), names.join(", ")) {
            (default, _) if groups.len() == 1 => default,
            (default, names) if *names == *self.variants[0].0 => default,
            (default, names) => format!("{default} with {names}"),
        };
        if self.default.is_null() && groups.len() == 1 {
            return String::new();
        }
        groups.iter().map(text).collect::<Vec<_>>().join("; ")
    }
}

/// A value without JSON's quotes and brackets, an augmentation as its text; `none` for null and an empty list.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").unwrap_or(&text).to_owned()
        }
        other => Augmentation::deserialize(other).map_or_else(|_| other.to_string(), |one| one.to_string()),
    }
}

/// All keys, section by section, each section's name first.
#[must_use]
pub fn keys(registry: &Registry) -> Vec<Key> {
    let mut keys = Vec::new();
    for table in &SECTIONS {
        let variations = table.variations(registry);
        if table.is_named() {
            let choices: Vec<String> = variations.iter().map(|section| section.name.clone()).collect();
            let first = choices.first().filter(|_| table.name != "network");
            keys.push(Key {
                path: format!("{}.name", table.name),
                help: table.help.to_owned(),
                default: first.map_or(Value::Null, |name| Value::from(name.as_str())),
                flag: table.flag,
                range: "",
                kind: Kind::Text,
                choices,
                variants: Vec::new(),
            });
        }
        keys.extend(table.key_names(&variations).iter().filter_map(|name| table.key(name, &variations)));
    }
    keys
}

/// A section of a config, as declared.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    help: &'static str,
    /// The flag of its name.
    flag: Option<&'static str>,
    pub(crate) fields: &'static [Field],
    variants: Variants,
}

enum Variants {
    Networks,
    Datasets,
    Declared(&'static [Variant]),
    None,
}

pub(crate) static SECTIONS: [Table; 6] = [
    Table { name: "network", help: "The network", flag: None, fields: &[], variants: Variants::Networks },
    Table { name: "data", help: "Data set", flag: Some("dataset"), fields: Data::FIELDS, variants: Variants::Datasets },
    Table {
        name: "optimizer",
        help: "Update rule; all but muon have PyTorch's semantics and defaults",
        flag: Some("optimizer"),
        fields: Optimizer::FIELDS,
        variants: Variants::Declared(Optimizer::VARIANTS),
    },
    Table {
        name: "schedule",
        help: "How the learning rate changes",
        flag: Some("schedule"),
        fields: Schedule::FIELDS,
        variants: Variants::Declared(Schedule::VARIANTS),
    },
    Table {
        name: "protocol",
        help: "validated validates on a part of the training images (the data set's own, a fold, or a twelfth) and \
               tests the best epoch once; assignment trains on all and tests after each epoch",
        flag: Some("protocol"),
        fields: Protocol::FIELDS,
        variants: Variants::Declared(Protocol::VARIANTS),
    },
    Table { name: "training", help: "", flag: None, fields: Training::FIELDS, variants: Variants::None },
];

/// The section of this name; `model` is taken for `network`.
pub(crate) fn section(name: &str) -> Option<&'static Table> {
    let name = if name == "model" { "network" } else { name };
    SECTIONS.iter().find(|table| table.name == name)
}

impl Table {
    /// Whether the section has variants with names.
    pub(crate) fn is_named(&self) -> bool {
        !matches!(self.variants, Variants::None)
    }

    /// Whether the registry has the section's variants.
    pub(crate) fn is_registered(&self) -> bool {
        matches!(self.variants, Variants::Networks | Variants::Datasets)
    }

    /// Whether all variants have the key, whichever the registry has.
    pub(crate) fn is_common(&self, key: &str) -> bool {
        self.is_registered() && self.field(key).is_some()
    }

    /// What a name in this section is the name of.
    pub(crate) fn what(&self) -> &'static str {
        if self.name == "data" { "data set" } else { self.name }
    }

    pub(crate) fn field(&self, key: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == key)
    }

    /// The section's variants, each with all its keys; one without a name where there are none.
    pub(crate) fn variations(&self, registry: &Registry) -> Vec<Section> {
        let declared =
            |variant: &Variant| Section { name: variant.name.to_owned(), keys: (variant.defaults)(), help: Vec::new() };
        let mut variations = match self.variants {
            Variants::Networks => registry.networks.clone(),
            Variants::Datasets => registry.datasets.clone(),
            Variants::Declared(variants) => variants.iter().map(declared).collect(),
            Variants::None => vec![Section { keys: Training::defaults(), ..Section::default() }],
        };
        for section in &mut variations {
            section.keys.remove("name");
            if matches!(self.variants, Variants::Datasets) {
                section.keys.extend(Data::defaults());
            }
        }
        variations
    }

    /// The names of the keys of these variants: declared ones in their order, then others in theirs.
    fn key_names(&self, variations: &[Section]) -> Vec<String> {
        let mut names: Vec<String> = self.fields.iter().map(|field| field.name.to_owned()).collect();
        for name in variations.iter().flat_map(|section| section.keys.keys()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// What is known about a key.
    pub(crate) fn key(&self, name: &str, variations: &[Section]) -> Option<Key> {
        let with = |section: &Section| Some((section.name.clone(), section.keys.get(name)?.clone()));
        let mut variants: Vec<(String, Value)> = variations.iter().filter_map(with).collect();
        // Without a data set, the keys that all of them have are there all the same.
        let declared = || if self.name == "data" { Data::defaults().remove(name) } else { None };
        let default = variants.first().map(|(_, default)| default.clone()).or_else(declared)?;
        if variants.len() == variations.len() && variants.iter().all(|(_, other)| *other == default) {
            variants.clear();
        }
        let field = self.field(name);
        let kind = field.map_or_else(|| Kind::of(&default), |field| field.kind);
        let own_help = || {
            let all = variations.iter().flat_map(|section| &section.help);
            all.filter(|(key, _)| key == name).map(|(_, help)| help.as_str()).next().unwrap_or_default()
        };
        let path = format!("{}.{name}", self.name);
        let own_flag = || FLAGGED.iter().find(|(flagged, _)| *flagged == path).map(|(_, flag)| *flag);
        Some(Key {
            help: field.map_or_else(own_help, |field| field.help).trim().trim_end_matches('.').to_owned(),
            flag: field.map_or_else(own_flag, |field| field.flag),
            range: field.map_or(Range::Any, |field| field.range).words(),
            choices: match kind {
                Kind::Choice(names) | Kind::List(&Kind::Choice(names)) => {
                    names.iter().map(ToString::to_string).collect()
                }
                Kind::List(Kind::Augmentation) => Augmentation::all().map(|one| format!("{one:#}")).collect(),
                _ => Vec::new(),
            },
            path,
            default,
            kind,
            variants,
        })
    }

    /// The variant of this name, or the default one for null.
    pub(crate) fn named(&self, name: &Value, registry: &Registry) -> Result<Section, ConfigError> {
        let mut variations = self.variations(registry);
        let wanted = match name {
            Value::Null if self.name == "network" => return Err(ConfigError::NoNetwork),
            Value::Null => variations.first().map(|section| section.name.clone()).unwrap_or_default(),
            Value::String(name) => name.clone(),
            other => return Err(ConfigError::invalid(&format!("{}.name", self.name), "a name", other)),
        };
        let known: Vec<String> = variations.iter().map(|section| section.name.clone()).collect();
        match known.iter().position(|name| *name == wanted) {
            Some(index) => Ok(variations.swap_remove(index)),
            None => Err(ConfigError::UnknownName {
                what: self.what(),
                nearest: nearest(&wanted, known.iter().map(String::as_str)),
                name: wanted,
                known: known.join(", "),
            }),
        }
    }
}

/// Flags of keys that networks and data sets bring, where one does.
const FLAGGED: [(&str, &str); 4] = [
    ("network.hidden", "hidden"),
    ("data.transpose", "transpose"),
    ("data.split", "split"),
    ("data.skip_unreadable", "skip-unreadable"),
];

/// The path of a key as typed: itself, or that of the only key of this name, or of a section's name.
///
/// # Errors
/// When there is none, or there are several.
pub(crate) fn path_of(key: &str, registry: &Registry) -> Result<String, ConfigError> {
    if let Some(table) = section(key).filter(|table| table.is_named()) {
        return Ok(format!("{}.name", table.name));
    }
    if key == "dataset" {
        return Ok("data.name".to_owned());
    }
    let dotted = key.strip_prefix("model.").map(|key| format!("network.{key}"));
    let dotted = dotted.as_deref().unwrap_or(key);
    let mut paths: Vec<String> = keys(registry).into_iter().map(|key| key.path).collect();
    paths.retain(|path| path == dotted || path.split_once('.').is_some_and(|(_, name)| name != "name" && name == key));
    match paths.as_slice() {
        [] => Err(unknown(key, registry)),
        [path] => Ok(path.clone()),
        _ => Err(ConfigError::Ambiguous { key: key.to_owned(), paths: paths.join(", ") }),
    }
}

/// The error of a key that there is not.
pub(crate) fn unknown(key: &str, registry: &Registry) -> ConfigError {
    let paths: Vec<String> = keys(registry).into_iter().map(|key| key.path).collect();
    let sections = SECTIONS.iter().map(|table| table.name);
    ConfigError::UnknownKey {
        key: key.to_owned(),
        nearest: nearest(key, sections.chain(paths.iter().map(String::as_str))),
    }
}

/// The known name, or path of a key, that looks most like `name`.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.replace('-', "_").to_lowercase();
    let alone = wanted.rsplit('.').next().unwrap_or(&wanted);
    let similarity = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&wanted, known);
        // The right name in the wrong section, or in none, is nearer than another name in the right one.
        whole.max(0.95 * strsim::normalized_damerau_levenshtein(alone, known.rsplit('.').next().unwrap_or(known)))
    };
    known.min_by(|a, b| similarity(b).total_cmp(&similarity(a))).unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Networks and data sets with keys of all kinds.
    pub(crate) fn registry() -> Registry {
        let cnn = json!({"channels": [32, 64], "hidden": 128, "dropout": null, "activation": "relu", "rate": 0.5});
        let help = [("hidden", "Width of the hidden layer.")];
        Registry {
            networks: vec![Section::of("mlp", &json!({"hidden": [512, 512]}), &[]), Section::of("cnn", &cnn, &help)],
            datasets: vec![
                Section::of("fashion-mnist", &json!({}), &[]),
                Section::of("idx", &json!({"transpose": false}), &[]),
            ],
        }
    }

    fn key(path: &str) -> Key {
        keys(&registry()).into_iter().find(|key| key.path == path).unwrap()
    }

    #[test]
    fn keys_hold_what_help_needs() {
        let rate = key("optimizer.learning_rate");
        assert_eq!((rate.flag, rate.range), (Some("learning-rate"), "at least 0"));
        assert_eq!(rate.default_text(), "0.1; 0.01 with momentum; 0.001 with adam, adamw, muon");
        assert_eq!(rate.help, "Learning rate, before the schedule");
        assert_eq!(key("optimizer.momentum").default_text(), "0.9; 0.95 with muon");
        assert_eq!(key("data.augment").choices[..2], ["flip:probability=0.5:alternate=false", "shift:pixels=2"]);
        assert_eq!(key("training.clip_norm").default_text(), "");
        let schedules = ["constant", "step", "cosine", "linear", "warm-restarts", "one-cycle"];
        assert_eq!(key("schedule.name").choices, schedules);
        assert_eq!((key("network.name").default, key("data.name").default), (Value::Null, json!("fashion-mnist")));
        assert_eq!((key("network.hidden").flag, key("data.transpose").flag), (Some("hidden"), Some("transpose")));
        assert_eq!(key("network.hidden").help, "Width of the hidden layer");
    }

    #[test]
    fn augmentations_are_short_in_texts() {
        let crop = json!([{"name": "crop", "padding": 2, "edge": "background"}, "flip", {"name": "bird"}]);
        assert_eq!(plain(&crop), r#"crop:padding=2,flip,{"name":"bird"}"#);
    }

    #[test]
    fn no_two_keys_have_one_path_or_one_flag() {
        let keys = keys(&registry());
        for (index, key) in keys.iter().enumerate() {
            let is_free = |other: &Key| other.path != key.path && (key.flag.is_none() || other.flag != key.flag);
            assert!(keys[index + 1..].iter().all(is_free), "{}", key.path);
        }
    }

    #[test]
    fn every_declared_key_has_help_and_a_variant() {
        for table in &SECTIONS {
            let variations = table.variations(&registry());
            for field in table.fields {
                assert!(
                    !field.help.trim().is_empty() && table.key(field.name, &variations).is_some(),
                    "{}",
                    field.name
                );
            }
        }
    }
}
