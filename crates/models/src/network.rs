use burn::{
    module::Module,
    store::{
        BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
    },
    tensor::{DType, Device, FloatDType, Tensor},
};
use thiserror::Error;

use crate::{Cnn, CnnConfig, ImageShape, LayerSummary, Mlp, MlpConfig, ModelName};

/// What a network is made of, apart from what the data decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkConfig {
    /// A multilayer perceptron.
    Mlp(MlpConfig),
    /// A convolutional network.
    Cnn(CnnConfig),
}

/// A classifier of greyscale images.
// The variants live once for a run; a box would only add a hop.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Network {
    /// A multilayer perceptron.
    Mlp(Mlp),
    /// A convolutional network.
    Cnn(Cnn),
}

/// What can go wrong with a network.
#[derive(Debug, Error)]
pub enum ModelError {
    /// There is no such preset.
    #[error("no model `{name}`; there are {}", ModelName::ALL.map(ModelName::as_str).join(", "))]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// Only `mlp` takes widths.
    #[error("hidden widths go with the model `mlp`, not with `{model}`")]
    HiddenNotTaken {
        /// The model they were given for.
        model: ModelName,
    },
    /// A layer without units.
    #[error("hidden widths must be at least 1, found {hidden:?}")]
    EmptyLayer {
        /// The widths as given.
        hidden: Vec<usize>,
    },
    /// A cnn with another number of blocks.
    #[error("a cnn has two or three convolution blocks, found {} with channels {channels:?}", channels.len())]
    Blocks {
        /// The channels as given.
        channels: Vec<usize>,
    },
    /// Pooling would leave nothing.
    #[error(
        "a cnn halves its images in every block: this one needs at least {least}x{least} pixels, found {height}x{width}; \
         use an mlp"
    )]
    TooSmall {
        /// Pixels that both sides need.
        least: usize,
        /// Pixels in a column.
        height: usize,
        /// Pixels in a row.
        width: usize,
    },
    /// The weights could not be written or do not belong to the network.
    #[error("weights: {0}")]
    Weights(String),
}

impl NetworkConfig {
    /// Makes the network with fresh weights, which `seed` alone decides: they are the same on every backend.
    ///
    /// # Errors
    /// When the images are too small for it, or a cnn has neither two nor three blocks.
    pub fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Network, ModelError> {
        self.check(shape)?;
        Ok(match self {
            Self::Mlp(config) => Network::Mlp(config.init(shape, seed, device)),
            Self::Cnn(config) => Network::Cnn(config.init(shape, seed, device)?),
        })
    }

    /// The network's layers in order.
    ///
    /// # Errors
    /// When the images are too small for it, or a cnn has neither two nor three blocks.
    pub fn layers(&self, shape: ImageShape) -> Result<Vec<LayerSummary>, ModelError> {
        self.check(shape)?;
        Ok(match self {
            Self::Mlp(config) => config.layers(shape),
            Self::Cnn(config) => config.layers(shape),
        })
    }

    fn check(&self, shape: ImageShape) -> Result<(), ModelError> {
        match self {
            Self::Mlp(_) => Ok(()),
            Self::Cnn(config) => config.check(shape),
        }
    }
}

impl Network {
    /// # Shapes
    /// - images: `[batch, 1, height, width]`
    /// - logits: `[batch, classes]`
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Mlp(mlp) => mlp.forward(images),
            Self::Cnn(cnn) => cnn.forward(images),
        }
    }

    /// The weights as a safetensors file with PyTorch's names and layout, in f32 whatever the network computes in.
    ///
    /// # Errors
    /// When a tensor cannot be read back from the device.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        // One metadata entry, since several would be written in an order that differs from run to run; `pt` is what
        // PyTorch's own tools write.
        let mut store = SafetensorsStore::from_bytes(None)
            .clear_metadata()
            .metadata("format", "pt")
            .with_to_adapter(BurnToPyTorchAdapter.chain(FloatCastAdapter::to(DType::F32)));
        match self {
            Self::Mlp(mlp) => mlp.save_into(&mut store),
            Self::Cnn(cnn) => cnn.save_into(&mut store),
        }
        .and_then(|()| store.get_bytes())
        .map_err(|error| ModelError::Weights(error.to_string()))
    }

    /// The network with weights from a safetensors file with PyTorch's names and layout, in the device's own precision.
    ///
    /// # Errors
    /// When the file is none, or lacks a tensor, or holds one of another shape or one that the network has no place for.
    pub fn with_safetensors(mut self, bytes: Vec<u8>) -> Result<Self, ModelError> {
        let precision = self.devices().first().map_or(FloatDType::F32, |device| device.settings().float_dtype);
        let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision.into()));
        let mut store = SafetensorsStore::from_bytes(Some(bytes)).with_from_adapter(adapter);
        let loaded = match &mut self {
            Self::Mlp(mlp) => mlp.load_from(&mut store),
            Self::Cnn(cnn) => cnn.load_from(&mut store),
        }
        .map_err(|error| ModelError::Weights(error.to_string()))?;
        // PyTorch's batch norms count batches, for an average that theirs is not.
        match loaded.unused.iter().find(|name| !name.ends_with("num_batches_tracked")) {
            Some(name) => {
                Err(ModelError::Weights(format!("expected the network's tensors alone, found `{name}` as well")))
            }
            None => Ok(self),
        }
    }
}
