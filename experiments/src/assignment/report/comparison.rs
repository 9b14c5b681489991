//! Every figure that is compared with the reference's, and what comes of it.

use crate::{
    Run, Sample, grouped,
    reproduction::{
        Question, Reproduction,
        figures::{NONE, STUCK, best_accuracy, cell, divergence, last_accuracy},
        measured::{Measured, epochs_text},
        prose::beside,
        reference::{self, RATES, Reference, STRUCTURES},
        verdict::{Band, Verdict, verdict},
    },
};

/// A figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Test accuracy after the last epoch.
    Accuracy,
    /// The highest test accuracy of all epochs.
    BestAccuracy,
    /// The epoch with the lowest test loss.
    BestEpoch,
    /// Trainable parameters.
    Parameters,
}

/// A measured figure beside the reference's.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) question: Question,
    pub(crate) row: &'static str,
    pub(crate) compared: Compared,
    pub(crate) runs: &'a [Run],
    pub(crate) measured: Measured,
    /// What is expected; none where the reference has no figure.
    pub(crate) band: Option<Band>,
    pub(crate) verdict: Verdict,
}

/// All comparisons, in the order of the questions.
pub(crate) fn comparisons(reproduction: &Reproduction) -> Vec<Comparison<'_>> {
    let compare = |(question, row, compared, band): (Question, &'static str, Compared, Option<Band>)| {
        let runs = reproduction.runs(question, row);
        let measured = compared.of(runs);
        let quick = reproduction.quick || runs.iter().any(Run::is_limited);
        let verdict = verdict(&measured, band.as_ref(), quick);
        Comparison { question, row, compared, runs, measured, band, verdict }
    };
    expected(&reproduction.reference).into_iter().map(compare).collect()
}

/// What came of one of them, as tables have it.
pub(crate) fn verdict_of(
    reproduction: &Reproduction,
    question: Question,
    row: &str,
    compared: Compared,
) -> &'static str {
    comparisons(reproduction)
        .iter()
        .find(|one| one.question == question && one.row == row && one.compared == compared)
        .map_or(NONE, |one| one.verdict.as_str())
}

/// The figures of the reference, with the room that single runs of another program on other hardware need: seeds of
/// this protocol spread by a few thousandths, more where training is still far from its end.
fn expected(reference: &Reference) -> Vec<(Question, &'static str, Compared, Option<Band>)> {
    let near = |figure: Option<f64>, distance: f64| figure.map(|reference| Band::Near { reference, distance });
    let first = reference::last_accuracy(&reference.first_run.epochs);
    let mut all = vec![(Question::FirstRun, "mlp", Compared::Accuracy, near(first, 0.020))];
    for rate in RATES {
        let figure = reference.learning_rates.accuracy(rate);
        let band = match rate {
            "1" => figure.map(|reference| Band::Stuck { reference, below: STUCK }),
            "0.001" => near(figure, 0.020),
            _ => near(figure, 0.010),
        };
        all.push((Question::LearningRates, rate, Compared::Accuracy, band));
    }
    for rate in RATES {
        let converged = reference.convergence.converged(rate);
        let figure = converged.map(|one| one.accuracy);
        let accuracy = match rate {
            "1" => figure.map(|reference| Band::Stuck { reference, below: STUCK }),
            // Where it stops depends on a loss that hardly moves for ten epochs.
            "0.1" => figure.map(|reference| Band::Between { reference, low: 0.870, high: 0.887 }),
            _ => near(figure, 0.010),
        };
        all.push((Question::Convergence, rate, Compared::Accuracy, accuracy));
        // A rate that does not train has its lowest loss anywhere.
        if rate != "1" {
            let epochs = converged.and_then(|one| epochs_band(&one.epoch));
            all.push((Question::Convergence, rate, Compared::BestEpoch, epochs));
        }
    }
    for (row, _) in STRUCTURES {
        let structure = reference.structures.structure(row);
        let accuracy = near(structure.map(|one| one.accuracy), 0.010);
        all.push((Question::Structures, row, Compared::Accuracy, accuracy));
        let parameters = structure.map(|one| Band::Exactly(one.parameters));
        all.push((Question::Structures, row, Compared::Parameters, parameters));
    }
    // The reference does not name its CNN's optimizer.
    let last = near(reference::last_accuracy(&reference.cnn.curve), 0.012);
    all.push((Question::Cnn, "cnn", Compared::Accuracy, last));
    all.push((Question::Cnn, "cnn", Compared::BestAccuracy, near(Some(reference.cnn.table.accuracy), 0.012)));
    all.push((Question::Cnn, "cnn", Compared::Parameters, Some(Band::Exactly(reference.cnn.parameters))));
    for row in ["more layers", "falling learning rate", "augmentation", "all"] {
        all.push((Question::Suggestions, row, Compared::Accuracy, None));
    }
    all
}

