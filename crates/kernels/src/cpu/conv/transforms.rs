//! Winograd's transforms, on whole vectors.

#![allow(clippy::needless_range_loop)] // A column lies across several arrays.

use pulp::Simd;

use super::winograd::POINTS;

/// Points of interpolation, and their squares.
const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// What the kernel is multiplied with at 0, ±A and ±B.
const AT_0: f32 = 1.0 / (A2 * B2);
const AT_A: f32 = 0.5 / (A2 * (A2 - B2));
const AT_B: f32 = 0.5 / (B2 * (B2 - A2));

#[inline(always)]
fn splat<S: Simd>(simd: S, number: f32) -> S::f32s {
    simd.splat_f32s(number)
}

/// `x y + z`
#[inline(always)]
fn fma<S: Simd>(simd: S, x: S::f32s, y: S::f32s, z: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(x, y, z)
}

/// `G g` of a column, or `g Gᵀ` of a row.
#[inline(always)]
fn kernel<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
    let (zero, at_a, at_b) = (splat(simd, AT_0), splat(simd, AT_A), splat(simd, AT_B));
    let (a, b, a2, b2) = (splat(simd, A), splat(simd, B), splat(simd, A2), splat(simd, B2));
    let even_a = simd.mul_f32s(at_a, fma(simd, a2, g[2], g[0]));
    let odd_a = simd.mul_f32s(simd.mul_f32s(at_a, a), g[1]);
    let even_b = simd.mul_f32s(at_b, fma(simd, b2, g[2], g[0]));
    let odd_b = simd.mul_f32s(simd.mul_f32s(at_b, b), g[1]);
    [
        simd.mul_f32s(zero, g[0]),
        simd.add_f32s(even_a, odd_a),
        simd.sub_f32s(even_a, odd_a),
        simd.add_f32s(even_b, odd_b),
        simd.sub_f32s(even_b, odd_b),
        g[2],
    ]
}

/// `Gᵀ u` of a column, or `u G` of a row.
#[inline(always)]
fn kernel_gradient<S: Simd>(simd: S, u: [S::f32s; 6]) -> [S::f32s; 3] {
    let (zero, at_a, at_b) = (splat(simd, AT_0), splat(simd, AT_A), splat(simd, AT_B));
    let (a, b, a2, b2) = (splat(simd, A), splat(simd, B), splat(simd, A2), splat(simd, B2));
    let even_a = simd.mul_f32s(at_a, simd.add_f32s(u[1], u[2]));
    let odd_a = simd.mul_f32s(at_a, simd.sub_f32s(u[1], u[2]));
    let even_b = simd.mul_f32s(at_b, simd.add_f32s(u[3], u[4]));
    let odd_b = simd.mul_f32s(at_b, simd.sub_f32s(u[3], u[4]));
    [
        fma(simd, zero, u[0], simd.add_f32s(even_a, even_b)),
        fma(simd, a, odd_a, simd.mul_f32s(b, odd_b)),
        fma(simd, a2, even_a, fma(simd, b2, even_b, u[5])),
    ]
}

/// `G g Gᵀ` of kernels side by side.
#[inline(always)]
pub(super) fn of_kernel<S: Simd>(simd: S, taps: [S::f32s; 9]) -> [S::f32s; POINTS] {
    let mut rows = [[taps[0]; 3]; 6];
    for column in 0..3 {
        for (row, value) in kernel(simd, [taps[column], taps[3 + column], taps[6 + column]]).into_iter().enumerate() {
            rows[row][column] = value;
        }
    }
    let mut points = [taps[0]; POINTS];
    for (points, row) in points.chunks_exact_mut(6).zip(rows) {
        points.copy_from_slice(&kernel(simd, row));
    }
    points
}

/// `Gᵀ u G` of kernels side by side.
#[inline(always)]
pub(super) fn to_kernel<S: Simd>(simd: S, points: &[S::f32s; POINTS]) -> [S::f32s; 9] {
    let mut rows = [[points[0]; 6]; 3];
    for column in 0..6 {
        let mut values = [points[column]; 6];
        for row in 1..6 {
            values[row] = points[6 * row + column];
        }
        for (row, value) in kernel_gradient(simd, values).into_iter().enumerate() {
            rows[row][column] = value;
        }
    }
    let mut taps = [points[0]; 9];
    for (taps, row) in taps.chunks_exact_mut(3).zip(rows) {
        taps.copy_from_slice(&kernel_gradient(simd, row));
    }
    taps
}

/// `Bᵀ d` of a column, or `d B` of a row.
#[inline(always)]
pub(super) fn input<S: Simd>(simd: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let (product, sum) = (splat(simd, A2 * B2), splat(simd, -(A2 + B2)));
    let (a, b, a2, b2) = (splat(simd, A), splat(simd, B), splat(simd, -A2), splat(simd, -B2));
    let (even_a, odd_a) = (fma(simd, b2, d[2], d[4]), simd.mul_f32s(a, fma(simd, b2, d[1], d[3])));
    let (even_b, odd_b) = (fma(simd, a2, d[2], d[4]), simd.mul_f32s(b, fma(simd, a2, d[1], d[3])));
    [
        fma(simd, product, d[0], fma(simd, sum, d[2], d[4])),
        simd.add_f32s(even_a, odd_a),
        simd.sub_f32s(even_a, odd_a),
        simd.add_f32s(even_b, odd_b),
        simd.sub_f32s(even_b, odd_b),
        fma(simd, product, d[1], fma(simd, sum, d[3], d[5])),
    ]
}

/// `Aᵀ m` of a column, or `m A` of a row.
#[inline(always)]
pub(super) fn output<S: Simd>(simd: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let (a, b, a2, b2, a3, b3) =
        (splat(simd, A), splat(simd, B), splat(simd, A2), splat(simd, B2), splat(simd, A * A2), splat(simd, B * B2));
    let (even_a, odd_a) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (even_b, odd_b) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(even_a, even_b)),
        fma(simd, a, odd_a, simd.mul_f32s(b, odd_b)),
        fma(simd, a2, even_a, simd.mul_f32s(b2, even_b)),
        fma(simd, a3, odd_a, fma(simd, b3, odd_b, m[5])),
    ]
}

/// `A y` of a column, or `y Aᵀ` of a row.
#[inline(always)]
pub(super) fn gradient<S: Simd>(simd: S, y: [S::f32s; 4]) -> [S::f32s; 6] {
    let (a, b, a2, b2, a3, b3) =
        (splat(simd, A), splat(simd, B), splat(simd, A2), splat(simd, B2), splat(simd, A * A2), splat(simd, B * B2));
    let (even_a, odd_a) = (fma(simd, a2, y[2], y[0]), fma(simd, a3, y[3], simd.mul_f32s(a, y[1])));
    let (even_b, odd_b) = (fma(simd, b2, y[2], y[0]), fma(simd, b3, y[3], simd.mul_f32s(b, y[1])));
    [
        y[0],
        simd.add_f32s(even_a, odd_a),
        simd.sub_f32s(even_a, odd_a),
        simd.add_f32s(even_b, odd_b),
        simd.sub_f32s(even_b, odd_b),
        y[3],
    ]
}
