//! 1.1: the data, and a first run.

use serde_json::Value;

use crate::{
    Block, Figure, ReportError, Run, Section, TableBlock,
    curves::Quantity,
    grouped,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        comparison::{Compared, verdict_of},
        figures::{NOT_RUN, accuracy_after, cell, given, last_accuracy, loss_after, sample},
        prose::signed,
        reference::Reference,
        tables::difference,
        train_loss::training_loss,
    },
};

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let runs = reproduction.runs(Question::FirstRun, "mlp");
    let mut blocks = vec![Block::Heading("Data".to_owned())];
    blocks.extend(samples(reproduction));
    blocks.push(Block::List(shapes(reproduction)));
    blocks.push(Block::Heading("First run".to_owned()));
    blocks.push(Block::Paragraph(
        "A multilayer perceptron with two hidden layers of 512 units is trained with plain SGD at a learning rate of \
         0.001 for 5 epochs, in the order of the file."
            .to_owned(),
    ));
    blocks.push(Block::Table(epochs_table(&reproduction.reference, runs)));
    blocks.push(reproduction.reading(&reading(reproduction, runs)));
    let epochs = &reproduction.reference.first_run.epochs;
    for (name, quantity) in [("first-run-accuracy", Quantity::Accuracy), ("first-run-loss", Quantity::Loss)] {
        blocks.extend(test_chart(name, "First run", quantity, &[Curve::new("mlp", runs, epochs)])?);
    }
    blocks.extend(training_loss(&reproduction.reference, runs)?);
    Ok(Section { name: "first-run".to_owned(), title: "1.1 Data and first run".to_owned(), blocks })
}

fn samples(reproduction: &Reproduction) -> Option<Block> {
    let plot = reproduction.samples.clone()?;
    let caption = "Images of the data set with the classes they have.".to_owned();
    Some(Block::Pictures(Figure { name: "samples".to_owned(), caption, plot }))
}

/// What goes in and what comes out, from the pictures and the runs' records.
fn shapes(reproduction: &Reproduction) -> Vec<String> {
    let mut lines = Vec::new();
    let size = reproduction.samples.as_ref().and_then(|samples| samples.pictures.first()).map(|picture| picture.size);
    if let Some([height, width]) = size {
        lines.push(format!("an image: `[1, {height}, {width}]`, one channel of {height} by {width} pixels"));
    }
    // Those of 1.6 see the first batches alone.
    let whole = reproduction.rows.iter().filter(|row| row.question != Question::Gradients);
    let Some(run) = whole.flat_map(|row| &row.runs).next() else {
        lines.push(format!("images and classes: {NOT_RUN}"));
        return lines;
    };
    let data = &run.record.dataset;
    let [train, test] = [data.train, data.test].map(grouped);
    lines.push(format!("{}: {train} images to train and {test} to test", data.name));
    let batch = run.record.config.get("batch_size").and_then(Value::as_u64);
    if let Some((batch, [height, width])) = batch.zip(size) {
        lines.push(format!("a batch: images `[{batch}, 1, {height}, {width}]`, labels `[{batch}]`"));
    }
    lines.push(format!("{} classes: {}", data.classes.len(), data.classes.join(", ")));
    lines
}

/// Accuracy and loss after each epoch beside the reference's.
fn epochs_table(reference: &Reference, runs: &[Run]) -> TableBlock {
    let header = ["epoch", "test accuracy", "reference", "difference", "test loss (nats)", "reference", "difference"];
    let rows = reference.first_run.epochs.iter().map(|epoch| {
        let accuracy = sample(runs, |run| accuracy_after(run, epoch.epoch));
        let loss = sample(runs, |run| loss_after(run, epoch.epoch));
        vec![
            epoch.epoch.to_string(),
            cell(runs, accuracy, 4),
            given(Some(epoch.test_accuracy), 3),
            difference(accuracy, Some(epoch.test_accuracy)),
            cell(runs, loss, 4),
            given(epoch.test_loss, 6),
            difference(loss, epoch.test_loss),
        ]
    });
    TableBlock {
        caption: "First run: mean ± standard deviation over the n runs, after each epoch.".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: (0..=6).collect(),
        rows: rows.collect(),
    }
}

fn reading(reproduction: &Reproduction, runs: &[Run]) -> String {
    let Some(last) = sample(runs, last_accuracy) else {
        return format!("The first run: {}.", cell(runs, None, 4));
    };
    let epochs = &reproduction.reference.first_run.epochs;
    let distances = epochs.iter().filter_map(|epoch| {
        let measured = sample(runs, |run| accuracy_after(run, epoch.epoch))?;
        Some((epoch.epoch, measured.mean - epoch.test_accuracy))
    });
    let farthest = distances.max_by(|(_, a), (_, b)| a.abs().total_cmp(&b.abs()));
    let farthest = farthest.map_or_else(String::new, |(epoch, by)| {
        format!(" Of all epochs the accuracy of epoch {epoch} is farthest from the reference's, by {}.", signed(by, 4))
    });
    let reference = epochs.last().map(|epoch| epoch.test_accuracy);
    let verdict = verdict_of(reproduction, Question::FirstRun, "mlp", Compared::Accuracy);
    format!(
        "The last epoch ends with accuracy {}; the reference has {}, the difference is {}: {verdict}.{farthest}",
        last.fixed(4),
        given(reference, 3),
        difference(Some(last), reference)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Picture, Pictures,
        reproduction::fixtures::{reproduction, row, trained},
    };

    #[test]
    fn the_paragraph_says_where_the_run_is_farthest_from_the_reference() {
        let place = tempfile::tempdir().unwrap();
        let runs = vec![trained(place.path(), "a", &[0.501, 0.595, 0.5, 0.643, 0.644], &json!({}))];
        let rows = vec![row(Question::FirstRun, "mlp", runs.clone())];
        let text = reading(&reproduction(rows), &runs);
        assert!(text.contains("accuracy 0.6440 (n = 1); the reference has 0.654, the difference is -0.0100"), "{text}");
        assert!(
            text.contains(": agrees.") && text.contains("epoch 3 is farthest") && text.contains("-0.1310"),
            "{text}"
        );
    }

    #[test]
    fn shapes_are_those_of_the_pictures_and_the_records() {
        let place = tempfile::tempdir().unwrap();
        let runs = vec![trained(place.path(), "a", &[0.5], &json!({ "config": { "batch_size": 64 } }))];
        let picture = Picture { caption: "Coat".to_owned(), size: [28, 28], pixels: vec![0; 784] };
        let samples = Some(Pictures { columns: 1, pictures: vec![picture] });
        let reproduction = Reproduction { samples, ..reproduction(vec![row(Question::FirstRun, "mlp", runs)]) };
        let lines = shapes(&reproduction);
        assert_eq!(lines[0], "an image: `[1, 28, 28]`, one channel of 28 by 28 pixels");
        assert_eq!(
            lines[1..3],
            ["fashion-mnist: 100 images to train and 4 to test", "a batch: images `[64, 1, 28, 28]`, labels `[64]`"]
        );
        assert_eq!(lines[3], "2 classes: Coat, Bag");
    }
}
