use std::time::Instant;

use anyhow::{Context, Result};
use burn::train::Interrupter;
use kindling_record::{RunDirectory, RunRecord, RunStatus};
use kindling_report::summary;
use kindling_training::{Event, Host, MakeRenderer, OnEvent, TrainingError};

use crate::{
    arguments::{HostArguments, TrainArguments},
    backend::{self, Backend},
    commands::Outcome,
    dashboard, data, log_file,
    output::{notice, print},
    progress::Progress,
    relaunch, signals, writable,
};

/// `kindling train`
pub(crate) fn train(arguments: TrainArguments, start: Instant) -> Result<Outcome> {
    let request = arguments.host.place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment())?;
    let config = arguments.config.settings()?.resolve()?;
    let host = arguments.host;
    let name = arguments.name.unwrap_or_else(|| config.model.to_string());
    RunDirectory::check_name(&name)?;
    let shows_dashboard = dashboard::is_wanted(host.dashboard, host.json)?;
    let backend = request.open(config.precision)?;
    host.place.kernels.unwrap_or_default().choose();
    signals::install()?;
    writable::check(&host.place.runs_dir.path)?;
    let data = data::load(&config, host.place.data_dir.as_deref())?;
    kindling_training::check(&config, &data, &backend.devices, backend.memory())?;
    let directory = RunDirectory::create(&host.place.runs_dir.path, &name)?;
    run_and_tell(&directory, &host, &backend, shows_dashboard, start, |host| {
        kindling_training::train(&config, &data, &directory, host)
    })
}

/// Runs `training` in `directory` with what the arguments ask for, and prints what came of it.
pub(crate) fn run_and_tell(
    directory: &RunDirectory,
    arguments: &HostArguments,
    backend: &Backend,
    shows_dashboard: bool,
    start: Instant,
    training: impl FnOnce(Host) -> Result<RunRecord, TrainingError>,
) -> Result<Outcome> {
    log_file::open(&directory.log())?;
    let resume = backend.resume_command(directory);
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
        Event::Compiling => {
            // A kernel that is being compiled cannot be stopped, and no step is lost.
            signals::leave_at_once(Some(left.clone()));
            lines.start_compiling();
        }
        Event::WarmUp { model, images, training } => lines.warm_up(model, images, training),
        Event::Compiled { seconds } => {
            signals::stop_gently(&stop);
            lines.finish_compiling(seconds);
        }
        Event::Epoch { record, epochs } if !shows_dashboard => lines.show_epoch(record, epochs),
        Event::Step { .. } | Event::Epoch { .. } => {}
    });
    let outcome = training(backend.host(interrupter, renderer, on_event, start));
    dashboard::restore_terminal();
    let is_lost = matches!(
        outcome,
        Err(TrainingError::NoCheckpoint { .. }
            | TrainingError::OtherData { .. }
            | TrainingError::CannotFit { .. }
            | TrainingError::Config(_))
    );
    if outcome.is_err() && !is_lost && directory.checkpoints().join("index.json").exists() {
        notice(format_args!(
            "the run's last checkpoint is kept; resume with: {resume}{}",
            if backend.name == "flex" { "" } else { "  (on another backend: --backend flex)" }
        ));
    }
    let record = outcome.with_context(|| format!("run {} failed", directory.id()))?;

    print_result(&record, directory, arguments.json)?;
    Ok(match record.status {
        RunStatus::Interrupted => {
            notice(format_args!(
                "interrupted; resume with: {resume}  (or: cargo run --release -- resume {})",
                directory.path().display()
            ));
            Outcome::Interrupted
        }
        RunStatus::Diverged => Outcome::Diverged,
        _ => Outcome::Done,
    })
}

/// Prints what a run came to: its record, or a summary and its directory.
pub(crate) fn print_result(record: &RunRecord, directory: &RunDirectory, json: bool) -> Result<()> {
    if json {
        print(serde_json::to_string_pretty(record)?);
    } else {
        print(summary(record));
        print(directory.path().display());
    }
    Ok(())
}
