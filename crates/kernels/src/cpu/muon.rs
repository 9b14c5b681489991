//! Muon's step (Jordan, <https://kellerjordan.github.io/posts/muon/>): SGD with momentum whose updates are made
//! orthogonal.
//!
//! A Newton-Schulz iteration takes `X` `[rows, columns]`, of which the columns are the short side, to `X P`, where
//! `P = a I + b A + c A²` and `A = Xᵀ X` are symmetric. Two ways lead through the iterations:
//!
//! - *direct*: `A` of each `X` in turn, as the formula has it;
//! - *Gram*: as all these matrices are polynomials of the first `A`, they commute, and `A` of the next `X` is `P P A`.
//!   Only small matrices are multiplied until the product of all `P` meets the first `X`. Each iteration multiplies an
//!   error in `A` by up to `a²`, so this is done in f64. It pays for matrices with one side several times as long as
//!   the other.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Level,
    output::Target,
    parallel,
    scratch::Scratch,
    steps::{self, Momentum},
    symmetric::{Symmetric, polynomial, product},
    tile::{self, Columns, Destination, Rows, Sum},
};

/// Coefficients of the iteration: Jordan's.
pub(crate) const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
/// Iterations of a step.
pub(crate) const ITERATIONS: usize = 5;
/// The least norm by which an update is divided.
pub(crate) const EPSILON: f64 = 1e-7;
/// How many times as long as the other a side is from which on the Gram way is the shorter: by count of products, of
/// which those in f64 take twice as long.
const LONG: f64 = 2.6;

/// Constants of [`step`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Muon {
    /// By which the orthogonal matrix is multiplied.
    pub(crate) rate: f32,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
    /// By which the parameters are multiplied before the step.
    pub(crate) kept: f32,
    /// The Frobenius norm that the parameters are brought to before that.
    pub(crate) norm: Option<f32>,
}

/// `velocity = momentum * velocity + gradient`, then `parameters = kept * parameters - rate * orthogonal(velocity)`, or
/// with Nesterov's momentum of `momentum * velocity + gradient`; matrices of `sizes` rows and columns.
///
/// The author's newest code has `velocity = momentum * velocity + (1 - momentum) * gradient` instead, and then
/// `momentum * velocity + (1 - momentum) * gradient`: both are `1 - momentum` times as long as here, and as the iteration
/// begins with a division by the norm, the step is the same.
pub(crate) fn step(
    level: Level,
    sizes: [usize; 2],
    parameters: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
    it: Muon,
) {
    let [rows, columns] = sizes;
    assert_eq!([parameters.len(), gradient.len(), velocity.len()], [rows * columns; 3]);
    // A step of SGD that starts from zeros at a rate of -1 is the update.
    let mut update = Scratch::zeroed(rows * columns);
    let momentum = Momentum { rate: -1.0, momentum: it.momentum, nesterov: it.nesterov, decay: 0.0 };
    steps::momentum(level, &mut update, gradient, velocity, momentum);
    let found = |parameters: &[f32]| steps::sum_of_squares(level, parameters).sqrt().max(EPSILON as f32);
    let kept = it.kept * it.norm.map_or(1.0, |norm| norm / found(parameters));
    #[allow(clippy::float_cmp)] // Exactly 1 changes nothing.
    if kept != 1.0 {
        steps::scale(level, parameters, kept);
    }
    if rows >= columns {
        return orthogonal(level, [rows, columns], &mut update, parameters, -it.rate);
    }
    let mut turned = Scratch::take(rows * columns);
    transpose(sizes, &update, Target::of(&mut turned));
    update.fill(0.0);
    orthogonal(level, [columns, rows], &mut turned, &mut update, -it.rate);
    transpose([columns, rows], &update, Target::of(&mut turned));
    steps::sgd(level, parameters, &turned, -1.0, 0.0);
}

