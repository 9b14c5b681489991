//! The seeds of a claim, each trained in a process of its own, and by PyTorch beside it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use kindling_config::Config;
use kindling_record::{RunDirectory, RunStatus, replace_file};
use kindling_report::{Run, duration, percent};
use kindling_workbench::{
    Workbench,
    arguments::PlaceArguments,
    data,
    output::notice,
    subprocess,
    sweep::{self, Planned},
};
use serde::{Deserialize, Serialize};

use super::PeerRecord;

/// The program that trains a config with PyTorch.
pub(crate) const PEER: &str = "assets/claims/pytorch_peer.py";

/// What is to be trained, and where.
pub(crate) struct Order<'a> {
    /// Name of the recipe.
    pub(crate) recipe: &'a str,
    /// What is changed of it, as in `--set`.
    pub(crate) changed: &'a [String],
    /// Where runs take place.
    pub(crate) place: &'a PlaceArguments,
    /// The Python that trains with PyTorch as well.
    pub(crate) python: Option<&'a Path>,
}

/// How the training of all seeds ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All that is to be trained is.
    Done,
    /// The user stopped it.
    Interrupted,
    /// One failed, with what it was.
    Failed(String),
}

/// The seconds of each process that trained a run, measured around it: `claim.json` in the run's directory.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Measured {
    /// By the number of the part in the run's record, from 1.
    parts: Vec<(usize, f64)>,
}

/// Trains the seeds that are not finished, one after the other, and leaves their runs in `seeds`.
pub(crate) fn train(
    workbench: &Workbench,
    order: &Order<'_>,
    seeds: &mut [(u64, Planned, Option<Run>)],
) -> Result<End> {
    let is_open = |run: &Option<Run>| run.as_ref().is_none_or(|run| !run.is_over());
    if let Some((_, planned, _)) = seeds.iter().find(|(_, _, run)| is_open(run)) {
        // So that it is in the cache when the clock starts.
        drop(data::load(workbench, &planned.config.data, order.place.data_dir.as_deref())?);
    }
    let count = seeds.len();
    for (index, (seed, planned, run)) in seeds.iter_mut().enumerate() {
        let title = format!("seed {seed} ({} of {count})", index + 1);
        match run.as_ref().map(|run| (run.status, run)) {
            Some((RunStatus::Running, run)) => {
                notice(format_args!("{title}: another process trains {}; left alone", run.record.id));
                continue;
            }
            Some((RunStatus::Finished | RunStatus::Diverged, run)) => {
                notice(format_args!("{title}: {} is there: {}", run.record.id, run.status));
            }
            _ => {
                let end = train_one(workbench, order, &title, *seed, planned, run)?;
                if end != End::Done {
                    return Ok(end);
                }
            }
        }
        if let (Some(python), Some(run)) = (order.python, run.as_ref().filter(|run| run.status == RunStatus::Finished))
            && peer_of(run)?.is_none()
        {
            notice(format_args!("{title}: PyTorch trains the same"));
            let end = train_peer(python, *seed, &planned.config, run, order.place)?;
            if end != End::Done {
                return Ok(end);
            }
        }
    }
    Ok(End::Done)
}

/// Trains a seed, or resumes it, in a process of its own.
fn train_one(
    workbench: &Workbench,
    order: &Order<'_>,
    title: &str,
    seed: u64,
    planned: &Planned,
    run: &mut Option<Run>,
) -> Result<End> {
    let mut command = Command::new(env::current_exe().context("this program cannot be found")?);
    if let Some(run) = run.as_ref() {
        notice(format_args!("{title}: resuming {}", run.record.id));
        command.arg("resume");
        place_flags(&mut command, order.place);
        command.arg("--").arg(run.directory.path());
    } else {
        notice(format_args!("{title}: training {}", planned.name));
        command.args(["train", "--recipe", order.recipe, "--seed", &seed.to_string(), "--name", &planned.name]);
        command.args(order.changed.iter().flat_map(|pair| ["--set", pair]));
        place_flags(&mut command, order.place);
    }
    // The result is read from the run.
    let ended = subprocess::run(command.stdout(Stdio::null()))?;
    let found = sweep::begun(workbench, std::slice::from_ref(planned), order.place)?;
    *run = found.into_iter().next().flatten();
    if let Some(run) = run.as_ref().filter(|run| run.status != RunStatus::Running) {
        let mut measured = measured(&run.directory)?;
        measured.parts.retain(|(part, _)| *part != run.record.parts.len());
        measured.parts.push((run.record.parts.len(), ended.seconds));
        let path = claim_file(&run.directory);
        replace_file(&path, &serde_json::to_vec_pretty(&measured)?)?;
        let test = run.record.test.as_ref().and_then(|test| test.get("accuracy"));
        let test = test.map_or_else(String::new, |accuracy| format!(", test accuracy {}", percent(accuracy)));
        notice(format_args!("{title}: {}{test}, {}", run.status, duration(ended.seconds)));
    }
    Ok(match run.as_ref().map(|run| run.status) {
        _ if ended.interrupted => End::Interrupted,
        Some(RunStatus::Finished | RunStatus::Diverged) => End::Done,
        // A signal that reached that process alone.
        Some(RunStatus::Interrupted) => End::Interrupted,
        _ => End::Failed(format!("{title}: the training failed ({})", ended.status)),
    })
}

