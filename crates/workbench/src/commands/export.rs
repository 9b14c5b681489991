use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use kindling_config::Precision;
use kindling_exchange::{ExportedRun, csv, huggingface, tensorboard, weights};
use kindling_models::presets;
use kindling_record::replace_file;
use kindling_report::Run;
use serde_json::json;

use crate::{
    Workbench,
    arguments::RunsDirectory,
    backend::{Request, default_name},
    commands::compare::read_runs,
    outcome::{Misuse, Outcome},
    output::{notice, print},
    pytorch, relaunch,
    trained::Trained,
};

/// Arguments of `export`.
#[derive(Args)]
pub(crate) struct ExportArguments {
    /// The run: its id, a prefix that no other run has, or its path; several for csv and tensorboard, which also take runs
    /// that are not finished
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// The file or the folder to write; of several runs, the folder for their folders [default: in the current directory,
    /// named after the run]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Make batch norms a part of the convolutions before them, with --format onnx or html
    #[arg(long)]
    fold_batch_norm: bool,
    /// Licence of the weights for the model card, as the hub names it (mit, apache-2.0, cc-by-4.0, ...), with --format
    /// huggingface [default: unknown]
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    runs_dir: RunsDirectory,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// What runs are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A network that ONNX Runtime and others run: bytes of images to logits and probabilities
    Onnx,
    /// The weights with PyTorch's names, and what their use takes as metadata
    Safetensors,
    /// The weights as Burn's own file (.bpk), for the same module in a Burn program
    Burn,
    /// A folder for the Hugging Face hub: weights, config, model card
    Huggingface,
    /// A folder of tables: epochs, steps, test, classes
    Csv,
    /// A log directory for TensorBoard
    Tensorboard,
    /// A page that runs the network by itself
    Html,
}

impl Format {
    /// Where a run with this id is written by default.
    fn place(self, id: &str) -> PathBuf {
        match self {
            Self::Onnx => format!("{id}.onnx").into(),
            Self::Safetensors => format!("{id}.safetensors").into(),
            Self::Burn => format!("{id}.bpk").into(),
            Self::Huggingface => format!("{id}-huggingface").into(),
            Self::Csv => format!("{id}-csv").into(),
            Self::Tensorboard => Path::new("tensorboard").join(id),
            Self::Html => format!("{id}.html").into(),
        }
    }

    /// Whether it is what a run measured, whatever became of its weights.
    fn is_of_measurements(self) -> bool {
        matches!(self, Self::Csv | Self::Tensorboard)
    }

    /// Why what is at its place cannot be replaced, though that is asked for: a device stays a device.
    fn cannot_replace(self, found: &fs::Metadata) -> Option<String> {
        let is_folder = matches!(self, Self::Huggingface | Self::Csv | Self::Tensorboard);
        let wanted = if is_folder { "a directory" } else { "a file" };
        let kind = match (found.is_dir(), found.is_file()) {
            (true, _) => "a directory",
            (_, true) => "a file",
            _ => "a pipe or a device",
        };
        (kind != wanted).then(|| format!("{kind}, and --format {} writes {wanted}", self.name()))
    }

    /// Its name as it is typed.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The command `export`.
pub(crate) fn export(workbench: &Workbench, arguments: &ExportArguments) -> Result<Outcome> {
    let format = arguments.format;
    check(arguments)?;
    let runs = read_runs(&arguments.runs_dir.path, &arguments.runs)?;
    let request = Request::new(default_name(), None, &[])?;
    if format == Format::Burn {
        relaunch::with(&request.environment())?;
    }
    let mut outputs: Vec<(Run, PathBuf)> = Vec::new();
    for run in runs {
        let id = run.directory.id();
        let output = match &arguments.output {
            Some(output) if arguments.runs.len() > 1 => output.join(&id),
            Some(output) => output.clone(),
            None => format.place(&id),
        };
        if let Some((other, _)) = outputs.iter().find(|(_, known)| *known == output) {
            let (other, path) = (other.directory.path().display(), output.display());
            bail!(Misuse(format!("{} and {other} would both be written to {path}", run.directory.path().display())));
        }
        if !arguments.force && fs::symlink_metadata(&output).is_ok() {
            bail!(Misuse(format!(
                "{} is there already; --force replaces it, --output names another place",
                output.display()
            )));
        }
        if let Some(found) = fs::metadata(&output).ok().and_then(|found| format.cannot_replace(&found)) {
            bail!(Misuse(format!("{} is {found}; --output names another place", output.display())));
        }
        outputs.push((run, output));
    }
    for (run, output) in &outputs {
        if format.is_of_measurements() {
            measurements(format, run, output)?;
        } else {
            let trained = Trained::read(workbench, &run.directory)?;
            let Trained { directory, record, config, network } = &trained;
            let exported = ExportedRun { directory, record, config, network: *network };
            of_weights(workbench, arguments, &exported, &request, output)
                .with_context(|| format!("{} cannot be exported", directory.id()))?;
        }
    }
    if arguments.json {
        let written = outputs.iter().map(|(run, output)| {
            json!({ "run": run.directory.id(), "format": format.name(), "path": output.display().to_string() })
        });
        print(serde_json::to_string_pretty(&written.collect::<Vec<_>>())?);
    } else {
        for (_, output) in &outputs {
            print(output.display());
        }
    }
    Ok(Outcome::Done)
}

/// Checks that the arguments make sense together.
fn check(arguments: &ExportArguments) -> Result<()> {
    let ExportArguments { format, runs, license, fold_batch_norm, .. } = arguments;
    if runs.len() > 1 && !format.is_of_measurements() {
        bail!(Misuse(format!(
            "--format {} requires one run (got {}); csv and tensorboard take several",
            format.name(),
            runs.len()
        )));
    }
    if *fold_batch_norm && !matches!(format, Format::Onnx | Format::Html) {
        bail!(Misuse(format!("--fold-batch-norm requires --format onnx or html (got {})", format.name())));
    }
    match license {
        Some(_) if *format != Format::Huggingface => {
            bail!(Misuse(format!("--license requires --format huggingface (got {})", format.name())))
        }
        Some(id)
            if id.is_empty()
                || !id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c)) =>
        {
            bail!(Misuse(format!("--license: expected an identifier such as mit or apache-2.0, found `{id}`")))
        }
        _ => Ok(()),
    }
}

