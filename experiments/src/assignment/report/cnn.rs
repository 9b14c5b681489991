//! 1.7: a convolutional network beside the perceptrons.

use crate::{
    Block, ReportError, Run, Sample, Section, TableBlock,
    curves::Quantity,
    grouped,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        comparison::{Compared, verdict_of},
        figures::{
            Gap, NONE, best_accuracy, cell, counted, epochs, finished, last_accuracy, last_loss, loss_after, sample,
        },
        prose::signed,
        reference::{self, Epoch, STRUCTURES},
        structures::{BASE, shown_run},
        tables::{AccuracyRow, accuracy_table, parameters_table},
    },
    run_report::evaluation_blocks,
};

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let reference = &reproduction.reference;
    let runs = reproduction.runs(Question::Cnn, "cnn");
    let verdict = |compared| verdict_of(reproduction, Question::Cnn, "cnn", compared);
    let row = AccuracyRow {
        label: "cnn".to_owned(),
        runs,
        table: Some(reference.cnn.table.accuracy),
        curve: &reference.cnn.curve,
        verdict: format!("last: {}, best: {}", verdict(Compared::Accuracy), verdict(Compared::BestAccuracy)),
    };
    let mut curves = vec![Curve::new("cnn", runs, &reference.cnn.curve)];
    let own = curves.len();
    curves.extend(STRUCTURES.map(|(name, _)| {
        let label = format!("mlp, {name}");
        Curve::new(&label, reproduction.runs(Question::Structures, name), &[])
    }));
    let best = reference.cnn.table.epoch;
    let mut blocks = vec![
        Block::Paragraph(format!(
            "Two convolutions with batch norm and pooling, then two linear layers, trained for 13 epochs by plain SGD \
             at a learning rate of 0.1. The reference does not name its optimizer; its best accuracy is that of epoch \
             {best}. Its table is of the best epoch, so that the last is held against the end of its curve."
        )),
        Block::Table(accuracy_table("Accuracy of the CNN.", "network", &[row])),
        Block::Table(parameters_table(reproduction, Question::Cnn)),
        Block::Table(convergence_table(reproduction)),
    ];
    let what = "The CNN beside the perceptrons of 1.5";
    blocks.extend(test_chart("cnn-accuracy", what, Quantity::Accuracy, &curves)?);
    blocks.extend(test_chart("cnn-loss", "The CNN", Quantity::Loss, &curves[..own])?);
    blocks.push(reproduction.reading(&reading(reproduction)));
    if let Some(run) = shown_run(runs)? {
        blocks.push(Block::Heading("What the CNN gets right and wrong".to_owned()));
        blocks.extend(evaluation_blocks(run, "cnn")?);
    }
    Ok(Section { name: "cnn".to_owned(), title: "1.7 A convolutional network".to_owned(), blocks })
}

/// The accuracy that the base perceptron ends with: what the CNN's speed is measured by.
fn target(reproduction: &Reproduction) -> Option<f64> {
    sample(reproduction.runs(Question::Structures, BASE), last_accuracy).map(|sample| sample.mean)
}

/// The first epoch of each run that came to `target`; none for those that did not.
fn epochs_to(runs: &[Run], target: f64) -> Vec<Option<usize>> {
    let first = |run: &Run| {
        let reached = run.record.epochs.iter().find(|epoch| epoch.test_accuracy.is_some_and(|one| one >= target));
        reached.map(|epoch| epoch.epoch)
    };
    finished(runs).map(first).collect()
}

/// `3 (n = 1)`, `3.3 ± 0.6 (n = 3)`, `never (n = 3)`, or how many runs came there.
fn epochs_to_text(epochs: &[Option<usize>]) -> String {
    let n = epochs.len();
    let reached = Sample::of(epochs.iter().flatten().map(|&epoch| epoch as f64));
    match reached {
        None if n == 0 => NONE.to_owned(),
        None => format!("never (n = {n})"),
        Some(sample) if sample.n < n => format!("{:.1} in {} of {n} runs", sample.mean, sample.n),
        Some(sample) => counted(sample),
    }
}

/// The same of a reference's curve.
fn reference_epoch(curve: &[Epoch], target: f64) -> Option<usize> {
    curve.iter().find(|epoch| epoch.test_accuracy >= target).map(|epoch| epoch.epoch)
}

fn convergence_table(reproduction: &Reproduction) -> TableBlock {
    let target = target(reproduction);
    let of_reference = &reproduction.reference;
    let base = reference::last_accuracy(of_reference.structures.curve(BASE));
    let mut rows: Vec<(String, &[Run], &[Epoch])> =
        vec![("cnn".to_owned(), reproduction.runs(Question::Cnn, "cnn"), of_reference.cnn.curve.as_slice())];
    rows.extend(STRUCTURES.map(|(name, _)| {
        let runs = reproduction.runs(Question::Structures, name);
        (format!("mlp, {name}"), runs, of_reference.structures.curve(name))
    }));
    let rows = rows.into_iter().map(|(label, runs, curve)| {
        let reached = target.map(|target| epochs_to_text(&epochs_to(runs, target)));
        let reference = base.and_then(|base| reference_epoch(curve, base)).map(|epoch| epoch.to_string());
        vec![
            label,
            runs.first().map_or_else(|| NONE.to_owned(), |run| grouped(run.record.parameters)),
            cell(runs, sample(runs, last_accuracy), 4),
            reached.unwrap_or_else(|| NONE.to_owned()),
            reference.unwrap_or_else(|| NONE.to_owned()),
        ]
    });
    let what = target.map_or_else(String::new, |target| format!(", {target:.4} here"));
    TableBlock {
        caption: format!(
            "Convergence: the first epoch with the accuracy that the base perceptron ends with{what}{}.",
            base.map_or_else(String::new, |base| format!(" and {base:.3} in the reference"))
        ),
        header: ["network", "parameters", "accuracy, last epoch", "epochs to the base's last", "reference's"]
            .map(str::to_owned)
            .to_vec(),
        right: (1..=4).collect(),
        rows: rows.collect(),
    }
}

