//! The backends of this build: the one place that names them.

use anyhow::{Result, bail};
use burn::tensor::Device;

use crate::{commands::Misuse, machine};

/// A backend that is ready to train.
pub(crate) struct Backend {
    /// As in `--backend` and in records.
    pub(crate) name: &'static str,
    pub(crate) device: Device,
    /// The device in words.
    pub(crate) device_name: String,
}

/// Opens the backend called `name`.
pub(crate) fn open(name: &str) -> Result<Backend> {
    // Burn makes tensors of its own on the device that this variable names, and panics where there is none.
    if let Some(other) = std::env::var_os("BURN_DEVICE").filter(|other| *other != name) {
        let other = other.display();
        bail!(Misuse(format!(
            "BURN_DEVICE is {other} and the backend is {name}; unset BURN_DEVICE, --backend decides"
        )));
    }
    match name {
        #[cfg(feature = "flex")]
        "flex" | "cpu" => Ok(cpu("flex", Device::flex(), Some(machine::simd()))),
        // Deprecated in Burn, and still what people have and compare with.
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        "ndarray" => Ok(cpu("ndarray", Device::ndarray(), None)),
        other => {
            bail!(Misuse(format!("backend `{other}` is not in this build; there are {}", compiled_in().join(", "))))
        }
    }
}

/// The backend to use where none is asked for.
pub(crate) fn default_name() -> &'static str {
    compiled_in().first().copied().unwrap_or("flex")
}

fn compiled_in() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "flex") {
        names.push("flex");
    }
    if cfg!(feature = "ndarray") {
        names.push("ndarray");
    }
    names
}

fn cpu(name: &'static str, device: Device, simd: Option<&str>) -> Backend {
    let machine = machine::describe();
    let processor = machine.processor.unwrap_or(machine.platform);
    let simd = simd.map_or_else(String::new, |simd| format!(", {simd}"));
    Backend { name, device, device_name: format!("{processor}, {} threads{simd}", machine.threads) }
}
