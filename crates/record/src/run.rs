use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::{dataset::DatasetRecord, number::Number};

/// The version of the record's layout that this crate writes and reads.
pub const SCHEMA: u32 = 3;

/// The record of a run: the content of `run.json`.
///
/// Accuracies are fractions, times are seconds, metrics are means over samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this layout, [`SCHEMA`].
    pub schema: u32,
    /// The run's id: the name of its directory, which [`read_record`](crate::RunDirectory::read_record) puts in place of
    /// what the file says.
    pub id: String,
    /// Where the run stands.
    pub status: RunStatus,
    /// When the run was first started, RFC 3339 in UTC.
    pub started: String,
    /// The processes that trained it, one after the other; none of an imported run.
    pub parts: Vec<PartRecord>,
    /// The complete config; the program that trained the run reads it back.
    pub config: Map<String, Value>,
    /// Name of the latest part's backend, as in `--backend`; of an imported run the one that it is used on by default.
    pub backend: String,
    /// That part's device as the backend describes it.
    pub device: String,
    /// Versions of Kindling and of Burn.
    pub versions: BTreeMap<String, String>,
    /// The machine that ran the latest part of the run.
    pub machine: MachineRecord,
    /// What the run was trained and tested on.
    pub dataset: DatasetRecord,
    /// Name of the network or task.
    pub model: String,
    /// Number of parameters, those of frozen layers included.
    pub parameters: usize,
    /// The weights that training started from, or that an imported run has; none where they were drawn from the seed.
    #[serde(default)]
    pub initial_weights: Option<InitialWeightsRecord>,
    /// Names of the parameters that training leaves as they are, such as `conv1.weight`.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// What the task measures, the loss first.
    pub metrics: Vec<MetricRecord>,
    /// The metric that decides which epoch is the best, as in [`EpochRecord::metrics`].
    pub monitor: String,
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochRecord>,
    /// The epoch with the best value of `monitor`.
    pub best_epoch: Option<usize>,
    /// Why training ended before the configured number of epochs, if early stopping or a callback ended it.
    pub stopped_early: Option<String>,
    /// The metrics on the test split: of the best weights, or of the last where the protocol reports those.
    pub test: Option<TestRecord>,
    /// Wall-clock seconds of the whole run, over all its parts.
    pub seconds: f64,
    /// Training samples per second over all training steps of the run.
    pub samples_per_second: Option<f64>,
    /// Where the seconds outside training steps went.
    pub timings: Timings,
    /// Where the run diverged, if it did.
    pub diverged: Option<DivergenceRecord>,
    /// What ended a failed run, or an interrupted one that its user did not stop.
    pub error: Option<String>,
}

/// Status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// A process is training it, or was killed; [`crate::RunDirectory::status`] distinguishes the two.
    Running,
    /// Trained to the end and tested.
    Finished,
    /// Stopped by its user; it can be resumed.
    Interrupted,
    /// A loss was not finite.
    Diverged,
    /// Ended by an error.
    Failed,
    /// Not trained here: its weights are those of a file from elsewhere.
    Imported,
}

impl RunStatus {
    /// Whether a run of this status has weights to use.
    #[must_use]
    pub fn has_weights(self) -> bool {
        matches!(self, Self::Finished | Self::Imported)
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
            Self::Imported => "imported",
        })
    }
}

/// One process's part of a run: the first, or a resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// When it started, RFC 3339 in UTC.
    pub started: String,
    /// Name of the backend.
    pub backend: String,
    /// The device as the backend describes it.
    pub device: String,
    /// How many devices shared every batch.
    pub devices: usize,
    /// Name of the kernels: `fused, AVX-512` (Kindling's), `libtorch` (its own linear layers), or `composed` (Burn's).
    pub kernels: String,
    /// The vector instructions of the host's processor, such as `AVX2`.
    pub instructions: String,
}

/// How a part was computed: what makes runs different configurations. Which GPU or software adapter it was is in
/// [`PartRecord::device`] alone, and may change bits as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Name of the backend.
    pub backend: String,
    /// As in [`PartRecord::kernels`].
    pub kernels: String,
    /// How many devices shared every batch.
    pub devices: usize,
    /// The vector instructions, where the backend computes on the host's processor and `kernels` does not have them.
    pub instructions: Option<String>,
}

