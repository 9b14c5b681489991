//! A layer with its sizes, and what follows from them.

use crate::{ConvLayer, Level, Pool};

use super::{Images, Parameters, winograd};

/// A layer with its sizes, and what follows from them at a level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) layer: ConvLayer,
    /// Channels of a vector.
    pub(super) lanes: usize,
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// `inputs` and `outputs` in whole vectors.
    pub(super) padded_inputs: usize,
    pub(super) padded: usize,
    /// Height and width of the convolution's output, of what batch norm and activation take, and of y.
    pub(super) convolved: [usize; 2],
    pub(super) normalized: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) has_residual: bool,
    /// None without a convolution.
    pub(super) grid: Option<Grid>,
}

/// A convolution's pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Of x, where a 1x1 convolution takes an image as one row.
    pub(super) size: [usize; 2],
    /// Of the output, likewise.
    pub(super) output: [usize; 2],
    /// Whether it is computed in Winograd's form.
    pub(super) winograd: bool,
}

/// An image within a border of zeros: height and width with it, and where the image begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Border {
    pub(super) size: [usize; 2],
    pub(super) corner: [usize; 2],
}

impl Border {
    pub(super) fn pixels(self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// The taps of one dimension's kernel that reach pixels of x whose places leave the same remainder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    /// The first such pixel, and how many there are.
    pub(super) first: usize,
    pub(super) count: usize,
    /// The first tap, and how many follow at the stride.
    pub(super) tap: usize,
    pub(super) taps: usize,
    /// The output's pixel that the last tap of the first pixel takes; it may lie in the border.
    pub(super) start: isize,
}

impl Grid {
    /// x as a kernel sees it.
    pub(super) fn border(self) -> Border {
        let side = |output: usize| {
            if self.winograd { winograd::bordered(output) } else { (output - 1) * self.stride + self.kernel }
        };
        Border { size: self.output.map(side), corner: [self.padding; 2] }
    }

    /// The output's gradient as the turned kernel sees it.
    pub(super) fn turned_border(self) -> Border {
        if self.winograd {
            // The gradient of the kernel sees tiles of the output in it, too.
            let corner = self.kernel - 1 - self.padding;
            let side = |which: usize| {
                winograd::bordered(self.size[which]).max(corner + self.output[which].next_multiple_of(4))
            };
            return Border { size: [0, 1].map(side), corner: [corner; 2] };
        }
        let side = |which: usize| {
            let (mut before, mut end) = (0, self.output[which]);
            for class in self.classes(which) {
                before = before.max(usize::try_from(-class.start).unwrap_or(0));
                let last = class.start + (class.count + class.taps.max(1)) as isize - 1;
                end = end.max(usize::try_from(last).unwrap_or(0));
            }
            (before, before + end)
        };
        let [rows, columns] = [0, 1].map(side);
        Border { size: [rows.1, columns.1], corner: [rows.0, columns.0] }
    }

    /// The classes of x's rows or columns: as many as the stride, without those that have no pixel.
    pub(super) fn classes(self, which: usize) -> impl Iterator<Item = Class> {
        let (stride, kernel, padding, side) = (self.stride, self.kernel, self.padding, self.size[which]);
        (0..stride.min(side)).map(move |first| {
            let tap = (first + padding) % stride;
            let taps = kernel.saturating_sub(tap).div_ceil(stride);
            let place = (first + padding - tap) / stride;
            let count = (side - first).div_ceil(stride);
            Class { first, count, tap, taps, start: place as isize - (taps.max(1) - 1) as isize }
        })
    }

    /// The grid of the convolution that takes the output's gradient to the input's, where it is in Winograd's form.
    pub(super) fn turned(self) -> Self {
        Self { size: self.output, output: self.size, padding: self.kernel - 1 - self.padding, ..self }
    }

