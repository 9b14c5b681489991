//! Random changes of training images.
//!
//! What happens to an image is a pure function of (seed, epoch, row of the epoch, index of the image), and each
//! augmentation draws from a stream of its own: neither the batch size nor another augmentation changes it.

mod color;
mod draw;
#[cfg(test)]
mod golden;
mod map;
mod mix;
mod paint;

use std::ops::Range;

use kindling_config::{Augmentation, Edge, augment};
use kindling_kernels::normalize_bytes;
use kindling_training::stream;
use rand::{Rng, RngExt};

pub(crate) use self::mix::Mix;
use self::{color::Color, map::Map};
use crate::{ImageSet, Normalization};

/// Which changes are done, and the seed that decides how.
#[derive(Clone, Debug)]
pub(crate) struct Augmenter {
    augmentations: Vec<Augmentation>,
    seed: u64,
    /// `[channels, height, width]`
    shape: [usize; 3],
    /// What comes in from outside an image.
    edge: Edge,
    /// The background of each channel.
    backgrounds: Vec<u8>,
}

/// What is done to one image, in this order.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    map: Map,
    color: Option<Color>,
    /// Rows and columns that become background.
    erased: Option<[Range<usize>; 2]>,
}

/// Where an image is seen in training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) epoch: usize,
    pub(crate) row: usize,
    /// Index of the image in the split: the row, unless classes are balanced.
    pub(crate) image: usize,
}

/// Memory that a thread keeps, so that no image takes new one.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    padded: Vec<f32>,
    /// The image that is mixed in.
    pub(crate) other: Vec<f32>,
}

impl Augmenter {
    /// Changes images of `set`.
    pub(crate) fn new(augmentations: &[Augmentation], seed: u64, set: &ImageSet) -> Self {
        let mut edges = augmentations.iter().filter_map(|one| match one {
            Augmentation::Crop(crop) => Some(crop.edge),
            _ => None,
        });
        Self {
            edge: edges.next_back().unwrap_or(Edge::Background),
            augmentations: augmentations.to_vec(),
            seed,
            shape: set.shape(),
            backgrounds: set.backgrounds(),
        }
    }

    /// Whether images are mixed with others.
    pub(crate) fn mixes(&self) -> bool {
        self.augmentations.iter().any(|one| matches!(one, Augmentation::Mixup(_) | Augmentation::Cutmix(_)))
    }

    /// The random numbers of an augmentation for a row of an epoch.
    fn draws(&self, purpose: &str, epoch: usize, row: usize) -> impl Rng + use<> {
        stream(self.seed, purpose, ((epoch as u64) << 32) | row as u64)
    }

    fn change(&self, Place { epoch, row, image }: Place) -> Change {
        let size @ [_, width] = [self.shape[1], self.shape[2]];
        let mut change = Change { map: Map::IDENTITY, color: None, erased: None };
        for augmentation in &self.augmentations {
            let mut random = self.draws(augmentation.name(), epoch, row);
            let map = change.map;
            match augmentation {
                Augmentation::Flip(flip) => {
                    let is_mirrored = if flip.alternate {
                        // No image is trained on in epoch 0, whose draws say in which way each one starts.
                        self.draws(augmentation.name(), 0, image).random_bool(0.5) == epoch.is_multiple_of(2)
                    } else {
                        random.random_bool(flip.probability)
                    };
                    if is_mirrored {
                        change.map = map.flip(width);
                    }
                }
                Augmentation::Shift(augment::Shift { pixels: most })
                | Augmentation::Crop(augment::Crop { padding: most, .. }) => {
                    let mut moved = || random.random_range(0..=2 * most) as isize - *most as isize;
                    let (down, right) = (moved(), moved());
                    change.map = map.shift(down, right);
                }
                Augmentation::ResizedCrop(crop) => {
                    change.map = map.resized_crop(&draw::part(&mut random, crop, size), size);
                }
                Augmentation::Rotate(rotate) => {
                    change.map = map.rotate(draw::either_way(&mut random, rotate.degrees), size);
                }
                Augmentation::Affine(affine) => change.map = map.affine(draw::affine(&mut random, affine, size), size),
                Augmentation::Color(color) => {
                    let mut factor = |most: f64| random.random_range((1.0 - most).max(0.0)..=1.0 + most) as f32;
                    let (brightness, contrast) = (factor(color.brightness), factor(color.contrast));
                    change.color = Some(Color { brightness, contrast, saturation: factor(color.saturation) });
                }
                Augmentation::Erase(erase) => change.erased = draw::hole(&mut random, erase, size),
                // Of two images, after each is changed.
                Augmentation::Mixup(_) | Augmentation::Cutmix(_) => {}
            }
        }
        change
    }

