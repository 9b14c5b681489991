//! Ctrl-C and its like: the first asks the run to stop, the second leaves at once.

use std::{
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use burn::train::Interrupter;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{commands::INTERRUPTED, dashboard, output::notice};

/// The run that a signal stops; without one, a signal ends the program.
static RUN: Mutex<Option<Interrupter>> = Mutex::new(None);

/// Handles signals from here on.
pub(crate) fn install() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("signals cannot be handled")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let run = RUN.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(interrupter) = run else {
                    dashboard::restore_terminal();
                    process::exit(INTERRUPTED.into());
                };
                interrupter.stop(Some(match signal {
                    SIGTERM => "SIGTERM",
                    SIGHUP => "SIGHUP",
                    _ => "Ctrl-C",
                }));
                if !dashboard::is_on_screen() {
                    notice("stopping after this step; once more to leave at once");
                }
            }
        })
        .context("the thread for signals cannot be started")?;
    Ok(())
}

/// From here on the first signal stops this run, and only the second ends the program.
pub(crate) fn stop_gently(interrupter: &Interrupter) {
    *RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupter.clone());
}

/// From here on there is no run to stop: the first signal ends the program.
pub(crate) fn leave_at_once() {
    *RUN.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
