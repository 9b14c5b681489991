//! Arguments as typed. A config's are [`kindling_training::Settings`], whose `resolve` checks them.

mod config;

use std::{env, iter, net::SocketAddr, path::PathBuf};

use clap::{
    Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, StyledStr, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use kindling_kernels::Kernels;
use kindling_models::ModelName;
use kindling_training::Precision;
use serde_json::Value;

pub(crate) use self::config::ConfigArguments;
use crate::{
    backend::Request,
    commands::{
        CheckArguments, CompareArguments, GradientsArguments, LrFindArguments, PredictArguments, ReportArguments,
        ReproduceArguments, SamplesArguments, SweepArguments,
    },
    terminal,
};

/// The program's arguments. Wrong ones end it with a message and the exit code 2, a request for help with 0.
pub(crate) fn parse() -> Arguments {
    let color = if terminal::has_escapes() { ColorChoice::Auto } else { ColorChoice::Never };
    let mut command = Arguments::command().color(color);
    let read = command.try_get_matches_from_mut(env::args_os());
    let matches = read.unwrap_or_else(|error| with_whole_argument(error, &mut command, &typed()).exit());
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The command as its user could type it again, with quotes where a shell needs them.
pub(crate) fn command_line() -> String {
    shell_words::join(iter::once("kindling".to_owned()).chain(typed()))
}

/// The arguments as they were typed.
fn typed() -> Vec<String> {
    env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// Trains image classifiers on any backend of Burn, and keeps every run.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show images of the data set with their classes, and the shapes of images and batches
    Samples(SamplesArguments),
    /// List the models with their layers, shapes and parameters
    Models(ModelsArguments),
    /// Check a model and its config before a long training
    Check(Box<CheckArguments>),
    /// Find a learning rate by a short training in which it rises
    LrFind(Box<LrFindArguments>),
    /// Train a model; the last line printed is the run's directory
    Train(Box<TrainArguments>),
    /// Resume an interrupted run, to the same result as if it had never stopped
    Resume(ResumeArguments),
    /// Train every combination of values for a config; finished runs are not run again
    Sweep(Box<SweepArguments>),
    /// Show the gradients of a model's first steps
    Gradients(Box<GradientsArguments>),
    /// List the runs
    Runs(RunsArguments),
    /// Compare runs: a table, and curves
    Compare(CompareArguments),
    /// Evaluate a run's weights: metrics for each class, calibration, mistakes
    Evaluate(EvaluateArguments),
    /// Classify pictures with a run's weights
    Predict(PredictArguments),
    /// Write a report of runs: HTML, Markdown, and every plot as SVG and PNG
    Report(ReportArguments),
    /// Regenerate the assignment: every table and curve, beside the reference's
    Reproduce(ReproduceArguments),
    /// Compare the throughput of models, backends and batch sizes, and of PyTorch
    Bench(BenchArguments),
    /// Show what this build and this machine have, measure it, and recommend a backend
    Doctor(DoctorArguments),
    /// Offer a device to `kindling train --backend remote` on this machine or another
    Serve(ServeArguments),
}

#[derive(Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pub(crate) config: ConfigArguments,
    #[command(flatten)]
    pub(crate) host: HostArguments,
    /// Name of the run: its id is NAME and the time [default: the model]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// Where and how a run takes place: none of it is part of the config.
#[derive(Args)]
pub(crate) struct HostArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Whether to show the dashboard: auto does on a terminal with escape sequences, without --json
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dashboard: Dashboard,
    /// Print the run's record as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where runs take place, and where they find their data and leave their records.
#[derive(Args)]
pub(crate) struct PlaceArguments {
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// Operations of the layers: auto takes Kindling's fused ones on flex and ndarray in f32; composed takes Burn's
    /// everywhere, for comparison [default: auto, or the run's]
    #[arg(long, value_parser = kernels())]
    pub(crate) kernels: Option<Kernels>,
    /// Directory of the data set [default: the first of KINDLING_DATA_DIR, data/fashion-mnist, the system's copy and
    /// the user's cache that has it; else it is downloaded]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
}

/// Where tensors live.
#[derive(Args)]
pub(crate) struct DeviceArguments {
    /// Backend: flex (or cpu), ndarray, wgpu, vulkan, libtorch, libtorch-cuda, remote, cuda, metal or rocm, as far as the
    /// build has it; GPUs can be named by index, as in libtorch-cuda:1, or wgpu:0,2 for discrete ones [default: flex, or the run's]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// Share every batch among N devices of the backend; batch norms take their running statistics from the first
    /// [default: 1, or the run's]
    #[arg(long, value_name = "N")]
    pub(crate) devices: Option<usize>,
    /// With --backend remote: where `kindling serve` listens, as in ws://127.0.0.1:3000
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
}

impl DeviceArguments {
    /// What they ask for, with `default` where they name no backend: its name, and the number of its devices.
    pub(crate) fn request(&self, default: (&str, Option<usize>)) -> anyhow::Result<Request> {
        match &self.backend {
            Some(backend) => Request::new(backend, self.devices, self.remote.as_deref()),
            None => Request::new(default.0, self.devices.or(default.1), self.remote.as_deref()),
        }
    }
}

#[derive(Args)]
pub(crate) struct RunsDirectory {
    /// Directory that holds the runs
    #[arg(id = "runs_dir", long = "runs-dir", value_name = "DIR", env = "KINDLING_RUNS_DIR", default_value = "runs")]
    pub(crate) path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dashboard {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Args)]
pub(crate) struct ResumeArguments {
    /// The run: its id, a prefix that no other run has, or its path
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) host: HostArguments,
}

#[derive(Args)]
pub(crate) struct RunsArguments {
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EvaluateArguments {
    /// The run: its id, a prefix that no other run has, or its path
    pub(crate) run: String,
    /// Backend to evaluate on, as for train [default: the run's]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// With --backend remote: where `kindling serve` listens
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Operations of the layers, as for train
    #[arg(long, value_parser = kernels(), default_value_t)]
    pub(crate) kernels: Kernels,
    /// Directory of the data set [default: where the run found it, then as for train]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) runs_dir: RunsDirectory,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct DoctorArguments {
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct ServeArguments {
    /// Backend to offer: flex (or cpu), wgpu, vulkan [default: flex]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<String>,
    /// Offer N devices of the backend
    #[arg(long, value_name = "N")]
    pub(crate) devices: Option<usize>,
    /// Address to listen on; there is no authentication: others than loopback only in a network that you trust
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    pub(crate) listen: SocketAddr,
}

#[derive(Args)]
pub(crate) struct BenchArguments {
    /// Models to time [default: mlp, mlp-deep, mlp-wide, cnn; none with --widths]
    #[arg(value_parser = names(&ModelName::ALL.map(ModelName::as_str)).try_map(|name| name.parse::<ModelName>()))]
    pub(crate) models: Vec<ModelName>,
    /// Also time mlp with two hidden layers of each of these widths
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) widths: Vec<usize>,
    /// Backends to time, as for train [default: all of the build that find a device, without remote]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) backends: Vec<String>,
    /// With remote among the backends: where `kindling serve` listens
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Operations to time on flex and ndarray in f32: auto, Kindling's fused ones; composed, Burn's, as on all others
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = kernels(), default_value = "auto")]
    pub(crate) kernels: Vec<Kernels>,
    /// Batch sizes
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "64")]
    pub(crate) batch_sizes: Vec<usize>,
    /// What to time
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum, default_value = "train,infer")]
    pub(crate) modes: Vec<Mode>,
    /// How batches are made: gathered as a shuffled epoch does, or sliced as file order does; the same on both sides
    #[arg(long, value_enum, default_value = "gather")]
    pub(crate) batches: Batches,
    /// Number type of the whole network
    #[arg(long, value_parser = names(&["f32", "bf16", "f16"]).try_map(from_name::<Precision>), default_value = "f32")]
    pub(crate) precision: Precision,
    /// How often each contender is timed, all taking turns
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) repeats: usize,
    /// How long one timing takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// Time PyTorch in the same run, with this Python; ratios are against it
    #[arg(long, value_name = "PYTHON")]
    pub(crate) pytorch: Option<PathBuf>,
    /// Where PyTorch computes: cpu or cuda [default: cuda where a backend runs on an NVIDIA GPU, else cpu]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) pytorch_device: Option<String>,
    /// How PyTorch computes: eager, channels_last, compiled
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "eager")]
    pub(crate) pytorch_variants: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print the table as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// What a timing covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Batch, forward, backward, optimizer step, reading the loss back
    Train,
    /// Batch, forward, reading the number of correct images back
    Infer,
}

