//! A backend with its devices: what it has, and how runs compute on it.

use std::time::{Duration, Instant};

use burn::{tensor::Device, train::Interrupter};
use kindling_config::Precision;
use kindling_kernels::{Kernels, Level};
use kindling_record::{RunDirectory, Setup};
use kindling_training::{Host, MakeRenderer, OnEvent, Place};

use super::{known::KNOWN, remote::Served};
use crate::machine;

/// How often a run on servers leaves a checkpoint in the midst of an epoch: what is on a server is lost with it.
const CHECKPOINTS: Duration = Duration::from_mins(5);

/// A backend that is ready to train.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    /// Devices that share every batch; the first holds the weights.
    pub(crate) devices: Vec<Device>,
    /// Description of the device.
    pub(crate) device_name: String,
    /// Of a remote backend, what each device is.
    pub(crate) served: Vec<Served>,
    /// The most bytes that a device takes in one piece, where there is a known limit.
    pub(crate) largest_tensor: Option<u64>,
    /// Number type of the devices.
    pub(crate) precision: Precision,
    /// Whether kernels are compiled when they are first needed.
    pub(crate) compiles_kernels: bool,
    /// Advice to the user, such as a faster backend.
    pub(crate) advice: Option<String>,
}

impl Backend {
    /// A backend with ready kernels, no known limits and no advice.
    pub(super) fn new(name: &'static str, devices: Vec<Device>, device_name: String) -> Self {
        Self {
            name,
            devices,
            device_name,
            served: Vec::new(),
            largest_tensor: None,
            precision: Precision::F32,
            compiles_kernels: false,
            advice: None,
        }
    }

    /// Whether Kindling's fused operations compute on it: they do in f32, where tensors are in the program's own memory.
    pub(crate) fn has_fused_kernels(&self) -> bool {
        has_fused_kernels(self.name, self.precision)
    }

    /// The device that computes where one does, and how many bytes it takes in one piece, if that is known.
    pub(crate) fn first(&self) -> (&Device, Option<u64>) {
        (&self.devices[0], self.largest_tensor)
    }

    /// Whether the same steps give the same bits on it.
    pub(crate) fn repeats_bits(&self) -> bool {
        matches!(self.name, "flex" | "ndarray")
    }

    /// The machine's memory in bytes, where the backend trains in it and the system tells.
    pub(crate) fn memory(&self) -> Option<u64> {
        if matches!(self.name, "flex" | "ndarray" | "libtorch") { machine::memory_bytes() } else { None }
    }

    /// Name of the kernels that `chosen` means on it, as in records.
    pub(crate) fn kernels(&self, chosen: Kernels) -> String {
        kernels(self.name, self.precision, chosen)
    }

    /// How a run computes on it with the kernels that were chosen, as far as it decides bits.
    pub(crate) fn setup(&self) -> Setup {
        setup(self.name, self.precision, self.devices.len())
    }

    /// The place where a run computes, with the kernels that were chosen.
    pub(crate) fn place(&self) -> Place {
        Place {
            devices: self.devices.clone(),
            servers: self.served.iter().map(|served| served.url.clone()).collect(),
            checkpoint_every: (!self.served.is_empty()).then_some(CHECKPOINTS),
            largest_tensor: self.largest_tensor,
            memory: self.memory(),
            graph: false,
            compiles_kernels: self.compiles_kernels,
            backend: self.name.to_owned(),
            device_name: self.device_name.clone(),
            kernels: self.kernels(Kernels::chosen()),
            instructions: Level::best().to_string(),
            machine: machine::describe(),
        }
    }

    /// What a run needs, on these devices with the kernels that were chosen.
    pub(crate) fn host(
        &self,
        interrupter: Interrupter,
        renderer: MakeRenderer,
        on_event: OnEvent,
        program_start: Instant,
    ) -> Host {
        Host { place: self.place(), interrupter, renderer, on_event, program_start }
    }

    /// The command of `program` that resumes a run. The program `kindling` has recipes, which build it with the backend.
    pub(crate) fn resume_command(&self, program: &str, run: &RunDirectory) -> String {
        let build = KNOWN.iter().find(|known| known.name == self.name).map_or("cpu", |known| known.build);
        let program = match (program, build) {
            ("kindling", "cpu") => "just".to_owned(),
            ("kindling", build) => format!("just kindling {build}"),
            _ => program.to_owned(),
        };
        let servers = self.served.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let remote = if servers.is_empty() { String::new() } else { format!(" --remote {servers}") };
        format!("{program} resume {}{remote}", run.path().display())
    }
}

fn has_fused_kernels(backend: &str, precision: Precision) -> bool {
    matches!(backend, "flex" | "ndarray") && precision == Precision::F32
}

fn kernels(backend: &str, precision: Precision, chosen: Kernels) -> String {
    match chosen {
        Kernels::Auto if has_fused_kernels(backend, precision) => format!("fused, {}", Level::best()),
        Kernels::Auto if backend.starts_with("libtorch") => "libtorch".to_owned(),
        Kernels::Auto | Kernels::Composed => Kernels::Composed.to_string(),
    }
}

pub(super) fn setup(backend: &str, precision: Precision, devices: usize) -> Setup {
    Setup::new(backend, &kernels(backend, precision, Kernels::chosen()), devices, &Level::best().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_fused_on_flex_and_ndarray_in_f32_unless_composed_ones_are_chosen() {
        let kernels = |name, precision, chosen| {
            Backend { precision, ..Backend::new(name, Vec::new(), String::new()) }.kernels(chosen)
        };
        for name in ["flex", "ndarray"] {
            assert_eq!(kernels(name, Precision::F32, Kernels::Auto), format!("fused, {}", Level::best()));
            assert_eq!(kernels(name, Precision::Bf16, Kernels::Auto), "composed");
            assert_eq!(kernels(name, Precision::F32, Kernels::Composed), "composed");
        }
        // It may be flex that serves, which is sent the single operations.
        for name in ["wgpu", "remote"] {
            assert_eq!(kernels(name, Precision::F32, Kernels::Auto), "composed");
        }
        assert_eq!(kernels("libtorch", Precision::F32, Kernels::Auto), "libtorch");
        assert_eq!(kernels("libtorch", Precision::F32, Kernels::Composed), "composed");
    }
}
