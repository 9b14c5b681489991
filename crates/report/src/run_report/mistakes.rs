//! The mistakes that a run made with most confidence.

use std::{fs, io};

use image::ImageFormat;
use kindling_record::EvaluationRecord;

use crate::{
    document::{Block, Figure, TableBlock},
    error::ReportError,
    plot::{Picture, Pictures},
    run::{Run, class_name},
    table::grouped,
};

/// Pictures beside one another.
const COLUMNS: usize = 6;

/// A sheet of the mistakes' pictures, called `name`, and below it the files that they came from, as far as there are any.
///
/// # Errors
/// When a picture is there and cannot be read.
pub fn mistake_blocks(run: &Run, evaluation: &EvaluationRecord, name: &str) -> Result<Vec<Block>, ReportError> {
    let mut blocks = Vec::new();
    let pictures = pictures(run, evaluation)?;
    if !pictures.is_empty() {
        let caption = format!(
            "The {} mistakes that run `{}` made with most confidence: the class an image has, the one it was taken \
             for, and the probability of that.",
            pictures.len(),
            run.record.id
        );
        let plot = Pictures { columns: COLUMNS, pictures };
        blocks.push(Block::Pictures(Figure { name: name.to_owned(), caption, plot }));
    }
    let rows = evaluation.mistakes.iter().filter_map(|mistake| {
        let [target, predicted] = [mistake.target, mistake.predicted].map(|label| class_name(&run.record, label));
        let file = format!("`{}`", mistake.file.as_ref()?);
        Some(vec![file, grouped(mistake.index), target, predicted, format!("{:.3}", mistake.confidence)])
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        let source = run.record.dataset.images.as_ref().and_then(|images| images.source.as_ref());
        let table = TableBlock {
            caption: format!(
                "The mistakes made with most confidence, the most confident first; files are within {}.",
                source.map_or_else(|| "the data set's directory".to_owned(), |source| format!("`{source}`"))
            ),
            header: ["file", "index", "class", "taken for", "probability"].map(str::to_owned).to_vec(),
            right: vec![1, 4],
            rows,
        };
        blocks.push(Block::Details("Files of these mistakes".to_owned(), vec![Block::Table(table)]));
    }
    Ok(blocks)
}

/// The pictures of the mistakes that are still there, in the size they have in the data set.
fn pictures(run: &Run, evaluation: &EvaluationRecord) -> Result<Vec<Picture>, ReportError> {
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
        let [width, height] = [decoded.width(), decoded.height()].map(|pixels| pixels as usize);
        let (channels, pixels) = if decoded.color().has_color() {
            let interleaved = decoded.into_rgb8().into_raw();
            let channel = |channel: usize| interleaved.iter().skip(channel).step_by(3).copied();
            (3, (0..3).flat_map(channel).collect())
        } else {
            (1, decoded.into_luma8().into_raw())
        };
        pictures.push(Picture {
            caption: format!(
                "{} as {}, {:.3}",
                class_name(&run.record, mistake.target),
                class_name(&run.record, mistake.predicted),
                mistake.confidence
            ),
            size: [height, width],
            channels,
            pixels,
        });
    }
    // They are kept enlarged, for file managers; a sheet has its own scale.
    let factor = (2..=8).rev().find(|&factor| pictures.iter().all(|picture| is_enlarged(picture, factor)));
    Ok(pictures.into_iter().map(|picture| reduced(picture, factor.unwrap_or(1))).collect())
}

/// Whether the picture is made of squares of `factor` by `factor` pixels of one colour.
fn is_enlarged(picture: &Picture, factor: usize) -> bool {
    let [height, width] = picture.size;
    let corner = |index: usize| {
        // Of any channel: planes stand one below the other, each of a multiple of `factor` rows.
        let (row, column) = (index / width, index % width);
        (row - row % factor) * width + column - column % factor
    };
    height.is_multiple_of(factor)
        && width.is_multiple_of(factor)
        && picture.pixels.iter().enumerate().all(|(index, pixel)| *pixel == picture.pixels[corner(index)])
}

/// One pixel for each square of `factor` by `factor`.
fn reduced(picture: Picture, factor: usize) -> Picture {
    let [height, width] = picture.size;
    let rows = (0..picture.channels * height).step_by(factor);
    let places = rows.flat_map(|row| (0..width).step_by(factor).map(move |column| row * width + column));
    let pixels = places.map(|place| picture.pixels[place]).collect();
    Picture { size: [height / factor, width / factor], pixels, ..picture }
}
