//! Whole runs on a small table: stopped anywhere, resumed, and compared with runs that are never stopped.

mod damaged;
mod intervals;
mod runs;
mod settings;

use std::{fs, path::Path, thread, time::Duration};

use burn::{
    module::{Initializer, Module, Param, RunningState},
    nn::Linear,
    optim::{AdamConfig, AdamWConfig, ModuleOptimizer, MuonConfig, SgdConfig, momentum::MomentumConfig},
    tensor::{Device, Int, Tensor, TensorData, activation::log_softmax},
    train::Interrupter,
};
use kindling_record::{EpochRecord, RunDirectory, RunRecord, RunStatus, TestRecord};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    Event, Host, Metric, Objective, Phase, Place, Rows, Schedule, Source, SourceError, Sums, Task, Trainer,
    TrainingError, freeze,
};

/// Normalises over the batch, with Burn's own running statistics, which a resume could lose.
#[derive(Module, Debug)]
pub(crate) struct BatchNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
}

impl BatchNorm {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            gamma: Initializer::Ones.init([channels], device),
            beta: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (mean, variance) = if self.gamma.val().is_require_grad() {
            let mean = x.clone().mean_dim(0); // [1, channels]
            let variance = (x.clone() - mean.clone()).square().mean_dim(0); // [1, channels]
            for (running, batch) in [(&self.running_mean, &mean), (&self.running_var, &variance)] {
                let batch = batch.clone().squeeze_dim::<1>(0).detach();
                let old = running.value_sync().to_device(&batch.device());
                running.update((old * 0.9 + batch * 0.1).detach());
            }
            (mean, variance)
        } else {
            let value = |running: &RunningState<Tensor<1>>| running.value().to_device(&x.device()).unsqueeze::<2>();
            (value(&self.running_mean), value(&self.running_var))
        };
        let x = (x - mean) / (variance + 1e-5).sqrt();
        x * self.gamma.val().unsqueeze::<2>() + self.beta.val().unsqueeze::<2>()
    }
}

/// Three numbers to two classes, with a matrix in the middle.
#[derive(Module, Debug)]
pub(crate) struct Layers {
    first: Linear,
    norm: Option<BatchNorm>,
    second: Linear,
}

/// The small task of these tests.
#[derive(Module, Debug)]
pub(crate) struct Net {
    net: Layers,
}

impl Net {
    pub(crate) fn new(device: &Device) -> Self {
        Self::numbered(0, device)
    }

    /// With weights of its own for each number.
    pub(crate) fn numbered(number: usize, device: &Device) -> Self {
        Self::with(number, device, Some(BatchNorm::new(4, device)))
    }

    /// Without batch norm.
    pub(crate) fn plain(device: &Device) -> Self {
        Self::with(0, device, None)
    }

    fn with(number: usize, device: &Device, norm: Option<BatchNorm>) -> Self {
        // Not by the process-wide generator, which tests would share.
        let linear = |inputs: usize, outputs: usize| {
            let numbers: Vec<f32> =
                (0..inputs * outputs).map(|i| ((i * 37 + inputs) % 19) as f32 / 19.0 - 0.45 + number as f32).collect();
            let weight = Param::from_data(TensorData::new(numbers, [inputs, outputs]), device);
            let bias = Some(Param::from_data(TensorData::new(vec![0.1_f32; outputs], [outputs]), device));
            Linear { weight, bias }
        };
        Self { net: Layers { first: linear(3, 4), norm, second: linear(4, 2) } }
    }

    fn losses(&self, (x, targets): (Tensor<2>, Tensor<1, Int>)) -> (Tensor<1>, Tensor<1>) {
        let x = self.net.first.forward(x); // [batch, 4]
        let x = self.net.norm.as_ref().map_or(x.clone(), |norm| norm.forward(x)).tanh();
        let logits = self.net.second.forward(x); // [batch, 2]
        let correct = logits.clone().argmax(1).squeeze_dim::<1>(1).equal(targets.clone()).float().sum();
        let losses = log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg(); // [batch]
        (losses, correct)
    }
}

impl Task for Net {
    type Batch = (Tensor<2>, Tensor<1, Int>);
    const METRICS: &'static [Metric] = &[Metric::LOSS, Metric::ACCURACY];
    const ROOT: &'static str = "net";

    fn train(&self, batch: Self::Batch) -> Objective {
        let (losses, correct) = self.losses(batch);
        Objective::new(losses.clone().mean(), Sums::new(losses.dims()[0], [losses.sum(), correct]))
    }

    fn evaluate(&self, batch: Self::Batch) -> Sums {
        let (losses, correct) = self.losses(batch);
        Sums::new(losses.dims()[0], [losses.sum(), correct])
    }
}

