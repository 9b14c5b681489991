//! A layer's way backward: first behind pooling and activation, with the sums that batch norm needs of the whole batch,
//! then behind batch norm and the convolution.

use pulp::{Simd, WithSimd};

use crate::{
    Activation, ConvLayer, Level, Pool,
    cpu::{
        activation,
        output::{Output, Target},
        parallel,
        scratch::Scratch,
    },
};

use super::{
    Gradients, Images, Parameters, Saved, Wanted,
    forward::activate,
    kernel::{self, Kernel},
    layout::{Padded, write_image},
    plan::Plan,
    pool,
    unconvolve::Unconvolve,
};

/// Parts of the batch that sum gradients of their own at most, which are then added in order: so many on every machine, so
/// that the sums do not depend on it. No more threads take part.
const PARTS: usize = 16;

/// Numbers in all parts of a weight's gradient, unless a few parts alone have more: to add them takes time.
const MOST_PARTIAL: usize = 300_000;

/// The gradients for `dy`, which is as the layer's output. Those of x are added to `sum`, in x's order, where there is one.
///
/// By the batch's statistics that of the convolution's bias is zero, since batch norm takes the mean away again.
#[allow(clippy::too_many_arguments)] // What forward had, and what became of it.
pub(crate) fn backward(
    level: Level,
    layer: ConvLayer,
    x: Images<'_>,
    it: Parameters<'_>,
    residual: Option<Images<'_>>,
    saved: &Saved,
    dy: Images<'_>,
    wanted: Wanted,
    sum: Option<&mut [f32]>,
) -> Gradients {
    let plan = Plan::new(level, layer, x, it, residual);
    let (batch, channels) = (plan.batch, plan.padded);
    let shape = [dy.batch, dy.channels, dy.height, dy.width];
    assert_eq!(shape, [batch, plan.outputs, plan.output[0], plan.output[1]], "the gradient's shape");

    // The gradient behind pooling and activation, with its sums for each image, [batch, 2, channels].
    let wants_residual = residual.is_some() && wanted.residual;
    let length = residual.filter(|_| wants_residual).map_or(0, |residual| residual.floats.len());
    let mut dresidual = Output::new(length);
    // Where the residual's is the same, it is written there.
    let is_shared =
        wants_residual && layer.epilogue.residual_stride == 1 && residual.is_some_and(|it| it.is_padded(channels));
    let is_kept = !is_shared && !plan.passes_through(dy);
    let floats = plan.floats(if plan.is_block() { plan.output } else { plan.normalized });
    let mut kept = Scratch::take(if is_kept { batch * floats } else { 0 });
    let mut sums = vec![0.0; batch * 2 * channels];
    let residual_to = dresidual.target();
    let passed = if is_shared { Some(residual_to) } else { is_kept.then(|| Target::of(&mut kept)) };
    let spread = (wants_residual && !is_shared).then_some(residual_to);
    {
        let sums = Target::of(&mut sums);
        parallel::for_each(batch, |image| {
            level.run(Pass { plan, saved, dy, residual, image, passed, spread, sums });
        });
    }
    let (mut beta, mut gamma) = (vec![0.0_f64; channels], vec![0.0_f64; channels]);
    for image in sums.chunks_exact(2 * channels) {
        for channel in 0..channels {
            beta[channel] += f64::from(image[channel]);
            gamma[channel] += f64::from(image[channels + channel]);
        }
    }
    let norm = &saved.norm;
    gamma.iter_mut().zip(&norm.inverse_std).for_each(|(gamma, inverse)| *gamma *= f64::from(*inverse));
    // dz = scale (dy - sum(dy) / n - (z - mean) / std * sum(dy (z - mean) / std) / n), or of given statistics
    // scale dy alone.
    let count = (batch * plan.normalized[0] * plan.normalized[1]) as f64;
    let slope = |channel: usize| {
        let inverse = f64::from(norm.inverse_std[channel]);
        (-f64::from(norm.scale[channel]) * inverse * gamma[channel] / count) as f32
    };
    let offset = |channel: usize| (-f64::from(norm.scale[channel]) * beta[channel] / count) as f32;
    let (slopes, offsets): (Vec<f32>, Vec<f32>) = (0..channels).map(|it| (slope(it), offset(it))).unzip();

    let turned = match (plan.grid, it.weight) {
        (Some(grid), Some(weight)) if wanted.x => Kernel::turned(level, plan, grid, weight),
        _ => Vec::new(),
    };
    let adds = sum.is_some();
    assert!(sum.as_ref().is_none_or(|sum| sum.len() == x.floats.len()), "the size of the gradient so far");
    let mut dx = Output::new(if wanted.x && !adds { x.floats.len() } else { 0 });
    let weighed = plan.grid.filter(|_| wanted.weight);
    let part_size = weighed.map_or(0, |grid| grid.points() * plan.inputs * channels);
    let parts = batch.min(parts(part_size));
    let mut dweights = Scratch::take(parts * part_size);
    if wanted.x || weighed.is_some() {
        let dweight = weighed.map(|_| Target::of(&mut dweights));
        let dx = sum.map_or_else(|| dx.target(), Target::of);
        let dx = wanted.x.then_some(dx);
        // SAFETY: the tasks above have written it, and nobody writes it now.
        let passed = passed.map(|passed| &*unsafe { passed.slice(0, batch * floats) });
        parallel::for_each(parts, |part| {
            let images = part * batch / parts..(part + 1) * batch / parts;
            let turned = &turned[..];
            level.run(Unconvolve {
                plan,
                x,
                saved,
                dy,
                passed,
                slopes: &slopes,
                offsets: &offsets,
                turned,
                images,
                dx,
                adds,
                dweight,
                part,
            });
        });
    }
    let learned = |sums: &[f64]| sums[..plan.outputs].iter().map(|sum| *sum as f32).collect();
    let of_bias = |(sum, scale): (&f64, &f32)| if saved.given { (sum * f64::from(*scale)) as f32 } else { 0.0 };
    Gradients {
        // SAFETY: the tasks have written every image.
        x: (wanted.x && !adds).then(|| unsafe { dx.finish() }),
        // SAFETY: as above.
        residual: wants_residual.then(|| unsafe { dresidual.finish() }),
        weight: weighed.map_or_else(Vec::new, |grid| kernel::sum_of_parts(level, plan, grid, &dweights)),
        bias: it.bias.map_or_else(Vec::new, |_| beta.iter().zip(&norm.scale).take(plan.outputs).map(of_bias).collect()),
        norm: it.norm.map(|_| [learned(&gamma), learned(&beta)]),
    }
}

