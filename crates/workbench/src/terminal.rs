//! Capabilities of the terminal.

use std::{
    env,
    ffi::OsString,
    io::{IsTerminal, stderr, stdout},
};

use crossterm::terminal::size;
use indicatif::ProgressDrawTarget;

/// Columns of a terminal that does not report its size.
const COLUMNS: u16 = 80;

/// Whether escape sequences may be written to a terminal: `TERM` names one that has them, and `NO_COLOR` is not set
/// (<https://no-color.org>).
#[must_use]
pub fn has_escapes() -> bool {
    !is_dumb() && is_unset(env::var_os("NO_COLOR"))
}

/// Whether a terminal has no escape sequences: `TERM` is unset, empty or `dumb`.
#[must_use]
pub fn is_dumb() -> bool {
    let name = env::var_os("TERM");
    name.as_ref().is_some_and(|name| name == "dumb") || is_unset(name)
}

/// Columns of standard output, if it is a terminal.
#[must_use]
pub fn width() -> Option<u16> {
    let columns = || size().ok().map(|(columns, _)| columns).filter(|&columns| columns > 0).unwrap_or(COLUMNS);
    stdout().is_terminal().then(columns)
}

/// Where progress bars are drawn: on standard error, if it is a terminal with escape sequences, and else nowhere.
#[must_use]
pub fn bars() -> ProgressDrawTarget {
    if stderr().is_terminal() && has_escapes() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// An empty variable counts as unset.
fn is_unset(variable: Option<OsString>) -> bool {
    variable.is_none_or(|value| value.is_empty())
}
