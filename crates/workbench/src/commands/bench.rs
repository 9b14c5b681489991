use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use kindling_kernels::Kernels;
use kindling_models::ModelName;
use kindling_report::{grouped, markdown, table};
use kindling_training::BURN_VERSION;
use serde::Serialize;

use crate::{
    arguments::{BenchArguments, Mode, command_line},
    backend::{self, Backend, Request},
    commands::{Misuse, Outcome},
    machine,
    output::{notice, print, told},
    pytorch::{Opened, PyTorch},
    relaunch, signals,
    workload::{Task, Workload, guarded},
};

/// One of those that are compared: a backend with its kernels, or a variant of PyTorch.
struct Contender {
    name: String,
    /// As in records; none for PyTorch.
    kernels: Option<String>,
    work: Work,
    /// Steps of one timing.
    steps: usize,
    /// Seconds a step took, in each round.
    seconds: Vec<f64>,
}

enum Work {
    Kindling(Box<Workload>),
    PyTorch(Opened),
}

/// The throughput of one contender at one task.
#[derive(Serialize)]
struct Measurement {
    model: String,
    parameters: usize,
    batch_size: usize,
    mode: &'static str,
    contender: String,
    /// Operations of a backend's layers: `fused, …` or `composed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<String>,
    /// Median over the rounds.
    images_per_second: f64,
    /// The slowest and the fastest round.
    images_per_second_range: [f64; 2],
    rounds: usize,
    steps_per_round: usize,
    /// Median over the rounds of this contender's throughput over that of PyTorch eager, if that was timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_pytorch: Option<f64>,
}

/// The measurements, with what is needed to understand them.
#[derive(Serialize)]
struct Report {
    command: String,
    machine: kindling_record::MachineRecord,
    versions: BTreeMap<String, String>,
    devices: BTreeMap<String, String>,
    precision: String,
    batches: &'static str,
    measurements: Vec<Measurement>,
}

/// `kindling bench`
pub(crate) fn bench(arguments: &BenchArguments) -> Result<Outcome> {
    check(arguments)?;
    let requests = requests(arguments)?;
    relaunch::with(&requests.iter().flat_map(Request::environment).collect::<Vec<_>>())?;
    signals::install()?;
    let backends = open_backends(arguments, &requests)?;
    let mut pytorch = match &arguments.pytorch {
        Some(python) => {
            let device = arguments.pytorch_device.as_deref().unwrap_or_else(|| default_device(&backends));
            Some(PyTorch::start(python, device, machine::describe().threads)?)
        }
        None => None,
    };
    let mut measurements = Vec::new();
    for task in tasks(arguments) {
        notice(format_args!("{} …", describe(&task)));
        let mut contenders = make_ready(&task, arguments, &backends, pytorch.as_mut());
        for round in 0..arguments.repeats {
            // Each round begins with another contender, so that none profits from its place.
            let first = round % contenders.len().max(1);
            for index in (first..contenders.len()).chain(0..first) {
                contenders[index].time(pytorch.as_mut());
            }
        }
        contenders.retain(|contender| contender.seconds.len() == arguments.repeats);
        measurements.extend(measure(&task, &contenders)?);
        for contender in contenders {
            if let (Work::PyTorch(opened), Some(pytorch)) = (contender.work, &mut pytorch) {
                pytorch.close(opened)?;
            }
        }
    }
    if measurements.is_empty() {
        bail!("nothing could be timed; what stood in the way is above");
    }
    show(arguments, &report(arguments, &backends, pytorch.as_ref(), measurements))?;
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

/// The backends that were named, or all of the build that need no server.
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
            // Who names a backend means it; of the others, those that work here.
            Err(error) if !arguments.backends.is_empty() => return Err(error),
            Err(error) => notice(format_args!("left out: {}", told(&error))),
        }
    }
    Ok(backends)
}

