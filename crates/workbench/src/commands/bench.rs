use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use kindling_config::Precision;
use kindling_kernels::Kernels;
use kindling_models::{REFERENCE, presets};
use kindling_record::MachineRecord;
use kindling_report::{grouped, markdown, table};
use kindling_training::BURN_VERSION;
use serde::Serialize;

use crate::{
    Workbench,
    arguments::{kernels, precision},
    backend::{self, Backend, Request},
    machine,
    outcome::{Misuse, Outcome},
    output::{notice, print, told},
    pytorch::PyTorch,
    relaunch, signals,
    workload::{Batches, Case, Contender, Measurement, Mode, measure, time},
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
    /// Time PyTorch in the same run, with this Python; ratios are against it
    #[arg(long, value_name = "PYTHON")]
    pytorch: Option<PathBuf>,
    /// Where PyTorch computes: cpu or cuda [default: cuda where a backend runs on an NVIDIA GPU, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pytorch_device: Option<String>,
    /// How PyTorch computes: eager, channels_last, compiled
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "eager")]
    pytorch_variants: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,
}

/// The measurements, with the command, the machine and the versions that they were made with.
#[derive(Serialize)]
struct Report {
    command: String,
    machine: MachineRecord,
    versions: BTreeMap<String, String>,
    devices: BTreeMap<String, String>,
    precision: String,
    batches: &'static str,
    measurements: Vec<Measurement>,
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
            Some(PyTorch::start(python, device, machine::describe().threads)?)
        }
        None => None,
    };
    let mut measurements = Vec::new();
    for case in &cases {
        notice(format_args!("{}, batch {}, {} …", case.model, case.batch_size(), case.mode.as_str()));
        let mut contenders = contenders(workbench, case, arguments, &backends, pytorch.as_ref());
        for (name, error) in time(&mut contenders, arguments.repeats, arguments.seconds) {
            notice(format_args!("{name}: left out: {}", told(&error)));
        }
        measurements.extend(measure(workbench, case, device, &contenders)?);
    }
    if measurements.is_empty() {
        bail!("nothing could be timed; what stood in the way is above");
    }
    show(arguments, &report(workbench, arguments, &backends, pytorch.as_ref(), measurements))?;
    Ok(Outcome::Done)
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
    if let Some(other) =
        arguments.pytorch_variants.iter().find(|name| !["eager", "channels_last", "compiled"].contains(&&***name))
    {
        bail!(Misuse(format!("--pytorch-variants: expected eager, channels_last or compiled, found {other}")));
    }
    Ok(())
}

/// The backends that were named, or else all of the build that need no server.
fn requests(arguments: &BenchArguments) -> Result<Vec<Request>> {
    if arguments.backends.is_empty() {
        let all = backend::compiled_in().filter(|known| known.name != "remote");
        return all.map(|known| Request::new(known.name, None, None)).collect();
    }
    let request = |name: &String| {
        let server = arguments.remote.as_deref().filter(|_| name.starts_with("remote"));
        Request::new(name, None, server)
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

/// Every network with every batch size in every mode.
fn cases(workbench: &Workbench, arguments: &BenchArguments) -> Result<Vec<Case>> {
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
    let mut cases = Vec::new();
    for (name, hidden) in named.chain(widths) {
        for &batch_size in &arguments.batch_sizes {
            for &mode in &arguments.modes {
                let hidden = hidden.as_ref().map(<[usize; 2]>::as_slice);
                let sizes = (batch_size, arguments.precision);
                cases.push(Case::new(workbench, name, hidden, sizes, (mode, arguments.batches))?);
            }
        }
    }
    Ok(cases)
}

/// Sets up those that support `case`: each backend with each of the kernels to time on it, and PyTorch's variants.
fn contenders(
    workbench: &Workbench,
    case: &Case,
    arguments: &BenchArguments,
    backends: &[Backend],
    pytorch: Option<&PyTorch>,
) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for backend in backends {
        // A backend without a choice is timed once.
        let kernels: &[Kernels] = if backend.has_fused_kernels() { &arguments.kernels } else { &[Kernels::Auto] };
        for &kernels in kernels {
            match Contender::kindling(workbench, case, backend, kernels) {
                Ok(contender) => contenders.push(contender),
                Err(error) => notice(format_args!("{}: left out: {}", backend.name, told(&error))),
            }
        }
    }
    if let Some(pytorch) = pytorch {
        for variant in &arguments.pytorch_variants {
            match pytorch.contender(case, variant) {
                Ok(contender) => contenders.push(contender),
                Err(error) => notice(format_args!("pytorch {variant}: left out: {}", told(&error))),
            }
        }
    }
    contenders
}

fn report(
    workbench: &Workbench,
    arguments: &BenchArguments,
    backends: &[Backend],
    pytorch: Option<&PyTorch>,
    measurements: Vec<Measurement>,
) -> Report {
    let mut versions = BTreeMap::from([
        ("kindling".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), BURN_VERSION.to_owned()),
    ]);
    let mut devices: BTreeMap<_, _> =
        backends.iter().map(|backend| (backend.name.to_owned(), backend.device_name.clone())).collect();
    if let Some(pytorch) = pytorch {
        let about = |key: &str| pytorch.about[key].as_str().unwrap_or("?").to_owned();
        versions.insert("torch".to_owned(), about("torch"));
        devices.insert("pytorch".to_owned(), about("device"));
    }
    Report {
        command: workbench.command_line(),
        machine: machine::describe(),
        versions,
        devices,
        precision: arguments.precision.to_string(),
        batches: match arguments.batches {
            Batches::Gather => "gathered in a shuffled order, on both sides",
            Batches::Slice => "slices in file order, on both sides",
        },
        measurements,
    }
}

fn show(arguments: &BenchArguments, report: &Report) -> Result<()> {
    if arguments.json {
        print(serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let header = ["model", "batch", "mode", "on", "images/s", "from", "to", "ratio"];
    let rows = report.measurements.iter().map(|found| {
        let rounded = |throughput: f64| grouped(throughput.round() as usize);
        let [low, high] = found.images_per_second_range;
        vec![
            found.model.clone(),
            found.batch_size.to_string(),
            found.mode.to_owned(),
            found.contender.clone(),
            rounded(found.images_per_second),
            rounded(low),
            rounded(high),
            found.ratio_to_pytorch.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]
    });
    let right = [1, 4, 5, 6, 7];
    print(if arguments.markdown { markdown(&header, &right, rows) } else { table(&header, &right, None, rows) });
    let about = |all: &BTreeMap<String, String>, between: &str| {
        all.iter().map(|(name, what)| format!("{name}{between}{what}")).collect::<Vec<_>>().join("; ")
    };
    print(format_args!(
        "\nMedian, slowest and fastest of {} rounds in which all took turns; ratio: median over the rounds of the \
         throughput over that of PyTorch eager. A step reads its loss back; batches are {}; {}.",
        arguments.repeats, report.batches, report.precision
    ));
    print(format_args!("\n`{}`", report.command));
    print(format_args!("\n{}; {}", about(&report.versions, " "), about(&report.devices, ": ")));
    Ok(())
}
