use std::ops::{Range, RangeInclusive};

use burn::tensor::{Int, Tensor, TensorData};
use kindling_training::stream;
use rand::{Rng, RngExt};

/// The largest shift, in pixels: KellerJordan/cifar10-airbench's `translate=2`
/// (<https://github.com/KellerJordan/cifar10-airbench>).
const SHIFT: usize = 2;
/// torchvision's `RandomHorizontalFlip`
/// (<https://docs.pytorch.org/vision/stable/generated/torchvision.transforms.RandomHorizontalFlip.html>).
const FLIP_PROBABILITY: f64 = 0.5;
/// Zhong et al. 2017 (<https://arxiv.org/abs/1708.04896>).
const ERASE_PROBABILITY: f64 = 0.5;
/// The erased share of the image, before its sides are rounded to whole pixels: torchvision's `RandomErasing`
/// (<https://docs.pytorch.org/vision/stable/generated/torchvision.transforms.RandomErasing.html>).
const ERASED_SHARE: RangeInclusive<f64> = 0.02..=0.33;
/// Height over width of what is erased: torchvision's as well, and the paper's to one digit.
const ERASED_ASPECT: RangeInclusive<f64> = 0.3..=3.3;
/// How often a rectangle is drawn until one fits into the image, which is left alone after that: torchvision's.
const ERASE_ATTEMPTS: usize = 10;

/// A random change of a training image. Several are done in the order flip, shift, erase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Augmentation {
    /// Moves the image by up to 2 pixels up or down and as many left or right, uniform over whole pixels. What comes in
    /// is background: the amount is airbench's `translate=2`, which fills with reflections, where these images end in
    /// background already.
    Shift,
    /// Mirrors the image left to right, with probability 1/2.
    Flip,
    /// Fills a rectangle with background, with probability 1/2: 2 % to 33 % of the image, 0.3 to 3.3 times as high as it
    /// is wide (Zhong et al. 2017, <https://arxiv.org/abs/1708.04896>).
    Erase,
}

impl Augmentation {
    /// Names the stream of its random numbers.
    fn purpose(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Flip => "flip",
            Self::Erase => "erase",
        }
    }
}

/// Which changes are done, and the seed that decides how.
///
/// What happens to an image is a pure function of (seed, epoch, index of the image in the split), and each augmentation
/// draws from a stream of its own: neither the batch size nor another augmentation changes it.
#[derive(Clone, Debug)]
pub(crate) struct Augmenter {
    augmentations: Vec<Augmentation>,
    seed: u64,
}

impl Augmenter {
    pub(crate) fn new(augmentations: &[Augmentation], seed: u64) -> Self {
        Self { augmentations: augmentations.to_vec(), seed }
    }

    /// For each pixel of each changed image, which pixel of the image it is, or `height * width` for background:
    /// `[batch, height * width]`, for [`pick`].
    pub(crate) fn sources(&self, epoch: usize, indices: &[usize], size: [usize; 2]) -> Vec<i32> {
        let mut sources = Vec::with_capacity(indices.len() * size[0] * size[1]);
        for &index in indices {
            self.change(epoch, index, size).append_sources(size, &mut sources);
        }
        sources
    }

    fn change(&self, epoch: usize, index: usize, size: [usize; 2]) -> Change {
        let place = ((epoch as u64) << 32) | index as u64;
        let draws = |augmentation: Augmentation| {
            let is_done = self.augmentations.contains(&augmentation);
            is_done.then(|| stream(self.seed, augmentation.purpose(), place))
        };
        Change {
            is_mirrored: draws(Augmentation::Flip).is_some_and(|mut random| random.random_bool(FLIP_PROBABILITY)),
            corner: draws(Augmentation::Shift).map_or([SHIFT; 2], |mut random| {
                [random.random_range(0..=2 * SHIFT), random.random_range(0..=2 * SHIFT)]
            }),
            erased: draws(Augmentation::Erase).and_then(|mut random| rectangle(&mut random, size)),
        }
    }
}

/// What is done to one image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    is_mirrored: bool,
    /// Row and column of the first pixel that stays, in the image with a border of [`SHIFT`] pixels.
    corner: [usize; 2],
    /// Rows and columns that become background.
    erased: Option<[Range<usize>; 2]>,
}

impl Change {
    fn append_sources(&self, [height, width]: [usize; 2], sources: &mut Vec<i32>) {
        let background = (height * width) as i32;
        let [top, left] = self.corner;
        for row in 0..height {
            let from_row = (row + top).checked_sub(SHIFT).filter(|&row| row < height);
            sources.extend((0..width).map(|column| {
                let from_column = (column + left).checked_sub(SHIFT).filter(|&column| column < width);
                match (from_row, from_column) {
                    (Some(from_row), Some(from_column)) if !self.erases(row, column) => {
                        let from_column = if self.is_mirrored { width - 1 - from_column } else { from_column };
                        (from_row * width + from_column) as i32
                    }
                    _ => background,
                }
            }));
        }
    }

