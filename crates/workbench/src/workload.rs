//! What `bench` and `doctor` time: steps of networks on random images, by contenders that take turns; and products of
//! matrices.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use burn::tensor::{Device, Distribution, Tensor};
use clap::ValueEnum;
use kindling_classification::{IMAGES, WorkloadConfig};
use kindling_config::{Choice, Config, Partial, Precision};
use kindling_kernels::Kernels;
use kindling_models::{ImageShape, trainable_parameters};
use kindling_report::median;
use kindling_training::{Order, contained};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Workbench, backend::Backend, data::likely_shape};

/// What a timing covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Batch, forward, backward, optimizer step, reading the loss back
    Train,
    /// Batch, forward, reading the number of correct images back
    Infer,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Infer => "infer",
        }
    }
}

/// How batches are made from the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Batches {
    /// Rows in a shuffled order
    Gather,
    /// Neighbouring rows
    Slice,
}

/// What is timed: a network, with a batch size and an optimizer, in one of the modes.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Network, batch size, optimizer and precision.
    pub(crate) config: Config,
    /// The network as tables call it: `mlp`, or `mlp hidden=256-256` where a key is not as the name has it.
    pub(crate) model: String,
    pub(crate) shape: ImageShape,
    pub(crate) mode: Mode,
    pub(crate) batches: Batches,
}

impl Case {
    /// The network called `name` with what `set` says of it, of its optimizer and of its images; training has a small
    /// learning rate where nothing else is said.
    pub(crate) fn new(
        workbench: &Workbench,
        name: &str,
        set: Partial,
        (batch_size, precision): (usize, Precision),
        (mode, batches): (Mode, Batches),
    ) -> Result<Self> {
        let mut partial = Partial::default();
        let keys = [
            ("network.name", json!(name)),
            ("training.batch_size", json!(batch_size)),
            ("training.precision", json!(precision)),
        ];
        for (key, value) in keys {
            partial.set(key, value);
        }
        let mut partial = set.over(partial);
        if !partial.has("optimizer.name") && !partial.has("optimizer.learning_rate") {
            partial.set("optimizer.learning_rate", json!(0.01));
        }
        let config = workbench.resolve(partial)?;
        let defaults = workbench.network_of(&config.network)?.section().keys;
        let mut model = name.to_owned();
        for (key, value) in config.network.keys.iter().filter(|(key, value)| defaults.get(*key) != Some(value)) {
            let items = value.as_array().map(|items| items.iter().map(Value::to_string).collect::<Vec<_>>().join("-"));
            let _ = write!(model, " {key}={}", items.unwrap_or_else(|| value.to_string()));
        }
        Ok(Self { shape: likely_shape(&config.data), config, model, mode, batches })
    }

    pub(crate) fn batch_size(&self) -> usize {
        self.config.training.batch_size
    }

    /// How many images the batches are made of.
    pub(crate) fn images(&self) -> usize {
        IMAGES.next_multiple_of(self.batch_size())
    }
}

/// What takes turns with others at a case: a backend with its kernels, or a variant of PyTorch.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// As in records; none for PyTorch.
    kernels: Option<String>,
    /// As in configs.
    optimizer: Value,
    /// Takes so many steps, and gives the time they took.
    work: Box<dyn FnMut(usize) -> Result<Duration>>,
    /// Steps of one timing.
    steps: usize,
    /// Seconds a step took, in each round.
    seconds: Vec<f64>,
}

impl Contender {
    /// A backend with these kernels, with everything made that the steps of `case` need.
    pub(crate) fn kindling(workbench: &Workbench, case: &Case, backend: &Backend, kernels: Kernels) -> Result<Self> {
        let workload = WorkloadConfig {
            shape: case.shape,
            batch_size: case.batch_size(),
            trains: case.mode == Mode::Train,
            order: match case.batches {
                Batches::Gather => Order::Shuffled { seed: case.config.training.seed },
                Batches::Slice => Order::File,
            },
            kernels,
        };
        let network = workbench.network_of(&case.config.network)?;
        let mut workload = network.workload(&case.config, workload, backend.first())?;
        let name = kindling_name(backend, kernels);
        let kernels = Some(backend.kernels(kernels));
        Self::new(name, kernels, case, move |steps| guarded(|| Ok(workload.run(steps)?)))
    }

