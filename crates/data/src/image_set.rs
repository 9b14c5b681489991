mod statistics;

use std::{fmt, ops::Deref, sync::Arc};

use burn::data::dataset::{Dataset, DatasetError};
use memmap2::Mmap;

use crate::DataError;

/// Images of one shape with their labels, as bytes in memory or in a file that is mapped into it.
///
/// Pixels are planar: an image is `[channels, height, width]`. A clone or a selection shares the pixels.
#[derive(Clone)]
pub struct ImageSet {
    storage: Arc<Storage>,
    /// Where the pixels of the first image of the storage begin.
    start: usize,
    names: Option<NameTable>,
    /// Which images of the storage these are; none for the first ones in order.
    rows: Option<Arc<[u32]>>,
    labels: Arc<[u16]>,
    shape: [usize; 3],
}

/// What holds pixels.
pub(crate) enum Storage {
    Memory(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

/// Where a storage has the names of its images.
#[derive(Clone, Copy)]
pub(crate) struct NameTable {
    /// Where the ends of the names are: u64, little-endian, relative to `text`, after a zero.
    pub(crate) offsets: usize,
    /// Where the text of the names begins.
    pub(crate) text: usize,
    /// Number of the set's first image in the table.
    pub(crate) first: usize,
}

/// One image with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageItem {
    /// `channels * height * width` bytes, channel by channel and row by row.
    pub pixels: Vec<u8>,
    /// The class, from 0.
    pub label: u16,
    /// `[channels, height, width]`
    pub shape: [usize; 3],
}

impl ImageSet {
    /// Puts images and labels together.
    ///
    /// `pixels` holds one image of `[channels, height, width]` after the other, channel by channel.
    ///
    /// # Errors
    /// When there is not one label for each image, no image at all, or not one to four channels.
    pub fn new(pixels: Vec<u8>, labels: Vec<u16>, shape: [usize; 3]) -> Result<Self, DataError> {
        let size = image_size(shape)?;
        if labels.is_empty() {
            return Err(DataError::Unusable("expected at least one image, found none".to_owned()));
        }
        if !pixels.len().is_multiple_of(size) {
            let message = format!("expected images of {size} bytes ({}), found {}", described(shape), pixels.len());
            return Err(DataError::Unusable(message));
        }
        if pixels.len() / size != labels.len() {
            let message = format!("expected {} labels, found {}", pixels.len() / size, labels.len());
            return Err(DataError::Unusable(message));
        }
        Ok(Self::stored(Arc::new(Storage::Memory(pixels)), 0, None, labels, shape))
    }

    /// A set whose images lie one after the other in `storage`, from `start` on; that is the caller's promise.
    pub(crate) fn stored(
        storage: Arc<Storage>,
        start: usize,
        names: Option<NameTable>,
        labels: Vec<u16>,
        shape: [usize; 3],
    ) -> Self {
        Self { storage, start, names, rows: None, labels: labels.into(), shape }
    }

    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// `[channels, height, width]`
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// 1 for grey, 3 for colour.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.shape[0]
    }

