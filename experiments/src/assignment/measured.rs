//! What the runs came to. Only runs that finished have metrics to compare.

use std::collections::BTreeSet;

use kindling_record::RunStatus;
pub(crate) use kindling_report::NONE;
use kindling_report::{Pictures, Run, Sample};
use serde_json::Value;

use super::reference::{Question, Reference};

/// What stands where there is no run.
pub(crate) const NOT_RUN: &str = "not run";

/// Below this accuracy a network counts as one that did not train.
pub(crate) const STUCK: f64 = 0.30;

/// The patience of early stopping in 1.3, for configs that do not have it.
const PATIENCE: u64 = 3;

pub(crate) const ACCURACY: &str = "test/accuracy";
/// In nats.
pub(crate) const LOSS: &str = "test/loss";

/// Everything that the report is made from.
#[derive(Debug)]
pub(crate) struct Reproduction {
    pub(crate) reference: Reference,
    /// The command that made it.
    pub(crate) command: String,
    /// Whether the runs saw a part of the data, to be done in minutes: nothing is judged then.
    pub(crate) quick: bool,
    /// Some images of the data set.
    pub(crate) samples: Option<Pictures>,
    /// A run may be in several rows.
    pub(crate) rows: Vec<Row>,
}

/// One row of a question's table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) question: Question,
    /// As in [`Question::rows`].
    pub(crate) name: &'static str,
    /// Its runs, which differ by their seed alone; none where they were not asked for or failed.
    pub(crate) runs: Vec<Run>,
}

impl Reproduction {
    /// The runs of a row; none where it was not run.
    pub(crate) fn runs(&self, question: Question, name: &str) -> &[Run] {
        let row = self.rows.iter().find(|row| row.question == question && row.name == name);
        row.map(|row| row.runs.as_slice()).unwrap_or_default()
    }
}

/// When a run with early stopping came to its lowest test loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Converged {
    /// After this epoch.
    At(usize),
    /// The test loss still improved at the end of so many epochs, which were all it was given.
    Open(usize),
}

/// When those runs that finished came to their lowest test loss: open where early stopping's patience was not used up.
pub(crate) fn converged(runs: &[Run]) -> Vec<Converged> {
    let of = |run: &Run| {
        let (best, last) = (run.record.best_epoch?, run.record.epochs.len());
        let patience = training(run, "early_stopping").and_then(Value::as_u64).unwrap_or(PATIENCE) as usize;
        let still_improving = run.record.stopped_early.is_none() && last.saturating_sub(best) < patience;
        Some(if still_improving { Converged::Open(last) } else { Converged::At(best) })
    };
    finished(runs).filter_map(of).collect()
}

/// `17 (n = 1)`, `14.3 ± 2.1 (n = 3)`, `50+ (n = 3)`; each run's where some are open.
pub(crate) fn epochs_text(epochs: &[Converged]) -> String {
    let text = |one: &Converged| match one {
        Converged::At(epoch) => epoch.to_string(),
        Converged::Open(epochs) => format!("{epochs}+"),
    };
    let texts: Vec<String> = epochs.iter().map(text).collect();
    match (closed(epochs), texts.as_slice()) {
        (Some(sample), _) => counted(sample),
        (None, [first, others @ ..]) if others.iter().all(|one| one == first) => {
            format!("{first} (n = {})", texts.len())
        }
        (None, []) => NONE.to_owned(),
        _ => format!("{} (n = {})", texts.join(", "), texts.len()),
    }
}

/// The epochs of runs that all converged.
pub(crate) fn closed(epochs: &[Converged]) -> Option<Sample> {
    let closed = epochs.iter().map(|one| match one {
        Converged::At(epoch) => Some(*epoch as f64),
        Converged::Open(_) => None,
    });
    Sample::of(closed.collect::<Option<Vec<f64>>>()?)
}

impl Converged {
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Open(_))
    }
}

/// The runs that finished.
pub(crate) fn finished(runs: &[Run]) -> impl Iterator<Item = &Run> {
    runs.iter().filter(|run| run.status == RunStatus::Finished)
}

/// How many runs diverged.
pub(crate) fn diverged(runs: &[Run]) -> usize {
    runs.iter().filter(|run| run.status == RunStatus::Diverged).count()
}

/// The values of `metric` in the runs that finished.
pub(crate) fn sample(runs: &[Run], metric: impl Fn(&Run) -> Option<f64>) -> Option<Sample> {
    Sample::of(finished(runs).filter_map(metric))
}

