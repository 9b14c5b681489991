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
    tensor::{Device, Int, Tensor, TensorData},
};

use crate::{ImageBatch, ImageSet, Normalization, Order, epoch_order};

/// A whole split on a device: normalised once, gathered from for every batch.
///
/// 60,000 images of 28x28 take 188 MB as f32.
#[derive(Clone, Debug)]
pub struct DeviceSplit {
    /// `[count, height * width]`
    images: Tensor<2>,
    /// `[count]`
    targets: Tensor<1, Int>,
    count: usize,
    size: [usize; 2],
}

impl DeviceSplit {
    /// Moves `set` to `device`.
    #[must_use]
    pub fn new(set: &ImageSet, normalization: Normalization, device: &Device) -> Self {
        let (count, size) = (set.count(), set.size());
        let table = normalization.table();
        let pixels: Vec<f32> = set.pixels().iter().map(|&byte| table[usize::from(byte)]).collect();
        let targets: Vec<i32> = set.labels().iter().map(|&label| i32::from(label)).collect();
        let device = device.clone().inner();
        Self {
            images: Tensor::from_data(TensorData::new(pixels, [count, size[0] * size[1]]), &device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), &device),
            count,
            size,
        }
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    fn to_device(&self, device: &Device) -> Self {
        let device = device.clone().inner();
        Self {
            images: self.images.clone().to_device(&device),
            targets: self.targets.clone().to_device(&device),
            ..*self
        }
    }
}

/// Batches of a [`DeviceSplit`], behind Burn's `DataLoader`.
///
/// Each call of [`iter`](DataLoader::iter) is one epoch: the first is the one given to
/// [`starting_at`](Self::starting_at), or epoch 1, and every further call is the next. The order of an epoch is
/// [`epoch_order`], so the same loader made again gives the same batches. The last batch holds what is left.
#[derive(Debug)]
pub struct BatchLoader {
    split: DeviceSplit,
    batch_size: usize,
    order: Order,
    range: Range<usize>,
    limit_batches: Option<usize>,
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
            range: 0..split.count,
            split,
            batch_size,
            order,
            limit_batches: None,
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

    /// Starts at epoch `epoch` (from 1), after its first `batches` batches: where a resumed run left off.
    #[must_use]
    pub fn starting_at(self, epoch: usize, batches: usize) -> Self {
        Self { next_epoch: AtomicUsize::new(epoch), skipped_batches: AtomicUsize::new(batches), ..self }
    }

    /// Number of batches in an epoch.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.num_items().div_ceil(self.batch_size)
    }

    fn with(&self, split: DeviceSplit, range: Range<usize>, device: Device) -> Self {
        Self {
            split,
            batch_size: self.batch_size,
            order: self.order,
            range,
            limit_batches: self.limit_batches,
            device,
            next_epoch: AtomicUsize::new(self.next_epoch.load(Ordering::Relaxed)),
            skipped_batches: AtomicUsize::new(self.skipped_batches.load(Ordering::Relaxed)),
        }
    }
}

impl DataLoader<ImageBatch> for BatchLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        let epoch = self.next_epoch.fetch_add(1, Ordering::Relaxed);
        let skipped = self.skipped_batches.swap(0, Ordering::Relaxed);
        let total = self.num_items();
        // File order needs no gather: its batches are slices.
        let indices = (self.order != Order::File).then(|| {
            let first = self.range.start;
            epoch_order(self.order, epoch, self.range.len()).iter().map(|index| (first + index) as i32).collect()
        });
        Box::new(Batches { loader: self, indices, position: skipped.saturating_mul(self.batch_size).min(total), total })
    }

    fn num_items(&self) -> usize {
        let limit = self.limit_batches.map_or(usize::MAX, |batches| batches.saturating_mul(self.batch_size));
        self.range.len().min(limit)
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        Arc::new(self.with(self.split.to_device(device), self.range.clone(), device.clone()))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        let first = self.range.start;
        let range = (first + start).min(self.range.end)..(first + end).min(self.range.end);
        Arc::new(self.with(self.split.clone(), range, self.device.clone()))
    }
}

/// One epoch of a [`BatchLoader`].
struct Batches<'a> {
    loader: &'a BatchLoader,
    /// The epoch's order, unless it is the file's.
    indices: Option<Vec<i32>>,
    position: usize,
    total: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let loader = self.loader;
        let count = loader.batch_size.min(self.total - self.position);
        if count == 0 {
            return None;
        }
        let (images, targets) = (loader.split.images.clone(), loader.split.targets.clone());
        let (images, targets) = if let Some(indices) = &self.indices {
            let picked = indices[self.position..self.position + count].to_vec();
            let picked = Tensor::<1, Int>::from_data(TensorData::new(picked, [count]), &images.device());
            (images.select(0, picked.clone()), targets.select(0, picked))
        } else {
            let start = loader.range.start + self.position;
            (images.narrow(0, start, count), targets.narrow(0, start, count))
        };
        self.position += count;
        let [height, width] = loader.split.size;
        let images = images.reshape([count, 1, height, width]); // [batch, 1, height, width]
        Some(Ok(if loader.device.is_autodiff() {
            ImageBatch { images: images.autodiff(), targets: targets.autodiff() }
        } else {
            ImageBatch { images, targets }
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
    use burn::data::dataloader::batcher::Batcher;
    use burn::data::dataset::Dataset;
    use proptest::prelude::*;

    use super::*;
    use crate::ImageBatcher;

    /// `count` images of one pixel; image `i` has the pixel `i` and the label `i`.
    fn numbered(count: usize) -> ImageSet {
        let bytes: Vec<u8> = (0..count).map(|index| index as u8).collect();
        ImageSet::new(bytes.clone(), bytes, 1, 1).unwrap()
    }

    fn loader(count: usize, batch_size: usize, order: Order) -> BatchLoader {
        let device = Device::flex();
        BatchLoader::new(
            DeviceSplit::new(&numbered(count), Normalization::default(), &device),
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
        fn slices_share_the_images_among_them(count in 2_usize..200, batch_size in 1_usize..70, order in orders(), cut in 1_usize..199) {
            let cut = cut.min(count - 1);
            let whole = loader(count, batch_size, order);
            let parts = [whole.slice(0, cut), whole.slice(cut, count)];
            prop_assert_eq!([parts[0].num_items(), parts[1].num_items()], [cut, count - cut]);
            let mut seen = [epoch(&*parts[0]).concat(), epoch(&*parts[1]).concat()].concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
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
        let split = DeviceSplit::new(&numbered(4), Normalization::default(), &device);
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
        let split = DeviceSplit::new(&set, normalization, &device);
        let loaded = BatchLoader::new(split, 5, Order::File, &device).iter().next().unwrap().unwrap();
        assert_eq!(batched.images.into_data(), loaded.images.into_data());
        assert_eq!(batched.targets.into_data(), loaded.targets.into_data());
    }
}
