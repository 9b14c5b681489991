//! 1.2: learning rates.

use crate::{
    Block, ReportError, Run, Sample, Section,
    curves::Quantity,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        comparison::{Compared, verdict_of},
        figures::{Gap, NOT_RUN, STUCK, accuracy_after, cell, divergence, epochs, last_accuracy, sample},
        prose::{joined, signed},
        reference::RATES,
        tables::{AccuracyRow, accuracy_table},
    },
};

/// A learning rate whose runs went to their end.
struct Rate<'a> {
    name: &'static str,
    runs: &'a [Run],
    last: Sample,
}

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let reference = &reproduction.reference.learning_rates;
    let rows = RATES.map(|rate| AccuracyRow {
        label: rate.to_owned(),
        runs: reproduction.runs(Question::LearningRates, rate),
        table: reference.accuracy(rate),
        curve: reference.curve(rate),
        verdict: verdict_of(reproduction, Question::LearningRates, rate, Compared::Accuracy).to_owned(),
    });
    let curves = RATES.map(|rate| {
        let runs = reproduction.runs(Question::LearningRates, rate);
        Curve::new(&format!("learning rate {rate}"), runs, reference.curve(rate))
    });
    let what = "Learning rates";
    let mut blocks = vec![
        Block::Paragraph("The network of the first run, trained for 10 epochs at four learning rates.".to_owned()),
        Block::Table(accuracy_table("Accuracy by learning rate.", "learning rate", &rows)),
    ];
    blocks.extend(test_chart("learning-rates-accuracy", what, Quantity::Accuracy, &curves)?);
    if let Some(losses) = test_chart("learning-rates-loss", what, Quantity::Loss, &curves)? {
        blocks.push(losses);
        blocks.push(Block::Paragraph("The reference printed no losses for these runs.".to_owned()));
    }
    blocks.push(reproduction.reading(&reading(reproduction)));
    Ok(Section { name: "learning-rates".to_owned(), title: "1.2 Learning rates".to_owned(), blocks })
}

/// Which rate to take, and why: from the measured figures alone.
fn reading(reproduction: &Reproduction) -> String {
    let rows = RATES.map(|name| (name, reproduction.runs(Question::LearningRates, name)));
    let mut rates: Vec<Rate<'_>> =
        rows.iter().filter_map(|&(name, runs)| Some(Rate { name, runs, last: sample(runs, last_accuracy)? })).collect();
    rates.sort_by(|a, b| b.last.mean.total_cmp(&a.last.mean));
    let Some((best, others)) = rates.split_first() else {
        let cells = rows.map(|(name, runs)| format!("{name} {}", cell(runs, None, 4)));
        return format!("No learning rate has figures: {}.", joined(&cells));
    };
    let count = epochs(best.runs).unwrap_or(0);
    let figure = best.last.fixed(4);
    let mut sentences = vec![format!("After {count} epochs {} has the highest accuracy, {figure}", best.name)];
    if let Some(next) = others.first() {
        let gap = Gap::between(next.last, best.last);
        sentences[0].push_str(&above(&gap, next.name));
    }
    sentences.extend(rates.iter().filter(|rate| rate.last.mean < STUCK).map(failed));
    for (name, runs) in rows {
        sentences.extend(divergence(runs).map(|how| format!("At {name}, {how}")));
    }
    let trained: Vec<&Rate<'_>> = others.iter().filter(|rate| rate.last.mean >= STUCK).collect();
    sentences.extend(slower(best, &trained, count));
    sentences.extend(still_gaining(&rates, count));
    let missing: Vec<String> =
        rows.iter().filter(|(_, runs)| runs.is_empty()).map(|(name, _)| (*name).to_owned()).collect();
    if !missing.is_empty() {
        sentences.push(format!("{}: {NOT_RUN}", joined(&missing)));
    }
    format!("{}.", sentences.join(". "))
}

fn failed(rate: &Rate<'_>) -> String {
    let classes = rate.runs.first().map_or(0, |run| run.record.dataset.classes.len());
    let guessing = 1.0 / classes.max(1) as f64;
    format!(
        "At {} the network does not train: it ends with {}, where guessing among {classes} classes has {guessing:.4}",
        rate.name,
        rate.last.fixed(4)
    )
}

