use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderIterator, Progress},
        dataset::DatasetError,
    },
    tensor::Device,
};

use crate::{
    Augmentation, DeviceSplit, ImageBatch, Order,
    augment::{self, Augmenter},
    device_split::Rows,
    epoch_order,
};

/// Batches of a [`DeviceSplit`], behind Burn's `DataLoader`.
///
/// Each call of [`iter`](DataLoader::iter) is one epoch: the first is the one given to
/// [`starting_at`](Self::starting_at), or epoch 1, and every further call is the next. The order of an epoch is
/// [`epoch_order`], so the same loader made again gives the same batches. The last batch holds what is left.
///
/// A [`slice`](DataLoader::slice) is a device's share of every batch, rather than a part of the images: the slices
/// together give the batches of the whole.
#[derive(Debug)]
pub struct BatchLoader {
    split: DeviceSplit,
    batch_size: usize,
    order: Order,
    share: Share,
    limit_batches: Option<usize>,
    augmenter: Option<Augmenter>,
    device: Device,
    next_epoch: AtomicUsize,
    skipped_batches: AtomicUsize,
}

impl BatchLoader {
    /// Serves `split` in batches of `batch_size` on `device`, which may have autodiff.
    ///
    /// # Panics
    /// When `batch_size` is zero.
    #[must_use]
    pub fn new(split: DeviceSplit, batch_size: usize, order: Order, device: &Device) -> Self {
        assert!(batch_size > 0, "a batch holds at least one image");
        Self {
            share: Share::WHOLE,
            split,
            batch_size,
            order,
            limit_batches: None,
            augmenter: None,
            device: device.clone(),
            next_epoch: AtomicUsize::new(1),
            skipped_batches: AtomicUsize::new(0),
        }
    }

    /// Ends every epoch after `batches` batches.
    #[must_use]
    pub fn limited_to(self, batches: Option<usize>) -> Self {
        Self { limit_batches: batches, ..self }
    }

    /// Changes every image at random each time it is seen: for training, never for evaluation.
    ///
    /// What happens to an image is a pure function of `seed`, the epoch, and the image's index in the split; neither batch
    /// size nor order, resuming, slices, or device make a difference to it.
    #[must_use]
    pub fn augmented_by(self, augmentations: &[Augmentation], seed: u64) -> Self {
        let augmenter = (!augmentations.is_empty()).then(|| Augmenter::new(augmentations, seed));
        Self { augmenter, ..self }
    }

    /// The same batches from epoch `epoch` (from 1) on, after its first `batches`: where a resumed run left off.
    #[must_use]
    pub fn starting_at(&self, epoch: usize, batches: usize) -> Self {
        Self {
            next_epoch: AtomicUsize::new(epoch),
            skipped_batches: AtomicUsize::new(batches),
            ..self.with(self.split.clone(), self.share, self.device.clone())
        }
    }

    /// Number of batches in an epoch.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.total().div_ceil(self.batch_size)
    }

    /// Images of an epoch, of which this loader may serve a share.
    fn total(&self) -> usize {
        let limit = self.limit_batches.map_or(usize::MAX, |batches| batches.saturating_mul(self.batch_size));
        self.split.count().min(limit)
    }

    fn with(&self, split: DeviceSplit, share: Share, device: Device) -> Self {
        Self {
            split,
            batch_size: self.batch_size,
            order: self.order,
            share,
            limit_batches: self.limit_batches,
            augmenter: self.augmenter.clone(),
            device,
            next_epoch: AtomicUsize::new(self.next_epoch.load(Ordering::Relaxed)),
            skipped_batches: AtomicUsize::new(self.skipped_batches.load(Ordering::Relaxed)),
        }
    }
}

/// A fraction of every batch: what lies between `start / of` and `end / of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    start: usize,
    end: usize,
    of: usize,
}

impl Share {
    const WHOLE: Self = Self { start: 0, end: 1, of: 1 };

    /// The positions within a batch of `count` images. Neighbouring shares meet, and the first gets the odd image.
    fn positions(self, count: usize) -> Range<usize> {
        (count * self.start).div_ceil(self.of)..(count * self.end).div_ceil(self.of)
    }

    /// What `start..end` of `of` is of this share.
    fn part(self, start: usize, end: usize, of: usize) -> Self {
        let size = self.end - self.start;
        Self { start: self.start * of + start * size, end: self.start * of + end * size, of: self.of * of }
    }
}

