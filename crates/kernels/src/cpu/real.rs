//! Numbers of either length, f32 and f64, and tiles of products of them, for symmetric matrices.

use std::{
    marker::PhantomData,
    ops::{Add, Deref, DerefMut, Mul},
};

use pulp::{
    Simd,
    bytemuck::{self, Pod},
};

use super::scratch::Scratch;

/// Vectors beside one another in a tile.
const VECTORS: usize = 2;

/// A number that matrices are made of.
pub(crate) trait Real: Pod + Default + Send + Sync + Add<Output = Self> + Mul<Output = Self> {
    type Vector<S: Simd>: Copy;

    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    fn sum<S: Simd>(simd: S, left: Self::Vector<S>, right: Self::Vector<S>) -> Self::Vector<S>;
    /// `factor * vector + sum`
    fn mul_add<S: Simd>(
        simd: S,
        factor: Self::Vector<S>,
        vector: Self::Vector<S>,
        sum: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn rounded(value: f64) -> Self;
    fn widened(self) -> f64;
    fn of(value: f32) -> Self;
}

macro_rules! real {
    ($real:ty, $vector:ident, $splat:ident, $add:ident, $mul_add:ident) => {
        impl Real for $real {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, left: S::$vector, right: S::$vector) -> S::$vector {
                simd.$add(left, right)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, factor: S::$vector, vector: S::$vector, sum: S::$vector) -> S::$vector {
                simd.$mul_add(factor, vector, sum)
            }

            #[inline(always)]
            #[allow(clippy::unnecessary_cast)] // For one of the two.
            fn rounded(value: f64) -> Self {
                value as $real
            }

            #[inline(always)]
            fn widened(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn of(value: f32) -> Self {
                <$real>::from(value)
            }
        }
    };
}
real!(f32, f32s, splat_f32s, add_f32s, mul_add_e_f32s);
real!(f64, f64s, splat_f64s, add_f64s, mul_add_e_f64s);

/// A scratch buffer of numbers, on a cache line's boundary.
pub(crate) struct Numbers<T>(Scratch, PhantomData<T>);

impl<T: Real> Numbers<T> {
    pub(crate) fn take(length: usize) -> Self {
        Self(Scratch::take(length * (size_of::<T>() / size_of::<f32>())), PhantomData)
    }

    pub(crate) fn zeros(length: usize) -> Self {
        let mut numbers = Self::take(length);
        numbers.fill(T::default());
        numbers
    }
}

impl<T: Real> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: Real> DerefMut for Numbers<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Numbers in a row of a tile.
pub(crate) const fn width_of<S: Simd, T: Real>() -> usize {
    VECTORS * size_of::<T::Vector<S>>() / size_of::<T>()
}

/// Rows of a tile: a divisor of its width, so that the rows are in one panel.
pub(crate) const fn height_of<S: Simd, T: Real>() -> usize {
    let width = width_of::<S, T>();
    if S::REGISTER_COUNT >= 32 && width.is_multiple_of(8) {
        8
    } else if width.is_multiple_of(4) {
        4
    } else {
        2
    }
}

/// A tile of `leftᵀ right`, of panels that begin with the tile's rows and columns.
///
/// # Safety
/// Nobody else uses the tile's places meanwhile, which have values if `add`.
///
/// # Panics
/// When a panel has fewer steps.
#[inline(always)]
pub(crate) unsafe fn lower_tile<S: Simd, T: Real>(
    simd: S,
    left: &[T],
    right: &[T],
    steps: usize,
    to: *mut T,
    add: bool,
) {
    let (width, height) = (width_of::<S, T>(), height_of::<S, T>());
    assert!(steps == 0 || (steps - 1) * width + height <= left.len() && steps * width <= right.len());
    // SAFETY: by the assertion the panels have the steps; the rest is the caller's promise.
    unsafe {
        match height {
            8 => finish::<S, T, 8>(simd, sums(simd, left, right, steps), to, add),
            4 => finish::<S, T, 4>(simd, sums(simd, left, right, steps), to, add),
            _ => finish::<S, T, 2>(simd, sums(simd, left, right, steps), to, add),
        }
    }
}

/// The sums of a tile, which stay in registers.
///
/// # Safety
/// The panels have the steps.
#[inline(always)]
unsafe fn sums<S: Simd, T: Real, const HEIGHT: usize>(
    simd: S,
    left: &[T],
    right: &[T],
    steps: usize,
) -> [[T::Vector<S>; VECTORS]; HEIGHT] {
    let zero = [T::splat(simd, T::default()); VECTORS];
    let mut sums = [zero; HEIGHT];
    let (mut left, mut right) = (left.as_ptr(), right.as_ptr().cast::<T::Vector<S>>());
    for _ in 0..steps {
        let mut vectors = zero;
        for (v, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: the caller's promise; vectors need no alignment to be read so.
            *vector = unsafe { right.add(v).read_unaligned() };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let factor = T::splat(simd, unsafe { *left.add(row) });
            for (sum, vector) in sums.iter_mut().zip(&vectors) {
                *sum = T::mul_add(simd, factor, *vector, *sum);
            }
        }
        left = left.wrapping_add(width_of::<S, T>());
        right = right.wrapping_add(VECTORS);
    }
    sums
}

/// Writes a tile, or adds it. Short loops one after another, which the compiler unrolls.
///
/// # Safety
/// As for [`lower_tile`].
#[inline(always)]
unsafe fn finish<S: Simd, T: Real, const HEIGHT: usize>(
    simd: S,
    mut sums: [[T::Vector<S>; VECTORS]; HEIGHT],
    to: *mut T,
    add: bool,
) {
    let place = |row: usize, v: usize| to.cast::<T::Vector<S>>().wrapping_add(row * VECTORS + v);
    if add {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise; vectors need no alignment to be read so.
                *sum = T::sum(simd, unsafe { place(row, v).read_unaligned() }, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise; vectors need no alignment to be written so.
            unsafe { place(row, v).write_unaligned(*sum) };
        }
    }
}
