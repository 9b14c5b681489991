//! Runs of weights from elsewhere: PyTorch's files, safetensors, and the constants of ONNX files.

mod constants;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use kindling_classification::{AnyNetwork, Imported};
use kindling_config::{Config, nearest};
use kindling_data::ImageData;
use kindling_record::{InitialWeightsRecord, RunDirectory, RunRecord, RunStatus, replace_file};
use kindling_training::{
    Place,
    weights::{Rename, Transferred, WeightsFile, sides},
};

use crate::ExchangeError;

/// So many tensors are named on each side, where those of a file and of a network do not fit together.
const NAMED: usize = 60;

/// What weights are read for.
pub struct ImportRequest<'a> {
    /// The network that takes them.
    pub network: &'a dyn AnyNetwork,
    /// Its config.
    pub config: &'a Config,
    /// What the classes and the size of the images are, and what the run can be tested on.
    pub data: &'a ImageData,
    /// How names of the file are read.
    pub renames: &'a [Rename],
    /// Whether tensors that the file does not have may stay as they are drawn from the config's seed.
    pub partial: bool,
}

/// Weights that fit a network, and where they came from.
pub struct Import {
    path: PathBuf,
    imported: Imported,
}

/// Reads the weights in `path`, with the network on `device`.
///
/// Names are those of the network, as far as they are, or what [`ImportRequest::renames`] make of them. The constants of
/// an ONNX file that the operator `MatMul`, or `Gemm` without `transB`, takes as its second operand are transposed, so that
/// they are as PyTorch has them. Nothing that a file of PyTorch's calls is run.
///
/// # Errors
/// When the file is none of the three formats, or is damaged; when the network's tensors are not all in it with their
/// shapes, unless the import is partial, or none of them is; when a rename fits no name; when the network cannot take the
/// images.
pub fn import(request: &ImportRequest<'_>, path: &Path, device: &Device) -> Result<Import, ExchangeError> {
    let file = read(path)?;
    if file.tensors.is_empty() {
        return Err(ExchangeError::file(path, "expected weights, found a file without tensors"));
    }
    let ImportRequest { network, config, data, renames, partial } = *request;
    let imported = network.import(config, data, &file, renames, device)?;
    let found = &imported.transferred;
    if let Some(from) = found.unmatched.first() {
        return Err(unmatched(from, &file));
    }
    if found.taken.is_empty() || !(partial || found.fresh.is_empty()) {
        return Err(ExchangeError::file(path, lacking(network.name(), found, &file)));
    }
    Ok(Import { path: path.to_path_buf(), imported })
}

impl Import {
    /// What was taken from the file and what not, as the run's record has it.
    #[must_use]
    pub fn weights(&self) -> InitialWeightsRecord {
        let Transferred { sha256, taken, fresh, unused, .. } = self.imported.transferred.clone();
        InitialWeightsRecord { source: self.path.display().to_string(), sha256, taken: taken.len(), fresh, unused }
    }

    /// Makes a run of them in `directory`, which must be new; `place` is where it is used by default.
    ///
    /// # Errors
    /// When nothing can be written to the directory, or it has another run.
    pub fn into_run(
        self,
        config: &Config,
        directory: &RunDirectory,
        place: &Place,
    ) -> Result<RunRecord, ExchangeError> {
        let _lock = directory.lock()?;
        if !directory.is_new() {
            return Err(ExchangeError::file(directory.path(), "expected a new directory, found another run"));
        }
        let mut config = config.clone();
        // What tells runs of different weights apart, and where a training from them begins.
        config.training.weights = Some(self.path.display().to_string());
        let serde_json::Value::Object(keys) =
            serde_json::to_value(&config).map_err(|error| ExchangeError::file(&self.path, error))?
        else {
            return Err(ExchangeError::file(&self.path, "expected a config with keys, found none"));
        };
        let initial_weights = Some(self.weights());
        let Imported { weights, parameters, dataset, metrics, .. } = self.imported;
        let record = RunRecord {
            config: keys,
            model: config.network.name.clone(),
            parameters,
            initial_weights,
            metrics,
            monitor: config.protocol.monitor().to_owned(),
            ..place.record(directory.id(), RunStatus::Imported, dataset)
        };
        replace_file(&directory.weights(), &weights)?;
        // A directory without a record is no run.
        directory.write_record(&record)?;
        Ok(record)
    }
}

