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

impl Splits {
    /// The images of `data` for training that are not at `is_valid`, and those that are.
    fn parted(images: &ImageSet, is_valid: &[bool], test: &ImageSet) -> Self {
        let (valid, train): (Vec<usize>, Vec<usize>) = (0..is_valid.len()).partition(|&index| is_valid[index]);
        Self { train: images.select(&train), valid: Some(images.select(&valid)), test: test.clone() }
    }
}

/// Takes the set's own validation split, or else one twelfth of the training images of each class, chosen by `seed`.
///
/// Both parts keep the order of the files.
///
/// # Errors
/// When no class has an image to spare.
pub fn validated_splits(data: &ImageData, seed: u64) -> Result<Splits, DataError> {
    if data.valid.is_some() {
        return Ok(Splits { train: data.train.clone(), valid: data.valid.clone(), test: data.test.clone() });
    }
    let mut is_valid = vec![false; data.train.count()];
    for (class, mut members) in members(data.train.labels(), data.classes.len()).into_iter().enumerate() {
        members.shuffle(&mut stream(seed, "split", class as u64));
        // A class too small for a twelfth still gives one image, if that leaves one to train on.
        let taken = (members.len() / VALID_SHARE).max(usize::from(members.len() > 1));
        members[..taken].iter().for_each(|&index| is_valid[index] = true);
    }
    if !is_valid.contains(&true) {
        return Err(DataError::Unusable(format!(
            "expected two training images of some class, one of them for the validation split, found {} images of \
             {} classes; use --protocol assignment",
            data.train.count(),
            data.classes.len()
        )));
    }
    Ok(Splits::parted(&data.train, &is_valid, &data.test))
}

/// Takes fold `fold`, from 1, of `folds` for the validation split, and all others to train on.
///
/// The folds part the images of each class evenly, by `seed`: every training image is in exactly one. Images for
/// validation that the set itself has take part.
///
/// # Errors
/// When there is no such fold, or too few images.
pub fn fold_splits(data: &ImageData, seed: u64, folds: usize, fold: usize) -> Result<Splits, DataError> {
    let all = data.valid.as_ref().map_or_else(|| data.train.clone(), |valid| data.train.joined(valid));
    let count = all.count();
    if folds < 2 || !(1..=folds).contains(&fold) {
        return Err(DataError::Unusable(format!(
            "expected a fold from 1 to {folds} and at least 2 folds, found fold {fold} of {folds}"
        )));
    }
    if count < folds {
        return Err(DataError::Unusable(format!("expected a training image for each of {folds} folds, found {count}")));
    }
    let mut is_valid = vec![false; count];
    // Counted on from class to class, so that small classes do not all fill the first folds.
    let mut place = 0;
    for (class, mut members) in members(all.labels(), data.classes.len()).into_iter().enumerate() {
        members.shuffle(&mut stream(seed, "folds", class as u64));
        for index in members {
            is_valid[index] = place % folds == fold - 1;
            place += 1;
        }
    }
    Ok(Splits::parted(&all, &is_valid, &data.test))
}

/// Trains on all training images and evaluates on the test images, as the reference did.
#[must_use]
pub fn assignment_splits(data: &ImageData) -> Splits {
    Splits { train: data.train.clone(), valid: None, test: data.test.clone() }
}

/// Parts a set that comes in one piece into train, validation and test images: these shares of each class, chosen by
/// `seed`. A part with the share 0 is empty.
///
/// # Errors
/// When `shares` are no three shares of a whole, or the set is too small.
pub fn stratified(set: &ImageSet, shares: &[f64], seed: u64, classes: usize) -> Result<[ImageSet; 3], DataError> {
    Ok(stratified_rows(set.labels(), shares, seed, classes)?.map(|rows| set.select(&rows)))
}

