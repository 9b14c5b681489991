//! What a run's weights, and those of several together, get right and wrong.

use std::slice;

use kindling_record::{CalibrationRecord, ClassRecord, EvaluationRecord, MetricRecord, RunRecord};

use crate::{
    document::{Block, Figure, TableBlock, file_name},
    error::ReportError,
    metrics::sample_text,
    plot::{Axis, Confusion, LineChart, Point, Series, Style},
    run::{Run, class_name},
    run_report::mistakes::mistake_blocks,
    statistics::Sample,
    table::{NONE, grouped, percent},
};

/// Tables of more classes are folded away.
pub(crate) const OPEN: usize = 30;
/// A matrix of more classes would be a page of dots.
const LARGEST_MATRIX: usize = 200;

/// Confusion matrix, metrics of each class, calibration, and mistakes of `run`, as far as they are known; the names of
/// the figures start with `prefix`.
///
/// # Errors
/// When the run was evaluated and its `evaluation.json`, or one of its pictures, cannot be read.
pub fn evaluation_blocks(run: &Run, prefix: &str) -> Result<Vec<Block>, ReportError> {
    let Some(confusion) = confusion_block(run, prefix)? else {
        let text = format!("Run `{}` has no confusion matrix: it is {}.", run.record.id, run.status);
        return Ok(vec![Block::Paragraph(text)]);
    };
    let mut blocks = vec![confusion];
    blocks.extend(class_blocks(run, prefix)?);
    Ok(blocks)
}

/// The run's confusion matrix, if it is one of a classifier that was tested.
pub(crate) fn confusion_block(run: &Run, prefix: &str) -> Result<Option<Block>, ReportError> {
    let evaluation = run.directory.read_evaluation()?;
    let tested = run.record.test.as_ref().and_then(|test| test.confusion.clone());
    let Some(counts) = evaluation.map(|evaluation| evaluation.confusion).or(tested) else { return Ok(None) };
    Ok(Some(matrix_block(run, counts, prefix, &format!("run `{}`", run.record.id), "test images")))
}

/// The matrix of the classes of `run`, as far as it can be drawn: `whose`, which counts `images`.
fn matrix_block(run: &Run, counts: Vec<Vec<usize>>, prefix: &str, whose: &str, images: &str) -> Block {
    if counts.len() > LARGEST_MATRIX {
        let classes = grouped(counts.len());
        return Block::Paragraph(format!(
            "The confusion matrix of {whose} is not drawn: it has {classes} classes, and only {LARGEST_MATRIX} can be \
             told apart."
        ));
    }
    let count: usize = counts.iter().flatten().sum();
    Block::Confusion(Figure {
        name: file_name(&format!("{prefix} confusion")),
        caption: format!(
            "Confusion matrix of {whose}: {} {images} by their class and by the class they were taken for.",
            grouped(count)
        ),
        plot: Confusion { classes: run.record.dataset.classes().to_vec(), counts },
    })
}

/// What the networks of `runs` get right and wrong together: the sum of their confusion matrices, metrics of each class
/// and calibration as means and standard deviations over the runs that were evaluated, nothing where none was; the names
/// of the figures start with `prefix`.
///
/// # Errors
/// When a run was evaluated and its `evaluation.json` cannot be read.
pub fn repeated_evaluation_blocks(runs: &[Run], prefix: &str) -> Result<Vec<Block>, ReportError> {
    let evaluations = evaluations(runs)?;
    let (Some(run), Some((first, others))) = (runs.first(), evaluations.split_first()) else { return Ok(Vec::new()) };
    let mut counts = first.confusion.clone();
    for other in others {
        let rows = counts.iter_mut().zip(&other.confusion);
        rows.flat_map(|(sums, row)| sums.iter_mut().zip(row)).for_each(|(sum, count)| *sum += count);
    }
    let n = evaluations.len();
    let whose = if n == 1 { "1 network".to_owned() } else { format!("{n} networks together") };
    let accuracy = Sample::of(evaluations.iter().map(|one| one.accuracy)).map_or_else(String::new, |one| one.percent());
    let caption = format!(
        "Each class of the test set, mean ± standard deviation over {whose}{}: accuracy {accuracy} over {} images. Recall \
         is the accuracy within a class.",
        with_views(&first.test_time_augmentation),
        grouped(first.images)
    );
    let table = Block::Table(class_table(caption, &evaluations));
    Ok(vec![
        matrix_block(run, counts, prefix, &whose, "predictions for test images"),
        class_block(table, first.classes.len()),
        calibration_block(&evaluations, &whose, prefix),
    ])
}

