//! Activations and their derivatives, on whole vectors.

use pulp::Simd;

use crate::Activation;

/// Each lane's activation. NaN and infinities give what PyTorch gives: GELU and SiLU of -∞ are NaN.
#[inline(always)]
pub(crate) fn value<S: Simd>(simd: S, activation: Activation, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    match activation {
        Activation::None => x,
        Activation::Relu => simd.select_f32s(simd.less_than_f32s(x, zero), zero, x),
        Activation::Gelu => simd.mul_f32s(x, normal(simd, x).0),
        Activation::Silu => simd.mul_f32s(x, logistic(simd, x).0),
    }
}

/// The derivative of each lane's activation at `x`. A ReLU's is 0 where `x <= 0` and 1 at NaN, as in PyTorch.
#[inline(always)]
pub(crate) fn slope<S: Simd>(simd: S, activation: Activation, x: S::f32s) -> S::f32s {
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    match activation {
        Activation::None => one,
        Activation::Relu => simd.select_f32s(simd.less_than_or_equal_f32s(x, zero), zero, one),
        Activation::Gelu => {
            let (below, density) = normal(simd, x);
            simd.mul_add_e_f32s(x, density, below)
        }
        Activation::Silu => {
            let (sigmoid, density) = logistic(simd, x);
            simd.mul_add_e_f32s(x, density, sigmoid)
        }
    }
}

/// The gradient before each lane's activation from that behind it, `dy`, at `x`. As in PyTorch everything passes a ReLU,
/// unless its output is zero or below: `x` may be that, too.
#[inline(always)]
pub(crate) fn gradient<S: Simd>(simd: S, activation: Activation, x: S::f32s, dy: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    match activation {
        Activation::None => dy,
        Activation::Relu => simd.select_f32s(simd.less_than_or_equal_f32s(x, zero), zero, dy),
        Activation::Gelu | Activation::Silu => simd.mul_f32s(dy, slope(simd, activation, x)),
    }
}

/// Each lane's `eˣ`, within 2 units in the last place. The polynomial and the two parts of ln 2 are those of the Cephes
/// library's `expf`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |number: f32| simd.splat_f32s(number);
    // Beyond these, results are infinite or zero. A comparison with NaN is false, so that NaN stays.
    let x = simd.select_f32s(simd.greater_than_f32s(x, splat(89.0)), splat(89.0), x);
    let x = simd.select_f32s(simd.less_than_f32s(x, splat(-104.0)), splat(-104.0), x);
    // n = round(x / ln 2), as a float and as the last bits of 1.5 * 2^23 + n.
    let shift = splat(12_582_912.0);
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), shift);
    let n = simd.sub_f32s(shifted, shift);
    let r = simd.mul_add_e_f32s(n, splat(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let mut p = splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = simd.mul_add_e_f32s(p, r, splat(coefficient));
    }
    let p = simd.add_f32s(simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r), splat(1.0));
    // 2^n in two factors, since n reaches beyond the exponents of normal numbers.
    let integers = |number: u32| simd.splat_u32s(number);
    let n = simd.sub_u32s(simd.transmute_u32s_f32s(shifted), simd.transmute_u32s_f32s(shift));
    let n = simd.add_u32s(n, integers(2 * 127));
    let half = simd.wrapping_dyn_shr_u32s(n, integers(1));
    let power = |exponent| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, integers(23)));
    simd.mul_f32s(simd.mul_f32s(p, power(half)), power(simd.sub_u32s(n, half)))
}

/// The logistic distribution's `σ(x) = 1 / (1 + e⁻ˣ)` and its density `σ(x) (1 - σ(x))`.
#[inline(always)]
fn logistic<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    let tail = exp(simd, simd.neg_f32s(simd.abs_f32s(x)));
    let inverse = simd.div_f32s(one, simd.add_f32s(one, tail));
    let outside = simd.mul_f32s(tail, inverse); // σ(-|x|)
    let positive = simd.greater_than_f32s(x, simd.splat_f32s(0.0));
    (simd.select_f32s(positive, inverse, outside), simd.mul_f32s(outside, inverse))
}

