//! A report on any runs: their results, their curves, and how they were made.

mod columns;
mod data;
mod evaluation;
#[cfg(test)]
pub(crate) mod fixtures;
mod gradients;
mod mistakes;
#[cfg(test)]
mod pages;
mod provenance;
mod scores;
mod shared;
mod summary;

use std::iter;

use self::evaluation::{class_blocks, confusion_block};
pub(crate) use self::{columns::with_count, summary::at_best};
pub use self::{
    evaluation::{evaluation_blocks, evaluations, repeated_evaluation_blocks, with_views},
    gradients::{KeptGradients, gradient_blocks, gradient_charts},
    mistakes::mistake_blocks,
    provenance::{configurations, how_it_was_run},
    shared::{SharedMistake, SharedMistakes, shared_mistakes},
    summary::comparison_table,
};
use crate::{
    curves::{Against, Split, chart, evaluated_splits, measured},
    differences::keys,
    document::{Block, Document, Figure, Section, file_name},
    error::ReportError,
    groups::{counted, has_folds, unit, with_repeats},
    metrics::metrics,
    ranking::prominent,
    run::{Group, Run},
    table::grouped,
};

/// So many warnings stand in the open; more are folded away.
const WARNINGS: usize = 8;

/// The report on `groups` that `command` made.
///
/// # Errors
/// When what lies beside a run's record is there and cannot be read.
pub fn run_report(groups: &[Group], command: &str) -> Result<Document, ReportError> {
    let mut lead = vec![Block::Paragraph(scope(groups)), Block::Code(command.to_owned())];
    lead.extend(warnings(groups));
    let program = command.split_whitespace().next().unwrap_or("kindling");
    let keys = keys(groups);
    // A few keys stand beside the results, so that nobody has to look from one long table to another.
    let (beside, own) = summary::beside(&keys.different);
    let configs = provenance::key_blocks(groups, own, &keys.common);
    let mut sections = vec![
        section("summary", "Summary", vec![Block::Table(summary::summary_table(groups, beside))]),
        section("configurations", if groups.len() > 1 { "Configurations" } else { "Config" }, configs),
        section("curves", "Curves", curves(groups)?),
        section("data", "Data", data::data_blocks(groups)),
        section("test", "Test set", tests(groups, program)?),
        section("gradients", "Gradients", gradient_charts(groups, "all")?),
        section("runs", "How each was run", how_it_was_run(groups, program)),
    ];
    sections.retain(|section| !section.blocks.is_empty());
    Ok(Document { title: title(groups), lead, sections })
}

fn section(name: &str, title: &str, blocks: Vec<Block>) -> Section {
    Section { name: name.to_owned(), title: title.to_owned(), blocks }
}

