mod tables;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use kindling_classification::{
    AnyNetwork, balanced_accuracy, calibration, class_records, confused_pairs, macro_f1, mistakes, top_k, weighted_f1,
};
use kindling_config::{Config, Partial, Precision};
use kindling_data::{ImageData, ImageSet};
use kindling_kernels::Kernels;
use kindling_record::{EvaluationRecord, RunDirectory, RunRecord, RunStatus, SCHEMA, now};
use serde::Serialize;

use crate::{
    Workbench,
    arguments::{PlaceArguments, RunsDirectory, kernels},
    backend::{Backend, Request},
    data,
    outcome::{Misuse, Outcome},
    output::{notice, print, program},
    pictures, relaunch, signals,
};

/// Arguments of `evaluate`.
#[derive(Args)]
pub(crate) struct EvaluateArguments {
    /// The run: its id, a prefix that no other run has, or its path
    run: String,
    /// Backend to evaluate on, as for train [default: the run's]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// With --backend remote: where the command `serve` listens
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// Operations of the layers, as for train
    #[arg(long, value_parser = kernels(), default_value_t)]
    kernels: Kernels,
    /// Directory of the data set [default: where the run found it, then as for train]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints: the record with the run's id.
#[derive(Serialize)]
struct Printed<'a> {
    run: String,
    #[serde(flatten)]
    evaluation: &'a EvaluationRecord,
}

/// The command `evaluate`.
pub(crate) fn evaluate(workbench: &Workbench, arguments: &EvaluateArguments) -> Result<Outcome> {
    let directory = RunDirectory::find(&arguments.runs_dir.path, &arguments.run)?;
    let trained = Trained::read(workbench, &directory)?;
    let name = arguments.backend.as_deref().unwrap_or(&trained.record.backend);
    let request = Request::new(name, None, arguments.remote.as_deref())?;
    relaunch::with(&request.environment())?;
    let backend = trained.open(&request)?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    arguments.kernels.choose();
    signals::install()?;
    let data = trained.data(workbench, arguments.data_dir.as_deref())?;
    let evaluation = trained.examine(&backend, &data)?;
    // Before it is printed, so that it is kept whatever becomes of standard output.
    let kept = keep(&directory, &evaluation, &data.test);
    if arguments.json {
        print(serde_json::to_string_pretty(&Printed { run: directory.id(), evaluation: &evaluation })?);
    } else {
        tables::show(&evaluation, &trained.record);
    }
    kept?;
    if !arguments.json {
        print(format_args!("\nkept in {}", directory.evaluation().display()));
        if !evaluation.mistakes.is_empty() {
            let (count, place) = (evaluation.mistakes.len(), directory.mistakes());
            print(format_args!("pictures of the {count} most confident mistakes: {}", place.display()));
        }
    }
    Ok(Outcome::Done)
}

/// Evaluates the finished run in `directory` on the backend that `place` names, by default the run's, and writes the
/// evaluation into the directory. The kernels must be chosen already.
///
/// # Errors
/// When the run has no weights, its data is gone, the device fails, or nothing can be written to the directory.
pub fn keep_evaluation(workbench: &Workbench, directory: &RunDirectory, place: &PlaceArguments) -> Result<()> {
    let trained = Trained::read(workbench, directory)?;
    let backend = trained.open(&place.device.request((&trained.record.backend, None))?)?;
    let data = trained.data(workbench, place.data_dir.as_deref())?;
    keep(directory, &trained.examine(&backend, &data)?, &data.test)
}

/// A finished run, whose weights can be used.
pub(super) struct Trained<'a> {
    directory: &'a RunDirectory,
    pub(super) record: RunRecord,
    pub(super) config: Config,
    pub(super) network: &'a dyn AnyNetwork,
}

impl<'a> Trained<'a> {
    /// Reads the record in `directory`.
    ///
    /// # Errors
    /// When the run is not finished, with what to do next, or its network is not in the workbench.
    pub(super) fn read(workbench: &'a Workbench, directory: &'a RunDirectory) -> Result<Self> {
        let record = directory.read_record()?;
        if record.status != RunStatus::Finished {
            bail!(Misuse(format!("only a finished run has weights to use: {}", unfinished(directory, &record))));
        }
        let config =
            Partial::from_object(record.config.clone()).and_then(|partial| partial.resolve(&workbench.registry()));
        let config = config.with_context(|| format!("{} cannot be used by {}", directory.id(), program()))?;
        let network = workbench.network_of(&config.network)?;
        Ok(Self { directory, record, config, network })
    }

    /// Opens the backend in the run's precision, or else in f32, which weights on disk are in.
    pub(super) fn open(&self, request: &Request) -> Result<Backend> {
        let wanted = self.config.training.precision;
        let backend = request.open_for(&[wanted, Precision::F32])?;
        if backend.precision != wanted {
            notice(format_args!("trained in {wanted}, computing in {}", backend.precision));
        }
        Ok(backend)
    }

    /// The run's data, from `directory` or from where the run found it, if it still is there.
    fn data(&self, workbench: &Workbench, directory: Option<&Path>) -> Result<ImageData> {
        data::load_again(workbench, &self.config.data, directory, &self.record.dataset)
    }