/// The standard normal distribution's `Φ(x) = (1 + erf(x / √2)) / 2` and its density `φ(x) = e^(-x²/2) / √(2π)`.
///
/// For `u = |x|`, `Φ(-u) e^(u²/2) (u + 3)` is a polynomial in `(u - 3) / (u + 3)`, fitted by weighted least squares
/// with a relative error of at most 6e-8 up to `u = 14.5`, from where `Φ(-u)` is zero. The form is that of M. Shepherd
/// and J. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x²) erfc x in 0 ≤ x < ∞" (1981).
#[inline(always)]
fn normal<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |number: f32| simd.splat_f32s(number);
    let u = simd.abs_f32s(x);
    let inverse = simd.div_f32s(splat(1.0), simd.add_f32s(u, splat(3.0)));
    let q = simd.mul_add_e_f32s(inverse, splat(-6.0), splat(1.0));
    let mut p = splat(-2.636_356e-4);
    for coefficient in [
        -8.986_845_5e-4,
        1.074_972_9e-3,
        6.920_678e-3,
        -1.048_007_4e-2,
        -4.725_542_7e-2,
        0.230_019_39,
        -0.509_332_3,
        0.729_083_66,
    ] {
        p = simd.mul_add_e_f32s(p, q, splat(coefficient));
    }
    let bell = exp(simd, simd.mul_f32s(simd.mul_f32s(x, x), splat(-0.5)));
    let outside = simd.mul_f32s(simd.mul_f32s(p, inverse), bell);
    let below = simd.select_f32s(simd.greater_than_f32s(x, splat(0.0)), simd.sub_f32s(splat(1.0), outside), outside);
    (below, simd.mul_f32s(bell, splat(0.398_942_3)))
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // What is compared so is the same to the last bit.
mod tests {
    use std::f64::consts::PI;

    use pulp::WithSimd;

    use super::super::Level;
    use super::*;

