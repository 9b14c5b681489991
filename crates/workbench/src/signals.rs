//! Ctrl-C and its like: the first asks the run to stop, the second leaves at once.

use std::{
    fs, mem,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use burn::train::Interrupter;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
    iterator::Signals,
    low_level,
};

use crate::{dashboard, outcome::INTERRUPTED, output::notice};

/// What the next signal does.
enum Action {
    /// Ends the program: removes this temporary file or directory, and gives a last notice.
    Leave(Option<String>, Option<PathBuf>),
    /// Stops this run after its step; the signal after that ends the program.
    Stop(Interrupter),
    /// Says so; the signal after that ends the program.
    Tell(Arc<AtomicBool>),
    /// Says so and hands the signal on to this process, and so for every signal after it.
    HandOn(Pid, Arc<AtomicBool>),
}

static NEXT: Mutex<Action> = Mutex::new(Action::Leave(None, None));

static IS_INSTALLED: AtomicBool = AtomicBool::new(false);

/// Handles signals from here on; once is enough.
pub(crate) fn install() -> Result<()> {
    if IS_INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("signals cannot be handled")?;
    // With a handler, a file that grows beyond its limit is an error of the write instead of the end of the program.
    flag::register(SIGXFSZ, Arc::default()).context("signals cannot be handled")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if handed_on(signal) {
                    continue;
                }
                let interrupter = match set(Action::Leave(None, None)) {
                    Action::Stop(interrupter) => interrupter,
                    Action::Tell(told) | Action::HandOn(_, told) => {
                        told.store(true, Ordering::Relaxed);
                        continue;
                    }
                    Action::Leave(last, temporary) => {
                        dashboard::restore_terminal();
                        if let Some(path) = temporary {
                            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
                        }
                        if let Some(last) = last {
                            notice(last);
                        }
                        // Without the exit handlers of drivers that may be in the middle of compiling a kernel.
                        low_level::exit(INTERRUPTED.into());
                    }
                };
                interrupter.stop(Some(match signal {
                    SIGTERM => "SIGTERM",
                    SIGHUP => "SIGHUP",
                    _ => "Ctrl-C",
                }));
                if !dashboard::is_on_screen() {
                    notice("finishing this step; press Ctrl-C again to quit immediately");
                }
            }
        })
        .context("the thread for signals cannot be started")?;
    Ok(())
}

/// From here on the first signal stops this run, and only the second ends the program.
pub(crate) fn stop_gently(interrupter: &Interrupter) {
    set(Action::Stop(interrupter.clone()));
}

/// From here on the first signal is told by what is returned, and only the second ends the program.
pub(crate) fn until_signal() -> impl Fn() -> bool + Sync {
    let told = Arc::new(AtomicBool::new(false));
    set(Action::Tell(Arc::clone(&told)));
    move || told.load(Ordering::Relaxed)
}

/// From here on every signal goes to this process, and that there was one is told by what is returned.
pub(crate) fn hand_on(process: Pid) -> impl Fn() -> bool + Sync {
    let told = Arc::new(AtomicBool::new(false));
    set(Action::HandOn(process, Arc::clone(&told)));
    move || told.load(Ordering::Relaxed)
}

/// Whether a signal is for another process, which then has it.
fn handed_on(signal: i32) -> bool {
    // Locked meanwhile, so that the process is there, or was an instant ago.
    let next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let Action::HandOn(process, told) = &*next else { return false };
    told.store(true, Ordering::Relaxed);
    let signal = match signal {
        SIGTERM => Signal::TERM,
        SIGHUP => Signal::HUP,
        _ => Signal::INT,
    };
    // One that has ended needs none.
    let _ = kill_process(*process, signal);
    true
}

/// From here on the first signal ends the program, with this notice: there is no run, or nothing of it to save yet.
pub(crate) fn leave_at_once(last: Option<String>) {
    set(Action::Leave(last, None));
}

/// As [`leave_at_once`], and removes the temporary file or directory that is being written.
pub(crate) fn leave_without(temporary: PathBuf) {
    set(Action::Leave(Some("interrupted; nothing of the data set is kept".to_owned()), Some(temporary)));
}

fn set(action: Action) -> Action {
    mem::replace(&mut NEXT.lock().unwrap_or_else(PoisonError::into_inner), action)
}
