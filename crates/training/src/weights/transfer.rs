//! Weights from another network, or from PyTorch.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File},
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use burn::{
    module::Module,
    store::{
        Applier, BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore,
        PyTorchToBurnAdapter, PytorchStore, SafetensorsStore, burn_pack::Tensor as Stored, map_indices_contiguous,
    },
};

use super::{WeightsError, precision, sha256};
use crate::{TrainingError, guard::message, parameters::name};

/// Where PyTorch programs keep weights inside a checkpoint, and what wrappers put before their names.
const PREFIXES: [&str; 7] =
    ["", "state_dict.", "model_state_dict.", "model.", "state_dict.model.", "module.", "model_state_dict.module."];

/// What [`transfer`] took, by the names in files: a batch norm's scale is its `weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Tensors that the module has from the file now.
    pub taken: Vec<String>,
    /// Tensors of the module that the file does not have, or has in another shape, which is said then.
    pub fresh: Vec<String>,
    /// Tensors of the file that the module has no place for.
    pub unused: Vec<String>,
}

impl Transferred {
    /// Checks that each of the parameters that are `frozen`, by their names in files, was taken.
    ///
    /// # Errors
    /// [`TrainingError::FrozenFresh`] where one was not: it would stay as it was drawn.
    pub fn check_frozen(&self, frozen: &[String]) -> Result<(), TrainingError> {
        let fresh = self.fresh.iter().map(|fresh| match fresh.split_once(' ') {
            Some((name, reason)) => (name, reason.trim_matches(['(', ')'])),
            None => (&**fresh, "not in the file"),
        });
        let mut lost = fresh.filter(|(name, _)| frozen.iter().any(|frozen| frozen == name));
        let Some((parameter, reason)) = lost.next() else { return Ok(()) };
        let (parameter, reason) = (parameter.to_owned(), reason.to_owned());
        let others = lost.map(|(name, _)| format!("`{name}`")).collect();
        Err(TrainingError::FrozenFresh { parameter, reason, others })
    }
}

fn at(path: &Path, message: impl Display) -> WeightsError {
    WeightsError(format!("{}: {message}", path.display()))
}

/// Returns what [`transfer`] would take. Of the file, only names and shapes are read: `sha256` is empty.
///
/// # Errors
/// As for [`transfer`].
pub fn compare<M: Module>(module: &M, root: &str, path: &Path) -> Result<Transferred, WeightsError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
    read.map_err(|error| at(path, error))?;
    let work = || {
        let store = || SafetensorsStore::from_file(path);
        let stored = if is_safetensors(&start) { read_safetensors(store()) } else { read_pytorch(path, &start) }?;
        matched(module, root, &stored).map(|found| found.transferred)
    };
    guarded(work).map_err(|error| at(path, error))
}

/// Burn's readers are careful, and yet a file is whatever somebody gives: a panic is an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(message(&*panic).to_owned()))
}

/// Returns `module` with those tensors of a weights file that have the name and the shape of one of its own; the others stay
/// as they are.
///
/// The file is one of safetensors with PyTorch's names and layout, such as [`write()`](super::write()) makes, or one of
/// PyTorch's own (`.pt`): a state dict, or a checkpoint that has it as `state_dict`, `model_state_dict` or `model`. Which of
/// them is told by its content. `root` is the path of the module inside `module` whose names count, as in
/// [`Task::ROOT`](crate::Task::ROOT).
///
/// # Errors
/// When the file cannot be read, is of another format or damaged, or has none of the module's tensors.
pub fn transfer<M: Module>(module: M, root: &str, path: &Path) -> Result<(M, Transferred), WeightsError> {
    let bytes = fs::read(path).map_err(|error| at(path, error))?;
    let sha256 = sha256(&bytes);
    let work = || {
        let stored = if is_safetensors(&bytes) {
            read_safetensors(SafetensorsStore::from_bytes(Some(bytes)))
        } else {
            read_pytorch(path, &bytes)
        }?;
        take(module, root, &stored)
    };
    let (module, transferred) = guarded(work).map_err(|error| at(path, error))?;
    Ok((module, Transferred { sha256, ..transferred }))
}

/// Whether a file begins as safetensors do: with the length of its header, and the header.
fn is_safetensors(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, _, _, 0, 0, b'{', ..])
}