/// Returns which images are for training, validation and testing: these shares of each of `classes` classes, chosen by
/// `seed`, each part in the order of `labels`.
///
/// A class too small for its shares still gives one image for testing and one for validation, if that leaves one to
/// train on.
///
/// # Errors
/// When `shares` are not three that sum to 1, with some for training and testing, or no class has two images.
fn stratified_rows(labels: &[u16], shares: &[f64], seed: u64, classes: usize) -> Result<[Vec<usize>; 3], DataError> {
    let [_, valid, test] = check_shares(shares)?;
    let mut parts = vec![0; labels.len()];
    for (class, mut members) in members(labels, classes).into_iter().enumerate() {
        members.shuffle(&mut stream(seed, "stratified", class as u64));
        let count = members.len();
        let taken = |share: f64, least: usize| {
            let least = usize::from(share > 0.0 && count >= least);
            ((share * count as f64).round() as usize).max(least)
        };
        let for_test = taken(test, 2).min(count.saturating_sub(1));
        let for_valid = taken(valid, 3).min(count.saturating_sub(1 + for_test));
        members[..for_test].iter().for_each(|&index| parts[index] = 2);
        members[for_test..for_test + for_valid].iter().for_each(|&index| parts[index] = 1);
    }
    let rows = [0, 1, 2].map(|part| (0..labels.len()).filter(|&index| parts[index] == part).collect::<Vec<_>>());
    if rows[2].is_empty() {
        return Err(DataError::Unusable(format!(
            "expected two images of some class, one of them to test on, found {} images of {classes} classes",
            labels.len()
        )));
    }
    Ok(rows)
}

/// Returns the shares of train, validation and test.
///
/// # Errors
/// When `shares` are not three that sum to 1, with some for training and testing.
pub(crate) fn check_shares(shares: &[f64]) -> Result<[f64; 3], DataError> {
    let is_whole = (shares.iter().sum::<f64>() - 1.0).abs() <= 1e-6;
    match *shares {
        [train, valid, test] if is_whole && train > 0.0 && valid >= 0.0 && test > 0.0 => Ok([train, valid, test]),
        _ => {
            let shares = shares.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            Err(DataError::Unusable(format!(
                "`split` wants the shares of train, validation and test, which sum to 1 and of which only validation \
                 may be 0, such as 0.8,0.1,0.1 (got {shares})"
            )))
        }
    }
}

