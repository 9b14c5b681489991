//! Symmetric matrices that are multiplied with one another, of f32 or f64.
//!
//! Of each product the half below the diagonal is computed, and reflected. The work is divided by panels of columns,
//! and for Gram matrices by rows too, in parts that do not depend on the machine.

use std::{marker::PhantomData, ops::Range};

use pulp::{Simd, WithSimd};

use super::{
    Level,
    output::Target,
    parallel,
    real::{Numbers, Real, height_of, lower_tile, width_of},
};

/// Rows of the long side that are packed at once, for the second cache.
const BLOCK: usize = 128;
/// Columns of a Gram matrix in a task.
const GROUP: usize = 256;
/// Tasks among which a Gram matrix is divided at most by rows; each has a matrix of its own to sum in.
const PARTS: usize = 8;

/// A matrix in panels of columns, `[panel, row, width]`, with zeros where it ends within a panel.
pub(crate) struct Symmetric<T> {
    size: usize,
    width: usize,
    /// Rows, and columns of all panels together.
    padded: usize,
    numbers: Numbers<T>,
}

impl<T: Real> Symmetric<T> {
    fn zeros(level: Level, size: usize) -> Self {
        struct Width<T>(PhantomData<T>);
        impl<T: Real> WithSimd for Width<T> {
            type Output = usize;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                width_of::<S, T>()
            }
        }
        let width = level.run(Width::<T>(PhantomData));
        let padded = size.next_multiple_of(width);
        Self { size, width, padded, numbers: Numbers::zeros(padded * padded) }
    }

    pub(crate) fn like(&self) -> Self {
        Self { numbers: Numbers::zeros(self.numbers.len()), ..*self }
    }

    /// `xᵀ x` of `x` `[rows, columns]`, and 1; or with `epsilon` divided by the square of the norm of `x`, which is at
    /// least that, and the norm.
    pub(crate) fn gram(level: Level, [rows, columns]: [usize; 2], x: &[f32], epsilon: Option<f64>) -> (Self, f64) {
        let mut to = Self::zeros(level, columns);
        let groups = columns.div_ceil(GROUP);
        // Neither depends on the machine, and so no sum does.
        let parts = (PARTS / groups).clamp(1, rows.div_ceil(BLOCK).max(1));
        let mut partial = Numbers::<T>::take(parts * to.numbers.len());
        let sums = Target::of(&mut partial);
        let (width, padded, size) = (to.width, to.padded, to.numbers.len());
        let panels = padded / width;
        parallel::for_each(parts * groups, |task| {
            let (group, part) = (task / parts, task % parts);
            let part_rows = part * rows / parts..(part + 1) * rows / parts;
            let panels = group * panels / groups..(group + 1) * panels / groups;
            level.run(GramPart { x, columns, rows: part_rows, panels, padded, to: sums, start: part * size });
        });
        let trace = (0..columns).map(|at| {
            let place = (at / width * padded + at) * width + at % width;
            (0..parts).map(|part| partial[part * size + place].widened()).sum::<f64>()
        });
        let norm = epsilon.map_or(1.0, |epsilon| trace.sum::<f64>().sqrt().max(epsilon));
        let (target, partial, factor) = (Target::of(&mut to.numbers), &partial[..], T::rounded(1.0 / (norm * norm)));
        parallel::for_each(panels, |panel| {
            level.run(ReducePanel { partial, size, width, padded, panel, factor, to: target });
        });
        (to, norm)
    }

    /// The matrix times a factor as panels for `tile`, `[panel, row, width]`.
    pub(crate) fn panels(&self, level: Level, factor: f64) -> Vec<f32> {
        let (size, width) = (self.size, level.width());
        let mut panels = vec![0.0; size.div_ceil(width) * size * width];
        let mut values = vec![T::default(); self.padded];
        for row in 0..size {
            for (panel, values) in values.chunks_exact_mut(self.width).enumerate() {
                values.copy_from_slice(&self.numbers[(panel * self.padded + row) * self.width..][..self.width]);
            }
            for (panel, values) in values[..size].chunks(width).enumerate() {
                let panel = &mut panels[(panel * size + row) * width..][..width];
                panel.iter_mut().zip(values).for_each(|(to, value)| *to = (value.widened() * factor) as f32);
            }
        }
        panels
    }
}

/// Copies a panel of columns, from its first square below the diagonal on, to the rows above the diagonal.
///
/// # Safety
/// Nobody else uses these places meanwhile, and the panel has values.
#[inline(always)]
unsafe fn reflect<T: Real>(to: Target<'_, T>, [width, padded]: [usize; 2], panel: usize) {
    for other in panel + 1..padded / width {
        let from = to.place((panel * padded + other * width) * width, width * width);
        let to = to.place((other * padded + panel * width) * width, width * width);
        for row in 0..width {
            for column in 0..width {
                // SAFETY: both are squares within the array; the rest is the caller's promise.
                unsafe { to.add(row * width + column).write(*from.add(column * width + row)) };
            }
        }
    }
}

/// A panel of columns from the diagonal down, which a task has to itself.
///
/// # Safety
/// Nobody else uses these places meanwhile, and they have values.
unsafe fn below_diagonal<T: Real>(
    to: Target<'_, T>,
    [width, padded]: [usize; 2],
    panel: usize,
) -> (Range<usize>, &mut [T]) {
    let range = (panel * padded + panel * width) * width..(panel + 1) * padded * width;
    // SAFETY: the caller's promise.
    (range.clone(), unsafe { to.slice(range.start, range.len()) })
}