    /// The image that is mixed into that of `row`, of an epoch of `count` rows; with both ways a coin decides.
    pub(crate) fn mix(&self, epoch: usize, row: usize, count: usize) -> Option<Mix> {
        let mut ways = [None; 2];
        for augmentation in &self.augmentations {
            match augmentation {
                Augmentation::Mixup(mixup) => ways[0] = Some((augmentation, mixup.alpha, mixup.probability)),
                Augmentation::Cutmix(cutmix) => ways[1] = Some((augmentation, cutmix.alpha, cutmix.probability)),
                _ => {}
            }
        }
        let way = match ways {
            [Some(_), Some(_)] => ways[usize::from(self.draws("mix", epoch, row).random_bool(0.5))],
            [mixup, cutmix] => mixup.or(cutmix),
        };
        let (augmentation, alpha, probability) = way?;
        let mut random = self.draws(augmentation.name(), epoch, row);
        if count < 2 || !random.random_bool(probability) {
            return None;
        }
        Some(match augmentation {
            Augmentation::Mixup(_) => Mix::mixup(&mut random, alpha, row, count),
            _ => Mix::cutmix(&mut random, alpha, row, count, [self.shape[1], self.shape[2]]),
        })
    }

    /// Writes the image at `place`, changed and normalised.
    pub(crate) fn write(
        &self,
        image: &[u8],
        place: Place,
        normalization: &Normalization,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        self.paint(image, &self.change(place), normalization, scratch, out);
    }

    fn paint(
        &self,
        image: &[u8],
        change: &Change,
        normalization: &Normalization,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let (shape @ [channels, height, width], backgrounds) = (self.shape, &self.backgrounds[..]);
        if let Some(whole) = change.map.whole(width) {
            scratch.bytes.resize(image.len(), 0);
            paint::copy(image, shape, whole, self.edge, backgrounds, &mut scratch.bytes);
            if change.color.is_none() {
                if let Some(erased) = &change.erased {
                    fill(&mut scratch.bytes, [height, width], erased, backgrounds.iter().copied());
                }
                return normalization.write(&scratch.bytes, channels, out);
            }
            normalize_bytes(&scratch.bytes, 0.0, 1.0, out);
        } else {
            paint::sample(image, shape, &change.map, self.edge, backgrounds, &mut scratch.padded, out);
        }
        if let Some(color) = change.color {
            color.apply(channels, out);
        }
        if let Some(erased) = &change.erased {
            let backgrounds = backgrounds.iter().map(|&byte| f32::from(byte) / 255.0);
            fill(out, [height, width], erased, backgrounds);
        }
        normalization.apply(channels, out);
    }
}