/// The evaluations of those of `runs` that were evaluated.
///
/// # Errors
/// When an `evaluation.json` is there and cannot be read.
pub fn evaluations(runs: &[Run]) -> Result<Vec<EvaluationRecord>, ReportError> {
    let read = runs.iter().filter_map(|run| run.directory.read_evaluation().transpose());
    Ok(read.collect::<Result<_, _>>()?)
}

/// What is said beside a metric of the test-time augmentations of these names; nothing where there are none.
#[must_use]
pub fn with_views(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" with test-time augmentation {}", names.join(",")) }
}

/// Metrics of each class, calibration, and mistakes of a run that was evaluated.
pub(crate) fn class_blocks(run: &Run, prefix: &str) -> Result<Vec<Block>, ReportError> {
    let record = &run.record;
    let id = &record.id;
    let Some(evaluation) = run.directory.read_evaluation()? else { return Ok(Vec::new()) };
    let caption = format!(
        "Each class of the test set with the weights of run `{id}` (n = 1), computed on {}{}: accuracy {}, loss {:.4} \
         nats over {} images.",
        evaluation.backend,
        with_views(&evaluation.test_time_augmentation),
        percent(evaluation.accuracy),
        evaluation.loss,
        grouped(evaluation.images)
    );
    let alone = slice::from_ref(&evaluation);
    let table = Block::Table(class_table(caption, alone));
    let mut blocks = vec![class_block(table, evaluation.classes.len())];
    blocks.push(calibration_block(alone, &format!("run `{id}`"), prefix));
    if !evaluation.confused.is_empty() {
        blocks.push(Block::Table(confused_table(record, &evaluation)));
    }
    blocks.extend(mistake_blocks(run, &evaluation, &file_name(&format!("{prefix} mistakes")))?);
    Ok(blocks)
}

/// A table with a row for each class, folded away where those are many.
pub(crate) fn class_block(table: Block, classes: usize) -> Block {
    if classes > OPEN {
        Block::Details(format!("Each of the {} classes", grouped(classes)), vec![table])
    } else {
        table
    }
}

/// The metrics of each class, as means over the evaluations where these are several.
fn class_table(caption: String, evaluations: &[EvaluationRecord]) -> TableBlock {
    let fraction = MetricRecord { name: "accuracy".to_owned(), higher_is_better: true, unit: None };
    let classes = evaluations.first().map_or(&[][..], |first| &first.classes);
    let rows = classes.iter().enumerate().map(|(label, class)| {
        let shown = |value: fn(&ClassRecord) -> Option<f64>| {
            let values = evaluations.iter().filter_map(|evaluation| value(evaluation.classes.get(label)?));
            Sample::of(values).map_or_else(|| NONE.to_owned(), |sample| sample_text(&fraction, &sample))
        };
        let metrics = [shown(|class| class.precision), shown(|class| class.recall), shown(|class| class.f1)];
        [class.name.clone(), grouped(class.images)].into_iter().chain(metrics).collect()
    });
    TableBlock {
        caption,
        header: ["class", "images", "precision", "recall", "F1"].map(str::to_owned).to_vec(),
        right: (1..=4).collect(),
        rows: rows.collect(),
    }
}

fn calibration_block(evaluations: &[EvaluationRecord], whose: &str, prefix: &str) -> Block {
    let calibrations: Vec<_> = evaluations.iter().map(|evaluation| &evaluation.calibration).collect();
    let error = Sample::of(calibrations.iter().map(|calibration| calibration.error));
    let error = match error {
        Some(Sample { std: None, mean, .. }) => format!("{mean:.4}"),
        error => error.map_or_else(String::new, |error| error.fixed(4)),
    };
    let (bins, images) = evaluations.first().map_or((0, 0), |one| (one.calibration.bins.len(), one.images));
    Block::Chart(Figure {
        name: file_name(&format!("{prefix} calibration")),
        caption: format!(
            "Calibration of {whose}: how often predictions are right, by the probability that they are given, in {bins} \
             bins of equal width{}. On the broken line both are the same. The expected calibration error (Guo et al. \
             2017, arXiv:1706.04599), the mean distance from that line over {} images, is {error}.",
            if evaluations.len() > 1 { "; the band is the standard deviation" } else { "" },
            grouped(images)
        ),
        plot: calibration_chart(&calibrations),
    })
}

