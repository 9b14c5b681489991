use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kindling_config::{Config, Partial};
use kindling_data::{ImageData, ImageSet, ImageSource, Normalization};
use kindling_report::{Picture, Pictures, grouped, table};
use kindling_training::{Order, batches, epoch_order};
use serde::Serialize;
use serde_json::json;

use crate::{
    Workbench,
    arguments::with_set,
    backend::{self, Request},
    data, figure,
    outcome::{Misuse, Outcome},
    output::{notice, print},
    pictures, terminal,
};

/// Pictures in a row of a sheet.
const COLUMNS: usize = 5;

/// Arguments of `samples`.
#[derive(Args)]
pub(crate) struct SamplesArguments {
    /// Where the images come from [default: fashion-mnist]
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Directory of the data set [default: as for train]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Swap rows and columns of the images, as EMNIST needs; with --dataset idx
    #[arg(long)]
    transpose: bool,
    /// Set a key of the data set, as in data.transpose=true; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which images to choose from
    #[arg(long, value_enum, default_value = "train")]
    split: Split,
    /// Only this class, by its name or its label; can be repeated [default: all]
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// How many images of each class
    #[arg(long, value_name = "N", default_value = "1")]
    per_class: NonZeroUsize,
    /// Seed of the choice
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// The image with this index in its file, from 0; can be repeated
    #[arg(long, value_name = "N", conflicts_with_all = ["class", "per_class", "seed"])]
    index: Vec<usize>,
    /// Write the images as a sheet to FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON instead of pictures
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Split {
    Train,
    Test,
}

/// The shapes of tensors: of the first image of a batch, of the batch, and of its targets.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shapes {
    image: [usize; 3],
    batch: [usize; 4],
    targets: [usize; 1],
}

/// The command `samples`.
pub(crate) fn samples(workbench: &Workbench, arguments: &SamplesArguments) -> Result<Outcome> {
    if let Some(path) = &arguments.output {
        figure::check(path)?;
    }
    let config = config(workbench, arguments)?;
    let data = data::load(workbench, &config.data, arguments.data_dir.as_deref())?;
    let set = match arguments.split {
        Split::Train => &data.train,
        Split::Test => &data.test,
    };
    let indices = chosen(arguments, set, &data.classes)?;
    let shapes = shapes(set, &config)?;
    let written = |path| figure::keep(&sheet_of(set, &data.classes, &indices), path);
    let outcome = arguments.output.as_deref().map_or(Outcome::Done, written);
    if let (Some(path), Outcome::Done) = (&arguments.output, outcome) {
        let images = if indices.len() == 1 { "image" } else { "images" };
        notice(format_args!("{} {images} in {}", indices.len(), path.display()));
    }
    if arguments.json {
        let class = |label: u8| data.classes.get(usize::from(label));
        let images = indices.iter().map(|&index| (index, set.labels()[index]));
        let images = images.map(|(index, label)| json!({ "index": index, "label": label, "class": class(label) }));
        print(serde_json::to_string_pretty(&json!({
            "dataset": data.name,
            "split": if arguments.split == Split::Train { "train" } else { "test" },
            "shapes": shapes,
            "images": images.collect::<Vec<_>>(),
        }))?);
        return Ok(outcome);
    }
    let (train, test) = (grouped(data.train.count()), grouped(data.test.count()));
    print(format_args!("{}: {train} images to train on, {test} to test, {} classes", data.name, data.classes.len()));
    print(format_args!("an image          {:?}", shapes.image));
    print(format_args!("a batch           {:?}", shapes.batch));
    print(format_args!("a batch's targets {:?}\n", shapes.targets));
    match terminal::width().filter(|_| terminal::has_escapes()) {
        Some(columns) => draw(set, &data.classes, &indices, columns.into())?,
        None => print(list(set, &data.classes, &indices)),
    }
    Ok(outcome)
}

/// The config of a training on the data set that the arguments name.
fn config(workbench: &Workbench, arguments: &SamplesArguments) -> Result<Config> {
    let registry = workbench.registry();
    let mut partial = Partial::default();
    // A config needs a network; only the data and the batch size are used.
    if let Some(network) = registry.networks.first() {
        partial.set("network.name", json!(network.name));
    }
    if let Some(dataset) = &arguments.dataset {
        partial.set("data.name", json!(dataset));
    }
    if arguments.transpose {
        partial.set("data.transpose", json!(true));
    }
    workbench.resolve(with_set(partial, &arguments.set, &registry)?)
}

