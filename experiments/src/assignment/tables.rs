//! The tables: measured values beside the reference's.

use kindling_report::{Run, Sample, TableBlock, grouped};

use super::{
    measured::{
        ACCURACY, Gap, LOSS, NONE, Reproduction, accuracy_at_lowest_loss, after, best_accuracy, cell, converged,
        counted, divergence, epoch_with, epochs_text, finished, last_accuracy, sample, signed,
    },
    reference::{Epoch, Question, last_accuracy as last_of, lowest_loss},
    verdict::{Compared, Comparison, Verdict, comparisons},
};

/// A table with the columns that `header` has between bars. The first `text` and the last `words` hold no numbers.
pub(crate) fn table(
    caption: impl Into<String>,
    header: &str,
    [text, words]: [usize; 2],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> TableBlock {
    let header: Vec<String> = header.split(" | ").map(str::to_owned).collect();
    let right = (text..header.len() - words).collect();
    TableBlock { caption: caption.into(), header, right, rows: rows.into_iter().collect() }
}

/// Every comparison with its verdict.
pub(crate) fn summary_table(all: &[Comparison<'_>]) -> TableBlock {
    let rows = all.iter().map(|one| {
        let row = [one.question.number(), &one.question.label(one.row), one.compared.as_str()].map(str::to_owned);
        row.into_iter().chain(one.texts()).chain([one.verdict.as_str().to_owned()]).collect()
    });
    let caption = "Every compared metric: mean ± standard deviation over n runs that differ by their seed, and the \
                   reference's single run. Accuracies are fractions of the 10,000 test images. A metric agrees when \
                   its mean is in the expected band.";
    let header = "question | row | metric | measured | reference | difference | expected | verdict";
    table(caption, header, [3, 1], rows)
}

/// The same for a terminal.
pub(crate) fn main_table(reproduction: &Reproduction) -> TableBlock {
    let all = comparisons(reproduction);
    let rows = summary_table(&all).rows.into_iter().map(|row| {
        let metric = format!("{}: {}", row[1], row[2]);
        vec![row[0].clone(), metric, row[3].clone(), row[4].clone(), row[7].clone()]
    });
    table(verdicts(&all), "question | metric | measured | reference | verdict", [2, 1], rows)
}

/// `Verdicts on 25 metrics: agrees 21, no reference 4.`
pub(crate) fn verdicts(all: &[Comparison<'_>]) -> String {
    let count = |verdict: Verdict| (all.iter().filter(|one| one.verdict == verdict).count(), verdict.as_str());
    let counts = Verdict::ALL.map(count).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, verdict)| format!("{verdict} {count}")).collect();
    format!("Verdicts on {} metrics: {}.", all.len(), counts.join(", "))
}

/// The runs of a row that differs from the reference.
pub(crate) fn runs_table(comparison: &Comparison<'_>) -> TableBlock {
    let rows = comparison.runs.iter().map(|run| {
        let record = &run.record;
        let last = |metric: &str| given(run.last(|epoch| epoch.get(metric)), 4);
        let lowest = record.best_epoch.and_then(|epoch| after(run, epoch, LOSS));
        vec![
            format!("`{}`", record.id),
            divergence(std::slice::from_ref(run)).unwrap_or_else(|| run.status.to_string()),
            run.seed().map_or_else(none, |seed| seed.to_string()),
            record.epochs.len().to_string(),
            last(ACCURACY),
            given(best_accuracy(run), 4),
            last(LOSS),
            given(lowest, 4),
            record.best_epoch.map_or_else(none, |epoch| epoch.to_string()),
            last("train/loss"),
            last("train/accuracy"),
        ]
    });
    let header = "run | status | seed | epochs | accuracy, last | accuracy, best | test loss, last | lowest | at epoch \
                  | train loss, last | train accuracy, last";
    let [measured, _, _, expected] = comparison.texts();
    let caption = format!(
        "Measured {measured}, expected {expected}. Losses in nats; those of training are means over the last epoch."
    );
    table(caption, header, [2, 0], rows)
}

/// 1.1: accuracy and loss after each epoch.
pub(crate) fn epochs_table(reproduction: &Reproduction) -> TableBlock {
    let runs = reproduction.runs(Question::FirstRun, "mlp");
    let curve = reproduction.reference.curve(Question::FirstRun, "mlp");
    let rows = curve.into_iter().map(|Epoch { number: epoch, accuracy, loss }| {
        let metrics = [(ACCURACY, Some(accuracy), 3), (LOSS, loss, 6)].map(|(metric, reference, decimals)| {
            let sample = sample(runs, |run| after(run, epoch, metric));
            [cell(runs, sample), given(reference, decimals), difference(sample, reference)]
        });
        std::iter::once(epoch.to_string()).chain(metrics.into_iter().flatten()).collect()
    });
    let header = "epoch | test accuracy | reference | difference | test loss (nats) | reference | difference";
    table("First run, after each epoch: mean ± standard deviation over the n runs.", header, [0, 0], rows)
}

/// 1.2, 1.3, 1.5, 1.7: accuracies beside the reference's table and curves, which do not agree everywhere; in 1.3 also
/// the epochs to convergence.
pub(crate) fn accuracy_table(reproduction: &Reproduction, question: Question, rows_are: &str) -> TableBlock {
    let is_long = question == Question::Convergence;
    let reference = &reproduction.reference;
    let all = comparisons(reproduction);
    let rows = question.rows().iter().map(|&row| {
        let (runs, curve) = (reproduction.runs(question, row), reference.curve(question, row));
        let (of_table, of_curve) = (reference.accuracy(question, row), last_of(&curve));
        let (best, best_of_curve) = if is_long {
            (sample(runs, accuracy_at_lowest_loss), lowest_loss(&curve).map(|epoch| epoch.accuracy))
        } else {
            (sample(runs, best_accuracy), curve.iter().map(|epoch| epoch.accuracy).reduce(f64::max))
        };
        let last = sample(runs, last_accuracy);
        let mut cells = vec![row.to_owned(), cell(runs, last), given(of_table, 3), difference(last, of_table)];
        cells.extend([given(of_curve, 3), difference(last, of_curve)]);
        cells.push(best.map_or_else(none, |best| best.fixed(4)));
        cells.extend([given(best_of_curve, 3), difference(best, of_table)]);
        if is_long {
            cells.extend([epochs_text(&converged(runs)), reference.epochs(row).unwrap_or(NONE).to_owned()]);
        }
        let judged = all.iter().filter(|one| one.question == question && one.row == row);
        let judged: Vec<_> = judged.filter(|one| one.compared != Compared::Parameters).collect();
        let verdict = |one: &&Comparison<'_>| match judged.len() {
            1 => one.verdict.as_str().to_owned(),
            _ => format!("{}: {}", one.compared.as_str(), one.verdict.as_str()),
        };
        cells.push(judged.iter().map(verdict).collect::<Vec<_>>().join("; "));
        cells
    });
    let (best, epochs) =
        if is_long { ("lowest loss", "epochs to convergence | reference | ") } else { ("best epoch", "") };
    let header = format!(
        "{rows_are} | last epoch | reference's table | last - table | reference's curve, last | last - curve | {best} \
         | reference's curve, {best} | {best} - table | {epochs}verdict"
    );
    let more = match question {
        Question::Convergence => {
            " The test set decides when to stop, as in the reference: after 3 epochs without a lower test loss. Epochs \
             to convergence are those to the lowest one; `50+` where it still improved when 50 were done; \
             each run's where some of a rate's runs still improved and others did not."
        }
        Question::Cnn => " The reference's table is of its best epoch; the last is compared with the end of its curve.",
        _ => "",
    };
    let caption = format!("Test accuracy: mean ± standard deviation over the n runs.{more}");
    table(caption, &header, [1, 1], rows)
}

