//! Many runs, one after the other: those that are finished are not run again, interrupted ones are resumed.

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use burn::{tensor::Device, train::Interrupter};
use kindling_classification::check_data;
use kindling_config::{Config, Partial, Precision};
use kindling_kernels::Kernels;
use kindling_models::LayerSummary;
use kindling_record::{RunDirectory, RunRecord, RunStatus, Setup, list_runs};
use kindling_report::{Run, duration};
use kindling_training::{Event, Host, OnEvent, Silent, weights};

use crate::{
    Workbench,
    arguments::PlaceArguments,
    backend::{self, Backend, Request},
    commands::train::{frozen_line, weights_lines, with_weights},
    data::{self, DataSets},
    log_file,
    outcome::Outcome,
    output::{notice, told},
    progress::SweepBar,
    relaunch, signals, writable,
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
    request: Request,
    backends: Vec<(Precision, Backend)>,
    data: DataSets<'a>,
}

/// Trains the runs that are not there yet. One that fails or diverges does not stop the others.
///
/// Call it before anything else is done or printed: the program may start itself again.
pub fn sweep(workbench: &Workbench, plan: &[Planned], place: &PlaceArguments) -> Result<Swept> {
    let request = request(place)?;
    signals::install()?;
    let plan = &with_weights_of_runs(plan, place)?;
    let data = DataSets::new(workbench, place.data_dir.as_deref());
    let mut bench = Bench { workbench, place, request, backends: Vec::new(), data };
    let mut known = known_runs(plan, &mut bench.data, place)?;
    known.retain(|(config, run)| run.setups() == [bench.request.setup(config.training.precision)]);
    let pending = plan.iter().filter(|planned| over(&known, &planned.config).is_none()).count();
    if pending < plan.len() {
        notice(format_args!("{} of {} runs are already finished", plan.len() - pending, plan.len()));
    }
    if pending > 0 {
        writable::check(&place.runs_dir.path)?;
    }
    let costs: Vec<f64> = plan.iter().map(|planned| cost(workbench, &planned.config)).collect();
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
        let progress = bar.run(&title, costs[index], planned.config.training.epochs);
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

/// Returns the runs of `plan` that are over and trains none. They may come from a processor with other instructions than
/// this one's, but all from one with the same.
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
    let mut known = known_runs(plan, &mut data, place)?;
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

/// The plan with the files of weights where its configs name runs that they are to come from.
fn with_weights_of_runs(plan: &[Planned], place: &PlaceArguments) -> Result<Vec<Planned>> {
    let resolved = plan
        .iter()
        .cloned()
        .map(|Planned { name, config }| Ok(Planned { name, config: with_weights(config, &place.runs_dir.path)? }));
    resolved.collect()
}

/// Keeps the runs of one setup like `wanted`: the most frequent one; of several, `wanted` itself.
fn keep_alike(known: &mut Vec<(Config, Run)>, wanted: &Setup) {
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

/// The backend that the arguments ask for; the program may start itself again.
pub(crate) fn request(place: &PlaceArguments) -> Result<Request> {
    let request = place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment().into_iter().chain(request.as_default()).collect::<Vec<_>>())?;
    place.kernels.unwrap_or_default().choose();
    Ok(request)
}

/// The run of this config that is over.
fn over<'a>(known: &'a [(Config, Run)], config: &Config) -> Option<&'a Run> {
    known.iter().find(|(other, run)| other == config && run.is_over()).map(|(_, run)| run)
}

impl Bench<'_> {
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
        let outcome = if is_new {
            network.train(config, data, &directory, host)
        } else {
            network.resume(config, data, &directory, host)
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
        Event::InitialWeights(record) => progress.say(&weights_lines(record).join("\n")),
        Event::Frozen { layers, parameters } => progress.say(&frozen_line(layers, parameters)),
        Event::Compiling => signals::leave_at_once(None),
        Event::WarmUp { model, samples, .. } => progress.show_warm_up(model, samples),
        Event::Compiled { .. } => signals::stop_gently(&stop),
        Event::Step { .. } => {}
    });
    backend.host(interrupter, Box::new(|_| Box::new(Silent)), on_event, Instant::now())
}

