//! What a run needs from its caller, and what it tells the caller.

use std::{
    collections::BTreeMap,
    env::consts,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use burn::{
    tensor::{Device, Tensor},
    train::{Interrupter, renderer::MetricsRenderer},
};
use kindling_record::{
    DatasetRecord, EpochRecord, InitialWeightsRecord, MachineRecord, PartRecord, RunRecord, RunStatus, SCHEMA, Timings,
    now,
};
use serde_json::Map;

use crate::{TrainingError, contained};

/// The version of Burn that this crate was written for.
pub const BURN_VERSION: &str = "0.22.1";

/// Makes the renderer that a run reports to, given the epoch it starts after.
pub type MakeRenderer = Box<dyn FnOnce(usize) -> Box<dyn MetricsRenderer>>;

/// Called on each event of a run, on the thread that trains.
pub type OnEvent = Box<dyn FnMut(Event<'_>)>;

/// Which samples a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The training split.
    Train,
    /// Those evaluated after each epoch.
    Evaluate,
    /// The test split at the end of the run.
    Test,
}

/// An event of a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A checkpoint or their index cannot be used; the run is resumed from the newest whole one.
    DamagedCheckpoint {
        /// The file that is damaged.
        path: &'a Path,
        /// What is wrong with it.
        message: &'a str,
        /// The directory of the checkpoint that is used.
        instead: &'a Path,
    },
    /// The run starts from weights of another place.
    InitialWeights(&'a InitialWeightsRecord),
    /// Parts of the network stay as they are in this run.
    Frozen {
        /// Names of the layers, or of parameters where the layer has others that are trained.
        layers: &'a [String],
        /// How many numbers they hold.
        parameters: usize,
    },
    /// The backend is about to compile and autotune the kernels that the run needs.
    Compiling,
    /// A warm-up step with a batch of this size; its results are discarded.
    WarmUp {
        /// Name of the network or task.
        model: &'a str,
        /// Samples in the batch.
        samples: usize,
        /// Whether it is a step of training, or of evaluation.
        training: bool,
    },
    /// The kernels are compiled and autotuned.
    Compiled {
        /// How long it took.
        seconds: f64,
    },
    /// A batch is done, and its loss is read. A stop that is asked for while this is handled takes effect at once, but for
    /// the steps that a GPU has taken since: see [`DeferredSums`](crate::DeferredSums).
    Step {
        /// Which samples it was of.
        phase: Phase,
    },
    /// An epoch is finished.
    Epoch {
        /// Its metrics.
        record: &'a EpochRecord,
        /// Number of epochs planned.
        epochs: usize,
    },
}

/// Where a run takes place. With a given backend and kernels, only the number of devices affects the result, by rounding and
/// by batch norm statistics.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where to train, without autodiff and with the wanted precision for their default: one device, or several of one
    /// backend that share every batch.
    pub devices: Vec<Device>,
    /// The server of each device, where other processes serve them: one that goes away ends the run as interrupted, and
    /// no server is asked to reach another. Otherwise empty.
    pub servers: Vec<String>,
    /// How often the midst of an epoch leaves a checkpoint as well, beside the end of each.
    pub checkpoint_every: Option<Duration>,
    /// Largest allocation of a device in bytes, if the backend has a limit.
    pub largest_tensor: Option<u64>,
    /// Bytes of memory that the devices share with the program, where there is such a limit.
    pub memory: Option<u64>,
    /// Whether training repeats a recorded step: who makes the trainer calls [`Trainer::graph`](crate::Trainer::graph).
    pub graph: bool,
    /// Whether the backend compiles its kernels when it first needs them: it then does so before the first step.
    pub compiles_kernels: bool,
    /// Name of the backend.
    pub backend: String,
    /// The device as the backend describes it.
    pub device_name: String,
    /// Name of the kernels that the layers compute with.
    pub kernels: String,
    /// The vector instructions of the host's processor, where they are known.
    pub instructions: String,
    /// The machine.
    pub machine: MachineRecord,
}

impl Place {
    /// One device, described as Burn does it.
    #[must_use]
    pub fn new(device: Device) -> Self {
        let device = device.inner();
        let device_name = format!("{device:?}");
        let backend = device_name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let platform = format!("{} {}", consts::OS, consts::ARCH);
        Self {
            devices: vec![device],
            servers: Vec::new(),
            checkpoint_every: None,
            largest_tensor: None,
            memory: None,
            graph: false,
            compiles_kernels: false,
            backend,
            device_name,
            kernels: "own".to_owned(),
            instructions: String::new(),
            machine: MachineRecord { platform, processor: None, threads },
        }
    }

    /// The devices beside the first, with autodiff, each with whether it is on another server than the first.
    pub(crate) fn others(&self) -> Vec<(Device, bool)> {
        let others = self.devices.iter().enumerate().skip(1);
        let is_apart = |index| self.servers.get(index) != self.servers.first();
        others.map(|(index, device)| (device.clone().autodiff(), is_apart(index))).collect()
    }

    /// The first server that no longer answers.
    pub(crate) fn lost_server(&self) -> Option<&str> {
        let answers = |device: &Device| {
            let read = || Tensor::<1>::zeros([1], device).try_into_data().map_err(TrainingError::backend);
            contained(read).is_ok()
        };
        let mut served = self.devices.iter().zip(&self.servers);
        served.find(|(device, _)| !answers(device)).map(|(_, server)| server.as_str())
    }

    /// The record of a run that begins here and now and has measured nothing: what is not given is empty.
    #[must_use]
    pub fn record(&self, id: String, status: RunStatus, dataset: DatasetRecord) -> RunRecord {
        RunRecord {
            schema: SCHEMA,
            id,
            status,
            started: now(),
            parts: Vec::new(),
            config: Map::new(),
            backend: self.backend.clone(),
            device: self.device_name.clone(),
            versions: versions(),
            machine: self.machine.clone(),
            dataset,
            model: String::new(),
            parameters: 0,
            initial_weights: None,
            frozen: Vec::new(),
            metrics: Vec::new(),
            monitor: String::new(),
            epochs: Vec::new(),
            best_epoch: None,
            stopped_early: None,
            test: None,
            seconds: 0.0,
            samples_per_second: None,
            timings: Timings::default(),
            diverged: None,
            error: None,
        }
    }

    /// The record of the part that starts now.
    pub(crate) fn part(&self) -> PartRecord {
        PartRecord {
            started: now(),
            backend: self.backend.clone(),
            device: self.device_name.clone(),
            devices: self.devices.len(),
            kernels: self.kernels.clone(),
            instructions: self.instructions.clone(),
        }
    }
}

/// A run's place, and its ties to the program that trains it.
pub struct Host {
    /// Where it takes place.
    pub place: Place,
    /// Tells the run to stop after the current step.
    pub interrupter: Interrupter,
    /// Makes what shows the progress.
    pub renderer: MakeRenderer,
    /// Called on each event.
    pub on_event: OnEvent,
    /// When the program started.
    pub program_start: Instant,
}

impl Host {
    /// A run that shows nothing.
    #[must_use]
    pub fn silent(place: Place) -> Self {
        Self {
            place,
            interrupter: Interrupter::new(),
            renderer: Box::new(|_| Box::new(crate::Silent)),
            on_event: Box::new(|_| ()),
            program_start: Instant::now(),
        }
    }
}

/// The versions of what trains.
pub(crate) fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("kindling".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), BURN_VERSION.to_owned()),
    ])
}
