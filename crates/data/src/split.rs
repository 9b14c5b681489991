use kindling_training::stream;
use rand::seq::SliceRandom;

use crate::{DataError, ImageData, ImageSet};

/// The share of the training images in the validation split of `validated`: 5,000 of Fashion-MNIST's 60,000.
const VALID_SHARE: usize = 12;

/// What a protocol trains on and what it evaluates on.
#[derive(Clone, Debug)]
pub struct Splits {
    /// Images to train on.
    pub train: ImageSet,
    /// The validation split, evaluated after every epoch (`validated`); none for `assignment`.
    pub valid: Option<ImageSet>,
    /// Images for the final test.
    pub test: ImageSet,
}

/// Takes one twelfth of the training images of each class for the validation split, chosen by `seed`.
///
/// Both parts keep the order of the file.
///
/// # Errors
/// When no class has an image to spare.
pub fn validated_splits(data: &ImageData, seed: u64) -> Result<Splits, DataError> {
    let labels = data.train.labels();
    let mut is_valid = vec![false; labels.len()];
    for class in 0..data.classes.len() {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&index| usize::from(labels[index]) == class).collect();
        members.shuffle(&mut stream(seed, "split", class as u64));
        // A class too small for a twelfth still gives one image, if that leaves one to train on.
        let taken = (members.len() / VALID_SHARE).max(usize::from(members.len() > 1));
        for &index in &members[..taken] {
            is_valid[index] = true;
        }
    }
    let (valid, train): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|&index| is_valid[index]);
    if valid.is_empty() {
        return Err(DataError::Unusable(format!(
            "expected two training images of some class, one of them for the validation split, found {} images of \
             {} classes; use --protocol assignment",
            labels.len(),
            data.classes.len()
        )));
    }
    Ok(Splits { train: data.train.select(&train), valid: Some(data.train.select(&valid)), test: data.test.clone() })
}

/// Trains on all training images and evaluates on the test images, as the reference did.
#[must_use]
pub fn assignment_splits(data: &ImageData) -> Splits {
    Splits { train: data.train.clone(), valid: None, test: data.test.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn class_counts(set: &ImageSet) -> Vec<usize> {
        (0..10).map(|class| set.labels().iter().filter(|&&label| label == class).count()).collect()
    }

    #[test]
    fn every_class_gives_a_twelfth_to_validation_and_no_image_is_lost_or_doubled() {
        let data = synthetic::draw();
        let splits = validated_splits(&data, 42).unwrap();
        let valid = splits.valid.unwrap();
        assert_eq!(class_counts(&valid), class_counts(&data.train).iter().map(|n| n / 12).collect::<Vec<_>>());
        assert_eq!(splits.train.count() + valid.count(), data.train.count());
        let size = 28 * 28;
        let mut all: Vec<&[u8]> = splits.train.pixels().chunks(size).chain(valid.pixels().chunks(size)).collect();
        let mut original: Vec<&[u8]> = data.train.pixels().chunks(size).collect();
        all.sort_unstable();
        original.sort_unstable();
        assert!(all == original);
    }

    #[test]
    fn too_few_images_for_a_validation_split_are_an_error_with_the_way_on() {
        let mut data = synthetic::draw();
        let first = data.train.labels()[0];
        let other = data.train.labels().iter().position(|&label| label != first).unwrap();
        data.train = data.train.select(&[0, other]);
        let message = validated_splits(&data, 1).unwrap_err().to_string();
        assert!(message.contains("found 2 images") && message.contains("--protocol assignment"), "{message}");
    }

    #[test]
    fn the_seed_decides_which_images_are_for_validation() {
        let data = synthetic::draw();
        let valid = |seed| validated_splits(&data, seed).unwrap().valid.unwrap();
        assert_eq!(valid(1), valid(1));
        assert_ne!(valid(1), valid(2));
    }
}