/// Backends that compute on the host's processor.
const ON_THE_HOST: [&str; 3] = ["flex", "ndarray", "libtorch"];

impl PartRecord {
    /// How it was computed.
    #[must_use]
    pub fn setup(&self) -> Setup {
        Setup::new(&self.backend, &self.kernels, self.devices, &self.instructions)
    }
}

impl Setup {
    /// That of a part whose record has these values.
    #[must_use]
    pub fn new(backend: &str, kernels: &str, devices: usize, instructions: &str) -> Self {
        let decide = ON_THE_HOST.contains(&backend) && !kernels.ends_with(instructions);
        let instructions = decide.then(|| instructions.to_owned());
        Self { backend: backend.to_owned(), kernels: kernels.to_owned(), devices, instructions }
    }

    /// Whether it is the same as `other` but for the processor's instructions.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        // Fused kernels have them behind a comma.
        self.kernels.split(',').next() == other.kernels.split(',').next()
            && (&self.backend, self.devices) == (&other.backend, other.devices)
    }

    /// Each of them in words: `flex`, `fused AVX2 kernels`, `2 devices`, and `AVX2` or nothing.
    #[must_use]
    pub fn in_words(&self) -> [String; 4] {
        let devices = if self.devices == 1 { "1 device".to_owned() } else { format!("{} devices", self.devices) };
        let kernels = format!("{} kernels", self.kernels.replace(", ", " "));
        [self.backend.clone(), kernels, devices, self.instructions.clone().unwrap_or_default()]
    }
}

/// The machine a run ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Operating system and architecture, such as `linux x86_64`.
    pub platform: String,
    /// The processor's name, where the system tells it.
    pub processor: Option<String>,
    /// Threads the program may run at once.
    pub threads: usize,
}

/// Weights from elsewhere that training started from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialWeightsRecord {
    /// The file that they were read from.
    pub source: String,
    /// SHA-256 of that file, hexadecimal.
    pub sha256: String,
    /// How many of the network's tensors were taken from it.
    pub taken: usize,
    /// The network's other tensors, which start as drawn from the seed: not in the file, or of another shape there.
    pub fresh: Vec<String>,
    /// Tensors of the file that the network does not have.
    pub unused: Vec<String>,
}

/// One of the metrics that a task has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricRecord {
    /// Its name, such as `loss` or `accuracy`.
    pub name: String,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// Its unit; none for a fraction, which tables show in percent, or a plain number.
    pub unit: Option<String>,
}

/// Values of metrics by split and name, such as `train/loss` and `valid/accuracy`: means over samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// The value of `name`, such as `valid/loss`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Number::from(*value))))
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = BTreeMap::<String, Number>::deserialize(deserializer)?;
        let values = numbers.into_iter().map(|(name, number)| Ok((name, number.try_into()?)));
        values.collect::<Result<_, String>>().map(Self).map_err(D::Error::custom)
    }
}

/// The metrics of one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Starts at 1.
    pub epoch: usize,
    /// `train/...`: means over the training samples, each batch before its update; the other splits after the epoch.
    pub metrics: Metrics,
    /// The learning rate of the epoch's last step.
    pub learning_rate: f64,
    /// Seconds of the training steps, with loader, metrics, step log and renderer.
    pub seconds: f64,
    /// Training samples per second of those seconds.
    pub samples_per_second: f64,
    /// Seconds of the evaluation after the epoch.
    pub evaluation_seconds: f64,
}

impl EpochRecord {
    /// The value of `name`, such as `valid/loss`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.get(name)
    }

    /// The splits that it has metrics of, `train` first.
    #[must_use]
    pub fn splits(&self) -> Vec<&str> {
        let mut splits: Vec<_> = self.metrics.0.keys().filter_map(|name| Some(name.split_once('/')?.0)).collect();
        splits.dedup();
        splits.sort_by_key(|split| *split != "train");
        splits
    }
}

