//! Weights from another network, or from PyTorch.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::Module,
    store::{
        Applier, BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter,
        burn_pack::Tensor as Stored, map_indices_contiguous,
    },
};

use super::{
    Rename, WeightsError, WeightsFile,
    file::{at, guarded},
    precision,
};
use crate::{
    TrainingError,
    parameters::{each_number, name},
};

/// Where PyTorch programs keep weights inside a checkpoint, and what wrappers put before their names.
const PREFIXES: [&str; 9] = [
    "",
    "state_dict.",
    "model_state_dict.",
    "model.",
    "state_dict.model.",
    "module.",
    "state_dict.module.",
    "model_state_dict.module.",
    "model.module.",
];

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
    /// Shapes of the tensors that are only in the module or only in the file.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// What [`Rename::from`] says in those renames that no tensor of the file has.
    pub unmatched: Vec<String>,
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

    /// Checks that something was taken of `file`.
    fn check_any(&self, file: &WeightsFile) -> Result<(), String> {
        if !self.taken.is_empty() {
            return Ok(());
        }
        let some = |mut names: Vec<&str>| {
            names.sort_unstable();
            let names: Vec<_> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
            if names.is_empty() { "none".to_owned() } else { format!("{}, …", names.join(", ")) }
        };
        Err(format!(
            "no tensor has the name and the shape of one of the network's (the file has {}, the network {})",
            some(file.tensors.iter().map(|tensor| &*tensor.name).collect()),
            some(self.fresh.iter().map(|name| &**name).collect())
        ))
    }
}

/// Returns what [`transfer`] would take. Of the file, only names and shapes are read: `sha256` is empty.
///
/// # Errors
/// As for [`transfer`].
pub fn compare<M: Module>(module: &M, root: &str, path: &Path) -> Result<Transferred, WeightsError> {
    let file = WeightsFile::open(path)?;
    let work = || {
        let found = matched(module, root, &file, &[])?.transferred;
        found.check_any(&file).map(|()| found)
    };
    guarded(work).map_err(|error| at(path, error))
}

/// Returns `module` with those tensors of a weights file that have the name and the shape of one of its own; the others stay
/// as they are.
///
/// The file is one that [`WeightsFile::read`] takes; the names in it may stand in a checkpoint's `state_dict`,
/// `model_state_dict` or `model`, and behind `module.`. `root` is the path of the module inside `module` whose names count,
/// as in [`Task::ROOT`](crate::Task::ROOT).
///
/// # Errors
/// When the file cannot be read, is of another format or damaged, or has none of the module's tensors.
pub fn transfer<M: Module>(module: M, root: &str, path: &Path) -> Result<(M, Transferred), WeightsError> {
    let file = WeightsFile::read(path)?;
    let work = || {
        let (module, found) = take(module, root, &file, &[])?;
        found.check_any(&file).map(|()| (module, found))
    };
    guarded(work).map_err(|error| at(path, error))
}

/// As [`transfer`], of a file that is read already, whose names are read as `renames` say. That nothing fits is no error
/// here.
///
/// # Errors
/// When a tensor cannot be read, or two have the same name after they were renamed.
pub fn transfer_from<M: Module>(
    module: M,
    root: &str,
    file: &WeightsFile,
    renames: &[Rename],
) -> Result<(M, Transferred), WeightsError> {
    guarded(|| take(module, root, file, renames)).map_err(WeightsError)
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
    /// For each rename, whether a name was changed by it.
    used: Vec<bool>,
    /// A name that two tensors would have.
    twice: Option<String>,
}

/// The tensors behind `prefix`, renamed, and for each rename whether it applied.
fn named(file: &WeightsFile, prefix: &str, renames: &[Rename]) -> (Vec<Stored>, Vec<bool>) {
    let mut used = vec![false; renames.len()];
    let mut new_name = |name: &str| {
        let found = renames.iter().enumerate().filter_map(|(index, rename)| Some((index, rename.apply(name)?)));
        let (index, to) = found.max_by_key(|(index, _)| renames[*index].from.len())?;
        used[index] = true;
        Some(to)
    };
    let tensors = file.tensors.iter().filter_map(|tensor| {
        let name = tensor.name.strip_prefix(prefix)?;
        let name = new_name(name).unwrap_or_else(|| name.to_owned());
        let mut tensor = tensor.clone();
        tensor.name = name;
        Some(tensor)
    });
    (tensors.collect(), used)
}