/// How batches are made from the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Batches {
    /// Rows in a shuffled order
    Gather,
    /// Neighbouring rows
    Slice,
}

#[derive(Args)]
pub(crate) struct ModelsArguments {
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// Makes clap suggest `-- -x.png`, and not `-- -x`, for an unknown argument `-x.png` that could be a value: clap names its
/// first letter alone, and of `--x=1.png` what stands before the `=`. It takes `-hat.png` for a request for help.
fn with_whole_argument(mut error: clap::Error, command: &mut clap::Command, typed: &[String]) -> clap::Error {
    if error.kind() == ErrorKind::DisplayHelp {
        let is_more = |argument: &&String| argument.starts_with("-h") && argument.len() > 2;
        let Some(whole) = typed.iter().find(is_more) else { return error };
        let tip = format!("  tip: to pass '{whole}' as a value, use '-- {whole}'");
        return command.error(ErrorKind::UnknownArgument, format!("unexpected argument '{whole}' found\n\n{tip}"));
    }
    let (Some(ContextValue::String(named)), Some(ContextValue::StyledStrs(tips))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::Suggested))
    else {
        return error;
    };
    let begins = |whole: &&String| {
        let rest = whole.strip_prefix(named.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || !named.starts_with("--"))
    };
    let suggestion = format!("-- {named}");
    let Some(tip) = tips.iter().map(|tip| tip.ansi().to_string()).find(|tip| tip.contains(&suggestion)) else {
        return error;
    };
    let Some(whole) = typed.iter().find(begins) else { return error };
    let tip = StyledStr::from(tip.replace(named, whole));
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    error.insert(ContextKind::InvalidArg, ContextValue::String(whole.clone()));
    error
}

