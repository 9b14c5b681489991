//! How runs were made, so that they can be made again.

use std::collections::BTreeSet;

use kindling_record::{PartRecord, RunRecord};
use serde_json::Value;

use crate::{
    document::{Block, TableBlock},
    groups::{Group, Run, plain, with_repeats},
    run_report::summary::{NONE, marked_label, seed},
    table::{duration, grouped},
};

/// The groups' runs with backend, device, date and time; what their configs differ in; machines, versions and data;
/// and for each group the command and the config that train it again.
pub(crate) fn how_it_was_run(groups: &[Group]) -> Vec<Block> {
    let runs: Vec<&Run> = groups.iter().flat_map(|group| &group.runs).collect();
    if runs.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Table(runs_block(groups))];
    blocks.extend(differences(groups).map(Block::Table));
    blocks.push(Block::List(circumstances(&runs)));
    blocks.extend(groups.iter().filter_map(again));
    blocks
}

fn runs_block(groups: &[Group]) -> TableBlock {
    let header = ["run", "configuration", "seed", "status", "backend", "kernels", "device", "started", "time"];
    let mut rows = Vec::new();
    for group in groups {
        rows.extend(group.runs.iter().chain(&group.repeats).map(|run| run_row(&marked_label(group), run)));
    }
    let caption = "Every run of this report. Starts are in UTC; times are whole runs, over all their parts.";
    TableBlock {
        caption: with_repeats(caption, groups),
        header: header.map(str::to_owned).to_vec(),
        right: vec![2, 8],
        rows,
    }
}

fn run_row(label: &str, run: &Run) -> Vec<String> {
    let record = &run.record;
    // A run may have been resumed elsewhere.
    let parts = |what: fn(&PartRecord) -> String| {
        let mut parts: Vec<String> = record.parts.iter().map(what).collect();
        parts.dedup();
        parts.join(", then ")
    };
    vec![
        format!("`{}`", record.id),
        label.to_owned(),
        seed(record),
        run.status.to_string(),
        parts(|part| part.backend.clone()),
        parts(|part| part.kernels.clone()),
        parts(|part| match part.devices {
            1 => part.device.clone(),
            devices => format!("{} ({devices} devices)", part.device),
        }),
        record.started.clone(),
        duration(record.seconds),
    ]
}

/// The keys of the configs, without the seed, whose values are not the same in all groups.
fn differences(groups: &[Group]) -> Option<TableBlock> {
    let configs: Vec<_> =
        groups.iter().filter_map(|group| Some((marked_label(group), &group.runs.first()?.record.config))).collect();
    let keys: BTreeSet<&String> = configs.iter().flat_map(|(_, config)| config.keys()).collect();
    let (_, first) = configs.first()?;
    let differs = |key: &str| key != "seed" && configs.iter().any(|(_, config)| config.get(key) != first.get(key));
    let keys: Vec<&String> = keys.into_iter().filter(|key| differs(key)).collect();
    if keys.is_empty() {
        return None;
    }
    let value = |value: Option<&Value>| value.filter(|value| !value.is_null()).map_or_else(|| NONE.to_owned(), plain);
    let rows = configs.iter().map(|(label, config)| {
        std::iter::once(label.clone()).chain(keys.iter().map(|key| value(config.get(key.as_str())))).collect::<Vec<_>>()
    });
    Some(TableBlock {
        caption: "What the configs differ in, the seeds aside.".to_owned(),
        header: std::iter::once("configuration".to_owned()).chain(keys.iter().map(|key| format!("`{key}`"))).collect(),
        right: Vec::new(),
        rows: rows.collect(),
    })
}

