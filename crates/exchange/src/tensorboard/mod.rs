//! Event files, which TensorBoard shows, of what a run directory has: after the fact, or while the run trains.
//!
//! [`export`] writes all of a run, and a [`Follower`] what is new since it last looked; both write the same events in the
//! same order, but for their times.
//!
//! | tag | what | at |
//! |---|---|---|
//! | `step/loss`, `step/learning_rate` | each line of `steps.jsonl` | its step |
//! | `step/gradient_norm`, `..._mean`, `..._mean_abs` | statistics of the gradients, where the log has them | its step |
//! | `gradient_norm/LAYER`, `gradient_mean/LAYER`, `gradient_mean_abs/LAYER` | the same of each layer | its step |
//! | `METRIC/SPLIT`, as in `loss/train` | metrics of each epoch | the epoch's last step |
//! | `epoch/learning_rate`, `epoch/seconds`, `epoch/evaluation_seconds`, `epoch/samples_per_second` | of each epoch | the same |
//! | `test/METRIC` | the test of the weights that the run keeps | the last step |
//! | `evaluation/...` | metrics of `evaluation.json`, and a table of the classes | the last step |
//! | `mistakes/...` | pictures of the mistakes in it | the last step |
//! | `run`, `config` | how it is run, and the config as JSON | 0 |
//!
//! The plugin hparams gets the config's keys, with the run's start and, once it has ended, its status.
//!
//! Values are in f32, as TensorBoard has them. An event's time is when its step took place, as well as that is known: see
//! [`Follower`].

mod content;
mod event;
mod frames;
mod times;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kindling_record::{RecordError, RunDirectory, RunRecord, RunStatus, replace_file};

pub use self::event::{
    Content, Dimension, Event, FLOAT, Hyperparameter, Hyperparameters, Image, Kind, Metadata, PluginData, STRING,
    Session, SessionEnd, SessionLog, SessionStart, Status, Summary, Tensor, TensorShape, Value, What,
};
pub use self::frames::read_events;
use self::{
    content::{Position, new_steps, write_news},
    times::{Times, now},
};
use crate::ExchangeError;

/// How names of event files begin and end: TensorBoard looks for `tfevents`, and other programs' files are left alone.
const BEGINS: &str = "events.out.tfevents.";
const ENDS: &str = ".kindling";
/// How long an event file that was replaced stays, without content.
const RETIREMENT: Duration = Duration::from_hours(1);

/// Writes all that the run in `directory` has so far as an event file in `target`, and returns its path. An event file
/// that this crate wrote there before is emptied, so that a run is shown once. Any run will do: one that still trains,
/// one that was interrupted, one that was killed.
///
/// # Errors
/// When the run cannot be read or the file not be written; what was there before then stays.
pub fn export(directory: &RunDirectory, target: &Path) -> Result<PathBuf, ExchangeError> {
    Ok(begin(directory, &directory.read_record()?, target)?.path)
}

/// Writes an event file while a run trains, from its directory alone.
///
/// Where the run is not what was written any more, because it was resumed from a checkpoint before its last steps or on
/// other devices, a new file takes the place of the one before: it begins with a session start, at which TensorBoard drops
/// what it has read of the run, so that no step is shown twice.
///
/// The step log has no times. What is found by a first [`update`](Self::update) gets its time from the run's record: its
/// start, and the seconds of start-up, epochs and evaluations, as if it had never been stopped; within an epoch, steps are
/// spread evenly. What later ones find is spread evenly over the time since the update before.
#[derive(Debug)]
pub struct Follower {
    directory: RunDirectory,
    target: PathBuf,
    open: Option<Open>,
}

/// An event file that is being written.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    position: Position,
}

impl Follower {
    /// Follows the run in `directory`, which may not have a record yet; the event file will be in `target`.
    #[must_use]
    pub fn new(directory: &RunDirectory, target: &Path) -> Self {
        Self { directory: directory.clone(), target: target.to_path_buf(), open: None }
    }

