//! A report on any runs: what they came to, how they got there, and how they were made.

mod evaluation;
#[cfg(test)]
pub(crate) mod fixtures;
mod gradients;
mod provenance;
mod summary;

use std::iter;

pub use self::summary::comparison_table;
pub(crate) use self::{
    evaluation::evaluation_blocks, gradients::gradient_charts, provenance::how_it_was_run, summary::marked_label,
};
use crate::{
    curves::{Against, Quantity, Split, chart, evaluated_splits, figure},
    document::{Block, Document, Figure, Section},
    error::ReportError,
    groups::{Group, Run, counted, with_repeats},
    write::file_name,
};

/// The report on `groups` that `command` made.
///
/// # Errors
/// When what lies beside a run's record is there and cannot be read.
pub fn run_report(groups: &[Group], command: &str) -> Result<Document, ReportError> {
    let mut lead = vec![Block::Paragraph(scope(groups)), Block::Code(command.to_owned())];
    lead.extend(warning(groups).map(Block::Paragraph));
    let mut sections = vec![
        section("summary", "Summary", vec![Block::Table(summary::summary_table(groups))]),
        section("curves", "Curves", curves(groups)?),
    ];
    for (index, group) in groups.iter().enumerate() {
        if let Some(run) = shown_run(group) {
            let name = format!("test-{}", index + 1);
            let blocks = evaluation_blocks(run, &name)?;
            sections.push(section(&name, &format!("Test set: {}", marked_label(group)), blocks));
        }
    }
    let gradients = gradient_charts(groups, "all")?;
    if !gradients.is_empty() {
        sections.push(section("gradients", "Gradients", gradients));
    }
    sections.push(section("runs", "How each was run", how_it_was_run(groups)));
    Ok(Document { title: title(groups), lead, sections })
}

fn section(name: &str, title: &str, blocks: Vec<Block>) -> Section {
    Section { name: name.to_owned(), title: title.to_owned(), blocks }
}

fn title(groups: &[Group]) -> String {
    match groups {
        [group] if group.runs.len() == 1 => format!("Run `{}`", group.runs[0].record.id),
        [group] => format!("{}: {} runs", marked_label(group), group.runs.len()),
        _ => format!("{} configurations compared", groups.len()),
    }
}

/// What the report is about.
fn scope(groups: &[Group]) -> String {
    let runs: usize = groups.iter().map(|group| group.runs.len()).sum();
    let [runs, configurations] = [(runs, "run"), (groups.len(), "configuration")].map(|(count, what)| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    });
    let text = format!(
        "{runs} of {configurations}. Runs that differ by their seed alone are taken together: figures are then means \
         and standard deviations over n runs, and with n = 1 they say nothing about spread."
    );
    with_repeats(&text, groups) + " Made by:"
}

/// What must not be overlooked.
fn warning(groups: &[Group]) -> Option<String> {
    let marked: Vec<String> = groups
        .iter()
        .map(|group| (marked_label(group), summary::remarks(group)))
        .filter(|(_, remarks)| !remarks.is_empty())
        .map(|(label, remarks)| format!("{label}: {remarks}"))
        .collect();
    (!marked.is_empty()).then(|| format!("To be read with care. {}.", marked.join(". ")))
}

/// The run whose confusion matrix stands for the group's: the first that was evaluated, or else tested.
fn shown_run(group: &Group) -> Option<&Run> {
    let evaluated = group.runs.iter().find(|run| run.directory.evaluation().exists());
    evaluated.or_else(|| group.runs.iter().find(|run| run.record.test.is_some()))
}

/// Loss and accuracy over epochs, and over time on the images that were not trained on.
fn curves(groups: &[Group]) -> Result<Vec<Block>, ReportError> {
    if groups.iter().flat_map(|group| &group.runs).all(|run| run.record.epochs.is_empty()) {
        return Ok(vec![Block::Paragraph("No run has finished an epoch.".to_owned())]);
    }
    let evaluated = evaluated_splits(groups);
    // The two curves of one group are easier to compare in one chart; those of several would crowd it.
    let sheets: Vec<(&str, Vec<Split>)> = match groups {
        [_] => vec![("", iter::once(Split::Train).chain(evaluated.iter().copied()).collect())],
        _ => vec![(" train", vec![Split::Train]), (" evaluation", evaluated.clone())],
    };
    let mut blocks = Vec::new();
    for quantity in Quantity::ALL {
        for (suffix, splits) in sheets.iter().filter(|(_, splits)| !splits.is_empty()) {
            blocks.push(curve_block(groups, &format!("{quantity}{suffix}"), quantity, splits, Against::Epoch)?);
        }
    }
    if !evaluated.is_empty() {
        blocks.push(curve_block(groups, "loss seconds", Quantity::Loss, &evaluated, Against::Seconds)?);
    }
    Ok(blocks)
}

