//! What configurations are, and how their runs were made, so that they can be made again.

use std::collections::BTreeSet;

use kindling_record::{PartRecord, RunRecord, RunStatus};
use serde_json::Value;

use crate::{
    differences::{Key, keys},
    document::{Block, TableBlock},
    groups::{has_folds, with_repeats},
    run::{FOLD, Group, Run, SEED, flat, is_name, key, plain},
    table::{NONE, duration, grouped, samples},
};

/// Data sets that are read from a directory of the user's.
const OWN_FILES: [&str; 5] = ["folder", "csv", "cifar", "parquet", "idx"];

/// What tells the groups apart, in one table with the label of each, and below it what they have in common.
#[must_use]
pub fn configurations(groups: &[Group]) -> Vec<Block> {
    let keys = keys(groups);
    key_blocks(groups, &keys.different, &keys.common)
}

/// A table of the keys that differ, and a list of the common ones by their sections.
pub(crate) fn key_blocks(groups: &[Group], different: &[Key], common: &[Key]) -> Vec<Block> {
    let mut blocks = Vec::new();
    if !different.is_empty() {
        blocks.push(Block::Table(key_table(groups, different)));
    }
    let mut sections: Vec<(&str, Vec<String>)> = Vec::new();
    for key in common {
        let (section, name) = key.path.split_once('.').unwrap_or(("run", &key.path));
        let line = format!("{name} `{}`", key.values.iter().flatten().next().map_or(NONE, String::as_str));
        match sections.iter_mut().find(|(known, _)| *known == section) {
            Some((_, lines)) => lines.push(line),
            None => sections.push((section, vec![line])),
        }
    }
    if !sections.is_empty() {
        blocks.extend((groups.len() > 1).then(|| Block::Paragraph("All have in common:".to_owned())));
        let lines = sections.into_iter().map(|(section, lines)| format!("{section}: {}", lines.join(", ")));
        blocks.push(Block::List(lines.collect()));
    }
    blocks
}

/// Configurations by keys, or keys by configurations where there are more of them: a page is higher than wide.
fn key_table(groups: &[Group], different: &[Key]) -> TableBlock {
    let labels = groups.iter().map(Group::marked_label);
    let paths = different.iter().map(|key| format!("`{}`", key.path));
    let cell = |key: &Key, group: usize| key.values[group].clone().unwrap_or_else(|| NONE.to_owned());
    let (first, header, rows): (_, Vec<String>, Vec<Vec<String>>) = if different.len() > groups.len() {
        let rows = different
            .iter()
            .zip(paths)
            .map(|(key, path)| std::iter::once(path).chain((0..groups.len()).map(|group| cell(key, group))).collect());
        ("key", labels.collect(), rows.collect())
    } else {
        let rows = labels
            .enumerate()
            .map(|(group, label)| std::iter::once(label).chain(different.iter().map(|key| cell(key, group))).collect());
        let rows = rows.collect();
        ("configuration", paths.collect(), rows)
    };
    let aside = if has_folds(groups) { "seeds and folds" } else { "seeds" };
    TableBlock {
        caption: format!("What the configurations differ in, the {aside} aside."),
        header: std::iter::once(first.to_owned()).chain(header).collect(),
        right: Vec::new(),
        rows,
    }
}

/// The groups' runs with seed, fold, date and time; machines, versions and data; and the config and the commands that train
/// them again with `program`.
#[must_use]
pub fn how_it_was_run(groups: &[Group], program: &str) -> Vec<Block> {
    let runs: Vec<&Run> = groups.iter().flat_map(|group| &group.runs).collect();
    if runs.is_empty() {
        return Vec::new();
    }
    let lines = circumstances(&runs).into_iter().chain(transfers(groups));
    let mut blocks = vec![Block::Table(runs_block(groups)), Block::List(lines.collect())];
    blocks.extend(again(groups, program));
    blocks
}