    /// Writes what is new since the last call. A line of the step log whose end is not there yet is left for the next.
    ///
    /// # Errors
    /// When the run cannot be read or the file not be written. The next call begins with a new file.
    pub fn update(&mut self) -> Result<(), ExchangeError> {
        let record = match self.directory.read_record() {
            Ok(record) => record,
            Err(RecordError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.open = match self.open.take() {
            Some(open) if open.is_of(&record) => open.append(&self.directory, &record)?,
            _ => None,
        };
        if self.open.is_none() {
            self.open = Some(begin(&self.directory, &record, &self.target)?);
        }
        Ok(())
    }
}

impl Open {
    /// Whether what was written is still a beginning of what the record has, and is still where it was written.
    fn is_of(&self, record: &RunRecord) -> bool {
        let position = &self.position;
        let is_resumed = position.has_ended && record.status == RunStatus::Running;
        !is_resumed
            && (position.parts, position.started.as_str()) == (record.parts.len(), record.started.as_str())
            && position.epochs <= record.epochs.len()
            // An export may have taken its place.
            && fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Writes what is new. None where the step log is not what it was, so that another file has to be begun.
    fn append(mut self, directory: &RunDirectory, record: &RunRecord) -> Result<Option<Self>, ExchangeError> {
        let mut position = self.position;
        let Ok(Some(steps)) = new_steps(&directory.steps(), record, &mut position) else { return Ok(None) };
        let mut bytes = Vec::new();
        let times = Times::between(position.looked, now(), steps.len());
        position.looked = times.end;
        write_news(&mut bytes, directory, record, &steps, &times, &mut position)?;
        self.file.write_all(&bytes).map_err(ExchangeError::io(&self.path))?;
        Ok(Some(Self { position, ..self }))
    }
}

/// Writes a file with all that there is, which takes the place of those before.
fn begin(directory: &RunDirectory, record: &RunRecord, target: &Path) -> Result<Open, ExchangeError> {
    let mut position = Position::start(record);
    let steps = new_steps(&directory.steps(), record, &mut position)?.unwrap_or_default();
    let modified = fs::metadata(directory.steps()).and_then(|metadata| metadata.modified()).ok();
    let times = Times::recorded(record, &steps, modified.unwrap_or_else(SystemTime::now));
    let mut bytes = Vec::new();
    content::write_start(&mut bytes, record, &mut position)?;
    write_news(&mut bytes, directory, record, &steps, &times, &mut position)?;

    fs::create_dir_all(target).map_err(ExchangeError::io(target))?;
    let old = ours(target)?;
    // TensorBoard reads the files in a directory in the order of their names, and never goes back.
    let last = old.iter().filter_map(|path| stamp(path)).max().unwrap_or(0);
    let stamp = ((now() * 1e6) as u64).max(last + 1);
    let path = target.join(format!("{BEGINS}{:010}.{:06}{ENDS}", stamp / 1_000_000, stamp % 1_000_000));
    replace_file(&path, &bytes)?;
    let file = OpenOptions::new().append(true).open(&path).map_err(ExchangeError::io(&path))?;
    old.iter().try_for_each(|path| retire(path).map_err(ExchangeError::io(path)))?;
    Ok(Open { path, file, position })
}

/// Empties a file that another has taken the place of. It stays for an hour: a TensorBoard that reads it, and has not
/// looked since, would not go on to the next if it were gone.
fn retire(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    if metadata.len() > 0 {
        File::create(path).map(drop)
    } else if metadata.modified()?.elapsed().is_ok_and(|age| age > RETIREMENT) {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

/// The event files in `target` that this crate wrote.
fn ours(target: &Path) -> Result<Vec<PathBuf>, ExchangeError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(target).map_err(ExchangeError::io(target))? {
        let path = entry.map_err(ExchangeError::io(target))?.path();
        if stamp(&path).is_some() {
            found.push(path);
        }
    }
    Ok(found)
}

/// When one of our files was begun, in microseconds since 1970, as its name has it.
fn stamp(path: &Path) -> Option<u64> {
    let stamp = path.file_name()?.to_str()?.strip_prefix(BEGINS)?.strip_suffix(ENDS)?;
    let (seconds, micros) = stamp.split_once('.')?;
    Some(seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.saturating_add(micros.parse().ok()?))
}

#[cfg(test)]
mod tests;