/// Accuracy, convergence and size beside the perceptrons.
fn reading(reproduction: &Reproduction) -> String {
    let runs = reproduction.runs(Question::Cnn, "cnn");
    let Some(last) = sample(runs, last_accuracy) else {
        return format!("The CNN: {}.", cell(runs, None, 4));
    };
    let best = sample(runs, best_accuracy).map_or_else(|| NONE.to_owned(), |best| best.fixed(4));
    let mut sentences = vec![format!("The CNN ends with {}; its best epoch has {best}", last.fixed(4))];
    sentences.extend(after_lowest_loss(runs));
    let perceptrons = STRUCTURES.iter().filter_map(|(name, _)| {
        let runs = reproduction.runs(Question::Structures, name);
        Some((*name, sample(runs, last_accuracy)?, runs.first()?.record.parameters))
    });
    let best = perceptrons.max_by(|(_, a, _), (_, b, _)| a.mean.total_cmp(&b.mean));
    if let Some((name, accuracy, parameters)) = best {
        let gap = Gap::between(accuracy, last);
        let own = runs.first().map_or(0, |run| run.record.parameters);
        sentences.push(format!(
            "That is {} beside the best perceptron, {name} ({}), with {:.2} times its parameters",
            signed(gap.by, 4),
            gap.beside_spread(),
            own as f64 / parameters.max(1) as f64
        ));
    } else {
        sentences.push("No perceptron of 1.5 has figures to compare with: not run".to_owned());
    }
    sentences.extend(speed(reproduction, runs));
    format!("{}.", sentences.join(". "))
}

/// How far the test loss has risen since its lowest: what an early stop would have saved.
fn after_lowest_loss(runs: &[Run]) -> Option<String> {
    let lowest = |run: &Run| loss_after(run, run.record.best_epoch?);
    let epoch = sample(runs, |run| run.record.best_epoch.map(|epoch| epoch as f64))?;
    let rise = sample(runs, |run| Some(last_loss(run)? - lowest(run)?))?;
    Some(format!(
        "Its test loss is lowest after epoch {}, at {}, and ends {} beside that",
        counted(epoch),
        sample(runs, lowest)?.fixed(4),
        signed(rise.mean, 4)
    ))
}

/// How soon it comes to what the base perceptron ends with.
fn speed(reproduction: &Reproduction, runs: &[Run]) -> Option<String> {
    let target = target(reproduction)?;
    let base = epochs(reproduction.runs(Question::Structures, BASE))?;
    let of_reference = &reproduction.reference;
    let their_target = reference::last_accuracy(of_reference.structures.curve(BASE))?;
    let theirs = reference_epoch(&of_reference.cnn.curve, their_target)
        .map_or_else(|| "never comes there".to_owned(), |epoch| format!("comes there at epoch {epoch}"));
    Some(format!(
        "Epochs until the CNN has what the base perceptron ends with after {base}, {target:.4}: {}; the reference's, \
         with {their_target:.3} to reach, {theirs}",
        epochs_to_text(&epochs_to(runs, target))
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    fn with(place: &std::path::Path, cnn: &[f64], base: &[f64]) -> Reproduction {
        let convolutional = trained(place, "cnn", cnn, &json!({ "parameters": 421_834 }));
        let perceptron = trained(place, "base", base, &json!({}));
        reproduction(vec![
            row(Question::Cnn, "cnn", vec![convolutional]),
            row(Question::Structures, BASE, vec![perceptron]),
        ])
    }

    #[test]
    fn the_paragraph_compares_accuracy_convergence_and_size() {
        let place = tempfile::tempdir().unwrap();
        let text = reading(&with(place.path(), &[0.82, 0.88, 0.91, 0.90], &[0.80, 0.87]));
        for wanted in [
            "The CNN ends with 0.9000 (n = 1); its best epoch has 0.9100 (n = 1)",
            // Losses of these runs are 1 less the accuracy.
            "lowest after epoch 3 (n = 1), at 0.0900 (n = 1), and ends +0.0100 beside that",
            "That is +0.0300 beside the best perceptron, base",
            "with 0.63 times its parameters",
            "ends with after 2, 0.8700: 2 (n = 1)",
            "with 0.872 to reach, comes there at epoch 4",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let slow = tempfile::tempdir().unwrap();
        let text = reading(&with(slow.path(), &[0.5, 0.6], &[0.80, 0.87]));
        assert!(text.contains("-0.2700 beside the best") && text.contains("never (n = 1)"), "{text}");
    }

    #[test]
    fn epochs_to_an_accuracy_count_the_runs_that_came_there() {
        let shown = [&[Some(3)][..], &[Some(3), Some(4)], &[Some(3), None], &[None, None], &[]].map(epochs_to_text);
        assert_eq!(shown, ["3 (n = 1)", "3.5 ± 0.7 (n = 2)", "3.0 in 1 of 2 runs", "never (n = 2)", NONE]);
    }

    #[test]
    fn without_perceptrons_there_is_nothing_to_converge_to() {
        let place = tempfile::tempdir().unwrap();
        let only = reproduction(vec![row(Question::Cnn, "cnn", vec![trained(place.path(), "a", &[0.9], &json!({}))])]);
        assert_eq!(convergence_table(&only).rows[0][3], NONE);
        assert!(reading(&only).contains("not run"));
    }
}
