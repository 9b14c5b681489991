use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use kindling_training::{Rows, Source, SourceError};

use crate::{
    Augmentation, ImageBatch, ImageSet, Normalization,
    augment::{self, Augmenter},
    device_split::DeviceSplit,
};

/// A split of images as a [`Source`] of batches.
///
/// The whole split is moved to each device that asks for a batch, once, and batches are gathered there. Where it is
/// larger than the device takes in one piece, every batch comes from the host.
#[derive(Debug)]
pub struct ImageSource {
    set: Arc<ImageSet>,
    normalization: Normalization,
    digest: String,
    largest: Option<u64>,
    /// With what the images' background becomes.
    augmenter: Option<(Augmenter, f32)>,
    /// The copies of the split by the devices, without autodiff, that they are on.
    splits: Mutex<Vec<(Device, DeviceSplit)>>,
}

impl ImageSource {
    /// Serves `set`, normalised as given.
    ///
    /// `digest` names the content: what a resumed run is compared by. Hashing the pixels once more is the caller's
    /// choice; the data set's own [`sha256`](crate::ImageData::sha256) with the name of the split is enough.
    #[must_use]
    pub fn new(set: impl Into<Arc<ImageSet>>, normalization: Normalization, digest: impl Into<String>) -> Self {
        Self {
            set: set.into(),
            normalization,
            digest: digest.into(),
            largest: None,
            augmenter: None,
            splits: Mutex::default(),
        }
    }

    /// Keeps the split on the host where it takes more than `largest` bytes in f32.
    #[must_use]
    pub fn with_largest(self, largest: Option<u64>) -> Self {
        Self { largest, ..self }
    }

    /// Changes every image at random each time it is seen in training; evaluation sees the images as they are.
    ///
    /// What happens to an image is a pure function of `seed`, the epoch, and the image's index in the split; neither batch
    /// size nor order, resuming, or device make a difference to it.
    #[must_use]
    pub fn augmented_by(self, augmentations: &[Augmentation], seed: u64) -> Self {
        let background = || self.normalization.table()[usize::from(self.set.background())];
        let augmenter = (!augmentations.is_empty()).then(|| (Augmenter::new(augmentations, seed), background()));
        Self { augmenter, ..self }
    }

    /// Moves the split to `device` now, rather than with the first batch, whose time may be taken.
    pub fn preload(&self, device: &Device) {
        self.split(device);
    }

    /// The images.
    #[must_use]
    pub fn set(&self) -> &ImageSet {
        &self.set
    }

