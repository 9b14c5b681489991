//! Layers that training leaves as they are.

use std::collections::HashSet;

use burn::{
    module::{Flag, Module, ModuleMapper, Param, ParamId},
    tensor::Tensor,
};

use crate::{Parameter, TrainingError, named_parameters, parameters::name};

/// The layers whose parameters have other names in PyTorch.
const NORMS: [&str; 4] = ["BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm"];

/// Freezes the layers and parameters of `module` that match one of `patterns`: they get no gradient, their dropouts are off,
/// and their batch norms take their running statistics and leave them as they are. Returns the module and the names of the
/// frozen parameters.
///
/// A pattern is the name of a layer, which means all that is in it, or of a parameter, as weights files and messages have
/// them inside `root` (see [`Task::ROOT`](crate::Task::ROOT)): `conv1`, `fc1.weight`. In it `*` stands for any text:
/// `block*`. A [`BatchNorm`](kindling_kernels::nn::BatchNorm) is in evaluation only where both its scale and its shift are
/// frozen.
///
/// The module keeps this through training, checkpoints and further devices; a resume freezes the fresh module again.
///
/// # Errors
/// When a pattern matches nothing, or nothing is left to train.
pub fn freeze<M: Module>(module: M, root: &str, patterns: &[String]) -> Result<(M, Vec<String>), TrainingError> {
    let parameters = named_parameters(&module);
    let names: Vec<_> = parameters.iter().map(|parameter| names(parameter, root)).collect();
    let is_matched = |pattern: &String| {
        let mut all = parameters.iter().zip(&names).filter(|(parameter, _)| parameter.trainable);
        all.any(|(_, names)| names.iter().any(|name| matches(pattern, name)))
    };
    if let Some(pattern) = patterns.iter().find(|pattern| !is_matched(pattern)) {
        return Err(TrainingError::Setting {
            name: "freeze",
            wanted: format!("layers or parameters of the network (its layers are {})", layers(&parameters, root)),
            found: format!("`{pattern}`"),
        });
    }
    let frozen: Vec<_> = parameters
        .iter()
        .zip(names)
        .filter(|(it, names)| it.trainable && names.iter().any(|name| patterns.iter().any(|it| matches(it, name))))
        .collect();
    if !patterns.is_empty() && frozen.len() == parameters.iter().filter(|parameter| parameter.trainable).count() {
        return Err(TrainingError::Setting {
            name: "freeze",
            wanted: format!("patterns that leave something to train (the layers are {})", layers(&parameters, root)),
            found: patterns.iter().map(|pattern| format!("`{pattern}`")).collect::<Vec<_>>().join(", "),
        });
    }
    let ids = frozen.iter().map(|(parameter, _)| parameter.id).collect();
    let names = frozen.iter().map(|(parameter, _)| file_name(parameter, root)).collect();
    let mut freezer = Freezer { ids, root, patterns, path: Vec::new() };
    Ok((module.map(&mut freezer), names))
}

/// The names of the parameters of `module` that are frozen, as weights files have them, and the number of numbers that it
/// learns or that are frozen: all but running statistics.
pub(crate) fn frozen<M: Module>(module: &M, root: &str) -> (Vec<String>, usize) {
    // Running statistics stay what they are.
    let all = named_parameters(&module.valid().unfreeze());
    let parameters = named_parameters(module);
    let frozen = parameters.iter().zip(&all).filter(|(parameter, all)| all.trainable && !parameter.trainable);
    (frozen.map(|(parameter, _)| file_name(parameter, root)).collect(), crate::trainable_parameters(&all))
}

/// The layers of `module` that are frozen, or the names of parameters where others of their layer are not, and how many
/// numbers these hold.
pub(crate) fn frozen_layers<M: Module>(module: &M, root: &str) -> (Vec<String>, usize) {
    let all = named_parameters(&module.valid().unfreeze());
    let parameters = named_parameters(module);
    let learned: Vec<_> = parameters.iter().zip(&all).filter(|(_, all)| all.trainable).map(|(it, _)| it).collect();
    let (mut layers, mut count) = (Vec::new(), 0_usize);
    for layer in learned.chunk_by(|one, other| one.layer == other.layer) {
        let frozen: Vec<_> = layer.iter().filter(|parameter| !parameter.trainable).collect();
        count = frozen.iter().fold(count, |count, parameter| count.saturating_add(parameter.count()));
        let path = name(&layer[0].layer, root);
        if frozen.len() == layer.len() && !path.is_empty() {
            layers.push(path.to_owned());
        } else {
            layers.extend(frozen.iter().map(|parameter| file_name(parameter, root)));
        }
    }
    (layers, count)
}

/// The names of a parameter: Burn's, and the one that files have.
fn names(parameter: &Parameter, root: &str) -> [String; 2] {
    [name(&parameter.path, root).to_owned(), file_name(parameter, root)]
}

/// The name of a parameter in a weights file: a norm's `gamma` and `beta` are its `weight` and `bias`.
fn file_name(parameter: &Parameter, root: &str) -> String {
    let path = name(&parameter.path, root);
    let renamed = [("gamma", "weight"), ("beta", "bias")].into_iter().find_map(|(burns, pytorchs)| {
        let layer = path.strip_suffix(burns).filter(|layer| layer.is_empty() || layer.ends_with('.'))?;
        NORMS.contains(&&*parameter.kind).then(|| format!("{layer}{pytorchs}"))
    });
    renamed.unwrap_or_else(|| path.to_owned())
}