/// Accuracy against confidence in each bin, as means over the calibrations that have images there.
fn calibration_chart(calibrations: &[&CalibrationRecord]) -> LineChart {
    let point = |x: f64, y: f64| Point { x, y, std: None };
    let bins = calibrations.iter().map(|calibration| calibration.bins.len()).max().unwrap_or_default();
    let measured = (0..bins).filter_map(|bin| {
        let filled = calibrations.iter().filter_map(|calibration| {
            let bin = calibration.bins.get(bin)?;
            Some((bin.confidence?, bin.accuracy?))
        });
        let (confidences, accuracies): (Vec<f64>, Vec<f64>) = filled.unzip();
        let accuracy = Sample::of(accuracies)?;
        Some(Point { x: Sample::of(confidences)?.mean, y: accuracy.mean, std: accuracy.std })
    });
    let axis = |label: &str| Axis { label: label.to_owned(), logarithmic: false, range: Some((0.0, 1.0)) };
    LineChart {
        x: axis("confidence (probability of the predicted class)"),
        y: axis("accuracy (fraction)"),
        series: vec![
            Series { label: "measured".to_owned(), points: measured.collect(), color: 0, style: Style::Measured },
            Series {
                label: "confidence = accuracy".to_owned(),
                points: vec![point(0.0, 0.0), point(1.0, 1.0)],
                color: 1,
                style: Style::Reference,
            },
        ],
    }
}

