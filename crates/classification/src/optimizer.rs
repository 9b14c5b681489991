use burn::{
    module::{Module, ParamGroup},
    optim::ModuleOptimizer,
};
use kindling_config::{Choice, ConfigError, Optimizer};
use kindling_kernels::WeightDecay;
use kindling_training::{LearningRates, Parameter, named_parameters};

use crate::steps::{Adam, Momentum, Muon, Sgd};

/// The config's optimizer, with PyTorch's semantics; `model` is what it trains.
#[must_use]
pub fn init_optimizer<M: Module>(optimizer: &Optimizer, model: &M) -> ModuleOptimizer {
    match optimizer {
        Optimizer::Sgd(sgd) => Sgd { weight_decay: sgd.weight_decay }.into(),
        Optimizer::Momentum(sgd) => {
            Momentum { momentum: sgd.momentum, nesterov: sgd.nesterov, weight_decay: sgd.weight_decay }.into()
        }
        Optimizer::Adam(adam) => {
            let weight_decay = WeightDecay::Added(adam.weight_decay);
            Adam { betas: [adam.beta_1, adam.beta_2], epsilon: adam.epsilon, weight_decay }.into()
        }
        Optimizer::Adamw(adam) => {
            let weight_decay = WeightDecay::Decoupled(adam.weight_decay);
            Adam { betas: [adam.beta_1, adam.beta_2], epsilon: adam.epsilon, weight_decay }.into()
        }
        Optimizer::Muon(muon) => {
            let weight_decay = WeightDecay::Decoupled(muon.weight_decay);
            let rest = Adam { betas: [muon.beta_1, muon.beta_2], epsilon: muon.epsilon, weight_decay };
            let matrices = Muon { momentum: muon.momentum, weight_decay: muon.weight_decay };
            ModuleOptimizer::from(rest).with_group(hidden_group(model), matrices, None)
        }
    }
}

/// Checks that `optimizer` trains `model`, which is `network` in the config, as its name says.
///
/// # Errors
/// For Muon where there is nothing that it is for, so that AdamW would train everything.
pub(crate) fn check_optimizer<M: Module>(
    optimizer: &Optimizer,
    network: &Choice,
    model: &M,
) -> Result<(), ConfigError> {
    if !matches!(optimizer, Optimizer::Muon(_)) || hidden_matrices(model).next().is_some() {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        key: "optimizer.name".to_owned(),
        wanted: format!(
            "another than `muon` for the network `{}`, which has no matrix between its first and its last layer, so that \
             AdamW would train all of it (`adamw`)",
            network.name
        ),
        found: "muon".to_owned(),
    })
}

/// The config's learning rates: beside Muon's, which records show, that of what it leaves to AdamW.
#[must_use]
pub fn learning_rates<M: Module>(optimizer: &Optimizer, model: &M) -> LearningRates {
    rates(optimizer, model, optimizer.learning_rate(), |adamw| adamw)
}

/// Learning rates of which the one that records show is 1, in the config's proportion.
pub(crate) fn unit_learning_rates<M: Module>(optimizer: &Optimizer, model: &M) -> LearningRates {
    let base = optimizer.learning_rate();
    rates(optimizer, model, 1.0, |adamw| if base > 0.0 { adamw / base } else { 1.0 })
}

fn rates<M: Module>(optimizer: &Optimizer, model: &M, shown: f64, adamw: impl FnOnce(f64) -> f64) -> LearningRates {
    match optimizer {
        Optimizer::Muon(muon) => {
            let rest = LearningRates::from(adamw(muon.adamw_learning_rate));
            rest.with_group(hidden_group(model), shown).shown_as(shown)
        }
        _ => shown.into(),
    }
}

fn hidden_group<M: Module>(model: &M) -> ParamGroup {
    ParamGroup::from_paths(hidden_matrices(model).collect())
}

/// The paths of the matrices between the network's first and last layer: what Muon is for.
fn hidden_matrices<M: Module>(model: &M) -> impl Iterator<Item = String> {
    let parameters = named_parameters(model);
    let ends = [parameters.first(), parameters.last()].map(|end| end.map(|parameter| parameter.layer.clone()));
    let hidden = move |parameter: &Parameter| {
        parameter.shape.len() == 2 && !ends.iter().flatten().any(|end| *end == parameter.layer)
    };
    parameters.into_iter().filter(hidden).map(|parameter| parameter.path)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_models::{CnnConfig, ImageShape, MlpConfig, NetworkConfig, ResnetConfig};
    use serde_json::json;

    use super::*;
    use crate::{Classifier, fixtures};

    fn hidden(config: &impl NetworkConfig) -> Vec<String> {
        let model = Classifier::new(config.init(ImageShape::MNIST, 1, &Device::flex()).unwrap(), 0.0);
        let group = hidden_group(&model);
        let id = burn::module::ParamId::new();
        let paths = named_parameters(&model).into_iter().map(|parameter| parameter.path);
        paths.filter(|path| group.matches(&id, Some(path))).collect()
    }

    #[test]
    fn muon_trains_the_matrices_between_the_first_layer_and_the_last() {
        assert_eq!(hidden(&MlpConfig { hidden: vec![8, 8] }), ["network.layers.1.weight"]);
        assert_eq!(hidden(&MlpConfig { hidden: vec![8; 4] }).len(), 3);
        assert_eq!(hidden(&CnnConfig { channels: vec![2, 2], hidden: 4 }), ["network.fc1.weight"]);
    }

    #[test]
    fn muon_is_refused_where_there_are_no_such_matrices() {
        let resnet = ResnetConfig { depth: 8, width: 4 }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let narrow = MlpConfig { hidden: vec![8] }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let deep = MlpConfig { hidden: vec![8, 8] }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let of = |optimizer| fixtures::config(json!({ "network": "mlp", "optimizer": optimizer }));
        let (muon, adamw) = (of("muon"), of("adamw"));
        let message = check_optimizer(&muon.optimizer, &muon.network, &resnet).unwrap_err().to_string();
        let expected =
            "optimizer.name: expected another than `muon` for the network `mlp`, which has no matrix between";
        assert!(message.starts_with(expected), "{message}");
        assert!(check_optimizer(&muon.optimizer, &muon.network, &narrow).is_err());
        assert!(check_optimizer(&muon.optimizer, &muon.network, &deep).is_ok());
        assert!(check_optimizer(&adamw.optimizer, &adamw.network, &resnet).is_ok());
    }
}
