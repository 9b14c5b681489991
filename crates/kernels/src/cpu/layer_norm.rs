//! Layer norm: each row with its own mean and variance.

use std::ops::Range;

use pulp::{Scalar, Simd, WithSimd};

use super::{
    Level,
    output::{Output, Target},
    parallel,
};

/// Rows of a task, and at least of a part of the parameters' gradients.
const ROWS: usize = 16;
/// Most parts of a sum over the rows.
const PARTS: usize = 16;

/// What [`backward`] needs of forward beside x, for each row.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    mean: Vec<f32>,
    /// `1 / √(variance + ε)`
    scale: Vec<f32>,
}

/// The gradients of [`forward`].
pub(crate) struct Gradients {
    /// `[rows, columns]`, if asked for.
    pub(crate) x: Option<Vec<f32>>,
    /// `[columns]`
    pub(crate) gamma: Vec<f32>,
    /// `[columns]`
    pub(crate) beta: Vec<f32>,
}

/// `γ (x - mean) / √(variance + ε) + β`, `[rows, columns]`, for x of that shape and γ and β `[columns]`. The variance
/// has the number of columns as its divisor.
pub(crate) fn forward(level: Level, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> (Vec<f32>, Saved) {
    let columns = gamma.len();
    let rows = x.len() / columns.max(1);
    assert_eq!(x.len(), rows * columns);
    assert_eq!(beta.len(), columns);
    let [mut y, mut mean, mut scale] = [x.len(), rows, rows].map(Output::new);
    let [to, means, scales] = [&mut y, &mut mean, &mut scale].map(Output::target);
    parallel::for_each(rows.div_ceil(ROWS), |task| {
        let rows = task * ROWS..rows.min((task + 1) * ROWS);
        level.run(Forward { x, gamma, beta, epsilon, rows, y: to, means, scales });
    });
    // SAFETY: the tasks have written every row.
    unsafe { (y.finish(), Saved { mean: mean.finish(), scale: scale.finish() }) }
}

struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    rows: Range<usize>,
    y: Target<'a>,
    means: Target<'a>,
    scales: Target<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (columns, one) = (self.gamma.len(), Scalar::new());
        // What does not fill a vector is a row of its own.
        let whole = columns - columns % S::F32_LANES;
        let ((gamma, gamma_rest), (beta, beta_rest)) = (self.gamma.split_at(whole), self.beta.split_at(whole));
        for row in self.rows {
            let (x, rest) = self.x[row * columns..][..columns].split_at(whole);
            let mean = (sum(simd, x) + sum(one, rest)) / columns as f32;
            let variance = (squares(simd, x, mean) + squares(one, rest, mean)) / columns as f32;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            let y = self.y.place(row * columns, columns);
            // SAFETY: each task has rows of its own.
            unsafe {
                normalize(simd, x, [mean, scale], gamma, beta, y);
                normalize(one, rest, [mean, scale], gamma_rest, beta_rest, y.add(whole));
                self.means.set(row, mean);
                self.scales.set(row, scale);
            }
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for x in S::as_simd_f32s(x).0 {
        sum = simd.add_f32s(sum, *x);
    }
    simd.reduce_sum_f32s(sum)
}

/// `Σ (x - mean)²`
#[inline(always)]
fn squares<S: Simd>(simd: S, x: &[f32], mean: f32) -> f32 {
    let (mut sum, mean) = (simd.splat_f32s(0.0), simd.splat_f32s(mean));
    for x in S::as_simd_f32s(x).0 {
        let centered = simd.sub_f32s(*x, mean);
        sum = simd.mul_add_e_f32s(centered, centered, sum);
    }
    simd.reduce_sum_f32s(sum)
}

/// Writes the whole vectors of a row.
///
/// # Safety
/// `y` has room for them.
#[inline(always)]
unsafe fn normalize<S: Simd>(simd: S, x: &[f32], [mean, scale]: [f32; 2], gamma: &[f32], beta: &[f32], y: *mut f32) {
    let [mean, scale] = [simd.splat_f32s(mean), simd.splat_f32s(scale)];
    let parameters = S::as_simd_f32s(gamma).0.iter().zip(S::as_simd_f32s(beta).0);
    for (index, (x, (gamma, beta))) in S::as_simd_f32s(x).0.iter().zip(parameters).enumerate() {
        let normalized = simd.mul_f32s(simd.sub_f32s(*x, mean), scale);
        // SAFETY: the caller's promise.
        unsafe { y.cast::<S::f32s>().add(index).write_unaligned(simd.mul_add_e_f32s(normalized, *gamma, *beta)) };
    }
}

/// The gradients for `dy`, `[rows, columns]`.
pub(crate) fn backward(level: Level, x: &[f32], gamma: &[f32], saved: &Saved, dy: &[f32], wants_x: bool) -> Gradients {
    let (rows, columns) = (saved.mean.len(), gamma.len());
    assert_eq!([x.len(), dy.len()], [rows * columns; 2]);
    let parts = rows.div_ceil(ROWS).min(PARTS);
    // Each part's gradients of gamma and of beta.
    let mut sums = vec![0.0; parts * 2 * columns];
    let mut dx = Output::new(if wants_x { x.len() } else { 0 });
    let (to, part_sums) = (wants_x.then(|| dx.target()), Target::of(&mut sums));
    parallel::for_each(parts, |part| {
        let rows = part * rows / parts..(part + 1) * rows / parts;
        // SAFETY: each task has a part of its own.
        let sums = unsafe { part_sums.slice(part * 2 * columns, 2 * columns) };
        level.run(Backward { x, gamma, saved, dy, rows, dx: to, sums });
    });
    let mut dgamma = vec![0.0; 2 * columns];
    level.vectorize(
        #[inline(always)]
        || {
            for part in sums.chunks_exact((2 * columns).max(1)) {
                for (sum, part) in dgamma.iter_mut().zip(part) {
                    *sum += part;
                }
            }
        },
    );
    let dbeta = dgamma.split_off(columns);
    // SAFETY: the tasks have written every row.
    Gradients { x: wants_x.then(|| unsafe { dx.finish() }), gamma: dgamma, beta: dbeta }
}

struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    saved: &'a Saved,
    dy: &'a [f32],
    rows: Range<usize>,
    dx: Option<Target<'a>>,
    sums: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (columns, one) = (self.gamma.len(), Scalar::new());
        let whole = columns - columns % S::F32_LANES;
        let (gamma, gamma_rest) = self.gamma.split_at(whole);
        let (dgamma, dbeta) = self.sums.split_at_mut(columns);
        let (dgamma, dgamma_rest) = dgamma.split_at_mut(whole);
        let (dbeta, dbeta_rest) = dbeta.split_at_mut(whole);
        for row in self.rows {
            let (x, rest) = self.x[row * columns..][..columns].split_at(whole);
            let (dy, dy_rest) = self.dy[row * columns..][..columns].split_at(whole);
            let moments = [self.saved.mean[row], self.saved.scale[row]];
            let [sum, product] = gather(simd, x, moments, gamma, dy, dgamma, dbeta);
            let [sum_rest, product_rest] = gather(one, rest, moments, gamma_rest, dy_rest, dgamma_rest, dbeta_rest);
            let means = [(sum + sum_rest) / columns as f32, (product + product_rest) / columns as f32];
            if let Some(dx) = self.dx {
                let dx = dx.place(row * columns, columns);
                // SAFETY: each task has rows of its own.
                unsafe {
                    differentiate(simd, x, moments, gamma, dy, means, dx);
                    differentiate(one, rest, moments, gamma_rest, dy_rest, means, dx.add(whole));
                }
            }
        }
    }
}

