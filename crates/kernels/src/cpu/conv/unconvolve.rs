//! The second half of a layer's way backward: behind batch norm and the convolution.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::{
    Activation, ChannelOrder,
    cpu::{activation, output::Target, scratch::Scratch},
};

use super::{
    Images, Saved,
    forward::choose,
    kernel::{self, Kernel},
    layout::{Bordered, Inside, put_inside, write_image},
    plan::{Border, Plan},
    pool, winograd,
};

/// Some images' gradients behind batch norm and the convolution.
pub(super) struct Unconvolve<'a> {
    pub(super) plan: Plan,
    pub(super) x: Images<'a>,
    pub(super) saved: &'a Saved,
    pub(super) dy: Images<'a>,
    /// The gradient behind pooling and activation, where it is kept.
    pub(super) passed: Option<&'a [f32]>,
    pub(super) slopes: &'a [f32],
    pub(super) offsets: &'a [f32],
    /// None where the gradient of x is not wanted.
    pub(super) turned: &'a [Kernel],
    pub(super) images: Range<usize>,
    pub(super) dx: Option<Target<'a>>,
    /// Whether the gradient of x is added to what is there.
    pub(super) adds: bool,
    /// `[part, taps, channels, channels out]`, if it is wanted.
    pub(super) dweight: Option<Target<'a>>,
    pub(super) part: usize,
}

impl WithSimd for Unconvolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, x) = (self.plan, self.x);
        let inside = Border { size: plan.convolved, corner: [0; 2] };
        let Some(grid) = plan.grid else {
            let mut dz = Scratch::take(plan.floats(plan.convolved));
            for image in self.images.clone() {
                self.image(simd, image, inside, &mut dz);
                self.write_x(image, &dz, plan.padded);
            }
            return;
        };
        let border = grid.turned_border();
        // A 1x1 convolution has its image in one row, which lies as the rows do.
        let placed = if grid.output == plan.convolved { border } else { inside };
        // Tiles enough for products to be worth the transforms, or a few images at least.
        let chunk = if grid.winograd { (32 / winograd::tiles(grid.output)).max(1) } else { 1 }.min(self.images.len());
        let floats = border.pixels() * plan.padded;
        let mut dz = Scratch::zeroed(chunk * floats);
        let in_place = self.x.is_padded(plan.padded_inputs) && self.x.order == ChannelOrder::Last;
        let x_floats = x.pixels() * plan.padded_inputs;
        let mut dx = Scratch::take(if in_place || self.dx.is_none() { 0 } else { chunk * x_floats });
        let part_size = grid.points() * plan.inputs * plan.padded;
        for first in self.images.clone().step_by(chunk) {
            let images = first..self.images.end.min(first + chunk);
            for (image, dz) in images.clone().zip(dz.chunks_exact_mut(floats)) {
                self.image(simd, image, placed, dz);
            }
            let dz = Bordered { floats: &dz, border, beyond: 0, channels: plan.padded };
            let count = images.len();
            if let Some(dweight) = self.dweight {
                let inside = Inside::new(x, images.clone(), grid);
                let (start, add) = (self.part * part_size, first != self.images.start);
                // SAFETY: the part is this task's own, and its first images write all of it.
                unsafe { kernel::add_gradient(simd, grid, count, inside.bordered(), dz, dweight, start, add) };
            }
            let Some(to) = self.dx else { continue };
            let (to, start) = if in_place { (to, first * x_floats) } else { (Target::of(&mut dx), 0) };
            // SAFETY: the images are this task's own.
            unsafe { kernel::convolve_back(simd, grid, count, dz, self.turned, to, start, self.adds && in_place) };
            if !in_place {
                for (image, dx) in images.zip(dx.chunks_exact(x_floats)) {
                    self.write_x(image, dx, plan.padded_inputs);
                }
            }
        }
    }
}

