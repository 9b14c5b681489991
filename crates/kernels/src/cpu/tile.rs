use std::{mem::MaybeUninit, ptr, slice};

use pulp::Simd;

use super::output::Target;

/// The factor whose elements multiply whole vectors: element (row, segment, step) lies at
/// `row * self.row + segment * self.segment + step * self.step`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) step: usize,
    pub(crate) segment: usize,
}

/// The factor that is read in whole vectors: those of (segment, step) begin at
/// `segment * self.segment + step * self.step`.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) step: usize,
    pub(crate) segment: usize,
}

/// What a product sums over: `segments` runs of `steps` products each.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) segments: usize,
    pub(crate) steps: usize,
}

/// What is fetched into the cache while a product is computed: with each step of a tile two cache lines, `step` floats
/// after those of the step before.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) start: *const f32,
    pub(crate) step: usize,
}

impl Ahead {
    /// Lines of a matrix, from the element `start` on, which need not be there.
    pub(crate) fn of(matrix: &[f32], start: usize, step: usize) -> Self {
        Self { start: matrix.as_ptr().wrapping_add(start), step }
    }
}

/// Asks for a line to be brought into the cache.
#[inline(always)]
pub(crate) fn prefetch(place: *const f32) {
    // SAFETY: a hint, which reads nothing and takes any address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Vectors beside one another in a tile, but where there are only enough columns for one.
pub(crate) const VECTORS: usize = 2;

/// Rows of the tallest tile of `V` vectors, one or two: its sums, a step's vectors and a broadcast fill the CPU's
/// registers.
pub(crate) const fn tallest<S: Simd, const V: usize>() -> usize {
    let (many, few) = if V == 1 { (28, 12) } else { (14, 6) };
    if S::REGISTER_COUNT >= 32 { many } else { few }
}

/// Floats in a row of a tile of [`VECTORS`].
pub(crate) const fn width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// Where a product goes, and what becomes of it on the way.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) target: Target<'a>,
    /// The first element of the first row.
    pub(crate) start: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    /// At most the floats in a tile's row.
    pub(crate) columns: usize,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
    /// Whether what is below zero becomes zero at last; NaN stays, as PyTorch has it.
    pub(crate) relu: bool,
}

/// Multiplies `rows` rows by `V` vectors of columns, one or two; the sums begin with `initial`.
///
/// Each sum is taken in the order of segments and steps, whatever the tiles, so that a result does not depend on how
/// the work is cut.
///
/// # Safety
/// Nobody else uses the destination meanwhile, and it has values if they are to be added to.
///
/// # Panics
/// When a factor or the destination is too short for what is asked of it.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // They are the parts of one formula.
pub(crate) unsafe fn product<S: Simd, const V: usize>(
    simd: S,
    rows: usize,
    a: Rows<'_>,
    b: Columns<'_>,
    sum: Sum,
    initial: [S::f32s; V],
    ahead: Option<Ahead>,
    to: Destination<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<S, V, false>(simd, rows, a, b, sum, initial, ahead, to, &mut []) };
}

/// As [`product`], with one segment, and on the way copies the columns to `packed`, `[step, V vectors]`. Only the first tile
/// reads them where they lie: far apart, they would compete for places of the cache.
///
/// # Safety
/// As for [`product`].
///
/// # Panics
/// As [`product`], or when there is no room in `packed`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // They are the parts of one formula.
pub(crate) unsafe fn packing_product<S: Simd, const V: usize>(
    simd: S,
    rows: usize,
    a: Rows<'_>,
    b: Columns<'_>,
    steps: usize,
    initial: [S::f32s; V],
    ahead: Option<Ahead>,
    to: Destination<'_>,
    packed: &mut [f32],
) {
    assert_eq!(packed.len(), steps * V * S::F32_LANES);
    // SAFETY: the caller's promise.
    unsafe { multiply::<S, V, true>(simd, rows, a, b, Sum { segments: 1, steps }, initial, ahead, to, packed) };
}