impl Plan {
    /// Whether the gradient behind the activation is had from `dy` as it lies, by what forward kept.
    fn passes_through(self, dy: Images<'_>) -> bool {
        let is_cheap = matches!(self.layer.epilogue.activation, Activation::None | Activation::Relu);
        is_cheap && self.pool_last().is_none() && !self.has_residual && dy.is_padded(self.padded)
    }
}

/// Parts of the batch for a gradient of so many numbers.
fn parts(size: usize) -> usize {
    // Of the largest, memory decides.
    let least = if size > 4_000_000 { 2 } else { 4 };
    let most = (MOST_PARTIAL / size.max(1)).clamp(least, PARTS);
    1 << most.ilog2()
}

impl Saved {
    /// What batch norm took of an image, or would have taken; none where nothing looks at it.
    pub(super) fn normalized(&self, plan: Plan, image: usize) -> Option<&[f32]> {
        let all = if plan.pool_first().is_some() { &self.pooled } else { &self.convolved };
        let floats = plan.floats(plan.normalized);
        (!all.is_empty()).then(|| &all[image * floats..][..floats])
    }
}

/// An image's gradient behind pooling and activation, and its sums.
struct Pass<'a> {
    plan: Plan,
    saved: &'a Saved,
    dy: Images<'a>,
    residual: Option<Images<'a>>,
    image: usize,
    /// Where it is kept.
    passed: Option<Target<'a>>,
    /// Where the residual's gradient goes, if that is not the same.
    spread: Option<Target<'a>>,
    sums: Target<'a>,
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, saved, image, .. } = self;
        let (channels, epilogue) = (plan.padded, plan.layer.epilogue);
        let dy = Padded::image(self.dy, image, channels);
        let residual = self.residual.map(|residual| plan.residual(residual, image));
        let residual = residual.as_deref();
        let mut normalized = saved.normalized(plan, image);
        let mut da = dy;
        if plan.is_block() {
            let floats = plan.floats(plan.output);
            normalized = Some(&saved.largest[image * floats..][..floats]);
        } else if let Some(pool) = plan.pool_last() {
            let mut activated = Scratch::take(plan.floats(plan.normalized));
            if let (Pool::Max { .. }, Some(normalized)) = (pool, normalized) {
                activate(simd, epilogue.activation, &saved.norm, channels, normalized, residual, &mut activated);
            }
            let mut unpooled = Scratch::zeroed(plan.floats(plan.normalized));
            pool::backward(simd, pool, plan.normalized, channels, &activated, &da, &mut unpooled);
            da = Padded::Copied(unpooled);
        }
        // Without it nothing depends on it.
        let normalized = normalized.unwrap_or(&da);
        let floats = da.len();
        let mut kept = Scratch::take(if self.passed.is_none() && self.spread.is_some() { floats } else { 0 });
        let passed = match self.passed {
            // SAFETY: the image is this task's own, and is written before it is read.
            Some(passed) => unsafe { passed.slice(image * floats, floats) },
            None => &mut *kept,
        };
        // SAFETY: the image is this task's own.
        let sums = unsafe { self.sums.slice(image * 2 * channels, 2 * channels) };
        let it = Behind { saved, channels, normalized, residual, da: &da };
        // Chosen once for all of the image, and compiled for each.
        match epilogue.activation {
            Activation::None => it.run(simd, Activation::None, passed, sums),
            Activation::Relu => it.run(simd, Activation::Relu, passed, sums),
            other => it.run(simd, other, passed, sums),
        }
        if let (Some(to), Some(residual)) = (self.spread, self.residual) {
            // SAFETY: the image is this task's own.
            unsafe { spread(plan, residual, passed, to, image) };
        }
    }
}

