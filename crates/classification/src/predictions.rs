//! What predictions say about a network: metrics of each class, calibration, mistakes. No tensors here.

use std::cmp::Reverse;

use kindling_record::{
    CalibrationBin, CalibrationRecord, ClassRecord, ConfusedPair, MisclassifiedRecord, MistakeRecord,
};

/// Bins of the calibration error: as many as Guo et al. have, <https://arxiv.org/abs/1706.04599>, table 1.
const BINS: usize = 15;
/// The most probable classes that a target is looked for among.
const TOP: usize = 5;
/// The most pairs of confused classes.
const PAIRS: usize = 10;
/// The most mistakes that are kept with their pictures.
const MISTAKES: usize = 24;
/// The most characters of a class's name in the name of a file.
const NAME_LENGTH: usize = 30;

/// What a network makes of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    pub(crate) target: usize,
    pub(crate) predicted: usize,
    /// In [0, 1], and never NaN.
    pub(crate) confidence: f64,
    /// The place of the target among the classes, the most probable first, from 1.
    pub(crate) rank: usize,
}

impl Prediction {
    /// An image of the class `target`, taken for `predicted` with the given probability.
    ///
    /// `predicted` is what the device found the largest logit to be, so that it is right exactly where the plain
    /// evaluation says so. A probability that is not a number, as an overflow leaves it, counts as 0.
    #[must_use]
    pub fn new(target: usize, predicted: usize, probability: f32) -> Self {
        let confidence = if probability.is_nan() { 0.0 } else { f64::from(probability).clamp(0.0, 1.0) };
        Self { target, predicted, confidence, rank: if target == predicted { 1 } else { usize::MAX } }
    }

    /// Adds the place of the target among the classes, the most probable first, from 1: what [`top_k`] goes by. Without
    /// it, a target that is not `predicted` comes last.
    #[must_use]
    pub fn ranked(self, rank: usize) -> Self {
        // As the device found it, whichever of equals that is.
        Self { rank: if self.is_right() { 1 } else { rank.max(2) }, ..self }
    }

    fn is_right(&self) -> bool {
        self.target == self.predicted
    }
}

/// Counts images by (target, predicted): `confusion[target][predicted]`. A pair of unknown classes is left out.
pub(crate) fn confusion(pairs: &[(usize, usize)], classes: usize) -> Vec<Vec<usize>> {
    let mut confusion = vec![vec![0; classes]; classes];
    for &(target, predicted) in pairs {
        if let Some(count) = confusion.get_mut(target).and_then(|row| row.get_mut(predicted)) {
            *count += 1;
        }
    }
    confusion
}

/// Precision, recall and F1 of each class against all others, from `confusion[target][predicted]`, for the classes
/// called `names`.
///
/// # Panics
/// When `confusion` is not square.
#[must_use]
pub fn class_records(confusion: &[Vec<usize>], names: &[String]) -> Vec<ClassRecord> {
    let metrics = |class: usize| {
        let images: usize = confusion[class].iter().sum();
        let predicted: usize = confusion.iter().map(|row| row[class]).sum();
        let right = confusion[class][class];
        let fraction = |of: usize| (of > 0).then(|| right as f64 / of as f64);
        let (precision, recall) = (fraction(predicted), fraction(images));
        let f1 = (predicted + images > 0).then(|| 2.0 * right as f64 / (predicted + images) as f64);
        ClassRecord { name: name(class, names), images, precision, recall, f1 }
    };
    (0..confusion.len()).map(metrics).collect()
}

/// Mean recall of the classes that have images, as scikit-learn's `balanced_accuracy_score`; none without images.
#[must_use]
pub fn balanced_accuracy(classes: &[ClassRecord]) -> Option<f64> {
    mean(classes.iter().filter_map(|class| Some((class.recall?, 1.0))))
}

/// Mean F1 of the classes that have images or are predicted, as scikit-learn's `f1_score(average="macro")`; none
/// without images.
#[must_use]
pub fn macro_f1(classes: &[ClassRecord]) -> Option<f64> {
    mean(classes.iter().filter_map(|class| Some((class.f1?, 1.0))))
}

