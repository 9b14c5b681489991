//! Checks that results can be written, before the work that makes them.

use std::path::Path;

use anyhow::{Result, bail};

/// Checks that files can be created in `directory`, or where it would be created. Leaves nothing behind.
///
/// # Errors
/// When it is a file, or nothing can be made in it.
pub fn check(directory: &Path) -> Result<()> {
    let shown = directory.display();
    let nearest = directory.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("."));
    if !nearest.is_dir() {
        bail!("{shown} cannot be written to: {} is no directory", nearest.display());
    }
    match tempfile::Builder::new().prefix(".kindling-").tempfile_in(nearest) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{shown} cannot be written to: {}: {}", nearest.display(), error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_is_looked_at_and_left_as_it_is_whether_or_not_it_is_there() {
        let place = tempfile::tempdir().unwrap();
        for directory in [place.path(), &place.path().join("reports/new"), Path::new("not-there/at-all")] {
            check(directory).unwrap();
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        for directory in [file.clone(), file.join("reports")] {
            let message = check(&directory).unwrap_err().to_string();
            assert_eq!(
                message,
                format!("{} cannot be written to: {} is no directory", directory.display(), file.display())
            );
        }
    }
}
