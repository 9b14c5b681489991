//! A convolution by its definition, or in Winograd's form: the kernel laid out for products, and the products.

use pulp::{Simd, WithSimd};

use crate::{
    Level,
    cpu::{
        output::{Output, Target},
        parallel,
        scratch::Scratch,
        tile::{Columns, Destination, Rows, Sum},
    },
};

use super::{
    layout::Bordered,
    panels::{Product, panel_of, panels},
    plan::{Border, Class, Grid, Plan},
    transforms, winograd,
};

/// Lanes of the longest vector.
const LONGEST: usize = 16;

/// A kernel as products take it, with the bias.
pub(super) struct Kernel {
    /// `[panel of channels out, taps, channels in, channels of the panel]`, or Winograd's
    /// `[point, panel of channels out, channels in, channels of the panel]`.
    weight: Scratch,
    /// Padded; zeros without one.
    bias: Vec<f32>,
}

impl Kernel {
    /// That of the convolution.
    pub(super) fn new(level: Level, plan: Plan, grid: Grid, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let bias = bias.map_or_else(|| vec![0.0; plan.padded], |bias| plan.pad(bias));
        let (sides, taps) = ([plan.inputs, plan.padded], |input, output| taps(plan, grid, weight, input, output));
        let weight = if grid.winograd {
            pack_points(level, sides, |from, to| taps(from, to)?.try_into().ok())
        } else {
            let all: Vec<_> = (0..grid.kernel).flat_map(|y| (0..grid.kernel).map(move |x| (y, x))).collect();
            pack_taps(plan, grid, sides, &all, taps)
        };
        Self { weight, bias }
    }

    /// Those of the convolutions that take the output's gradient to the input's, turned around, with inputs and outputs
    /// exchanged: one for each class of rows and of columns.
    pub(super) fn turned(level: Level, plan: Plan, grid: Grid, weight: &[f32]) -> Vec<Self> {
        let sides = [plan.padded, plan.padded_inputs];
        let taps = |output: usize, input: usize| taps(plan, grid, weight, input, output);
        let bias = vec![0.0; plan.padded_inputs];
        if grid.winograd {
            let turned = |output: usize, input: usize| {
                let mut taps: [f32; 9] = taps(output, input)?.try_into().ok()?;
                taps.reverse();
                Some(taps)
            };
            let weight = pack_points(level, sides, turned);
            return vec![Self { weight, bias }];
        }
        let reversed = |class: Class| (0..class.taps).rev().map(move |tap| class.tap + tap * grid.stride);
        let mut kernels = Vec::new();
        for rows in grid.classes(0) {
            for columns in grid.classes(1) {
                let chosen: Vec<_> = reversed(rows).flat_map(|y| reversed(columns).map(move |x| (y, x))).collect();
                kernels.push(Self { weight: pack_taps(plan, grid, sides, &chosen, taps), bias: bias.clone() });
            }
        }
        kernels
    }
}

/// The taps from one channel to another; none where they are in different groups or padding.
fn taps(plan: Plan, grid: Grid, weight: &[f32], input: usize, output: usize) -> Option<&[f32]> {
    if input >= plan.inputs || output >= plan.outputs {
        return None;
    }
    let groups = plan.layer.groups;
    let (ins, outs) = (plan.inputs / groups, plan.outputs / groups);
    let area = grid.kernel * grid.kernel;
    (input / ins == output / outs).then(|| &weight[(output * ins + input % ins) * area..][..area])
}

