//! Variables that libraries read and that must be there when the program starts.
//!
//! A program cannot change its own environment safely once threads may read it, so this one starts itself again.

use std::{env, process::Command};

use anyhow::Result;

use crate::backend::Request;

/// Makes the backend that was asked for Burn's default, where a build has a GPU backend that would be it instead.
///
/// Burn reads the optimizer's state back onto its default device, whether or not the machine has such a device.
pub(crate) fn with_default_device(request: &Request) -> Result<()> {
    let would_be_a_gpu = cfg!(any(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "metal"));
    match request.burn_name() {
        Some(name) if would_be_a_gpu => with("BURN_DEVICE", name),
        _ => Ok(()),
    }
}

/// Gives Mesa's drivers the directory that they complain about on standard error, in the midst of the dashboard.
#[cfg(all(target_os = "linux", feature = "wgpu"))]
pub(crate) fn with_runtime_directory() -> Result<()> {
    with("XDG_RUNTIME_DIR", &env::temp_dir().to_string_lossy())
}

/// Starts the program again with the variable, unless it is there.
fn with(name: &str, value: &str) -> Result<()> {
    if env::var_os(name).is_some() {
        return Ok(());
    }
    let mut program = Command::new(env::current_exe()?);
    program.args(env::args_os().skip(1)).env(name, value);
    run(program)
}

/// Takes this process's place, with its number and its terminal.
#[cfg(unix)]
fn run(mut program: Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    Err(program.exec().into())
}

#[cfg(not(unix))]
fn run(mut program: Command) -> Result<()> {
    let status = program.status()?;
    std::process::exit(status.code().unwrap_or(1))
}
