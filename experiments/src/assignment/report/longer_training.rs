//! 1.4: 10 epochs beside training to convergence.

use crate::{
    Block, Run, Sample, Section, TableBlock,
    reproduction::{
        Question, Reproduction,
        figures::{Gap, NONE, NOT_RUN, STUCK, cell, finished, last_accuracy, sample, seed},
        measured::{Converged, converged},
        prose::{beside, joined, signed},
        reference::RATES,
    },
};

/// A learning rate whose runs of 1.2 and of 1.3 both went to their end.
struct Longer<'a> {
    rate: &'static str,
    short: Sample,
    long: Sample,
    /// What the further epochs changed.
    gain: Sample,
    runs: &'a [Run],
}

pub(crate) fn section(reproduction: &Reproduction) -> Section {
    let blocks = vec![
        Block::Paragraph("The runs of 1.2 beside those of 1.3: what training to convergence adds.".to_owned()),
        Block::Table(table(reproduction)),
        reproduction.reading(&reading(&measured(reproduction))),
    ];
    Section { name: "longer-training".to_owned(), title: "1.4 Ten epochs and convergence".to_owned(), blocks }
}

fn measured(reproduction: &Reproduction) -> Vec<Longer<'_>> {
    let both = |rate: &'static str| {
        let [few, runs] = [Question::LearningRates, Question::Convergence].map(|one| reproduction.runs(one, rate));
        let [short, long] = [sample(few, last_accuracy)?, sample(runs, last_accuracy)?];
        Some(Longer { rate, short, long, gain: gain(few, runs)?, runs })
    };
    RATES.into_iter().filter_map(both).collect()
}

/// The change from the short runs to the long ones, seed by seed: these begin alike, and only so is their spread that
/// of the change.
fn gain(few: &[Run], runs: &[Run]) -> Option<Sample> {
    let gains = finished(runs).filter_map(|long| {
        let short = finished(few).find(|short| seed(short) == seed(long))?;
        Some(last_accuracy(long)? - last_accuracy(short)?)
    });
    Sample::of(gains)
}

fn table(reproduction: &Reproduction) -> TableBlock {
    let all = measured(reproduction);
    let header = ["learning rate", "10 epochs (1.2)", "to convergence (1.3)", "change", "reference's change"];
    let rows = RATES.map(|rate| {
        let cells = [Question::LearningRates, Question::Convergence].map(|question| {
            let runs = reproduction.runs(question, rate);
            cell(runs, sample(runs, last_accuracy), 4)
        });
        let gain = all.iter().find(|one| one.rate == rate).map(|one| change(one.gain));
        let short = reproduction.reference.learning_rates.accuracy(rate);
        let long = reproduction.reference.convergence.converged(rate).map(|one| one.accuracy);
        let of_reference = long.zip(short).map(|(long, short)| long - short);
        let of_reference = of_reference.map_or_else(|| NONE.to_owned(), |difference| signed(difference, 3));
        let [short, long] = cells;
        vec![rate.to_owned(), short, long, gain.unwrap_or_else(|| NONE.to_owned()), of_reference]
    });
    TableBlock {
        caption: "Accuracy of the last epoch: mean ± standard deviation over the n runs. Changes are taken seed by \
                  seed; the reference's are those between its two tables."
            .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: (1..=4).collect(),
        rows: Vec::from(rows),
    }
}

/// `+0.0123 ± 0.0004 (n = 3)`.
fn change(gain: Sample) -> String {
    let fixed = gain.fixed(4);
    if fixed.starts_with('-') { fixed } else { format!("+{fixed}") }
}

