//! The operations on plain slices of `f32`.

pub(crate) mod block;
pub(crate) mod cross_entropy;
pub(crate) mod descend;
mod level;
pub(crate) mod linear;
mod output;
pub(crate) mod parallel;
mod scratch;
mod tile;
mod winograd;

pub use block::ChannelOrder;
pub use level::Level;
pub use parallel::threads;