    /// `[height, width]` in pixels.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        [self.shape[1], self.shape[2]]
    }

    /// All labels, in order.
    #[must_use]
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// Number of images of each of `classes` classes; labels beyond them do not count.
    #[must_use]
    pub fn class_counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for &label in &*self.labels {
            if let Some(count) = counts.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        counts
    }

    /// The pixels of one image: `[channels, height, width]`.
    ///
    /// # Panics
    /// When `index` is not below [`count`](Self::count).
    #[must_use]
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.shape.iter().product::<usize>();
        let start = self.start + self.row(index) * size;
        &self.storage[start..start + size]
    }

    /// Where an image comes from: a picture's file, relative to the set's directory, or the table and the place in it, which
    /// is `FILE:LINE` for pixels in CSV and `FILE:ROW`, from 0, for Parquet; none where the set has no names.
    #[must_use]
    pub fn name(&self, index: usize) -> Option<String> {
        let names = self.names?;
        let offset = |number: usize| {
            let start = names.offsets + size_of::<u64>() * number;
            let bytes = self.storage.get(start..start + size_of::<u64>())?;
            usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let number = names.first + self.row(index);
        let [start, end] = [names.text.checked_add(offset(number)?)?, names.text.checked_add(offset(number + 1)?)?];
        Some(String::from_utf8_lossy(self.storage.get(start..end)?).into_owned())
    }

    /// Whether the pixels lie in a mapped file, and so take memory only while they are used.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(*self.storage, Storage::Mapped(_))
    }

    fn row(&self, index: usize) -> usize {
        assert!(index < self.count(), "expected an index below {}, found {index}", self.count());
        self.rows.as_ref().map_or(index, |rows| rows[index] as usize)
    }

    /// The images at `indices`, in that order; the pixels are shared.
    ///
    /// # Panics
    /// When an index is not below [`count`](Self::count).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            rows: Some(indices.iter().map(|&index| self.row(index) as u32).collect()),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            ..self.clone()
        }
    }

    /// These images, and behind them those of `other`, which has the same shape; pixels of one storage are shared.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let size = self.shape.iter().product::<usize>();
        let labels = self.labels.iter().chain(&*other.labels).copied();
        if Arc::ptr_eq(&self.storage, &other.storage) && other.start >= self.start {
            let ahead = (other.start - self.start) / size;
            let rows = (0..self.count()).map(|index| self.row(index));
            let rows = rows.chain((0..other.count()).map(|index| ahead + other.row(index)));
            return Self { rows: Some(rows.map(|row| row as u32).collect()), labels: labels.collect(), ..self.clone() };
        }
        let mut pixels = Vec::with_capacity((self.count() + other.count()) * size);
        for set in [self, other] {
            (0..set.count()).for_each(|index| pixels.extend_from_slice(set.image(index)));
        }
        Self::stored(Arc::new(Storage::Memory(pixels)), 0, None, labels.collect(), self.shape)
    }

    /// Swaps rows and columns of every image: EMNIST stores them that way.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let [channels, height, width] = self.shape;
        let mut pixels = Vec::with_capacity(self.count() * channels * height * width);
        for plane in (0..self.count()).flat_map(|index| self.image(index).chunks_exact(height * width)) {
            for column in 0..width {
                pixels.extend((0..height).map(|row| plane[row * width + column]));
            }
        }
        let storage = Arc::new(Storage::Memory(pixels));
        Self {
            storage,
            start: 0,
            rows: None,
            names: None,
            labels: self.labels.clone(),
            shape: [channels, width, height],
        }
    }
}

impl fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageSet({} images of {})", self.count(), described(self.shape))
    }
}

impl PartialEq for ImageSet {
    /// Whether shape, labels, and pixels are the same; where they are kept does not count.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |index| self.image(index) == other.image(index);
        self.shape == other.shape && self.labels == other.labels && (0..self.count()).all(is_same)
    }
}

impl Eq for ImageSet {}

impl Dataset<ImageItem> for ImageSet {
    fn get(&self, index: usize) -> Result<ImageItem, DatasetError> {
        Ok(ImageItem { pixels: self.image(index).to_vec(), label: self.labels[index], shape: self.shape })
    }

    fn len(&self) -> usize {
        self.count()
    }
}

/// Bytes of an image of this shape.
pub(crate) fn image_size(shape: [usize; 3]) -> Result<usize, DataError> {
    if !(1..=4).contains(&shape[0]) {
        return Err(DataError::Unusable(format!("expected one to four channels, found {}", shape[0])));
    }
    let size = shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side));
    size.filter(|&size| size > 0)
        .ok_or_else(|| DataError::Unusable(format!("expected images of some pixels, found {}", described(shape))))
}