/// Lays the chosen taps of a kernel out; `taps` are those from one channel to another.
fn pack_taps<'a>(
    plan: Plan,
    grid: Grid,
    [from, to]: [usize; 2],
    chosen: &[(usize, usize)],
    taps: impl Fn(usize, usize) -> Option<&'a [f32]> + Sync,
) -> Scratch {
    let mut packed = Scratch::take(chosen.len() * from * to);
    let target = Target::of(&mut packed);
    parallel::for_each(from, |channel| {
        for output in 0..to {
            let (first, width) = panel_of(plan.lanes, to, output);
            let taps = taps(channel, output);
            for (index, &(y, x)) in chosen.iter().enumerate() {
                let value = taps.map_or(0.0, |taps| taps[y * grid.kernel + x]);
                let place = chosen.len() * from * first + (index * from + channel) * width + output - first;
                // SAFETY: the channel is this task's own.
                unsafe { target.set(place, value) };
            }
        }
    });
    packed
}

/// Lays a kernel out in Winograd's form.
fn pack_points(level: Level, sides: [usize; 2], taps: impl Fn(usize, usize) -> Option<[f32; 9]> + Sync) -> Scratch {
    let mut packed = Scratch::take(winograd::POINTS * sides[0] * sides[1]);
    let target = Target::of(&mut packed);
    let taps: &(dyn Fn(usize, usize) -> Option<[f32; 9]> + Sync) = &taps;
    parallel::for_each(sides[0], |channel| level.run(PackPoints { sides, channel, taps, target }));
    packed
}

/// The kernels from one channel to all others, as many side by side as a vector has lanes.
struct PackPoints<'a> {
    sides: [usize; 2],
    channel: usize,
    taps: &'a (dyn Fn(usize, usize) -> Option<[f32; 9]> + Sync),
    target: Target<'a>,
}

impl WithSimd for PackPoints<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (lanes, [from, to]) = (S::F32_LANES, self.sides);
        let mut taps = [[0.0; LONGEST]; 9];
        for output in (0..to).step_by(lanes) {
            for lane in 0..lanes {
                let of_lane = (self.taps)(self.channel, output + lane).unwrap_or_default();
                taps.iter_mut().zip(of_lane).for_each(|(taps, tap)| taps[lane] = tap);
            }
            let mut vectors = [simd.splat_f32s(0.0); 9];
            for (vector, taps) in vectors.iter_mut().zip(&taps) {
                *vector = S::as_simd_f32s(taps).0[0];
            }
            let points = transforms::of_kernel(simd, vectors);
            let (first, width) = panel_of(lanes, to, output);
            for (point, value) in points.into_iter().enumerate() {
                let place = (point * to + first) * from + self.channel * width + output - first;
                // SAFETY: the channel is this task's own.
                unsafe { self.target.place(place, lanes).cast::<S::f32s>().write_unaligned(value) };
            }
        }
    }
}

/// The gradient of the weight, `[outputs, inputs / groups, kernel, kernel]`, from parts of it, added in order.
pub(super) fn sum_of_parts(level: Level, plan: Plan, grid: Grid, parts: &[f32]) -> Vec<f32> {
    let mut dweight = Output::new(plan.outputs * plan.inputs / plan.layer.groups * grid.kernel * grid.kernel);
    let target = dweight.target();
    parallel::for_each(plan.inputs, |channel| level.run(SumOfParts { plan, grid, parts, channel, target }));
    // SAFETY: the tasks have written the taps from every channel.
    unsafe { dweight.finish() }
}

/// The taps from one channel to all others.
struct SumOfParts<'a> {
    plan: Plan,
    grid: Grid,
    /// `[part, taps or points, channels, channels out]`
    parts: &'a [f32],
    channel: usize,
    target: Target<'a>,
}