/// Machines, versions, data and time, each said once.
fn circumstances(runs: &[&Run]) -> Vec<String> {
    let distinct = |what: &str, line: fn(&RunRecord) -> String| {
        let lines: BTreeSet<String> = runs.iter().map(|run| line(&run.record)).collect();
        format!("{what}: {}", lines.into_iter().collect::<Vec<_>>().join("; "))
    };
    let seconds: f64 = runs.iter().map(|run| run.record.seconds).sum();
    vec![
        distinct("Machine", |record| {
            let machine = &record.machine;
            let processor = machine.processor.as_deref().unwrap_or("unknown processor");
            format!("{}, {processor}, {} threads", machine.platform, machine.threads)
        }),
        distinct("Versions", |record| {
            record.versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ")
        }),
        distinct("Data", |record| {
            let data = &record.dataset;
            let [train, valid, test] = [data.train, data.valid, data.test].map(grouped);
            format!(
                "{}, protocol `{}`, {train} images to train, {valid} to validate, {test} to test; SHA-256 `{}`",
                data.name, data.protocol, data.sha256
            )
        }),
        format!("Time of the runs that count: {}", duration(seconds)),
    ]
}

/// How to train a group again: the command, and the config that it reads.
fn again(group: &Group) -> Option<Block> {
    let record = &group.runs.first()?.record;
    let mut words = vec![format!("kindling train --config config.json --backend {}", record.backend)];
    if let Some(part) = record.parts.last() {
        words.extend((part.devices > 1).then(|| format!("--devices {}", part.devices)));
        words.extend((part.kernels == "composed").then(|| "--kernels composed".to_owned()));
    }
    words.extend((record.backend == "remote").then(|| "--remote URL".to_owned()));
    words.extend((record.dataset.name == "idx").then(|| "--data-dir DIR".to_owned()));
    let others: Vec<String> = group.runs.iter().skip(1).map(|run| format!("`--seed {}`", seed(&run.record))).collect();
    let text = if others.is_empty() {
        "With this as `config.json`:".to_owned()
    } else {
        format!("The other runs with {}. With this as `config.json`:", others.join(", "))
    };
    let config = format!("{:#}", Value::Object(record.config.clone()));
    let title = format!("How to train {} again", marked_label(group));
    Some(Block::Details(title, vec![Block::Code(words.join(" ")), Block::Paragraph(text), Block::Code(config)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{part, run},
    };

    #[test]
    fn every_run_is_listed_with_what_it_takes_to_make_it_again() {
        let place = tempfile::tempdir().unwrap();
        let moved = json!({
            "config": { "learning_rate": 0.01 },
            "backend": "ndarray",
            "parts": [part("flex", "fused, AVX2", 1, "AVX2"), part("ndarray", "composed", 1, "AVX2")],
        });
        let groups = group(vec![
            run(place.path(), "mlp-1", json!({})),
            run(place.path(), "mlp-2", json!({ "config": { "seed": 2 } })),
            run(place.path(), "mlp-3", moved),
        ]);
        let blocks = how_it_was_run(&groups);
        let [
            Block::Table(runs),
            Block::Table(differences),
            Block::List(lines),
            Block::Details(_, first),
            Block::Details(_, second),
        ] = &blocks[..]
        else {
            panic!("{blocks:?}")
        };
        assert_eq!(runs.rows.len(), 3);
        assert!(runs.rows.iter().all(|row| row.len() == runs.header.len()));
        assert_eq!(runs.rows[2][4..6], ["flex, then ndarray", "fused, AVX2, then composed"]);
        assert_eq!(differences.header, ["configuration", "`learning_rate`"]);
        assert_eq!((differences.rows[0][1].as_str(), differences.rows[1][1].as_str()), ("0.1", "0.01"));
        assert!(lines[0].contains("a processor, 2 threads") && lines[1].contains("burn 0.22.1, kindling 0.1.0"));
        assert_eq!(lines[3], "Time of the runs that count: 2 min 00 s");
        let [Block::Code(command), Block::Paragraph(others), Block::Code(config)] = &first[..] else {
            panic!("{first:?}")
        };
        assert_eq!(command, "kindling train --config config.json --backend flex");
        assert!(others.contains("`--seed 2`"), "{others}");
        assert_eq!(serde_json::from_str::<Value>(config).unwrap()["learning_rate"], json!(0.1));
        assert!(
            matches!(&second[0], Block::Code(command) if command.ends_with("--backend ndarray --kernels composed"))
        );
    }

    #[test]
    fn no_runs_have_nothing_to_say() {
        let empty = Group { label: "mlp".to_owned(), ..Group::default() };
        assert!(how_it_was_run(&[]).is_empty() && how_it_was_run(&[empty]).is_empty());
    }
}