    /// The activation and the derivative of each number of whole vectors, or `eˣ` twice.
    struct Evaluate<'a> {
        activation: Option<Activation>,
        x: &'a [f32],
    }

    impl WithSimd for Evaluate<'_> {
        type Output = (Vec<f32>, Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let (mut values, mut slopes) = (self.x.to_vec(), self.x.to_vec());
            let outputs = S::as_mut_simd_f32s(&mut values).0.iter_mut().zip(S::as_mut_simd_f32s(&mut slopes).0);
            for (x, (y, dy)) in S::as_simd_f32s(self.x).0.iter().zip(outputs) {
                (*y, *dy) = match self.activation {
                    Some(activation) => (value(simd, activation, *x), slope(simd, activation, *x)),
                    None => (exp(simd, *x), exp(simd, *x)),
                };
            }
            (values, slopes)
        }
    }

    /// Φ and φ of the normal distribution, by Φ's series `1/2 + φ(x) (x + x³/3 + x⁵/15 + …)`.
    fn plain_normal(x: f64) -> (f64, f64) {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        let (mut term, mut sum, mut odd) = (x, 0.0, 1.0);
        while sum + term != sum {
            sum += term;
            odd += 2.0;
            term *= x * x / odd;
        }
        // From 9 on, the rest is below 1e-18.
        if x.abs() > 9.0 { (if x > 0.0 { 1.0 } else { 0.0 }, density) } else { (0.5 + density * sum, density) }
    }

    fn plain(activation: Option<Activation>, x: f64) -> (f64, f64) {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        let (below, density) = plain_normal(x.clamp(-30.0, 30.0));
        match activation {
            None => (x.exp(), x.exp()),
            Some(Activation::None) => (x, 1.0),
            Some(Activation::Relu) => (x.max(0.0), if x <= 0.0 { 0.0 } else { 1.0 }),
            Some(Activation::Gelu) => (x * below, below + x.clamp(-30.0, 30.0) * density),
            Some(Activation::Silu) => (x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid)),
        }
    }

    const ALL: [Option<Activation>; 5] =
        [None, Some(Activation::None), Some(Activation::Relu), Some(Activation::Gelu), Some(Activation::Silu)];

    #[test]
    fn activations_and_their_derivatives_are_those_of_f64() {
        // Every exponent with some mantissas, of both signs, and evenly where the functions bend.
        let bits =
            (0..1 << 14).map(|number: u32| f32::from_bits(number << 18 | number.wrapping_mul(40_503) & 0x3_FFFF));
        let evenly = (0..1 << 14).map(|number: u16| (f32::from(number) / 8192.0 - 1.0) * 110.0);
        let near = (0..1 << 14).map(|number: u16| (f32::from(number) / 8192.0 - 1.0) * 6.0);
        let x: Vec<f32> = bits.filter(|x| x.is_finite()).chain(evenly).chain(near).collect();
        let x = &x[..x.len() / 64 * 64];
        for activation in ALL {
            let wanted: Vec<_> = x.iter().map(|&x| plain(activation, f64::from(x))).collect();
            for level in Level::available() {
                let (values, slopes) = level.run(Evaluate { activation, x });
                for ((x, wanted), found) in x.iter().zip(&wanted).zip(values.into_iter().zip(slopes)) {
                    for (found, wanted) in [(found.0, wanted.0), (found.1, wanted.1)] {
                        // The exponential is rounded a few times, and the others are about as large as x or 1.
                        let close = (f64::from(found) - wanted).abs() <= 2.4e-7 * wanted.abs().max(1.0);
                        let infinite = found.is_infinite() && wanted > f64::from(f32::MAX);
                        assert!(close || infinite, "{activation:?} of {x:e}: {found:e}, not {wanted:e} ({level})");
                    }
                }
            }
        }
    }

    #[test]
    fn an_exponential_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..1 << 14).map(|number: u16| (f32::from(number) / 8192.0 - 1.0) * 87.0).collect();
        for level in Level::available() {
            for (x, found) in x.iter().zip(level.run(Evaluate { activation: None, x: &x }).0) {
                let wanted = f64::from(*x).exp();
                assert!((f64::from(found) / wanted - 1.0).abs() <= 2.4e-7, "e^{x} is {found}, not {wanted} ({level})");
            }
        }
    }

    #[test]
    fn nan_and_infinities_give_what_pytorchs_scalar_functions_give() {
        const NAN: f32 = f32::NAN;
        const INFINITY: f32 = f32::INFINITY;
        let x: Vec<f32> = [NAN, INFINITY, -INFINITY, 0.0].into_iter().flat_map(|x| [x; 16]).collect();
        let wanted = [
            ([NAN, INFINITY, 0.0, 1.0], [NAN, INFINITY, 0.0, 1.0]),
            ([NAN, INFINITY, -INFINITY, 0.0], [1.0; 4]),
            ([NAN, INFINITY, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]),
            ([NAN, INFINITY, NAN, 0.0], [NAN, NAN, NAN, 0.5]),
            ([NAN, INFINITY, NAN, 0.0], [NAN, NAN, NAN, 0.5]),
        ];
        for level in Level::available() {
            for (activation, (values, slopes)) in ALL.into_iter().zip(wanted) {
                let found = level.run(Evaluate { activation, x: &x });
                for (found, wanted) in [(found.0, values), (found.1, slopes)] {
                    for (index, found) in found.into_iter().enumerate() {
                        let wanted = wanted[index / 16];
                        let same = found == wanted || found.is_nan() && wanted.is_nan();
                        assert!(same, "{activation:?} of {}: {found}, not {wanted} ({level})", x[index]);
                    }
                }
            }
        }
    }
}
