//! Figures of the runs of a row. Only runs that went to their end have figures to compare.

use std::collections::BTreeSet;

use kindling_record::RunStatus;
use serde_json::Value;

use crate::{Run, Sample};

/// What stands where there is no figure.
pub(crate) const NONE: &str = "–";

/// What stands where there is no run.
pub(crate) const NOT_RUN: &str = "not run";

/// Below this accuracy a network that ended counts as one that did not train.
pub(crate) const STUCK: f64 = 0.30;

/// The runs that went to their end.
pub(crate) fn finished(runs: &[Run]) -> impl Iterator<Item = &Run> {
    runs.iter().filter(|run| run.status == RunStatus::Finished)
}

/// How many runs left the finite numbers.
pub(crate) fn diverged(runs: &[Run]) -> usize {
    runs.iter().filter(|run| run.status == RunStatus::Diverged).count()
}

/// What `figure` finds in the runs that went to their end.
pub(crate) fn sample(runs: &[Run], figure: impl Fn(&Run) -> Option<f64>) -> Option<Sample> {
    Sample::of(finished(runs).filter_map(figure))
}

/// The test accuracy after the last epoch.
pub(crate) fn last_accuracy(run: &Run) -> Option<f64> {
    run.last(|epoch| epoch.test_accuracy)
}

/// The highest test accuracy of all epochs.
pub(crate) fn best_accuracy(run: &Run) -> Option<f64> {
    run.record.epochs.iter().filter_map(|epoch| epoch.test_accuracy).reduce(f64::max)
}

/// The test accuracy after the epoch with the lowest test loss.
pub(crate) fn accuracy_at_lowest_loss(run: &Run) -> Option<f64> {
    accuracy_after(run, run.record.best_epoch?)
}

/// The test accuracy after an epoch.
pub(crate) fn accuracy_after(run: &Run, epoch: usize) -> Option<f64> {
    run.record.epochs.iter().find(|one| one.epoch == epoch)?.test_accuracy
}

/// The test loss after the last epoch, in nats.
pub(crate) fn last_loss(run: &Run) -> Option<f64> {
    run.last(|epoch| epoch.test_loss)
}

/// The test loss after an epoch, in nats.
pub(crate) fn loss_after(run: &Run, epoch: usize) -> Option<f64> {
    run.record.epochs.iter().find(|one| one.epoch == epoch)?.test_loss
}

/// How many epochs the runs have, where they went to their end.
pub(crate) fn epochs(runs: &[Run]) -> Option<usize> {
    finished(runs).map(|run| run.record.epochs.len()).max()
}

/// The seed as the config has it.
pub(crate) fn seed(run: &Run) -> Option<&Value> {
    run.record.config.get("seed")
}

/// The runs' figure as a table's cell: mean ± standard deviation, what diverged and where, or why there is nothing.
pub(crate) fn cell(runs: &[Run], sample: Option<Sample>, decimals: usize) -> String {
    let figure = sample.map(|sample| sample.fixed(decimals));
    let parts: Vec<String> = figure.into_iter().chain(divergence(runs)).collect();
    match (parts.is_empty(), runs.is_empty()) {
        (false, _) => parts.join("; "),
        (true, true) => NOT_RUN.to_owned(),
        (true, false) => "not finished".to_owned(),
    }
}

/// Counts such as epochs: `17 (n = 1)`, `14.3 ± 2.1 (n = 3)`.
pub(crate) fn counted(sample: Sample) -> String {
    if sample.n == 1 { sample.fixed(0) } else { sample.fixed(1) }
}

/// A reference's figure, or that there is none.
pub(crate) fn given(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| NONE.to_owned(), |figure| format!("{figure:.decimals$}"))
}