/// Fills rows and columns of each channel.
fn fill<T: Copy>(
    pixels: &mut [T],
    [height, width]: [usize; 2],
    [rows, columns]: &[Range<usize>; 2],
    fills: impl Iterator<Item = T>,
) {
    for (plane, fill) in pixels.chunks_exact_mut(height * width).zip(fills) {
        rows.clone().for_each(|row| plane[row * width..][columns.clone()].fill(fill));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{map::Whole, *};

    const MNIST: [usize; 3] = [1, 28, 28];
    const PLAIN: Change = Change { map: Map::IDENTITY, color: None, erased: None };

    fn all() -> Vec<Augmentation> {
        vec![
            augment::Flip::default().into(),
            augment::Shift::default().into(),
            augment::Crop::default().into(),
            augment::ResizedCrop::default().into(),
            augment::Rotate::default().into(),
            augment::Affine::default().into(),
            augment::Color::default().into(),
            augment::Erase::default().into(),
        ]
    }

    fn first_three() -> [Augmentation; 3] {
        [augment::Flip::default().into(), augment::Shift::default().into(), augment::Erase::default().into()]
    }

    fn augmenter(augmentations: &[Augmentation], seed: u64, shape: [usize; 3]) -> Augmenter {
        let size = shape.iter().product();
        Augmenter::new(augmentations, seed, &ImageSet::new(vec![0; size], vec![0], shape).unwrap())
    }

    fn place(epoch: usize, row: usize) -> Place {
        Place { epoch, row, image: row }
    }

    fn changes(augmentations: &[Augmentation], count: usize) -> Vec<Change> {
        let augmenter = augmenter(augmentations, 7, MNIST);
        (0..count).map(|row| augmenter.change(place(1, row))).collect()
    }

    /// Whether an image is mirrored, and by how many rows and columns it moves down and right.
    fn moves(change: &Change) -> (bool, [isize; 2]) {
        let Whole { is_mirrored, down, right } = change.map.whole(28).unwrap();
        (is_mirrored, [-down, -right])
    }

    #[test]
    fn seed_epoch_and_row_decide_a_change_and_each_of_them_matters() {
        let drawn = |seed, epoch, first: usize| -> Vec<Change> {
            let augmenter = augmenter(&all(), seed, MNIST);
            (first..first + 20).map(|row| augmenter.change(place(epoch, row))).collect()
        };
        assert_eq!(drawn(1, 2, 3), drawn(1, 2, 3));
        assert_eq!(drawn(1, 2, 3)[1..], drawn(1, 2, 4)[..19]);
        for other in [drawn(2, 2, 3), drawn(1, 3, 3), drawn(1, 2, 4)] {
            assert_ne!(drawn(1, 2, 3), other);
        }
    }

    #[test]
    fn changes_are_the_same_on_every_machine_and_in_every_version() {
        // Pinned, from ChaCha8 and rand's sampling written anew in Python: a difference would change what every
        // recorded seed means.
        let augmenter = augmenter(&first_three(), 42, MNIST);
        let drawn = |row| {
            let change = augmenter.change(place(1, row));
            (moves(&change), change.erased)
        };
        assert_eq!(drawn(0), ((false, [-1, 2]), Some([11..23, 23..27])));
        assert_eq!(drawn(1), ((true, [1, 1]), None));
        assert_eq!(drawn(2), ((false, [2, -1]), Some([5..22, 14..22])));
        assert_eq!(drawn(3), ((true, [-2, 1]), Some([3..21, 6..12])));
        let alternate = self::augmenter(&["flip:alternate=true".parse().unwrap()], 42, MNIST);
        let first = [0, 1, 2, 3, 4, 5, 6, 7].map(|row| moves(&alternate.change(place(1, row))).0);
        assert_eq!(first, [false, false, false, true, true, true, true, false]);
    }

    #[test]
    fn one_augmentation_more_changes_no_other_ones_draws() {
        let together = changes(&first_three(), 100);
        let [flip, shift, erase] = first_three().map(|one| changes(&[one], 100));
        for (index, change) in together.iter().enumerate() {
            assert_eq!(moves(change), (moves(&flip[index]).0, moves(&shift[index]).1));
            assert_eq!(change.erased, erase[index].erased);
        }
        // Colour and erasing of all of them too.
        let color = changes(&[augment::Color::default().into()], 100);
        let everything = changes(&all(), 100);
        let colors = |changes: &[Change]| changes.iter().map(|change| change.color).collect::<Vec<_>>();
        let erased = |changes: &[Change]| changes.iter().map(|change| change.erased.clone()).collect::<Vec<_>>();
        assert_eq!((colors(&everything), erased(&everything)), (colors(&color), erased(&erase)));
    }

    #[test]
    fn a_shift_moves_by_at_most_its_pixels_and_each_move_is_drawn() {
        let shifts: BTreeSet<_> = changes(&[augment::Shift::default().into()], 1000).iter().map(moves).collect();
        assert!(shifts.iter().all(|(is_mirrored, by)| !is_mirrored && by.iter().all(|by| by.abs() <= 2)));
        // Each of them is drawn 40 times on average.
        assert_eq!(shifts.len(), 25);
        let crops: BTreeSet<_> = changes(&[augment::Crop::default().into()], 2000).iter().map(moves).collect();
        assert!(crops.iter().all(|(_, by)| by.iter().all(|by| by.abs() <= 4)));
        assert_eq!(crops.len(), 81);
    }

    #[test]
    fn half_of_the_images_are_flipped() {
        let flipped = changes(&[augment::Flip::default().into()], 2000).iter().filter(|change| moves(change).0).count();
        // Four standard deviations of 2,000 fair coins: 4 sqrt(2000 / 4) = 89.
        assert!(flipped.abs_diff(1000) <= 89, "{flipped}");
    }

    #[test]
    fn parameters_of_nothing_change_nothing() {
        let nothing = [
            augment::Flip { probability: 0.0, alternate: false }.into(),
            augment::Shift { pixels: 0 }.into(),
            augment::Crop { padding: 0, edge: Edge::Background }.into(),
            augment::ResizedCrop { scale_min: 1.0, scale_max: 1.0, ratio_min: 1.0, ratio_max: 1.0 }.into(),
            augment::Rotate { degrees: 0.0 }.into(),
            augment::Affine { degrees: 0.0, translate: 0.0, scale_min: 1.0, scale_max: 1.0, shear: 0.0 }.into(),
            augment::Color { brightness: 0.0, contrast: 0.0, saturation: 0.0 }.into(),
            augment::Erase { probability: 0.0, ..augment::Erase::default() }.into(),
        ];
        let image: Vec<u8> = (0..3 * 64_usize).map(|index| (index * 7 % 251) as u8).collect();
        let augmenter = augmenter(&nothing, 1, [3, 8, 8]);
        let normalization = Normalization::new(&[0.1, 0.2, 0.3], &[0.5, 0.4, 0.3]);
        let (mut expected, mut changed) = (vec![0.0; 192], vec![0.0; 192]);
        normalization.write(&image, 3, &mut expected);
        augmenter.write(&image, place(1, 0), &normalization, &mut Scratch::default(), &mut changed);
        assert_eq!(changed, expected);
    }

    #[test]
    fn pixels_that_are_copied_have_the_same_bits_with_and_without_a_change_of_colour() {
        let image: Vec<u8> = (0..=255).collect();
        let augmenter = augmenter(&[], 1, [1, 16, 16]);
        let normalization = Normalization::new(&[0.1307], &[0.3081]);
        let erased = Some([2..5, 3..9]);
        let map = Map::IDENTITY.flip(16).shift(1, 2);
        let painted = |color| {
            let (change, mut out) = (Change { map, color, erased: erased.clone() }, vec![0.0; 256]);
            augmenter.paint(&image, &change, &normalization, &mut Scratch::default(), &mut out);
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(painted(None), painted(Some(Color { brightness: 1.0, contrast: 1.0, saturation: 1.0 })));
    }

    #[test]
    fn a_flip_comes_before_a_shift_and_that_before_a_hole() {
        let image: Vec<u8> = (1..=12).collect();
        let augmenter = augmenter(&[], 1, [1, 3, 4]);
        let change = Change { map: Map::IDENTITY.flip(4).shift(0, -1), erased: Some([1..2, 2..4]), ..PLAIN };
        let mut out = vec![0.0; 12];
        augmenter.paint(
            &image,
            &change,
            &Normalization::new(&[0.0], &[1.0 / 255.0]),
            &mut Scratch::default(),
            &mut out,
        );
        let bytes: Vec<u8> = out.iter().map(|pixel| pixel.round() as u8).collect();
        assert_eq!(bytes, [0, 4, 3, 2, 0, 8, 0, 0, 0, 12, 11, 10]);
    }

    #[test]
    fn with_both_ways_of_mixing_a_coin_decides_and_the_probability_holds() {
        let (mixup, cutmix) = (augment::Mixup::default(), augment::Cutmix { probability: 0.5, ..Default::default() });
        let both = augmenter(&[mixup.clone().into(), cutmix.into()], 3, MNIST);
        let mixes: Vec<_> = (0..2000).map(|row| both.mix(1, row, 2000)).collect();
        let blended = mixes.iter().flatten().filter(|mix| mix.pasted.is_none()).count();
        let pasted = mixes.iter().flatten().count() - blended;
        // Four standard deviations of the coins: 89, and 4 sqrt(2000 * 3/16) = 77.
        assert!(blended.abs_diff(1000) <= 89 && pasted.abs_diff(500) <= 77, "{blended} {pasted}");
        assert!(both.mixes() && !augmenter(&all(), 3, MNIST).mixes());
        assert_eq!(augmenter(&[mixup.into()], 3, MNIST).mix(1, 0, 1), None, "there is no other image");
        assert_eq!(augmenter(&all(), 3, MNIST).mix(1, 0, 9), None);
    }
}
