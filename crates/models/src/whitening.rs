//! The frozen filters of airbench's first layer, which decorrelate the patches of its images.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// What the frozen filters of an airbench are made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whitening {
    /// An orthonormal basis of cosines: the same for all images.
    #[default]
    Cosines,
    /// The training images: the principal components of their patches, divided by their standard deviations.
    Images,
}

/// Training images that whitening filters are made from, as in `airbench94.py`.
const IMAGES: usize = 5_000;
/// Numbers in so many images of CIFAR-10: of larger images there are fewer.
const NUMBERS: usize = IMAGES * 3 * 32 * 32;
/// What is added to a variance before the root is taken, as in `airbench94.py`.
const EPSILON: f64 = 5e-4;
/// After so many sweeps over the matrix the rotations end in any case: 6 to 10 are usual.
const SWEEPS: usize = 50;
/// A matrix is diagonal where the squares beside its diagonal sum to so little of all.
const DIAGONAL: f64 = 1e-30;

/// Number of training images that filters are made from, for images of so many numbers.
pub(crate) fn sample(numbers: usize) -> usize {
    (NUMBERS / numbers.max(1)).clamp(1, IMAGES)
}

/// The values, and then all of them again with the other sign.
pub(crate) fn in_both_signs(mut values: Vec<f32>) -> Vec<f32> {
    let negative: Vec<f32> = values.iter().map(|value| -value).collect();
    values.extend(negative);
    values
}

/// The orthonormal DCT-II of patches `[channels, size, size]`: one patch for each frequency, the lowest first,
/// `[channels * size * size]` of them.
pub(crate) fn cosines(channels: usize, size: usize) -> Vec<f32> {
    let wave = |count: usize, frequency: usize, at: usize| {
        let scale = if frequency == 0 { 1.0 } else { 2.0 } / count as f64;
        scale.sqrt() * (PI * (at as f64 + 0.5) * frequency as f64 / count as f64).cos()
    };
    let places = || (0..channels).flat_map(move |c| (0..size).flat_map(move |y| (0..size).map(move |x| (c, y, x))));
    places()
        .flat_map(|(c, y, x)| {
            places().map(move |(channel, row, column)| {
                (wave(channels, c, channel) * wave(size, y, row) * wave(size, x, column)) as f32
            })
        })
        .collect()
}

/// The filters `[channels * size * size, channels, size, size]` that whiten the patches of `images`, the direction of the
/// largest variance first.
///
/// They are v / √(λ + ε) for each eigenvector v of the patches' second moments, which are not centered, and its eigenvalue
/// λ: `init_whitening_conv` of `airbench94.py` in KellerJordan/cifar10-airbench. Filtered patches have second moments of
/// λ / (λ + ε), and none between them.
///
/// # Shapes
/// - images: `[count, channels, height, width]`, row by row; `shape` is `[channels, height, width]`
pub(crate) fn of_images(images: &[f32], shape: [usize; 3], size: usize) -> Vec<f32> {
    let filter = |(value, vector): (f64, Vec<f64>)| {
        let scale = (value.max(0.0) + EPSILON).sqrt().recip();
        vector.into_iter().map(move |component| (component * scale) as f32)
    };
    eigenpairs(second_moments(images, shape, size), shape[0] * size * size).into_iter().flat_map(filter).collect()
}

/// The mean of x xᵀ over all patches x of all images: `[channels * size * size]` rows and columns.
fn second_moments(images: &[f32], [channels, height, width]: [usize; 3], size: usize) -> Vec<f64> {
    let [rows, columns] = [height, width].map(|pixels| (pixels + 1).saturating_sub(size));
    let of_channel = |channel| (0..size).flat_map(move |y| (0..size).map(move |x| (channel * height + y) * width + x));
    // Where an image has the numbers of its first patch.
    let starts: Vec<usize> = (0..channels).flat_map(of_channel).collect();
    let (length, numbers) = (starts.len(), (channels * height * width).max(1));
    let mut moments = vec![0.0; length * length];
    // A sum for each column, so that many are added at once.
    let mut sums = vec![0.0; columns];
    for image in images.chunks_exact(numbers) {
        let pixels: Vec<f64> = image.iter().map(|&pixel| f64::from(pixel)).collect();
        for (first, &start) in starts.iter().enumerate() {
            for (second, &other) in starts.iter().enumerate().skip(first) {
                sums.fill(0.0);
                for row in 0..rows {
                    let [a, b] = [start, other].map(|start| &pixels[start + row * width..][..columns]);
                    sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
                }
                moments[first * length + second] += sums.iter().sum::<f64>();
            }
        }
    }
    let patches = (images.len() / numbers * rows * columns).max(1) as f64;
    (0..length * length)
        .map(|at| moments[(at / length).min(at % length) * length + (at / length).max(at % length)] / patches)
        .collect()
}