/// The indices of `per_class` training images of each class, which `seed` alone decides, class after class.
#[must_use]
pub fn pick(data: &ImageData, seed: u64, per_class: usize) -> Vec<usize> {
    let classes: Vec<usize> = (0..data.classes.len()).collect();
    pick_of(&data.train, &classes, seed, per_class)
}

/// The training images at `indices` with their classes, for a report or a file.
#[must_use]
pub fn sheet(data: &ImageData, indices: &[usize]) -> Pictures {
    sheet_of(&data.train, &data.classes, indices)
}

/// As [`pick`], of any split and of some classes. A class that has fewer images gives them all.
fn pick_of(set: &ImageSet, classes: &[usize], seed: u64, per_class: usize) -> Vec<usize> {
    let of_class = |&class: &usize| {
        let labels = set.labels().iter().enumerate();
        let members: Vec<usize> =
            labels.filter(|&(_, &label)| usize::from(label) == class).map(|(index, _)| index).collect();
        // The class takes the place of the epoch, so that each class has an order of its own.
        let order = epoch_order(Order::Shuffled { seed }, class, members.len());
        order.into_iter().take(per_class).map(move |position| members[position])
    };
    classes.iter().flat_map(of_class).collect()
}

fn sheet_of(set: &ImageSet, classes: &[String], indices: &[usize]) -> Pictures {
    let [height, width] = set.size();
    let picture = |&index: &usize| Picture {
        caption: caption(set, classes, index),
        size: [height, width],
        pixels: set.pixels()[index * height * width..(index + 1) * height * width].to_vec(),
    };
    Pictures { columns: COLUMNS.min(indices.len()), pictures: indices.iter().map(picture).collect() }
}

/// Label and class of an image: `7 Sneaker`.
fn caption(set: &ImageSet, classes: &[String], index: usize) -> String {
    let label = set.labels()[index];
    format!("{label} {}", classes.get(usize::from(label)).map_or("", String::as_str))
}

/// The images that the arguments ask for.
fn chosen(arguments: &SamplesArguments, set: &ImageSet, classes: &[String]) -> Result<Vec<usize>> {
    if !arguments.index.is_empty() {
        if let Some(index) = arguments.index.iter().find(|&&index| index >= set.count()) {
            bail!(Misuse(format!("--index: expected numbers below {}, found {index}", set.count())));
        }
        return Ok(arguments.index.clone());
    }
    let wanted: Vec<usize> = if arguments.class.is_empty() {
        (0..classes.len()).collect()
    } else {
        arguments.class.iter().map(|class| label(class, classes)).collect::<Result<_>>()?
    };
    Ok(pick_of(set, &wanted, arguments.seed, arguments.per_class.get()))
}

/// The label of a class that is given by its name, in any case, or by its label.
fn label(class: &str, classes: &[String]) -> Result<usize> {
    let by_name = classes.iter().position(|name| name.to_lowercase() == class.to_lowercase());
    let by_label = || class.parse().ok().filter(|&label: &usize| label < classes.len());
    by_name.or_else(by_label).ok_or_else(|| {
        let known = classes.iter().enumerate().map(|(label, name)| format!("{label} {name}"));
        let known = known.collect::<Vec<_>>().join(", ");
        Misuse(format!("--class: expected a name or a label of {known}; found `{class}`")).into()
    })
}

/// The shapes of the first batch of an epoch, as training has it.
fn shapes(set: &ImageSet, config: &Config) -> Result<Shapes> {
    let backend = Request::new(backend::default_name(), None, None)?.open(config.training.precision)?;
    let batch_size = config.training.batch_size;
    // Only the first batch has to be on the device.
    let first: Vec<usize> = (0..batch_size.min(set.count())).collect();
    let source = ImageSource::new(set.select(&first), Normalization::default(), "");
    let source = source.with_largest(backend.largest_tensor);
    let mut all = batches(&source, batch_size, None, Order::File, 1, &backend.devices[0]);
    let batch = all.next().context("the data set has no batch")??;
    let image = batch.images.clone().narrow(0, 0, 1).squeeze_dim::<3>(0); // [1, height, width]
    Ok(Shapes { image: image.dims(), batch: batch.images.dims(), targets: batch.targets.dims() })
}