    /// Tests the run's weights, and computes all that the record has from the predictions.
    fn examine(&self, backend: &Backend, data: &ImageData) -> Result<EvaluationRecord> {
        let (evaluation, predictions) = self
            .network
            .test(&self.config, data, self.directory, backend.first())
            .with_context(|| format!("{} cannot be evaluated", self.directory.id()))?;
        let classes = class_records(&evaluation.confusion, &data.classes);
        let mut mistakes = mistakes(&predictions, &data.classes);
        for mistake in &mut mistakes {
            mistake.file = data.test.name(mistake.index);
        }
        Ok(EvaluationRecord {
            schema: SCHEMA,
            evaluated: now(),
            backend: backend.name.to_owned(),
            device: backend.device_name.clone(),
            kernels: backend.kernels(Kernels::chosen()),
            images: predictions.len(),
            loss: evaluation.loss,
            accuracy: evaluation.accuracy,
            balanced_accuracy: balanced_accuracy(&classes),
            macro_f1: macro_f1(&classes),
            weighted_f1: weighted_f1(&classes),
            top_k: top_k(&predictions, classes.len()),
            classes,
            calibration: calibration(&predictions),
            confused: confused_pairs(&evaluation.confusion),
            mistakes,
            confusion: evaluation.confusion,
        })
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
        RunStatus::Finished => format!("{id} is finished"),
    }
}

/// Puts the evaluation and the pictures of its mistakes into the run, in place of those of an earlier one.
///
/// The old record is removed before the old pictures, so that no record stands beside pictures of another evaluation.
fn keep(directory: &RunDirectory, evaluation: &EvaluationRecord, images: &ImageSet) -> Result<()> {
    let kept = || -> Result<()> {
        let _lock = directory.lock()?;
        let [new, old] = [".mistakes-new", ".mistakes-old"].map(|name| directory.path().join(name));
        // Of an evaluation that was killed.
        for left_over in [&new, &old] {
            unless_missing(fs::remove_dir_all(left_over))?;
        }
        fs::create_dir(&new)?;
        for mistake in &evaluation.mistakes {
            let picture = pictures::enlarged(&pictures::of(images, mistake.index)?);
            fs::write(new.join(&mistake.picture), pictures::png(&picture)?)?;
        }
        unless_missing(fs::remove_file(directory.evaluation()))?;
        unless_missing(fs::rename(directory.mistakes(), &old))?;
        fs::rename(&new, directory.mistakes())?;
        directory.write_evaluation(evaluation)?;
        unless_missing(fs::remove_dir_all(&old))?;
        Ok(())
    };
    kept().with_context(|| format!("the evaluation cannot be kept in {}", directory.path().display()))
}

/// Success also where there was no such file.
fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use kindling_classification::Prediction;
    use kindling_data::synthetic;
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn evaluation(predictions: &[Prediction]) -> EvaluationRecord {
        EvaluationRecord {
            schema: SCHEMA,
            evaluated: now(),
            backend: "flex".to_owned(),
            device: "a processor".to_owned(),
            kernels: "composed".to_owned(),
            images: predictions.len(),
            loss: 0.5,
            accuracy: 0.5,
            balanced_accuracy: None,
            macro_f1: Some(0.25),
            weighted_f1: None,
            top_k: vec![0.5, 0.75],
            confusion: Vec::new(),
            classes: Vec::new(),
            calibration: calibration(predictions),
            confused: Vec::new(),
            mistakes: mistakes(predictions, &synthetic::CLASSES.map(str::to_owned)),
        }
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn pictures_and_record_replace_those_of_an_earlier_evaluation_and_of_a_killed_one() {
        let place = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(place.path(), "mlp").unwrap();
        let images = synthetic::draw().test;
        let first = [Prediction::new(0, 1, 0.9), Prediction::new(2, 2, 0.8), Prediction::new(8, 9, 0.95)];
        keep(&directory, &evaluation(&first), &images).unwrap();
        let expected = ["01-horizontal-bars-as-vertical-bars.png", "02-disc-as-ring.png"];
        assert_eq!(files(&directory.mistakes()), expected);
        // The image itself, four times as large.
        let picture = image::open(directory.mistakes().join(expected[0])).unwrap().into_luma8();
        assert_eq!(picture.dimensions(), (112, 112));
        assert_eq!(picture.get_pixel(57, 41).0, [images.image(2)[10 * 28 + 14]]);

        fs::create_dir(directory.path().join(".mistakes-new")).unwrap();
        fs::write(directory.path().join(".mistakes-new/half"), "").unwrap();
        let second = evaluation(&[Prediction::new(3, 4, 0.7)]);
        keep(&directory, &second, &images).unwrap();
        assert_eq!(files(&directory.mistakes()), ["01-frame-as-triangle.png"]);
        assert_eq!(directory.read_evaluation().unwrap(), Some(second));
        assert_eq!(files(directory.path()), ["evaluation.json", "lock", "mistakes"]);
    }

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

    #[test]
    fn what_is_printed_as_json_has_the_run_beside_the_record() {
        let evaluation = evaluation(&[Prediction::new(0, 1, 0.9)]);
        let printed = serde_json::to_value(Printed { run: "mlp-1".to_owned(), evaluation: &evaluation }).unwrap();
        assert_eq!((&printed["run"], &printed["images"], &printed["loss"]), (&"mlp-1".into(), &1.into(), &0.5.into()));
    }
}