/// Rows of three numbers, whose class is the sign of their sum.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) count: usize,
    pub(crate) seed: usize,
    /// Whether batches take their time.
    pub(crate) slow: bool,
    /// A row that cannot be read.
    pub(crate) missing: Option<usize>,
    /// An epoch, and a row that has no numbers in it.
    pub(crate) nan: Option<(usize, usize)>,
}

impl Table {
    pub(crate) fn new(count: usize, seed: usize) -> Self {
        Self { count, seed, slow: false, missing: None, nan: None }
    }
}

impl Source for Table {
    type Batch = (Tensor<2>, Tensor<1, Int>);

    fn len(&self) -> usize {
        self.count
    }

    fn digest(&self) -> String {
        format!("{} of {}", self.count, self.seed)
    }

    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<Self::Batch, SourceError> {
        if let Some(row) = self.missing.filter(|row| rows.contains(row)) {
            return Err(format!("row {row} is missing").into());
        }
        if self.slow && rows.first().is_some_and(|row| row % 2 == 0) {
            thread::sleep(Duration::from_millis(2));
        }
        // The epoch decides some of it, as an augmentation would.
        let number = |row: usize, column: usize| {
            if self.nan == Some((rows.epoch(), row)) {
                return f32::NAN;
            }
            ((row * 31 + column * 17 + self.seed * 7 + rows.epoch() * 3) % 29) as f32 / 14.0 - 1.0
        };
        let numbers: Vec<f32> = rows.iter().flat_map(|&row| (0..3).map(move |column| number(row, column))).collect();
        let targets: Vec<i32> = numbers.chunks(3).map(|row| i32::from(row.iter().sum::<f32>() > 0.0)).collect();
        let count = rows.len();
        Ok((
            Tensor::from_data(TensorData::new(numbers, [count, 3]), device),
            Tensor::from_data(TensorData::new(targets, [count]), device),
        ))
    }
}

/// The first samples of a table.
pub(crate) fn batch(samples: usize, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let rows: Vec<usize> = (0..samples).collect();
    Table::new(samples, 1).batch(&Rows::new(&rows, 1), device).unwrap()
}

/// A record of so many epochs.
pub(crate) fn record(epochs: usize, best_epoch: Option<usize>) -> RunRecord {
    let epoch = |epoch: usize| {
        json!({
            "epoch": epoch, "metrics": { "train/loss": 0.1 * epoch as f64 }, "learning_rate": 0.1, "seconds": 1.0,
            "samples_per_second": 64.0, "evaluation_seconds": 0.1,
        })
    };
    let record = json!({
        "schema": kindling_record::SCHEMA, "id": "net", "status": "running", "started": "2026-01-02T03:04:05Z",
        "parts": [], "config": {}, "backend": "flex", "device": "a processor", "versions": {},
        "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
        "dataset": { "name": "table", "sha256": "00ff", "train": 256, "valid": 64, "test": 64 },
        "model": "net", "parameters": 1, "metrics": [], "monitor": "valid/loss",
        "epochs": (1..=epochs).map(epoch).collect::<Vec<_>>(), "best_epoch": best_epoch, "stopped_early": null,
        "test": null, "seconds": 5.0, "samples_per_second": null,
        "timings": {
            "start_up_seconds": 0.0, "compilation_seconds": 0.0, "training_seconds": 4.0, "evaluation_seconds": 1.0,
            "checkpoint_seconds": 0.0,
        },
        "diverged": null, "error": null,
    });
    serde_json::from_value(record).unwrap()
}

