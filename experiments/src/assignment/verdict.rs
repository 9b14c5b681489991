//! Every metric that is compared with the reference's: what is expected, and what comes of it.

use kindling_report::{Run, Sample, grouped};

use super::{
    measured::{
        Converged, NONE, Reproduction, STUCK, best_accuracy, cell, closed, converged, diverged, epochs_text,
        last_accuracy, sample, signed,
    },
    reference::{self, Question, Reference},
};

/// Room for the rounding of means: accuracies are counts out of 10,000, and sums of a few of them are exact to 1e-15.
const ROUNDING: f64 = 1e-9;

/// What is compared of a row.
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

/// The value of a row; those of runs stand beside the number of runs that diverged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// No run ended.
    Nothing,
    /// All runs that ended diverged.
    Diverged,
    Mean(Sample, usize),
    /// When each run converged.
    Epochs(Vec<Converged>, usize),
    Count(usize),
}

/// What is expected. Both ends belong to a band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Band {
    /// An accuracy between these, as a fraction.
    Between { reference: f64, low: f64, high: f64 },
    /// No training: diverged, or an accuracy below [`STUCK`].
    Stuck { reference: f64 },
    /// Converged in one of these epochs.
    Within { reference: usize, first: usize, last: usize },
    /// The test loss still improving in the last of so many epochs.
    Open(usize),
    /// This very count.
    Exactly(usize),
}

/// What comes of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the band.
    Agrees,
    /// It is not.
    Differs,
    /// The runs saw a part of the data: nothing is judged.
    Quick,
    /// The reference has nothing to compare with.
    NoReference,
    /// There is no run.
    NotRun,
}

impl Verdict {
    pub(crate) const ALL: [Self; 5] = [Self::Agrees, Self::Differs, Self::Quick, Self::NoReference, Self::NotRun];

    /// As it stands in tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::Quick => "quick",
            Self::NoReference => "no reference",
            Self::NotRun => "not run",
        }
    }

    fn of(measured: &Measured, band: Option<&Band>, quick: bool) -> Self {
        match band {
            _ if *measured == Measured::Nothing => Self::NotRun,
            _ if quick => Self::Quick,
            None => Self::NoReference,
            Some(band) if band.holds(measured) => Self::Agrees,
            Some(_) => Self::Differs,
        }
    }
}

/// A measured value beside the reference's.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    pub(crate) question: Question,
    pub(crate) row: &'static str,
    pub(crate) compared: Compared,
    pub(crate) runs: &'a [Run],
    pub(crate) measured: Measured,
    /// What is expected; none where the reference has nothing.
    pub(crate) band: Option<Band>,
    pub(crate) verdict: Verdict,
}

/// All comparisons, in the order of the questions.
pub(crate) fn comparisons(reproduction: &Reproduction) -> Vec<Comparison<'_>> {
    let compare = |(question, row, compared, band): Expected| {
        let runs = reproduction.runs(question, row);
        let measured = compared.of(runs);
        let quick = reproduction.quick || runs.iter().any(Run::is_limited);
        let verdict = Verdict::of(&measured, band.as_ref(), quick);
        Comparison { question, row, compared, runs, measured, band, verdict }
    };
    expected(&reproduction.reference).into_iter().map(compare).collect()
}

