//! Variables that a backend's libraries read, and that must be there when the program starts.
//!
//! A program cannot change its own environment safely once threads may read it, so this one starts itself again.

use std::{env, os::unix::process::CommandExt, process::Command};

use anyhow::Result;

/// Starts the program again with those of `variables` that are not set, if there are any.
///
/// To be called before anything is done or said.
pub(crate) fn with(variables: &[(&str, String)]) -> Result<()> {
    let missing = variables.iter().filter(|(name, _)| env::var_os(name).is_none());
    let missing: Vec<_> = missing.map(|(name, value)| (name, value)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut program = Command::new(env::current_exe()?);
    program.args(env::args_os().skip(1)).envs(missing);
    // Takes this process's place, with its number and its terminal; comes back only where that fails.
    Err(program.exec().into())
}
