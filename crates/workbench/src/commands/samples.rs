mod augmented;
mod shown;

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kindling_classification::splits;
use kindling_config::{Config, Partial};
use kindling_data::{ImageData, ImageSet, ImageSource, Normalization};
use kindling_report::{Pictures, grouped};
use kindling_training::{Order, batches, epoch_order};
use serde::Serialize;
use serde_json::json;

use self::{augmented::Augmented, shown::Shown};
use crate::{
    Workbench,
    arguments::with_set,
    backend::{self, Backend, Request},
    data, figure,
    outcome::{Misuse, Outcome},
    output::print,
    signals, terminal,
};

/// Arguments of `samples`.
// Flags are.
#[allow(clippy::struct_excessive_bools)]
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
    /// Leave out pictures that cannot be read
    #[arg(long)]
    skip_unreadable: bool,
    /// Bring the images to this size in pixels: a number, or HEIGHTxWIDTH [default: the set's]
    #[arg(long, value_name = "SIZE")]
    image_size: Option<String>,
    /// Make the images grey, or of three channels [default: the set's]
    #[arg(long, value_name = "CHANNELS", value_parser = ["grey", "rgb"])]
    channels: Option<String>,
    /// How a picture of another shape is brought to the size [default: crop]
    #[arg(long, value_name = "FIT", value_parser = ["crop", "pad", "stretch"])]
    fit: Option<String>,
    /// Set another key of the data set, as in data.split=0.7,0.2,0.1; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which images to choose from
    #[arg(long, value_enum, default_value_t)]
    split: Split,
    /// Only this class, by its name or its label; can be repeated [default: all]
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// How many images of each class
    #[arg(long, value_name = "N", default_value = "1")]
    per_class: NonZeroUsize,
    /// Seed of the choice; also that of the run whose validation split and augmentations are shown
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// The image with this index in its split, from 0; can be repeated
    #[arg(long, value_name = "N", conflicts_with_all = ["class", "per_class"])]
    index: Vec<usize>,
    /// Show images of the training split as a training sees them in an epoch, before normalization; indices count the
    /// epoch's images, of which none is in the validation split; with data.sampler=balanced some come several times
    #[arg(long, requires = "augment")]
    augmented: bool,
    /// With --augmented: the augmentations, as for train
    #[arg(long, value_name = "LIST", requires = "augmented")]
    augment: Option<String>,
    /// With --augmented: the epoch, from 1
    #[arg(long, value_name = "N", default_value = "1", requires = "augmented")]
    epoch: NonZeroUsize,
    /// Write the images as a sheet to FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON instead of pictures
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Split {
    #[default]
    Train,
    Valid,
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
    signals::install()?;
    let data = data::load(workbench, &config.data, arguments.data_dir.as_deref())?;
    let set = split(arguments, &config, &data)?;
    let epoch = arguments.augmented.then(|| Augmented::new(&config, &data, &set, arguments.epoch.get()));
    // The image that each index stands for.
    let images = epoch.as_ref().map(Augmented::images);
    let image = |index: usize| images.map_or(index, |images| images[index]);
    let labels: Vec<u16> = (0..set.count()).map(|index| set.labels()[image(index)]).collect();
    let indices = chosen(arguments, &labels, &data.classes)?;
    let backend = Request::new(backend::default_name(), None, &[])?.open(config.training.precision)?;
    let shapes = shapes(&set, &config, &backend)?;
    let (chosen, mixed) = match epoch.as_ref().filter(|_| !indices.is_empty()) {
        Some(epoch) => epoch.show(&indices, &backend.devices[0])?,
        None => (set.select(&indices), Vec::new()),
    };
    let files = indices.iter().map(|&index| set.name(image(index))).collect();
    let shown = Shown { set: &chosen, indices: &indices, files, mixed, classes: &data.classes };
    let outcome = arguments.output.as_deref().map_or(Outcome::Done, |path| shown.write(path));
    if arguments.json {
        let images = (0..indices.len()).map(|place| {
            let (label, class) = shown.class(place);
            let mut image =
                json!({ "index": indices[place], "label": label, "class": class, "file": shown.files[place] });
            if let Some((label, class, share)) = shown.other(place) {
                image["mixed"] = json!({ "label": label, "class": class, "share": share });
            }
            image
        });
        print(serde_json::to_string_pretty(&json!({
            "dataset": data.name,
            "split": arguments.split,
            "shapes": shapes,
            "images": images.collect::<Vec<_>>(),
        }))?);
        return Ok(outcome);
    }
    let (train, test) = (grouped(data.train.count()), grouped(data.test.count()));
    let valid = data.valid.as_ref().map_or_else(String::new, |set| format!("{} to validate, ", grouped(set.count())));
    print(format_args!(
        "{}: {train} images to train on, {valid}{test} to test, {} classes",
        data.name,
        data.classes.len()
    ));
    print(format_args!("an image          {:?}", shapes.image));
    print(format_args!("a batch           {:?}", shapes.batch));
    print(format_args!("a batch's targets {:?}\n", shapes.targets));
    match terminal::width().filter(|_| terminal::has_escapes()) {
        Some(columns) => shown.draw(columns.into())?,
        None => print(shown.list()),
    }
    Ok(outcome)
}

