use std::mem::MaybeUninit;

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
/// after those of the step before, and for the next tile from `step` times its rows further.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) start: *const f32,
    pub(crate) step: usize,
}

impl Ahead {
    /// Rows of a matrix, from the element `start` on, which need not be there.
    pub(crate) fn rows(matrix: &[f32], start: usize, step: usize) -> Self {
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

/// Vectors beside one another in a tile.
pub(crate) const VECTORS: usize = 2;

/// Rows of the tallest tile: its sums, a step's vectors and a broadcast fill the CPU's registers.
pub(crate) const fn tallest<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 14 } else { 6 }
}

/// Floats in a row of a tile.
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
    /// At most a tile's width.
    pub(crate) columns: usize,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
    /// Whether what is below zero becomes zero at last; NaN stays, as PyTorch has it.
    pub(crate) relu: bool,
}

/// Multiplies `rows` rows by one tile's width of columns; the sums begin with `initial`.
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
pub(crate) unsafe fn product<S: Simd>(
    simd: S,
    rows: usize,
    a: Rows<'_>,
    b: Columns<'_>,
    sum: Sum,
    initial: [S::f32s; VECTORS],
    ahead: Option<Ahead>,
    to: Destination<'_>,
) {
    if rows == 0 {
        return;
    }
    let width = width::<S>();
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
    let tiles = rows.div_ceil(tallest::<S>());
    let mut first = 0;
    // Where a destination has not all columns, a tile is written here first.
    let mut edge = [const { MaybeUninit::<[S::f32s; VECTORS]>::uninit() }; 14];
    for index in 0..tiles {
        let height = (rows - first).div_ceil(tiles - index);
        let a = Rows { data: &a.data[first * a.row..], ..a };
        let ahead = Ahead { start: ahead.start.wrapping_add(first * ahead.step), ..ahead };
        // SAFETY: the row is one of the destination's.
        let place = unsafe { place.add(first * to.row) };
        let (out, row) = if whole { (place, to.row) } else { (edge.as_mut_ptr().cast::<f32>(), width) };
        if !whole && to.add {
            for (index, edge) in edge.iter_mut().take(height).enumerate() {
                let edge: &mut [f32] = pulp::bytemuck::cast_slice_mut(edge.write([simd.splat_f32s(0.0); VECTORS]));
                // SAFETY: these columns are the destination's, and by the caller's promise they have values.
                edge[..to.columns]
                    .copy_from_slice(unsafe { std::slice::from_raw_parts(place.add(index * to.row), to.columns) });
            }
        }
        macro_rules! of_height {
            ($($height:literal)*) => {
                match height {
                    $($height if $height <= tallest::<S>() => {
                        // SAFETY: by the assertions above both factors hold what the last row and step ask for, which
                        // lie furthest, and `out` has room for the tile.
                        unsafe {
                            let sums = tile::<S, $height>(simd, a, b, sum, initial, ahead);
                            finish::<S, $height>(simd, sums, out, row, to.add, to.relu);
                        }
                    })*
                    _ => unreachable!("no tile is higher than the tallest"),
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        if !whole {
            for (index, edge) in edge.iter().take(height).enumerate() {
                // SAFETY: the tile has just been written here.
                let edge: &[f32] = pulp::bytemuck::cast_slice(unsafe { edge.assume_init_ref() });
                // SAFETY: these columns are the destination's, which nobody else uses.
                unsafe { place.add(index * to.row).copy_from_nonoverlapping(edge.as_ptr(), to.columns) };
            }
        }
        first += height;
    }
}

/// The sums of a tile of `HEIGHT` rows, which stay in registers.
///
/// # Safety
/// `a` and `b` hold every element that `sum` asks for.
#[inline(always)]
unsafe fn tile<S: Simd, const HEIGHT: usize>(
    simd: S,
    a: Rows<'_>,
    b: Columns<'_>,
    sum: Sum,
    initial: [S::f32s; VECTORS],
    mut ahead: Ahead,
) -> [[S::f32s; VECTORS]; HEIGHT] {
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
unsafe fn finish<S: Simd, const HEIGHT: usize>(
    simd: S,
    mut sums: [[S::f32s; VECTORS]; HEIGHT],
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
            prefetch(place(index, v + VECTORS).cast_const().cast());
        }
    }
}