/// Mean F1 of the classes, each weighted by its number of images, as scikit-learn's `f1_score(average="weighted")`;
/// none without images.
#[must_use]
pub fn weighted_f1(classes: &[ClassRecord]) -> Option<f64> {
    mean(classes.iter().filter_map(|class| Some((class.f1?, class.images as f64))))
}

/// The mean of numbers with weights; none where the weights are nothing.
fn mean(weighted: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (sum, weight) =
        weighted.fold((0.0, 0.0), |(sum, total), (value, weight)| (sum + value * weight, total + weight));
    (weight > 0.0).then(|| sum / weight)
}

/// The fraction of the images whose target is among the k most probable of `classes` classes, for k from 1 to 5 but
/// below the number of classes, where every image would count; empty without images.
#[must_use]
pub fn top_k(predictions: &[Prediction], classes: usize) -> Vec<f64> {
    let most = if predictions.is_empty() { 0 } else { TOP.min(classes.saturating_sub(1)) };
    let among = |k: usize| predictions.iter().filter(|prediction| prediction.rank <= k).count();
    (1..=most).map(|k| among(k) as f64 / predictions.len() as f64).collect()
}

/// The pairs of classes with the most mistakes, the worst first, at most ten.
#[must_use]
pub fn confused_pairs(confusion: &[Vec<usize>]) -> Vec<ConfusedPair> {
    let mut pairs: Vec<ConfusedPair> = Vec::new();
    for (target, row) in confusion.iter().enumerate() {
        let others = row.iter().enumerate().filter(|&(predicted, &images)| predicted != target && images > 0);
        pairs.extend(others.map(|(predicted, &images)| ConfusedPair { target, predicted, images }));
    }
    // Stable: equal counts stay in the order of the classes.
    pairs.sort_by_key(|pair| Reverse(pair.images));
    pairs.truncate(PAIRS);
    pairs
}

/// The expected calibration error with its fifteen bins.
///
/// A confidence of 0 is in the first bin, although a bin otherwise lacks its lower end.
#[must_use]
pub fn calibration(predictions: &[Prediction]) -> CalibrationRecord {
    let end = |bin: usize| bin as f64 / BINS as f64;
    let mut bins: [(usize, usize, f64); BINS] = [(0, 0, 0.0); BINS]; // images, right ones, sum of confidences
    for prediction in predictions {
        let bin = (0..BINS).find(|bin| prediction.confidence <= end(bin + 1)).unwrap_or(BINS - 1);
        let (images, right, confidence) = &mut bins[bin];
        *images += 1;
        *right += usize::from(prediction.is_right());
        *confidence += prediction.confidence;
    }
    // A bin's share of the images times its distance is the distance between its sums, over all images.
    let distance: f64 = bins.iter().map(|&(_, right, confidence)| (right as f64 - confidence).abs()).sum();
    let record = |(bin, &(images, right, confidence)): (usize, &(usize, usize, f64))| CalibrationBin {
        from: end(bin),
        to: end(bin + 1),
        images,
        confidence: (images > 0).then(|| confidence / images as f64),
        accuracy: (images > 0).then(|| right as f64 / images as f64),
    };
    CalibrationRecord {
        error: distance / predictions.len().max(1) as f64,
        bins: bins.iter().enumerate().map(record).collect(),
    }
}

/// The mistakes made with most confidence, the most confident first and of equals the first image; at most 24.
///
/// `predictions` are in the order of the file. A picture's name has its rank and both classes, with a hyphen for
/// whatever is neither a letter nor a digit: `01-T-shirt-top-as-Shirt.png`. The files that the images came from are the
/// caller's to add.
#[must_use]
pub fn mistakes(predictions: &[Prediction], names: &[String]) -> Vec<MistakeRecord> {
    let mut wrong: Vec<_> = predictions.iter().enumerate().filter(|(_, prediction)| !prediction.is_right()).collect();
    // Stable: equal confidences stay in the order of the file.
    wrong.sort_by(|(_, a), (_, b)| b.confidence.total_cmp(&a.confidence));
    let record = |(rank, (index, prediction)): (usize, (usize, &Prediction))| {
        let &Prediction { target, predicted, confidence, .. } = prediction;
        let [from, to] = [target, predicted].map(|class| file_name(&name(class, names)));
        let picture = format!("{rank:02}-{from}-as-{to}.png");
        MistakeRecord { index, target, predicted, confidence, picture, file: None }
    };
    (1..).zip(wrong).take(MISTAKES).map(record).collect()
}

