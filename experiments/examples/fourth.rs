//! A residual network with a dropout of its own: `cargo run --release --example fourth -- train residual`
use std::process::ExitCode;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm as BurnNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor, activation::relu, module::adaptive_avg_pool2d};
use kindling_kernels::nn::BatchNorm as KindlingNorm;
use kindling_workbench::{ImageShape, ModelError, Network, NetworkConfig, Workbench};
use serde::{Deserialize, Serialize};

/// Whose batch norm.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NormKind {
    Kindling,
    Burn,
}

/// The keys of the section `network`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ResidualConfig {
    widths: Vec<usize>,
    blocks: usize,
    dropout: f64,
    norm: NormKind,
    stem: Option<usize>,
    pooled: bool,
}

/// Zeroes whole channels at random, with a mask of its own.
#[derive(Module, Debug)]
struct ChannelDropout {
    probability: f64,
}

impl ChannelDropout {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.probability == 0.0 || !x.device().is_autodiff() {
            return x;
        }
        let keep = 1.0 - self.probability;
        let [batch, channels, ..] = x.dims();
        let draw = Tensor::<4>::random([batch, channels, 1, 1], Distribution::Uniform(0.0, 1.0), &x.device());
        x * draw.lower_elem(keep).float() / keep
    }
}

#[derive(Module, Debug)]
enum Norm {
    Kindling(KindlingNorm),
    Burn(BurnNorm),
}

impl Norm {
    fn new(kind: NormKind, channels: usize, device: &Device) -> Self {
        match kind {
            NormKind::Kindling => Self::Kindling(KindlingNorm::new(channels, device)),
            NormKind::Burn => Self::Burn(BatchNormConfig::new(channels).init(device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Kindling(norm) => norm.forward(x),
            Self::Burn(norm) => norm.forward(x),
        }
    }
}

#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    norm1: Norm,
    dropout: ChannelDropout,
    conv2: Conv2d,
    norm2: Norm,
    shortcut: Option<Conv2d>,
}

fn convolution(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Conv2dConfig {
    let border = kernel / 2;
    Conv2dConfig::new([inputs, outputs], [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(border, border, border, border))
        .with_bias(false)
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, config: &ResidualConfig, device: &Device) -> Self {
        Self {
            conv1: convolution(inputs, outputs, 3, stride).init(device),
            norm1: Norm::new(config.norm, outputs, device),
            dropout: ChannelDropout { probability: config.dropout },
            conv2: convolution(outputs, outputs, 3, 1).init(device),
            norm2: Norm::new(config.norm, outputs, device),
            shortcut: (inputs != outputs || stride != 1).then(|| convolution(inputs, outputs, 1, stride).init(device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.norm1.forward(self.conv1.forward(x.clone())));
        let y = self.norm2.forward(self.conv2.forward(self.dropout.forward(y)));
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        relu(x + y)
    }
}

#[derive(Module, Debug)]
struct Residual {
    stem: Conv2d,
    norm: Norm,
    blocks: Vec<Block>,
    head: Linear,
    pooled: bool,
}

impl NetworkConfig for ResidualConfig {
    type Network = Residual;
    const HELP: &'static [(&'static str, &'static str)] = &[
        ("widths", "Channels of each stage"),
        ("blocks", "Residual blocks of a stage"),
        ("dropout", "Share of channels that are dropped in a block"),
    ];

    fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Residual, ModelError> {
        let Some(&first) = self.widths.first() else {
            return Err(ModelError::Invalid("widths needs at least one stage".into()));
        };
        if self.blocks == 0 || self.widths.contains(&0) {
            return Err(ModelError::Invalid("blocks and widths have to be positive".into()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::Invalid(format!("dropout is a share below 1 (got {})", self.dropout)));
        }
        let stem = self.stem.unwrap_or(first);
        let mut blocks = Vec::new();
        let mut channels = stem;
        for (stage, &width) in self.widths.iter().enumerate() {
            for block in 0..self.blocks {
                let stride = if block == 0 && stage > 0 { 2 } else { 1 };
                blocks.push(Block::new(channels, width, stride, self, device));
                channels = width;
            }
        }
        let features = if self.pooled { channels } else { channels * 16 };
        Ok(Residual {
            stem: convolution(shape.channels, stem, 3, 2).init(device),
            norm: Norm::new(self.norm, stem, device),
            blocks,
            head: LinearConfig::new(features, shape.classes).init(device),
            pooled: self.pooled,
        })
    }
}

impl Network for Residual {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = relu(self.norm.forward(self.stem.forward(images)));
        for block in &self.blocks {
            x = block.forward(x);
        }
        let side = if self.pooled { 1 } else { 4 };
        self.head.forward(adaptive_avg_pool2d(x, [side, side]).flatten(1, 3))
    }
}

kindling_workbench::allocator!();

fn main() -> ExitCode {
    let config = ResidualConfig {
        widths: vec![8, 16, 32],
        blocks: 1,
        dropout: 0.1,
        norm: NormKind::Kindling,
        stem: None,
        pooled: true,
    };
    Workbench::new("fourth").network("residual", config).main()
}