impl WithSimd for SumOfParts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { plan, grid, channel, .. } = self;
        let (points, lanes, area) = (grid.points(), S::F32_LANES, grid.kernel * grid.kernel);
        let (ins, outs) = (plan.inputs / plan.layer.groups, plan.outputs / plan.layer.groups);
        let mut sums = Scratch::take(points.max(area) * lanes);
        for output in (0..plan.padded).step_by(lanes) {
            let sums = S::as_mut_simd_f32s(&mut sums).0;
            for (point, sum) in sums.iter_mut().enumerate().take(points) {
                let place = (point * plan.inputs + channel) * plan.padded + output;
                let of_part = |part: &[f32]| S::as_simd_f32s(&part[place..place + lanes]).0[0];
                let mut parts = self.parts.chunks_exact(points * plan.inputs * plan.padded);
                *sum = parts.next().map_or(simd.splat_f32s(0.0), of_part);
                for part in parts {
                    *sum = simd.add_f32s(*sum, of_part(part));
                }
            }
            if grid.winograd {
                let mut points = [simd.splat_f32s(0.0); winograd::POINTS];
                points.copy_from_slice(&sums[..winograd::POINTS]);
                let taps = transforms::to_kernel(simd, &points);
                sums[..area].copy_from_slice(&taps);
            }
            let taps: &[f32] = pulp::bytemuck::cast_slice(sums);
            for lane in 0..lanes.min(plan.outputs.saturating_sub(output)) {
                if (output + lane) / outs != channel / ins {
                    continue;
                }
                let start = ((output + lane) * ins + channel % ins) * area;
                for tap in 0..area {
                    // SAFETY: the channel is this task's own.
                    unsafe { self.target.set(start + tap, taps[tap * lanes + lane]) };
                }
            }
        }
    }
}

/// Convolves `images` images to pixels of the padded outputs, one image after another from `start` on; to be added to what
/// is there, without the bias, or written.
///
/// # Safety
/// Nobody else uses the images' places in `to` meanwhile, and they have values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Images, where they go, and what with.
pub(super) unsafe fn convolve<S: Simd>(
    simd: S,
    grid: Grid,
    images: usize,
    x: Bordered<'_>,
    kernel: &Kernel,
    to: Target<'_>,
    start: usize,
    add: bool,
) {
    if grid.winograd {
        // SAFETY: the caller's promise.
        unsafe { winograd::convolve(simd, images, x, grid.output, &kernel.weight, &kernel.bias, to, start, add) };
        return;
    }
    let outputs = kernel.bias.len();
    let whole = |side: usize| Class { first: 0, count: side, tap: 0, taps: grid.kernel, start: 0 };
    let classes = grid.output.map(whole);
    for image in 0..images {
        let place = start + image * grid.output[0] * grid.output[1] * outputs;
        let from = &x.floats[image * x.border.pixels() * x.channels..];
        // SAFETY: the caller's promise.
        unsafe { product_of(simd, classes, (from, x), (kernel, grid.stride), to, place, [grid.output[1], 1], add) };
    }
}

/// The gradients of images from those of the convolution's output, `[height, width, padded inputs]`; to be added to what is
/// there, or written.
///
/// # Safety
/// Nobody else uses the images' places in `to` meanwhile, and they have values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Images, where they go, and what with.
pub(super) unsafe fn convolve_back<S: Simd>(
    simd: S,
    grid: Grid,
    images: usize,
    dz: Bordered<'_>,
    kernels: &[Kernel],
    to: Target<'_>,
    start: usize,
    add: bool,
) {
    if grid.winograd {
        // SAFETY: the caller's promise.
        unsafe { convolve(simd, grid.turned(), images, dz, &kernels[0], to, start, add) };
        return;
    }
    let inputs = kernels[0].bias.len();
    let [top, left] = dz.border.corner;
    for image in 0..images {
        let from = &dz.floats[image * dz.border.pixels() * dz.channels..];
        let mut kernels = kernels.iter();
        for rows in grid.classes(0) {
            for (columns, kernel) in grid.classes(1).zip(&mut kernels) {
                let corner = [(rows.start + top as isize) as usize, (columns.start + left as isize) as usize];
                let first = (corner[0] * dz.border.size[1] + corner[1]) * dz.channels;
                let place =
                    start + (image * grid.size[0] * grid.size[1] + rows.first * grid.size[1] + columns.first) * inputs;
                let steps = [grid.size[1] * grid.stride, grid.stride];
                // SAFETY: the caller's promise.
                unsafe { product_of(simd, [rows, columns], (&from[first..], dz), (kernel, 1), to, place, steps, add) };
            }
        }
    }
}

