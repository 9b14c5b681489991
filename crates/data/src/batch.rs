use burn::{
    data::dataloader::batcher::Batcher,
    tensor::{Device, Int, Tensor, TensorData},
};

use crate::ImageItem;

/// A batch on a device.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// Normalised pixels, `[batch, 1, height, width]`.
    pub images: Tensor<4>,
    /// Class indices, `[batch]`.
    pub targets: Tensor<1, Int>,
}

/// How bytes become the numbers a network sees: `(byte / 255 - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Subtracted after scaling to [0, 1].
    pub mean: f32,
    /// Standard deviation that the difference is divided by.
    pub std: f32,
}

impl Default for Normalization {
    /// Pixels in [0, 1], as the reference has them.
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}

impl Normalization {
    /// The value for each of the 256 bytes.
    pub(crate) fn table(self) -> [f32; 256] {
        std::array::from_fn(|byte| (byte as f32 / 255.0 - self.mean) / self.std)
    }
}

/// Makes batches from single images, for Burn's own data loaders; Kindling's training uses
/// [`ImageSource`](crate::ImageSource).
#[derive(Clone, Debug)]
pub struct ImageBatcher {
    table: [f32; 256],
}

impl ImageBatcher {
    /// A batcher that normalises as given.
    #[must_use]
    pub fn new(normalization: Normalization) -> Self {
        Self { table: normalization.table() }
    }
}

impl Batcher<ImageItem, ImageBatch> for ImageBatcher {
    /// # Panics
    /// When the images differ in size.
    fn batch(&self, items: Vec<ImageItem>, device: &Device) -> ImageBatch {
        let count = items.len();
        let (height, width) = items.first().map_or((0, 0), |item| (item.height, item.width));
        let targets: Vec<i32> = items.iter().map(|item| i32::from(item.label)).collect();
        let pixels: Vec<f32> = items
            .iter()
            .flat_map(|item| {
                assert_eq!((item.height, item.width), (height, width), "all images of a batch have one size");
                item.pixels.iter().map(|&byte| self.table[usize::from(byte)])
            })
            .collect();
        ImageBatch {
            images: Tensor::from_data(TensorData::new(pixels, [count, 1, height, width]), device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
        }
    }
}
