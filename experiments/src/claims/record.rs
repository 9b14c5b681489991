//! What a claim's command writes: the figures of every seed, and whether they are what is claimed.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result, bail};
use kindling_record::{RunRecord, RunStatus, now};
use kindling_report::{Run, Sample};
use kindling_training::weights;
use kindling_workbench::sweep::Planned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Claim,
    seeds::{peer_of, wall_seconds},
};

/// The version of [`ClaimRecord`]'s layout.
pub(super) const SCHEMA: u32 = 1;

/// The figures of a claim: the content of `assets/claims/NAME.json`.
///
/// Accuracies are fractions, times are seconds, losses are means over images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    /// Version of this layout.
    pub(crate) schema: u32,
    /// Name of the claim and of its recipe.
    pub(crate) name: String,
    /// The claim in words.
    pub(crate) claimed: String,
    /// The mean test accuracy that is claimed at least.
    pub(crate) target_accuracy: f64,
    /// The network has fewer parameters than this.
    pub(crate) parameter_limit: Option<usize>,
    /// The mean time of a seed that is claimed at most, on these machines.
    pub(crate) seconds_limit: Option<f64>,
    /// What `--set` changed of the recipe, as typed: such a record is not judged.
    pub(crate) changed: Vec<String>,
    /// Whether the claim holds.
    pub(crate) verdict: Verdict,
    /// Over the finished seeds, as the figures below; never over others.
    pub(crate) test_accuracy: Option<Sample>,
    /// Over the finished seeds.
    pub(crate) test_loss: Option<Sample>,
    /// From the program's start to its end.
    pub(crate) wall_seconds: Option<Sample>,
    /// In training steps.
    pub(crate) training_seconds: Option<Sample>,
    /// Parameters of the network.
    pub(crate) parameters: Option<usize>,
    /// Every seed that was asked for, in order.
    pub(crate) seeds: Vec<SeedRecord>,
    /// Where the seeds were trained, each machine and backend once.
    pub(crate) machines: Vec<Machine>,
    /// Versions of Kindling and Burn.
    pub(crate) versions: BTreeMap<String, String>,
    /// SHA-256 over the data set's images and labels, hexadecimal.
    pub(crate) dataset_sha256: Option<String>,
    /// The command that repeats this, and that resumes what is not finished.
    pub(crate) command: String,
    /// The complete config of the first seed; the others differ by `training.seed` alone.
    pub(crate) config: Map<String, Value>,
    /// When it was written, RFC 3339 in UTC.
    pub(crate) written: String,
    /// How it was measured, a sentence each.
    pub(crate) protocol: Vec<String>,
    /// The same config trained by PyTorch, beside each seed; empty where that was not asked for.
    pub(crate) pytorch: Vec<PeerRecord>,
}

/// Whether a claim holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// None where it cannot be said: not all seeds are finished, or the recipe is changed.
    pub(crate) holds: Option<bool>,
    /// Why: each condition with what was found, a sentence each without its full stop.
    pub(crate) reasons: Vec<String>,
}

/// One seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeedRecord {
    /// The seed.
    pub(crate) seed: u64,
    /// Id of its run; none where it was not begun.
    pub(crate) run: Option<String>,
    /// `finished`, `interrupted`, `diverged`, `failed`, `running` in another process, or `not begun`.
    pub(crate) status: String,
    /// Epochs that are done.
    pub(crate) epochs: usize,
    /// Epochs that its config asks for.
    pub(crate) planned_epochs: usize,
    /// The epoch that the protocol's metric chose; so far, where it is not finished.
    pub(crate) best_epoch: Option<usize>,
    /// Accuracy on the validation split at that epoch.
    pub(crate) valid_accuracy: Option<f64>,
    /// Loss there.
    pub(crate) valid_loss: Option<f64>,
    /// Accuracy on the test split; none where it is not finished.
    pub(crate) test_accuracy: Option<f64>,
    /// Loss there.
    pub(crate) test_loss: Option<f64>,
    /// Seconds in training steps, so far.
    pub(crate) training_seconds: Option<f64>,
    /// From the program's start to its end, over all its parts.
    pub(crate) wall_seconds: Option<f64>,
    /// Whether these were measured around each part, and are not those of the run's record, which lack how parts began and
    /// ended.
    pub(crate) wall_is_measured: bool,
    /// How many processes trained it, one after the other.
    pub(crate) parts: usize,
    /// SHA-256 of `model.safetensors`, hexadecimal.
    pub(crate) weights_sha256: Option<String>,
}

