use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use kindling_kernels::Kernels;
use kindling_record::{PartRecord, RecordError, RunDirectory, RunStatus, Setup};
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
    if let Some(outcome) = match directory.status(&record) {
        RunStatus::Finished => Some(Outcome::Done),
        // The same steps would lead to the same end.
        RunStatus::Diverged => Some(Outcome::Diverged),
        RunStatus::Running => bail!(RecordError::Busy { path: directory.path().to_path_buf() }),
        RunStatus::Interrupted | RunStatus::Failed => None,
    } {
        notice(format_args!("{} is {}: there is nothing to resume", directory.id(), record.status));
        print_result(&record, &directory, host.json)?;
        return Ok(outcome);
    }
    let config = Settings::from_object(record.config.clone())?.resolve()?;
    let shows_dashboard = dashboard::is_wanted(host.dashboard, host.json)?;
    if record.backend == "remote" && host.place.device.backend.is_none() && host.place.device.remote.is_none() {
        bail!(Misuse(format!(
            "{} was trained on a remote device: name its server with --remote URL, or resume it with --backend flex",
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
    if let Some(change) = part.and_then(|part| change(&part.setup(), &backend.setup())) {
        notice(change);
    }
    signals::install()?;
    // Where the run found its data is the best guess where it still is, if it still is.
    let known = record.dataset.source.map(PathBuf::from).filter(|path| path.exists());
    let data = data::load(&config, host.place.data_dir.clone().or(known).as_deref())?;
    run_and_tell(&directory, host, &backend, shows_dashboard, start, |host| {
        kindling_training::resume(&data, &directory, host)
    })
}

/// Says what a run was trained with and what it is resumed with, where they differ.
fn change(old: &Setup, new: &Setup) -> Option<String> {
    let changed = old.in_words().into_iter().zip(new.in_words()).filter(|(old, new)| old != new);
    let (old, new): (Vec<String>, Vec<String>) = changed.unzip();
    let [old, new] = [old, new].map(|words| words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>());
    let [old, new] = [old.join(", "), new.join(", ")];
    (old != new).then(|| format!("resuming with {new} what was trained with {old}: bits may differ from here on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_resumed_by_other_means_names_those_before_and_those_now() {
        let avx2 = Setup::new("flex", "fused, AVX2", 1, "AVX2");
        assert_eq!(change(&avx2, &avx2.clone()), None);
        let said = |new: &Setup| change(&avx2, new).unwrap();
        assert_eq!(
            said(&Setup::new("flex", "fused, AVX-512", 1, "AVX-512")),
            "resuming with fused AVX-512 kernels what was trained with fused AVX2 kernels: bits may differ from here on"
        );
        let elsewhere = said(&Setup::new("wgpu", "composed", 2, "AVX2"));
        assert!(
            elsewhere
                .contains("with wgpu, composed kernels, 2 devices what was trained with flex, fused AVX2 kernels, 1")
        );
        let composed = Setup::new("flex", "composed", 1, "AVX2");
        let moved = change(&composed, &Setup::new("flex", "composed", 1, "NEON")).unwrap();
        assert!(moved.contains("with NEON what was trained with AVX2:"), "{moved}");
    }
}
