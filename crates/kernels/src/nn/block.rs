use burn::{
    config::Config,
    module::{Module, Param},
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::BatchNorm;
use crate::{Activation, ChannelOrder, ConvLayer, ConvTensors, Epilogue, Pool};

/// Config of a [`ConvBlock`].
#[derive(Config, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is for a part of its own.
pub struct ConvBlockConfig {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Pixels in a row of the convolution's square kernel.
    #[config(default = 3)]
    pub kernel: usize,
    /// Pixels from one place of the kernel to the next.
    #[config(default = 1)]
    pub stride: usize,
    /// Zeros around the images; half a kernel by default, which keeps their size if the stride is 1 and the kernel odd.
    pub padding: Option<usize>,
    /// Groups of channels that see only one another.
    #[config(default = 1)]
    pub groups: usize,
    /// Whether the convolution has a bias.
    #[config(default = true)]
    pub bias: bool,
    /// Whether batch norm follows.
    #[config(default = true)]
    pub norm: bool,
    /// The activation.
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// The pooling; none for none.
    #[config(default = "Some(Pool::MAX_2)")]
    pub pool: Option<Pool>,
    /// Whether pooling comes before batch norm instead of last.
    #[config(default = false)]
    pub pool_first: bool,
    /// Whether the output has its channels last in memory: faster when another block follows, slower when the output is
    /// flattened. The values and their indices are the same.
    #[config(default = false)]
    pub channels_last: bool,
}

/// Convolution, batch norm, activation and pooling; see [`crate::conv_layer`].
#[derive(Module, Debug)]
pub struct ConvBlock {
    /// The convolution, with weight `[outputs, inputs / groups, kernel, kernel]`.
    pub conv: Conv2d,
    /// The batch norm over the convolution's channels.
    pub norm: Option<BatchNorm>,
    /// See [`ConvBlockConfig::activation`].
    #[module(skip)]
    pub activation: Activation,
    /// See [`ConvBlockConfig::pool`].
    #[module(skip)]
    pub pool: Option<Pool>,
    /// See [`ConvBlockConfig::pool_first`].
    pub pool_first: bool,
    /// See [`ConvBlockConfig::channels_last`].
    pub channels_last: bool,
}

impl ConvBlockConfig {
    /// Makes the block. Its weights are drawn from the device's generator when they are first used.
    ///
    /// # Panics
    /// When the channels do not divide into the groups.
    #[must_use]
    pub fn init(&self, device: &Device) -> ConvBlock {
        let padding = self.padding.unwrap_or(self.kernel / 2);
        let conv = Conv2dConfig::new([self.inputs, self.outputs], [self.kernel; 2])
            .with_stride([self.stride; 2])
            .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
            .with_groups(self.groups)
            .with_bias(self.bias)
            .init(device);
        ConvBlock {
            conv,
            norm: self.norm.then(|| BatchNorm::new(self.outputs, device)),
            activation: self.activation,
            pool: self.pool,
            pool_first: self.pool_first,
            channels_last: self.channels_last,
        }
    }
}

impl ConvBlock {
    /// Batch norm takes the batch's statistics or the running ones as [`BatchNorm`] says.
    ///
    /// # Shapes
    /// - x: `[batch, inputs, height, width]`
    /// - output: `[batch, outputs, height, width]`, of the size that [`ConvLayer::output`] says
    ///
    /// # Panics
    /// When `x` has another number of channels, or nothing is left of its images.
    #[must_use]
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let order = if self.channels_last { ChannelOrder::Last } else { ChannelOrder::First };
        let Self { activation, pool, pool_first, .. } = *self;
        let epilogue = Epilogue { activation, pool, pool_first, order, ..Epilogue::default() };
        conv_layer(x, Some(&self.conv), self.norm.as_ref(), None, epilogue)
    }
}

