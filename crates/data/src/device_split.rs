use std::{ops::Range, sync::Arc};

use burn::tensor::{Device, Int, Tensor, TensorData};
use kindling_kernels::select_rows;

use crate::{ImageSet, Normalization};

/// A whole split for a device: normalised and moved there once, and gathered from for every batch.
///
/// 60,000 images of 28x28 take 188 MB as f32. Where that is more than the device takes in one piece, the images stay on
/// the host, and every batch is normalised there and moved by itself: the same numbers, a little later.
#[derive(Clone, Debug)]
pub struct DeviceSplit {
    images: Images,
    count: usize,
    size: [usize; 2],
    background: f32,
}

// There is one for each split; a box would only add a hop to every batch.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
enum Images {
    OnDevice {
        /// `[count, height * width]`
        images: Tensor<2>,
        /// `[count]`
        targets: Tensor<1, Int>,
    },
    OnHost {
        set: Arc<ImageSet>,
        /// The number for each byte.
        table: Box<[f32; 256]>,
        device: Device,
    },
}

impl DeviceSplit {
    /// Moves `set` to `device`, if `largest` bytes, the most that the device takes in one piece, are enough for it.
    #[must_use]
    pub fn new(set: &ImageSet, normalization: Normalization, device: &Device, largest: Option<u64>) -> Self {
        let (count, size) = (set.count(), set.size());
        let table = normalization.table();
        let background = table[usize::from(set.background())];
        let device = device.clone().inner();
        let bytes = (set.pixels().len() * size_of::<f32>()) as u64;
        let images = if largest.is_some_and(|largest| bytes > largest) {
            Images::OnHost { set: Arc::new(set.clone()), table: Box::new(table), device }
        } else {
            let pixels: Vec<f32> = set.pixels().iter().map(|&byte| table[usize::from(byte)]).collect();
            let targets: Vec<i32> = set.labels().iter().map(|&label| i32::from(label)).collect();
            Images::OnDevice {
                images: Tensor::from_data(TensorData::new(pixels, [count, size[0] * size[1]]), &device),
                targets: Tensor::from_data(TensorData::new(targets, [count]), &device),
            }
        };
        Self { images, count, size, background }
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// `[height, width]` in pixels.
    pub(crate) fn size(&self) -> [usize; 2] {
        self.size
    }

    /// What the images' background has become.
    pub(crate) fn background(&self) -> f32 {
        self.background
    }

    pub(crate) fn to_device(&self, device: &Device) -> Self {
        let device = device.clone().inner();
        let images = match self.images.clone() {
            Images::OnDevice { images, targets } => {
                Images::OnDevice { images: images.to_device(&device), targets: targets.to_device(&device) }
            }
            Images::OnHost { set, table, .. } => Images::OnHost { set, table, device },
        };
        Self { images, ..*self }
    }

    /// The images with the given indices, or neighbouring ones: `[batch, height * width]` and `[batch]`.
    pub(crate) fn batch(&self, rows: &Rows<'_>) -> (Tensor<2>, Tensor<1, Int>) {
        match (&self.images, rows) {
            (Images::OnDevice { images, targets }, Rows::Picked(indices)) => {
                let picked = TensorData::new(indices.to_vec(), [indices.len()]);
                let picked = Tensor::<1, Int>::from_data(picked, &images.device());
                (select_rows(images.clone(), picked.clone()), targets.clone().select(0, picked))
            }
            (Images::OnDevice { images, targets }, Rows::Range(range)) => {
                let (start, count) = (range.start, range.len());
                (images.clone().narrow(0, start, count), targets.clone().narrow(0, start, count))
            }
            (Images::OnHost { set, table, device }, rows) => on_host(set, table, &rows.indices(), device),
        }
    }
}

/// Which images a batch has.
pub(crate) enum Rows<'a> {
    Picked(&'a [i32]),
    Range(Range<usize>),
}

impl Rows<'_> {
    /// Each image's index in the split.
    pub(crate) fn indices(&self) -> Vec<usize> {
        match self {
            Self::Picked(indices) => indices.iter().map(|&index| index as usize).collect(),
            Self::Range(range) => range.clone().collect(),
        }
    }
}

/// Normalises the images on the host and moves them.
fn on_host(set: &ImageSet, table: &[f32; 256], indices: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let (count, pixels) = (indices.len(), set.size()[0] * set.size()[1]);
    let rows = indices.iter().map(|&index| &set.pixels()[index * pixels..(index + 1) * pixels]);
    let images: Vec<f32> = rows.flatten().map(|&byte| table[usize::from(byte)]).collect();
    let targets: Vec<i32> = indices.iter().map(|&index| i32::from(set.labels()[index])).collect();
    (
        Tensor::from_data(TensorData::new(images, [count, pixels]), device),
        Tensor::from_data(TensorData::new(targets, [count]), device),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_too_large_for_the_device_gives_the_same_batches_from_the_host() {
        let device = Device::flex();
        let bytes: Vec<u8> = (0..100).collect();
        let set = ImageSet::new(bytes.clone(), bytes, 1, 1).unwrap();
        let normalization = Normalization { mean: 0.1, deviation: 0.3 };
        let picked: Vec<i32> = (0..32).map(|index| (index * 37) % 100).collect();
        for rows in [Rows::Picked(&picked), Rows::Range(96..100)] {
            let batch = |largest| {
                let split = DeviceSplit::new(&set, normalization, &device, largest);
                assert_eq!(matches!(split.images, Images::OnHost { .. }), largest == Some(399));
                let (images, targets) = split.batch(&rows);
                (images.into_data(), targets.into_data())
            };
            // A hundred images of one pixel take 400 bytes.
            assert_eq!(batch(Some(399)), batch(Some(400)));
        }
    }

    #[test]
    fn the_background_is_normalised_as_the_images_are() {
        let set = ImageSet::new(vec![255, 0, 255], vec![0, 1, 0], 1, 1).unwrap();
        let normalization = Normalization { mean: 0.25, deviation: 0.5 };
        let split = DeviceSplit::new(&set, normalization, &Device::flex(), None);
        assert_eq!(split.background().to_bits(), 1.5_f32.to_bits());
    }
}
