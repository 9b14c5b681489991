//! What a run's weights get right and wrong.

use std::{fs, io};

use image::ImageFormat;
use kindling_record::{CalibrationRecord, EvaluationRecord, RunRecord};

use crate::{
    document::{Block, Figure, TableBlock, file_name},
    error::ReportError,
    plot::{Axis, Confusion, LineChart, Picture, Pictures, Point, Series, Style},
    run::Run,
    table::{NONE, grouped, percent},
};

/// Pictures beside one another in a sheet of mistakes.
const COLUMNS: usize = 6;

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
    let mut blocks = vec![Block::Table(class_table(id, &evaluation))];
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
    let pictures = mistakes(run, &evaluation)?;
    if !pictures.is_empty() {
        let caption = format!(
            "The {} mistakes that run `{id}` made with most confidence: the class an image has, the one it was taken \
             for, and the probability of that.",
            pictures.len()
        );
        let plot = Pictures { columns: COLUMNS, pictures };
        blocks.push(Block::Pictures(Figure { name: name("mistakes"), caption, plot }));
    }
    Ok(blocks)
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

fn class_name(record: &RunRecord, label: usize) -> String {
    record.dataset.classes().get(label).cloned().unwrap_or_else(|| label.to_string())
}

/// The pictures of the mistakes that are still there, in the size they have in the data set.
fn mistakes(run: &Run, evaluation: &EvaluationRecord) -> Result<Vec<Picture>, ReportError> {
    let mut pictures = Vec::new();
    for mistake in &evaluation.mistakes {
        let path = run.directory.mistakes().join(&mistake.picture);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // Pictures are there to be looked at, and may be tidied away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(ReportError::Io { path, source }),
        };
        let decoded = image::load_from_memory_with_format(&bytes, ImageFormat::Png).map_err(|error| {
            let message = format!("expected a PNG, found something else ({error}); evaluate the run again");
            ReportError::Plot { plot: path.display().to_string(), message }
        })?;
        let image = decoded.into_luma8();
        let (width, height) = image.dimensions();
        pictures.push(Picture {
            caption: format!(
                "{} as {}, {:.3}",
                class_name(&run.record, mistake.target),
                class_name(&run.record, mistake.predicted),
                mistake.confidence
            ),
            size: [height as usize, width as usize],
            pixels: image.into_raw(),
        });
    }
    // They are kept enlarged, for file managers; a sheet has its own scale.
    let factor = (2..=8).rev().find(|&factor| pictures.iter().all(|picture| is_enlarged(picture, factor)));
    Ok(pictures.into_iter().map(|picture| reduced(picture, factor.unwrap_or(1))).collect())
}

/// Whether the picture is made of squares of `factor` by `factor` pixels of one shade.
fn is_enlarged(picture: &Picture, factor: usize) -> bool {
    let [height, width] = picture.size;
    let corner = |index: usize| {
        let (row, column) = (index / width, index % width);
        (row - row % factor) * width + column - column % factor
    };
    height.is_multiple_of(factor)
        && width.is_multiple_of(factor)
        && (0..height * width).all(|index| picture.pixels[index] == picture.pixels[corner(index)])
}

/// One pixel for each square of `factor` by `factor`.
fn reduced(picture: Picture, factor: usize) -> Picture {
    let [height, width] = picture.size;
    let rows = (0..height).step_by(factor);
    let places = rows.flat_map(|row| (0..width).step_by(factor).map(move |column| row * width + column));
    let pixels = places.map(|place| picture.pixels[place]).collect();
    Picture { size: [height / factor, width / factor], pixels, caption: picture.caption }
}

#[cfg(test)]
mod tests {
    use kindling_record::{CalibrationBin, ClassRecord, ConfusedPair, MistakeRecord};
    use serde_json::json;

    use super::*;
    use crate::run_report::fixtures::run;

    fn evaluation() -> EvaluationRecord {
        let class = |name: &str, precision| ClassRecord {
            name: name.to_owned(),
            images: 2,
            precision,
            recall: Some(0.5),
            f1: None,
        };
        let bin =
            |from: f64, confidence, accuracy| CalibrationBin { from, to: from + 0.5, images: 2, confidence, accuracy };
        EvaluationRecord {
            schema: kindling_record::SCHEMA,
            evaluated: "2026-01-02T03:04:05Z".to_owned(),
            backend: "flex".to_owned(),
            device: "a processor".to_owned(),
            kernels: "composed".to_owned(),
            images: 4,
            loss: 0.5,
            accuracy: 0.75,
            confusion: vec![vec![2, 0], vec![1, 1]],
            classes: vec![class("Coat", Some(0.75)), class("Bag", None)],
            calibration: CalibrationRecord {
                error: 0.125,
                bins: vec![bin(0.0, None, None), bin(0.5, Some(0.8), Some(0.75))],
            },
            confused: vec![ConfusedPair { target: 1, predicted: 0, images: 1 }],
            mistakes: vec![
                MistakeRecord { index: 3, target: 1, predicted: 0, confidence: 0.98765, picture: "01.png".to_owned() },
                MistakeRecord { index: 2, target: 1, predicted: 0, confidence: 0.9, picture: "gone.png".to_owned() },
            ],
        }
    }

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
        assert_eq!(picture.pixels, [0, 255, 255, 0]);
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
