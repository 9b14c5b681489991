//! Many runs, one after the other: those that are finished are not run again, interrupted ones are resumed.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use burn::train::Interrupter;
use kindling_data::ImageData;
use kindling_kernels::Kernels;
use kindling_record::{RunDirectory, RunRecord, RunStatus, Setup, list_runs};
use kindling_report::{Run, duration, percent};
use kindling_training::{DatasetName, Event, ExperimentConfig, Host, OnEvent, Precision, Settings, Silent, check_data};

use crate::{
    arguments::PlaceArguments,
    backend::{self, Backend, Request},
    data, log_file,
    output::{notice, told},
    progress::SweepBar,
    relaunch, signals, writable,
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
    let mut known = known_runs(plan, &mut bench.data, place)?;
    known.retain(|(config, run)| run.setups() == [bench.request.setup(config.precision)]);
    let pending = plan.iter().filter(|planned| over(&known, &planned.config).is_none()).count();
    if pending < plan.len() {
        notice(format_args!("{} of {} runs are there already", plan.len() - pending, plan.len()));
    }
    if pending > 0 {
        writable::check(&place.runs_dir.path)?;
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
                let error = told(&error);
                bar.say(&format!("{title}: failed: {error}"));
                swept.failures.push((planned.name.clone(), error));
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

/// The runs of `plan` that are over; none is made. They may be from a processor with other instructions than this one's,
/// but all from such with the same.
///
/// To be called before anything is done or said: the program may start itself again.
///
/// # Errors
///
/// Where none of them is there.
pub(crate) fn find(plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    let request = request(place)?;
    let mut data = DataSets { data_dir: place.data_dir.as_deref(), read: Vec::new() };
    let mut known = known_runs(plan, &mut data, place)?;
    if let Some(planned) = plan.first() {
        keep_alike(&mut known, &request.setup(planned.config.precision));
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
        notice(format_args!("{missing} of {} runs are not there", plan.len()));
    }
    Ok(Swept { runs, ..Swept::default() })
}

/// Keeps the runs of one setup like `wanted`: the one that most have; of several, `wanted` itself.
fn keep_alike(known: &mut Vec<(ExperimentConfig, Run)>, wanted: &Setup) {
    let setups: Vec<Vec<Setup>> = known.iter().map(|(_, run)| run.setups()).collect();
    let count = |one: &&Vec<Setup>| (setups.iter().filter(|other| other == one).count(), **one == [wanted.clone()]);
    let alike = setups.iter().filter(|setups| matches!(&setups[..], [one] if one.is_like(wanted)));
    let kept = alike.max_by_key(count).cloned();
    known.retain(|(_, run)| Some(run.setups()) == kept);
    if let Some([kept]) = kept.as_deref().filter(|kept| **kept != [wanted.clone()]) {
        let [_, kernels, _, instructions] = kept.in_words();
        notice(format_args!("these runs are from a processor with other instructions: {kernels} {instructions}"));
    }
}

/// Where the runs are made, or were; the program may start itself again.
pub(crate) fn request(place: &PlaceArguments) -> Result<Request> {
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
    /// Trains `planned` in a new directory, or resumes it in the one where it was begun.
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
        kindling_training::check(config, data, &backend.devices, backend.memory())?;
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
        signals::leave_at_once(None);
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
        Event::Compiling => signals::leave_at_once(None),
        Event::WarmUp { model, images, .. } => progress.show_warm_up(model, images),
        Event::Compiled { .. } => signals::stop_gently(&stop),
        Event::Step { .. } => {}
    });
    backend.host(interrupter, Box::new(|_| Box::new(Silent)), on_event, Instant::now())
}

/// The runs of the plan's configs that were made with the same data, in any setup.
fn known_runs(
    plan: &[Planned],
    data: &mut DataSets<'_>,
    place: &PlaceArguments,
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
        if !plan.iter().any(|planned| planned.config == config) {
            continue;
        }
        // Which directory such a set is in does not stand in the config.
        let is_same = |data: &ImageData| check_data(&record, data).is_ok();
        if config.dataset == DatasetName::Idx && !data.get(&config).is_ok_and(is_same) {
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
        layer.parameters as f64 * positions.max(1) as f64
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn runs_of_a_report_alone_may_be_from_another_processor_and_all_from_the_same() {
        let place = tempfile::tempdir().unwrap();
        let settings = Settings { model: Some(kindling_models::ModelName::Mlp), ..Settings::default() };
        let config = settings.resolve().unwrap();
        let by = |id: &str, parts: &[(&str, &str)]| {
            let parts: Vec<_> =
                parts.iter().map(|(kernels, instructions)| fixtures::part("flex", kernels, instructions)).collect();
            (config.clone(), fixtures::run(place.path(), id, &json!({ "parts": parts })))
        };
        let (old, new, composed) = (("fused, AVX2", "AVX2"), ("fused, AVX-512", "AVX-512"), ("composed", "AVX2"));
        let runs = [by("a", &[old]), by("b", &[new]), by("c", &[old]), by("d", &[composed]), by("e", &[old, new])];
        let kept = |runs: &[(ExperimentConfig, Run)], (kernels, instructions): (&str, &str)| {
            let mut known = runs.to_vec();
            keep_alike(&mut known, &Setup::new("flex", kernels, 1, instructions));
            known.into_iter().map(|(_, run)| run.record.id).collect::<Vec<_>>()
        };
        assert_eq!(kept(&runs, new), ["a", "c"]);
        assert_eq!(kept(&runs[..2], new), ["b"]);
        assert_eq!(kept(&runs, composed), ["d"]);
        assert!(kept(&runs[3..], old).is_empty());
    }
}