/// The test accuracy after the last epoch.
pub(crate) fn last_accuracy(run: &Run) -> Option<f64> {
    run.last(|epoch| epoch.get(ACCURACY))
}

/// The highest test accuracy of all epochs.
pub(crate) fn best_accuracy(run: &Run) -> Option<f64> {
    run.record.epochs.iter().filter_map(|epoch| epoch.get(ACCURACY)).reduce(f64::max)
}

/// The test accuracy after the epoch with the lowest test loss.
pub(crate) fn accuracy_at_lowest_loss(run: &Run) -> Option<f64> {
    after(run, run.record.best_epoch?, ACCURACY)
}

/// A metric after an epoch.
pub(crate) fn after(run: &Run, epoch: usize, metric: &str) -> Option<f64> {
    run.record.epochs.iter().find(|one| one.epoch == epoch)?.get(metric)
}

/// The first epoch with a test accuracy of `target` or more.
pub(crate) fn epoch_with(run: &Run, target: f64) -> Option<usize> {
    let has = |accuracy: Option<f64>| accuracy.is_some_and(|accuracy| accuracy >= target);
    run.record.epochs.iter().find(|epoch| has(epoch.get(ACCURACY))).map(|epoch| epoch.epoch)
}

/// A value of the section `training` of the run's config.
pub(crate) fn training<'a>(run: &'a Run, key: &str) -> Option<&'a Value> {
    run.record.config.get("training")?.get(key)
}

/// A row's value as a table's cell: mean ± standard deviation, what diverged and where, or why there is nothing.
pub(crate) fn cell(runs: &[Run], sample: Option<Sample>) -> String {
    let value = sample.map(|sample| sample.fixed(4));
    let parts: Vec<String> = value.into_iter().chain(divergence(runs)).collect();
    match (parts.is_empty(), runs.is_empty()) {
        (false, _) => parts.join("; "),
        (true, true) => NOT_RUN.to_owned(),
        (true, false) => "not finished".to_owned(),
    }
}

/// Where runs diverged: `diverged at step 12 in fc1`, for several `2 diverged at steps 12, 15 in fc1`.
pub(crate) fn divergence(runs: &[Run]) -> Option<String> {
    let places = runs.iter().filter(|run| run.status == RunStatus::Diverged);
    let places: Vec<_> = places.filter_map(|run| run.record.diverged.as_ref()).collect();
    let steps: Vec<String> = places.iter().map(|place| place.step.to_string()).collect();
    let layers = places.iter().filter_map(|place| Some(format!("`{}`", place.layer.as_ref()?)));
    let layers: Vec<String> = layers.collect::<BTreeSet<_>>().into_iter().collect();
    let at = match steps.len() {
        0 => String::new(),
        1 => format!(" at step {}", steps[0]),
        _ => format!(" at steps {}", steps.join(", ")),
    };
    let within = if layers.is_empty() { String::new() } else { format!(" in {}", layers.join(", ")) };
    let how_many = match (diverged(runs), runs.len()) {
        (0, _) => return None,
        (1, 1) => String::new(),
        (count, _) => format!("{count} "),
    };
    Some(format!("{how_many}diverged{at}{within}"))
}

/// Counts such as epochs: `17 (n = 1)`, `14.3 ± 2.1 (n = 3)`.
pub(crate) fn counted(sample: Sample) -> String {
    if sample.n == 1 { sample.fixed(0) } else { sample.fixed(1) }
}

/// A difference with its sign; what rounds to zero has a plus.
pub(crate) fn signed(difference: f64, decimals: usize) -> String {
    let shown = format!("{difference:+.decimals$}");
    let is_zero = shown.chars().all(|c| matches!(c, '+' | '-' | '0' | '.'));
    if is_zero { shown.replacen('-', "+", 1) } else { shown }
}

/// How far one row's mean is from another's, beside how far single runs spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    /// The difference of the means.
    pub(crate) by: f64,
    /// Standard deviation of the difference of two runs, one of each row; none where a row has a single run.
    pub(crate) spread: Option<f64>,
}

impl Gap {
    /// From `other` to `one`.
    pub(crate) fn between(other: Sample, one: Sample) -> Self {
        let spread = one.std.zip(other.std).map(|(one, other)| one.hypot(other));
        Self { by: one.mean - other.mean, spread }
    }

    /// Whether it is larger than the spread; unknown for single runs.
    pub(crate) fn exceeds(self) -> Option<bool> {
        self.spread.map(|spread| self.by.abs() > spread)
    }

