use anyhow::Result;
use kindling_record::list_runs;
use kindling_report::runs_table;
use serde_json::json;

use crate::{
    arguments::RunsArguments,
    commands::Outcome,
    output::{notice, print},
    terminal,
};

/// `kindling runs`
pub(crate) fn runs(arguments: &RunsArguments) -> Result<Outcome> {
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
                    "protocol": record.dataset.protocol,
                    "backend": record.backend,
                    "status": status,
                    "epochs": record.epochs.len(),
                    "test_accuracy": record.test.as_ref().map(|test| test.accuracy),
                    "seconds": record.seconds,
                    "started": record.started,
                })
            })
            .collect();
        print(serde_json::to_string_pretty(&rows)?);
    } else if rows.is_empty() {
        notice(format_args!("no runs in {}; `kindling train mlp` makes one", runs_dir.display()));
    } else {
        print(runs_table(&rows, terminal::width()));
    }
    Ok(Outcome::Done)
}
