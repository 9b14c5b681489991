//! `log.txt`: what the crates log goes to the file of the run at hand.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::Mutex,
};

use anyhow::{Context, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};

static LOGGER: RunLogger = RunLogger { file: Mutex::new(None) };

struct RunLogger {
    file: Mutex<Option<File>>,
}

/// Sends what is logged from here on to the end of `path`.
pub(crate) fn open(path: &Path) -> Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    if let Ok(mut current) = LOGGER.file.lock() {
        *current = Some(file);
    }
    // A second run in one process only changes the file.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
    Ok(())
}

impl Log for RunLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Everything of ours; of others only what went wrong.
        metadata.target().starts_with("kindling") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Ok(mut file) = self.file.lock()
            && let Some(file) = file.as_mut()
        {
            // A log that cannot be written must not end the run.
            let _ = writeln!(file, "{} {:5} {}", kindling_record::now(), record.level(), record.args());
        }
    }

    fn flush(&self) {}
}
