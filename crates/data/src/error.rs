use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// What can go wrong with a data set.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or directory could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {message}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was wanted, what was found, and what to do.
        message: String,
    },
    /// A directory lacks a file of the set.
    #[error("{directory}: expected {wanted}, found {found}", directory = directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
        /// The names that would have done.
        wanted: String,
        /// What is there instead.
        found: String,
    },
    /// No source could deliver the set.
    #[error("Fashion-MNIST could not be fetched:\n{}\n{way_on}", failures.iter().map(|f| format!("  {f}")).collect::<Vec<_>>().join("\n"))]
    Unreachable {
        /// Each source with the reason it failed.
        failures: Vec<String>,
        /// What the user can do.
        way_on: String,
    },
    /// A directory is missing from the command line, or the data set takes none.
    #[error("{0}")]
    Directory(String),
    /// The images cannot be used as asked.
    #[error("{0}")]
    Unusable(String),
}

impl DataError {
    /// Returns a closure for `map_err` that adds `path` to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), message: message.into() }
    }
}

/// An event of loading a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// A file begins to arrive, with its size where the server tells it.
    Started {
        /// Where it comes from.
        from: String,
        /// Its size in bytes.
        bytes: Option<u64>,
    },
    /// Bytes arrived since the last event.
    Received(u64),
    /// The file is whole, verified, and under its name.
    Finished(PathBuf),
    /// A temporary file or directory was begun; it is removed when loading ends. A caller that ends the process before
    /// that removes it.
    Temporary(PathBuf),
    /// Pictures are decoded into a packed file.
    Decoding {
        /// Number of the pictures.
        total: usize,
    },
    /// So many more pictures are done since the last event.
    Decoded(usize),
    /// The packed file is whole and under its name.
    Packed(PathBuf),
    /// A source failed and the next is tried, something takes long, or something about the set is worth knowing.
    Notice(String),
}

/// Why one source did not deliver.
pub(crate) enum Failure {
    /// Another source may do better.
    Source(String),
    /// This machine is the trouble; no source would do better.
    Local(DataError),
}

/// The failure to read or write `path`.
pub(crate) fn local(path: &Path, error: io::Error) -> Failure {
    Failure::Local(DataError::io(path)(error))
}

/// A name as terminals and pages can show it: control characters are escaped.
pub(crate) fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The first of `items`, and how many more there are.
pub(crate) fn listed(items: impl IntoIterator<Item: Display>) -> String {
    let mut items = items.into_iter();
    let first: Vec<String> = items.by_ref().take(8).map(|item| item.to_string()).collect();
    match items.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
