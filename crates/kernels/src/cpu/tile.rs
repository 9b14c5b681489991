use pulp::Simd;

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

/// Multiplies `rows` rows by one tile's width of columns, and hands each row's sums to `emit`.
///
/// Each sum is taken in the order of segments and steps, whatever the tiles, so that a result does not depend on how
/// the work is cut.
///
/// # Panics
/// When a factor is too short for what is asked of it.
#[inline(always)]
pub(crate) fn product<S: Simd>(
    simd: S,
    rows: usize,
    a: Rows<'_>,
    b: Columns<'_>,
    sum: Sum,
    mut emit: impl FnMut(usize, [S::f32s; VECTORS]),
) {
    if rows == 0 {
        return;
    }
    if sum.segments == 0 || sum.steps == 0 {
        (0..rows).for_each(|row| emit(row, [simd.splat_f32s(0.0); VECTORS]));
        return;
    }
    let last = |segment: usize, step: usize| (sum.segments - 1) * segment + (sum.steps - 1) * step;
    assert!((rows - 1) * a.row + last(a.segment, a.step) < a.data.len(), "the rows end early");
    assert!(last(b.segment, b.step) + width::<S>() <= b.data.len(), "the columns end early");

    // Tiles of nearly equal height: a low one at the end would keep the CPU waiting for its own sums.
    let tiles = rows.div_ceil(tallest::<S>());
    let mut first = 0;
    for index in 0..tiles {
        let height = (rows - first).div_ceil(tiles - index);
        let a = Rows { data: &a.data[first * a.row..], ..a };
        macro_rules! of_height {
            ($($height:literal)*) => {
                match height {
                    $($height if $height <= tallest::<S>() => {
                        // SAFETY: the assertions above hold for the last row and step, which lie furthest.
                        let sums = unsafe { tile::<S, $height>(simd, a, b, sum) };
                        for (row, sums) in sums.into_iter().enumerate() {
                            emit(first + row, sums);
                        }
                    })*
                    _ => unreachable!("no tile is higher than the tallest"),
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
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
) -> [[S::f32s; VECTORS]; HEIGHT] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; HEIGHT];
    for segment in 0..sum.segments {
        // SAFETY: the caller's promise.
        let (mut left, mut right) =
            unsafe { (a.data.as_ptr().add(segment * a.segment), b.data.as_ptr().add(segment * b.segment)) };
        for _ in 0..sum.steps {
            // SAFETY: the caller's promise; vectors need no alignment to be read so.
            let vectors: [S::f32s; VECTORS] =
                std::array::from_fn(|v| unsafe { right.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() });
            for row in 0..HEIGHT {
                // SAFETY: the caller's promise.
                let factor = simd.splat_f32s(unsafe { *left.add(row * a.row) });
                for v in 0..VECTORS {
                    sums[row][v] = simd.mul_add_e_f32s(factor, vectors[v], sums[row][v]);
                }
            }
            left = left.wrapping_add(a.step);
            right = right.wrapping_add(b.step);
        }
    }
    sums
}
