//! What makes a grid: a file, --set, and the flags of a config's keys, each with values to try.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, Args, Command};
use kindling_config::{Grid, Registry, keys};

use super::config::{MODEL, Typed, flag, model, recipe};
use crate::{Recipe, outcome::Misuse};

/// Grids as typed. A command that has them gets its arguments from [`grid_flags`], since they depend on the networks and
/// data sets of the workbench.
#[derive(Args, Clone, Debug)]
pub(crate) struct GridArguments {
    #[command(flatten)]
    typed: Typed,
}

impl GridArguments {
    /// The grids of the file, or one of flags alone, over the recipe's config; flags and `--set` take the place of the
    /// file's values.
    pub(crate) fn grids(&self, seeds: Option<u64>, registry: &Registry) -> Result<Vec<Grid>> {
        let mut flags = self.flags(registry)?;
        if let Some(count) = seeds {
            flags = flags.with_seeds(count);
        }
        if let Some(recipe) = self.typed.recipe() {
            flags = flags.over(recipe.partial()?);
        }
        let Some(path) = self.typed.0.get_one::<String>("grid").map(Path::new) else { return Ok(vec![flags]) };
        let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let grids = Grid::from_file(&bytes).with_context(|| path.display().to_string())?;
        Ok(grids.into_iter().map(|grid| flags.clone().or(grid)).collect())
    }

    fn flags(&self, registry: &Registry) -> Result<Grid> {
        let keys = keys(registry);
        let named = keys.iter().filter(|key| key.flag.is_some()).map(|key| key.path.as_str());
        let mut grid = Grid::default();
        for path in [MODEL].into_iter().chain(named) {
            if let Ok(Some(texts)) = self.typed.0.try_get_many::<String>(path) {
                grid = grid.with_texts(path, texts);
            }
        }
        let mut set = Grid::default();
        for pair in self.typed.0.get_many::<String>("set").into_iter().flatten() {
            let Some((key, text)) = pair.split_once('=') else {
                bail!(Misuse(format!("--set: expected KEY=VALUES, found `{pair}`")));
            };
            if grid.has(key) {
                bail!(Misuse(format!("--set {pair}: `{key}` is given twice; leave one of the two out")));
            }
            set = set.with_text(key, text);
        }
        Ok(grid.or(set))
    }
}

/// The command with MODELs, `--recipe`, `--grid`, `--set`, and the flags of a config's keys, each with a list of values.
pub(crate) fn grid_flags(command: Command, registry: &Registry, recipes: &[Recipe]) -> Command {
    let models = model(registry).num_args(0..).help("The networks to train; may be left out with --grid or --recipe");
    let grid = Arg::new("grid").long("grid").value_name("FILE").help(
        "Read the grid from a TOML or JSON file: a value, or a list of values to try, for each key of a config, and \
         `seeds` for a number of seeds; or a list of such grids; flags override it",
    );
    let set = Arg::new("set").long("set").value_name("KEY=VALUES").action(ArgAction::Append).help(
        "Values to try for any key of the config, separated by commas, as in optimizer.beta_2=0.99,0.999; a list, as in \
         network.channels=32,64, is one value: repeat the flag for more; `config` lists the keys",
    );
    let flags = keys(registry);
    command.args([models]).args(recipe(recipes)).args([grid, set]).args(flags.iter().filter_map(|key| {
        let mut arg = flag(key)?.action(ArgAction::Append);
        if key.path == "protocol.folds" {
            arg = arg.help("Cross-validation: train with each of N folds for validation, or with those of --fold");
        }
        // A list is one value to try.
        Some(if key.kind.is_list() {
            arg.help_heading("Values to try (each flag can be repeated)")
        } else {
            arg.value_delimiter(',').help_heading("Values to try, separated by commas")
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::{super::config::tests::test_recipe, *};
    use crate::Workbench;

    /// The number of runs that these arguments plan, or the message that refuses them.
    fn count(arguments: &[&str]) -> Result<usize, String> {
        let registry = Workbench::new("kindling").registry();
        let command = grid_flags(Command::new("sweep").no_binary_name(true), &registry, &[test_recipe()]);
        let matches = command.try_get_matches_from(arguments.iter().copied()).map_err(|error| error.to_string())?;
        let grids = GridArguments { typed: Typed(matches) }
            .grids(None, &registry)
            .map_err(|error| crate::output::told(&error))?;
        let configs = grids.iter().map(|grid| grid.configs(&registry).map_err(|error| error.to_string()));
        configs.map(|configs| configs.map(|configs| configs.len())).sum()
    }

    #[test]
    fn commas_separate_values_and_repeated_flags_add_to_them() {
        assert_eq!(count(&["mlp", "--learning-rate", "1,0.1,.01"]), Ok(3));
        assert_eq!(count(&["mlp", "cnn", "--learning-rate", "1", "--learning-rate", "0.1"]), Ok(4));
        assert_eq!(count(&["mlp", "--optimizer", "momentum", "--nesterov=true,false"]), Ok(2));
        assert_eq!(count(&["mlp", "--optimizer", "adam", "--set", "optimizer.beta_1=0.8,0.9"]), Ok(2));
    }

    #[test]
    fn a_list_is_one_value_of_hidden_and_augment() {
        assert_eq!(count(&["mlp", "--hidden", "64,32"]), Ok(1));
        assert_eq!(count(&["mlp", "--hidden", "64,32", "--hidden", "128"]), Ok(2));
        assert_eq!(count(&["cnn", "--augment", "shift,flip", "--augment", "erase"]), Ok(2));
        assert_eq!(count(&["mlp", "--set", "hidden=64,32"]), Ok(1));
        assert_eq!(count(&["cnn", "--set", "network.channels=16,32", "--set", "network.channels=[32, 64]"]), Ok(2));
        assert_eq!(count(&["mlp", "--set", "epochs=1,2", "--set", "epochs=3"]), Ok(3));
    }

    #[test]
    fn values_are_tried_over_a_recipes_config() {
        assert_eq!(count(&["--recipe", "quick"]), Ok(1));
        assert_eq!(count(&["--recipe", "quick", "--learning-rate", "1,0.1", "--optimizer", "sgd,adam"]), Ok(4));
        // A list for an mlp, as the recipe's network takes it, and two values for a cnn.
        assert_eq!(count(&["--recipe", "quick", "--set", "hidden=64,32"]), Ok(1));
        assert_eq!(count(&["cnn", "--recipe", "quick", "--set", "hidden=64,32"]), Ok(2));
    }

    #[test]
    fn folds_are_each_trained_or_those_that_are_named() {
        assert_eq!(count(&["mlp", "cnn", "--folds", "5"]), Ok(10));
        assert_eq!(count(&["mlp", "--folds", "5", "--fold", "1,3"]), Ok(2));
        assert!(count(&["mlp", "--folds", "5", "--protocol", "assignment"]).unwrap_err().contains("`validated`"));
    }

    #[test]
    fn a_value_that_train_would_refuse_is_refused() {
        for arguments in [&["mlp", "--epochs", "2,ten"][..], &["mlp", "--optimizer", "sgd,lion"], &["vgg"]] {
            assert!(count(arguments).is_err(), "{arguments:?}");
        }
        let twice = count(&["mlp", "--hidden", "64", "--set", "hidden=32"]).unwrap_err();
        assert!(twice.contains("`hidden` is given twice"), "{twice}");
    }
}
