//! Many runs, one after the other or on many machines: those that are finished are not run again, interrupted ones are
//! resumed.

pub(crate) mod cluster;
pub(crate) mod known;
pub(crate) mod plan;
pub(crate) mod status;

use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use burn::{tensor::Device, train::Interrupter};
use kindling_classification::ClassificationError;
use kindling_config::{Config, Precision};
use kindling_kernels::Kernels;
use kindling_models::LayerSummary;
use kindling_record::{Holder, RecordError, RunDirectory, RunRecord, RunStatus};
use kindling_report::{Run, duration};
use kindling_training::{Event, Host, OnEvent, Silent, TrainingError};

use self::known::{keep_alike, known_runs, over, with_weights_of_runs};
pub(crate) use self::plan::Part;
use crate::{
    Workbench,
    arguments::PlaceArguments,
    backend::{self, Backend, Request},
    commands::train::{frozen_line, weights_lines},
    data::{self, DataSets},
    log_file,
    outcome::Outcome,
    output::{notice, told},
    progress::SweepBar,
    relaunch, signals,
    tensorboard::TensorboardArguments,
    writable,
};

/// A run to make, or to find.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What a new run is named.
    pub name: String,
    /// Its config.
    pub config: Config,
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// The run of each planned one, in their order; none where it failed before it had a record, or was not reached.
    pub runs: Vec<Option<Run>>,
    /// Names of the planned runs that failed, each with its error.
    pub failures: Vec<(String, String)>,
    /// Names of those that another process trains.
    pub elsewhere: Vec<String>,
    /// Whether the user interrupted it.
    pub interrupted: bool,
}

impl Swept {
    /// Prints the failures and returns how the sweep ended: a diverged run is a result, a failed one is not.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        for (name, error) in &self.failures {
            notice(format_args!("{name} failed: {error}"));
        }
        if !self.elsewhere.is_empty() {
            notice(format_args!("trained by other processes: {}", self.elsewhere.join(", ")));
        }
        if self.interrupted {
            notice("interrupted; the same command resumes it");
            Outcome::Interrupted
        } else if self.failures.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed
        }
    }
}

/// Backends and data of a sweep, each opened when a run first needs it.
struct Bench<'a> {
    workbench: &'a Workbench,
    place: &'a PlaceArguments,
    tensorboard: &'a TensorboardArguments,
    request: Request,
    part: Part,
    backends: Vec<(Precision, Backend)>,
    data: DataSets<'a>,
}

/// Trains the runs that are not there yet. One that fails or diverges does not stop the others, nor does one that
/// another process trains.
///
/// Call it before anything else is done or printed: the program may start itself again.
pub fn sweep(workbench: &Workbench, plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    sweep_part(workbench, plan, Part::Whole, place, &TensorboardArguments::default())
}

/// As [`sweep`], for a part of the plan, beside other processes on a shared directory of runs.
pub(crate) fn sweep_part(
    workbench: &Workbench,
    plan: &[Planned],
    part: Part,
    place: &PlaceArguments,
    tensorboard: &TensorboardArguments,
) -> Result<Swept> {
    let request = request(place)?;
    signals::install()?;
    let plan = &with_weights_of_runs(plan, place)?;
    let own: Vec<(usize, &Planned)> = plan.iter().enumerate().filter(|(index, _)| part.has(*index)).collect();
    let data = DataSets::new(workbench, place.data_dir.as_deref());
    let mut bench = Bench { workbench, place, tensorboard, request, part, backends: Vec::new(), data };
    let mut known = bench.known(&own.iter().map(|(_, planned)| (*planned).clone()).collect::<Vec<_>>(), notice)?;
    let waiting: Vec<f64> = own
        .iter()
        .filter(|(_, planned)| over(&known, &planned.config).is_none())
        .map(|(_, planned)| cost(workbench, &planned.config))
        .collect();
    if waiting.len() < own.len() {
        notice(format_args!("{} of {} runs are already finished", own.len() - waiting.len(), own.len()));
    }
    if !waiting.is_empty() {
        writable::check(&place.runs_dir.path)?;
        tensorboard.check()?;
    }
    let bar = SweepBar::new(waiting.iter().sum());
    let mut swept = Swept { runs: vec![None; plan.len()], ..Swept::default() };
    for (index, planned) in own {
        let title = format!("run {} of {}: {}", index + 1, plan.len(), planned.name);
        if let Some(run) = over(&known, &planned.config) {
            swept.runs[index] = Some(run.clone());
            continue;
        }
        let clock = Instant::now();
        let trained = bench.take(planned, &mut known, |bench, found| {
            let progress = bar.run(&title, cost(workbench, &planned.config), planned.config.training.epochs);
            let trained = bench.train(planned, found, &progress);
            progress.finish_run();
            trained
        });
        match trained {
            Ok(run) => {
                swept.interrupted = run.status == RunStatus::Interrupted;
                bar.say(&format!("{title}: {} in {}", outcome(&run.record), duration(clock.elapsed().as_secs_f64())));
                known.push((planned.config.clone(), run.clone()));
                swept.runs[index] = Some(run);
            }
            Err(error) => {
                if let Some(holder) = holder(&error) {
                    let told = |Holder { host, process, .. }: &Holder| format!(" ({process} on {host})");
                    let by = holder.as_ref().map(told).unwrap_or_default();
                    bar.say(&format!("{title}: another process{by} trains it; skipped"));
                    swept.elsewhere.push(planned.name.clone());
                    continue;
                }
                let error = told(&error);
                bar.say(&format!("{title}: failed: {error}"));
                swept.failures.push((planned.name.clone(), error));
            }
        }
        if swept.interrupted {
            break;
        }
    }
    bar.end();
    Ok(swept)
}

