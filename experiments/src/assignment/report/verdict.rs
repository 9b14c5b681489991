//! Whether a measured figure agrees with the reference's.

use crate::{
    grouped,
    reproduction::{
        figures::NONE,
        measured::{Measured, closed},
        prose::signed,
    },
};

/// Room for the rounding of means: accuracies are counts out of 10,000, and sums of a few of them are exact to 1e-15.
const ROUNDING: f64 = 1e-9;

/// What a figure is held to. Accuracies are fractions; both ends belong to a band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Band {
    /// Not farther than `distance` from the reference's figure.
    Near { reference: f64, distance: f64 },
    /// An accuracy between these.
    Between { reference: f64, low: f64, high: f64 },
    /// No training: diverged, or an accuracy below this.
    Stuck { reference: f64, below: f64 },
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
    /// The figure is in the band.
    Agrees,
    /// It is not.
    Differs,
    /// There is no figure.
    NotRun,
    /// The runs saw a part of the data, and their figures say nothing.
    Quick,
    /// The reference has no figure.
    NoReference,
}

impl Verdict {
    /// As it stands in tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Differs => "differs",
            Self::NotRun => "not run",
            Self::Quick => "quick",
            Self::NoReference => "no reference",
        }
    }
}

/// What `measured` comes to beside `band`; the reference has no figure where there is none.
pub(crate) fn verdict(measured: &Measured, band: Option<&Band>, quick: bool) -> Verdict {
    match band {
        _ if *measured == Measured::Nothing => Verdict::NotRun,
        _ if quick => Verdict::Quick,
        None => Verdict::NoReference,
        Some(band) if band.holds(measured) => Verdict::Agrees,
        Some(_) => Verdict::Differs,
    }
}

impl Band {
    /// Whether `measured` lies in it. Where the reference trained, a seed that diverges does not agree.
    fn holds(&self, measured: &Measured) -> bool {
        match (measured, self) {
            (Measured::Diverged, Self::Stuck { .. }) => true,
            (Measured::Mean { sample, .. }, Self::Stuck { below, .. }) => sample.mean < *below,
            (Measured::Mean { sample, diverged: 0 }, _) => self.excess(sample.mean) == Some(0.0),
            (Measured::Epochs { epochs, diverged: 0 }, Self::Open(_)) => epochs.iter().all(|one| one.is_open()),
            (Measured::Epochs { epochs, diverged: 0 }, Self::Within { .. }) => {
                let mean = closed(epochs).filter(|sample| sample.n == epochs.len()).map(|sample| sample.mean);
                mean.and_then(|mean| self.excess(mean)) == Some(0.0)
            }
            (Measured::Count(count), Self::Exactly(reference)) => count == reference,
            _ => false,
        }
    }

    /// How far `figure` lies outside, 0 within; none where the band is no interval.
    pub(crate) fn excess(&self, figure: f64) -> Option<f64> {
        let (low, high) = match *self {
            Self::Near { reference, distance } => (reference - distance, reference + distance),
            Self::Between { low, high, .. } => (low, high),
            Self::Within { first, last, .. } => (first as f64, last as f64),
            Self::Stuck { .. } | Self::Open(_) | Self::Exactly(_) => return None,
        };
        let outside = (low - figure).max(figure - high);
        Some(if outside > ROUNDING { outside } else { 0.0 })
    }

    /// The reference's figure, where it is a number.
    pub(crate) fn reference(&self) -> Option<f64> {
        match *self {
            Self::Near { reference, .. } | Self::Between { reference, .. } | Self::Stuck { reference, .. } => {
                Some(reference)
            }
            Self::Within { reference, .. } | Self::Exactly(reference) => Some(reference as f64),
            Self::Open(_) => None,
        }
    }

    /// The reference's figure as its tables have it.
    pub(crate) fn reference_text(&self) -> String {
        match *self {
            Self::Near { reference, .. } | Self::Between { reference, .. } | Self::Stuck { reference, .. } => {
                format!("{reference:.3}")
            }
            Self::Within { reference, .. } => reference.to_string(),
            Self::Open(epochs) => format!("{epochs}+"),
            Self::Exactly(count) => grouped(count),
        }
    }

    /// What is expected.
    pub(crate) fn expected_text(&self) -> String {
        match *self {
            Self::Near { reference, distance } => format!("{:.3}–{:.3}", reference - distance, reference + distance),
            Self::Between { low, high, .. } => format!("{low:.3}–{high:.3}"),
            Self::Stuck { below, .. } => format!("diverged or below {below:.2}"),
            Self::Within { first, last, .. } => format!("{first}–{last}"),
            Self::Open(epochs) => format!("{epochs}+"),
            Self::Exactly(count) => grouped(count),
        }
    }

