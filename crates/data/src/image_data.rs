use std::path::{Path, PathBuf};

use kindling_config::Fit;
use sha2::{Digest, Sha256};

use crate::{
    DataError, ImageSet, LoadEvent,
    digest::{fingerprint, hexadecimal},
    error::shown,
    image_set::described,
    pack::{Packed, Request},
    split::stratified,
};

/// A data set: what to train on, what to test on, and what the labels mean. [`ImageData::new`] makes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageData {
    /// Name of the set, such as `fashion-mnist`.
    pub name: String,
    /// The directory or file it was read from; none for drawn images.
    pub source: Option<PathBuf>,
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// Labels that no image is meant to have, such as 0 where they count from 1; their names are their numbers.
    pub unused: Vec<usize>,
    /// Images to train on, in the order of the files.
    pub train: ImageSet,
    /// The set's own validation split; none where it is taken from the training images.
    pub valid: Option<ImageSet>,
    /// Images to test on, in the order of the files.
    pub test: ImageSet,
    /// SHA-256 over the unpacked content, hexadecimal.
    pub sha256: String,
    /// How pictures were brought to one size; none where the set has pixels of its own.
    pub fit: Option<Fit>,
    /// Unreadable pictures that are left out, with their reasons.
    pub skipped: Vec<String>,
}

impl ImageData {
    /// Makes a data set of images in memory, with the digest of its pixels and labels; the labels count through `classes`.
    ///
    /// # Errors
    /// When the images for training and for testing differ in shape, or a label names no class.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        train: ImageSet,
        test: ImageSet,
    ) -> Result<Self, DataError> {
        let name = name.into();
        check(&name, &classes, &train, &train, "train")?;
        check(&name, &classes, &train, &test, "test")?;
        let sha256 = content_sha256(&[&train, &test]);
        Ok(Self::whole(name, None, classes, [train, test], sha256))
    }

    /// Makes a data set of files, whose content has the digest `sha256`; labels name classes, and shapes agree: that is the
    /// caller's promise.
    pub(crate) fn of_files(
        name: &str,
        source: &Path,
        classes: Vec<String>,
        sets: [ImageSet; 2],
        sha256: String,
    ) -> Self {
        let source = std::path::absolute(source).unwrap_or_else(|_| source.to_path_buf());
        Self::whole(name.to_owned(), Some(source), classes, sets, sha256)
    }

    fn whole(
        name: String,
        source: Option<PathBuf>,
        classes: Vec<String>,
        [train, test]: [ImageSet; 2],
        sha256: String,
    ) -> Self {
        Self {
            name,
            source,
            classes: classes.into_iter().map(|class| shown(&class)).collect(),
            unused: Vec::new(),
            train,
            valid: None,
            test,
            sha256,
            fit: None,
            skipped: Vec::new(),
        }
    }

    /// Makes a data set of a packed one. A set in one piece is split by the shares and the seed of `split`; where only test
    /// images are missing, those of the validation split are for testing, which a notice says.
    ///
    /// # Errors
    /// When there are no training images, or they cannot be split.
    pub(crate) fn from_packed(
        request: &Request<'_>,
        mut packed: Packed,
        on_event: &mut dyn FnMut(LoadEvent),
        split: (&[f64], u64),
    ) -> Result<Self, DataError> {
        if let [Some(all), None, None] = &packed.splits {
            let [train, valid, test] = stratified(all, split.0, split.1, packed.classes.len())?;
            // Another split has other images to test on.
            packed.sha256 = fingerprint([packed.sha256.as_bytes(), format!("{split:?}").as_bytes()]);
            packed.splits = [Some(train), (valid.count() > 0).then_some(valid), Some(test)];
        }
        let [train, valid, test] = packed.splits;
        let none = |split: &str| DataError::malformed(request.source, format!("expected {split} images, found none"));
        let (valid, test) = if let Some(test) = test {
            (valid, test)
        } else {
            let valid = valid.ok_or_else(|| none("test"))?;
            let source = request.source.display();
            on_event(LoadEvent::Notice(format!("{source}: no test images; the validation split is the test split")));
            (None, valid)
        };
        let sets = [train.ok_or_else(|| none("training"))?, test];
        let data = Self::of_files(request.name, request.source, packed.classes, sets, packed.sha256);
        Ok(Self { valid, fit: request.fit, skipped: packed.skipped, ..data })
    }

    /// Gives the set a validation split of its own, which takes part in the digest.
    ///
    /// # Errors
    /// When its images differ in shape from those for training, or a label names no class.
    pub fn with_valid(self, valid: ImageSet) -> Result<Self, DataError> {
        check(&self.name, &self.classes, &self.train, &valid, "validation")?;
        let sha256 = fingerprint([self.sha256.as_bytes(), valid.digest().as_bytes()]);
        Ok(Self { valid: Some(valid), sha256, ..self })
    }
}

