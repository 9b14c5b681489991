use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use kindling_config::Precision;
use kindling_exchange::import::{Import, ImportRequest, import as read};
use kindling_record::RunDirectory;
use kindling_training::weights::Rename;

use crate::{
    Workbench,
    arguments::{ConfigArguments, RunsDirectory},
    backend::{Request, default_name},
    commands::train::{print_result, weights_lines},
    data, machine,
    outcome::Outcome,
    output::notice,
    relaunch, signals, writable,
};

/// Arguments of `import`.
#[derive(Args)]
pub(crate) struct ImportArguments {
    /// The weights: .safetensors, PyTorch's .pt (a state dict, or a checkpoint that has one), or .onnx
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArguments,
    /// Name of the run: its id is NAME and the time [default: the network]
    #[arg(long)]
    name: Option<String>,
    /// Read a name of the file, or the beginning of names up to a dot, as another, as in features.0=conv1; an empty TO
    /// leaves it out; can be repeated
    #[arg(long = "rename", value_name = "FROM=TO", value_parser = |text: &str| text.parse::<Rename>())]
    renames: Vec<Rename>,
    /// Draw from the seed what the file does not have of the network
    #[arg(long)]
    partial: bool,
    /// Directory of the data set, whose classes and images the run is for [default: as for train]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print the run's record as JSON instead of a summary
    #[arg(long)]
    json: bool,
}

/// The command `import`.
pub(crate) fn import(workbench: &Workbench, arguments: &ImportArguments) -> Result<Outcome> {
    let (file, runs_dir) = (&arguments.file, &arguments.runs_dir.path);
    let request = Request::new(default_name(), None, &[])?;
    relaunch::with(&request.environment())?;
    let mut config = arguments.config.resolve(workbench)?;
    let taken = config.training.weights.take();
    if let Some(weights) = taken.filter(|weights| Path::new(weights) != file) {
        notice(format_args!("weights: those of {}, and not of {weights} that the config names", file.display()));
    }
    let network = workbench.network_of(&config.network)?;
    let name = arguments.name.as_deref().unwrap_or(&config.network.name);
    RunDirectory::check_name(name)?;
    let found = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if !found.is_file() {
        // A pipe nobody writes to would be waited for without an end.
        let found = if found.is_dir() { "a directory" } else { "a pipe or a device" };
        bail!("{}: expected a file of weights, found {found}", file.display());
    }
    let bytes = found.len();
    if let Some(memory) = machine::memory_bytes().filter(|memory| bytes > *memory) {
        bail!("{}: expected weights that fit into memory ({memory} bytes), found {bytes} bytes", file.display());
    }
    writable::check(runs_dir)?;
    signals::install()?;
    let data = data::load(workbench, &config.data, arguments.data_dir.as_deref())?;
    let place = request.open(Precision::F32)?.place();
    let wanted = ImportRequest {
        network,
        config: &config,
        data: &data,
        renames: &arguments.renames,
        partial: arguments.partial,
    };
    let found: Import = read(&wanted, file, &place.devices[0])?;
    weights_lines(&found.weights()).iter().for_each(notice);
    let directory = RunDirectory::create(runs_dir, name)?;
    let record = found.into_run(&config, &directory, &place).inspect_err(|_| {
        // Nothing of a run is in it that could be used.
        let _ = fs::remove_dir_all(directory.path());
    })?;
    print_result(&record, &directory, arguments.json)?;
    Ok(Outcome::Done)
}
