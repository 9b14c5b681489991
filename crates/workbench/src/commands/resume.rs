use anyhow::{Result, bail};
use clap::Args;
use kindling_config::Partial;
use kindling_kernels::Kernels;
use kindling_record::{PartRecord, RecordError, RunDirectory, RunStatus, Setup};

use crate::{
    Workbench,
    arguments::HostArguments,
    commands::train::{print_result, run_and_tell},
    dashboard, data,
    outcome::{Misuse, Outcome},
    output::notice,
    relaunch, signals,
};

/// Arguments of `resume`.
#[derive(Args)]
pub(crate) struct ResumeArguments {
    /// The run: its id, a prefix that no other run has, or its path
    run: String,
    /// Train up to this epoch, a finished run too; the schedule has to allow it [default: the run's]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    #[command(flatten)]
    host: HostArguments,
}

/// The command `resume`.
pub(crate) fn resume(workbench: &Workbench, arguments: &ResumeArguments) -> Result<Outcome> {
    let host = &arguments.host;
    let directory = RunDirectory::find(&host.place.runs_dir.path, &arguments.run)?;
    let record = directory.read_record()?;
    if let Some(outcome) = match directory.status(&record) {
        RunStatus::Finished if arguments.epochs.is_none() => Some(Outcome::Done),
        // The same steps would lead to the same end.
        RunStatus::Diverged => Some(Outcome::Diverged),
        RunStatus::Running => {
            bail!(RecordError::Busy { path: directory.path().to_path_buf(), holder: directory.holder() })
        }
        RunStatus::Imported => bail!(Misuse(format!(
            "{id} was imported: there is nothing to resume; train another run from its weights with: {program} train \
             --config {path}/run.json --weights {path}",
            id = directory.id(),
            program = workbench.program(),
            path = directory.path().display(),
        ))),
        RunStatus::Finished | RunStatus::Interrupted | RunStatus::Failed => None,
    } {
        let (said, way) = match outcome {
            Outcome::Done => ("is finished", "; --epochs N trains it further"),
            _ => ("has diverged", ""),
        };
        notice(format_args!("{} {}; there is nothing to resume{way}", directory.id(), said));
        print_result(&record, &directory, host.json)?;
        return Ok(outcome);
    }
    let mut config = workbench.resolve(Partial::from_object(record.config.clone())?)?;
    config.training.epochs = arguments.epochs.unwrap_or(config.training.epochs);
    let network = workbench.network_of(&config.network)?;
    let shows_dashboard = dashboard::is_wanted(host.dashboard, host.json)?;
    if record.backend == "remote" && host.place.device.backend.is_none() && host.place.device.remote.is_empty() {
        bail!(Misuse(format!(
            "{} was trained on a remote device: name its server, or several, with --remote URL,URL, or resume it with --backend flex",
            directory.id()
        )));
    }
    let part = record.parts.last();
    let request = host.place.device.request((&record.backend, part.map(|part| part.devices)))?;
    relaunch::with(&request.environment().into_iter().chain(request.as_default()).collect::<Vec<_>>())?;
    let backend = request.open(config.training.precision)?;
    // The same bits need the same kernels; a part on another backend may have had no choice.
    let is_composed = |part: &&PartRecord| part.backend == backend.name && part.kernels == Kernels::Composed.as_str();
    let kernels = part.filter(is_composed).map(|_| Kernels::Composed);
    host.place.kernels.or(kernels).unwrap_or_default().choose();
    if let Some(change) = part.and_then(|part| change(&part.setup(), &backend.setup())) {
        notice(change);
    }
    signals::install()?;
    host.tensorboard.check()?;
    let data = data::load_again(workbench, &config.data, host.place.data_dir.as_deref(), &record.dataset)?;
    run_and_tell(workbench, &directory, host, &backend, shows_dashboard, |host| {
        network.resume(&config, &data, &directory, host)
    })
}

/// Describes what a run was trained with and what it is resumed with, where they differ.
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