#[inline(always)]
#[allow(clippy::too_many_arguments)] // As above.
unsafe fn multiply<S: Simd, const V: usize, const PACK: bool>(
    simd: S,
    rows: usize,
    a: Rows<'_>,
    mut b: Columns<'_>,
    sum: Sum,
    initial: [S::f32s; V],
    ahead: Option<Ahead>,
    to: Destination<'_>,
    packed: &mut [f32],
) {
    if rows == 0 {
        return;
    }
    let packing = packed.as_mut_ptr();
    const { assert!(V == 1 || V == 2, "tiles have one or two vectors") };
    let width = V * S::F32_LANES;
    if sum.segments > 0 && sum.steps > 0 {
        let last = |segment: usize, step: usize| (sum.segments - 1) * segment + (sum.steps - 1) * step;
        assert!((rows - 1) * a.row + last(a.segment, a.step) < a.data.len(), "the rows end early");
        assert!(last(b.segment, b.step) + width <= b.data.len(), "the columns end early");
    }
    assert!(to.columns <= width, "more columns than a tile has");
    let place = to.target.place(to.start, (rows - 1) * to.row + to.columns);
    let whole = to.columns == width;
    // With nothing to fetch it is a line that is there: no line at all would have its address looked up in vain.
    let ahead = ahead.unwrap_or(Ahead { start: b.data.as_ptr(), step: 0 });

    // Tiles of nearly equal height: a low one at the end would keep the CPU waiting for its own sums.
    let tiles = rows.div_ceil(tallest::<S, V>());
    let mut first = 0;
    // Where a destination has not all columns, a tile is written here first.
    let mut edge = [const { MaybeUninit::<[S::f32s; V]>::uninit() }; 28];
    for index in 0..tiles {
        let height = (rows - first).div_ceil(tiles - index);
        let a = Rows { data: &a.data[first * a.row..], ..a };
        // SAFETY: the row is one of the destination's.
        let place = unsafe { place.add(first * to.row) };
        let (out, row) = if whole { (place, to.row) } else { (edge.as_mut_ptr().cast::<f32>(), width) };
        if !whole && to.add {
            for (index, edge) in edge.iter_mut().take(height).enumerate() {
                let edge: &mut [S::f32s] = edge.write([simd.splat_f32s(0.0); V]);
                let edge: &mut [f32] = pulp::bytemuck::cast_slice_mut(edge);
                // SAFETY: these columns are the destination's, and by the caller's promise they have values.
                edge[..to.columns]
                    .copy_from_slice(unsafe { slice::from_raw_parts(place.add(index * to.row), to.columns) });
            }
        }
        macro_rules! of_height {
            ($($height:literal)*) => {
                match height {
                    $($height if $height <= tallest::<S, V>() => {
                        // SAFETY: by the assertions above both factors hold what the last row and step ask for, which
                        // lie furthest, and `out` has room for the tile.
                        unsafe {
                            let sums = if PACK && index == 0 {
                                tile::<S, V, $height, true>(simd, a, b, sum, initial, ahead, packing)
                            } else {
                                tile::<S, V, $height, false>(simd, a, b, sum, initial, ahead, ptr::null_mut())
                            };
                            finish::<S, V, $height>(simd, sums, out, row, to.add, to.relu);
                        }
                    })*
                    _ => unreachable!("no tile is higher than the tallest"),
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28);
        if !whole {
            for (index, edge) in edge.iter().take(height).enumerate() {
                // SAFETY: the tile has just been written here.
                let edge: &[S::f32s] = unsafe { edge.assume_init_ref() };
                let edge: &[f32] = pulp::bytemuck::cast_slice(edge);
                // SAFETY: these columns are the destination's, which nobody else uses.
                unsafe { place.add(index * to.row).copy_from_nonoverlapping(edge.as_ptr(), to.columns) };
            }
        }
        if PACK {
            // SAFETY: the first tile has written all of it, and nobody writes to it from now on.
            b = Columns { data: unsafe { slice::from_raw_parts(packing, packed.len()) }, step: width, segment: 0 };
        }
        first += height;
    }
}

/// The sums of a tile of `HEIGHT` rows, which stay in registers.
///
/// # Safety
/// `a` and `b` hold every element that `sum` asks for, and `packed` has room for the columns if they are packed.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const HEIGHT: usize, const PACK: bool>(
    simd: S,
    a: Rows<'_>,
    b: Columns<'_>,
    sum: Sum,
    initial: [S::f32s; V],
    mut ahead: Ahead,
    mut packed: *mut f32,
) -> [[S::f32s; V]; HEIGHT] {
    let mut sums = [initial; HEIGHT];
    for segment in 0..sum.segments {
        let mut left = a.data.as_ptr().wrapping_add(segment * a.segment);
        let mut right = b.data.as_ptr().wrapping_add(segment * b.segment);
        for _ in 0..sum.steps {
            prefetch(ahead.start);
            prefetch(ahead.start.wrapping_add(16));
            ahead.start = ahead.start.wrapping_add(ahead.step);
            let mut vectors = initial;
            for (v, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: the caller's promise; vectors need no alignment to be read so.
                *vector = unsafe { right.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
            }
            if PACK {
                for (v, vector) in vectors.iter().enumerate() {
                    // SAFETY: the caller's promise; vectors need no alignment to be written so.
                    unsafe { packed.add(v * S::F32_LANES).cast::<S::f32s>().write_unaligned(*vector) };
                }
                packed = packed.wrapping_add(V * S::F32_LANES);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let factor = simd.splat_f32s(unsafe { *left.add(row * a.row) });
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    *sum = simd.mul_add_e_f32s(factor, *vector, *sum);
                }
            }
            left = left.wrapping_add(a.step);
            right = right.wrapping_add(b.step);
        }
    }
    sums
}

/// Writes a tile. Short loops one after another, which the compiler unrolls: the sums never leave their registers.
///
/// # Safety
/// `out` has room for `HEIGHT` rows of a tile's width, `row` apart, and values in them if `add`.
#[inline(always)]
unsafe fn finish<S: Simd, const V: usize, const HEIGHT: usize>(
    simd: S,
    mut sums: [[S::f32s; V]; HEIGHT],
    out: *mut f32,
    row: usize,
    add: bool,
    relu: bool,
) {
    let place = |index: usize, v: usize| out.wrapping_add(index * row + v * S::F32_LANES).cast::<S::f32s>();
    if add {
        for (index, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise; vectors need no alignment to be read so.
                *sum = simd.add_f32s(unsafe { place(index, v).read_unaligned() }, *sum);
            }
        }
    }
    if relu {
        let zero = simd.splat_f32s(0.0);
        for sums in &mut sums {
            for sum in sums {
                *sum = simd.select_f32s(simd.less_than_f32s(*sum, zero), zero, *sum);
            }
        }
    }
    for (index, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise; vectors need no alignment to be written so.
            unsafe { place(index, v).write_unaligned(*sum) };
            // The tile beside this one is usually next.
            prefetch(place(index, v + V).cast_const().cast());
        }
    }
}
