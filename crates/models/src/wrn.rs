use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::{
    Activation, ChannelOrder, Epilogue, Pool,
    nn::{self, BatchNorm, Dropout, DropoutConfig},
};
use serde::{Deserialize, Serialize};

use crate::{
    ImageShape, ModelError, Network, NetworkConfig,
    init::Initializer,
    resnet::{DEPTH_HELP, WIDTH_HELP, blocks_of, halved_twice},
};

/// A wide residual network: Zagoruyko and Komodakis, "Wide Residual Networks", <https://arxiv.org/abs/1605.07146>.
///
/// As a [`Resnet`](crate::Resnet), with `factor` times the channels, and batch norm and ReLU before each convolution
/// instead of behind it; where the channels change, the shortcut is a 1x1 convolution of what the block's first
/// convolution also takes. The structure, the names and the initial weights are those of the authors' PyTorch code
/// (szagoruyko/wide-residual-networks, `pytorch/resnet.py`), but that batch norm's scales begin at 1 and not between 0
/// and 1, and the linear bias as PyTorch's layer has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrnConfig {
    /// 6n + 4 for n blocks in each stage: the first convolution, two in each block, and the shortcuts' three.
    pub depth: usize,
    /// Probability with which training drops a number between a block's convolutions.
    pub dropout: f64,
    /// How much wider than `width` the first stage is.
    pub factor: usize,
    /// Channels of the first convolution.
    pub width: usize,
}

/// See [`WrnConfig`]; `conv0.weight`, `group0.0.bn0.weight`, `group0.0.convdim.weight`, `bn.weight`, `fc.weight` and so on
/// in PyTorch's naming, as the authors have them (`group0.block0` there).
#[derive(Module, Debug)]
pub struct Wrn {
    conv0: Conv2d,
    group0: Vec<Block>,
    group1: Vec<Block>,
    group2: Vec<Block>,
    bn: BatchNorm,
    fc: Linear,
}

/// Two convolutions beside a shortcut, which is the block's input where it has no convolution.
#[derive(Module, Debug)]
struct Block {
    bn0: BatchNorm,
    conv0: Conv2d,
    bn1: BatchNorm,
    dropout: Dropout,
    conv1: Conv2d,
    convdim: Option<Conv2d>,
}

impl Default for WrnConfig {
    /// The preset `wrn-16-4`.
    fn default() -> Self {
        Self { depth: 16, dropout: 0.0, factor: 4, width: 16 }
    }
}

impl NetworkConfig for WrnConfig {
    type Network = Wrn;

    const HELP: &'static [(&'static str, &'static str)] = &[
        ("depth", DEPTH_HELP),
        ("dropout", "Probability with which training drops a number between a block's convolutions; 0 for none"),
        ("factor", "How many times wider than the first convolution the first stage is"),
        ("width", WIDTH_HELP),
    ];

    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Wrn, ModelError> {
        let count = blocks_of("wrn", self.depth, 4)?;
        for (key, value) in [("the factor", self.factor), ("the width", self.width)] {
            if value == 0 {
                return Err(ModelError::EmptyLayer { key, widths: vec![0] });
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::Invalid(format!("dropout must be at least 0 and below 1 (got {})", self.dropout)));
        }
        let mut initializer = Initializer::new(seed, device);
        let widened = self.width.saturating_mul(self.factor);
        let [first, second, third] = [1, 2, 4].map(|factor| widened.saturating_mul(factor));
        Ok(Wrn {
            conv0: initializer.kaiming_convolution([shape.channels, self.width], 3, 1),
            group0: self.group(count, [self.width, first], 1, &mut initializer, device),
            group1: self.group(count, [first, second], 2, &mut initializer, device),
            group2: self.group(count, [second, third], 2, &mut initializer, device),
            bn: BatchNorm::new(third, device),
            fc: initializer.kaiming_linear(third, shape.classes),
        })
    }

    fn normalized_pixels(&self, shape: ImageShape) -> usize {
        halved_twice(shape)
    }
}

impl WrnConfig {
    /// `count` blocks, of which the first takes the stride and changes the channels.
    fn group(
        &self,
        count: usize,
        [inputs, outputs]: [usize; 2],
        stride: usize,
        initializer: &mut Initializer<'_>,
        device: &Device,
    ) -> Vec<Block> {
        let mut block = |inputs, stride| Block {
            bn0: BatchNorm::new(inputs, device),
            conv0: initializer.kaiming_convolution([inputs, outputs], 3, stride),
            bn1: BatchNorm::new(outputs, device),
            dropout: DropoutConfig::new(self.dropout).init(),
            conv1: initializer.kaiming_convolution([outputs, outputs], 3, 1),
            convdim: (inputs != outputs).then(|| initializer.kaiming_convolution([inputs, outputs], 1, stride)),
        };
        (0..count).map(|index| if index == 0 { block(inputs, stride) } else { block(outputs, 1) }).collect()
    }
}

impl Block {
    /// `[batch, inputs, height, width]` to `[batch, outputs, ⌈height / stride⌉, ⌈width / stride⌉]`. `stem` is a
    /// convolution before the block whose output is not the shortcut.
    fn forward(&self, x: Tensor<4>, stem: Option<&Conv2d>) -> Tensor<4> {
        let activated = nn::conv_layer(x.clone(), stem, Some(&self.bn0), None, RELU);
        let shortcut = match &self.convdim {
            Some(convdim) => nn::conv_layer(activated.clone(), Some(convdim), None, None, NOTHING),
            None => x,
        };
        let inner = nn::conv_layer(activated, Some(&self.conv0), Some(&self.bn1), None, RELU);
        nn::conv_layer(self.dropout.forward(inner), Some(&self.conv1), None, Some(shortcut), NOTHING)
    }
}

/// Nothing behind the convolution, with the channels inside for the next layer.
const NOTHING: Epilogue = Epilogue { order: ChannelOrder::Last, ..Epilogue::NONE };

const RELU: Epilogue = Epilogue { activation: Activation::Relu, ..NOTHING };

impl Network for Wrn {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // In the margin: the preset on images of 32x32 pixels in ten classes.
        let groups = [&self.group0, &self.group1, &self.group2];
        let is_widened = self.group0.first().is_some_and(|block| block.convdim.is_some());
        // A widening block only takes its input normalised, in one pass with the convolution.
        let (mut x, mut stem) = if is_widened {
            (images, Some(&self.conv0))
        } else {
            (nn::conv_layer(images, Some(&self.conv0), None, None, NOTHING), None)
        };
        for block in groups.into_iter().flatten() {
            x = block.forward(x, stem.take()); // [batch, 256, 8, 8] in the end
        }
        let last = Epilogue { pool: Some(Pool::Global), order: ChannelOrder::First, ..RELU };
        let x = nn::conv_layer(x, None, Some(&self.bn), None, last); // [batch, 256, 1, 1]
        nn::linear(x.flatten(1, 3), &self.fc) // [batch, 10]
    }
}
