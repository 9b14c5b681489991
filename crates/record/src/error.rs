use std::{io, path::PathBuf};

use thiserror::Error;

/// What can go wrong with a run on disk.
#[derive(Debug, Error)]
pub enum RecordError {
    /// A file or directory of the run could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the run is not what it should be.
    #[error("{path}: {message}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was wanted and what was found.
        message: String,
    },
    /// Another process holds the run.
    #[error(
        "{path}: another process is writing this run; wait for it, stop it, or start a new run",
        path = path.display()
    )]
    Busy {
        /// The run directory.
        path: PathBuf,
    },
    /// No run has this id, prefix or path.
    #[error(
        "no run `{wanted}` in {runs_dir}; the command `runs` lists what is there, --runs-dir looks elsewhere",
        runs_dir = runs_dir.display()
    )]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// Where it was looked for.
        runs_dir: PathBuf,
    },
    /// Several runs start with the given prefix.
    #[error("`{wanted}` could be any of {}; give more of the id", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The ids that start with it, sorted.
        matches: Vec<String>,
    },
    /// A name that cannot be part of a directory's name.
    #[error("`{name}` cannot name a run: use letters, digits, `-`, `_` and `.`, starting with a letter or a digit")]
    InvalidName {
        /// The name as given.
        name: String,
    },
}

impl RecordError {
    /// Returns a closure for `map_err` that adds `path` to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