fn read_safetensors(mut store: SafetensorsStore) -> Result<Vec<Stored>, String> {
    let tensors = store.get_all_tensors().map_err(|error| format!("expected a whole safetensors file: {error}"))?;
    Ok(tensors.values().cloned().collect())
}

/// `start` is how the file begins.
fn read_pytorch(path: &Path, start: &[u8]) -> Result<Vec<Stored>, String> {
    let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
    let fails = |error: &dyn Display| {
        let wanted = "expected weights as .safetensors, or as PyTorch's .pt of a state_dict";
        // As a ZIP archive and a pickle begin.
        let is_pytorchs = matches!(start, [b'P', b'K', ..] | [0x80, ..]);
        let found = if is_pytorchs { format!("a file that cannot be read: {error}") } else { "neither".to_owned() };
        format!("{wanted}, found {found}")
    };
    let tensors = store.get_all_tensors().map_err(|error| fails(&error))?;
    Ok(tensors.values().cloned().collect())
}

/// One way to read the names of a file as those of a module.
struct Match {
    /// Whether the names of enum variants are left out of the module's.
    skips_variants: bool,
    /// The file's tensors by name, without what comes before the names.
    stored: BTreeMap<String, Stored>,
    /// The module's tensors and their shapes in files.
    wanted: Vec<(String, Vec<usize>)>,
    /// How many names are in both with one shape, and how many at all.
    count: (usize, usize),
}

/// The way that finds the most names with the shapes that they have in the module, and among these the most names.
fn best_match<M: Module>(module: &M, root: &str, stored: &[Stored]) -> Option<Match> {
    let mut best: Option<Match> = None;
    for skips_variants in [false, true] {
        let wanted: Vec<_> = module
            .collect(None, Some(Box::new(BurnToPyTorchAdapter)), skips_variants)
            .into_iter()
            .map(|tensor| (name(&tensor.name, root).to_owned(), tensor.shape.to_vec()))
            .collect();
        // PyTorch counts layers without parameters as well: a list's 0, 2, 4 may be Burn's 0, 1, 2.
        for stored in [stored.to_vec(), map_indices_contiguous(stored.to_vec()).0] {
            for prefix in PREFIXES {
                let named = stored.iter().filter_map(|it| Some((it.name.strip_prefix(prefix)?.to_owned(), it.clone())));
                let stored: BTreeMap<_, _> = named.collect();
                let shapes = wanted.iter().filter_map(|(name, shape)| Some((shape, &stored.get(name)?.shape)));
                let same = shapes.clone().filter(|(wanted, found)| wanted[..] == found[..]).count();
                let count = (same, shapes.count());
                if best.as_ref().is_none_or(|best| count > best.count) {
                    best = Some(Match { skips_variants, stored, wanted: wanted.clone(), count });
                }
            }
        }
    }
    best
}

/// What a module has of a file, with the tensors themselves.
struct Matched {
    skips_variants: bool,
    tensors: Vec<Stored>,
    transferred: Transferred,
}

fn matched<M: Module>(module: &M, root: &str, stored: &[Stored]) -> Result<Matched, String> {
    let Some(Match { skips_variants, mut stored, wanted, .. }) = best_match(module, root, stored) else {
        return Err("expected a module with tensors, found none".to_owned());
    };
    let (mut transferred, mut tensors) = (Transferred::default(), Vec::new());
    let found: Vec<_> = stored.keys().take(5).map(|name| format!("`{name}`")).collect();
    for (name, shape) in wanted {
        match stored.remove(&name) {
            None => transferred.fresh.push(name),
            Some(tensor) if tensor.shape[..] != shape[..] => {
                transferred.fresh.push(format!(
                    "{name} ({} here, {} in the file)",
                    sides(&shape),
                    sides(&tensor.shape)
                ));
            }
            Some(tensor) if !tensor.dtype.is_float() => {
                transferred.fresh.push(format!("{name} ({:?} in the file)", tensor.dtype));
            }
            Some(mut tensor) => {
                tensor.name = if root.is_empty() { name.clone() } else { format!("{root}.{name}") };
                tensors.push(tensor);
                transferred.taken.push(name);
            }
        }
    }
    // PyTorch's batch norms count batches, for an average that theirs is not.
    transferred.unused = stored.into_keys().filter(|name| !name.ends_with("num_batches_tracked")).collect();
    if tensors.is_empty() {
        let wanted: Vec<_> = transferred.fresh.iter().take(5).map(|name| format!("`{name}`")).collect();
        return Err(format!(
            "no tensor has the name and the shape of one of the network's (the file has {}, the network {})",
            some(&found),
            some(&wanted)
        ));
    }
    Ok(Matched { skips_variants, tensors, transferred })
}