/// A panel of a Gram matrix from the sums of its parts.
struct ReducePanel<'a, T> {
    /// `[part, size]`
    partial: &'a [T],
    size: usize,
    width: usize,
    padded: usize,
    panel: usize,
    factor: T,
    to: Target<'a, T>,
}

impl<T: Real> WithSimd for ReducePanel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let sizes = [self.width, self.padded];
        // SAFETY: each task has a panel of its own, which began as zeros, and its reflection.
        unsafe {
            let (range, to) = below_diagonal(self.to, sizes, self.panel);
            for part in self.partial.chunks_exact(self.size) {
                for (to, part) in to.iter_mut().zip(&part[range.clone()]) {
                    *to = *to + *part;
                }
            }
            for to in to.iter_mut() {
                *to = *to * self.factor;
            }
            reflect(self.to, sizes, self.panel);
        }
    }
}

/// The sums of a Gram matrix over some rows, for some panels of columns, from the diagonal down.
struct GramPart<'a, T> {
    x: &'a [f32],
    columns: usize,
    rows: Range<usize>,
    panels: Range<usize>,
    padded: usize,
    /// `[part, size]`, of which the part begins at `start`.
    to: Target<'a, T>,
    start: usize,
}

impl<T: Real> WithSimd for GramPart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, height, columns) = (width_of::<S, T>(), height_of::<S, T>(), self.columns);
        let first = self.panels.start * width;
        let mut packed = Numbers::<T>::take((self.padded - first) * BLOCK);
        // Once for no rows at all, whose sum is zero.
        let blocks = self.rows.len().div_ceil(BLOCK).max(1);
        for block in 0..blocks {
            let rows = self.rows.len() * block / blocks..self.rows.len() * (block + 1) / blocks;
            let steps = rows.len();
            for (step, row) in rows.enumerate() {
                let row = &self.x[(self.rows.start + row) * columns..][first.min(columns)..columns];
                for (panel, row) in row.chunks(width).enumerate() {
                    let packed = &mut packed[(panel * BLOCK + step) * width..][..width];
                    for (packed, value) in packed.iter_mut().zip(row) {
                        *packed = T::of(*value);
                    }
                    packed[row.len()..].fill(T::default());
                }
            }
            for panel in self.panels.clone() {
                for row in (panel * width..self.padded).step_by(height) {
                    let place = |column: usize| (column - first) / width * BLOCK * width + column % width;
                    let (left, right) = (&packed[place(row)..], &packed[place(panel * width)..]);
                    // SAFETY: this task alone has these panels of its part.
                    let to = self.to.place(self.start + (panel * self.padded + row) * width, height * width);
                    unsafe { lower_tile(simd, left, right, steps, to, block > 0) };
                }
            }
        }
    }
}

/// `to = left * right`, for matrices that commute.
pub(crate) fn product<T: Real>(level: Level, factors: [&Symmetric<T>; 2], to: &mut Symmetric<T>) {
    product_panels(level, factors, to, None);
}

/// `to = a I + b matrix + c matrix²`
pub(crate) fn polynomial<T: Real>(level: Level, coefficients: [f32; 3], matrix: &Symmetric<T>, to: &mut Symmetric<T>) {
    product_panels(level, [matrix, matrix], to, Some(coefficients.map(T::of)));
}

fn product_panels<T: Real>(
    level: Level,
    [left, right]: [&Symmetric<T>; 2],
    to: &mut Symmetric<T>,
    polynomial: Option<[T; 3]>,
) {
    let panels = to.padded / to.width;
    let to = Target::of(&mut to.numbers);
    parallel::for_each(panels, |panel| {
        level.run(ProductPanel { left, right, panel, to, polynomial });
    });
}

struct ProductPanel<'a, T> {
    left: &'a Symmetric<T>,
    right: &'a Symmetric<T>,
    panel: usize,
    to: Target<'a, T>,
    /// Coefficients of the identity, of the left factor, and of the product.
    polynomial: Option<[T; 3]>,
}

impl<T: Real> WithSimd for ProductPanel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Symmetric { padded, .. } = *self.left;
        let (panel, width, height) = (self.panel, width_of::<S, T>(), height_of::<S, T>());
        for row in (panel * width..padded).step_by(height) {
            let left = &self.left.numbers[row / width * padded * width + row % width..];
            let right = &self.right.numbers[panel * padded * width..];
            let to = self.to.place((panel * padded + row) * width, height * width);
            // SAFETY: this task alone has this panel.
            unsafe { lower_tile(simd, left, right, padded, to, false) };
        }
        if let Some([a, b, c]) = self.polynomial {
            // SAFETY: as above.
            let (range, to) = unsafe { below_diagonal(self.to, [width, padded], panel) };
            for (to, left) in to.iter_mut().zip(&self.left.numbers[range]) {
                *to = *to * c + *left * b;
            }
            to.iter_mut().step_by(width + 1).take(width).for_each(|to| *to = *to + a);
        }
        // SAFETY: as above; and it has its reflection.
        unsafe { reflect(self.to, [width, padded], panel) };
    }
}
