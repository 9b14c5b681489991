//! Charts in the terminal and in files.

use std::{env, path::Path};

use anyhow::{Context, Result, bail};
use kindling_record::replace_file;
use kindling_report::{LineChart, Plot};

use crate::commands::Misuse;

/// Whether a figure can go to `path`, to be asked before the work that it shows.
///
/// # Errors
/// When its ending is neither svg nor png.
pub(crate) fn check(path: &Path) -> Result<()> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg" | "png") => Ok(()),
        _ => bail!(Misuse(format!("expected a file that ends in .svg or .png, found {}", path.display()))),
    }
}

/// Writes a figure to a file whose ending says what it is.
///
/// # Errors
/// As [`check`], and when it cannot be drawn or written.
pub(crate) fn write(plot: &impl Plot, path: &Path) -> Result<()> {
    check(path)?;
    let content = if path.extension().is_some_and(|ending| ending == "png") { plot.png()? } else { plot.svg().into() };
    replace_file(path, &content).with_context(|| format!("{} cannot be written", path.display()))
}

/// A chart for a terminal of so many columns.
pub(crate) fn terminal(chart: &LineChart, columns: u16) -> String {
    let rows = if columns < 100 { 20 } else { 26 };
    // <https://no-color.org>
    let colored = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    chart.terminal(columns, rows, colored)
}
