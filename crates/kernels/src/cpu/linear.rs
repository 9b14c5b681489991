//! A linear layer with an activation.
//!
//! The products read the weights in rows, as they lie: forward as `x W`, the gradient of `x` as `W dyᵀ`, that of the
//! weights as `xᵀ dy`. What has to be turned or packed is a few rows of the weights, or activations, which are small.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{
    Level, activation,
    output::{Output, Target},
    parallel,
    scratch::Scratch,
    tile::{self, Ahead, Columns, Destination, Rows, Sum},
};
use crate::Activation;

mod backward;

pub(crate) use backward::backward;

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
    pub(crate) activation: Activation,
}

/// What [`backward()`] needs.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a> {
    pub(crate) sizes: Sizes,
    /// `[batch, inputs]`
    pub(crate) x: &'a [f32],
    /// `[inputs, outputs]`
    pub(crate) weight: &'a [f32],
    /// The activation, with the output of a ReLU or with what another is applied to, `[batch, outputs]`.
    pub(crate) activation: Option<(Activation, &'a [f32])>,
    /// `[batch, outputs]`
    pub(crate) dy: &'a [f32],
    /// Whether the gradient of `x` is wanted.
    pub(crate) wants_x: bool,
}

/// The gradients of a layer.
pub(crate) struct Gradients {
    /// `[batch, inputs]`, if asked for.
    pub(crate) x: Option<Vec<f32>>,
    /// `[inputs, outputs]`
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`
    pub(crate) bias: Vec<f32>,
}

/// Terms that are summed before the sum goes to memory: a tile's columns then stay in the first cache.
const TERMS: usize = 128;
/// Distance of rows that are copied for a product: not a power of two, so that they do not compete for the same places of
/// the cache.
const ROW: usize = TERMS + 16;
/// Images that are multiplied at once: their copies stay in the second cache.
const IMAGES: usize = 112;
/// Images that are worth a task of their own.
const SHARE: usize = 14;
/// Panels of columns in a task: they stay in the second cache.
const PANELS: usize = 8;

/// `y = f(x W + bias)`, `[batch, outputs]`.
pub(crate) fn forward(level: Level, it: Forward<'_>) -> Vec<f32> {
    let mut y = Output::new(it.sizes.batch * it.sizes.outputs);
    multiply(level, it, y.target(), None);
    // SAFETY: every element has been written.
    unsafe { y.finish() }
}

/// As [`forward`], with `x W + bias` where [`backward()`] needs it: for an activation other than a ReLU.
pub(crate) fn train(level: Level, it: Forward<'_>) -> (Vec<f32>, Option<Vec<f32>>) {
    if matches!(it.activation, Activation::None | Activation::Relu) {
        return (forward(level, it), None);
    }
    let length = it.sizes.batch * it.sizes.outputs;
    let (mut y, mut before) = (Output::new(length), Output::new(length));
    multiply(level, it, y.target(), Some(before.target()));
    // SAFETY: every element of both has been written.
    unsafe { (y.finish(), Some(before.finish())) }
}

/// Writes all of `y`, and all of `x W + bias` where that is wanted.
fn multiply(level: Level, it: Forward<'_>, y: Target<'_>, before: Option<Target<'_>>) {
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
    parallel::for_each(groups * shares, |task| {
        let (first, share) = (task / shares * group, task % shares);
        let images = share * batch / shares..(share + 1) * batch / shares;
        level.run(ForwardColumns { it, images, first, columns: group.min(outputs - first), y, before });
    });
}

struct ForwardColumns<'a> {
    it: Forward<'a>,
    images: Range<usize>,
    first: usize,
    columns: usize,
    y: Target<'a>,
    before: Option<Target<'a>>,
}

impl WithSimd for ForwardColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { inputs, outputs, .. } = self.it.sizes;
        let width = tile::width::<S>();
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
            for first_image in self.images.clone().step_by(IMAGES) {
                let images = IMAGES.min(self.images.end - first_image);
                for (image, x) in x.chunks_exact_mut(ROW).take(images).enumerate() {
                    copy(simd, &self.it.x[(first_image + image) * inputs + start..][..terms], x);
                }
                for panel in 0..panels {
                    let packed = &mut weight[panel * terms * width..][..terms * width];
                    let bias = (start == 0).then(|| &bias[panel * width..][..width]);
                    self.panel(simd, panel, start..start + terms, first_image, &x[..images * ROW], packed, bias);
                }
            }
        }
        if !matches!(self.it.activation, Activation::None | Activation::Relu) {
            for image in self.images.clone() {
                let start = image * outputs + self.first;
                // SAFETY: this task alone has these columns, and has written them.
                let y = unsafe { self.y.slice(start, self.columns) };
                match self.before {
                    // SAFETY: as above.
                    Some(before) => activate(simd, self.it.activation, unsafe { before.slice(start, self.columns) }, y),
                    None => activate_in_place(simd, self.it.activation, y),
                }
            }
        }
    }
}

impl ForwardColumns<'_> {
    /// Adds some terms to a panel of columns, for images whose terms are in `x`, `[image, ROW]`. The first images pack the
    /// weights, which the others find packed.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // They are the parts of one formula.
    fn panel<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        terms: Range<usize>,
        first_image: usize,
        x: &[f32],
        packed: &mut [f32],
        bias: Option<&[f32]>,
    ) {
        let Sizes { inputs, outputs, .. } = self.it.sizes;
        let width = tile::width::<S>();
        let (column, used) = (self.first + panel * width, width.min(self.columns - panel * width));
        let all = &self.it.weight[terms.start * outputs..terms.end * outputs];
        let mut initial = [simd.splat_f32s(0.0); tile::VECTORS];
        if let Some(bias) = bias {
            initial.copy_from_slice(S::as_simd_f32s(bias).0);
        }
        let a = Rows { data: x, row: ROW, step: 1, segment: 0 };
        let to = Destination {
            target: self.before.unwrap_or(self.y),
            start: first_image * outputs + column,
            row: outputs,
            columns: used,
            add: terms.start > 0,
            relu: self.it.activation == Activation::Relu && terms.end == inputs,
        };
        // What is read next where it lies.
        let last = column + used == self.first + self.columns;
        let next = if last { terms.end * outputs + self.first } else { terms.start * outputs + column + width };
        let ahead = Some(Ahead::of(self.it.weight, next, outputs));
        let packs = first_image == self.images.start;
        let (images, sum) = (x.len() / ROW, Sum { segments: 1, steps: terms.len() });
        // SAFETY: this task alone has these columns, and the first terms have written them.
        unsafe {
            if packs && used == width && !terms.is_empty() {
                let b = Columns { data: &all[column..], step: outputs, segment: 0 };
                tile::packing_product(simd, images, a, b, terms.len(), initial, ahead, to, packed);
                return;
            }
            if packs {
                for (row, packed) in all.chunks_exact(outputs).zip(packed.chunks_exact_mut(width)) {
                    packed.fill(0.0);
                    copy(simd, &row[column..][..used], packed);
                }
            }
            let b = Columns { data: packed, step: width, segment: 0 };
            if used <= S::F32_LANES {
                tile::product(simd, images, a, b, sum, [initial[0]], ahead, to);
            } else {
                tile::product(simd, images, a, b, sum, initial, ahead, to);
            }
        }
    }
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

/// `to = f(from)`
#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, from: &[f32], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) = (S::as_simd_f32s(from), S::as_mut_simd_f32s(to));
    for (from, to) in from.iter().zip(to) {
        *to = activation::value(simd, activation, *from);
    }
    if !to_rest.is_empty() {
        simd.partial_store_f32s(to_rest, activation::value(simd, activation, simd.partial_load_f32s(from_rest)));
    }
}

/// `row = f(row)`
#[inline(always)]
fn activate_in_place<S: Simd>(simd: S, activation: Activation, row: &mut [f32]) {
    let (vectors, rest) = S::as_mut_simd_f32s(row);
    for vector in vectors {
        *vector = activation::value(simd, activation, *vector);
    }
    if !rest.is_empty() {
        let value = activation::value(simd, activation, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, value);
    }
}
