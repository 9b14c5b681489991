//! The typed config of a run: everything that decides it, but the data's bytes and the backend.
//!
//! A [`Config`] has six sections: `network`, `data`, `optimizer`, `schedule`, `protocol` and `training`. The type, default,
//! documentation, range and flag of a key are written once, in `sections.rs`; files, flags, checks, comments and help are
//! made from that. The keys of networks and data sets come with them, in a [`Registry`]. What a user typed is a
//! [`Partial`], layered with [`over`](Partial::over) and completed by [`resolve`](Partial::resolve); a [`Grid`] is many.
//!
//! ```
//! use kindling_config::{Optimizer, Partial, Registry, Section};
//!
//! let network = Section { name: "linear".to_owned(), ..Section::default() };
//! let dataset = Section { name: "birds".to_owned(), ..Section::default() };
//! let registry = Registry { networks: vec![network], datasets: vec![dataset] };
//! let file = Partial::from_file("network = \"linear\"\ntraining.epochs = 3")?;
//! let flags = Partial::default().with_text("optimizer", "adam", &registry)?.with_text("beta_1", ".8", &registry)?;
//! let config = flags.over(file).resolve(&registry)?;
//! assert_eq!(config.training.epochs, 3);
//! assert!(matches!(config.optimizer, Optimizer::Adam(adam) if adam.beta_1 == 0.8));
//! # Ok::<(), kindling_config::ConfigError>(())
//! ```
//!
//! This crate knows no network, no data set and no tensor, and reads no file by itself.

#[macro_use]
mod declare;
pub mod augment;
mod config;
mod error;
mod file;
mod grid;
mod keys;
mod kind;
mod partial;
mod print;
mod resolve;
mod sections;
mod update;
mod values;

pub use augment::{Augmentation, Edge};
pub use config::Config;
pub use error::ConfigError;
pub use grid::Grid;
pub use keys::{Key, keys, nearest};
pub use kind::{Kind, Range};
pub use partial::Partial;
pub use sections::{
    Assignment, Channels, Choice, Data, Fit, Normalize, Order, Precision, Protocol, Registry, Sampler, Section,
    TestTimeAugmentation, Training, Validated,
};
pub use update::{
    Adam, Adamw, Constant, Cosine, Linear, Momentum, Muon, MuonFilters, MuonScaling, OneCycle, Optimizer, Schedule,
    Sgd, Step, WarmRestarts,
};
pub use values::{ClassWeights, ImageSize};
