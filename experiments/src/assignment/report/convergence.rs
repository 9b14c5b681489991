//! 1.3: the same learning rates, trained until the test loss improves no more.

use crate::{
    Block, ReportError, Run, Sample, Section, TableBlock,
    curves::Quantity,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        comparison::{Compared, verdict_of},
        figures::{
            NONE, STUCK, accuracy_at_lowest_loss, cell, counted, divergence, finished, given, last_accuracy, last_loss,
            sample,
        },
        measured::{Measured, epochs_text},
        prose::signed,
        reference::{self, Epoch, RATES},
        tables::difference,
    },
};

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let curves = RATES.map(|rate| {
        let runs = reproduction.runs(Question::Convergence, rate);
        Curve::new(&format!("learning rate {rate}"), runs, reproduction.reference.convergence.curve(rate))
    });
    let what = "Learning rates to convergence";
    let mut blocks = vec![
        Block::Paragraph(
            "The same network at the same learning rates, stopped when the test loss has not improved for 3 epochs, \
             at the latest after 50. The test set decides here when to stop, as in the reference: these accuracies \
             are not those of images that played no part."
                .to_owned(),
        ),
        Block::Table(table(reproduction)),
    ];
    blocks.extend(test_chart("convergence-loss", what, Quantity::Loss, &curves)?);
    blocks.extend(test_chart("convergence-accuracy", what, Quantity::Accuracy, &curves)?);
    if reproduction.quick {
        blocks.push(reproduction.reading("each rate in a line."));
    }
    blocks.push(Block::List(Vec::from(RATES.map(|rate| reading(reproduction, rate)))));
    Ok(Section { name: "convergence".to_owned(), title: "1.3 Epochs to convergence".to_owned(), blocks })
}

fn table(reproduction: &Reproduction) -> TableBlock {
    let header = [
        "learning rate",
        "accuracy, last epoch",
        "reference's curve, last",
        "difference",
        "accuracy, lowest loss",
        "reference's table",
        "difference",
        "epochs to convergence",
        "reference",
        "verdict, accuracy",
        "verdict, epochs",
    ];
    let rows = RATES.map(|rate| {
        let runs = reproduction.runs(Question::Convergence, rate);
        let reference = &reproduction.reference.convergence;
        let (table, curve) = (reference.converged(rate), reference.curve(rate));
        let last = sample(runs, last_accuracy);
        let lowest = sample(runs, accuracy_at_lowest_loss);
        let verdict = |compared| verdict_of(reproduction, Question::Convergence, rate, compared).to_owned();
        vec![
            rate.to_owned(),
            cell(runs, last, 4),
            given(reference::last_accuracy(curve), 3),
            difference(last, reference::last_accuracy(curve)),
            lowest.map_or_else(|| NONE.to_owned(), |lowest| lowest.fixed(4)),
            given(table.map(|table| table.accuracy), 3),
            difference(lowest, table.map(|table| table.accuracy)),
            epochs(runs).unwrap_or_else(|| NONE.to_owned()),
            table.map_or_else(|| NONE.to_owned(), |table| table.epoch.clone()),
            verdict(Compared::Accuracy),
            verdict(Compared::BestEpoch),
        ]
    });
    TableBlock {
        caption: "Accuracy and epochs to convergence, which are those to the lowest test loss; `50+` where it still \
                  improved when 50 were done. Mean ± standard deviation over the n runs; each run's epochs where some \
                  of a rate's runs still improved and others did not. The verdict on the accuracy is on the last \
                  epoch."
            .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: (1..=8).collect(),
        rows: Vec::from(rows),
    }
}

fn epochs(runs: &[Run]) -> Option<String> {
    match Measured::epochs(runs) {
        Measured::Epochs { epochs, .. } => Some(epochs_text(&epochs)),
        _ => None,
    }
}

/// What a rate came to, beside the reference's.
fn reading(reproduction: &Reproduction, rate: &str) -> String {
    let runs = reproduction.runs(Question::Convergence, rate);
    let reference = &reproduction.reference.convergence;
    let of_reference =
        reference_reading(reference.curve(rate), reference.converged(rate).map(|one| one.epoch.as_str()));
    let Some(last) = sample(runs, last_accuracy) else {
        return format!("{rate}: {}. {of_reference}", cell(runs, None, 4));
    };
    let beside = divergence(runs).map_or_else(String::new, |how| format!("; {how}"));
    let trained = Sample::of(finished(runs).map(|run| run.record.epochs.len() as f64));
    let trained = trained.map_or_else(String::new, counted);
    let loss = sample(runs, last_loss).map_or_else(|| NONE.to_owned(), |loss| loss.fixed(4));
    let measured = if last.mean < STUCK {
        format!(
            "does not train: accuracy {}, test loss {loss} after the last of {trained} epochs{}",
            last.fixed(4),
            guessing(runs)
        )
    } else {
        let lowest = sample(runs, accuracy_at_lowest_loss);
        let after = lowest.map(|lowest| signed(last.mean - lowest.mean, 4)).unwrap_or_default();
        format!(
            "lowest test loss at epoch {}, {trained} epochs trained; accuracy {} after the last, {after} beside that \
             at the lowest loss",
            epochs(runs).unwrap_or_else(|| NONE.to_owned()),
            last.fixed(4)
        )
    };
    format!("{rate}: {measured}{beside}. {of_reference}")
}

