use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use kindling_kernels::Kernels;
use kindling_record::{PartRecord, RunDirectory, RunStatus};
use kindling_training::Settings;

use crate::{
    arguments::ResumeArguments,
    commands::{
        Misuse, Outcome,
        train::{print_result, run_and_tell},
    },
    dashboard, data,
    output::notice,
    relaunch, signals,
};

/// `kindling resume`
pub(crate) fn resume(arguments: &ResumeArguments, start: Instant) -> Result<Outcome> {
    let host = &arguments.host;
    let directory = RunDirectory::find(&host.place.runs_dir.path, &arguments.run)?;
    let record = directory.read_record()?;
    if let Some(outcome) = match record.status {
        RunStatus::Finished => Some(Outcome::Done),
        // The same steps would lead to the same end.
        RunStatus::Diverged => Some(Outcome::Diverged),
        RunStatus::Running | RunStatus::Interrupted | RunStatus::Failed => None,
    } {
        notice(format_args!("{} is {}: there is nothing to resume", directory.id(), record.status));
        print_result(&record, &directory, host.json)?;
        return Ok(outcome);
    }
    let config = Settings::from_object(record.config.clone())?.resolve()?;
    let shows_dashboard = dashboard::is_wanted(host.dashboard, host.json)?;
    if record.backend == "remote" && host.place.device.backend.is_none() && host.place.device.remote.is_none() {
        bail!(Misuse(format!(
            "{} was trained on a remote device: name its server with --remote URL, or go on with --backend flex",
            directory.id()
        )));
    }
    let part = record.parts.last();
    let request = host.place.device.request((&record.backend, part.map(|part| part.devices)))?;
    relaunch::with(&request.environment().into_iter().chain(request.as_default()).collect::<Vec<_>>())?;
    let backend = request.open(config.precision)?;
    // The same bits need the same kernels; a part on another backend may have had no choice.
    let is_composed = |part: &&PartRecord| part.backend == backend.name && part.kernels == Kernels::Composed.as_str();
    let kernels = part.filter(is_composed).map(|_| Kernels::Composed);
    host.place.kernels.or(kernels).unwrap_or_default().choose();
    signals::install()?;
    // Where the run found its data is the best guess where it still is, if it still is.
    let known = record.dataset.source.map(PathBuf::from).filter(|path| path.exists());
    let data = data::load(&config, host.place.data_dir.clone().or(known).as_deref())?;
    run_and_tell(&directory, host, backend, shows_dashboard, start, |host| {
        kindling_training::resume(&data, &directory, host)
    })
}
