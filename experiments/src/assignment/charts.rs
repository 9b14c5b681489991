//! Measured curves, each with the reference's in its colour.

use kindling_record::{RecordError, read_steps};
use kindling_report::{
    Against, Axis, Block, Figure, Group, LineChart, Point, ReportError, Run, Sample, Series, Split, Style, chart,
    counted,
};
use serde_json::Value;

use super::{
    measured::{Reproduction, finished, training},
    reference::{Epoch, Question},
};

/// Batches between two values of the training loss.
const EVERY: usize = 100;

/// A row's label, its runs and the reference's curve; empty where there is none.
pub(crate) type Curve = (String, Vec<Run>, Vec<Epoch>);

/// The curves of a question's rows.
pub(crate) fn curves(reproduction: &Reproduction, question: Question) -> Vec<Curve> {
    let runs = |row| reproduction.runs(question, row).to_vec();
    let curve = |row| (question.label(row), runs(row), reproduction.reference.curve(question, row));
    question.rows().iter().map(|&row| curve(row)).collect()
}

/// Test accuracy or loss after each epoch. Nothing where no run has finished an epoch.
pub(crate) fn test_chart(name: &str, metric: &str, curves: &[Curve]) -> Result<Option<Block>, ReportError> {
    let group = |(label, runs, _): &Curve| Group { label: label.clone(), runs: runs.clone(), ..Group::default() };
    let groups: Vec<Group> = curves.iter().map(group).collect();
    let mut plot = chart(&groups, metric, &[Split::Test], Against::Epoch)?;
    if plot.series.is_empty() {
        return Ok(None);
    }
    let n = counted(groups.iter().map(|group| group.count(|epoch| epoch.get(&format!("test/{metric}")))));
    let mut caption = format!("Test {metric} after each epoch: means and, as bands, standard deviations ({n}).");
    let measured = plot.series.len();
    for (color, (label, _, reference)) in curves.iter().enumerate() {
        let value = |epoch: &Epoch| if metric == "loss" { epoch.loss } else { Some(epoch.accuracy) };
        let points = reference.iter().filter_map(|epoch| Some((epoch.number as f64, value(epoch)?)));
        let points: Vec<Point> = points.map(|(x, y)| Point { x, y, std: None }).collect();
        if !points.is_empty() {
            plot.series.push(Series { label: format!("{label}, reference"), points, color, style: Style::Reference });
        }
    }
    if plot.series.len() > measured {
        caption += " Broken lines are the reference's (n = 1).";
    }
    Ok(Some(Block::Chart(Figure { name: name.to_owned(), caption, plot })))
}

/// 1.1: the training loss of every hundredth batch.
pub(crate) fn training_chart(reproduction: &Reproduction) -> Result<Option<Block>, ReportError> {
    let runs = finished(reproduction.runs(Question::FirstRun, "mlp"));
    let mut read = runs.map(batch_losses).collect::<Result<Vec<_>, _>>()?;
    read.retain(|losses| !losses.is_empty());
    let Some(first) = read.first() else { return Ok(None) };
    let at = |(place, &(images, _)): (usize, &(usize, f64))| {
        let losses = read.iter().filter_map(|losses| Some(losses.get(place)?.1));
        let sample = Sample::of(losses.filter(|loss| loss.is_finite()))?;
        Some(Point { x: images as f64, y: sample.mean, std: sample.std })
    };
    let measured = first.iter().enumerate().filter_map(at).collect();
    // Ten of each epoch of 60,000 images, in batches of 64.
    let images = |index: usize| index / 10 * 60_000 + index % 10 * EVERY * 64;
    let printed = reproduction.reference.train_losses().into_iter().enumerate();
    let printed = printed.map(|(index, y)| Point { x: images(index) as f64, y, std: None }).collect();
    let axis = |label: &str| Axis { label: label.to_owned(), ..Axis::default() };
    let series = |label: &str, points, style| Series { label: label.to_owned(), points, color: 0, style };
    let plot = LineChart {
        x: axis("training images seen"),
        y: axis("train loss of the batch (nats)"),
        series: vec![series("mlp", measured, Style::Measured), series("mlp, reference", printed, Style::Reference)],
    };
    let caption = format!(
        "The training loss of every hundredth batch, before its update: mean and, as a band, standard deviation (n = \
         {}). The broken line is the reference's (n = 1).",
        read.len()
    );
    Ok(Some(Block::Chart(Figure { name: "first-run-train-loss".to_owned(), caption, plot })))
}

