//! The runs that are watched, read again only where their files have changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use kindling_record::{RecordError, RunDirectory, RunRecord, RunStatus};
use kindling_report::{Group, Run};
use serde_json::Value;

use super::steps::{Position, Steps};

/// So many step logs are kept in memory; the one that nobody has looked at for longest makes room.
const LOGS: usize = 32;

/// Which runs are watched.
#[derive(Clone, Debug)]
pub enum Runs {
    /// All in a directory, those to come included.
    In(PathBuf),
    /// These alone.
    These(Vec<RunDirectory>),
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Stamp {
    /// The state of the file at `path`; none where there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }

    /// How long ago it was written.
    fn age(&self) -> Option<Duration> {
        self.modified?.elapsed().ok()
    }
}

/// A run as it is at this moment.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) directory: RunDirectory,
    pub(super) id: String,
    /// The state of its record.
    pub(super) stamp: Option<Stamp>,
    /// What its record says, or why that cannot be read.
    pub(super) record: Result<Arc<RunRecord>, Arc<str>>,
    /// None where the record cannot be read.
    pub(super) status: Option<RunStatus>,
}

impl Watched {
    pub(super) fn is_running(&self) -> bool {
        self.status == Some(RunStatus::Running)
    }

    /// The run as reports see it, by its name: every run is a configuration of its own.
    pub(super) fn group(&self) -> Option<Group> {
        let (record, status) = (self.record.as_ref().ok()?, self.status?);
        let run = Run { directory: self.directory.clone(), record: RunRecord::clone(record), status };
        Some(Group { label: self.id.clone(), runs: vec![run], repeats: Vec::new() })
    }

    /// How far it is, given where its step log stands.
    pub(super) fn progress(&self, position: Option<Position>) -> Option<Progress> {
        let age = self.stamp.and_then(|stamp| stamp.age()).filter(|_| self.is_running());
        self.record.as_ref().ok().map(|record| Progress::of(record, position, age))
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Progress {
    /// Epochs that are done, and the part of the one that is being trained.
    pub(super) epochs: f64,
    /// How many its config wants.
    pub(super) planned: Option<usize>,
    /// Estimated seconds until the last of them is done, of a run that is being trained.
    pub(super) rest: Option<f64>,
}

impl Progress {
    /// The record was written `age` ago: at the start, or after the last epoch.
    fn of(record: &RunRecord, position: Option<Position>, age: Option<Duration>) -> Self {
        let done = record.epochs.len();
        let planned = setting(record, "epochs");
        let part = position.filter(|position| position.epoch == done + 1).and_then(|position| {
            let batches = record.dataset.train.div_ceil(setting(record, "batch_size").filter(|&size| size > 0)?);
            // Steps of the epochs before, which all had as many.
            let steps = position.step.saturating_sub(done * batches);
            (batches > 0).then(|| (steps as f64 / batches as f64).min(1.0))
        });
        let part = part.unwrap_or(0.0);
        let recent = &record.epochs[done.saturating_sub(5)..];
        let each = if recent.is_empty() {
            // A moment's steps say nothing about an epoch.
            let seconds = age.map(|age| age.as_secs_f64()).filter(|&seconds| seconds > 1.0 && part > 0.02);
            seconds.map(|seconds| seconds / part)
        } else {
            let seconds = recent.iter().map(|epoch| epoch.seconds + epoch.evaluation_seconds);
            Some(seconds.sum::<f64>() / recent.len() as f64)
        };
        let epochs = done as f64 + part;
        let rest = age.and(each).zip(planned).map(|(each, planned)| each * (planned as f64 - epochs).max(0.0));
        Self { epochs, planned, rest: rest.filter(|rest| rest.is_finite()) }
    }
}

/// A whole number of the config's section `training`.
fn setting(record: &RunRecord, key: &str) -> Option<usize> {
    usize::try_from(record.config.get("training")?.get(key)?.as_u64()?).ok()
}

/// The seed of a run.
pub(super) fn seed(record: &RunRecord) -> Option<u64> {
    record.config.get("training").and_then(|training| training.get("seed")).and_then(Value::as_u64)
}

/// A record as it was read, with the state of the file then.
type Read = (Option<Stamp>, Result<Arc<RunRecord>, Arc<str>>);

/// The watched runs and what is known of them.
pub(super) struct Library {
    runs: Runs,
    records: Mutex<BTreeMap<PathBuf, Read>>,
    /// Those of the runs that are looked at, the one looked at last at the end.
    logs: Mutex<Vec<(PathBuf, Arc<Mutex<Steps>>)>>,
}

impl Library {
    pub(super) fn new(runs: Runs) -> Self {
        Self { runs, records: Mutex::default(), logs: Mutex::default() }
    }

    /// Where the runs are.
    pub(super) fn place(&self) -> String {
        match &self.runs {
            Runs::In(directory) => directory.display().to_string(),
            Runs::These(runs) if runs.len() == 1 => "1 run".to_owned(),
            Runs::These(runs) => format!("{} runs", runs.len()),
        }
    }

    /// The runs at this moment: those that are being trained first, the newest before the oldest.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub(super) fn all(&self) -> Result<Vec<Watched>, RecordError> {
        let directories = match &self.runs {
            Runs::In(directory) => RunDirectory::all_in(directory)?,
            Runs::These(runs) => runs.iter().filter(|run| run.path().join("run.json").is_file()).cloned().collect(),
        };
        let mut known = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|path, _| directories.iter().any(|directory| directory.path() == path));
        let mut all: Vec<Watched> = directories.into_iter().map(|directory| watched(directory, &mut known)).collect();
        let started = |run: &Watched| run.record.as_ref().map(|record| record.started.clone()).unwrap_or_default();
        all.sort_by_cached_key(|run| (run.is_running(), started(run), run.id.clone()));
        all.reverse();
        Ok(all)
    }