fn runs_block(groups: &[Group]) -> TableBlock {
    let header = ["run", "configuration", "seed", "fold", "status", "backend", "kernels", "device", "started", "time"];
    let mut rows = Vec::new();
    for group in groups {
        rows.extend(group.runs.iter().chain(&group.repeats).map(|run| run_row(&group.label, run)));
    }
    let mut table = TableBlock { header: header.map(str::to_owned).to_vec(), rows, ..TableBlock::default() };
    // What all runs have is said once.
    let mut common = Vec::new();
    for column in (3..8).rev() {
        if let [first, others @ ..] = &table.rows[..]
            && others.iter().all(|row| row[column] == first[column])
        {
            common.extend((first[column] != NONE).then(|| format!("{} {}", table.header[column], first[column])));
            table.header.remove(column);
            for row in &mut table.rows {
                row.remove(column);
            }
        }
    }
    common.reverse();
    let common = if common.is_empty() { String::new() } else { format!(" All have {}.", common.join(", ")) };
    let caption =
        format!("Every run of this report.{common} Starts are in UTC; times are whole runs, over all their parts.");
    let is_number = |column: &usize| ["seed", "fold", "time"].contains(&table.header[*column].as_str());
    table.right = (0..table.header.len()).filter(is_number).collect();
    table.caption = with_repeats(&caption, groups);
    table
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
        number(run.seed()),
        number(run.fold()),
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

/// A seed or a fold as tables show it.
fn number(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// The weights that the groups' runs started from, and the parameters that they left as they were.
fn transfers(groups: &[Group]) -> Vec<String> {
    let named = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut lines = Vec::new();
    for group in groups {
        let Some(record) = group.runs.first().map(|run| &run.record) else { continue };
        let whose = if groups.len() > 1 { format!(" of {}", group.label) } else { String::new() };
        if let Some(weights) = &record.initial_weights {
            let [fresh, unused] = [&weights.fresh, &weights.unused].map(|names| named(names));
            let what = if record.status == RunStatus::Imported { "Weights" } else { "Starting weights" };
            lines.push(format!(
                "{what}{whose}: {} of the tensors are from `{}`, SHA-256 `{}`{}{}",
                grouped(weights.taken),
                weights.source,
                weights.sha256,
                if fresh.is_empty() { fresh } else { format!("; drawn from the seed: {fresh}") },
                if unused.is_empty() { unused } else { format!("; not used of the file: {unused}") },
            ));
        }
        lines.extend((!record.frozen.is_empty()).then(|| format!("Frozen{whose}: {}", named(&record.frozen))));
    }
    lines
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
            let protocol = data.images.as_ref().map(|images| format!(", protocol `{}`", images.protocol));
            format!(
                "{}{}, {train} {} to train, {valid} to validate, {test} to test; SHA-256 `{}`",
                data.name,
                protocol.unwrap_or_default(),
                samples(record),
                data.sha256
            )
        }),
        format!("Time of the runs that count: {}", duration(seconds)),
    ]
}

/// How to train the groups again: the config of the first, and a command for each with what it has of its own.
fn again(groups: &[Group], program: &str) -> Option<Block> {
    let first = &groups.iter().find_map(|group| group.runs.first())?.record;
    if first.config.is_empty() {
        return None;
    }
    let config = format!("{:#}", Value::Object(first.config.clone()));
    // Only image classifiers are trained by a command.
    let mut blocks = Vec::new();
    if first.dataset.images.is_some() {
        let commands = groups.iter().filter_map(|group| command(group, first, program));
        blocks.push(Block::Code(commands.collect::<Vec<_>>().join("\n")));
        blocks.push(Block::Paragraph("With this as `config.json`:".to_owned()));
    }
    blocks.push(Block::Code(config));
    Some(Block::Details("How to train them again".to_owned(), blocks))
}

