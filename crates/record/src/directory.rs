use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    EvaluationRecord, Holder, RecordError, RunLock, RunRecord, RunStatus, SCHEMA, atomic::replace_file, lease::Lease,
    lock,
};

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Where this is [`RunLock::directory`].
    lease: Option<Arc<Lease>>,
}

impl PartialEq for RunDirectory {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for RunDirectory {}

impl RunDirectory {
    fn new(path: PathBuf) -> Self {
        Self { path, lease: None }
    }

    pub(crate) fn of_holder(path: PathBuf, lease: Arc<Lease>) -> Self {
        Self { path, lease: Some(lease) }
    }

    /// Makes a new directory in `runs_dir`, named `<name>-<date>-<time>` in local time.
    ///
    /// # Errors
    /// When `name` cannot be part of a file name, or the directory cannot be made.
    pub fn create(runs_dir: &Path, name: &str) -> Result<Self, RecordError> {
        Self::check_name(name)?;
        fs::create_dir_all(runs_dir).map_err(RecordError::io(runs_dir))?;
        let stamp = Timestamp::now().to_zoned(TimeZone::system()).strftime("%Y%m%d-%H%M%S").to_string();
        for attempt in 1.. {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let path = runs_dir.join(format!("{name}-{stamp}{suffix}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self::new(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(RecordError::io(path)(error)),
            }
        }
        unreachable!("the loop above only ends by returning")
    }

    /// Whether `name` can be part of a run's name.
    ///
    /// # Errors
    /// [`RecordError::InvalidName`] when it cannot.
    pub fn check_name(name: &str) -> Result<(), RecordError> {
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Ok(());
        }
        Err(RecordError::InvalidName { name: name.to_owned() })
    }

    /// Finds a run by its path, its id, or a prefix of its id that no other run in `runs_dir` has.
    ///
    /// # Errors
    /// When there is no such run, or several.
    pub fn find(runs_dir: &Path, run: &str) -> Result<Self, RecordError> {
        for path in [runs_dir.join(run), PathBuf::from(run)] {
            if !run.is_empty() && path.join("run.json").is_file() {
                // `.` and `..` have a name as well.
                let path = match path.file_name() {
                    Some(_) => path.components().collect(),
                    None => fs::canonicalize(&path).map_err(RecordError::io(path))?,
                };
                return Ok(Self::new(path));
            }
        }
        let mut matches: Vec<_> =
            RunDirectory::all_in(runs_dir)?.into_iter().filter(|directory| directory.id().starts_with(run)).collect();
        match matches.len() {
            1 => Ok(matches.remove(0)),
            0 => Err(RecordError::NotFound { wanted: run.to_owned(), runs_dir: runs_dir.to_path_buf() }),
            _ => {
                Err(RecordError::Ambiguous { wanted: run.to_owned(), matches: matches.iter().map(Self::id).collect() })
            }
        }
    }

    /// The runs in `runs_dir`, by their ids; none where there is no such directory.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn all_in(runs_dir: &Path) -> Result<Vec<Self>, RecordError> {
        let entries = match fs::read_dir(runs_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RecordError::io(runs_dir)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(RecordError::io(runs_dir))?.path();
            if path.join("run.json").is_file() {
                found.push(Self::new(path));
            }
        }
        found.sort_by_key(Self::id);
        Ok(found)
    }