type Expected = (Question, &'static str, Compared, Option<Band>);

/// The reference's values, with the room that single runs of another program on other hardware need: seeds of this
/// protocol spread by a few thousandths, more where training is still far from its end.
fn expected(reference: &Reference) -> Vec<Expected> {
    use Compared::{Accuracy, BestAccuracy, BestEpoch, Parameters};
    use Question::{Cnn, Convergence, FirstRun, LearningRates, Structures, Suggestions};
    let near = |value: Option<f64>, distance| value.map(|reference| Band::near(reference, distance));
    let stuck = |value: Option<f64>| value.map(|reference| Band::Stuck { reference });
    let last = |question, row| reference::last_accuracy(&reference.curve(question, row));
    let parameters = |question, row| reference.parameters(question, row).map(Band::Exactly);
    let mut all = vec![(FirstRun, "mlp", Accuracy, near(last(FirstRun, "mlp"), 0.020))];
    for &rate in LearningRates.rows() {
        let value = reference.accuracy(LearningRates, rate);
        let band = match rate {
            "1" => stuck(value),
            "0.001" => near(value, 0.020),
            _ => near(value, 0.010),
        };
        all.push((LearningRates, rate, Accuracy, band));
    }
    for &rate in Convergence.rows() {
        let value = reference.accuracy(Convergence, rate);
        let band = match rate {
            "1" => stuck(value),
            // Where it stops depends on a loss that hardly moves for ten epochs.
            "0.1" => value.map(|reference| Band::Between { reference, low: 0.870, high: 0.887 }),
            _ => near(value, 0.010),
        };
        all.push((Convergence, rate, Accuracy, band));
        // A rate that does not train has its lowest loss anywhere.
        if rate != "1" {
            all.push((Convergence, rate, BestEpoch, reference.epochs(rate).and_then(epochs_band)));
        }
    }
    for &row in Structures.rows() {
        all.push((Structures, row, Accuracy, near(reference.accuracy(Structures, row), 0.010)));
        all.push((Structures, row, Parameters, parameters(Structures, row)));
    }
    // The reference does not name its CNN's optimizer; its table is of the best epoch.
    all.push((Cnn, "cnn", Accuracy, near(last(Cnn, "cnn"), 0.012)));
    all.push((Cnn, "cnn", BestAccuracy, near(reference.accuracy(Cnn, "cnn"), 0.012)));
    all.push((Cnn, "cnn", Parameters, parameters(Cnn, "cnn")));
    all.extend(Suggestions.rows()[1..].iter().map(|&row| (Suggestions, row, Accuracy, None)));
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
        let lost = diverged(runs);
        let mean = |metric: fn(&Run) -> Option<f64>| sample(runs, metric).map(|sample| Measured::Mean(sample, lost));
        let measured = match self {
            Self::Accuracy => mean(last_accuracy),
            Self::BestAccuracy => mean(best_accuracy),
            Self::BestEpoch => {
                let epochs = converged(runs);
                (!epochs.is_empty()).then_some(Measured::Epochs(epochs, lost))
            }
            Self::Parameters => {
                return runs.first().map_or(Measured::Nothing, |run| Measured::Count(run.record.parameters));
            }
        };
        measured.unwrap_or(if lost > 0 { Measured::Diverged } else { Measured::Nothing })
    }
}

impl Band {
    /// Not farther than `distance` from the reference.
    fn near(reference: f64, distance: f64) -> Self {
        Self::Between { reference, low: reference - distance, high: reference + distance }
    }

    /// Whether `measured` lies in it. Where the reference trained, a seed that diverges does not agree.
    fn holds(&self, measured: &Measured) -> bool {
        match (measured, self) {
            (Measured::Diverged, Self::Stuck { .. }) => true,
            (Measured::Mean(sample, _), Self::Stuck { .. }) => sample.mean < STUCK,
            (Measured::Mean(sample, 0), _) => self.excess(sample.mean) == Some(0.0),
            (Measured::Epochs(epochs, 0), Self::Open(_)) => epochs.iter().all(|one| one.is_open()),
            (Measured::Epochs(epochs, 0), _) => closed(epochs).and_then(|sample| self.excess(sample.mean)) == Some(0.0),
            (Measured::Count(count), Self::Exactly(reference)) => count == reference,
            _ => false,
        }
    }

    /// How far `value` lies outside, 0 within; none where the band is no interval.
    fn excess(&self, value: f64) -> Option<f64> {
        let (low, high) = match *self {
            Self::Between { low, high, .. } => (low, high),
            Self::Within { first, last, .. } => (first as f64, last as f64),
            Self::Stuck { .. } | Self::Open(_) | Self::Exactly(_) => return None,
        };
        let outside = (low - value).max(value - high);
        Some(if outside > ROUNDING { outside } else { 0.0 })
    }

