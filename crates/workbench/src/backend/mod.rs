//! The backends of this build: the one place that names them.

#[cfg(feature = "wgpu")]
pub(crate) mod gpu;
mod known;
#[cfg(feature = "libtorch")]
pub(crate) mod libtorch;
mod ready;
mod remote;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use kindling_classification::dtype;
use kindling_config::Precision;
use kindling_record::Setup;

pub(crate) use self::{
    known::{KNOWN, Known, compiled_in, default_name},
    ready::Backend,
};
use self::{ready::setup, remote::Served};
use crate::{machine, outcome::Misuse};

/// Which backend, and which of its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// One of [`KNOWN`].
    pub(crate) name: &'static str,
    /// Indices of devices, where they were named.
    indices: Vec<usize>,
    /// Number of devices, where none were named.
    count: usize,
    /// The devices that servers offer; each has an entry where the backend is `remote`.
    served: Vec<Served>,
}

impl Request {
    /// Understands `NAME` or `NAME:INDEX[,INDEX...]`, with the number of devices and the servers that flags name.
    pub(crate) fn new(text: &str, count: Option<usize>, servers: &[String]) -> Result<Self> {
        let (name, indices) = text.split_once(':').map_or((text, None), |(name, indices)| (name, Some(indices)));
        let name = if name == "cpu" { "flex" } else { name };
        let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
            let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
            bail!(Misuse(format!("no backend `{name}`; there are {}", names.join(", "))));
        };
        if !known.is_compiled_in {
            bail!(Misuse(format!(
                "backend `{name}` is not in this build, which has {}; it comes with: {}",
                compiled_in().map(|known| known.name).collect::<Vec<_>>().join(", "),
                known.way()
            )));
        }
        let indices = match indices {
            None => Vec::new(),
            Some(_) if matches!(name, "flex" | "ndarray" | "libtorch") => {
                bail!(Misuse(format!("backend `{name}` has one device, the CPU; found `{text}`")))
            }
            Some(list) => list
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<usize>, _>>()
                .map_err(|_| Misuse(format!("expected {name}:INDEX or {name}:INDEX,INDEX, found `{text}`")))?,
        };
        if let Some(count) = count.filter(|&count| !indices.is_empty() && count != indices.len()) {
            bail!(Misuse(format!("--devices {count} and `{text}` do not name the same number of devices")));
        }
        if count == Some(0) {
            bail!(Misuse("--devices: expected at least 1, found 0".to_owned()));
        }
        if (name == "remote") == servers.is_empty() {
            bail!(Misuse("backend `remote` requires --remote ws://HOST:PORT, and --remote requires it".to_owned()));
        }
        let served = if servers.is_empty() { Vec::new() } else { Served::all(servers, &indices, count)? };
        let count = if served.is_empty() { count.unwrap_or(indices.len().max(1)) } else { served.len() };
        // Burn makes tensors of its own on the device that this variable names, and panics where there is none.
        if let Some(other) = std::env::var_os("BURN_DEVICE").filter(|other| *other != known.burn_name) {
            let other = other.display();
            bail!(Misuse(format!(
                "BURN_DEVICE is {other} and the backend is {name}; unset BURN_DEVICE, --backend decides"
            )));
        }
        Ok(Self { name: known.name, indices, count, served })
    }

    /// How a run in `precision` would compute with the kernels that were chosen, as far as it decides bits.
    pub(crate) fn setup(&self, precision: Precision) -> Setup {
        setup(self.name, precision, self.count)
    }

    /// The variables that the backend's libraries should find, for [`relaunch`](crate::relaunch).
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        match self.name {
            // Without it, Mesa's drivers complain on standard error, in the midst of the dashboard.
            "wgpu" | "vulkan" if cfg!(target_os = "linux") => {
                dirs::cache_dir().map(|cache| ("XDG_RUNTIME_DIR", cache.display().to_string())).into_iter().collect()
            }
            // glibc would give libtorch's memory back to the system after every operation, only to ask for it again:
            // a quarter of the time of the cnn. Older versions accept no more than 32 MiB for the second.
            "libtorch" if cfg!(target_os = "linux") => {
                let kept = [("MALLOC_TRIM_THRESHOLD_", 1 << 30), ("MALLOC_MMAP_THRESHOLD_", 1 << 25)];
                kept.map(|(name, bytes): (_, u32)| (name, bytes.to_string())).to_vec()
            }
            // Else memory that a step frees would be given back while the next step asks for it.
            "flex" | "ndarray" => vec![("MIMALLOC_PURGE_DELAY", "-1".to_owned())],
            _ => Vec::new(),
        }
    }

    /// Makes the backend Burn's default, where a build has a GPU backend that would be it instead: Burn reads the
    /// optimizer's state back onto its default device, whether or not the machine has such a device.
    pub(crate) fn as_default(&self) -> Option<(&'static str, String)> {
        let known = KNOWN.iter().find(|known| known.name == self.name)?;
        let would_be_a_gpu = cfg!(any(feature = "wgpu", feature = "cuda", feature = "rocm", feature = "metal"));
        would_be_a_gpu.then(|| ("BURN_DEVICE", known.burn_name.to_owned()))
    }

    /// Indices of the devices on a backend that numbers them.
    #[allow(dead_code)] // not in a build with CPU backends alone
    fn indices(&self) -> Vec<usize> {
        if self.indices.is_empty() { (0..self.count).collect() } else { self.indices.clone() }
    }

    /// The same device as often as it was asked for: on a CPU, devices are shares of one batch and nothing more.
    fn copies(&self, device: &Device) -> Vec<Device> {
        vec![device.clone(); self.count]
    }

    /// Opens the devices and sets them up for `precision`.
    pub(crate) fn open(&self, precision: Precision) -> Result<Backend> {
        self.open_for(&[precision])
    }

    /// Opens the devices and sets them up for the first of `precisions` that they support.
    pub(crate) fn open_for(&self, precisions: &[Precision]) -> Result<Backend> {
        let mut backend = self.find().with_context(|| format!("backend `{}`", self.name))?;
        if backend.devices.len() > 1 {
            backend.device_name = format!("{} devices: {}", backend.devices.len(), backend.device_name);
        }
        let supports = |precision: Precision| {
            let is_default = |device: &Device| device.settings().float_dtype == dtype(precision);
            backend.devices.iter().all(|device| is_default(device) || device.supports_dtype(dtype(precision)))
        };
        let Some(&precision) = precisions.iter().find(|&&precision| supports(precision)) else {
            let wanted: Vec<_> = precisions.iter().map(ToString::to_string).collect();
            let found = Precision::ALL.into_iter().filter(|&precision| supports(precision));
            bail!(Misuse(format!(
                "precision {}: {} on this device computes in {}; choose one of them, or another backend",
                wanted.join(", "),
                self.name,
                found.map(|precision| precision.to_string()).collect::<Vec<_>>().join(", ")
            )));
        };
        for device in &mut backend.devices {
            // It can be set once, before the first tensor; copies of one device share it.
            if device.settings().float_dtype != dtype(precision) {
                let failed = || format!("{} cannot be set up for {precision}", self.name);
                device.configure(dtype(precision)).with_context(failed)?;
            }
        }
        backend.precision = precision;
        Ok(backend)
    }

    fn find(&self) -> Result<Backend> {
        match self.name {
            #[cfg(feature = "flex")]
            "flex" => Ok(cpu("flex", self.copies(&Device::flex()), Some(machine::simd()))),
            // Deprecated in Burn, and still what people have and compare with.
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            "ndarray" => Ok(cpu("ndarray", self.copies(&Device::ndarray()), None)),
            #[cfg(feature = "wgpu")]
            "wgpu" | "vulkan" => {
                let is_any = self.indices.is_empty() && self.count == 1;
                gpu::open(self.name, (!is_any).then(|| self.indices()))
            }
            #[cfg(feature = "libtorch")]
            #[allow(deprecated)]
            "libtorch" => Ok(cpu("libtorch", self.copies(&Device::libtorch()), None)),
            #[cfg(feature = "libtorch")]
            "libtorch-cuda" => libtorch::open_cuda(self.indices()),
            #[cfg(feature = "remote")]
            "remote" => remote::open(&self.served),
            #[cfg(feature = "cuda")]
            "cuda" => Ok(own_kernels("cuda", self.indices().into_iter().map(Device::cuda))),
            #[cfg(feature = "metal")]
            "metal" if self.count > 1 || !self.indices.is_empty() => {
                bail!(Misuse("metal has one device, the system's GPU".to_owned()))
            }
            #[cfg(feature = "metal")]
            "metal" => Ok(own_kernels("metal", [Device::metal(burn::tensor::DeviceKind::DefaultDevice)])),
            #[cfg(feature = "rocm")]
            "rocm" => Ok(own_kernels("rocm", self.indices().into_iter().map(Device::rocm))),
            name => bail!(Misuse(format!("backend `{name}` is not in this build"))),
        }
    }
}

