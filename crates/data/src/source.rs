#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kindling_kernels::{filled, is_on_host};
use kindling_training::{Rows, Source, SourceError};

use crate::{
    Augmentation, ImageBatch, ImageSet, Mixed, Normalization,
    augment::{Augmenter, Mix, Place, Scratch},
    device_split::DeviceSplit,
    sampler::Balanced,
};

/// Pixels that a thread makes at once: enough that handing them out costs nothing beside.
const TASK: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A split of images as a [`Source`] of batches.
///
/// Images stay bytes until they are in a batch. Where a device's memory is the program's own, a batch is gathered,
/// changed and normalised in one pass on all threads. Other devices keep the split as bytes, moved there once, and
/// gather from it by an epoch's order, which moves there once an epoch, unless the split is larger than the device takes in
/// one piece, or than 2 GiB; batches of changed images come from the host there too.
#[derive(Debug)]
pub struct ImageSource {
    set: ImageSet,
    normalization: Normalization,
    digest: String,
    largest: Option<u64>,
    augmenter: Option<Augmenter>,
    sampler: Option<Balanced>,
    /// The copies of the split by the devices, without autodiff, that they are on.
    splits: Mutex<Vec<(Device, DeviceSplit)>>,
}

impl ImageSource {
    /// The most bytes of a split that a device keeps, where it does not say how large a tensor may be: the split is
    /// collected in the host's memory on its way.
    pub const LARGEST: u64 = 2 << 30;

    /// Serves `set`, normalised as given.
    ///
    /// `digest` names the content: what a resumed run is compared by. Hashing the pixels once more is the caller's
    /// choice; the data set's own [`sha256`](crate::ImageData::sha256) with the name of the split is enough.
    #[must_use]
    pub fn new(set: ImageSet, normalization: Normalization, digest: impl Into<String>) -> Self {
        Self {
            set,
            normalization,
            digest: digest.into(),
            largest: None,
            augmenter: None,
            sampler: None,
            splits: Mutex::default(),
        }
    }

    /// Keeps the split on the host where it takes more than `largest` bytes; without a number, more than 2 GiB.
    #[must_use]
    pub fn with_largest(self, largest: Option<u64>) -> Self {
        Self { largest, ..self }
    }

    /// Changes every image at random each time it is seen in training; evaluation sees the images as they are.
    ///
    /// What happens to an image is a pure function of `seed`, the epoch, its row, and the image's index in the split
    /// (the row, unless [`balanced`](Self::balanced)); neither batch size nor order, resuming, or device make a
    /// difference to it.
    #[must_use]
    pub fn augmented_by(self, augmentations: &[Augmentation], seed: u64) -> Self {
        let augmenter = (!augmentations.is_empty()).then(|| Augmenter::new(augmentations, seed, &self.set));
        Self { augmenter, ..self }
    }

    /// Trains on every one of so many classes equally often: an epoch still has as many rows as the split has images,
    /// but each class has the same number of them, which go through its images in shuffled turns. Evaluation sees each
    /// image once.
    ///
    /// Which image a row has is a pure function of `seed`, the epoch, and the row.
    #[must_use]
    pub fn balanced(self, classes: usize, seed: u64) -> Self {
        let sampler = Some(Balanced::new(self.set.labels(), classes, seed));
        Self { sampler, ..self }
    }

    /// Moves the split to `device` now, where it is to be there, rather than with the first batch, whose time may be
    /// taken.
    pub fn preload(&self, device: &Device) {
        if self.augmenter.is_none() {
            self.split(device);
        }
    }

    /// The images.
    #[must_use]
    pub fn set(&self) -> &ImageSet {
        &self.set
    }

    /// The images of `rows` as training sees them, or evaluation in epoch 0, but not normalised: pixels in [0, 1],
    /// `[rows, channels, height, width]`.
    ///
    /// # Panics
    /// When a row is not below the number of images.
    #[must_use]
    pub fn pixels(&self, rows: &Rows<'_>) -> Vec<f32> {
        self.host_pixels(rows, self.images(rows.epoch()).as_deref(), &self.mixes(rows), &Normalization::default())
    }

    /// Returns which image each row of an epoch has: another than its own where classes are balanced.
    #[must_use]
    pub fn images_of(&self, epoch: usize) -> Vec<usize> {
        match self.images(epoch) {
            Some(images) => images.iter().map(|&image| image as usize).collect(),
            None => (0..self.set.count()).collect(),
        }
    }

    /// The image of each row of an epoch; none where each is its own.
    fn images(&self, epoch: usize) -> Option<Arc<[u32]>> {
        self.sampler.as_ref().filter(|_| epoch > 0).map(|sampler| sampler.epoch(epoch))
    }

