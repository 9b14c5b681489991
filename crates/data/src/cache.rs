//! The user's directory for what can be made or fetched again.

use std::{env, path::PathBuf};

/// Environment variable that names another directory.
pub(crate) const VARIABLE: &str = "KINDLING_CACHE_DIR";

/// The directory that the variable names, else `kindling` in the system's place for caches; none where there is neither.
pub(crate) fn directory() -> Option<PathBuf> {
    let named = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(dirs::cache_dir()?.join("kindling")))
}