    /// The run of this name.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub(super) fn find(&self, id: &str) -> Result<Option<Watched>, RecordError> {
        Ok(self.all()?.into_iter().find(|run| run.id == id))
    }

    /// The run's step log, read on from where it was left.
    pub(super) fn steps(&self, run: &Watched) -> Arc<Mutex<Steps>> {
        let path = run.directory.steps();
        let steps = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let known = logs.iter().position(|(known, _)| *known == path).map(|index| logs.remove(index));
            let entry = known.unwrap_or_else(|| (path.clone(), Arc::default()));
            let steps = Arc::clone(&entry.1);
            logs.push(entry);
            let excess = logs.len().saturating_sub(LOGS);
            logs.drain(..excess);
            steps
        };
        steps.lock().unwrap_or_else(PoisonError::into_inner).read_on(&path);
        steps
    }

    /// Where the step log of a run stands that is being trained.
    pub(super) fn position(&self, run: &Watched) -> Option<Position> {
        let steps = run.is_running().then(|| self.steps(run))?;
        let steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.position()
    }
}

/// The run in `directory`, whose record is read if it is not known as it is now.
fn watched(directory: RunDirectory, known: &mut BTreeMap<PathBuf, Read>) -> Watched {
    // Before the record: what is written in between is read the next time.
    let stamp = Stamp::of(&directory.path().join("run.json"));
    let path = directory.path();
    let record = match known.get(path) {
        Some((before, record)) if *before == stamp && stamp.is_some() => record.clone(),
        _ => {
            let record = directory.read_record().map(Arc::new).map_err(|error| Arc::from(error.to_string()));
            known.insert(path.to_path_buf(), (stamp, record.clone()));
            record
        }
    };
    let status = record.as_ref().ok().map(|record| directory.status(record));
    Watched { id: directory.id(), directory, stamp, record, status }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::watch::fixtures::{change, epoch, run};

    fn ids(library: &Library) -> Vec<String> {
        library.all().unwrap().into_iter().map(|run| run.id).collect()
    }

    #[test]
    fn runs_that_appear_vanish_or_are_damaged_are_seen_as_they_are() {
        let place = tempfile::tempdir().unwrap();
        let library = Library::new(Runs::In(place.path().join("runs")));
        assert!(ids(&library).is_empty(), "there is no directory yet");
        let runs = place.path().join("runs");
        run(&runs, "first", json!({ "started": "2026-01-01T00:00:00Z" }));
        let second = run(&runs, "second", json!({ "started": "2026-01-02T00:00:00Z" }));
        assert_eq!(ids(&library), ["second", "first"]);
        fs::write(second.path().join("run.json"), "{\"schema\": 3, \"id").unwrap();
        let all = library.all().unwrap();
        let [first, torn] = all.as_slice() else { panic!("{all:?}") };
        assert!(first.record.is_ok() && first.status == Some(RunStatus::Finished));
        assert!(torn.status.is_none() && torn.record.as_ref().unwrap_err().contains("run.json: EOF"), "{torn:?}");
        fs::remove_dir_all(second.path()).unwrap();
        assert_eq!(ids(&library), ["first"]);
        assert!(library.find("second").unwrap().is_none() && library.find("fir").unwrap().is_none());
    }

    #[test]
    fn a_record_is_read_again_when_it_has_changed_and_only_then() {
        let place = tempfile::tempdir().unwrap();
        let directory = run(place.path(), "mlp", json!({}));
        let library = Library::new(Runs::These(vec![directory.clone()]));
        let record = || library.find("mlp").unwrap().unwrap().record.unwrap();
        let first = record();
        assert!(Arc::ptr_eq(&first, &record()));
        change(&directory, json!({ "model": "cnn" }));
        let second = record();
        assert_eq!((first.model.as_str(), second.model.as_str()), ("mlp", "cnn"));
    }

    #[test]
    fn a_record_that_says_running_is_running_while_its_lock_is_held() {
        let place = tempfile::tempdir().unwrap();
        let directory = run(place.path(), "mlp", json!({ "status": "running" }));
        let library = Library::new(Runs::In(place.path().to_path_buf()));
        let status = || library.all().unwrap()[0].status.unwrap();
        assert_eq!(status(), RunStatus::Interrupted);
        let lock = directory.lock().unwrap();
        assert_eq!(status(), RunStatus::Running);
        drop(lock);
        assert_eq!(status(), RunStatus::Interrupted);
    }

    #[test]
    fn the_rest_is_estimated_from_the_epochs_so_far_and_in_the_first_from_its_steps() {
        let place = tempfile::tempdir().unwrap();
        // Batches of 32 of 128 images: 4 in an epoch.
        let changes =
            json!({ "status": "running", "epochs": [epoch(1, 0.5), epoch(2, 0.4)], "dataset": { "train": 128 } });
        let mut record = run(place.path(), "mlp", changes).read_record().unwrap();
        record.config["training"]["epochs"] = json!(6);
        let at = |step, epoch| Some(Position { step, epoch });
        let age = Some(Duration::from_secs(3));
        // Epochs of 10 s and an evaluation of 1 s.
        let progress = Progress::of(&record, at(10, 3), age);
        assert_eq!(progress, Progress { epochs: 2.5, planned: Some(6), rest: Some(38.5) });
        assert_eq!(Progress::of(&record, at(8, 2), age).epochs.to_bits(), 2.0_f64.to_bits(), "of the epoch before");
        assert_eq!(Progress::of(&record, at(10, 3), None).rest, None, "nobody trains it");
        record.epochs.clear();
        assert_eq!(Progress::of(&record, at(2, 1), age).rest, Some(33.0));
        assert_eq!(Progress::of(&record, None, age).rest, None);
        record.config.clear();
        assert_eq!(Progress::of(&record, at(2, 1), age), Progress { epochs: 0.0, planned: None, rest: None });
    }
}
