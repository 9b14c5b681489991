use burn::{
    module::{Module, ParamGroup},
    optim::ModuleOptimizer,
};
use kindling_config::Optimizer;
use kindling_kernels::WeightDecay;
use kindling_training::{LearningRates, named_parameters};

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
            ModuleOptimizer::from(rest).with_group(hidden_matrices(model), matrices, None)
        }
    }
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
            rest.with_group(hidden_matrices(model), shown).shown_as(shown)
        }
        _ => shown.into(),
    }
}

/// The matrices between the network's first and last layer: what Muon is for.
fn hidden_matrices<M: Module>(model: &M) -> ParamGroup {
    let parameters = named_parameters(model);
    let ends = [parameters.first(), parameters.last()].map(|end| end.map(|parameter| parameter.layer.as_str()));
    let is_hidden = |layer: &str| !ends.contains(&Some(layer));
    let hidden = parameters.iter().filter(|parameter| parameter.shape.len() == 2 && is_hidden(&parameter.layer));
    ParamGroup::from_paths(hidden.map(|parameter| parameter.path.clone()).collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_models::{CnnConfig, ImageShape, MlpConfig, NetworkConfig};

    use super::*;
    use crate::Classifier;

    fn hidden(config: &impl NetworkConfig) -> Vec<String> {
        let model = Classifier::new(config.init(ImageShape::MNIST, 1, &Device::flex()).unwrap(), 0.0);
        let group = hidden_matrices(&model);
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
}
