//! MixUp and CutMix: another image of the split, blended with an image or pasted into it.

use std::ops::Range;

use rand::{Rng, RngExt};

/// The other image that is mixed into one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    /// Its place in the epoch.
    pub(crate) row: usize,
    /// Its share of the target.
    pub(crate) share: f32,
    /// The rows and columns it is pasted to; none where it is blended in.
    pub(crate) pasted: Option<[Range<usize>; 2]>,
}

impl Mix {
    /// Draws MixUp's share for an image in a split of `count`, at least two.
    pub(crate) fn mixup(random: &mut impl Rng, alpha: f64, row: usize, count: usize) -> Self {
        let row = other(random, row, count);
        Self { row, share: beta(random, alpha) as f32, pasted: None }
    }

    /// Draws CutMix's rectangle for an image in a split of `count`, at least two: as torchvision's `CutMix` does, of
    /// any middle, cut off at the edges, whose area is the share.
    pub(crate) fn cutmix(
        random: &mut impl Rng,
        alpha: f64,
        row: usize,
        count: usize,
        [height, width]: [usize; 2],
    ) -> Self {
        let row = other(random, row, count);
        let half = 0.5 * beta(random, alpha).sqrt();
        let mut part = |side: usize| {
            let (middle, half) = (random.random_range(0..side), (half * side as f64) as usize);
            middle.saturating_sub(half)..(middle + half).min(side)
        };
        let columns = part(width);
        let rows = part(height);
        let share = (rows.len() * columns.len()) as f32 / (height * width) as f32;
        Self { row, share, pasted: Some([rows, columns]) }
    }

    /// Mixes the other image in.
    ///
    /// # Shapes
    /// - other and out: `[channels, height, width]`
    pub(crate) fn apply(&self, [_, height, width]: [usize; 3], other: &[f32], out: &mut [f32]) {
        let Some([rows, columns]) = &self.pasted else {
            let (share, rest) = (self.share, 1.0 - self.share);
            return out.iter_mut().zip(other).for_each(|(out, other)| *out = *out * rest + other * share);
        };
        for (out, other) in out.chunks_exact_mut(height * width).zip(other.chunks_exact(height * width)) {
            for row in rows.clone() {
                let part = row * width + columns.start..row * width + columns.end;
                out[part.clone()].copy_from_slice(&other[part]);
            }
        }
    }
}

/// Any of the other places.
fn other(random: &mut impl Rng, row: usize, count: usize) -> usize {
    let drawn = random.random_range(0..count - 1);
    drawn + usize::from(drawn >= row)
}

/// A number of the beta distribution whose two parameters are `alpha`.
///
/// By Jöhnk 1964, or by Cheng 1978 (algorithm BB) where `alpha` is above 1 and Jöhnk's would refuse most of what it
/// draws: Devroye, Non-Uniform Random Variate Generation, chapter IX.4 (<https://luc.devroye.org/rnbookindex.html>).
fn beta(random: &mut impl Rng, alpha: f64) -> f64 {
    // Beyond these an f64 has no other shares than 0 and 1, or 1/2.
    let alpha = alpha.clamp(1e-9, 1e9);
    // Above 0, for the logarithm.
    let mut uniform = || 1.0 - random.random::<f64>();
    if alpha <= 1.0 {
        loop {
            let [x, y] = [libm::log(uniform()) / alpha, libm::log(uniform()) / alpha];
            if libm::exp(x) + libm::exp(y) <= 1.0 {
                // Where both powers are too small for an f64, their ratio is not.
                return 1.0 / (1.0 + libm::exp(y - x));
            }
        }
    }
    let root = alpha.sqrt();
    loop {
        let (first, second) = (uniform(), uniform());
        let logit = libm::log(first / (1.0 - first)) / root;
        let odds = libm::exp(logit);
        let bound = (alpha + root) * logit - libm::log(4.0) + 2.0 * alpha * libm::log(2.0 / (1.0 + odds));
        if bound >= libm::log(first * first * second) {
            return odds / (1.0 + odds);
        }
    }
}

#[cfg(test)]
mod tests {
    use kindling_training::stream;

    use super::*;

    #[test]
    fn shares_have_the_mean_and_the_variance_of_the_beta_distribution() {
        for alpha in [0.2, 1.0, 1.5, 8.0, 300.0] {
            let mut random = stream(1, "test", 0);
            let shares: Vec<f64> = (0..4000).map(|_| beta(&mut random, alpha)).collect();
            let mean = shares.iter().sum::<f64>() / 4000.0;
            let variance = shares.iter().map(|share| (share - 0.5) * (share - 0.5)).sum::<f64>() / 4000.0;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // Five standard deviations of the mean; the sample variance is within a tenth.
            assert!((mean - 0.5).abs() < 5.0 * (expected / 4000.0).sqrt(), "{alpha}: {mean}");
            assert!((variance / expected - 1.0).abs() < 0.1, "{alpha}: {variance} of {expected}");
        }
    }

    #[test]
    fn the_smallest_and_the_largest_parameters_still_give_shares() {
        for alpha in [f64::MIN_POSITIVE, 1e-6, 1e9, 1e300] {
            let mut random = stream(2, "test", 0);
            let shares: Vec<f64> = (0..100).map(|_| beta(&mut random, alpha)).collect();
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{alpha}: {shares:?}");
        }
    }

    #[test]
    fn the_other_image_is_any_but_the_image_itself() {
        let mut random = stream(3, "test", 0);
        let mut seen = [0; 5];
        (0..500).for_each(|_| seen[other(&mut random, 2, 5)] += 1);
        assert_eq!(seen[2], 0);
        assert!([0, 1, 3, 4].iter().all(|&row| seen[row] > 80), "{seen:?}");
        assert_eq!(other(&mut random, 1, 2), 0);
    }

    #[test]
    fn a_pasted_share_is_its_area_and_a_blended_one_the_weight() {
        let mut random = stream(4, "test", 0);
        let mut shares = Vec::new();
        for _ in 0..200 {
            let mix = Mix::cutmix(&mut random, 1.0, 0, 9, [6, 10]);
            let mut pixels = vec![0.0; 120];
            mix.apply([2, 6, 10], &[1.0; 120], &mut pixels);
            assert!((pixels.iter().sum::<f32>() / 120.0 - mix.share).abs() < 1e-6, "{mix:?}");
            shares.push(mix.share);
        }
        assert!(shares.iter().any(|&share| share > 0.4) && shares.iter().any(|&share| share < 0.1));

        let mut pixels = [1.0, 0.5];
        Mix { row: 1, share: 0.25, pasted: None }.apply([1, 1, 2], &[0.0, 1.0], &mut pixels);
        assert_eq!(pixels.map(f32::to_bits), [0.75_f32, 0.625].map(f32::to_bits));
    }
}