fn names(names: &[&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(names.iter().copied())
}

fn kernels() -> impl TypedValueParser<Value = Kernels> {
    names(&Kernels::ALL.map(Kernels::as_str)).try_map(|name| name.parse::<Kernels>())
}

/// The value that a config calls `name`.
fn from_name<T: serde::de::DeserializeOwned>(name: String) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::String(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_argument_is_suggested_as_a_value_whole() {
        let told = |arguments: &[&str]| {
            let mut command = Arguments::command();
            let error = command.try_get_matches_from_mut([&["kindling"], arguments].concat()).unwrap_err();
            let typed: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            with_whole_argument(error, &mut command, &typed).to_string()
        };
        for argument in ["-x.png", "-x", "--own=1.png", "--own.png", "-é b.png", "-hat.png"] {
            let message = told(&["predict", "mlp", "0.png", argument, "1.png"]);
            assert!(message.contains(&format!("unexpected argument '{argument}' found")), "{message}");
            assert!(message.contains(&format!("to pass '{argument}' as a value, use '-- {argument}'")), "{message}");
        }
        assert!(told(&["predict", "-h"]).contains("Usage: kindling predict"));
        // One that is like a known one is not a value.
        let message = told(&["train", "mlp", "--epoch=1"]);
        assert!(message.contains("'--epoch' found") && message.contains("'--epochs'"), "{message}");
    }
}
