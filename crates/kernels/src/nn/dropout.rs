use burn::{
    config::Config,
    module::{Flag, Module, Param},
    tensor::Tensor,
};

/// Config of a [`Dropout`] layer.
#[derive(Config, Debug)]
pub struct DropoutConfig {
    /// Probability with which a number becomes zero in training, in `[0, 1)`.
    pub probability: f64,
}

/// Dropout; see [`crate::dropout`]. It has no parameters, and nothing of it is in a file.
#[derive(Module, Debug)]
pub struct Dropout {
    /// Probability with which a number becomes zero in training.
    pub probability: f64,
    /// Whether the layer takes part in training. Freezing the module clears it.
    pub training: Param<Flag>,
}

impl DropoutConfig {
    /// Makes the layer.
    #[must_use]
    pub fn init(&self) -> Dropout {
        Dropout { probability: self.probability, training: Param::from_bool(true) }
    }
}

impl Dropout {
    /// On a device with autodiff, and where the layer is not frozen, numbers are dropped; elsewhere `x` stays as it is.
    ///
    /// # Panics
    /// When numbers are dropped and the probability is not in `[0, 1)`.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if self.training.is_enabled() && x.device().is_autodiff() { crate::dropout(x, self.probability) } else { x }
    }
}
