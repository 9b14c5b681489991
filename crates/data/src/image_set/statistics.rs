use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::ImageSet;
use crate::digest::hexadecimal;

/// The most pixels that [`ImageSet::background`] looks through; of larger sets it takes evenly spaced images.
const MOST_PIXELS: usize = 1 << 28;

impl ImageSet {
    /// Returns the median of all pixels at the edges of the images: the byte that stands for nothing drawn. Of sets of
    /// more than 256 MiB, evenly spaced images are taken.
    #[must_use]
    pub fn background(&self) -> u8 {
        let mut all = [0; 256];
        for counts in self.edges() {
            all.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        median(&all)
    }

    /// Returns the [`background`](Self::background) of each channel.
    #[must_use]
    pub fn backgrounds(&self) -> Vec<u8> {
        self.edges().iter().map(median).collect()
    }

    /// How often each byte is at the edges of the images, for each channel.
    fn edges(&self) -> Vec<[usize; 256]> {
        let [channels, height, width] = self.shape;
        let mut counts = vec![[0; 256]; channels];
        let step = (self.count() * channels * height * width).div_ceil(MOST_PIXELS).max(1);
        for index in (0..self.count()).step_by(step) {
            for (number, row) in self.image(index).chunks_exact(width).enumerate() {
                let counts = &mut counts[number / height];
                let is_edge = [0, height - 1].contains(&(number % height));
                // Of the other rows the first pixel and the last, which may be one.
                let step = if is_edge { 1 } else { (width - 1).max(1) };
                row.iter().step_by(step).for_each(|&pixel| counts[usize::from(pixel)] += 1);
            }
        }
        counts
    }

    /// Returns the sum of the bytes and the sum of their squares of each channel, exactly.
    #[must_use]
    pub fn moments(&self) -> Vec<[u64; 2]> {
        let [channels, height, width] = self.shape;
        let of_plane = |plane: &[u8]| {
            let sums = plane.iter().map(|&byte| [u64::from(byte), u64::from(byte) * u64::from(byte)]);
            sums.fold([0; 2], |sums, byte| [sums[0] + byte[0], sums[1] + byte[1]])
        };
        let add = |mut sums: Vec<[u64; 2]>, others: Vec<[u64; 2]>| {
            sums.iter_mut().zip(others).for_each(|(sums, other)| *sums = [sums[0] + other[0], sums[1] + other[1]]);
            sums
        };
        let images = (0..self.count()).into_par_iter();
        let of_images = images.map(|index| self.image(index).chunks_exact(height * width).map(of_plane).collect());
        of_images.reduce(|| vec![[0; 2]; channels], add)
    }

    /// SHA-256 over the shape, the labels, and the pixels, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        self.shape.iter().for_each(|&side| hash.update((side as u64).to_le_bytes()));
        self.labels.iter().for_each(|label| hash.update(label.to_le_bytes()));
        (0..self.count()).for_each(|index| hash.update(self.image(index)));
        hexadecimal(&hash.finalize())
    }
}

fn median(counts: &[usize; 256]) -> u8 {
    let half = counts.iter().sum::<usize>().div_ceil(2);
    let mut seen = 0;
    let median = counts.iter().position(|count| {
        seen += count;
        seen >= half
    });
    median.unwrap_or_default() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        ImageSet::new((0..18).collect(), vec![0, 1, 2], [1, 2, 3]).unwrap()
    }

    #[test]
    fn the_background_is_the_median_of_the_pixels_at_the_edges() {
        let background = |pixels: &[u8], height, width| {
            let images = pixels.len() / (height * width);
            ImageSet::new(pixels.to_vec(), vec![0; images], [1, height, width]).unwrap().background()
        };
        // Eight pixels around a ninth that does not count, in two images of other edges.
        let dark = [9, 9, 9, 9, 255, 9, 9, 9, 9];
        let light = [250, 250, 250, 250, 0, 250, 250, 250, 40];
        assert_eq!(background(&light, 3, 3), 250);
        assert_eq!(background(&[dark, dark, light].concat(), 3, 3), 9);
        assert_eq!(background(&[light, light, dark].concat(), 3, 3), 250);
        assert_eq!(background(&[1, 2, 3], 3, 1), 2);
        assert_eq!(background(&[1, 2, 3, 4], 1, 4), 2);
        assert_eq!(background(&[7], 1, 1), 7);
        // Every edge counts, also one that only a column has.
        assert_eq!(background(&[0, 0, 0, 5, 1, 5, 5, 1, 5, 5, 1, 5], 4, 3), 5);
        let colour = ImageSet::new([dark, light, light].concat(), vec![0], [3, 3, 3]).unwrap();
        assert_eq!((colour.backgrounds(), colour.background()), (vec![9, 250, 250], 250));
    }

    #[test]
    fn moments_are_the_sums_of_each_channel_and_of_its_squares() {
        let pixels = [255_u8, 1, 2, 3, 0, 4].repeat(100);
        let set = ImageSet::new(pixels, vec![0; 100], [3, 1, 2]).unwrap();
        assert_eq!(set.moments(), [[25_600, 6_502_600], [500, 1_300], [400, 1_600]]);
        assert_eq!(set.select(&[1]).moments(), [[256, 65_026], [5, 13], [4, 16]]);
    }

    #[test]
    fn the_digest_is_that_of_shape_labels_and_pixels() {
        assert_eq!(set().digest(), set().select(&[0, 1, 2]).digest());
        let relabelled = ImageSet::new((0..18).collect(), vec![0, 1, 1], [1, 2, 3]).unwrap();
        let reshaped = ImageSet::new((0..18).collect(), vec![0, 1, 2], [1, 3, 2]).unwrap();
        for other in [set().select(&[0, 1]), set().select(&[0, 2, 1]), relabelled, reshaped] {
            assert_ne!(set().digest(), other.digest());
        }
    }
}