/// The process that holds a run, where that is what the error is about.
#[allow(clippy::option_option)] // A lease may be damaged.
fn holder(error: &Error) -> Option<Option<Holder>> {
    error.chain().find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(RecordError::Busy { holder, .. }), _)
        | (
            _,
            Some(
                ClassificationError::Record(RecordError::Busy { holder, .. })
                | ClassificationError::Training(TrainingError::Record(RecordError::Busy { holder, .. })),
            ),
        ) => Some(holder.clone()),
        _ => None,
    })
}

/// Returns the runs of `plan` that are over and trains none. They may come from a processor with other instructions
/// than this one's, but all from one with the same.
///
/// Call it before anything else is done or printed: the program may start itself again.
///
/// # Errors
///
/// Where none of them is there.
pub fn find(workbench: &Workbench, plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    let request = request(place)?;
    let plan = &with_weights_of_runs(plan, place)?;
    let mut data = DataSets::new(workbench, place.data_dir.as_deref());
    let mut known = known_runs(plan, &mut data, place, notice)?;
    if let Some(planned) = plan.first() {
        keep_alike(&mut known, &request.setup(planned.config.training.precision));
    }
    let runs: Vec<Option<Run>> = plan.iter().map(|planned| over(&known, &planned.config).cloned()).collect();
    let missing = runs.iter().filter(|run| run.is_none()).count();
    if missing == plan.len() {
        bail!(
            "expected some of these {missing} runs in {}, on the backend {} with {} kernels, found none that is over: run \
             the command without --report-only to make them",
            place.runs_dir.path.display(),
            request.name,
            Kernels::chosen()
        );
    }
    if missing > 0 {
        notice(format_args!("{missing} of {} runs are missing", plan.len()));
    }
    Ok(Swept { runs, ..Swept::default() })
}

/// Returns the run of each of `plan` that is there, wherever it stands, made as `place` asks but for the processor's
/// instructions; of several the one that is furthest on.
///
/// Call it before anything else is done or printed: the program may start itself again.
///
/// # Errors
///
/// When the backend is none of this build, or the directory of runs cannot be read.
pub fn begun(workbench: &Workbench, plan: &[Planned], place: &PlaceArguments) -> Result<Vec<Option<Run>>> {
    let request = request(place)?;
    let known = known_runs(plan, &mut DataSets::new(workbench, place.data_dir.as_deref()), place, notice)?;
    let of = |planned: &Planned| {
        let wanted = request.setup(planned.config.training.precision);
        let is_one = |config: &Config, run: &Run| {
            *config == planned.config && run.setups().iter().all(|setup| setup.is_like(&wanted))
        };
        let runs = known.iter().filter(|(config, run)| is_one(config, run)).map(|(_, run)| run);
        runs.max_by_key(|run| (run.is_over(), run.record.epochs.len())).cloned()
    };
    Ok(plan.iter().map(of).collect())
}

/// The backend that the arguments ask for; the program may start itself again.
pub(crate) fn request(place: &PlaceArguments) -> Result<Request> {
    let request = place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment().into_iter().chain(request.as_default()).collect::<Vec<_>>())?;
    place.kernels.unwrap_or_default().choose();
    Ok(request)
}

