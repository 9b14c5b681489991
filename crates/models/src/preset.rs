use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{CnnConfig, ImageShape, LayerSummary, MlpConfig, ModelError, NetworkConfig};

/// The networks that have a name: the reference's four, and the deeper cnn that it suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    /// 784-512-512-10: the assignment's base network; other widths through `hidden`.
    Mlp,
    /// 784-512-512-512-512-10: the same width, twice the hidden layers.
    MlpDeep,
    /// 784-1024-1024-10: the same depth, twice the width.
    MlpWide,
    /// Two convolution blocks of 32 and 64 channels, linear 3136-128-10.
    Cnn,
    /// Three convolution blocks of 32, 64 and 128 channels, linear 1152-128-10: the reference's suggestion of more layers.
    CnnDeep,
}

impl ModelName {
    /// All presets, those of the assignment first.
    pub const ALL: [Self; 5] = [Self::Mlp, Self::MlpDeep, Self::MlpWide, Self::Cnn, Self::CnnDeep];

    /// The assignment's networks, in its order: what there are reference figures for.
    pub const REFERENCE: [Self; 4] = [Self::Mlp, Self::MlpDeep, Self::MlpWide, Self::Cnn];

    /// The name as it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::MlpDeep => "mlp-deep",
            Self::MlpWide => "mlp-wide",
            Self::Cnn => "cnn",
            Self::CnnDeep => "cnn-deep",
        }
    }

    /// The preset's network; `hidden` replaces the widths of `mlp`.
    ///
    /// # Errors
    /// When `hidden` is given for another model, or holds a zero.
    pub fn config(self, hidden: Option<&[usize]>) -> Result<NetworkConfig, ModelError> {
        if let Some(hidden) = hidden {
            if self != Self::Mlp {
                return Err(ModelError::HiddenNotTaken { model: self });
            }
            if hidden.contains(&0) {
                return Err(ModelError::EmptyLayer { hidden: hidden.to_vec() });
            }
        }
        Ok(match self {
            Self::Mlp => NetworkConfig::Mlp(MlpConfig { hidden: hidden.map_or(vec![512; 2], <[usize]>::to_vec) }),
            Self::MlpDeep => NetworkConfig::Mlp(MlpConfig { hidden: vec![512; 4] }),
            Self::MlpWide => NetworkConfig::Mlp(MlpConfig { hidden: vec![1024; 2] }),
            Self::Cnn => NetworkConfig::Cnn(CnnConfig { channels: vec![32, 64], hidden: 128 }),
            Self::CnnDeep => NetworkConfig::Cnn(CnnConfig { channels: vec![32, 64, 128], hidden: 128 }),
        })
    }

    /// The preset's layers for Fashion-MNIST.
    #[must_use]
    pub fn layers(self) -> Vec<LayerSummary> {
        self.config(None).and_then(|config| config.layers(ImageShape::MNIST)).unwrap_or_default()
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for ModelName {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        Self::ALL
            .into_iter()
            .find(|model| model.as_str() == name)
            .ok_or_else(|| ModelError::Unknown { name: name.to_owned() })
    }
}
