//! What `bench` and `doctor` time: steps of networks on random images, by contenders that take turns; and products of
//! matrices.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use burn::tensor::{Device, Distribution, Tensor};
use clap::ValueEnum;
use kindling_classification::{IMAGES, WorkloadConfig};
use kindling_config::{Config, Partial, Precision};
use kindling_kernels::Kernels;
use kindling_models::{ImageShape, trainable_parameters};
use kindling_training::{Order, contained};
use serde::Serialize;
use serde_json::json;

use crate::{Workbench, backend::Backend};

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

/// What is timed: a network, with a batch size, in one of the modes.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Network, batch size, optimizer and precision.
    pub(crate) config: Config,
    /// The network as tables call it: `mlp`, or `mlp 256-256`.
    pub(crate) model: String,
    pub(crate) mode: Mode,
    pub(crate) batches: Batches,
}

impl Case {
    /// The network called `name`, with hidden layers of these widths instead of its own if there are any.
    pub(crate) fn new(
        workbench: &Workbench,
        name: &str,
        hidden: Option<&[usize]>,
        (batch_size, precision): (usize, Precision),
        (mode, batches): (Mode, Batches),
    ) -> Result<Self> {
        let mut partial = Partial::default();
        let keys = [
            ("network.name", json!(name)),
            ("optimizer.learning_rate", json!(0.01)),
            ("training.batch_size", json!(batch_size)),
            ("training.precision", json!(precision)),
        ];
        for (key, value) in keys {
            partial.set(key, value);
        }
        let mut model = name.to_owned();
        if let Some(hidden) = hidden {
            partial.set("network.hidden", json!(hidden));
            let widths: Vec<String> = hidden.iter().map(ToString::to_string).collect();
            model = format!("{name} {}", widths.join("-"));
        }
        Ok(Self { config: workbench.resolve(partial)?, model, mode, batches })
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
            shape: ImageShape::MNIST,
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
        let name = match kernels {
            Kernels::Composed if backend.has_fused_kernels() => format!("{} composed", backend.name),
            Kernels::Auto | Kernels::Composed => backend.name.to_owned(),
        };
        Ok(Self::new(name, Some(backend.kernels(kernels)), move |steps| guarded(|| Ok(workload.run(steps)?))))
    }

    /// A contender with these kernels, if it is a backend; `work` takes so many steps, and gives the time they took.
    pub(crate) fn new(
        name: String,
        kernels: Option<String>,
        work: impl FnMut(usize) -> Result<Duration> + 'static,
    ) -> Self {
        Self { name, kernels, work: Box::new(work), steps: 1, seconds: Vec::new() }
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

/// The throughput of one contender at one case.
#[derive(Serialize)]
pub(crate) struct Measurement {
    pub(crate) model: String,
    pub(crate) parameters: usize,
    pub(crate) batch_size: usize,
    pub(crate) mode: &'static str,
    pub(crate) contender: String,
    /// Operations of a backend's layers: `fused, …` or `composed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernels: Option<String>,
    /// Median over the rounds.
    pub(crate) images_per_second: f64,
    /// The slowest and the fastest round.
    pub(crate) images_per_second_range: [f64; 2],
    pub(crate) rounds: usize,
    pub(crate) steps_per_round: usize,
    /// Median over the rounds of this contender's throughput over that of PyTorch eager, if that was timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_to_pytorch: Option<f64>,
}

/// The results of the rounds of [`time`]; `device` is any, for counting the network's parameters.
pub(crate) fn measure(
    workbench: &Workbench,
    case: &Case,
    device: &Device,
    contenders: &[Contender],
) -> Result<Vec<Measurement>> {
    let peer = contenders.iter().find(|contender| contender.name == "pytorch eager");
    let network = workbench.network_of(&case.config.network)?;
    let layers = network.layers(&case.config.network.keys, ImageShape::MNIST, device)?;
    let measurement = |contender: &Contender| {
        let throughputs = || contender.seconds.iter().map(|seconds| case.batch_size() as f64 / seconds);
        let ratio = |peer: &Contender| median(peer.seconds.iter().zip(&contender.seconds).map(|(a, b)| a / b));
        Measurement {
            model: case.model.clone(),
            parameters: trainable_parameters(&layers),
            batch_size: case.batch_size(),
            mode: case.mode.as_str(),
            contender: contender.name.clone(),
            kernels: contender.kernels.clone(),
            images_per_second: median(throughputs()),
            images_per_second_range: [throughputs().fold(f64::INFINITY, f64::min), throughputs().fold(0.0, f64::max)],
            rounds: contender.seconds.len(),
            steps_per_round: contender.steps,
            ratio_to_pytorch: peer.map(ratio),
        }
    };
    Ok(contenders.iter().map(measurement).collect())
}

/// The median; NaN of no values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
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
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(close(median([3.0, 1.0, 2.0].into_iter()), 2.0));
        assert!(close(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5));
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn a_panic_of_a_contender_is_an_error_with_its_message() {
        let error = guarded::<()>(|| panic!("out of memory")).unwrap_err();
        assert!(error.to_string().contains("out of memory"), "{error}");
    }

    #[test]
    fn a_case_has_whole_batches_and_says_the_widths_that_are_not_the_networks_own() {
        let workbench = Workbench::new("kindling");
        let how = (Mode::Train, Batches::Slice);
        let case = |name: &str, hidden| Case::new(&workbench, name, hidden, (100, Precision::F32), how);
        let wide = case("mlp", Some(&[16, 16])).unwrap();
        assert_eq!((&*wide.model, wide.images(), wide.batch_size()), ("mlp 16-16", 32_800, 100));
        assert_eq!(case("cnn", None).unwrap().model, "cnn");
        assert!(case("wings", None).is_err());
    }
}
