use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kindling_training::Rows;

use crate::{ImageSet, Normalization};

/// Bytes in a word.
const BYTES: usize = size_of::<i32>();

/// The order of an epoch takes a multiple of so many numbers: a batch of it that begins and ends at such a multiple is
/// where the alignment of all GPUs lets it be used without a copy.
const ALIGNED: usize = 64;

/// A whole split on a device, as bytes: gathered from, taken apart, and normalised for every batch.
///
/// 60,000 images of 28x28 take 47 MB. The order of an epoch moves there with its first batch, so that the other batches
/// move nothing.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSplit {
    /// Four bytes in each number, the first in its lowest bits: `[count, words]`.
    words: Tensor<2, Int>,
    /// `[count]`
    targets: Tensor<1, Int>,
    /// The number for each byte of each channel: `[channels * 256]`.
    tables: Tensor<1>,
    /// Where the table of each pixel's channel begins, `[1, channels * height * width]`; none for one channel.
    starts: Option<Tensor<2, Int>>,
    /// By how many bits each byte of a word is shifted, `[1, 1, 4]`.
    shifts: Tensor<3, Int>,
    /// `[channels, height, width]`
    shape: [usize; 3],
    /// The order of the epoch that came last; all copies of the split share it.
    order: Arc<Mutex<Option<EpochOrder>>>,
}

/// The order of an epoch on a device.
#[derive(Clone, Debug)]
struct EpochOrder {
    /// What the epoch's batches have in common.
    rows: Arc<[usize]>,
    epoch: usize,
    /// Which image each place of the epoch has, `[count]`, and zeros to the next multiple of [`ALIGNED`].
    images: Tensor<1, Int>,
    /// The targets of these.
    targets: Tensor<1, Int>,
}

impl DeviceSplit {
    /// Bytes that a set takes on a device.
    pub(crate) fn bytes(set: &ImageSet) -> u64 {
        (set.count() * set.shape().iter().product::<usize>().div_ceil(BYTES) * BYTES) as u64
    }

    /// Moves `set` to `device`, which has no autodiff.
    pub(crate) fn new(set: &ImageSet, normalization: &Normalization, device: &Device) -> Self {
        let (count, shape @ [channels, height, width]) = (set.count(), set.shape());
        let words = (channels * height * width).div_ceil(BYTES);
        let mut packed = Vec::with_capacity(count * words);
        for index in 0..count {
            packed.extend(set.image(index).chunks(BYTES).map(|bytes| {
                let mut word = [0; BYTES];
                word[..bytes.len()].copy_from_slice(bytes);
                i32::from_le_bytes(word)
            }));
        }
        let targets: Vec<i32> = set.labels().iter().map(|&label| i32::from(label)).collect();
        let tables: Vec<f32> = (0..channels).flat_map(|channel| normalization.table(channel)).collect();
        let starts = (channels > 1).then(|| {
            let starts = (0..channels).flat_map(|channel| vec![channel as i32 * 256; height * width]).collect();
            Tensor::from_data(TensorData::new::<i32, _>(starts, [1, channels * height * width]), (device, DType::I32))
        });
        Self {
            // Of 32 bits also where a device's whole numbers have 64.
            words: Tensor::from_data(TensorData::new(packed, [count, words]), (device, DType::I32)),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
            tables: Tensor::from_data(TensorData::new(tables, [channels * 256]), device),
            starts,
            shifts: Tensor::from_data(TensorData::from([[[0_i32, 8, 16, 24]]]), (device, DType::I32)),
            shape,
            order: Arc::default(),
        }
    }

    /// The images of `rows`, of which row `r` has the image `images[r]`, or its own where none are given:
    /// `[batch, channels, height, width]` and `[batch]`.
    pub(crate) fn batch(&self, rows: &Rows<'_>, images: Option<&[u32]>) -> (Tensor<4>, Tensor<1, Int>) {
        let (words, targets) = if let (Some(range), None) = (rows.range(), images) {
            // Neighbours need no gather.
            let (start, count) = (range.start, range.len());
            (self.words.clone().narrow(0, start, count), self.targets.clone().narrow(0, start, count))
        } else if let Some((whole, start)) = rows.whole() {
            let order = self.order(whole, rows.epoch(), images);
            let [picked, targets] = [order.images, order.targets].map(|all| all.narrow(0, start, rows.len()));
            (self.words.clone().select(0, picked), targets)
        } else {
            let picked = self.picked(rows, images, rows.len());
            (self.words.clone().select(0, picked.clone()), self.targets.clone().select(0, picked))
        };
        (self.unpacked(words), targets)
    }

