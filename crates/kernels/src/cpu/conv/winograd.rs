//! Winograd's way to a 3x3 convolution with stride 1: F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional
//! Neural Networks" (2015).
//!
//! Each tile of 4x4 outputs is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` for the kernel `g` and the 6x6 inputs `d` that it sees. Summed
//! over channels, the elementwise products are 36 products of matrices, tiles by channels: 36 multiplications for each tile
//! where the definition has 144. The transforms work on whole vectors of channels. The gradient of the kernel is
//! `Gᵀ [Σ (Bᵀ d B) ⊙ (A dz Aᵀ)] G`, summed over tiles.
//!
//! The points of interpolation are 0, ±5/8, ±3/2 and infinity instead of the paper's 0, ±1, ±2 and infinity: its
//! transforms multiply rounding errors by less. They are some ten times those of the definition, far below what training
//! notices; a number that is not finite spreads over its tile.

#![allow(clippy::needless_range_loop)] // A column lies across several arrays.

use pulp::Simd;

use crate::cpu::{
    output::Target,
    scratch::Scratch,
    tile::{Ahead, Columns, Destination, Rows, Sum},
};

use super::{
    layout::Bordered,
    panels::{Product, panels},
    transforms::{gradient, input, output},
};

/// Points of a tile in the transformed space.
pub(super) const POINTS: usize = 36;

/// Floats between one point's numbers and the next's: a cache line, so that points do not all fall into the same places of
/// the cache.
const GAP: usize = 16;

/// Tiles that cover an output.
pub(super) fn tiles([height, width]: [usize; 2]) -> usize {
    height.div_ceil(4) * width.div_ceil(4)
}

/// Rows or columns that the tiles of so many outputs see.
pub(super) fn bordered(output: usize) -> usize {
    output.next_multiple_of(4) + 2
}

/// A tile as it is read: its first pixel, and numbers from one row to the next.
#[derive(Clone, Copy)]
struct View {
    corner: *const f32,
    row: usize,
}

impl Bordered<'_> {
    /// Tile `tile` of `size`, whose rows and columns are `sees` pixels, `from` pixels down and right of the border's own
    /// corner. Where not all of it is stored, `patch` is given a copy.
    #[inline(always)]
    fn view(self, tile: usize, size: [usize; 2], from: [usize; 2], sees: usize, patch: &mut [f32]) -> View {
        let (across, tiles, channels) = (size[1].div_ceil(4), tiles(size), self.channels);
        let (image, tile) = (tile / tiles, tile % tiles);
        let [rows, columns] = self.border.size;
        let image = &self.floats[image * rows * columns * channels..][..rows * columns * channels];
        let (top, left) = (tile / across * 4 + from[0], tile % across * 4 + from[1]);
        // The first row and column that are stored, and behind the last, as the tile counts them.
        let before = self.beyond;
        let first = |start: usize| before.saturating_sub(start);
        let end = |start: usize, stored: usize| (stored + before).saturating_sub(start).min(sees);
        let ((y, y_end), (x, x_end)) = ((first(top), end(top, rows)), (first(left), end(left, columns)));
        let place = |y: usize, x: usize| ((top + y - before) * columns + left + x - before) * channels;
        if (y, x, y_end, x_end) == (0, 0, sees, sees) {
            return View { corner: image[place(0, 0)..].as_ptr(), row: columns * channels };
        }
        let patch = &mut patch[..sees * sees * channels];
        patch.fill(0.0);
        let width = x_end.saturating_sub(x) * channels;
        for y in y..y_end {
            patch[(y * sees + x) * channels..][..width].copy_from_slice(&image[place(y, x)..][..width]);
        }
        View { corner: patch.as_ptr(), row: sees * channels }
    }
}