    /// A contender with these kernels, if it is a backend; `work` takes so many steps, and gives the time they took.
    pub(crate) fn new(
        name: String,
        kernels: Option<String>,
        case: &Case,
        work: impl FnMut(usize) -> Result<Duration> + 'static,
    ) -> Result<Self> {
        let optimizer = serde_json::to_value(&case.config.optimizer)?;
        Ok(Self { name, kernels, optimizer, work: Box::new(work), steps: 1, seconds: Vec::new() })
    }

    /// Warms up, and finds how many steps take `seconds`.
    fn calibrate(&mut self, seconds: f64) -> Result<()> {
        // Kernels are compiled, tuned and fused over the first few.
        for _ in 0..3 {
            (self.work)(1)?;
        }
        let step = (self.work)(2)?.as_secs_f64() / 2.0;
        self.steps = (seconds / step).ceil().clamp(1.0, 1e6) as usize;
        Ok(())
    }

    /// Median over the rounds of the seconds that a step takes.
    pub(crate) fn step_seconds(&self) -> f64 {
        median(self.seconds.iter().copied())
    }
}

/// Times every contender in so many rounds of `seconds` each, in which all take turns. Returns the errors of those that
/// fail, by their names, and leaves only the others.
pub(crate) fn time(contenders: &mut Vec<Contender>, rounds: usize, seconds: f64) -> Vec<(String, Error)> {
    let mut failures = Vec::new();
    contenders.retain_mut(|contender| {
        let outcome = contender.calibrate(seconds);
        outcome.map_err(|error| failures.push((contender.name.clone(), error))).is_ok()
    });
    for round in 0..rounds {
        // Each round begins with another contender, so that the order favours none.
        let first = round % contenders.len().max(1);
        for index in (first..contenders.len()).chain(0..first) {
            let contender = &mut contenders[index];
            if contender.seconds.len() < round {
                continue;
            }
            // The previous contender's threads still spin for a moment.
            std::thread::sleep(Duration::from_millis(20));
            match (contender.work)(contender.steps) {
                Ok(duration) => contender.seconds.push(duration.as_secs_f64() / contender.steps as f64),
                Err(error) => failures.push((contender.name.clone(), error)),
            }
        }
    }
    contenders.retain(|contender| contender.seconds.len() == rounds);
    failures
}

/// Name of a backend with these kernels.
pub(crate) fn kindling_name(backend: &Backend, kernels: Kernels) -> String {
    match kernels {
        Kernels::Composed if backend.has_fused_kernels() => format!("{} composed", backend.name),
        Kernels::Auto | Kernels::Composed => backend.name.to_owned(),
    }
}

/// The throughput of one contender at one case.
#[derive(Serialize)]
pub(crate) struct Measurement {
    pub(crate) model: String,
    /// Name and all keys, as in configs.
    network: Choice,
    parameters: usize,
    /// Channels, height and width of an image.
    image: [usize; 3],
    classes: usize,
    pub(crate) batch_size: usize,
    pub(crate) mode: &'static str,
    pub(crate) contender: String,
    /// Operations of a backend's layers: `fused, …` or `composed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<String>,
    /// Name and all keys, as in configs; where a step trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) optimizer: Option<Value>,
    /// Median over the rounds.
    pub(crate) images_per_second: f64,
    /// The slowest and the fastest round.
    pub(crate) images_per_second_range: [f64; 2],
    rounds: usize,
    steps_per_round: usize,
    /// What a step took in each round; the contenders of a case took turns in each.
    step_seconds: Vec<f64>,
    /// Median over the rounds of this contender's throughput over that of PyTorch eager with the same optimizer, if
    /// that was timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_to_pytorch: Option<f64>,
}

