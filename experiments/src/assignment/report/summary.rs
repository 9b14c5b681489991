//! The whole in one table, and how it was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    Block, Group, Run, Section, TableBlock, duration,
    reproduction::{
        Reproduction,
        comparison::{Comparison, comparisons},
        figures::NOT_RUN,
        prose::joined,
        verdict::Verdict,
    },
    run_report,
};

/// What stands before the first section.
pub(crate) fn lead(reproduction: &Reproduction) -> Vec<Block> {
    let reference = &reproduction.reference;
    let mut blocks = vec![
        Block::Paragraph(
            "An assignment on image classification with Fashion-MNIST, first done in PyTorch, is done again with \
             Kindling on Burn: each figure stands beside the reference's."
                .to_owned(),
        ),
        Block::Paragraph(format!("The reference: {}. {}.", reference.source, reference.note)),
    ];
    if reproduction.quick {
        blocks.push(Block::Paragraph(
            "QUICK: the runs saw only a part of the data, to try the whole in minutes. None of the figures below says \
             anything about the reference, and none is judged."
                .to_owned(),
        ));
    }
    blocks
}

pub(crate) fn section(reproduction: &Reproduction) -> Section {
    let all = comparisons(reproduction);
    let mut blocks = vec![
        Block::Paragraph(counts(&all)),
        Block::Table(full_table(&all)),
        Block::List(circumstances(reproduction)),
        Block::Paragraph("Made by:".to_owned()),
        Block::Code(reproduction.command.clone()),
    ];
    if reproduction.quick {
        blocks.insert(0, Block::Paragraph("QUICK: these figures say nothing.".to_owned()));
    }
    Section { name: "summary".to_owned(), title: "Summary".to_owned(), blocks }
}

/// Every run, and what it takes to make it again.
pub(crate) fn how_it_was_run(reproduction: &Reproduction) -> Section {
    let mut blocks = run_report::how_it_was_run(&distinct_groups(reproduction));
    if blocks.is_empty() {
        blocks.push(Block::Paragraph(format!("Nothing is there to describe: {NOT_RUN}.")));
    }
    Section { name: "runs".to_owned(), title: "How each was run".to_owned(), blocks }
}

/// Question, figure, measured, reference, verdict.
pub(crate) fn main_table(reproduction: &Reproduction) -> TableBlock {
    let all = comparisons(reproduction);
    let rows = all.iter().map(|one| {
        vec![
            one.question.number().to_owned(),
            format!("{}: {}", one.label(), one.compared.as_str()),
            one.measured_text(),
            one.reference_text(),
            one.verdict.as_str().to_owned(),
        ]
    });
    TableBlock {
        caption: counts(&all),
        header: ["question", "figure", "measured", "reference", "verdict"].map(str::to_owned).to_vec(),
        right: vec![2, 3],
        rows: rows.collect(),
    }
}