/// The products that convolve one image, or one class of its pixels: `steps` are pixels from one row of the output to the
/// next, and from one pixel to the next.
///
/// # Safety
/// Nobody else uses these pixels' places in `to` meanwhile, and they have values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Images, where they go, and what with.
unsafe fn product_of<S: Simd>(
    simd: S,
    [rows, columns]: [Class; 2],
    (from, x): (&[f32], Bordered<'_>),
    (kernel, stride): (&Kernel, usize),
    to: Target<'_>,
    start: usize,
    steps: [usize; 2],
    add: bool,
) {
    let (channels, outputs) = (x.channels, kernel.bias.len());
    let row = x.border.size[1] * channels;
    let taps = rows.taps * columns.taps;
    for (panel, vectors) in panels::<S>(outputs) {
        let width = vectors * S::F32_LANES;
        let weight = &kernel.weight[taps * channels * panel..][..taps * channels * width];
        for y in 0..rows.count {
            // SAFETY: the caller's promise.
            unsafe {
                Product {
                    vectors,
                    rows: columns.count,
                    a: Rows { data: &from[y * stride * row..], row: stride * channels, step: 1, segment: row },
                    b: Columns { data: weight, step: width, segment: columns.taps * channels * width },
                    sum: Sum { segments: rows.taps, steps: columns.taps * channels },
                    initial: (!add).then(|| &kernel.bias[panel..]),
                    ahead: None,
                    to: Destination {
                        target: to,
                        start: start + y * steps[0] * outputs + panel,
                        row: steps[1] * outputs,
                        columns: width,
                        add,
                        relu: false,
                    },
                }
                .run(simd);
            }
        }
    }
}

/// Adds images' part to the gradient of the kernel, `[taps, channels, channels out]`; the pixels of `dz` begin at its
/// border's corner.
///
/// # Safety
/// Nobody else uses the gradient's place meanwhile, and it has values if they are to be added to.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Two images, and where their product goes.
pub(super) unsafe fn add_gradient<S: Simd>(
    simd: S,
    grid: Grid,
    images: usize,
    x: Bordered<'_>,
    dz: Bordered<'_>,
    to: Target<'_>,
    start: usize,
    add: bool,
) {
    if grid.winograd {
        // SAFETY: the caller's promise.
        unsafe { winograd::add_gradient(simd, images, x, dz, grid.output, to, start, add) };
        return;
    }
    let Border { size: [_, dz_row], corner: [top, left] } = dz.border;
    let row = x.border.size[1] * x.channels;
    let reach = grid.kernel * x.channels;
    // dW[tap, input, output] is the sum over pixels of x[stride * pixel + tap, input] dz[pixel, output].
    for image in 0..images {
        let x_floats = &x.floats[image * x.border.pixels() * x.channels..];
        let dz_floats = &dz.floats[(image * dz.border.pixels() + top * dz_row + left) * dz.channels..];
        for tap in 0..grid.kernel {
            for (panel, vectors) in panels::<S>(dz.channels) {
                // SAFETY: the caller's promise.
                unsafe {
                    Product {
                        vectors,
                        rows: reach,
                        a: Rows {
                            data: &x_floats[tap * row..],
                            row: 1,
                            step: grid.stride * x.channels,
                            segment: grid.stride * row,
                        },
                        b: Columns { data: &dz_floats[panel..], step: dz.channels, segment: dz_row * dz.channels },
                        sum: Sum { segments: grid.output[0], steps: grid.output[1] },
                        initial: None,
                        ahead: None,
                        to: Destination {
                            target: to,
                            start: start + tap * reach * dz.channels + panel,
                            row: dz.channels,
                            columns: vectors * S::F32_LANES,
                            add: add || image > 0,
                            relu: false,
                        },
                    }
                    .run(simd);
                }
            }
        }
    }
}
