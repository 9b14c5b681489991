use std::{io, path::PathBuf};

use thiserror::Error;

use crate::Holder;

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
        "{path}: another process is writing this run{}; wait for it, stop it, or start a new run",
        told(holder.as_ref()),
        path = path.display()
    )]
    Busy {
        /// The run directory.
        path: PathBuf,
        /// That process, where it is known.
        holder: Option<Holder>,
    },
    /// The run was this process's, and no longer is.
    #[error(
        "{path}: this process no longer holds the run{}: it was suspended, or cut off from the folder, for longer than a \
         minute; nothing more is written here, and the run can be resumed when nobody trains it",
        if holder.is_some() { format!(", another one does{}", told(holder.as_ref())) } else { String::new() },
        path = path.display()
    )]
    Lost {
        /// The run directory.
        path: PathBuf,
        /// The process that holds it, if one does.
        holder: Option<Holder>,
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

/// The holder in brackets, where it is known.
fn told(holder: Option<&Holder>) -> String {
    let told = |Holder { host, process, since, .. }: &Holder| format!(" (process {process} on {host}, since {since})");
    holder.map(told).unwrap_or_default()
}
