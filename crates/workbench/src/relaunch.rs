//! Variables that a backend's libraries read, and that must be right when the program starts.
//!
//! A program cannot change its own environment safely once threads may read it, so this one starts itself again.

use std::{env, os::unix::process::CommandExt, process::Command};

use anyhow::Result;

/// Variables that a library does not take for unset when they are empty; Kindling does.
/// `CUDA_VISIBLE_DEVICES` is none of them: an empty one hides every GPU.
const MAY_BE_EMPTY: [&str; 3] = ["BURN_DEVICE", "CUBECL_AUTOTUNE_LEVEL", "KINDLING_RUNS_DIR"];

/// Starts the program again without those of [`MAY_BE_EMPTY`] that are empty, if there are any.
///
/// Call it before the arguments are read.
pub(crate) fn without_empty_variables() -> Result<()> {
    let is_empty = |name: &&str| env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<_> = MAY_BE_EMPTY.into_iter().filter(is_empty).collect();
    if empty.is_empty() {
        return Ok(());
    }
    let mut program = same_program()?;
    for name in empty {
        program.env_remove(name);
    }
    Err(program.exec().into())
}

/// Starts the program again with those of `variables` that are not set, if there are any.
///
/// Call it before anything else is done or printed.
pub(crate) fn with(variables: &[(&str, String)]) -> Result<()> {
    let missing = variables.iter().filter(|(name, _)| env::var_os(name).is_none_or(|value| value.is_empty()));
    let missing: Vec<_> = missing.map(|(name, value)| (name, value)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(same_program()?.envs(missing).exec().into())
}

/// This program with the same arguments. Executed, it takes this process's place, with its number and its terminal, and
/// returns only where that fails.
fn same_program() -> Result<Command> {
    let mut program = Command::new(env::current_exe()?);
    program.args(env::args_os().skip(1));
    Ok(program)
}
