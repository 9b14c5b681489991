use std::path::Path;

use anyhow::{Error, Result, bail};
use burn::train::Interrupter;
use clap::Args;
use kindling_classification::ClassificationError;
use kindling_config::Config;
use kindling_record::{InitialWeightsRecord, RecordError, RunDirectory, RunRecord, RunStatus};
use kindling_report::{grouped, summary};
use kindling_training::{Event, Host, MakeRenderer, OnEvent, Place, TrainingError};

use crate::{
    Workbench,
    arguments::{ConfigArguments, HostArguments},
    backend::{self, Backend},
    dashboard, data, log_file,
    outcome::{Misuse, Outcome},
    output::{notice, print},
    progress::Progress,
    relaunch, signals, writable,
};

/// Arguments of `train`.
#[derive(Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    host: HostArguments,
    /// Name of the run: its id is NAME and the time [default: the model]
    #[arg(long)]
    name: Option<String>,
}

/// The command `train`.
pub(crate) fn train(workbench: &Workbench, arguments: &TrainArguments) -> Result<Outcome> {
    let host = &arguments.host;
    let request = host.place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment())?;
    let config = with_weights(arguments.config.resolve(workbench)?, &host.place.runs_dir.path)?;
    let network = workbench.network_of(&config.network)?;
    let name = arguments.name.as_deref().unwrap_or(&config.network.name);
    RunDirectory::check_name(name)?;
    let shows_dashboard = dashboard::is_wanted(host.dashboard, host.json)?;
    let backend = request.open(config.training.precision)?;
    host.place.kernels.unwrap_or_default().choose();
    signals::install()?;
    writable::check(&host.place.runs_dir.path)?;
    host.tensorboard.check()?;
    let data = data::load(workbench, &config.data, host.place.data_dir.as_deref())?;
    network.check(&config, &data, &Place { graph: host.graph, ..backend.place() })?;
    let directory = RunDirectory::create(&host.place.runs_dir.path, name)?;
    run_and_tell(workbench, &directory, host, &backend, shows_dashboard, |host| {
        network.train(&config, &data, &directory, host)
    })
}

/// Runs `training` in `directory` with what the arguments ask for, and prints the result.
pub(crate) fn run_and_tell(
    workbench: &Workbench,
    directory: &RunDirectory,
    arguments: &HostArguments,
    backend: &Backend,
    shows_dashboard: bool,
    training: impl FnOnce(Host) -> Result<RunRecord, ClassificationError>,
) -> Result<Outcome> {
    log_file::open(&directory.log())?;
    let resume = backend.resume_command(workbench.program(), directory);
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    if let Some(advice) = &backend.advice {
        notice(advice);
    }
    notice(format_args!("run: {}", directory.path().display()));
    let interrupter = Interrupter::new();
    signals::stop_gently(&interrupter);
    let progress = Progress::new();
    let (lines, stop, left) = (progress.clone(), interrupter.clone(), format!("interrupted; resume with: {resume}"));
    let renderer: MakeRenderer = {
        let interrupter = interrupter.clone();
        Box::new(move |epochs| if shows_dashboard { dashboard::start(interrupter, epochs) } else { Box::new(progress) })
    };
    let on_event: OnEvent = Box::new(move |event| match event {
        Event::DamagedCheckpoint { path, message, instead } => {
            notice(format_args!("{}: {message}; resuming from {}", path.display(), instead.display()));
        }
        Event::InitialWeights(record) => weights_lines(record).iter().for_each(notice),
        Event::Frozen { layers, parameters } => notice(frozen_line(layers, parameters)),
        Event::Compiling => {
            // A kernel that is being compiled cannot be stopped, and no step is lost.
            signals::leave_at_once(Some(left.clone()));
            lines.start_compiling();
        }
        Event::WarmUp { model, samples, training } => lines.warm_up(model, samples, training),
        Event::Compiled { seconds } => {
            signals::stop_gently(&stop);
            lines.finish_compiling(seconds);
        }
        Event::Epoch { record, epochs } if !shows_dashboard => lines.show_epoch(record, epochs),
        Event::Step { .. } | Event::Epoch { .. } => {}
    });
    let mut host = backend.host(interrupter, renderer, on_event, workbench.start());
    host.place.graph = arguments.graph;
    let following = arguments.tensorboard.follow(directory);
    let outcome = training(host);
    dashboard::restore_terminal();
    drop(following);
    let is_kept = directory.checkpoints().join("index.json").exists();
    if outcome.as_ref().is_err_and(|error| !is_lost(error)) && is_kept {
        notice(format_args!(
            "the run's last checkpoint is kept; resume with: {resume}{}",
            if backend.name == "flex" { "" } else { "  (on another backend: --backend flex)" }
        ));
    }
    let record = outcome.map_err(|error| {
        // What cannot be done as it was asked for is no failure of the run.
        let failed = if is_lost(&error) { "" } else { " failed" };
        Error::from(error).context(format!("run {}{failed}", directory.id()))
    })?;

    print_result(&record, directory, arguments.json)?;
    Ok(match record.status {
        RunStatus::Interrupted => {
            if let Some(lost) = &record.error {
                notice(lost);
            }
            let without = if record.error.is_some() && backend.served.len() > 1 {
                "  (without a server: leave it out of --remote)"
            } else {
                ""
            };
            notice(format_args!("interrupted; resume with: {resume}{without}"));
            Outcome::Interrupted
        }
        RunStatus::Diverged => Outcome::Diverged,
        _ => Outcome::Done,
    })
}

