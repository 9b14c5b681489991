//! A layer's way forward.

use std::ops::Range;

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
    Images, Parameters, Saved, Statistics,
    kernel::{self, Kernel},
    layout::{Inside, Padded, write_image},
    norm::{Norm, NormAt, combine, moments},
    plan::Plan,
    pool,
};

/// Forward by given statistics, or else by the batch's: the output, the batch's statistics if they are taken, and what
/// backward needs, which is empty unless it is to be `kept`.
pub(crate) fn forward(
    level: Level,
    layer: ConvLayer,
    x: Images<'_>,
    it: Parameters<'_>,
    residual: Option<Images<'_>>,
    given: Option<&Statistics>,
    kept: bool,
) -> (Vec<f32>, Option<Statistics>, Saved) {
    let plan = Plan::new(level, layer, x, it, residual);
    let kernel = plan.grid.zip(it.weight).map(|(grid, weight)| Kernel::new(level, plan, grid, weight, it.bias));
    let kernel = kernel.as_ref();
    let wants_statistics = it.norm.is_some() && given.is_none();
    // What backward needs: batch norm's and the activation's input, and what was pooled by the largest.
    let keeps = wants_statistics || kept && (it.norm.is_some() || plan.looks_back());
    let keeps_convolved = keeps && (plan.pool_first().is_none() || plan.pools_first_largest());
    let mut convolved = Output::new(if keeps_convolved { x.batch * plan.floats(plan.convolved) } else { 0 });
    let keeps_pooled = keeps && plan.pool_first().is_some();
    let mut pooled = Output::new(if keeps_pooled { x.batch * plan.floats(plan.normalized) } else { 0 });
    let mut y = Output::new(x.batch * plan.outputs * plan.output[0] * plan.output[1]);
    let mut largest = Output::new(if kept && plan.is_block() { x.batch * plan.floats(plan.output) } else { 0 });

    let (groups, size) = (x.batch.div_ceil(plan.group()), plan.group());
    let group = |task: usize| task * size..x.batch.min((task + 1) * size);
    let (convolved_to, pooled_to) = (convolved.target(), pooled.target());
    let convolve = |moments: Option<Target<'_>>, finish: Option<Finish<'_>>| {
        parallel::for_each(groups, |task| {
            level.run(Convolve {
                plan,
                kernel,
                x,
                images: group(task),
                convolved: keeps_convolved.then_some(convolved_to),
                pooled: keeps_pooled.then_some(pooled_to),
                moments,
                finish,
            });
        });
    };
    let statistics = wants_statistics.then(|| {
        // Means and sums of squares around them for each image, [batch, 2, channels].
        let mut moments = vec![0.0; x.batch * 2 * plan.padded];
        convolve(Some(Target::of(&mut moments)), None);
        combine(plan, &moments)
    });
    let norm = Norm::new(plan, given.or(statistics.as_ref()), it);
    let finish = Finish {
        plan,
        norm: &norm,
        residual,
        y: y.target(),
        largest: (kept && plan.is_block()).then(|| largest.target()),
    };
    if wants_statistics {
        let (from, floats) = if keeps_pooled { (pooled_to, plan.normalized) } else { (convolved_to, plan.convolved) };
        let floats = plan.floats(floats);
        parallel::for_each(x.batch, |image| {
            // SAFETY: the tasks above have written every image, and nobody writes it now.
            let normalized = unsafe { from.slice(image * floats, floats) };
            level.run(One { finish, normalized, image });
        });
    } else {
        convolve(None, Some(finish));
    }
    // SAFETY: the tasks have written every image.
    let [y, convolved, pooled, largest] = [y, convolved, pooled, largest].map(|output| unsafe { output.finish() });
    let saved = Saved { convolved, pooled, largest, norm, given: !wants_statistics };
    (y, statistics, saved)
}

