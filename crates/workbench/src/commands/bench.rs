mod report;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueHint};
use kindling_config::{Partial, Precision};
use kindling_kernels::Kernels;
use kindling_models::{REFERENCE, presets};
use serde_json::json;

use self::report::{report, save, show};
use crate::{
    Workbench,
    arguments::{kernels, precision, with_set},
    backend::{self, Backend, Request},
    machine,
    outcome::{Misuse, Outcome},
    output::{notice, told},
    pytorch::{Agreement, PyTorch, VARIANTS},
    relaunch, signals,
    workload::{Batches, Case, Contender, Mode, kindling_name, measure, time},
};

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Models to time [default: mlp, mlp-deep, mlp-wide, cnn, and every network that is not a preset; none with
    /// --widths]
    models: Vec<String>,
    /// Also time mlp with two hidden layers of each of these widths
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    widths: Vec<usize>,
    /// Set a key of the networks or the optimizer, as in network.depth=14; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Size of the images in pixels: a number, or HEIGHTxWIDTH [default: 28]
    #[arg(long, value_name = "SIZE")]
    image_size: Option<String>,
    /// Channels of the images [default: grey]
    #[arg(long, value_name = "CHANNELS", value_parser = ["grey", "rgb"])]
    channels: Option<String>,
    /// Optimizers to train with, all taking turns
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "sgd")]
    optimizers: Vec<String>,
    /// Backends to time, as for train [default: all of the build that find a device, without remote]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    backends: Vec<String>,
    /// With remote among the backends: where the command `serve` listens
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// Operations to time on flex and ndarray in f32: auto, Kindling's fused ones; composed, Burn's, as on all others
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kernels(), default_value = "auto")]
    kernels: Vec<Kernels>,
    /// Batch sizes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    batch_sizes: Vec<usize>,
    /// What to time
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, default_value = "train,infer")]
    modes: Vec<Mode>,
    /// How batches are made: gathered as a shuffled epoch does, or sliced as file order does; the same on both sides
    #[arg(long, value_enum, default_value = "gather")]
    batches: Batches,
    /// Number type of the whole network
    #[arg(long, value_parser = precision(), default_value = "f32")]
    precision: Precision,
    /// How often each contender is timed, all taking turns
    #[arg(long, value_name = "N", default_value_t = 7)]
    repeats: usize,
    /// How long one timing takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,
    /// Time PyTorch in the same run, with this Python; ratios are against it. Before anything is timed, both must have
    /// the same parameters and the same losses on the same weights and images
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<PathBuf>,
    /// Where PyTorch computes: cpu or cuda [default: cuda where a backend runs on an NVIDIA GPU, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pytorch_device: Option<String>,
    /// How PyTorch computes
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = VARIANTS, default_value = "eager")]
    pytorch_variants: Vec<String>,
    /// Let PyTorch take TF32 for products of f32 on CUDA, as Burn's own kernels there do
    #[arg(long)]
    pytorch_tf32: bool,
    /// How far a loss may be from PyTorch's, relatively [default: 1e-4 in f32, 0.01 where that is TF32, 0.05 in bf16
    /// and f16]
    #[arg(long, value_name = "X")]
    tolerance: Option<f64>,
    /// Add the results to this file after each case: a JSON list with an entry for each command
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    save: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
}