/// The config of a training on the data set that the arguments name.
fn config(workbench: &Workbench, arguments: &SamplesArguments) -> Result<Config> {
    let registry = workbench.registry();
    let mut partial = Partial::default();
    // A config needs a network; only the data, the protocol, the seed and the batch size are used.
    if let Some(network) = registry.networks.first() {
        partial.set("network.name", json!(network.name));
    }
    if let Some(dataset) = &arguments.dataset {
        partial.set("data.name", json!(dataset));
    }
    for (key, is_set) in [("transpose", arguments.transpose), ("skip_unreadable", arguments.skip_unreadable)] {
        if is_set {
            partial.set(&format!("data.{key}"), json!(true));
        }
    }
    partial.set("training.seed", json!(arguments.seed));
    let texts = [
        ("image_size", &arguments.image_size),
        ("channels", &arguments.channels),
        ("fit", &arguments.fit),
        ("augment", &arguments.augment),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            let flag = key.replace('_', "-");
            partial = partial
                .with_text(&format!("data.{key}"), text, &registry)
                .with_context(|| format!("--{flag} {text}"))?;
        }
    }
    workbench.resolve(with_set(partial, &arguments.set, &registry)?)
}

/// The images to choose from.
fn split(arguments: &SamplesArguments, config: &Config, data: &ImageData) -> Result<ImageSet> {
    match arguments.split {
        Split::Train if arguments.augmented => Ok(splits(config, data)?.train),
        _ if arguments.augmented => bail!(Misuse("--augmented shows images of the training split alone".to_owned())),
        Split::Train => Ok(data.train.clone()),
        Split::Valid => splits(config, data)?.valid.context("the protocol has no validation split"),
        Split::Test => Ok(data.test.clone()),
    }
}

/// The indices of `per_class` training images of each class, which `seed` alone decides, class after class.
#[must_use]
pub fn pick(data: &ImageData, seed: u64, per_class: usize) -> Vec<usize> {
    let classes: Vec<usize> = (0..data.classes.len()).collect();
    pick_of(data.train.labels(), &classes, seed, per_class)
}

/// The training images at `indices` with their classes, for a report or a file.
#[must_use]
pub fn sheet(data: &ImageData, indices: &[usize]) -> Pictures {
    let files = vec![None; indices.len()];
    let set = &data.train.select(indices);
    Shown { set, indices, files, mixed: Vec::new(), classes: &data.classes }.sheet()
}