/// The tensors of a file, whose format is told by its content, and by its name where that says nothing.
fn read(path: &Path) -> Result<WeightsFile, ExchangeError> {
    let mut start = [0; 9];
    let fails = |error: std::io::Error| ExchangeError::file(path, error);
    let count = File::open(path).and_then(|file| file.take(9).read(&mut start)).map_err(fails)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    match &start[..count] {
        [] => Err(ExchangeError::file(path, "expected weights, found an empty file")),
        // PyTorch's archives and pickles, and safetensors.
        [b'P', b'K', ..] | [0x80, ..] | [_, _, _, _, _, _, 0, 0, b'{'] => Ok(WeightsFile::read(path)?),
        _ if ["pt", "pth", "bin", "ckpt", "pkl", "tar", "safetensors"].contains(&&*ending) => {
            Ok(WeightsFile::read(path)?)
        }
        // A model begins with the version of its format.
        [0x08, ..] => constants::read(path),
        _ if ending == "onnx" => constants::read(path),
        _ => Err(ExchangeError::file(
            path,
            "expected weights as .safetensors, as PyTorch's .pt of a state_dict, or as .onnx, found none of them",
        )),
    }
}

/// That a rename begins no name of the file, with the name that it may have meant.
fn unmatched(from: &str, file: &WeightsFile) -> ExchangeError {
    let mut known: Vec<&str> = Vec::new();
    for name in file.tensors.iter().map(|tensor| &*tensor.name) {
        let dots = name.match_indices('.').map(|(at, _)| &name[..at]);
        known.extend(dots.chain([name]));
    }
    ExchangeError::Rename { from: from.to_owned(), nearest: nearest(from, known.into_iter()) }
}

/// What the file lacks for the network, and what else it has, in its order, with their shapes.
fn lacking(network: &str, found: &Transferred, file: &WeightsFile) -> String {
    let named = |names: &mut dyn Iterator<Item = &String>| {
        let mut names = names.map(|name| match found.shapes.get(name) {
            Some(shape) if shape.is_empty() => format!("{name} (a single number)"),
            Some(shape) => format!("{name} {}", sides(shape)),
            None => name.clone(),
        });
        let shown: Vec<String> = names.by_ref().take(NAMED).collect();
        let more = names.count();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") + &more }
    };
    let place = |name: &String| file.tensors.iter().position(|tensor| tensor.name.ends_with(&**name));
    let mut unused: Vec<&String> = found.unused.iter().collect();
    unused.sort_by_key(|name| place(name));
    let all = found.taken.len() + found.fresh.len();
    let exporter = if unused.iter().any(|name| name.starts_with("onnx::")) {
        "\n  PyTorch's exporter renames weights that it changes (`onnx::MatMul_12`, listed as the graph takes them), and puts \
         batch norms into the convolutions before them (`onnx::Conv_27`) unless it exports model.eval() with \
         training=TrainingMode.PRESERVE and do_constant_folding=False; the .pt file has everything"
    } else {
        ""
    };
    format!(
        "{} of the {all} tensors of `{network}` are in the file\n  missing: {}\n  in the file and not used: {}{exporter}\n  \
         --rename FROM=TO reads names of the file as the network's, --set network.KEY=VALUE changes its shapes, and \
         --partial draws what is missing from the seed",
        found.taken.len(),
        named(&mut found.fresh.iter()),
        named(&mut unused.into_iter()),
    )
}