/// Adds a row to the parameters' gradients; `Σ g` and `Σ g x̂` for `g = γ dy`.
#[inline(always)]
fn gather<S: Simd>(
    simd: S,
    x: &[f32],
    [mean, scale]: [f32; 2],
    gamma: &[f32],
    dy: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) -> [f32; 2] {
    let [mean, scale] = [simd.splat_f32s(mean), simd.splat_f32s(scale)];
    let [mut sum, mut product] = [simd.splat_f32s(0.0); 2];
    let sums = S::as_mut_simd_f32s(dgamma).0.iter_mut().zip(S::as_mut_simd_f32s(dbeta).0);
    let factors = S::as_simd_f32s(gamma).0.iter().zip(S::as_simd_f32s(dy).0);
    for (x, ((gamma, dy), (dgamma, dbeta))) in S::as_simd_f32s(x).0.iter().zip(factors.zip(sums)) {
        let normalized = simd.mul_f32s(simd.sub_f32s(*x, mean), scale);
        *dgamma = simd.mul_add_e_f32s(*dy, normalized, *dgamma);
        *dbeta = simd.add_f32s(*dbeta, *dy);
        let g = simd.mul_f32s(*gamma, *dy);
        sum = simd.add_f32s(sum, g);
        product = simd.mul_add_e_f32s(g, normalized, product);
    }
    [simd.reduce_sum_f32s(sum), simd.reduce_sum_f32s(product)]
}