/// The layers that have something to train.
fn layers(parameters: &[Parameter], root: &str) -> String {
    let mut layers: Vec<_> = parameters.iter().filter(|it| it.trainable).map(|it| name(&it.layer, root)).collect();
    layers.dedup();
    layers
        .into_iter()
        .filter(|layer| !layer.is_empty())
        .map(|layer| format!("`{layer}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a pattern matches a name or what it is in.
fn matches(pattern: &str, name: &str) -> bool {
    let ends = name.match_indices('.').map(|(end, _)| end).chain([name.len()]);
    ends.into_iter().any(|end| glob(pattern.as_bytes(), &name.as_bytes()[..end]))
}

/// Whether a pattern with `*` for any text is all of a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last `*` is, and how much of the text it has taken.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == text[from] => (at, from) = (at + 1, from + 1),
            _ => match star {
                Some((place, taken)) => {
                    star = Some((place, taken + 1));
                    (at, from) = (place + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

struct Freezer<'a> {
    ids: HashSet<ParamId>,
    root: &'a str,
    patterns: &'a [String],
    path: Vec<String>,
}

impl ModuleMapper for Freezer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.ids.contains(&param.id) { param.set_require_grad(false) } else { param }
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        let path = self.path.join(".");
        let is_frozen = self.patterns.iter().any(|pattern| matches(pattern, name(&path, self.root)));
        if is_frozen { flag.with_value(false) } else { flag }
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig},
        tensor::Device,
    };

    use super::*;
    use crate::tests::Net;

    fn patterns(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|&pattern| pattern.to_owned()).collect()
    }

    fn frozen_by(list: &[&str]) -> Vec<String> {
        let (net, frozen) = freeze(Net::new(&Device::flex()), "net", &patterns(list)).unwrap();
        let untrained = named_parameters(&net).into_iter().filter(|it| !it.trainable && !it.path.contains("running"));
        assert_eq!(untrained.map(|it| file_name(&it, "net")).collect::<Vec<_>>(), frozen);
        // On a device with autodiff and back as well.
        for net in [net.clone().train(), net.train().valid()] {
            assert_eq!(super::frozen(&net, "net"), (frozen.clone(), 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2));
        }
        frozen
    }

    #[test]
    fn frozen_layers_are_told_whole_and_others_by_their_parameters() {
        let told = |list: &[&str]| {
            let (net, _) = freeze(Net::new(&Device::flex().autodiff()), "net", &patterns(list)).unwrap();
            frozen_layers(&net, "net")
        };
        assert_eq!(told(&[]), (Vec::new(), 0));
        assert_eq!(told(&["first", "second.bias"]), (patterns(&["first", "second.bias"]), 3 * 4 + 4 + 2));
        assert_eq!(told(&["norm.gamma"]), (patterns(&["norm.weight"]), 4));
    }

    #[test]
    fn patterns_are_names_of_layers_and_parameters_with_stars_for_any_text() {
        assert!(frozen_by(&[]).is_empty());
        assert_eq!(frozen_by(&["first"]), ["first.weight", "first.bias"]);
        assert_eq!(frozen_by(&["second.bias"]), ["second.bias"]);
        assert_eq!(frozen_by(&["norm", "fi*.w*"]), ["first.weight", "norm.weight", "norm.bias"]);
        assert_eq!(frozen_by(&["norm.gamma", "norm.bias"]), ["norm.weight", "norm.bias"]);
        assert_eq!(frozen_by(&["*.bias"]), ["first.bias", "norm.bias", "second.bias"]);
        for (pattern, name, expected) in [
            ("*", "", true),
            ("", "", true),
            ("a", "", false),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("**a", "ba", true),
            ("a*", "ba", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_that_match_nothing_or_everything_are_refused_with_the_layers() {
        let refused =
            |list: &[&str]| freeze(Net::new(&Device::flex()), "net", &patterns(list)).unwrap_err().to_string();
        assert_eq!(
            refused(&["first", "thrid"]),
            "freeze: expected layers or parameters of the network (its layers are `first`, `norm`, `second`), found `thrid`"
        );
        // Statistics are not trained anyway.
        assert!(refused(&["norm.running_mean"]).ends_with("found `norm.running_mean`"));
        assert!(refused(&["firs"]).ends_with("found `firs`"));
        assert_eq!(
            refused(&["*st", "norm", "second"]),
            "freeze: expected patterns that leave something to train (the layers are `first`, `norm`, `second`), \
             found `*st`, `norm`, `second`"
        );
    }

    /// Burn's own layers, which have flags.
    #[derive(Module, Debug)]
    struct Flags {
        norm: BatchNorm,
        dropout: Dropout,
        head: BatchNorm,
    }

    #[test]
    fn burns_dropouts_and_batch_norms_in_frozen_layers_are_in_evaluation() {
        let device = Device::flex().autodiff();
        let norm = || BatchNormConfig::new(2).init(&device);
        let flags = Flags { norm: norm(), dropout: DropoutConfig::new(0.5).init(), head: norm() };
        // A layer without parameters is not the name of one, but goes with what is matched.
        let (flags, _) = freeze(flags, "", &patterns(&["*o*"])).unwrap();
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 5.0]], &device);
        let kept = flags.dropout.forward(x.clone()).into_data();
        assert_eq!(kept, x.clone().into_data());
        let _ = flags.norm.forward(x.clone());
        let _ = flags.head.forward(x);
        let flags = flags.valid();
        assert_eq!(flags.norm.running_mean.value().into_data().iter::<f32>().collect::<Vec<_>>(), [0.0, 0.0]);
        assert!(flags.head.running_mean.value().into_data().iter::<f32>().all(|mean| mean > 0.0));
    }
}
