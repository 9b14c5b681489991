//! Which mistakes several networks make together.

use std::collections::BTreeMap;

use kindling_record::{EvaluationRecord, MisclassifiedRecord};

/// What several networks, tested on the same images, get wrong together.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMistakes {
    /// How many networks.
    pub networks: usize,
    /// How many images each was tested on.
    pub images: usize,
    /// `wrong_by[k]` counts the images that k of the networks get wrong, k from 0 to `networks`.
    pub wrong_by: Vec<usize>,
    /// How many images all of them would get wrong if the mistakes of each fell on images at random: the images times the
    /// product of the error rates.
    pub expected: f64,
    /// Fraction of the images that more networks take for their class than for any other.
    pub vote_accuracy: f64,
    /// The images that all get wrong, those with the highest mean confidence first.
    pub shared: Vec<SharedMistake>,
}

/// An image that all networks get wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMistake {
    /// Its place in the test file, from 0.
    pub index: usize,
    /// The class it has.
    pub target: usize,
    /// The class that each network takes it for, in the networks' order.
    pub predicted: Vec<usize>,
    /// Mean over the networks of the probability of that class.
    pub confidence: f64,
}

impl SharedMistake {
    /// The class that all networks take it for; none where they do not agree.
    #[must_use]
    pub fn agreed(&self) -> Option<usize> {
        let first = *self.predicted.first()?;
        self.predicted.iter().all(|&predicted| predicted == first).then_some(first)
    }
}

/// What the networks of these evaluations get wrong together. Nothing where there are fewer than two, where they are not
/// of equally many images, or where one does not have all its mistakes, as those of earlier versions.
#[must_use]
pub fn shared_mistakes(evaluations: &[EvaluationRecord]) -> Option<SharedMistakes> {
    let (networks, images) = (evaluations.len(), evaluations.first()?.images);
    if networks < 2 || evaluations.iter().any(|evaluation| evaluation.images != images) {
        return None;
    }
    let mut wrong: BTreeMap<usize, Vec<&MisclassifiedRecord>> = BTreeMap::new();
    let mut expected = images as f64;
    for evaluation in evaluations {
        let mistakes = evaluation.misclassified.as_ref()?;
        expected *= mistakes.len() as f64 / images.max(1) as f64;
        for mistake in mistakes {
            wrong.entry(mistake.index).or_default().push(mistake);
        }
    }
    let mut wrong_by = vec![0; networks + 1];
    wrong_by[0] = images.saturating_sub(wrong.len());
    let mut outvoted = 0;
    let mut shared = Vec::new();
    for (index, mistakes) in wrong {
        *wrong_by.get_mut(mistakes.len())? += 1; // an index that comes twice is no evaluation
        let votes = |class: usize| mistakes.iter().filter(|mistake| mistake.predicted == class).count();
        let most = mistakes.iter().map(|mistake| votes(mistake.predicted)).max().unwrap_or_default();
        outvoted += usize::from(networks - mistakes.len() <= most);
        if mistakes.len() == networks {
            shared.push(SharedMistake {
                index,
                target: mistakes[0].target,
                predicted: mistakes.iter().map(|mistake| mistake.predicted).collect(),
                confidence: mistakes.iter().map(|mistake| mistake.confidence).sum::<f64>() / networks as f64,
            });
        }
    }
    // Stable: of equal ones the first image comes first.
    shared.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let vote_accuracy = images.saturating_sub(outvoted) as f64 / images.max(1) as f64;
    Some(SharedMistakes { networks, images, wrong_by, expected, vote_accuracy, shared })
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures::evaluation, *};

    /// An evaluation of 8 images, with these mistakes: index, target, predicted, confidence.
    fn of(mistakes: &[(usize, usize, usize, f64)]) -> EvaluationRecord {
        let record = |&(index, target, predicted, confidence): &(usize, usize, usize, f64)| MisclassifiedRecord {
            index,
            target,
            predicted,
            confidence,
        };
        let misclassified = Some(mistakes.iter().map(record).collect());
        EvaluationRecord { images: 8, misclassified, ..evaluation() }
    }

    fn three() -> [EvaluationRecord; 3] {
        [
            of(&[(1, 0, 2, 0.5), (3, 1, 0, 0.75), (4, 2, 0, 0.9), (6, 2, 1, 0.6)]),
            of(&[(1, 0, 2, 0.5), (3, 1, 0, 1.0), (4, 2, 0, 0.9)]),
            of(&[(1, 0, 1, 1.0), (3, 1, 0, 0.5), (5, 0, 1, 0.9), (6, 2, 0, 0.6)]),
        ]
    }

    #[test]
    fn mistakes_that_all_make_are_shared_and_the_surest_come_first() {
        let found = shared_mistakes(&three()).unwrap();
        // Image 0, 2 and 7 are right; 5 is wrong for one; 4 and 6 for two; 1 and 3 for all.
        assert_eq!((found.networks, found.images, found.wrong_by.as_slice()), (3, 8, &[3, 1, 2, 2][..]));
        let shared: Vec<_> = found.shared.iter().map(|one| (one.index, one.target, one.agreed())).collect();
        assert_eq!(shared, [(3, 1, Some(0)), (1, 0, None)]);
        assert_eq!(found.shared[1].predicted, [2, 2, 1]);
        assert!((found.shared[0].confidence - 0.75).abs() < 1e-12);
        // 8 * (4 / 8) * (3 / 8) * (4 / 8).
        assert!((found.expected - 0.75).abs() < 1e-12);
    }

    #[test]
    fn a_vote_is_right_where_the_class_has_more_votes_than_any_other() {
        // Wrong: 1, 3, 4 (two for class 0), and 6, where every class has one vote. Right: 5.
        assert!((shared_mistakes(&three()).unwrap().vote_accuracy - 4.0 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn one_network_other_images_and_records_of_earlier_versions_share_nothing() {
        assert_eq!(shared_mistakes(&[]), None);
        assert_eq!(shared_mistakes(&three()[..1]), None);
        assert_eq!(shared_mistakes(&[of(&[]), EvaluationRecord { images: 9, ..of(&[]) }]), None);
        assert_eq!(shared_mistakes(&[of(&[]), EvaluationRecord { misclassified: None, ..of(&[]) }]), None);
        let twice = of(&[(1, 0, 2, 0.5), (1, 0, 2, 0.5), (1, 0, 2, 0.5)]);
        assert_eq!(shared_mistakes(&[twice.clone(), twice]), None);
        let nothing = shared_mistakes(&[of(&[]), of(&[])]).unwrap();
        assert_eq!((nothing.wrong_by.as_slice(), nothing.shared.len()), (&[8, 0, 0][..], 0));
    }
}
