//! PyTorch as a peer: a Python program that is told what to time, and answers in lines of JSON.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use kindling_models::ImageShape;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Workbench,
    workload::{Batches, Case, Contender},
};

/// How PyTorch computes; the last two on CUDA alone.
pub(crate) const VARIANTS: [&str; 5] = ["eager", "channels_last", "compiled", "compiled_graphs", "cuda_graphs"];

/// The presets in PyTorch.
pub(crate) const NETWORKS: &str = include_str!("pytorch_networks.py");

/// The program; the first one's docstring describes the protocol.
const SCRIPTS: [(&str, &str); 2] =
    [("pytorch_peer.py", include_str!("pytorch_peer.py")), ("pytorch_networks.py", NETWORKS)];

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
    // Kept, since Python reads them again when something is compiled.
    _scripts: TempDir,
}

impl PyTorch {
    /// Starts the peer with the interpreter `python`; timings may take TF32 for f32, comparisons never do.
    pub(crate) fn start(python: &Path, device: &str, threads: usize, tf32: bool) -> Result<Self> {
        let scripts = tempfile::Builder::new().prefix("pytorch_peer-").tempdir()?;
        for (name, text) in SCRIPTS {
            fs::write(scripts.path().join(name), text)?;
        }
        let mut child = Command::new(python)
            .arg(scripts.path().join(SCRIPTS[0].0))
            .args(["--device", device, "--threads", &threads.to_string()])
            .args(tf32.then_some("--tf32"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("--pytorch: {} cannot be started", python.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("--pytorch: no pipes to {}", python.display());
        };
        let mut peer = Peer { child, requests, answers: BufReader::new(answers), last_id: 0, _scripts: scripts };
        let about = peer.answer().with_context(|| {
            format!("--pytorch: {} has no PyTorch for {device}; with pip: pip install torch", python.display())
        })?;
        Ok(Self { peer: Rc::new(RefCell::new(peer)), about })
    }

    /// A variant of PyTorch at `case`; the error says why it cannot.
    pub(crate) fn contender(&self, case: &Case, variant: &str) -> Result<Contender> {
        let opened = self.open(case, variant)?;
        Contender::new(format!("pytorch {variant}"), None, case, move |steps| opened.run(steps))
    }

    /// Sets up `case`.
    fn open(&self, case: &Case, variant: &str) -> Result<Opened> {
        let mut peer = self.peer.borrow_mut();
        peer.last_id += 1;
        let id = peer.last_id;
        let mut request = described(case)?;
        request["op"] = "open".into();
        request["id"] = id.into();
        request["batch"] = case.batch_size().into();
        request["mode"] = case.mode.as_str().into();
        request["variant"] = variant.into();
        request["images"] = case.images().into();
        request["data"] = match case.batches {
            Batches::Gather => "gather".into(),
            Batches::Slice => "slice".into(),
        };
        peer.ask(&request)?;
        Ok(Opened { peer: Rc::clone(&self.peer), id })
    }

    /// Takes a step of the case's network on `device` and in PyTorch, from the same weights with the same images, and
    /// compares them: the number of trainable parameters must be the same, and the losses up to `tolerance`,
    /// relatively.
    ///
    /// # Errors
    /// When the device fails, or PyTorch's program does: what it refuses is a disagreement.
    pub(crate) fn agreement(
        &self,
        workbench: &Workbench,
        case: &Case,
        device: &Device,
        contender: &str,
        tolerance: f64,
    ) -> Result<Agreement> {
        let network = workbench.network_of(&case.config.network)?;
        // A batch norm over two numbers makes a one and a minus one of them however near they are, and of their rounding.
        // For the usual batch kernels are tuned anyway.
        let images = case.batch_size().clamp(16, 64);
        let step = network.reference_step(&case.config, case.shape, images, device)?;
        let place = tempfile::tempdir()?;
        let (weights, pixels) = (place.path().join("weights.safetensors"), place.path().join("images.f32"));
        fs::write(&weights, &step.weights)?;
        fs::write(&pixels, step.images.iter().flat_map(|pixel| pixel.to_le_bytes()).collect::<Vec<_>>())?;
        let mut request = described(case)?;
        request["op"] = "check".into();
        request["weights"] = weights.to_string_lossy().into();
        request["pixels"] = pixels.to_string_lossy().into();
        request["targets"] = step.targets.into();
        let mut found = Agreement {
            model: case.model.clone(),
            contender: contender.to_owned(),
            optimizer: serde_json::to_value(&case.config.optimizer)?,
            images,
            tolerance,
            parameters: step.parameters,
            losses: step.losses,
            pytorch: None,
            problem: None,
        };
        match self.peer.borrow_mut().ask(&request) {
            Ok(answer) => {
                let theirs: Theirs = serde_json::from_value(answer).context("PyTorch's program gave no losses")?;
                found.problem = found.difference(&theirs);
                found.pytorch = Some(theirs);
            }
            Err(error) => found.problem = Some(error.to_string()),
        }
        Ok(found)
    }
}

/// What both a timing and a comparison need to know of a case.
fn described(case: &Case) -> Result<Value> {
    let ImageShape { channels, height, width, classes } = case.shape;
    Ok(json!({
        "network": case.config.network,
        "image": [channels, height, width],
        "classes": classes,
        "optimizer": serde_json::to_value(&case.config.optimizer)?,
        "precision": case.config.training.precision,
    }))
}

/// A step that was taken here and in PyTorch.
#[derive(Serialize)]
pub(crate) struct Agreement {
    model: String,
    contender: String,
    optimizer: Value,
    images: usize,
    tolerance: f64,
    /// Trainable ones.
    parameters: usize,
    /// As in [`kindling_classification::ReferenceStep`].
    losses: [f64; 3],
    /// PyTorch's, unless it refused the weights.
    pytorch: Option<Theirs>,
    /// How they differ, if they do.
    problem: Option<String>,
}

/// PyTorch's part of an [`Agreement`]. A loss that is not finite is none.
#[derive(Serialize, Deserialize)]
struct Theirs {
    parameters: usize,
    losses: [Option<f64>; 3],
}

/// What the losses of a step are of.
const LOSSES: [&str; 3] = ["in training", "in evaluation", "after a step of the optimizer"];

impl Agreement {
    /// Whether both are the same.
    pub(crate) fn is_one(&self) -> bool {
        self.problem.is_none()
    }

    /// Whether it is of this contender at a case with the same network and optimizer.
    pub(crate) fn is_of(&self, case: &Case, contender: &str) -> bool {
        let optimizer = serde_json::to_value(&case.config.optimizer).ok();
        (&*self.model, &*self.contender) == (&*case.model, contender) && Some(&self.optimizer) == optimizer.as_ref()
    }

    /// What is wrong with this contender at such a case, if something is.
    pub(crate) fn problem_of(&self, case: &Case, contender: &str) -> Option<&str> {
        self.problem.as_deref().filter(|_| self.is_of(case, contender))
    }

    fn difference(&self, theirs: &Theirs) -> Option<String> {
        let model = &self.model;
        if self.parameters != theirs.parameters {
            let (ours, theirs) = (self.parameters, theirs.parameters);
            return Some(format!("{model} has {ours} trainable parameters here and {theirs} in PyTorch"));
        }
        let pairs = LOSSES.iter().zip(self.losses.iter().zip(&theirs.losses));
        let agree = |(ours, theirs): (&f64, &Option<f64>)| {
            // NaN agrees with nothing.
            theirs.is_some_and(|theirs| (ours - theirs).abs() <= self.tolerance * theirs.abs())
        };
        let found = pairs.into_iter().find(|(_, pair)| !agree(*pair));
        found.map(|(when, (ours, theirs))| {
            let theirs = theirs.map_or_else(|| "not finite".to_owned(), |loss| format!("{loss:.6}"));
            format!(
                "the loss of {model} {when} is {ours:.6} here and {theirs} in PyTorch, from the same weights and \
                 images (expected equal up to {}, relatively)",
                self.tolerance
            )
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_from_pytorch_is_told_with_both_numbers() {
        let agreement = Agreement {
            model: "cnn".to_owned(),
            contender: "flex".to_owned(),
            optimizer: Value::Null,
            images: 64,
            tolerance: 1e-4,
            parameters: 10,
            losses: [2.5, 3.0, f64::NAN],
            pytorch: None,
            problem: None,
        };
        let told = |parameters, losses| agreement.difference(&Theirs { parameters, losses });
        assert_eq!(told(11, [Some(2.5); 3]).unwrap(), "cnn has 10 trainable parameters here and 11 in PyTorch");
        let message = told(10, [Some(2.501), Some(3.0), Some(2.0)]).unwrap();
        let expected = "the loss of cnn in training is 2.500000 here and 2.501000 in PyTorch";
        assert!(message.starts_with(expected), "{message}");
        let nan = told(10, [Some(2.500_1), Some(3.0), Some(2.0)]).unwrap();
        assert!(nan.contains("after a step of the optimizer is NaN here and 2.000000 in PyTorch"), "{nan}");
        assert!(told(10, [Some(2.5), None, None]).unwrap().contains("here and not finite in PyTorch"));
        let agreement = Agreement { losses: [2.5, 3.0, 2.0], ..agreement };
        assert_eq!(agreement.difference(&Theirs { parameters: 10, losses: [2.500_1, 3.0, 2.0].map(Some) }), None);
    }
}
