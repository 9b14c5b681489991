//! Tables, plots and reports from run directories.
//!
//! Everything here reads [`RunRecord`](kindling_record::RunRecord)s and what lies beside them, and gives text and
//! pictures: a [`table()`] for a terminal, a [`LineChart`] as SVG, PNG or characters, a [`Document`] as HTML and
//! Markdown. It shows whatever [`metrics()`] the records have and takes configs as keys with values. It never sees a
//! tensor, and it never prints.
//!
//! A report on all runs of a directory, those that differ by their seed or fold alone taken together:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use kindling_record::list_runs;
//! use kindling_report::{ReportError, Run, group, run_report, write};
//!
//! let mut runs = Vec::new();
//! for (directory, _) in list_runs(Path::new("runs"))? {
//!     runs.push(Run::read(directory)?);
//! }
//! let document = run_report(&group(runs), "birds report")?;
//! write(&document, Path::new("reports/birds"))?;
//! # Ok::<(), ReportError>(())
//! ```

mod curves;
mod differences;
mod document;
mod error;
mod group_table;
mod groups;
mod html;
mod markdown;
mod metrics;
mod plot;
mod ranking;
mod run;
mod run_report;
mod statistics;
mod table;
mod write;

pub use curves::{Against, Split, chart, colored_chart, epoch_series, evaluated_splits, step_chart};
pub use document::{Block, Document, Figure, Section, TableBlock, figures};
pub use error::ReportError;
pub use group_table::{gradient_chart, groups_json, groups_table};
pub use groups::{counted, group, repeats};
pub use html::{DRAWING, PAGE_STYLE, fragment, html};
pub use markdown::markdown_document;
pub use metrics::{metrics, value_text};
pub use plot::{Axis, Confusion, LineChart, Picture, Pictures, Plot, Point, Series, Style, swatch};
pub use run::{Group, NONE, Run};
pub use run_report::{
    KeptGradients, SharedMistake, SharedMistakes, comparison_table, configurations, evaluation_blocks, evaluations,
    gradient_blocks, gradient_charts, how_it_was_run, mistake_blocks, repeated_evaluation_blocks, run_report,
    shared_mistakes, with_views,
};
pub use statistics::{Sample, median};
pub use table::{duration, grouped, markdown, percent, runs_table, summary, table};
pub use write::write;