/// Draws the images, as many side by side as the terminal has room for, with a caption under each.
fn draw(set: &ImageSet, classes: &[String], indices: &[usize], columns: usize) -> Result<()> {
    let width = set.size()[1];
    for row in indices.chunks(pictures::beside(width, columns)) {
        let images = row.iter().map(|&index| pictures::of(set, index)).collect::<Result<Vec<_>>>()?;
        pictures::show(&images, columns)?;
        let (cell, room) = (width + pictures::GAP, width.min(columns));
        // Cut where it is longer than the image is wide.
        let captions = row.iter().map(|&index| format!("{}, image {index}", caption(set, classes, index)));
        let line: Vec<String> = captions.map(|caption| format!("{caption:<cell$.room$}")).collect();
        print(format_args!("{}\n", line.concat().trim_end()));
    }
    Ok(())
}

/// The images as a table, where there is no terminal that can show them.
fn list(set: &ImageSet, classes: &[String], indices: &[usize]) -> String {
    let rows = indices.iter().map(|&index| {
        let label = set.labels()[index];
        let class = classes.get(usize::from(label)).cloned().unwrap_or_default();
        vec![index.to_string(), label.to_string(), class]
    });
    table(&["index", "label", "class"], &[0, 1], None, rows)
}

#[cfg(test)]
mod tests {
    use kindling_data::synthetic;

    use super::*;

    #[test]
    fn every_class_gives_as_many_images_as_asked_for_and_the_seed_decides_which() {
        let data = synthetic::draw();
        let indices = pick(&data, 42, 3);
        let labels: Vec<u8> = indices.iter().map(|&index| data.train.labels()[index]).collect();
        assert_eq!(labels, (0..10_u8).flat_map(|label| [label; 3]).collect::<Vec<_>>());
        assert_eq!(indices, pick(&data, 42, 3));
        assert_ne!(indices, pick(&data, 43, 3));
        // A larger choice begins with the same images.
        let more = pick(&data, 42, 5);
        assert!(indices.chunks(3).zip(more.chunks(5)).all(|(few, many)| few == &many[..3]));
        let all = pick_of(&data.test, &[4], 1, 10_000);
        assert_eq!(all.len(), data.test.labels().iter().filter(|&&label| label == 4).count());
    }

    #[test]
    fn a_sheet_has_the_pixels_and_the_class_of_each_image() {
        let data = synthetic::draw();
        let sheet = sheet(&data, &[5, 3]);
        assert_eq!((sheet.columns, sheet.pictures.len()), (2, 2));
        let label = data.train.labels()[3];
        assert_eq!(sheet.pictures[1].caption, format!("{label} {}", data.classes[usize::from(label)]));
        assert_eq!(sheet.pictures[1].pixels, data.train.pixels()[3 * 784..4 * 784]);
    }

    #[test]
    fn a_class_is_known_by_its_name_before_its_label() {
        let classes = ["Sneaker", "2", "Bag"].map(str::to_owned);
        let found = ["sneaker", "0", "2", "1"].map(|class| label(class, &classes).unwrap());
        assert_eq!(found, [0, 0, 1, 1]);
        let message = label("3", &classes).unwrap_err().to_string();
        assert_eq!(message, "--class: expected a name or a label of 0 Sneaker, 1 2, 2 Bag; found `3`");
    }

    #[test]
    fn shapes_are_those_of_a_batch_as_training_has_it() {
        let registry = Workbench::new("kindling").registry();
        let config =
            Partial::default().with_text("network.name", "mlp", &registry).unwrap().resolve(&registry).unwrap();
        let test = synthetic::draw().test;
        let expected = Shapes { image: [1, 28, 28], batch: [64, 1, 28, 28], targets: [64] };
        assert_eq!(shapes(&test, &config).unwrap(), expected);
        let few = shapes(&test.select(&[1, 2, 3]), &config).unwrap();
        assert_eq!((few.batch, few.targets), ([3, 1, 28, 28], [3]));
    }
}
