//! What makes a config: a file, --set, and the flags of its keys, each over the one before.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};
use kindling_config::{Config, Key, Kind, Partial, Registry, keys};

use crate::{Recipe, Workbench, outcome::Misuse};

/// Id of the positional MODEL: the path of its key.
pub(crate) const MODEL: &str = "network.name";

/// A config as typed: a file or a recipe, `--set`, and flags. A command that has it gets its arguments from `config_flags`, since
/// they depend on the networks and data sets of the workbench.
#[derive(Args, Clone, Debug)]
pub struct ConfigArguments {
    #[command(flatten)]
    typed: Typed,
}

/// All that was typed, for arguments that only the workbench's networks and data sets decide: they are added to a
/// command by hand.
#[derive(Clone, Debug)]
pub(super) struct Typed(pub(super) ArgMatches);

impl ConfigArguments {
    /// The complete config.
    ///
    /// # Errors
    /// When the file cannot be read, a key is given twice, or the config makes no sense.
    pub fn resolve(&self, workbench: &Workbench) -> Result<Config> {
        workbench.resolve(self.partial(&workbench.registry())?)
    }

    /// What flags, `--set` and the file or the recipe say, in this order of precedence, with nothing filled in.
    ///
    /// # Errors
    /// As for [`resolve`](Self::resolve), but for what only a complete config shows.
    pub fn partial(&self, registry: &Registry) -> Result<Partial> {
        let keys = keys(registry);
        let file = match (self.typed.0.get_one::<String>("config"), self.typed.recipe()) {
            (Some(path), _) => file(Path::new(path))?,
            (None, Some(recipe)) => recipe.partial()?,
            (None, None) => Partial::default(),
        };
        let mut typed = Partial::default();
        for (key, text) in flags(&self.typed.0, &keys) {
            typed = typed.with_text(&key.path, &text, registry).with_context(|| spelled(key, &text))?;
        }
        let set = self.typed.0.get_many::<String>("set").into_iter().flatten();
        Ok(with_set(typed, set, registry)?.over(file))
    }
}

/// `typed` with the keys and values of `--set`.
///
/// # Errors
/// When one is no KEY=VALUE, a key is unknown or given twice, or it does not take the value.
pub fn with_set<'a>(
    mut typed: Partial,
    pairs: impl IntoIterator<Item = &'a String>,
    registry: &Registry,
) -> Result<Partial> {
    for pair in pairs {
        let Some((key, text)) = pair.split_once('=') else {
            bail!(Misuse(format!("--set: expected KEY=VALUE, found `{pair}`")));
        };
        if typed.has(key) {
            bail!(Misuse(format!("--set {pair}: `{key}` is given twice; leave one of the two out")));
        }
        typed = typed.with_text(key, text, registry).with_context(|| format!("--set {pair}"))?;
    }
    Ok(typed)
}

impl Typed {
    /// That of `--recipe`, which a workbench without recipes does not have.
    pub(super) fn recipe(&self) -> Option<&Recipe> {
        self.0.try_get_one::<Recipe>("recipe").ok().flatten()
    }
}

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

/// The command with MODEL, `--recipe`, `--config`, `--set`, and the flags of a config's keys.
pub(crate) fn config_flags(command: Command, registry: &Registry, recipes: &[Recipe]) -> Command {
    let model = model(registry).help("The network; may be left out when --config or --recipe names it");
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .help("Read the config from a TOML or JSON file: a config, or the run.json of a run; flags override it");
    let set = Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append).help(
        "Set any key of the config, as in optimizer.beta_2=0.99, or unset one that the file sets, as in clip_norm=none; \
         can be repeated; `config` lists the keys",
    );
    let recipe = recipe(recipes).map(|recipe| recipe.conflicts_with("config"));
    let width = recipes.iter().map(|recipe| recipe.name().len()).max().unwrap_or_default();
    let listed = recipes.iter().map(|recipe| format!("  {:width$}  {}", recipe.name(), recipe.about()));
    let command = if recipes.is_empty() {
        command
    } else {
        command.after_help(format!("Recipes:\n{}", listed.collect::<Vec<_>>().join("\n")))
    };
    command.args([model]).args(recipe).args([config, set]).args(keys(registry).iter().filter_map(flag))
}

