mod tables;

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kindling_classification::{
    Views, balanced_accuracy, calibration, class_records, confused_pairs, macro_f1, misclassified, mistakes, top_k,
    weighted_f1,
};
use kindling_data::{ImageData, ImageSet};
use kindling_kernels::Kernels;
use kindling_record::{EvaluationRecord, Metrics, RunDirectory, RunRecord, RunStatus, SCHEMA, TestRecord, now};
use serde::Serialize;

use crate::{
    Workbench,
    arguments::{PlaceArguments, RunsDirectory, ViewsArgument, kernels},
    backend::{Backend, Request},
    outcome::Outcome,
    output::{notice, print},
    pictures, relaunch, signals,
    trained::Trained,
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
    views: ViewsArgument,
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
    let request = Request::new(name, None, arguments.remote.as_slice())?;
    relaunch::with(&request.environment())?;
    let backend = trained.open(&request)?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    arguments.kernels.choose();
    signals::install()?;
    let data = trained.data(workbench, arguments.data_dir.as_deref())?;
    let own = trained.views();
    let views = arguments.views.given.as_ref().unwrap_or(&own);
    let evaluation = trained.examine(views, &backend, &data)?;
    // Before it is printed, so that it is kept whatever becomes of standard output; one with other views than the run's
    // would be taken for the run's own.
    let kept = if *views == own { keep(&directory, &evaluation, &data.test).map(|()| true) } else { Ok(false) };
    if arguments.json {
        print(serde_json::to_string_pretty(&Printed { run: directory.id(), evaluation: &evaluation })?);
    } else {
        tables::show(&evaluation, &trained.record);
    }
    if !kept? {
        notice(format_args!("not kept: evaluation.json is with the run's own test-time augmentation ({own}) alone"));
    } else if !arguments.json {
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
    keep(directory, &trained.examine(&trained.views(), &backend, &data)?, &data.test)
}

impl Trained<'_> {
    /// Tests the run's weights by these views of each image, and computes all that the record has from the predictions.
    fn examine(&self, views: &Views, backend: &Backend, data: &ImageData) -> Result<EvaluationRecord> {
        let (evaluation, predictions) = self
            .network
            .test(&self.config, data, self.directory, views, backend.first())
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
            test_time_augmentation: evaluation.views.names(),
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
            misclassified: Some(misclassified(&predictions)),
            confusion: evaluation.confusion,
        })
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
        keep_test(directory, evaluation)?;
        unless_missing(fs::remove_dir_all(&old))?;
        Ok(())
    };
    kept().with_context(|| format!("the evaluation cannot be kept in {}", directory.path().display()))
}

/// Makes the evaluation the test of a run that was not trained here: no other will ever be in its record.
fn keep_test(directory: &RunDirectory, evaluation: &EvaluationRecord) -> Result<()> {
    // Without a record it is no imported run.
    let Ok(record) = directory.read_record() else { return Ok(()) };
    if record.status == RunStatus::Imported {
        let metrics = [("test/loss", evaluation.loss), ("test/accuracy", evaluation.accuracy)];
        let metrics = Metrics(metrics.map(|(name, value)| (name.to_owned(), value)).into());
        let (confusion, views) = (Some(evaluation.confusion.clone()), evaluation.test_time_augmentation.clone());
        let test = Some(TestRecord { metrics, confusion, test_time_augmentation: views });
        directory.write_record(&RunRecord { test, ..record })?;
    }
    Ok(())
}

/// Success also where there was no such file.
fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kindling_classification::Prediction;
    use kindling_data::synthetic;

    use super::*;

    fn evaluation(predictions: &[Prediction]) -> EvaluationRecord {
        EvaluationRecord {
            schema: SCHEMA,
            evaluated: now(),
            backend: "flex".to_owned(),
            device: "a processor".to_owned(),
            kernels: "composed".to_owned(),
            test_time_augmentation: Vec::new(),
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
            misclassified: None,
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
    fn what_is_printed_as_json_has_the_run_beside_the_record() {
        let evaluation = evaluation(&[Prediction::new(0, 1, 0.9)]);
        let printed = serde_json::to_value(Printed { run: "mlp-1".to_owned(), evaluation: &evaluation }).unwrap();
        assert_eq!((&printed["run"], &printed["images"], &printed["loss"]), (&"mlp-1".into(), &1.into(), &0.5.into()));
    }
}