impl Unconvolve<'_> {
    #[inline(always)]
    fn write_x(&self, image: usize, dx: &[f32], channels: usize) {
        let Some(to) = self.dx else { return };
        let length = self.x.channels * self.x.pixels();
        let (start, order) = (image * length, self.x.order);
        if !self.adds {
            // SAFETY: the image is this task's own.
            unsafe { write_image(to, start, order, self.x.channels, dx, channels) };
            return;
        }
        let mut ordered = Scratch::take(length);
        // SAFETY: the buffer is this call's own.
        unsafe { write_image(Target::of(&mut ordered), 0, order, self.x.channels, dx, channels) };
        // SAFETY: the image is this task's own, and has values.
        let sum = unsafe { to.slice(start, length) };
        for (sum, dx) in sum.iter_mut().zip(&*ordered) {
            *sum += dx;
        }
    }

    /// The gradient of the convolution's output, within a border of zeros that is there already.
    #[inline(always)]
    fn image<S: Simd>(&self, simd: S, image: usize, border: Border, dz: &mut [f32]) {
        let (plan, channels) = (self.plan, self.plan.padded);
        if plan.is_block() {
            self.block(simd, image, border, dz);
            return;
        }
        let Some(pool) = plan.pool_first() else {
            self.unnormalized(simd, image, border, dz);
            return;
        };
        let mut pooled = Scratch::take(plan.floats(plan.normalized));
        self.unnormalized(simd, image, Border { size: plan.normalized, corner: [0; 2] }, &mut pooled);
        let floats = plan.floats(plan.convolved);
        let convolved = self.saved.convolved.get(image * floats..(image + 1) * floats).unwrap_or_default();
        let mut unpooled = Scratch::zeroed(floats);
        pool::backward(simd, pool, plan.convolved, channels, convolved, &pooled, &mut unpooled);
        put_inside(&unpooled, plan.convolved, channels, border, dz);
    }

    /// The gradient of what batch norm took.
    #[inline(always)]
    fn unnormalized<S: Simd>(&self, simd: S, image: usize, border: Border, dz: &mut [f32]) {
        let plan = self.plan;
        let normalized = self.saved.normalized(plan, image);
        let floats = plan.floats(plan.normalized);
        let (gradient, activation) = match self.passed {
            Some(passed) => (&passed[image * floats..][..floats], Activation::None),
            None => (self.dy.image(image), plan.layer.epilogue.activation),
        };
        let it = Unnormalize { unconvolve: self, gradient, normalized: normalized.unwrap_or(gradient), border };
        // What is not kept is behind one of these two.
        if activation == Activation::Relu {
            it.run(simd, Activation::Relu, dz);
        } else {
            it.run(simd, Activation::None, dz);
        }
    }

    /// The gradient of a convolution whose 2x2 pools have it at their largest.
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, image: usize, border: Border, dz: &mut [f32]) {
        let (plan, channels) = (self.plan, self.plan.padded);
        let [height, width] = plan.convolved;
        let (floats, pools, stride) = (plan.floats(plan.convolved), plan.floats(plan.output), border.size[1]);
        let vectors = channels / S::F32_LANES;
        let (slopes, offsets) = (S::as_simd_f32s(self.slopes).0, S::as_simd_f32s(self.offsets).0);
        let convolved = S::as_simd_f32s(&self.saved.convolved[image * floats..][..floats]).0;
        let passed = self.passed.map_or(&[][..], |passed| &passed[image * pools..][..pools]);
        let passed = S::as_simd_f32s(passed).0;
        let zero = simd.splat_f32s(0.0);
        let batch = !self.saved.given;
        let first = (border.corner[0] * stride + border.corner[1]) * vectors;
        let dz = &mut S::as_mut_simd_f32s(dz).0[first..];
        let (pools_down, pools_across) = (height / 2, width / 2);
        let scales = S::as_simd_f32s(&self.saved.norm.scale).0;
        for pool_y in 0..pools_down {
            for pool_x in 0..pools_across {
                let at = (2 * pool_y * width + 2 * pool_x) * vectors;
                let (above, below) =
                    (&convolved[at..][..2 * vectors], &convolved[at + width * vectors..][..2 * vectors]);
                let passed = &passed[(pool_y * pools_across + pool_x) * vectors..][..vectors];
                let to = (2 * pool_y * stride + 2 * pool_x) * vectors;
                let (to_above, to_below) = dz[to..].split_at_mut(stride * vectors);
                let (to_above, to_below) = (&mut to_above[..2 * vectors], &mut to_below[..2 * vectors]);
                for v in 0..vectors {
                    let values = [above[v], above[v + vectors], below[v], below[v + vectors]];
                    let norm = self.saved.norm.at::<S>(v);
                    let index = choose(simd, values, norm).1;
                    let gradient = simd.mul_f32s(passed[v], scales[v]);
                    let mut gradients = values;
                    for (i, value) in gradients.iter_mut().enumerate() {
                        let centred = simd.sub_f32s(*value, norm.mean);
                        let base = if batch { simd.mul_add_e_f32s(centred, slopes[v], offsets[v]) } else { zero };
                        let here = simd.equal_u32s(index, simd.splat_u32s(i as u32));
                        *value = simd.select_f32s(here, simd.add_f32s(base, gradient), base);
                    }
                    (to_above[v], to_above[v + vectors]) = (gradients[0], gradients[1]);
                    (to_below[v], to_below[v + vectors]) = (gradients[2], gradients[3]);
                }
            }
        }
        // What no pool covers has batch norm's part alone.
        for y in 0..height {
            let first = if y < 2 * pools_down { 2 * pools_across } else { 0 };
            for x in first..width {
                let (at, to) = ((y * width + x) * vectors, (y * stride + x) * vectors);
                for v in 0..vectors {
                    let centred = simd.sub_f32s(convolved[at + v], self.saved.norm.at::<S>(v).mean);
                    dz[to + v] = if batch { simd.mul_add_e_f32s(centred, slopes[v], offsets[v]) } else { zero };
                }
            }
        }
    }
}

