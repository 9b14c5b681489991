//! The report that sets the assignment's experiments beside the reference's figures.

use crate::{Block, Document, Pictures, ReportError, Run, TableBlock};

mod charts;
mod cnn;
mod comparison;
mod convergence;
mod differences;
mod figures;
mod first_run;
#[cfg(test)]
mod fixtures;
mod gradients;
mod learning_rates;
mod longer_training;
mod measured;
mod prose;
mod reference;
mod structures;
mod suggestions;
mod summary;
mod tables;
mod train_loss;
mod trend;
mod verdict;

pub use reference::Reference;

/// Everything that the report is made from.
#[derive(Debug)]
pub struct Reproduction {
    /// The figures to compare with.
    pub reference: Reference,
    /// The command that made it.
    pub command: String,
    /// Whether the runs saw only a part of the data, to be done in minutes: their figures then say nothing.
    pub quick: bool,
    /// Some images of the data set, for question 1.1.
    pub samples: Option<Pictures>,
    /// The experiments' runs. A run may be in several rows.
    pub rows: Vec<Row>,
}

/// One row of an experiment's table.
#[derive(Debug)]
pub struct Row {
    /// The question it belongs to.
    pub question: Question,
    /// What it is called there: see [`Question`].
    pub name: String,
    /// Its runs, which differ by their seed alone; none where they were not asked for or failed.
    pub runs: Vec<Run>,
}

/// The assignment's questions that need training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// 1.1: the first run, a single row `mlp`.
    FirstRun,
    /// 1.2: learning rates, rows `1`, `0.1`, `0.01`, `0.001`.
    LearningRates,
    /// 1.3: the same rows, trained to convergence.
    Convergence,
    /// 1.5: structures, rows `base`, `deeper`, `wider`.
    Structures,
    /// 1.6: gradients of the first steps, a row for each of `mlp`, `mlp-deep`, `mlp-wide`, `cnn`.
    Gradients,
    /// 1.7: a single row `cnn`.
    Cnn,
    /// What the reference only suggests: rows `cnn`, `more layers`, `falling learning rate`, `augmentation`, `all`.
    Suggestions,
}

/// The report. What was not run is said to be missing.
///
/// # Errors
/// When what lies beside a run's record is there and cannot be read.
pub fn document(reproduction: &Reproduction) -> Result<Document, ReportError> {
    Ok(Document {
        title: "Fashion-MNIST: an assignment reproduced".to_owned(),
        lead: summary::lead(reproduction),
        sections: vec![
            summary::section(reproduction),
            differences::section(reproduction),
            first_run::section(reproduction)?,
            learning_rates::section(reproduction)?,
            convergence::section(reproduction)?,
            longer_training::section(reproduction),
            structures::section(reproduction)?,
            gradients::section(reproduction)?,
            cnn::section(reproduction)?,
            suggestions::section(reproduction)?,
            summary::how_it_was_run(reproduction),
        ],
    })
}

/// Every compared figure with its verdict, short enough for a README.
#[must_use]
pub fn main_table(reproduction: &Reproduction) -> TableBlock {
    summary::main_table(reproduction)
}

impl Reproduction {
    /// The runs of a row; none where it was not run.
    fn runs(&self, question: Question, name: &str) -> &[Run] {
        let row = self.rows.iter().find(|row| row.question == question && row.name == name);
        row.map(|row| row.runs.as_slice()).unwrap_or_default()
    }

    /// A paragraph on what the figures say, with a warning where they say nothing.
    fn reading(&self, text: &str) -> Block {
        let caution = if self.quick { "Quick run on a part of the data, which says nothing: " } else { "" };
        Block::Paragraph(format!("{caution}{text}"))
    }
}

impl Question {
    /// Its number in the assignment.
    const fn number(self) -> &'static str {
        match self {
            Self::FirstRun => "1.1",
            Self::LearningRates => "1.2",
            Self::Convergence => "1.3",
            Self::Structures => "1.5",
            Self::Gradients => "1.6",
            Self::Cnn => "1.7",
            Self::Suggestions => "suggestions",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        markdown::markdown_document,
        reproduction::{
            fixtures::{reproduction, row, trained},
            verdict::Verdict,
        },
        write::figures,
    };

