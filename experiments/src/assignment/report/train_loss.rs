//! 1.1: the training loss of the first run, at every hundredth batch.

use kindling_record::{StepRecord, read_steps};
use serde_json::Value;

use crate::{
    Axis, Block, Figure, LineChart, Point, ReportError, Run, Sample, Series, Style,
    reproduction::{
        figures::{NONE, NOT_RUN, finished, given},
        reference::Reference,
    },
};

/// Batches between two lines of the training loss.
const EVERY: usize = 100;

/// Lines of an epoch in the reference: of its batches 0, 100, … 900.
const LINES: usize = 10;

/// Images of the reference's epochs and batches.
const REFERENCE_IMAGES: usize = 60_000;
const REFERENCE_BATCH: usize = 64;

/// A line of the training loss.
struct Line {
    /// From 0.
    epoch: usize,
    /// From 0, in units of [`EVERY`] batches.
    index: usize,
    /// Images of the epoch before this batch.
    images: usize,
    /// The batch's mean loss before its update, in nats.
    loss: f64,
}

/// The loss of every hundredth batch: a chart beside the reference's, and one run's in the reference's form.
pub(crate) fn training_loss(reference: &Reference, runs: &[Run]) -> Result<Vec<Block>, ReportError> {
    let mut read = Vec::new();
    for run in finished(runs).filter(|run| run.directory.steps().exists()) {
        if let Some(per_epoch) = steps_per_epoch(run) {
            let lines = lines(run, per_epoch, &read_steps(&run.directory.steps())?);
            if !lines.is_empty() {
                read.push((run, lines));
            }
        }
    }
    let Some((run, first)) = read.first() else {
        return Ok(vec![Block::Paragraph(format!("The training loss of every hundredth batch: {NOT_RUN}."))]);
    };
    let mut measured = Vec::new();
    for (place, line) in first.iter().enumerate() {
        let losses = read.iter().filter_map(|(_, lines)| lines.get(place)).map(|line| line.loss);
        if let Some(sample) = Sample::of(losses.filter(|loss| loss.is_finite())) {
            measured.push((line, sample));
        }
    }
    let per_epoch = first.iter().filter(|line| line.epoch == 0).count();
    let printed = &reference.first_run.train_losses;
    let mut blocks = vec![Block::Paragraph(format!(
        "The training loss was looked at every {EVERY} batches, {per_epoch} times in each epoch, {} in all; the \
         reference has {}. {}",
        first.len(),
        printed.len(),
        distances(&measured, printed)
    ))];
    blocks.push(Block::Chart(Figure {
        name: "first-run-train-loss".to_owned(),
        caption: format!(
            "First run: the training loss of every hundredth batch, before its update; mean and, as a band, standard \
             deviation over the seeds (n = {}). The broken line is the reference's (n = 1).",
            read.len()
        ),
        plot: loss_chart(&measured, run.record.dataset.train, printed),
    }));
    let title = format!("The training loss of run `{}` as the reference prints it", run.record.id);
    blocks.push(Block::Details(title, vec![Block::Code(transcript(run, first))]));
    Ok(blocks)
}

fn batch_size(run: &Run) -> Option<usize> {
    let size = run.record.config.get("batch_size").and_then(Value::as_u64)?;
    (size > 0).then_some(size as usize)
}

fn steps_per_epoch(run: &Run) -> Option<usize> {
    batch_size(run).map(|size| run.record.dataset.train.div_ceil(size)).filter(|&steps| steps > 0)
}

/// The steps after every hundred batches of an epoch, its first batch among them.
fn lines(run: &Run, per_epoch: usize, steps: &[StepRecord]) -> Vec<Line> {
    let size = batch_size(run).unwrap_or(REFERENCE_BATCH);
    // Steps count from 1 over the whole run.
    let line = |step: &StepRecord| {
        let (epoch, batch) = (step.step.checked_sub(1)? / per_epoch, (step.step - 1) % per_epoch);
        let index = batch / EVERY;
        batch.is_multiple_of(EVERY).then_some(Line { epoch, index, images: batch * size, loss: step.loss })
    };
    steps.iter().filter_map(line).collect()
}

/// How far the losses are from the reference's at the same batches.
fn distances(measured: &[(&Line, Sample)], printed: &[f64]) -> String {
    let distances = measured.iter().filter_map(|(line, sample)| {
        let reference = (line.index < LINES).then(|| printed.get(line.epoch * LINES + line.index)).flatten()?;
        Some((sample.mean - reference).abs())
    });
    let distances: Vec<f64> = distances.collect();
    let largest = distances.iter().copied().fold(0.0, f64::max);
    Sample::of(distances).map_or_else(String::new, |sample| {
        format!(
            "At the {} batches that both have, they lie {:.4} apart in the mean, and {largest:.4} at most.",
            sample.n, sample.mean
        )
    })
}