fn cpu(name: &'static str, devices: Vec<Device>, simd: Option<&str>) -> Backend {
    let machine = machine::describe();
    let processor = machine.processor.unwrap_or(machine.platform);
    let simd = simd.map_or_else(String::new, |simd| format!(", {simd}"));
    let device_name = format!("{processor}, {} threads{simd}", machine.threads);
    Backend::new(name, devices, device_name)
}

/// A backend that Kindling passes on to Burn without knowing more of it.
#[cfg(any(feature = "cuda", feature = "metal", feature = "rocm"))]
fn own_kernels(name: &'static str, devices: impl IntoIterator<Item = Device>) -> Backend {
    let devices: Vec<_> = devices.into_iter().collect();
    let device_name =
        devices.first().and_then(Device::identity).map_or_else(|| name.to_owned(), |identity| identity.name);
    Backend { compiles_kernels: true, ..Backend::new(name, devices, device_name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str, count: Option<usize>) -> String {
        Request::new(text, count, &[]).unwrap_err().to_string()
    }

    #[test]
    fn cpu_is_another_name_for_flex() {
        let request = Request::new("cpu", None, &[]).unwrap();
        assert_eq!((request.name, request.count), ("flex", 1));
    }

    #[test]
    fn a_backend_that_is_not_there_is_refused_with_the_way_to_get_it() {
        assert!(refusal("tpu", None).starts_with("no backend `tpu`; there are flex, ndarray, wgpu,"));
        if !cfg!(feature = "rocm") {
            assert!(refusal("rocm", None).contains("it comes with: just train rocm;"));
        }
    }

    #[test]
    fn devices_that_make_no_sense_are_refused() {
        assert_eq!(refusal("flex:1", None), "backend `flex` has one device, the CPU; found `flex:1`");
        assert_eq!(refusal("flex", Some(0)), "--devices: expected at least 1, found 0");
        assert_eq!(
            Request::new("flex", None, &["ws://x:1".to_owned()]).unwrap_err().to_string(),
            "backend `remote` requires --remote ws://HOST:PORT, and --remote requires it"
        );
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn a_precision_that_a_backend_lacks_is_refused_with_those_it_has() {
        let request = Request::new("ndarray", None, &[]).unwrap();
        let error = request.open(Precision::Bf16).err().unwrap().to_string();
        let expected = "precision bf16: ndarray on this device computes in f32; choose one of them, or another backend";
        assert_eq!(error, expected);
    }
}
