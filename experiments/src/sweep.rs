//! Many runs, one after the other: those that are finished are not run again, interrupted ones go on where they were.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use burn::train::Interrupter;
use kindling_data::ImageData;
use kindling_kernels::Kernels;
use kindling_record::{RunDirectory, RunRecord, RunStatus, list_runs};
use kindling_report::{Run, duration, percent};
use kindling_training::{DatasetName, Event, ExperimentConfig, Host, Precision, Settings, check_data};

use crate::{
    arguments::PlaceArguments,
    backend::{self, Backend, Request},
    data, log_file, machine,
    output::notice,
    progress::{Progress, SweepBar},
    relaunch, signals,
};

/// A run to make, or to find.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// What a new run is named.
    pub(crate) name: String,
    pub(crate) config: ExperimentConfig,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// The run of each planned one, in their order; none where it failed before it had a record, or was not come to.
    pub(crate) runs: Vec<Option<Run>>,
    /// What went wrong with which.
    pub(crate) failures: Vec<(String, String)>,
    /// Whether its user ended it.
    pub(crate) interrupted: bool,
}

/// The places that a sweep's runs take, opened when the first of them needs it.
struct Bench<'a> {
    place: &'a PlaceArguments,
    request: Request,
    backends: Vec<(Precision, Backend)>,
    data: DataSets<'a>,
}

/// Sets of images, each read when it is first needed.
struct DataSets<'a> {
    data_dir: Option<&'a Path>,
    read: Vec<((DatasetName, bool), ImageData)>,
}

impl DataSets<'_> {
    fn get(&mut self, config: &ExperimentConfig) -> Result<&ImageData> {
        let key = (config.dataset, config.transpose);
        let known = self.read.iter().position(|(known, _)| *known == key);
        let index = known.unwrap_or(self.read.len());
        if known.is_none() {
            self.read.push((key, data::load(config, self.data_dir)?));
        }
        Ok(&self.read[index].1)
    }
}

/// Makes the runs that are not there yet. One that fails or diverges does not stop the others.
///
/// To be called before anything is done or said: the program may start itself again.
pub(crate) fn sweep(plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    let request = request(place)?;
    signals::install()?;
    let data = DataSets { data_dir: place.data_dir.as_deref(), read: Vec::new() };
    let mut bench = Bench { place, request, backends: Vec::new(), data };
    let mut known = known_runs(plan, &mut bench.data, place, bench.request.name)?;
    let pending = plan.iter().filter(|planned| over(&known, &planned.config).is_none()).count();
    if pending < plan.len() {
        notice(format_args!("{} of {} runs are there already", plan.len() - pending, plan.len()));
    }
    let costs: Vec<f64> = plan.iter().map(|planned| cost(&planned.config)).collect();
    let waiting = plan.iter().zip(&costs).filter(|(planned, _)| over(&known, &planned.config).is_none());
    let bar = SweepBar::new(waiting.map(|(_, cost)| cost).sum());
    let mut swept = Swept::default();
    for (index, planned) in plan.iter().enumerate() {
        let title = format!("run {} of {}: {}", index + 1, plan.len(), planned.name);
        if let Some(run) = over(&known, &planned.config) {
            swept.runs.push(Some(run.clone()));
            continue;
        }
        let found = known.iter().find(|(config, _)| *config == planned.config).map(|(_, run)| run.directory.clone());
        let clock = Instant::now();
        let progress = bar.run(&title, costs[index], planned.config.epochs);
        let trained = bench.train(planned, found, &progress);
        progress.finish_run();
        match trained {
            Ok(run) => {
                swept.interrupted = run.status == RunStatus::Interrupted;
                bar.say(&format!("{title}: {} in {}", outcome(&run.record), duration(clock.elapsed().as_secs_f64())));
                known.push((planned.config.clone(), run.clone()));
                swept.runs.push(Some(run));
            }
            Err(error) => {
                bar.say(&format!("{title}: failed: {error:#}"));
                swept.failures.push((planned.name.clone(), format!("{error:#}")));
                swept.runs.push(None);
            }
        }
        if swept.interrupted {
            break;
        }
    }
    swept.runs.resize(plan.len(), None);
    bar.end();
    Ok(swept)
}

/// The runs of `plan` that are over; none is made.
///
/// To be called before anything is done or said: the program may start itself again.
///
/// # Errors
///
/// Where none of them is there.
pub(crate) fn find(plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    let request = request(place)?;
    let mut data = DataSets { data_dir: place.data_dir.as_deref(), read: Vec::new() };
    let known = known_runs(plan, &mut data, place, request.name)?;
    let runs: Vec<Option<Run>> = plan.iter().map(|planned| over(&known, &planned.config).cloned()).collect();
    let missing = runs.iter().filter(|run| run.is_none()).count();
    if missing == plan.len() {
        bail!(
            "expected some of these {missing} runs in {}, on the backend {}, found none that is over: run the command \
             without --report-only to make them",
            place.runs_dir.path.display(),
            request.name
        );
    }
    if missing > 0 {
        notice(format_args!("{missing} of {} runs are not there", plan.len()));
    }
    Ok(Swept { runs, ..Swept::default() })
}

