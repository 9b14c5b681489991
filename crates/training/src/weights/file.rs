//! Weights files as tensors with names, whatever program wrote them.

use std::{
    fmt::Display,
    fs::{self, File},
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    str::FromStr,
};

use burn::store::{
    ModuleStore, PytorchStore, SafetensorsStore,
    burn_pack::Tensor as Stored,
    pytorch_reader::{PickleValue, PytorchReader},
};

use super::{WeightsError, digest_of};
use crate::guard::message;

/// What PyTorch's own reader makes of plain weights files, and what checkpoints have beside weights: modules and names of
/// Python whose objects are passed over. `builtins` has `eval`, so that only its values are among them.
const HARMLESS: [&str; 16] = [
    "torch",
    "numpy",
    "collections",
    "argparse.Namespace",
    "datetime",
    "decimal.Decimal",
    "fractions.Fraction",
    "pathlib",
    "_codecs.encode",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.object",
    "builtins.range",
    "builtins.slice",
    "copy_reg._reconstructor",
    "copyreg._reconstructor",
];

/// The tensors of a weights file, by their names there, in PyTorch's layout.
pub struct WeightsFile {
    /// SHA-256 of the file, hexadecimal; empty where it was not read as a whole.
    pub sha256: String,
    /// The tensors.
    pub tensors: Vec<Stored>,
}

impl WeightsFile {
    /// Reads a file of safetensors, such as [`write()`](super::write()) makes, or one of PyTorch's own (`.pt`): a state
    /// dict, or a checkpoint that has one. Which of them is told by its content. Nothing that a pickle calls is run.
    ///
    /// # Errors
    /// When the file cannot be read, is of another format or damaged, or holds calls of Python's that are no tensors.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let bytes = fs::read(path).map_err(|error| at(path, error))?;
        let sha256 = digest_of(&bytes);
        let work = || {
            let begins = bytes[..bytes.len().min(9)].to_vec();
            if is_safetensors(path, &bytes) {
                read_safetensors(SafetensorsStore::from_bytes(Some(bytes)))
            } else {
                drop(bytes);
                read_pytorch(path, &begins)
            }
        };
        let tensors = guarded(work).map_err(|error| at(path, error))?;
        Ok(Self { sha256, tensors })
    }

    /// As [`read`](Self::read), without the file's digest, and of safetensors without what the tensors hold.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(9).read_to_end(&mut start));
        read.map_err(|error| at(path, error))?;
        let is_safe = is_safetensors(path, &start);
        let tensors = guarded(|| {
            if is_safe { read_safetensors(SafetensorsStore::from_file(path)) } else { read_pytorch(path, &start) }
        });
        Ok(Self { sha256: String::new(), tensors: tensors.map_err(|error| at(path, error))? })
    }
}

/// Names of a file's tensors and what they are read as: one whole name, or the beginning of names up to a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The name in the file, or its beginning.
    pub from: String,
    /// What stands in its place; empty to leave a beginning out.
    pub to: String,
}

impl Rename {
    /// What `name` becomes; none where it is another.
    pub(super) fn apply(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(&*self.from)?;
        let rest = match rest.strip_prefix('.') {
            _ if rest.is_empty() => return Some(self.to.clone()),
            _ if self.from.is_empty() || self.from.ends_with('.') => rest,
            rest => rest?,
        };
        let to = self.to.trim_end_matches('.');
        Some(if to.is_empty() { rest.to_owned() } else { format!("{to}.{rest}") })
    }
}

impl FromStr for Rename {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((from, to)) if from != to => Ok(Self { from: from.to_owned(), to: to.to_owned() }),
            _ => Err(format!("expected FROM=TO, a name of the file and one of the network, found `{text}`")),
        }
    }
}

/// An error with the file that it is about.
pub(super) fn at(path: &Path, message: impl Display) -> WeightsError {
    WeightsError(format!("{}: {message}", path.display()))
}

/// Burn's readers are careful, and yet a file is whatever somebody gives: a panic is an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(message(&*panic).to_owned()))
}

/// Whether a file begins as safetensors do, with the length of its header and the header, or is named so and no other.
fn is_safetensors(path: &Path, bytes: &[u8]) -> bool {
    let is_named = || path.extension().is_some_and(|ending| ending == "safetensors") && !is_pytorchs(bytes);
    matches!(bytes, [_, _, _, _, _, _, 0, 0, b'{', ..]) || is_named()
}

/// Whether a file begins as a ZIP archive or a pickle.
fn is_pytorchs(bytes: &[u8]) -> bool {
    matches!(bytes, [b'P', b'K', ..] | [0x80, ..])
}

pub(super) fn read_safetensors(mut store: SafetensorsStore) -> Result<Vec<Stored>, String> {
    let tensors = store.get_all_tensors().map_err(|error| format!("expected a whole safetensors file: {error}"))?;
    Ok(tensors.values().cloned().collect())
}

