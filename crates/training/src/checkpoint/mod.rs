//! Everything a resume needs, on disk, whole or not at all.

mod load;

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    fs, io,
    path::{Path, PathBuf},
};

use burn::{module::Module, optim::ModuleOptimizer};
use kindling_record::{Metrics, RecordError, RunRecord, replace_file, sync_directory};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::load::{Newest, load_best_weights, load_newest};
use crate::{Metric, Totals, TrainingError, named_parameters};

const INDEX: &str = "index.json";
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
/// The moving averages of the weights, where the run has them.
const EMA: &str = "ema.bpk";
const STATE: &str = "state.json";
/// How the names of checkpoints that are being written begin.
const STAGING: &str = ".staging-";

/// Where training stands, apart from weights and optimizer.
///
/// The schedule, the order of the samples, the best epoch and the patience of early stopping are pure functions of
/// the config, of the step, and of the epochs in the record: there is no generator whose state would have to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run's record, with every finished epoch.
    pub record: RunRecord,
    /// Steps taken in the whole run.
    pub step: usize,
    /// Batches trained on in the unfinished epoch, which is the one after the record's last.
    pub batch: usize,
    /// Samples seen in that epoch.
    pub samples: usize,
    /// Sum of each metric over them.
    pub sums: Metrics,
    /// Seconds of that epoch's training steps.
    pub epoch_seconds: f64,
    /// Length of `steps.jsonl`.
    pub steps_bytes: u64,
    /// Epochs that the run was to have.
    pub epochs: usize,
    /// Steps of an epoch.
    pub batches: usize,
    /// The shape of every parameter by its path, in Burn's layout.
    pub parameters: BTreeMap<String, Vec<usize>>,
}

impl Checkpoint {
    /// Before the first step.
    #[must_use]
    pub fn at_start(record: RunRecord, epochs: usize, batches: usize) -> Self {
        Self {
            record,
            step: 0,
            batch: 0,
            samples: 0,
            sums: Metrics::default(),
            epoch_seconds: 0.0,
            steps_bytes: 0,
            epochs,
            batches,
            parameters: BTreeMap::new(),
        }
    }

    /// What the unfinished epoch's steps have measured.
    pub(crate) fn totals(&self, metrics: &[Metric]) -> Totals {
        let sums = metrics.iter().map(|metric| self.sums.get(metric.name).unwrap_or_default()).collect();
        Totals { samples: self.samples, sums }
    }

    /// Counts a step of the unfinished epoch.
    pub(crate) fn take(&mut self, totals: &Totals, metrics: &[Metric]) {
        self.step += 1;
        self.batch += 1;
        self.samples += totals.samples;
        for (metric, sum) in metrics.iter().zip(&totals.sums) {
            *self.sums.0.entry(metric.name.to_owned()).or_default() += sum;
        }
    }

    /// Begins the next epoch.
    pub(crate) fn begin_epoch(&mut self) {
        (self.batch, self.samples, self.epoch_seconds) = (0, 0, 0.0);
        self.sums = Metrics::default();
    }

    /// The name of its directory.
    fn name(&self) -> String {
        // The end of an epoch has two positions: before its evaluation, with all its batches done, and after.
        name(self.step, self.batch)
    }

    /// The name of the checkpoint that was taken after the best epoch so far.
    fn best(&self) -> Option<String> {
        // All epochs have the same number of batches.
        Some(name(self.batches * self.record.best_epoch?, 0))
    }
}

/// The shape of every parameter of `module` by its path.
pub(crate) fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    named_parameters(module).into_iter().map(|parameter| (parameter.path, parameter.shape)).collect()
}

/// Names sort by step and batch.
fn name(step: usize, batch: usize) -> String {
    format!("step-{step:08}-batch-{batch:06}")
}

/// Whether a directory of this name is a checkpoint, or the beginning of one.
fn is_ours(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("step-").and_then(|rest| rest.split_once("-batch-"));
    name.starts_with(STAGING) || numbers.is_some_and(|(step, batch)| is_number(step) && is_number(batch))
}

/// Which checkpoints there are.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    latest: String,
    /// The one before the latest.
    previous: Option<String>,
    /// The one after the best epoch.
    best: Option<String>,
}

/// The content of `state.json`.
#[derive(Serialize, Deserialize)]
struct State {
    crc32: Sums,
    /// A [`Checkpoint`].
    checkpoint: Value,
}

/// CRC-32 of a checkpoint's parts.
#[derive(Serialize, Deserialize)]
struct Sums {
    #[serde(rename = "model.bpk")]
    model: u32,
    #[serde(rename = "optimizer.bpk")]
    optimizer: u32,
    #[serde(rename = "ema.bpk", default, skip_serializing_if = "Option::is_none")]
    ema: Option<u32>,
    /// Of the compact text of [`State::checkpoint`].
    checkpoint: u32,
}

/// What is wrong with a file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) path: PathBuf,
    pub(crate) message: String,
    /// Whether the file is there and could not be read, which says nothing about its content.
    pub(crate) is_unread: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