/// `--recipe`, where there are recipes.
pub(super) fn recipe(recipes: &[Recipe]) -> Option<Arg> {
    let known = recipes.to_vec();
    let names = recipes.iter().map(|recipe| recipe.name().to_owned());
    let parser = PossibleValuesParser::new(names)
        .try_map(move |name| known.iter().find(|recipe| recipe.name() == name).cloned().ok_or("no such recipe"));
    let help = "A recipe, a complete config with a name, in place of a file; `config --recipe NAME` prints it";
    (!recipes.is_empty()).then(|| Arg::new("recipe").long("recipe").value_name("NAME").value_parser(parser).help(help))
}

/// The positional MODEL.
pub(super) fn model(registry: &Registry) -> Arg {
    let networks = registry.networks.iter().map(|section| section.name.clone());
    Arg::new(MODEL).value_name("MODEL").value_parser(PossibleValuesParser::new(networks))
}

/// The flag of a key, if it has one.
pub(super) fn flag(key: &Key) -> Option<Arg> {
    let name = key.flag?;
    let is_data = match key.path.split_once('.') {
        Some(("data", _)) => true,
        Some(("protocol", key)) => key != "monitor",
        _ => name == "limit-batches",
    };
    let arg =
        Arg::new(key.path.clone()).long(name).help(help(key)).help_heading(if is_data { "Data" } else { "Training" });
    Some(match key.kind {
        Kind::Truth => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List(_) | Kind::Weights => arg.value_name("LIST").allow_negative_numbers(true),
        _ if !key.kind.is_list() && !key.choices.is_empty() => {
            arg.value_name(name.to_uppercase()).value_parser(PossibleValuesParser::new(key.choices.clone()))
        }
        Kind::Whole => arg.value_name("N").allow_negative_numbers(true),
        Kind::Number => arg.value_name("X").allow_negative_numbers(true),
        Kind::Size => arg.value_name("SIZE"),
        Kind::Text | Kind::Choice(_) | Kind::Table | Kind::Augmentation | Kind::Any => arg.value_name("VALUE"),
    })
}

/// A key's help with its default, and what a list of choices may hold, which clap does not check.
fn help(key: &Key) -> String {
    let default = key.default_text();
    let default = if default.is_empty() { "none" } else { &default };
    let choices: Vec<String> = key.choices.iter().map(|choice| shortened(choice)).collect();
    let choices = if key.kind.is_list() { choices.join(", ") } else { String::new() };
    let items = if choices.is_empty() { choices } else { format!(" [items: {choices}]") };
    format!("{}{items} [default: {default}]", key.help)
}

/// An augmentation with its numbers to four places.
fn shortened(choice: &str) -> String {
    let short = |part: &str| match part.split_once('=') {
        Some((name, value)) if value.split_once('.').is_some_and(|(_, places)| places.len() > 4) => {
            value.parse().map_or_else(|_| part.to_owned(), |number: f64| format!("{name}={number:.4}"))
        }
        _ => part.to_owned(),
    };
    choice.split(':').map(short).collect::<Vec<_>>().join(":")
}

/// The flags that were typed with their texts, in the order of the keys.
fn flags<'a>(matches: &ArgMatches, keys: &'a [Key]) -> Vec<(&'a Key, String)> {
    let text = |key: &Key| matches.try_get_one::<String>(&key.path).ok().flatten().cloned();
    keys.iter().filter_map(|key| text(key).map(|text| (key, text))).collect()
}

/// A flag as it was typed.
fn spelled(key: &Key, text: &str) -> String {
    key.flag.map_or_else(|| text.to_owned(), |flag| format!("--{flag} {text}"))
}

