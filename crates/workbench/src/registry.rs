//! Networks, data sets and commands by name, and the program around them.

use std::{env, iter, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Command};
use kindling_classification::AnyNetwork;
use kindling_config::{Choice, Registry};
use kindling_data::{Dataset, FashionMnist, Idx, Synthetic};
use kindling_models::{NetworkConfig, Preset, presets};

use crate::{
    arguments, commands,
    commands::Outcome,
    data::{self, AnyDataset},
    output::{name_program, notice, told},
    relaunch,
};

/// What runs a command: given the workbench and what was typed behind the command's name.
pub type Run = fn(&Workbench, &ArgMatches) -> Result<Outcome>;

/// Networks and data sets by name, and every command for them.
///
/// The program's name is what messages tell users to type. Where a name is given twice, the later one counts.
pub struct Workbench {
    program: String,
    start: Instant,
    networks: Vec<Box<dyn AnyNetwork>>,
    datasets: Vec<Box<dyn AnyDataset>>,
    commands: Vec<(Command, Run)>,
}

impl Workbench {
    /// A workbench with the presets and the data sets `fashion-mnist`, `idx` and `synthetic`, for a program of this name.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let (networks, datasets, commands) = (Vec::new(), Vec::new(), Vec::new());
        let empty = Self { program: program.to_owned(), start: Instant::now(), networks, datasets, commands };
        let add = |workbench: Self, (name, preset)| match preset {
            Preset::Mlp(config) => workbench.network(name, config),
            Preset::Cnn(config) => workbench.network(name, config),
        };
        presets()
            .into_iter()
            .fold(empty, add)
            .dataset("fashion-mnist", FashionMnist {})
            .dataset("idx", Idx::default())
            .dataset("synthetic", Synthetic {})
    }

    /// Adds a network; `config` has the defaults of its keys.
    #[must_use]
    pub fn network<C: NetworkConfig>(mut self, name: &str, config: C) -> Self {
        self.networks.retain(|known| known.name() != name);
        self.networks.push(kindling_classification::network(name, &config));
        self
    }

    /// Adds a data set; `dataset` has the defaults of its keys. `--dataset NAME` chooses it; the default stays
    /// `fashion-mnist`.
    #[must_use]
    pub fn dataset<D: Dataset>(mut self, name: &str, dataset: D) -> Self {
        self.datasets.retain(|known| known.name() != name);
        self.datasets.push(data::dataset(name, dataset));
        self
    }

    /// Adds a command: how it is typed, and what it does with what was typed.
    #[must_use]
    pub fn command(mut self, command: Command, run: Run) -> Self {
        self.commands.push((command, run));
        self
    }

    /// Runs the command that the program's arguments name.
    #[must_use]
    pub fn main(self) -> ExitCode {
        name_program(&self.program);
        match self.run() {
            Ok(outcome) => outcome.into(),
            Err(error) => {
                notice(format_args!("error: {}", told(&error)));
                Outcome::of_error(&error).into()
            }
        }
    }

    fn run(&self) -> Result<Outcome> {
        relaunch::without_empty_variables()?;
        let all = commands::all(self);
        let matches = arguments::parse(self, all.iter().map(|entry| entry.command.clone()));
        let (name, matches) = matches.subcommand().context("expected a command, found none")?;
        let entry =
            all.iter().find(|entry| entry.command.get_name() == name).context("a command without a function")?;
        (entry.run)(self, matches)
    }

    /// Name of the program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// When the program started.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The command as its user could type it again, with quotes where a shell needs them.
    #[must_use]
    pub fn command_line(&self) -> String {
        let typed = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        shell_words::join(iter::once(self.program.clone()).chain(typed))
    }

    /// What the networks and data sets bring to a config.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry {
            networks: self.networks.iter().map(|network| network.section()).collect(),
            datasets: self.datasets.iter().map(|dataset| dataset.section()).collect(),
        }
    }

    /// The networks, in the order in which they were added.
    #[must_use]
    pub fn networks(&self) -> &[Box<dyn AnyNetwork>] {
        &self.networks
    }

    /// The network of a config.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn network_of(&self, choice: &Choice) -> Result<&dyn AnyNetwork> {
        let found = self.networks.iter().find(|network| network.name() == choice.name);
        found.map(AsRef::as_ref).with_context(|| format!("no network `{}` in {}", choice.name, self.program))
    }

    /// The data set of this name.
    pub(crate) fn dataset_named(&self, name: &str) -> Result<&dyn AnyDataset> {
        let found = self.datasets.iter().find(|dataset| dataset.name() == name);
        found.map(AsRef::as_ref).with_context(|| format!("no data set `{name}` in {}", self.program))
    }

    /// The commands that were added.
    pub(crate) fn own_commands(&self) -> &[(Command, Run)] {
        &self.commands
    }
}
