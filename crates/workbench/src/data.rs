//! Data sets by name, and loading the one that a config asks for, with a download's progress.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kindling_config::{Data, Section};
use kindling_data::{Dataset, FetchEvent, ImageData, Load};
use serde_json::{Map, Value};

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

/// A data set of any type by its name.
pub(crate) trait AnyDataset: Send + Sync {
    /// As in `data.name`.
    fn name(&self) -> &str;

    /// Its keys with their defaults.
    fn section(&self) -> Section;

    /// Loads it with the values of a config's keys.
    fn load(&self, keys: &Map<String, Value>, request: &mut Load<'_>) -> Result<ImageData>;
}

struct Named<D> {
    name: String,
    defaults: D,
}

/// The data set `defaults` under this name.
pub(crate) fn dataset<D: Dataset>(name: &str, defaults: D) -> Box<dyn AnyDataset> {
    Box::new(Named { name: name.to_owned(), defaults })
}

impl<D: Dataset> AnyDataset for Named<D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn section(&self) -> Section {
        let keys = match serde_json::to_value(&self.defaults) {
            Ok(Value::Object(keys)) => keys,
            _ => Map::new(),
        };
        let help = D::HELP.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        Section { name: self.name.clone(), keys, help }
    }

    fn load(&self, keys: &Map<String, Value>, request: &mut Load<'_>) -> Result<ImageData> {
        let dataset: D = serde_json::from_value(Value::Object(keys.clone())).context("the config's keys do not fit")?;
        Ok(dataset.load(request)?)
    }
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
