//! What a run measured, as tables in CSV files.

use std::path::Path;

use csv::Writer;
use kindling_record::{EpochRecord, GradientRecord, MetricRecord, RunDirectory, RunRecord, read_steps};

use crate::ExchangeError;

/// Writes into `folder`, which is there, what the run in `directory` has measured so far:
///
/// - `epochs.csv`: a row for each epoch, with its metrics, learning rate and times;
/// - `steps.csv`: a row for each training step, and `gradients.csv`, a row for each layer of those steps whose gradients
///   were recorded;
/// - `test.csv`, `confusion.csv` and `classes.csv`: the metrics on the test split, how often which class was taken for
///   which, and the metrics of each class, as far as the run was tested and evaluated.
///
/// Units stand in the header; fractions have the unit 1. Numbers are written so that they are read back to the same bits,
/// those that are not finite as `NaN`, `inf` and `-inf`, and what there is none of is empty.
///
/// # Errors
/// When the step log or the evaluation cannot be read, or a file cannot be written.
pub fn write(directory: &RunDirectory, record: &RunRecord, folder: &Path) -> Result<(), ExchangeError> {
    epochs(record, &folder.join("epochs.csv"))?;
    if directory.steps().exists() {
        steps(directory, folder)?;
    }
    tested(directory, record, folder)
}

/// A table that is being written.
struct Table<'a> {
    path: &'a Path,
    writer: Writer<Vec<u8>>,
}

impl<'a> Table<'a> {
    fn new<T: AsRef<[u8]>>(path: &'a Path, header: impl IntoIterator<Item = T>) -> Result<Self, ExchangeError> {
        let mut table = Self { path, writer: Writer::from_writer(Vec::new()) };
        table.row(header)?;
        Ok(table)
    }

    fn row<T: AsRef<[u8]>>(&mut self, row: impl IntoIterator<Item = T>) -> Result<(), ExchangeError> {
        self.writer.write_record(row).map_err(|error| ExchangeError::file(self.path, error))
    }

    fn write(self) -> Result<(), ExchangeError> {
        let content = self.writer.into_inner().map_err(|error| ExchangeError::file(self.path, error))?;
        Ok(kindling_record::replace_file(self.path, &content)?)
    }
}

/// A metric's unit.
fn unit(metrics: &[MetricRecord], name: &str) -> String {
    let metric = metrics.iter().find(|metric| metric.name == name);
    metric.and_then(|metric| metric.unit.clone()).unwrap_or_else(|| "1".to_owned())
}

fn epochs(record: &RunRecord, path: &Path) -> Result<(), ExchangeError> {
    let mut names: Vec<&String> = record.epochs.iter().flat_map(|epoch| epoch.metrics.0.keys()).collect();
    names.sort();
    names.dedup();
    let titled = |name: &&String| {
        let metric = name.split_once('/').map_or(name.as_str(), |(_, metric)| metric);
        format!("{name} ({})", unit(&record.metrics, metric))
    };
    let first = ["epoch", "learning_rate (1)", "training (s)", "evaluation (s)", "throughput (samples/s)"];
    let header = first.iter().map(ToString::to_string).chain(names.iter().map(titled));
    let mut table = Table::new(path, header)?;
    for epoch in &record.epochs {
        let EpochRecord { learning_rate, seconds, evaluation_seconds, samples_per_second, .. } = epoch;
        let numbers = [learning_rate, seconds, evaluation_seconds, samples_per_second].map(ToString::to_string);
        let metrics = names.iter().map(|name| number(epoch.get(name)));
        table.row([epoch.epoch.to_string()].into_iter().chain(numbers).chain(metrics))?;
    }
    table.write()
}

fn steps(directory: &RunDirectory, folder: &Path) -> Result<(), ExchangeError> {
    let steps = read_steps(&directory.steps())?;
    let (path, gradients) = (folder.join("steps.csv"), folder.join("gradients.csv"));
    let header = ["step", "epoch", "loss", "learning_rate (1)", "gradient_mean", "gradient_mean_abs", "gradient_norm"];
    let mut table = Table::new(&path, header)?;
    let mut layers = Table::new(&gradients, ["step", "layer", "parameters (1)", "mean", "mean_abs", "norm"])?;
    let has_gradients = steps.iter().any(|step| step.gradient.is_some());
    for step in steps {
        let gradient = |of: fn(&GradientRecord) -> f64| number(step.gradient.as_ref().map(of));
        table.row([
            step.step.to_string(),
            step.epoch.to_string(),
            step.loss.to_string(),
            step.learning_rate.to_string(),
            gradient(|gradient| gradient.mean),
            gradient(|gradient| gradient.mean_abs),
            gradient(|gradient| gradient.norm),
        ])?;
        for layer in step.gradient.iter().flat_map(|gradient| &gradient.layers) {
            let numbers = [layer.mean, layer.mean_abs, layer.norm].map(|number| number.to_string());
            let names = [step.step.to_string(), layer.layer.clone(), layer.parameters.to_string()];
            layers.row(names.into_iter().chain(numbers))?;
        }
    }
    table.write()?;
    if has_gradients { layers.write() } else { Ok(()) }
}

