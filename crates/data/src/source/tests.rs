use std::collections::BTreeMap;

use burn::data::{dataloader::batcher::Batcher, dataset::Dataset};
use kindling_config::augment;
use kindling_training::{Order, batches};
use proptest::prelude::*;

use super::*;
use crate::ImageBatcher;

/// `count` images of one pixel; image `i` has the pixel `i` and the label `i`.
fn numbered(count: usize) -> ImageSet {
    let bytes = (0..count).map(|index| index as u8).collect();
    ImageSet::new(bytes, (0..count as u16).collect(), [1, 1, 1]).unwrap()
}

/// The batches of one epoch.
fn epoch_of(source: &ImageSource, batch_size: usize, order: Order, epoch: usize) -> Vec<ImageBatch> {
    let device = Device::flex();
    let all = batches(source, batch_size, None, order, epoch, &device);
    all.collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_epoch_has_every_image_once_with_its_own_label(
        count in 1_usize..200, batch_size in 1_usize..70, seed in prop::option::of(any::<u64>()),
    ) {
        let order = seed.map_or(Order::File, |seed| Order::Shuffled { seed });
        let source = ImageSource::new(numbered(count), Normalization::default(), "numbers");
        let mut seen = Vec::new();
        for batch in epoch_of(&source, batch_size, order, 1) {
            let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
            let pixels: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
            prop_assert_eq!(pixels, labels.iter().map(|&label| label as f32 / 255.0).collect::<Vec<_>>());
            seen.extend(labels);
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..count as i64).collect::<Vec<_>>());
    }
}

#[test]
fn batches_for_training_carry_autodiff_and_others_do_not() {
    let source = ImageSource::new(numbered(4), Normalization::default(), "numbers");
    let source = source.augmented_by(&[augment::Mixup::default().into()], 1);
    for device in [Device::flex().autodiff(), Device::flex()] {
        let batch = batches(&source, 2, None, Order::File, 1, &device).next().unwrap().unwrap();
        assert_eq!(batch.images.device().is_autodiff(), device.is_autodiff());
        assert_eq!(batch.targets.device().is_autodiff(), device.is_autodiff());
        let mixed = batch.mixed.unwrap();
        assert_eq!(mixed.targets.device().is_autodiff(), device.is_autodiff());
        assert_eq!(mixed.share.device().is_autodiff(), device.is_autodiff());
    }
}

#[test]
fn burns_batcher_makes_the_same_batch_as_the_source() {
    let set = numbered(5);
    let normalization = Normalization::new(&[0.25], &[0.5]);
    let items = (0..5).map(|index| set.get(index).unwrap()).collect();
    let batched = ImageBatcher::new(normalization.clone()).batch(items, &Device::flex());
    let served = epoch_of(&ImageSource::new(set, normalization, ""), 5, Order::File, 1).remove(0);
    assert_eq!(batched.images.into_data(), served.images.into_data());
    assert_eq!(batched.targets.into_data(), served.targets.into_data());
}

/// 120 images of 9x8 pixels without background, changed by some of everything; image `i` has the label `i`.
fn augmented(channels: usize) -> ImageSource {
    let size = channels * 72;
    let pixels = (0..120 * size).map(|index| (index % 251) as u8 + 1).collect();
    let set = ImageSet::new(pixels, (0..120).collect(), [channels, 9, 8]).unwrap();
    ImageSource::new(set, Normalization::new(&[0.25], &[0.5]), "").augmented_by(&changes(), 7)
}

/// The first images in whole pixels, the others between them.
fn changes() -> [Augmentation; 5] {
    [
        augment::Flip::default().into(),
        augment::Shift::default().into(),
        augment::Rotate::default().into(),
        augment::Color::default().into(),
        augment::Erase::default().into(),
    ]
}

/// The pixels of one epoch's images by their labels.
fn pixels(source: &ImageSource, batch_size: usize, order: Order, epoch: usize) -> BTreeMap<i64, Vec<u32>> {
    let mut all = BTreeMap::new();
    let size = source.set().shape().iter().product();
    for batch in epoch_of(source, batch_size, order, epoch) {
        let labels: Vec<i64> = batch.targets.into_data().iter::<i64>().collect();
        let pixels: Vec<u32> = batch.images.into_data().iter::<f32>().map(f32::to_bits).collect();
        all.extend(labels.into_iter().zip(pixels.chunks_exact(size).map(<[u32]>::to_vec)));
    }
    all
}

