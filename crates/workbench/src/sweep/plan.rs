//! Parts of a plan, for the processes that share a sweep, and plans in files.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use kindling_config::{Config, Partial};
use kindling_record::{RecordError, RunLock, Setup, lock_directory, replace_file};
use kindling_report::Run;
use kindling_training::weights::digest_of;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Planned;
use crate::Workbench;

/// Where sweeps on a cluster keep their plans, scripts and outputs, in the directory of the runs.
pub(super) const SWEEPS: &str = ".sweeps";

/// The runs of a plan that this process is to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of them; another process that starts with the same one at the same moment trains it as well.
    #[default]
    Whole,
    /// Every `of`th, from the one with this index on. Other processes, on any machines, may have the same part.
    Shard { index: usize, of: usize },
    /// The one with this index.
    One(usize),
}

impl Part {
    pub(super) fn has(self, index: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::Shard { index: first, of } => index % of == first,
            Self::One(wanted) => index == wanted,
        }
    }

    /// Whether a run was made in the setup `wanted`. Processors of the machines that share a sweep may differ.
    pub(super) fn takes(self, run: &Run, wanted: &Setup) -> bool {
        let setups = run.setups();
        if self == Self::Whole { setups == [wanted.clone()] } else { setups.iter().all(|setup| setup.is_like(wanted)) }
    }

    /// Takes the config for this process, where others may look for a run of it, or begin one, at the same time.
    ///
    /// # Errors
    /// [`RecordError::Busy`] when another process has it.
    pub(super) fn claim(self, runs_dir: &Path, config: &Config) -> Result<Option<RunLock>, RecordError> {
        if self == Self::Whole {
            return Ok(None);
        }
        let path = runs_dir.join(SWEEPS).join("claims").join(digest(config));
        fs::create_dir_all(&path).map_err(|source| RecordError::Io { path: path.clone(), source })?;
        lock_directory(&path).map(Some)
    }
}

impl FromStr for Part {
    type Err = String;

    /// Understands `1/4` as the first of four shards.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self::Shard { index: index - 1, of }),
            _ => Err("expected I/N with I from 1 to N, as in 1/4".to_owned()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => formatter.write_str("all runs"),
            Self::Shard { index, of } => write!(formatter, "shard {} of {of}", index + 1),
            Self::One(index) => write!(formatter, "run {}", index + 1),
        }
    }
}

/// What a config is known by in names of files.
pub(super) fn digest(config: &Config) -> String {
    short_digest(Value::Object(config.to_object()).to_string().as_bytes())
}

fn short_digest(bytes: &[u8]) -> String {
    digest_of(bytes)[..16].to_owned()
}

/// A plan in a file: those who train a part of it read all of it as it was when it was submitted.
#[derive(Serialize, Deserialize)]
struct PlanFile {
    /// Version of the program that made it.
    kindling: String,
    runs: Vec<PlannedRun>,
}

#[derive(Serialize, Deserialize)]
struct PlannedRun {
    name: String,
    config: Map<String, Value>,
}

/// Writes the plan into `sweeps`, in a directory of its own, and returns that directory and the file's name, which has
/// the digest of its content.
pub(super) fn save(plan: &[Planned], label: &str, sweeps: &Path) -> Result<(PathBuf, String)> {
    let run = |planned: &Planned| PlannedRun { name: planned.name.clone(), config: planned.config.to_object() };
    let file = PlanFile { kindling: env!("CARGO_PKG_VERSION").to_owned(), runs: plan.iter().map(run).collect() };
    let bytes = serde_json::to_vec_pretty(&file)?;
    let digest = short_digest(&bytes);
    let directory = sweeps.join(format!("{label}-{}", &digest[..8]));
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let name = format!("plan-{digest}.json");
    replace_file(&directory.join(&name), &bytes)?;
    Ok((directory, name))
}