impl Bench<'_> {
    /// The runs of these that are there, in a setup that counts.
    fn known(&mut self, plan: &[Planned], on_damaged: impl FnMut(RecordError)) -> Result<Vec<(Config, Run)>> {
        let mut known = known_runs(plan, &mut self.data, self.place, on_damaged)?;
        known.retain(|(config, run)| self.part.takes(run, &self.request.setup(config.training.precision)));
        Ok(known)
    }

    /// Does `train` with the directory where the run was begun, if it was, unless another process holds that or has the
    /// run made by now.
    fn take(
        &mut self,
        planned: &Planned,
        known: &mut Vec<(Config, Run)>,
        train: impl FnOnce(&mut Self, Option<RunDirectory>) -> Result<Run>,
    ) -> Result<Run> {
        let _claim = self.part.claim(&self.place.runs_dir.path, &planned.config)?;
        // Another process may have begun it, or ended it, since.
        known.retain(|(config, _)| *config != planned.config);
        known.extend(self.known(std::slice::from_ref(planned), drop)?);
        if let Some(run) = over(known, &planned.config) {
            return Ok(run.clone());
        }
        let found = known.iter().find(|(config, _)| *config == planned.config).map(|(_, run)| run.directory.clone());
        if let Some(directory) = found.as_ref().filter(|directory| directory.is_alive()) {
            bail!(RecordError::Busy { path: directory.path().to_path_buf(), holder: directory.holder() });
        }
        train(self, found)
    }

    /// Trains `planned` in a new directory, or resumes it in the one where it was begun.
    fn train(&mut self, planned: &Planned, found: Option<RunDirectory>, progress: &SweepBar) -> Result<Run> {
        let config = &planned.config;
        let network = self.workbench.network_of(&config.network)?;
        let data = self.data.get(&config.data)?;
        if !self.backends.iter().any(|(precision, _)| *precision == config.training.precision) {
            let backend = self.request.open(config.training.precision)?;
            notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
            if let Some(advice) = &backend.advice {
                notice(advice);
            }
            self.backends.push((config.training.precision, backend));
        }
        let backend = self.backends.iter().find(|(precision, _)| *precision == config.training.precision);
        let (_, backend) = backend.context("what was just opened is gone")?;
        network.check(config, data, &backend.place())?;
        let is_new = found.is_none();
        let directory = match found {
            Some(directory) => directory,
            None => RunDirectory::create(&self.place.runs_dir.path, &planned.name)?,
        };
        log_file::open(&directory.log())?;
        let interrupter = Interrupter::new();
        signals::stop_gently(&interrupter);
        let host = host(backend, interrupter, progress.clone());
        let following = self.tensorboard.follow(&directory);
        let outcome = if is_new {
            network.train(config, data, &directory, host)
        } else {
            network.resume(config, data, &directory, host)
        };
        signals::leave_at_once(None);
        drop(following);
        outcome.with_context(|| format!("run {}", directory.id()))?;
        Ok(Run::read(directory)?)
    }
}

fn host(backend: &Backend, interrupter: Interrupter, progress: SweepBar) -> Host {
    let stop = interrupter.clone();
    let on_event: OnEvent = Box::new(move |event| match event {
        Event::Epoch { record, .. } => progress.show_epoch(record),
        Event::DamagedCheckpoint { path, message, instead } => {
            progress.say(&format!("{}: {message}; resuming from {}", path.display(), instead.display()));
        }
        Event::InitialWeights(record) => progress.say(&weights_lines(record).join("\n")),
        Event::Frozen { layers, parameters } => progress.say(&frozen_line(layers, parameters)),
        Event::Compiling => signals::leave_at_once(None),
        Event::WarmUp { model, samples, .. } => progress.show_warm_up(model, samples),
        Event::Compiled { .. } => signals::stop_gently(&stop),
        Event::Step { .. } => {}
    });
    backend.host(interrupter, Box::new(|_| Box::new(Silent)), on_event, Instant::now())
}

/// How much work a run is, in any unit: multiplications of an image's way through the network, times epochs.
fn cost(workbench: &Workbench, config: &Config) -> f64 {
    let network = workbench.network_of(&config.network).ok();
    let layers = network.and_then(|network| {
        network.layers(&config.network.keys, data::likely_shape(&config.data), &Device::default()).ok()
    });
    // A kernel of a convolution is applied at many positions: about so many, where a pooling layer came before it.
    let positions = |layer: &LayerSummary| if layer.shape.len() == 4 { 200.0 } else { 1.0 };
    let multiplications = |layer: &LayerSummary| layer.parameters as f64 * positions(layer);
    let of_network: f64 = layers.unwrap_or_default().iter().map(multiplications).sum();
    let training = &config.training;
    let all = 60_000;
    let images = training.limit_batches.map_or(all, |batches| batches.saturating_mul(training.batch_size).min(all));
    // A network without a table counts as one multiplication.
    of_network.max(1.0) * images as f64 * training.epochs as f64
}

/// Result of a run, in a few words.
fn outcome(record: &RunRecord) -> String {
    match (&record.test, &record.diverged) {
        (Some(test), _) => {
            let value = |(name, value): (&String, &f64)| format!("{} {value:.4}", name.replace('/', " "));
            test.metrics.0.iter().map(value).collect::<Vec<_>>().join(", ")
        }
        (None, Some(diverged)) => format!("diverged at step {}", diverged.step),
        (None, None) => {
            let status = record.status;
            record.error.as_ref().map_or_else(|| status.to_string(), |error| format!("{status}: {error}"))
        }
    }
}