    /// `+0.0044 (more than the spread over the seeds, 0.0041)`.
    pub(crate) fn text(self) -> String {
        let by = signed(self.by, 4);
        match self.spread {
            None => format!("{by} (single runs, whose spread is not known)"),
            Some(spread) if self.by.abs() > spread => {
                format!("{by} (more than the spread over the seeds, {spread:.4})")
            }
            Some(spread) => format!("{by} (within the spread over the seeds, {spread:.4})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::fixtures::trained, *};

    #[test]
    fn a_run_is_open_while_its_best_epoch_is_among_the_last_three_of_fifty() {
        let place = tempfile::tempdir().unwrap();
        let of = |best: usize, epochs: usize, stopped: Option<&str>| {
            let config = json!({ "training": { "early_stopping": 3, "epochs": 50 } });
            let changes = json!({ "best_epoch": best, "stopped_early": stopped, "config": config });
            converged(&[trained(place.path(), &format!("{best}-{epochs}"), &vec![0.5; epochs], &changes)])
        };
        assert_eq!([50, 48].map(|best| of(best, 50, None)), [[Converged::Open(50)], [Converged::Open(50)]]);
        assert_eq!(of(47, 50, None), [Converged::At(47)]);
        assert_eq!(of(17, 20, Some("test/loss has not improved for 3 epochs")), [Converged::At(17)]);
    }

    #[test]
    fn epochs_of_several_seeds_are_a_mean_or_open_or_each_for_itself() {
        use Converged::{At, Open};
        // statistics.stdev([12, 15, 16]) in Python is 2.0817.
        assert_eq!(epochs_text(&[At(12), At(15), At(16)]), "14.3 ± 2.1 (n = 3)");
        assert_eq!([epochs_text(&[At(17)]), epochs_text(&[Open(50), Open(50)])], ["17 (n = 1)", "50+ (n = 2)"]);
        assert_eq!(epochs_text(&[At(47), Open(50), Open(50)]), "47, 50+, 50+ (n = 3)");
    }

    #[test]
    fn metrics_are_those_of_the_runs_that_finished_and_diverged_ones_say_where() {
        let place = tempfile::tempdir().unwrap();
        let of = |id, curve: &[f64], changes| trained(place.path(), id, curve, &changes);
        let stopped = json!({ "status": "interrupted", "config": { "training": { "seed": 2 } } });
        let runs = [of("a", &[0.5, 0.875, 0.75], json!({})), of("b", &[0.25], stopped)];
        let shown = |metric: fn(&Run) -> Option<f64>| cell(&runs, sample(&runs, metric));
        assert_eq!(shown(last_accuracy), "0.7500 (n = 1)");
        assert_eq!([best_accuracy, accuracy_at_lowest_loss].map(shown), ["0.8750 (n = 1)", "0.8750 (n = 1)"]);
        assert_eq!([0.7, 0.9].map(|target| epoch_with(&runs[0], target)), [Some(2), None]);
        assert_eq!([cell(&runs[1..], sample(&runs[1..], last_accuracy)), cell(&[], None)], ["not finished", NOT_RUN]);
        let at = |step: usize| {
            let diverged = json!({ "step": step, "layer": "fc1", "quantity": "weight" });
            json!({ "status": "diverged", "diverged": diverged, "test": null })
        };
        let runs = [of("c", &[], at(12)), of("d", &[], at(15)), of("e", &[0.5], json!({}))];
        assert_eq!(cell(&runs[..1], None), "diverged at step 12 in `fc1`");
        let last = sample(&runs, last_accuracy);
        assert_eq!(cell(&runs, last), "0.5000 (n = 1); 2 diverged at steps 12, 15 in `fc1`");
    }

    #[test]
    fn a_gap_is_compared_with_the_spread_of_both_rows() {
        let [low, high, wide] = [[0.0, 2.0], [3.0, 5.0], [0.0, 10.0]].map(|values| Sample::of(values).unwrap());
        // Each has a standard deviation of the square root of 2.
        assert_eq!(Gap::between(low, high).text(), "+3.0000 (more than the spread over the seeds, 2.0000)");
        let gaps = [Gap::between(Sample::of([1.0]).unwrap(), high), Gap::between(wide, high), Gap::between(low, high)];
        assert_eq!(gaps.map(Gap::exceeds), [None, Some(false), Some(true)]);
        assert_eq!([0.01234, -0.00001, 0.0].map(|by| signed(by, 4)), ["+0.0123", "+0.0000", "+0.0000"]);
    }
}