fn curve_block(
    groups: &[Group],
    name: &str,
    quantity: Quantity,
    splits: &[Split],
    against: Against,
) -> Result<Block, ReportError> {
    let over = match against {
        Against::Epoch => "each epoch",
        Against::Step => "each step",
        Against::Seconds => "each epoch, over the seconds of training steps until then",
    };
    let count = |group: &Group| group.count(|epoch| splits.iter().find_map(|&split| figure(epoch, quantity, split)));
    let names: Vec<&str> = splits.iter().map(|split| split.as_str()).collect();
    let mut caption = format!(
        "{} {quantity} of {over}: means and, as bands, standard deviations over the runs that got so far ({}).",
        names.join(" and "),
        counted(groups.iter().map(count))
    );
    if splits.contains(&Split::Train) {
        caption += " Train figures are means over an epoch in which the weights change, each batch before its update; \
                    the others are those of the weights after the epoch.";
    }
    if let Some(first) = caption.get(..1).map(str::to_uppercase) {
        caption.replace_range(..1, &first);
    }
    let plot = chart(groups, quantity, splits, against)?;
    Ok(Block::Chart(Figure { name: file_name(&format!("curves {name}")), caption, plot }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{epoch, run},
        write::figures,
    };

    fn names(document: &Document) -> Vec<&str> {
        figures(document).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn one_run_is_shown_with_train_and_test_in_one_chart() {
        let place = tempfile::tempdir().unwrap();
        let groups = group(vec![run(place.path(), "mlp-1", json!({}))]);
        let report = run_report(&groups, "kindling report mlp-1").unwrap();
        assert_eq!(report.title, "Run `mlp-1`");
        assert_eq!(names(&report), ["curves-loss", "curves-accuracy", "curves-loss-seconds", "test-1-confusion"]);
        assert!(matches!(&report.lead[1], Block::Code(command) if command == "kindling report mlp-1"));
        let sections: Vec<&str> = report.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(sections, ["summary", "curves", "test-1", "runs"]);
    }

    #[test]
    fn several_configurations_share_their_charts_and_a_diverged_one_is_said_to_be() {
        let place = tempfile::tempdir().unwrap();
        let diverged = json!({
            "config": { "learning_rate": 10.0 },
            "status": "diverged",
            "test": null,
            "epochs": [],
            "diverged": { "step": 3, "layer": null, "quantity": "loss" },
        });
        let epochs = json!([epoch(1, 0.5, 10.0), epoch(2, 0.4, 10.0)]);
        let groups =
            group(vec![run(place.path(), "mlp-1", json!({ "epochs": epochs })), run(place.path(), "mlp-2", diverged)]);
        let report = run_report(&groups, "kindling report mlp-1 mlp-2").unwrap();
        let expected = [
            "curves-loss-train",
            "curves-loss-evaluation",
            "curves-accuracy-train",
            "curves-accuracy-evaluation",
            "curves-loss-seconds",
            "test-1-confusion",
        ];
        assert_eq!(names(&report), expected);
        let warned = report.lead.iter().any(
            |block| matches!(block, Block::Paragraph(text) if text.contains("learning rate 10: diverged at step 3")),
        );
        assert!(warned, "{:?}", report.lead);
    }

    #[test]
    fn runs_without_an_epoch_still_make_a_report() {
        let place = tempfile::tempdir().unwrap();
        let nothing = json!({ "status": "failed", "error": "no memory", "test": null, "epochs": [] });
        let report = run_report(&group(vec![run(place.path(), "mlp-1", nothing)]), "kindling report").unwrap();
        assert!(names(&report).is_empty());
        let said = crate::markdown::markdown_document(&report);
        assert!(said.contains("No run has finished an epoch.") && said.contains("failed: no memory"), "{said}");
    }
}
