//! Weights files: safetensors with PyTorch's names and layout.

use burn::{
    module::Module,
    store::{
        BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
    },
    tensor::{DType, FloatDType},
};

pub use crate::error::WeightsError;

/// Returns the tensors of `module` as a safetensors file with PyTorch's names and layout, in f32 whatever the module
/// computes in.
///
/// `root` is the path of the module inside it whose names count, as in [`Task::ROOT`](crate::Task::ROOT).
///
/// # Errors
/// When a tensor cannot be read back from the device.
pub fn write<M: Module>(module: &M, root: &str) -> Result<Vec<u8>, WeightsError> {
    // One metadata entry, since several would be written in an order that differs from run to run; `pt` is what
    // PyTorch's own tools write.
    let mut store = SafetensorsStore::from_bytes(None)
        .clear_metadata()
        .metadata("format", "pt")
        .with_to_adapter(BurnToPyTorchAdapter.chain(FloatCastAdapter::to(DType::F32)));
    if !root.is_empty() {
        store = store.with_key_remapping(format!(r"^{}\.", escaped(root)), "");
    }
    module.save_into(&mut store).and_then(|()| store.get_bytes()).map_err(WeightsError::new)
}

/// Returns `module` with the weights of a file such as [`write()`] makes, in the device's own precision.
///
/// # Errors
/// When the file is none, or lacks a tensor, or holds one of another shape or one that the module has no place for.
pub fn read<M: Module>(mut module: M, root: &str, bytes: Vec<u8>) -> Result<M, WeightsError> {
    let precision = module.devices().first().map_or(FloatDType::F32, |device| device.settings().float_dtype);
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision.into()));
    let mut store = SafetensorsStore::from_bytes(Some(bytes)).with_from_adapter(adapter);
    if !root.is_empty() {
        store = store.with_key_remapping("^", format!("{root}."));
    }
    let loaded = module.load_from(&mut store).map_err(WeightsError::new)?;
    // PyTorch's batch norms count batches, for an average that theirs is not.
    match loaded.unused.iter().find(|name| !name.ends_with("num_batches_tracked")) {
        Some(name) => {
            let name = crate::parameters::name(name, root);
            Err(WeightsError(format!("expected the network's tensors alone, found `{name}` as well")))
        }
        None => Ok(module),
    }
}

/// A path as a regular expression that matches it.
fn escaped(path: &str) -> String {
    path.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{parameters::initialize, tests::Net};

    #[test]
    fn weights_are_written_under_the_names_inside_the_root_and_read_back() {
        let device = Device::flex();
        let net = Net::new(&device);
        initialize(&net);
        let bytes = write(&net, "net").unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("\"first.weight\"") && text.contains("\"norm.running_mean\"") && !text.contains("net."));
        let other = read(Net::new(&device), "net", bytes.clone()).unwrap();
        assert!(write(&other, "net").unwrap() == bytes);
        let whole = write(&net, "").unwrap();
        assert!(String::from_utf8_lossy(&whole).contains("\"net.first.weight\""));
        assert!(read(Net::new(&device), "net", whole).is_err());
        assert!(read(Net::new(&device), "net", bytes[..100].to_vec()).is_err());
    }
}