    /// How far `measured` lies from the reference's figure.
    pub(crate) fn difference_text(&self, measured: &Measured) -> String {
        let none = || NONE.to_owned();
        match (measured, self) {
            (Measured::Mean { sample, .. }, _) => {
                self.reference().map_or_else(none, |reference| signed(sample.mean - reference, 4))
            }
            (Measured::Epochs { epochs, .. }, Self::Within { reference, .. }) => closed(epochs)
                .filter(|sample| sample.n == epochs.len())
                .map_or_else(none, |sample| signed(sample.mean - *reference as f64, 1)),
            (Measured::Count(count), Self::Exactly(reference)) => match count.abs_diff(*reference) {
                0 => "0".to_owned(),
                by if count > reference => format!("+{}", grouped(by)),
                by => format!("-{}", grouped(by)),
            },
            _ => none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Sample,
        reproduction::measured::Converged::{At, Open},
    };

    fn mean(figure: f64) -> Measured {
        Measured::Mean { sample: Sample::of([figure]).unwrap(), diverged: 0 }
    }

    fn judged(measured: &Measured, band: Band) -> Verdict {
        verdict(measured, Some(&band), false)
    }

    #[test]
    fn the_edges_of_a_band_belong_to_it() {
        let near = Band::Near { reference: 0.654, distance: 0.02 };
        let between = Band::Between { reference: 0.88, low: 0.870, high: 0.887 };
        // A test accuracy moves in steps of 0.0001.
        for (figure, band) in [(0.634, near), (0.674, near), (0.654, near), (0.870, between), (0.887, between)] {
            assert_eq!(judged(&mean(figure), band), Verdict::Agrees, "{figure}");
        }
        for (figure, band) in [(0.6339, near), (0.6741, near), (0.8699, between), (0.8871, between)] {
            assert_eq!(judged(&mean(figure), band), Verdict::Differs, "{figure}");
        }
    }

    #[test]
    fn a_mean_of_seeds_at_the_edge_is_not_lost_to_rounding() {
        let sample = Sample::of([0.8671, 0.8669, 0.8670]).unwrap();
        let band = Band::Near { reference: 0.877, distance: 0.010 };
        assert_eq!(judged(&Measured::Mean { sample, diverged: 0 }, band), Verdict::Agrees);
    }

    #[test]
    fn a_rate_that_should_not_train_agrees_when_it_diverges_or_stays_low() {
        let stuck = Band::Stuck { reference: 0.2, below: 0.30 };
        assert_eq!(judged(&Measured::Diverged, stuck), Verdict::Agrees);
        assert_eq!([0.2999, 0.30].map(|figure| judged(&mean(figure), stuck)), [Verdict::Agrees, Verdict::Differs]);
        let near = Band::Near { reference: 0.877, distance: 0.010 };
        assert_eq!(judged(&Measured::Diverged, near), Verdict::Differs);
        let one_lost = Measured::Mean { sample: Sample::of([0.877]).unwrap(), diverged: 1 };
        assert_eq!(judged(&one_lost, near), Verdict::Differs);
    }

    #[test]
    fn epochs_agree_by_their_mean_or_when_all_are_open() {
        let epochs = |epochs: &[_]| Measured::Epochs { epochs: epochs.to_vec(), diverged: 0 };
        let within = Band::Within { reference: 17, first: 8, last: 25 };
        assert_eq!([8, 25].map(|epoch| judged(&epochs(&[At(epoch)]), within)), [Verdict::Agrees; 2]);
        assert_eq!([7, 26].map(|epoch| judged(&epochs(&[At(epoch)]), within)), [Verdict::Differs; 2]);
        assert_eq!(judged(&epochs(&[At(7), At(26)]), within), Verdict::Agrees);
        assert_eq!(judged(&epochs(&[At(17), Open(50)]), within), Verdict::Differs);
        assert_eq!(judged(&epochs(&[Open(50), Open(50)]), Band::Open(50)), Verdict::Agrees);
        assert_eq!(judged(&epochs(&[At(47), Open(50)]), Band::Open(50)), Verdict::Differs);
    }

    #[test]
    fn counts_have_to_be_the_same() {
        let exactly = Band::Exactly(669_706);
        assert_eq!(judged(&Measured::Count(669_706), exactly), Verdict::Agrees);
        assert_eq!(judged(&Measured::Count(669_705), exactly), Verdict::Differs);
        assert_eq!(exactly.difference_text(&Measured::Count(668_706)), "-1,000");
    }

    #[test]
    fn missing_runs_quick_runs_and_missing_references_come_to_no_judgement() {
        let band = Band::Near { reference: 0.654, distance: 0.02 };
        assert_eq!(verdict(&Measured::Nothing, Some(&band), true), Verdict::NotRun);
        assert_eq!(verdict(&mean(0.654), Some(&band), true), Verdict::Quick);
        assert_eq!(verdict(&mean(0.654), None, false), Verdict::NoReference);
    }

    #[test]
    fn a_band_says_what_it_expects_and_how_far_a_figure_is_off() {
        let near = Band::Near { reference: 0.877, distance: 0.01 };
        assert_eq!([near.reference_text(), near.expected_text()], ["0.877", "0.867–0.887"]);
        assert_eq!(near.difference_text(&mean(0.8755)), "-0.0015");
        let within = Band::Within { reference: 17, first: 8, last: 25 };
        assert_eq!([within.reference_text(), within.expected_text()], ["17", "8–25"]);
        assert_eq!(within.difference_text(&Measured::Epochs { epochs: vec![At(14)], diverged: 0 }), "-3.0");
        assert_eq!(near.excess(0.85).map(|excess| format!("{excess:.4}")), Some("0.0170".to_owned()));
    }
}
