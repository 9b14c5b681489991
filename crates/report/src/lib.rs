//! Tables, plots and reports from run directories.
//!
//! Everything here reads [`RunRecord`](kindling_record::RunRecord)s and what lies beside them, and gives text and
//! pictures: a [`table()`] for a terminal, a [`LineChart`] as SVG, PNG or characters, a [`Document`] as HTML and
//! Markdown. It never sees a tensor, and it never prints.

mod curves;
mod document;
mod error;
mod group_table;
mod groups;
mod html;
mod markdown;
mod plot;
pub mod reproduction;
mod run_report;
mod statistics;
mod table;
mod write;

pub use curves::{Against, Quantity, Split, chart, epoch_series, evaluated_splits};
pub use document::{Block, Document, Figure, Section, TableBlock};
pub use error::ReportError;
pub use group_table::{gradient_chart, groups_json, groups_table};
pub use groups::{Group, Run, group, repeats};
pub use html::html;
pub use markdown::markdown_document;
pub use plot::{Axis, Confusion, LineChart, Picture, Pictures, Plot, Point, Series, Style};
pub use run_report::{comparison_table, run_report};
pub use statistics::Sample;
pub use table::{duration, grouped, markdown, percent, runs_table, summary, table};
pub use write::{figures, write};
