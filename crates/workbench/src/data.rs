//! Loads the data set that a config asks for, and shows a download's progress.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kindling_data::{FetchEvent, ImageData, fashion_mnist, idx_set, synthetic};
use kindling_training::{DatasetName, ExperimentConfig};

use crate::{commands::Misuse, output::notice, terminal};

/// Loads the data; where it came from is told on standard error.
pub(crate) fn load(config: &ExperimentConfig, directory: Option<&Path>) -> Result<ImageData> {
    let data = match (config.dataset, directory) {
        (DatasetName::FashionMnist, directory) => {
            let mut download = Download::default();
            fashion_mnist::load(directory, &mut |event| download.show(event)).context("data set fashion-mnist")?
        }
        (DatasetName::Idx, Some(directory)) => idx_set::load(directory, config.transpose).context("data set idx")?,
        (DatasetName::Idx, None) => {
            bail!(Misuse("--dataset idx needs the directory of its files: --data-dir DIR".to_owned()))
        }
        (DatasetName::Synthetic, Some(_)) => bail!(Misuse("--dataset synthetic takes no --data-dir".to_owned())),
        (DatasetName::Synthetic, None) => synthetic::draw(),
    };
    match &data.source {
        Some(source) => notice(format_args!("data: {} from {}", data.name, source.display())),
        None => notice(format_args!("data: {} (drawn shapes, not real images)", data.name)),
    }
    for problem in data.label_problems() {
        notice(format_args!("warning: {problem}"));
    }
    Ok(data)
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