/// Convolves images to pixels of as many channels as there are biases, one image after another; to be added to what is
/// there, or written.
///
/// The kernel is `[point, panel of channels out, channels in, channels of the panel]`.
///
/// # Safety
/// Nobody else uses the images' places in `to` meanwhile, and they have values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Images, where they go, and what with.
pub(super) unsafe fn convolve<S: Simd>(
    simd: S,
    images: usize,
    x: Bordered<'_>,
    size: [usize; 2],
    kernel: &[f32],
    bias: &[f32],
    to: Target<'_>,
    start: usize,
    add: bool,
) {
    let (channels, outputs) = (x.channels, bias.len());
    let tiles_of_one = tiles(size);
    let all = tiles_of_one * images;
    // As many as the second cache holds, and whole products at least.
    let highest = (70_000 / (POINTS * (channels + outputs))).clamp(14, 56);
    let strips = all.div_ceil(highest);
    let longest = all.div_ceil(strips);
    let (mut inputs, mut sums) =
        (Scratch::take(POINTS * (longest * channels + GAP)), Scratch::take(POINTS * (longest * outputs + GAP)));
    let mut patch = Scratch::take(POINTS * channels);
    let mut first = 0;
    for strip in 0..strips {
        let count = (all - first).div_ceil(strips - strip);
        let (in_apart, out_apart) = (count * channels + GAP, count * outputs + GAP);
        for tile in 0..count {
            let view = x.view(first + tile, size, [0, 0], 6, &mut patch);
            of_input(simd, channels, view, &mut inputs[tile * channels..], in_apart);
        }
        let target = Target::of(&mut sums);
        for point in 0..POINTS {
            for (panel, vectors) in panels::<S>(outputs) {
                let width = vectors * S::F32_LANES;
                // SAFETY: the buffer is this call's own.
                unsafe {
                    Product {
                        vectors,
                        rows: count,
                        a: Rows { data: &inputs[point * in_apart..], row: channels, step: 1, segment: 0 },
                        b: Columns {
                            data: &kernel[(point * outputs + panel) * channels..][..channels * width],
                            step: width,
                            segment: 0,
                        },
                        sum: Sum { segments: 1, steps: channels },
                        initial: None,
                        // What the next point multiplies.
                        ahead: Some(Ahead::of(&inputs, (point + 1) * in_apart, 32)),
                        to: Destination {
                            target,
                            start: point * out_apart + panel,
                            row: outputs,
                            columns: width,
                            add: false,
                            relu: false,
                        },
                    }
                    .run(simd);
                }
            }
        }
        for tile in 0..count {
            let (image, place) = ((first + tile) / tiles_of_one, (first + tile) % tiles_of_one);
            let across = size[1].div_ceil(4);
            let (y, x) = (place / across * 4, place % across * 4);
            let rows = (size[0] - y).min(4);
            let columns = (size[1] - x).min(4);
            let begin = start + (image * size[0] * size[1] + y * size[1] + x) * outputs;
            let length = ((rows - 1) * size[1] + columns) * outputs;
            let place = to.place(begin, length);
            // SAFETY: the caller's promise; every tile has pixels of its own.
            unsafe { to_output(simd, &sums[tile * outputs..], out_apart, bias, place, size[1], [rows, columns], add) };
        }
        first += count;
    }
}

/// Adds images' part to the gradient of the kernel, `[point, channels, channels out]`; the pixels of `dz` begin at its
/// border's corner.
///
/// # Safety
/// Nobody else uses the gradient's place meanwhile, and it has values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Two images, and where their product goes.
pub(super) unsafe fn add_gradient<S: Simd>(
    simd: S,
    images: usize,
    x: Bordered<'_>,
    dz: Bordered<'_>,
    size: [usize; 2],
    to: Target<'_>,
    start: usize,
    add: bool,
) {
    let (channels, outputs) = (x.channels, dz.channels);
    let count = tiles(size) * images;
    let (in_apart, out_apart) = (count * channels + GAP, count * outputs + GAP);
    let (mut inputs, mut gradients) = (Scratch::take(POINTS * in_apart), Scratch::take(POINTS * out_apart));
    let mut patch = Scratch::take(POINTS * channels.max(outputs));
    for tile in 0..count {
        let view = x.view(tile, size, [0, 0], 6, &mut patch);
        of_input(simd, channels, view, &mut inputs[tile * channels..], in_apart);
        let view = dz.view(tile, size, dz.border.corner, 4, &mut patch);
        of_gradient(simd, outputs, view, &mut gradients[tile * outputs..], out_apart);
    }
    for point in 0..POINTS {
        for (panel, vectors) in panels::<S>(outputs) {
            // SAFETY: the caller's promise.
            unsafe {
                Product {
                    vectors,
                    rows: channels,
                    a: Rows { data: &inputs[point * in_apart..], row: 1, step: channels, segment: 0 },
                    b: Columns { data: &gradients[point * out_apart + panel..], step: outputs, segment: 0 },
                    sum: Sum { segments: 1, steps: count },
                    initial: None,
                    ahead: None,
                    to: Destination {
                        target: to,
                        start: start + point * channels * outputs + panel,
                        row: outputs,
                        columns: vectors * S::F32_LANES,
                        add,
                        relu: false,
                    },
                }
                .run(simd);
            }
        }
    }
}

