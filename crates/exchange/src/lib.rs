//! Runs and weights for other programs, and from them.

mod csv;
mod error;
#[cfg(feature = "onnx")]
mod html;
mod huggingface;
mod import;
pub mod onnx;
pub mod tensorboard;
mod weights;

pub use self::error::ExchangeError;