    /// The order of an epoch that has `rows`, moved to the device where it is another than the last.
    fn order(&self, rows: &Arc<[usize]>, epoch: usize, images: Option<&[u32]>) -> EpochOrder {
        let mut kept = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(order) if order.epoch == epoch && Arc::ptr_eq(&order.rows, rows) => order.clone(),
            _ => {
                let picked = self.picked(rows, images, rows.len().next_multiple_of(ALIGNED));
                let targets = self.targets.clone().select(0, picked.clone());
                let order = EpochOrder { rows: rows.clone(), epoch, images: picked, targets };
                *kept = Some(order.clone());
                order
            }
        }
    }

    /// The images of `rows` on the device, and zeros up to `count` numbers.
    fn picked(&self, rows: &[usize], images: Option<&[u32]>, count: usize) -> Tensor<1, Int> {
        let image = |&row: &usize| images.map_or(row as i32, |images| images[row] as i32);
        let mut picked: Vec<i32> = rows.iter().map(image).collect();
        picked.resize(count, 0);
        Tensor::from_data(TensorData::new(picked, [count]), &self.targets.device())
    }

    /// `[batch, words]` to `[batch, channels, height, width]`
    fn unpacked(&self, words: Tensor<2, Int>) -> Tensor<4> {
        let ([batch, count], [channels, height, width]) = (words.dims(), self.shape);
        let size = channels * height * width;
        let bytes = words.unsqueeze_dim::<3>(2).bitwise_right_shift(self.shifts.clone()).bitwise_and_scalar(255);
        let mut places = bytes.reshape([batch, count * BYTES]); // [batch, words * 4]
        if count * BYTES > size {
            places = places.narrow(1, 0, size); // [batch, size]
        }
        if let Some(starts) = &self.starts {
            places = places + starts.clone();
        }
        let pixels = self.tables.clone().select(0, places.reshape([batch * size]));
        pixels.reshape([batch, channels, height, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_gives_the_bits_of_the_table_for_any_size_and_number_of_channels() {
        let device = Device::flex();
        for shape in [[1, 16, 16], [1, 3, 3], [3, 5, 7], [3, 1, 1], [4, 9, 9]] {
            let size: usize = shape.iter().product();
            let pixels: Vec<u8> = (0..6 * size).map(|index| (index * 7) as u8).collect();
            let set = ImageSet::new(pixels, vec![0, 1, 300, 3, 4, 5], shape).unwrap();
            let mean: Vec<f64> = (0..shape[0]).map(|channel| 0.1 * channel as f64).collect();
            let normalization = Normalization::new(&mean, &[0.3]);
            let split = DeviceSplit::new(&set, &normalization, &device);
            assert_eq!(DeviceSplit::bytes(&set), 6 * size.next_multiple_of(4) as u64);
            for rows in [&[0, 1, 2, 3, 4, 5][..], &[5, 2, 2, 0], &[3]] {
                let (images, targets) = split.batch(&Rows::new(rows, 1), None);
                assert_eq!(images.dims(), [rows.len(), shape[0], shape[1], shape[2]]);
                let images: Vec<u32> = images.into_data().iter::<f32>().map(f32::to_bits).collect();
                let mut expected = vec![0.0; rows.len() * size];
                for (&row, out) in rows.iter().zip(expected.chunks_exact_mut(size)) {
                    normalization.write(set.image(row), shape[0], out);
                }
                assert_eq!(images, expected.into_iter().map(f32::to_bits).collect::<Vec<_>>());
                let targets: Vec<i64> = targets.into_data().iter::<i64>().collect();
                assert_eq!(targets, rows.iter().map(|&row| i64::from(set.labels()[row])).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn batches_of_an_epoch_are_those_of_their_rows_and_every_epoch_has_its_own_order() {
        let set = ImageSet::new((0..150).collect(), (0..150).collect(), [1, 1, 1]).unwrap();
        let split = DeviceSplit::new(&set, &Normalization::new(&[0.0], &[1.0 / 255.0]), &Device::flex());
        let numbers = |(images, targets): (Tensor<4>, Tensor<1, Int>)| {
            let images: Vec<i64> = images.into_data().iter::<f32>().map(|pixel| pixel.round() as i64).collect();
            assert_eq!(targets.into_data().iter::<i64>().collect::<Vec<_>>(), images);
            images
        };
        let orders: [Arc<[usize]>; 2] = [(0..130).rev().collect(), (0..130).map(|place| place * 7 % 130).collect()];
        let other: Vec<u32> = (0..150).map(|row| (row + 20) % 150).collect();
        for (epoch, images) in [(1, None), (2, None), (2, Some(&other[..])), (3, Some(&other[..])), (1, None)] {
            let split = split.clone();
            split.order.lock().unwrap().take_if(|order| order.epoch == epoch);
            for rows in [&orders[0], &orders[1], &orders[0]] {
                for range in [0..64, 64..128, 128..130, 5..6, 0..130] {
                    let part = Rows::part(rows, range, epoch);
                    let image = |&row: &usize| images.map_or(row as i64, |images| i64::from(images[row]));
                    let expected: Vec<i64> = part.iter().map(image).collect();
                    assert_eq!(numbers(split.batch(&part, images)), expected);
                    assert_eq!(numbers(split.batch(&Rows::new(&part, epoch), images)), expected);
                }
            }
        }
        // It is kept as long as the epoch lasts.
        let kept = || split.order.lock().unwrap().clone().unwrap();
        assert!(Arc::ptr_eq(&kept().rows, &orders[0]) && kept().epoch == 1 && kept().images.dims() == [192]);
    }
}
