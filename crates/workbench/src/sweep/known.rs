//! The runs of a plan that are there already.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use kindling_classification::check_data;
use kindling_config::{Config, Partial};
use kindling_record::{RecordError, RunStatus, Setup, list_runs};
use kindling_report::Run;
use kindling_training::weights;

use super::Planned;
use crate::{arguments::PlaceArguments, commands::train::with_weights, data::DataSets, output::notice};

/// The plan with the files of weights where its configs name runs that they are to come from.
pub(crate) fn with_weights_of_runs(plan: &[Planned], place: &PlaceArguments) -> Result<Vec<Planned>> {
    let resolved = plan
        .iter()
        .cloned()
        .map(|Planned { name, config }| Ok(Planned { name, config: with_weights(config, &place.runs_dir.path)? }));
    resolved.collect()
}

/// Keeps the runs of one setup like `wanted`: the most frequent one; of several, `wanted` itself.
pub(super) fn keep_alike(known: &mut Vec<(Config, Run)>, wanted: &Setup) {
    let setups: Vec<Vec<Setup>> = known.iter().map(|(_, run)| run.setups()).collect();
    let count = |one: &&Vec<Setup>| (setups.iter().filter(|other| other == one).count(), **one == [wanted.clone()]);
    let alike = setups.iter().filter(|setups| matches!(&setups[..], [one] if one.is_like(wanted)));
    let kept = alike.max_by_key(count).cloned();
    known.retain(|(_, run)| Some(run.setups()) == kept);
    if let Some([kept]) = kept.as_deref().filter(|kept| **kept != [wanted.clone()]) {
        let [_, kernels, _, instructions] = kept.in_words();
        notice(format_args!("these runs are from a processor with other instructions: {kernels} {instructions}"));
    }
}

/// The run of this config that is over.
pub(super) fn over<'a>(known: &'a [(Config, Run)], config: &Config) -> Option<&'a Run> {
    known.iter().find(|(other, run)| other == config && run.is_over()).map(|(_, run)| run)
}

/// The runs of the plan's configs that were made with the same data and from the same weights, in any setup;
/// `on_damaged` is called with each record that cannot be read.
pub(super) fn known_runs(
    plan: &[Planned],
    data: &mut DataSets<'_>,
    place: &PlaceArguments,
    mut on_damaged: impl FnMut(RecordError),
) -> Result<Vec<(Config, Run)>> {
    let registry = data.workbench().registry();
    let mut known = Vec::new();
    // Of weights to start from, the config has the path alone.
    let mut digests = BTreeMap::<String, String>::new();
    for path in plan.iter().filter_map(|planned| planned.config.training.weights.as_ref()) {
        if !digests.contains_key(path) {
            digests.insert(path.clone(), weights::digest(Path::new(path))?);
        }
    }
    for (directory, record) in list_runs(&place.runs_dir.path)? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                on_damaged(error);
                continue;
            }
        };
        // One of another version, or of another program's networks, is none that could be asked for.
        let read = Partial::from_object(record.config.clone()).and_then(|partial| partial.resolve(&registry));
        let Ok(config) = read else { continue };
        // One that was imported was not trained.
        if record.status == RunStatus::Imported || !plan.iter().any(|planned| planned.config == config) {
            continue;
        }
        let found = record.initial_weights.as_ref().map(|weights| &weights.sha256);
        if config.training.weights.as_ref().and_then(|path| digests.get(path)) != found {
            continue;
        }
        // Which directory a set is read from does not stand in the config; these are the same in any.
        let is_fixed = matches!(config.data.name.as_str(), "fashion-mnist" | "synthetic");
        if !is_fixed && !data.get(&config.data).is_ok_and(|data| check_data(&record, data).is_ok()) {
            continue;
        }
        let status = directory.status(&record);
        known.push((config, Run { directory, record, status }));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Workbench,
        arguments::{DeviceArguments, RunsDirectory},
        fixtures,
    };

    #[test]
    fn runs_from_weights_that_were_overwritten_are_none_of_the_plans() {
        let runs = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("best.pt");
        std::fs::write(&path, "old weights").unwrap();
        let mut config = fixtures::config("mlp", 1);
        config["training"]["weights"] = path.to_str().unwrap().into();
        let sha256 = weights::digest(&path).unwrap();
        let initial = json!({ "source": path, "sha256": sha256, "taken": 6, "fresh": [], "unused": [] });
        fixtures::run(runs.path(), "with", &json!({ "config": config, "initial_weights": initial }));
        fixtures::run(runs.path(), "unknown", &json!({ "config": config }));
        fixtures::run(runs.path(), "without", &json!({}));
        fixtures::run(runs.path(), "imported", &json!({ "status": "imported" }));

        let workbench = Workbench::new("kindling");
        let planned = |config: &serde_json::Value| {
            let partial = Partial::from_object(config.as_object().cloned().unwrap()).unwrap();
            Planned { name: "mlp".to_owned(), config: workbench.resolve(partial).unwrap() }
        };
        let plan = [planned(&config), planned(&fixtures::config("mlp", 1))];
        let place = PlaceArguments {
            device: DeviceArguments { backend: None, devices: None, remote: Vec::new() },
            kernels: None,
            data_dir: None,
            runs_dir: RunsDirectory { path: runs.path().to_path_buf() },
        };
        let known = || {
            let found = known_runs(&plan, &mut DataSets::new(&workbench, None), &place, drop).unwrap();
            let mut ids: Vec<_> = found.into_iter().map(|(_, run)| run.record.id).collect();
            ids.sort();
            ids
        };
        assert_eq!(known(), ["with", "without"]);
        std::fs::write(&path, "new weights").unwrap();
        assert_eq!(known(), ["without"]);
    }

    #[test]
    fn runs_of_a_report_alone_may_be_from_another_processor_and_all_from_the_same() {
        let place = tempfile::tempdir().unwrap();
        let mut partial = Partial::default();
        partial.set("network.name", "mlp".into());
        let config = partial.resolve(&Workbench::new("kindling").registry()).unwrap();
        let by = |id: &str, parts: &[(&str, &str)]| {
            let parts: Vec<_> =
                parts.iter().map(|(kernels, instructions)| fixtures::part("flex", kernels, instructions)).collect();
            (config.clone(), fixtures::run(place.path(), id, &json!({ "parts": parts })))
        };
        let (old, new, composed) = (("fused, AVX2", "AVX2"), ("fused, AVX-512", "AVX-512"), ("composed", "AVX2"));
        let runs = [by("a", &[old]), by("b", &[new]), by("c", &[old]), by("d", &[composed]), by("e", &[old, new])];
        let kept = |runs: &[(Config, Run)], (kernels, instructions): (&str, &str)| {
            let mut known = runs.to_vec();
            keep_alike(&mut known, &Setup::new("flex", kernels, 1, instructions));
            known.into_iter().map(|(_, run)| run.record.id).collect::<Vec<_>>()
        };
        assert_eq!(kept(&runs, new), ["a", "c"]);
        assert_eq!(kept(&runs[..2], new), ["b"]);
        assert_eq!(kept(&runs, composed), ["d"]);
        assert!(kept(&runs[3..], old).is_empty());
    }
}