/// Where seeds were trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Operating system and architecture.
    pub(crate) platform: String,
    /// The processor's name, where it is known.
    pub(crate) processor: Option<String>,
    /// Threads the program may run at once.
    pub(crate) threads: usize,
    /// The processor's vector instructions, such as `AVX-512`.
    pub(crate) instructions: String,
    /// Name of the backend.
    pub(crate) backend: String,
    /// The device as the backend describes it.
    pub(crate) device: String,
    /// Name of the kernels, such as `fused, AVX-512`.
    pub(crate) kernels: String,
    /// The seeds that were trained there, wholly or in part.
    pub(crate) seeds: Vec<u64>,
}

/// What `assets/claims/pytorch_peer.py` writes: PyTorch's training of a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerRecord {
    /// Version of PyTorch.
    pub(crate) torch: String,
    /// Threads it computes with.
    pub(crate) threads: usize,
    /// The seed.
    pub(crate) seed: u64,
    /// Parameters of the network.
    pub(crate) parameters: usize,
    /// Every epoch.
    pub(crate) epochs: Vec<PeerEpoch>,
    /// The epoch that the protocol's metric chose.
    pub(crate) best_epoch: usize,
    /// Accuracy on the test split.
    pub(crate) test_accuracy: f64,
    /// Loss there.
    pub(crate) test_loss: f64,
    /// From the program's start to the last test image.
    pub(crate) wall_seconds: f64,
}

/// An epoch of PyTorch's training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerEpoch {
    /// From 1.
    pub(crate) epoch: usize,
    /// Seconds since the program's start.
    pub(crate) seconds: f64,
    /// Accuracy on the validation split.
    pub(crate) valid_accuracy: f64,
    /// Loss there.
    pub(crate) valid_loss: f64,
    /// Loss of the training steps.
    pub(crate) train_loss: f64,
}

/// As pages and reports name it, without its seeds.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { platform, processor, threads, instructions, backend, device, kernels, .. } = self;
        let processor = processor.as_deref().unwrap_or("a processor that is not on record");
        write!(f, "{processor}, {threads} threads, {instructions} ({platform}): ")?;
        write!(f, "backend {backend} on {device}, {kernels} kernels")
    }
}

impl SeedRecord {
    /// Whether it counts.
    pub(crate) fn is_finished(&self) -> bool {
        self.status == RunStatus::Finished.to_string()
    }

    /// What is there of `seed`'s run, with `planned` epochs.
    fn of(seed: u64, planned: usize, run: Option<&Run>) -> Result<Self> {
        let record = run.map(|run| &run.record);
        let is_finished = run.is_some_and(|run| run.status == RunStatus::Finished);
        let best = record.and_then(|record| {
            let best = record.best_epoch?;
            record.epochs.iter().find(|epoch| epoch.epoch == best)
        });
        let test = record.and_then(|record| record.test.as_ref()).filter(|_| is_finished);
        let weights = run.filter(|_| is_finished).map(|run| weights::digest(&run.directory.weights())).transpose();
        let (wall_seconds, wall_is_measured) = run.map(wall_seconds).transpose()?.unzip();
        Ok(Self {
            seed,
            run: record.map(|record| record.id.clone()),
            status: run.map_or_else(|| "not begun".to_owned(), |run| run.status.to_string()),
            epochs: record.map_or(0, |record| record.epochs.len()),
            planned_epochs: planned,
            best_epoch: best.map(|best| best.epoch),
            valid_accuracy: best.and_then(|best| best.get("valid/accuracy")),
            valid_loss: best.and_then(|best| best.get("valid/loss")),
            test_accuracy: test.and_then(|test| test.get("accuracy")),
            test_loss: test.and_then(|test| test.get("loss")),
            training_seconds: record.map(|record| record.timings.training_seconds),
            wall_seconds,
            wall_is_measured: wall_is_measured.unwrap_or(true),
            parts: record.map_or(0, |record| record.parts.len()),
            weights_sha256: weights.context("the weights cannot be read")?,
        })
    }
}

