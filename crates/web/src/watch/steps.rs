//! A run's step log, read on as it grows.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use kindling_record::StepRecord;
use kindling_report::Point;

/// So much is read at a time; what is left of a longer log is read the next time.
const READ: u64 = 16 << 20;
/// So many of the last bytes that were read have to be there still.
const KNOWN: usize = 200;
/// So many steps with gradients are kept: more would be no chart that anyone can read.
const GRADIENTS: usize = 2000;

/// The last step in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// From 1, over the whole run.
    pub(super) step: usize,
    /// From 1.
    pub(super) epoch: usize,
}

/// What a step log has said so far.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Where the line begins that was not read yet.
    offset: u64,
    /// The last bytes before it.
    known: Vec<u8>,
    position: Option<Position>,
    /// The loss of each step.
    pub(super) losses: Vec<Point>,
    /// The steps that have gradients.
    pub(super) gradients: Vec<StepRecord>,
    /// Lines that are no steps.
    pub(super) damaged: usize,
    /// How often anything was read or dropped: another number is another state.
    pub(super) version: u64,
}

impl Steps {
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Reads the lines that were added to the log at `path`. A log that was cut, as a resume does, or replaced is read
    /// from its beginning; of one that is gone nothing is left.
    pub(super) fn read_on(&mut self, path: &Path) {
        if self.read_lines(path).is_err() {
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        if self.offset > 0 {
            *self = Self { version: self.version + 1, ..Self::default() };
        }
    }

    fn read_lines(&mut self, path: &Path) -> io::Result<()> {
        // Nobody waits for what a pipe may say, nor reads a device that has no end.
        if !path.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut file = File::open(path)?;
        if !self.is_same(&mut file)? {
            self.start_over();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(READ).read_to_end(&mut bytes)?;
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else { return Ok(()) };
        bytes.truncate(end + 1);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            match serde_json::from_slice::<StepRecord>(line) {
                Ok(step) => self.take(step),
                Err(_) => self.damaged += 1,
            }
        }
        self.offset += bytes.len() as u64;
        self.known.extend_from_slice(&bytes[bytes.len().saturating_sub(KNOWN)..]);
        self.known.drain(..self.known.len().saturating_sub(KNOWN));
        self.version += 1;
        Ok(())
    }

    /// Whether what was read is still in the file.
    fn is_same(&self, file: &mut File) -> io::Result<bool> {
        let length = file.metadata()?.len();
        if length < self.offset {
            return Ok(false);
        }
        let mut there = vec![0; self.known.len()];
        file.seek(SeekFrom::Start(self.offset - self.known.len() as u64))?;
        file.read_exact(&mut there)?;
        Ok(there == self.known)
    }

    fn take(&mut self, step: StepRecord) {
        self.position = Some(Position { step: step.step, epoch: step.epoch });
        let loss = if step.loss.is_finite() { step.loss } else { f64::NAN };
        self.losses.push(Point { x: step.step as f64, y: loss, std: None });
        if step.gradient.is_some() && self.gradients.len() < GRADIENTS {
            self.gradients.push(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    fn line(step: usize, loss: &str) -> String {
        format!("{{\"step\":{step},\"epoch\":{},\"loss\":{loss},\"learning_rate\":0.1}}\n", (step - 1) / 4 + 1)
    }

    fn lines(steps: std::ops::RangeInclusive<usize>, loss: &str) -> String {
        steps.map(|step| line(step, loss)).collect()
    }

    fn losses(steps: &Steps) -> Vec<f64> {
        steps.losses.iter().map(|point| point.y).collect()
    }

    #[test]
    fn a_log_is_read_on_from_the_last_whole_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steps.jsonl");
        let mut steps = Steps::default();
        steps.read_on(&path);
        assert_eq!((steps.version, steps.position()), (0, None), "there is none");
        let second = line(2, "2.5");
        fs::write(&path, line(1, "3.0") + &second[..10]).unwrap();
        steps.read_on(&path);
        assert_eq!((losses(&steps), steps.version), (vec![3.0], 1));
        steps.read_on(&path);
        assert_eq!(steps.version, 1, "nothing was added");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all((second[10..].to_owned() + "no step\n" + &line(5, "\"NaN\"")).as_bytes()).unwrap();
        steps.read_on(&path);
        assert_eq!((losses(&steps)[..2].to_vec(), steps.damaged), (vec![3.0, 2.5], 1));
        assert!(steps.losses[2].y.is_nan());
        assert_eq!(steps.position(), Some(Position { step: 5, epoch: 2 }));
    }

    #[test]
    fn a_log_that_was_cut_or_replaced_is_read_from_its_beginning() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steps.jsonl");
        let mut steps = Steps::default();
        let mut check = |content: String, expected: usize, last: f64| {
            fs::write(&path, content).unwrap();
            steps.read_on(&path);
            assert_eq!((steps.losses.len(), steps.losses.last().unwrap().y), (expected, last));
        };
        check(lines(1..=8, "2.0"), 8, 2.0);
        // A resume goes back to its checkpoint, and has come further than before when it is looked at again.
        check(lines(1..=4, "2.0"), 4, 2.0);
        check(lines(1..=4, "2.0") + &lines(5..=12, "1.0"), 12, 1.0);
        check(lines(1..=4, "2.0") + &lines(5..=16, "3.0"), 16, 3.0);
        fs::remove_file(&path).unwrap();
        steps.read_on(&path);
        assert!(steps.losses.is_empty() && steps.position().is_none());
    }
}
