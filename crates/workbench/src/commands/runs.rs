use anyhow::Result;
use clap::Args;
use kindling_record::list_runs;
use kindling_report::runs_table;
use serde_json::json;

use crate::{
    Workbench,
    arguments::RunsDirectory,
    outcome::Outcome,
    output::{notice, print},
    terminal,
};

/// Arguments of `runs`.
#[derive(Args)]
pub(crate) struct RunsArguments {
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The command `runs`.
pub(crate) fn runs(workbench: &Workbench, arguments: &RunsArguments) -> Result<Outcome> {
    let runs_dir = &arguments.runs_dir.path;
    let mut rows = Vec::new();
    for (directory, record) in list_runs(runs_dir)? {
        match record {
            Ok(record) => rows.push((directory.status(&record), record)),
            Err(error) => notice(error),
        }
    }
    if arguments.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(status, record)| {
                json!({
                    "id": record.id,
                    "model": record.model,
                    "dataset": record.dataset.name,
                    "protocol": record.dataset.images.as_ref().map(|images| &images.protocol),
                    "backend": record.backend,
                    "status": status,
                    "epochs": record.epochs.len(),
                    "test": record.test.as_ref().map(|test| &test.metrics),
                    "seconds": record.seconds,
                    "started": record.started,
                })
            })
            .collect();
        print(serde_json::to_string_pretty(&rows)?);
    } else if rows.is_empty() {
        notice(format_args!("no runs in {}; `{} train MODEL` makes one", runs_dir.display(), workbench.program()));
    } else {
        print(runs_table(&rows, terminal::width()));
    }
    Ok(Outcome::Done)
}
