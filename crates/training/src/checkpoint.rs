//! Everything a resume needs, on disk, whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    optim::{ModuleOptimizer, OptimizerRecord},
    store::ModuleRecord,
    tensor::Bytes,
};
use kindling_record::{RecordError, RunRecord, replace_file, sync_directory};
use serde::{Deserialize, Serialize};

use crate::{Classifier, TrainingError};

const INDEX: &str = "index.json";
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

/// Where training stands, apart from weights and optimizer.
///
/// The schedule, the order of the images, the best epoch and the patience of early stopping are pure functions of
/// the config, of the step, and of the epochs in the record: there is no generator whose state would have to be kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The run's record, with every finished epoch.
    pub record: RunRecord,
    /// Steps taken in the whole run.
    pub step: usize,
    /// Batches trained on in the unfinished epoch, which is the one after the record's last.
    pub batch: usize,
    /// Images seen in that epoch.
    pub images: usize,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// How many of them were classified correctly.
    pub correct: usize,
    /// Seconds of that epoch's training steps.
    pub epoch_seconds: f64,
    /// Length of `steps.jsonl`.
    pub steps_bytes: u64,
}

impl Checkpoint {
    /// Before the first step.
    #[must_use]
    pub fn at_start(record: RunRecord) -> Self {
        Self { record, step: 0, batch: 0, images: 0, loss_sum: 0.0, correct: 0, epoch_seconds: 0.0, steps_bytes: 0 }
    }
}

/// Which checkpoints there are.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    latest: String,
    best: Option<String>,
}

/// Writes a checkpoint into `directory` and makes it the latest, and the best as well if `is_best`.
///
/// It takes effect with the replacement of `index.json`, so that a crash at any moment leaves the one before.
pub(crate) fn save(
    directory: &Path,
    checkpoint: &Checkpoint,
    model: &Classifier,
    optimizer: &ModuleOptimizer,
    is_best: bool,
) -> Result<(), TrainingError> {
    fs::create_dir_all(directory).map_err(io(directory))?;
    let old = read_index(directory)?.unwrap_or_default();
    // The end of an epoch has two positions: before its evaluation, with all its batches done, and after.
    let name = format!("step-{:08}-batch-{:06}", checkpoint.step, checkpoint.batch);
    let place = directory.join(&name);
    if old.latest == name {
        // Stopped again before the first step.
        return Ok(());
    }
    if place.exists() {
        // Left by a process that died before it wrote the index.
        fs::remove_dir_all(&place).map_err(io(&place))?;
    }
    let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(directory).map_err(io(directory))?;
    let failed = |error: burn::store::RecordError| failed(&place, &error);
    // `valid` folds the batch statistics that are still pending into the running ones.
    let _ = model.valid();
    let model = model.clone().into_record().into_bytes().map_err(failed)?;
    replace_file(&staging.path().join(MODEL), &model)?;
    replace_file(&staging.path().join(OPTIMIZER), &optimizer.into_bytes().map_err(failed)?)?;
    let state = serde_json::to_vec_pretty(checkpoint).map_err(|error| failed_json(&place, &error))?;
    replace_file(&staging.path().join(STATE), &state)?;
    fs::rename(staging.keep(), &place).map_err(io(&place))?;
    sync_directory(directory)?;

    let best = if is_best { Some(name.clone()) } else { old.best };
    let index = Index { latest: name, best };
    let text = serde_json::to_vec_pretty(&index).map_err(|error| failed_json(directory, &error))?;
    replace_file(&directory.join(INDEX), &text)?;
    remove_unused(directory, &index)
}

/// The latest checkpoint, if there is one: its state, weights and optimizer.
pub(crate) fn load_latest(
    directory: &Path,
) -> Result<Option<(Checkpoint, ModuleRecord, OptimizerRecord)>, TrainingError> {
    let Some(index) = read_index(directory)? else { return Ok(None) };
    let place = directory.join(&index.latest);
    let path = place.join(STATE);
    let text = fs::read(&path).map_err(io(&path))?;
    let state = serde_json::from_slice(&text).map_err(|error| failed_json(&path, &error))?;
    let path = place.join(OPTIMIZER);
    let optimizer = OptimizerRecord::from_bytes(read(&path)?).map_err(|error| failed(&path, &error))?;
    Ok(Some((state, load_weights(&place)?, optimizer)))
}

/// The weights of the best epoch.
pub(crate) fn load_best_weights(directory: &Path) -> Result<ModuleRecord, TrainingError> {
    match read_index(directory)?.and_then(|index| index.best) {
        Some(best) => load_weights(&directory.join(best)),
        None => Err(TrainingError::Checkpoint {
            path: directory.join(INDEX),
            message: "expected the name of the best checkpoint, found none".to_owned(),
        }),
    }
}

fn load_weights(place: &Path) -> Result<ModuleRecord, TrainingError> {
    let path = place.join(MODEL);
    ModuleRecord::from_bytes(read(&path)?).map_err(|error| failed(&path, &error))
}

fn read(path: &Path) -> Result<Bytes, TrainingError> {
    Ok(Bytes::from_bytes_vec(fs::read(path).map_err(io(path))?))
}

fn read_index(directory: &Path) -> Result<Option<Index>, TrainingError> {
    let path = directory.join(INDEX);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed_json(&path, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(&path)(error)),
    }
}

/// Removes checkpoints that the index does not name, and what a dead process left half-written.
fn remove_unused(directory: &Path, index: &Index) -> Result<(), TrainingError> {
    for entry in fs::read_dir(directory).map_err(io(directory))? {
        let path = entry.map_err(io(directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_used = *name == *INDEX || *name == index.latest || index.best.as_deref() == Some(&*name);
        if !is_used {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io(&path))?;
        }
    }
    Ok(())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TrainingError {
    let path = path.to_path_buf();
    move |source| RecordError::Io { path, source }.into()
}

fn failed(path: &Path, error: &burn::store::RecordError) -> TrainingError {
    TrainingError::Checkpoint { path: path.to_path_buf(), message: error.to_string() }
}

fn failed_json(path: &Path, error: &serde_json::Error) -> TrainingError {
    let path: PathBuf = path.to_path_buf();
    TrainingError::Checkpoint { path, message: format!("expected what a checkpoint holds: {error}") }
}
