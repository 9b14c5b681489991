use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor},
};
use kindling_kernels::{
    Activation, ChannelOrder, Epilogue, Pool,
    nn::{self, BatchNorm},
};
use serde::{Deserialize, Serialize};

use crate::{ImageShape, ModelError, Network, NetworkConfig, init::Initializer};

/// A residual network for small images: He et al., "Deep Residual Learning for Image Recognition", section 4.2,
/// <https://arxiv.org/abs/1512.03385>.
///
/// A 3x3 convolution, three stages of blocks of two 3x3 convolutions, each with batch norm, and a linear layer behind
/// global average pooling. The second and third stage halve the images and double the channels; there the shortcut takes
/// every second pixel and has zeros in the channels that its input lacks (option A), behind the others. The initial
/// weights are those of akamaster/pytorch_resnet_cifar10, which trains to the paper's figures: `kaiming_normal_` for
/// convolutions and the linear weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// Layers with weights: 6n + 2 for n blocks in each stage.
    pub depth: usize,
    /// Channels of the first stage.
    pub width: usize,
}

/// See [`ResnetConfig`]; `conv1.weight`, `layer1.0.bn1.weight`, `linear.weight` and so on in PyTorch's naming, as
/// akamaster/pytorch_resnet_cifar10 has them.
#[derive(Module, Debug)]
pub struct Resnet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    linear: Linear,
}

/// Two convolutions beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
}

impl Default for ResnetConfig {
    /// The preset `resnet-20`.
    fn default() -> Self {
        Self { depth: 20, width: 16 }
    }
}

impl NetworkConfig for ResnetConfig {
    type Network = Resnet;

    const HELP: &'static [(&'static str, &'static str)] = &[("depth", DEPTH_HELP), ("width", WIDTH_HELP)];

    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Resnet, ModelError> {
        let count = blocks_of("resnet", self.depth, 2)?;
        if self.width == 0 {
            return Err(ModelError::EmptyLayer { key: "the width", widths: vec![0] });
        }
        let mut initializer = Initializer::new(seed, device);
        let [first, second, third] = [1, 2, 4].map(|factor| self.width.saturating_mul(factor));
        Ok(Resnet {
            conv1: initializer.kaiming_convolution([shape.channels, first], 3, 1),
            bn1: BatchNorm::new(first, device),
            layer1: Block::stage(count, [first, first], 1, &mut initializer, device),
            layer2: Block::stage(count, [first, second], 2, &mut initializer, device),
            layer3: Block::stage(count, [second, third], 2, &mut initializer, device),
            linear: initializer.kaiming_linear(third, shape.classes),
        })
    }

    fn normalized_pixels(&self, shape: ImageShape) -> usize {
        halved_twice(shape)
    }
}

/// Pixels of an image in the third of three stages, of which the second and the third halve it and round up.
pub(crate) fn halved_twice(shape: ImageShape) -> usize {
    shape.height.div_ceil(4).saturating_mul(shape.width.div_ceil(4))
}

// A config's keys are described once for all networks that have them.
pub(crate) const DEPTH_HELP: &str =
    "Layers with weights for n residual blocks in each of the three stages: 6n + 2 of a resnet, 6n + 4 of a wrn";
pub(crate) const WIDTH_HELP: &str =
    "Channels of the first convolution; the second and third stage double those of the first";

/// Blocks in each of the three stages of a network of this kind whose depth is 6n + `rest`.
pub(crate) fn blocks_of(network: &'static str, depth: usize, rest: usize) -> Result<usize, ModelError> {
    let blocks = depth.saturating_sub(rest) / 6;
    if (1..=MOST_BLOCKS).contains(&blocks) && depth == 6 * blocks + rest {
        return Ok(blocks);
    }
    Err(ModelError::Depth { network, rest, most: MOST_BLOCKS, depth })
}

/// Those of the deepest network that the paper has, resnet-1202.
const MOST_BLOCKS: usize = 200;

impl Block {
    /// `count` blocks, of which the first takes the stride and changes the channels.
    fn stage(
        count: usize,
        [inputs, outputs]: [usize; 2],
        stride: usize,
        initializer: &mut Initializer<'_>,
        device: &Device,
    ) -> Vec<Self> {
        let mut block = |inputs, stride| Self {
            conv1: initializer.kaiming_convolution([inputs, outputs], 3, stride),
            bn1: BatchNorm::new(outputs, device),
            conv2: initializer.kaiming_convolution([outputs, outputs], 3, 1),
            bn2: BatchNorm::new(outputs, device),
        };
        (0..count).map(|index| if index == 0 { block(inputs, stride) } else { block(outputs, 1) }).collect()
    }

    /// `[batch, inputs, height, width]` to `[batch, outputs, ⌈height / stride⌉, ⌈width / stride⌉]`, or to
    /// `[batch, outputs, 1, 1]` with global pooling.
    fn forward(&self, x: Tensor<4>, pool: Option<Pool>) -> Tensor<4> {
        let inner = nn::conv_layer(x.clone(), Some(&self.conv1), Some(&self.bn1), None, RELU);
        let order = if pool.is_some() { ChannelOrder::First } else { ChannelOrder::Last };
        let epilogue = Epilogue { pool, residual_stride: self.conv1.stride[0], order, ..RELU };
        nn::conv_layer(inner, Some(&self.conv2), Some(&self.bn2), Some(x), epilogue)
    }
}

/// A ReLU, with the channels inside for the next layer.
const RELU: Epilogue = Epilogue { activation: Activation::Relu, order: ChannelOrder::Last, ..Epilogue::NONE };

impl Network for Resnet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // In the margin: the preset on images of 32x32 pixels in ten classes.
        let x = nn::conv_layer(images, Some(&self.conv1), Some(&self.bn1), None, RELU); // [batch, 16, 32, 32]
        let blocks: Vec<_> = [&self.layer1, &self.layer2, &self.layer3].into_iter().flatten().collect();
        let Some((last, blocks)) = blocks.split_last() else { return x.flatten(1, 3) };
        let x = blocks.iter().fold(x, |x, block| block.forward(x, None)); // [batch, 64, 8, 8]
        let x = last.forward(x, Some(Pool::Global)); // [batch, 64, 1, 1]
        nn::linear(x.flatten(1, 3), &self.linear) // [batch, 10]
    }
}