    /// What is mixed into each of `rows`; nothing at all where nothing ever is.
    fn mixes(&self, rows: &Rows<'_>) -> Vec<Option<Mix>> {
        match &self.augmenter {
            Some(augmenter) if rows.epoch() > 0 && augmenter.mixes() => {
                rows.iter().map(|&row| augmenter.mix(rows.epoch(), row, self.set.count())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Gathers, changes and normalises images: `[rows, channels, height, width]`.
    fn host_pixels(
        &self,
        rows: &Rows<'_>,
        images: Option<&[u32]>,
        mixes: &[Option<Mix>],
        normalization: &Normalization,
    ) -> Vec<f32> {
        let shape @ [channels, height, width] = self.set.shape();
        let size = channels * height * width;
        let augmenter = self.augmenter.as_ref().filter(|_| rows.epoch() > 0);
        let write = |row: usize, normalization: &Normalization, scratch: &mut Scratch, out: &mut [f32]| {
            let image = images.map_or(row, |images| images[row] as usize);
            let place = Place { epoch: rows.epoch(), row, image };
            match augmenter {
                Some(augmenter) => augmenter.write(self.set.image(image), place, normalization, scratch, out),
                None => normalization.write(self.set.image(image), channels, out),
            }
        };
        let unit = Normalization::default();
        let together = (TASK / size).max(1);
        filled(rows.len() * size, together * size, |task, out| {
            SCRATCH.with_borrow_mut(|scratch| {
                for (index, out) in out.chunks_exact_mut(size).enumerate() {
                    let index = task * together + index;
                    let Some(mix) = mixes.get(index).and_then(Option::as_ref) else {
                        write(rows[index], normalization, scratch, out);
                        continue;
                    };
                    let mut other = mem::take(&mut scratch.other);
                    other.resize(size, 0.0);
                    write(rows[index], &unit, scratch, out);
                    write(mix.row, &unit, scratch, &mut other);
                    mix.apply(shape, &other, out);
                    normalization.apply(channels, out);
                    scratch.other = other;
                }
            });
        })
    }

    /// Whether a device whose memory is its own keeps the split.
    fn fits_device(&self) -> bool {
        DeviceSplit::bytes(&self.set) <= self.largest.unwrap_or(Self::LARGEST)
    }

    /// The copy of the split for `device`, made on first use; none where batches come from the host.
    fn split(&self, device: &Device) -> Option<DeviceSplit> {
        if is_on_host(device) || !self.fits_device() {
            return None;
        }
        let device = device.clone().inner();
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, split)) = splits.iter().find(|(known, _)| *known == device) {
            return Some(split.clone());
        }
        let split = DeviceSplit::new(&self.set, &self.normalization, &device);
        splits.push((device, split.clone()));
        Some(split)
    }
}

impl Source for ImageSource {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        self.set.count()
    }

    fn digest(&self) -> String {
        self.digest.clone()
    }

    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<ImageBatch, SourceError> {
        let inner = device.clone().inner();
        let images = self.images(rows.epoch());
        let image = |row: usize| images.as_ref().map_or(row, |images| images[row] as usize);
        let is_changed = self.augmenter.is_some() && rows.epoch() > 0;
        if let Some(split) = (!is_changed).then(|| self.split(&inner)).flatten() {
            let (images, targets) = split.batch(rows, images.as_deref());
            return Ok(ImageBatch { images, targets, mixed: None }.on(device));
        }
        let mixing = self.mixes(rows);
        let [channels, height, width] = self.set.shape();
        let pixels = self.host_pixels(rows, images.as_deref(), &mixing, &self.normalization);
        let label = |row: usize| i32::from(self.set.labels()[image(row)]);
        let int = |targets: Vec<i32>| Tensor::<1, Int>::from_data(TensorData::new(targets, [rows.len()]), &inner);
        let mixed = (!mixing.is_empty()).then(|| {
            let of_row = |(mix, &row): (&Option<Mix>, &usize)| label(mix.as_ref().map_or(row, |mix| mix.row));
            let shares = mixing.iter().map(|mix| mix.as_ref().map_or(0.0, |mix| mix.share)).collect();
            Mixed {
                targets: int(mixing.iter().zip(rows.iter()).map(of_row).collect()),
                share: Tensor::from_data(TensorData::new::<f32, _>(shares, [rows.len()]), (&inner, DType::F32)),
            }
        });
        let images = TensorData::new(pixels, [rows.len(), channels, height, width]);
        let targets = int(rows.iter().map(|&row| label(row)).collect());
        Ok(ImageBatch { images: Tensor::from_data(images, &inner), targets, mixed }.on(device))
    }
}

impl ImageBatch {
    /// The batch with autodiff, where the device has it.
    fn on(self, device: &Device) -> Self {
        if !device.is_autodiff() {
            return self;
        }
        let mixed = self.mixed.map(|mixed| Mixed { targets: mixed.targets.autodiff(), share: mixed.share.autodiff() });
        Self { images: self.images.autodiff(), targets: self.targets.autodiff(), mixed }
    }
}
