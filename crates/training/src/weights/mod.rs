//! Weights files: safetensors with PyTorch's names and layout.

mod file;
mod transfer;

use std::{collections::BTreeMap, fs, path::Path};

use burn::{
    module::Module,
    store::{
        BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
        burn_pack::Writer,
    },
    tensor::{DType, FloatDType},
};
use sha2::{Digest, Sha256};

pub use self::{
    file::{Rename, WeightsFile},
    transfer::{Transferred, compare, sides, transfer, transfer_from},
};
pub use crate::error::WeightsError;
use crate::source::hexadecimal;

/// How the header of a file begins that [`write()`] has made.
const METADATA: &str = r#"{"__metadata__":"#;

/// Returns the tensors of `module` as a safetensors file with PyTorch's names and layout, in f32 whatever the module
/// computes in.
///
/// `root` is the path of the module inside it whose names count, as in [`Task::ROOT`](crate::Task::ROOT).
///
/// # Errors
/// When a tensor cannot be read back from the device.
pub fn write<M: Module>(module: &M, root: &str) -> Result<Vec<u8>, WeightsError> {
    // One metadata entry, since several would be written in an order that differs from run to run ([`with_metadata`] sorts
    // them); `pt` is what PyTorch's own tools write.
    let mut store = SafetensorsStore::from_bytes(None)
        .clear_metadata()
        .metadata("format", "pt")
        .with_to_adapter(BurnToPyTorchAdapter.chain(FloatCastAdapter::to(DType::F32)));
    if !root.is_empty() {
        store = store.with_key_remapping(format!(r"^{}\.", escaped(root)), "");
    }
    module.save_into(&mut store).and_then(|()| store.get_bytes()).map_err(WeightsError::new)
}

/// Returns a file that [`write()`] has made, or this function, with more entries of metadata, in the order of their keys, so
/// that the same entries are the same bytes.
///
/// # Errors
/// When the file is another.
pub fn with_metadata(file: &[u8], entries: &BTreeMap<String, String>) -> Result<Vec<u8>, WeightsError> {
    let fails = || WeightsError("expected a file with `format: pt` in its metadata, found another".to_owned());
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(fails)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| fails())?;
    let (header, tensors) = rest.split_at_checked(length).ok_or_else(fails)?;
    let header = std::str::from_utf8(header).map_err(WeightsError::new)?.trim_end();
    let header = header.strip_prefix(METADATA).ok_or_else(fails)?;
    let mut values = serde_json::Deserializer::from_str(header).into_iter::<BTreeMap<String, String>>();
    let mut all = values.next().ok_or_else(fails)?.map_err(WeightsError::new)?;
    if all.get("format").is_none_or(|format| format != "pt") {
        return Err(fails());
    }
    let others = header.get(values.byte_offset()..).ok_or_else(fails)?;
    all.extend(entries.clone());
    let all = serde_json::to_string(&all).map_err(WeightsError::new)?;
    let mut header = format!("{METADATA}{all}{others}").into_bytes();
    // The tensors begin on a boundary of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, tensors].concat())
}

/// Returns the tensors of `module` as a file of Burn's own (`.bpk`), with Burn's names and layout, in f32 whatever the module
/// computes in. The same module and entries give the same bytes: identities of parameters, which are drawn anew whenever a
/// module is made, are left out.
///
/// # Errors
/// When a tensor cannot be read back from the device.
pub fn burnpack<M: Module>(module: &M, entries: &BTreeMap<String, String>) -> Result<Vec<u8>, WeightsError> {
    let mut tensors = module.collect(None, Some(Box::new(FloatCastAdapter::to(DType::F32))), false);
    for tensor in &mut tensors {
        tensor.param_id = None;
    }
    let write = |writer: Writer, (key, value): (&String, &String)| writer.with_metadata(key, value);
    let writer = entries.iter().fold(Writer::new(tensors), write);
    Ok(writer.into_bytes().map_err(WeightsError::new)?.to_vec())
}

/// Returns `module` with the weights of a file such as [`write()`] makes, in the device's own precision.
///
/// # Errors
/// When the file is none, or lacks a tensor, or holds one of another shape or one that the module has no place for.
pub fn read<M: Module>(mut module: M, root: &str, bytes: Vec<u8>) -> Result<M, WeightsError> {
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision(&module).into()));
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

/// Returns SHA-256 of a weights file, hexadecimal, as [`Transferred::sha256`] has it.
///
/// # Errors
/// When the file cannot be read.
pub fn digest(path: &Path) -> Result<String, WeightsError> {
    Ok(digest_of(&fs::read(path).map_err(|error| WeightsError(format!("{}: {error}", path.display())))?))
}

/// Returns SHA-256 of a weights file that is read already, hexadecimal.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// What the module's device computes in.
fn precision<M: Module>(module: &M) -> FloatDType {
    module.devices().first().map_or(FloatDType::F32, |device| device.settings().float_dtype)
}

/// A path as a regular expression that matches it.
fn escaped(path: &str) -> String {
    path.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use burn::{store::BurnpackStore, tensor::Device};

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

    #[test]
    fn a_file_of_burns_own_is_the_same_for_the_same_weights_and_loads_into_the_module() {
        let device = Device::flex();
        let net = Net::numbered(2, &device);
        let entries = [("width", "28")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let bytes = burnpack(&net, &entries).unwrap();
        assert!(burnpack(&Net::numbered(2, &device), &entries).unwrap() == bytes);
        let mut other = Net::new(&device);
        let mut store = BurnpackStore::from_bytes(Some(burn::tensor::Bytes::from_bytes_vec(bytes)));
        other.load_from(&mut store).unwrap();
        assert!(write(&other, "net").unwrap() == write(&net, "net").unwrap());
    }

    #[test]
    fn metadata_is_written_in_the_order_of_its_keys_and_without_any_nothing_changes() {
        let device = Device::flex();
        let bytes = write(&Net::new(&device), "net").unwrap();
        assert!(with_metadata(&bytes, &BTreeMap::new()).unwrap() == bytes);
        let entries =
            [("width", "28"), ("classes", r#"["a","b"]"#)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let file = with_metadata(&bytes, &entries.into()).unwrap();
        let text = String::from_utf8_lossy(&file[8..]).into_owned();
        let header = r#"{"__metadata__":{"classes":"[\"a\",\"b\"]","format":"pt","width":"28"},"#;
        assert!(text.starts_with(header), "{text}");
        assert_eq!(file[..8], (file.len() as u64 - 8 - tensors(&bytes).len() as u64).to_le_bytes());
        assert!(file.ends_with(tensors(&bytes)) && file.len() % 8 == bytes.len() % 8);
        let other = read(Net::numbered(1, &device), "net", file.clone()).unwrap();
        assert!(write(&other, "net").unwrap() == bytes);
        // Entries are added to those that are there already.
        let more = [("run", "mlp-1"), ("width", "32")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let text = String::from_utf8_lossy(&with_metadata(&file, &more.into()).unwrap()[8..]).into_owned();
        assert!(text.contains(r#"\"b\"]","format":"pt","run":"mlp-1","width":"32"},"#), "{text}");
        for other in [&b""[..], &bytes[..20], &[255; 64]] {
            assert!(with_metadata(other, &BTreeMap::new()).is_err());
        }
    }

    /// What follows a file's header.
    fn tensors(file: &[u8]) -> &[u8] {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        &file[8 + length..]
    }
}