/// All mistakes, in the order of the file, as `predictions` are.
#[must_use]
pub fn misclassified(predictions: &[Prediction]) -> Vec<MisclassifiedRecord> {
    let wrong = predictions.iter().enumerate().filter(|(_, prediction)| !prediction.is_right());
    let record = |(index, prediction): (usize, &Prediction)| {
        let &Prediction { target, predicted, confidence, .. } = prediction;
        MisclassifiedRecord { index, target, predicted, confidence }
    };
    wrong.map(record).collect()
}

/// A class's name: its label where it has none.
fn name(class: usize, names: &[String]) -> String {
    names.get(class).cloned().unwrap_or_else(|| class.to_string())
}

/// A name as part of a file's name, without blanks and slashes.
fn file_name(name: &str) -> String {
    name.chars().take(NAME_LENGTH).map(|c| if c.is_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGETS: [usize; 12] = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3];
    const PREDICTED: [usize; 12] = [0, 0, 1, 2, 1, 1, 0, 2, 2, 1, 0, 2];
    const CONFIDENCE: [f32; 12] = [0.95, 0.62, 0.41, 0.55, 0.99, 0.71, 0.83, 0.90, 0.35, 0.57, 0.66, 0.48];

    fn predictions() -> Vec<Prediction> {
        (0..12).map(|index| Prediction::new(TARGETS[index], PREDICTED[index], CONFIDENCE[index])).collect()
    }

    fn counted(predictions: &[Prediction], classes: usize) -> Vec<Vec<usize>> {
        let pairs: Vec<_> = predictions.iter().map(|prediction| (prediction.target, prediction.predicted)).collect();
        confusion(&pairs, classes)
    }

    fn names() -> Vec<String> {
        ["T-shirt/top", "Ankle boot", "Bag", "お"].map(str::to_owned).to_vec()
    }

    #[test]
    fn metrics_of_classes_are_those_of_the_definition() {
        // t = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
        // p = [0, 0, 1, 2, 1, 1, 0, 2, 2, 1, 0, 2]
        // for k in range(4):
        //     hit = sum(a == b == k for a, b in zip(t, p))
        //     print(hit / p.count(k) if k in p else None, hit / t.count(k), 2 * hit / (p.count(k) + t.count(k)))
        let expected = [
            (Some(0.5), Some(0.5), Some(0.5)),
            (Some(0.5), Some(0.666_666_666_666_666_6), Some(0.571_428_571_428_571_4)),
            (Some(0.5), Some(0.666_666_666_666_666_6), Some(0.571_428_571_428_571_4)),
            // Nothing is taken for the last, so that it has no precision.
            (None, Some(0.0), Some(0.0)),
        ];
        let records = class_records(&counted(&predictions(), 4), &names());
        for (record, (precision, recall, f1)) in records.iter().zip(expected) {
            for (found, expected) in [(record.precision, precision), (record.recall, recall), (record.f1, f1)] {
                assert_eq!(found.is_some(), expected.is_some(), "{record:?}");
                // Both are one rounding away from the quotient.
                assert!(found.zip(expected).is_none_or(|(a, b)| (a - b).abs() < 1e-15), "{record:?}");
            }
        }
        assert_eq!(records.iter().map(|record| record.images).collect::<Vec<_>>(), [4, 3, 3, 2]);
        assert_eq!(records[1].name, "Ankle boot");
        // from sklearn.metrics import balanced_accuracy_score, f1_score; scikit-learn 1.9.1
        // print(balanced_accuracy_score(t, p), f1_score(t, p, average="macro"), f1_score(t, p, average="weighted"))
        let found = [balanced_accuracy, macro_f1, weighted_f1].map(|metric| metric(&records).unwrap());
        let expected = [0.458_333_333_333_333_26, 0.410_714_285_714_285_7, 0.452_380_952_380_952_4];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?}");
    }

    #[test]
    fn a_class_that_is_predicted_without_having_images_counts_in_the_macro_f1_alone() {
        // t = [0, 0, 1, 1]; p = [0, 2, 1, 1]; as above
        let records = class_records(&[vec![1, 0, 1, 0], vec![0, 2, 0, 0], vec![0; 4], vec![0; 4]], &names());
        let found = [balanced_accuracy, macro_f1, weighted_f1].map(|metric| metric(&records).unwrap());
        let expected = [0.75, 0.555_555_555_555_555_6, 0.833_333_333_333_333_3];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{found:?}");
        assert_eq!([balanced_accuracy, macro_f1, weighted_f1].map(|metric| metric(&[])), [None; 3]);
    }

    #[test]
    fn the_most_probable_classes_are_counted_up_to_five_and_below_all() {
        let ranked = |rank| Prediction::new(0, 1, 0.5).ranked(rank);
        let predictions = [Prediction::new(3, 3, 0.5), ranked(2), ranked(3), ranked(6)];
        assert_eq!(top_k(&predictions, 10), [0.25, 0.5, 0.75, 0.75, 0.75]);
        assert_eq!(top_k(&predictions, 4), [0.25, 0.5, 0.75]);
        // Nothing but the first, and nothing at all.
        assert_eq!(top_k(&predictions, 2), [0.25]);
        assert_eq!((top_k(&predictions, 1), top_k(&[], 10)), (vec![], vec![]));
        // Of equals, the device has taken another; without a rank, the target comes last.
        assert_eq!((ranked(1).rank, Prediction::new(0, 0, 0.5).ranked(2).rank), (2, 1));
        assert_eq!(top_k(&[Prediction::new(0, 1, 0.5)], 10), [0.0; 5]);
    }

    #[test]
    fn a_class_that_is_never_right_has_an_f1_of_zero_and_one_without_images_has_none() {
        let records = class_records(&[vec![0, 2, 0], vec![1, 0, 0], vec![0, 0, 0]], &names());
        assert_eq!((records[0].precision, records[0].recall, records[0].f1), (Some(0.0), Some(0.0), Some(0.0)));
        assert_eq!((records[2].precision, records[2].recall, records[2].f1), (None, None, None));
        let records = class_records(&[vec![3, 1], vec![0, 0]], &names());
        assert_eq!((records[1].precision, records[1].recall, records[1].f1), (Some(0.0), None, Some(0.0)));
    }

    #[test]
    fn the_calibration_error_is_that_of_the_definition() {
        // c = [.95, .62, .41, .55, .99, .71, .83, .90, .35, .57, .66, .48]
        // bins = {}
        // for a, b, q in zip(t, p, c):
        //     k = next(k for k in range(15) if q <= (k + 1) / 15)
        //     bins.setdefault(k, []).append((a == b, q))
        // print(sum(abs(sum(r for r, _ in b) - sum(q for _, q in b)) for b in bins.values()) / 12)
        let record = calibration(&predictions());
        // The confidences are f32 here.
        assert!((record.error - 0.351_666_666_666_666_74).abs() < 1e-7, "{}", record.error);
        let counts: Vec<_> = record.bins.iter().map(|bin| bin.images).collect();
        assert_eq!(counts, [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 1, 0, 1, 1, 2]);
        // Of 0.55 and 0.57 both are wrong, of 0.95 and 0.99 both right.
        assert_eq!((record.bins[8].accuracy, record.bins[14].accuracy), (Some(0.0), Some(1.0)));
        assert_eq!((record.bins[0].accuracy, record.bins[0].confidence), (None, None));
    }

    #[test]
    fn being_sure_and_right_is_calibrated_and_being_sure_and_wrong_is_not() {
        assert!(calibration(&[Prediction::new(1, 1, 1.0); 5]).error.abs() < 1e-15);
        assert!((calibration(&[Prediction::new(1, 0, 1.0); 5]).error - 1.0).abs() < 1e-15);
        assert!(calibration(&[]).error.abs() < 1e-15);
    }

    #[test]
    fn a_bin_has_its_upper_end_and_the_first_has_zero_as_well() {
        let bins = |probability| calibration(&[Prediction::new(0, 0, probability)]).bins;
        let of = |probability| bins(probability).iter().position(|bin| bin.images == 1);
        assert_eq!([of(0.0), of(0.2), of(1.0), of(1.000_1)], [Some(0), Some(3), Some(14), Some(14)]);
        // 0.2 in f32 lies just above 3 / 15; the last f32 below does not.
        assert_eq!(of(0.2_f32.next_down()), Some(2));
    }

    #[test]
    fn a_probability_that_is_not_a_number_is_no_confidence() {
        let predictions =
            [Prediction::new(0, 1, f32::NAN), Prediction::new(0, 1, 0.3), Prediction::new(2, 2, f32::NAN)];
        let order: Vec<_> = mistakes(&predictions, &names()).iter().map(|mistake| mistake.index).collect();
        assert_eq!(order, [1, 0]);
        let record = calibration(&predictions);
        assert_eq!((record.bins[0].images, record.bins[0].confidence), (2, Some(0.0)));
        assert!(record.error.is_finite());
    }

    #[test]
    fn the_worst_pairs_come_first_and_those_without_mistakes_not_at_all() {
        let pairs = confused_pairs(&[vec![9, 2, 0], vec![5, 9, 0], vec![2, 0, 9]]);
        let pairs: Vec<_> = pairs.iter().map(|pair| (pair.target, pair.predicted, pair.images)).collect();
        assert_eq!(pairs, [(1, 0, 5), (0, 1, 2), (2, 0, 2)]);
        assert_eq!(confused_pairs(&std::array::from_fn::<_, 5, _>(|_| vec![1; 5])).len(), 10);
    }

    #[test]
    fn the_surest_mistakes_come_first_with_names_that_files_can_have() {
        let mistakes = mistakes(&predictions(), &names());
        let found: Vec<_> = mistakes.iter().map(|mistake| (mistake.index, mistake.picture.as_str())).collect();
        assert_eq!(
            found,
            [
                (6, "01-Ankle-boot-as-T-shirt-top.png"),
                (10, "02-お-as-T-shirt-top.png"),
                (9, "03-Bag-as-Ankle-boot.png"),
                (3, "04-T-shirt-top-as-Bag.png"),
                (11, "05-お-as-Bag.png"),
                (2, "06-T-shirt-top-as-Ankle-boot.png"),
            ]
        );
        let many = [Prediction::new(0, 1, 0.5); 30];
        let indices: Vec<_> = super::mistakes(&many, &[]).iter().map(|mistake| mistake.index).collect();
        assert_eq!(indices, (0..24).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn every_image_is_counted_once_and_the_metrics_agree_with_the_accuracy(
            drawn in prop::collection::vec((0..5_usize, 0..5_usize, 0.0..=1.0_f32), 1..200)
        ) {
            let predictions: Vec<_> = drawn.iter().map(|&(target, guess, p)| Prediction::new(target, guess, p)).collect();
            let (images, confusion) = (predictions.len(), counted(&predictions, 5));
            prop_assert_eq!(confusion.iter().flatten().sum::<usize>(), images);
            let right = predictions.iter().filter(|prediction| prediction.is_right()).count();
            let accuracy = right as f64 / images as f64;
            let records = class_records(&confusion, &names());
            // The mean recall over images, and the mean precision over predictions: both are the share of right ones.
            let recall: f64 = records.iter().filter_map(|record| Some(record.recall? * record.images as f64)).sum();
            let precision: f64 = (0..5).filter_map(|class| {
                let predicted: usize = confusion.iter().map(|row| row[class]).sum();
                Some(records[class].precision? * predicted as f64)
            }).sum();
            // Sums of five rounded products of at most 200.
            prop_assert!((recall / images as f64 - accuracy).abs() < 1e-12);
            prop_assert!((precision / images as f64 - accuracy).abs() < 1e-12);
            let calibration = calibration(&predictions);
            prop_assert!((0.0..=1.0).contains(&calibration.error));
            prop_assert_eq!(calibration.bins.iter().map(|bin| bin.images).sum::<usize>(), images);
            prop_assert_eq!(mistakes(&predictions, &names()).len(), (images - right).min(24));
            prop_assert_eq!(misclassified(&predictions).len(), images - right);
            let confused: usize = confused_pairs(&confusion).iter().map(|pair| pair.images).sum();
            prop_assert!(confused <= images - right);
        }
    }
}
