//! The fused operations as Burn modules, and as functions over Burn's own layers.
//!
//! The modules are made as Burn's are, from a config and a device, with PyTorch's initial distribution (U(±1/√fan_in)) by
//! Burn's lazy initializers. Their parameters have the names and the layout in a weights file that PyTorch's layers have,
//! if burn-store's `BurnToPyTorchAdapter` writes it. That adapter goes by the types' names: `Linear`,
//! `BatchNorm`, `LayerNorm`.
//!
//! ```
//! use burn::{
//!     module::Module,
//!     tensor::{Device, Tensor},
//! };
//! use kindling_kernels::{
//!     Activation,
//!     nn::{ConvBlock, ConvBlockConfig, Linear, LinearConfig},
//! };
//!
//! #[derive(Module, Debug)]
//! struct Network {
//!     block: ConvBlock,
//!     hidden: Linear,
//!     logits: Linear,
//! }
//!
//! impl Network {
//!     fn new(device: &Device) -> Self {
//!         Self {
//!             block: ConvBlockConfig::new(1, 8).init(device),
//!             hidden: LinearConfig::new(8 * 14 * 14, 32).with_activation(Activation::Relu).init(device),
//!             logits: LinearConfig::new(32, 10).init(device),
//!         }
//!     }
//!
//!     fn forward(&self, images: Tensor<4>) -> Tensor<2> {
//!         let x = self.block.forward(images); // [batch, 8, 14, 14]
//!         let x = self.hidden.forward(x.flatten(1, 3)); // [batch, 32]
//!         self.logits.forward(x)
//!     }
//! }
//!
//! # #[cfg(feature = "flex")] {
//! let device = Device::flex().autodiff();
//! let logits = Network::new(&device).forward(Tensor::ones([4, 1, 28, 28], &device));
//! assert_eq!(logits.dims(), [4, 10]);
//! # }
//! ```

mod batch_norm;
mod block;
mod dropout;
mod layer_norm;
mod linear;
mod parameters;
#[cfg(all(test, feature = "flex"))]
mod tests;

pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use block::{ConvBlock, ConvBlockConfig, conv_block, conv_layer};
pub use dropout::{Dropout, DropoutConfig};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig, linear, linear_relu};
pub use parameters::{Parameter, named_parameters};
