//! Programs that a command runs and waits for, each in a process of its own.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::signals;

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// Whether this program was asked to stop meanwhile.
    pub interrupted: bool,
}

/// Runs `command` to its end, without standard input.
///
/// Ctrl-C in the terminal reaches this program alone, which hands it on, as it does SIGTERM and SIGHUP: a training ends
/// gently, and a second signal ends it at once, however the signals come.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Ended> {
    signals::install()?;
    let started = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    // One that comes before it is known whom it is for.
    let was_told = signals::until_signal();
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{program} cannot be started"))?;
    let process = Pid::from_child(&child);
    let is_told = signals::hand_on(process);
    if was_told() {
        let _ = kill_process(process, Signal::INT);
    }
    let status = child.wait();
    let seconds = started.elapsed().as_secs_f64();
    signals::leave_at_once(None);
    let status = status.with_context(|| format!("{program} cannot be waited for"))?;
    Ok(Ended { status, seconds, interrupted: was_told() || is_told() })
}