/// Reads a plan that [`save`] wrote.
///
/// # Errors
/// When the file is another than it was, or its configs mean something else to this program.
pub(crate) fn read(workbench: &Workbench, path: &Path) -> Result<Vec<Planned>> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
    let wanted = format!("plan-{}.json", short_digest(&bytes));
    if path.file_name().is_none_or(|name| *name != *wanted) {
        bail!("{shown}: this plan was changed since it was made (its digest says {wanted}); submit the sweep again");
    }
    let file: PlanFile = serde_json::from_slice(&bytes).with_context(|| shown.to_string())?;
    let other = |what: &str| format!("{shown}: {what}; submit the sweep again with this program");
    if file.kindling != env!("CARGO_PKG_VERSION") {
        bail!(other(&format!("made by Kindling {}, read by {}", file.kindling, env!("CARGO_PKG_VERSION"))));
    }
    let planned = |PlannedRun { name, config }| {
        let resolved = Partial::from_object(config.clone()).map_err(anyhow::Error::from);
        let resolved = resolved.and_then(|partial| workbench.resolve(partial)).with_context(|| other(&name))?;
        if resolved.to_object() != config {
            bail!(other(&format!("the config of {name} has another meaning to this program")));
        }
        Ok(Planned { name, config: resolved })
    };
    file.runs.into_iter().map(planned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(seed: u64) -> Planned {
        let mut partial = Partial::default();
        partial.set("network.name", "mlp".into());
        partial.set("training.seed", seed.into());
        Planned { name: format!("mlp-{seed}"), config: Workbench::new("kindling").resolve(partial).unwrap() }
    }

    #[test]
    fn shards_are_a_partition_of_every_plan() {
        for of in 1..6 {
            let shards: Vec<Part> = (1..=of).map(|index| format!("{index}/{of}").parse().unwrap()).collect();
            for index in 0..20 {
                assert_eq!(shards.iter().filter(|shard| shard.has(index)).count(), 1, "{index} of {of}");
            }
        }
        for wrong in ["", "1", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1,2"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_comes_back_from_its_file_and_one_that_was_changed_does_not() {
        let place = tempfile::tempdir().unwrap();
        let (plan, workbench) = ([planned(1), planned(2)], Workbench::new("kindling"));
        let (directory, name) = save(&plan, "mlp", place.path()).unwrap();
        assert_eq!(
            save(&plan, "mlp", place.path()).unwrap(),
            (directory.clone(), name.clone()),
            "one name for one plan"
        );
        let path = directory.join(&name);
        let same = read(&workbench, &path).unwrap();
        let parts =
            |plan: &[Planned]| plan.iter().map(|run| (run.name.clone(), run.config.clone())).collect::<Vec<_>>();
        assert_eq!(parts(&same), parts(&plan));

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"seed\": 2", "\"seed\": 3")).unwrap();
        let refused = read(&workbench, &path).err().unwrap().to_string();
        assert!(refused.contains("this plan was changed since it was made"), "{refused}");
        // What another program wrote has its own digest, and defaults of its own.
        for (old, new, told) in [
            (env!("CARGO_PKG_VERSION"), "0.0.1", "made by Kindling 0.0.1"),
            ("\"seed\": 2", "\"seed\": 2, \"gone\": 1", "mlp-2"),
        ] {
            let changed = text.replace(old, new);
            assert_ne!(changed, text);
            let path = directory.join(format!("plan-{}.json", short_digest(changed.as_bytes())));
            fs::write(&path, changed).unwrap();
            let refused = crate::output::told(&read(&workbench, &path).err().unwrap());
            assert!(refused.contains(told) && refused.contains("submit the sweep again"), "{refused}");
        }
    }

    #[test]
    fn a_config_is_claimed_by_one_process_at_a_time_where_several_share_a_sweep() {
        let place = tempfile::tempdir().unwrap();
        let claim = |part: Part, seed| part.claim(place.path(), &planned(seed).config);
        let first = claim(Part::One(0), 1).unwrap();
        assert!(first.is_some() && claim(Part::One(3), 2).unwrap().is_some());
        assert!(matches!(claim(Part::Shard { index: 0, of: 2 }, 1), Err(RecordError::Busy { .. })));
        drop(first);
        assert!(claim(Part::Shard { index: 0, of: 2 }, 1).unwrap().is_some());
        assert!(claim(Part::Whole, 1).unwrap().is_none());
    }
}