impl fmt::Display for EpochRecord {
    /// The metrics in a line: `train loss 0.6516 accuracy 0.7676, test loss 0.5453 accuracy 0.7947, 18947 samples/s`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for split in self.splits() {
            let of_split = |(name, value): (&'_ String, &f64)| {
                let metric = name.strip_prefix(split)?.strip_prefix('/')?;
                Some((metric.to_owned(), *value))
            };
            let mut metrics: Vec<_> = self.metrics.0.iter().filter_map(of_split).collect();
            metrics.sort_by_key(|(metric, _)| metric != "loss");
            formatter.write_str(split)?;
            for (metric, value) in metrics {
                write!(formatter, " {metric} {value:.4}")?;
            }
            formatter.write_str(", ")?;
        }
        write!(formatter, "{:.0} samples/s", self.samples_per_second)
    }
}

/// The metrics on the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestRecord {
    /// Means over the samples, such as `test/loss`.
    pub metrics: Metrics,
    /// `confusion[target][predicted]` counts images; only of classifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<usize>>>,
    /// Names of the test-time augmentations, over whose views of each image the logits were averaged; empty where it was
    /// seen as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_time_augmentation: Vec<String>,
}

impl TestRecord {
    /// The value of `metric`, such as `loss`.
    #[must_use]
    pub fn get(&self, metric: &str) -> Option<f64> {
        self.metrics.get(&format!("test/{metric}"))
    }
}

/// Seconds outside the training steps, over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From the start of the program's latest part to its first training step: data, model, checkpoint.
    pub start_up_seconds: f64,
    /// Compiling and autotuning the backend's kernels before the first step of each part.
    pub compilation_seconds: f64,
    /// Training steps.
    pub training_seconds: f64,
    /// Validation after epochs and the final test.
    pub evaluation_seconds: f64,
    /// Writing checkpoints and records.
    pub checkpoint_seconds: f64,
}

/// Where a run diverged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceRecord {
    /// The step whose loss was not finite, counted over the whole run from 1.
    pub step: usize,
    /// The first layer, in the network's order, that holds a number that is not finite.
    pub layer: Option<String>,
    /// What was not finite there: a parameter (`weight`), its gradient (`gradient of weight`), or only the `loss`.
    pub quantity: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(backend: &str, kernels: &str, instructions: &str) -> PartRecord {
        let [started, device] = ["2026-11-01T12:00:00Z", "a processor"].map(str::to_owned);
        let [backend, kernels, instructions] = [backend, kernels, instructions].map(str::to_owned);
        PartRecord { started, backend, device, devices: 1, kernels, instructions }
    }

    #[test]
    fn instructions_decide_bits_on_the_hosts_processor_alone() {
        let differ =
            |backend, kernels| part(backend, kernels, "AVX2").setup() != part(backend, kernels, "NEON").setup();
        assert!(["flex", "ndarray"].into_iter().all(|backend| differ(backend, "composed")));
        assert!(differ("libtorch", "libtorch") && !differ("wgpu", "composed"));
        assert!(part("flex", "fused, AVX2", "AVX2").setup().is_like(&part("flex", "fused, NEON", "NEON").setup()));
        assert!(!part("flex", "fused, AVX2", "AVX2").setup().is_like(&part("flex", "composed", "AVX2").setup()));
        // When and on which device is not what decides.
        let [first, later] = ["2026-11-01T12:00:00Z", "2026-11-02T12:00:00Z"].map(|started| PartRecord {
            started: started.to_owned(),
            device: started.to_owned(),
            ..part("flex", "composed", "AVX2")
        });
        assert_eq!(first.setup(), later.setup());
    }

    #[test]
    fn a_setup_is_said_in_words_and_its_instructions_once() {
        let fused = PartRecord { devices: 2, ..part("flex", "fused, AVX2", "AVX2") };
        assert_eq!(fused.setup().in_words(), ["flex", "fused AVX2 kernels", "2 devices", ""]);
        let composed = part("flex", "composed", "AVX2").setup();
        assert_eq!(composed.in_words(), ["flex", "composed kernels", "1 device", "AVX2"]);
    }
}
