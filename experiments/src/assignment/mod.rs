//! The assignment that Kindling reproduces: its runs, the reference's metrics, and the report that compares them.

mod charts;
mod command;
mod configs;
#[cfg(test)]
pub(crate) mod fixtures;
mod gradients;
mod measured;
mod reference;
mod report;
mod tables;
mod verdict;

pub(crate) use command::{command, reproduce};
