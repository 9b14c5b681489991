//! Standard output, where results go.

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stdout},
    process,
};

/// Prints a line; a reader that has read enough (`kindling runs | head`) is no error.
pub(crate) fn print(line: impl Display) {
    if let Err(error) = writeln!(stdout(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            eprintln!("error: standard output cannot be written: {error}");
        }
        process::exit(i32::from(error.kind() != ErrorKind::BrokenPipe));
    }
}