/// The images of each class.
fn members(labels: &[u16], classes: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        if let Some(members) = members.get_mut(usize::from(label)) {
            members.push(index);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::synthetic;

    /// Images of one pixel; image `i` has the pixel `i`, and the label given.
    fn data(labels: Vec<u16>) -> ImageData {
        let classes = (0..=labels.iter().max().copied().unwrap_or_default()).map(|class| class.to_string()).collect();
        let set = ImageSet::new((0..labels.len()).map(|index| index as u8).collect(), labels, [1, 1, 1]).unwrap();
        ImageData::new("mine", classes, set.clone(), set).unwrap()
    }

    fn pixels(set: &ImageSet) -> Vec<u8> {
        (0..set.count()).map(|index| set.image(index)[0]).collect()
    }

    #[test]
    fn every_class_gives_a_twelfth_to_validation_and_no_image_is_lost_or_doubled() {
        let data = synthetic::draw();
        let splits = validated_splits(&data, 42).unwrap();
        let valid = splits.valid.unwrap();
        let twelfths: Vec<usize> = data.train.class_counts(10).iter().map(|n| n / 12).collect();
        assert_eq!(valid.class_counts(10), twelfths);
        assert_eq!(splits.train.count() + valid.count(), data.train.count());
        let images = |set: &ImageSet| (0..set.count()).map(|index| set.image(index).to_vec()).collect::<Vec<_>>();
        let mut all = [images(&splits.train), images(&valid)].concat();
        let mut original = images(&data.train);
        all.sort_unstable();
        original.sort_unstable();
        assert!(all == original);
    }

    #[test]
    fn too_few_images_for_a_validation_split_are_an_error_with_the_way_on() {
        let message = validated_splits(&data(vec![0, 1]), 1).unwrap_err().to_string();
        assert!(message.contains("found 2 images") && message.contains("--protocol assignment"), "{message}");
    }

    #[test]
    fn the_seed_decides_which_images_are_for_validation() {
        let data = synthetic::draw();
        let valid = |seed| validated_splits(&data, seed).unwrap().valid.unwrap();
        assert_eq!(valid(1), valid(1));
        assert_ne!(valid(1), valid(2));
    }

    #[test]
    fn a_validation_split_of_the_set_itself_is_taken_and_takes_part_in_folds() {
        let valid = ImageSet::new(vec![77], vec![1], [1, 1, 1]).unwrap();
        let data = data(vec![0, 1, 0, 1]).with_valid(valid.clone()).unwrap();
        let splits = validated_splits(&data, 1).unwrap();
        assert_eq!((splits.train, splits.valid), (data.train.clone(), Some(valid)));
        let folds = (1..=5).map(|fold| fold_splits(&data, 1, 5, fold).unwrap().valid.unwrap().image(0)[0]);
        assert_eq!(folds.collect::<std::collections::BTreeSet<u8>>(), [0, 1, 2, 3, 77].into());
    }

    #[test]
    fn folds_that_are_none_are_refused() {
        let message = |folds, fold| fold_splits(&data(vec![0, 1, 0]), 1, folds, fold).unwrap_err().to_string();
        for (folds, fold) in [(1, 1), (0, 1), (3, 0), (3, 4)] {
            assert!(message(folds, fold).contains(&format!("1 to {folds}")), "{folds}, {fold}");
        }
        assert_eq!(message(4, 1), "expected a training image for each of 4 folds, found 3");
    }

    #[test]
    fn shares_that_are_none_are_refused() {
        let refused: [&[f64]; 8] = [
            &[],
            &[0.5, 0.5],
            &[0.5, 0.3, 0.1],
            &[0.0, 0.5, 0.5],
            &[0.9, 0.1, 0.0],
            &[1.2, -0.3, 0.1],
            &[f64::NAN, 0.5, 0.5],
            &[0.25, 0.25, 0.25, 0.25],
        ];
        for shares in refused {
            let message = stratified_rows(&[0, 0, 0], shares, 1, 1).unwrap_err().to_string();
            assert!(message.contains("such as 0.8,0.1,0.1 (got "), "{message}");
        }
        let third = 1.0 / 3.0;
        assert!(stratified_rows(&[0, 0, 0], &[third, third, third], 1, 1).is_ok());
        let message = stratified_rows(&[0, 1], &[0.8, 0.1, 0.1], 1, 2).unwrap_err().to_string();
        assert_eq!(message, "expected two images of some class, one of them to test on, found 2 images of 2 classes");
    }

    #[test]
    fn small_classes_give_what_leaves_one_image_to_train_on() {
        let labels: Vec<u16> =
            [1, 2, 3, 10, 100].iter().zip(0..).flat_map(|(&count, class)| vec![class; count]).collect();
        let data = data(labels);
        let parts = stratified(&data.train, &[0.8, 0.1, 0.1], 7, 5).unwrap();
        let counts = parts.each_ref().map(|part| part.class_counts(5));
        assert_eq!(counts, [vec![1, 1, 1, 8, 80], vec![0, 0, 1, 1, 10], vec![0, 1, 1, 1, 10]]);
        let parts = stratified(&data.train, &[0.5, 0.0, 0.5], 7, 5).unwrap();
        assert_eq!(parts[1].count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_image_is_in_exactly_one_fold_and_the_folds_are_even(
            labels in prop::collection::vec(0_u16..4, 12..120), folds in 2_usize..12, seed: u64,
        ) {
            let data = data(labels);
            let classes = data.classes.len();
            let mut seen = Vec::new();
            let mut counts = Vec::new();
            for fold in 1..=folds {
                let splits = fold_splits(&data, seed, folds, fold).unwrap();
                let valid = splits.valid.unwrap();
                prop_assert!(pixels(&valid).is_sorted() && pixels(&splits.train).is_sorted());
                prop_assert_eq!(valid.count() + splits.train.count(), data.train.count());
                seen.extend(pixels(&valid));
                counts.push([vec![valid.count()], valid.class_counts(classes)].concat());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, pixels(&data.train));
            for column in 0..=classes {
                let of_class = || counts.iter().map(|counts| counts[column]);
                prop_assert!(of_class().max().unwrap() - of_class().min().unwrap() <= 1);
            }
        }

        #[test]
        fn a_stratified_split_has_every_image_once_and_its_shares(
            labels in prop::collection::vec(0_u16..4, 12..200), seed: u64, valid in 0_u8..5,
        ) {
            let shares = [0.7 - f64::from(valid) / 10.0, f64::from(valid) / 10.0, 0.3];
            let rows = stratified_rows(&labels, &shares, seed, 4).unwrap();
            let mut all = rows.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..4 {
                let count = labels.iter().filter(|&&label| label == class).count();
                for (rows, share) in rows.iter().zip(shares) {
                    let found = rows.iter().filter(|&&row| labels[row] == class).count();
                    prop_assert!((found as f64 - share * count as f64).abs() <= 2.0, "{} of {}", found, count);
                }
            }
            prop_assert_eq!(rows, stratified_rows(&labels, &shares, seed, 4).unwrap());
        }
    }
}
