//! Loading the data set that a config asks for, with the progress of downloads and of decoding.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kindling_config::Data;
use kindling_data::{DataError, ImageData, ImageOptions, Load, LoadEvent};
use kindling_models::ImageShape;
use kindling_record::DatasetRecord;

use crate::{Workbench, output::notice, signals, terminal};

/// Loads the data set of a config's section `data`, its images in the size and with the channels that the section asks
/// for; where it came from goes to standard error.
///
/// # Errors
/// When the workbench has no such data set, or it cannot be loaded.
pub fn load(workbench: &Workbench, data: &Data, directory: Option<&Path>) -> Result<ImageData> {
    let dataset = workbench.dataset_named(&data.name)?;
    let images = ImageOptions { size: data.image_size, channels: data.channels, fit: data.fit };
    let mut loading = Loading::default();
    let mut on_event = |event| loading.show(event);
    let mut request = Load { directory, images, on_event: &mut on_event };
    let loaded = dataset.load(&data.keys, &mut request);
    loading.end();
    signals::leave_at_once(None);
    // Data sets that know nothing of sizes and channels give their images as they are.
    let loaded = loaded.and_then(|loaded| Ok(loaded.fitted(&images)?));
    let loaded = loaded.with_context(|| format!("data set {}", data.name))?;
    match &loaded.source {
        Some(source) => notice(format_args!("data: {} from {}", loaded.name, source.display())),
        None if data.name == "synthetic" => {
            notice(format_args!("data: {} (drawn shapes, not real images)", loaded.name));
        }
        None => notice(format_args!("data: {}", loaded.name)),
    }
    for problem in loaded.label_problems() {
        notice(format_args!("warning: {problem}"));
    }
    Ok(loaded)
}

/// As [`load`], for a run with this record: from `directory`, or else from where the run found its data, if that is still
/// there.
///
/// # Errors
/// As for [`load`], and when the data is no longer where it was.
pub(crate) fn load_again(
    workbench: &Workbench,
    data: &Data,
    directory: Option<&Path>,
    record: &DatasetRecord,
) -> Result<ImageData> {
    let source = record.images.as_ref().and_then(|images| images.source.as_deref()).map(Path::new);
    let loaded = load(workbench, data, directory.or(source.filter(|path| path.exists())));
    match (loaded, source) {
        (Err(error), Some(source))
            if directory.is_none() && matches!(error.downcast_ref(), Some(DataError::Directory(_))) =>
        {
            bail!("the run's data was in {}, which is not there; --data-dir names another place", source.display())
        }
        (loaded, _) => loaded,
    }
}

/// How many sets [`DataSets`] keeps: a sweep goes back and forth between two at most, and each may fill the memory.
const KEPT: usize = 2;

/// Sets of images, each read when it is first needed; the last two are kept.
pub(crate) struct DataSets<'a> {
    workbench: &'a Workbench,
    data_dir: Option<&'a Path>,
    /// The one that was needed last is the last.
    read: Vec<(Data, ImageData)>,
}

impl<'a> DataSets<'a> {
    pub(crate) fn new(workbench: &'a Workbench, data_dir: Option<&'a Path>) -> Self {
        Self { workbench, data_dir, read: Vec::new() }
    }

    pub(crate) fn workbench(&self) -> &'a Workbench {
        self.workbench
    }

    /// The images that `wanted` asks for.
    ///
    /// # Errors
    /// As for [`load`].
    pub(crate) fn get(&mut self, wanted: &Data) -> Result<&ImageData> {
        let decides = |data: &Data| (data.image_size, data.channels, data.fit);
        let is_same = |(known, _): &(Data, ImageData)| {
            (&known.name, &known.keys, decides(known)) == (&wanted.name, &wanted.keys, decides(wanted))
        };
        let set = if let Some(index) = self.read.iter().position(is_same) {
            self.read.remove(index)
        } else {
            // Before the next one is read.
            self.read.drain(..(self.read.len() + 1).saturating_sub(KEPT));
            (wanted.clone(), load(self.workbench, wanted, self.data_dir)?)
        };
        self.read.push(set);
        self.read.last().map(|(_, data)| data).context("what was just read is gone")
    }
}

