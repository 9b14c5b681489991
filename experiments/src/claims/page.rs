//! A claim's record as a page in Markdown.

use kindling_report::{NONE, Run, Sample, duration, grouped, markdown, median, percent};
use kindling_workbench::sweep::Planned;

use super::{ClaimRecord, PeerRecord, SeedRecord};

/// How a claim is measured, a sentence each.
pub(crate) fn protocol(seeds: &[(u64, Planned, Option<Run>)]) -> Vec<String> {
    let monitor = seeds.first().map_or("valid/loss", |(_, planned, _)| planned.config.protocol.monitor());
    let metric = monitor.replace("valid/", "");
    vec![
        "A twelfth of each class of the training images, drawn by the seed, is the validation split; no network trains on \
         its own"
            .to_owned(),
        format!("The epoch with the best {metric} on the validation split is tested; the test split is read once, after that"),
        "How the options were chosen, and by which split, is in docs/claims.md; no seed is left out".to_owned(),
        "Each seed trains in a process of its own, one after the other".to_owned(),
        "The wall time counts from the program's start to its end, with the test's images and the written weights; of a run \
         that was interrupted it is the sum over its parts"
            .to_owned(),
        "The data set's files are on disk when the time starts, and no kernel is warm".to_owned(),
        "Means are over seeds, ± the standard deviation of a sample (divisor n - 1)".to_owned(),
    ]
}

/// Whether it holds, in a sentence.
pub(crate) fn verdict(record: &ClaimRecord) -> String {
    let name = &record.name;
    match record.verdict.holds {
        _ if !record.changed.is_empty() => format!("{name} is not judged: changed: {}", record.changed.join(", ")),
        Some(true) => format!("{name} holds"),
        Some(false) => format!("{name} does not hold"),
        None => format!("{name} is not complete"),
    }
}

/// The figures on record in a line.
pub(crate) fn in_a_line(record: &ClaimRecord) -> String {
    let accuracy = record.test_accuracy.map(|figures| figures.percent());
    let mut parts: Vec<String> = accuracy.into_iter().collect();
    parts.extend(record.wall_seconds.map(|figures| format!("{} a seed", duration(figures.mean))));
    parts.extend(record.parameters.map(|count| format!("{} parameters", grouped(count))));
    let processors =
        record.machines.iter().filter_map(|machine| machine.processor.as_ref().map(|name| (name, machine)));
    parts.extend(processors.take(1).map(|(name, machine)| format!("{} threads of {name}", machine.threads)));
    parts.push(verdict(record));
    parts.join("; ")
}

/// The whole page.
pub(crate) fn page(record: &ClaimRecord) -> String {
    let bullets = |lines: &[String]| lines.iter().fold(String::new(), |text, line| text + "- " + line + ".\n");
    let mut blocks = vec![
        format!("# {}\n", record.name),
        format!("{}.\n", record.claimed),
        format!(
            "**{}.** Repeat it, or resume what is not finished, with:\n\n    {}\n",
            verdict(record),
            record.command
        ),
        bullets(&record.verdict.reasons),
        figures(record),
        "## Every seed\n".to_owned(),
        seeds(record),
    ];
    if !record.pytorch.is_empty() {
        blocks.push(format!("## PyTorch beside it\n\n{}", pytorch(record)));
    }
    blocks.push(format!("## How it was measured\n\n{}", bullets(&record.protocol)));
    let machines = record.machines.iter().map(|machine| {
        let seeds: Vec<String> = machine.seeds.iter().map(ToString::to_string).collect();
        format!("{machine}; seeds {}", seeds.join(", "))
    });
    let versions: Vec<String> = record.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut lines: Vec<String> = machines.collect();
    lines.push(format!("{}; written {}", versions.join(", "), record.written));
    lines.extend(record.dataset_sha256.iter().map(|digest| format!("The images and labels have SHA-256 `{digest}`")));
    blocks.push(format!("## Machine and versions\n\n{}", bullets(&lines)));
    let config = serde_json::to_string_pretty(&record.config).unwrap_or_default();
    blocks.push(format!(
        "## Config\n\nThe recipe with its reasons is `experiments/recipes/{}.toml`. Complete, with the first seed:\n\n\
         ```json\n{config}\n```\n",
        record.name
    ));
    blocks.join("\n")
}

/// The means.
fn figures(record: &ClaimRecord) -> String {
    let with = |decimals| move |figures: &Sample| figures.fixed(decimals);
    let rows = [
        ("test accuracy", record.test_accuracy.as_ref().map(Sample::percent)),
        ("test loss", record.test_loss.as_ref().map(with(4))),
        ("wall time, s", record.wall_seconds.as_ref().map(with(1))),
        ("in training steps, s", record.training_seconds.as_ref().map(with(1))),
        ("parameters", record.parameters.map(grouped)),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value.unwrap_or_else(|| NONE.to_owned())]);
    let finished = format!("mean over {} finished seeds", record.finished());
    markdown(&["", finished.as_str()], &[1], rows) + "\n"
}

/// A row for each seed.
fn seeds(record: &ClaimRecord) -> String {
    let header = [
        "seed",
        "status",
        "test accuracy",
        "test loss",
        "best epoch",
        "valid accuracy there",
        "epochs",
        "training s",
        "wall s",
        "weights' SHA-256",
    ];
    let share = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), percent);
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.decimals$}"))
    };
    let row = |seed: &SeedRecord| {
        let wall = number(seed.wall_seconds, 1);
        vec![
            seed.seed.to_string(),
            seed.status.clone(),
            share(seed.test_accuracy),
            number(seed.test_loss, 4),
            seed.best_epoch.map_or_else(|| NONE.to_owned(), |epoch| epoch.to_string()),
            share(seed.valid_accuracy),
            format!("{} of {}", seed.epochs, seed.planned_epochs),
            number(seed.training_seconds, 1),
            if seed.wall_is_measured { wall } else { format!("about {wall}") },
            seed.weights_sha256.as_ref().map_or_else(|| NONE.to_owned(), |digest| format!("`{digest}`")),
        ]
    };
    markdown(&header, &[0, 2, 3, 4, 5, 6, 7, 8], record.seeds.iter().map(row)) + "\n"
}

/// PyTorch's figures, and its time as a multiple of ours.
fn pytorch(record: &ClaimRecord) -> String {
    let peers = &record.pytorch;
    let accuracy = Sample::of(peers.iter().map(|peer| peer.test_accuracy)).map(|sample| sample.percent());
    let wall = Sample::of(peers.iter().map(|peer| peer.wall_seconds)).map(|sample| sample.fixed(1));
    let ratio = |peer: &PeerRecord| {
        let ours = record.seeds.iter().find(|seed| seed.seed == peer.seed && seed.wall_is_measured)?.wall_seconds?;
        Some(peer.wall_seconds / ours)
    };
    let ratios: Vec<f64> = peers.iter().filter_map(ratio).collect();
    let pairs = if ratios.len() == 1 { "pair" } else { "pairs" };
    let over = format!("(median over {} {pairs})", ratios.len());
    let ratio = if ratios.is_empty() {
        String::new()
    } else {
        format!(" PyTorch takes {:.2} times as long as Kindling {over}.", median(ratios))
    };
    let torch = peers.first().map_or(NONE, |peer| &peer.torch);
    let threads = peers.first().map_or(0, |peer| peer.threads);
    format!(
        "PyTorch {torch} with {threads} threads, the same config, alternating with the seeds above: test accuracy {}, \
         seconds of a seed {}.{ratio}\n",
        accuracy.unwrap_or_default(),
        wall.unwrap_or_default()
    )
}
