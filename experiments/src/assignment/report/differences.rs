//! The figures that lie outside their bands, with the numbers that bear on them.

use crate::{
    Block, Run, Section, TableBlock,
    reproduction::{
        Reproduction,
        comparison::{Comparison, comparisons},
        figures::{NONE, NOT_RUN, best_accuracy, divergence, given, last_accuracy, last_loss, loss_after, seed},
        verdict::Verdict,
    },
};

pub(crate) fn section(reproduction: &Reproduction) -> Section {
    let all = comparisons(reproduction);
    let differing: Vec<&Comparison<'_>> = all.iter().filter(|one| one.verdict == Verdict::Differs).collect();
    let judged = all.iter().filter(|one| matches!(one.verdict, Verdict::Agrees | Verdict::Differs)).count();
    let text = match (judged, differing.len()) {
        (0, _) if reproduction.quick => "This was a quick run: nothing is compared.".to_owned(),
        (0, _) => format!("Nothing is compared: {NOT_RUN}."),
        (judged, 0) => format!("None of {judged} compared figures lies outside its band."),
        (judged, outside) => format!("{outside} of {judged} compared figures lie outside their bands."),
    };
    let mut blocks = vec![Block::Paragraph(text)];
    for one in differing {
        blocks.push(Block::Heading(format!("{} {}: {}", one.question.number(), one.label(), one.compared.as_str())));
        blocks.push(Block::Paragraph(one.remark()));
        blocks.push(Block::Table(runs_table(one.runs)));
    }
    Section { name: "differences".to_owned(), title: "Where they differ".to_owned(), blocks }
}

/// What each run came to.
fn runs_table(runs: &[Run]) -> TableBlock {
    let header = [
        "run",
        "seed",
        "status",
        "epochs",
        "accuracy, last",
        "accuracy, best",
        "test loss, last",
        "lowest",
        "at epoch",
        "train loss, last",
        "train accuracy, last",
    ];
    let rows = runs.iter().map(|run| {
        let record = &run.record;
        let status = divergence(std::slice::from_ref(run)).unwrap_or_else(|| run.status.to_string());
        let lowest = record.best_epoch.and_then(|epoch| loss_after(run, epoch));
        vec![
            format!("`{}`", record.id),
            seed(run).map_or_else(|| NONE.to_owned(), ToString::to_string),
            status,
            record.epochs.len().to_string(),
            given(last_accuracy(run), 4),
            given(best_accuracy(run), 4),
            given(last_loss(run), 4),
            given(lowest, 4),
            record.best_epoch.map_or_else(|| NONE.to_owned(), |epoch| epoch.to_string()),
            given(run.last(|epoch| Some(epoch.train_loss)), 4),
            given(run.last(|epoch| Some(epoch.train_accuracy)), 4),
        ]
    });
    TableBlock {
        caption: "The runs of this row. Losses in nats; those of training are means over the last epoch, each batch \
                  before its update."
            .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: vec![1, 3, 4, 5, 6, 7, 8, 9, 10],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::{
        Question,
        fixtures::{reproduction, row, trained},
    };

    fn said(reproduction: &Reproduction) -> String {
        match section(reproduction).blocks.first() {
            Some(Block::Paragraph(text)) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn figures_outside_their_bands_are_listed_with_their_runs() {
        let place = tempfile::tempdir().unwrap();
        let rows = vec![
            row(Question::LearningRates, "0.1", vec![trained(place.path(), "far", &[0.75, 0.7], &json!({}))]),
            row(Question::LearningRates, "0.01", vec![trained(place.path(), "near", &[0.835], &json!({}))]),
        ];
        let reproduction = reproduction(rows);
        assert_eq!(said(&reproduction), "1 of 2 compared figures lie outside their bands.");
        let blocks = section(&reproduction).blocks;
        let [_, Block::Heading(heading), Block::Paragraph(remark), Block::Table(table)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!(heading, "1.2 learning rate 0.1: accuracy, last epoch");
        assert!(remark.contains("0.1770 below") && remark.contains("0.1670 outside the band"), "{remark}");
        assert_eq!(table.rows[0][..6], ["`far`", "1", "finished", "2", "0.7000", "0.7500"]);
        assert_eq!(table.rows[0][6..9], ["0.3000", "0.2500", "1"]);
    }

    #[test]
    fn agreement_and_missing_runs_are_said() {
        let place = tempfile::tempdir().unwrap();
        let near = vec![trained(place.path(), "near", &[0.835], &json!({}))];
        let agreeing = reproduction(vec![row(Question::LearningRates, "0.01", near)]);
        assert_eq!(said(&agreeing), "None of 1 compared figures lies outside its band.");
        assert_eq!(said(&reproduction(Vec::new())), "Nothing is compared: not run.");
        assert!(said(&Reproduction { quick: true, ..agreeing }).contains("quick"));
    }
}