/// The command that trains a group's first run, and above it the seeds and folds of all.
fn command(group: &Group, base: &RunRecord, program: &str) -> Option<String> {
    let record = &group.runs.first()?.record;
    let mut words = vec![format!("{program} train --config config.json --backend {}", record.backend)];
    if let Some(part) = record.parts.last() {
        words.extend((part.devices > 1).then(|| format!("--devices {}", part.devices)));
        words.extend((part.kernels == "composed").then(|| "--kernels composed".to_owned()));
    }
    words.extend((record.backend == "remote").then(|| "--remote URL".to_owned()));
    let is_local = key(record, "data.name").is_some_and(|name| OWN_FILES.iter().any(|own| name == own));
    words.extend(is_local.then(|| "--data-dir DIR".to_owned()));
    let (base, own) = (flat(&base.config), flat(&record.config));
    // Another variant of a section leaves nothing of the config's own.
    let is_other_variant = |path: &str| {
        let name = path.rsplit_once('.').map(|(section, _)| format!("{section}.name"));
        name.is_some_and(|name| base.get(&name) != own.get(&name))
    };
    let mut sets: Vec<(&String, &Value)> =
        own.iter().filter(|(path, value)| base.get(*path) != Some(value) || is_other_variant(path)).collect();
    sets.sort_by_key(|(path, _)| !is_name(path));
    let fold = group.runs[0].fold();
    sets.retain(|(path, _)| *path != SEED && (*path != FOLD || fold.is_none()));
    words.extend(sets.into_iter().map(|(path, value)| set(path, value)));
    let all = |what: &str, values: BTreeSet<Option<u64>>| {
        let values: Vec<String> = values.into_iter().map(number).collect();
        if values.len() > 1 { format!(", {what} {}", values.join(", ")) } else { String::new() }
    };
    let seeds = all("seeds", group.runs.iter().map(Run::seed).collect());
    let folds = all("folds", group.runs.iter().map(Run::fold).collect());
    words.push(format!("--seed {}", number(group.runs[0].seed())));
    words.extend(fold.map(|fold| format!("--fold {fold}")));
    Some(format!("# {}{seeds}{folds}\n{}", group.label, words.join(" ")))
}

/// A flag that gives a key a value, for a shell.
fn set(path: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| item.get("name").is_some()) => {
            items.iter().map(item).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let is_safe = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./+:=,".contains(c)) && !text.is_empty();
    let text = if is_safe { text } else { format!("'{}'", text.replace('\'', r"'\''")) };
    format!("--set {path}={text}")
}