/// The losses of every hundredth batch of each epoch, its first among them, after the images seen before it.
fn batch_losses(run: &Run) -> Result<Vec<(usize, f64)>, RecordError> {
    let (path, train) = (run.directory.steps(), run.record.dataset.train);
    let size = training(run, "batch_size").and_then(Value::as_u64).map_or(0, |size| size as usize);
    if size == 0 || !path.exists() {
        return Ok(Vec::new());
    }
    let per_epoch = train.div_ceil(size).max(1);
    let of_hundredth = |step: kindling_record::StepRecord| {
        // Steps count from 1 over the whole run.
        let (epoch, batch) = ((step.step.checked_sub(1)?) / per_epoch, (step.step - 1) % per_epoch);
        batch.is_multiple_of(EVERY).then_some((epoch * train + batch * size, step.loss))
    };
    Ok(read_steps(&path)?.into_iter().filter_map(of_hundredth).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixtures::{reproduction, row, seeds, steps, trained},
        *,
    };

    #[test]
    fn a_reference_has_the_colour_of_what_it_is_compared_with() {
        let place = tempfile::tempdir().unwrap();
        let rows = vec![seeds(place.path(), Question::LearningRates, "0.1", &[vec![0.5, 0.75]], &json!({}))];
        let curves = curves(&reproduction(rows), Question::LearningRates);
        let Some(Block::Chart(figure)) = test_chart("name", "accuracy", &curves[..2]).unwrap() else { panic!() };
        let series = figure.plot.series.iter().map(|one| (one.label.as_str(), one.color, one.points.len()));
        let [first, second] = ["learning rate 1, reference", "learning rate 0.1, reference"];
        assert_eq!(series.collect::<Vec<_>>(), [("learning rate 0.1", 1, 2), (first, 0, 10), (second, 1, 10)]);
        assert!(figure.caption.contains("(n = 1)") && figure.caption.contains("Broken lines"));
        // The reference printed no losses for these.
        let Some(Block::Chart(figure)) = test_chart("name", "loss", &curves).unwrap() else { panic!() };
        assert!(figure.plot.series.len() == 1 && !figure.caption.contains("Broken lines"));
        assert!(test_chart("name", "accuracy", &curves[..1]).unwrap().is_none());
    }

    #[test]
    fn training_losses_are_those_of_the_batches_that_the_reference_prints() {
        let place = tempfile::tempdir().unwrap();
        // Epochs of 60,000 images in batches of 64, as the reference's; the loss of this log is the number of its step.
        let changes = json!({ "config": { "training": { "batch_size": 64 } }, "dataset": { "train": 60_000 } });
        let run = trained(place.path(), "a", &[0.5, 0.6], &changes);
        steps(&run, &(1..=2 * 938).map(|step| json!({ "loss": f64::from(step) })).collect::<Vec<Value>>());
        let found = batch_losses(&run).unwrap();
        assert_eq!(found[9..12], [(57_600, 901.0), (60_000, 939.0), (66_400, 1039.0)]);
        let chart = training_chart(&reproduction(vec![row(Question::FirstRun, "mlp", vec![run])])).unwrap();
        let Some(Block::Chart(figure)) = chart else { panic!("{chart:?}") };
        let [measured, printed] = &figure.plot.series[..] else { panic!("{:?}", figure.plot) };
        assert_eq!((measured.points.len(), printed.points.len(), printed.style), (20, 50, Style::Reference));
        assert!(measured.points.iter().zip(&printed.points).all(|(ours, theirs)| ours.x.total_cmp(&theirs.x).is_eq()));
    }
}
