//! The report of a claim: its figures, its curves beside PyTorch's, and what its networks get wrong.

mod mistakes;
mod speed;

use std::path::Path;

use kindling_data::ImageSet;
use kindling_report::{
    Against, Block, Document, Figure, Group, LineChart, NONE, ReportError, Run, Sample, Section, Series, Split, Style,
    TableBlock, chart, configurations, grouped, how_it_was_run,
};

use self::speed::{over_epochs, peers};
use super::{ClaimRecord, PeerEpoch, SeedRecord};

/// Writes `report.html`, `report.md` and their figures into the directory `output`. `runs` are those of the record's
/// seeds; `test` has the test split's images, without which the report shows fewer pictures.
///
/// # Errors
/// When what lies beside a run's record is there and cannot be read, or a file cannot be written.
pub(crate) fn write(
    record: &ClaimRecord,
    runs: &[Run],
    test: Option<&ImageSet>,
    output: &Path,
) -> Result<(), ReportError> {
    kindling_report::write(&document(record, runs, test)?, output)
}

fn document(record: &ClaimRecord, runs: &[Run], test: Option<&ImageSet>) -> Result<Document, ReportError> {
    let group = Group { label: "Kindling".to_owned(), runs: runs.to_vec(), ..Group::default() };
    let groups = if runs.is_empty() { Vec::new() } else { vec![group] };
    let sections = [
        ("seeds", "Every seed", seeds(record)),
        ("curves", "Curves", curves(record, &groups)?),
        ("time", "Accuracy and time", speed::blocks(record, runs)),
        ("errors", "What the networks get right and wrong", mistakes::evaluated(runs)?),
        ("shared", "Mistakes that all seeds share", mistakes::shared(runs, test)?),
        ("runs", "How each was run", how(record, &groups)),
    ];
    let section =
        |(name, title, blocks): (&str, &str, _)| Section { name: name.to_owned(), title: title.to_owned(), blocks };
    Ok(Document {
        title: format!("Claim: {}", record.name),
        lead: lead(record),
        sections: sections.map(section).into_iter().filter(|section| !section.blocks.is_empty()).collect(),
    })
}

/// What is claimed, what was found, and the command that finds it again.
fn lead(record: &ClaimRecord) -> Vec<Block> {
    let found = record.test_accuracy.map_or_else(
        || "No seed is finished yet.".to_owned(),
        |accuracy| {
            let time = record.wall_seconds.map_or_else(String::new, |seconds| {
                let Sample { mean, std, .. } = seconds;
                let std = std.map_or_else(String::new, |std| format!(" ± {std:.1}"));
                format!(", in {mean:.1}{std} s from the program's start to its end")
            });
            format!("Found: test accuracy {}{time}.", accuracy.percent())
        },
    );
    let verdict = match record.verdict.holds {
        Some(true) => "The claim holds.",
        Some(false) => "The claim does not hold.",
        None => "The claim is not judged.",
    };
    let parameters = record.parameters.map(|count| format!("{} parameters.", grouped(count)));
    let machines = record.machines.iter().map(|machine| format!("Machine: {machine}."));
    let lines = record.verdict.reasons.iter().cloned().chain(parameters).chain(machines);
    vec![
        Block::Paragraph(format!("Claimed: {}.", record.claimed)),
        Block::Paragraph(format!("{found} {verdict}")),
        Block::List(lines.collect()),
        Block::Paragraph("The command that repeats it, and resumes what is not finished:".to_owned()),
        Block::Code(record.command.clone()),
    ]
}