/// The runs of the plan's configs that were made with the same data and from the same weights, in any setup.
fn known_runs(plan: &[Planned], data: &mut DataSets<'_>, place: &PlaceArguments) -> Result<Vec<(Config, Run)>> {
    let registry = data.workbench().registry();
    let mut known = Vec::new();
    // Of weights to start from, the config has the path alone.
    let mut digests = BTreeMap::<String, String>::new();
    for path in plan.iter().filter_map(|planned| planned.config.training.weights.as_ref()) {
        if !digests.contains_key(path) {
            digests.insert(path.clone(), weights::digest(Path::new(path))?);
        }
    }
    for (directory, record) in list_runs(&place.runs_dir.path)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                notice(error);
                continue;
            }
        };
        // One of another version, or of another program's networks, is none that could be asked for.
        let read = Partial::from_object(record.config.clone()).and_then(|partial| partial.resolve(&registry));
        let Ok(config) = read else { continue };
        if !plan.iter().any(|planned| planned.config == config) {
            continue;
        }
        let found = record.initial_weights.as_ref().map(|weights| &weights.sha256);
        if config.training.weights.as_ref().and_then(|path| digests.get(path)) != found {
            continue;
        }
        // Which directory a set is read from does not stand in the config; these are the same in any.
        let is_fixed = matches!(config.data.name.as_str(), "fashion-mnist" | "synthetic");
        if !is_fixed && !data.get(&config.data).is_ok_and(|data| check_data(&record, data).is_ok()) {
            continue;
        }
        let status = directory.status(&record);
        known.push((config, Run { directory, record, status }));
    }
    Ok(known)
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
        (None, None) => record.status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        arguments::{DeviceArguments, RunsDirectory},
        fixtures,
    };

    #[test]
    fn runs_from_weights_that_were_overwritten_are_none_of_the_plans() {
        let runs = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("best.pt");
        std::fs::write(&path, "old weights").unwrap();
        let mut config = fixtures::config("mlp", 1);
        config["training"]["weights"] = path.to_str().unwrap().into();
        let sha256 = weights::digest(&path).unwrap();
        let initial = json!({ "source": path, "sha256": sha256, "taken": 6, "fresh": [], "unused": [] });
        fixtures::run(runs.path(), "with", &json!({ "config": config, "initial_weights": initial }));
        fixtures::run(runs.path(), "unknown", &json!({ "config": config }));
        fixtures::run(runs.path(), "without", &json!({}));

        let workbench = Workbench::new("kindling");
        let planned = |config: &serde_json::Value| {
            let partial = Partial::from_object(config.as_object().cloned().unwrap()).unwrap();
            Planned { name: "mlp".to_owned(), config: workbench.resolve(partial).unwrap() }
        };
        let plan = [planned(&config), planned(&fixtures::config("mlp", 1))];
        let place = PlaceArguments {
            device: DeviceArguments { backend: None, devices: None, remote: None },
            kernels: None,
            data_dir: None,
            runs_dir: RunsDirectory { path: runs.path().to_path_buf() },
        };
        let known = || {
            let found = known_runs(&plan, &mut DataSets::new(&workbench, None), &place).unwrap();
            let mut ids: Vec<_> = found.into_iter().map(|(_, run)| run.record.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(known(), ["with", "without"]);
        std::fs::write(&path, "new weights").unwrap();
        assert_eq!(known(), ["without"]);
    }

    #[test]
    fn runs_of_a_report_alone_may_be_from_another_processor_and_all_from_the_same() {
        let place = tempfile::tempdir().unwrap();
        let mut partial = Partial::default();
        partial.set("network.name", "mlp".into());
        let config = partial.resolve(&Workbench::new("kindling").registry()).unwrap();
        let by = |id: &str, parts: &[(&str, &str)]| {
            let parts: Vec<_> =
                parts.iter().map(|(kernels, instructions)| fixtures::part("flex", kernels, instructions)).collect();
            (config.clone(), fixtures::run(place.path(), id, &json!({ "parts": parts })))
        };
        let (old, new, composed) = (("fused, AVX2", "AVX2"), ("fused, AVX-512", "AVX-512"), ("composed", "AVX2"));
        let runs = [by("a", &[old]), by("b", &[new]), by("c", &[old]), by("d", &[composed]), by("e", &[old, new])];
        let kept = |runs: &[(Config, Run)], (kernels, instructions): (&str, &str)| {
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