/// Convolution, batch norm, the residual, and what `epilogue` says, each if it is there, by [`crate::conv_layer`]:
/// `[batch, inputs, height, width]` to `[batch, outputs, height, width]`, of the size that [`ConvLayer::output`] says.
///
/// Stride, padding and groups are the convolution's. Batch norm takes the batch's statistics or the running ones as
/// [`BatchNorm`] says.
///
/// ```
/// use burn::{
///     module::Module,
///     nn::{
///         PaddingConfig2d,
///         conv::{Conv2d, Conv2dConfig},
///     },
///     tensor::{Device, Tensor},
/// };
/// use kindling_kernels::{
///     Activation, ChannelOrder, Epilogue,
///     nn::{BatchNorm, conv_layer},
/// };
///
/// #[derive(Module, Debug)]
/// struct Residual {
///     conv1: Conv2d,
///     bn1: BatchNorm,
///     conv2: Conv2d,
///     bn2: BatchNorm,
/// }
///
/// impl Residual {
///     fn new(channels: usize, device: &Device) -> Self {
///         let config = Conv2dConfig::new([channels; 2], [3, 3])
///             .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
///             .with_bias(false);
///         let norm = || BatchNorm::new(channels, device);
///         Self { conv1: config.init(device), bn1: norm(), conv2: config.init(device), bn2: norm() }
///     }
///
///     fn forward(&self, x: Tensor<4>) -> Tensor<4> {
///         let relu = Epilogue { activation: Activation::Relu, order: ChannelOrder::Last, ..Epilogue::NONE };
///         let inner = conv_layer(x.clone(), Some(&self.conv1), Some(&self.bn1), None, relu);
///         conv_layer(inner, Some(&self.conv2), Some(&self.bn2), Some(x), relu)
///     }
/// }
///
/// # #[cfg(feature = "flex")] {
/// let device = Device::flex().autodiff();
/// let x = Residual::new(8, &device).forward(Tensor::ones([2, 8, 6, 6], &device));
/// assert_eq!(x.dims(), [2, 8, 6, 6]);
/// # }
/// ```
///
/// # Panics
/// When the shapes do not fit together or nothing is left of the images, and when the convolution's kernel is not square, its
/// strides differ, its padding is not the same on all sides, or it has a dilation.
#[must_use]
pub fn conv_layer(
    x: Tensor<4>,
    convolution: Option<&Conv2d>,
    norm: Option<&BatchNorm>,
    residual: Option<Tensor<4>>,
    epilogue: Epilogue,
) -> Tensor<4> {
    let [stride, padding, groups] = convolution.map_or([1, 0, 1], geometry);
    let device = x.device();
    let tensors = ConvTensors {
        weight: convolution.map(|convolution| convolution.weight.val()),
        bias: convolution.and_then(|convolution| convolution.bias.as_ref()).map(Param::val),
        norm: norm.map(BatchNorm::learned),
        statistics: norm.filter(|norm| norm.is_in_evaluation()).map(|norm| norm.running(&device)),
        residual,
    };
    let epsilon = norm.map(|norm| norm.epsilon);
    let found = crate::conv_layer(x, tensors, ConvLayer { stride, padding, groups, epsilon, epilogue });
    if let (Some(norm), Some(statistics)) = (norm, found.statistics) {
        norm.remember(statistics);
    }
    found.output
}

/// Stride, padding and groups.
fn geometry(convolution: &Conv2d) -> [usize; 3] {
    let Conv2d { stride: [stride, across], dilation, padding, groups, .. } = convolution;
    assert_eq!(stride, across, "a convolution layer has one stride for rows and columns");
    assert_eq!(*dilation, [1, 1], "a convolution layer has no dilation");
    let padding = match *padding {
        PaddingConfig2d::Valid => Some(0),
        PaddingConfig2d::Explicit(top, left, bottom, right) => {
            [left, bottom, right].iter().all(|it| *it == top).then_some(top)
        }
        PaddingConfig2d::Same => None,
    };
    let Some(padding) = padding else {
        panic!("a convolution layer has the same explicit padding on all sides (got {:?})", convolution.padding)
    };
    [*stride, padding, *groups]
}

/// Convolution, batch norm, ReLU and 2x2 max pooling by [`conv_layer`]; `order` is that of the output's memory.
///
/// # Panics
/// As [`conv_layer`].
#[must_use]
pub fn conv_block(x: Tensor<4>, convolution: &Conv2d, norm: &BatchNorm, order: ChannelOrder) -> Tensor<4> {
    let (activation, pool) = (Activation::Relu, Some(Pool::MAX_2));
    conv_layer(x, Some(convolution), Some(norm), None, Epilogue { activation, pool, order, ..Epilogue::default() })
}