/// The config, with the file of its weights where it names a run that they are to come from.
///
/// # Errors
/// When its weights are neither a file nor those of a run in `runs_dir`.
pub(crate) fn with_weights(mut config: Config, runs_dir: &Path) -> Result<Config> {
    let Some(named) = &config.training.weights else { return Ok(config) };
    if Path::new(named).is_file() {
        return Ok(config);
    }
    let weights = match RunDirectory::find(runs_dir, named) {
        Ok(run) => run.weights(),
        Err(error) => bail!(Misuse(format!("--weights {named}: expected a file of weights or a run; {error}"))),
    };
    if !weights.is_file() {
        bail!(Misuse(format!("--weights {named}: the run has no weights yet: there is no {}", weights.display())));
    }
    config.training.weights = Some(weights.display().to_string());
    Ok(config)
}

/// What a run takes over from other weights, and what it does not.
pub(crate) fn weights_lines(record: &InitialWeightsRecord) -> Vec<String> {
    let InitialWeightsRecord { source, taken, fresh, unused, .. } = record;
    let mut lines = vec![format!("weights: {taken} of {} tensors from {source}", taken + fresh.len())];
    for (what, names) in [("drawn from the seed", fresh), ("in the file and not used", unused)] {
        if !names.is_empty() {
            lines.push(format!("  {what}: {}", names.join(", ")));
        }
    }
    lines
}

/// What a run leaves as it is.
pub(crate) fn frozen_line(layers: &[String], parameters: usize) -> String {
    format!("frozen: {} ({} parameters)", layers.join(", "), grouped(parameters))
}

/// Whether what was asked for cannot be done: resuming would end with the same error.
fn is_lost(error: &ClassificationError) -> bool {
    match error {
        ClassificationError::Config(_) => true,
        ClassificationError::Training(error) => matches!(
            error,
            TrainingError::NoCheckpoint { .. }
                | TrainingError::OtherData { .. }
                | TrainingError::CannotFit { .. }
                | TrainingError::CannotExtend { .. }
                | TrainingError::Mismatch { .. }
                | TrainingError::FrozenFresh { .. }
                | TrainingError::Setting { .. }
                | TrainingError::Record(RecordError::Lost { .. })
        ),
        _ => false,
    }
}

/// Prints the result of a run: its record as JSON, or a summary and its directory.
pub(crate) fn print_result(record: &RunRecord, directory: &RunDirectory, json: bool) -> Result<()> {
    if json {
        print(serde_json::to_string_pretty(record)?);
    } else {
        print(summary(record));
        print(directory.path().display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kindling_config::Partial;
    use serde_json::json;

    use super::*;
    use crate::{fixtures, output::told};

    #[test]
    fn weights_of_a_run_are_those_in_its_directory_and_a_file_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let run = fixtures::run(place.path(), "mlp-20260102-030405", &json!({})).directory;
        let weights = |named: &str| {
            let mut partial = Partial::default();
            partial.set("network.name", "mlp".into());
            partial.set("training.weights", named.into());
            let config = Workbench::new("kindling").resolve(partial).unwrap();
            with_weights(config, place.path()).map(|config| config.training.weights.unwrap())
        };
        let refused = told(&weights("mlp-2026").unwrap_err());
        assert!(refused.starts_with("--weights mlp-2026: the run has no weights yet"), "{refused}");
        fs::write(run.weights(), "weights").unwrap();
        let path = run.weights().display().to_string();
        for named in ["mlp-2026", run.path().to_str().unwrap(), &path] {
            assert_eq!(weights(named).unwrap(), path, "{named}");
        }
        let refused = weights("resnet.pt").unwrap_err();
        assert!(refused.is::<Misuse>() && told(&refused).contains("expected a file of weights or a run"), "{refused}");
    }

    #[test]
    fn what_comes_from_other_weights_and_what_does_not_is_told() {
        let mut record = InitialWeightsRecord { source: "old.pt".to_owned(), taken: 4, ..Default::default() };
        assert_eq!(weights_lines(&record), ["weights: 4 of 4 tensors from old.pt"]);
        record.fresh = vec!["fc2.weight".to_owned(), "fc2.bias".to_owned()];
        record.unused = vec!["head.weight".to_owned()];
        let expected = [
            "weights: 4 of 6 tensors from old.pt",
            "  drawn from the seed: fc2.weight, fc2.bias",
            "  in the file and not used: head.weight",
        ];
        assert_eq!(weights_lines(&record), expected);
    }
}
