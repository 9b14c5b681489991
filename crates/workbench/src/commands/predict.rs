use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result, bail};
use clap::Args;
use kindling_classification::preparation;
use kindling_data::{ImageSet, photo::Preparation, picture};
use kindling_record::RunDirectory;
use kindling_report::{percent, table};
use serde::Serialize;

use crate::{
    Workbench,
    arguments::{RunsDirectory, ViewsArgument},
    backend::Request,
    outcome::Outcome,
    output::{notice, print, told},
    relaunch, signals, terminal,
    trained::Trained,
};

/// About so many pictures are decoded before the network sees them.
const TOGETHER: usize = 1024;

/// Arguments of `predict`.
#[derive(Args)]
pub(crate) struct PredictArguments {
    /// The run: its id, a prefix that no other run has, or its path
    run: String,
    /// Pictures in PNG, JPEG, WebP, GIF, BMP or TIFF, or directories of them
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// How many classes to name for each picture, the most probable first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Of a run on grey images of a set's own, such as Fashion-MNIST: only make the pictures grey and resize them, and
    /// neither invert a background unlike the run's nor trim the edges; other runs get pictures as training has them
    #[arg(long)]
    as_is: bool,
    /// Backend to compute on, as for train [default: the run's]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// With --backend remote: where the command `serve` listens
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    #[command(flatten)]
    views: ViewsArgument,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The predictions for one picture.
#[derive(Serialize)]
struct Answer<'a> {
    image: String,
    /// The most probable class first.
    predictions: Vec<Guess<'a>>,
}

#[derive(Serialize)]
struct Guess<'a> {
    class: &'a str,
    label: usize,
    probability: f32,
}

/// The command `predict`.
pub(crate) fn predict(workbench: &Workbench, arguments: &PredictArguments) -> Result<Outcome> {
    let directory = RunDirectory::find(&arguments.runs_dir.path, &arguments.run)?;
    let trained = Trained::read(workbench, &directory)?;
    let data = trained.record.dataset.images.as_ref();
    let data = data.with_context(|| format!("{} was not trained on images", directory.id()))?;
    let name = arguments.backend.as_deref().unwrap_or(&trained.record.backend);
    let request = Request::new(name, None, arguments.remote.as_slice())?;
    relaunch::with(&request.environment())?;
    signals::install()?;
    let mut outcome = Outcome::Done;
    let preparation = preparation(data, trained.config.data.fit);
    let images = read_all(arguments, &preparation, |error| {
        notice(format_args!("error: {}", told(error)));
        outcome = Outcome::Failed;
    });
    let (top, mut predictor) = (usize::from(arguments.top), None);
    let views = arguments.views.given.clone().unwrap_or_else(|| trained.views());
    let mut answers = Vec::new();
    in_chunks(images, chunk(trained.config.training.batch_size), |images| {
        let predictor = match &predictor {
            Some(predictor) => predictor,
            None => predictor.insert(trained.predictor(&trained.open(&request)?)?.viewed(views.clone())),
        };
        let pixels = images.iter().flat_map(|(_, pixels)| pixels).copied().collect();
        let set = ImageSet::new(pixels, vec![0; images.len()], preparation.shape)?;
        let rows = predictor.probabilities(&set)?;
        answers.extend(images.iter().zip(&rows).map(|((path, _), row)| Answer {
            image: path.display().to_string(),
            predictions: likeliest(row, &data.classes).into_iter().take(top).collect(),
        }));
        Ok(())
    })?;
    if answers.is_empty() {
        return Ok(outcome);
    }
    if arguments.json {
        print(serde_json::to_string_pretty(&answers)?);
    } else {
        let rows = answers.iter().flat_map(rows_of);
        print(table(&["image", "class", "probability"], &[2], terminal::width(), rows));
    }
    Ok(outcome)
}

/// Reads and prepares the pictures, one after the other, each with its pixels; `complain` is told of each that cannot be
/// read.
fn read_all(
    arguments: &PredictArguments,
    preparation: &Preparation,
    mut complain: impl FnMut(&Error),
) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let files = arguments.images.iter().flat_map(|path| match files(path) {
        Ok(files) => files.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    let read = move |file: PathBuf| prepared(&file, arguments.as_is, preparation).map(|pixels| (file, pixels));
    files.filter_map(move |file| file.and_then(read).map_err(|error| complain(&error)).ok())
}

/// How many pictures are in memory at once: whole batches, so that each picture is in the batch that it would be in anyway.
fn chunk(batch_size: usize) -> usize {
    TOGETHER.next_multiple_of(batch_size)
}

/// Gives all items to `work`, so many at once.
fn in_chunks<T>(
    mut items: impl Iterator<Item = T>,
    size: usize,
    mut work: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<()> {
    loop {
        let chunk: Vec<T> = items.by_ref().take(size).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        work(chunk)?;
    }
}

/// The file itself, or the pictures in the directory, sorted by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let is_picture = |file: &PathBuf| {
        let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        file.is_file() && ending.is_some_and(|ending| picture::ENDINGS.contains(&ending.as_str()))
    };
    let entries = fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<PathBuf>>>()
    });
    let mut files = entries.with_context(|| format!("{} cannot be read", path.display()))?;
    files.retain(is_picture);
    if files.is_empty() {
        bail!("{}: expected pictures that end in .{}, found none", path.display(), picture::ENDINGS.join(", ."));
    }
    files.sort();
    Ok(files)
}

