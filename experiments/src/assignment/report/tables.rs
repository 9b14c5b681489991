//! Tables that several questions share.

use crate::{
    Run, Sample, TableBlock, grouped,
    reproduction::{
        Question, Reproduction,
        comparison::{Compared, comparisons},
        figures::{NONE, NOT_RUN, best_accuracy, cell, given, last_accuracy, sample},
        prose::signed,
        reference::{self, Epoch},
    },
};

/// A row of an [`accuracy_table`].
pub(crate) struct AccuracyRow<'a> {
    pub(crate) label: String,
    pub(crate) runs: &'a [Run],
    /// The figure in the reference's table.
    pub(crate) table: Option<f64>,
    /// Its curve.
    pub(crate) curve: &'a [Epoch],
    pub(crate) verdict: String,
}

/// Accuracies of the last epoch and of the best beside the reference's table and curves, which do not agree everywhere.
pub(crate) fn accuracy_table(caption: &str, first: &str, rows: &[AccuracyRow<'_>]) -> TableBlock {
    let header = [
        first,
        "last epoch",
        "reference's table",
        "last - table",
        "reference's curve, last",
        "last - curve",
        "best epoch",
        "reference's curve, best",
        "best - table",
        "verdict",
    ];
    let rows = rows.iter().map(|row| {
        let last = sample(row.runs, last_accuracy);
        let best = sample(row.runs, best_accuracy);
        let curve_last = reference::last_accuracy(row.curve);
        vec![
            row.label.clone(),
            cell(row.runs, last, 4),
            given(row.table, 3),
            difference(last, row.table),
            given(curve_last, 3),
            difference(last, curve_last),
            best.map_or_else(|| NONE.to_owned(), |best| best.fixed(4)),
            given(reference::best_accuracy(row.curve), 3),
            difference(best, row.table),
            row.verdict.clone(),
        ]
    });
    TableBlock {
        caption: format!(
            "{caption} Mean ± standard deviation over the n runs, as fractions of the test images; the verdict is on \
             the last epoch beside the reference's table."
        ),
        header: header.map(str::to_owned).to_vec(),
        right: (1..=8).collect(),
        rows: rows.collect(),
    }
}

/// A mean less the reference's figure.
pub(crate) fn difference(measured: Option<Sample>, reference: Option<f64>) -> String {
    let difference = measured.zip(reference).map(|(measured, reference)| measured.mean - reference);
    difference.map_or_else(|| NONE.to_owned(), |difference| signed(difference, 4))
}

/// The numbers of trainable parameters that `question` compares.
pub(crate) fn parameters_table(reproduction: &Reproduction, question: Question) -> TableBlock {
    let all = comparisons(reproduction);
    let rows = all.iter().filter(|one| one.question == question && one.compared == Compared::Parameters).map(|one| {
        let count = one.runs.first().map(|run| grouped(run.record.parameters));
        vec![
            one.label(),
            count.unwrap_or_else(|| NOT_RUN.to_owned()),
            one.reference_text(),
            one.verdict.as_str().to_owned(),
        ]
    });
    TableBlock {
        caption: "Trainable parameters.".to_owned(),
        header: ["network", "parameters", "reference", "verdict"].map(str::to_owned).to_vec(),
        right: vec![1, 2],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reference, trained};

    #[test]
    fn last_and_best_epochs_stand_beside_the_references_table_and_curve() {
        let place = tempfile::tempdir().unwrap();
        let runs = [trained(place.path(), "a", &[0.5, 0.88, 0.875], &json!({}))];
        let reference = reference();
        let row = |runs| AccuracyRow {
            label: "base".to_owned(),
            runs,
            table: Some(0.871),
            curve: reference.structures.curve("base"),
            verdict: "agrees".to_owned(),
        };
        let table = accuracy_table("Structures.", "structure", &[row(&runs), row(&[])]);
        let expected = [
            "base",
            "0.8750 (n = 1)",
            "0.871",
            "+0.0040",
            "0.872",
            "+0.0030",
            "0.8800 (n = 1)",
            "0.876",
            "+0.0090",
            "agrees",
        ];
        assert_eq!(table.rows[0], expected);
        assert_eq!(table.rows[1][1..4], [NOT_RUN, "0.871", NONE]);
    }
}
