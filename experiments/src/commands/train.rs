use std::time::Instant;

use anyhow::{Context, Result};
use burn::train::Interrupter;
use kindling_kernels::Kernels;
use kindling_record::{RunDirectory, RunRecord, RunStatus};
use kindling_report::summary;
use kindling_training::{Event, Host, TrainingError};

use crate::{
    arguments::{HostArguments, TrainArguments},
    backend::{self, Backend},
    commands::Outcome,
    dashboard, data, log_file, machine,
    output::{notice, print},
    progress::Progress,
    relaunch, signals,
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
    let data = data::load(&config, host.place.data_dir.as_deref())?;
    kindling_training::check(&config, &data, &backend.devices)?;
    let directory = RunDirectory::create(&host.place.runs_dir.path, &name)?;
    run_and_tell(&directory, &host, backend, shows_dashboard, start, |host| {
        kindling_training::train(&config, &data, &directory, host)
    })
}

/// Runs `training` in `directory` with what the arguments ask for, and prints what came of it.
pub(crate) fn run_and_tell(
    directory: &RunDirectory,
    arguments: &HostArguments,
    backend: Backend,
    shows_dashboard: bool,
    start: Instant,
    training: impl FnOnce(Host) -> Result<RunRecord, TrainingError>,
) -> Result<Outcome> {
    log_file::open(&directory.log())?;
    let way_on = backend.way_on(directory);
    let kernels = backend.kernels(Kernels::chosen());
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    if let Some(advice) = &backend.advice {
        notice(advice);
    }
    notice(format_args!("run: {}", directory.path().display()));
    let interrupter = Interrupter::new();
    signals::stop_gently(&interrupter);
    let progress = Progress::new();
    let lines = progress.clone();
    let stop = interrupter.clone();
    let outcome = training(Host {
        devices: backend.devices,
        largest_tensor: backend.largest_tensor,
        compiles_kernels: backend.compiles_kernels,
        backend: backend.name.to_owned(),
        device_name: backend.device_name,
        kernels,
        machine: machine::describe(),
        interrupter,
        renderer: Box::new(
            move |epochs| {
                if shows_dashboard { dashboard::start(stop, epochs) } else { Box::new(progress) }
            },
        ),
        on_event: Box::new(move |event| match event {
            Event::Compiling => lines.start_compiling(),
            Event::Compiled { seconds } => lines.finish_compiling(seconds),
            Event::Epoch { record, epochs } if !shows_dashboard => lines.show_epoch(record, epochs),
            Event::Epoch { .. } => {}
        }),
        program_start: start,
    });
    dashboard::restore_terminal();
    if outcome.is_err() && directory.checkpoints().join("index.json").exists() {
        notice(format_args!(
            "the run's last checkpoint is kept; go on with: {way_on}  (on another backend: --backend flex)"
        ));
    }
    let record = outcome.with_context(|| format!("run {} failed", directory.id()))?;

    print_result(&record, directory, arguments.json)?;
    Ok(match record.status {
        RunStatus::Interrupted => {
            notice(format_args!(
                "interrupted; go on with: {way_on}  (or: kindling resume {})",
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
