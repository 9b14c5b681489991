//! GPUs through wgpu: which adapter it is, and whether it is one at all.

use std::{env, path::PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use burn::{
    cubecl::{
        config::{CubeClRuntimeConfig, RuntimeConfig, autotune::AutotuneLevel, cache::CacheConfig},
        future,
    },
    tensor::{
        Device, DeviceKind,
        wgpu::{WgpuBackend, WgpuInitError, wgpu},
    },
};

use super::ready::Backend;

/// What brings a software adapter, where there is no GPU.
const SOFTWARE_DRIVER: &str = "apt install mesa-vulkan-drivers";

/// An adapter as its driver describes it.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) name: String,
    /// Graphics API, driver and its version.
    pub(crate) driver: String,
    /// Whether it is a software adapter: it computes on the CPU.
    pub(crate) is_software: bool,
}

impl From<wgpu::AdapterInfo> for Adapter {
    fn from(info: wgpu::AdapterInfo) -> Self {
        Self {
            driver: format!("{}, {} {}", info.backend, info.driver, info.driver_info).trim_end().to_owned(),
            is_software: info.device_type == wgpu::DeviceType::Cpu,
            name: info.name,
        }
    }
}

/// Every adapter of this machine, one entry for each graphics API that reaches it.
pub(crate) fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let found = future::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY | wgpu::Backends::GL));
    found.iter().map(|adapter| adapter.get_info().into()).collect()
}

/// Opens discrete GPUs by their index, or the most powerful one where none is named.
pub(super) fn open(name: &'static str, indices: Option<Vec<usize>>) -> Result<Backend> {
    let api = if name == "vulkan" { WgpuBackend::Vulkan } else { WgpuBackend::Auto };
    configure();
    let kinds: Vec<_> = match indices {
        None => vec![DeviceKind::DefaultDevice],
        Some(indices) => indices.into_iter().map(DeviceKind::DiscreteGpu).collect(),
    };
    let mut devices = Vec::new();
    let mut adapters: Vec<Adapter> = Vec::new();
    let mut largest_tensor = u64::MAX;
    for kind in kinds {
        match Device::wgpu_options().device_kind(kind.clone()).graphics_api(api).init_with_setup() {
            Ok((device, setup)) => {
                devices.push(device);
                adapters.push(setup.adapter.get_info().into());
                let limits = setup.device.limits();
                largest_tensor = largest_tensor.min(limits.max_buffer_size).min(limits.max_storage_buffer_binding_size);
            }
            Err(WgpuInitError::AdapterUnavailable { .. }) => return Err(none_found(&kind)),
            Err(error) => return Err(error.into()),
        }
    }
    let device_name = adapters
        .iter()
        .map(|adapter| format!("{} ({})", adapter.name, adapter.driver))
        .collect::<Vec<_>>()
        .join(" and ");
    if cfg!(feature = "vulkan") && adapters.iter().any(|adapter| adapter.is_software) {
        bail!(
            "expected a GPU, found {device_name}: this build compiles kernels to SPIR-V, and Mesa's software drivers \
             crash on some of them; set KINDLING_GPU_FEATURES=wgpu and build again, or use flex: just train-cpu"
        );
    }
    let advice = adapters.iter().any(|adapter| adapter.is_software).then(|| {
        format!("{name} found no GPU, only a driver that computes on the CPU; flex does so far faster: just train-cpu")
    });
    let largest_tensor = Some(largest_tensor);
    Ok(Backend { largest_tensor, compiles_kernels: true, advice, ..Backend::new(name, devices, device_name) })
}

fn none_found(kind: &DeviceKind) -> Error {
    let wanted = match kind {
        DeviceKind::DiscreteGpu(index) => format!("a discrete GPU with the index {index}"),
        _ => "a GPU".to_owned(),
    };
    let found: Vec<_> =
        self::adapters().into_iter().map(|adapter| format!("{} ({})", adapter.name, adapter.driver)).collect();
    let found = if found.is_empty() { "no driver for any".to_owned() } else { found.join(", ") };
    anyhow!(
        "expected {wanted}, found {found}; install the Vulkan driver of your GPU, or for trying it out without one: \
         {SOFTWARE_DRIVER}"
    )
}

/// Keeps compiled kernels and tuning results in the user's cache, and tunes little on software adapters.
///
/// What else a `cubecl.toml` or `burn.toml` and the variables of `CubeCL` say is kept.
fn configure() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = cache().map_or(CacheConfig::Global, CacheConfig::Directory);
    }
    config.compilation.cache = true;
    let is_software = adapters().iter().all(|adapter| adapter.is_software);
    if is_software && env::var_os("CUBECL_AUTOTUNE_LEVEL").is_none() {
        config.autotune.level = AutotuneLevel::Minimal;
    }
    // False where it was set before: by an earlier run in this process, which set the same.
    CubeClRuntimeConfig::try_set(config);
}

/// Where compiled kernels and tuning results are kept.
pub(crate) fn cache() -> Option<PathBuf> {
    dirs::cache_dir().map(|cache| cache.join("kindling").join("gpu"))
}
