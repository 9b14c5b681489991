//! Runs and groups of them as reports see them, and the keys of their configs.

use std::collections::BTreeMap;

use kindling_record::{EpochRecord, PartRecord, RunDirectory, RunRecord, RunStatus, Setup};
use serde_json::{Map, Value};

use crate::statistics::Sample;

/// What stands where there is no value.
pub const NONE: &str = "–";

/// The key that makes runs repetitions of one another.
pub(crate) const SEED: &str = "training.seed";
/// Beside it, the part of the training images that a run of a cross-validation is validated on.
pub(crate) const FOLD: &str = "protocol.fold";
/// How many such parts there are.
const FOLDS: &str = "protocol.folds";

/// A run with its place and the status to show for it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where it is.
    pub directory: RunDirectory,
    /// What it says.
    pub record: RunRecord,
    /// Its status: a `running` record without a living owner is interrupted.
    pub status: RunStatus,
}

/// Runs that differ by their seed or fold alone: with the same config, data, backend, kernels, devices and instructions.
///
/// A seed counts once, or once for each fold: the same steps trained twice, or one run under two names, are one sample.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// A short name that tells it from the other groups: a model, `learning rate 0.1`, the name of its runs, or `A`.
    pub label: String,
    /// A run for each seed and fold, in the order of the seeds: all that metrics are taken from.
    pub runs: Vec<Run>,
    /// Further runs of these seeds and folds, which count nowhere.
    pub repeats: Vec<Run>,
}

impl Run {
    /// Reads the run in `directory`.
    ///
    /// # Errors
    /// When its record cannot be read.
    pub fn read(directory: RunDirectory) -> Result<Self, kindling_record::RecordError> {
        let record = directory.read_record()?;
        let status = directory.status(&record);
        Ok(Self { directory, record, status })
    }

    /// The value of the last epoch that `value` finds one in.
    #[must_use]
    pub fn last(&self, value: impl Fn(&EpochRecord) -> Option<f64>) -> Option<f64> {
        self.record.epochs.iter().rev().find_map(value)
    }

    /// Whether it was trained as far as its config wanted: finished, or left the finite numbers.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status, RunStatus::Finished | RunStatus::Diverged)
    }

    /// Whether it saw only the first batches of its data.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        is_limited(&self.record)
    }

    /// Its seed, `training.seed` of the config.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        key(&self.record, SEED).and_then(Value::as_u64)
    }

    /// Its fold from 1, `protocol.fold` of the config; none where it is no part of a cross-validation.
    #[must_use]
    pub fn fold(&self) -> Option<u64> {
        key(&self.record, FOLD).and_then(Value::as_u64)
    }

    /// How many folds its cross-validation has.
    pub(crate) fn folds(&self) -> Option<u64> {
        self.fold().and(key(&self.record, FOLDS)).and_then(Value::as_u64)
    }

    /// What tells it from the other runs of its group: `seed 2`, `seed 2, fold 3`.
    pub(crate) fn repetition(&self) -> String {
        let seed = self.seed().map_or_else(|| NONE.to_owned(), |seed| seed.to_string());
        self.fold().map_or_else(|| format!("seed {seed}"), |fold| format!("seed {seed}, fold {fold}"))
    }

    /// The keys of its config, without those that runs of a group differ in. Where within a run its setup changed is not
    /// the same in any two, so that such a run keeps them.
    pub(crate) fn shared_keys(&self) -> BTreeMap<String, Value> {
        let mut keys = flat(&self.record.config);
        if self.setups().len() < 2 {
            keys.remove(SEED);
            keys.remove(FOLD);
        }
        keys
    }

    /// How its parts were computed, one after the other; equal ones in a row are one.
    #[must_use]
    pub fn setups(&self) -> Vec<Setup> {
        let mut setups: Vec<Setup> = self.record.parts.iter().map(PartRecord::setup).collect();
        setups.dedup();
        setups
    }
}

impl Group {
    /// The values that `value` finds in the runs.
    pub fn sample(&self, value: impl Fn(&Run) -> Option<f64>) -> Option<Sample> {
        Sample::of(self.runs.iter().filter_map(value))
    }

    /// How many of the runs have an epoch that `value` finds something in.
    pub fn count(&self, value: impl Fn(&EpochRecord) -> Option<f64>) -> usize {
        self.runs.iter().filter(|run| run.last(&value).is_some()).count()
    }

    /// The label, with a mark where its metrics are of synthetic data or of a part of the data.
    #[must_use]
    pub fn marked_label(&self) -> String {
        let marks = self.runs.first().map(marks).unwrap_or_default();
        let marks: Vec<_> = marks.into_iter().filter(|mark| !self.label.contains(mark)).collect();
        if marks.is_empty() { self.label.clone() } else { format!("{} ({})", self.label, marks.join(", ")) }
    }
}

/// A config's keys with dots between the sections: `optimizer.learning_rate`.
pub(crate) fn flat(config: &Map<String, Value>) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    for (key, value) in config {
        match value {
            Value::Object(section) => {
                keys.extend(flat(section).into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
            }
            value => {
                keys.insert(key.clone(), value.clone());
            }
        }
    }
    keys
}

/// Whether a key is the name of a section's variant, such as `optimizer.name`.
pub(crate) fn is_name(path: &str) -> bool {
    path.split_once('.').is_some_and(|(_, key)| key == "name")
}

/// The value of a key such as `training.epochs`; nothing where it is null.
pub(crate) fn key<'a>(record: &'a RunRecord, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = record.config.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
}

/// A config's value as people read it; of a list's items that have names and parameters, the names.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Object(item) if item.contains_key("name") => item.get("name").map(plain).unwrap_or_default(),
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("+"),
        // A learning rate of 1 is typed so.
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}

/// A class's name; its label where it has none.
pub(crate) fn class_name(record: &RunRecord, label: usize) -> String {
    record.dataset.classes().get(label).cloned().unwrap_or_else(|| label.to_string())
}

/// Whether the run saw only the first batches of its data.
pub(crate) fn is_limited(record: &RunRecord) -> bool {
    key(record, "training.limit_batches").is_some()
}

/// What must be seen wherever the run's metrics are: `synthetic`, `limited`, or both; mostly nothing.
pub(crate) fn marks(run: &Run) -> Vec<&'static str> {
    let is_synthetic = run.record.dataset.name == "synthetic";
    [is_synthetic.then_some("synthetic"), run.is_limited().then_some("limited")].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_keys_have_dots_and_lists_are_values() {
        let Value::Object(config) = json!({ "a": { "b": { "c": 1 }, "d": [1, 2] }, "e": null }) else { panic!() };
        let flat: Vec<(String, String)> = flat(&config).into_iter().map(|(key, value)| (key, plain(&value))).collect();
        let expected = [("a.b.c", "1"), ("a.d", "1+2"), ("e", "none")];
        assert_eq!(flat, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
