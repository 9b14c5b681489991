//! What tells configurations apart: the keys whose values differ, and a short label for each configuration.

use std::collections::{BTreeMap, BTreeSet};

use kindling_record::Setup;
use serde_json::Value;

use crate::{
    run::{Group, is_name, plain},
    table::NONE,
};

/// The longest label of a configuration, in characters: two of them fit beside each other in a legend.
pub(crate) const LONGEST_LABEL: usize = 24;
/// Stands between the setups of parts that were computed differently.
const THEN: &str = " then ";
/// What is no key of a config, and has values that need no name beside them.
const SAID_IN_WORDS: [&str; 6] = ["model", "data", "backend", "kernels", "devices", "instructions"];
/// The order of a config's sections.
const SECTIONS: [&str; 6] = ["network", "data", "optimizer", "schedule", "protocol", "training"];

/// The keys of groups' configs, and how they were computed, with a value for each group.
pub(crate) struct Keys {
    /// Keys whose values are not the same in all groups.
    pub different: Vec<Key>,
    /// Keys whose values are, in the order of the sections; the parameters of a list's items, such as
    /// `data.augment.crop.padding`, where they are in all groups that have the item.
    pub common: Vec<Key>,
}

/// A key of the config such as `optimizer.learning_rate`, or `backend`, `kernels`, `devices`, `instructions`, `data`.
pub(crate) struct Key {
    /// Its path.
    pub path: String,
    /// The value that each group has, as people read it; none where it has not got the key.
    pub values: Vec<Option<String>>,
}