/// How far the others are behind after the first epoch, beside after the last.
fn slower(best: &Rate<'_>, others: &[&Rate<'_>], count: usize) -> Option<String> {
    let first = |rate: &Rate<'_>| sample(rate.runs, |run| accuracy_after(run, 1)).map(|sample| sample.mean);
    let start = first(best)?;
    let behind = others.iter().filter_map(|&rate| {
        let [early, late] = [first(rate)? - start, rate.last.mean - best.last.mean];
        let trend = if late.abs() < early.abs() { "shrinks" } else { "does not shrink" };
        Some(format!(
            "{} differs from it by {} after the first epoch and {} after epoch {count} (the gap {trend})",
            rate.name,
            signed(early, 4),
            signed(late, 4)
        ))
    });
    let behind: Vec<String> = behind.collect();
    (!behind.is_empty())
        .then(|| format!("{} stands at {start:.4} after the first epoch; {}", best.name, joined(&behind)))
}

/// What the last epoch still added: a rate that gains is not done.
fn still_gaining(rates: &[Rate<'_>], count: usize) -> Option<String> {
    let gains = rates.iter().filter(|rate| rate.last.mean >= STUCK).filter_map(|rate| {
        let before = sample(rate.runs, |run| accuracy_after(run, count.checked_sub(1)?))?;
        Some(format!("{} at {}", signed(rate.last.mean - before.mean, 4), rate.name))
    });
    let gains: Vec<String> = gains.collect();
    (!gains.is_empty()).then(|| format!("The last epoch adds {}", joined(&gains)))
}

/// How far the best is above the next.
fn above(gap: &Gap, next: &str) -> String {
    format!(", {:.4} above {next}, the next ({})", gap.by, gap.beside_spread())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    fn rates(place: &std::path::Path, id: &str, curves: &[(&str, &[f64])]) -> Reproduction {
        let rows = curves.iter().map(|(name, curve)| {
            let changes = if curve.is_empty() {
                json!({ "status": "diverged", "diverged": { "step": 7, "layer": "fc2", "quantity": "weight" } })
            } else {
                json!({})
            };
            row(Question::LearningRates, name, vec![trained(place, &format!("{id}-{name}"), curve, &changes)])
        });
        reproduction(rows.collect())
    }

    #[test]
    fn the_paragraph_names_the_best_rate_and_what_is_wrong_with_the_others() {
        let place = tempfile::tempdir().unwrap();
        let curves: [(&str, &[f64]); 3] = [("1", &[]), ("0.1", &[0.797, 0.875, 0.877]), ("0.001", &[0.3, 0.6, 0.7])];
        let text = reading(&rates(place.path(), "a", &curves));
        for wanted in [
            "After 3 epochs 0.1 has the highest accuracy, 0.8770 (n = 1), 0.1770 above 0.001, the next",
            "At 1, diverged at step 7 in `fc2`",
            "0.001 differs from it by -0.4970 after the first epoch and -0.1770 after epoch 3 (the gap shrinks)",
            "The last epoch adds +0.0020 at 0.1 and +0.1000 at 0.001",
            "0.01: not run.",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn a_rate_that_stays_at_guessing_is_said_not_to_train() {
        let place = tempfile::tempdir().unwrap();
        let curves: [(&str, &[f64]); 2] = [("1", &[0.1, 0.1]), ("0.01", &[0.6, 0.7])];
        let text = reading(&rates(place.path(), "a", &curves));
        assert!(text.contains("At 1 the network does not train: it ends with 0.1000 (n = 1)"), "{text}");
        assert!(text.contains("After 2 epochs 0.01 has the highest accuracy"), "{text}");
    }

    #[test]
    fn the_section_says_that_the_reference_has_no_losses_here() {
        let place = tempfile::tempdir().unwrap();
        let reproduction = rates(place.path(), "a", &[("0.1", &[0.5])]);
        let blocks = section(&reproduction).unwrap().blocks;
        let said = |block: &Block| matches!(block, Block::Paragraph(text) if text.contains("printed no losses"));
        assert!(blocks.iter().any(said));
        let Some(Block::Table(table)) = blocks.get(1) else { panic!("{blocks:?}") };
        let verdicts: Vec<&str> = table.rows.iter().map(|row| row[9].as_str()).collect();
        assert_eq!(verdicts, [NOT_RUN, "differs", NOT_RUN, NOT_RUN]);
    }
}
