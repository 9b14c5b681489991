//! Runs and weights for other programs, and from them.
//!
//! [`ExportedRun`] is a finished run with its network: what every export takes. [`onnx::export`] makes a graph of it that
//! takes the bytes of images, [`huggingface`] a folder for the hub, [`html`] a page that runs it, [`csv`] and
//! [`tensorboard`] tables and event files of what was measured; [`import`] makes a run of weights from elsewhere.
//!
//! This crate parses no arguments, picks no device but the one that records operations, and never prints.

pub mod csv;
mod error;
mod exported;
#[cfg(feature = "onnx")]
pub mod html;
pub mod huggingface;
pub mod import;
pub mod onnx;
pub mod tensorboard;
pub mod weights;

pub use self::{error::ExchangeError, exported::ExportedRun};