/// The shape of the images of a section `data`, as far as it says so, and otherwise that of MNIST's.
pub(crate) fn likely_shape(data: &Data) -> ImageShape {
    let mnist = ImageShape::MNIST;
    let [height, width] = data.image_size.map_or([mnist.height, mnist.width], |size| [size.height, size.width]);
    ImageShape {
        channels: data.channels.map_or(mnist.channels, kindling_config::Channels::count),
        height,
        width,
        ..mnist
    }
}

/// The bar of the download or of the decoding that is under way.
#[derive(Default)]
struct Loading {
    bar: Option<ProgressBar>,
}

impl Loading {
    fn show(&mut self, event: LoadEvent) {
        match event {
            LoadEvent::Started { from, bytes } => {
                notice(format_args!("downloading {from}"));
                let template = "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
                self.begin(bytes, template);
            }
            LoadEvent::Temporary(path) => signals::leave_without(path),
            LoadEvent::Decoding { total } => {
                notice(format_args!("decoding {} images, once", kindling_report::grouped(total)));
                let template = "{bar:30} {human_pos} of {human_len} images, {per_sec}, {eta} left";
                self.begin(Some(total as u64), template);
            }
            LoadEvent::Received(bytes) => self.advance(bytes),
            LoadEvent::Decoded(images) => self.advance(images as u64),
            LoadEvent::Finished(_) => self.end(),
            LoadEvent::Packed(path) => {
                self.end();
                notice(format_args!("decoded images are kept in {}", path.display()));
            }
            LoadEvent::Notice(text) => {
                self.end();
                notice(text);
            }
        }
    }

    /// Begins a bar of this length in place of the last.
    fn begin(&mut self, length: Option<u64>, template: &str) {
        self.end();
        let bar = ProgressBar::with_draw_target(length, terminal::bars());
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    fn advance(&self, delta: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(delta);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use kindling_config::Partial;

    use super::*;

    #[test]
    fn a_set_is_read_once_for_all_configs_whose_images_are_the_same_and_two_are_kept() {
        let workbench = Workbench::new("kindling");
        let registry = workbench.registry();
        let mut sets = DataSets::new(&workbench, None);
        let mut kept = |key: &str, value: &str| {
            let partial = [("network.name", "mlp"), ("data.name", "synthetic"), (key, value)]
                .into_iter()
                .fold(Partial::default(), |partial, (key, value)| partial.with_text(key, value, &registry).unwrap());
            let shape = sets.get(&workbench.resolve(partial).unwrap().data).unwrap().train.shape();
            assert_eq!(sets.read.last().unwrap().1.train.shape(), shape);
            sets.read.iter().map(|(_, data)| data.train.shape()).collect::<Vec<_>>()
        };
        assert_eq!(kept("data.augment", "flip"), [[1, 28, 28]]);
        assert_eq!(kept("data.normalize", "auto"), [[1, 28, 28]]);
        assert_eq!(kept("data.image_size", "14"), [[1, 28, 28], [1, 14, 14]]);
        assert_eq!(kept("data.augment", "shift"), [[1, 14, 14], [1, 28, 28]]);
        assert_eq!(kept("data.channels", "rgb"), [[1, 28, 28], [3, 28, 28]]);
    }

    #[test]
    fn images_of_a_set_that_knows_nothing_of_sizes_come_in_the_size_and_the_channels_asked_for() {
        let workbench = Workbench::new("kindling");
        let data = |keys: &[(&str, &str)]| {
            let mut partial = Partial::default();
            for (key, value) in [&[("network.name", "mlp"), ("data.name", "synthetic")], keys].concat() {
                partial.set(key, value.into());
            }
            workbench.resolve(partial).unwrap().data
        };
        let plain = load(&workbench, &data(&[]), None).unwrap();
        let asked = data(&[("data.image_size", "7x14"), ("data.channels", "rgb"), ("data.fit", "stretch")]);
        let fitted = load(&workbench, &asked, None).unwrap();
        assert_eq!((fitted.train.shape(), fitted.test.shape()), ([3, 7, 14], [3, 7, 14]));
        assert_eq!((fitted.train.labels(), fitted.sha256 == plain.sha256), (plain.train.labels(), false));
        let shape = likely_shape(&asked);
        assert_eq!((shape.channels, shape.height, shape.width), (3, 7, 14));
        assert_eq!(likely_shape(&data(&[])), ImageShape::MNIST);
    }
}
