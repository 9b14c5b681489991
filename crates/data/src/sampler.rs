use std::sync::{Arc, Mutex, PoisonError};

use kindling_training::stream;
use rand::seq::SliceRandom;

/// Gives every class the same number of places in an epoch, however many images it has.
///
/// Which image a place has is a pure function of (seed, epoch, place). Places go through the classes in turn, and a
/// class through its images: all of them in one shuffled order, then all of them in another, on from one epoch to the
/// next. So where places do not divide by the classes, each class is the one that gets more in its turn.
#[derive(Debug)]
pub(crate) struct Balanced {
    /// The images of each class that has any.
    classes: Vec<Vec<u32>>,
    count: usize,
    seed: u64,
    /// The epoch asked for last, and the image of each of its places.
    epoch: Mutex<Option<(usize, Arc<[u32]>)>>,
}

impl Balanced {
    /// Balances images with these labels, of so many classes; classes without images get no places.
    pub(crate) fn new(labels: &[u16], classes: usize, seed: u64) -> Self {
        let all = labels.iter().map(|&label| usize::from(label) + 1).max().unwrap_or_default().max(classes);
        let mut members = vec![Vec::new(); all];
        for (image, &label) in labels.iter().enumerate() {
            members[usize::from(label)].push(image as u32);
        }
        members.retain(|members| !members.is_empty());
        Self { classes: members, count: labels.len(), seed, epoch: Mutex::default() }
    }

    /// The image of each place in an epoch, from 1.
    pub(crate) fn epoch(&self, epoch: usize) -> Arc<[u32]> {
        let mut kept = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((number, images)) if *number == epoch => images.clone(),
            _ => {
                let images = self.images(epoch);
                *kept = Some((epoch, images.clone()));
                images
            }
        }
    }

    fn images(&self, epoch: usize) -> Arc<[u32]> {
        let first = (epoch as u64).saturating_sub(1) * self.count as u64;
        let classes = self.classes.len() as u64;
        // For each class the pass that its images are shuffled for.
        let mut passes: Vec<(Option<u64>, Vec<u32>)> = vec![(None, Vec::new()); self.classes.len()];
        let places = first..first + self.count as u64;
        places
            .map(|place| {
                let (class, turn) = ((place % classes) as usize, place / classes);
                let members = &self.classes[class];
                if let [only] = members[..] {
                    return only;
                }
                let (pass, index) = (turn / members.len() as u64, turn % members.len() as u64);
                let (current, order) = &mut passes[class];
                if *current != Some(pass) {
                    order.clone_from(members);
                    order.shuffle(&mut stream(self.seed, "balanced", ((class as u64) << 40) | pass));
                    *current = Some(pass);
                }
                order[index as usize]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Labels of classes 0, 1, ... with so many images each, class after class.
    fn labels(counts: &[usize]) -> Vec<u16> {
        counts.iter().enumerate().flat_map(|(class, &count)| vec![class as u16; count]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_class_is_seen_equally_often_and_its_images_in_turn(
            counts in prop::collection::vec(0_usize..30, 1..7), seed: u64, epochs in 1_usize..9,
        ) {
            prop_assume!(counts.iter().sum::<usize>() > 0);
            let labels = labels(&counts);
            let sampler = Balanced::new(&labels, counts.len(), seed);
            let mut seen = vec![0_usize; labels.len()];
            for epoch in 1..=epochs {
                let images = sampler.epoch(epoch);
                prop_assert_eq!(images.len(), labels.len());
                let mut places = BTreeMap::<u16, usize>::new();
                for &image in &*images {
                    seen[image as usize] += 1;
                    *places.entry(labels[image as usize]).or_default() += 1;
                }
                let [least, most] = [places.values().min().unwrap(), places.values().max().unwrap()];
                prop_assert!(most - least <= 1, "{:?}", places);
                let present = counts.iter().filter(|&&count| count > 0).count();
                prop_assert_eq!(places.len(), present);
            }
            // Over all epochs too: of a class all images were seen equally often, or one time more.
            let mut totals = Vec::new();
            for class in (0..counts.len()).filter(|&class| counts[class] > 0) {
                let of_class = labels.iter().zip(&seen).filter(|(label, _)| usize::from(**label) == class);
                let of_class: Vec<usize> = of_class.map(|(_, &count)| count).collect();
                prop_assert!(of_class.iter().max().unwrap() - of_class.iter().min().unwrap() <= 1);
                totals.push(of_class.iter().sum::<usize>());
            }
            prop_assert!(totals.iter().max().unwrap() - totals.iter().min().unwrap() <= 1, "{:?}", totals);
        }
    }

    #[test]
    fn an_epoch_is_the_same_in_a_run_that_begins_with_it() {
        let labels = labels(&[50, 1, 7]);
        let through = Balanced::new(&labels, 3, 5);
        let epochs: Vec<_> = (1..=6).map(|epoch| through.epoch(epoch)).collect();
        for (index, images) in epochs.iter().enumerate().rev() {
            assert_eq!(Balanced::new(&labels, 3, 5).epoch(index + 1), *images);
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(Balanced::new(&labels, 3, 6).epoch(1), epochs[0]);
    }

    #[test]
    fn a_class_goes_on_with_its_images_in_the_next_epoch() {
        // Three places a class and epoch; the second class has nine images.
        let labels = labels(&[1, 9, 2]);
        let sampler = Balanced::new(&labels, 3, 1);
        let mut seen: Vec<u32> = Vec::new();
        for epoch in 1..=2 {
            let images = sampler.epoch(epoch);
            seen.extend(images.iter().filter(|&&image| labels[image as usize] == 1));
        }
        assert_eq!(seen.len(), 8);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 8, "no image comes again before all have been seen");
    }
}