/// Who gains from longer training, by how much, and who is done.
fn reading(all: &[Longer<'_>]) -> String {
    if all.is_empty() {
        return format!("No learning rate has runs of both: {NOT_RUN}.");
    }
    let mut sentences: Vec<String> = all.iter().map(described).collect();
    let most = all.iter().max_by(|a, b| a.gain.mean.total_cmp(&b.gain.mean)).filter(|one| one.gain.mean > 0.0);
    if let Some(most) = most.filter(|_| all.len() > 1) {
        sentences.push(format!("{} gains most from longer training", most.rate));
    }
    sentences.extend(ranking(all));
    format!("{}.", sentences.join(". "))
}

fn described(one: &Longer<'_>) -> String {
    let rate = one.rate;
    if one.long.mean < STUCK && one.short.mean < STUCK {
        return format!("{rate} trains neither in few epochs nor in many");
    }
    let is_clear = one.gain.deviation.map_or("with a single run, whose spread is not known", |deviation| {
        if one.gain.mean.abs() > deviation {
            "more than its spread over the seeds"
        } else {
            "within its spread over the seeds"
        }
    });
    let epochs: Vec<Converged> = finished(one.runs).filter_map(converged).collect();
    let open = epochs.iter().filter(|epoch| epoch.is_open()).count();
    let state = match (open, epochs.len()) {
        (0, _) => "had converged".to_owned(),
        (open, n) if open == n => "was still improving at its end".to_owned(),
        (open, n) => format!("was still improving at the end of {open} of {n} runs"),
    };
    let verb = if one.gain.mean < 0.0 { "loses" } else { "gains" };
    let by = one.gain.mean.abs();
    format!("{rate} {verb} {by:.4} over the further epochs ({is_clear}), and {state}")
}

/// Whether the order of the rates, and the lead of the best, stay the same.
fn ranking(all: &[Longer<'_>]) -> Option<String> {
    if all.len() < 2 {
        return None;
    }
    let sorted = |figure: fn(&Longer<'_>) -> Sample| {
        let mut sorted: Vec<(&str, Sample)> = all.iter().map(|one| (one.rate, figure(one))).collect();
        sorted.sort_by(|(_, a), (_, b)| b.mean.total_cmp(&a.mean));
        sorted
    };
    let [few, many] = [sorted(|one| one.short), sorted(|one| one.long)];
    let lead = |order: &[(&str, Sample)]| {
        let gap = Gap::between(order[1].1, order[0].1);
        format!("{} leads, {:.4} above {} ({})", order[0].0, gap.by, order[1].0, gap.beside_spread())
    };
    let names = |order: &[(&str, Sample)]| order.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let order = if names(&few) == names(&many) {
        "The order of the rates stays the same".to_owned()
    } else {
        format!("The order of the rates changes from {} to {}", joined(&names(&few)), joined(&names(&many)))
    };
    let [first, last] = [&few, &many].map(|order| order[0].1.mean);
    Some(format!(
        "{order}: after 10 epochs {}; at convergence {}. The best accuracy there is {} the best after 10 epochs",
        lead(&few),
        lead(&many),
        beside(last - first, 4)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reproduction, row, trained};

    /// For each rate the accuracies after few epochs and after many, by seed.
    fn with(place: &std::path::Path, rates: &[(&str, [[f64; 2]; 2])]) -> Reproduction {
        let mut rows = Vec::new();
        for (rate, seeds) in rates {
            for (which, question) in [Question::LearningRates, Question::Convergence].into_iter().enumerate() {
                let runs = seeds.iter().enumerate().map(|(seed, figures)| {
                    let changes = json!({ "config": { "seed": seed }, "stopped_early": "test_loss has not improved" });
                    trained(place, &format!("{rate}-{which}-{seed}"), &[figures[which]], &changes)
                });
                rows.push(row(question, rate, runs.collect()));
            }
        }
        reproduction(rows)
    }

    #[test]
    fn changes_are_taken_seed_by_seed() {
        let place = tempfile::tempdir().unwrap();
        // The seeds spread by more than the change, and each changes by the same.
        let reproduction = with(place.path(), &[("0.1", [[0.80, 0.81], [0.84, 0.85]])]);
        let rows = table(&reproduction).rows;
        assert_eq!(rows[1][3..], ["+0.0100 ± 0.0000 (n = 2)", "+0.003"]);
        assert_eq!(rows[0][1..4], [NOT_RUN, NOT_RUN, NONE]);
        let text = reading(&measured(&reproduction));
        assert!(text.contains("0.1 gains 0.0100 over the further epochs (more than its spread"), "{text}");
        assert!(text.contains("and had converged"), "{text}");
    }

    #[test]
    fn the_paragraph_says_who_gains_most_and_whether_the_order_changes() {
        let place = tempfile::tempdir().unwrap();
        let rates = [("0.1", [[0.87, 0.86], [0.87, 0.86]]), ("0.01", [[0.83, 0.88], [0.83, 0.88]])];
        let text = reading(&measured(&with(place.path(), &rates)));
        for wanted in [
            "0.1 loses 0.0100",
            "0.01 gains 0.0500",
            "0.01 gains most from longer training",
            "The order of the rates changes from 0.1 and 0.01 to 0.01 and 0.1",
            "after 10 epochs 0.1 leads, 0.0400 above 0.01",
            "0.0100 above the best after 10 epochs",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn rates_that_do_not_train_are_said_not_to_and_missing_ones_are_not_run() {
        let place = tempfile::tempdir().unwrap();
        let text = reading(&measured(&with(place.path(), &[("1", [[0.1, 0.1], [0.1, 0.1]])])));
        assert_eq!(text, "1 trains neither in few epochs nor in many.");
        assert!(reading(&measured(&reproduction(Vec::new()))).contains(NOT_RUN));
    }
}
