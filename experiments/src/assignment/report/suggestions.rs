//! What the reference suggests for a better network, tried.

use crate::{
    Block, ReportError, Run, Sample, Section, TableBlock,
    curves::Quantity,
    grouped,
    reproduction::{
        Question, Reproduction,
        charts::{Curve, test_chart},
        figures::{Gap, NONE, best_accuracy, cell, last_accuracy, sample},
        prose::{joined, signed},
        verdict::Verdict,
    },
};

/// What they are held against.
const PLAIN: &str = "cnn";

const VARIANTS: [&str; 4] = ["more layers", "falling learning rate", "augmentation", "all"];

pub(crate) fn section(reproduction: &Reproduction) -> Result<Section, ReportError> {
    let rows = || std::iter::once(PLAIN).chain(VARIANTS);
    let curves: Vec<Curve<'_>> =
        rows().map(|name| Curve::new(name, reproduction.runs(Question::Suggestions, name), &[])).collect();
    let mut blocks = vec![
        Block::Paragraph(
            "The reference only suggests what might help, more layers, a learning rate that falls and augmented \
             images, and has no figures. Here each is tried on the CNN of 1.7 for the same 13 epochs: a deeper CNN, a \
             rate that falls along a cosine, and training images that are shifted, mirrored and partly erased."
                .to_owned(),
        ),
        Block::Table(table(reproduction)),
    ];
    blocks.extend(test_chart("suggestions-accuracy", "Suggestions", Quantity::Accuracy, &curves)?);
    blocks.extend(test_chart("suggestions-loss", "Suggestions", Quantity::Loss, &curves)?);
    blocks.push(reproduction.reading(&reading(reproduction)));
    Ok(Section { name: "suggestions".to_owned(), title: "What the reference suggests".to_owned(), blocks })
}

fn runs<'a>(reproduction: &'a Reproduction, name: &str) -> &'a [Run] {
    reproduction.runs(Question::Suggestions, name)
}

fn last(reproduction: &Reproduction, name: &str) -> Option<Sample> {
    sample(runs(reproduction, name), last_accuracy)
}

fn table(reproduction: &Reproduction) -> TableBlock {
    let plain = last(reproduction, PLAIN);
    let rows = std::iter::once(PLAIN).chain(VARIANTS).map(|name| {
        let runs = runs(reproduction, name);
        let last = sample(runs, last_accuracy);
        let gap = plain.zip(last).filter(|_| name != PLAIN).map(|(plain, last)| Gap::between(plain, last));
        let exceeds = match gap.and_then(Gap::exceeds) {
            Some(true) => "yes",
            Some(false) => "no",
            None => NONE,
        };
        let difference = gap.map(|gap| {
            let spread = gap.spread.map_or_else(String::new, |spread| format!(" ± {spread:.4}"));
            format!("{}{spread}", signed(gap.by, 4))
        });
        let best = sample(runs, best_accuracy).map(|best| best.fixed(4));
        let verdict = if last.is_some() { Verdict::NoReference } else { Verdict::NotRun };
        vec![
            name.to_owned(),
            runs.first().map_or_else(|| NONE.to_owned(), |run| grouped(run.record.parameters)),
            cell(runs, last, 4),
            difference.unwrap_or_else(|| NONE.to_owned()),
            exceeds.to_owned(),
            best.unwrap_or_else(|| NONE.to_owned()),
            verdict.as_str().to_owned(),
        ]
    });
    let header =
        ["network", "parameters", "last epoch", "difference to `cnn`", "exceeds its spread", "best epoch", "verdict"];
    TableBlock {
        caption: "Accuracy: mean ± standard deviation over the n runs. A difference is that of the means, with the \
                  standard deviation of the difference between single runs."
            .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: vec![1, 2, 3, 5],
        rows: rows.collect(),
    }
}

/// Which suggestions help, and by how much.
fn reading(reproduction: &Reproduction) -> String {
    let missing: Vec<String> = VARIANTS
        .iter()
        .filter(|name| last(reproduction, name).is_none())
        .map(|name| format!("{name}: {}", cell(runs(reproduction, name), None, 4)))
        .collect();
    let Some(plain) = last(reproduction, PLAIN) else {
        let own = cell(runs(reproduction, PLAIN), None, 4);
        return format!("There is no plain CNN to compare with: {own}.");
    };
    let gaps = VARIANTS.iter().filter_map(|name| Some((*name, Gap::between(plain, last(reproduction, name)?))));
    let mut gaps: Vec<(&str, Gap)> = gaps.collect();
    gaps.sort_by(|(_, a), (_, b)| b.by.total_cmp(&a.by));
    let mut sentences = vec![format!("The plain CNN ends with {}", plain.fixed(4))];
    let those = |is_wanted: Wanted| {
        let wanted = gaps.iter().filter(|(_, gap)| is_wanted(*gap));
        wanted.map(|(name, gap)| format!("{name} by {}", signed(gap.by, 4))).collect::<Vec<String>>()
    };
    let kinds: [(&str, Wanted); 4] = [
        ("More accurate, by more than the spread over the seeds", |gap| gap.exceeds() == Some(true) && gap.by > 0.0),
        ("Less accurate, by more than the spread", |gap| gap.exceeds() == Some(true) && gap.by <= 0.0),
        ("Different by no more than the spread", |gap| gap.exceeds() == Some(false)),
        ("Different in single runs, whose spread is not known", |gap| gap.exceeds().is_none()),
    ];
    for (what, is_wanted) in kinds {
        let names = those(is_wanted);
        if !names.is_empty() {
            sentences.push(format!("{what}: {}", joined(&names)));
        }
    }
    sentences.extend(missing);
    format!("{}.", sentences.join(". "))
}

/// Picks differences of one kind.
type Wanted = fn(Gap) -> bool;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    fn with(place: &std::path::Path, variants: &[(&str, &[f64])]) -> Reproduction {
        let rows = variants.iter().map(|(name, accuracies)| {
            let runs = accuracies.iter().enumerate().map(|(seed, accuracy)| {
                let id = format!("{}-{seed}", name.replace(' ', "-"));
                trained(place, &id, &[*accuracy], &json!({ "config": { "seed": seed } }))
            });
            row(Question::Suggestions, name, runs.collect())
        });
        reproduction(rows.collect())
    }

    #[test]
    fn the_paragraph_tells_what_helps_from_what_is_within_the_spread() {
        let place = tempfile::tempdir().unwrap();
        let variants: [(&str, &[f64]); 4] = [
            (PLAIN, &[0.908, 0.910]),
            ("more layers", &[0.909, 0.911]),
            ("augmentation", &[0.890, 0.892]),
            ("all", &[0.928, 0.930]),
        ];
        let reproduction = with(place.path(), &variants);
        let text = reading(&reproduction);
        for wanted in [
            "More accurate, by more than the spread over the seeds: all by +0.0200.",
            "Less accurate, by more than the spread: augmentation by -0.0180.",
            "Different by no more than the spread: more layers by +0.0010.",
            "falling learning rate: not run.",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let rows = table(&reproduction).rows;
        assert_eq!(rows[4][3..5], ["+0.0200 ± 0.0020", "yes"]);
        assert_eq!([rows[4][6].as_str(), rows[2][6].as_str()], ["no reference", "not run"]);
    }

    #[test]
    fn single_runs_are_said_to_have_no_spread() {
        let place = tempfile::tempdir().unwrap();
        let text = reading(&with(place.path(), &[(PLAIN, &[0.91]), ("all", &[0.93])]));
        assert!(text.contains("Different in single runs, whose spread is not known: all by +0.0200"), "{text}");
    }
}