    /// The reference's value, and what is expected.
    fn texts(&self) -> [String; 2] {
        match *self {
            Self::Between { reference, low, high } => [format!("{reference:.3}"), format!("{low:.3}–{high:.3}")],
            Self::Stuck { reference } => [format!("{reference:.3}"), format!("diverged or below {STUCK:.2}")],
            Self::Within { reference, first, last } => [reference.to_string(), format!("{first}–{last}")],
            Self::Open(epochs) => [format!("{epochs}+"), format!("{epochs}+")],
            Self::Exactly(count) => [grouped(count), grouped(count)],
        }
    }

    fn difference_text(&self, measured: &Measured) -> Option<String> {
        match (measured, *self) {
            (Measured::Mean(sample, _), Self::Between { reference, .. } | Self::Stuck { reference }) => {
                Some(signed(sample.mean - reference, 4))
            }
            (Measured::Epochs(epochs, _), Self::Within { reference, .. }) => {
                closed(epochs).map(|sample| signed(sample.mean - reference as f64, 1))
            }
            (Measured::Count(count), Self::Exactly(reference)) => Some(match count.abs_diff(reference) {
                0 => "0".to_owned(),
                by => format!("{}{}", if *count > reference { '+' } else { '-' }, grouped(by)),
            }),
            _ => None,
        }
    }
}