impl ClaimRecord {
    /// The record of these runs, each of a seed that was asked for.
    pub(crate) fn of(
        claim: &Claim,
        changed: &[String],
        seeds: &[(u64, Planned, Option<Run>)],
        command: String,
        protocol: Vec<String>,
    ) -> Result<Self> {
        let records = seeds
            .iter()
            .map(|(seed, planned, run)| SeedRecord::of(*seed, planned.config.training.epochs, run.as_ref()));
        let records = records.collect::<Result<Vec<_>>>()?;
        let over = |value: fn(&SeedRecord) -> Option<f64>| {
            Sample::of(records.iter().filter(|seed| seed.is_finished()).filter_map(value))
        };
        let begun = seeds.iter().filter_map(|(seed, _, run)| Some((*seed, &run.as_ref()?.record)));
        let first = begun.clone().map(|(_, record)| record).next();
        let machines = machines(begun);
        let has_avx512 = machines.iter().all(|machine| machine.instructions == "AVX-512");
        let peers = seeds.iter().filter_map(|(_, _, run)| peer_of(run.as_ref()?).transpose());
        let mut record = Self {
            schema: SCHEMA,
            name: claim.name.to_owned(),
            claimed: claim.sentence.to_owned(),
            target_accuracy: claim.target_accuracy,
            parameter_limit: claim.parameter_limit,
            seconds_limit: if has_avx512 { claim.seconds_limit } else { claim.seconds_limit_without_avx512 },
            changed: changed.to_vec(),
            verdict: Verdict::default(),
            test_accuracy: over(|seed| seed.test_accuracy),
            test_loss: over(|seed| seed.test_loss),
            wall_seconds: over(|seed| seed.wall_seconds),
            training_seconds: over(|seed| seed.training_seconds),
            parameters: first.map(|first| first.parameters),
            machines,
            versions: first.map(|first| first.versions.clone()).unwrap_or_default(),
            dataset_sha256: first.map(|first| first.dataset.sha256.clone()),
            command,
            config: seeds.first().map(|(_, planned, _)| planned.config.to_object()).unwrap_or_default(),
            written: now(),
            protocol,
            pytorch: peers.collect::<Result<_>>()?,
            seeds: records,
        };
        record.verdict = record.judged();
        Ok(record)
    }

    /// Reads `path`; nothing where there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let record: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no record of a claim", path.display()))?;
        if record.schema != SCHEMA {
            bail!("{}: expected schema {SCHEMA}, found {}: make it again", path.display(), record.schema);
        }
        Ok(Some(record))
    }

    /// How many seeds are finished.
    pub(crate) fn finished(&self) -> usize {
        self.seeds.iter().filter(|seed| seed.is_finished()).count()
    }
}

/// Where the runs were trained.
fn machines<'a>(runs: impl Iterator<Item = (u64, &'a RunRecord)>) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    for (seed, record) in runs {
        let latest = record.parts.last().map(|part| &part.instructions);
        for part in &record.parts {
            // The record has the machine of the latest part alone.
            let is_there = Some(&part.instructions) == latest;
            let machine = Machine {
                platform: record.machine.platform.clone(),
                processor: record.machine.processor.clone().filter(|_| is_there),
                threads: record.machine.threads,
                instructions: part.instructions.clone(),
                backend: part.backend.clone(),
                device: part.device.clone(),
                kernels: part.kernels.clone(),
                seeds: Vec::new(),
            };
            let place = machines.iter().position(|known| Machine { seeds: Vec::new(), ..known.clone() } == machine);
            let place = place.unwrap_or_else(|| {
                machines.push(machine);
                machines.len() - 1
            });
            if let Some(machine) = machines.get_mut(place).filter(|machine| !machine.seeds.contains(&seed)) {
                machine.seeds.push(seed);
            }
        }
    }
    machines
}