/// The eigenvalues of a symmetric matrix, `length` rows and columns, with eigenvectors of length 1, the largest eigenvalue
/// first. Of the components of a vector that are largest in size, the first is positive.
///
/// Cyclic Jacobi rotations: Golub and Van Loan, "Matrix Computations", 4th edition, section 8.5. In f64 and in one order, so
/// that all machines get the same bits.
fn eigenpairs(mut matrix: Vec<f64>, length: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors = vec![0.0; length * length]; // one a row
    (0..length).for_each(|index| vectors[index * (length + 1)] = 1.0);
    let squares = |matrix: &[f64], is_counted: fn(usize, usize) -> bool| {
        let counted = (0..length * length).filter(|at| is_counted(at / length, at % length));
        counted.map(|at| matrix[at] * matrix[at]).sum::<f64>()
    };
    let enough = DIAGONAL * squares(&matrix, |_, _| true);
    for _ in 0..SWEEPS {
        if squares(&matrix, |row, column| row != column) <= enough {
            break;
        }
        for (p, q) in (0..length).flat_map(|p| (p + 1..length).map(move |q| (p, q))) {
            let beside = matrix[p * length + q];
            if beside == 0.0 {
                continue;
            }
            // The smaller one of the two angles that make it 0.
            let ratio = (matrix[q * (length + 1)] - matrix[p * (length + 1)]) / (2.0 * beside);
            let tangent = ratio.signum() / (ratio.abs() + (1.0 + ratio * ratio).sqrt());
            let cosine = (1.0 + tangent * tangent).sqrt().recip();
            let sine = tangent * cosine;
            let rotate = |values: &mut [f64], first: usize, second: usize| {
                let (a, b) = (values[first], values[second]);
                (values[first], values[second]) = (cosine * a - sine * b, sine * a + cosine * b);
            };
            (0..length).for_each(|row| rotate(&mut matrix, row * length + p, row * length + q));
            for column in 0..length {
                rotate(&mut matrix, p * length + column, q * length + column);
                rotate(&mut vectors, p * length + column, q * length + column);
            }
            (matrix[p * length + q], matrix[q * length + p]) = (0.0, 0.0);
        }
    }
    let pair = |(index, vector): (usize, &[f64])| {
        let largest = vector.iter().fold(0.0_f64, |largest, component| largest.max(component.abs()));
        // Those of one size differ by rounding alone.
        let first = vector.iter().find(|component| component.abs() >= largest * (1.0 - 1e-6));
        let sign = first.map_or(1.0, |component| component.signum());
        (matrix[index * (length + 1)], vector.iter().map(|component| sign * component).collect())
    };
    let mut pairs: Vec<(f64, Vec<f64>)> = vectors.chunks_exact(length.max(1)).enumerate().map(pair).collect();
    pairs.sort_by(|(value, _), (other, _)| other.total_cmp(value));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six images of 5x4 pixels from -0.5 to 0.75, as in the Python below.
    fn images(channels: usize) -> Vec<f32> {
        let places = (0..6 * channels * 20).map(|at| (at / (channels * 20), at / 20 % channels, at / 4 % 5, at % 4));
        let pixel = |(n, c, y, x)| (n * 7 + c * 5 + y * y * 3 + x * (n + 2) * (c + 1) + y * x) % 11;
        places.map(|place| pixel(place) as f32 / 8.0 - 0.5).collect()
    }

    fn is_near(found: &[f32], wanted: &[f32]) -> bool {
        // Six digits after the point are written down.
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 2e-6)
    }

    /// By PyTorch 2.9:
    ///
    /// ```python
    /// n, c, y, x = (torch.arange(side).double().reshape(shape) for side, shape in
    ///     [(6, (-1, 1, 1, 1)), (channels, (1, -1, 1, 1)), (5, (1, 1, -1, 1)), (4, (1, 1, 1, -1))])
    /// images = (n * 7 + c * 5 + y * y * 3 + x * (n + 2) * (c + 1) + y * x) % 11 / 8 - 0.5
    /// patches = torch.nn.functional.unfold(images, size).mT.flatten(0, 1)
    /// values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    /// vectors *= vectors.gather(0, vectors.abs().argmax(0)[None]).sign()
    /// print((vectors / (values + 5e-4).sqrt()).T.flip(0))
    /// ```
    #[test]
    fn filters_are_pytorchs_eigenvectors_over_the_roots_of_their_eigenvalues() {
        let wanted = [
            [-0.298_156, 1.456_367, 0.280_229, 1.420_617],
            [1.387_023, 0.149_358, 1.672_49, -0.191_924],
            [1.184_939, -0.999_313, -0.730_807, 1.417_31],
            [1.898_698, 1.924_174, -1.884_434, -1.202_381],
        ];
        assert!(is_near(&of_images(&images(1), [1, 5, 4], 2), &wanted.concat()));
        // The first and the last of two channels, and those of 3x3 pixels.
        let (first, last) = (
            [-0.333_01, 1.110_7, 0.248_109, 0.978_988, 0.183_906, 0.807_804, 0.350_517, 0.536_235],
            [1.996_495, 1.762_907, -1.848_33, -1.199_698, -0.720_789, 0.140_898, 1.069_775, -0.030_52],
        );
        let found = of_images(&images(2), [2, 5, 4], 2);
        assert!(found.len() == 64 && is_near(&found[..8], &first) && is_near(&found[56..], &last), "{found:?}");
        let (first, last) = (
            [-0.473_565, 0.709_574, -0.572_47, 0.280_123, -0.510_116, 0.375_662, 0.301_561, -0.649_757, 0.674_339],
            [-0.739_144, -0.888_713, -1.497_648, 2.173_586, 2.838_554, 2.244_268, -1.857_75, -1.193_99, -1.180_903],
        );
        let found = of_images(&images(1), [1, 5, 4], 3);
        assert!(found.len() == 81 && is_near(&found[..9], &first) && is_near(&found[72..], &last), "{found:?}");
    }

    /// The filters, one by one, on each patch: `[patches][filters]`.
    fn filtered(images: &[f32], [channels, height, width]: [usize; 3], size: usize, filters: &[f32]) -> Vec<Vec<f64>> {
        let mut outputs = Vec::new();
        for image in images.chunks(channels * height * width) {
            for (top, left) in (0..=height - size).flat_map(|top| (0..=width - size).map(move |left| (top, left))) {
                let pixel = |at: usize| {
                    let (channel, row, column) = (at / (size * size), at / size % size, at % size);
                    f64::from(image[(channel * height + top + row) * width + left + column])
                };
                let output =
                    |filter: &[f32]| filter.iter().enumerate().map(|(at, it)| f64::from(*it) * pixel(at)).sum();
                outputs.push(filters.chunks(channels * size * size).map(output).collect());
            }
        }
        outputs
    }

    #[test]
    fn filtered_patches_of_the_images_have_the_identity_for_their_second_moments() {
        for (channels, size) in [(1, 2), (2, 2), (1, 3)] {
            // Ten times the numbers: the least eigenvalue is above 3.
            let images: Vec<f32> = images(channels).into_iter().map(|pixel| 10.0 * pixel).collect();
            let shape = [channels, 5, 4];
            let outputs = filtered(&images, shape, size, &of_images(&images, shape, size));
            for (first, second) in (0..outputs[0].len()).flat_map(|a| (0..=a).map(move |b| (a, b))) {
                let moment = outputs.iter().map(|it| it[first] * it[second]).sum::<f64>() / outputs.len() as f64;
                // λ / (λ + ε) is less than 1 by up to ε / 3; the filters are rounded to f32.
                let wanted = if first == second { 1.0 - EPSILON / 6.0 } else { 0.0 };
                assert!((moment - wanted).abs() < EPSILON / 6.0 + 1e-5, "{first} {second}: {moment}");
            }
        }
    }

    #[test]
    fn a_constant_channel_and_images_of_zeros_give_finite_filters() {
        let scale = (1.0 / EPSILON).sqrt() as f32;
        let mut images = images(2);
        images.chunks_mut(40).for_each(|image| image[20..].fill(0.0));
        let filters = of_images(&images, [2, 5, 4], 2);
        assert!(filters.iter().all(|value| value.is_finite()));
        // The empty channel has variances of 0, which come last.
        assert!(filters[32..].chunks(8).all(|filter| filter[..4].iter().all(|value| value.abs() < 1e-4)));
        let norm = |filter: &[f32]| filter.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!(filters[32..].chunks(8).all(|filter| (norm(filter) / scale - 1.0).abs() < 1e-5));
        images.fill(0.0);
        let filters = of_images(&images, [2, 5, 4], 2);
        let wanted: Vec<f32> = (0..64).map(|at| if at % 9 == 0 { scale } else { 0.0 }).collect();
        assert_eq!(filters, wanted);
        // Equal everywhere: one direction has all of the second moment.
        images.fill(0.5);
        assert!(of_images(&images, [2, 5, 4], 2).iter().all(|value| value.is_finite()));
        images.fill(f32::NAN);
        assert_eq!(of_images(&images, [2, 5, 4], 2).len(), 64);
    }

    #[test]
    fn a_sample_has_5000_images_and_of_larger_ones_as_many_as_have_the_same_numbers() {
        assert_eq!([784, 3 * 32 * 32, 3 * 64 * 64, usize::MAX].map(sample), [5000, 5000, 1250, 1]);
    }
}