/// PyTorch computes where the backends do.
fn default_device(backends: &[Backend]) -> &'static str {
    let is_on_nvidia = |backend: &Backend| backend.compiles_kernels && backend.device_name.contains("NVIDIA");
    if backends.iter().any(is_on_nvidia) { "cuda" } else { "cpu" }
}

fn tasks(arguments: &BenchArguments) -> Vec<Task> {
    let presets = if arguments.models.is_empty() && arguments.widths.is_empty() {
        ModelName::REFERENCE.to_vec()
    } else {
        arguments.models.clone()
    };
    let presets = presets.into_iter().map(|model| (model, None));
    let widths = arguments.widths.iter().map(|&width| (ModelName::Mlp, Some(vec![width, width])));
    let mut tasks = Vec::new();
    for (model, hidden) in presets.chain(widths) {
        for &batch in &arguments.batch_sizes {
            for &mode in &arguments.modes {
                tasks.push(Task { model, hidden: hidden.clone(), batch, mode, batches: arguments.batches });
            }
        }
    }
    tasks
}

/// Sets up and warms up those that support `task`, and finds how many steps a timing takes.
fn make_ready(
    task: &Task,
    arguments: &BenchArguments,
    backends: &[Backend],
    mut pytorch: Option<&mut PyTorch>,
) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for (backend, kernels) in choices(arguments, backends) {
        let name = match kernels {
            Kernels::Composed if backend.has_fused_kernels() => format!("{} composed", backend.name),
            Kernels::Auto | Kernels::Composed => backend.name.to_owned(),
        };
        match guarded(|| Workload::new(task, &backend.devices[0], backend.largest_tensor, kernels)) {
            Ok(workload) => {
                let work = Work::Kindling(Box::new(workload));
                contenders.push(Contender::new(name, Some(backend.kernels(kernels)), work));
            }
            Err(error) => notice(format_args!("{name}: left out: {}", told(&error))),
        }
    }
    if let Some(pytorch) = &mut pytorch {
        for variant in &arguments.pytorch_variants {
            match pytorch.open(task, variant, arguments.precision) {
                Ok(opened) => {
                    contenders.push(Contender::new(format!("pytorch {variant}"), None, Work::PyTorch(opened)));
                }
                Err(error) => notice(format_args!("pytorch {variant}: left out: {}", told(&error))),
            }
        }
    }
    contenders.retain_mut(|contender| {
        let calibrated = contender.calibrate(arguments.seconds, pytorch.as_deref_mut());
        calibrated.map_err(|error| notice(format_args!("{}: left out: {}", contender.name, told(&error)))).is_ok()
    });
    contenders
}

/// Each backend with each of the kernels to time on it; where there is no choice, once.
fn choices<'a>(arguments: &BenchArguments, backends: &'a [Backend]) -> Vec<(&'a Backend, Kernels)> {
    let mut choices = Vec::new();
    for backend in backends {
        let kernels: &[Kernels] = if backend.has_fused_kernels() { &arguments.kernels } else { &[Kernels::Auto] };
        choices.extend(kernels.iter().map(|&kernels| (backend, kernels)));
    }
    choices
}

impl Contender {
    fn new(name: String, kernels: Option<String>, work: Work) -> Self {
        Self { name, kernels, work, steps: 1, seconds: Vec::new() }
    }

    fn run(&mut self, steps: usize, pytorch: Option<&mut PyTorch>) -> Result<Duration> {
        match (&mut self.work, pytorch) {
            (Work::Kindling(workload), _) => guarded(|| workload.run(steps)),
            (Work::PyTorch(opened), Some(pytorch)) => pytorch.run(*opened, steps),
            (Work::PyTorch(_), None) => bail!("PyTorch is not running"),
        }
    }

