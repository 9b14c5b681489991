//! Every command of Kindling over networks and data sets of your own.
//!
//! A [`Workbench`] holds networks, data sets and recipes by name, and [`main`](Workbench::main) is a whole program around them:
//! `train`, `resume`, `sweep`, `compare`, `report`, `evaluate`, `predict`, `check`, `lr-find`, `bench`, `doctor`, `serve`
//! and more. The presets (`mlp`, `cnn`, ...) and the data sets `fashion-mnist`, `folder`, `csv`, `cifar`, `parquet`,
//! `idx` and `synthetic` are there from the start; a network is a serde config that makes a Burn module, which maps images
//! to logits.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use burn::{
//!     module::Module,
//!     nn::{Linear, LinearConfig},
//!     tensor::{Device, Tensor},
//! };
//! use kindling_workbench::{ImageShape, ModelError, Network, NetworkConfig, Workbench};
//! use serde::{Deserialize, Serialize};
//!
//! /// The keys of the config's section `network`: each can be set with a file or `--set network.hidden=64`.
//! #[derive(Clone, Debug, Serialize, Deserialize)]
//! struct WingsConfig {
//!     hidden: usize,
//! }
//!
//! #[derive(Module, Debug)]
//! struct Wings {
//!     fc1: Linear,
//!     fc2: Linear,
//! }
//!
//! impl NetworkConfig for WingsConfig {
//!     type Network = Wings;
//!
//!     fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Wings, ModelError> {
//!         let pixels = shape.channels * shape.height * shape.width;
//!         Ok(Wings {
//!             fc1: LinearConfig::new(pixels, self.hidden).init(device),
//!             fc2: LinearConfig::new(self.hidden, shape.classes).init(device),
//!         })
//!     }
//! }
//!
//! impl Network for Wings {
//!     fn forward(&self, images: Tensor<4>) -> Tensor<2> {
//!         let x = images.flatten::<2>(1, 3); // [batch, pixels]
//!         self.fc2.forward(self.fc1.forward(x).tanh())
//!     }
//! }
//!
//! kindling_workbench::allocator!(); // trains small networks faster than the system's
//!
//! fn main() -> ExitCode {
//!     Workbench::new("birds").network("wings", WingsConfig { hidden: 128 }).main()
//! }
//! ```
//!
//! This crate is the only one that parses arguments, picks a device, prints, and enables backends (its cargo features).
//! Results go to standard output, progress and notices to standard error. How a network is trained is up to
//! `kindling-classification` and `kindling-training`; what runs look like is up to `kindling-report`.

// Backends nest generic types deeper than the compiler's default goes.
#![recursion_limit = "512"]

pub mod arguments;
mod backend;
mod commands;
mod dashboard;
pub mod data;
mod figure;
#[cfg(test)]
mod fixtures;
mod log_file;
mod machine;
mod outcome;
pub mod output;
mod page;
mod pictures;
pub mod progress;
mod pytorch;
mod registry;
mod relaunch;
mod signals;
pub mod subprocess;
pub mod sweep;
mod tensorboard;
pub mod terminal;
mod trained;
mod workload;
pub mod writable;

#[doc(hidden)]
pub use mimalloc;

pub use kindling_data::{
    Channels, DataError, Dataset, Fit, ImageData, ImageOptions, ImageSet, ImageSize, Load, LoadEvent,
};
pub use kindling_models::{ImageShape, ModelError, Network, NetworkConfig};

pub use self::{
    commands::{
        evaluate::keep_evaluation,
        samples::{pick, sheet},
    },
    outcome::{Misuse, Outcome},
    registry::{Recipe, Run, Workbench},
};

/// Makes mimalloc the program's allocator: it keeps its pages between steps, and trains small networks on the CPU half as
/// fast again as the system's.
#[macro_export]
macro_rules! allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::mimalloc::MiMalloc = $crate::mimalloc::MiMalloc;
    };
}
