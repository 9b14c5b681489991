//! Loading the data set that a config asks for, with a download's progress.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kindling_config::Data;
use kindling_data::{FetchEvent, ImageData, Load};

use crate::{Workbench, output::notice, terminal};

/// Loads the data set of a config's section `data`; where it came from goes to standard error.
///
/// # Errors
/// When the workbench has no such data set, or it cannot be loaded.
pub fn load(workbench: &Workbench, data: &Data, directory: Option<&Path>) -> Result<ImageData> {
    let dataset = workbench.dataset_named(&data.name)?;
    let mut download = Download::default();
    let mut on_event = |event| download.show(event);
    let mut request = Load { directory, on_event: &mut on_event };
    let loaded = dataset.load(&data.keys, &mut request).with_context(|| format!("data set {}", data.name))?;
    match &loaded.source {
        Some(source) => notice(format_args!("data: {} from {}", loaded.name, source.display())),
        None if data.name == "synthetic" => {
            notice(format_args!("data: {} (drawn shapes, not real images)", loaded.name));
        }
        None => notice(format_args!("data: {}", loaded.name)),
    }
    for problem in loaded.label_problems() {
        notice(format_args!("warning: {problem}"));
    }
    Ok(loaded)
}

#[derive(Default)]
struct Download {
    bar: Option<ProgressBar>,
}

impl Download {
    fn show(&mut self, event: FetchEvent) {
        match event {
            FetchEvent::Started { from, bytes } => {
                notice(format_args!("downloading {from}"));
                let bar = ProgressBar::with_draw_target(bytes, terminal::bars());
                bar.set_style(style());
                bar.enable_steady_tick(Duration::from_millis(100));
                self.bar = Some(bar);
            }
            FetchEvent::Received(bytes) => {
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            FetchEvent::Finished(_) => self.end(),
            FetchEvent::Notice(text) => {
                self.end();
                notice(text);
            }
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
