use burn::{
    data::dataloader::batcher::Batcher,
    tensor::{Device, Int, Tensor, TensorData},
};
use kindling_kernels::normalize_bytes;
use kindling_training::FixedBatch;

use crate::{ImageItem, ImageSet};

/// A batch on a device.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// Normalised pixels, `[batch, channels, height, width]`.
    pub images: Tensor<4>,
    /// Class indices, `[batch]`.
    pub targets: Tensor<1, Int>,
    /// What was mixed into the images; none where nothing is.
    pub mixed: Option<Mixed>,
}

/// The other image that MixUp or CutMix put into each image of a batch.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// Class indices of the other images, `[batch]`.
    pub targets: Tensor<1, Int>,
    /// Share of the other image in the target, from 0 to 1, `[batch]`; 0 where nothing was mixed in.
    pub share: Tensor<1>,
}

impl FixedBatch for ImageBatch {
    fn in_own_memory(&self) -> Self {
        let Self { images, targets, mixed } = self;
        Self { images: images.in_own_memory(), targets: targets.in_own_memory(), mixed: mixed.in_own_memory() }
    }

    fn overwrite(&mut self, other: &Self) -> bool {
        self.images.overwrite(&other.images)
            && self.targets.overwrite(&other.targets)
            && self.mixed.overwrite(&other.mixed)
    }
}

impl FixedBatch for Mixed {
    fn in_own_memory(&self) -> Self {
        Self { targets: self.targets.in_own_memory(), share: self.share.in_own_memory() }
    }

    fn overwrite(&mut self, other: &Self) -> bool {
        self.targets.overwrite(&other.targets) && self.share.overwrite(&other.share)
    }
}

/// How bytes become the numbers a network sees: `(byte / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Subtracted after scaling to [0, 1]: one number for all channels, or one for each.
    pub mean: Vec<f64>,
    /// Standard deviation that the difference is divided by: one number for all channels, or one for each.
    pub std: Vec<f64>,
}

impl Default for Normalization {
    /// Pixels in [0, 1], as the reference has them.
    fn default() -> Self {
        Self { mean: vec![0.0], std: vec![1.0] }
    }
}

impl Normalization {
    /// Normalises by these numbers: one for all channels, or one for each.
    #[must_use]
    pub fn new(mean: &[f64], std: &[f64]) -> Self {
        Self { mean: mean.to_vec(), std: std.to_vec() }
    }

    /// Normalises by mean and standard deviation of each channel of `set`, of pixels in [0, 1], from exact sums.
    ///
    /// A channel that is the same everywhere has a standard deviation of 1, by which it can be divided.
    #[must_use]
    pub fn of(set: &ImageSet) -> Self {
        let [height, width] = set.size();
        let count = (set.count() * height * width) as u128;
        let of_channel = |[sum, squares]: [u64; 2]| {
            let (sum, squares) = (u128::from(sum), u128::from(squares));
            let spread = count * squares - sum * sum; // count² times the variance
            let std = (spread as f64).sqrt() / count as f64 / 255.0;
            (sum as f64 / count as f64 / 255.0, if spread == 0 { 1.0 } else { std })
        };
        let (mean, std) = set.moments().into_iter().map(of_channel).unzip();
        Self { mean, std }
    }

    /// Mean and standard deviation of a channel, as pixels are normalised by.
    fn channel(&self, channel: usize) -> (f32, f32) {
        let of = |numbers: &[f64], none| numbers.get(channel).or(numbers.first()).copied().unwrap_or(none) as f32;
        (of(&self.mean, 0.0), of(&self.std, 1.0))
    }

    /// The value for each of the 256 bytes in a channel.
    pub(crate) fn table(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = self.channel(channel);
        std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
    }

    /// Normalises an image of so many channels.
    pub(crate) fn write(&self, image: &[u8], channels: usize, out: &mut [f32]) {
        if self.mean.len() <= 1 && self.std.len() <= 1 {
            let (mean, std) = self.channel(0);
            return normalize_bytes(image, mean, std, out);
        }
        let plane = out.len() / channels;
        for (index, (bytes, out)) in image.chunks_exact(plane).zip(out.chunks_exact_mut(plane)).enumerate() {
            let (mean, std) = self.channel(index);
            normalize_bytes(bytes, mean, std, out);
        }
    }

