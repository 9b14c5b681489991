use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kindling_kernels::select_rows;
use kindling_training::Rows;

use crate::{ImageSet, Normalization};

/// A whole split for a device: normalised and moved there once, and gathered from for every batch.
///
/// 60,000 images of 28x28 take 188 MB as f32. Where that is more than the device takes in one piece, the images stay on
/// the host, and every batch is normalised there and moved by itself: the same numbers, a little later.
// There is one for each split and device; a box would only add an indirection to every batch.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub(crate) enum DeviceSplit {
    OnDevice {
        /// `[count, height * width]`
        images: Tensor<2>,
        /// `[count]`
        targets: Tensor<1, Int>,
    },
    OnHost {
        set: Arc<ImageSet>,
        /// The number for each byte.
        table: Arc<[f32; 256]>,
        device: Device,
    },
}

impl DeviceSplit {
    /// Moves `set` to `device`, if `largest` bytes, the most that the device takes in one piece, are enough for it.
    pub(crate) fn new(
        set: &Arc<ImageSet>,
        normalization: Normalization,
        device: &Device,
        largest: Option<u64>,
    ) -> Self {
        let (count, [height, width]) = (set.count(), set.size());
        let table = normalization.table();
        let device = device.clone().inner();
        let bytes = (set.pixels().len() * size_of::<f32>()) as u64;
        if largest.is_some_and(|largest| bytes > largest) {
            return Self::OnHost { set: set.clone(), table: Arc::new(table), device };
        }
        let pixels: Vec<f32> = set.pixels().iter().map(|&byte| table[usize::from(byte)]).collect();
        let targets: Vec<i32> = set.labels().iter().map(|&label| i32::from(label)).collect();
        Self::OnDevice {
            images: Tensor::from_data(TensorData::new(pixels, [count, height * width]), &device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), &device),
        }
    }

    /// The images of `rows`: `[batch, height * width]` and `[batch]`.
    pub(crate) fn batch(&self, rows: &Rows<'_>) -> (Tensor<2>, Tensor<1, Int>) {
        match self {
            Self::OnHost { set, table, device } => on_host(set, table, rows, device),
            Self::OnDevice { images, targets } => {
                // Neighbours need no gather.
                if let Some(range) = rows.range() {
                    let (start, count) = (range.start, range.len());
                    return (images.clone().narrow(0, start, count), targets.clone().narrow(0, start, count));
                }
                let picked: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
                let picked = TensorData::new(picked, [rows.len()]);
                let picked = Tensor::<1, Int>::from_data(picked, &images.device());
                (select_rows(images.clone(), picked.clone()), targets.clone().select(0, picked))
            }
        }
    }
}

/// Normalises the images on the host and moves them.
fn on_host(set: &ImageSet, table: &[f32; 256], rows: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let (count, pixels) = (rows.len(), set.size()[0] * set.size()[1]);
    let bytes = rows.iter().map(|&row| &set.pixels()[row * pixels..(row + 1) * pixels]);
    let images: Vec<f32> = bytes.flatten().map(|&byte| table[usize::from(byte)]).collect();
    let targets: Vec<i32> = rows.iter().map(|&row| i32::from(set.labels()[row])).collect();
    (
        Tensor::from_data(TensorData::new(images, [count, pixels]), device),
        Tensor::from_data(TensorData::new(targets, [count]), device),
    )
}