/// `Bᵀ d B` of a tile; its points are `apart` from one another.
#[inline(always)]
fn of_input<S: Simd>(simd: S, channels: usize, view: View, points: &mut [f32], apart: usize) {
    assert!(points.len() >= (POINTS - 1) * apart + channels);
    for v in 0..channels / S::F32_LANES {
        let mut rows = [[simd.splat_f32s(0.0); 6]; 6];
        for column in 0..6 {
            let first = view.corner.wrapping_add(column * channels + v * S::F32_LANES);
            // SAFETY: a tile sees six rows and columns.
            let column_of = unsafe { load(simd, first, view.row) };
            for (row, value) in input(simd, column_of).into_iter().enumerate() {
                rows[row][column] = value;
            }
        }
        for (row, values) in rows.into_iter().enumerate() {
            store::<S, 6>(points, (row * 6) * apart + v * S::F32_LANES, apart, input(simd, values));
        }
    }
}

/// `A dz Aᵀ` of a tile; its points are `apart` from one another.
#[inline(always)]
fn of_gradient<S: Simd>(simd: S, channels: usize, view: View, points: &mut [f32], apart: usize) {
    assert!(points.len() >= (POINTS - 1) * apart + channels);
    for v in 0..channels / S::F32_LANES {
        let mut rows = [[simd.splat_f32s(0.0); 4]; 6];
        for column in 0..4 {
            let first = view.corner.wrapping_add(column * channels + v * S::F32_LANES);
            // SAFETY: a tile has four rows and columns.
            let column_of = unsafe { load(simd, first, view.row) };
            for (row, value) in gradient(simd, column_of).into_iter().enumerate() {
                rows[row][column] = value;
            }
        }
        for (row, values) in rows.into_iter().enumerate() {
            store::<S, 6>(points, (row * 6) * apart + v * S::F32_LANES, apart, gradient(simd, values));
        }
    }
}

/// `Aᵀ m A` of a tile, plus the bias, written to its pixels from `place` on, in rows of `width` pixels.
///
/// # Safety
/// Nobody else uses those places meanwhile, there are as many as the size asks for, and they have values if they are to be
/// added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // A tile, and where it goes.
unsafe fn to_output<S: Simd>(
    simd: S,
    points: &[f32],
    apart: usize,
    bias: &[f32],
    place: *mut f32,
    width: usize,
    [height, across]: [usize; 2],
    add: bool,
) {
    let channels = bias.len();
    assert!(points.len() >= (POINTS - 1) * apart + channels);
    for (v, &bias) in S::as_simd_f32s(bias).0.iter().enumerate() {
        let mut rows = [[bias; 6]; 4];
        for column in 0..6 {
            let first = points.as_ptr().wrapping_add(column * apart + v * S::F32_LANES);
            // SAFETY: by the assertion above every point is there.
            let column_of = unsafe { load(simd, first, 6 * apart) };
            for (row, value) in output(simd, column_of).into_iter().enumerate() {
                rows[row][column] = value;
            }
        }
        for (y, values) in rows.into_iter().enumerate().take(height) {
            let outputs = output(simd, values);
            for (x, value) in outputs.into_iter().enumerate() {
                if x < across {
                    let place = place.wrapping_add((y * width + x) * channels + v * S::F32_LANES);
                    let place = place.cast::<S::f32s>();
                    // SAFETY: the caller's promise.
                    let before = if add { unsafe { place.read_unaligned() } } else { bias };
                    // SAFETY: as above.
                    unsafe { place.write_unaligned(simd.add_f32s(value, before)) };
                }
            }
        }
    }
}

/// Loads vectors, `apart` from one another.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(simd: S, first: *const f32, apart: usize) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (index, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *vector = unsafe { first.wrapping_add(index * apart).cast::<S::f32s>().read_unaligned() };
    }
    vectors
}

/// Stores vectors, `apart` from one another.
#[inline(always)]
fn store<S: Simd, const N: usize>(floats: &mut [f32], at: usize, apart: usize, vectors: [S::f32s; N]) {
    assert!(at + (N - 1) * apart + S::F32_LANES <= floats.len());
    for (index, vector) in vectors.into_iter().enumerate() {
        // SAFETY: by the assertion within the slice.
        unsafe { floats.as_mut_ptr().add(at + index * apart).cast::<S::f32s>().write_unaligned(vector) };
    }
}
