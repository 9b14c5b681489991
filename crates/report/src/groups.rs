//! Runs that differ only by their seed or fold belong together.

use std::collections::{BTreeMap, BTreeSet};

use kindling_record::{RunStatus, Setup};
use serde_json::Value;

use crate::{
    differences::labels,
    run::{Group, Run},
};

/// Puts runs that differ only by their seed or fold together, in the order in which they come.
#[must_use]
pub fn group(runs: Vec<Run>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group.runs[0].kind() == run.kind()) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { runs: vec![run], ..Group::default() }),
        }
    }
    for group in &mut groups {
        group.runs.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let mut counted: Vec<Run> = Vec::new();
        for run in std::mem::take(&mut group.runs) {
            let is_same = |last: &Run| (last.seed(), last.fold()) == (run.seed(), run.fold());
            let is_repeat = run.seed().is_some() && counted.last().is_some_and(is_same);
            let place = if is_repeat { &mut group.repeats } else { &mut counted };
            place.push(run);
        }
        group.runs = counted;
    }
    let labels = labels(&groups);
    for (group, label) in groups.iter_mut().zip(labels) {
        group.label = label;
    }
    groups
}

impl Run {
    /// What it has in common with the runs of its group. Digests are of the data and of the weights from elsewhere.
    #[allow(clippy::type_complexity)] // Only compared.
    fn kind(&self) -> (BTreeMap<String, Value>, (&str, usize), [Option<&str>; 2], Vec<Setup>) {
        let record = &self.record;
        let weights = record.initial_weights.as_ref().map(|weights| &*weights.sha256);
        let digests = [Some(&*record.dataset.sha256), weights];
        (self.shared_keys(), (&record.model, record.parameters), digests, self.setups())
    }

    /// Decides which run of a seed and fold counts: one that is over, the first to be started, the first by name.
    fn precedence(&self) -> (Option<u64>, Option<u64>, bool, &str, &str) {
        (self.seed(), self.fold(), !self.is_over(), &self.record.started, &self.record.id)
    }
}

/// Which runs count nowhere, and why, as a sentence; nothing where all count.
#[must_use]
pub fn repeats(groups: &[Group]) -> Option<String> {
    let mut names = Vec::new();
    for group in groups {
        for run in &group.repeats {
            let counted = group.runs.iter().find(|one| (one.seed(), one.fold()) == (run.seed(), run.fold()));
            let beside = counted.map_or_else(String::new, |one| format!(" beside {}", one.record.id));
            names.push(format!("{} ({}{beside})", run.record.id, run.repetition()));
        }
    }
    let each = if has_folds(groups) { "Each fold of a seed" } else { "Each seed" };
    (!names.is_empty()).then(|| format!("{each} counts once. Left out: {}.", names.join(", ")))
}

/// Whether any of the runs is a part of a cross-validation.
pub(crate) fn has_folds(groups: &[Group]) -> bool {
    groups.iter().flat_map(|group| &group.runs).any(|run| run.fold().is_some())
}

/// Of how many runs the group is, or of which folds: `3`, `n = 5 folds`, `n = 4 of 5 folds`, `n = 10 (2 seeds, 5 folds)`.
pub(crate) fn repetitions(group: &Group) -> String {
    let n = group.runs.len();
    let Some(folds) = group.runs.first().and_then(Run::folds) else { return n.to_string() };
    let seeds: BTreeSet<Option<u64>> = group.runs.iter().map(Run::seed).collect();
    match (seeds.len(), n as u64 == folds) {
        (1, true) => format!("n = {n} folds"),
        (1, false) => format!("n = {n} of {folds} folds"),
        (seeds, _) => format!("n = {n} ({seeds} seeds, {folds} folds)"),
    }
}

/// What the counts of runs in captions are of: ` folds` where the groups are cross-validations with one seed.
pub(crate) fn unit(groups: &[Group]) -> &'static str {
    let is_one = |group: &Group| repetitions(group).ends_with(" folds");
    if !groups.is_empty() && groups.iter().all(is_one) { " folds" } else { "" }
}

/// `n = 3`, or each group's number of runs where they differ, as in `n = 3, 2`; those that have none are left out.
#[must_use]
pub fn counted(counts: impl Iterator<Item = usize>) -> String {
    let mut counts: Vec<String> = counts.filter(|&n| n > 0).map(|n| n.to_string()).collect();
    if counts.windows(2).all(|pair| pair[0] == pair[1]) {
        counts.truncate(1);
    }
    format!("n = {}", counts.join(", "))
}

/// How many runs there are, and how those ended that were not finished: `3`, `3 (1 diverged)`, `n = 5 folds`.
pub(crate) fn runs_text(group: &Group) -> String {
    let mut ended: Vec<(RunStatus, usize)> = Vec::new();
    for run in group.runs.iter().filter(|run| !run.status.has_weights()) {
        match ended.iter_mut().find(|(status, _)| *status == run.status) {
            Some((_, count)) => *count += 1,
            None => ended.push((run.status, 1)),
        }
    }
    let ended: Vec<String> = ended.into_iter().map(|(status, count)| format!("{count} {status}")).collect();
    let n = repetitions(group);
    if ended.is_empty() { n } else { format!("{n} ({})", ended.join(", ")) }
}

