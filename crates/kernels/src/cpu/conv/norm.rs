//! Batch norm's numbers.

use pulp::Simd;

use super::{Parameters, plan::Plan};

/// Statistics over batch, height and width.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    /// `[outputs]`
    pub(crate) mean: Vec<f32>,
    /// With the number of values as its divisor, `[outputs]`.
    pub(crate) variance: Vec<f32>,
}

/// Batch norm for each channel: `(z - mean) * scale + beta`; without it `z`.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) inverse_std: Vec<f32>,
}

/// A vector of channels of a [`Norm`].
#[derive(Clone, Copy)]
pub(super) struct NormAt<V> {
    pub(super) mean: V,
    scale: V,
    beta: V,
}

impl Norm {
    /// By these statistics, where there is batch norm.
    pub(super) fn new(plan: Plan, statistics: Option<&Statistics>, it: Parameters<'_>) -> Self {
        let (Some(statistics), Some([gamma, beta])) = (statistics, it.norm) else {
            let (zeros, ones) = (vec![0.0; plan.padded], vec![1.0; plan.padded]);
            return Self { mean: zeros.clone(), scale: ones.clone(), beta: zeros, inverse_std: ones };
        };
        assert_eq!(
            [&statistics.mean, &statistics.variance].map(Vec::len),
            [plan.outputs; 2],
            "one mean for each output"
        );
        let epsilon = plan.layer.epsilon.unwrap_or(0.0) as f32;
        let inverse: Vec<f32> = statistics.variance.iter().map(|var| 1.0 / (var + epsilon).sqrt()).collect();
        let scale: Vec<f32> = inverse.iter().zip(gamma).map(|(inverse, gamma)| inverse * gamma).collect();
        Self {
            mean: plan.pad(&statistics.mean),
            scale: plan.pad(&scale),
            beta: plan.pad(beta),
            inverse_std: plan.pad(&inverse),
        }
    }

    #[inline(always)]
    pub(super) fn at<S: Simd>(&self, v: usize) -> NormAt<S::f32s> {
        let (mean, scale) = (S::as_simd_f32s(&self.mean).0[v], S::as_simd_f32s(&self.scale).0[v]);
        NormAt { mean, scale, beta: S::as_simd_f32s(&self.beta).0[v] }
    }
}

impl<V: Copy> NormAt<V> {
    #[inline(always)]
    pub(super) fn apply<S: Simd<f32s = V>>(self, simd: S, value: V) -> V {
        simd.mul_add_e_f32s(simd.sub_f32s(value, self.mean), self.scale, self.beta)
    }
}

/// The mean of each channel of an image, and the sum of squares around it; `row` numbers are summed by themselves, so that
/// sums stay small beside what is added to them.
#[inline(always)]
pub(super) fn moments<S: Simd>(simd: S, image: &[f32], row: usize, mean: &mut [f32], squares: &mut [f32]) {
    let channels = mean.len();
    let vectors = channels / S::F32_LANES;
    let share = simd.splat_f32s(1.0 / (image.len() / channels) as f32);
    let (mean, squares) = (S::as_mut_simd_f32s(mean).0, S::as_mut_simd_f32s(squares).0);
    let rows = || S::as_simd_f32s(image).0.chunks(row / S::F32_LANES);
    for (v, (mean, squares)) in mean.iter_mut().zip(squares.iter_mut()).enumerate() {
        let total = sum(
            simd,
            rows(),
            (v, vectors),
            #[inline(always)]
            |pixel, sum| simd.add_f32s(sum, pixel),
        );
        let middle = simd.mul_f32s(total, share);
        *mean = middle;
        *squares = sum(
            simd,
            rows(),
            (v, vectors),
            #[inline(always)]
            |pixel, sum| {
                let difference = simd.sub_f32s(pixel, middle);
                simd.mul_add_e_f32s(difference, difference, sum)
            },
        );
    }
}

/// The sum over rows of every `step`th vector from `first` on; four sums at once, since each waits for its last addition.
#[inline(always)]
fn sum<'a, S: Simd>(
    simd: S,
    rows: impl Iterator<Item = &'a [S::f32s]>,
    (first, step): (usize, usize),
    add: impl Fn(S::f32s, S::f32s) -> S::f32s,
) -> S::f32s
where
    S::f32s: 'a,
{
    let zero = simd.splat_f32s(0.0);
    let mut total = zero;
    for row in rows {
        let mut sums = [zero; 4];
        let mut fours = row.chunks_exact(4 * step);
        for four in &mut fours {
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = add(four[index * step + first], *sum);
            }
        }
        for (pixel, sum) in fours.remainder().chunks_exact(step).zip(&mut sums) {
            *sum = add(pixel[first], *sum);
        }
        let [a, b, c, d] = sums;
        total = simd.add_f32s(total, simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)));
    }
    total
}

/// The batch's statistics from each image's, `[batch, 2, channels]`, in the order of the images (Chan, Golub and LeVeque
/// 1979).
pub(super) fn combine(plan: Plan, moments: &[f32]) -> Statistics {
    let channels = plan.padded;
    let pixels = (plan.normalized[0] * plan.normalized[1]) as f64;
    let mut statistics = Statistics { mean: Vec::new(), variance: Vec::new() };
    for channel in 0..plan.outputs {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for image in moments.chunks_exact(2 * channels) {
            let difference = f64::from(image[channel]) - mean;
            let total = count + pixels;
            mean += difference * pixels / total;
            squares += f64::from(image[channels + channel]) + difference * difference * count * pixels / total;
            count = total;
        }
        statistics.mean.push(mean as f32);
        statistics.variance.push((squares / count) as f32);
    }
    statistics
}
