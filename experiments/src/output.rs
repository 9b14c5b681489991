//! Standard output, where results go, and standard error, where everything else does.

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stderr, stdout},
    process,
};

/// Prints a line; a reader that has read enough (`kindling runs | head`) is no error.
pub(crate) fn print(line: impl Display) {
    if let Err(error) = writeln!(stdout(), "{line}") {
        let is_closed = error.kind() == ErrorKind::BrokenPipe;
        if !is_closed {
            notice(format_args!("error: standard output cannot be written: {error}"));
        }
        process::exit(i32::from(!is_closed));
    }
}

/// Says something beside the results. Where nobody listens any more, a run goes on all the same.
pub(crate) fn notice(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
