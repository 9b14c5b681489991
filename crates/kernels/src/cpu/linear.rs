//! A linear layer, with or without a ReLU behind it.
//!
//! The products read the weights in rows, as they lie: forward as `x W`, the gradient of `x` as `W dyᵀ`, that of the
//! weights as `xᵀ dy`. What has to be turned or packed is a few rows of the weights, or activations, which are small.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Level,
    output::{Output, Target},
    parallel,
    scratch::Scratch,
    tile::{self, Ahead, Columns, Destination, Rows, Sum},
};

/// Sizes of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// What [`forward`] needs.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) sizes: Sizes,
    /// `[batch, inputs]`
    pub(crate) x: &'a [f32],
    /// `[inputs, outputs]`
    pub(crate) weight: &'a [f32],
    /// `[outputs]`
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) relu: bool,
}

/// What [`backward`] needs.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a> {
    pub(crate) sizes: Sizes,
    /// `[batch, inputs]`
    pub(crate) x: &'a [f32],
    /// `[inputs, outputs]`
    pub(crate) weight: &'a [f32],
    /// `[batch, outputs]`, what forward gave, if a ReLU made it.
    pub(crate) y: Option<&'a [f32]>,
    /// `[batch, outputs]`
    pub(crate) dy: &'a [f32],
    /// Whether the gradient of `x` is wanted.
    pub(crate) wants_x: bool,
}