/// 1.5, 1.7: trainable parameters.
pub(crate) fn parameters_table(reproduction: &Reproduction, question: Question) -> TableBlock {
    let all = comparisons(reproduction);
    let compared = all.iter().filter(|one| one.question == question && one.compared == Compared::Parameters);
    let rows = compared.map(|one| {
        let [measured, reference, ..] = one.texts();
        vec![one.row.to_owned(), measured, reference, one.verdict.as_str().to_owned()]
    });
    table("Trainable parameters.", "network | parameters | reference | verdict", [1, 1], rows)
}

/// 1.4: the runs of 1.2 beside those of 1.3. Changes are taken seed by seed: these begin alike, and only so is their
/// spread that of the change.
pub(crate) fn longer_table(reproduction: &Reproduction) -> TableBlock {
    let both = [Question::LearningRates, Question::Convergence];
    let rows = Question::Convergence.rows().iter().map(|&rate| {
        let [few, many] = both.map(|question| reproduction.runs(question, rate));
        let [short, long] = both.map(|question| reproduction.reference.accuracy(question, rate));
        let gains = finished(many).filter_map(|long| {
            let short = finished(few).find(|short| short.seed() == long.seed())?;
            Some(last_accuracy(long)? - last_accuracy(short)?)
        });
        let gain = Sample::of(gains);
        let epochs = converged(many);
        let open = epochs.iter().filter(|one| one.is_open()).count();
        vec![
            rate.to_owned(),
            cell(few, sample(few, last_accuracy)),
            cell(many, sample(many, last_accuracy)),
            gain.map_or_else(none, |gain| format!("{}{}", if gain.mean < 0.0 { "" } else { "+" }, gain.fixed(4))),
            long.zip(short).map_or_else(none, |(long, short)| signed(long - short, 3)),
            yes(gain.and_then(|gain| Some(gain.mean.abs() > gain.std?))),
            if epochs.is_empty() { none() } else { format!("{open} of {}", epochs.len()) },
        ]
    });
    let caption = "Test accuracy of the last epoch: mean ± standard deviation over the n runs. Changes are taken seed \
                   by seed; the reference's are those between its two tables. A run is still improving when its \
                   patience is not used up at its end.";
    let header = "learning rate | 10 epochs (1.2) | to convergence (1.3) | change | reference's change \
                  | exceeds its spread | still improving";
    table(caption, header, [1, 2], rows)
}