    fn erases(&self, row: usize, column: usize) -> bool {
        self.erased.as_ref().is_some_and(|[rows, columns]| rows.contains(&row) && columns.contains(&column))
    }
}

/// Rows and columns to erase, if any: algorithm 1 of Zhong et al., where the aspect ratio is uniform.
fn rectangle(random: &mut impl Rng, [height, width]: [usize; 2]) -> Option<[Range<usize>; 2]> {
    if !random.random_bool(ERASE_PROBABILITY) {
        return None;
    }
    (0..ERASE_ATTEMPTS).find_map(|_| {
        let area = random.random_range(ERASED_SHARE) * (height * width) as f64;
        let aspect = random.random_range(ERASED_ASPECT);
        // A root is exact to the last bit on every machine; a logarithm, for torchvision's distribution, is not.
        let rows = (area * aspect).sqrt().round() as usize;
        let columns = (area / aspect).sqrt().round() as usize;
        if rows > height || columns > width {
            return None;
        }
        let top = random.random_range(0..=height - rows);
        let left = random.random_range(0..=width - columns);
        Some([top..top + rows, left..left + columns])
    })
}

/// The pixels of a batch that [`Augmenter::sources`] names, gathered on the device.
///
/// # Shapes
/// - images: `[batch, height * width]`
/// - sources: `[batch, height * width]`
/// - output: `[batch, height * width]`
pub(crate) fn pick(images: Tensor<2>, sources: Vec<i32>, background: f32) -> Tensor<2> {
    let [batch, pixels] = images.dims();
    let device = images.device();
    let column = TensorData::new(vec![background; batch], [batch, 1]);
    let column = Tensor::<2>::from_data(column, (&device, images.dtype()));
    let sources = Tensor::<2, Int>::from_data(TensorData::new(sources, [batch, pixels]), &device);
    Tensor::cat(vec![images, column], 1).gather(1, sources) // [batch, height * width + 1] to [batch, height * width]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use burn::tensor::Device;

    use super::*;

    const ALL: [Augmentation; 3] = [Augmentation::Shift, Augmentation::Flip, Augmentation::Erase];
    const MNIST: [usize; 2] = [28, 28];
    const UNCHANGED: Change = Change { is_mirrored: false, corner: [SHIFT; 2], erased: None };

    fn changes(augmentations: &[Augmentation], count: usize) -> Vec<Change> {
        let augmenter = Augmenter::new(augmentations, 7);
        (0..count).map(|index| augmenter.change(1, index, MNIST)).collect()
    }

    fn sources(change: &Change, size: [usize; 2]) -> Vec<i32> {
        let mut sources = Vec::new();
        change.append_sources(size, &mut sources);
        sources
    }

    #[test]
    fn seed_epoch_and_index_decide_a_change_and_each_of_them_matters() {
        let drawn = |seed, epoch, first: usize| -> Vec<Change> {
            let augmenter = Augmenter::new(&ALL, seed);
            (first..first + 20).map(|index| augmenter.change(epoch, index, MNIST)).collect()
        };
        assert_eq!(drawn(1, 2, 3), drawn(1, 2, 3));
        assert_eq!(drawn(1, 2, 3)[1..], drawn(1, 2, 4)[..19]);
        for other in [drawn(2, 2, 3), drawn(1, 3, 3), drawn(1, 2, 4)] {
            assert_ne!(drawn(1, 2, 3), other);
        }
    }

    #[test]
    fn changes_are_the_same_on_every_machine_and_in_every_version() {
        // Pinned, from ChaCha8 and rand's sampling written anew in Python: a difference would change what every recorded
        // seed means.
        let augmenter = Augmenter::new(&ALL, 42);
        let drawn = |index| augmenter.change(1, index, MNIST);
        assert_eq!(drawn(0), Change { is_mirrored: false, corner: [3, 0], erased: Some([11..23, 23..27]) });
        assert_eq!(drawn(1), Change { is_mirrored: true, corner: [1, 1], erased: None });
        assert_eq!(drawn(2), Change { is_mirrored: false, corner: [0, 3], erased: Some([5..22, 14..22]) });
        assert_eq!(drawn(3), Change { is_mirrored: true, corner: [4, 1], erased: Some([3..21, 6..12]) });
    }

    #[test]
    fn one_augmentation_more_changes_no_other_ones_draws() {
        let all = changes(&ALL, 100);
        let expected = |take: fn(&Change) -> Change| all.iter().map(take).collect::<Vec<_>>();
        let alone = |augmentation| changes(&[augmentation], 100);
        assert_eq!(alone(Augmentation::Shift), expected(|change| Change { corner: change.corner, ..UNCHANGED }));
        assert_eq!(
            alone(Augmentation::Flip),
            expected(|change| Change { is_mirrored: change.is_mirrored, ..UNCHANGED })
        );
        assert_eq!(
            alone(Augmentation::Erase),
            expected(|change| Change { erased: change.erased.clone(), ..UNCHANGED })
        );
    }

    #[test]
    fn without_a_change_every_pixel_is_its_own() {
        assert_eq!(sources(&UNCHANGED, [3, 4]), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn a_shift_moves_all_pixels_by_at_most_two_and_brings_background_in() {
        let (height, width) = (6_i32, 7_i32);
        let mut shifts = BTreeSet::new();
        for change in changes(&[Augmentation::Shift], 1000) {
            let sources = sources(&change, [height as usize, width as usize]);
            let moved: BTreeSet<_> = (0..height * width)
                .zip(&sources)
                .filter(|&(_, &from)| from < height * width)
                .map(|(to, from)| (to / width - from / width, to % width - from % width))
                .collect();
            let &(down, right) = moved.first().unwrap();
            assert_eq!(moved.len(), 1, "{change:?} moves its pixels by {moved:?}");
            assert!(down.abs() <= 2 && right.abs() <= 2, "{change:?}");
            let background = sources.iter().filter(|&&from| from == height * width).count() as i32;
            assert_eq!(background, height * width - (height - down.abs()) * (width - right.abs()));
            shifts.insert((down, right));
        }
        // Each of them is drawn 40 times on average.
        assert_eq!(shifts.len(), 25);
    }

    #[test]
    fn flipping_reverses_every_row_and_twice_changes_nothing() {
        let flip = sources(&Change { is_mirrored: true, ..UNCHANGED }, [3, 4]);
        assert_eq!(flip[..8], [3, 2, 1, 0, 7, 6, 5, 4]);
        let twice: Vec<i32> = flip.iter().map(|&from| flip[from as usize]).collect();
        assert_eq!(twice, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn half_of_the_images_are_flipped() {
        let flipped = changes(&[Augmentation::Flip], 2000).iter().filter(|change| change.is_mirrored).count();
        // Four standard deviations of 2,000 fair coins: 4 sqrt(2000 / 4) = 89.
        assert!(flipped.abs_diff(1000) <= 89, "{flipped}");
    }

    #[test]
    fn half_of_the_images_lose_a_rectangle_of_the_size_asked_for() {
        let changes = changes(&[Augmentation::Erase], 2000);
        let erased: Vec<_> = changes.iter().filter_map(|change| change.erased.as_ref()).collect();
        // As above; that none of ten rectangles fits does not happen.
        assert!(erased.len().abs_diff(1000) <= 89, "{}", erased.len());
        for [rows, columns] in &erased {
            assert!(rows.end <= 28 && columns.end <= 28, "{rows:?} {columns:?}");
            // Each side was at most half a pixel shorter or longer before it was rounded.
            let bounds = |by: f64| (rows.len() as f64 + by, columns.len() as f64 + by);
            let ((low_height, low_width), (high_height, high_width)) = (bounds(-0.5), bounds(0.5));
            assert!(low_height * low_width <= 0.33 * 784.0 && high_height * high_width >= 0.02 * 784.0);
            assert!(low_height / high_width <= 3.3 && high_height / low_width >= 0.3);
        }
        // Uniform from 16 to 259 pixels: of a thousand areas a twentieth lies within 12 pixels of either end.
        let areas = || erased.iter().map(|[rows, columns]| rows.len() * columns.len());
        assert!(areas().any(|area| area < 28) && areas().any(|area| area > 247));
    }

    #[test]
    fn all_three_are_a_flip_then_a_shift_then_a_hole() {
        let size = [5, 6];
        let erased = Some([1..3, 2..5]);
        let (flip, shift, hole) = (
            sources(&Change { is_mirrored: true, ..UNCHANGED }, size),
            sources(&Change { corner: [1, 4], ..UNCHANGED }, size),
            sources(&Change { erased: erased.clone(), ..UNCHANGED }, size),
        );
        assert_eq!(hole.iter().filter(|&&from| from == 30).count(), 6);
        let follow = |map: &[i32], to: i32| map.get(to as usize).copied().unwrap_or(30);
        let expected: Vec<i32> = (0..30).map(|to| follow(&flip, follow(&shift, follow(&hole, to)))).collect();
        assert_eq!(sources(&Change { is_mirrored: true, corner: [1, 4], erased }, size), expected);
    }

    #[test]
    fn picking_takes_the_background_for_the_index_behind_the_last_pixel() {
        let device = Device::flex();
        let images = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], &device);
        let picked = pick(images, vec![4, 0, 1, 2, 3, 2, 4, 4], -0.5);
        let picked: Vec<f32> = picked.into_data().iter::<f32>().collect();
        assert_eq!(picked, [-0.5, 1.0, 2.0, 3.0, 8.0, 7.0, -0.5, -0.5]);
    }
}