/// The results of the rounds of [`time`], in which cases took part that differ in their optimizer alone; `device` is
/// any, for counting the network's parameters.
pub(crate) fn measure(
    workbench: &Workbench,
    case: &Case,
    device: &Device,
    contenders: &[Contender],
) -> Result<Vec<Measurement>> {
    let network = workbench.network_of(&case.config.network)?;
    let parameters = trainable_parameters(&network.layers(&case.config.network.keys, case.shape, device)?);
    let ImageShape { channels, height, width, classes } = case.shape;
    let measurement = |contender: &Contender| {
        let throughputs = || contender.seconds.iter().map(|seconds| case.batch_size() as f64 / seconds);
        let is_peer = |peer: &&Contender| peer.name == "pytorch eager" && peer.optimizer == contender.optimizer;
        let ratio = |peer: &Contender| median(peer.seconds.iter().zip(&contender.seconds).map(|(a, b)| a / b));
        Measurement {
            model: case.model.clone(),
            network: case.config.network.clone(),
            parameters,
            image: [channels, height, width],
            classes,
            batch_size: case.batch_size(),
            mode: case.mode.as_str(),
            contender: contender.name.clone(),
            kernels: contender.kernels.clone(),
            optimizer: (case.mode == Mode::Train).then(|| contender.optimizer.clone()),
            images_per_second: median(throughputs()),
            images_per_second_range: [throughputs().fold(f64::INFINITY, f64::min), throughputs().fold(0.0, f64::max)],
            rounds: contender.seconds.len(),
            steps_per_round: contender.steps,
            // To the nanosecond.
            step_seconds: contender.seconds.iter().map(|seconds| (seconds * 1e9).round() / 1e9).collect(),
            ratio_to_pytorch: contenders.iter().find(is_peer).map(ratio),
        }
    };
    Ok(contenders.iter().map(measurement).collect())
}

/// Turns a panic into an error: Burn panics where a backend fails, and the measurements of the others must not be lost.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    contained(|| Ok(work()))?
}

/// The rate of a product of two square matrices of f32 in GFLOP/s: the best of several.
pub(crate) fn matmul_gflops(device: &Device, size: usize, repeats: usize) -> Result<f64> {
    let [a, b] = [(); 2].map(|()| Tensor::<2>::random([size, size], Distribution::Uniform(-1.0, 1.0), device));
    let mut best = Duration::MAX;
    // The first compiles kernels, and is never the best.
    for _ in 0..=repeats {
        device.sync()?;
        let start = Instant::now();
        // Held until the device is done, since a lazy backend does not compute what is dropped.
        let product = a.clone().matmul(b.clone());
        device.sync()?;
        best = best.min(start.elapsed());
        drop(product);
    }
    Ok(2.0 * (size as f64).powi(3) / best.as_secs_f64() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_contender_is_an_error_with_its_message() {
        let error = guarded::<()>(|| panic!("out of memory")).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
    }

    #[test]
    fn a_case_has_whole_batches_and_says_the_keys_that_are_not_the_networks_own() {
        let workbench = Workbench::new("kindling");
        let case = |name: &str, pairs: &[(&str, Value)]| {
            let mut set = Partial::default();
            for (key, value) in pairs {
                set.set(key, value.clone());
            }
            Case::new(&workbench, name, set, (100, Precision::F32), (Mode::Train, Batches::Slice))
        };
        let wide = case("mlp", &[("network.hidden", json!([16, 16])), ("data.image_size", json!("8x9"))]).unwrap();
        assert_eq!((&*wide.model, wide.images(), wide.batch_size()), ("mlp hidden=16-16", 32_800, 100));
        assert_eq!((wide.shape.channels, wide.shape.height, wide.shape.width), (1, 8, 9));
        assert_eq!(case("cnn", &[("optimizer.name", json!("momentum"))]).unwrap().model, "cnn");
        assert!(case("wings", &[]).is_err() && case("mlp", &[("network.depth", json!(3))]).is_err());
    }
}
