//! PyTorch as a peer: a Python program that is told what to time, and answers in lines of JSON.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kindling_config::Choice;
use kindling_models::{CnnConfig, MlpConfig, Preset, presets};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempPath;

use crate::workload::{Batches, Case, Contender};

/// The program; its docstring describes the protocol.
const SCRIPT: &str = include_str!("pytorch_peer.py");

/// A running peer.
pub(crate) struct PyTorch {
    peer: Rc<RefCell<Peer>>,
    /// Versions, threads, device and variants, as it reports them.
    pub(crate) about: Value,
}

/// A case that is set up in the peer; dropping it frees the peer's memory.
struct Opened {
    peer: Rc<RefCell<Peer>>,
    id: u64,
}

/// The process.
struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    last_id: u64,
    // Kept, since Python reads it again when something is compiled.
    _script: TempPath,
}

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
        let mut peer = Peer { child, requests, answers: BufReader::new(answers), last_id: 0, _script: script };
        let about = peer.answer().with_context(|| {
            format!("--pytorch: {} has no PyTorch for {device}; with pip: pip install torch", python.display())
        })?;
        Ok(Self { peer: Rc::new(RefCell::new(peer)), about })
    }

    /// A variant of PyTorch at `case`; the error says why it cannot.
    pub(crate) fn contender(&self, case: &Case, variant: &str) -> Result<Contender> {
        let opened = self.open(case, variant)?;
        Ok(Contender::new(format!("pytorch {variant}"), None, move |steps| opened.run(steps)))
    }

    /// Sets up `case`.
    fn open(&self, case: &Case, variant: &str) -> Result<Opened> {
        let (channels, hidden) = widths(&case.config.network)?;
        let mut peer = self.peer.borrow_mut();
        peer.last_id += 1;
        let id = peer.last_id;
        peer.ask(&json!({
            "op": "open",
            "id": id,
            "model": case.config.network.name,
            "hidden": hidden,
            "channels": channels,
            "batch": case.batch_size(),
            "mode": case.mode.as_str(),
            "variant": variant,
            "data": match case.batches { Batches::Gather => "gather", Batches::Slice => "slice" },
            "images": case.images(),
            "precision": case.config.training.precision,
        }))?;
        Ok(Opened { peer: Rc::clone(&self.peer), id })
    }
}

/// The channels of a preset's convolutions, and the widths of its hidden linear layers.
fn widths(network: &Choice) -> Result<(Vec<usize>, Vec<usize>)> {
    fn read<T: DeserializeOwned>(network: &Choice) -> Result<T> {
        Ok(serde_json::from_value(Value::Object(network.keys.clone()))?)
    }
    match presets().into_iter().find(|(name, _)| *name == network.name) {
        Some((_, Preset::Mlp(_))) => Ok((Vec::new(), read::<MlpConfig>(network)?.hidden)),
        Some((_, Preset::Cnn(_))) => {
            let CnnConfig { channels, hidden } = read(network)?;
            Ok((channels, vec![hidden]))
        }
        None => bail!("PyTorch's program has the presets alone (got `{}`)", network.name),
    }
}

impl Opened {
    /// Takes `steps` steps and gives the time they took.
    fn run(&self, steps: usize) -> Result<Duration> {
        let answer = self.peer.borrow_mut().ask(&json!({"op": "run", "id": self.id, "steps": steps}))?;
        let seconds = answer["seconds"].as_f64().with_context(|| format!("PyTorch gave no time: {answer}"))?;
        Ok(Duration::from_secs_f64(seconds))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // A program that does not answer has ended, and with it its memory.
        let _ = self.peer.borrow_mut().ask(&json!({"op": "close", "id": self.id}));
    }
}

impl Peer {
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

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends when asked to; if it does not, it is killed, so that it does not outlive this program.
        let _ = writeln!(self.requests, "{}", json!({"op": "quit"}));
        let _ = self.requests.flush();
        std::thread::sleep(Duration::from_millis(100));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