/// The pixels of the picture in the form of the training images: `[channels, height, width]`.
fn prepared(path: &Path, as_is: bool, preparation: &Preparation) -> Result<Vec<u8>> {
    preparation.image(&picture::read(path)?, as_is).with_context(|| path.display().to_string())
}

/// All classes, the most probable first; equal ones in the order of their labels, NaN last.
fn likeliest<'a>(probabilities: &[f32], classes: &'a [String]) -> Vec<Guess<'a>> {
    let guesses = probabilities.iter().zip(classes).enumerate();
    let mut guesses: Vec<_> =
        guesses.map(|(label, (&probability, class))| Guess { class, label, probability }).collect();
    let order = |guess: &Guess| if guess.probability.is_nan() { f32::NEG_INFINITY } else { guess.probability };
    guesses.sort_by(|a, b| order(b).total_cmp(&order(a)));
    guesses
}

/// A row for each class; the first has the picture's name.
fn rows_of(answer: &Answer<'_>) -> Vec<Vec<String>> {
    let rows = answer.predictions.iter().enumerate().map(|(rank, guess)| {
        let image = if rank == 0 { answer.image.clone() } else { String::new() };
        vec![image, guess.class.to_owned(), percent(guess.probability.into())]
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};
    use kindling_config::Fit;
    use kindling_record::ImagesRecord;

    use super::*;
    use crate::fixtures;

    #[test]
    fn classes_are_named_by_their_probability_and_numbers_that_are_none_come_last() {
        let classes = ["a", "b", "c", "d"].map(str::to_owned);
        let labels = |probabilities: &[f32]| -> Vec<usize> {
            likeliest(probabilities, &classes).iter().map(|guess| guess.label).collect()
        };
        assert_eq!(labels(&[0.1, 0.4, 0.4, 0.1]), [1, 2, 0, 3]);
        assert_eq!(labels(&[f32::NAN, 0.0, 1.0, f32::NAN]), [2, 1, 0, 3]);
    }

    #[test]
    fn pictures_are_read_a_few_batches_at_a_time() {
        assert_eq!([1, 64, 1000, 1024, 4000].map(chunk), [1024, 1024, 2000, 1024, 4000]);
        let read = std::cell::Cell::new(0);
        let items = (0..10).inspect(|_| read.set(read.get() + 1));
        let mut chunks = Vec::new();
        in_chunks(items, 4, |chunk| {
            chunks.push((chunk.len(), read.get()));
            Ok(())
        })
        .unwrap();
        assert_eq!(chunks, [(4, 4), (4, 8), (2, 10)]);
    }

    #[test]
    fn a_directory_gives_its_pictures_by_name_and_not_those_of_directories_in_it() {
        let place = tempfile::tempdir().unwrap();
        for name in ["b.JPG", "a.png", "notes.txt", "c.webp"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let inner = place.path().join("inner.png");
        fs::create_dir(&inner).unwrap();
        let found = files(place.path()).unwrap();
        assert_eq!(found, ["a.png", "b.JPG", "c.webp"].map(|name| place.path().join(name)));
        let message = files(&inner).unwrap_err().to_string();
        assert!(
            message.contains("inner.png: expected pictures that end in .") && message.contains(".png"),
            "{message}"
        );
        // Whether a file exists is checked when it is read.
        assert_eq!(files(Path::new("none.png")).unwrap(), [PathBuf::from("none.png")]);
    }

    #[test]
    fn a_picture_that_cannot_be_used_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("wall.png");
        let wall = GrayImage::from_pixel(50, 40, image::Luma([180]));
        wall.save(&path).unwrap();
        let grey = Preparation { shape: [1, 28, 28], fit: None, background: 0 };
        let message = told(&prepared(&path, false, &grey).unwrap_err());
        assert!(message.contains("wall.png: nothing stands out from the background"), "{message}");
        assert_eq!(prepared(&path, true, &grey).unwrap().len(), 28 * 28);
        fs::write(&path, "no picture").unwrap();
        let message = told(&prepared(&path, true, &grey).unwrap_err());
        assert!(message.contains("wall.png"), "{message}");
    }

    #[test]
    fn a_picture_for_a_run_on_pictures_is_fitted_as_in_training_and_keeps_its_colours() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("wall.png");
        RgbImage::from_pixel(4, 3, image::Rgb([250, 120, 10])).save(&path).unwrap();
        let data = fixtures::run(place.path(), "mlp", &serde_json::json!({})).record.dataset.images.unwrap();
        let data = ImagesRecord { channels: 3, height: 3, width: 4, fit: Some("pad".to_owned()), ..data };
        let pixels = prepared(&path, false, &preparation(&data, Fit::Pad)).unwrap();
        assert_eq!(pixels, [[250; 12], [120; 12], [10; 12]].concat());
        let grey = ImagesRecord { channels: 1, ..data };
        assert_eq!(prepared(&path, false, &preparation(&grey, Fit::Pad)).unwrap().len(), 12);
    }
}