    /// The copy of the split for `device`, made on first use.
    fn split(&self, device: &Device) -> DeviceSplit {
        let device = device.clone().inner();
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, split)) = splits.iter().find(|(known, _)| *known == device) {
            return split.clone();
        }
        let split = DeviceSplit::new(&self.set, self.normalization, &device, self.largest);
        splits.push((device, split.clone()));
        split
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
        let (images, targets) = self.split(device).batch(rows);
        let [height, width] = self.set.size();
        let images = match &self.augmenter {
            Some((augmenter, background)) if rows.epoch() > 0 => {
                let sources = augmenter.sources(rows.epoch(), rows, [height, width]);
                augment::pick(images, sources, *background)
            }
            _ => images,
        };
        let images = images.reshape([rows.len(), 1, height, width]); // [batch, 1, height, width]
        Ok(if device.is_autodiff() {
            ImageBatch { images: images.autodiff(), targets: targets.autodiff() }
        } else {
            ImageBatch { images, targets }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::data::{dataloader::batcher::Batcher, dataset::Dataset};
    use kindling_training::{Order, batches};
    use proptest::prelude::*;

    use super::*;
    use crate::ImageBatcher;

    /// `count` images of one pixel; image `i` has the pixel `i` and the label `i`.
    fn numbered(count: usize) -> ImageSet {
        let bytes: Vec<u8> = (0..count).map(|index| index as u8).collect();
        ImageSet::new(bytes.clone(), bytes, 1, 1).unwrap()
    }

    /// The batches of one epoch.
    fn epoch_of(source: &ImageSource, batch_size: usize, order: Order, epoch: usize) -> Vec<ImageBatch> {
        let device = Device::flex();
        let all = batches(source, batch_size, None, order, epoch, &device);
        all.collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_epoch_has_every_image_once_with_its_own_label_wherever_the_split_lies(
            count in 1_usize..200, batch_size in 1_usize..70, seed in prop::option::of(any::<u64>()), is_large: bool,
        ) {
            let order = seed.map_or(Order::File, |seed| Order::Shuffled { seed });
            let source = ImageSource::new(numbered(count), Normalization::default(), "numbers");
            let source = source.with_largest(is_large.then_some(0));
            let mut seen = Vec::new();
            for batch in epoch_of(&source, batch_size, order, 1) {
                let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
                let pixels: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
                prop_assert_eq!(pixels, labels.iter().map(|&label| label as f32 / 255.0).collect::<Vec<_>>());
                seen.extend(labels);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_for_training_carry_autodiff_and_both_devices_share_one_copy() {
        let source = ImageSource::new(numbered(4), Normalization::default(), "numbers");
        for device in [Device::flex().autodiff(), Device::flex()] {
            let batch = batches(&source, 2, None, Order::File, 1, &device).next().unwrap().unwrap();
            assert_eq!(batch.images.device().is_autodiff(), device.is_autodiff());
            assert_eq!(batch.targets.device().is_autodiff(), device.is_autodiff());
        }
        assert_eq!(source.splits.lock().unwrap().len(), 1);
    }

    #[test]
    fn burns_batcher_makes_the_same_batch_as_the_source() {
        let set = numbered(5);
        let normalization = Normalization { mean: 0.25, std: 0.5 };
        let items = (0..5).map(|index| set.get(index).unwrap()).collect();
        let batched = ImageBatcher::new(normalization).batch(items, &Device::flex());
        let served = epoch_of(&ImageSource::new(set, normalization, ""), 5, Order::File, 1).remove(0);
        assert_eq!(batched.images.into_data(), served.images.into_data());
        assert_eq!(batched.targets.into_data(), served.targets.into_data());
    }

    const ALL: [Augmentation; 3] = [Augmentation::Shift, Augmentation::Flip, Augmentation::Erase];

    /// 120 images of 9x8 pixels without background, augmented by all there is; image `i` has the label `i`.
    fn augmented(largest: Option<u64>) -> ImageSource {
        let pixels = (0..120 * 72_usize).map(|index| (index % 251) as u8 + 1).collect();
        let set = ImageSet::new(pixels, (0..120).collect(), 9, 8).unwrap();
        let source = ImageSource::new(set, Normalization { mean: 0.25, std: 0.5 }, "").with_largest(largest);
        source.augmented_by(&ALL, 7)
    }

    /// The pixels of one epoch's images by their labels.
    fn pixels(source: &ImageSource, batch_size: usize, order: Order, epoch: usize) -> BTreeMap<i64, Vec<f32>> {
        let mut all = BTreeMap::new();
        for batch in epoch_of(source, batch_size, order, epoch) {
            let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
            let pixels: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
            all.extend(labels.into_iter().zip(pixels.chunks_exact(72).map(<[f32]>::to_vec)));
        }
        all
    }

    #[test]
    fn an_image_is_changed_alike_whatever_the_batches_are_and_not_at_all_in_evaluation() {
        let shuffled = Order::Shuffled { seed: 3 };
        let expected = pixels(&augmented(None), 16, Order::File, 2);
        assert_eq!(expected.len(), 120);
        for (batch_size, order, largest) in [(16, shuffled, None), (50, Order::File, None), (7, shuffled, Some(0))] {
            let source = augmented(largest);
            assert_eq!(pixels(&source, batch_size, order, 2), expected);
            assert_ne!(pixels(&source, batch_size, order, 3), expected, "the third epoch has changes of its own");
        }
        let plain = pixels(&augmented(None).augmented_by(&[], 7), 16, Order::File, 2);
        assert_eq!(pixels(&augmented(None), 16, Order::File, 0), plain);
        assert_ne!(plain, expected);
    }

    #[test]
    fn what_comes_in_is_the_normalised_background() {
        let source = augmented(None);
        let background = (f32::from(source.set().background()) / 255.0 - 0.25) / 0.5;
        // No image has a number twice.
        let filled = |epoch| {
            let is_background = |pixel: &&f32| pixel.to_bits() == background.to_bits();
            let images = pixels(&source, 32, Order::File, epoch);
            images.values().filter(|pixels| pixels.iter().filter(is_background).count() > 1).count()
        };
        // One of 25 shifts is none, and half of the images are not erased: 118 of 120 on average.
        assert!(filled(1) > 100);
        assert_eq!(filled(0), 0);
    }
}