/// The gradients of [`forward`].
pub(crate) struct Gradients {
    /// `[batch, inputs]`, if asked for.
    pub(crate) x: Option<Vec<f32>>,
    /// `[inputs, outputs]`
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`
    pub(crate) bias: Vec<f32>,
}

/// Inputs in a task of the gradients: a multiple of every tile's height, so that no tile is low.
const INPUTS: usize = 84;
/// Terms that are summed before the sum goes to memory: a tile's columns then stay in the first cache.
const TERMS: usize = 128;
/// The same for the gradient of `x`, where the weights' rows are what the CPU can fetch ahead.
const LONG_TERMS: usize = 512;
/// Distance of rows that are copied for a product: not a power of two, so that they do not compete for the same places of
/// the cache.
const ROW: usize = TERMS + 16;
const LONG_ROW: usize = LONG_TERMS + 16;
/// Images that are multiplied at once: their copies stay in the second cache.
const IMAGES: usize = 112;
/// Images that are worth a task of their own.
const SHARE: usize = 14;
/// Panels of columns that are packed at once: a row of them is long enough for the CPU to fetch ahead.
const PANELS: usize = 8;

/// `y = relu?(x W + bias)`, `[batch, outputs]`.
pub(crate) fn forward(level: Level, it: Forward<'_>) -> Vec<f32> {
    let Sizes { batch, inputs, outputs } = it.sizes;
    assert_eq!(it.x.len(), batch * inputs);
    assert_eq!(it.weight.len(), inputs * outputs);
    assert!(it.bias.is_none_or(|bias| bias.len() == outputs));
    let width = level.width();
    let panels = outputs.div_ceil(width);
    // No sum depends on how the columns are divided.
    let group = panels.div_ceil(2 * parallel::threads()).clamp(1, PANELS) * width;
    let groups = outputs.div_ceil(group);
    // Where there are few columns, the images are divided as well.
    let shares = (2 * parallel::threads()).div_ceil(groups.max(1)).min(batch.div_ceil(SHARE)).max(1);
    let mut y = Output::new(batch * outputs);
    let target = y.target();
    parallel::for_each(groups * shares, |task| {
        let (first, share) = (task / shares * group, task % shares);
        let images = share * batch / shares..(share + 1) * batch / shares;
        level.run(ForwardColumns { it, images, first, columns: group.min(outputs - first), y: target });
    });
    // SAFETY: the tasks have written every column of every row.
    unsafe { y.finish() }
}

struct ForwardColumns<'a> {
    it: Forward<'a>,
    images: Range<usize>,
    first: usize,
    columns: usize,
    y: Target<'a>,
}

impl WithSimd for ForwardColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { inputs, outputs, .. } = self.it.sizes;
        let width = tile::width::<S>();
        let zeros = [simd.splat_f32s(0.0); tile::VECTORS];
        let panels = self.columns.div_ceil(width);
        let mut bias = Scratch::zeroed(panels * width);
        if let Some(all) = self.it.bias {
            bias[..self.columns].copy_from_slice(&all[self.first..self.first + self.columns]);
        }
        let images = IMAGES.min(self.images.len());
        // [panel, term, width] and [image, term]
        let mut weight = Scratch::take(panels * TERMS.min(inputs) * width);
        let mut x = Scratch::take(images * ROW);
        // Once for no inputs at all, whose sum is zero.
        for start in (0..inputs.max(1)).step_by(TERMS) {
            let terms = TERMS.min(inputs - start);
            for term in 0..terms {
                let row = &self.it.weight[(start + term) * outputs + self.first..][..self.columns];
                for (panel, row) in row.chunks(width).enumerate() {
                    let packed = &mut weight[(panel * terms + term) * width..][..width];
                    if row.len() < width {
                        packed.fill(0.0);
                    }
                    copy(simd, row, packed);
                }
            }
            for first_image in self.images.clone().step_by(IMAGES) {
                let images = IMAGES.min(self.images.end - first_image);
                for (image, x) in x.chunks_exact_mut(ROW).take(images).enumerate() {
                    copy(simd, &self.it.x[(first_image + image) * inputs + start..][..terms], x);
                }
                for panel in 0..panels {
                    let used = width.min(self.columns - panel * width);
                    // SAFETY: this task alone has these columns, and the first terms have written them.
                    unsafe {
                        tile::product(
                            simd,
                            images,
                            Rows { data: &x, row: ROW, step: 1, segment: 0 },
                            Columns {
                                data: &weight[panel * terms * width..][..terms * width],
                                step: width,
                                segment: 0,
                            },
                            Sum { segments: 1, steps: terms },
                            if start == 0 { vectors::<S>(&bias[panel * width..]) } else { zeros },
                            Some(Ahead::rows(
                                self.it.weight,
                                (start + terms) * outputs + self.first + panel * width,
                                outputs,
                            )),
                            Destination {
                                target: self.y,
                                start: first_image * outputs + self.first + panel * width,
                                row: outputs,
                                columns: used,
                                add: start > 0,
                                relu: self.it.relu && start + terms == inputs,
                            },
                        );
                    }
                }
            }
        }
    }
}

/// The first vectors of a slice.
#[inline(always)]
pub(crate) fn vectors<S: Simd>(slice: &[f32]) -> [S::f32s; tile::VECTORS] {
    let head = S::as_simd_f32s(slice).0;
    std::array::from_fn(|v| head[v])
}

/// Copies a row into a longer one, of which it fills the vectors that it reaches into with zeros.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    let to = S::as_mut_simd_f32s(to).0;
    let (whole, rest) = S::as_simd_f32s(from);
    for (to, whole) in to.iter_mut().zip(whole) {
        *to = *whole;
    }
    if !rest.is_empty() {
        to[whole.len()] = simd.partial_load_f32s(rest);
    }
}

/// The gradients for `dy`.
pub(crate) fn backward(level: Level, it: Backward<'_>) -> Gradients {
    let Sizes { batch, inputs, outputs } = it.sizes;
    assert_eq!(it.x.len(), batch * inputs);
    assert_eq!(it.weight.len(), inputs * outputs);
    assert_eq!(it.dy.len(), batch * outputs);
    assert!(it.y.is_none_or(|y| y.len() == it.dy.len()));
    let width = level.width();
    let column_panels = outputs.div_ceil(width);
    let batch_panels = if it.wants_x { batch.div_ceil(width) } else { 0 };

    // dy behind the ReLU, as [column panel, batch, width] and as [batch panel, outputs, width].
    let mut by_column = Scratch::take(column_panels * batch * width);
    let mut by_batch = Scratch::take(batch_panels * outputs * width);
    let mut dbias = vec![0.0; outputs];
    let (columns, rows, bias) = (Target::of(&mut by_column), Target::of(&mut by_batch), Target::of(&mut dbias));
    parallel::for_each(batch_panels + column_panels, |task| {
        if task < batch_panels {
            // SAFETY: each task has a panel of its own.
            let panel = unsafe { rows.slice(task * outputs * width, outputs * width) };
            level.vectorize(
                #[inline(always)]
                || pack_transposed(&it, task * width, width, &mut *panel),
            );
        } else {
            let task = task - batch_panels;
            // SAFETY: as above.
            let (panel, dbias) = unsafe {
                let used = width.min(outputs - task * width);
                (columns.slice(task * batch * width, batch * width), bias.slice(task * width, used))
            };
            level.vectorize(
                #[inline(always)]
                || pack_columns(&it, task * width, width, &mut *panel, &mut *dbias),
            );
        }
    });

    let mut dx = Output::new(if it.wants_x { batch * inputs } else { 0 });
    let mut dweight = Output::new(inputs * outputs);
    let (x, weight) = (dx.target(), dweight.target());
    let blocks = inputs.div_ceil(INPUTS);
    let groups = batch_panels.div_ceil(PANELS);
    parallel::for_each((groups + 1) * blocks, |task| {
        let (group, block) = (task / blocks, task % blocks);
        if group < groups {
            level.run(InputGradient { it, dy: &by_batch, first_panel: group * PANELS, block, dx: x });
        } else {
            level.run(WeightGradient { it, dy: &by_column, block, dweight: weight });
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

/// What passes a ReLU backwards: as in PyTorch everything, unless the output is zero or below.
#[inline(always)]
fn passed(dy: f32, y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { dy }
}

#[inline(always)]
fn pack_columns(it: &Backward<'_>, first: usize, width: usize, panel: &mut [f32], dbias: &mut [f32]) {
    let outputs = it.sizes.outputs;
    let used = dbias.len();
    for (image, packed) in panel.chunks_exact_mut(width).enumerate() {
        let start = image * outputs + first;
        let dy = &it.dy[start..start + used];
        if let Some(y) = it.y {
            for ((packed, dy), y) in packed.iter_mut().zip(dy).zip(&y[start..start + used]) {
                *packed = passed(*dy, *y);
            }
        } else {
            packed[..used].copy_from_slice(dy);
        }
        packed[used..].fill(0.0);
        for (sum, packed) in dbias.iter_mut().zip(&*packed) {
            *sum += packed;
        }
    }
}

#[inline(always)]
fn pack_transposed(it: &Backward<'_>, first: usize, width: usize, panel: &mut [f32]) {
    let Sizes { batch, outputs, .. } = it.sizes;
    let images = width.min(batch - first);
    // A cache line of each image at a time.
    for (block, packed) in panel.chunks_mut(16 * width).enumerate() {
        let columns = packed.len() / width;
        for image in 0..images {
            let start = (first + image) * outputs + block * 16;
            let dy = &it.dy[start..start + columns];
            if let Some(y) = it.y {
                for ((row, dy), y) in packed.chunks_exact_mut(width).zip(dy).zip(&y[start..start + columns]) {
                    row[image] = passed(*dy, *y);
                }
            } else {
                for (row, dy) in packed.chunks_exact_mut(width).zip(dy) {
                    row[image] = *dy;
                }
            }
        }
        for row in packed.chunks_exact_mut(width) {
            row[images..].fill(0.0);
        }
    }
}

/// `dx` of one block of inputs and a few panels of the batch, as `W dyᵀ`.
struct InputGradient<'a> {
    it: Backward<'a>,
    /// `[batch panel, outputs, width]`
    dy: &'a [f32],
    first_panel: usize,
    block: usize,
    dx: Target<'a>,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let width = tile::width::<S>();
        let first = self.block * INPUTS;
        let rows = INPUTS.min(inputs - first);
        let panels = PANELS.min(batch.div_ceil(width) - self.first_panel);
        // [input, term] and [panel, input, width]
        let mut weight = Scratch::take(rows * LONG_ROW);
        let mut turned = Scratch::take(panels * rows * width);
        let target = Target::of(&mut turned);
        for start in (0..outputs.max(1)).step_by(LONG_TERMS) {
            let terms = LONG_TERMS.min(outputs - start);
            for (row, weight) in weight.chunks_exact_mut(LONG_ROW).enumerate() {
                copy(simd, &self.it.weight[(first + row) * outputs + start..][..terms], weight);
            }
            for panel in 0..panels {
                let dy = &self.dy[((self.first_panel + panel) * outputs + start) * width..][..terms * width];
                // SAFETY: the buffer is this task's own, and the first terms have written all of it.
                unsafe {
                    tile::product(
                        simd,
                        rows,
                        Rows { data: &weight, row: LONG_ROW, step: 1, segment: 0 },
                        Columns { data: dy, step: width, segment: 0 },
                        Sum { segments: 1, steps: terms },
                        [simd.splat_f32s(0.0); tile::VECTORS],
                        None,
                        Destination {
                            target,
                            start: panel * rows * width,
                            row: width,
                            columns: width,
                            add: start > 0,
                            relu: false,
                        },
                    );
                }
            }
        }
        let first_image = self.first_panel * width;
        for image in 0..(panels * width).min(batch - first_image) {
            let panel = &turned[image / width * rows * width..][..rows * width];
            let start = (first_image + image) * inputs + first;
            for (input, row) in panel.chunks_exact(width).enumerate() {
                // SAFETY: no other task has these inputs of these images.
                unsafe { self.dx.set(start + input, row[image % width]) };
            }
        }
    }
}

/// `dW` of one block of inputs, as `xᵀ dy`.
struct WeightGradient<'a> {
    it: Backward<'a>,
    /// `[column panel, batch, width]`
    dy: &'a [f32],
    block: usize,
    dweight: Target<'a>,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let width = tile::width::<S>();
        let first = self.block * INPUTS;
        let rows = INPUTS.min(inputs - first);
        let mut x = Scratch::take(TERMS.min(batch) * rows);
        for start in (0..batch.max(1)).step_by(TERMS) {
            let terms = TERMS.min(batch - start);
            // [term, rows]: what every panel multiplies.
            for term in 0..terms {
                let image = &self.it.x[(start + term) * inputs + first..][..rows];
                x[term * rows..][..rows].copy_from_slice(image);
            }
            // Tile by tile along the rows: what is written lies one after another.
            for tile in (0..rows).step_by(tile::tallest::<S>()) {
                for (panel, columns) in self.dy.chunks_exact(batch * width).enumerate() {
                    // SAFETY: no other task has these rows, and the first terms have written them.
                    unsafe {
                        tile::product(
                            simd,
                            tile::tallest::<S>().min(rows - tile),
                            Rows { data: &x[tile..], row: 1, step: rows, segment: 0 },
                            Columns { data: &columns[start * width..][..terms * width], step: width, segment: 0 },
                            Sum { segments: 1, steps: terms },
                            [simd.splat_f32s(0.0); tile::VECTORS],
                            None,
                            Destination {
                                target: self.dweight,
                                start: (first + tile) * outputs + panel * width,
                                row: outputs,
                                columns: width.min(outputs - panel * width),
                                add: start > 0,
                                relu: false,
                            },
                        );
                    }
                }
            }
        }
    }
}