#[test]
fn an_image_is_changed_alike_whatever_the_batches_are_and_not_at_all_in_evaluation() {
    let shuffled = Order::Shuffled { seed: 3 };
    for channels in [1, 3] {
        let source = augmented(channels);
        let expected = pixels(&source, 16, Order::File, 2);
        assert_eq!(expected.len(), 120);
        for (batch_size, order) in [(16, shuffled), (50, Order::File), (7, shuffled), (120, shuffled)] {
            assert_eq!(pixels(&source, batch_size, order, 2), expected);
            assert_ne!(pixels(&source, batch_size, order, 3), expected, "the third epoch has changes of its own");
        }
        let plain = pixels(&augmented(channels).augmented_by(&[], 7), 16, Order::File, 2);
        assert_eq!(pixels(&source, 16, Order::File, 0), plain);
        assert_ne!(plain, expected);
    }
}

#[test]
fn what_comes_in_is_the_normalised_background_of_the_channel() {
    let some = [augment::Shift::default().into(), augment::Erase::default().into()];
    let source = augmented(1).augmented_by(&some, 7);
    let background = (f32::from(source.set().background()) / 255.0 - 0.25) / 0.5;
    // No image has a number twice.
    let filled = |epoch| {
        let images = pixels(&source, 32, Order::File, epoch);
        let count = |pixels: &Vec<u32>| pixels.iter().filter(|&&bits| bits == background.to_bits()).count();
        images.values().filter(|pixels| count(pixels) > 1).count()
    };
    // One of 25 shifts is none, and half of the images are not erased: 118 of 120 on average.
    assert!(filled(1) > 100);
    assert_eq!(filled(0), 0);
}

#[test]
fn a_device_that_states_no_limit_keeps_splits_up_to_2_gib() {
    // Only the size is looked at, so there need be no pixels.
    let source = |count: usize| {
        let storage = Arc::new(crate::image_set::Storage::Memory(Vec::new()));
        let set = ImageSet::stored(storage, 0, None, vec![0; count], [1, 1 << 15, 1 << 15]);
        ImageSource::new(set, Normalization::default(), "")
    };
    assert!(source(2).fits_device() && !source(3).fits_device());
    assert!(source(3).with_largest(Some(3 << 30)).fits_device());
    assert!(!source(2).with_largest(Some((2 << 30) - 1)).fits_device());
}

