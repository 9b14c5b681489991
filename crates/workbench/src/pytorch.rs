//! PyTorch as a peer: a Python program that is told what to time, and answers in lines of JSON.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kindling_training::Precision;
use serde_json::{Value, json};
use tempfile::TempPath;

use crate::{
    arguments::{Batches, Mode},
    workload::{IMAGES, Task},
};

/// The program, whose docstring describes what it does and how it is spoken to.
const SCRIPT: &str = include_str!("../../assets/bench/pytorch_peer.py");

/// A running peer.
pub(crate) struct PyTorch {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it says of itself: versions, threads, device, variants.
    pub(crate) about: Value,
    next_id: u64,
    // Python reads it when something has to be compiled.
    _script: TempPath,
}

/// A task that the peer has ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened(u64);

impl PyTorch {
    /// Starts the peer with the interpreter `python`.
    pub(crate) fn start(python: &Path, device: &str, threads: usize) -> Result<Self> {
        let mut script = tempfile::Builder::new().prefix("pytorch_peer-").suffix(".py").tempfile()?;
        script.write_all(SCRIPT.as_bytes())?;
        let script = script.into_temp_path();
        let mut child = Command::new(python)
            .arg(&script)
            .args(["--device", device, "--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("--pytorch: {} cannot be started", python.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("--pytorch: no pipes to {}", python.display());
        };
        let mut peer =
            Self { child, requests, answers: BufReader::new(answers), about: Value::Null, next_id: 0, _script: script };
        peer.about = peer.answer().with_context(|| {
            format!("--pytorch: {} has no PyTorch for {device}; with pip: pip install torch", python.display())
        })?;
        Ok(peer)
    }

    /// Makes `task` ready; the error says why PyTorch cannot do it.
    pub(crate) fn open(&mut self, task: &Task, variant: &str, precision: Precision) -> Result<Opened> {
        use kindling_models::NetworkConfig::{Cnn, Mlp};
        let (channels, hidden) = match task.model.config(task.hidden.as_deref())? {
            Mlp(mlp) => (Vec::new(), mlp.hidden),
            Cnn(cnn) => (cnn.channels.clone(), vec![cnn.hidden]),
        };
        self.next_id += 1;
        self.ask(&json!({
            "op": "open",
            "id": self.next_id,
            "model": task.model.to_string(),
            "hidden": hidden,
            "channels": channels,
            "batch": task.batch,
            "mode": match task.mode { Mode::Train => "train", Mode::Infer => "infer" },
            "variant": variant,
            "data": match task.batches { Batches::Gather => "gather", Batches::Slice => "slice" },
            "images": IMAGES.next_multiple_of(task.batch),
            "precision": precision.to_string(),
        }))?;
        Ok(Opened(self.next_id))
    }

    /// Takes `steps` steps of a task and gives the time they took.
    pub(crate) fn run(&mut self, task: Opened, steps: usize) -> Result<Duration> {
        let answer = self.ask(&json!({"op": "run", "id": task.0, "steps": steps}))?;
        let seconds = answer["seconds"].as_f64().with_context(|| format!("PyTorch gave no time: {answer}"))?;
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Gives the task's memory back.
    pub(crate) fn close(&mut self, task: Opened) -> Result<()> {
        self.ask(&json!({"op": "close", "id": task.0})).map(drop)
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}").context("PyTorch no longer listens")?;
        self.requests.flush()?;
        let answer = self.answer()?;
        match answer["error"].as_str() {
            Some(error) => bail!("PyTorch: {error}"),
            None => Ok(answer),
        }
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("PyTorch's program ended ({status}); what it said is above");
        }
        serde_json::from_str(&line).with_context(|| format!("PyTorch's program said: {line}"))
    }
}

impl Drop for PyTorch {
    fn drop(&mut self) {
        // Without requests it ends by itself; where it does not, it must not outlive this program.
        let _ = writeln!(self.requests, "{}", json!({"op": "quit"}));
        let _ = self.requests.flush();
        std::thread::sleep(Duration::from_millis(100));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
