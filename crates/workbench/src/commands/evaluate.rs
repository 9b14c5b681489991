mod tables;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use kindling_data::{ImageData, ImageSet};
use kindling_kernels::Kernels;
use kindling_record::{EvaluationRecord, RunDirectory, RunRecord, RunStatus, SCHEMA, now};
use kindling_training::{ExperimentConfig, Precision, Settings, calibration, class_records, confused_pairs, mistakes};
use serde::Serialize;

use crate::{
    arguments::{EvaluateArguments, PlaceArguments},
    backend::{Backend, Request},
    commands::{Misuse, Outcome},
    data,
    output::{notice, print},
    pictures, relaunch, signals,
};

/// How much larger than the images their pictures are, so that a person can see something.
const ENLARGEMENT: u32 = 4;

/// What `--json` prints: the record, and whose it is.
#[derive(Serialize)]
struct Printed<'a> {
    run: String,
    #[serde(flatten)]
    evaluation: &'a EvaluationRecord,
}

/// `kindling evaluate`
pub(crate) fn evaluate(arguments: &EvaluateArguments) -> Result<Outcome> {
    let directory = RunDirectory::find(&arguments.runs_dir.path, &arguments.run)?;
    let (record, config) = finished(&directory)?;
    let name = arguments.backend.as_deref().unwrap_or(&record.backend);
    let request = Request::new(name, None, arguments.remote.as_deref())?;
    relaunch::with(&request.environment())?;
    let backend = open(&request, &config)?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    arguments.kernels.choose();
    signals::install()?;
    let data = data_of(&record, &config, arguments.data_dir.as_deref())?;
    let evaluation = examine(&directory, &backend, &data)?;
    // Before it is printed, so that it is kept whatever becomes of standard output.
    let kept = keep(&directory, &evaluation, &data.test);
    if arguments.json {
        print(serde_json::to_string_pretty(&Printed { run: directory.id(), evaluation: &evaluation })?);
    } else {
        tables::show(&evaluation, &record);
    }
    kept?;
    if !arguments.json {
        print(format_args!("\nkept in {}", directory.evaluation().display()));
        if !evaluation.mistakes.is_empty() {
            let (count, place) = (evaluation.mistakes.len(), directory.mistakes());
            print(format_args!("pictures of the {count} surest mistakes: {}", place.display()));
        }
    }
    Ok(Outcome::Done)
}

/// Evaluates the finished run in `directory` on the backend that `place` asks for, by default its own, and keeps what it
/// finds; for a program that has chosen its kernels already.
pub(crate) fn keep_evaluation(directory: &RunDirectory, place: &PlaceArguments) -> Result<()> {
    let (record, config) = finished(directory)?;
    let backend = open(&place.device.request((&record.backend, None))?, &config)?;
    let data = data_of(&record, &config, place.data_dir.as_deref())?;
    let evaluation = examine(directory, &backend, &data)?;
    keep(directory, &evaluation, &data.test)
}

/// The record and the config of a run that has weights.
///
/// # Errors
/// When the run is not finished, with what can be done about it.
pub(crate) fn finished(directory: &RunDirectory) -> Result<(RunRecord, ExperimentConfig)> {
    let record = directory.read_record()?;
    if record.status != RunStatus::Finished {
        bail!(Misuse(format!("{}: only a finished run has weights to use", unfinished(directory, &record))));
    }
    let config = Settings::from_object(record.config.clone())?.resolve()?;
    Ok((record, config))
}

/// How the run stands, and what can be done about it: one that another process trains is not to be resumed.
fn unfinished(directory: &RunDirectory, record: &RunRecord) -> String {
    let (id, path) = (&record.id, directory.path().display());
    match directory.status(record) {
        RunStatus::Running => format!("{id} is being trained by another process; wait until it is finished"),
        RunStatus::Interrupted => format!("{id} is interrupted; resume it with: kindling resume {path}"),
        RunStatus::Failed => {
            let error = record.error.as_deref().unwrap_or("for an unknown reason");
            format!("{id} failed ({error}); once that is mended, resume it with: kindling resume {path}")
        }
        RunStatus::Diverged => {
            let step =
                record.diverged.as_ref().map_or_else(String::new, |diverged| format!(" at step {}", diverged.step));
            format!("{id} diverged{step}; train it again with a lower learning rate")
        }
        RunStatus::Finished => format!("{id} is finished"),
    }
}

/// Opens the backend in the run's precision, or else in f32, which weights on disk are in.
pub(crate) fn open(request: &Request, config: &ExperimentConfig) -> Result<Backend> {
    let backend = request.open_for(&[config.precision, Precision::F32])?;
    if backend.precision != config.precision {
        notice(format_args!("trained in {}, computing in {}", config.precision, backend.precision));
    }
    Ok(backend)
}

/// The run's data, from `directory` or from where the run found it, if it still is there.
fn data_of(record: &RunRecord, config: &ExperimentConfig, directory: Option<&Path>) -> Result<ImageData> {
    let known = record.dataset.source.as_ref().map(PathBuf::from).filter(|path| path.exists());
    data::load(config, directory.or(known.as_deref()))
}

/// Tests the run's weights and draws all conclusions.
fn examine(directory: &RunDirectory, backend: &Backend, data: &ImageData) -> Result<EvaluationRecord> {
    let (evaluation, predictions) =
        kindling_training::test(data, directory, &backend.devices[0], backend.largest_tensor)
            .with_context(|| format!("{} cannot be evaluated", directory.id()))?;
    Ok(EvaluationRecord {
        schema: SCHEMA,
        evaluated: now(),
        backend: backend.name.to_owned(),
        device: backend.device_name.clone(),
        kernels: backend.kernels(Kernels::chosen()),
        images: predictions.len(),
        loss: evaluation.loss,
        accuracy: evaluation.accuracy,
        classes: class_records(&evaluation.confusion, &data.classes),
        calibration: calibration(&predictions),
        confused: confused_pairs(&evaluation.confusion),
        mistakes: mistakes(&predictions, &data.classes),
        confusion: evaluation.confusion,
    })
}

/// Puts the evaluation and the pictures of its mistakes into the run, in place of those of an earlier one.
///
/// The old record goes before the old pictures do: a record never stands beside pictures that are not its own.
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
            let picture = pictures::enlarged(&pictures::of(images, mistake.index)?, ENLARGEMENT);
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

/// What is not there need not go.
fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use kindling_data::synthetic;
    use kindling_training::Prediction;
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
        let picture = pictures::read(&directory.mistakes().join(expected[0])).unwrap().into_luma8();
        assert_eq!(picture.dimensions(), (112, 112));
        assert_eq!(picture.get_pixel(57, 41).0, [images.pixels()[2 * 784 + 10 * 28 + 14]]);

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
        let refusal = |directory: &RunDirectory| finished(directory).unwrap_err().to_string();
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