/// Where runs take place, as `train` and `resume` are told.
fn place_flags(command: &mut Command, place: &PlaceArguments) {
    let device = &place.device;
    command.args(["--dashboard", "never", "--runs-dir"]).arg(&place.runs_dir.path);
    if let Some(backend) = &device.backend {
        command.args(["--backend", backend]);
    }
    if let Some(devices) = device.devices {
        command.args(["--devices", &devices.to_string()]);
    }
    if !device.remote.is_empty() {
        command.args(["--remote", &device.remote.join(",")]);
    }
    if let Some(kernels) = place.kernels {
        command.args(["--kernels", kernels.as_str()]);
    }
    if let Some(directory) = &place.data_dir {
        command.arg("--data-dir").arg(directory);
    }
}

/// Seconds from the program's start to its end over all parts of a run, and whether they were measured; what the run's
/// record has otherwise.
pub(crate) fn wall_seconds(run: &Run) -> Result<(f64, bool)> {
    let (record, measured) = (&run.record, measured(&run.directory)?);
    let is_whole = (1..=record.parts.len()).all(|part| measured.parts.iter().any(|(known, _)| *known == part));
    if is_whole && !record.parts.is_empty() {
        return Ok((measured.parts.iter().map(|(_, seconds)| seconds).sum(), true));
    }
    Ok((record.timings.start_up_seconds + record.timings.compilation_seconds + record.seconds, false))
}

fn claim_file(run: &RunDirectory) -> PathBuf {
    run.path().join("claim.json")
}

fn measured(run: &RunDirectory) -> Result<Measured> {
    let path = claim_file(run);
    if !path.exists() {
        return Ok(Measured::default());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: expected the times of a claim; delete it", path.display()))
}

/// Where PyTorch's results for a run are.
fn peer_file(run: &RunDirectory) -> PathBuf {
    run.path().join("pytorch.json")
}

/// What PyTorch reached with the config of `run`, where it trained that.
pub(crate) fn peer_of(run: &Run) -> Result<Option<PeerRecord>> {
    let path = peer_file(&run.directory);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let read = serde_json::from_str(&text);
    read.map(Some).with_context(|| format!("{}: expected what {PEER} writes; delete it", path.display()))
}

/// Trains the config with PyTorch.
fn train_peer(python: &Path, seed: u64, config: &Config, run: &Run, place: &PlaceArguments) -> Result<End> {
    let images = run.record.dataset.images.as_ref();
    let source = images.and_then(|images| images.source.as_ref()).map(PathBuf::from);
    let typed = run.directory.path().join("config.json");
    replace_file(&typed, &serde_json::to_vec_pretty(&config.to_object())?)?;
    // Complete when it has its name.
    let (whole, part) = (peer_file(&run.directory), run.directory.path().join("pytorch-new.json"));
    let mut command = Command::new(python);
    command.arg(PEER).arg("--config").arg(&typed).args(["--seed", &seed.to_string()]);
    if let Some(data) = place.data_dir.clone().or(source) {
        command.arg("--data-dir").arg(data);
    }
    // What it prints is progress.
    let ended = subprocess::run(command.arg("--output").arg(&part).stdout(Stdio::null()))?;
    if ended.interrupted {
        return Ok(End::Interrupted);
    }
    if !ended.status.success() || !part.exists() {
        return Ok(End::Failed(format!("seed {seed}: {} {PEER} failed ({})", python.display(), ended.status)));
    }
    fs::rename(&part, &whole).with_context(|| format!("{} cannot be written", whole.display()))?;
    if let Some(peer) = peer_of(run)? {
        notice(format_args!(
            "seed {seed}: PyTorch {}: test accuracy {}, {}",
            peer.torch,
            percent(peer.test_accuracy),
            duration(peer.wall_seconds)
        ));
    }
    Ok(End::Done)
}