impl From<Damage> for TrainingError {
    fn from(Damage { path, message, .. }: Damage) -> Self {
        Self::Checkpoint { path, message }
    }
}

impl Damage {
    fn new(path: &Path, message: impl fmt::Display) -> Self {
        Self { path: path.to_path_buf(), message: message.to_string(), is_unread: false }
    }

    fn of_read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { is_unread: error.kind() != io::ErrorKind::NotFound, ..Self::new(path, error) }
    }
}

/// The index, if there is one.
fn read_index(directory: &Path) -> Result<Option<Index>, Damage> {
    let path = directory.join(INDEX);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Damage::new(&path, format!("expected the names of checkpoints: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Damage::of_read(&path)(error)),
    }
}

/// The step of the latest checkpoint, if there is one.
pub(crate) fn latest_step(directory: &Path) -> Option<usize> {
    let latest = read_index(directory).ok()??.latest;
    latest.strip_prefix("step-")?.split_once("-batch-")?.0.parse().ok()
}

/// Writes a checkpoint into `directory` and makes it the latest; the one before it and the best are kept.
///
/// It takes effect with the replacement of `index.json`, so that a crash at any moment leaves the one before.
///
/// `averaged` has the moving averages of the weights, where the run has them.
pub(crate) fn save<M: Module>(
    directory: &Path,
    checkpoint: &Checkpoint,
    model: &M,
    averaged: Option<M>,
    optimizer: &ModuleOptimizer,
) -> Result<(), TrainingError> {
    fs::create_dir_all(directory).map_err(io_error(directory))?;
    // A damaged index says nothing; this checkpoint is as good without it.
    let old = read_index(directory).unwrap_or_else(|damage| {
        log::warn!("{damage}: it is written anew");
        None
    });
    let old = old.unwrap_or_default();
    let name = checkpoint.name();
    let place = directory.join(&name);
    if old.latest == name {
        // Stopped again before the first step.
        return Ok(());
    }
    if place.exists() {
        // Left by a process that died before it wrote the index.
        fs::remove_dir_all(&place).map_err(io_error(&place))?;
    }
    let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(directory).map_err(io_error(directory))?;
    let failed = |error: burn::store::RecordError| failed(&place, error);
    // `valid` folds the batch statistics that are still pending into the running ones.
    let _ = model.valid();
    let write = |file: &str, bytes: &[u8]| -> Result<u32, TrainingError> {
        replace_file(&staging.path().join(file), bytes)?;
        Ok(crc32fast::hash(bytes))
    };
    let state = serde_json::to_value(checkpoint).map_err(|error| self::failed(&place, error))?;
    let crc32 = Sums {
        model: write(MODEL, &model.clone().into_record().into_bytes().map_err(failed)?)?,
        optimizer: write(OPTIMIZER, &optimizer.into_bytes().map_err(failed)?)?,
        ema: averaged.map(|averaged| write(EMA, &averaged.into_record().into_bytes().map_err(failed)?)).transpose()?,
        checkpoint: crc32fast::hash(state.to_string().as_bytes()),
    };
    write_json(&staging.path().join(STATE), &State { crc32, checkpoint: state })?;
    fs::rename(staging.keep(), &place).map_err(io_error(&place))?;
    sync_directory(directory)?;

    let previous = (!old.latest.is_empty()).then_some(old.latest);
    let index = Index { latest: name, previous, best: checkpoint.best() };
    write_json(&directory.join(INDEX), &index)?;
    // Falling back to the previous one takes the weights that were the best then.
    let used = [Some(index.latest), index.previous, index.best, old.best].into_iter().flatten().collect::<Vec<_>>();
    remove_unused(directory, &used);
    Ok(())
}

/// Removes Kindling's own directories but for those in `used`: older checkpoints, and what a dead process left
/// half-written.
///
/// A failure is logged and costs only disk space.
fn remove_unused(directory: &Path, used: &[String]) {
    let names = directories(directory).unwrap_or_else(|error| {
        log::warn!("{}: old checkpoints cannot be found: {error}", directory.display());
        Vec::new()
    });
    for name in names.into_iter().filter(|name| !used.contains(name)) {
        let path = directory.join(name);
        if let Err(error) = fs::remove_dir_all(&path) {
            log::warn!("{}: an old checkpoint cannot be removed: {error}", path.display());
        }
    }
}

/// The names of Kindling's own directories in `directory`; links are none.
fn directories(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && entry.file_type()?.is_dir() {
            names.push(name);
        }
    }
    Ok(names)
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<(), TrainingError> {
    let text = serde_json::to_vec_pretty(content).map_err(|error| failed(path, error))?;
    Ok(replace_file(path, &text)?)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TrainingError {
    let path = path.to_path_buf();
    move |source| RecordError::Io { path, source }.into()
}

fn failed(path: &Path, error: impl Display) -> TrainingError {
    TrainingError::Checkpoint { path: path.to_path_buf(), message: error.to_string() }
}
