//! A convolution block: 3x3 convolution, batch norm, ReLU and 2x2 max pooling as one operation.
//!
//! Images come and go as `[channels, height, width]` or `[height, width, channels]` ([`ChannelOrder`]). Within the block
//! an image is the latter, with a border of zeros where it is convolved. By the definition, the convolution of a row of
//! pixels is then a product of [`tile`]'s with three segments, one for each row of the kernel, and nothing is
//! copied out for it; with channels enough it is [`winograd`]'s. Channels are padded to whole tiles
//! wherever they are read or written as vectors.
//!
//! Forward keeps the convolution's output and the largest of each pool; what batch norm, ReLU and pooling made of them is
//! computed again backward, which costs less than to store it.

use pulp::{Simd, WithSimd};

use super::{
    Level,
    output::{Output, Target},
    parallel,
    scratch::Scratch,
    tile::{self, Columns, Destination, Rows, Sum},
    winograd::{self, Grid},
};

/// Where an image has its channels in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Outside, as Burn's tensors usually have them: one plane of pixels after another.
    #[default]
    First,
    /// Inside: each pixel with all of its channels. So a block reads and writes images fastest.
    Last,
}

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of x and its gradient.
    pub(crate) x_order: ChannelOrder,
    /// Of y, and of its gradient.
    pub(crate) y_order: ChannelOrder,
    pub(crate) batch: usize,
    /// Channels that come in.
    pub(crate) inputs: usize,
    /// Channels that go out.
    pub(crate) outputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// What the block learns.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'a> {
    /// `[outputs, inputs, 3, 3]`
    pub(crate) weight: &'a [f32],
    /// `[outputs]`
    pub(crate) bias: Option<&'a [f32]>,
    /// Batch norm's scale, `[outputs]`.
    pub(crate) gamma: &'a [f32],
    /// Batch norm's shift, `[outputs]`.
    pub(crate) beta: &'a [f32],
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

/// Statistics over batch, height and width.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    /// `[outputs]`
    pub(crate) mean: Vec<f32>,
    /// With the number of values as its divisor, `[outputs]`.
    pub(crate) variance: Vec<f32>,
}

/// What backward needs of forward, in padded channels.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// The convolution's output, `[batch, height, width, channels]`.
    convolved: Vec<f32>,
    /// The one of each pool whose normalised value is the largest, `[batch, height / 2, width / 2, channels]`.
    largest: Vec<f32>,
    norm: Norm,
    /// Whether the statistics were given, and are constants.
    given: bool,
}

