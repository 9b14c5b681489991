use std::path::PathBuf;

use burn::data::dataset::{Dataset, DatasetError};
use sha2::{Digest, Sha256};

use crate::DataError;

/// Greyscale images of one size with their labels, as bytes in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    pixels: Vec<u8>,
    labels: Vec<u8>,
    height: usize,
    width: usize,
}

/// One image with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageItem {
    /// `height * width` bytes, row by row.
    pub pixels: Vec<u8>,
    /// The class, from 0.
    pub label: u8,
    /// Pixels in a column.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
}

/// A data set: what to train on, what to test on, and what the labels mean.
#[derive(Clone, Debug)]
pub struct ImageData {
    /// Name of the set, such as `fashion-mnist`.
    pub name: String,
    /// The directory it was read from; none for drawn images.
    pub source: Option<PathBuf>,
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// Labels that no image is meant to have, such as 0 where they count from 1; their names are their numbers.
    pub unused: Vec<usize>,
    /// Images to train on, in the order of the file.
    pub train: ImageSet,
    /// Images to test on, in the order of the file.
    pub test: ImageSet,
    /// SHA-256 over the unpacked content, hexadecimal.
    pub sha256: String,
}

impl ImageData {
    /// Makes a data set of images in memory, with the digest of its pixels and labels; the labels count through `classes`.
    ///
    /// # Errors
    /// When the images for training and for testing differ in size, or a label names no class.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        train: ImageSet,
        test: ImageSet,
    ) -> Result<Self, DataError> {
        let name = name.into();
        if train.size() != test.size() {
            let [[train_height, train_width], [height, width]] = [train.size(), test.size()];
            return Err(DataError::Unusable(format!(
                "{name}: training images are {train_height}x{train_width}, test images are {height}x{width}; they must \
                 agree"
            )));
        }
        let labels = train.labels().iter().chain(test.labels());
        if let Some(label) = labels.copied().find(|&label| usize::from(label) >= classes.len()) {
            return Err(DataError::Unusable(format!("{name}: expected labels below {}, found {label}", classes.len())));
        }
        let sha256 = fingerprint([train.pixels(), train.labels(), test.pixels(), test.labels()]);
        Ok(Self { name, source: None, classes, unused: Vec::new(), train, test, sha256 })
    }
}

impl ImageSet {
    /// Puts images and labels together.
    ///
    /// `pixels` holds one image of `height * width` bytes after the other.
    ///
    /// # Errors
    /// When there is not one label for each image, or no image at all.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>, height: usize, width: usize) -> Result<Self, DataError> {
        if labels.is_empty() || height * width == 0 {
            return Err(DataError::Unusable("expected at least one image, found none".to_owned()));
        }
        if pixels.len() != labels.len() * height * width {
            let images = pixels.len() / (height * width);
            return Err(DataError::Unusable(format!("expected {images} labels, found {}", labels.len())));
        }
        Ok(Self { pixels, labels, height, width })
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// `[height, width]` in pixels.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// All labels, in order.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// All pixels, image after image.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Returns the median of all pixels at the edges of the images: the byte that stands for nothing drawn.
    #[must_use]
    pub fn background(&self) -> u8 {
        let mut counts = [0_usize; 256];
        for (index, row) in self.pixels.chunks_exact(self.width).enumerate() {
            let is_edge = [0, self.height - 1].contains(&(index % self.height));
            // Of the other rows the first pixel and the last, which may be one.
            let step = if is_edge { 1 } else { (self.width - 1).max(1) };
            row.iter().step_by(step).for_each(|&pixel| counts[usize::from(pixel)] += 1);
        }
        let half = counts.iter().sum::<usize>().div_ceil(2);
        let mut seen = 0;
        let median = counts.iter().position(|count| {
            seen += count;
            seen >= half
        });
        median.unwrap_or_default() as u8
    }

    /// The images at `indices`, in that order.
    ///
    /// # Panics
    /// When an index is not below [`count`](Self::count).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let size = self.height * self.width;
        let pixels = indices.iter().flat_map(|&index| &self.pixels[index * size..(index + 1) * size]).copied();
        Self {
            pixels: pixels.collect(),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            height: self.height,
            width: self.width,
        }
    }

    /// Swaps rows and columns of every image: EMNIST stores them that way.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let (height, width) = (self.height, self.width);
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for image in self.pixels.chunks_exact(height * width) {
            for column in 0..width {
                pixels.extend((0..height).map(|row| image[row * width + column]));
            }
        }
        Self { pixels, labels: self.labels.clone(), height: width, width: height }
    }
}

impl Dataset<ImageItem> for ImageSet {
    fn get(&self, index: usize) -> Result<ImageItem, DatasetError> {
        let size = self.height * self.width;
        Ok(ImageItem {
            pixels: self.pixels[index * size..(index + 1) * size].to_vec(),
            label: self.labels[index],
            height: self.height,
            width: self.width,
        })
    }

    fn len(&self) -> usize {
        self.count()
    }
}

/// SHA-256 over the given digests or bytes, hexadecimal.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    hexadecimal(&parts.into_iter().fold(Sha256::new(), Digest::chain_update).finalize())
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        ImageSet::new((0..18).collect(), vec![0, 1, 2], 2, 3).unwrap()
    }

    #[test]
    fn an_item_has_its_own_pixels_and_label() {
        let item = set().get(1).unwrap();
        assert_eq!((item.pixels, item.label), (vec![6, 7, 8, 9, 10, 11], 1));
    }

    #[test]
    fn selection_keeps_the_order_asked_for() {
        let selected = set().select(&[2, 0]);
        assert_eq!(selected.labels(), [2, 0]);
        assert_eq!(selected.pixels(), [12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let once = set().transposed();
        assert_eq!((once.size(), &once.pixels()[..6]), ([3, 2], &[0, 3, 1, 4, 2, 5][..]));
        assert_eq!(once.transposed(), set());
    }

    #[test]
    fn the_background_is_the_median_of_the_pixels_at_the_edges() {
        let background = |pixels: &[u8], height, width| {
            let images = pixels.len() / (height * width);
            ImageSet::new(pixels.to_vec(), vec![0; images], height, width).unwrap().background()
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
    }

    #[test]
    fn a_set_whose_sizes_or_labels_do_not_fit_is_refused_and_its_digest_is_that_of_its_content() {
        let data = |classes: usize, test: ImageSet| {
            ImageData::new("mine", (0..classes).map(|class| class.to_string()).collect(), set(), test)
        };
        assert_eq!(data(2, set()).unwrap_err().to_string(), "mine: expected labels below 2, found 2");
        let message = data(3, set().transposed()).unwrap_err().to_string();
        assert_eq!(message, "mine: training images are 2x3, test images are 3x2; they must agree");
        let digest = |test| data(3, test).unwrap().sha256;
        assert_eq!(digest(set()), digest(set()));
        assert_ne!(digest(set()), digest(set().select(&[0, 1])));
    }

    #[test]
    fn counts_that_differ_are_an_error_with_both_numbers() {
        let error = ImageSet::new(vec![0; 12], vec![0; 2], 2, 2).unwrap_err();
        assert_eq!(error.to_string(), "expected 3 labels, found 2");
    }
}
