//! Files that are either the old content or the new, whatever happens in between.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use crate::RecordError;

/// How the names of temporary files begin.
pub(crate) const TEMPORARY: &str = ".replacing-";

/// Removes what processes that died while replacing a file left in `directory`.
///
/// # Errors
/// When the directory cannot be read or a file not be removed.
pub(crate) fn remove_left_overs(directory: &Path) -> Result<(), RecordError> {
    for entry in fs::read_dir(directory).map_err(RecordError::io(directory))? {
        let path = entry.map_err(RecordError::io(directory))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY)) {
            // Another process may have removed its own by now.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(RecordError::io(&path)(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Replaces the content of `path`, or creates it, so that no reader and no crash ever sees half of it.
///
/// The bytes go to a temporary file beside `path`, reach the disk, and take the name over.
///
/// # Errors
/// Any failure to create, write, sync or rename; `path` then has its old content.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    // The parent of a name alone is empty.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory).map_err(RecordError::io(path))?;
    file.write_all(content).map_err(RecordError::io(path))?;
    file.as_file().sync_all().map_err(RecordError::io(path))?;
    // tempfile makes its files private; a run is as readable as any other file of its owner.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(RecordError::io(path))?;
    }
    file.persist(path).map_err(|error| RecordError::Io { path: path.to_path_buf(), source: error.error })?;
    sync_directory(directory)
}

/// Makes renames inside `directory` survive a power cut.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> Result<(), RecordError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(RecordError::io(directory))
}