/// A shape in words, such as `28x28` and `32x32 with 3 channels`.
pub(crate) fn described([channels, height, width]: [usize; 3]) -> String {
    let channels = if channels == 1 { String::new() } else { format!(" with {channels} channels") };
    format!("{height}x{width}{channels}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        ImageSet::new((0..18).collect(), vec![0, 1, 2], [1, 2, 3]).unwrap()
    }

    fn colour() -> ImageSet {
        ImageSet::new((0..36).collect(), vec![7, 300], [3, 2, 3]).unwrap()
    }

    #[test]
    fn an_item_has_its_own_pixels_and_label() {
        let item = set().get(1).unwrap();
        assert_eq!((item.pixels, item.label, item.shape), (vec![6, 7, 8, 9, 10, 11], 1, [1, 2, 3]));
        assert_eq!(colour().get(1).unwrap().pixels, (18..36).collect::<Vec<u8>>());
    }

    #[test]
    fn selection_keeps_the_order_asked_for_and_shares_the_pixels() {
        let selected = set().select(&[2, 0]);
        assert_eq!(selected.labels(), [2, 0]);
        assert_eq!([selected.image(0), selected.image(1)].concat(), [12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5]);
        assert_eq!(selected.select(&[1, 1, 0]).labels(), [0, 0, 2]);
        assert_eq!(selected.select(&[1]).image(0), [0, 1, 2, 3, 4, 5]);
        assert!(std::ptr::eq(selected.select(&[1]).image(0), selected.image(1)));
        assert_eq!(selected.select(&[1, 0]), set().select(&[0, 2]));
        assert_ne!(selected, set());
        assert_eq!(selected.select(&[]).count(), 0);
    }

    #[test]
    fn joined_sets_have_the_images_of_one_and_then_those_of_the_other() {
        let expected = [&(6..12).collect::<Vec<u8>>()[..], &(0..18).collect::<Vec<u8>>()].concat();
        let other = ImageSet::new((0..18).collect(), vec![3, 4, 5], [1, 2, 3]).unwrap();
        let own = set();
        for other in [own.clone(), other] {
            let joined = own.select(&[1]).joined(&other);
            let pixels: Vec<u8> = (0..joined.count()).flat_map(|index| joined.image(index)).copied().collect();
            assert_eq!((pixels, joined.labels().to_vec()), (expected.clone(), [&[1][..], other.labels()].concat()));
        }
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let once = set().transposed();
        assert_eq!((once.size(), once.image(0)), ([3, 2], &[0, 3, 1, 4, 2, 5][..]));
        assert_eq!(once.transposed(), set());
        let once = colour().transposed();
        assert_eq!((once.shape(), &once.image(0)[6..12]), ([3, 3, 2], &[6, 9, 7, 10, 8, 11][..]));
        assert_eq!(once.transposed(), colour());
    }

    #[test]
    fn what_makes_no_set_is_an_error_with_the_numbers() {
        let message = |pixels: usize, labels: usize, shape| {
            ImageSet::new(vec![0; pixels], vec![0; labels], shape).unwrap_err().to_string()
        };
        assert_eq!(message(12, 2, [1, 2, 2]), "expected 3 labels, found 2");
        assert_eq!(message(13, 3, [1, 2, 2]), "expected images of 4 bytes (2x2), found 13");
        assert_eq!(message(0, 0, [1, 2, 2]), "expected at least one image, found none");
        assert_eq!(message(0, 1, [1, 0, 2]), "expected images of some pixels, found 0x2");
        assert_eq!(message(10, 1, [5, 1, 2]), "expected one to four channels, found 5");
        assert!(message(1, 1, [2, usize::MAX, 2]).contains("expected images of some pixels"));
    }

    #[test]
    fn counts_of_classes_include_those_without_images() {
        assert_eq!(set().select(&[2, 0, 2]).class_counts(4), [1, 0, 2, 0]);
        assert_eq!(set().class_counts(2), [1, 1]);
    }
}