/// Checks that `set` has the shape of the training images and labels that name classes.
fn check(name: &str, classes: &[String], train: &ImageSet, set: &ImageSet, split: &str) -> Result<(), DataError> {
    if train.shape() != set.shape() {
        let [train, other] = [train.shape(), set.shape()].map(described);
        return Err(DataError::Unusable(format!(
            "{name}: training images are {train}, {split} images are {other}; they must agree"
        )));
    }
    match set.labels().iter().find(|&&label| usize::from(label) >= classes.len()) {
        Some(label) => {
            Err(DataError::Unusable(format!("{name}: expected labels below {}, found {label}", classes.len())))
        }
        None => Ok(()),
    }
}

/// SHA-256 over the pixels and then the labels of each set, hexadecimal. A label is a byte where all images are grey and
/// all labels below 256, and otherwise two, after the shape.
fn content_sha256(sets: &[&ImageSet]) -> String {
    let is_narrow = |set: &&ImageSet| set.channels() == 1 && set.labels().iter().all(|&label| label < 256);
    let is_narrow = sets.iter().all(is_narrow);
    let mut hash = Sha256::new();
    for set in sets {
        if !is_narrow {
            set.shape().iter().for_each(|&side| hash.update((side as u64).to_le_bytes()));
        }
        (0..set.count()).for_each(|index| hash.update(set.image(index)));
        if is_narrow {
            hash.update(set.labels().iter().map(|&label| label as u8).collect::<Vec<_>>());
        } else {
            set.labels().iter().for_each(|label| hash.update(label.to_le_bytes()));
        }
    }
    hexadecimal(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn set(shape: [usize; 3], labels: &[u16]) -> ImageSet {
        let pixels = (0..labels.len() * shape.iter().product::<usize>()).map(|index| index as u8).collect();
        ImageSet::new(pixels, labels.to_vec(), shape).unwrap()
    }

    fn data(classes: usize, test: ImageSet) -> Result<ImageData, DataError> {
        let classes = (0..classes).map(|class| class.to_string()).collect();
        ImageData::new("mine", classes, set([1, 2, 3], &[0, 1, 2]), test)
    }

    #[test]
    fn a_set_whose_shapes_or_labels_do_not_fit_is_refused() {
        let message = |classes, test| data(classes, test).unwrap_err().to_string();
        assert_eq!(message(2, set([1, 2, 3], &[0])), "mine: expected labels below 2, found 2");
        assert_eq!(message(3, set([1, 2, 3], &[3])), "mine: expected labels below 3, found 3");
        let expected = "mine: training images are 2x3, test images are 3x2; they must agree";
        assert_eq!(message(3, set([1, 3, 2], &[0])), expected);
        let expected = "mine: training images are 2x3, test images are 2x3 with 3 channels; they must agree";
        assert_eq!(message(3, set([3, 2, 3], &[0])), expected);
        let other = data(3, set([1, 2, 3], &[0])).unwrap().with_valid(set([1, 1, 1], &[0]));
        assert!(other.unwrap_err().to_string().contains("validation images are 1x1"));
    }

    #[test]
    fn control_characters_in_names_of_classes_are_escaped() {
        let set = || set([1, 2, 3], &[0]);
        let data = ImageData::new("mine", vec!["a\n\u{1b}]0;b\u{7}".to_owned()], set(), set()).unwrap();
        assert_eq!(data.classes, ["a\\n\\u{1b}]0;b\\u{7}"]);
    }

    #[test]
    fn the_digest_is_that_of_the_content() {
        let test = || set([1, 2, 3], &[0, 1, 2]);
        let plain = data(3, test()).unwrap();
        let pixels: Vec<u8> = (0..18).collect();
        assert_eq!(plain.sha256, fingerprint([&pixels[..], &[0, 1, 2], &pixels, &[0, 1, 2]]));
        assert_eq!(data(3, test().select(&[0, 1, 2])).unwrap().sha256, plain.sha256);
        assert_ne!(data(3, test().select(&[0, 1])).unwrap().sha256, plain.sha256);
        let valid = |labels: &[u16]| data(3, test()).unwrap().with_valid(set([1, 2, 3], labels)).unwrap().sha256;
        assert_ne!(valid(&[0]), plain.sha256);
        assert_ne!(valid(&[0]), valid(&[1]));
        assert_eq!(synthetic::draw().sha256, synthetic::draw().sha256);
    }
}