/// A directory in memory, where the system has such a place: runs reach the disk after each epoch.
pub(crate) fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Changes the byte in the middle.
pub(crate) fn alter(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn host(interrupter: &Interrupter, on_event: impl FnMut(Event<'_>) + 'static) -> Host {
    Host {
        interrupter: interrupter.clone(),
        on_event: Box::new(on_event),
        ..Host::silent(Place { instructions: "none".to_owned(), ..Place::new(Device::flex()) })
    }
}

/// A host that stops the run after so many batches for which `counts`.
fn stopping(batches: usize, counts: impl Fn(Phase) -> bool + 'static) -> Host {
    let interrupter = Interrupter::new();
    let stop = interrupter.clone();
    let mut seen = 0;
    host(&interrupter, move |event| {
        if let Event::Step { phase } = event {
            seen += usize::from(counts(phase));
            if seen == batches {
                stop.stop(None);
            }
        }
    })
}

/// A host that never stops the run.
fn patient() -> Host {
    host(&Interrupter::new(), |_| {})
}

/// What a run leaves that a resumed one must leave as well.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: RunStatus,
    weights: Vec<u8>,
    steps: Vec<u8>,
    epochs: Vec<EpochRecord>,
    best_epoch: Option<usize>,
    stopped_early: Option<String>,
    test: Option<TestRecord>,
}

fn outcome(directory: &RunDirectory) -> Outcome {
    let record = directory.read_record().unwrap();
    let without_times =
        |epoch: EpochRecord| EpochRecord { seconds: 0.0, samples_per_second: 0.0, evaluation_seconds: 0.0, ..epoch };
    Outcome {
        status: record.status,
        weights: fs::read(directory.weights()).unwrap(),
        steps: fs::read(directory.steps()).unwrap(),
        epochs: record.epochs.into_iter().map(without_times).collect(),
        best_epoch: record.best_epoch,
        stopped_early: record.stopped_early,
        test: record.test,
    }
}

fn new_run(place: &TempDir) -> RunDirectory {
    RunDirectory::create(place.path(), "run").unwrap()
}

/// What the runs of [`Case::frozen`] freeze.
const FROZEN: [&[&str]; 4] = [&[], &["first", "norm"], &["norm.weight"], &["second.*", "first.bias"]];

/// Everything about a run of [`Net`] on a [`Table`] that a resume could lose.
#[derive(Clone, Debug)]
struct Case {
    optimizer: usize,
    schedule: usize,
    epochs: usize,
    batch_size: usize,
    limit: usize,
    seed: u64,
    clip: Option<f64>,
    patience: Option<usize>,
    gradients: Option<usize>,
    micro_batches: usize,
    ema: Option<(f64, bool)>,
    workers: usize,
    last: bool,
    /// Which of [`FROZEN`].
    frozen: usize,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            optimizer: 0,
            schedule: 0,
            epochs: 3,
            batch_size: 4,
            limit: 3,
            seed: 7,
            clip: None,
            patience: None,
            gradients: None,
            micro_batches: 1,
            ema: None,
            workers: 0,
            last: false,
            frozen: 0,
        }
    }
}

impl Case {
    fn trainer(&self, host: Host) -> Trainer<Net> {
        let momentum = MomentumConfig::new().with_momentum(0.9);
        let optimizer: ModuleOptimizer = match self.optimizer % 5 {
            0 => SgdConfig::new().init(),
            1 => SgdConfig::new().with_momentum(Some(momentum)).init(),
            2 => AdamConfig::new().init(),
            3 => AdamWConfig::new().init(),
            _ => {
                let matrices = burn::module::ParamGroup::from_paths(vec!["net.second.weight".to_owned()]);
                AdamWConfig::new().init().with_group(matrices, MuonConfig::new().build(), None)
            }
        };
        let patterns: Vec<_> = FROZEN[self.frozen].iter().map(|&pattern| pattern.to_owned()).collect();
        let (net, _) = freeze(Net::new(&Device::flex()), Net::ROOT, &patterns).unwrap();
        let trainer = Trainer::new(net, optimizer);
        let trainer = match self.schedule % 7 {
            0 => trainer.schedule(Schedule::constant().warm_up(1)),
            1 => trainer.schedule(Schedule::step(1, 0.5)),
            2 => trainer.schedule(Schedule::cosine()),
            3 => trainer.schedule(Schedule::one_cycle()),
            4 => trainer.schedule(Schedule::linear()),
            5 => trainer.schedule(Schedule::warm_restarts(1, 2)),
            _ => {
                let config = burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig::new(0.1, 20);
                trainer.schedule(config.init().unwrap())
            }
        };
        let trainer = trainer
            .learning_rate(0.05)
            .epochs(self.epochs)
            .batch_size(self.batch_size)
            .limit_batches(self.limit)
            .seed(self.seed)
            .clip_norm(self.clip)
            .patience(self.patience)
            .gradient_steps(self.gradients)
            .accumulate(self.micro_batches)
            .ema(self.ema.map(|(decay, _)| decay), self.ema.is_some_and(|(_, evaluate)| evaluate))
            .workers(self.workers)
            .config(&json!({ "epochs": self.epochs }))
            .test(Table::new(11, 3))
            .host(host);
        if self.last { trainer.keep_last() } else { trainer }
    }

    fn fit(&self, directory: &RunDirectory, host: Host) -> Result<RunRecord, TrainingError> {
        self.trainer(host).fit(directory, Table::new(41, 1), Table::new(13, 2))
    }

    fn resume(&self, directory: &RunDirectory, host: Host) -> Result<RunRecord, TrainingError> {
        self.trainer(host).resume(directory, Table::new(41, 1), Table::new(13, 2))
    }

    /// What comes of a run that is never stopped.
    fn whole(&self, place: &TempDir) -> Outcome {
        let directory = new_run(place);
        self.fit(&directory, patient()).unwrap();
        outcome(&directory)
    }
}