/// A caption, and after it which runs count nowhere.
pub(crate) fn with_repeats(caption: &str, groups: &[Group]) -> String {
    std::iter::once(caption.to_owned()).chain(repeats(groups)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run_report::fixtures::{part, run};

    fn ids(runs: &[Run]) -> Vec<&str> {
        runs.iter().map(|run| run.record.id.as_str()).collect()
    }

    fn labels(groups: &[Group]) -> Vec<&str> {
        groups.iter().map(|group| group.label.as_str()).collect()
    }

    #[test]
    fn a_seed_counts_once_and_the_finished_run_first_started_is_the_one() {
        let place = tempfile::tempdir().unwrap();
        let of = |id: &str, status: &str, started: &str, seed: usize| {
            run(
                place.path(),
                id,
                json!({ "status": status, "started": started, "config": { "training": { "seed": seed } } }),
            )
        };
        let runs = [
            of("c", "failed", "2026-01-01T00:00:00Z", 1),
            of("b", "finished", "2026-01-03T00:00:00Z", 1),
            of("d", "finished", "2026-01-02T00:00:00Z", 1),
            of("a", "finished", "2026-01-02T00:00:00Z", 1),
            of("e", "interrupted", "2026-01-04T00:00:00Z", 2),
        ];
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
            let groups = group(order.map(|index| runs[index].clone()).to_vec());
            assert_eq!((groups.len(), ids(&groups[0].runs)), (1, vec!["a", "e"]));
            assert_eq!(ids(&groups[0].repeats), ["d", "b", "c"]);
            assert_eq!(groups[0].sample(|run| run.record.test.as_ref()?.get("accuracy")).unwrap().n, 2);
            let said = repeats(&groups).unwrap();
            assert!(
                said.ends_with("Left out: d (seed 1 beside a), b (seed 1 beside a), c (seed 1 beside a)."),
                "{said}"
            );
        }
        assert_eq!(repeats(&group(runs[3..].to_vec())), None);
    }

    #[test]
    fn folds_are_repetitions_and_say_how_many_of_them_there_are() {
        let place = tempfile::tempdir().unwrap();
        let of = |id: &str, seed: usize, fold: usize| {
            let config = json!({ "protocol": { "folds": 3, "fold": fold }, "training": { "seed": seed } });
            run(place.path(), id, json!({ "config": config, "started": id }))
        };
        let runs = [of("a", 1, 2), of("b", 1, 1), of("c", 1, 2), of("d", 1, 3), of("e", 2, 3)];
        let said = |runs: &[Run]| {
            let groups = group(runs.to_vec());
            assert_eq!(groups.len(), 1);
            repetitions(&groups[0])
        };
        assert_eq!(
            [said(&runs[..3]), said(&runs[..4]), said(&runs)],
            ["n = 2 of 3 folds", "n = 3 folds", "n = 4 (2 seeds, 3 folds)"]
        );
        let groups = group(runs.to_vec());
        assert_eq!(ids(&groups[0].runs), ["b", "a", "d", "e"]);
        let left_out = "Each fold of a seed counts once. Left out: c (seed 1, fold 2 beside a).";
        assert_eq!(repeats(&groups).unwrap(), left_out);
    }

    #[test]
    fn runs_of_other_setups_are_other_configurations() {
        let place = tempfile::tempdir().unwrap();
        let with = |id: &str, parts: &[Value]| run(place.path(), id, json!({ "parts": parts }));
        let fused = part("flex", "fused, AVX2", 1, "AVX2");
        let composed = part("flex", "composed", 1, "AVX2");
        let groups = group(vec![
            with("fused", std::slice::from_ref(&fused)),
            with("copy", &[fused.clone(), fused.clone()]),
            with("composed", std::slice::from_ref(&composed)),
            with("elsewhere", &[part("flex", "composed", 1, "AVX-512")]),
            with("shared", &[part("flex", "composed", 2, "AVX2")]),
            with("moved", &[fused, composed]),
        ]);
        assert_eq!(groups.iter().map(|group| group.runs.len()).collect::<Vec<_>>(), [1; 5]);
        assert_eq!(ids(&groups[0].repeats), ["fused"]);
        // They differ in kernels, devices and instructions: their runs' names tell them apart.
        assert_eq!(labels(&groups), ["copy", "composed", "elsewhere", "shared", "moved"]);
    }

    #[test]
    fn the_hosts_instructions_do_not_divide_a_gpus_runs_and_a_run_that_moved_is_a_group_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let on = |id: &str, seed: usize, parts: &[Value]| {
            run(
                place.path(),
                id,
                json!({ "backend": "wgpu", "parts": parts, "config": { "training": { "seed": seed } } }),
            )
        };
        let [one, other] = ["AVX2", "AVX-512"].map(|instructions| part("wgpu", "composed", 1, instructions));
        let groups = group(vec![on("a", 1, &[one]), on("b", 2, std::slice::from_ref(&other))]);
        assert_eq!((labels(&groups), groups[0].runs.len()), (vec!["mlp"], 2));
        let parts = [part("flex", "composed", 1, "AVX-512"), other];
        let moved = group(vec![on("c", 1, &parts), on("copy", 1, &parts), on("d", 2, &parts)]);
        assert_eq!(labels(&moved), ["seed 1", "seed 2"]);
        assert_eq!((ids(&moved[0].runs), ids(&moved[0].repeats)), (vec!["c"], vec!["copy"]));
    }

    #[test]
    fn sets_of_one_name_are_told_apart_by_their_digests() {
        let place = tempfile::tempdir().unwrap();
        let of = |id: &str, name: &str, sha256: &str| {
            let config = json!({ "data": { "name": name } });
            run(place.path(), id, json!({ "config": config, "dataset": { "name": name, "sha256": sha256 } }))
        };
        let two = [of("a", "idx", "0123456789"), of("b", "idx", "aaaabbbbcc")];
        assert_eq!(labels(&group(two.to_vec())), ["idx 01234567", "idx aaaabbbb"]);
        let three = group(vec![two[0].clone(), of("c", "synthetic", "cc")]);
        assert_eq!(labels(&three), ["idx", "synthetic"]);
    }
}
