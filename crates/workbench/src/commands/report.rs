use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kindling_report::{figures, group, markdown_document, repeats, run_report, write};
use serde_json::json;

use crate::{
    Workbench,
    arguments::RunsDirectory,
    commands::compare::read_runs,
    outcome::Outcome,
    output::{notice, print},
    writable,
};

/// Arguments of `report`.
#[derive(Args)]
pub(crate) struct ReportArguments {
    /// The runs: ids, prefixes that no other run has, or paths; those that differ by their seed alone are taken
    /// together
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// Directory for report.html, report.md and their plots [default: reports/ and the id of the first run]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print the paths and the number of plots as JSON
    #[arg(long)]
    json: bool,
}

/// The command `report`.
pub(crate) fn report(workbench: &Workbench, arguments: &ReportArguments) -> Result<Outcome> {
    let runs = read_runs(&arguments.runs_dir.path, &arguments.runs)?;
    let first = runs.first().context("expected at least one run, found none")?.directory.id();
    let output = arguments.output.clone().unwrap_or_else(|| Path::new("reports").join(first));
    writable::check(&output)?;
    let groups = group(runs);
    if let Some(repeats) = repeats(&groups) {
        notice(repeats);
    }
    let document = run_report(&groups, &workbench.command_line())?;
    if let Err(error) = write(&document, &output) {
        print(markdown_document(&document));
        return Err(error).with_context(|| format!("the report in {} cannot be written", output.display()));
    }
    let html = output.join("report.html");
    if arguments.json {
        print(serde_json::to_string_pretty(&json!({
            "html": html.display().to_string(),
            "markdown": output.join("report.md").display().to_string(),
            "figures": figures(&document)?.len(),
        }))?);
    } else {
        print(html.display());
    }
    Ok(Outcome::Done)
}