/// As [`pick`], of images with any labels and of some classes. A class that has fewer images gives them all.
fn pick_of(labels: &[u16], classes: &[usize], seed: u64, per_class: usize) -> Vec<usize> {
    let of_class = |&class: &usize| {
        let members: Vec<usize> = labels
            .iter()
            .enumerate()
            .filter(|&(_, &label)| usize::from(label) == class)
            .map(|(index, _)| index)
            .collect();
        // The class takes the place of the epoch, so that each class has an order of its own.
        let order = epoch_order(Order::Shuffled { seed }, class, members.len());
        order.into_iter().take(per_class).map(move |position| members[position])
    };
    classes.iter().flat_map(of_class).collect()
}

/// The images that the arguments ask for, of those with these labels.
fn chosen(arguments: &SamplesArguments, labels: &[u16], classes: &[String]) -> Result<Vec<usize>> {
    if !arguments.index.is_empty() {
        if let Some(index) = arguments.index.iter().find(|&&index| index >= labels.len()) {
            bail!(Misuse(format!("--index: expected numbers below {}, found {index}", labels.len())));
        }
        return Ok(arguments.index.clone());
    }
    let wanted: Vec<usize> = if arguments.class.is_empty() {
        (0..classes.len()).collect()
    } else {
        arguments.class.iter().map(|class| label(class, classes)).collect::<Result<_>>()?
    };
    Ok(pick_of(labels, &wanted, arguments.seed, arguments.per_class.get()))
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
fn shapes(set: &ImageSet, config: &Config, backend: &Backend) -> Result<Shapes> {
    let batch_size = config.training.batch_size;
    // Only the first batch has to be on the device.
    let first: Vec<usize> = (0..batch_size.min(set.count())).collect();
    let source = ImageSource::new(set.select(&first), Normalization::default(), "");
    let source = source.with_largest(backend.largest_tensor);
    let mut all = batches(&source, batch_size, None, Order::File, 1, &backend.devices[0]);
    let batch = all.next().context("the data set has no batch")??;
    let image = batch.images.clone().narrow(0, 0, 1).squeeze_dim::<3>(0); // [channels, height, width]
    Ok(Shapes { image: image.dims(), batch: batch.images.dims(), targets: batch.targets.dims() })
}

#[cfg(test)]
mod tests {
    use kindling_data::synthetic;

    use super::*;

    #[test]
    fn every_class_gives_as_many_images_as_asked_for_and_the_seed_decides_which() {
        let data = synthetic::draw();
        let indices = pick(&data, 42, 3);
        let labels: Vec<u16> = indices.iter().map(|&index| data.train.labels()[index]).collect();
        assert_eq!(labels, (0..10_u16).flat_map(|label| [label; 3]).collect::<Vec<_>>());
        assert_eq!(indices, pick(&data, 42, 3));
        assert_ne!(indices, pick(&data, 43, 3));
        // A larger choice begins with the same images.
        let more = pick(&data, 42, 5);
        assert!(indices.chunks(3).zip(more.chunks(5)).all(|(few, many)| few == &many[..3]));
        let all = pick_of(data.test.labels(), &[4], 1, 10_000);
        assert_eq!(all.len(), data.test.labels().iter().filter(|&&label| label == 4).count());
    }

    #[test]
    fn a_sheet_has_the_pixels_and_the_class_of_each_image() {
        let data = synthetic::draw();
        let sheet = sheet(&data, &[5, 3]);
        assert_eq!((sheet.columns, sheet.pictures.len()), (2, 2));
        let label = data.train.labels()[3];
        assert_eq!(sheet.pictures[1].caption, format!("{label} {}", data.classes[usize::from(label)]));
        assert_eq!(sheet.pictures[1].pixels, data.train.image(3));
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
        let backend =
            Request::new(backend::default_name(), None, &[]).unwrap().open(config.training.precision).unwrap();
        assert_eq!(shapes(&test, &config, &backend).unwrap(), expected);
        let few = shapes(&test.select(&[1, 2, 3]), &config, &backend).unwrap();
        assert_eq!((few.batch, few.targets), ([3, 1, 28, 28], [3]));
    }
}
