//! The gradients of a linear layer.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Backward, Gradients, Sizes, copy};
use crate::cpu::{
    Level, activation,
    output::{Output, Target},
    parallel,
    scratch::Scratch,
    tile::{self, Ahead, Columns, Destination, Rows, Sum},
};

/// Inputs in a task of the gradient of `x` and of that of the weights, at most. The second are few, so that the threads end
/// together.
const INPUTS: [usize; 2] = [84, 42];
/// Inputs that are worth a task.
const FEW: usize = 12;
/// Terms of the gradient of `x` that are summed before the sum goes to memory.
const TERMS: usize = 512;
/// Distance of rows that are copied: not a power of two, so that they do not compete for the same places of the cache.
const ROW: usize = TERMS + 16;
/// Images that the gradient of the weights is summed over before the sum goes to memory.
const IMAGES: usize = 128;
/// Panels of the batch that are multiplied with rows of the weights that are copied.
const PANELS: usize = 8;

/// The gradients for `dy`.
pub(crate) fn backward(level: Level, it: Backward<'_>) -> Gradients {
    let Sizes { batch, inputs, outputs } = it.sizes;
    assert_eq!(it.x.len(), batch * inputs);
    assert_eq!(it.weight.len(), inputs * outputs);
    assert_eq!(it.dy.len(), batch * outputs);
    assert!(it.activation.is_none_or(|(_, numbers)| numbers.len() == it.dy.len()));
    let width = level.width();
    let column_panels = outputs.div_ceil(width);
    let batch_panels = if it.wants_x { batch.div_ceil(width) } else { 0 };

    // dy before the activation, as [column panel, batch, width] and as [batch panel, outputs, width].
    let mut by_column = Scratch::take(column_panels * batch * width);
    let mut by_batch = Scratch::take(batch_panels * outputs * width);
    let mut dbias = vec![0.0; outputs];
    let (columns, rows, bias) = (Target::of(&mut by_column), Target::of(&mut by_batch), Target::of(&mut dbias));
    parallel::for_each(column_panels, |panel| {
        level.run(PackedGradient { it, first: panel * width, by_column: columns, by_batch: rows, dbias: bias });
    });

    let mut dx = Output::new(if it.wants_x { batch * inputs } else { 0 });
    let mut dweight = Output::new(inputs * outputs);
    let (x, weight) = (dx.target(), dweight.target());
    // No sum depends on how the inputs are divided.
    let blocks = INPUTS.map(|most| {
        let blocks = inputs.div_ceil(most);
        blocks.next_multiple_of(parallel::threads()).min(inputs.div_ceil(FEW)).max(blocks)
    });
    let of = |block: usize, blocks: usize| block * inputs / blocks..(block + 1) * inputs / blocks;
    let groups = batch_panels.div_ceil(PANELS);
    parallel::for_each(groups * blocks[0] + blocks[1], |task| {
        if task < groups * blocks[0] {
            let (first_panel, inputs) = (task / blocks[0] * PANELS, of(task % blocks[0], blocks[0]));
            level.run(InputGradient { it, dy: &by_batch, first_panel, inputs, dx: x });
        } else {
            let inputs = of(task - groups * blocks[0], blocks[1]);
            level.run(WeightGradient { it, dy: &by_column, inputs, dweight: weight });
        }
    });
    Gradients {
        // SAFETY: the tasks have written every block of every panel.
        x: it.wants_x.then(|| unsafe { dx.finish() }),
        // SAFETY: the tasks have written every block.
        weight: unsafe { dweight.finish() },
        bias: dbias,
    }
}

/// One panel of columns of `dy` before the activation, and the bias's gradient for it.
struct PackedGradient<'a> {
    it: Backward<'a>,
    first: usize,
    /// `[column panel, batch, width]`
    by_column: Target<'a>,
    /// `[batch panel, outputs, width]`, if the gradient of `x` is wanted.
    by_batch: Target<'a>,
    /// `[outputs]`
    dbias: Target<'a>,
}