impl DataLoader<ImageBatch> for BatchLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        let epoch = self.next_epoch.fetch_add(1, Ordering::Relaxed);
        let skipped = self.skipped_batches.swap(0, Ordering::Relaxed);
        let total = self.total();
        // File order needs no gather: its batches are slices.
        let indices = (self.order != Order::File)
            .then(|| epoch_order(self.order, epoch, self.split.count()).iter().map(|&index| index as i32).collect());
        let position = skipped.saturating_mul(self.batch_size).min(total);
        Box::new(Batches { loader: self, epoch, indices, position, total })
    }

    fn num_items(&self) -> usize {
        let (full, rest) = (self.total() / self.batch_size, self.total() % self.batch_size);
        full * self.share.positions(self.batch_size).len() + self.share.positions(rest).len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(self.with(self.split.to_device(device), self.share, device.clone()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        let items = self.num_items().max(1);
        let share = self.share.part(start.min(items), end.min(items), items);
        Arc::new(self.with(self.split.clone(), share, self.device.clone()))
    }
}

/// One epoch of a [`BatchLoader`].
struct Batches<'a> {
    loader: &'a BatchLoader,
    /// From 1.
    epoch: usize,
    /// The epoch's order, unless it is the file's.
    indices: Option<Vec<i32>>,
    /// Images of the whole that are done.
    position: usize,
    total: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let loader = self.loader;
        let whole = loader.batch_size.min(self.total - self.position);
        let share = loader.share.positions(whole);
        let (start, count) = (self.position + share.start, share.len());
        // Nothing is left, or so little of the last batch that this share gets none of it.
        if count == 0 {
            return None;
        }
        self.position += whole;
        let rows = match &self.indices {
            Some(indices) => Rows::Picked(&indices[start..start + count]),
            None => Rows::Range(start..start + count),
        };
        let (images, targets) = loader.split.batch(&rows);
        let [height, width] = loader.split.size();
        let images = match &loader.augmenter {
            Some(augmenter) => {
                let sources = augmenter.sources(self.epoch, &rows.indices(), [height, width]);
                augment::pick(images, sources, loader.split.background())
            }
            None => images,
        };
        let images = images.reshape([count, 1, height, width]); // [batch, 1, height, width]
        Some(Ok(if loader.device.is_autodiff() {
            ImageBatch { images: images.autodiff(), targets: targets.autodiff(), whole }
        } else {
            ImageBatch { images, targets, whole }
        }))
    }
}