/// Where the runs are made, or were; the program may start itself again.
fn request(place: &PlaceArguments) -> Result<Request> {
    let request = place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment().into_iter().chain(request.as_default()).collect::<Vec<_>>())?;
    place.kernels.unwrap_or_default().choose();
    Ok(request)
}

/// The run of this config that is over.
fn over<'a>(known: &'a [(ExperimentConfig, Run)], config: &ExperimentConfig) -> Option<&'a Run> {
    known.iter().find(|(other, run)| other == config && run.is_over()).map(|(_, run)| run)
}

impl Bench<'_> {
    /// Trains `planned` in a new directory, or goes on in the one where it was begun.
    fn train(&mut self, planned: &Planned, found: Option<RunDirectory>, progress: &SweepBar) -> Result<Run> {
        let config = &planned.config;
        let data = self.data.get(config)?;
        if !self.backends.iter().any(|(precision, _)| *precision == config.precision) {
            let backend = self.request.open(config.precision)?;
            notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
            if let Some(advice) = &backend.advice {
                notice(advice);
            }
            self.backends.push((config.precision, backend));
        }
        let backend = self.backends.iter().find(|(precision, _)| *precision == config.precision);
        let (_, backend) = backend.context("what was just opened is gone")?;
        kindling_training::check(config, data, &backend.devices)?;
        let is_new = found.is_none();
        let directory = match found {
            Some(directory) => directory,
            None => RunDirectory::create(&self.place.runs_dir.path, &planned.name)?,
        };
        log_file::open(&directory.log())?;
        let interrupter = Interrupter::new();
        signals::stop_gently(&interrupter);
        let host = host(backend, interrupter, progress.clone());
        let outcome = if is_new {
            kindling_training::train(config, data, &directory, host)
        } else {
            kindling_training::resume(data, &directory, host)
        };
        signals::leave_at_once();
        outcome.with_context(|| format!("run {}", directory.id()))?;
        Ok(Run::read(directory)?)
    }
}

fn host(backend: &Backend, interrupter: Interrupter, progress: SweepBar) -> Host {
    Host {
        devices: backend.devices.clone(),
        largest_tensor: backend.largest_tensor,
        compiles_kernels: backend.compiles_kernels,
        backend: backend.name.to_owned(),
        device_name: backend.device_name.clone(),
        kernels: backend.kernels(Kernels::chosen()),
        machine: machine::describe(),
        interrupter,
        renderer: Box::new(|_| Box::new(Progress::hidden())),
        on_event: Box::new(move |event| {
            if let Event::Epoch { record, .. } = event {
                progress.show_epoch(record);
            }
        }),
        program_start: Instant::now(),
    }
}

/// The runs of the plan's configs that were made on this backend with the same data.
fn known_runs(
    plan: &[Planned],
    data: &mut DataSets<'_>,
    place: &PlaceArguments,
    backend: &str,
) -> Result<Vec<(ExperimentConfig, Run)>> {
    let mut known = Vec::new();
    for (directory, record) in list_runs(&place.runs_dir.path)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                notice(error);
                continue;
            }
        };
        // A config of another version is none that could be asked for.
        let Ok(config) = Settings::from_object(record.config.clone()).and_then(Settings::resolve) else { continue };
        if record.backend != backend || !plan.iter().any(|planned| planned.config == config) {
            continue;
        }
        // Which directory such a set is in does not stand in the config.
        if config.dataset == DatasetName::Idx && check_data(&record, data.get(&config)?).is_err() {
            continue;
        }
        let status = directory.status(&record);
        known.push((config, Run { directory, record, status }));
    }
    Ok(known)
}

/// How much work a run is, in any unit: multiplications of an image's way through the network, times epochs.
fn cost(config: &ExperimentConfig) -> f64 {
    let layers = config.network().ok().and_then(|network| network.layers(kindling_models::ImageShape::MNIST).ok());
    let multiplications = |layer: &kindling_models::LayerSummary| {
        let positions: usize = layer.output.iter().skip(1).product();
        (layer.parameters * positions.max(1)) as f64
    };
    let of_network: f64 = layers.unwrap_or_default().iter().map(multiplications).sum();
    let images = config.limit_batches.map_or(60_000, |batches| batches.saturating_mul(config.batch_size).min(60_000));
    of_network * images as f64 * config.epochs as f64
}

/// What a run came to, in a few words.
fn outcome(record: &RunRecord) -> String {
    match (&record.test, &record.diverged) {
        (Some(test), _) => format!("test accuracy {}", percent(test.accuracy)),
        (None, Some(diverged)) => format!("diverged at step {}", diverged.step),
        (None, None) => record.status.to_string(),
    }
}
