//! 1.5: deeper and wider networks.

use crate::{
    Block, ReportError, Run, Sample, Section,
    curves::Quantity,
    grouped,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        comparison::{Compared, verdict_of},
        figures::{Gap, cell, last_accuracy, sample},
        prose::{joined, signed},
        reference::STRUCTURES,
        tables::{AccuracyRow, accuracy_table, parameters_table},
    },
    run_report::evaluation_blocks,
};

/// The structure that the others are held against.
pub(crate) const BASE: &str = "base";

/// A structure whose runs went to their end.
struct Structure<'a> {
    name: &'a str,
    last: Sample,
    parameters: usize,
}

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let reference = &reproduction.reference.structures;
    let rows = STRUCTURES.map(|(name, _)| AccuracyRow {
        label: name.to_owned(),
        runs: reproduction.runs(Question::Structures, name),
        table: reference.structure(name).map(|one| one.accuracy),
        curve: reference.curve(name),
        verdict: verdict_of(reproduction, Question::Structures, name, Compared::Accuracy).to_owned(),
    });
    let curves = STRUCTURES
        .map(|(name, _)| Curve::new(name, reproduction.runs(Question::Structures, name), reference.curve(name)));
    let mut blocks = vec![
        Block::Paragraph(
            "Two hidden layers of 512 units (base), four of 512 (deeper) and two of 1,024 (wider), trained for 10 \
             epochs at a learning rate of 0.1."
                .to_owned(),
        ),
        Block::Table(accuracy_table("Accuracy by structure.", "structure", &rows)),
        Block::Table(parameters_table(reproduction, Question::Structures)),
    ];
    blocks.extend(test_chart("structures-accuracy", "Structures", Quantity::Accuracy, &curves)?);
    blocks.extend(test_chart("structures-loss", "Structures", Quantity::Loss, &curves)?);
    blocks.push(reproduction.reading(&reading(reproduction)));
    if let Some(run) = shown_run(reproduction.runs(Question::Structures, BASE))? {
        blocks.push(Block::Heading("What the base network gets right and wrong".to_owned()));
        blocks.extend(evaluation_blocks(run, "base")?);
    }
    Ok(Section { name: "structures".to_owned(), title: "1.5 Depth and width".to_owned(), blocks })
}

/// The run to look closer at: the best of those that were evaluated, or else of those that were tested.
pub(crate) fn shown_run(runs: &[Run]) -> Result<Option<&Run>, ReportError> {
    let mut best: Option<(bool, f64, &Run)> = None;
    for run in runs {
        let Some(test) = &run.record.test else { continue };
        let is_evaluated = run.directory.read_evaluation()?.is_some();
        if best.is_none_or(|(evaluated, accuracy, _)| (is_evaluated, test.accuracy) > (evaluated, accuracy)) {
            best = Some((is_evaluated, test.accuracy, run));
        }
    }
    Ok(best.map(|(_, _, run)| run))
}

/// What depth and width bought, for what they cost.
fn reading(reproduction: &Reproduction) -> String {
    let structure = |name: &'static str| {
        let runs = reproduction.runs(Question::Structures, name);
        let parameters = runs.first()?.record.parameters;
        Some(Structure { name, last: sample(runs, last_accuracy)?, parameters })
    };
    let missing: Vec<String> = STRUCTURES
        .iter()
        .filter(|(name, _)| structure(name).is_none())
        .map(|(name, _)| format!("{name}: {}", cell(reproduction.runs(Question::Structures, name), None, 4)))
        .collect();
    let Some(base) = structure(BASE) else {
        return format!("There is no base to compare with: {}.", joined(&missing));
    };
    let mut sentences = vec![format!("The base ends with {}", base.last.fixed(4))];
    let others = STRUCTURES.iter().filter(|(name, _)| *name != BASE).filter_map(|(name, _)| structure(name));
    sentences.extend(others.map(|other| bought(&base, &other)));
    sentences.extend(missing);
    format!("{}.", sentences.join(". "))
}