    /// The run's id: the directory's name.
    #[must_use]
    pub fn id(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Whether nothing of a run is in it yet, though it may have a log and a lock.
    #[must_use]
    pub fn is_new(&self) -> bool {
        let parts = [self.path.join("run.json"), self.checkpoints(), self.steps(), self.weights(), self.evaluation()];
        parts.iter().all(|part| fs::symlink_metadata(part).is_err())
    }

    /// Where the run is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoints' directory.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The step log.
    #[must_use]
    pub fn steps(&self) -> PathBuf {
        self.path.join("steps.jsonl")
    }

    /// The trained weights.
    #[must_use]
    pub fn weights(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// What `kindling evaluate` found out about the weights.
    #[must_use]
    pub fn evaluation(&self) -> PathBuf {
        self.path.join("evaluation.json")
    }

    /// The pictures of the mistakes in [`evaluation`](Self::evaluation).
    #[must_use]
    pub fn mistakes(&self) -> PathBuf {
        self.path.join("mistakes")
    }

    /// What happened during the run, line by line.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    /// Takes the run for this process, until the lock is dropped.
    ///
    /// A lock that was left by a process of this machine is taken at once. On a folder that other machines share, one
    /// that another machine's process left is taken when it was not renewed for a minute, in which this waits.
    ///
    /// # Errors
    /// [`RecordError::Busy`] when another process holds it.
    pub fn lock(&self) -> Result<RunLock, RecordError> {
        lock::lock_directory(&self.path)
    }

    /// Whether a process holds the run at this moment. Of a process on another machine this is a guess, by when it was
    /// last heard of: it may be wrong for a minute, or for as long as the clocks of this machine and the shared folder
    /// differ.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        lock::is_alive(&self.path)
    }

    /// The process that holds the run, as far as [`is_alive`](Self::is_alive) knows.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        lock::holder(&self.path)
    }

    /// Checks that the run is still this process's, where this is [`RunLock::directory`]: a process that was suspended
    /// for longer than a minute may have lost it to one on another machine. It reads one small file; call it before
    /// files of the run are replaced.
    ///
    /// # Errors
    /// [`RecordError::Lost`] when it is not.
    pub fn ensure_held(&self) -> Result<(), RecordError> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.ensure_held())
    }

    /// As [`ensure_held`](Self::ensure_held), for what is done all the time: it looks every few seconds.
    ///
    /// # Errors
    /// [`RecordError::Lost`] when it is not.
    pub fn ensure_held_lately(&self) -> Result<(), RecordError> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.ensure_held_lately())
    }

    /// The status to show for `record`: one that says `running` without a live owner was interrupted.
    #[must_use]
    pub fn status(&self, record: &RunRecord) -> RunStatus {
        match record.status {
            RunStatus::Running if !self.is_alive() => RunStatus::Interrupted,
            status => status,
        }
    }

    /// Reads `run.json`. Whatever it says, the run's id is the directory's name: a run may be copied and renamed.
    ///
    /// # Errors
    /// When it is missing, is no record, or has a schema this version does not know.
    pub fn read_record(&self) -> Result<RunRecord, RecordError> {
        let record: RunRecord = read_json(&self.path.join("run.json"))?;
        Ok(RunRecord { id: self.id(), ..record })
    }

    /// Replaces `run.json` atomically.
    ///
    /// # Errors
    /// When it cannot be written, or this process no longer holds the run; the old record then stays.
    pub fn write_record(&self, record: &RunRecord) -> Result<(), RecordError> {
        self.ensure_held()?;
        write_json(&self.path.join("run.json"), record)
    }

    /// Reads `evaluation.json`; nothing where the run was not evaluated.
    ///
    /// # Errors
    /// When it is there and is no evaluation, or has a schema this version does not know.
    pub fn read_evaluation(&self) -> Result<Option<EvaluationRecord>, RecordError> {
        let path = self.evaluation();
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Replaces `evaluation.json` atomically.
    ///
    /// # Errors
    /// When it cannot be written; the old one then stays.
    pub fn write_evaluation(&self, evaluation: &EvaluationRecord) -> Result<(), RecordError> {
        self.ensure_held()?;
        write_json(&self.evaluation(), evaluation)
    }
}

/// Reads a record of the schema that this version knows.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RecordError> {
    let text = fs::read_to_string(path).map_err(RecordError::io(path))?;
    let malformed = |message: String| RecordError::Malformed { path: path.to_path_buf(), message };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        Some(schema) => {
            return Err(malformed(format!(
                "expected schema {SCHEMA}, found {schema}: it was written by another version of Kindling; use that one, or \
                 make it again"
            )));
        }
        None => return Err(malformed("expected a record, found no `schema`".to_owned())),
    }
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