/// 1.7: how soon the networks come to the accuracy that the base network ends with.
pub(crate) fn reached_table(reproduction: &Reproduction) -> TableBlock {
    let target = sample(reproduction.runs(Question::Structures, "base"), last_accuracy).map(|sample| sample.mean);
    let of_reference = last_of(&reproduction.reference.curve(Question::Structures, "base"));
    let structures =
        Question::Structures.rows().iter().map(|&name| (Question::Structures, name, format!("mlp, {name}")));
    let networks = std::iter::once((Question::Cnn, "cnn", "cnn".to_owned())).chain(structures);
    let rows = networks.map(|(question, row, label)| {
        let (runs, curve) = (reproduction.runs(question, row), reproduction.reference.curve(question, row));
        let reached = |target| finished(runs).map(|run| epoch_with(run, target)).collect::<Vec<_>>();
        let first = |target: f64| curve.iter().find(|epoch| epoch.accuracy >= target);
        vec![
            label,
            runs.first().map_or_else(none, |run| grouped(run.record.parameters)),
            cell(runs, sample(runs, last_accuracy)),
            target.map_or_else(none, |target| reached_text(&reached(target))),
            of_reference.and_then(first).map_or_else(none, |epoch| epoch.number.to_string()),
        ]
    });
    let [here, there] = [given(target, 4), given(of_reference, 3)];
    let caption =
        format!("The first epoch with the accuracy that the base network ends with, {here} (reference: {there}).");
    let header = "network | parameters | accuracy, last epoch | epochs to the base's last | reference's";
    table(caption, header, [1, 0], rows)
}

/// `3 (n = 1)`, `3.3 ± 0.6 (n = 3)`, `never (n = 3)`, or how many runs came there.
fn reached_text(epochs: &[Option<usize>]) -> String {
    let n = epochs.len();
    match Sample::of(epochs.iter().flatten().map(|&epoch| epoch as f64)) {
        None if n == 0 => none(),
        None => format!("never (n = {n})"),
        Some(sample) if sample.n < n => format!("{:.1} in {} of {n} runs", sample.mean, sample.n),
        Some(sample) => counted(sample),
    }
}