fn bought(base: &Structure<'_>, other: &Structure<'_>) -> String {
    let gap = Gap::between(base.last, other.last);
    let points = gap.by * 100.0;
    let more = other.parameters.saturating_sub(base.parameters);
    let price = if more == 0 {
        "without more parameters".to_owned()
    } else {
        let millions = more as f64 / 1e6;
        format!("for {} more parameters, {} points per million", grouped(more), signed(points / millions, 2))
    };
    format!(
        "The {} network ends with {}, {} points of accuracy beside the base, {price}; the difference is {}",
        other.name,
        other.last.fixed(4),
        signed(points, 2),
        gap.beside_spread()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::{
        figures::NOT_RUN,
        fixtures::{reproduction, row, trained},
    };

    fn with(place: &std::path::Path, structures: &[(&str, usize, &[f64])]) -> Reproduction {
        let rows = structures.iter().map(|(name, parameters, accuracies)| {
            let runs = accuracies.iter().enumerate().map(|(seed, accuracy)| {
                let changes = json!({ "parameters": parameters, "config": { "seed": seed } });
                trained(place, &format!("{name}-{seed}"), &[*accuracy], &changes)
            });
            row(Question::Structures, name, runs.collect())
        });
        reproduction(rows.collect())
    }

    #[test]
    fn the_paragraph_counts_points_of_accuracy_per_million_parameters() {
        let place = tempfile::tempdir().unwrap();
        let structures: [(&str, usize, &[f64]); 3] = [
            (BASE, 669_706, &[0.870, 0.872]),
            ("deeper", 1_195_018, &[0.866, 0.868]),
            ("wider", 1_863_690, &[0.871, 0.873]),
        ];
        let text = reading(&with(place.path(), &structures));
        for wanted in [
            "The base ends with 0.8710 ± 0.0014 (n = 2)",
            // -0.4 points for 0.525312 million.
            "-0.40 points of accuracy beside the base, for 525,312 more parameters, -0.76 points per million",
            "the difference is more than the spread over the seeds, 0.0020",
            // 0.1 points for 1.193984 million.
            "+0.10 points of accuracy beside the base, for 1,193,984 more parameters, +0.08 points per million",
            "the difference is within the spread over the seeds, 0.0020",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn parameters_have_to_be_the_references() {
        let place = tempfile::tempdir().unwrap();
        let reproduction = with(place.path(), &[(BASE, 669_706, &[0.87]), ("deeper", 1_195_019, &[0.87])]);
        let rows = parameters_table(&reproduction, Question::Structures).rows;
        assert_eq!(rows[0], [BASE, "669,706", "669,706", "agrees"]);
        assert_eq!(rows[1], ["deeper", "1,195,019", "1,195,018", "differs"]);
        assert_eq!(rows[2], ["wider", NOT_RUN, "1,863,690", NOT_RUN]);
        let text = reading(&reproduction);
        assert!(text.ends_with("wider: not run."), "{text}");
    }

    #[test]
    fn the_best_run_is_looked_closer_at_but_an_evaluated_one_before_it() {
        let place = tempfile::tempdir().unwrap();
        let run = |id: &str, accuracy: f64| {
            trained(
                place.path(),
                id,
                &[accuracy],
                &json!({ "test": {
            "loss": 0.5, "accuracy": accuracy, "confusion": [[1, 0], [0, 1]],
        } }),
            )
        };
        let runs = [run("a", 0.8), run("b", 0.9), run("c", 0.7)];
        assert_eq!(shown_run(&runs).unwrap().map(|run| run.record.id.as_str()), Some("b"));
        let evaluation = json!({
            "schema": kindling_record::SCHEMA, "evaluated": "", "backend": "flex", "device": "", "kernels": "", "images": 2, "loss": 0.5,
            "accuracy": 0.7, "confusion": [[1, 0], [0, 1]], "classes": [], "confused": [], "mistakes": [],
            "calibration": { "error": 0.0, "bins": [] },
        });
        std::fs::write(runs[2].directory.evaluation(), evaluation.to_string()).unwrap();
        assert_eq!(shown_run(&runs).unwrap().map(|run| run.record.id.as_str()), Some("c"));
        assert!(shown_run(&[]).unwrap().is_none());
    }
}
