//! Claims that anyone can repeat: what the runs of a recipe reach, and the command that trains and checks it.
//!
//! Each claim is about a recipe in `experiments/recipes`. `claim NAME` trains it with several seeds, each in a process of
//! its own, and writes what came out as `NAME.json`, a [`ClaimRecord`], and as `NAME.md`.

mod command;
mod page;
mod record;
mod report;
mod seeds;
mod verdict;

use kindling_workbench::Workbench;

pub(crate) use self::{
    command::{claim, claim_command, claims, claims_command},
    record::{ClaimRecord, PeerEpoch, PeerRecord, SeedRecord},
};

/// What the mean over the seeds of a recipe is claimed to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Name of the claim and of its recipe.
    pub(crate) name: &'static str,
    /// The claim in words.
    pub(crate) sentence: &'static str,
    /// The mean test accuracy is at least this.
    pub(crate) target_accuracy: f64,
    /// The network has fewer parameters than this.
    pub(crate) parameter_limit: Option<usize>,
    /// The mean time of a seed is at most this, from the program's start to its end.
    pub(crate) seconds_limit: Option<f64>,
    /// The same on a processor without AVX-512.
    pub(crate) seconds_limit_without_avx512: Option<f64>,
}

/// How many seeds a claim is about.
pub(crate) const SEEDS: u64 = 5;

/// All claims.
pub(crate) const CLAIMS: [Claim; 4] = [
    Claim {
        name: "fast94",
        sentence: "A mean test accuracy of 94.0 % or more in 6 minutes on two CPU cores with AVX-512, in 10 without",
        target_accuracy: 0.94,
        parameter_limit: None,
        seconds_limit: Some(360.0),
        seconds_limit_without_avx512: Some(600.0),
    },
    Claim {
        name: "small96",
        sentence: "A mean test accuracy of 96.0 % or more with under 500,000 parameters",
        target_accuracy: 0.96,
        parameter_limit: Some(500_000),
        seconds_limit: None,
        seconds_limit_without_avx512: None,
    },
    Claim {
        name: "tiny",
        sentence: "A mean test accuracy of 92.5 % or more with under 100,000 parameters in 10 minutes on two CPU cores",
        target_accuracy: 0.925,
        parameter_limit: Some(100_000),
        seconds_limit: Some(600.0),
        seconds_limit_without_avx512: Some(600.0),
    },
    Claim {
        name: "assignment-cnn",
        sentence: "The assignment's CNN, as it is, reaches a mean test accuracy of 93.0 % or more when it is trained well, \
                   in 10 minutes on two CPU cores",
        target_accuracy: 0.93,
        parameter_limit: None,
        seconds_limit: Some(600.0),
        seconds_limit_without_avx512: Some(600.0),
    },
];

/// The recipes with their texts; those of claims have their names.
const RECIPES: [(&str, &str); 5] = [
    ("fast94", include_str!("../../recipes/fast94.toml")),
    ("small96", include_str!("../../recipes/small96.toml")),
    ("tiny", include_str!("../../recipes/tiny.toml")),
    ("assignment-cnn", include_str!("../../recipes/assignment-cnn.toml")),
    ("assignment-mlp", include_str!("../../recipes/assignment-mlp.toml")),
];

/// The workbench with the recipes.
pub(crate) fn with_recipes(workbench: Workbench) -> Workbench {
    RECIPES.iter().fold(workbench, |workbench, (name, text)| workbench.recipe(name, text))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_config::Config;
    use kindling_models::{ImageShape, trainable_parameters};

    use super::*;

    fn resolved(name: &str) -> Config {
        let workbench = with_recipes(Workbench::new("kindling"));
        workbench.resolve(workbench.recipe_named(name).unwrap().partial().unwrap()).unwrap()
    }

    #[test]
    fn every_recipe_resolves_says_what_it_is_for_and_keeps_to_the_protocol() {
        let workbench = with_recipes(Workbench::new("kindling"));
        for recipe in workbench.recipes() {
            let config = resolved(recipe.name());
            assert!(recipe.about().len() > 20, "{}: {}", recipe.name(), recipe.about());
            assert_eq!(config.data.name, "fashion-mnist");
            let is_claim = CLAIMS.iter().any(|claim| claim.name == recipe.name());
            // Nothing is chosen on the test set, and the seed is the command's.
            assert_eq!(config.protocol.name() == "validated", is_claim, "{}", recipe.name());
            let text = RECIPES.iter().find(|(name, _)| *name == recipe.name()).unwrap().1;
            assert!(!text.contains("seed ="), "{}", recipe.name());
            assert_eq!(config.training.limit_batches, None);
        }
        assert!(CLAIMS.iter().all(|claim| workbench.recipe_named(claim.name).is_ok()));
    }

    #[test]
    fn every_key_of_a_recipe_has_its_reason_above_it_or_behind_it() {
        for (name, text) in RECIPES {
            let mut lines = text.lines().peekable();
            let mut reasoned = false;
            let mut inside = false;
            while let Some(line) = lines.next().map(str::trim) {
                match line {
                    "" => reasoned = false,
                    _ if line.starts_with('#') => reasoned = true,
                    _ if line.starts_with('[') && line.ends_with(']') && !inside => reasoned = false,
                    _ => {
                        assert!(reasoned || inside || line.contains(" # "), "{name}: `{line}` has no comment");
                        // A list over several lines is one key.
                        inside = line.matches('[').count() > line.matches(']').count() || (inside && line != "]");
                        reasoned = false;
                    }
                }
            }
        }
    }

    #[test]
    fn the_networks_of_recipes_keep_to_the_limits_of_their_claims() {
        let workbench = with_recipes(Workbench::new("kindling"));
        let count = |name: &str| {
            let config = resolved(name);
            let network = workbench.network_of(&config.network).unwrap();
            let layers = network.layers(&config.network.keys, ImageShape::MNIST, &Device::default()).unwrap();
            trainable_parameters(&layers)
        };
        for claim in CLAIMS {
            let parameters = count(claim.name);
            assert!(claim.parameter_limit.is_none_or(|limit| parameters < limit), "{}: {parameters}", claim.name);
        }
        // The assignment's networks, as they are.
        assert_eq!((count("assignment-cnn"), count("assignment-mlp")), (421_834, 669_706));
    }
}
