//! Runs that differ only by their seed belong together.

use kindling_record::{EpochRecord, RunDirectory, RunRecord, RunStatus};
use serde_json::{Map, Value};

use crate::Sample;

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

/// Runs with the same config but for the seed, on the same data and backend.
#[derive(Clone, Debug)]
pub struct Group {
    /// What tells it from the other groups, such as `mlp, learning rate 0.1`.
    pub label: String,
    /// Its runs, in the order of their seeds.
    pub runs: Vec<Run>,
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

    /// The figure of the last epoch that `figure` finds one in.
    #[must_use]
    pub fn last(&self, figure: impl Fn(&EpochRecord) -> Option<f64>) -> Option<f64> {
        self.record.epochs.iter().rev().find_map(figure)
    }

    /// Whether it went as far as its config wanted: finished, or left the finite numbers.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status, RunStatus::Finished | RunStatus::Diverged)
    }

    /// Whether it saw only the first batches of its data.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.record.config.get("limit_batches").is_some_and(|limit| !limit.is_null())
    }

    fn seed(&self) -> u64 {
        self.record.config.get("seed").and_then(Value::as_u64).unwrap_or(0)
    }

    /// What it has in common with the runs of its group.
    fn kind(&self) -> (Map<String, Value>, &str, &str) {
        let mut config = self.record.config.clone();
        config.remove("seed");
        (config, &self.record.dataset.sha256, &self.record.backend)
    }
}

impl Group {
    /// The figures that `figure` finds in the runs.
    pub fn sample(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Sample> {
        Sample::of(self.runs.iter().filter_map(figure))
    }
}

/// Puts runs that differ only by their seed together, in the order in which they come.
#[must_use]
pub fn group(runs: Vec<Run>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group.runs[0].kind() == run.kind()) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { label: String::new(), runs: vec![run] }),
        }
    }
    for group in &mut groups {
        group.runs.sort_by_key(Run::seed);
    }
    let labels: Vec<String> = groups.iter().map(|one| label(one, &groups)).collect();
    for (group, label) in groups.iter_mut().zip(labels) {
        group.label = label;
    }
    groups
}

/// The model, and whatever else is not the same in all groups.
fn label(of: &Group, groups: &[Group]) -> String {
    let first = &of.runs[0].record;
    let differs = |value: &dyn Fn(&RunRecord) -> Value| groups.iter().any(|g| value(&g.runs[0].record) != value(first));
    let mut parts = vec![first.model.clone()];
    for (key, value) in first.config.iter().filter(|(key, _)| !matches!(key.as_str(), "model" | "seed")) {
        if differs(&|record| record.config.get(key).cloned().unwrap_or(Value::Null)) && !value.is_null() {
            parts.push(format!("{} {}", key.replace('_', " "), plain(value)));
        }
    }
    if differs(&|record| record.backend.clone().into()) {
        parts.push(first.backend.clone());
    }
    if differs(&|record| record.dataset.sha256.clone().into()) {
        parts.push(first.dataset.name.clone());
    }
    parts.join(", ")
}

/// A config's value as people read it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("+"),
        // A learning rate of 1 is typed so.
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}
