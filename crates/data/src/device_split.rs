use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use kindling_training::Rows;

use crate::{ImageSet, Normalization};

/// Bytes in a word.
const BYTES: usize = size_of::<i32>();

/// A whole split on a device, as bytes: gathered from, taken apart, and normalised for every batch.
///
/// 60,000 images of 28x28 take 47 MB.
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
    /// `[channels, height, width]`
    shape: [usize; 3],
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
            shape,
        }
    }

    /// The images of `rows`: `[batch, channels, height, width]` and `[batch]`.
    pub(crate) fn batch(&self, rows: &Rows<'_>) -> (Tensor<4>, Tensor<1, Int>) {
        let (words, targets) = if let Some(range) = rows.range() {
            // Neighbours need no gather.
            let (start, count) = (range.start, range.len());
            (self.words.clone().narrow(0, start, count), self.targets.clone().narrow(0, start, count))
        } else {
            let picked: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
            let picked = TensorData::new(picked, [rows.len()]);
            let picked = Tensor::<1, Int>::from_data(picked, &self.targets.device());
            (self.words.clone().select(0, picked.clone()), self.targets.clone().select(0, picked))
        };
        (self.unpacked(&words), targets)
    }

    /// `[batch, words]` to `[batch, channels, height, width]`
    fn unpacked(&self, words: &Tensor<2, Int>) -> Tensor<4> {
        let ([batch, count], [channels, height, width]) = (words.dims(), self.shape);
        let size = channels * height * width;
        let byte = |index: usize| words.clone().bitwise_right_shift_scalar(8 * index as i32).bitwise_and_scalar(255);
        let bytes = Tensor::stack::<3>((0..BYTES).map(byte).collect(), 2); // [batch, words, 4]
        let mut places = bytes.reshape([batch, count * BYTES]).narrow(1, 0, size); // [batch, size]
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
                let (images, targets) = split.batch(&Rows::new(rows, 1));
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
}
