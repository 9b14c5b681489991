//! What a run needs from its caller, and what it tells the caller.

use std::{path::Path, time::Instant};

use burn::{
    tensor::Device,
    train::{Interrupter, renderer::MetricsRenderer},
};
use kindling_record::{EpochRecord, MachineRecord, PartRecord, now};

/// Makes the renderer that a run reports to, given the epoch it starts after.
pub type MakeRenderer = Box<dyn FnOnce(usize) -> Box<dyn MetricsRenderer>>;

/// Called on each event of a run, on the thread that trains.
pub type OnEvent = Box<dyn FnMut(Event<'_>)>;

/// Which images a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The training images.
    Train,
    /// Those evaluated after each epoch.
    Evaluate,
    /// The test images at the end of the run.
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
    /// The backend is about to compile and autotune the kernels that the run needs.
    Compiling,
    /// It does so for a batch of this size, in a step whose results are thrown away.
    WarmUp {
        /// Name of the model.
        model: &'a str,
        /// Images in the batch.
        images: usize,
        /// Whether it is a step of training, or of evaluation.
        training: bool,
    },
    /// The kernels are compiled and autotuned.
    Compiled {
        /// How long it took.
        seconds: f64,
    },
    /// A batch is done. A stop that is asked for while this is handled takes effect at once.
    Step {
        /// Which images it was of.
        phase: Phase,
    },
    /// An epoch is finished.
    Epoch {
        /// Its figures.
        record: &'a EpochRecord,
        /// Number of epochs planned.
        epochs: usize,
    },
}

/// What the caller decides about a run: given the backend and its kernels, none of it changes the result but the number
/// of devices, and that only by rounding and by the batch norms' statistics.
pub struct Host {
    /// Where to train, without autodiff and with the config's precision for their default: one device, or several of
    /// one backend that share every batch.
    pub devices: Vec<Device>,
    /// The most bytes that a device takes in one piece, where the backend knows a limit.
    pub largest_tensor: Option<u64>,
    /// Bytes of memory that the devices share with the program, where there is such a limit: what does not fit is refused.
    pub memory: Option<u64>,
    /// Whether the backend compiles its kernels when it first needs them: it then does so before the first step.
    pub compiles_kernels: bool,
    /// Name of the backend.
    pub backend: String,
    /// The device as the backend describes it.
    pub device_name: String,
    /// Name of the kernels: what [`kindling_kernels::Kernels`] chose comes to on the devices.
    pub kernels: String,
    /// The vector instructions of the host's processor, as [`kindling_kernels::Level::best`] displays them.
    pub instructions: String,
    /// The machine.
    pub machine: MachineRecord,
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