impl Comparison<'_> {
    /// What was measured, what the reference has, what is between them, and what is expected.
    pub(crate) fn texts(&self) -> [String; 4] {
        let measured = match &self.measured {
            Measured::Mean(sample, _) => cell(self.runs, Some(*sample)),
            Measured::Count(count) => grouped(*count),
            Measured::Epochs(epochs, 0) => epochs_text(epochs),
            Measured::Epochs(epochs, _) => format!("{}; {}", epochs_text(epochs), cell(self.runs, None)),
            Measured::Nothing | Measured::Diverged => cell(self.runs, None),
        };
        let none = || NONE.to_owned();
        let [reference, expected] = self.band.as_ref().map_or_else(|| [none(), none()], Band::texts);
        let difference = self.band.as_ref().and_then(|band| band.difference_text(&self.measured));
        [measured, reference, difference.unwrap_or_else(none), expected]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            fixtures::{reproduction, row, trained},
            measured::Converged::{At, Open},
        },
        *,
    };

    fn mean(value: f64) -> Measured {
        Measured::Mean(Sample::of([value]).unwrap(), 0)
    }

    fn judged(measured: &Measured, band: Band) -> Verdict {
        Verdict::of(measured, Some(&band), false)
    }

    #[test]
    fn the_edges_of_a_band_belong_to_it() {
        let near = Band::near(0.654, 0.02);
        let between = Band::Between { reference: 0.88, low: 0.870, high: 0.887 };
        // A test accuracy moves in steps of 0.0001.
        for (value, band) in [(0.634, near), (0.674, near), (0.654, near), (0.870, between), (0.887, between)] {
            assert_eq!(judged(&mean(value), band), Verdict::Agrees, "{value}");
        }
        for (value, band) in [(0.6339, near), (0.6741, near), (0.8699, between), (0.8871, between)] {
            assert_eq!(judged(&mean(value), band), Verdict::Differs, "{value}");
        }
        // Nor is a mean of seeds at the edge lost to rounding.
        let sample = Sample::of([0.8671, 0.8669, 0.8670]).unwrap();
        let band = Band::near(0.877, 0.010);
        assert_eq!(judged(&Measured::Mean(sample, 0), band), Verdict::Agrees);
    }

    #[test]
    fn a_rate_that_should_not_train_agrees_when_it_diverges_or_stays_low() {
        let stuck = Band::Stuck { reference: 0.2 };
        assert_eq!(judged(&Measured::Diverged, stuck), Verdict::Agrees);
        assert_eq!([0.2999, 0.30].map(|value| judged(&mean(value), stuck)), [Verdict::Agrees, Verdict::Differs]);
        let near = Band::near(0.877, 0.010);
        assert_eq!(judged(&Measured::Diverged, near), Verdict::Differs);
        let one_lost = Measured::Mean(Sample::of([0.877]).unwrap(), 1);
        assert_eq!([near, stuck].map(|band| judged(&one_lost, band)), [Verdict::Differs; 2]);
    }

    #[test]
    fn epochs_agree_by_their_mean_or_when_all_are_open_and_counts_when_they_are_the_same() {
        let epochs = |epochs: &[_]| Measured::Epochs(epochs.to_vec(), 0);
        let within = Band::Within { reference: 17, first: 8, last: 25 };
        assert_eq!([8, 25].map(|epoch| judged(&epochs(&[At(epoch)]), within)), [Verdict::Agrees; 2]);
        assert_eq!([7, 26].map(|epoch| judged(&epochs(&[At(epoch)]), within)), [Verdict::Differs; 2]);
        assert_eq!(judged(&epochs(&[At(7), At(26)]), within), Verdict::Agrees);
        assert_eq!(judged(&epochs(&[At(17), Open(50)]), within), Verdict::Differs);
        assert_eq!(judged(&epochs(&[Open(50), Open(50)]), Band::Open(50)), Verdict::Agrees);
        assert_eq!(judged(&epochs(&[At(47), Open(50)]), Band::Open(50)), Verdict::Differs);
        assert_eq!(within.difference_text(&epochs(&[At(14)])).unwrap(), "-3.0");
        assert_eq!(within.difference_text(&epochs(&[At(14), Open(50)])), None);
        let exactly = Band::Exactly(669_706);
        assert_eq!(
            [669_706, 669_705].map(|count| judged(&Measured::Count(count), exactly)),
            [Verdict::Agrees, Verdict::Differs]
        );
        assert_eq!(exactly.difference_text(&Measured::Count(668_706)).unwrap(), "-1,000");
    }

    #[test]
    fn missing_runs_quick_runs_and_missing_references_are_not_judged() {
        let band = Band::near(0.654, 0.02);
        assert_eq!(Verdict::of(&Measured::Nothing, Some(&band), true), Verdict::NotRun);
        assert_eq!(Verdict::of(&mean(0.654), Some(&band), true), Verdict::Quick);
        assert_eq!(Verdict::of(&mean(0.654), None, false), Verdict::NoReference);
        let place = tempfile::tempdir().unwrap();
        let limited = json!({ "config": { "training": { "limit_batches": 100 } } });
        let runs = vec![trained(place.path(), "a", &[0.877], &limited)];
        let reproduction = reproduction(vec![row(Question::LearningRates, "0.1", runs)]);
        assert_eq!(comparisons(&reproduction).iter().filter(|one| one.verdict == Verdict::Quick).count(), 1);
    }

    #[test]
    fn the_bands_are_those_of_the_reference() {
        let reproduction = reproduction(Vec::new());
        let all = comparisons(&reproduction);
        let shown =
            all.iter().map(Comparison::texts).map(|[_, reference, _, expected]| format!("{reference}: {expected}"));
        let expected = "0.654: 0.634–0.674, 0.200: diverged or below 0.30, 0.877: 0.867–0.887, 0.834: 0.824–0.844, \
                        0.705: 0.685–0.725, 0.100: diverged or below 0.30, 0.880: 0.870–0.887, 17: 8–25, \
                        0.878: 0.868–0.888, 50+: 50+, 0.827: 0.817–0.837, 50+: 50+, 0.871: 0.861–0.881, \
                        669,706: 669,706, 0.867: 0.857–0.877, 1,195,018: 1,195,018, 0.878: 0.868–0.888, \
                        1,863,690: 1,863,690, 0.909: 0.897–0.921, 0.910: 0.898–0.922, 421,834: 421,834, \
                        –: –, –: –, –: –, –: –";
        assert_eq!(shown.collect::<Vec<_>>().join(", "), expected);
        assert!(all.iter().all(|one| one.verdict == Verdict::NotRun));
    }
}