/// What a config file says.
fn file(path: &Path) -> Result<Partial> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Partial::from_file(&bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::output::told;

    fn registry() -> Registry {
        Workbench::new("kindling").registry()
    }

    /// A recipe of an mlp.
    pub(in super::super) fn test_recipe() -> Recipe {
        let text = "# An mlp in two epochs.\nnetwork = \"mlp\"\n# Fast.\noptimizer = { name = \"momentum\", nesterov = true }\n\
                    training.epochs = 2\n";
        Recipe::new("quick", text)
    }

    /// What these arguments say, or the message that refuses them.
    fn partial(arguments: &[&str]) -> Result<Partial, String> {
        let registry = registry();
        let command = config_flags(Command::new("train").no_binary_name(true), &registry, &[test_recipe()]);
        let matches = command.try_get_matches_from(arguments.iter().copied()).map_err(|error| error.to_string())?;
        ConfigArguments { typed: Typed(matches) }.partial(&registry).map_err(|error| told(&error))
    }

    fn config(arguments: &[&str]) -> Config {
        partial(arguments).unwrap().resolve(&registry()).unwrap()
    }

    #[test]
    fn every_key_can_be_set_by_its_path() {
        for network in ["mlp", "cnn"] {
            let expected = config(&[network]);
            for (path, value) in expected.flat() {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let found = if path == MODEL {
                    config(&["--set", &format!("{path}={text}")])
                } else {
                    config(&[network, "--set", &format!("{path}={text}")])
                };
                assert_eq!(found, expected, "{path}");
            }
        }
    }

    #[test]
    fn common_keys_have_flags() {
        let typed = "mlp --epochs 3 --learning-rate .5 --batch-size 8 --seed 7 --hidden 64,32 --precision f32 \
                     --optimizer momentum --momentum 0.8 --nesterov --weight-decay 0.1 --label-smoothing 0.1 \
                     --clip-norm 1 --schedule step --warm-up-epochs 1 --step-epochs 2 --step-factor 0.5 \
                     --early-stopping 3 --monitor test/accuracy --gradient-steps 5 --accumulate 2 --ema-decay 0.9 \
                     --ema-evaluate --dataset idx --protocol assignment --order shuffled --augment flip,shift \
                     --limit-batches 4 --transpose --pixel-mean -0.5 --pixel-std 2,.5,1 --image-size 64x48 \
                     --channels rgb --fit pad --sampler balanced --class-weights 1,.5 --weights best.pt \
                     --freeze conv1,block*";
        let typed: Vec<&str> = typed.split_whitespace().collect();
        let found = config(&typed).to_object();
        let training = json!({
            "epochs": 3, "batch_size": 8, "seed": 7, "precision": "f32", "label_smoothing": 0.1, "clip_norm": 1.0,
            "early_stopping": 3, "limit_batches": 4, "gradient_steps": 5, "accumulate": 2, "ema_decay": 0.9,
            "ema_evaluate": true, "class_weights": [1.0, 0.5], "weights": "best.pt", "freeze": ["conv1", "block*"],
        });
        assert_eq!(found["network"], json!({ "name": "mlp", "hidden": [64, 32] }));
        let data = json!({
            "name": "idx", "transpose": true, "normalize": "given", "pixel_mean": [-0.5], "pixel_std": [2.0, 0.5, 1.0],
            "image_size": "64x48", "channels": "rgb", "fit": "pad", "sampler": "balanced",
            "augment": [{ "name": "flip", "probability": 0.5, "alternate": false }, { "name": "shift", "pixels": 2 }],
        });
        assert_eq!(found["data"], data);
        let folder = config(&["mlp", "--dataset", "folder", "--split", ".7,.2,.1", "--skip-unreadable"]).flat();
        let split = (&folder["data.split"], &folder["data.skip_unreadable"]);
        assert_eq!(split, (&json!([0.7, 0.2, 0.1]), &json!(true)));
        let momentum = json!({
            "name": "momentum", "learning_rate": 0.5, "momentum": 0.8, "nesterov": true, "weight_decay": 0.1,
            "decay_biases": true, "bias_rate_factor": 1.0,
        });
        assert_eq!(found["optimizer"], momentum);
        let step = json!({ "name": "step", "warm_up_epochs": 1, "step_epochs": 2, "step_factor": 0.5 });
        assert_eq!(found["schedule"], step);
        let protocol = json!({ "name": "assignment", "order": "shuffled", "monitor": "test/accuracy" });
        assert_eq!((&found["protocol"], &found["training"]), (&protocol, &training));
        let muon = config(&["mlp", "--optimizer", "muon", "--adamw-learning-rate", "0.002"]);
        assert_eq!(muon.flat()["optimizer.adamw_learning_rate"], json!(0.002));
    }

    #[test]
    fn numbers_in_help_have_four_places_at_most() {
        let text = "resized-crop:scale_max=1:ratio_min=0.75:ratio_max=1.3333333333333333:edge=reflect";
        assert_eq!(shortened(text), text.replace("1.3333333333333333", "1.3333"));
    }

    #[test]
    fn what_a_file_sets_can_be_set_otherwise_and_unset() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.toml");
        fs::write(&path, "network = \"mlp\"\ntraining = { clip_norm = 1, epochs = 3 }\n").unwrap();
        let file = ["--config", path.to_str().unwrap()];
        let changed = config(&[&file[..], &["--set", "clip_norm=none", "--set", "training.batch_size=8"]].concat());
        let training = (changed.training.clip_norm, changed.training.epochs, changed.training.batch_size);
        assert_eq!(training, (None, 3, 8));
        let flag = config(&[&file[..], &["cnn", "--epochs", "4"]].concat());
        assert_eq!((flag.network.name.as_str(), flag.training.epochs), ("cnn", 4));
    }

    #[test]
    fn a_recipe_takes_the_place_of_a_file_and_flags_override_it() {
        let of = |arguments: &[&str]| config(&[&["--recipe", "quick"], arguments].concat());
        let plain = of(&[]);
        assert_eq!((plain.network.name.as_str(), plain.training.epochs), ("mlp", 2));
        assert_eq!(plain.flat()["optimizer.nesterov"], json!(true));
        let changed = of(&["cnn", "--optimizer", "adam", "--set", "training.epochs=5"]);
        let found = (changed.network.name.as_str(), changed.optimizer.name(), changed.training.epochs);
        assert_eq!(found, ("cnn", "adam", 5));
        let both = partial(&["--recipe", "quick", "--config", "a.toml"]).unwrap_err();
        assert!(both.contains("cannot be used with"), "{both}");
        let unknown = partial(&["--recipe", "quik"]).unwrap_err();
        assert!(
            unknown.contains("[possible values: quick]") && unknown.contains("a similar value exists"),
            "{unknown}"
        );
        let help = config_flags(Command::new("train"), &registry(), &[test_recipe()]).render_long_help().to_string();
        assert!(help.contains("  quick  An mlp in two epochs"), "{help}");
        assert!(
            !config_flags(Command::new("train"), &registry(), &[]).render_help().to_string().contains("--recipe <")
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_what_was_typed() {
        let checks: [(&[&str], &[&str]); 7] = [
            (&["--set", "beta2=1"], &["--set beta2=1: ", "did you mean `optimizer.beta_2`?"]),
            (&["--set", "epochs=ten"], &["--set epochs=ten: ", "training.epochs"]),
            (&["--epochs", "ten"], &["--epochs ten: ", "training.epochs"]),
            (&["--augment", "crop:padding=-1"], &["--augment crop:padding=-1: ", "data.augment.crop.padding"]),
            (&["--set", "epochs"], &["--set: expected KEY=VALUE, found `epochs`"]),
            (&["--set", "epochs=2", "--epochs", "3"], &["--set epochs=2: `epochs` is given twice"]),
            (&["vgg"], &["invalid value 'vgg' for '[MODEL]'", "cnn-deep"]),
        ];
        for (arguments, parts) in checks {
            let message = partial(arguments).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn a_network_of_a_users_own_has_its_name_and_its_keys() {
        let mut registry = registry();
        let keys = json!({ "span": 2, "feathers": ["long"] });
        let keys = keys.as_object().cloned().unwrap();
        registry.networks.push(kindling_config::Section { name: "wings".to_owned(), keys, help: Vec::new() });
        let command = config_flags(Command::new("train").no_binary_name(true), &registry, &[]);
        let matches =
            command.try_get_matches_from(["wings", "--set", "span=3", "--set", "feathers=long,short"]).unwrap();
        let config = ConfigArguments { typed: Typed(matches) }.partial(&registry).unwrap().resolve(&registry).unwrap();
        let expected = json!({ "name": "wings", "span": 3, "feathers": ["long", "short"] });
        assert_eq!(Value::Object(config.to_object())["network"], expected);
    }
}