/// What the run's test and its evaluation found; the evaluation says more and is the newer of the two.
fn tested(directory: &RunDirectory, record: &RunRecord, folder: &Path) -> Result<(), ExchangeError> {
    let evaluation = directory.read_evaluation()?;
    let mut metrics: Vec<(String, f64, String)> = Vec::new();
    if let Some(evaluation) = &evaluation {
        let main = [("loss", evaluation.loss), ("accuracy", evaluation.accuracy)];
        metrics.extend(main.map(|(name, value)| (name.to_owned(), value, unit(&record.metrics, name))));
        let others = [
            ("balanced_accuracy", evaluation.balanced_accuracy),
            ("macro_f1", evaluation.macro_f1),
            ("weighted_f1", evaluation.weighted_f1),
            ("expected_calibration_error", Some(evaluation.calibration.error)),
        ];
        let one = || "1".to_owned();
        metrics.extend(others.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?, one()))));
        let top = evaluation.top_k.iter().enumerate().skip(1);
        metrics.extend(top.map(|(index, &value)| (format!("top_{}_accuracy", index + 1), value, one())));
    } else if let Some(test) = &record.test {
        metrics.extend(test.metrics.0.iter().map(|(name, &value)| {
            let name = name.strip_prefix("test/").unwrap_or(name);
            (name.to_owned(), value, unit(&record.metrics, name))
        }));
    }
    if !metrics.is_empty() {
        let path = folder.join("test.csv");
        let mut table = Table::new(&path, ["metric", "value", "unit"])?;
        for (name, value, unit) in metrics {
            table.row([name, value.to_string(), unit])?;
        }
        table.write()?;
    }
    let tested = record.test.as_ref().and_then(|test| test.confusion.as_ref());
    if let Some(confusion) = evaluation.as_ref().map(|evaluation| &evaluation.confusion).or(tested) {
        let path = folder.join("confusion.csv");
        let name = |label: usize| record.dataset.classes().get(label).cloned().unwrap_or_else(|| label.to_string());
        let header = ["class (images by what they were taken for)".to_owned()];
        let mut table = Table::new(&path, header.into_iter().chain((0..confusion.len()).map(name)))?;
        for (label, row) in confusion.iter().enumerate() {
            table.row([name(label)].into_iter().chain(row.iter().map(ToString::to_string)))?;
        }
        table.write()?;
    }
    let Some(evaluation) = evaluation else { return Ok(()) };
    let path = folder.join("classes.csv");
    let mut table = Table::new(&path, ["class", "images (1)", "precision (1)", "recall (1)", "f1 (1)"])?;
    for class in &evaluation.classes {
        let metrics = [class.precision, class.recall, class.f1].map(number);
        table.row([class.name.clone(), class.images.to_string()].into_iter().chain(metrics))?;
    }
    table.write()
}

/// A number, or nothing.
fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn tables_have_units_and_numbers_that_are_read_back_as_they_were() {
        let place = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(place.path(), "mlp").unwrap();
        let third = 1.0 / 3.0;
        let epoch = json!({
            "epoch": 1, "metrics": { "train/loss": third, "valid/loss": "NaN", "valid/accuracy": 0.75 },
            "learning_rate": 1e-7, "seconds": 2.5, "samples_per_second": 100.0, "evaluation_seconds": 0.5,
        });
        let record = json!({
            "schema": kindling_record::SCHEMA, "id": directory.id(), "status": "finished",
            "started": "2026-01-02T03:04:05Z", "parts": [], "config": {}, "backend": "flex", "device": "a processor",
            "versions": {}, "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
            "dataset": {
                "name": "synthetic", "source": null, "sha256": "00ff", "protocol": "validated", "train": 100, "valid": 5,
                "test": 10, "classes": ["a, b", "c"], "height": 28, "width": 28, "background": 0,
            },
            "model": "mlp", "parameters": 1,
            "metrics": [
                { "name": "loss", "higher_is_better": false, "unit": "nats" },
                { "name": "accuracy", "higher_is_better": true, "unit": null },
            ],
            "monitor": "valid/loss", "epochs": [epoch], "best_epoch": 1, "seconds": 5.0,
            "test": { "metrics": { "test/loss": 0.5, "test/accuracy": 0.7 }, "confusion": [[4, 1], [2, 3]] },
            "timings": {
                "start_up_seconds": 0.0, "compilation_seconds": 0.0, "training_seconds": 4.0,
                "evaluation_seconds": 1.0, "checkpoint_seconds": 0.0,
            },
        });
        directory.write_record(&serde_json::from_value(record).unwrap()).unwrap();
        let steps = [
            json!({ "step": 1, "epoch": 1, "loss": "inf", "learning_rate": 0.1 }),
            json!({
                "step": 2, "epoch": 1, "loss": 0.25, "learning_rate": 0.1, "gradient": {
                    "mean": 0.0, "mean_abs": 0.5, "norm": 2.0,
                    "layers": [{ "layer": "fc1", "parameters": 3, "mean": 0.0, "mean_abs": 0.5, "norm": 2.0 }],
                },
            }),
        ];
        fs::write(directory.steps(), steps.map(|step| step.to_string() + "\n").concat()).unwrap();
        write(&directory, &directory.read_record().unwrap(), place.path()).unwrap();
        let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        let expected = format!(
            "epoch,learning_rate (1),training (s),evaluation (s),throughput (samples/s),train/loss (nats),\
             valid/accuracy (1),valid/loss (nats)\n1,0.0000001,2.5,0.5,100,{third},0.75,NaN\n"
        );
        assert_eq!(read("epochs.csv"), expected);
        assert_eq!(read("steps.csv").lines().nth(1), Some("1,1,inf,0.1,,,"));
        assert_eq!(read("gradients.csv").lines().nth(1), Some("2,fc1,3,0,0.5,2"));
        assert_eq!(read("test.csv"), "metric,value,unit\naccuracy,0.7,1\nloss,0.5,nats\n");
        let confusion = "class (images by what they were taken for),\"a, b\",c\n\"a, b\",4,1\nc,2,3\n";
        assert_eq!(read("confusion.csv"), confusion);
        assert!(!place.path().join("classes.csv").exists());
    }
}