/// From `17` or `50+`.
fn epochs_band(epoch: &str) -> Option<Band> {
    match epoch.strip_suffix('+') {
        Some(epochs) => epochs.parse().ok().map(Band::Open),
        None => epoch.parse().ok().map(|reference| Band::Within { reference, first: 8, last: 25 }),
    }
}

impl Compared {
    /// As it stands in tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy, last epoch",
            Self::BestAccuracy => "accuracy, best epoch",
            Self::BestEpoch => "epochs to convergence",
            Self::Parameters => "parameters",
        }
    }

    fn of(self, runs: &[Run]) -> Measured {
        match self {
            Self::Accuracy => Measured::mean(runs, last_accuracy),
            Self::BestAccuracy => Measured::mean(runs, best_accuracy),
            Self::BestEpoch => Measured::epochs(runs),
            Self::Parameters => runs.first().map_or(Measured::Nothing, |run| Measured::Count(run.record.parameters)),
        }
    }
}

impl Comparison<'_> {
    /// The row with its question's words for it.
    pub(crate) fn label(&self) -> String {
        match self.question {
            Question::LearningRates | Question::Convergence => format!("learning rate {}", self.row),
            _ => self.row.to_owned(),
        }
    }

    /// What was measured.
    pub(crate) fn measured_text(&self) -> String {
        match &self.measured {
            Measured::Mean { sample, .. } => cell(self.runs, Some(*sample), 4),
            Measured::Count(count) => grouped(*count),
            Measured::Epochs { epochs, .. } => {
                let epochs = std::iter::once(epochs_text(epochs));
                epochs.chain(divergence(self.runs)).collect::<Vec<_>>().join("; ")
            }
            Measured::Nothing | Measured::Diverged => cell(self.runs, None, 4),
        }
    }

    /// The reference's figure.
    pub(crate) fn reference_text(&self) -> String {
        self.band.as_ref().map_or_else(|| NONE.to_owned(), Band::reference_text)
    }

    /// What is expected.
    pub(crate) fn expected_text(&self) -> String {
        self.band.as_ref().map_or_else(|| NONE.to_owned(), Band::expected_text)
    }

    /// Measured less reference.
    pub(crate) fn difference_text(&self) -> String {
        self.band.as_ref().map_or_else(|| NONE.to_owned(), |band| band.difference_text(&self.measured))
    }

    /// How a figure outside its band differs.
    pub(crate) fn remark(&self) -> String {
        let measured = self.measured_text();
        let (reference, expected) = (self.reference_text(), self.expected_text());
        let outcome = format!("Measured: {measured}. The reference has {reference}, expected was {expected}.");
        let Some(band) = &self.band else { return outcome };
        match &self.measured {
            Measured::Mean { sample, diverged } => {
                let distance = band.reference().map(|reference| distance(*sample, reference, 4));
                let lost =
                    (*diverged > 0).then(|| "Some of the runs diverged, where the reference's did not".to_owned());
                let parts: Vec<String> =
                    distance.into_iter().chain(outside(band, sample.mean, 4)).chain(lost).collect();
                format!("{outcome} {}.", parts.join(". "))
            }
            Measured::Epochs { .. } => {
                let by = band.difference_text(&self.measured);
                if by == NONE { outcome } else { format!("{outcome} The difference is {by} epochs.") }
            }
            Measured::Count(_) => format!("{outcome} The difference is {}.", band.difference_text(&self.measured)),
            Measured::Nothing | Measured::Diverged => outcome,
        }
    }
}

