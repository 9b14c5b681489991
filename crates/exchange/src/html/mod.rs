//! A page that runs a network by itself: one file, which a browser opens from a disk.
//!
//! The weights and a list of operations are in it, with an interpreter of them in plain JavaScript (`run.js` on
//! `tensors.js`). One draws or drops a picture, which is prepared as the command `predict` does it (`prepare.js`).

mod graph;

use base64::{Engine, engine::general_purpose::STANDARD};
use kindling_report::{Block, DRAWING, PAGE_STYLE, Run, fragment, group, how_it_was_run, summary};
use serde_json::json;

use crate::{ExchangeError, ExportedRun, onnx::proto::Model};

/// The operations that a page can compute: entries of the table in it.
const INTERPRETER: &str = include_str!("run.js");

/// Makes the page for a run whose network is `model`, which takes the bytes of images: a complete HTML file.
///
/// # Errors
/// When the network has an operation that pages do not have, or the run was not trained on images.
pub fn page(model: &Model, run: &ExportedRun) -> Result<String, ExchangeError> {
    let (network, weights) = graph::network(model)?;
    let images = run.images()?;
    // Grey images of a set's own are not fitted: pictures are made like them, as `predict` does it.
    let fit = (images.fit.is_some() || images.channels != 1).then_some(run.config.data.fit);
    let content = json!({
        "network": network,
        "classes": images.classes,
        "images": {
            "channels": images.channels,
            "height": images.height,
            "width": images.width,
            "background": images.background,
            "fit": fit,
        },
    });
    let title = escaped(&format!("{} on {}", run.record.model, run.record.dataset.name));
    let style = [PAGE_STYLE, include_str!("page.css")].join("\n");
    let inference = [include_str!("tensors.js"), INTERPRETER].join("\n");
    let interface = [include_str!("prepare.js"), &DRAWING.replace("export ", ""), include_str!("page.js")].join("\n");
    let (facts, weights) = (facts(run), STANDARD.encode(weights));
    // Within JSON, `<` is in texts alone; nothing there can end the element that it stands in.
    let content = content.to_string().replace('<', "\\u003c");
    Ok(filled(
        include_str!("page.html"),
        &[
            ("title", &title),
            ("style", &style),
            ("facts", &facts),
            ("network", &content),
            ("weights", &weights),
            ("inference", &inference),
            ("interface", &interface),
        ],
    ))
}

/// What the run is and what came of it, as HTML.
fn facts(run: &ExportedRun) -> String {
    let record = run.record;
    let mut lines = vec![format!("Run `{}`, started {}", record.id, record.started)];
    lines.extend(summary(record).lines().map(str::to_owned));
    let run = Run { directory: run.directory.clone(), record: record.clone(), status: record.status };
    let details = how_it_was_run(&group(vec![run]), "kindling");
    fragment(&[Block::List(lines), Block::Details("How it was trained".to_owned(), details)])
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The template with each `{{name}}` replaced; what stands in the replacements stays as it is.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut parts = template.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        page.push_str(value);
        page.push_str(rest);
    }
    page
}

#[cfg(test)]
mod tests;
