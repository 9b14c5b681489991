//! Runs whose weights are used.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kindling_classification::{AnyNetwork, Predictor, Views};
use kindling_config::{Config, Partial, Precision};
use kindling_data::ImageData;
use kindling_record::{RunDirectory, RunRecord, RunStatus};

use crate::{
    Workbench,
    backend::{Backend, Request},
    data,
    outcome::Misuse,
    output::{notice, program},
};

/// A finished or imported run, whose weights can be used.
pub(crate) struct Trained<'a> {
    pub(crate) directory: &'a RunDirectory,
    pub(crate) record: RunRecord,
    pub(crate) config: Config,
    pub(crate) network: &'a dyn AnyNetwork,
}

impl<'a> Trained<'a> {
    /// Reads the record in `directory`.
    ///
    /// # Errors
    /// When the run is neither finished nor imported, with what to do next, or its network is not in the workbench.
    pub(crate) fn read(workbench: &'a Workbench, directory: &'a RunDirectory) -> Result<Self> {
        let record = directory.read_record()?;
        if !record.status.has_weights() {
            bail!(Misuse(format!("only a finished run has weights to use: {}", unfinished(directory, &record))));
        }
        let config =
            Partial::from_object(record.config.clone()).and_then(|partial| partial.resolve(&workbench.registry()));
        let config = config.with_context(|| format!("{} cannot be used by {}", directory.id(), program()))?;
        let network = workbench.network_of(&config.network)?;
        Ok(Self { directory, record, config, network })
    }

    /// Opens the backend in the run's precision, or else in f32, which weights on disk are in.
    pub(crate) fn open(&self, request: &Request) -> Result<Backend> {
        let wanted = self.config.training.precision;
        let backend = request.open_for(&[wanted, Precision::F32])?;
        if backend.precision != wanted {
            notice(format_args!("trained in {wanted}, computing in {}", backend.precision));
        }
        Ok(backend)
    }

    /// The views of each image in the run's own final test.
    pub(crate) fn views(&self) -> Views {
        Views::of(&self.config)
    }

    /// The network in memory, on a device of `backend`.
    pub(crate) fn predictor(&self, backend: &Backend) -> Result<Predictor> {
        let (record, directory) = (&self.record, self.directory);
        Predictor::open(self.network, &self.config, record, directory, backend.first())
            .with_context(|| format!("the weights of {} cannot be used", directory.id()))
    }

    /// The run's data, from `directory` or from where the run found it, if it still is there.
    pub(crate) fn data(&self, workbench: &Workbench, directory: Option<&Path>) -> Result<ImageData> {
        data::load_again(workbench, &self.config.data, directory, &self.record.dataset)
    }
}

/// Status of the run and what to do next; a run that another process trains cannot be resumed.
fn unfinished(directory: &RunDirectory, record: &RunRecord) -> String {
    let (id, path, program) = (&record.id, directory.path().display(), program());
    match directory.status(record) {
        RunStatus::Running => format!("{id} is being trained by another process; wait until it is finished"),
        RunStatus::Interrupted => format!("{id} is interrupted; resume it with: {program} resume {path}"),
        RunStatus::Failed => {
            let error = record.error.as_deref().unwrap_or("for an unknown reason");
            format!("{id} failed ({error}). Mend that, and resume it with: {program} resume {path}")
        }
        RunStatus::Diverged => {
            let step =
                record.diverged.as_ref().map_or_else(String::new, |diverged| format!(" at step {}", diverged.step));
            format!("{id} diverged{step}; train it again with a lower learning rate")
        }
        RunStatus::Finished | RunStatus::Imported => format!("{id} is {}", record.status),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_run_without_weights_is_refused_with_what_fits_its_state() {
        let place = tempfile::tempdir().unwrap();
        let of = |id: &str, changes: &serde_json::Value| fixtures::run(place.path(), id, changes).directory;
        let workbench = Workbench::new("kindling");
        let refusal = |directory: &RunDirectory| {
            let said = Trained::read(&workbench, directory).err().unwrap().to_string();
            said.strip_prefix("only a finished run has weights to use: ").unwrap().to_owned()
        };
        let running = of("a", &json!({ "status": "running" }));
        let lock = running.lock().unwrap();
        let said = refusal(&running);
        assert!(said.starts_with("a is being trained by another process") && !said.contains("resume"), "{said}");
        drop(lock);
        assert!(refusal(&running).starts_with("a is interrupted; resume it with: kindling resume "));
        let failed = refusal(&of("b", &json!({ "status": "failed", "error": "no memory" })));
        assert!(failed.starts_with("b failed (no memory)") && failed.contains("kindling resume "), "{failed}");
        let lost = json!({ "step": 3, "layer": null, "quantity": "loss" });
        let diverged = refusal(&of("c", &json!({ "status": "diverged", "diverged": lost })));
        assert!(
            diverged.starts_with("c diverged at step 3; train it again") && !diverged.contains("resume"),
            "{diverged}"
        );
    }
}
