//! burn-train's dashboard, with a Ctrl-C that works.

use std::{
    io::{IsTerminal, stdin, stdout},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use burn::train::{
    Interrupter,
    renderer::{MetricsRenderer, tui::TuiMetricsRendererWrapper},
};
use crossterm::{
    cursor::Show,
    event::DisableMouseCapture,
    execute,
    terminal::{LeaveAlternateScreen, disable_raw_mode, is_raw_mode_enabled},
};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use crate::{arguments::Dashboard, outcome::Misuse, terminal};

/// Whether to show the dashboard; `auto` does on a terminal with escape sequences, without --json.
///
/// # Errors
/// When it is to be shown always, and there is no terminal or one without escape sequences.
pub(crate) fn is_wanted(choice: Dashboard, json: bool) -> Result<bool> {
    let is_terminal = stdout().is_terminal() && stdin().is_terminal();
    match choice {
        Dashboard::Never => Ok(false),
        Dashboard::Auto => Ok(is_terminal && terminal::has_escapes() && !json),
        Dashboard::Always if !is_terminal => {
            bail!(Misuse("--dashboard always needs a terminal as standard input and output, found none".to_owned()))
        }
        Dashboard::Always if terminal::is_dumb() => bail!(Misuse(
            "--dashboard always needs a terminal with escape sequences, found TERM unset, empty or `dumb`; name the \
             terminal, as in TERM=xterm-256color"
                .to_owned()
        )),
        Dashboard::Always => Ok(true),
    }
}

/// Starts the dashboard of a run after `epochs` epochs.
pub(crate) fn start(interrupter: Interrupter, epochs: usize) -> Box<dyn MetricsRenderer> {
    let dashboard = TuiMetricsRendererWrapper::new(interrupter, (epochs > 0).then_some(epochs));
    let_signals_through();
    Box::new(dashboard)
}

/// Whether the dashboard has the terminal.
pub(crate) fn is_on_screen() -> bool {
    is_raw_mode_enabled().unwrap_or(false)
}

/// Restores the terminal if the dashboard still has it.
pub(crate) fn restore_terminal() {
    if is_on_screen() {
        // Nothing is left to be done about a terminal that refuses.
        let _ = disable_raw_mode();
        let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
    }
}

/// The dashboard's raw mode turns Ctrl-C into a key that it ignores: makes it a signal again, but leaves Ctrl-Z and
/// Ctrl-\ switched off, which would abandon the terminal in the dashboard's state.
fn let_signals_through() {
    // The dashboard takes the terminal on a thread of its own.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_on_screen() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let Ok(mut modes) = tcgetattr(stdin()) else { return };
    modes.local_modes |= LocalModes::ISIG;
    for code in [SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSUSP] {
        modes.special_codes[code] = 0;
    }
    if let Err(error) = tcsetattr(stdin(), OptionalActions::Now, &modes) {
        log::warn!("Ctrl-C will not work in the dashboard: {error}");
    }
}
