//! A layer as one operation: a convolution, batch norm, a residual, an activation and pooling, each where it is wanted;
//! [`ConvLayer`](crate::ConvLayer) says what it does.
//!
//! Images come and go as `[channels, height, width]` or `[height, width, channels]` ([`ChannelOrder`]). Within the layer
//! an image is the latter, its channels in whole vectors, with a border of zeros where it is convolved. By the definition,
//! the convolution of a row of pixels is then a product of [`tile`](super::tile)'s with a segment for each row of the
//! kernel, and nothing is copied out for it; with channels enough a 3x3 convolution is [`winograd`]'s. The gradient of x
//! is such a convolution for each class of pixels that the same taps reach: one class with stride 1, four with stride 2.
//!
//! Forward keeps what batch norm takes; what batch norm, activation and pooling made of it is computed again backward,
//! which costs less than to store it.

mod backward;
mod forward;
mod kernel;
mod layout;
mod norm;
mod panels;
mod plan;
mod pool;
mod transforms;
mod unconvolve;
mod winograd;

use crate::ChannelOrder;

pub(crate) use backward::backward;
pub(crate) use forward::forward;
pub(crate) use norm::Statistics;

/// A batch of images, or of their gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images<'a> {
    pub(crate) floats: &'a [f32],
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) order: ChannelOrder,
}

impl<'a> Images<'a> {
    fn pixels(self) -> usize {
        self.height * self.width
    }

    fn image(self, image: usize) -> &'a [f32] {
        let length = self.channels * self.pixels();
        &self.floats[image * length..][..length]
    }

    /// Whether an image lies as the layer has it, with `channels` numbers in a pixel.
    fn is_padded(self, channels: usize) -> bool {
        self.channels == channels && (self.order == ChannelOrder::Last || channels == 1 || self.pixels() == 1)
    }
}

/// What a layer learns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters<'a> {
    /// `[outputs, inputs / groups, kernel, kernel]`; none without a convolution.
    pub(crate) weight: Option<&'a [f32]>,
    pub(crate) kernel: usize,
    pub(crate) outputs: usize,
    /// The convolution's, `[outputs]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// Batch norm's scale and shift, `[outputs]` each.
    pub(crate) norm: Option<[&'a [f32]; 2]>,
}

/// What backward needs of forward.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// The convolution's output, `[batch, pixels, channels]`; empty where nothing looks at it.
    convolved: Vec<f32>,
    /// Pooled, where that comes first.
    pooled: Vec<f32>,
    /// The one of each 2x2 pool whose normalized value is the largest.
    largest: Vec<f32>,
    norm: norm::Norm,
    /// Whether the statistics are constants.
    given: bool,
}

/// Which gradients are wanted of those that take a pass of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) x: bool,
    pub(crate) weight: bool,
    pub(crate) residual: bool,
}

/// What [`backward()`] gives.
pub(crate) struct Gradients {
    /// In x's order of channels, if asked for and not added elsewhere.
    pub(crate) x: Option<Vec<f32>>,
    /// In the residual's, if asked for.
    pub(crate) residual: Option<Vec<f32>>,
    /// As the weight, if asked for; else empty.
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`; empty without one.
    pub(crate) bias: Vec<f32>,
    /// Of batch norm's scale and shift, `[outputs]` each.
    pub(crate) norm: Option<[Vec<f32>; 2]>,
}
