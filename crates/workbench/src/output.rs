//! Standard output, where results go, and standard error, where everything else does.

use std::{
    fmt::Display,
    io::{ErrorKind, Write, stderr, stdout},
    process,
    sync::OnceLock,
};

static PROGRAM: OnceLock<String> = OnceLock::new();

/// Name of the program that users type, for messages.
pub(crate) fn program() -> &'static str {
    PROGRAM.get().map_or("kindling", String::as_str)
}

/// Names the program, once for the process.
pub(crate) fn name_program(name: &str) {
    let _ = PROGRAM.set(name.to_owned());
}

/// Prints a line. A reader that has read enough (`kindling runs | head`) is no error and loses nothing: the program
/// continues, and its exit code is that of its work.
pub fn print(line: impl Display) {
    match writeln!(stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            notice(format_args!("error: standard output cannot be written: {error}"));
            process::exit(1);
        }
        _ => {}
    }
}

/// Prints a notice to standard error. Where it is closed, the program continues.
pub fn notice(line: impl Display) {
    let _ = writeln!(stderr(), "{}", harmless(&line.to_string()));
}

/// The text with all control characters escaped but ends of lines and tabs: names of files may have any.
fn harmless(text: &str) -> String {
    let is_kept = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if is_kept(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// An error with its causes, each once: many messages contain their cause already.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Error, anyhow};
    use kindling_record::RecordError;

    use super::{harmless, told};

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(13)
    }

    #[test]
    fn a_cause_that_a_message_contains_is_not_said_again() {
        let source = refused();
        let error = Error::new(RecordError::Io { path: "runs".into(), source }).context("run x failed");
        assert_eq!(told(&error), "run x failed: runs: Permission denied (os error 13)");
        let error = Error::new(refused()).context(format!("{}; try again", refused())).context("run x failed");
        assert_eq!(told(&error), "run x failed: Permission denied (os error 13); try again");
    }

    #[test]
    fn escape_sequences_in_names_do_nothing_to_a_terminal() {
        assert_eq!(harmless("a\u{1b}]0;b\u{7}: café\n\tc"), "a\\u{1b}]0;b\\u{7}: café\n\tc");
    }

    #[test]
    fn a_cause_that_no_message_contains_is_said() {
        let error = Error::new(refused()).context("a.json cannot be read").context("config");
        assert_eq!(told(&error), "config: a.json cannot be read: Permission denied (os error 13)");
        assert_eq!(told(&anyhow!("alone")), "alone");
    }
}
