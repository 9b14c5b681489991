//! Arguments as typed. Those of a config are generated from its keys: [`ConfigArguments`].

mod config;
mod grid;

use std::{env, path::PathBuf};

use clap::{
    ArgMatches, Args, ColorChoice, Command, ValueEnum,
    builder::{PossibleValuesParser, StyledStr, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};
use kindling_classification::Views;
use kindling_config::{Precision, TestTimeAugmentation};
use kindling_kernels::Kernels;

pub use self::config::{ConfigArguments, with_set};
pub(crate) use self::{
    config::{MODEL, config_flags},
    grid::{GridArguments, grid_flags},
};
use crate::{Workbench, backend::Request, tensorboard::TensorboardArguments, terminal};

/// The program's arguments. Wrong ones end it with a message and the exit code 2, a request for help with 0.
pub(crate) fn parse(workbench: &Workbench, commands: impl IntoIterator<Item = Command>) -> ArgMatches {
    let color = if terminal::has_escapes() { ColorChoice::Auto } else { ColorChoice::Never };
    let mut command = program(workbench, commands).color(color);
    let read = command.try_get_matches_from_mut(env::args_os());
    let typed: Vec<String> = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    read.unwrap_or_else(|error| with_whole_argument(error, &mut command, &typed).exit())
}

/// The whole program as clap has it.
fn program(workbench: &Workbench, commands: impl IntoIterator<Item = Command>) -> Command {
    let version = env!("CARGO_PKG_VERSION");
    let is_ours = workbench.program() == "kindling";
    Command::new(workbench.program().to_owned())
        .version(if is_ours { version.to_owned() } else { format!("(Kindling {version})") })
        .about("Trains image classifiers on any backend of Burn, and keeps every run")
        .max_term_width(100)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands)
}

/// Where and how a run takes place: none of it is part of the config.
#[derive(Args)]
pub(crate) struct HostArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Record a training step on the GPU and repeat it, an experiment: for plain sgd, with the same results to the bit
    #[arg(long)]
    pub(crate) graph: bool,
    #[command(flatten)]
    pub(crate) tensorboard: TensorboardArguments,
    /// Whether to show the dashboard: auto does on a terminal with escape sequences, without --json
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dashboard: Dashboard,
    /// Print the run's record as JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where runs take place, and where they find their data and leave their records.
#[derive(Args)]
pub struct PlaceArguments {
    /// The backend and its devices.
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Operations of the layers: auto takes Kindling's fused ones on flex and ndarray in f32; composed takes Burn's
    /// everywhere, for comparison [default: auto, or the run's]
    #[arg(long, value_parser = kernels())]
    pub kernels: Option<Kernels>,
    /// The directory, or the file, of the data set [default: of fashion-mnist: the first of KINDLING_DATA_DIR,
    /// data/fashion-mnist, the system's copy and the user's cache that has it; else it is downloaded]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the runs are.
    #[command(flatten)]
    pub runs_dir: RunsDirectory,
}

/// Where tensors live.
#[derive(Args)]
pub struct DeviceArguments {
    /// Backend: flex (or cpu), ndarray, wgpu, vulkan, libtorch, libtorch-cuda, remote, cuda, metal or rocm, as far as the
    /// build has it; GPUs can be named by index, as in libtorch-cuda:1, or wgpu:0,2 for discrete ones [default: flex, or the run's]
    #[arg(long, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// Share every batch among N devices of the backend; batch norms take their running statistics from the first
    /// [default: 1, or the run's]
    #[arg(long, value_name = "N")]
    pub devices: Option<usize>,
    /// With --backend remote: where the command `serve` listens, as in ws://127.0.0.1:3000; several share every batch,
    /// a device each, the first of its server unless #INDEX names another
    #[arg(long, value_name = "URL[,URL...]", value_delimiter = ',')]
    pub remote: Vec<String>,
}

impl DeviceArguments {
    /// What they ask for, with `default` where they name no backend: its name, and the number of its devices.
    pub(crate) fn request(&self, default: (&str, Option<usize>)) -> anyhow::Result<Request> {
        match &self.backend {
            Some(backend) => Request::new(backend, self.devices, &self.remote),
            // Servers that are named are as many as are named: a run goes on with those that are left.
            None if !self.remote.is_empty() => Request::new(default.0, self.devices, &self.remote),
            None => Request::new(default.0, self.devices.or(default.1), &self.remote),
        }
    }
}

/// Where the runs are.
#[derive(Args)]
pub struct RunsDirectory {
    /// Directory that holds the runs
    #[arg(id = "runs_dir", long = "runs-dir", value_name = "DIR", env = "KINDLING_RUNS_DIR", default_value = "runs")]
    pub path: PathBuf,
}

/// Which views of an image a run's weights see.
#[derive(Args)]
pub(crate) struct ViewsArgument {
    /// Average the logits over views of each image: flip, shift or both, as for train, or none [default: the run's]
    #[arg(id = "test_time_augmentation", long = "test-time-augmentation", value_name = "LIST", value_parser = views)]
    pub(crate) given: Option<Views>,
}

/// Whether to show the dashboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dashboard {
    #[default]
    Auto,
    Always,
    Never,
}

/// Makes clap suggest `-- -x.png`, and not `-- -x`, for an unknown argument `-x.png` that could be a value: clap names its
/// first letter alone, and of `--x=1.png` what stands before the `=`. It takes `-hat.png` for a request for help.
fn with_whole_argument(mut error: clap::Error, command: &mut Command, typed: &[String]) -> clap::Error {
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

/// Names of [`Kernels`].
pub(crate) fn kernels() -> impl TypedValueParser<Value = Kernels> {
    PossibleValuesParser::new(Kernels::ALL.map(Kernels::as_str)).try_map(|name| name.parse::<Kernels>())
}

/// A list of test-time augmentations, or `none`.
fn views(text: &str) -> Result<Views, String> {
    if text == "none" {
        return Ok(Views::default());
    }
    text.split(',').map(str::parse::<TestTimeAugmentation>).collect::<Result<_, _>>().map_err(|_| {
        let names = TestTimeAugmentation::ALL.map(TestTimeAugmentation::name);
        format!("expected `{}`, `{}` or `none`", names.join("`, `"), names.join(","))
    })
}

/// Names of [`Precision`]s.
pub(crate) fn precision() -> impl TypedValueParser<Value = Precision> {
    let names = Precision::ALL.map(|precision| precision.to_string());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Precision>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands;

    #[test]
    fn an_unknown_argument_is_suggested_as_a_value_whole() {
        let told = |arguments: &[&str]| {
            let workbench = Workbench::new("kindling");
            let commands = commands::all(&workbench).into_iter().map(|entry| entry.command);
            let mut command = program(&workbench, commands);
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
