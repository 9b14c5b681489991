use burn::{
    module::{Module, ParamGroup},
    optim::{
        AdamConfig, AdamWConfig, AdjustLrFn, ModuleOptimizer, MuonConfig, SgdConfig, decay::WeightDecayConfig,
        momentum::MomentumConfig,
    },
};
use kindling_config::Optimizer;
use kindling_training::{LearningRates, named_parameters};

use crate::sgd_step::SgdStep;

/// The config's optimizer, with PyTorch's semantics; `model` is what it trains.
#[must_use]
pub fn init_optimizer<M: Module>(optimizer: &Optimizer, model: &M) -> ModuleOptimizer {
    let added = |decay: f64| (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32));
    let momentum = |momentum, nesterov| MomentumConfig { momentum, dampening: 0.0, nesterov };
    // Burn's configs hold these as f32.
    let adamw = |beta_1: f64, beta_2: f64, epsilon: f64, decay: f64| {
        let adamw = AdamWConfig::new().with_beta_1(beta_1 as f32).with_beta_2(beta_2 as f32);
        adamw.with_epsilon(epsilon as f32).with_weight_decay(decay as f32)
    };
    match optimizer {
        Optimizer::Sgd(sgd) if sgd.weight_decay > 0.0 => {
            SgdConfig::new().with_weight_decay(added(sgd.weight_decay)).init()
        }
        Optimizer::Sgd(_) => SgdStep.into(),
        Optimizer::Momentum(sgd) => SgdConfig::new()
            .with_weight_decay(added(sgd.weight_decay))
            .with_momentum(Some(momentum(sgd.momentum, sgd.nesterov)))
            .init(),
        Optimizer::Adam(adam) => AdamConfig::new()
            .with_beta_1(adam.beta_1 as f32)
            .with_beta_2(adam.beta_2 as f32)
            .with_epsilon(adam.epsilon as f32)
            .with_weight_decay(added(adam.weight_decay))
            .init(),
        Optimizer::Adamw(adam) => adamw(adam.beta_1, adam.beta_2, adam.epsilon, adam.weight_decay).init(),
        Optimizer::Muon(muon) => {
            // Burn keeps linear weights as [inputs, outputs], so the scaling has to be one that a transpose leaves as it is.
            let matrices = MuonConfig::new()
                .with_weight_decay(added(muon.weight_decay))
                .with_momentum(momentum(muon.momentum, true))
                .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
            let rest = adamw(muon.beta_1, muon.beta_2, muon.epsilon, muon.weight_decay).init();
            rest.with_group(hidden_matrices(model), matrices.build(), None)
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
