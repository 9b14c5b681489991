//! What a convolution layer does, in one description for all backends.

use burn::serde::{Deserialize, Serialize};

/// Where an image has its channels in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Outside, as Burn's tensors usually have them: one plane of pixels after another.
    #[default]
    First,
    /// Inside: each pixel with all of its channels. So a layer reads and writes images fastest.
    Last,
}

/// A function applied to each number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub enum Activation {
    /// `x`
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `x Φ(x)` for the normal distribution's Φ, by the error function and not by its approximation with tanh.
    Gelu,
    /// `x / (1 + e⁻ˣ)`
    Silu,
}

/// How pixels are pooled. A last row or column that does not fill a pool is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub enum Pool {
    /// The largest of `size` x `size` pixels, every `stride` pixels.
    Max {
        /// Pixels in a row of a pool.
        size: usize,
        /// Pixels from one pool to the next.
        stride: usize,
    },
    /// The mean of `size` x `size` pixels, every `stride` pixels.
    Average {
        /// Pixels in a row of a pool.
        size: usize,
        /// Pixels from one pool to the next.
        stride: usize,
    },
    /// The mean of all pixels.
    Global,
}

impl Pool {
    /// Max pooling of 2x2 pixels with stride 2.
    pub const MAX_2: Self = Self::Max { size: 2, stride: 2 };

    /// The size of a pooled image; nothing where pooling leaves nothing.
    #[must_use]
    pub fn output(self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        match self {
            Self::Global => (height > 0 && width > 0).then_some([1, 1]),
            Self::Max { size, stride } | Self::Average { size, stride } => {
                let fits = size > 0 && stride > 0 && height >= size && width >= size;
                fits.then(|| [height, width].map(|side| (side - size) / stride + 1))
            }
        }
    }
}

/// What follows a convolution, in this order: pooling if it is first, batch norm, the residual, the activation, and
/// pooling otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epilogue {
    /// See [`Activation`].
    pub activation: Activation,
    /// See [`Pool`]; none for none.
    pub pool: Option<Pool>,
    /// Whether pooling comes before batch norm instead of last.
    pub pool_first: bool,
    /// Pixels of the residual from one that is added to the next; 2 where the layer halves its images. Channels that the
    /// residual lacks are zeros.
    pub residual_stride: usize,
    /// Where the output has its channels in memory. The tensor is the same; a layer of this kind that follows takes it
    /// faster with the channels last, and what flattens it with the channels first.
    pub order: ChannelOrder,
}

impl Epilogue {
    /// Nothing, with the channels first.
    pub const NONE: Self = Self {
        activation: Activation::None,
        pool: None,
        pool_first: false,
        residual_stride: 1,
        order: ChannelOrder::First,
    };
}

impl Default for Epilogue {
    fn default() -> Self {
        Self::NONE
    }
}

/// A layer beside its numbers: a convolution with a square kernel, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvLayer {
    /// Pixels from one place of the kernel to the next.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
    /// Groups of channels that see only one another.
    pub groups: usize,
    /// What batch norm adds to the variance; none without batch norm.
    pub epsilon: Option<f64>,
    /// See [`Epilogue`].
    pub epilogue: Epilogue,
}

impl ConvLayer {
    /// The size of the convolution's output for a kernel of `kernel` pixels; nothing where the kernel does not fit.
    #[must_use]
    pub fn convolved(&self, kernel: usize, size: [usize; 2]) -> Option<[usize; 2]> {
        let [height, width] = size.map(|side| side + 2 * self.padding);
        let fits = kernel > 0 && self.stride > 0 && height >= kernel && width >= kernel;
        fits.then(|| [height, width].map(|side| (side - kernel) / self.stride + 1))
    }

    /// The size of the layer's output for a kernel of `kernel` pixels; nothing where nothing is left.
    #[must_use]
    pub fn output(&self, kernel: usize, size: [usize; 2]) -> Option<[usize; 2]> {
        let convolved = self.convolved(kernel, size)?;
        self.epilogue.pool.map_or(Some(convolved), |pool| pool.output(convolved))
    }
}