impl DataLoaderIterator<ImageBatch> for Batches<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.position, self.total, Some("images".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::data::{dataloader::batcher::Batcher, dataset::Dataset};
    use proptest::prelude::*;

    use super::*;
    use crate::{ImageBatcher, ImageSet, Normalization};

    /// `count` images of one pixel; image `i` has the pixel `i` and the label `i`.
    fn numbered(count: usize) -> ImageSet {
        let bytes: Vec<u8> = (0..count).map(|index| index as u8).collect();
        ImageSet::new(bytes.clone(), bytes, 1, 1).unwrap()
    }

    fn loader(count: usize, batch_size: usize, order: Order) -> BatchLoader {
        let device = Device::flex();
        BatchLoader::new(
            DeviceSplit::new(&numbered(count), Normalization::default(), &device, None),
            batch_size,
            order,
            &device,
        )
    }

    /// The labels of each batch of one epoch; also checks that image and label belong together.
    fn epoch(loader: &dyn DataLoader<ImageBatch>) -> Vec<Vec<i64>> {
        loader
            .iter()
            .map(|batch| {
                let batch = batch.unwrap();
                let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
                let pixels: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
                let expected: Vec<f32> = labels.iter().map(|&label| label as f32 / 255.0).collect();
                assert_eq!(pixels, expected);
                labels
            })
            .collect()
    }

    fn orders() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::File), any::<u64>().prop_map(|seed| Order::Shuffled { seed })]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_epoch_has_every_image_once_and_only_its_last_batch_is_short(
            count in 1_usize..200, batch_size in 1_usize..70, order in orders(), epochs in 1_usize..4,
        ) {
            let loader = loader(count, batch_size, order);
            for _ in 0..epochs {
                let batches = epoch(&loader);
                prop_assert_eq!(batches.len(), loader.batches());
                prop_assert!(batches[..batches.len() - 1].iter().all(|batch| batch.len() == batch_size));
                let mut seen = batches.concat();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_loader_that_starts_anywhere_goes_on_as_the_uninterrupted_one(
            count in 1_usize..200, batch_size in 1_usize..70, order in orders(), at in 1_usize..4, skip in 0_usize..9,
        ) {
            let whole = loader(count, batch_size, order);
            let epochs: Vec<_> = (0..4).map(|_| epoch(&whole)).collect();
            let resumed = loader(count, batch_size, order).starting_at(at, skip);
            let rest = &epochs[at - 1][skip.min(epochs[at - 1].len())..];
            prop_assert_eq!(&epoch(&resumed)[..], rest);
            prop_assert_eq!(&epoch(&resumed), &epochs[at]);
        }

        #[test]
        fn equal_slices_share_every_batch_among_them(
            shares in 1_usize..5, each in 1_usize..50, more in 0_usize..70, order in orders(), skip in 0_usize..3,
        ) {
            let (count, batch_size) = (shares * each, shares + more);
            let whole = loader(count, batch_size, order).starting_at(2, skip);
            let slices: Vec<_> = (0..shares).map(|share| whole.slice(share * each, (share + 1) * each)).collect();
            prop_assert_eq!(slices.iter().map(|slice| slice.num_items()).sum::<usize>(), count);
            let parts: Vec<_> = slices.iter().map(|slice| epoch(&**slice)).collect();
            for (index, batch) in epoch(&whole).iter().enumerate() {
                let shared: Vec<_> = parts.iter().filter_map(|part| part.get(index)).flatten().copied().collect();
                prop_assert_eq!(&shared, batch);
            }
        }
    }

    #[test]
    fn a_limit_ends_every_epoch_early() {
        let limited = loader(100, 8, Order::Shuffled { seed: 1 }).limited_to(Some(3));
        let whole = loader(100, 8, Order::Shuffled { seed: 1 });
        assert_eq!((limited.batches(), limited.num_items()), (3, 24));
        assert_eq!(epoch(&limited), epoch(&whole)[..3]);
    }

    #[test]
    fn batches_for_training_carry_autodiff_and_the_others_do_not() {
        let device = Device::flex();
        let split = DeviceSplit::new(&numbered(4), Normalization::default(), &device, None);
        let tracked = BatchLoader::new(split.clone(), 2, Order::File, &device.clone().autodiff());
        let plain = BatchLoader::new(split, 2, Order::File, &device);
        assert!(tracked.iter().next().unwrap().unwrap().images.device().is_autodiff());
        assert!(!plain.iter().next().unwrap().unwrap().images.device().is_autodiff());
    }

    #[test]
    fn burns_batcher_makes_the_same_batch_as_the_loader() {
        let device = Device::flex();
        let set = numbered(5);
        let normalization = Normalization { mean: 0.25, deviation: 0.5 };
        let items = (0..5).map(|index| set.get(index).unwrap()).collect();
        let batched = ImageBatcher::new(normalization).batch(items, &device);
        let split = DeviceSplit::new(&set, normalization, &device, None);
        let loaded = BatchLoader::new(split, 5, Order::File, &device).iter().next().unwrap().unwrap();
        assert_eq!(batched.images.into_data(), loaded.images.into_data());
        assert_eq!(batched.targets.into_data(), loaded.targets.into_data());
    }

    const ALL: [Augmentation; 3] = [Augmentation::Shift, Augmentation::Flip, Augmentation::Erase];

    /// 120 images of 9x8 pixels without background, augmented by all there is; image `i` has the label `i`.
    fn augmented(batch_size: usize, order: Order, largest: Option<u64>) -> BatchLoader {
        let device = Device::flex();
        let pixels = (0..120 * 72_usize).map(|index| (index % 251) as u8 + 1).collect();
        let set = ImageSet::new(pixels, (0..120).collect(), 9, 8).unwrap();
        let split = DeviceSplit::new(&set, Normalization { mean: 0.25, deviation: 0.5 }, &device, largest);
        BatchLoader::new(split, batch_size, order, &device).augmented_by(&ALL, 7)
    }

    /// The pixels of one epoch's images by their labels.
    fn pixels(loader: &dyn DataLoader<ImageBatch>) -> BTreeMap<i64, Vec<f32>> {
        loader
            .iter()
            .flat_map(|batch| {
                let batch = batch.unwrap();
                let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
                let pixels: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
                labels.into_iter().zip(pixels.chunks_exact(72).map(<[f32]>::to_vec).collect::<Vec<_>>())
            })
            .collect()
    }

    #[test]
    fn an_image_is_changed_alike_whatever_the_batches_are() {
        let shuffled = Order::Shuffled { seed: 3 };
        let expected = pixels(&augmented(16, Order::File, None).starting_at(2, 0));
        assert_eq!(expected.len(), 120);
        for (batch_size, order, largest) in [(16, shuffled, None), (50, Order::File, None), (7, shuffled, Some(0))] {
            let whole = augmented(batch_size, order, largest).starting_at(2, 0);
            let slices = [whole.slice(0, 60), whole.slice(60, 120)];
            let moved = whole.to_device(&Device::flex());
            assert_eq!(slices.iter().flat_map(|slice| pixels(&**slice)).collect::<BTreeMap<_, _>>(), expected);
            assert_eq!(pixels(&*moved), expected);
            assert_eq!(pixels(&whole), expected);
            assert_ne!(pixels(&whole), expected, "the third epoch has changes of its own");
            let resumed = pixels(&whole.starting_at(2, 2));
            assert_eq!(resumed.len(), 120 - 2 * batch_size);
            assert!(resumed.iter().all(|(label, pixels)| *pixels == expected[label]));
            let limited = pixels(&whole.starting_at(2, 0).limited_to(Some(1)));
            assert_eq!(limited.len(), batch_size);
            assert!(limited.iter().all(|(label, pixels)| *pixels == expected[label]));
        }
    }

    #[test]
    fn what_comes_in_is_the_normalised_background() {
        // No image has a number twice.
        let filled = |loader: &BatchLoader| {
            let is_background = |pixel: &&f32| pixel.to_bits() == loader.split.background().to_bits();
            pixels(loader).values().filter(|pixels| pixels.iter().filter(is_background).count() > 1).count()
        };
        let loader = augmented(32, Order::File, None);
        // One of 25 shifts is none, and half of the images are not erased: 118 of 120 on average.
        assert!(filled(&loader) > 100);
        assert_eq!(filled(&loader.augmented_by(&[], 7)), 0);
    }
}