    /// Normalises the pixels of an image of so many channels, which are in [0, 1].
    #[allow(clippy::float_cmp)] // Exactly these numbers change nothing.
    pub(crate) fn apply(&self, channels: usize, pixels: &mut [f32]) {
        if self.mean.iter().all(|&mean| mean == 0.0) && self.std.iter().all(|&std| std == 1.0) {
            return;
        }
        let plane = pixels.len() / channels;
        for (index, pixels) in pixels.chunks_exact_mut(plane).enumerate() {
            let (mean, std) = self.channel(index);
            for pixel in pixels {
                *pixel = (*pixel - mean) / std;
            }
        }
    }
}

/// Makes batches from single images, for Burn's own data loaders; Kindling's training uses
/// [`ImageSource`](crate::ImageSource).
#[derive(Clone, Debug)]
pub struct ImageBatcher {
    normalization: Normalization,
}

impl ImageBatcher {
    /// A batcher that normalises as given.
    #[must_use]
    pub fn new(normalization: Normalization) -> Self {
        Self { normalization }
    }
}

impl Batcher<ImageItem, ImageBatch> for ImageBatcher {
    /// # Panics
    /// When the images differ in shape.
    fn batch(&self, items: Vec<ImageItem>, device: &Device) -> ImageBatch {
        let count = items.len();
        let shape = items.first().map_or([0; 3], |item| item.shape);
        let size = shape.iter().product::<usize>();
        let targets: Vec<i32> = items.iter().map(|item| i32::from(item.label)).collect();
        let mut pixels = vec![0.0; count * size];
        for (item, out) in items.iter().zip(pixels.chunks_exact_mut(size.max(1))) {
            assert_eq!(item.shape, shape, "all images of a batch have one shape");
            self.normalization.write(&item.pixels, shape[0], out);
        }
        let [channels, height, width] = shape;
        ImageBatch {
            images: Tensor::from_data(TensorData::new(pixels, [count, channels, height, width]), device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
            mixed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    #[test]
    fn each_channel_has_its_own_numbers_or_all_have_one_with_the_bits_of_the_table() {
        let image: Vec<u8> = (0..=255).chain(0..=255).chain(0..=255).collect();
        for normalization in [
            Normalization::new(&[0.49, 0.48, 0.45], &[0.25, 0.24, 0.26]),
            Normalization::new(&[0.1307], &[0.3081]),
            Normalization::new(&[0.5], &[0.1, 0.2, 0.3]),
            Normalization::default(),
        ] {
            let expected: Vec<f32> = (0..3).flat_map(|channel| normalization.table(channel)).collect();
            let mut written = vec![f32::NAN; 768];
            normalization.write(&image, 3, &mut written);
            assert_eq!(bits(&written), bits(&expected), "{normalization:?}");

            let mut applied = vec![f32::NAN; 768];
            Normalization::default().write(&image, 3, &mut applied);
            normalization.apply(3, &mut applied);
            assert_eq!(bits(&applied), bits(&expected), "{normalization:?}");
        }
        let imagenet = Normalization::new(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]);
        let byte = imagenet.table(2)[51];
        assert!((byte - (0.2 - 0.406) / 0.225).abs() < 1e-6, "{byte}");
    }

    #[test]
    fn the_numbers_of_a_set_make_it_have_mean_0_and_standard_deviation_1() {
        let set = ImageSet::new(vec![0, 255, 10, 10, 255, 0, 10, 10], vec![0, 1], [2, 1, 2]).unwrap();
        let normalization = Normalization::of(&set);
        let Normalization { mean, std } = &normalization;
        assert_eq!((mean[0], std[0]), (0.5, 0.5));
        // The second channel is the same everywhere.
        assert_eq!((mean[1], std[1]), (10.0 / 255.0, 1.0));
        let mut image = [0.0; 4];
        normalization.write(set.image(0), 2, &mut image);
        assert_eq!(image.map(f32::to_bits), [-1.0_f32, 1.0, 0.0, 0.0].map(f32::to_bits));
    }
}