/// Adds `factor` times `x` made orthogonal, `[rows, columns]` with no more columns than rows, to `to`.
fn orthogonal(level: Level, sizes: [usize; 2], x: &mut [f32], to: &mut [f32], factor: f32) {
    let (last, to) = (f64::from(factor), Target::of(to));
    if sizes[0] as f64 >= LONG * sizes[1] as f64 {
        let (mut a, norm) = Symmetric::<f64>::gram(level, sizes, x, Some(EPSILON));
        let [mut p, mut q, mut other] = [a.like(), a.like(), a.like()];
        for iteration in 0..ITERATIONS {
            polynomial(level, COEFFICIENTS, &a, &mut p);
            if iteration + 1 < ITERATIONS {
                product(level, [&p, &a], &mut other);
                product(level, [&p, &other], &mut a);
            }
            if iteration == 0 {
                (p, q) = (q, p);
            } else {
                product(level, [&p, &q], &mut other);
                (q, other) = (other, q);
            }
        }
        return apply(level, sizes, x, &q.panels(level, last / norm), to, true);
    }
    let mut other = Scratch::take(x.len());
    let (mut x, mut next): (&mut [f32], &mut [f32]) = (x, &mut other);
    for iteration in 0..ITERATIONS {
        let (a, norm) = Symmetric::<f32>::gram(level, sizes, x, (iteration == 0).then_some(EPSILON));
        let mut p = a.like();
        polynomial(level, COEFFICIENTS, &a, &mut p);
        if iteration + 1 == ITERATIONS {
            return apply(level, sizes, x, &p.panels(level, last / norm), to, true);
        }
        apply(level, sizes, x, &p.panels(level, 1.0 / norm), Target::of(next), false);
        (x, next) = (next, x);
    }
}

/// Rows of `x` in a task of [`apply`]: a multiple of every tile's height.
const ROWS: usize = 84;
/// Terms that are summed before the sum goes to memory: a tile's columns then stay in the first cache.
const TERMS: usize = 128;

/// Writes `x q` to a matrix, or adds it, for `x` `[rows, columns]` and `q` `[columns, columns]` in panels.
fn apply(level: Level, [rows, columns]: [usize; 2], x: &[f32], q: &[f32], to: Target<'_>, add: bool) {
    parallel::for_each(rows.div_ceil(ROWS), |task| {
        let first = task * ROWS;
        level.run(Apply { x, q, columns, rows: first..rows.min(first + ROWS), to, add });
    });
}

struct Apply<'a> {
    x: &'a [f32],
    q: &'a [f32],
    columns: usize,
    rows: Range<usize>,
    to: Target<'a>,
    add: bool,
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (columns, width) = (self.columns, tile::width::<S>());
        for start in (0..columns).step_by(TERMS) {
            let terms = TERMS.min(columns - start);
            for (panel, q) in self.q.chunks_exact(columns * width).enumerate() {
                // SAFETY: no other task has these rows, and they have values where they are added to.
                unsafe {
                    tile::product(
                        simd,
                        self.rows.len(),
                        Rows { data: &self.x[self.rows.start * columns + start..], row: columns, step: 1, segment: 0 },
                        Columns { data: &q[start * width..], step: width, segment: 0 },
                        Sum { segments: 1, steps: terms },
                        [simd.splat_f32s(0.0); tile::VECTORS],
                        None,
                        Destination {
                            target: self.to,
                            start: self.rows.start * columns + panel * width,
                            row: columns,
                            columns: width.min(columns - panel * width),
                            add: self.add || start > 0,
                            relu: false,
                        },
                    );
                }
            }
        }
    }
}

/// Writes a matrix of `rows` and `columns` as one of `columns` and `rows`.
fn transpose([rows, columns]: [usize; 2], from: &[f32], to: Target<'_>) {
    /// Rows at once: those of a cache line of the output.
    const LINE: usize = 16;
    parallel::for_each(rows.div_ceil(LINE), |task| {
        let block = task * LINE..rows.min((task + 1) * LINE);
        for column in 0..columns {
            for row in block.clone() {
                // SAFETY: no other task has these columns of the output.
                unsafe { to.set(column * rows + row, from[row * columns + column]) };
            }
        }
    });
}
