//! Tests over the program and the crates: what a user runs, and what PyTorch says the numbers must be.

#![recursion_limit = "512"]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod backends;
mod claims;
mod cluster;
mod config;
mod datasets;
mod examples;
mod golden;
#[cfg(feature = "onnx")]
mod html;
mod import;
mod inputs;
mod messages;
#[cfg(feature = "onnx")]
mod onnx;
mod play;
mod program;
#[cfg(feature = "remote")]
mod remote;
mod resume;
mod runs;
mod tensorboard;
mod terminal;
mod training;
mod watch;
mod workflow;