/// What the reference only suggests, beside the plain CNN.
pub(crate) fn suggestions_table(reproduction: &Reproduction) -> TableBlock {
    let runs = |name| reproduction.runs(Question::Suggestions, name);
    let last = |name| sample(runs(name), last_accuracy);
    let rows = Question::Suggestions.rows().iter().map(|&name| {
        let gap = last("cnn").zip(last(name)).filter(|_| name != "cnn");
        let gap = gap.map(|(plain, last)| Gap::between(plain, last));
        let spread = |gap: Gap| gap.spread.map_or_else(String::new, |spread| format!(" ± {spread:.4}"));
        let verdict = if last(name).is_some() { Verdict::NoReference } else { Verdict::NotRun };
        vec![
            name.to_owned(),
            runs(name).first().map_or_else(none, |run: &Run| grouped(run.record.parameters)),
            cell(runs(name), last(name)),
            gap.map_or_else(none, |gap| format!("{}{}", signed(gap.by, 4), spread(gap))),
            sample(runs(name), best_accuracy).map_or_else(none, |best| best.fixed(4)),
            yes(gap.and_then(Gap::exceeds)),
            verdict.as_str().to_owned(),
        ]
    });
    let caption = "Test accuracy: mean ± standard deviation over the n runs. A difference is that of the means, with \
                   the standard deviation of the difference between single runs.";
    let header = "network | parameters | last epoch | difference to `cnn` | best epoch | exceeds its spread | verdict";
    table(caption, header, [1, 2], rows)
}

/// A mean less the reference's value.
fn difference(measured: Option<Sample>, reference: Option<f64>) -> String {
    measured.zip(reference).map_or_else(none, |(measured, reference)| signed(measured.mean - reference, 4))
}

/// A value, or that there is none.
pub(crate) fn given(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(none, |value| format!("{value:.decimals$}"))
}

fn yes(is_so: Option<bool>) -> String {
    is_so.map_or(NONE, |is_so| if is_so { "yes" } else { "no" }).to_owned()
}