fn take<M: Module>(module: M, root: &str, stored: &[Stored]) -> Result<(M, Transferred), String> {
    let Matched { skips_variants, tensors, transferred } = matched(&module, root, stored)?;
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision(&module).into()));
    let mut applier = Applier::new(tensors, None, Some(Box::new(adapter)), skips_variants);
    let module = module.map(&mut applier);
    match applier.into_result().errors.first() {
        Some(error) => Err(error.to_string()),
        None => Ok((module, transferred)),
    }
}

/// A shape, such as `128x64`.
fn sides(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

fn some(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { format!("{}, …", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{
        parameters::each_number,
        tests::{Net, place},
        weights::{digest, write},
    };

    /// A checkpoint of PyTorch 2.9 as `{"epoch": 3, "state_dict": …, "optimizer": …}`: `first` and `norm` as in [`Net`], and
    /// `second` with three outputs. Tensor number i of the state dict is `torch.arange(n).reshape(shape) / 8 + i`.
    const CHECKPOINT: &[u8] = include_bytes!("../tests/net.pt");

    fn numbers(net: &Net) -> BTreeMap<String, Vec<f64>> {
        let mut numbers = BTreeMap::new();
        each_number(net, None, |parameter, values| {
            numbers.insert(name(&parameter.path, "net").to_owned(), values.collect());
            true
        })
        .unwrap();
        numbers
    }

    fn transferred(bytes: &[u8]) -> Result<(Net, Transferred), WeightsError> {
        let place = place();
        let path = place.path().join("weights");
        fs::write(&path, bytes).unwrap();
        transfer(Net::new(&Device::flex()), "net", &path)
    }

    #[test]
    fn a_checkpoint_of_pytorch_gives_what_has_the_same_names_and_shapes() {
        let (net, found) = transferred(CHECKPOINT).unwrap();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let taken = ["first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"];
        assert_eq!(found.taken, names(&taken));
        let fresh = ["second.weight (2x4 here, 3x4 in the file)", "second.bias (2 here, 3 in the file)"];
        assert_eq!((found.fresh, found.unused), (names(&fresh), Vec::new()));
        assert_eq!(found.sha256.len(), 64);
        let (numbers, before) = (numbers(&net), numbers(&Net::new(&Device::flex())));
        // Burn's layout is `[inputs, outputs]`.
        assert_eq!(numbers["first.weight"][..5], [0.0, 0.375, 0.75, 1.125, 0.125]);
        assert_eq!(numbers["norm.gamma"], [2.0, 2.125, 2.25, 2.375]);
        assert_eq!(numbers["norm.running_var"], [5.0, 5.125, 5.25, 5.375]);
        assert_eq!(numbers["second.weight"], before["second.weight"]);
    }

    #[test]
    fn a_file_of_another_network_gives_its_tensors_and_says_which_are_left() {
        let device = Device::flex();
        // As long as the name that it replaces, so that the header stays what it is.
        let file = replaced(&write(&Net::numbered(3, &device), "net").unwrap(), "second.bias", "first.scale");
        let (net, found) = transferred(&file).unwrap();
        assert_eq!((found.fresh, found.unused), (vec!["second.bias".to_owned()], vec!["first.scale".to_owned()]));
        let (found, wanted) = (numbers(&net), numbers(&Net::numbered(3, &device)));
        assert_eq!(found["second.weight"], wanted["second.weight"]);
        assert_eq!(found["norm.beta"], wanted["norm.beta"]);
        assert_eq!(found["second.bias"], numbers(&Net::new(&device))["second.bias"]);
    }

    fn replaced(file: &[u8], from: &str, to: &str) -> Vec<u8> {
        let at = file.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
    }

    #[test]
    fn files_without_the_networks_tensors_and_files_that_are_none_are_errors() {
        let device = Device::flex();
        let refused = |bytes: &[u8]| transferred(bytes).unwrap_err().to_string();
        let mut foreign = write(&Net::new(&device), "net").unwrap();
        for layer in ["first.weight", "first.bias", "second.weight", "second.bias"] {
            foreign = replaced(&foreign, layer, &layer.replace('t', "x").replace('e', "y"));
        }
        for norm in ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"] {
            foreign = replaced(&foreign, norm, &norm.replace('n', "y"));
        }
        let message = refused(&foreign);
        assert!(
            message.contains("no tensor has the name and the shape of one of the network's (the file has `"),
            "{message}"
        );
        assert!(message.contains("the network `first.weight`, "), "{message}");
        for bytes in
            [&b""[..], b"PK", b"hello, world", &[0; 100], &CHECKPOINT[..100], &CHECKPOINT[..3000], &foreign[..60]]
        {
            assert!(refused(bytes).starts_with("weights: "));
        }
        let missing = transfer(Net::new(&device), "net", Path::new("/nowhere/weights")).unwrap_err().to_string();
        assert!(missing.starts_with("weights: /nowhere/weights: "), "{missing}");
    }

    #[test]
    fn a_file_of_another_kind_is_told_with_its_path_and_what_would_do() {
        let place = place();
        let path = place.path().join("x.py");
        fs::write(&path, "print('weights')").unwrap();
        let message = transfer(Net::new(&Device::flex()), "net", &path).unwrap_err().to_string();
        let wanted = "expected weights as .safetensors, or as PyTorch's .pt of a state_dict, found neither";
        assert_eq!(message, format!("weights: {}: {wanted}", path.display()));
        assert_eq!(compare(&Net::new(&Device::flex()), "net", &path).unwrap_err().to_string(), message);
    }

    #[test]
    fn names_that_have_the_right_shapes_count_more_than_more_names() {
        let device = Device::flex();
        let bytes = write(&Net::new(&device), "net").unwrap();
        let mut stored = read_safetensors(SafetensorsStore::from_bytes(Some(bytes))).unwrap();
        let right: Vec<_> = stored.iter().filter(|tensor| tensor.name.starts_with("first")).cloned().collect();
        // All names with shapes of another network, and behind a prefix two names with the right ones.
        for tensor in &mut stored {
            tensor.shape = vec![7; tensor.shape.len()].into();
        }
        stored.extend(right.into_iter().map(|mut tensor| {
            tensor.name = format!("model.{}", tensor.name);
            tensor
        }));
        let found = matched(&Net::new(&device), "net", &stored).unwrap().transferred;
        assert_eq!(found.taken, ["first.weight", "first.bias"]);
    }

    #[test]
    fn a_comparison_finds_what_a_transfer_takes_and_frozen_parameters_that_are_not_taken_are_refused() {
        let place = place();
        let path = place.path().join("weights");
        for (bytes, frozen) in [
            (CHECKPOINT.to_vec(), ["first.weight", "second.bias"]),
            (
                replaced(&write(&Net::new(&Device::flex()), "net").unwrap(), "second.bias", "first.scale"),
                ["norm.bias", "second.bias"],
            ),
        ] {
            fs::write(&path, bytes).unwrap();
            let found = compare(&Net::new(&Device::flex()), "net", &path).unwrap();
            let (_, transferred) = transfer(Net::new(&Device::flex()), "net", &path).unwrap();
            assert_eq!(transferred.sha256, digest(&path).unwrap());
            assert_eq!(Transferred { sha256: transferred.sha256.clone(), ..found }, transferred);
            let frozen = frozen.map(str::to_owned);
            transferred.check_frozen(&frozen[..1]).unwrap();
            let message = transferred.check_frozen(&frozen).unwrap_err().to_string();
            assert!(
                message.starts_with("freeze: `second.bias` is frozen but not taken from the weights ("),
                "{message}"
            );
            assert!(message.contains("(2 here, 3 in the file); leave") || message.contains("(not in the file); leave"));
        }
    }

    #[test]
    fn any_damage_to_a_file_is_an_error_or_numbers_and_never_a_panic() {
        let whole = write(&Net::new(&Device::flex()), "net").unwrap();
        for file in [&whole[..], CHECKPOINT] {
            for step in 0..64 {
                let mut damaged = file.to_vec();
                let at = step * file.len() / 64;
                damaged[at] ^= 0x5a;
                let _ = transferred(&damaged);
                let _ = transferred(&file[..at]);
            }
        }
    }
}
