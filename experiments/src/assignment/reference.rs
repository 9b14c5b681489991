//! The assignment's questions, and what the reference found for each.

use serde_json::Value;

/// The reference's metrics with their source.
const FILE: &str = include_str!("../../../assets/assignment/reference.json");

/// The assignment's questions that need training; 1.4 compares the runs of 1.2 and 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    FirstRun,
    LearningRates,
    Convergence,
    Structures,
    Gradients,
    Cnn,
    /// What the reference only suggests.
    Suggestions,
}

use Question::{Cnn, Convergence, FirstRun, Gradients, LearningRates, Structures, Suggestions};

impl Question {
    pub(crate) const ALL: [Self; 7] = [FirstRun, LearningRates, Convergence, Structures, Gradients, Cnn, Suggestions];

    /// Its number in the assignment.
    pub(crate) const fn number(self) -> &'static str {
        ["1.1", "1.2", "1.3", "1.5", "1.6", "1.7", "suggestions"][self as usize]
    }

    /// The rows of its table, each a configuration.
    pub(crate) const fn rows(self) -> &'static [&'static str] {
        match self {
            FirstRun => &["mlp"],
            LearningRates | Convergence => &["1", "0.1", "0.01", "0.001"],
            Structures => &["base", "deeper", "wider"],
            Gradients => &["mlp", "mlp-deep", "mlp-wide", "cnn"],
            Cnn => &["cnn"],
            Suggestions => &["cnn", "more layers", "falling learning rate", "augmentation", "all"],
        }
    }

    /// Names a row without its table around it.
    pub(crate) fn label(self, row: &str) -> String {
        if matches!(self, LearningRates | Convergence) { format!("learning rate {row}") } else { row.to_owned() }
    }

    /// Its key in the reference's file.
    const fn key(self) -> &'static str {
        match self {
            FirstRun => "first_run",
            LearningRates => "learning_rates_10_epochs",
            Convergence => "learning_rates_to_convergence",
            Structures => "structures_10_epochs",
            Cnn => "cnn",
            Gradients | Suggestions => "",
        }
    }
}

/// The reference's metrics: single runs (n = 1), accuracies as fractions of the test images, losses in nats.
#[derive(Clone, Debug)]
pub(crate) struct Reference(Value);

/// An epoch of a curve; losses were printed for some of the experiments only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    /// Starts at 1.
    pub(crate) number: usize,
    pub(crate) accuracy: f64,
    pub(crate) loss: Option<f64>,
}

impl Reference {
    /// Reads the file that was compiled in.
    pub(crate) fn read() -> serde_json::Result<Self> {
        serde_json::from_str(FILE).map(Self)
    }

    /// A text: `source`, or `note` on how the metrics were obtained.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// A value of the table of `question`.
    fn entry(&self, question: Question, row: &str, key: &str) -> Option<&Value> {
        let table = &self.0[question.key()]["table"];
        match question {
            LearningRates => table.get(row),
            Cnn => table.get(key),
            _ => table.get(row)?.get(key),
        }
    }

    /// Test metrics after each epoch; empty where the reference has none.
    pub(crate) fn curve(&self, question: Question, row: &str) -> Vec<Epoch> {
        let section = &self.0[question.key()];
        let name = match row {
            "deeper" => "deep",
            "wider" => "wide",
            _ => row,
        };
        let epochs = match question {
            FirstRun => &section["epochs"],
            Cnn => &section["curve"],
            _ => &section["curves"][name],
        };
        let epoch = |epoch: &Value| {
            let (number, accuracy) = (epoch["epoch"].as_u64()? as usize, epoch["test_accuracy"].as_f64()?);
            Some(Epoch { number, accuracy, loss: epoch["test_loss"].as_f64() })
        };
        epochs.as_array().into_iter().flatten().filter_map(epoch).collect()
    }

    /// The accuracy in the reference's table; that of the CNN is of its best epoch. 1.1 has a curve alone.
    pub(crate) fn accuracy(&self, question: Question, row: &str) -> Option<f64> {
        self.entry(question, row, "accuracy")?.as_f64()
    }

    /// The epoch after which the test loss improved no more, in the table of 1.3; `50+` where it still did in the last.
    pub(crate) fn epochs(&self, rate: &str) -> Option<&str> {
        self.entry(Convergence, rate, "epoch")?.as_str()
    }

    /// Trainable parameters, in 1.5 and 1.7.
    pub(crate) fn parameters(&self, question: Question, row: &str) -> Option<usize> {
        let of_cnn = self.0[question.key()].get("parameters");
        Some(of_cnn.or_else(|| self.entry(question, row, "parameters"))?.as_u64()? as usize)
    }

    /// Training losses of the first run, in nats: ten for each epoch, of its batches 0, 100, … 900.
    pub(crate) fn train_losses(&self) -> Vec<f64> {
        let losses = self.0[FirstRun.key()]["train_loss_every_6400_images"].as_array();
        losses.into_iter().flatten().filter_map(Value::as_f64).collect()
    }
}

/// The accuracy of a curve's last epoch.
pub(crate) fn last_accuracy(curve: &[Epoch]) -> Option<f64> {
    curve.last().map(|epoch| epoch.accuracy)
}

/// The epoch with a curve's lowest loss.
pub(crate) fn lowest_loss(curve: &[Epoch]) -> Option<Epoch> {
    let loss = |epoch: &Epoch| epoch.loss.unwrap_or(f64::INFINITY);
    curve.iter().copied().min_by(|a, b| loss(a).total_cmp(&loss(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_curve_that_the_report_needs() {
        let reference = Reference::read().unwrap();
        assert!(reference.text("source").contains("Assignment3") && reference.text("note").contains("n = 1"));
        let lengths = Question::ALL.map(|question| -> Vec<usize> {
            question.rows().iter().map(|row| reference.curve(question, row).len()).collect()
        });
        let expected = [vec![5], vec![10; 4], vec![4, 20, 50, 50], vec![10; 3], vec![0; 4], vec![13], vec![0; 5]];
        assert_eq!((lengths, reference.train_losses().len()), (expected, 50));
        // The epoch in its table is that of the lowest loss.
        let lowest = lowest_loss(&reference.curve(Convergence, "0.1")).unwrap();
        assert_eq!((lowest.number, reference.epochs("0.1")), (17, Some("17")));
    }
}