fn confused_table(record: &RunRecord, evaluation: &EvaluationRecord) -> TableBlock {
    let rows = evaluation.confused.iter().map(|pair| {
        let of_class = evaluation.classes.get(pair.target).map(|class| class.images).filter(|&images| images > 0);
        let share = of_class.map(|images| percent(pair.images as f64 / images as f64));
        vec![
            class_name(record, pair.target),
            class_name(record, pair.predicted),
            grouped(pair.images),
            share.unwrap_or_else(|| NONE.to_owned()),
        ]
    });
    TableBlock {
        caption: "The classes that are taken for another most often, with the share of the class's images.".to_owned(),
        header: ["class", "taken for", "images", "share"].map(str::to_owned).to_vec(),
        right: vec![2, 3],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::run_report::fixtures::{evaluation, run};

    #[test]
    fn an_evaluated_run_shows_classes_calibration_and_mistakes() {
        let place = tempfile::tempdir().unwrap();
        let run = run(place.path(), "mlp-1", json!({}));
        run.directory.write_evaluation(&evaluation()).unwrap();
        fs::create_dir(run.directory.mistakes()).unwrap();
        // A chessboard of two by two, enlarged four times.
        let image = image::GrayImage::from_fn(8, 8, |x, y| {
            image::Luma([if (x / 4 + y / 4).is_multiple_of(2) { 0 } else { 255 }])
        });
        image.save(run.directory.mistakes().join("01.png")).unwrap();
        let blocks = evaluation_blocks(&run, "1.7 CNN").unwrap();
        let [
            Block::Confusion(confusion),
            Block::Table(classes),
            Block::Chart(calibration),
            Block::Table(confused),
            Block::Pictures(pictures),
            Block::Details(_, files),
        ] = &blocks[..]
        else {
            panic!("{blocks:?}")
        };
        assert_eq!(
            (confusion.name.as_str(), calibration.name.as_str(), pictures.name.as_str()),
            ("1-7-cnn-confusion", "1-7-cnn-calibration", "1-7-cnn-mistakes")
        );
        assert!(confusion.caption.contains("`mlp-1`") && confusion.caption.contains("4 test images"));
        assert_eq!(classes.rows[0], ["Coat", "2", "75.00 %", "50.00 %", NONE]);
        assert_eq!(confused.rows[0], ["Bag", "Coat", "1", "50.00 %"]);
        // A bin without images is no point.
        assert_eq!(calibration.plot.series[0].points, [Point { x: 0.8, y: 0.75, std: None }]);
        assert_eq!(calibration.plot.series[1].style, Style::Reference);
        let [picture] = &pictures.plot.pictures[..] else { panic!("{:?}", pictures.plot) };
        assert_eq!((picture.caption.as_str(), picture.size), ("Bag as Coat, 0.988", [2, 2]));
        assert_eq!((picture.channels, picture.pixels.as_slice()), (1, &[0, 255, 255, 0][..]));
        let [Block::Table(files)] = &files[..] else { panic!("{files:?}") };
        assert_eq!(files.rows, [["`test/bag/7.jpg`", "3", "Bag", "Coat", "0.988"]]);
        assert!(files.caption.ends_with("within `/data`."), "{}", files.caption);
    }

    #[test]
    fn several_evaluated_runs_have_the_sum_of_their_matrices_and_means_of_the_rest() {
        let place = tempfile::tempdir().unwrap();
        let runs = ["mlp-1", "mlp-2", "mlp-3"].map(|id| run(place.path(), id, json!({})));
        assert!(repeated_evaluation_blocks(&runs, "all").unwrap().is_empty());
        let mut other = evaluation();
        (other.accuracy, other.confusion) = (0.5, vec![vec![1, 1], vec![1, 1]]);
        (other.classes[0].recall, other.calibration.error) = (Some(0.75), 0.375);
        other.calibration.bins[1].accuracy = Some(0.25);
        for (run, evaluation) in runs.iter().zip([evaluation(), other]) {
            run.directory.write_evaluation(&evaluation).unwrap();
        }
        let blocks = repeated_evaluation_blocks(&runs, "all").unwrap();
        let [Block::Confusion(confusion), Block::Table(classes), Block::Chart(calibration)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!(confusion.plot.counts, [[3, 1], [2, 2]]);
        assert!(confusion.caption.contains("2 networks together: 8 predictions"), "{}", confusion.caption);
        assert_eq!(classes.rows[0], ["Coat", "2", "75.00 ± 0.00 %", "62.50 ± 17.68 %", NONE]);
        assert!(classes.caption.contains("accuracy 62.50 ± 17.68 % (n = 2)"), "{}", classes.caption);
        // statistics.stdev([0.75, 0.25]) and ([0.125, 0.375]) in Python.
        let [point] = calibration.plot.series[0].points[..] else { panic!("{:?}", calibration.plot) };
        assert!((point.x - 0.8).abs() < 1e-12 && (point.y - 0.5).abs() < 1e-12);
        assert!((point.std.unwrap() - 0.353_553_390_593_273_8).abs() < 1e-12);
        assert!(calibration.caption.ends_with("is 0.2500 ± 0.1768 (n = 2)."), "{}", calibration.caption);
        let alone = repeated_evaluation_blocks(&runs[..1], "one").unwrap();
        assert!(matches!(&alone[..], [_, Block::Table(table), _] if table.rows[0][3] == "50.00 %"), "{alone:?}");
    }

    #[test]
    fn mistakes_in_colour_are_shown_in_colour_at_the_size_they_have_in_the_set() {
        let place = tempfile::tempdir().unwrap();
        let run = run(place.path(), "mlp-1", json!({}));
        run.directory.write_evaluation(&evaluation()).unwrap();
        fs::create_dir(run.directory.mistakes()).unwrap();
        let image = image::RgbImage::from_fn(6, 3, |x, _| image::Rgb([200, if x < 3 { 10 } else { 20 }, 0]));
        image.save(run.directory.mistakes().join("01.png")).unwrap();
        let blocks = evaluation_blocks(&run, "a").unwrap();
        let figures: Vec<_> =
            blocks.iter().filter_map(|block| if let Block::Pictures(one) = block { Some(one) } else { None }).collect();
        let picture = &figures[0].plot.pictures[0];
        assert_eq!((picture.size, picture.channels), ([1, 2], 3));
        assert_eq!(picture.pixels, [200, 200, 10, 20, 0, 0]);
    }

    #[test]
    fn a_matrix_of_too_many_classes_is_not_drawn_and_tables_of_many_are_folded_away() {
        let place = tempfile::tempdir().unwrap();
        let counts = vec![vec![0; 201]; 201];
        let metrics = json!({ "test/loss": 5.0, "test/accuracy": 0.0 });
        let changes = json!({ "test": { "metrics": metrics, "confusion": counts } });
        let blocks = evaluation_blocks(&run(place.path(), "mlp-1", changes), "a").unwrap();
        assert!(matches!(&blocks[..], [Block::Paragraph(text)] if text.contains("it has 201 classes")), "{blocks:?}");
        let folded = class_block(Block::Table(TableBlock::default()), 31);
        assert!(matches!(folded, Block::Details(title, _) if title == "Each of the 31 classes"));
    }

    #[test]
    fn a_run_that_was_only_tested_shows_its_confusion_alone() {
        let place = tempfile::tempdir().unwrap();
        let blocks = evaluation_blocks(&run(place.path(), "mlp-1", json!({})), "a").unwrap();
        assert!(matches!(&blocks[..], [Block::Confusion(_)]));
        let untested = run(place.path(), "mlp-2", json!({ "status": "failed", "test": null }));
        let blocks = evaluation_blocks(&untested, "a").unwrap();
        assert!(matches!(&blocks[..], [Block::Paragraph(text)] if text.contains("no confusion matrix: it is failed")));
    }

    #[test]
    fn a_picture_that_is_none_is_an_error_that_names_it() {
        let place = tempfile::tempdir().unwrap();
        let run = run(place.path(), "mlp-1", json!({}));
        run.directory.write_evaluation(&evaluation()).unwrap();
        fs::create_dir(run.directory.mistakes()).unwrap();
        fs::write(run.directory.mistakes().join("01.png"), "text").unwrap();
        let message = evaluation_blocks(&run, "a").unwrap_err().to_string();
        assert!(message.contains("01.png") && message.contains("expected a PNG"), "{message}");
    }
}
