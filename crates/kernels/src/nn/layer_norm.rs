use burn::{
    config::Config,
    module::{Initializer, Module, Param},
    tensor::{Device, Tensor},
};

/// Config of a [`LayerNorm`] layer.
#[derive(Config, Debug)]
pub struct LayerNormConfig {
    /// Size of the last dimension.
    pub features: usize,
    /// What is added to the variance: 1e-5, as in PyTorch.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// Layer normalization over the last dimension; see [`crate::layer_norm`]. The fields have Burn's names, which its
/// PyTorch adapter expects.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[features]`; `weight` in a PyTorch file.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[features]`; `bias` in a PyTorch file.
    pub beta: Param<Tensor<1>>,
    /// What is added to the variance.
    pub epsilon: f64,
}

impl LayerNormConfig {
    /// Makes the layer, with scale 1 and shift 0.
    #[must_use]
    pub fn init(&self, device: &Device) -> LayerNorm {
        LayerNorm {
            gamma: Initializer::Ones.init([self.features], device),
            beta: Initializer::Zeros.init([self.features], device),
            epsilon: self.epsilon,
        }
    }
}

impl LayerNorm {
    /// # Shapes
    /// - x: `[..., features]`
    /// - output: as x
    ///
    /// # Panics
    /// When `x` has another number of features.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        crate::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}