    /// Numbers that the kernel has for each pair of channels.
    pub(super) fn points(self) -> usize {
        if self.winograd { winograd::POINTS } else { self.kernel * self.kernel }
    }
}

impl Plan {
    pub(super) fn new(
        level: Level,
        layer: ConvLayer,
        x: Images<'_>,
        it: Parameters<'_>,
        residual: Option<Images<'_>>,
    ) -> Self {
        let lanes = level.width() / 2;
        let size = [x.height, x.width];
        let (kernel, outputs) = (it.kernel, it.outputs);
        let convolved = if it.weight.is_some() { layer.convolved(kernel, size) } else { Some(size) };
        let Some(convolved) = convolved else { panic!("the kernel is larger than the image") };
        let Some(output) = layer.epilogue.pool.map_or(Some(convolved), |pool| pool.output(convolved)) else {
            panic!("pooling leaves nothing")
        };
        let grid = it.weight.map(|weight| {
            assert!(
                layer.groups > 0 && x.channels.is_multiple_of(layer.groups) && outputs.is_multiple_of(layer.groups),
                "whole groups"
            );
            assert_eq!(weight.len(), outputs * (x.channels / layer.groups) * kernel * kernel, "the weight's size");
            let pays =
                kernel == 3 && layer.stride == 1 && layer.padding <= 2 && x.channels.is_multiple_of(lanes.max(4));
            let is_flat = kernel == 1 && layer.stride == 1 && layer.padding == 0;
            let flat = |[height, width]: [usize; 2]| if is_flat { [1, height * width] } else { [height, width] };
            Grid {
                kernel,
                stride: layer.stride,
                padding: layer.padding,
                size: flat(size),
                output: flat(convolved),
                winograd: pays && outputs >= lanes.max(4) && convolved.iter().all(|&side| side >= 4),
            }
        });
        assert!(grid.is_some() || outputs == x.channels, "as many channels without a convolution");
        assert_eq!(x.floats.len(), x.batch * x.channels * x.pixels(), "the images' size");
        assert!(it.bias.is_none_or(|bias| bias.len() == outputs), "one bias for each output");
        assert!(it.norm.is_none_or(|norm| norm.iter().all(|it| it.len() == outputs)), "one scale for each output");
        assert_eq!(it.norm.is_some(), layer.epsilon.is_some(), "batch norm has an epsilon");
        let normalized = if layer.epilogue.pool_first { output } else { convolved };
        if let Some(residual) = residual {
            let fits = |which: usize, side: usize| side.div_ceil(layer.epilogue.residual_stride) == normalized[which];
            assert!(fits(0, residual.height) && fits(1, residual.width), "the residual's size");
            assert!(residual.channels <= outputs && residual.batch == x.batch, "the residual's channels");
            assert_eq!(residual.floats.len(), x.batch * residual.channels * residual.pixels(), "the residual's size");
        }
        Self {
            layer,
            lanes,
            batch: x.batch,
            inputs: x.channels,
            outputs,
            padded_inputs: x.channels.next_multiple_of(lanes),
            padded: outputs.next_multiple_of(lanes),
            convolved,
            normalized,
            has_residual: residual.is_some(),
            output,
            grid,
        }
    }

    /// Numbers in an image of so many pixels, as it is within the layer: `[pixels, channels]`.
    pub(super) fn floats(self, [height, width]: [usize; 2]) -> usize {
        height * width * self.padded
    }

    pub(super) fn pad(self, values: &[f32]) -> Vec<f32> {
        let mut padded = values.to_vec();
        padded.resize(self.padded, 0.0);
        padded
    }

    pub(super) fn pool_first(self) -> Option<Pool> {
        self.layer.epilogue.pool.filter(|_| self.layer.epilogue.pool_first)
    }

    pub(super) fn pool_last(self) -> Option<Pool> {
        self.layer.epilogue.pool.filter(|_| !self.layer.epilogue.pool_first)
    }

    /// Images that one task convolves: tiles enough for whole products.
    pub(super) fn group(self) -> usize {
        let Some(grid) = self.grid.filter(|grid| grid.winograd) else { return 1 };
        (16 / winograd::tiles(grid.output)).max(1)
    }
}