/// A row for each seed, and one for their means.
fn seeds(record: &ClaimRecord) -> Vec<Block> {
    let cells = |seed: &SeedRecord| {
        let fixed = |value: Option<f64>, scale: f64, decimals: usize| cell(Sample::of(value), scale, decimals);
        vec![
            seed.seed.to_string(),
            seed.status.clone(),
            format!("{} of {}", seed.epochs, seed.planned_epochs),
            seed.best_epoch.map_or_else(|| NONE.to_owned(), |epoch| epoch.to_string()),
            fixed(seed.valid_accuracy, 100.0, 2),
            fixed(seed.test_accuracy, 100.0, 2),
            fixed(seed.test_loss, 1.0, 4),
            fixed(seed.training_seconds, 1.0, 1),
            format!("{}{}", if seed.wall_is_measured { "" } else { "about " }, fixed(seed.wall_seconds, 1.0, 1)),
        ]
    };
    let finished = record.seeds.iter().filter(|seed| seed.is_finished());
    let valid = Sample::of(finished.filter_map(|seed| seed.valid_accuracy));
    let mut mean = vec!["mean ± std".to_owned()];
    mean.resize(4, String::new());
    mean.extend([
        cell(valid, 100.0, 2),
        cell(record.test_accuracy, 100.0, 2),
        cell(record.test_loss, 1.0, 4),
        cell(record.training_seconds, 1.0, 1),
        cell(record.wall_seconds, 1.0, 1),
    ]);
    let header = [
        "seed",
        "status",
        "epochs",
        "best epoch",
        "valid accuracy (%)",
        "test accuracy (%)",
        "test loss (nats)",
        "training (s)",
        "wall time (s)",
    ];
    let table = TableBlock {
        caption:
            "Every seed that was asked for. The best epoch is that of the metric on the validation split which the \
                  protocol monitors; test metrics are those of its weights. The wall time is from the program's start \
                  to its end; `about` marks one that was not measured around the program."
                .to_owned(),
        header: header.map(str::to_owned).to_vec(),
        right: (3..header.len()).collect(),
        rows: record.seeds.iter().map(cells).chain([mean]).collect(),
    };
    vec![Block::Table(table), Block::List(record.protocol.clone())]
}

/// Loss and accuracy over the epochs.
fn curves(record: &ClaimRecord, groups: &[Group]) -> Result<Vec<Block>, ReportError> {
    let mut blocks = Vec::new();
    let loss: fn(&PeerEpoch) -> f64 = |epoch| epoch.valid_loss;
    let accuracy: fn(&PeerEpoch) -> f64 = |epoch| epoch.valid_accuracy;
    for (metric, value) in [("loss", loss), ("accuracy", accuracy)] {
        let mut plot = chart(groups, metric, &[Split::Train, Split::Valid], Against::Epoch)?;
        if plot.series.is_empty() {
            continue;
        }
        plot.series.extend(peers(record).into_iter().zip(2..).map(|((label, peers), color)| Series {
            label: format!("valid, {label}"),
            points: over_epochs(&peers, value),
            color,
            style: Style::Measured,
        }));
        let n = groups.iter().map(|group| group.count(|epoch| epoch.get(&format!("valid/{metric}")))).sum::<usize>();
        blocks.push(figure(
            &format!("curves-{metric}"),
            format!(
                "Train and valid {metric} over epochs: means and, as bands, standard deviations over the seeds that got \
                 that far (n = {n}). Train metrics are means over an epoch, each batch as it is augmented and before its \
                 update."
            ),
            plot,
        ));
    }
    Ok(blocks)
}

/// What it takes to make the runs again.
fn how(record: &ClaimRecord, groups: &[Group]) -> Vec<Block> {
    if groups.is_empty() {
        return Vec::new();
    }
    let program = record.command.split_whitespace().next().unwrap_or("kindling");
    let mut blocks = vec![Block::Details("Config".to_owned(), configurations(groups))];
    blocks.extend(how_it_was_run(groups, program));
    blocks
}

fn figure(name: &str, caption: String, plot: LineChart) -> Block {
    Block::Chart(Figure { name: name.to_owned(), caption, plot })
}

