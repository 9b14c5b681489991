//! Networks as ONNX files.
//!
//! [`export()`] runs a network on Burn's device that records operations (`burn::backend::capture`), for two batch sizes,
//! and writes each operation as one or a few of ONNX's (`lower`, `layers`, `shapes`, `table`). A size that differs
//! between the two recordings is a multiple of the number of images, which the graph leaves open; anything else that
//! differs is an error, and so is an operation that is not known here, with its name.
//!
//! The graph takes the bytes of images as files have them, and normalizes them as the run did. Weights have the names
//! and the layout that they have in the run's `model.safetensors` (`weights`), so that the file can be read back as
//! weights.

#[cfg(feature = "onnx")]
mod export;
#[cfg(feature = "onnx")]
mod fold;
#[cfg(feature = "onnx")]
mod graph;
#[cfg(feature = "onnx")]
mod layers;
#[cfg(feature = "onnx")]
mod lower;
pub mod proto;
#[cfg(feature = "onnx")]
mod shapes;
#[cfg(feature = "onnx")]
mod table;
#[cfg(test)]
#[cfg(feature = "onnx")]
mod tests;
#[cfg(feature = "onnx")]
mod trace;
#[cfg(feature = "onnx")]
mod weights;

#[cfg(feature = "onnx")]
pub use export::{OnnxOptions, encode, export};

/// Name of the graph's input: bytes, `[batch, channels, height, width]`.
pub const PIXELS: &str = "pixels";
/// Name of its first output, `[batch, classes]`.
pub const LOGITS: &str = "logits";
/// Name of its second output: the softmax of the logits, `[batch, classes]`.
pub const PROBABILITIES: &str = "probabilities";

/// A matrix of elements of `width` bytes, its columns as rows.
pub(crate) fn transposed(bytes: &[u8], width: usize, rows: usize, columns: usize) -> Vec<u8> {
    let element = |row: usize, column: usize| {
        let start = (row * columns + column) * width;
        bytes.get(start..start + width).unwrap_or_default()
    };
    (0..columns).flat_map(|column| (0..rows).flat_map(move |row| element(row, column))).copied().collect()
}