    /// A paragraph of a section that has `text` in it.
    fn says(document: &Document, section: &str, text: &str) -> bool {
        let found = document.sections.iter().find(|one| one.name == section).unwrap();
        found.blocks.iter().any(|block| matches!(block, Block::Paragraph(words) if words.contains(text)))
    }

    #[test]
    fn without_runs_everything_is_said_to_be_missing() {
        let reproduction = reproduction(Vec::new());
        let document = document(&reproduction).unwrap();
        assert!(figures(&document).unwrap().is_empty());
        for section in document.sections {
            let alone = Document { sections: vec![section.clone()], ..Document::default() };
            let text = markdown_document(&alone).to_lowercase();
            assert!(text.contains("not run"), "{}: {text}", section.name);
        }
        let table = main_table(&reproduction);
        assert!(table.rows.iter().all(|row| row.last().is_some_and(|cell| cell == Verdict::NotRun.as_str())));
    }

    #[test]
    fn every_table_has_a_cell_for_each_column() {
        fn check(blocks: &[Block]) {
            for block in blocks {
                match block {
                    Block::Table(table) => {
                        assert!(table.right.iter().all(|&column| column < table.header.len()), "{}", table.caption);
                        assert!(table.rows.iter().all(|row| row.len() == table.header.len()), "{}", table.caption);
                    }
                    Block::Details(_, inner) => check(inner),
                    _ => {}
                }
            }
        }
        let place = tempfile::tempdir().unwrap();
        let full = fixtures::full(place.path());
        for reproduction in [reproduction(Vec::new()), full] {
            for section in document(&reproduction).unwrap().sections {
                check(&section.blocks);
            }
        }
    }

    #[test]
    fn figures_of_a_full_report_have_names_of_their_own_and_hold_the_references_curves() {
        let place = tempfile::tempdir().unwrap();
        let full = fixtures::full(place.path());
        let document = document(&full).unwrap();
        let names: Vec<&str> = figures(&document).unwrap().into_iter().map(|(name, _)| name).collect();
        for wanted in [
            "first-run-accuracy",
            "first-run-loss",
            "first-run-train-loss",
            "learning-rates-accuracy",
            "learning-rates-loss",
            "convergence-loss",
            "convergence-accuracy",
            "structures-accuracy",
            "gradients-gradient-norm",
            "cnn-accuracy",
            "suggestions-accuracy",
            "base-confusion",
            "cnn-confusion",
        ] {
            assert!(names.contains(&wanted), "{wanted} is not in {names:?}");
        }
    }

    #[test]
    fn paragraphs_change_with_the_numbers() {
        let place = tempfile::tempdir().unwrap();
        let with = |id: &str, middle: f64, small: f64| {
            let runs = |name: &str, accuracy: f64| vec![trained(place.path(), name, &[0.5, accuracy], &json!({}))];
            document(&reproduction(vec![
                row(Question::LearningRates, "0.1", runs(&format!("{id}-a"), middle)),
                row(Question::LearningRates, "0.01", runs(&format!("{id}-b"), small)),
            ]))
            .unwrap()
        };
        let first = with("first", 0.875, 0.75);
        assert!(says(&first, "learning-rates", "After 2 epochs 0.1 has the highest accuracy, 0.8750 (n = 1)"));
        let second = with("second", 0.75, 0.875);
        assert!(says(&second, "learning-rates", "After 2 epochs 0.01 has the highest accuracy, 0.8750 (n = 1)"));
    }

    #[test]
    fn a_quick_reproduction_is_marked_everywhere_and_judges_nothing() {
        let place = tempfile::tempdir().unwrap();
        let quick = Reproduction { quick: true, ..fixtures::full(place.path()) };
        let text = markdown_document(&document(&quick).unwrap());
        assert!(text.contains("QUICK") && text.contains("Quick run on a part of the data"));
        let judged = [Verdict::Agrees, Verdict::Differs].map(Verdict::as_str);
        assert!(main_table(&quick).rows.iter().all(|row| !judged.contains(&row.last().unwrap().as_str())));
    }
}
