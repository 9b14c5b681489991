use crate::{CnnConfig, MlpConfig};

/// The config of a preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A multilayer perceptron.
    Mlp(MlpConfig),
    /// A convolutional network.
    Cnn(CnnConfig),
}

/// The assignment's networks, in its order: the presets that there are reference results for.
pub const REFERENCE: [&str; 4] = ["mlp", "mlp-deep", "mlp-wide", "cnn"];

/// The networks that have a name: the reference's four, and the deeper cnn that it suggests.
#[must_use]
pub fn presets() -> [(&'static str, Preset); 5] {
    let mlp = |hidden: &[usize]| Preset::Mlp(MlpConfig { hidden: hidden.to_vec() });
    let cnn = |channels: &[usize]| Preset::Cnn(CnnConfig { channels: channels.to_vec(), hidden: 128 });
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
    ]
}
