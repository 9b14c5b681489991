//! What is drawn for an image: torchvision's distributions, but for holes.

use std::ops::Range;

use kindling_config::augment;
use rand::{Rng, RngExt};

use super::map::Affine;

/// How often a rectangle is drawn until one fits into the image: torchvision's, for crops as for holes.
const ATTEMPTS: usize = 10;

/// A number from `-most` to `most`.
pub(super) fn either_way(random: &mut impl Rng, most: f64) -> f64 {
    random.random_range(-most..=most)
}

/// What torchvision's `RandomAffine` draws.
pub(super) fn affine(random: &mut impl Rng, affine: &augment::Affine, [height, width]: [usize; 2]) -> Affine {
    let angle = either_way(random, affine.degrees);
    let translate = [width, height].map(|side| either_way(random, affine.translate * side as f64).round_ties_even());
    let scale = random.random_range(affine.scale_min..=affine.scale_max);
    Affine { angle, translate, scale, shear: either_way(random, affine.shear) }
}

/// Rows and columns that torchvision's `RandomResizedCrop` draws.
pub(super) fn part(
    random: &mut impl Rng,
    crop: &augment::ResizedCrop,
    [height, width]: [usize; 2],
) -> [Range<usize>; 2] {
    let ratios = libm::log(crop.ratio_min)..=libm::log(crop.ratio_max);
    for _ in 0..ATTEMPTS {
        let area = random.random_range(crop.scale_min..=crop.scale_max) * (height * width) as f64;
        let ratio = libm::exp(random.random_range(ratios.clone()));
        let rows = (area / ratio).sqrt().round_ties_even() as usize;
        let columns = (area * ratio).sqrt().round_ties_even() as usize;
        if (1..=height).contains(&rows) && (1..=width).contains(&columns) {
            let top = random.random_range(0..=height - rows);
            let left = random.random_range(0..=width - columns);
            return [top..top + rows, left..left + columns];
        }
    }
    // The largest part in the middle whose ratio is allowed.
    let side = |wanted: f64, most: usize| (wanted.round_ties_even() as usize).clamp(1, most);
    let rows = side(width as f64 / crop.ratio_min, height);
    let columns = side(height as f64 * crop.ratio_max, width);
    let middle = |part: usize, whole: usize| (whole - part) / 2..(whole - part) / 2 + part;
    [middle(rows, height), middle(columns, width)]
}

/// Rows and columns to erase, if any: algorithm 1 of Zhong et al. 2017 (<https://arxiv.org/abs/1708.04896>), where the
/// ratio, of height to width, is uniform.
pub(super) fn hole(
    random: &mut impl Rng,
    erase: &augment::Erase,
    [height, width]: [usize; 2],
) -> Option<[Range<usize>; 2]> {
    if !random.random_bool(erase.probability) {
        return None;
    }
    (0..ATTEMPTS).find_map(|_| {
        let area = random.random_range(erase.scale_min..=erase.scale_max) * (height * width) as f64;
        let aspect = random.random_range(erase.ratio_min..=erase.ratio_max);
        // Recorded seeds mean this distribution; torchvision's is that of a logarithm.
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

#[cfg(test)]
mod tests {
    use kindling_training::stream;

    use super::*;

    #[test]
    fn half_of_the_images_lose_a_rectangle_of_the_size_asked_for() {
        let mut random = stream(5, "test", 0);
        let holes: Vec<_> = (0..2000).map(|_| hole(&mut random, &augment::Erase::default(), [28, 28])).collect();
        let erased: Vec<_> = holes.iter().flatten().collect();
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
    fn a_resized_crop_has_the_area_and_the_ratio_asked_for_and_else_the_middle() {
        let mut random = stream(5, "test", 0);
        let crop = augment::ResizedCrop::default();
        for _ in 0..500 {
            let [rows, columns] = part(&mut random, &crop, [20, 30]);
            assert!(rows.end <= 20 && columns.end <= 30 && !rows.is_empty() && !columns.is_empty());
            let [height, width] = [rows.len() as f64, columns.len() as f64];
            assert!((height + 0.5) * (width + 0.5) >= 0.08 * 600.0 && (height - 0.5) * (width - 0.5) <= 600.0);
            assert!((width + 0.5) / (height - 0.5) >= 0.75 && (width - 0.5) / (height + 0.5) <= 4.0 / 3.0);
        }
        // Nothing of the whole area is as narrow as that in an image as wide as this.
        let all = augment::ResizedCrop { scale_min: 1.0, ..crop.clone() };
        assert_eq!(part(&mut random, &all, [3, 300]), [0..3, 148..152]);
        assert_eq!(part(&mut random, &all, [300, 3]), [148..152, 0..3]);
        assert_eq!(part(&mut random, &crop, [1, 1]), [0..1, 0..1]);
    }
}
