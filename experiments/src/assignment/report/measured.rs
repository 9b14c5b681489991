//! What was measured, as far as it can be compared.

use serde_json::Value;

use crate::{
    Run, Sample,
    reproduction::figures::{counted, diverged, finished},
};

/// The patience of early stopping in 1.3, for configs that do not have it.
const PATIENCE: u64 = 3;

/// A row's figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measured {
    /// No run ended.
    Nothing,
    /// All runs that ended left the finite numbers.
    Diverged,
    /// Over the runs that went to their end, beside those that diverged.
    Mean {
        sample: Sample,
        diverged: usize,
    },
    /// When each run converged, beside those that diverged.
    Epochs {
        epochs: Vec<Converged>,
        diverged: usize,
    },
    Count(usize),
}

/// When a run with early stopping came to its lowest test loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Converged {
    /// After this epoch.
    At(usize),
    /// The test loss still improved at the end of so many epochs, which were all it was given.
    Open(usize),
}

impl Measured {
    /// The mean of what `figure` finds in `runs`.
    pub(crate) fn mean(runs: &[Run], figure: impl Fn(&Run) -> Option<f64>) -> Self {
        match (Sample::of(finished(runs).filter_map(figure)), diverged(runs)) {
            (Some(sample), diverged) => Self::Mean { sample, diverged },
            (None, 0) => Self::Nothing,
            (None, _) => Self::Diverged,
        }
    }

    /// When `runs` converged.
    pub(crate) fn epochs(runs: &[Run]) -> Self {
        let epochs: Vec<Converged> = finished(runs).filter_map(converged).collect();
        match (epochs.is_empty(), diverged(runs)) {
            (false, diverged) => Self::Epochs { epochs, diverged },
            (true, 0) => Self::Nothing,
            (true, _) => Self::Diverged,
        }
    }
}

/// When a run came to its lowest test loss: open where early stopping's patience was not used up at its end.
pub(crate) fn converged(run: &Run) -> Option<Converged> {
    let record = &run.record;
    let best = record.best_epoch?;
    let last = record.epochs.len();
    let patience = record.config.get("early_stopping").and_then(Value::as_u64).unwrap_or(PATIENCE) as usize;
    let still_improving = record.stopped_early.is_none() && last.saturating_sub(best) < patience;
    Some(if still_improving { Converged::Open(last) } else { Converged::At(best) })
}

/// `17 (n = 1)`, `14.3 ± 2.1 (n = 3)`, `50+ (n = 3)`; each run's where some are open.
pub(crate) fn epochs_text(epochs: &[Converged]) -> String {
    let n = epochs.len();
    let closed = closed(epochs);
    let open: Vec<String> = epochs.iter().filter(|one| one.is_open()).map(|one| one.text()).collect();
    match (closed, open.as_slice()) {
        (Some(sample), []) => counted(sample),
        (None, [first, ..]) if open.iter().all(|one| one == first) => format!("{first} (n = {n})"),
        _ => format!("{} (n = {n})", epochs.iter().map(|one| one.text()).collect::<Vec<_>>().join(", ")),
    }
}

/// The epochs of those runs that converged.
pub(crate) fn closed(epochs: &[Converged]) -> Option<Sample> {
    let closed = epochs.iter().filter_map(|one| match one {
        Converged::At(epoch) => Some(*epoch as f64),
        Converged::Open(_) => None,
    });
    Sample::of(closed)
}

impl Converged {
    /// Whether it was still improving.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn text(self) -> String {
        match self {
            Self::At(epoch) => epoch.to_string(),
            Self::Open(epochs) => format!("{epochs}+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::trained;

    #[test]
    fn a_run_is_open_while_its_best_epoch_is_among_the_last_three_of_fifty() {
        let place = tempfile::tempdir().unwrap();
        let of = |best: usize, epochs: usize, stopped: Option<&str>| {
            let changes = json!({
                "best_epoch": best,
                "stopped_early": stopped,
                "config": { "early_stopping": 3, "epochs": 50 },
            });
            let id = format!("{best}-{epochs}");
            converged(&trained(place.path(), &id, &vec![0.5; epochs], &changes))
        };
        assert_eq!(of(50, 50, None), Some(Converged::Open(50)));
        assert_eq!(of(48, 50, None), Some(Converged::Open(50)));
        assert_eq!(of(47, 50, None), Some(Converged::At(47)));
        assert_eq!(of(17, 20, Some("test_loss has not improved for 3 epochs")), Some(Converged::At(17)));
    }

    #[test]
    fn epochs_of_several_seeds_are_a_mean_or_open_or_each_for_itself() {
        use Converged::{At, Open};
        let shown = |epochs: &[Converged]| epochs_text(epochs);
        assert_eq!(shown(&[At(17)]), "17 (n = 1)");
        // statistics.stdev([12, 15, 16]) in Python is 2.0817.
        assert_eq!(shown(&[At(12), At(15), At(16)]), "14.3 ± 2.1 (n = 3)");
        assert_eq!(shown(&[Open(50), Open(50)]), "50+ (n = 2)");
        assert_eq!(shown(&[At(47), Open(50), Open(50)]), "47, 50+, 50+ (n = 3)");
    }

    #[test]
    fn rows_without_an_ended_run_have_nothing_and_diverged_ones_say_so() {
        let place = tempfile::tempdir().unwrap();
        let figure = |run: &Run| run.last(|epoch| epoch.test_accuracy);
        assert_eq!(Measured::mean(&[], figure), Measured::Nothing);
        let failed = trained(place.path(), "a", &[0.5], &json!({ "status": "failed" }));
        assert_eq!(Measured::mean(&[failed], figure), Measured::Nothing);
        let lost = trained(place.path(), "b", &[0.5], &json!({ "status": "diverged" }));
        assert_eq!(Measured::mean(std::slice::from_ref(&lost), figure), Measured::Diverged);
        assert_eq!(Measured::epochs(&[lost]), Measured::Diverged);
    }
}