/// Mean and standard deviation in the cell of a table, times `scale`.
fn cell(figures: Option<Sample>, scale: f64, decimals: usize) -> String {
    let Some(Sample { mean, std, .. }) = figures else { return NONE.to_owned() };
    let std = std.map_or_else(String::new, |std| format!(" ± {:.decimals$}", std * scale));
    format!("{:.decimals$}{std}", mean * scale)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use kindling_report::{figures, markdown_document};
    use serde_json::{Value, json};

    use super::{
        super::{PeerRecord, record::Verdict},
        *,
    };
    use crate::assignment::fixtures::trained;

    /// A finished run of `seed` with these validation accuracies, whose losses are 1 less the accuracy. It starts in 1 s,
    /// and an epoch takes 10 s, its evaluation 1 s and its checkpoint 0.5 s.
    pub(super) fn run(place: &Path, seed: u64, accuracies: &[f64]) -> Run {
        let epochs = accuracies.iter().enumerate().map(|(index, accuracy)| {
            json!({
                "epoch": index + 1, "learning_rate": 0.1, "seconds": 10.0, "samples_per_second": 10.0,
                "evaluation_seconds": 1.0,
                "metrics": {
                    "train/loss": 0.5, "train/accuracy": 0.75, "valid/loss": 1.0 - accuracy, "valid/accuracy": accuracy,
                },
            })
        });
        let changes = json!({
            "epochs": epochs.collect::<Vec<Value>>(), "config": { "training": { "seed": seed } },
            "timings": { "checkpoint_seconds": 0.5 * accuracies.len() as f64 },
        });
        trained(place, &format!("fast-seed-{seed}"), &[], &changes)
    }

    /// Keeps an evaluation of 4 images of `run`, with these mistakes: index, target, predicted, confidence.
    pub(super) fn evaluate(run: &Run, mistakes: &[(usize, usize, usize, f64)]) {
        let misclassified = mistakes.iter().map(|(index, target, predicted, confidence)| {
            json!({ "index": index, "target": target, "predicted": predicted, "confidence": confidence })
        });
        let class = |name: &str| json!({ "name": name, "images": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5 });
        let bin = json!({ "from": 0.0, "to": 1.0, "images": 4, "confidence": 0.75, "accuracy": 0.5 });
        let evaluation = json!({
            "schema": kindling_record::SCHEMA, "evaluated": "2026-01-02T03:04:05Z", "backend": "flex",
            "device": "a processor", "kernels": "composed", "images": 4, "loss": 0.5, "accuracy": 0.5,
            "confusion": [[1, 1], [1, 1]], "classes": [class("Coat"), class("Bag")],
            "calibration": { "error": 0.25, "bins": [bin] }, "confused": [], "mistakes": [],
            "misclassified": misclassified.collect::<Vec<Value>>(),
        });
        fs::write(run.directory.evaluation(), evaluation.to_string()).unwrap();
    }

    fn seed(seed: u64, test_accuracy: Option<f64>) -> SeedRecord {
        SeedRecord {
            seed,
            run: Some(format!("fast-seed-{seed}")),
            status: test_accuracy.map_or("interrupted", |_| "finished").to_owned(),
            epochs: 2,
            planned_epochs: 2,
            best_epoch: Some(2),
            valid_accuracy: Some(0.75),
            valid_loss: Some(0.25),
            test_accuracy,
            test_loss: test_accuracy.map(|accuracy| 1.0 - accuracy),
            training_seconds: Some(20.0),
            wall_seconds: Some(25.0),
            wall_is_measured: true,
            parts: 1,
            weights_sha256: None,
        }
    }

    /// A record of seeds from 1 with these test accuracies, none of a seed that is not finished.
    pub(super) fn claim(accuracies: &[Option<f64>]) -> ClaimRecord {
        let seeds: Vec<SeedRecord> = (1..).zip(accuracies).map(|(number, &accuracy)| seed(number, accuracy)).collect();
        let over = |value: fn(&SeedRecord) -> Option<f64>| {
            Sample::of(seeds.iter().filter(|seed| seed.test_accuracy.is_some()).filter_map(value))
        };
        ClaimRecord {
            schema: 1,
            name: "fast".to_owned(),
            claimed: "A mean test accuracy of 74.0 % or more".to_owned(),
            target_accuracy: 0.74,
            parameter_limit: None,
            seconds_limit: None,
            changed: Vec::new(),
            verdict: Verdict { holds: Some(true), reasons: vec!["75.00 % is found".to_owned()] },
            test_accuracy: over(|seed| seed.test_accuracy),
            test_loss: over(|seed| seed.test_loss),
            wall_seconds: over(|seed| seed.wall_seconds),
            training_seconds: over(|seed| seed.training_seconds),
            parameters: Some(1000),
            seeds,
            machines: Vec::new(),
            versions: std::collections::BTreeMap::new(),
            dataset_sha256: None,
            command: "kindling claim fast".to_owned(),
            config: serde_json::Map::new(),
            written: "2026-01-02T03:04:05Z".to_owned(),
            protocol: vec!["The test split is read once.".to_owned()],
            pytorch: Vec::new(),
        }
    }

    /// What PyTorch reached with `seed`: these seconds and accuracies after each epoch.
    pub(super) fn peer(seed: u64, epochs: &[(f64, f64)]) -> PeerRecord {
        let epoch = |(epoch, &(seconds, accuracy)): (usize, &(f64, f64))| PeerEpoch {
            epoch,
            seconds,
            valid_accuracy: accuracy,
            valid_loss: 1.0 - accuracy,
            train_loss: 0.5,
        };
        PeerRecord {
            torch: "2.9.0".to_owned(),
            threads: 2,
            seed,
            parameters: 1000,
            epochs: (1..).zip(epochs).map(epoch).collect(),
            best_epoch: 2,
            test_accuracy: 0.5,
            test_loss: 0.5,
            wall_seconds: 50.0,
        }
    }

    #[test]
    fn a_report_has_every_section_and_says_what_was_found() {
        let place = tempfile::tempdir().unwrap();
        let runs = [run(place.path(), 1, &[0.5, 0.74]), run(place.path(), 2, &[0.6, 0.75])];
        evaluate(&runs[0], &[(1, 0, 1, 0.5), (3, 1, 0, 0.9)]);
        evaluate(&runs[1], &[(0, 0, 1, 0.5), (3, 1, 0, 0.8)]);
        let mut record = claim(&[Some(0.7), Some(0.8)]);
        record.pytorch = vec![peer(1, &[(20.0, 0.5), (40.0, 0.74)])];
        let test = ImageSet::new((0..16).collect(), vec![0, 0, 1, 1], [1, 2, 2]).unwrap();
        let output = place.path().join("report");
        write(&record, &runs, Some(&test), &output).unwrap();
        let document = document(&record, &runs, Some(&test)).unwrap();
        let names: Vec<&str> = document.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, ["seeds", "curves", "time", "errors", "shared", "runs"]);
        let names: Vec<&str> = figures(&document).unwrap().into_iter().map(|(name, _)| name).collect();
        let wanted = [
            "curves-loss",
            "curves-accuracy",
            "time-accuracy",
            "time-accuracy-end",
            "seeds-confusion",
            "seeds-calibration",
            "shared-mistakes",
        ];
        assert_eq!(names, wanted);
        let markdown = fs::read_to_string(output.join("report.md")).unwrap();
        assert_eq!(markdown, markdown_document(&document));
        let found = "Found: test accuracy 75.00 ± 7.07 % (n = 2), in 25.0 ± 0.0 s from the program's start to its end. \
                     The claim holds.";
        for wanted in
            [found, "| mean ± std |", "75.00 ± 7.07", "valid, PyTorch 2.9.0, 2 threads", "kindling claim fast"]
        {
            let is_there =
                markdown.contains(wanted) || fs::read_to_string(output.join("report.html")).unwrap().contains(wanted);
            assert!(is_there, "{wanted}: {markdown}");
        }
    }

    #[test]
    fn one_seed_an_unfinished_one_and_none_still_make_a_report() {
        let place = tempfile::tempdir().unwrap();
        let text = |record: &ClaimRecord, runs: &[Run]| markdown_document(&document(record, runs, None).unwrap());
        let one = text(&claim(&[Some(0.75)]), &[run(place.path(), 1, &[0.5, 0.75])]);
        assert!(one.contains("test accuracy 75.00 % (n = 1), in 25.0 s") && one.contains("| mean ± std |"), "{one}");
        assert!(one.contains("No seed is evaluated yet") && !one.contains("PyTorch trains"), "{one}");
        let mut unfinished = claim(&[None, None]);
        unfinished.verdict.holds = None;
        let text_of_unfinished = text(&unfinished, &[run(place.path(), 2, &[0.5]), run(place.path(), 3, &[])]);
        for wanted in
            ["No seed is finished yet. The claim is not judged.", "| interrupted |", "figures/curves-loss.svg"]
        {
            assert!(text_of_unfinished.contains(wanted), "{wanted}: {text_of_unfinished}");
        }
        let nothing = document(&claim(&[]), &[], None).unwrap();
        assert_eq!(nothing.sections.len(), 1);
        assert!(figures(&nothing).unwrap().is_empty());
    }
}
