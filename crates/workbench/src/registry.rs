//! Networks, data sets, recipes and commands by name.

use std::{env, iter, marker::PhantomData, time::Instant};

use anyhow::{Context, Result};
use clap::{ArgMatches, Command};
use kindling_classification::AnyNetwork;
use kindling_config::{Choice, Config, ConfigError, Partial, Registry, Section};
use kindling_data::{Cifar, Csv, Dataset, FashionMnist, Folder, Idx, ImageData, Load, Parquet, Synthetic};
use kindling_models::{NetworkConfig, Preset, presets};
use serde_json::{Map, Value};

use crate::outcome::Outcome;

/// What runs a command: given the workbench and what was typed behind the command's name.
pub type Run = fn(&Workbench, &ArgMatches) -> Result<Outcome>;

/// A complete config with a name, for `--recipe`.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: String,
    text: String,
}

impl Recipe {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for: its first line, where that is a comment, without a full stop.
    #[must_use]
    pub fn about(&self) -> &str {
        let first = self.text.lines().next().and_then(|line| line.strip_prefix('#'));
        first.map_or("", |comment| comment.trim().trim_end_matches('.'))
    }

    /// The keys that it sets.
    ///
    /// # Errors
    /// When its text is no config.
    pub fn partial(&self) -> Result<Partial> {
        Partial::from_file(&self.text).with_context(|| format!("the recipe {}", self.name))
    }
}

/// Networks, data sets and recipes by name, and every command for them.
///
/// The program's name is what messages tell users to type. Where a name is given twice, the later one counts.
pub struct Workbench {
    program: String,
    start: Instant,
    networks: Vec<Box<dyn AnyNetwork>>,
    datasets: Vec<Box<dyn AnyDataset>>,
    recipes: Vec<Recipe>,
    commands: Vec<(Command, Run)>,
}

impl Workbench {
    /// A workbench with the presets and the data sets `fashion-mnist`, `folder`, `csv`, `cifar`, `parquet`, `idx` and
    /// `synthetic`, for a program of this name. Without the cargo feature `parquet`, that data set can be named and not
    /// loaded.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let (networks, datasets, recipes, commands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let empty = Self { program: program.to_owned(), start: Instant::now(), networks, datasets, recipes, commands };
        let add = |workbench: Self, (name, preset)| match preset {
            Preset::Mlp(config) => workbench.network(name, config),
            Preset::Cnn(config) => workbench.network(name, config),
            Preset::Resnet(config) => workbench.network(name, config),
            Preset::Wrn(config) => workbench.network(name, config),
            Preset::Airbench(config) => workbench.network(name, config),
        };
        presets()
            .into_iter()
            .fold(empty, add)
            .dataset("fashion-mnist", FashionMnist {})
            .dataset("folder", Folder::default())
            .dataset("csv", Csv::default())
            .dataset("cifar", Cifar::default())
            .dataset("parquet", Parquet::default())
            .dataset("idx", Idx::default())
            .dataset("synthetic", Synthetic {})
    }

    /// Adds a network; `config` has the defaults of its keys.
    ///
    /// # Panics
    /// When `config` is neither a struct with named fields nor one without fields, or [`NetworkConfig::HELP`] names a key
    /// that is none of them.
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
    /// When `dataset` is neither a struct with named fields nor one without fields, or [`Dataset::HELP`] names a key that is
    /// none of them.
    #[allow(clippy::needless_pass_by_value)]
    #[must_use]
    pub fn dataset<D: Dataset>(mut self, name: &str, dataset: D) -> Self {
        self.datasets.retain(|known| known.name() != name);
        let section = Section::of(name, &dataset, D::HELP);
        self.datasets.push(Box::new(Registered::<D> { section, dataset: PhantomData }));
        self
    }

    /// Adds a recipe, which `--recipe NAME` chooses in place of `--config`: a complete config in TOML or JSON, as a file
    /// has it. Help shows its first line, where that is a comment. A text that is no config is an error when it is used.
    #[must_use]
    pub fn recipe(mut self, name: &str, text: &str) -> Self {
        self.recipes.retain(|known| known.name != name);
        self.recipes.push(Recipe::new(name, text));
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

    /// The complete config of what `partial` says.
    ///
    /// # Errors
    /// When it makes no sense, or the network or the data set does not take the values of its own keys.
    pub fn resolve(&self, partial: Partial) -> Result<Config> {
        let config = partial.resolve(&self.registry())?;
        self.check_keys(&config)?;
        Ok(config)
    }

    /// Whether the network and the data set of `config` take the values of their own keys.
    pub(crate) fn check_keys(&self, config: &Config) -> Result<()> {
        self.network_of(&config.network)?.check_keys(&config.network.keys)?;
        Ok(self.dataset_named(&config.data.name)?.check_keys(&config.data.keys)?)
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

    /// The recipes, in the order in which they were added.
    #[must_use]
    pub fn recipes(&self) -> &[Recipe] {
        &self.recipes
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn recipe_named(&self, name: &str) -> Result<&Recipe> {
        let found = self.recipes.iter().find(|recipe| recipe.name == name);
        found.with_context(|| format!("no recipe `{name}` in {}", self.program))
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

    /// Whether these keys are values that its type takes.
    fn check_keys(&self, keys: &Map<String, Value>) -> Result<(), ConfigError>;

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

    fn check_keys(&self, keys: &Map<String, Value>) -> Result<(), ConfigError> {
        self.section.parsed::<D>("data", keys).map(drop)
    }

    fn load(&self, keys: &Map<String, Value>, request: &mut Load<'_>) -> Result<ImageData> {
        let dataset: D = self.section.parsed("data", keys)?;
        Ok(dataset.load(request)?)
    }
}

#[cfg(test)]
mod tests {
    use kindling_data::DataError;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Serialize, Deserialize)]
    struct Birds {
        species: u8,
    }

    impl Dataset for Birds {
        const HELP: &'static [(&'static str, &'static str)] = &[("species", "How many species.")];

        fn load(&self, _: &mut Load<'_>) -> Result<ImageData, DataError> {
            panic!("only its keys are looked at")
        }
    }

    #[derive(Clone, Serialize, Deserialize)]
    struct Misspelt {
        species: u8,
    }

    impl Dataset for Misspelt {
        const HELP: &'static [(&'static str, &'static str)] = &[("spezies", "How many species.")];

        fn load(&self, _: &mut Load<'_>) -> Result<ImageData, DataError> {
            panic!("only its keys are looked at")
        }
    }

    #[test]
    #[should_panic(expected = "the help of `birds` names `spezies`, which is none of its keys")]
    fn help_for_a_key_that_is_not_there_is_a_mistake_of_the_program() {
        let _ = Workbench::new("birds").dataset("birds", Misspelt { species: 3 });
    }

    #[test]
    fn values_that_the_type_of_a_network_or_data_set_does_not_take_are_refused_with_the_keys_path() {
        let workbench = Workbench::new("birds").dataset("birds", Birds { species: 3 });
        let message = |key: &str, value: Value| {
            let mut partial = Partial::default();
            partial.set("network.name", "mlp".into());
            partial.set("data.name", "birds".into());
            partial.set(key, value);
            workbench.resolve(partial).err().map(|error| error.to_string())
        };
        assert_eq!(message("data.species", 200.into()), None);
        let species = message("data.species", 300.into()).unwrap();
        assert!(species.contains("data.species: ") && species.contains("300"), "{species}");
        let hidden = message("network.hidden", serde_json::json!([-1])).unwrap();
        assert!(hidden.contains("network.hidden: ") && hidden.contains("-1"), "{hidden}");
    }
}
