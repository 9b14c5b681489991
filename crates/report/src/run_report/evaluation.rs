//! What a run's weights get right and wrong.

use kindling_record::{CalibrationRecord, EvaluationRecord, RunRecord};

use crate::{
    document::{Block, Figure, TableBlock, file_name},
    error::ReportError,
    plot::{Axis, Confusion, LineChart, Point, Series, Style},
    run::{Run, class_name},
    run_report::mistakes::mistake_blocks,
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
    if counts.len() > LARGEST_MATRIX {
        let text = format!(
            "The confusion matrix of run `{}` is not drawn: it has {} classes, and only {LARGEST_MATRIX} can be told apart.",
            run.record.id,
            grouped(counts.len())
        );
        return Ok(Some(Block::Paragraph(text)));
    }
    let images: usize = counts.iter().flatten().sum();
    Ok(Some(Block::Confusion(Figure {
        name: file_name(&format!("{prefix} confusion")),
        caption: format!(
            "Confusion matrix of run `{}`: {} test images by their class and by the class they were taken for.",
            run.record.id,
            grouped(images)
        ),
        plot: Confusion { classes: run.record.dataset.classes().to_vec(), counts },
    })))
}

/// Metrics of each class, calibration, and mistakes of a run that was evaluated.
pub(crate) fn class_blocks(run: &Run, prefix: &str) -> Result<Vec<Block>, ReportError> {
    let record = &run.record;
    let id = &record.id;
    let Some(evaluation) = run.directory.read_evaluation()? else { return Ok(Vec::new()) };
    let name = |what: &str| file_name(&format!("{prefix} {what}"));
    let mut blocks = vec![class_block(Block::Table(class_table(id, &evaluation)), evaluation.classes.len())];
    blocks.push(Block::Chart(Figure {
        name: name("calibration"),
        caption: format!(
            "Calibration of run `{id}`: how often its predictions are right, by the probability it gives them, in {} \
             bins of equal width. On the broken line both are the same. The expected calibration error, the mean \
             distance from that line over {} images, is {:.4}.",
            evaluation.calibration.bins.len(),
            grouped(evaluation.images),
            evaluation.calibration.error
        ),
        plot: calibration_chart(&evaluation.calibration),
    }));
    if !evaluation.confused.is_empty() {
        blocks.push(Block::Table(confused_table(record, &evaluation)));
    }
    blocks.extend(mistake_blocks(run, &evaluation, &name("mistakes"))?);
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

fn class_table(id: &str, evaluation: &EvaluationRecord) -> TableBlock {
    let shown = |fraction: Option<f64>| fraction.map_or_else(|| NONE.to_owned(), percent);
    let rows = evaluation.classes.iter().map(|class| {
        vec![class.name.clone(), grouped(class.images), shown(class.precision), shown(class.recall), shown(class.f1)]
    });
    TableBlock {
        caption: format!(
            "Each class of the test set with the weights of run `{id}` (n = 1), computed on {}: accuracy {}, loss \
             {:.4} nats over {} images.",
            evaluation.backend,
            percent(evaluation.accuracy),
            evaluation.loss,
            grouped(evaluation.images)
        ),
        header: ["class", "images", "precision", "recall", "F1"].map(str::to_owned).to_vec(),
        right: (1..=4).collect(),
        rows: rows.collect(),
    }
}

fn calibration_chart(calibration: &CalibrationRecord) -> LineChart {
    let point = |x: f64, y: f64| Point { x, y, std: None };
    let measured = calibration.bins.iter().filter_map(|bin| Some(point(bin.confidence?, bin.accuracy?)));
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