/// Writes the whole vectors of a row's `(g - mean(g) - x̂ mean(g x̂)) / √(variance + ε)`.
///
/// # Safety
/// `dx` has room for them.
#[inline(always)]
unsafe fn differentiate<S: Simd>(
    simd: S,
    x: &[f32],
    [mean, scale]: [f32; 2],
    gamma: &[f32],
    dy: &[f32],
    [sum, product]: [f32; 2],
    dx: *mut f32,
) {
    let [mean, scale, sum] = [simd.splat_f32s(mean), simd.splat_f32s(scale), simd.splat_f32s(sum)];
    let product = simd.splat_f32s(-product);
    let factors = S::as_simd_f32s(gamma).0.iter().zip(S::as_simd_f32s(dy).0);
    for (index, (x, (gamma, dy))) in S::as_simd_f32s(x).0.iter().zip(factors).enumerate() {
        let normalized = simd.mul_f32s(simd.sub_f32s(*x, mean), scale);
        let g = simd.sub_f32s(simd.mul_f32s(*gamma, *dy), sum);
        let gradient = simd.mul_f32s(simd.mul_add_e_f32s(normalized, product, g), scale);
        // SAFETY: the caller's promise.
        unsafe { dx.cast::<S::f32s>().add(index).write_unaligned(gradient) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const EPSILON: f32 = 1e-5;

    /// x, dy, gamma and beta, none of them centered.
    fn case(rows: usize, columns: usize) -> [Vec<f32>; 4] {
        let mut state = (rows * 1009 + columns) as u32;
        let mut numbers = |count: usize, center: f32| -> Vec<f32> {
            let mut number = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                center + (state >> 8) as f32 / 8_388_608.0 - 1.0
            };
            (0..count).map(|_| number()).collect()
        };
        [numbers(rows * columns, 3.0), numbers(rows * columns, 0.2), numbers(columns, 0.5), numbers(columns, -0.5)]
    }

    /// Output and gradients by plain loops in `f64`, y, dx, dgamma and dbeta, and the largest of `g / √(variance + ε)`.
    fn plain([x, dy, gamma, beta]: &[Vec<f32>; 4]) -> ([Vec<f64>; 4], f64) {
        let columns = gamma.len();
        let n = columns as f64;
        let (mut y, mut dx, mut largest_term) = (Vec::new(), Vec::new(), 0.0_f64);
        let (mut dgamma, mut dbeta) = (vec![0.0; columns], vec![0.0; columns]);
        for (x, dy) in x.chunks_exact(columns).zip(dy.chunks_exact(columns)) {
            let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let deviation = (variance + f64::from(EPSILON)).sqrt();
            let g: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| f64::from(*dy) * f64::from(*gamma)).collect();
            // By way of the mean's and the variance's own derivatives.
            let by_variance: f64 = g.iter().zip(&x).map(|(g, x)| -0.5 * g * (x - mean) / deviation.powi(3)).sum();
            let by_mean = -g.iter().sum::<f64>() / deviation;
            for column in 0..columns {
                let centered = x[column] - mean;
                let dy = f64::from(dy[column]);
                largest_term = largest_term.max((g[column] / deviation).abs());
                y.push(f64::from(gamma[column]) * centered / deviation + f64::from(beta[column]));
                dx.push(g[column] / deviation + by_variance * 2.0 * centered / n + by_mean / n);
                dgamma[column] += dy * centered / deviation;
                dbeta[column] += dy;
            }
        }
        ([y, dx, dgamma, dbeta], largest_term)
    }

    fn fused(level: Level, [x, dy, gamma, beta]: &[Vec<f32>; 4]) -> [Vec<f32>; 4] {
        let (y, saved) = forward(level, x, gamma, beta, EPSILON);
        let gradients = backward(level, x, gamma, &saved, dy, true);
        [y, gradients.x.unwrap(), gradients.gamma, gradients.beta]
    }

    #[test]
    fn outputs_and_gradients_are_those_of_plain_loops() {
        // Rows that fill no vector, some, and some and a rest; no row, fewer rows than a part, and more than all parts.
        for columns in [1, 3, 7, 16, 33, 100, 512] {
            for rows in [0, 1, 5, 33, 300] {
                let case = case(rows, columns);
                let (expected, largest_term) = plain(&case);
                for level in Level::available() {
                    let what = ["y", "dx", "dgamma", "dbeta"];
                    for ((what, found), expected) in what.iter().zip(fused(level, &case)).zip(&expected) {
                        assert_eq!(found.len(), expected.len());
                        // What is subtracted from one another to give it.
                        let largest = if *what == "dx" { largest_term } else { 1.0 };
                        let largest = expected.iter().fold(largest, |largest: f64, number| largest.max(number.abs()));
                        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                            // Differences of x, near 3, from its mean have lost up to 2⁻²², and rows of three can have
                            // a standard deviation of 1/20.
                            let close = (f64::from(*found) - expected).abs() <= 1e-5 * largest;
                            assert!(close, "{what}[{index}] of {rows}x{columns}: {found}, not {expected} ({level})");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_gradient_of_x_the_others_are_the_same() {
        let [x, dy, gamma, beta] = case(40, 21);
        let saved = forward(Level::best(), &x, &gamma, &beta, EPSILON).1;
        let [all, some] = [true, false].map(|wants| backward(Level::best(), &x, &gamma, &saved, &dy, wants));
        assert!(all.x.is_some() && some.x.is_none());
        assert!(all.gamma == some.gamma && all.beta == some.beta);
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let case = case(300, 77);
        for level in Level::available() {
            let expected = fused(level, &case);
            // What a task calls runs on the task's thread alone.
            let alone: [Mutex<[Vec<f32>; 4]>; 2] = Default::default();
            parallel::for_each(2, |task| *alone[task].lock().unwrap() = fused(level, &case));
            for found in alone {
                assert!(found.into_inner().unwrap() == expected, "{level}");
            }
        }
    }

    #[test]
    fn nan_is_in_its_row_and_nowhere_else() {
        let [mut x, _, gamma, beta] = case(3, 20);
        x[25] = f32::NAN;
        for level in Level::available() {
            let y = forward(level, &x, &gamma, &beta, EPSILON).0;
            for (index, y) in y.iter().enumerate() {
                assert_eq!(y.is_nan(), index / 20 == 1, "element {index} is {y} ({level})");
            }
        }
    }
}