fn loss_chart(measured: &[(&Line, Sample)], train: usize, printed: &[f64]) -> LineChart {
    let points = measured.iter().map(|(line, sample)| Point {
        x: (line.epoch * train + line.images) as f64,
        y: sample.mean,
        deviation: sample.deviation,
    });
    let reference = printed.iter().enumerate().map(|(place, &loss)| Point {
        x: (place / LINES * REFERENCE_IMAGES + place % LINES * EVERY * REFERENCE_BATCH) as f64,
        y: loss,
        deviation: None,
    });
    let axis = |label: &str| Axis { label: label.to_owned(), ..Axis::default() };
    LineChart {
        x: axis("training images seen"),
        y: axis("train loss of the batch (nats)"),
        series: vec![
            Series { label: "mlp".to_owned(), points: points.collect(), color: 0, style: Style::Measured },
            Series {
                label: "mlp, reference".to_owned(),
                points: reference.collect(),
                color: 0,
                style: Style::Reference,
            },
        ],
    }
}

/// The run's losses in the form of PyTorch's tutorial, which the reference follows
/// (<https://pytorch.org/tutorials/beginner/basics/optimization_tutorial.html>).
fn transcript(run: &Run, lines: &[Line]) -> String {
    let train = run.record.dataset.train;
    let mut text = Vec::new();
    for epoch in &run.record.epochs {
        text.push(format!("Epoch {}\n-------------------------------", epoch.epoch));
        let of_epoch = lines.iter().filter(|line| line.epoch + 1 == epoch.epoch);
        text.extend(of_epoch.map(|line| format!("loss: {:>7.6}  [{:>5}/{train:>5}]", line.loss, line.images)));
        let accuracy = epoch.test_accuracy.map_or_else(|| NONE.to_owned(), |one| format!("{:.1}%", one * 100.0));
        text.push(format!("Test: accuracy {accuracy}, mean loss {}\n", given(epoch.test_loss, 6)));
    }
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        reproduction::fixtures::{reference, trained},
        run_report::fixtures::steps,
    };

    /// An epoch of 60,000 images in batches of 64, as the reference's.
    fn first_run(place: &std::path::Path) -> Run {
        let changes = json!({ "config": { "batch_size": 64 }, "dataset": { "train": 60_000 } });
        let run = trained(place, "a", &[0.5, 0.6], &changes);
        let losses: Vec<Value> = (1..=2 * 938).map(|step| json!({ "loss": f64::from(step) })).collect();
        steps(&run, &losses);
        run
    }

    #[test]
    fn lines_are_those_of_the_batches_that_the_reference_prints() {
        let place = tempfile::tempdir().unwrap();
        let run = first_run(place.path());
        let steps = read_steps(&run.directory.steps()).unwrap();
        assert_eq!(steps_per_epoch(&run), Some(938));
        let found = lines(&run, 938, &steps);
        assert_eq!(found.len(), 2 * LINES);
        // The loss of this log is the number of its step.
        let shown: Vec<String> =
            found.iter().map(|line| format!("{} {} {:.0}", line.epoch, line.images, line.loss)).collect();
        assert_eq!(shown[..2], ["0 0 1", "0 6400 101"]);
        assert_eq!(shown[9..12], ["0 57600 901", "1 0 939", "1 6400 1039"]);
    }

    #[test]
    fn a_run_is_printed_in_the_references_form() {
        let place = tempfile::tempdir().unwrap();
        let run = first_run(place.path());
        let line = |images, loss| Line { epoch: 0, index: 0, images, loss };
        let text = transcript(&run, &[line(0, 2.305_552), line(6_400, 2.29203)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Epoch 1");
        assert_eq!(lines[2..4], ["loss: 2.305552  [    0/60000]", "loss: 2.292030  [ 6400/60000]"]);
        assert_eq!(lines[4], "Test: accuracy 50.0%, mean loss 0.500000");
    }

    #[test]
    fn the_references_losses_stand_at_their_images_beside_the_measured() {
        let place = tempfile::tempdir().unwrap();
        let reference = reference();
        let blocks = training_loss(&reference, &[first_run(place.path())]).unwrap();
        let [Block::Paragraph(text), Block::Chart(figure), Block::Details(..)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert!(text.contains("10 times in each epoch, 20 in all; the reference has 50"), "{text}");
        assert!(text.contains("At the 20 batches that both have"), "{text}");
        let [measured, printed] = &figure.plot.series[..] else { panic!("{:?}", figure.plot) };
        assert_eq!((measured.points.len(), printed.points.len()), (20, 50));
        let places = |series: &Series| series.points.iter().take(20).map(|point| point.x).collect::<Vec<_>>();
        assert_eq!(places(measured), places(printed));
        assert_eq!(printed.style, Style::Reference);
    }
}