fn full_table(all: &[Comparison<'_>]) -> TableBlock {
    let header = ["question", "row", "figure", "measured", "reference", "difference", "expected", "verdict"];
    let rows = all.iter().map(|one| {
        vec![
            one.question.number().to_owned(),
            one.label(),
            one.compared.as_str().to_owned(),
            one.measured_text(),
            one.reference_text(),
            one.difference_text(),
            one.expected_text(),
            one.verdict.as_str().to_owned(),
        ]
    });
    TableBlock {
        caption: "Every compared figure: mean ± standard deviation over n runs that differ by their seed, and the \
                  reference's single run. Accuracies are fractions of the 10,000 test images. A figure agrees when \
                  its mean is in the expected band."
            .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: vec![3, 4, 5, 6],
        rows: rows.collect(),
    }
}

/// `12 figures agree, 1 differs and 3 were not run`.
fn counts(all: &[Comparison<'_>]) -> String {
    let count = |verdict: Verdict| all.iter().filter(|one| one.verdict == verdict).count();
    let kinds = [
        (Verdict::Agrees, "agree with the reference", "agrees with the reference"),
        (Verdict::Differs, "differ", "differs"),
        (Verdict::Quick, "are of quick runs and not judged", "is of quick runs and not judged"),
        (Verdict::NoReference, "have no reference", "has no reference"),
        (Verdict::NotRun, "were not run", "was not run"),
    ];
    let parts: Vec<String> = kinds
        .into_iter()
        .map(|(verdict, many, one)| (count(verdict), many, one))
        .filter(|(count, ..)| *count > 0)
        .map(|(count, many, one)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    format!("Of {} figures, {}.", all.len(), joined(&parts))
}

/// Machine, versions, backends, dates and time, each said once.
fn circumstances(reproduction: &Reproduction) -> Vec<String> {
    let runs = distinct_runs(reproduction);
    if runs.is_empty() {
        return vec![format!("Machine, versions and time: {NOT_RUN}")];
    }
    let distinct = |what: &str, line: &dyn Fn(&Run) -> String| {
        let lines: BTreeSet<String> = runs.iter().map(|&run| line(run)).collect();
        format!("{what}: {}", lines.into_iter().collect::<Vec<_>>().join("; "))
    };
    let seconds: f64 = runs.iter().map(|run| run.record.seconds).sum();
    let training: f64 = runs.iter().map(|run| run.record.timings.training_seconds).sum();
    let started = || runs.iter().map(|run| run.record.started.as_str());
    let (first, last) = (started().min().unwrap_or_default(), started().max().unwrap_or_default());
    vec![
        distinct("Machine", &|run| {
            let machine = &run.record.machine;
            let processor = machine.processor.as_deref().unwrap_or("unknown processor");
            format!("{}, {processor}, {} threads", machine.platform, machine.threads)
        }),
        distinct("Versions", &|run| {
            let versions = run.record.versions.iter().map(|(name, version)| format!("{name} {version}"));
            versions.collect::<Vec<_>>().join(", ")
        }),
        distinct("Backends", &|run| {
            let parts = run.record.parts.iter();
            let mut parts: Vec<String> =
                parts.map(|part| format!("{} on {}, kernels {}", part.backend, part.device, part.kernels)).collect();
            parts.dedup();
            parts.join(", then ")
        }),
        distinct("Data", &|run| format!("{}, protocol `{}`", run.record.dataset.name, run.record.dataset.protocol)),
        format!("Started: {first} to {last} (UTC)"),
        format!("Runs: {}; a run may stand in several rows", runs.len()),
        format!(
            "Time: {} one after the other, {} of it training steps; the rest is evaluation after each epoch, \
             checkpoints and start-up",
            duration(seconds),
            duration(training)
        ),
    ]
}

/// Each run once, in the order of their places.
fn distinct_runs(reproduction: &Reproduction) -> Vec<&Run> {
    let runs = reproduction.rows.iter().flat_map(|row| &row.runs);
    let by_place: BTreeMap<&Path, &Run> = runs.map(|run| (run.directory.path(), run)).collect();
    by_place.into_values().collect()
}

/// The rows as groups; those with the same runs are one, with all their names.
fn distinct_groups(reproduction: &Reproduction) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in reproduction.rows.iter().filter(|row| !row.runs.is_empty()) {
        let label = format!("{} {}", row.question.number(), row.name);
        match groups.iter_mut().find(|group| places(&group.runs) == places(&row.runs)) {
            Some(group) => group.label = format!("{}, {label}", group.label),
            None => groups.push(Group { label, runs: row.runs.clone(), ..Group::default() }),
        }
    }
    groups
}

fn places(runs: &[Run]) -> Vec<&Path> {
    runs.iter().map(|run| run.directory.path()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::{
        Question,
        fixtures::{reproduction, row, trained},
    };

    /// A run that stands in two rows, and one that differs.
    fn shared(place: &Path) -> Reproduction {
        let both = trained(place, "both", &[0.875], &json!({ "parameters": 669_706 }));
        reproduction(vec![
            row(Question::LearningRates, "0.1", vec![both.clone()]),
            row(Question::Structures, "base", vec![both]),
            row(Question::LearningRates, "0.01", vec![trained(place, "other", &[0.5], &json!({}))]),
        ])
    }

    #[test]
    fn verdicts_are_counted() {
        let place = tempfile::tempdir().unwrap();
        let text = counts(&comparisons(&shared(place.path())));
        // 25 figures: the rate and the base agree with two accuracies and the parameters.
        assert_eq!(text, "Of 25 figures, 3 agree with the reference, 1 differs and 21 were not run.");
    }

    #[test]
    fn a_run_in_two_rows_is_counted_and_described_once() {
        let place = tempfile::tempdir().unwrap();
        let reproduction = shared(place.path());
        let lines = circumstances(&reproduction);
        assert!(lines.iter().any(|line| line.starts_with("Runs: 2;")), "{lines:?}");
        // Each takes 40 seconds, 30 of them in training steps.
        assert!(lines.iter().any(|line| line.contains("1 min 20 s one after the other, 1 min 00 s")), "{lines:?}");
        let labels: Vec<String> = distinct_groups(&reproduction).into_iter().map(|group| group.label).collect();
        assert_eq!(labels, ["1.2 0.1, 1.5 base", "1.2 0.01"]);
    }

    #[test]
    fn the_main_table_has_measured_figures_with_n_beside_the_references() {
        let place = tempfile::tempdir().unwrap();
        let table = main_table(&shared(place.path()));
        let expected = ["1.2", "learning rate 0.1: accuracy, last epoch", "0.8750 (n = 1)", "0.877", "agrees"];
        assert!(table.rows.iter().any(|row| *row == expected), "{:?}", table.rows);
    }
}