/// `start` is how the file begins.
fn read_pytorch(path: &Path, start: &[u8]) -> Result<Vec<Stored>, String> {
    // What cannot be read is told below.
    if let Some(call) = PytorchReader::read_pickle_data(path, None).ok().as_ref().and_then(foreign) {
        return Err(format!(
            "expected tensors, found a call or an object of Python's, `{call}` (nothing of it was run); save the tensors \
             alone: torch.save(model.state_dict(), PATH)"
        ));
    }
    let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
    let fails = |error: &dyn Display| {
        let wanted = "expected weights as .safetensors, or as PyTorch's .pt of a state_dict";
        let found =
            if is_pytorchs(start) { format!("a file that cannot be read: {error}") } else { "neither".to_owned() };
        format!("{wanted}, found {found}")
    };
    let tensors = store.get_all_tensors().map_err(|error| fails(&error))?;
    Ok(tensors.values().cloned().collect())
}

/// The first object in a pickle that no weights file needs, by the name of what makes it.
fn foreign(value: &PickleValue) -> Option<&str> {
    match value {
        PickleValue::Unsupported(name) => {
            let is_harmless =
                |known: &str| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            let builtin = name.strip_prefix("__builtin__.").map(|name| format!("builtins.{name}"));
            let is_known = HARMLESS.into_iter().any(is_harmless)
                || builtin.is_some_and(|name| HARMLESS.contains(&&*name))
                // Numbers too large for the reader.
                || !name.contains('.');
            (!is_known).then_some(name)
        }
        PickleValue::List(values) => values.iter().find_map(foreign),
        PickleValue::Dict(values) => values.values().find_map(foreign),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::place;

    fn refused(bytes: &[u8]) -> String {
        let place = place();
        let path = place.path().join("weights.pt");
        fs::write(&path, bytes).unwrap();
        WeightsFile::read(&path).err().unwrap().to_string()
    }

    #[test]
    fn a_pickle_that_calls_programs_is_refused_and_nothing_of_it_is_run() {
        let place = place();
        let trap = place.path().join("trap");
        let command = format!("touch {}", trap.display());
        let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        // A call of os.system or builtins.exec, as protocol 2 has it: alone, or in a state dict.
        let call =
            |function: &str, argument: &str| [format!("c{function}\n").as_bytes(), &text(argument), b"\x85R"].concat();
        let alone = [b"\x80\x02", &call("posix\nsystem", &command)[..], b"."].concat();
        let state = [b"}", &text("x")[..], &call("posix\nsystem", &command), b"s"].concat();
        let within = [b"\x80\x02}", &text("state_dict")[..], &state, b"s."].concat();
        let python = format!("open('{}', 'w')", trap.display());
        let executed = [b"\x80\x02", &call("__builtin__\nexec", &python)[..], b"."].concat();
        for (pickle, call) in [(alone, "posix.system"), (within, "posix.system"), (executed, "__builtin__.exec")] {
            let said = refused(&pickle);
            assert!(said.contains(&format!("`{call}` (nothing of it was run)")), "{said}");
        }
        // Of protocol 0, which no version of PyTorch writes.
        assert!(refused(format!("cposix\nsystem\n(S'{command}'\ntR.").as_bytes()).contains("found neither"));
        assert!(!trap.exists());
    }

    #[test]
    fn what_checkpoints_have_beside_weights_is_not_foreign() {
        let of = |name: &str| PickleValue::List(vec![PickleValue::None, PickleValue::Unsupported(name.to_owned())]);
        for name in ["torch.Tensor", "torch.device", "numpy.core.multiarray.scalar", "__builtin__.complex", "int"] {
            assert_eq!(foreign(&of(name)), None, "{name}");
        }
        for name in ["posix.system", "builtins.eval", "torchy.Tensor", "__main__.Config", "subprocess.Popen"] {
            assert_eq!(foreign(&of(name)), Some(name));
        }
    }

    #[test]
    fn names_are_changed_as_a_whole_or_up_to_a_dot() {
        let renamed = |rename: &str, name: &str| rename.parse::<Rename>().unwrap().apply(name);
        let to = |name: &str| Some(name.to_owned());
        assert_eq!(renamed("features.0=conv1", "features.0.weight"), to("conv1.weight"));
        assert_eq!(renamed("features.0=conv1", "features.01.weight"), None);
        assert_eq!(renamed("onnx::MatMul_12=fc1.weight", "onnx::MatMul_12"), to("fc1.weight"));
        assert_eq!(renamed("backbone=", "backbone.fc1.bias"), to("fc1.bias"));
        assert_eq!(renamed("backbone.=net.", "backbone.fc1.bias"), to("net.fc1.bias"));
        assert_eq!(renamed("=net", "fc1.bias"), to("net.fc1.bias"));
        for wrong in ["a", "a=a", "="] {
            assert!(wrong.parse::<Rename>().is_err(), "{wrong}");
        }
    }
}