#[test]
fn pictures_of_samples_are_the_batch_before_normalization() {
    for epoch in [0, 1] {
        let source = augmented(3);
        let rows: Vec<usize> = vec![5, 0, 119, 7];
        let rows = Rows::new(&rows, epoch);
        let mut expected = source.pixels(&rows);
        let images = source.batch(&rows, &Device::flex()).unwrap().images;
        expected.chunks_exact_mut(3 * 72).for_each(|image| source.normalization.apply(3, image));
        assert_eq!(images.into_data().iter::<f32>().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_mixed_batch_has_both_images_as_they_would_be_alone_and_says_how_much_of_each() {
    let alone = augmented(3);
    let changes = changes();
    for mix in [augment::Mixup { alpha: 1.0, probability: 0.7 }.into(), augment::Cutmix::default().into()] {
        let mixed = augmented(3).augmented_by(&[&changes[..], &[mix]].concat(), 7);
        let single = |row: usize| alone.pixels(&Rows::new(&[row], 4));
        let (mut plain, mut pairs) = (0, 0);
        let rows: Vec<usize> = (0..120).rev().collect();
        let rows = Rows::new(&rows, 4);
        let batch = mixed.batch(&rows, &Device::flex()).unwrap();
        let of = batch.mixed.unwrap();
        let numbers = |tensor: Tensor<1, Int>| tensor.into_data().iter::<i64>().collect::<Vec<_>>();
        let (targets, others) = (numbers(batch.targets), numbers(of.targets));
        let shares: Vec<f32> = of.share.into_data().iter::<f32>().collect();
        assert_eq!(targets, (0..120).rev().collect::<Vec<_>>());
        for (index, image) in mixed.pixels(&rows).chunks_exact(3 * 72).enumerate() {
            let (own, other) = (single(rows[index]), single(others[index] as usize));
            let share = shares[index];
            assert!((0.0..=1.0).contains(&share));
            if others[index] == targets[index] {
                assert!(share.to_bits() == 0 && image == own);
                plain += 1;
                continue;
            }
            pairs += 1;
            let parts = image.iter().zip(own.iter().zip(&other));
            if batch_is_blended(&mixed) {
                for (pixel, (own, other)) in parts {
                    assert!((own * (1.0 - share) + other * share - pixel).abs() < 1e-6);
                }
            } else {
                // Where both are alike, a pixel may be either's.
                let (mut pasted, mut kept) = (0, 0);
                let bits =
                    |(pixel, (own, other)): (&f32, (&f32, &f32))| [pixel, own, other].map(|number| number.to_bits());
                for [pixel, own, other] in parts.map(bits).filter(|[_, own, other]| own != other) {
                    assert!(pixel == own || pixel == other);
                    pasted += usize::from(pixel == other);
                    kept += usize::from(pixel == own);
                }
                let area = share * 216.0;
                assert!(pasted as f32 <= area + 0.5 && kept as f32 <= 216.0 - area + 0.5, "{pasted} {kept} {area}");
            }
        }
        // Of 120 at seven tenths 36 are left alone on average, five standard deviations are 25; a paste never is.
        assert!(if batch_is_blended(&mixed) { (11..=61).contains(&plain) } else { plain == 0 }, "{plain} {pairs}");
    }
}

#[test]
fn an_alternating_flip_shows_both_versions_of_each_image_in_any_two_epochs_in_a_row() {
    // Of an image's two pixels the left one is bright.
    let count = 1000;
    let set = ImageSet::new((0..count).flat_map(|_| [255, 0]).collect(), vec![0; count], [1, 1, 2]).unwrap();
    let shown = |flip: augment::Flip, sampler: Option<usize>, seed: u64, epoch: usize| {
        let source = ImageSource::new(set.clone(), Normalization::default(), "").augmented_by(&[flip.into()], seed);
        let source = sampler.into_iter().fold(source, |source, classes| source.balanced(classes, 3));
        let rows: Vec<usize> = (0..count).collect();
        let pixels = source.pixels(&Rows::new(&rows, epoch));
        let is_mirrored = pixels.chunks_exact(2).map(|image| image[1] > image[0]);
        source.images_of(epoch).into_iter().zip(is_mirrored).collect::<BTreeMap<_, _>>()
    };
    let alternate = || augment::Flip { alternate: true, ..augment::Flip::default() };
    let other = |shown: BTreeMap<usize, bool>| shown.into_iter().map(|(image, is)| (image, !is)).collect();
    // Each epoch is of a source of its own, as after a resume.
    let first = shown(alternate(), None, 7, 1);
    for epoch in 1..6 {
        let next: BTreeMap<_, _> = other(shown(alternate(), None, 7, epoch));
        assert_eq!(shown(alternate(), None, 7, epoch + 1), next);
    }
    // Four standard deviations of 1,000 fair coins: 4 sqrt(1000 / 4) = 63.
    let agree = |one: &BTreeMap<usize, bool>| first.iter().filter(|(image, is)| one[image] == **is).count();
    let mirrored = first.values().filter(|is| **is).count();
    assert!(mirrored.abs_diff(500) <= 63, "{mirrored}");
    assert!(agree(&shown(alternate(), None, 8, 1)).abs_diff(500) <= 63, "the seed decides");
    assert!(agree(&shown(augment::Flip::default(), None, 7, 1)).abs_diff(500) <= 63, "a flip draws anew");
    // Where classes are balanced another row has the image in each epoch.
    let balanced = shown(alternate(), Some(1), 7, 4);
    assert!(balanced.iter().all(|(image, is)| first[image] != *is));
}

fn batch_is_blended(source: &ImageSource) -> bool {
    let augmenter = source.augmenter.as_ref().unwrap();
    (0..100).filter_map(|row| augmenter.mix(1, row, 100)).all(|mix| mix.pasted.is_none())
}

#[test]
fn a_balanced_source_trains_on_each_class_alike_and_evaluates_each_image_once() {
    let labels: Vec<u16> = (0..100).map(|index| u16::from(index % 20 == 0)).collect();
    let set = ImageSet::new((0..100).collect(), labels.clone(), [1, 1, 1]).unwrap();
    let source = ImageSource::new(set, Normalization::new(&[0.0], &[1.0 / 255.0]), "").balanced(2, 3);
    let seen = |epoch| {
        let batches = epoch_of(&source, 16, Order::Shuffled { seed: 1 }, epoch);
        batches.into_iter().fold((Vec::new(), Vec::new()), |(mut images, mut targets), batch| {
            images.extend(batch.images.into_data().iter::<f32>().map(|pixel| pixel.round() as usize));
            targets.extend(batch.targets.into_data().iter::<i64>());
            (images, targets)
        })
    };
    let (mut images, targets) = seen(1);
    assert_eq!((targets.iter().sum::<i64>(), targets.len()), (50, 100));
    assert!(images.iter().zip(&targets).all(|(&image, &target)| i64::from(labels[image]) == target));
    // Five images ten times each, and 50 of the other 95 once.
    images.sort_unstable();
    images.dedup();
    assert_eq!(images.len(), 55);
    let (mut images, _) = seen(0);
    images.sort_unstable();
    assert_eq!(images, (0..100).collect::<Vec<_>>());
}
