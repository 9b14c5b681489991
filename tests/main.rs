//! Tests over the program and the crates: what a user runs, and what PyTorch says the numbers must be.

#![recursion_limit = "512"]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod backends;
mod config;
mod datasets;
mod examples;
mod golden;
mod inputs;
mod messages;
mod program;
#[cfg(feature = "remote")]
mod remote;
mod resume;
mod runs;
mod terminal;
mod training;
mod workflow;