/// Some images' convolution, and what follows it as far as the statistics are known.
struct Convolve<'a> {
    plan: Plan,
    kernel: Option<&'a Kernel>,
    x: Images<'a>,
    images: Range<usize>,
    /// Where the convolution's output is kept.
    convolved: Option<Target<'a>>,
    /// Where it is kept when it is pooled first.
    pooled: Option<Target<'a>>,
    /// Where the moments of what batch norm takes go.
    moments: Option<Target<'a>>,
    finish: Option<Finish<'a>>,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, channels, count) = (self.plan, self.plan.padded, self.images.len());
        let (floats, normal) = (plan.floats(plan.convolved), plan.floats(plan.normalized));
        let mut kept = Scratch::take(if self.convolved.is_none() { count * floats } else { 0 });
        let (target, start) = match self.convolved {
            Some(target) => (target, self.images.start * floats),
            None => (Target::of(&mut kept), 0),
        };
        match (self.kernel, plan.grid) {
            (Some(kernel), Some(grid)) => {
                let x = Inside::new(self.x, self.images.clone(), grid);
                // SAFETY: the images are this task's own.
                unsafe { kernel::convolve(simd, grid, count, x.bordered(), kernel, target, start, false) };
            }
            _ => {
                for (index, image) in self.images.clone().enumerate() {
                    // SAFETY: as above.
                    unsafe { target.copy(start + index * floats, &Padded::image(self.x, image, channels)) };
                }
            }
        }
        let mut kept = Scratch::take(if plan.pool_first().is_some() && self.pooled.is_none() { normal } else { 0 });
        let at_hand = Target::of(&mut kept);
        for (index, image) in self.images.enumerate() {
            // SAFETY: the image is this task's own, and has just been written.
            let convolved: &[f32] = unsafe { target.slice(start + index * floats, floats) };
            let normalized = match plan.pool_first() {
                Some(pool) => {
                    let (to, place) = self.pooled.map_or((at_hand, 0), |pooled| (pooled, image * normal));
                    // SAFETY: the image is this task's own, and pooling writes all of it before it reads any.
                    let pooled = unsafe { to.slice(place, normal) };
                    pool::forward(simd, pool, plan.convolved, channels, convolved, pooled);
                    &*pooled
                }
                None => convolved,
            };
            if let Some(target) = self.moments {
                // SAFETY: the image is this task's own.
                let (mean, squares) =
                    unsafe { target.slice(image * 2 * channels, 2 * channels) }.split_at_mut(channels);
                moments(simd, normalized, plan.normalized[1] * channels, mean, squares);
            }
            if let Some(finish) = self.finish {
                finish.image(simd, normalized, image);
            }
        }
    }
}

/// Batch norm, residual, activation and pooling.
#[derive(Clone, Copy)]
struct Finish<'a> {
    plan: Plan,
    norm: &'a Norm,
    residual: Option<Images<'a>>,
    y: Target<'a>,
    /// Where the largest of each pool is kept, before batch norm.
    largest: Option<Target<'a>>,
}

/// [`Finish`] for one image.
struct One<'a> {
    finish: Finish<'a>,
    normalized: &'a [f32],
    image: usize,
}

impl WithSimd for One<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.finish.image(simd, self.normalized, self.image);
    }
}

impl Finish<'_> {
    #[inline(always)]
    fn image<S: Simd>(self, simd: S, normalized: &[f32], image: usize) {
        let (plan, channels) = (self.plan, self.plan.padded);
        let order = plan.layer.epilogue.order;
        let (pixels, floats) = (plan.output[0] * plan.output[1], plan.floats(plan.output));
        let start = image * plan.outputs * pixels;
        let in_place = order == crate::ChannelOrder::Last && plan.outputs == channels;
        let mut kept = Scratch::take(if in_place { 0 } else { floats });
        let y = if in_place {
            // SAFETY: the image is this task's own, and what follows writes all of it before it reads any.
            unsafe { self.y.slice(start, floats) }
        } else {
            &mut *kept
        };
        let residual = self.residual.map(|residual| plan.residual(residual, image));
        let activation = plan.layer.epilogue.activation;
        if plan.is_block() {
            let mut kept = Scratch::take(if self.largest.is_none() { floats } else { 0 });
            let largest = match self.largest {
                // SAFETY: as above.
                Some(largest) => unsafe { largest.slice(image * floats, floats) },
                None => &mut *kept,
            };
            choose_largest(simd, self.norm, plan.convolved, channels, normalized, largest);
            activate(simd, activation, self.norm, channels, largest, None, y);
        } else if let Some(pool) = plan.pool_last() {
            let mut activated = Scratch::take(plan.floats(plan.normalized));
            activate(simd, activation, self.norm, channels, normalized, residual.as_deref(), &mut activated);
            pool::forward(simd, pool, plan.normalized, channels, &activated, y);
        } else {
            activate(simd, activation, self.norm, channels, normalized, residual.as_deref(), y);
        }
        if !in_place {
            // SAFETY: the image is this task's own.
            unsafe { write_image(self.y, start, order, plan.outputs, &kept, channels) };
        }
    }
}

