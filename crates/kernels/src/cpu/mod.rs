//! The operations on plain slices of `f32`, for CPUs.

mod level;
pub(crate) mod linear;
mod parallel;
mod scratch;
mod tile;

pub use level::Level;