/// The way that finds the most names with the shapes that they have in the module, and among these the most names.
fn best_match<M: Module>(module: &M, root: &str, file: &WeightsFile, renames: &[Rename]) -> Option<Match> {
    let mut best: Option<Match> = None;
    for skips_variants in [false, true] {
        let wanted: Vec<_> = module
            .collect(None, Some(Box::new(BurnToPyTorchAdapter)), skips_variants)
            .into_iter()
            .map(|tensor| (name(&tensor.name, root).to_owned(), tensor.shape.to_vec()))
            .collect();
        for prefix in PREFIXES {
            let (tensors, used) = named(file, prefix, renames);
            // PyTorch counts layers without parameters as well: a list's 0, 2, 4 may be Burn's 0, 1, 2.
            for tensors in [tensors.clone(), map_indices_contiguous(tensors).0] {
                let (mut stored, mut twice) = (BTreeMap::new(), None);
                for tensor in tensors {
                    let name = tensor.name.clone();
                    twice = stored.insert(name.clone(), tensor).map(|_| name).or(twice);
                }
                let shapes = wanted.iter().filter_map(|(name, shape)| Some((shape, &stored.get(name)?.shape)));
                let same = shapes.clone().filter(|(wanted, found)| wanted[..] == found[..]).count();
                let count = (same, shapes.count());
                if best.as_ref().is_none_or(|best| count > best.count) {
                    let (wanted, used) = (wanted.clone(), used.clone());
                    best = Some(Match { skips_variants, stored, wanted, count, used, twice });
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

fn matched<M: Module>(module: &M, root: &str, file: &WeightsFile, renames: &[Rename]) -> Result<Matched, String> {
    let Some(Match { skips_variants, mut stored, wanted, used, twice, .. }) = best_match(module, root, file, renames)
    else {
        return Err("expected a module with tensors, found none".to_owned());
    };
    if let Some(name) = twice {
        return Err(format!("two tensors of the file would have the name `{name}` after they were renamed"));
    }
    let (mut transferred, mut tensors) = (Transferred::default(), Vec::new());
    transferred.sha256.clone_from(&file.sha256);
    let unused = renames.iter().zip(used).filter(|(_, is_used)| !is_used);
    transferred.unmatched = unused.map(|(rename, _)| rename.from.clone()).collect();
    for (name, shape) in wanted {
        match stored.remove(&name) {
            None => {
                transferred.shapes.insert(name.clone(), shape);
                transferred.fresh.push(name);
            }
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
    for (name, tensor) in stored {
        // PyTorch's batch norms count batches, for an average that theirs is not.
        if !name.ends_with("num_batches_tracked") {
            transferred.shapes.insert(name.clone(), tensor.shape.to_vec());
            transferred.unused.push(name);
        }
    }
    Ok(Matched { skips_variants, tensors, transferred })
}

fn take<M: Module>(module: M, root: &str, file: &WeightsFile, renames: &[Rename]) -> Result<(M, Transferred), String> {
    let Matched { skips_variants, tensors, transferred } = matched(&module, root, file, renames)?;
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(precision(&module).into()));
    let mut applier = Applier::new(tensors, None, Some(Box::new(adapter)), skips_variants);
    let module = module.map(&mut applier);
    if let Some(error) = applier.into_result().errors.first() {
        return Err(error.to_string());
    }
    // Nothing could be classified or trained with these.
    let mut spoilt = None;
    let seen = each_number(&module, None, |parameter, mut values| {
        let found = Iterator::find(&mut values, |value| !value.is_finite());
        spoilt = found.map(|value| (name(&parameter.path, root).to_owned(), value));
        spoilt.is_none()
    });
    seen.map_err(|error| error.to_string())?;
    match spoilt {
        Some((name, value)) => {
            Err(format!("`{name}` has a number that is not finite as {:?} ({value})", precision(&module)))
        }
        None => Ok((module, transferred)),
    }
}

/// A shape, such as `128x64`.
#[must_use]
pub fn sides(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests;