/// The command `bench`.
pub(crate) fn bench(workbench: &Workbench, arguments: &BenchArguments) -> Result<Outcome> {
    check(arguments)?;
    let cases = cases(workbench, arguments)?;
    let requests = requests(arguments)?;
    relaunch::with(&requests.iter().flat_map(Request::environment).collect::<Vec<_>>())?;
    signals::install()?;
    let backends = open_backends(arguments, &requests)?;
    let Some((device, _)) = backends.first().map(Backend::first) else {
        bail!("no backend can be opened; what stands in the way is above");
    };
    let pytorch = match &arguments.pytorch {
        Some(python) => {
            let device = arguments.pytorch_device.as_deref().unwrap_or_else(|| default_device(&backends));
            Some(PyTorch::start(python, device, machine::describe().threads, arguments.pytorch_tf32)?)
        }
        None => None,
    };
    let mut report = report(workbench, arguments, &backends, pytorch.as_ref());
    let mut missing = Vec::new();
    for rivals in &cases {
        let case = &rivals[0];
        notice(format_args!("{}, batch {}, {} …", case.model, case.batch_size(), case.mode.as_str()));
        let (pytorch, agreements) = (pytorch.as_ref(), &mut report.agreements);
        let setting = Setting { workbench, arguments, pytorch, agreements, missing: &mut missing };
        let mut contenders = setting.contenders(rivals, &backends);
        for (name, error) in time(&mut contenders, arguments.repeats, arguments.seconds) {
            notice(format_args!("{name}: left out: {}", told(&error)));
        }
        report.measurements.extend(measure(workbench, case, device, &contenders)?);
        save(arguments, &report)?;
    }
    if report.measurements.is_empty() {
        bail!("nothing could be timed; what stood in the way is above");
    }
    show(arguments, &report)?;
    if !missing.is_empty() {
        notice(format_args!("--pytorch: left out where it has no peer, as said above: {}", missing.join("; ")));
    }
    let agree = report.agreements.iter().all(Agreement::is_one);
    Ok(if agree && missing.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn check(arguments: &BenchArguments) -> Result<()> {
    if arguments.repeats == 0 {
        bail!(Misuse("--repeats: expected at least 1, found 0".to_owned()));
    }
    if !(arguments.seconds > 0.0 && arguments.seconds.is_finite()) {
        bail!(Misuse(format!("--seconds: expected a number above 0, found {}", arguments.seconds)));
    }
    if arguments.batch_sizes.contains(&0) || arguments.widths.contains(&0) {
        bail!(Misuse("--batch-sizes, --widths: expected numbers above 0, found 0".to_owned()));
    }
    if let Some(tolerance) = arguments.tolerance.filter(|&tolerance| tolerance <= 0.0 || tolerance.is_nan()) {
        bail!(Misuse(format!("--tolerance: expected a number above 0, found {tolerance}")));
    }
    Ok(())
}

/// The backends that were named, or else all of the build that need no server.
fn requests(arguments: &BenchArguments) -> Result<Vec<Request>> {
    if arguments.backends.is_empty() {
        let all = backend::compiled_in().filter(|known| known.name != "remote");
        return all.map(|known| Request::new(known.name, None, &[])).collect();
    }
    let request = |name: &String| {
        let servers = if name.starts_with("remote") { arguments.remote.as_slice() } else { &[] };
        Request::new(name, None, servers)
    };
    arguments.backends.iter().map(request).collect()
}

fn open_backends(arguments: &BenchArguments, requests: &[Request]) -> Result<Vec<Backend>> {
    let mut backends = Vec::new();
    for request in requests {
        match request.open(arguments.precision) {
            Ok(backend) => backends.push(backend),
            // A backend that was named must open; of the others, those that can.
            Err(error) if !arguments.backends.is_empty() => return Err(error),
            Err(error) => notice(format_args!("left out: {}", told(&error))),
        }
    }
    Ok(backends)
}

/// The device on which PyTorch computes by default: a GPU where a backend does.
fn default_device(backends: &[Backend]) -> &'static str {
    let is_on_nvidia = |backend: &Backend| backend.compiles_kernels && backend.device_name.contains("NVIDIA");
    if backends.iter().any(is_on_nvidia) { "cuda" } else { "cpu" }
}

/// Every network with every batch size in every mode; those that take turns, which differ in their optimizer, in one
/// list.
fn cases(workbench: &Workbench, arguments: &BenchArguments) -> Result<Vec<Vec<Case>>> {
    let presets = presets().map(|(name, _)| name);
    let all = workbench.networks().iter().map(|network| network.name());
    let by_default = all.filter(|name| REFERENCE.contains(name) || !presets.contains(name));
    let named: Vec<&str> = if arguments.models.is_empty() && arguments.widths.is_empty() {
        by_default.collect()
    } else {
        arguments.models.iter().map(String::as_str).collect()
    };
    let named = named.into_iter().map(|name| (name, None));
    let widths = arguments.widths.iter().map(|&width| ("mlp", Some([width; 2])));
    let registry = workbench.registry();
    let mut set = with_set(Partial::default(), &arguments.set, &registry)?;
    for (key, text) in [("data.image_size", &arguments.image_size), ("data.channels", &arguments.channels)] {
        if let Some(text) = text {
            set = set.with_text(key, text, &registry)?;
        }
    }
    let mut cases = Vec::new();
    for (name, hidden) in named.chain(widths) {
        for &batch_size in &arguments.batch_sizes {
            for &mode in &arguments.modes {
                // Without training, they would all be the same.
                let optimizers = arguments.optimizers.iter().take(if mode == Mode::Train { usize::MAX } else { 1 });
                let rivals = optimizers.map(|optimizer| {
                    let mut set = set.clone();
                    if optimizer != "sgd" {
                        set.set("optimizer.name", json!(optimizer));
                    }
                    if let Some(hidden) = hidden {
                        set.set("network.hidden", json!(hidden));
                    }
                    let sizes = (batch_size, arguments.precision);
                    Case::new(workbench, name, set, sizes, (mode, arguments.batches))
                });
                cases.push(rivals.collect::<Result<_>>()?);
            }
        }
    }
    Ok(cases)
}

/// What is set up for a case, and compared with PyTorch first.
struct Setting<'a> {
    workbench: &'a Workbench,
    arguments: &'a BenchArguments,
    pytorch: Option<&'a PyTorch>,
    agreements: &'a mut Vec<Agreement>,
    /// The cases that PyTorch cannot take part in.
    missing: &'a mut Vec<String>,
}