/// The loss of a network that gives every class the same probability.
fn guessing(runs: &[Run]) -> String {
    let classes = runs.first().map_or(0, |run| run.record.dataset.classes.len());
    if classes == 0 {
        return String::new();
    }
    format!("; guessing among {classes} classes has a loss of {:.4}", (classes as f64).ln())
}

/// The reference's table and curve, which do not say the same everywhere.
fn reference_reading(curve: &[Epoch], epoch: Option<&str>) -> String {
    let (Some(last), Some(epoch)) = (curve.last(), epoch) else { return "The reference has no curve.".to_owned() };
    let highest = reference::best_accuracy(curve);
    let lowest = reference::lowest_loss(curve).map_or_else(|| NONE.to_owned(), |lowest| lowest.to_string());
    if highest.is_some_and(|highest| highest < STUCK) {
        return format!(
            "The reference's does not train either: accuracy {:.3} and loss {} in the last of {} epochs.",
            last.test_accuracy,
            given(last.test_loss, 4),
            last.epoch
        );
    }
    format!(
        "The reference's table says epoch {epoch}; its curve has {} epochs with the lowest loss at epoch {lowest}, and \
         ends with {:.3}.",
        curve.len(),
        last.test_accuracy
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    fn with(place: &std::path::Path, rate: &str, curves: &[Vec<f64>], changes: &Value) -> Reproduction {
        let runs = curves.iter().enumerate().map(|(seed, curve)| {
            let mut changes = changes.clone();
            changes["config"] = json!({ "seed": seed, "early_stopping": 3 });
            trained(place, &format!("{rate}-{seed}"), curve, &changes)
        });
        reproduction(vec![row(Question::Convergence, rate, runs.collect())])
    }

    #[test]
    fn a_rate_that_still_improves_is_open_and_agrees_with_the_reference() {
        let place = tempfile::tempdir().unwrap();
        let rising: Vec<f64> = (1..=50).map(|epoch| 0.8 + f64::from(epoch) * 0.0015).collect();
        let reproduction = with(place.path(), "0.01", &[rising], &json!({}));
        let row = &table(&reproduction).rows[2];
        assert_eq!(row[7..], ["50+ (n = 1)", "50+", "agrees", "agrees"]);
        assert_eq!(row[2..4], ["0.878", "-0.0030"]);
    }

    #[test]
    fn a_rate_that_stopped_has_the_epoch_of_its_lowest_loss() {
        let place = tempfile::tempdir().unwrap();
        let curve = |best: usize| -> Vec<f64> {
            (1..=best + 3).map(|epoch| if epoch == best { 0.88 } else { 0.875 }).collect()
        };
        let stopped = json!({ "stopped_early": "test_loss has not improved for 3 epochs" });
        let reproduction = with(place.path(), "0.1", &[curve(12), curve(15), curve(16)], &stopped);
        let row = &table(&reproduction).rows[1];
        assert_eq!(row[7..], ["14.3 ± 2.1 (n = 3)", "17", "agrees", "agrees"]);
        assert_eq!(row[4], "0.8800 ± 0.0000 (n = 3)");
        let text = reading(&reproduction, "0.1");
        assert!(text.contains("17.3 ± 2.1 (n = 3) epochs trained") && text.contains("-0.0050 beside that"), "{text}");
        assert!(text.contains("its curve has 20 epochs with the lowest loss at epoch 17"), "{text}");
    }

    #[test]
    fn a_rate_that_does_not_train_says_what_guessing_would_come_to() {
        let place = tempfile::tempdir().unwrap();
        let reproduction = with(place.path(), "1", &[vec![0.1, 0.1, 0.1, 0.1]], &json!({}));
        let text = reading(&reproduction, "1");
        // Two classes: ln 2.
        assert!(text.contains("does not train: accuracy 0.1000 (n = 1)") && text.contains("loss of 0.6931"), "{text}");
        assert!(text.contains("does not train either: accuracy 0.100 and loss 2.3058"), "{text}");
        let diverged = json!({ "status": "diverged", "diverged": { "step": 9, "layer": "fc1", "quantity": "weight" } });
        let lost = with(place.path(), "0.001", &[vec![]], &diverged);
        assert!(reading(&lost, "0.001").starts_with("0.001: diverged at step 9 in `fc1`. The reference"));
    }

    #[test]
    fn what_was_not_run_is_said() {
        let empty = reproduction(Vec::new());
        assert!(RATES.iter().all(|rate| reading(&empty, rate).starts_with(&format!("{rate}: not run."))));
    }
}