impl WithSimd for PackedGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, outputs, .. } = self.it.sizes;
        let width = tile::width::<S>();
        let used = width.min(outputs - self.first);
        // SAFETY: each task has columns of its own.
        let (panel, dbias) =
            unsafe { (self.by_column.slice(self.first * batch, batch * width), self.dbias.slice(self.first, used)) };
        let mut sums = [simd.splat_f32s(0.0); tile::VECTORS];
        for (image, packed) in panel.chunks_exact_mut(width).enumerate() {
            let start = image * outputs + self.first;
            let dy = vectors(simd, &self.it.dy[start..start + used]);
            let packed = S::as_mut_simd_f32s(packed).0;
            match self.it.activation {
                None => packed.copy_from_slice(&dy),
                Some((activation, numbers)) => {
                    let numbers = vectors(simd, &numbers[start..start + used]);
                    for ((packed, dy), number) in packed.iter_mut().zip(&dy).zip(&numbers) {
                        *packed = activation::gradient(simd, activation, *number, *dy);
                    }
                }
            }
            for (sum, packed) in sums.iter_mut().zip(&*packed) {
                *sum = simd.add_f32s(*sum, *packed);
            }
        }
        let sums: &[S::f32s] = &sums;
        dbias.copy_from_slice(&pulp::bytemuck::cast_slice(sums)[..used]);
        if self.it.wants_x {
            for first in (0..batch).step_by(width) {
                let images = width.min(batch - first);
                // SAFETY: as above.
                let rows = unsafe { self.by_batch.slice((first / width * outputs + self.first) * width, used * width) };
                if images < width {
                    rows.fill(0.0);
                }
                // SAFETY: the rows are this task's.
                unsafe { transpose(&panel[first * width..], width, images, used, Target::of(rows), 0, width) };
            }
        }
    }
}

/// A row of at most a tile's width, with zeros behind it.
#[inline(always)]
fn vectors<S: Simd>(simd: S, row: &[f32]) -> [S::f32s; tile::VECTORS] {
    let (whole, rest) = S::as_simd_f32s(row);
    if let [first, second] = *whole {
        return [first, second];
    }
    let rest = simd.partial_load_f32s(rest);
    if let [first] = *whole { [first, rest] } else { [rest, simd.splat_f32s(0.0)] }
}

/// Writes a matrix of `rows` x `columns`, whose rows are `from_row` apart, transposed to `start`, with rows `to_row` apart.
///
/// # Safety
/// Nobody else uses the places of the transposed rows meanwhile.
///
/// # Panics
/// When either is too short.
#[inline(always)]
unsafe fn transpose(
    from: &[f32],
    from_row: usize,
    rows: usize,
    columns: usize,
    to: Target<'_>,
    start: usize,
    to_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_row + columns <= from.len(), "the matrix ends early");
    let place = to.place(start, (columns - 1) * to_row + rows);
    let whole = if cfg!(target_arch = "x86_64") { [rows / 4 * 4, columns / 4 * 4] } else { [0; 2] };
    #[cfg(target_arch = "x86_64")]
    for column in (0..whole[1]).step_by(4) {
        for row in (0..whole[0]).step_by(4) {
            use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};
            // SAFETY: every x86-64 has these, and by the assertions above the four rows and columns are there.
            unsafe {
                let from = from.as_ptr().add(row * from_row + column);
                let to = place.add(column * to_row + row);
                let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3].map(|i| _mm_loadu_ps(from.add(i * from_row)));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                _mm_storeu_ps(to, a);
                _mm_storeu_ps(to.add(to_row), b);
                _mm_storeu_ps(to.add(2 * to_row), c);
                _mm_storeu_ps(to.add(3 * to_row), d);
            }
        }
    }
    for column in 0..columns {
        let first = if column < whole[1] { whole[0] } else { 0 };
        for row in first..rows {
            // SAFETY: as above.
            unsafe { place.add(column * to_row + row).write(from[row * from_row + column]) };
        }
    }
}

/// Rows in strips of nearly equal height, each at most a tile's.
fn strips(rows: usize, tallest: usize) -> impl Iterator<Item = Range<usize>> {
    let strips = rows.div_ceil(tallest);
    (0..strips).map(move |strip| strip * rows / strips..(strip + 1) * rows / strips)
}

