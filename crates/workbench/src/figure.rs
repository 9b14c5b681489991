//! Plots in the terminal and in files.

use std::{ffi::OsStr, path::Path};

use anyhow::{Result, bail};
use kindling_record::replace_file;
use kindling_report::{LineChart, Plot};

use crate::{
    outcome::{Misuse, Outcome},
    output::{notice, told},
    terminal,
};

/// Checks that a plot can be written to `path`, before the work that it shows.
///
/// # Errors
/// When its ending is neither svg nor png, or no file can be made in its directory.
pub(crate) fn check(path: &Path) -> Result<()> {
    is_png(path)?;
    let shown = path.display();
    if path.is_dir() {
        bail!("{shown} cannot be written: it is a directory");
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        let directory = directory.display();
        bail!("{shown} cannot be written: there is no directory {directory}; create it, or name another file");
    }
    // Another file, so that one of this name keeps its content until there is a better one.
    match tempfile::Builder::new().prefix(".kindling-").tempfile_in(directory) {
        Ok(_) => Ok(()),
        Err(error) => bail!("{shown} cannot be written: {}", error.kind()),
    }
}

/// Writes a plot to a file in the format of its ending. A failure is printed and is no error: the result that the plot
/// shows is still to be printed.
pub(crate) fn keep(plot: &impl Plot, path: &Path) -> Outcome {
    let write = || -> Result<()> {
        let content = if is_png(path)? { plot.png()? } else { plot.svg().into() };
        Ok(replace_file(path, &content)?)
    };
    let Err(error) = write() else { return Outcome::Done };
    notice(format_args!("error: {}", told(&error)));
    Outcome::Failed
}

/// A chart for a terminal with this many columns.
pub(crate) fn terminal(chart: &LineChart, columns: u16) -> String {
    let rows = if columns < 100 { 20 } else { 26 };
    chart.terminal(columns, rows, terminal::has_escapes())
}

/// Whether the file of a plot is a PNG, and not an SVG, by its ending.
fn is_png(path: &Path) -> Result<bool> {
    match path.extension().and_then(OsStr::to_str).map(str::to_lowercase).as_deref() {
        Some("png") => Ok(true),
        Some("svg") => Ok(false),
        _ => bail!(Misuse(format!("expected a file that ends in .svg or .png, found {}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_refused_before_the_work() {
        let place = tempfile::tempdir().unwrap();
        let refusal = |name: &str| check(&place.path().join(name)).unwrap_err();
        fs::create_dir(place.path().join("taken.svg")).unwrap();
        assert!(refusal("taken.svg").to_string().ends_with("taken.svg cannot be written: it is a directory"));
        let message = refusal("none/curve.png").to_string();
        assert!(message.contains("none/curve.png cannot be written: there is no directory "), "{message}");
        for name in ["curve.pdf", "curve", ".svg"] {
            assert!(refusal(name).is::<Misuse>(), "{name}");
        }
    }

    #[test]
    fn looking_whether_a_file_can_be_written_leaves_everything_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("curve.SVG");
        check(&path).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        fs::write(&path, "old").unwrap();
        check(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