/// What the gradient behind batch norm depends on, for one image.
struct Unnormalize<'a> {
    unconvolve: &'a Unconvolve<'a>,
    gradient: &'a [f32],
    normalized: &'a [f32],
    border: Border,
}

impl Unnormalize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, activation: Activation, dz: &mut [f32]) {
        let Unconvolve { plan, saved, slopes, offsets, .. } = *self.unconvolve;
        let [height, width] = plan.normalized;
        let vectors = plan.padded / S::F32_LANES;
        let (gradient, normalized) = (S::as_simd_f32s(self.gradient).0, S::as_simd_f32s(self.normalized).0);
        let (slopes, offsets) = (S::as_simd_f32s(slopes).0, S::as_simd_f32s(offsets).0);
        let scales = S::as_simd_f32s(&saved.norm.scale).0;
        let dz = S::as_mut_simd_f32s(dz).0;
        let [top, left] = self.border.corner;
        for y in 0..height {
            let from = y * width * vectors..(y + 1) * width * vectors;
            let (gradient, normalized) = (&gradient[from.clone()], &normalized[from]);
            let dz = &mut dz[((y + top) * self.border.size[1] + left) * vectors..][..width * vectors];
            for v in 0..vectors {
                let (norm, scale, step, offset) = (saved.norm.at::<S>(v), scales[v], slopes[v], offsets[v]);
                for at in (v..width * vectors).step_by(vectors) {
                    let u = norm.apply(simd, normalized[at]);
                    let gradient = simd.mul_f32s(activation::gradient(simd, activation, u, gradient[at]), scale);
                    dz[at] = if saved.given {
                        gradient
                    } else {
                        let centred = simd.sub_f32s(normalized[at], norm.mean);
                        simd.add_f32s(gradient, simd.mul_add_e_f32s(centred, step, offset))
                    };
                }
            }
        }
    }
}
