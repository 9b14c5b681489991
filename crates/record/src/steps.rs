//! `steps.jsonl`: one line of JSON for each training step.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::RecordError;

/// One training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts over the whole run from 1.
    pub step: usize,
    /// Starts at 1.
    pub epoch: usize,
    /// Mean of the training objective over the batch, before its update.
    #[serde(with = "crate::number")]
    pub loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Statistics of the step's gradients, before clipping, where the config's `gradient_steps` asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<GradientRecord>,
}

/// Statistics of the gradients of all trainable parameters, taken as one list of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientRecord {
    /// Their mean.
    #[serde(with = "crate::number")]
    pub mean: f64,
    /// The mean of their absolute values.
    #[serde(with = "crate::number")]
    pub mean_abs: f64,
    /// The square root of the sum of their squares.
    #[serde(with = "crate::number")]
    pub norm: f64,
    /// The same for each layer, weights and biases together, in the network's order.
    pub layers: Vec<LayerGradient>,
}

/// Statistics of the gradients of one layer's parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerGradient {
    /// Its name, as in `model.safetensors`.
    pub layer: String,
    /// Number of parameters.
    pub parameters: usize,
    /// As in [`GradientRecord`].
    #[serde(with = "crate::number")]
    pub mean: f64,
    /// As in [`GradientRecord`].
    #[serde(with = "crate::number")]
    pub mean_abs: f64,
    /// As in [`GradientRecord`].
    #[serde(with = "crate::number")]
    pub norm: f64,
}

/// How long lines may wait: whatever follows a run reads them from the file.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The open `steps.jsonl` of a run.
///
/// Lines are buffered for about a second; [`flush`](Self::flush) writes them and tells how long the file is, so that a
/// checkpoint can say where it stands in it.
pub struct StepLog {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    written: Instant,
}

impl StepLog {
    /// Opens the log at `path`, keeps its first `bytes` bytes and cuts what follows: the lines of steps that no
    /// checkpoint holds.
    ///
    /// # Errors
    /// When the file cannot be opened, or is shorter than `bytes`.
    pub fn open(path: &Path, bytes: u64) -> Result<Self, RecordError> {
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(RecordError::io(path))?;
        let found = file.metadata().map_err(RecordError::io(path))?.len();
        if found < bytes {
            return Err(RecordError::Malformed {
                path: path.to_path_buf(),
                message: format!("expected at least {bytes} bytes, found {found}: lines of earlier steps are missing"),
            });
        }
        file.set_len(bytes).map_err(RecordError::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(RecordError::io(path))?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file), bytes, written: Instant::now() })
    }

    /// Adds one line.
    ///
    /// # Errors
    /// When the lines that wait cannot be written.
    pub fn append(&mut self, step: &StepRecord) -> Result<(), RecordError> {
        let mut line = serde_json::to_vec(step)
            .map_err(|error| RecordError::Malformed { path: self.path.clone(), message: error.to_string() })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(RecordError::io(&self.path))?;
        self.bytes += line.len() as u64;
        if self.written.elapsed() >= LONGEST_WAIT {
            self.file.flush().map_err(RecordError::io(&self.path))?;
            self.written = Instant::now();
        }
        Ok(())
    }

    /// Writes what is buffered, to the disk, and returns the length of the log in bytes.
    ///
    /// # Errors
    /// When the lines cannot be written.
    pub fn flush(&mut self) -> Result<u64, RecordError> {
        self.file.flush().map_err(RecordError::io(&self.path))?;
        // A checkpoint is on the disk as well, and relies on these lines.
        self.file.get_ref().sync_data().map_err(RecordError::io(&self.path))?;
        Ok(self.bytes)
    }
}

/// Reads a step log. A last line without its end is left out: the process that wrote it was killed, or still writes.
///
/// # Errors
/// When the file cannot be read or a line is not a step; the message has the line's number.
pub fn read_steps(path: &Path) -> Result<Vec<StepRecord>, RecordError> {
    let mut file = BufReader::new(File::open(path).map_err(RecordError::io(path))?);
    let mut steps = Vec::new();
    let mut line = String::new();
    while file.read_line(&mut line).map_err(RecordError::io(path))? > 0 && line.ends_with('\n') {
        steps.push(serde_json::from_str(&line).map_err(|error| RecordError::Malformed {
            path: path.to_path_buf(),
            message: format!("line {}: {error}", steps.len() + 1),
        })?);
        line.clear();
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_do_not_wait_for_a_flush_longer_than_a_second() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steps.jsonl");
        let mut log = StepLog::open(&path, 0).unwrap();
        for step in 1..=2 {
            log.append(&StepRecord { step, epoch: 1, loss: 2.5, learning_rate: 0.1, gradient: None }).unwrap();
            log.written = Instant::now().checked_sub(LONGEST_WAIT).unwrap();
        }
        assert_eq!(read_steps(&path).unwrap().len(), 2);
    }

    #[test]
    fn an_unfinished_last_line_is_left_out_and_a_broken_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steps.jsonl");
        let whole = r#"{"step":1,"epoch":1,"loss":2.5,"learning_rate":0.1}"#;
        fs::write(&path, format!("{whole}\n{}", &whole[..20])).unwrap();
        assert_eq!(read_steps(&path).unwrap().len(), 1);
        fs::write(&path, format!("{whole}\n{}\n", &whole[..20])).unwrap();
        assert!(read_steps(&path).unwrap_err().to_string().contains("line 2: "));
    }
}
