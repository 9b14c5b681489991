use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ReportError;

/// The learning rates of 1.2 and 1.3, as the reference names them.
pub(crate) const RATES: [&str; 4] = ["1", "0.1", "0.01", "0.001"];

/// The structures of 1.5, each with what the reference calls its curve.
pub(crate) const STRUCTURES: [(&str, &str); 3] = [("base", "base"), ("deeper", "deep"), ("wider", "wide")];

/// The reference's figures: single runs (n = 1), accuracies as fractions of the test images, losses in nats.
#[derive(Clone, Debug, Deserialize)]
pub struct Reference {
    /// Where they were read from.
    pub source: String,
    /// How they were obtained.
    pub note: String,
    pub(crate) first_run: FirstRun,
    #[serde(rename = "learning_rates_10_epochs")]
    pub(crate) learning_rates: LearningRates,
    #[serde(rename = "learning_rates_to_convergence")]
    pub(crate) convergence: Convergence,
    #[serde(rename = "structures_10_epochs")]
    pub(crate) structures: Structures,
    pub(crate) cnn: Cnn,
}

/// An epoch of a curve.
#[derive(Clone, Debug, Deserialize)]
#[allow(clippy::struct_field_names)] // They are the keys of the reference's file.
pub(crate) struct Epoch {
    /// Starts at 1.
    pub(crate) epoch: usize,
    pub(crate) test_accuracy: f64,
    /// Printed for some of the experiments only.
    pub(crate) test_loss: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FirstRun {
    pub(crate) epochs: Vec<Epoch>,
    /// Ten for each epoch: the losses of its batches 0, 100, … 900.
    #[serde(rename = "train_loss_every_6400_images")]
    pub(crate) train_losses: Vec<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LearningRates {
    /// Accuracies by learning rate.
    table: BTreeMap<String, f64>,
    curves: BTreeMap<String, Vec<Epoch>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Convergence {
    table: BTreeMap<String, Converged>,
    curves: BTreeMap<String, Vec<Epoch>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Converged {
    pub(crate) accuracy: f64,
    /// The epoch after which the test loss improved no more; `50+` where it still did in the last.
    pub(crate) epoch: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Structures {
    table: BTreeMap<String, Structure>,
    curves: BTreeMap<String, Vec<Epoch>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Structure {
    pub(crate) accuracy: f64,
    pub(crate) parameters: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Cnn {
    pub(crate) parameters: usize,
    pub(crate) table: CnnTable,
    pub(crate) curve: Vec<Epoch>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CnnTable {
    pub(crate) accuracy: f64,
    /// The epoch that reached it.
    pub(crate) epoch: usize,
}

impl Reference {
    /// Reads the reference's figures.
    ///
    /// # Errors
    /// When the text is no JSON, or a figure or curve that the report needs is not there.
    pub fn from_json(text: &str) -> Result<Self, ReportError> {
        let reference: Self = serde_json::from_str(text).map_err(|error| ReportError::Reference(error.to_string()))?;
        let is_there = |what: &str, found: bool| {
            let missing = || format!("expected {what}, found none; take the file from the sources again");
            if found { Ok(()) } else { Err(ReportError::Reference(missing())) }
        };
        is_there("epochs of the first run", !reference.first_run.epochs.is_empty())?;
        for rate in RATES {
            let what = |question: &str| format!("a figure and a curve of learning rate {rate} in {question}");
            let [short, long] = [reference.learning_rates.curve(rate), reference.convergence.curve(rate)];
            let has_short = reference.learning_rates.accuracy(rate).is_some() && !short.is_empty();
            is_there(&what("`learning_rates_10_epochs`"), has_short)?;
            let has_long = reference.convergence.converged(rate).is_some() && !long.is_empty();
            is_there(&what("`learning_rates_to_convergence`"), has_long)?;
        }
        for (name, _) in STRUCTURES {
            let found = reference.structures.structure(name).is_some() && !reference.structures.curve(name).is_empty();
            is_there(&format!("figures and a curve of `{name}` in `structures_10_epochs`"), found)?;
        }
        is_there("a curve in `cnn`", !reference.cnn.curve.is_empty())?;
        Ok(reference)
    }
}

impl LearningRates {
    /// The table's accuracy.
    pub(crate) fn accuracy(&self, rate: &str) -> Option<f64> {
        self.table.get(rate).copied()
    }

    pub(crate) fn curve(&self, rate: &str) -> &[Epoch] {
        of(&self.curves, rate)
    }
}

impl Convergence {
    /// The table's row.
    pub(crate) fn converged(&self, rate: &str) -> Option<&Converged> {
        self.table.get(rate)
    }

    pub(crate) fn curve(&self, rate: &str) -> &[Epoch] {
        of(&self.curves, rate)
    }
}

impl Structures {
    /// The table's row.
    pub(crate) fn structure(&self, name: &str) -> Option<&Structure> {
        self.table.get(name)
    }

    pub(crate) fn curve(&self, name: &str) -> &[Epoch] {
        let known = STRUCTURES.iter().find(|(row, _)| *row == name);
        known.map(|(_, curve)| of(&self.curves, curve)).unwrap_or_default()
    }
}

fn of<'a>(curves: &'a BTreeMap<String, Vec<Epoch>>, name: &str) -> &'a [Epoch] {
    curves.get(name).map(Vec::as_slice).unwrap_or_default()
}

/// The accuracy of a curve's last epoch.
pub(crate) fn last_accuracy(curve: &[Epoch]) -> Option<f64> {
    curve.last().map(|epoch| epoch.test_accuracy)
}

/// The highest accuracy of a curve.
pub(crate) fn best_accuracy(curve: &[Epoch]) -> Option<f64> {
    curve.iter().map(|epoch| epoch.test_accuracy).reduce(f64::max)
}

/// The first epoch with the lowest loss, where losses were printed.
pub(crate) fn lowest_loss(curve: &[Epoch]) -> Option<usize> {
    let losses = curve.iter().filter_map(|epoch| Some((epoch.epoch, epoch.test_loss?)));
    losses.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(epoch, _)| epoch)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const FILE: &str = include_str!("../../../../assets/assignment/reference.json");

    #[test]
    fn the_file_of_the_sources_is_read_whole() {
        let reference = Reference::from_json(FILE).unwrap();
        assert!(reference.source.contains("Assignment3") && reference.note.contains("n = 1"));
        assert_eq!((reference.first_run.epochs.len(), reference.first_run.train_losses.len()), (5, 50));
        assert_eq!(RATES.map(|rate| reference.learning_rates.curve(rate).len()), [10; 4]);
        assert_eq!(RATES.map(|rate| reference.convergence.curve(rate).len()), [4, 20, 50, 50]);
        assert_eq!(STRUCTURES.map(|(name, _)| reference.structures.curve(name).len()), [10; 3]);
        assert_eq!(reference.cnn.curve.len(), 13);
        let epochs = RATES.map(|rate| reference.convergence.converged(rate).unwrap().epoch.as_str());
        assert_eq!(epochs, ["1", "17", "50+", "50+"]);
        let parameters = STRUCTURES.map(|(name, _)| reference.structures.structure(name).unwrap().parameters);
        assert_eq!(parameters, [669_706, 1_195_018, 1_863_690]);
    }

    #[test]
    fn the_epoch_in_its_table_is_that_of_the_lowest_loss() {
        let reference = Reference::from_json(FILE).unwrap();
        assert_eq!(lowest_loss(reference.convergence.curve("0.1")), Some(17));
        assert_eq!(lowest_loss(reference.learning_rates.curve("0.1")), None);
    }

    #[test]
    fn a_curve_that_is_missing_is_an_error_that_names_it() {
        let mut file: Value = serde_json::from_str(FILE).unwrap();
        file["learning_rates_to_convergence"]["curves"].as_object_mut().unwrap().remove("0.01");
        let message = Reference::from_json(&file.to_string()).unwrap_err().to_string();
        assert!(message.contains("learning rate 0.01") && message.contains("to_convergence"), "{message}");
        assert!(matches!(Reference::from_json("{}"), Err(ReportError::Reference(_))));
    }
}
