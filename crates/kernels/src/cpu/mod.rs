//! The operations on plain slices of `f32`.

// What is not inlined into a function of a level is compiled for none.
#![allow(clippy::inline_always)]

pub(crate) mod block;
pub(crate) mod cross_entropy;
mod level;
pub(crate) mod linear;
mod output;
pub(crate) mod parallel;
mod pixels;
pub(crate) mod rows;
mod scratch;
pub(crate) mod sgd_step;
mod tile;
mod winograd;

pub use block::ChannelOrder;
pub use level::Level;
pub use parallel::threads;
pub use pixels::{filled, normalize_bytes};