/// Where runs left the finite numbers: `diverged at step 12 in fc1`, for several `2 diverged at steps 12, 15 in fc1`.
pub(crate) fn divergence(runs: &[Run]) -> Option<String> {
    let count = diverged(runs);
    let places: Vec<_> = runs
        .iter()
        .filter(|run| run.status == RunStatus::Diverged)
        .filter_map(|run| run.record.diverged.as_ref())
        .collect();
    let steps: Vec<String> = places.iter().map(|place| place.step.to_string()).collect();
    let layers: BTreeSet<String> =
        places.iter().filter_map(|place| place.layer.as_ref()).map(|layer| format!("`{layer}`")).collect();
    let layers: Vec<String> = layers.into_iter().collect();
    let whereabouts = match steps.as_slice() {
        [] => String::new(),
        [step] => format!(" at step {step}"),
        steps => format!(" at steps {}", steps.join(", ")),
    };
    let within = if layers.is_empty() { String::new() } else { format!(" in {}", layers.join(", ")) };
    match (count, runs.len()) {
        (0, _) => None,
        (1, 1) => Some(format!("diverged{whereabouts}{within}")),
        _ => Some(format!("{count} diverged{whereabouts}{within}")),
    }
}

/// How far one row's mean lies from another's, beside how far single runs spread.
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
        let spread = one.deviation.zip(other.deviation).map(|(one, other)| one.hypot(other));
        Self { by: one.mean - other.mean, spread }
    }

    /// Whether it is larger than the spread; unknown for single runs.
    pub(crate) fn exceeds(self) -> Option<bool> {
        self.spread.map(|spread| self.by.abs() > spread)
    }

    /// The comparison with the spread, as the end of a sentence's part.
    pub(crate) fn beside_spread(self) -> String {
        match self.spread {
            None => "with single runs, whose spread is not known".to_owned(),
            Some(spread) if self.by.abs() > spread => format!("more than the spread over the seeds, {spread:.4}"),
            Some(spread) => format!("within the spread over the seeds, {spread:.4}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::trained;

    #[test]
    fn figures_are_of_the_runs_that_went_to_their_end() {
        let place = tempfile::tempdir().unwrap();
        let stopped = json!({ "status": "interrupted", "config": { "seed": 2 } });
        let runs = [
            trained(place.path(), "a", &[0.5, 0.875, 0.75], &json!({})),
            trained(place.path(), "b", &[0.25], &stopped),
        ];
        let shown = |figure: fn(&Run) -> Option<f64>| cell(&runs, sample(&runs, figure), 3);
        assert_eq!(shown(last_accuracy), "0.750 (n = 1)");
        assert_eq!([shown(best_accuracy), shown(accuracy_at_lowest_loss)], ["0.875 (n = 1)", "0.875 (n = 1)"]);
        assert_eq!(epochs(&runs), Some(3));
        assert_eq!(cell(&runs[1..], sample(&runs[1..], last_accuracy), 3), "not finished");
        assert_eq!(cell(&[], None, 3), NOT_RUN);
    }

    #[test]
    fn diverged_runs_say_where() {
        let place = tempfile::tempdir().unwrap();
        let diverging = |id: &str, step: usize, seed: usize| {
            let place_of = json!({ "step": step, "layer": "fc1", "quantity": "weight" });
            let changes =
                json!({ "status": "diverged", "diverged": place_of, "config": { "seed": seed }, "test": null });
            trained(place.path(), id, &[], &changes)
        };
        let runs = [diverging("a", 12, 1), diverging("b", 15, 2), trained(place.path(), "c", &[0.5], &json!({}))];
        assert_eq!(cell(&runs[..1], None, 4), "diverged at step 12 in `fc1`");
        let last = sample(&runs, last_accuracy);
        assert_eq!(cell(&runs, last, 4), "0.5000 (n = 1); 2 diverged at steps 12, 15 in `fc1`");
    }

    #[test]
    fn a_gap_is_held_against_the_spread_of_both_rows() {
        let [low, high] = [[0.0, 2.0], [3.0, 5.0]].map(|figures| Sample::of(figures).unwrap());
        let gap = Gap::between(low, high);
        // Each has a deviation of the square root of 2.
        assert_eq!(gap.beside_spread(), "more than the spread over the seeds, 2.0000");
        assert_eq!(gap.exceeds(), Some(true));
        let single = Sample::of([1.0]).unwrap();
        assert_eq!(Gap::between(single, high).exceeds(), None);
        let wide = Sample::of([0.0, 10.0]).unwrap();
        assert_eq!(Gap::between(wide, high).exceeds(), Some(false));
    }
}