/// Batch norm, residual and activation of an image.
#[inline(always)]
pub(super) fn activate<S: Simd>(
    simd: S,
    activation: Activation,
    norm: &Norm,
    channels: usize,
    image: &[f32],
    residual: Option<&[f32]>,
    to: &mut [f32],
) {
    // Chosen once for all of the image, and compiled for each.
    match activation {
        Activation::None => each(simd, Activation::None, norm, channels, image, residual, to),
        Activation::Relu => each(simd, Activation::Relu, norm, channels, image, residual, to),
        other => each(simd, other, norm, channels, image, residual, to),
    }
}

#[inline(always)]
fn each<S: Simd>(
    simd: S,
    activation: Activation,
    norm: &Norm,
    channels: usize,
    image: &[f32],
    residual: Option<&[f32]>,
    to: &mut [f32],
) {
    let vectors = channels / S::F32_LANES;
    let (image, to) = (S::as_simd_f32s(image).0, S::as_mut_simd_f32s(to).0);
    let residual = residual.map(|residual| S::as_simd_f32s(residual).0);
    for v in 0..vectors {
        let norm = norm.at::<S>(v);
        let values = image[v..].iter().step_by(vectors);
        let places = to[v..].iter_mut().step_by(vectors).zip(values);
        match residual {
            Some(residual) => {
                for ((to, value), residual) in places.zip(residual[v..].iter().step_by(vectors)) {
                    *to = activation::value(simd, activation, simd.add_f32s(norm.apply(simd, *value), *residual));
                }
            }
            None => {
                for (to, value) in places {
                    *to = activation::value(simd, activation, norm.apply(simd, *value));
                }
            }
        }
    }
}

/// The one of each 2x2 pool whose normalized value is the largest.
#[inline(always)]
fn choose_largest<S: Simd>(
    simd: S,
    norm: &Norm,
    [height, width]: [usize; 2],
    channels: usize,
    image: &[f32],
    to: &mut [f32],
) {
    let vectors = channels / S::F32_LANES;
    let (image, to) = (S::as_simd_f32s(image).0, S::as_mut_simd_f32s(to).0);
    for pool_y in 0..height / 2 {
        for pool_x in 0..width / 2 {
            let corner = (2 * pool_y * width + 2 * pool_x) * vectors;
            let to = &mut to[(pool_y * (width / 2) + pool_x) * vectors..][..vectors];
            let (above, below) = (&image[corner..][..2 * vectors], &image[corner + width * vectors..][..2 * vectors]);
            for (v, to) in to.iter_mut().enumerate() {
                let values = [above[v], above[v + vectors], below[v], below[v + vectors]];
                *to = choose(simd, values, norm.at::<S>(v)).0;
            }
        }
    }
}

/// Of a pool's four values the one that is largest when normalized, and its index.
#[inline(always)]
pub(super) fn choose<S: Simd>(simd: S, values: [S::f32s; 4], norm: NormAt<S::f32s>) -> (S::f32s, S::u32s) {
    let mut chosen = values[0];
    let mut largest = norm.apply(simd, values[0]);
    let mut index = simd.splat_u32s(0);
    for (i, value) in values.into_iter().enumerate().skip(1) {
        let normalized = norm.apply(simd, value);
        let larger = pool::is_larger(simd, normalized, largest);
        largest = simd.select_f32s(larger, normalized, largest);
        chosen = simd.select_f32s(larger, value, chosen);
        index = simd.select_u32s(larger, simd.splat_u32s(i as u32), index);
    }
    (chosen, index)
}

impl Plan {
    /// The pixels of an image of the residual that are added, with the padded outputs' channels.
    #[inline(always)]
    pub(super) fn residual(self, residual: Images<'_>, image: usize) -> Padded<'_> {
        Padded::strided(residual, image, self.padded, self.layer.epilogue.residual_stride, self.normalized)
    }

    /// Whether the largest of 2x2 pixels can be told before the activation, and is all that counts of the image behind it.
    pub(super) fn is_block(self) -> bool {
        let epilogue = self.layer.epilogue;
        self.pool_last() == Some(Pool::MAX_2)
            && matches!(epilogue.activation, Activation::None | Activation::Relu)
            && !self.has_residual
    }

    /// Whether backward looks at what batch norm took, or would have taken.
    fn looks_back(self) -> bool {
        self.layer.epilogue.activation != Activation::None || self.pools_largest()
    }

    fn pools_largest(self) -> bool {
        matches!(self.layer.epilogue.pool, Some(Pool::Max { .. }))
    }

    /// Whether the convolution's own output is looked at when it is pooled first.
    fn pools_first_largest(self) -> bool {
        self.layer.epilogue.pool_first && self.pools_largest()
    }
}