/// How far a mean is from the reference, also in units of the seeds' standard deviation.
fn distance(sample: Sample, reference: f64, decimals: usize) -> String {
    let by = sample.mean - reference;
    let how_far = format!("The mean lies {} the reference's figure", beside(by, decimals));
    match sample.deviation {
        Some(deviation) if deviation > 0.0 => {
            let times = by.abs() / deviation;
            format!("{how_far}: {times:.1} standard deviations of the {} seeds", sample.n)
        }
        Some(_) => format!("{how_far}; the {} seeds came to the same figure", sample.n),
        None => format!("{how_far}; with a single run the spread over seeds is not known"),
    }
}

/// How far a mean is outside its band.
fn outside(band: &Band, mean: f64, decimals: usize) -> Option<String> {
    let excess = band.excess(mean).filter(|excess| *excess > 0.0)?;
    Some(format!("That is {excess:.decimals$} outside the band"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    fn found<'a>(all: &'a [Comparison<'a>], question: Question, row: &str, compared: Compared) -> &'a Comparison<'a> {
        all.iter().find(|one| one.question == question && one.row == row && one.compared == compared).unwrap()
    }

    #[test]
    fn the_bands_are_those_of_the_references_figures() {
        let reproduction = reproduction(Vec::new());
        let all = comparisons(&reproduction);
        let shown: Vec<[String; 2]> = all.iter().map(|one| [one.reference_text(), one.expected_text()]).collect();
        let expected = [
            ["0.654", "0.634–0.674"],
            ["0.200", "diverged or below 0.30"],
            ["0.877", "0.867–0.887"],
            ["0.834", "0.824–0.844"],
            ["0.705", "0.685–0.725"],
            ["0.100", "diverged or below 0.30"],
            ["0.880", "0.870–0.887"],
            ["17", "8–25"],
            ["0.878", "0.868–0.888"],
            ["50+", "50+"],
            ["0.827", "0.817–0.837"],
            ["50+", "50+"],
            ["0.871", "0.861–0.881"],
            ["669,706", "669,706"],
            ["0.867", "0.857–0.877"],
            ["1,195,018", "1,195,018"],
            ["0.878", "0.868–0.888"],
            ["1,863,690", "1,863,690"],
            ["0.909", "0.897–0.921"],
            ["0.910", "0.898–0.922"],
            ["421,834", "421,834"],
        ];
        assert_eq!(shown[..expected.len()], expected);
        assert!(shown[expected.len()..].iter().all(|one| *one == [NONE, NONE]));
        assert!(all.iter().all(|one| one.verdict == Verdict::NotRun));
    }

    #[test]
    fn a_figure_outside_its_band_says_by_how_much_in_units_of_the_spread() {
        let place = tempfile::tempdir().unwrap();
        let runs = [(1, 0.85), (2, 0.86)].map(|(seed, accuracy)| {
            trained(place.path(), &format!("a-{seed}"), &[accuracy], &json!({ "config": { "seed": seed } }))
        });
        let reproduction = reproduction(vec![row(Question::LearningRates, "0.1", runs.to_vec())]);
        let all = comparisons(&reproduction);
        let one = found(&all, Question::LearningRates, "0.1", Compared::Accuracy);
        assert_eq!((one.verdict, one.difference_text().as_str()), (Verdict::Differs, "-0.0220"));
        let remark = one.remark();
        // 0.022 / statistics.stdev([0.85, 0.86]) is 3.11.
        assert!(
            remark.contains("0.0220 below the reference's figure: 3.1 standard deviations of the 2 seeds"),
            "{remark}"
        );
        assert!(remark.contains("0.0120 outside the band"), "{remark}");
    }

    #[test]
    fn runs_of_a_part_of_the_data_are_not_judged() {
        let place = tempfile::tempdir().unwrap();
        let limited = trained(place.path(), "a", &[0.877], &json!({ "config": { "limit_batches": 100 } }));
        let reproduction = reproduction(vec![row(Question::LearningRates, "0.1", vec![limited])]);
        let verdict = verdict_of(&reproduction, Question::LearningRates, "0.1", Compared::Accuracy);
        assert_eq!(verdict, Verdict::Quick.as_str());
    }
}