/// The gradients of [`train`].
pub(crate) struct Gradients {
    /// `[batch, inputs, height, width]`, if asked for.
    pub(crate) x: Option<Vec<f32>>,
    /// `[outputs, inputs, 3, 3]`
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`
    pub(crate) bias: Vec<f32>,
    /// `[outputs]`
    pub(crate) gamma: Vec<f32>,
    /// `[outputs]`
    pub(crate) beta: Vec<f32>,
}

/// Parts of the batch that sum gradients of their own, which are then added in order: more than any machine's threads
/// make use of at the batch sizes of training, and so many on every machine, so that the sums do not depend on it.
const PARTS: usize = 16;

/// Batch norm for each channel: `(z - mean) * scale + beta`.
#[derive(Clone, Debug)]
struct Norm {
    mean: Vec<f32>,
    scale: Vec<f32>,
    beta: Vec<f32>,
    inverse_deviation: Vec<f32>,
}

impl Norm {
    fn new(plan: Plan, statistics: &Statistics, it: Parameters<'_>) -> Self {
        let inverse: Vec<f32> = statistics.variance.iter().map(|var| 1.0 / (var + it.epsilon).sqrt()).collect();
        let scale: Vec<f32> = inverse.iter().zip(it.gamma).map(|(inverse, gamma)| inverse * gamma).collect();
        Self {
            mean: plan.pad(&statistics.mean),
            scale: plan.pad(&scale),
            beta: plan.pad(it.beta),
            inverse_deviation: plan.pad(&inverse),
        }
    }
}

/// The sizes with what follows from them at a level.
#[derive(Clone, Copy)]
struct Plan {
    sizes: Sizes,
    /// Channels of a tile.
    tile: usize,
    /// `inputs` and `outputs` in whole tiles.
    padded_inputs: usize,
    padded_outputs: usize,
}

impl Plan {
    fn new(level: Level, sizes: Sizes) -> Self {
        let tile = level.width();
        let padded_inputs = sizes.inputs.next_multiple_of(tile);
        Self { sizes, tile, padded_inputs, padded_outputs: sizes.outputs.next_multiple_of(tile) }
    }

    fn pixels(self) -> usize {
        self.sizes.height * self.sizes.width
    }

    /// Pixels in a row with its border, which makes the width even: Winograd's tiles are two pixels wide.
    fn stride(self) -> usize {
        self.sizes.width.next_multiple_of(2) + 2
    }

    /// Pixels of an image with its border.
    fn bordered(self) -> usize {
        (self.sizes.height.next_multiple_of(2) + 2) * self.stride()
    }

    fn grid(self) -> Grid {
        Grid { height: self.sizes.height, width: self.sizes.width, stride: self.stride() }
    }

    /// Whether Winograd's convolution pays: with few channels its transforms cost more than they save.
    fn winograd(self) -> bool {
        let Sizes { inputs, outputs, height, width, .. } = self.sizes;
        inputs % 16 == 0 && outputs >= 16 && height >= 4 && width >= 4
    }

    /// Numbers that the kernel has for each pair of channels.
    fn taps(winograd: bool) -> usize {
        if winograd { winograd::POINTS } else { 9 }
    }

    fn pools(self) -> usize {
        (self.sizes.height / 2) * (self.sizes.width / 2)
    }

    fn pad(self, values: &[f32]) -> Vec<f32> {
        let mut padded = values.to_vec();
        padded.resize(self.padded_outputs, 0.0);
        padded
    }

    fn check(self, x: &[f32], it: Parameters<'_>) {
        let Sizes { batch, inputs, outputs, .. } = self.sizes;
        assert_eq!(x.len(), batch * inputs * self.pixels());
        assert_eq!(it.weight.len(), outputs * inputs * 9);
        assert!(it.bias.is_none_or(|bias| bias.len() == outputs));
        assert_eq!((it.gamma.len(), it.beta.len()), (outputs, outputs));
    }
}

/// Forward by given statistics, or else by the batch's: the output, `[batch, outputs, height / 2, width / 2]`, the
/// statistics, and what [`backward`] needs.
pub(crate) fn train(
    level: Level,
    sizes: Sizes,
    x: &[f32],
    it: Parameters<'_>,
    statistics: Option<&Statistics>,
) -> (Vec<f32>, Statistics, Saved) {
    let plan = Plan::new(level, sizes);
    plan.check(x, it);
    let (batch, channels) = (sizes.batch, plan.padded_outputs);
    let kernel = Kernel::new(plan, it, plan.winograd());

    let mut convolved = Output::new(batch * plan.pixels() * channels);
    // Means and sums of squares around them for each image, [batch, 2, channels].
    let mut moments = vec![0.0; batch * 2 * channels];
    {
        let (convolved, moments) = (convolved.target(), Target::of(&mut moments));
        parallel::for_each(batch, |image| level.run(Convolve { plan, kernel: &kernel, x, image, convolved, moments }));
    }
    // SAFETY: the tasks have written every image.
    let convolved = unsafe { convolved.finish() };
    let given = statistics.is_some();
    let statistics = statistics.map_or_else(|| combine(plan, &moments), Statistics::clone);
    let norm = Norm::new(plan, &statistics, it);

    let mut y = Output::new(batch * sizes.outputs * plan.pools());
    let mut largest = Output::new(batch * plan.pools() * channels);
    {
        let (y, largest) = (y.target(), largest.target());
        let pixels = plan.pixels() * channels;
        parallel::for_each(batch, |image| {
            let convolved = &convolved[image * pixels..][..pixels];
            level.run(Pool { plan, norm: &norm, convolved, image, y, largest: Some(largest) });
        });
    }
    // SAFETY: the tasks have written every image.
    let (y, largest) = unsafe { (y.finish(), largest.finish()) };
    (y, statistics, Saved { convolved, largest, norm, given })
}

/// Forward by given statistics.
pub(crate) fn infer(level: Level, sizes: Sizes, x: &[f32], it: Parameters<'_>, statistics: &Statistics) -> Vec<f32> {
    let plan = Plan::new(level, sizes);
    plan.check(x, it);
    // By the definition: an infinity stays where it is.
    let kernel = Kernel::new(plan, it, false);
    let norm = Norm::new(plan, statistics, it);
    let mut y = Output::new(sizes.batch * sizes.outputs * plan.pools());
    let target = y.target();
    parallel::for_each(sizes.batch, |image| {
        let mut convolved = Scratch::take(plan.pixels() * plan.padded_outputs);
        let mut moments = Scratch::take(2 * plan.padded_outputs);
        let (to, moments) = (Target::of(&mut convolved), Target::of(&mut moments));
        level.run(Convolve {
            plan,
            kernel: &kernel,
            x: &x[image * sizes.inputs * plan.pixels()..],
            image: 0,
            convolved: to,
            moments,
        });
        level.run(Pool { plan, norm: &norm, convolved: &convolved, image, y: target, largest: None });
    });
    // SAFETY: the tasks have written every image.
    unsafe { y.finish() }
}

/// The convolution's kernel and bias.
///
/// The kernel is `[channels out in tiles, 3 * 3, channels, tile]`, or Winograd's
/// `[point, channels out in tiles, channels, tile]`.
struct Kernel {
    weight: Scratch,
    bias: Vec<f32>,
    winograd: bool,
}

impl Kernel {
    fn new(plan: Plan, it: Parameters<'_>, winograd: bool) -> Self {
        let Sizes { inputs, outputs, .. } = plan.sizes;
        let bias = it.bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        let taps = |input: usize, output: usize| {
            let mut taps = [0.0; 9];
            if output < outputs {
                taps.copy_from_slice(&it.weight[(output * inputs + input) * 9..][..9]);
            }
            taps
        };
        Self { weight: pack(plan, inputs, plan.padded_outputs, winograd, taps), bias: plan.pad(&bias), winograd }
    }

    /// The kernel of the convolution that takes the output's gradient to the input's: turned around, with inputs and
    /// outputs exchanged.
    fn turned(plan: Plan, weight: &[f32], winograd: bool) -> Self {
        let Sizes { inputs, outputs, .. } = plan.sizes;
        let taps = |output: usize, input: usize| {
            let mut taps = [0.0; 9];
            if input < inputs && output < outputs {
                taps.copy_from_slice(&weight[(output * inputs + input) * 9..][..9]);
                taps.reverse();
            }
            taps
        };
        let weight = pack(plan, plan.padded_outputs, plan.padded_inputs, winograd, taps);
        Self { weight, bias: vec![0.0; plan.padded_inputs], winograd }
    }
}

/// Lays a kernel out for the products that convolve with it; `taps` are those from one channel to another.
fn pack(plan: Plan, from: usize, to: usize, winograd: bool, taps: impl Fn(usize, usize) -> [f32; 9] + Sync) -> Scratch {
    let mut packed = Scratch::take(Plan::taps(winograd) * from * to);
    let target = Target::of(&mut packed);
    parallel::for_each(from, |channel| {
        for output in 0..to {
            let (panel, lane) = (output / plan.tile, output % plan.tile);
            let taps = taps(channel, output);
            if winograd {
                for (point, value) in winograd::of_kernel(&taps).into_iter().enumerate() {
                    let place = (point * to + panel * plan.tile) * from + channel * plan.tile + lane;
                    // SAFETY: the channel is this task's own.
                    unsafe { target.set(place, value) };
                }
            } else {
                for (tap, value) in taps.into_iter().enumerate() {
                    let place = ((panel * 9 + tap) * from + channel) * plan.tile + lane;
                    // SAFETY: as above.
                    unsafe { target.set(place, value) };
                }
            }
        }
    });
    packed
}

/// An image's convolution, with the moments of its channels.
struct Convolve<'a> {
    plan: Plan,
    kernel: &'a Kernel,
    x: &'a [f32],
    image: usize,
    convolved: Target<'a>,
    moments: Target<'a>,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let inputs = plan.sizes.inputs;
        let mut bordered = Scratch::zeroed(plan.bordered() * inputs);
        let image = &self.x[self.image * inputs * plan.pixels()..][..inputs * plan.pixels()];
        border(plan, inputs, image, &mut bordered);
        let start = self.image * plan.pixels() * channels;
        convolve(simd, plan, inputs, &bordered, self.kernel, self.convolved, start);

        // SAFETY: the image is this task's own, and has just been written.
        let (convolved, moments) = unsafe {
            (
                self.convolved.slice(start, plan.pixels() * channels),
                self.moments.slice(self.image * 2 * channels, 2 * channels),
            )
        };
        let (mean, squares) = moments.split_at_mut(channels);
        let (mean, squares) = (S::as_mut_simd_f32s(mean).0, S::as_mut_simd_f32s(squares).0);
        let convolved = S::as_simd_f32s(convolved).0;
        let share = simd.splat_f32s(1.0 / plan.pixels() as f32);
        let row = plan.sizes.width * mean.len();
        for (channel, (mean, squares)) in mean.iter_mut().zip(squares.iter_mut()).enumerate() {
            let stride = channels / S::F32_LANES;
            let mut total = simd.splat_f32s(0.0);
            // Row by row, so that the sums stay small beside what is added to them.
            for row in convolved.chunks_exact(row) {
                let mut sum = simd.splat_f32s(0.0);
                for pixel in row[channel..].iter().step_by(stride) {
                    sum = simd.add_f32s(sum, *pixel);
                }
                total = simd.add_f32s(total, sum);
            }
            *mean = simd.mul_f32s(total, share);
            let mut total = simd.splat_f32s(0.0);
            for row in convolved.chunks_exact(row) {
                let mut sum = simd.splat_f32s(0.0);
                for pixel in row[channel..].iter().step_by(stride) {
                    let difference = simd.sub_f32s(*pixel, *mean);
                    sum = simd.mul_add_e_f32s(difference, difference, sum);
                }
                total = simd.add_f32s(total, sum);
            }
            *squares = total;
        }
    }
}

/// Turns a matrix of rows `[.., from_row]` into one of columns: `to[column * to_row + row] = from[row * from_row + column]`.
#[inline(always)]
fn turn(rows: usize, columns: usize, from: &[f32], from_row: usize, mut set: impl FnMut(usize, usize, &[f32])) {
    const SIDE: usize = 8;
    for row in (0..rows).step_by(SIDE) {
        let height = SIDE.min(rows - row);
        for column in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - column);
            let mut turned = [[0.0; SIDE]; SIDE];
            if height == SIDE && width == SIDE {
                for y in 0..SIDE {
                    let from = &from[(row + y) * from_row + column..][..SIDE];
                    for x in 0..SIDE {
                        turned[x][y] = from[x];
                    }
                }
            } else {
                for y in 0..height {
                    for x in 0..width {
                        turned[x][y] = from[(row + y) * from_row + column + x];
                    }
                }
            }
            for (x, turned) in turned.iter().enumerate().take(width) {
                set(column + x, row, &turned[..height]);
            }
        }
    }
}

/// Lays an image out with its channels inside, within a border of zeros that is there already.
#[inline(always)]
fn border(plan: Plan, channels: usize, image: &[f32], bordered: &mut [f32]) {
    if plan.sizes.x_order == ChannelOrder::Last {
        let row = plan.sizes.width * channels;
        for (y, from) in image.chunks_exact(row).enumerate() {
            bordered[((y + 1) * plan.stride() + 1) * channels..][..row].copy_from_slice(from);
        }
        return;
    }
    let Sizes { height, width, .. } = plan.sizes;
    for y in 0..height {
        let row = &mut bordered[((y + 1) * plan.stride() + 1) * channels..][..width * channels];
        for (channel, plane) in image.chunks_exact(height * width).enumerate() {
            for (pixel, value) in row.chunks_exact_mut(channels).zip(&plane[y * width..][..width]) {
                pixel[channel] = *value;
            }
        }
    }
}

/// Convolves an image with a border, whose pixels have `channels`, to pixels of as many channels as the kernel has.
#[inline(always)]
fn convolve<S: Simd>(
    simd: S,
    plan: Plan,
    channels: usize,
    bordered: &[f32],
    kernel: &Kernel,
    to: Target<'_>,
    start: usize,
) {
    let Sizes { height, width, .. } = plan.sizes;
    let (tile, stride) = (tile::width::<S>(), plan.stride());
    let outputs = kernel.bias.len();
    if kernel.winograd {
        // SAFETY: the caller has the image to itself.
        unsafe {
            winograd::convolve(simd, plan.grid(), channels, bordered, (&kernel.weight, &kernel.bias), to, start);
        }
        return;
    }
    for (panel, weight) in kernel.weight.chunks_exact(9 * channels * tile).enumerate() {
        let bias = S::as_simd_f32s(&kernel.bias[panel * tile..]).0;
        let mut initial = [simd.splat_f32s(0.0); tile::VECTORS];
        initial.copy_from_slice(&bias[..tile::VECTORS]);
        for y in 0..height {
            // SAFETY: the caller has the image to itself.
            unsafe {
                tile::product(
                    simd,
                    width,
                    Rows {
                        data: &bordered[y * stride * channels..],
                        row: channels,
                        step: 1,
                        segment: stride * channels,
                    },
                    Columns { data: weight, step: tile, segment: 3 * channels * tile },
                    Sum { segments: 3, steps: 3 * channels },
                    initial,
                    None,
                    Destination {
                        target: to,
                        start: start + y * width * outputs + panel * tile,
                        row: outputs,
                        columns: tile,
                        add: false,
                        relu: false,
                    },
                );
            }
        }
    }
}

/// The batch's statistics from each image's, in the order of the images (Chan, Golub and LeVeque 1979).
fn combine(plan: Plan, moments: &[f32]) -> Statistics {
    let channels = plan.padded_outputs;
    let pixels = plan.pixels() as f64;
    let mut statistics = Statistics { mean: Vec::new(), variance: Vec::new() };
    for channel in 0..plan.sizes.outputs {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for image in moments.chunks_exact(2 * channels) {
            let difference = f64::from(image[channel]) - mean;
            let total = count + pixels;
            mean += difference * pixels / total;
            squares += f64::from(image[channels + channel]) + difference * difference * count * pixels / total;
            count = total;
        }
        statistics.mean.push(mean as f32);
        statistics.variance.push((squares / count) as f32);
    }
    statistics
}

/// Batch norm, ReLU and pooling of an image.
struct Pool<'a> {
    plan: Plan,
    norm: &'a Norm,
    /// The image's.
    convolved: &'a [f32],
    image: usize,
    y: Target<'a>,
    largest: Option<Target<'a>>,
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let Sizes { outputs, height, width, .. } = plan.sizes;
        let pools = plan.pools();
        let mut kept = Scratch::take(if self.largest.is_none() { pools * channels } else { 0 });
        let largest = match self.largest {
            // SAFETY: the image is this task's own, and the loops below write all of it before they read any.
            Some(largest) => unsafe { largest.slice(self.image * pools * channels, pools * channels) },
            None => &mut *kept,
        };
        let vectors = channels / S::F32_LANES;
        let convolved = S::as_simd_f32s(self.convolved).0;
        let chosen = S::as_mut_simd_f32s(&mut *largest).0;
        let mean = S::as_simd_f32s(&self.norm.mean).0;
        let scale = S::as_simd_f32s(&self.norm.scale).0;
        let beta = S::as_simd_f32s(&self.norm.beta).0;
        for pool_y in 0..height / 2 {
            for pool_x in 0..width / 2 {
                let corner = (2 * pool_y * width + 2 * pool_x) * vectors;
                let chosen = &mut chosen[(pool_y * (width / 2) + pool_x) * vectors..][..vectors];
                let [above, below] = [corner, corner + width * vectors].map(|at| &convolved[at..][..2 * vectors]);
                for v in 0..vectors {
                    let values = [above[v], above[v + vectors], below[v], below[v + vectors]];
                    chosen[v] = choose(simd, values, mean[v], scale[v], beta[v]).0;
                }
            }
        }
        // Normalised once more, first all of the image with its channels inside.
        let zero = simd.splat_f32s(0.0);
        let mut pixels = Scratch::take(pools * channels);
        let normalised = S::as_mut_simd_f32s(&mut pixels).0;
        for (chosen, normalised) in chosen.chunks_exact(vectors).zip(normalised.chunks_exact_mut(vectors)) {
            for v in 0..vectors {
                let value = normalise(simd, chosen[v], mean[v], scale[v], beta[v]);
                normalised[v] = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
            }
        }
        let start = self.image * outputs * pools;
        // SAFETY: the image is this task's own.
        unsafe { write_image(self.y, start, plan.sizes.y_order, outputs, &pixels, channels) };
    }
}

/// Writes an image, whose pixels have `stride` numbers, in an order of channels.
///
/// # Safety
/// Nobody else uses the image's place in `to` meanwhile.
#[inline(always)]
unsafe fn write_image(
    to: Target<'_>,
    start: usize,
    order: ChannelOrder,
    channels: usize,
    pixels: &[f32],
    stride: usize,
) {
    let count = pixels.len() / stride;
    match order {
        ChannelOrder::Last => {
            for (pixel, from) in pixels.chunks_exact(stride).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.copy(start + pixel * channels, &from[..channels]) };
            }
        }
        ChannelOrder::First => turn(
            count,
            channels,
            pixels,
            stride,
            #[inline(always)]
            |channel, pixel, values| {
                // SAFETY: the caller's promise.
                unsafe { to.copy(start + channel * count + pixel, values) };
            },
        ),
    }
}

#[inline(always)]
fn normalise<S: Simd>(simd: S, value: S::f32s, mean: S::f32s, scale: S::f32s, beta: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.sub_f32s(value, mean), scale, beta)
}

/// Of a pool's four values the one that is largest when normalised, and its index. As in PyTorch the first of equals, but
/// the last NaN.
#[inline(always)]
fn choose<S: Simd>(simd: S, values: [S::f32s; 4], mean: S::f32s, scale: S::f32s, beta: S::f32s) -> (S::f32s, S::u32s) {
    let mut chosen = values[0];
    let mut largest = normalise(simd, values[0], mean, scale, beta);
    let mut index = simd.splat_u32s(0);
    for (i, value) in values.into_iter().enumerate().skip(1) {
        let normalised = normalise(simd, value, mean, scale, beta);
        let is_number = simd.equal_f32s(normalised, normalised);
        let larger = simd.or_m32s(simd.greater_than_f32s(normalised, largest), simd.not_m32s(is_number));
        largest = simd.select_f32s(larger, normalised, largest);
        chosen = simd.select_f32s(larger, value, chosen);
        index = simd.select_u32s(larger, simd.splat_u32s(i as u32), index);
    }
    (chosen, index)
}

/// The gradients for `dy`, `[batch, outputs, height / 2, width / 2]`.
///
/// By the batch's statistics that of the convolution's bias is zero, since batch norm takes the mean away again.
pub(crate) fn backward(
    level: Level,
    sizes: Sizes,
    x: &[f32],
    weight: &[f32],
    saved: &Saved,
    dy: &[f32],
    wants_x: bool,
) -> Gradients {
    let plan = Plan::new(level, sizes);
    let Sizes { batch, inputs, outputs, .. } = sizes;
    let channels = plan.padded_outputs;
    assert_eq!(x.len(), batch * inputs * plan.pixels());
    assert_eq!(weight.len(), outputs * inputs * 9);
    assert_eq!(dy.len(), batch * outputs * plan.pools());
    assert_eq!(saved.convolved.len(), batch * plan.pixels() * channels);

    // dy behind pooling and ReLU, at the largest of each pool, with its sums for each image: [batch, 2, channels].
    let mut passed = Scratch::take(batch * plan.pools() * channels);
    let mut sums = vec![0.0; batch * 2 * channels];
    {
        let (passed, sums) = (Target::of(&mut passed), Target::of(&mut sums));
        parallel::for_each(batch, |image| level.run(Unpool { plan, saved, dy, image, passed, sums }));
    }
    let (mut beta, mut gamma) = (vec![0.0_f64; channels], vec![0.0_f64; channels]);
    for image in sums.chunks_exact(2 * channels) {
        for channel in 0..channels {
            beta[channel] += f64::from(image[channel]);
            gamma[channel] += f64::from(image[channels + channel]);
        }
    }
    let norm = &saved.norm;
    for (gamma, inverse) in gamma.iter_mut().zip(&norm.inverse_deviation) {
        *gamma *= f64::from(*inverse);
    }
    // dz = scale (dy - sum(dy) / n - (z - mean) / deviation * sum(dy (z - mean) / deviation) / n), or of given statistics
    // scale dy alone.
    let count = if saved.given { f64::INFINITY } else { (batch * plan.pixels()) as f64 };
    let slope = |channel: usize| {
        let inverse = f64::from(norm.inverse_deviation[channel]);
        (-f64::from(norm.scale[channel]) * inverse * gamma[channel] / count) as f32
    };
    let level_of = |channel: usize| (-f64::from(norm.scale[channel]) * beta[channel] / count) as f32;
    let slopes: Vec<f32> = (0..channels).map(slope).collect();
    let offsets: Vec<f32> = (0..channels).map(level_of).collect();

    let turned = wants_x.then(|| Kernel::turned(plan, weight, plan.winograd()));
    let mut dx = Output::new(if wants_x { batch * inputs * plan.pixels() } else { 0 });
    let parts = PARTS.min(batch);
    let part_size = Plan::taps(plan.winograd()) * inputs * channels;
    let mut dweights = Scratch::take(parts * part_size);
    {
        let (dx, dweights) = (dx.target(), Target::of(&mut dweights));
        parallel::for_each(parts, |part| {
            level.run(Unconvolve {
                plan,
                x,
                saved,
                passed: &passed,
                slopes: &slopes,
                offsets: &offsets,
                turned: turned.as_ref(),
                images: part * batch / parts..(part + 1) * batch / parts,
                dx,
                dweight: dweights,
                part,
            });
        });
    }
    let mut dweight = vec![0.0; outputs * inputs * 9];
    let (total, rest) = dweights.split_at_mut(part_size.min(parts * part_size));
    for part in rest.chunks_exact(part_size.max(1)) {
        level.vectorize(
            #[inline(always)]
            || total.iter_mut().zip(part).for_each(|(total, part)| *total += part),
        );
    }
    for (output, weights) in dweight.chunks_exact_mut(9 * inputs).enumerate() {
        for (input, taps) in weights.chunks_exact_mut(9).enumerate() {
            let sum = |tap: usize| total[(tap * inputs + input) * channels + output];
            if plan.winograd() {
                taps.copy_from_slice(&winograd::to_kernel(&std::array::from_fn(sum)));
            } else {
                taps.iter_mut().enumerate().for_each(|(tap, weight)| *weight = sum(tap));
            }
        }
    }
    let learned = |sums: &[f64]| sums[..outputs].iter().map(|sum| *sum as f32).collect();
    let of_bias = |(sum, scale): (&f64, &f32)| if saved.given { (sum * f64::from(*scale)) as f32 } else { 0.0 };
    Gradients {
        // SAFETY: the tasks have written every image.
        x: wants_x.then(|| unsafe { dx.finish() }),
        weight: dweight,
        bias: beta.iter().zip(&norm.scale).take(outputs).map(of_bias).collect(),
        gamma: learned(&gamma),
        beta: learned(&beta),
    }
}

/// An image's gradient behind pooling and ReLU, and its sums.
struct Unpool<'a> {
    plan: Plan,
    saved: &'a Saved,
    dy: &'a [f32],
    image: usize,
    passed: Target<'a>,
    sums: Target<'a>,
}

impl WithSimd for Unpool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let outputs = plan.sizes.outputs;
        let pools = plan.pools();
        // SAFETY: both buffers have values, and these places are this task's own.
        let (passed, sums) = unsafe {
            (
                self.passed.slice(self.image * pools * channels, pools * channels),
                self.sums.slice(self.image * 2 * channels, 2 * channels),
            )
        };
        let dy = &self.dy[self.image * outputs * pools..][..outputs * pools];
        match plan.sizes.y_order {
            ChannelOrder::Last => {
                for (passed, dy) in passed.chunks_exact_mut(channels).zip(dy.chunks_exact(outputs)) {
                    passed[..outputs].copy_from_slice(dy);
                }
            }
            ChannelOrder::First => turn(
                outputs,
                pools,
                dy,
                pools,
                #[inline(always)]
                |pool, channel, values| {
                    passed[pool * channels + channel..][..values.len()].copy_from_slice(values);
                },
            ),
        }
        if outputs < channels {
            passed.chunks_exact_mut(channels).for_each(|passed| passed[outputs..].fill(0.0));
        }
        let norm = &self.saved.norm;
        let largest = S::as_simd_f32s(&self.saved.largest[self.image * pools * channels..][..pools * channels]).0;
        let passed = S::as_mut_simd_f32s(passed).0;
        let (beta_sums, gamma_sums) = sums.split_at_mut(channels);
        let (beta_sums, gamma_sums) = (S::as_mut_simd_f32s(beta_sums).0, S::as_mut_simd_f32s(gamma_sums).0);
        let vectors = channels / S::F32_LANES;
        let zero = simd.splat_f32s(0.0);
        for v in 0..vectors {
            let mean = S::as_simd_f32s(&norm.mean).0[v];
            let scale = S::as_simd_f32s(&norm.scale).0[v];
            let beta = S::as_simd_f32s(&norm.beta).0[v];
            let (mut beta_sum, mut gamma_sum) = (zero, zero);
            for (passed, largest) in passed[v..].iter_mut().step_by(vectors).zip(largest[v..].iter().step_by(vectors)) {
                let y = normalise(simd, *largest, mean, scale, beta);
                // As PyTorch: the gradient passes unless the output is zero or below.
                *passed = simd.select_f32s(simd.less_than_or_equal_f32s(y, zero), zero, *passed);
                beta_sum = simd.add_f32s(beta_sum, *passed);
                gamma_sum = simd.mul_add_e_f32s(*passed, simd.sub_f32s(*largest, mean), gamma_sum);
            }
            beta_sums[v] = beta_sum;
            gamma_sums[v] = gamma_sum;
        }
    }
}

/// Some images' gradients behind batch norm and the convolution.
struct Unconvolve<'a> {
    plan: Plan,
    x: &'a [f32],
    saved: &'a Saved,
    passed: &'a [f32],
    slopes: &'a [f32],
    offsets: &'a [f32],
    turned: Option<&'a Kernel>,
    images: std::ops::Range<usize>,
    dx: Target<'a>,
    /// `[part, 3 * 3 * inputs, channels]`
    dweight: Target<'a>,
    part: usize,
}

impl WithSimd for Unconvolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let inputs = plan.sizes.inputs;
        let mut dz = Scratch::zeroed(plan.bordered() * channels);
        let mut x = Scratch::zeroed(plan.bordered() * inputs);
        let mut dx = Scratch::take(if self.turned.is_some() { plan.pixels() * plan.padded_inputs } else { 0 });
        for image in self.images.clone() {
            self.normalised(simd, image, &mut dz);
            border(plan, inputs, &self.x[image * inputs * plan.pixels()..][..inputs * plan.pixels()], &mut x);

            if plan.winograd() {
                let start = self.part * winograd::POINTS * inputs * channels;
                let add = image != self.images.start;
                // SAFETY: the part is this task's own, and its first image writes all of it.
                unsafe {
                    winograd::add_gradient(simd, plan.grid(), (&x, inputs), (&dz, channels), self.dweight, start, add);
                }
            } else {
                self.add_gradient(simd, &x, &dz, image != self.images.start);
            }
            if let Some(turned) = self.turned {
                convolve(simd, plan, channels, &dz, turned, Target::of(&mut dx), 0);
                // SAFETY: the image is this task's own.
                unsafe {
                    let start = image * inputs * plan.pixels();
                    write_image(self.dx, start, plan.sizes.x_order, inputs, &dx, plan.padded_inputs);
                }
            }
        }
    }
}

impl Unconvolve<'_> {
    /// Adds an image's part to the gradient of the weights; `x` and `dz` are images with borders.
    #[inline(always)]
    fn add_gradient<S: Simd>(&self, simd: S, x: &[f32], dz: &[f32], add: bool) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let Sizes { inputs, height, width, .. } = plan.sizes;
        let (tile, stride) = (tile::width::<S>(), plan.stride());
        // dW[tap, input, output] is the sum over pixels of x[pixel + tap, input] dz[pixel, output].
        for tap_y in 0..3 {
            for panel in 0..channels / tile {
                // SAFETY: the part is this task's own, and its first image writes all of it.
                unsafe {
                    tile::product(
                        simd,
                        3 * inputs,
                        Rows { data: &x[tap_y * stride * inputs..], row: 1, step: inputs, segment: stride * inputs },
                        Columns {
                            data: &dz[(stride + 1) * channels + panel * tile..],
                            step: channels,
                            segment: stride * channels,
                        },
                        Sum { segments: height, steps: width },
                        [simd.splat_f32s(0.0); tile::VECTORS],
                        None,
                        Destination {
                            target: self.dweight,
                            start: (self.part * 9 + tap_y * 3) * inputs * channels + panel * tile,
                            row: channels,
                            columns: tile,
                            add,
                            relu: false,
                        },
                    );
                }
            }
        }
    }

    /// The gradient of the convolution's output, within a border of zeros that is there already.
    #[inline(always)]
    fn normalised<S: Simd>(&self, simd: S, image: usize, dz: &mut [f32]) {
        let (plan, channels) = (self.plan, self.plan.padded_outputs);
        let Sizes { height, width, .. } = plan.sizes;
        let (pixels, pools, stride) = (plan.pixels() * channels, plan.pools() * channels, plan.stride());
        let vectors = channels / S::F32_LANES;
        let norm = &self.saved.norm;
        let [mean, scale, beta] = [&norm.mean, &norm.scale, &norm.beta].map(|values| S::as_simd_f32s(values).0);
        let (slopes, offsets) = (S::as_simd_f32s(self.slopes).0, S::as_simd_f32s(self.offsets).0);
        let convolved = S::as_simd_f32s(&self.saved.convolved[image * pixels..][..pixels]).0;
        let passed = S::as_simd_f32s(&self.passed[image * pools..][..pools]).0;
        let dz = S::as_mut_simd_f32s(dz).0;
        let (pools_down, pools_across) = (height / 2, width / 2);
        for pool_y in 0..pools_down {
            for pool_x in 0..pools_across {
                let at = (2 * pool_y * width + 2 * pool_x) * vectors;
                let [above, below] = [at, at + width * vectors].map(|at| &convolved[at..][..2 * vectors]);
                let passed = &passed[(pool_y * pools_across + pool_x) * vectors..][..vectors];
                let to = ((2 * pool_y + 1) * stride + 2 * pool_x + 1) * vectors;
                let (to_above, to_below) = dz[to..].split_at_mut(stride * vectors);
                let (to_above, to_below) = (&mut to_above[..2 * vectors], &mut to_below[..2 * vectors]);
                for v in 0..vectors {
                    let values = [above[v], above[v + vectors], below[v], below[v + vectors]];
                    let index = choose(simd, values, mean[v], scale[v], beta[v]).1;
                    let gradient = simd.mul_f32s(passed[v], scale[v]);
                    let mut gradients = values;
                    for (i, value) in gradients.iter_mut().enumerate() {
                        let base = simd.mul_add_e_f32s(simd.sub_f32s(*value, mean[v]), slopes[v], offsets[v]);
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
                let (at, to) = ((y * width + x) * vectors, ((y + 1) * stride + x + 1) * vectors);
                for v in 0..vectors {
                    let centred = simd.sub_f32s(convolved[at + v], mean[v]);
                    dz[to + v] = simd.mul_add_e_f32s(centred, slopes[v], offsets[v]);
                }
            }
        }
    }
}