impl Key {
    /// The part before the last dot, which a variant of that section may bring.
    fn section(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Whether it is a parameter of an item of the list `path`.
    fn is_within(&self, path: &str) -> bool {
        let is_key = !SAID_IN_WORDS.contains(&path);
        is_key && self.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether it names the variant of its section.
    fn is_name(&self) -> bool {
        is_name(&self.path)
    }
}

/// The keys of all groups.
pub(crate) fn keys(groups: &[Group]) -> Keys {
    let described: Vec<BTreeMap<String, String>> = groups.iter().map(|group| described(group, groups)).collect();
    let mut paths: Vec<&String> =
        described.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>().into_iter().collect();
    let section = |path: &str| SECTIONS.iter().position(|section| path.split('.').next() == Some(section));
    paths.sort_by_key(|path| (section(path).unwrap_or(SECTIONS.len()), !is_name(path)));
    let keys = paths.iter().map(|&path| Key {
        path: path.clone(),
        values: described.iter().map(|keys| keys.get(path).cloned()).collect(),
    });
    let (different, common) = keys.partition(|key| {
        let has_item = |value: &&Option<String>| value.is_some() || !paths.iter().any(|path| key.is_within(path));
        let values: BTreeSet<_> = key.values.iter().filter(has_item).collect();
        values.len() > 1
    });
    Keys { different, common }
}

/// A group's keys with their values as people read them, without the seed and fold where those tell repetitions apart.
fn described(group: &Group, groups: &[Group]) -> BTreeMap<String, String> {
    let Some(run) = group.runs.first() else { return BTreeMap::new() };
    let setups = run.setups();
    let mut keys = BTreeMap::new();
    for (path, value) in run.shared_keys() {
        // The items of a list, such as augmentations, have names, and parameters with keys of their own.
        for item in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
            let Some(name) = item.get("name").and_then(Value::as_str) else { continue };
            let parameters = item.iter().filter(|(parameter, _)| *parameter != "name");
            keys.extend(parameters.map(|(parameter, value)| (format!("{path}.{name}.{parameter}"), plain(value))));
        }
        keys.insert(path, plain(&value));
    }
    if !keys.contains_key("network.name") {
        keys.insert("model".to_owned(), run.record.model.clone());
    }
    let words = in_words(&setups);
    for (name, words) in SAID_IN_WORDS[2..].iter().copied().zip(words) {
        if !words.is_empty() {
            keys.insert(name.to_owned(), words);
        }
    }
    // The data's name tells sets apart, but for those of one name.
    let data = &run.record.dataset;
    let others = groups.iter().filter_map(|group| Some(&group.runs.first()?.record.dataset));
    if others.into_iter().any(|other| other.name == data.name && other.sha256 != data.sha256) {
        let digest: String = data.sha256.chars().take(8).collect();
        keys.insert("data".to_owned(), format!("{} {digest}", data.name));
    } else if !keys.contains_key("data.name") {
        keys.insert("data".to_owned(), data.name.clone());
    }
    keys
}

/// A label for each group: its model where that is unique; else its value of the only key in which they differ; else
/// the name of its runs; else a letter, which a table explains.
pub(crate) fn labels(groups: &[Group]) -> Vec<String> {
    let models: Vec<String> = groups.iter().map(|group| group.runs[0].record.model.clone()).collect();
    if are_labels(&models) {
        return models;
    }
    if let Some(labels) = by_difference(&keys(groups).different).filter(|labels| are_labels(labels)) {
        return labels;
    }
    let names: Vec<String> = groups.iter().map(|group| name(group).unwrap_or_default()).collect();
    if are_labels(&names) { names } else { (0..groups.len()).map(letters).collect() }
}

/// Whether these tell all groups apart and fit into a legend.
fn are_labels(labels: &[String]) -> bool {
    let distinct: BTreeSet<&String> = labels.iter().collect();
    let fits = |label: &String| (1..=LONGEST_LABEL).contains(&label.chars().count());
    distinct.len() == labels.len() && labels.iter().all(fits)
}

/// The values of the only thing in which the groups differ, but for the keys that a variant of a section brings.
fn by_difference(different: &[Key]) -> Option<Vec<String>> {
    let has_variants = |section: &str| different.iter().any(|key| key.is_name() && key.section() == section);
    let has_list = |key: &Key| different.iter().any(|list| key.is_within(&list.path));
    let mut own = different.iter().filter(|key| key.is_name() || !has_variants(key.section()) && !has_list(key));
    let (key, None) = (own.next()?, own.next()) else { return None };
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
    // Names speak for themselves, and so does what is said in words.
    let is_clear = key.is_name() || SAID_IN_WORDS.contains(&key.path.as_str());
    let word = if is_clear { "" } else { key.path.rsplit_once('.').map_or(key.path.as_str(), |(_, last)| last) };
    Some(key.values.iter().map(|one| format!("{} {}", word.replace('_', " "), value(one)).trim().to_owned()).collect())
}

/// The name that the group's runs were given, without the seed, fold and time that are appended to it.
fn name(group: &Group) -> Option<String> {
    let mut names: Vec<&str> = group.runs.iter().map(|run| given_name(&run.record.id)).collect();
    names.dedup();
    let [name] = names[..] else { return None };
    Some(name.to_owned()).filter(|name| *name != group.runs[0].record.model)
}

/// `mine` of `mine-seed-2-fold-1-20261101-120000-2`.
fn given_name(id: &str) -> &str {
    let is_number = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = id.split('-').collect();
    let stamp = parts.windows(2).rposition(|pair| is_number(pair[0], 8) && is_number(pair[1], 6));
    let mut kept = &parts[..stamp.unwrap_or(parts.len())];
    while let [before @ .., "seed" | "fold", _] = kept {
        kept = before;
    }
    let length = kept.iter().map(|part| part.len() + 1).sum::<usize>();
    &id[..length.saturating_sub(1)]
}

/// Whether the groups' labels are letters, which say nothing by themselves.
pub(crate) fn are_letters(groups: &[Group]) -> bool {
    groups.len() > 1 && groups.iter().enumerate().all(|(index, group)| group.label == letters(index))
}

/// What a group has of the keys in `different`: `data.augment none, training.batch_size 64`.
pub(crate) fn listed(different: &[Key], group: usize) -> String {
    let value = |key: &Key| format!("{} {}", key.path, key.values[group].as_deref().unwrap_or(NONE));
    different.iter().map(value).collect::<Vec<_>>().join(", ")
}

/// `A` to `Z`, then `AA`, `AB` and so on.
fn letters(index: usize) -> String {
    let last = char::from(b'A' + (index % 26) as u8);
    if index < 26 { last.to_string() } else { format!("{}{last}", letters(index / 26 - 1)) }
}

/// How parts were computed, in words: what they have in common, or one after the other.
fn in_words(setups: &[Setup]) -> [String; 4] {
    let parts: Vec<[String; 4]> = setups.iter().map(Setup::in_words).collect();
    std::array::from_fn(|index| {
        let mut words: Vec<&str> = parts.iter().map(|words| words[index].as_str()).collect();
        if words.windows(2).all(|pair| pair[0] == pair[1]) {
            words.truncate(1);
        }
        words.retain(|words| !words.is_empty());
        words.join(THEN)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{group, run_report::fixtures::run};

    /// The labels of runs with these names, models and configs.
    fn labels(runs: &[(&str, &str, Value)]) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let runs = runs
            .iter()
            .map(|(id, model, config)| run(place.path(), id, json!({ "model": model, "config": config })))
            .collect();
        group(runs).into_iter().map(|group| group.label).collect()
    }

    #[test]
    fn a_label_is_the_model_or_the_value_of_the_only_key_that_differs_or_the_runs_name_or_a_letter() {
        let rate = |rate: f64| json!({ "optimizer": { "learning_rate": rate } });
        let (mlp, cnn) = (json!({ "network": { "name": "mlp" } }), json!({ "network": { "name": "cnn" } }));
        assert_eq!(labels(&[("a", "mlp", mlp), ("b", "cnn", cnn)]), ["mlp", "cnn"]);
        let rates = [("a", "mlp", rate(1.0)), ("b", "mlp", rate(0.01))];
        assert_eq!(labels(&rates), ["learning rate 1", "learning rate 0.01"]);
        // A variant's own keys come with its name.
        let adam = json!({ "optimizer": { "name": "adam", "learning_rate": 0.001, "beta_1": 0.9 } });
        assert_eq!(labels(&[("a", "mlp", json!({})), ("b", "mlp", adam.clone())]), ["sgd", "adam"]);
        let both = |size: usize, rate: f64| json!({ "optimizer": { "learning_rate": rate }, "training": { "batch_size": size } });
        let named = [
            ("usual-seed-1-20260102-030405", "mlp", both(32, 0.1)),
            ("usual-seed-2-fold-1-20260102-030405-2", "mlp", json!({ "training": { "seed": 2 } })),
            ("large-batches-20260102-030405", "mlp", both(256, 0.4)),
        ];
        assert_eq!(labels(&named), ["usual", "large-batches"]);
        let unnamed = [("mlp-20260102-030405", "mlp", both(32, 0.1)), ("mlp-20260102-030407", "mlp", both(256, 0.4))];
        assert_eq!(labels(&unnamed), ["A", "B"]);
    }

    #[test]
    fn the_parameters_of_augmentations_are_keys_and_those_that_all_share_are_common() {
        let place = tempfile::tempdir().unwrap();
        let with =
            |id: &str, augment: Value| run(place.path(), id, json!({ "config": { "data": { "augment": augment } } }));
        let crop = |padding: usize| json!({ "name": "crop", "padding": padding, "edge": "reflect" });
        let paths = |keys: &[Key]| keys.iter().map(|key| key.path.clone()).collect::<Vec<_>>();
        let flip = json!({ "name": "flip", "probability": 0.5 });
        let one = group(vec![with("a", json!([])), with("b", json!([flip, crop(4)]))]);
        let found = keys(&one);
        assert_eq!(
            one.iter().map(|group| group.label.as_str()).collect::<Vec<_>>(),
            ["augment none", "augment flip+crop"]
        );
        assert_eq!(paths(&found.different), ["data.augment"]);
        let shared = ["data.augment.crop.edge", "data.augment.crop.padding", "data.augment.flip.probability"];
        assert!(shared.iter().all(|path| paths(&found.common).contains(&(*path).to_owned())));
        let two = group(vec![with("c", json!([crop(2)])), with("d", json!([crop(4)]))]);
        assert_eq!(two.iter().map(|group| group.label.as_str()).collect::<Vec<_>>(), ["padding 2", "padding 4"]);
        assert_eq!(paths(&keys(&two).different), ["data.augment.crop.padding"]);
    }

    #[test]
    fn letters_go_on_after_the_alphabet() {
        assert_eq!([0, 25, 26, 51, 52, 701, 702].map(letters), ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]);
    }
}
