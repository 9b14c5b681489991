//! Networks, data sets and commands by name.

use std::{env, iter, marker::PhantomData, time::Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Command};
use kindling_classification::AnyNetwork;
use kindling_config::{Choice, Registry, Section};
use kindling_data::{Dataset, FashionMnist, Idx, ImageData, Load, Synthetic};
use kindling_models::{NetworkConfig, Preset, presets};
use serde_json::{Map, Value};

use crate::outcome::Outcome;

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
    ///
    /// # Panics
    /// When `config` is neither a struct with named fields nor one without fields.
    // By value, as one writes it: `.network("mine", MineConfig { .. })`.
    #[allow(clippy::needless_pass_by_value)]
    #[must_use]
    pub fn network<C: NetworkConfig>(mut self, name: &str, config: C) -> Self {
        self.networks.retain(|known| known.name() != name);
        self.networks.push(kindling_classification::network(name, &config));
        self
    }

    /// Adds a data set; `dataset` has the defaults of its keys. `--dataset NAME` chooses it; the default stays
    /// `fashion-mnist`.
    ///
    /// # Panics
    /// When `dataset` is neither a struct with named fields nor one without fields.
    #[allow(clippy::needless_pass_by_value)]
    #[must_use]
    pub fn dataset<D: Dataset>(mut self, name: &str, dataset: D) -> Self {
        self.datasets.retain(|known| known.name() != name);
        let section = Section::of(name, &dataset, D::HELP);
        self.datasets.push(Box::new(Registered::<D> { section, dataset: PhantomData }));
        self
    }

    /// Adds a command: how it is typed, and what it does with what was typed.
    #[must_use]
    pub fn command(mut self, command: Command, run: Run) -> Self {
        self.commands.push((command, run));
        self
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

/// A data set of any type by its name.
pub(crate) trait AnyDataset: Send + Sync {
    /// As in `data.name`.
    fn name(&self) -> &str;

    /// Its keys with their defaults.
    fn section(&self) -> Section;

    /// Loads it with the values of a config's keys.
    fn load(&self, keys: &Map<String, Value>, request: &mut Load<'_>) -> Result<ImageData>;
}

struct Registered<D> {
    section: Section,
    dataset: PhantomData<fn() -> D>,
}

impl<D: Dataset> AnyDataset for Registered<D> {
    fn name(&self) -> &str {
        &self.section.name
    }

    fn section(&self) -> Section {
        self.section.clone()
    }

    fn load(&self, keys: &Map<String, Value>, request: &mut Load<'_>) -> Result<ImageData> {
        let dataset: D = self.section.parsed(keys).context("the config's keys do not fit")?;
        Ok(dataset.load(request)?)
    }
}