pub(crate) fn none() -> String {
    NONE.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{
            fixtures::{reproduction, seeds},
            measured::NOT_RUN,
        },
        *,
    };

    fn stopped() -> Value {
        json!({ "stopped_early": "test/loss has not improved for 3 epochs" })
    }

    #[test]
    fn the_main_table_counts_verdicts_and_has_measured_values_with_n_beside_the_references() {
        let place = tempfile::tempdir().unwrap();
        let one = |question, name, accuracy: f64| seeds(place.path(), question, name, &[vec![accuracy]], &json!({}));
        let rows = vec![
            one(Question::LearningRates, "0.1", 0.875),
            one(Question::Structures, "base", 0.875),
            one(Question::LearningRates, "0.01", 0.5),
        ];
        let table = main_table(&reproduction(rows));
        let expected = ["1.2", "learning rate 0.1: accuracy, last epoch", "0.8750 (n = 1)", "0.877", "agrees"];
        assert!(table.rows.iter().any(|row| *row == expected), "{:?}", table.rows);
        // The rate and the base agree with two accuracies and the parameters.
        assert_eq!(table.caption, "Verdicts on 25 metrics: agrees 3, differs 1, not run 21.");
    }

    #[test]
    fn last_and_best_epochs_stand_beside_the_references_table_and_curve() {
        let place = tempfile::tempdir().unwrap();
        let wrong = json!({ "parameters": 669_705 });
        let rows = vec![seeds(place.path(), Question::Structures, "base", &[vec![0.5, 0.88, 0.875]], &wrong)];
        let reproduction = reproduction(rows);
        let rows = accuracy_table(&reproduction, Question::Structures, "structure").rows;
        let [last, best] = ["0.8750 (n = 1)", "0.8800 (n = 1)"];
        let expected = ["base", last, "0.871", "+0.0040", "0.872", "+0.0030", best, "0.876", "+0.0090", "agrees"];
        assert_eq!(rows[0], expected);
        assert_eq!(rows[1][1..4], [NOT_RUN, "0.867", NONE]);
        let rows = parameters_table(&reproduction, Question::Structures).rows;
        assert_eq!(rows[0], ["base", "669,705", "669,706", "differs"]);
        assert_eq!(rows[2], ["wider", NOT_RUN, "1,863,690", NOT_RUN]);
    }

    #[test]
    fn rates_that_converge_and_those_that_still_improve_agree_with_the_reference() {
        let place = tempfile::tempdir().unwrap();
        let rising: Vec<f64> = (1..=50).map(|epoch| 0.8 + f64::from(epoch) * 0.0015).collect();
        let curve = |best: usize| (1..=best + 3).map(|epoch| if epoch == best { 0.88 } else { 0.875 }).collect();
        let rows = vec![
            seeds(place.path(), Question::Convergence, "0.1", &[12, 15, 16].map(curve), &stopped()),
            seeds(place.path(), Question::Convergence, "0.01", &[rising], &json!({})),
        ];
        let rows = accuracy_table(&reproduction(rows), Question::Convergence, "learning rate").rows;
        let verdict = "accuracy, last epoch: agrees; epochs to convergence: agrees";
        assert_eq!(rows[1][9..], ["14.3 ± 2.1 (n = 3)", "17", verdict]);
        assert_eq!(rows[1][6..9], ["0.8800 ± 0.0000 (n = 3)", "0.880", "+0.0000"]);
        assert_eq!(rows[2][9..], ["50+ (n = 1)", "50+", verdict]);
        assert_eq!(rows[2][4..6], ["0.878", "-0.0030"]);
    }

    #[test]
    fn changes_of_longer_training_are_taken_seed_by_seed() {
        let place = tempfile::tempdir().unwrap();
        let of =
            |question, ends: [f64; 2]| seeds(place.path(), question, "0.1", &ends.map(|end| vec![end]), &stopped());
        // The seeds spread by more than the change, and each changes by the same.
        let rows = vec![of(Question::LearningRates, [0.80, 0.84]), of(Question::Convergence, [0.81, 0.85])];
        let rows = longer_table(&reproduction(rows)).rows;
        assert_eq!(rows[1][3..], ["+0.0100 ± 0.0000 (n = 2)", "+0.003", "yes", "0 of 2"]);
        assert_eq!(rows[0][1..4], [NOT_RUN, NOT_RUN, NONE]);
    }

    #[test]
    fn epochs_to_an_accuracy_count_the_runs_that_came_there() {
        let shown = [&[Some(3)][..], &[Some(3), Some(4)], &[Some(3), None], &[None, None], &[]].map(reached_text);
        assert_eq!(shown, ["3 (n = 1)", "3.5 ± 0.7 (n = 2)", "3.0 in 1 of 2 runs", "never (n = 2)", NONE]);
        let place = tempfile::tempdir().unwrap();
        let of = |question, name, curve: [f64; 2]| seeds(place.path(), question, name, &[curve.into()], &json!({}));
        let rows = vec![of(Question::Cnn, "cnn", [0.82, 0.88]), of(Question::Structures, "base", [0.80, 0.87])];
        // The reference's CNN comes to its base's 0.872 at epoch 4.
        assert_eq!(reached_table(&reproduction(rows)).rows[0][3..], ["2 (n = 1)", "4"]);
        let alone = reproduction(vec![of(Question::Cnn, "cnn", [0.8, 0.9])]);
        assert_eq!(reached_table(&alone).rows[0][3], NONE);
    }

    #[test]
    fn suggestions_say_whether_their_difference_exceeds_the_spread() {
        let place = tempfile::tempdir().unwrap();
        let of = |name, ends: &[f64]| {
            let curves: Vec<Vec<f64>> = ends.iter().map(|&end| vec![end]).collect();
            seeds(place.path(), Question::Suggestions, name, &curves, &json!({}))
        };
        let rows = vec![
            of("cnn", &[0.908, 0.910]),
            of("more layers", &[0.909, 0.911]),
            of("augmentation", &[0.890]),
            of("all", &[0.928, 0.930]),
        ];
        let rows = suggestions_table(&reproduction(rows)).rows;
        let shown: Vec<[&str; 3]> =
            rows.iter().map(|row| [3, 5, 6].map(|column: usize| row[column].as_str())).collect();
        assert_eq!(shown[0], [NONE, NONE, "no reference"]);
        assert_eq!(shown[1], ["+0.0010 ± 0.0020", "no", "no reference"]);
        assert_eq!(shown[2], [NONE, NONE, NOT_RUN]);
        assert_eq!(shown[3..], [["-0.0190", NONE, "no reference"], ["+0.0200 ± 0.0020", "yes", "no reference"]]);
    }
}
