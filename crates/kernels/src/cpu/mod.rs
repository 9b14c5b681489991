//! The operations on plain slices of `f32`.

// What is not inlined into a function of a level is compiled for none.
#![allow(clippy::inline_always)]

mod activation;
pub(crate) mod conv;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod layer_norm;
mod level;
pub(crate) mod linear;
pub(crate) mod muon;
mod output;
pub(crate) mod parallel;
mod pixels;
mod real;
pub(crate) mod rows;
mod scratch;
pub(crate) mod steps;
mod symmetric;
mod tile;

pub use level::Level;
pub use parallel::threads;
pub use pixels::{filled, normalize_bytes};