    /// Warms up, and finds how many steps take `seconds`.
    fn calibrate(&mut self, seconds: f64, mut pytorch: Option<&mut PyTorch>) -> Result<()> {
        // Kernels are compiled, tuned and fused over the first few.
        for _ in 0..3 {
            self.run(1, pytorch.as_deref_mut())?;
        }
        let step = self.run(2, pytorch)?.as_secs_f64() / 2.0;
        self.steps = (seconds / step).ceil().clamp(1.0, 1e6) as usize;
        Ok(())
    }

    /// Times one round; a contender that fails is left out of the results.
    fn time(&mut self, pytorch: Option<&mut PyTorch>) {
        // The threads of the one before still spin for a moment.
        std::thread::sleep(Duration::from_millis(20));
        let steps = self.steps;
        match self.run(steps, pytorch) {
            Ok(duration) => self.seconds.push(duration.as_secs_f64() / steps as f64),
            Err(error) => notice(format_args!("{}: left out: {}", self.name, told(&error))),
        }
    }
}

fn measure(task: &Task, contenders: &[Contender]) -> Result<Vec<Measurement>> {
    let peer = contenders.iter().find(|contender| contender.name == "pytorch eager");
    let layers = task.model.config(task.hidden.as_deref())?.layers(kindling_models::ImageShape::MNIST)?;
    let model = task.hidden.as_ref().map_or_else(
        || task.model.to_string(),
        |hidden| format!("{} {}", task.model, hidden.iter().map(usize::to_string).collect::<Vec<_>>().join("-")),
    );
    Ok(contenders
        .iter()
        .map(|contender| {
            let speeds: Vec<_> = contender.seconds.iter().map(|seconds| task.batch as f64 / seconds).collect();
            let ratio = peer.map(|peer| median(peer.seconds.iter().zip(&contender.seconds).map(|(a, b)| a / b)));
            Measurement {
                model: model.clone(),
                parameters: kindling_models::trainable_parameters(&layers),
                batch_size: task.batch,
                mode: mode_name(task.mode),
                contender: contender.name.clone(),
                kernels: contender.kernels.clone(),
                images_per_second: median(speeds.iter().copied()),
                images_per_second_range: [
                    speeds.iter().copied().fold(f64::INFINITY, f64::min),
                    speeds.iter().copied().fold(0.0, f64::max),
                ],
                rounds: speeds.len(),
                steps_per_round: contender.steps,
                ratio_to_pytorch: ratio,
            }
        })
        .collect())
}

/// The middle one; of an even number, the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

fn report(
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
        command: command_line(),
        machine: machine::describe(),
        versions,
        devices,
        precision: arguments.precision.to_string(),
        batches: match arguments.batches {
            crate::arguments::Batches::Gather => "gathered in a shuffled order, on both sides",
            crate::arguments::Batches::Slice => "slices in file order, on both sides",
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
        let speed = |speed: f64| grouped(speed.round() as usize);
        let [low, high] = found.images_per_second_range;
        vec![
            found.model.clone(),
            found.batch_size.to_string(),
            found.mode.to_owned(),
            found.contender.clone(),
            speed(found.images_per_second),
            speed(low),
            speed(high),
            found.ratio_to_pytorch.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        ]
    });
    let right = [1, 4, 5, 6, 7];
    print(if arguments.markdown { markdown(&header, &right, rows) } else { table(&header, &right, None, rows) });
    let about = |things: &BTreeMap<String, String>, between: &str| {
        things.iter().map(|(name, what)| format!("{name}{between}{what}")).collect::<Vec<_>>().join("; ")
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

fn describe(task: &Task) -> String {
    let hidden = task.hidden.as_ref().map_or_else(String::new, |hidden| format!(" {hidden:?}"));
    format!("{}{hidden}, batch {}, {}", task.model, task.batch, mode_name(task.mode))
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Train => "train",
        Mode::Infer => "infer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(close(median([3.0, 1.0, 2.0].into_iter()), 2.0));
        assert!(close(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5));
        assert!(median(std::iter::empty()).is_nan());
    }
}
