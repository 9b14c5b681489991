use serde_json::Value;
use thiserror::Error;

/// Most characters of a value that a message repeats.
const SHOWN: usize = 40;

/// What can be wrong with a config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file with a mistake in it, or a key that is given twice.
    #[error("config: {0}")]
    Malformed(String),
    /// A file in another format; what it seems to be.
    #[error("expected a config in JSON or TOML, found {0}")]
    Format(String),
    /// A key that no config has.
    #[error("config: unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// Path of the known key that looks most like it.
        nearest: String,
    },
    /// A key without a section that several sections have.
    #[error("config: `{key}` could be any of {paths}; give one of these")]
    Ambiguous {
        /// The key as given.
        key: String,
        /// The paths that end in it.
        paths: String,
    },
    /// A network, data set or other variant that is not known.
    #[error("config: unknown {what} `{name}`; did you mean `{nearest}`? Known: {known}")]
    UnknownName {
        /// What the name should be one of.
        what: &'static str,
        /// The name as given.
        name: String,
        /// The known name that looks most like it.
        nearest: String,
        /// All known names.
        known: String,
    },
    /// No network is named.
    #[error("config: `network` is missing; the command `models` lists what there is")]
    NoNetwork,
    /// A value of the wrong type, outside its range, or one that does not go with another.
    #[error("{key}: expected {wanted}, found {found}")]
    Invalid {
        /// Path of the key.
        key: String,
        /// What would do.
        wanted: String,
        /// The value as given.
        found: String,
    },
    /// A key whose value leaves no room for another key's.
    #[error("`{key}` {value} excludes `{other}` (got {found})")]
    Excludes {
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
        /// Path of the other.
        other: String,
        /// The other's value.
        found: String,
    },
    /// A key that requires another variant of its section, or another key.
    #[error("`{key}` requires {wanted} (got `{found}`)")]
    Requires {
        /// Path of the key.
        key: String,
        /// What it requires.
        wanted: String,
        /// What was given instead.
        found: String,
    },
}

impl ConfigError {
    /// A value that is not as it should be.
    pub(crate) fn invalid(key: &str, wanted: impl Into<String>, found: &Value) -> Self {
        Self::Invalid { key: key.to_owned(), wanted: wanted.into(), found: start(&found.to_string()) }
    }

    /// A key that stands twice in one layer.
    pub(crate) fn twice(key: &str) -> Self {
        Self::Malformed(format!("`{key}` is given twice"))
    }
}

/// The beginning of what is not as it should be, for a message.
pub(crate) fn start(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