/// `dx` of some inputs and a few panels of the batch, as `W dyᵀ`.
struct InputGradient<'a> {
    it: Backward<'a>,
    /// `[batch panel, outputs, width]`
    dy: &'a [f32],
    first_panel: usize,
    inputs: Range<usize>,
    dx: Target<'a>,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let (width, tallest) = (tile::width::<S>(), tile::tallest::<S, { tile::VECTORS }>());
        let rows = self.inputs.len();
        let panels = PANELS.min(batch.div_ceil(width) - self.first_panel);
        // [input, term] and [panel, input, width]
        let mut weight = Scratch::take(tallest * ROW);
        let mut turned = Scratch::take(panels * rows * width);
        let target = Target::of(&mut turned);
        for strip in strips(rows, tallest) {
            let (first, height) = (self.inputs.start + strip.start, strip.len());
            for start in (0..outputs.max(1)).step_by(TERMS) {
                let terms = TERMS.min(outputs - start);
                for (row, weight) in weight.chunks_exact_mut(ROW).take(height).enumerate() {
                    copy(simd, &self.it.weight[(first + row) * outputs + start..][..terms], weight);
                }
                for panel in 0..panels {
                    let dy = &self.dy[((self.first_panel + panel) * outputs + start) * width..][..terms * width];
                    // The rows of the next strip: this task's, or those of the task that this thread takes next.
                    let others = if strip.end < rows { 0 } else { (parallel::threads() - 1) * rows };
                    let next = (first + height + others) * outputs + height * start;
                    let ahead = (panel == 0).then(|| Ahead::of(self.it.weight, next, height));
                    let to = Destination {
                        target,
                        start: (panel * rows + strip.start) * width,
                        row: width,
                        columns: width,
                        add: start > 0,
                        relu: false,
                    };
                    let a = Rows { data: &weight, row: ROW, step: 1, segment: 0 };
                    let b = Columns { data: dy, step: width, segment: 0 };
                    let (sum, zeros) = (Sum { segments: 1, steps: terms }, [simd.splat_f32s(0.0); tile::VECTORS]);
                    // SAFETY: the buffer is this task's own, and the first terms have written all of it.
                    unsafe { tile::product(simd, height, a, b, sum, zeros, ahead, to) };
                }
            }
        }
        for (panel, turned) in turned.chunks_exact(rows * width).enumerate() {
            let image = (self.first_panel + panel) * width;
            let images = width.min(batch - image);
            // SAFETY: no other task has these inputs of these images.
            unsafe { transpose(turned, width, rows, images, self.dx, image * inputs + self.inputs.start, inputs) };
        }
    }
}

/// `dW` of some inputs, as `xᵀ dy`.
struct WeightGradient<'a> {
    it: Backward<'a>,
    /// `[column panel, batch, width]`
    dy: &'a [f32],
    inputs: Range<usize>,
    dweight: Target<'a>,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let (width, tallest) = (tile::width::<S>(), tile::tallest::<S, { tile::VECTORS }>());
        let rows = self.inputs.len();
        let row = rows.next_multiple_of(S::F32_LANES);
        let mut x = Scratch::take(IMAGES.min(batch) * row);
        for start in (0..batch.max(1)).step_by(IMAGES) {
            let images = IMAGES.min(batch - start);
            // [image, row]: what every panel multiplies.
            for (image, x) in x.chunks_exact_mut(row).take(images).enumerate() {
                copy(simd, &self.it.x[(start + image) * inputs + self.inputs.start..][..rows], x);
            }
            // Tile by tile along the rows: what is written lies one after another.
            for strip in strips(rows, tallest) {
                for (panel, columns) in self.dy.chunks_exact(batch * width).enumerate() {
                    let used = width.min(outputs - panel * width);
                    let to = Destination {
                        target: self.dweight,
                        start: (self.inputs.start + strip.start) * outputs + panel * width,
                        row: outputs,
                        columns: used,
                        add: start > 0,
                        relu: false,
                    };
                    let (height, zero) = (strip.len(), simd.splat_f32s(0.0));
                    let a = Rows { data: &x[strip.start..], row: 1, step: row, segment: 0 };
                    let b = Columns { data: &columns[start * width..][..images * width], step: width, segment: 0 };
                    let sum = Sum { segments: 1, steps: images };
                    // SAFETY: no other task has these rows, and the first terms have written them.
                    unsafe {
                        if used <= S::F32_LANES {
                            tile::product(simd, height, a, b, sum, [zero], None, to);
                        } else {
                            tile::product(simd, height, a, b, sum, [zero; tile::VECTORS], None, to);
                        }
                    }
                }
            }
        }
    }
}