/// What the gradient behind an activation depends on, for one image.
struct Behind<'a> {
    saved: &'a Saved,
    channels: usize,
    normalized: &'a [f32],
    residual: Option<&'a [f32]>,
    da: &'a [f32],
}

impl Behind<'_> {
    /// Writes the gradient before the activation to `passed`, if that has room for it, and its sums, by itself and times the
    /// distance from the mean.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, activation: Activation, passed: &mut [f32], sums: &mut [f32]) {
        let vectors = self.channels / S::F32_LANES;
        let (normalized, da) = (S::as_simd_f32s(self.normalized).0, S::as_simd_f32s(self.da).0);
        let residual = self.residual.map(|residual| S::as_simd_f32s(residual).0);
        let passed = S::as_mut_simd_f32s(passed).0;
        let (beta_sums, gamma_sums) = sums.split_at_mut(self.channels);
        let (beta_sums, gamma_sums) = (S::as_mut_simd_f32s(beta_sums).0, S::as_mut_simd_f32s(gamma_sums).0);
        let zero = simd.splat_f32s(0.0);
        for v in 0..vectors {
            let norm = self.saved.norm.at::<S>(v);
            // Two sums of each at once, since each waits for its last addition.
            let (mut beta, mut gamma) = ([zero; 2], [zero; 2]);
            for (number, at) in (v..da.len()).step_by(vectors).enumerate() {
                let value = normalized[at];
                let mut u = norm.apply(simd, value);
                if let Some(residual) = residual {
                    u = simd.add_f32s(u, residual[at]);
                }
                let gradient = activation::gradient(simd, activation, u, da[at]);
                if !passed.is_empty() {
                    passed[at] = gradient;
                }
                let which = number % 2;
                beta[which] = simd.add_f32s(beta[which], gradient);
                gamma[which] = simd.mul_add_e_f32s(gradient, simd.sub_f32s(value, norm.mean), gamma[which]);
            }
            beta_sums[v] = simd.add_f32s(beta[0], beta[1]);
            gamma_sums[v] = simd.add_f32s(gamma[0], gamma[1]);
        }
    }
}

/// Writes the residual's gradient: zeros where its pixels were left out.
///
/// # Safety
/// Nobody else uses the image's place in `to` meanwhile.
#[inline(always)]
unsafe fn spread(plan: Plan, residual: Images<'_>, passed: &[f32], to: Target<'_>, image: usize) {
    let (channels, stride) = (residual.channels, plan.layer.epilogue.residual_stride);
    let start = image * channels * residual.pixels();
    if stride == 1 {
        // SAFETY: the caller's promise.
        unsafe { write_image(to, start, residual.order, channels, passed, plan.padded) };
        return;
    }
    let mut spread = Scratch::zeroed(channels * residual.pixels());
    for (pixel, passed) in passed.chunks_exact(plan.padded).enumerate() {
        let (y, x) = (pixel / plan.normalized[1] * stride, pixel % plan.normalized[1] * stride);
        spread[(y * residual.width + x) * channels..][..channels].copy_from_slice(&passed[..channels]);
    }
    // SAFETY: the caller's promise.
    unsafe { write_image(to, start, residual.order, channels, &spread, channels) };
}