/// Writes what a run measured.
fn measurements(format: Format, run: &Run, output: &Path) -> Result<()> {
    let Run { directory, record, .. } = run;
    let written = match format {
        Format::Tensorboard => tensorboard::export(directory, output).map(drop).map_err(Into::into),
        _ => folder(output, |folder| Ok(csv::write(directory, record, folder)?)),
    };
    written.with_context(|| format!("{} cannot be exported", directory.id()))
}

/// Writes the weights of `run`, and what goes with them.
fn of_weights(
    workbench: &Workbench,
    arguments: &ExportArguments,
    run: &ExportedRun<'_>,
    request: &Request,
    output: &Path,
) -> Result<()> {
    let content = match arguments.format {
        Format::Safetensors => weights::safetensors(run)?,
        Format::Burn => weights::burn(run, request.open(Precision::F32)?.first().0)?,
        Format::Huggingface => {
            if !run.directory.evaluation().exists() {
                let (id, program) = (run.directory.id(), workbench.program());
                notice(format_args!(
                    "{id} was not evaluated: the model card has no metrics of classes and no mistakes; \
                     `{program} evaluate {id}` before makes them"
                ));
            }
            let is_preset = presets().iter().any(|(name, _)| *name == run.config.network.name);
            let options = huggingface::HubOptions {
                license: arguments.license.as_deref(),
                program: workbench.program(),
                pytorch: is_preset.then_some(pytorch::NETWORKS),
            };
            return folder(output, |folder| Ok(huggingface::write(run, &options, folder)?));
        }
        _ => graph(arguments, run)?,
    };
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    Ok(replace_file(output, &content)?)
}

/// The network as an ONNX file, or as a page that runs it.
#[cfg(feature = "onnx")]
fn graph(arguments: &ExportArguments, run: &ExportedRun<'_>) -> Result<Vec<u8>> {
    use kindling_exchange::{html, onnx};
    // A page only has to be fast.
    let is_page = arguments.format == Format::Html;
    let options = onnx::OnnxOptions { fold_batch_norm: arguments.fold_batch_norm || is_page };
    let model = onnx::export(run, &options)?;
    Ok(if is_page { html::page(&model, run)?.into_bytes() } else { onnx::encode(&model) })
}

#[cfg(not(feature = "onnx"))]
fn graph(arguments: &ExportArguments, _: &ExportedRun<'_>) -> Result<Vec<u8>> {
    bail!(Misuse(format!(
        "--format {} is not in this build; it comes with the cargo feature `onnx`, which is on by default",
        arguments.format.name()
    )))
}

/// Has `write` fill a folder that becomes `output` once it is complete. In an `output` that is there already, files of the same
/// names are replaced, one by one, and all others stay.
fn folder(output: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fails = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| anyhow::Error::from(error).context(format!("{path} cannot be written"))
    };
    fs::create_dir_all(parent).map_err(fails(parent))?;
    let temporary = tempfile::Builder::new().prefix(".kindling-").tempdir_in(parent).map_err(fails(output))?;
    // The temporary directory itself is private.
    let new = temporary.path().join("new");
    fs::create_dir(&new).map_err(fails(output))?;
    write(&new)?;
    if !output.exists() {
        return fs::rename(&new, output).map_err(fails(output));
    }
    for entry in fs::read_dir(&new).map_err(fails(&new))? {
        let entry = entry.map_err(fails(&new))?;
        fs::rename(entry.path(), output.join(entry.file_name())).map_err(fails(output))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_whole_or_not_there_and_what_is_in_an_old_one_stays() {
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("exports/mlp");
        let failed = folder(&output, |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("no weights")
        });
        assert!(failed.is_err() && !output.exists());
        let write = |text: &str| folder(&output, |folder| Ok(fs::write(folder.join("table.csv"), text)?));
        write("old").unwrap();
        fs::write(output.join("notes.txt"), "mine").unwrap();
        write("new").unwrap();
        let read = |name: &str| fs::read_to_string(output.join(name)).unwrap();
        assert_eq!((read("table.csv"), read("notes.txt")), ("new".to_owned(), "mine".to_owned()));
        assert_eq!(fs::read_dir(place.path().join("exports")).unwrap().count(), 1);
    }
}