impl Setting<'_> {
    /// Sets up those that support the cases: each backend with each of the kernels to time on it, and PyTorch's
    /// variants.
    fn contenders(mut self, rivals: &[Case], backends: &[Backend]) -> Vec<Contender> {
        let (mut contenders, mut peers) = (Vec::new(), Vec::new());
        for case in rivals {
            let found = self.peers(case);
            for backend in backends {
                // A backend without a choice is timed once.
                let all: &[_] = if backend.has_fused_kernels() { &self.arguments.kernels } else { &[Kernels::Auto] };
                for &kernels in all {
                    match self.kindling(case, backend, kernels, !found.is_empty()) {
                        Ok(contender) => contenders.push(contender),
                        Err(error) => {
                            notice(format_args!("{}: left out: {}", kindling_name(backend, kernels), told(&error)));
                        }
                    }
                }
            }
            peers.extend(found);
        }
        contenders.extend(peers);
        contenders
    }

    fn peers(&mut self, case: &Case) -> Vec<Contender> {
        let Some(pytorch) = self.pytorch else { return Vec::new() };
        let mut peers = Vec::new();
        for variant in &self.arguments.pytorch_variants {
            match pytorch.contender(case, variant) {
                Ok(contender) => peers.push(contender),
                Err(error) => {
                    notice(format_args!("pytorch {variant}: left out: {}", told(&error)));
                    let Case { model, mode, config, .. } = case;
                    let (mode, optimizer) = (mode.as_str(), config.optimizer.name());
                    self.missing
                        .push(format!("{variant} at {model}, batch {}, {mode}, {optimizer}", case.batch_size()));
                }
            }
        }
        peers
    }

    /// A backend with these kernels, which has PyTorch's losses where PyTorch has the network.
    fn kindling(&mut self, case: &Case, backend: &Backend, kernels: Kernels, has_peer: bool) -> Result<Contender> {
        if let Some(pytorch) = self.pytorch.filter(|_| has_peer) {
            let name = kindling_name(backend, kernels);
            // Once for all modes and batch sizes.
            if !self.agreements.iter().any(|known| known.is_of(case, &name)) {
                kernels.choose();
                let tolerance = self.arguments.tolerance.unwrap_or(match self.arguments.precision {
                    Precision::F32 if backend.name.ends_with("cuda") => 0.01,
                    Precision::F32 => 1e-4,
                    Precision::Bf16 | Precision::F16 => 0.05,
                });
                self.agreements.push(pytorch.agreement(self.workbench, case, backend.first().0, &name, tolerance)?);
            }
            if let Some(problem) = self.agreements.iter().find_map(|known| known.problem_of(case, &name)) {
                bail!("{problem}");
            }
        }
        Contender::kindling(self.workbench, case, backend, kernels)
    }
}
