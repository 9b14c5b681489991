//! PyTorch's kernels: where their library is, and which GPUs it reaches.

use anyhow::{Result, bail};
use burn::tensor::{Device, DeviceType};

use super::ready::Backend;
use crate::machine;

/// The directory that holds the library this program was linked with.
pub(crate) const DIRECTORY: &str = env!("KINDLING_LIBTORCH");
/// Its version, as the library's headers say.
pub(crate) const VERSION: &str = env!("KINDLING_LIBTORCH_VERSION");
/// Whether it can use NVIDIA's GPUs.
pub(crate) const HAS_CUDA: bool = !env!("KINDLING_LIBTORCH_CUDA").is_empty();

/// Number of NVIDIA GPUs that the library can use.
pub(crate) fn cuda_devices() -> usize {
    // Burn lists the devices of the first kind alone, and that is CUDA.
    if HAS_CUDA { Device::enumerate(DeviceType::LibTorch).len() } else { 0 }
}

/// Opens the NVIDIA GPUs with these indices; never falls back to the CPU.
pub(super) fn open_cuda(wanted: Vec<usize>) -> Result<Backend> {
    if !HAS_CUDA {
        bail!(
            "this program was built with a libtorch for the CPU alone ({DIRECTORY}); build it with one for CUDA: just \
             train-cuda"
        );
    }
    let found = cuda_devices();
    if let Some(index) = wanted.iter().find(|&&index| index >= found) {
        let found = match found {
            0 => "none: libtorch sees no NVIDIA GPU or no driver for it (`nvidia-smi` tells more)".to_owned(),
            1 => "one, with the index 0".to_owned(),
            count => format!("{count}, with the indices 0 to {}", count - 1),
        };
        bail!("expected a CUDA device with the index {index}, found {found}; on the CPU: just train-libtorch");
    }
    // `nvidia-smi` has its own order, and does not know of those that CUDA was told to leave out.
    let all = machine::nvidia_gpus();
    let is_certain =
        std::env::var_os("CUDA_VISIBLE_DEVICES").is_none() && all.windows(2).all(|pair| pair[0] == pair[1]);
    let names = if is_certain { all } else { Vec::new() };
    let device_name = wanted
        .iter()
        .map(|&index| names.get(index).map_or_else(|| format!("CUDA device {index}"), ToString::to_string))
        .collect::<Vec<_>>()
        .join(" and ");
    #[allow(deprecated)]
    let devices = wanted.into_iter().map(Device::libtorch_cuda).collect();
    Ok(Backend { compiles_kernels: true, ..Backend::new("libtorch-cuda", devices, device_name) })
}