fn write_json(path: &Path, record: &impl Serialize) -> Result<(), RecordError> {
    let mut text = serde_json::to_vec_pretty(record)
        .map_err(|error| RecordError::Malformed { path: path.to_path_buf(), message: error.to_string() })?;
    text.push(b'\n');
    replace_file(path, &text)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A run with a record that has another id.
    pub(crate) fn run_in(runs_dir: &Path, name: &str) -> RunDirectory {
        let directory = RunDirectory::new(runs_dir.join(name));
        fs::create_dir_all(directory.path()).unwrap();
        let record = json!({
            "schema": SCHEMA, "id": "as it was first called", "status": "finished", "started": "2026-01-02T03:04:05Z",
            "parts": [], "config": {}, "backend": "flex", "device": "a processor", "versions": {},
            "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
            "dataset": {
                "name": "synthetic", "source": null, "sha256": "00ff", "protocol": "assignment", "train": 100, "valid": 0,
                "test": 10, "classes": [], "height": 28, "width": 28, "background": 0,
            },
            "model": "mlp", "parameters": 1, "metrics": [], "monitor": "valid/loss", "epochs": [], "seconds": 5.0,
            "timings": {
                "start_up_seconds": 0.0, "compilation_seconds": 0.0, "training_seconds": 4.0, "evaluation_seconds": 1.0,
                "checkpoint_seconds": 0.0,
            },
        });
        fs::write(directory.path().join("run.json"), record.to_string()).unwrap();
        directory
    }

    #[test]
    fn a_run_is_found_by_id_by_unique_prefix_and_by_path() {
        let runs_dir = tempfile::tempdir().unwrap();
        let cnn = run_in(runs_dir.path(), "cnn-1");
        run_in(runs_dir.path(), "mlp-1");
        run_in(runs_dir.path(), "mlp-2");
        for wanted in ["cnn-1", "cnn", "c", cnn.path().to_str().unwrap()] {
            assert_eq!(RunDirectory::find(runs_dir.path(), wanted).unwrap(), cnn, "{wanted}");
        }
        let ambiguous = RunDirectory::find(runs_dir.path(), "mlp").unwrap_err();
        assert_eq!(ambiguous.to_string(), "`mlp` could be any of mlp-1, mlp-2; give more of the id");
        assert!(matches!(RunDirectory::find(runs_dir.path(), "vgg"), Err(RecordError::NotFound { .. })));
    }

    #[test]
    fn a_directory_is_new_until_it_holds_a_part_of_a_run() {
        let runs_dir = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(runs_dir.path(), "mlp").unwrap();
        fs::write(run.log(), "").unwrap();
        let _lock = run.lock().unwrap();
        assert!(run.is_new());
        fs::create_dir(run.checkpoints()).unwrap();
        assert!(!run.is_new());
        assert!(!run_in(runs_dir.path(), "other").is_new());
    }

    #[test]
    fn an_id_that_is_a_prefix_of_another_is_still_found() {
        let runs_dir = tempfile::tempdir().unwrap();
        let first = run_in(runs_dir.path(), "mlp-1");
        run_in(runs_dir.path(), "mlp-1-2");
        assert_eq!(RunDirectory::find(runs_dir.path(), "mlp-1").unwrap(), first);
    }

    #[test]
    fn runs_made_in_the_same_second_get_different_directories() {
        let runs_dir = tempfile::tempdir().unwrap();
        let made: Vec<_> = (0..3).map(|_| RunDirectory::create(runs_dir.path(), "mlp").unwrap()).collect();
        assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2]);
    }

    #[test]
    fn a_name_that_leaves_the_runs_directory_is_refused() {
        let runs_dir = tempfile::tempdir().unwrap();
        for name in ["", "../mlp", "a b", ".hidden", "-x", "a/b"] {
            assert!(
                matches!(RunDirectory::create(runs_dir.path(), name), Err(RecordError::InvalidName { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_record_of_another_schema_is_refused_with_both_versions() {
        let runs_dir = tempfile::tempdir().unwrap();
        let run = run_in(runs_dir.path(), "mlp");
        for schema in [1, 7] {
            fs::write(run.path().join("run.json"), format!(r#"{{"schema": {schema}}}"#)).unwrap();
            let message = run.read_record().unwrap_err().to_string();
            assert!(message.contains(&format!("expected schema 3, found {schema}")), "{message}");
        }
    }
}
