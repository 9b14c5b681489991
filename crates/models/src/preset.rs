use crate::{AirbenchConfig, CnnConfig, MlpConfig, ResnetConfig, WrnConfig};

/// The config of a preset.
#[derive(Clone, Debug, PartialEq)]
pub enum Preset {
    /// A multilayer perceptron.
    Mlp(MlpConfig),
    /// A convolutional network.
    Cnn(CnnConfig),
    /// A residual network.
    Resnet(ResnetConfig),
    /// A wide residual network.
    Wrn(WrnConfig),
    /// The network of airbench94.
    Airbench(AirbenchConfig),
}

/// The assignment's networks, in its order: the presets that there are reference results for.
pub const REFERENCE: [&str; 4] = ["mlp", "mlp-deep", "mlp-wide", "cnn"];

/// The networks that have a name: the reference's four, the deeper cnn that it suggests, and the literature's.
///
/// `resnet` and `wrn` are for depths and widths of one's own; until they are set they are `resnet-20` and `wrn-16-4`.
#[must_use]
pub fn presets() -> [(&'static str, Preset); 12] {
    let mlp = |hidden: &[usize]| Preset::Mlp(MlpConfig { hidden: hidden.to_vec() });
    let cnn = |channels: &[usize]| Preset::Cnn(CnnConfig { channels: channels.to_vec(), hidden: 128 });
    let resnet = |depth| Preset::Resnet(ResnetConfig { depth, ..ResnetConfig::default() });
    [
        // The assignment's base network: 784-512-512-10.
        ("mlp", mlp(&[512; 2])),
        // The same width, twice the hidden layers.
        ("mlp-deep", mlp(&[512; 4])),
        // The same depth, twice the width.
        ("mlp-wide", mlp(&[1024; 2])),
        // Two blocks, linear 3136-128-10.
        ("cnn", cnn(&[32, 64])),
        // The reference's suggestion of more layers: three blocks, linear 1152-128-10.
        ("cnn-deep", cnn(&[32, 64, 128])),
        ("resnet", resnet(20)),
        // The smallest one of its kind: a block in each stage.
        ("resnet-8", resnet(8)),
        // The paper's two smallest: three blocks in each stage, and five.
        ("resnet-20", resnet(20)),
        ("resnet-32", resnet(32)),
        ("wrn", Preset::Wrn(WrnConfig::default())),
        // The paper's smallest that is wide: two blocks in each stage, 64-128-256.
        ("wrn-16-4", Preset::Wrn(WrnConfig::default())),
        // As in its paper: 64-256-256.
        ("airbench", Preset::Airbench(AirbenchConfig::default())),
    ]
}