fn title(groups: &[Group]) -> String {
    match groups {
        [group] if group.runs.len() == 1 => format!("Run `{}`", group.runs[0].record.id),
        [group] => format!("{}: {} runs", group.marked_label(), group.runs.len()),
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
    let repetitions = if has_folds(groups) { "seed or fold" } else { "seed" };
    let text = format!(
        "{runs} of {configurations}. Runs that differ by their {repetitions} alone are taken together: their metrics are \
         means and standard deviations over n runs; a single run (n = 1) says nothing about spread."
    );
    with_repeats(&text, groups) + " Made by:"
}

/// What must not be overlooked.
fn warnings(groups: &[Group]) -> Vec<Block> {
    let remarks: Vec<Vec<String>> = groups.iter().map(summary::remarks).collect();
    // What is true of all is said once.
    let is_common = |remark: &String| groups.len() > 1 && remarks.iter().all(|all| all.contains(remark));
    let mut lines: Vec<String> = remarks[..groups.len().min(1)].concat().into_iter().filter(is_common).collect();
    for line in &mut lines {
        *line = format!("All configurations: {line}.");
    }
    for (group, remarks) in groups.iter().zip(&remarks) {
        let own: Vec<&str> = remarks.iter().filter(|remark| !is_common(remark)).map(String::as_str).collect();
        lines.extend((!own.is_empty()).then(|| format!("{}: {}.", group.label, own.join("; "))));
    }
    match lines.len() {
        0 => Vec::new(),
        1..=WARNINGS => vec![Block::Paragraph("To be read with care:".to_owned()), Block::List(lines)],
        count => vec![Block::Details(format!("To be read with care: {count} remarks"), vec![Block::List(lines)])],
    }
}

/// Confusion matrices side by side, and what is known of those that were evaluated; of the configurations that charts
/// show in colour.
fn tests(groups: &[Group], program: &str) -> Result<Vec<Block>, ReportError> {
    let prominent = prominent(groups);
    let shown = prominent.iter().filter_map(|&index| Some((index, shown_run(&groups[index])?)));
    let shown: Vec<(usize, &Run)> = shown.collect();
    let mut blocks = Vec::new();
    for &(index, run) in &shown {
        let mut block = confusion_block(run, &format!("test-{}", index + 1))?;
        if let Some(Block::Confusion(figure)) = &mut block {
            let images: usize = figure.plot.counts.iter().flatten().sum();
            let label = groups[index].marked_label();
            figure.caption = format!("{label}: run `{}`, {} test images.", run.record.id, grouped(images));
        }
        blocks.extend(block);
    }
    if blocks.is_empty() {
        return Ok(blocks);
    }
    let mut text = "Test images by their class (rows) and by the class they were taken for (columns).".to_owned();
    if prominent.len() < groups.len() {
        text += " These are the configurations that the curves show in colour; a report on a run shows its own.";
    }
    let mut evaluated = false;
    for (index, run) in &shown {
        let more = class_blocks(run, &format!("test-{}", index + 1))?;
        evaluated |= !more.is_empty();
        if groups.len() == 1 {
            blocks.extend(more);
        } else if !more.is_empty() {
            blocks.push(Block::Details(format!("Each class: {}", groups[*index].marked_label()), more));
        }
    }
    if !evaluated {
        let adds = "evaluate RUN` adds precision and recall of each class, calibration, and pictures of mistakes.";
        text.extend([" `", program, " ", adds]);
    }
    let scores = scores::scores_table(groups)?.map(Block::Table);
    Ok(scores.into_iter().chain([Block::Paragraph(text)]).chain(blocks).collect())
}

/// The run whose confusion matrix stands for the group's: the first that was evaluated, or else tested.
fn shown_run(group: &Group) -> Option<&Run> {
    let evaluated = group.runs.iter().find(|run| run.directory.evaluation().exists());
    let has_matrix = |run: &&Run| run.record.test.as_ref().is_some_and(|test| test.confusion.is_some());
    evaluated.or_else(|| group.runs.iter().find(has_matrix))
}

/// Every metric over epochs, and the first of them on the samples that were not trained on over time.
fn curves(groups: &[Group]) -> Result<Vec<Block>, ReportError> {
    if groups.iter().flat_map(|group| &group.runs).all(|run| run.record.epochs.is_empty()) {
        return Ok(vec![Block::Paragraph("No run has finished an epoch.".to_owned())]);
    }
    let evaluated = evaluated_splits(groups);
    // The two curves of one group are easier to compare in one chart; those of several would crowd it.
    let sheets: Vec<(String, Vec<Split>)> = match groups {
        [_] => vec![(String::new(), iter::once(Split::Train).chain(evaluated.iter().copied()).collect())],
        _ => iter::once(&Split::Train).chain(&evaluated).map(|split| (format!(" {split}"), vec![*split])).collect(),
    };
    let mut text = "Curves are means and bands standard deviations over the runs that got that far. Train metrics are \
                    means over an epoch in which the weights change, each batch before its update; the others are \
                    those of the weights after the epoch."
        .to_owned();
    if prominent(groups).len() < groups.len() {
        text += " The configurations that are best by the metric they monitor are in colour, the others in grey.";
    }
    let mut blocks = vec![Block::Paragraph(text)];
    for metric in metrics(groups) {
        for (suffix, splits) in &sheets {
            let name = format!("{}{suffix}", metric.name);
            blocks.extend(curve_block(groups, &name, &metric.name, splits, Against::Epoch)?);
        }
    }
    if let (Some(&split), Some(first)) = (evaluated.first(), metrics(groups).first()) {
        let name = format!("{} seconds", first.name);
        blocks.extend(curve_block(groups, &name, &first.name, &[split], Against::Seconds)?);
    }
    Ok(blocks)
}

/// A chart with its caption; nothing where the metric was not measured.
fn curve_block(
    groups: &[Group],
    name: &str,
    metric: &str,
    splits: &[Split],
    against: Against,
) -> Result<Option<Block>, ReportError> {
    let plot = chart(groups, metric, splits, against)?;
    if plot.series.is_empty() {
        return Ok(None);
    }
    let over = match against {
        Against::Epoch => "epochs",
        Against::Step => "steps",
        Against::Seconds => "the seconds of training steps",
    };
    let count = |group: &Group| group.count(|epoch| splits.iter().find_map(|&split| measured(epoch, metric, split)));
    let names: Vec<&str> = splits.iter().map(|split| split.as_str()).collect();
    let mut caption = format!(
        "{} {metric} over {over} ({}{}).",
        names.join(" and "),
        counted(groups.iter().map(count)),
        unit(groups)
    );
    if let Some(first) = caption.get(..1).map(str::to_uppercase) {
        caption.replace_range(..1, &first);
    }
    Ok(Some(Block::Chart(Figure { name: file_name(&format!("curves {name}")), caption, plot })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        figures, group,
        run_report::fixtures::{epoch, run},
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
        assert_eq!(sections, ["summary", "configurations", "curves", "test", "runs"]);
    }

    #[test]
    fn several_configurations_share_their_charts_and_a_diverged_one_is_said_to_be() {
        let place = tempfile::tempdir().unwrap();
        let diverged = json!({
            "config": { "optimizer": { "learning_rate": 10.0 } },
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
            "curves-loss-test",
            "curves-accuracy-train",
            "curves-accuracy-test",
            "curves-loss-seconds",
            "test-1-confusion",
        ];
        assert_eq!(names(&report), expected);
        let said = crate::markdown::markdown_document(&report);
        assert!(said.contains("- learning rate 10: diverged at step 3 (loss)."), "{said}");
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
