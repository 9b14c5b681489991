use std::fmt::Write;

use anyhow::Result;
use clap::Args;
use kindling_config::{Partial, Precision};
use kindling_data::fashion_mnist;
use kindling_kernels::{Kernels, Level};
use kindling_record::MachineRecord;
use kindling_report::{grouped, table};
use serde::Serialize;

use crate::{
    Workbench,
    backend::{self, Known, Request},
    machine,
    outcome::Outcome,
    output::{notice, print, told},
    relaunch, signals, terminal,
    workload::{Batches, Case, Contender, Mode, guarded, matmul_gflops, time},
};

/// Rows and columns of the matrices whose product is timed.
const MATRIX: usize = 1024;
/// Batch size of the timed steps.
const BATCH: usize = 64;
/// How often steps are timed, and for how many seconds.
const ROUNDS: usize = 5;
const SECONDS: f64 = 0.1;

/// Arguments of `doctor`.
#[derive(Args)]
pub(crate) struct DoctorArguments {
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// What this build and this machine have.
#[derive(Serialize)]
struct Findings {
    version: &'static str,
    machine: MachineRecord,
    memory_bytes: Option<u64>,
    simd: &'static str,
    allocator: &'static str,
    kernels: KernelFindings,
    backends: Vec<BackendFindings>,
    adapters: Vec<AdapterFindings>,
    nvidia_gpus: Vec<String>,
    libtorch: LibtorchFindings,
    data: DataFindings,
    recommendation: Option<Recommendation>,
}

/// Instructions and threads that Kindling's fused operations use.
#[derive(Serialize)]
struct KernelFindings {
    instructions: String,
    threads: usize,
}

#[derive(Serialize)]
struct BackendFindings {
    name: &'static str,
    what: &'static str,
    is_compiled_in: bool,
    /// The device it opens when none is named.
    device: Option<String>,
    /// Operations of its layers, as in records: `fused, …` or `composed`.
    kernels: Option<String>,
    matmul_gflops: Option<f64>,
    /// A training step of the model with a batch of 64: forward, backward, update, reading the loss back.
    mlp_step_milliseconds: Option<f64>,
    cnn_step_milliseconds: Option<f64>,
    /// Why it cannot be used, or the command that builds it.
    missing: Option<String>,
}

#[derive(Serialize)]
struct AdapterFindings {
    name: String,
    driver: String,
    is_software: bool,
}

#[derive(Serialize)]
struct LibtorchFindings {
    version: Option<&'static str>,
    directory: Option<&'static str>,
    has_cuda: Option<bool>,
    missing: Option<&'static str>,
}

#[derive(Serialize)]
struct DataFindings {
    directory: Option<String>,
    missing: Option<String>,
}

#[derive(Serialize)]
struct Recommendation {
    backend: &'static str,
    why: String,
}

/// The command `doctor`.
pub(crate) fn doctor(workbench: &Workbench, arguments: &DoctorArguments) -> Result<Outcome> {
    let all = backend::compiled_in().filter_map(|known| Request::new(known.name, None, &[]).ok());
    relaunch::with(&all.flat_map(|request| request.environment()).collect::<Vec<_>>())?;
    signals::install()?;
    let backends: Vec<_> = backend::KNOWN.iter().map(|known| examine(workbench, known)).collect();
    let findings = Findings {
        version: env!("CARGO_PKG_VERSION"),
        machine: machine::describe(),
        memory_bytes: machine::memory_bytes(),
        simd: machine::simd(),
        allocator: "mimalloc",
        kernels: KernelFindings { instructions: Level::best().to_string(), threads: kindling_kernels::threads() },
        adapters: adapters(),
        nvidia_gpus: machine::nvidia_gpus(),
        libtorch: libtorch(),
        data: data(),
        recommendation: recommend(&backends),
        backends,
    };
    if arguments.json {
        print(serde_json::to_string_pretty(&findings)?);
    } else {
        show(&findings);
    }
    Ok(Outcome::Done)
}

/// Opens and times a backend, or says what is missing.
fn examine(workbench: &Workbench, known: &'static Known) -> BackendFindings {
    let mut findings = BackendFindings {
        name: known.name,
        what: known.what,
        is_compiled_in: known.is_compiled_in,
        device: None,
        kernels: None,
        matmul_gflops: None,
        mlp_step_milliseconds: None,
        cnn_step_milliseconds: None,
        missing: None,
    };
    if !known.is_compiled_in {
        findings.missing = Some(format!("not in this build; it comes with: {}", known.way()));
        return findings;
    }
    if known.name == "remote" {
        findings.missing = Some(format!("needs a server: {} serve", workbench.program()));
        return findings;
    }
    notice(format_args!("timing {} …", known.name));
    findings.missing = guarded(|| measure(workbench, known.name, &mut findings)).err().map(|error| told(&error));
    findings
}

fn measure(workbench: &Workbench, name: &str, findings: &mut BackendFindings) -> Result<()> {
    let backend = Request::new(name, None, &[])?.open(Precision::F32)?;
    findings.kernels = Some(backend.kernels(Kernels::Auto));
    findings.device = Some(backend.device_name.clone());
    findings.matmul_gflops = Some(matmul_gflops(&backend.devices[0], MATRIX, 5)?);
    let step = |network: &str| -> Result<f64> {
        let how = (Mode::Train, Batches::Gather);
        let case = Case::new(workbench, network, Partial::default(), (BATCH, Precision::F32), how)?;
        let mut contenders = vec![Contender::kindling(workbench, &case, &backend, Kernels::Auto)?];
        if let Some((_, error)) = time(&mut contenders, ROUNDS, SECONDS).pop() {
            return Err(error.context(format!("{network} cannot be trained")));
        }
        Ok(contenders.first().map_or(f64::NAN, Contender::step_seconds) * 1e3)
    };
    findings.mlp_step_milliseconds = Some(step("mlp")?);
    findings.cnn_step_milliseconds = Some(step("cnn")?);
    Ok(())
}

#[cfg(feature = "wgpu")]
fn adapters() -> Vec<AdapterFindings> {
    let all = backend::gpu::adapters().into_iter();
    all.map(|backend::gpu::Adapter { name, driver, is_software }| AdapterFindings { name, driver, is_software })
        .collect()
}

#[cfg(not(feature = "wgpu"))]
fn adapters() -> Vec<AdapterFindings> {
    Vec::new()
}

#[cfg(feature = "libtorch")]
fn libtorch() -> LibtorchFindings {
    use backend::libtorch::{DIRECTORY, HAS_CUDA, VERSION};
    LibtorchFindings { version: Some(VERSION), directory: Some(DIRECTORY), has_cuda: Some(HAS_CUDA), missing: None }
}

#[cfg(not(feature = "libtorch"))]
fn libtorch() -> LibtorchFindings {
    let missing = Some("not in this build; it comes with: just train-libtorch, and for NVIDIA GPUs: just train-cuda");
    LibtorchFindings { version: None, directory: None, has_cuda: None, missing }
}

fn data() -> DataFindings {
    match fashion_mnist::locate(None) {
        Some(directory) => DataFindings { directory: Some(directory.display().to_string()), missing: None },
        None => DataFindings {
            directory: None,
            missing: Some(
                "Fashion-MNIST is not here; training fetches it by itself, and on Debian and Ubuntu so does: apt \
                 install dataset-fashion-mnist"
                    .to_owned(),
            ),
        },
    }
}

/// The backend that trains both models fastest, taken together.
fn recommend(backends: &[BackendFindings]) -> Option<Recommendation> {
    let cost = |found: &BackendFindings| {
        Some((found.mlp_step_milliseconds? * found.cnn_step_milliseconds?).sqrt()).filter(|cost| cost.is_finite())
    };
    let (best, lowest) =
        backends.iter().filter_map(|found| Some((found, cost(found)?))).min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let mut why = format!(
        "of those in this build it takes the shortest steps: {:.1} ms for mlp, {:.1} ms for cnn",
        best.mlp_step_milliseconds?, best.cnn_step_milliseconds?
    );
    let others = backends.iter().filter(|found| found.name != best.name);
    let next = others.filter_map(|found| Some((found.name, cost(found)?))).min_by(|(_, a), (_, b)| a.total_cmp(b));
    if let Some((name, second)) = next {
        let _ = write!(why, ", {:.1} times as fast as {name}, the next", second / lowest);
    }
    Some(Recommendation { backend: best.name, why })
}

fn show(findings: &Findings) {
    let machine = &findings.machine;
    let processor = machine.processor.as_deref().unwrap_or("an unknown processor");
    let memory = findings
        .memory_bytes
        .map_or_else(String::new, |bytes| format!(", {:.0} GiB of memory", bytes as f64 / f64::from(1_u32 << 30)));
    print(format_args!("kindling {} on {}", findings.version, machine.platform));
    print(format_args!(
        "{processor}, {} threads, {}{memory}; allocator: {}",
        machine.threads, findings.simd, findings.allocator
    ));
    print("");
    let number =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    let rows = findings.backends.iter().map(|found| {
        let gflops = found.matmul_gflops.map_or_else(|| "-".to_owned(), |rate| grouped(rate.round() as usize));
        vec![
            found.name.to_owned(),
            gflops,
            number(found.mlp_step_milliseconds, 1),
            number(found.cnn_step_milliseconds, 1),
            found.kernels.clone().unwrap_or_else(|| "-".to_owned()),
            found.missing.clone().or_else(|| found.device.clone()).unwrap_or_else(|| found.what.to_owned()),
        ]
    });
    let header = ["backend", "GFLOP/s", "mlp ms", "cnn ms", "kernels", "device, or what is missing"];
    print(table(&header, &[1, 2, 3], terminal::width(), rows));
    print(format_args!(
        "GFLOP/s: product of two {MATRIX}x{MATRIX} matrices of f32, the best of 5; ms: a training step with a batch of \
         {BATCH}, median of {ROUNDS} rounds; kernels: operations of the layers, Kindling's (fused) or Burn's (composed)."
    ));
    print("");
    let KernelFindings { instructions, threads } = &findings.kernels;
    print(format_args!("kernels:   {instructions}, {threads} threads"));
    for adapter in &findings.adapters {
        let kind = if adapter.is_software { ", a software adapter on the CPU" } else { "" };
        print(format_args!("adapter:   {} ({}){kind}", adapter.name, adapter.driver));
    }
    for gpu in &findings.nvidia_gpus {
        print(format_args!("GPU:       {gpu}"));
    }
    match &findings.libtorch {
        LibtorchFindings { version: Some(version), directory: Some(directory), has_cuda, .. } => {
            let cuda = if has_cuda == &Some(true) { "with CUDA" } else { "for the CPU alone" };
            print(format_args!("libtorch:  {version}, {cuda}, in {directory}"));
        }
        other => print(format_args!("libtorch:  {}", other.missing.unwrap_or_default())),
    }
    match (&findings.data.directory, &findings.data.missing) {
        (Some(directory), _) => print(format_args!("data:      Fashion-MNIST in {directory}")),
        (None, missing) => print(format_args!("data:      {}", missing.as_deref().unwrap_or_default())),
    }
    print("");
    let uses_gpus = |found: &&BackendFindings| found.name.ends_with("cuda") || ["wgpu", "vulkan"].contains(&found.name);
    let is_gpu_timed = findings.backends.iter().filter(uses_gpus).any(|found| found.cnn_step_milliseconds.is_some());
    if !findings.nvidia_gpus.is_empty() && !is_gpu_timed {
        print("This build does not use the GPU; those that do: just doctor gpu, and just doctor libtorch-cuda.");
    }
    match &findings.recommendation {
        Some(Recommendation { backend, why }) => print(format_args!("Use {backend}: {why}.")),
        None => print("No backend of this build works here; the table says what is missing."),
    }
}