/// An item of a list that has a name and parameters, as it is typed: `crop:edge=reflect:padding=4`.
fn item(item: &Value) -> String {
    let parameters = item.as_object().into_iter().flatten().filter(|(key, _)| *key != "name");
    let parameters = parameters.map(|(key, value)| format!(":{key}={}", plain(value)));
    plain(item) + &parameters.collect::<String>()
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
            "config": {
                "optimizer": { "name": "adam", "learning_rate": 0.1, "beta_1": 0.9 },
                "training": { "clip_norm": 1.5 },
            },
            "backend": "ndarray",
            "parts": [part("flex", "fused, AVX2", 1, "AVX2"), part("ndarray", "composed", 1, "AVX2")],
        });
        let groups = group(vec![
            run(place.path(), "mlp-1", json!({})),
            run(place.path(), "mlp-2", json!({ "config": { "training": { "seed": 2 } } })),
            run(place.path(), "mlp-3", moved),
        ]);
        let blocks = how_it_was_run(&groups, "birds");
        let [Block::Table(runs), Block::List(lines), Block::Details(_, again)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        // The status and the device are the same for all.
        assert_eq!(runs.header, ["run", "configuration", "seed", "backend", "kernels", "started", "time"]);
        assert!(runs.caption.contains("All have status finished, device a processor, 2 threads."), "{}", runs.caption);
        assert_eq!((runs.rows.len(), runs.right.as_slice()), (3, &[2, 6][..]));
        assert_eq!(runs.rows[2][3..5], ["flex, then ndarray", "fused, AVX2, then composed"]);
        assert!(lines[0].contains("a processor, 2 threads") && lines[1].contains("burn 0.22.1, kindling 0.1.0"));
        assert_eq!(lines[3], "Time of the runs that count: 2 min 00 s");
        let [Block::Code(commands), Block::Paragraph(_), Block::Code(config)] = &again[..] else { panic!("{again:?}") };
        let lines: Vec<&str> = commands.lines().collect();
        assert!(lines[0].starts_with("# ") && lines[0].ends_with(", seeds 1, 2"), "{commands}");
        assert_eq!(lines[1], "birds train --config config.json --backend flex --seed 1");
        // Of another optimizer nothing is taken from the first config, the equal learning rate included.
        let expected = "birds train --config config.json --backend ndarray --kernels composed \
                        --set optimizer.name=adam --set optimizer.beta_1=0.9 --set optimizer.learning_rate=0.1 \
                        --set training.clip_norm=1.5 --seed 1";
        assert_eq!(lines[3], expected);
        assert_eq!(serde_json::from_str::<Value>(config).unwrap()["optimizer"]["learning_rate"], json!(0.1));
    }

    #[test]
    fn folds_and_the_weights_that_runs_start_from_are_said() {
        let place = tempfile::tempdir().unwrap();
        let of = |fold: usize| {
            let changes = json!({
                "config": { "data": { "name": "folder" }, "protocol": { "folds": 2, "fold": fold } },
                "frozen": ["conv1.weight"],
                "initial_weights": {
                    "source": "a.pt", "sha256": "00ff", "taken": 3, "fresh": ["fc.weight"], "unused": [],
                },
            });
            run(place.path(), &format!("mlp-fold-{fold}"), changes)
        };
        let blocks = how_it_was_run(&group(vec![of(1), of(2)]), "birds");
        let [Block::Table(runs), Block::List(lines), Block::Details(_, again)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!(
            (&runs.header[2..4], &runs.rows[1][2..4]),
            (&["seed", "fold"].map(str::to_owned)[..], &["1", "2"].map(str::to_owned)[..])
        );
        let weights =
            "Starting weights: 3 of the tensors are from `a.pt`, SHA-256 `00ff`; drawn from the seed: `fc.weight`";
        assert_eq!(lines[4..], [weights, "Frozen: `conv1.weight`"]);
        let Block::Code(commands) = &again[0] else { panic!("{again:?}") };
        assert!(commands.starts_with("# mlp, folds 1, 2\n"), "{commands}");
        assert!(commands.ends_with("--backend flex --data-dir DIR --seed 1 --fold 1"), "{commands}");
    }

    #[test]
    fn what_differs_is_in_one_table_and_what_is_common_is_said_once() {
        let place = tempfile::tempdir().unwrap();
        let rate = |id: &str, rate: f64| {
            run(place.path(), id, json!({ "config": { "optimizer": { "learning_rate": rate } } }))
        };
        let groups = group(vec![rate("a", 0.1), rate("b", 0.01), rate("c", 0.001)]);
        let blocks = configurations(&groups);
        let [Block::Table(table), Block::Paragraph(title), Block::List(common)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!((table.header[1].as_str(), title.as_str()), ("`optimizer.learning_rate`", "All have in common:"));
        assert_eq!(table.rows[1], ["learning rate 0.01", "0.01"]);
        assert_eq!(common[0], "network: name `mlp`, hidden `512+512`");
        assert!(!common.concat().contains("learning_rate") && !common.concat().contains("seed"), "{common:?}");
        // More keys than configurations: they are the rows.
        let config = json!({ "network": { "name": "cnn", "hidden": 128 }, "training": { "epochs": 9 } });
        let unlike = json!({ "model": "cnn", "config": config });
        let two = group(vec![rate("d", 0.1), run(place.path(), "e", unlike)]);
        let Block::Table(table) = &configurations(&two)[0] else { panic!() };
        assert_eq!(table.header, ["key", "mlp", "cnn"]);
        assert_eq!(table.rows[0], ["`network.name`", "mlp", "cnn"]);
    }

    #[test]
    fn values_are_set_as_they_are_typed() {
        let crop = json!([{ "name": "flip", "probability": 0.5 }, { "name": "crop", "padding": 4, "edge": "reflect" }]);
        let expected = "--set data.augment=flip:probability=0.5,crop:edge=reflect:padding=4";
        assert_eq!(set("data.augment", &crop), expected);
        assert_eq!(set("network.hidden", &json!([512, 64])), "--set network.hidden='[512,64]'");
        assert_eq!(set("training.weights", &json!("my runs/a.pt")), "--set training.weights='my runs/a.pt'");
    }

    #[test]
    fn no_runs_have_nothing_to_say() {
        let empty = Group { label: "mlp".to_owned(), ..Group::default() };
        assert!(how_it_was_run(&[], "kindling").is_empty() && how_it_was_run(&[empty], "").is_empty());
    }
}
