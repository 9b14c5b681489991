use burn::{
    lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler},
    module::{Module, ModuleVisitor, Param, ParamGroup},
    optim::{
        AdamConfig, AdamWConfig, AdjustLrFn, ModuleOptimizer, MuonConfig, SgdConfig, decay::WeightDecayConfig,
        momentum::MomentumConfig,
    },
    tensor::Tensor,
};

use crate::{Classifier, ExperimentConfig, OptimizerName, sgd_step::SgdStep};

/// The config's optimizer, with PyTorch's semantics.
#[must_use]
pub fn init_optimizer(config: &ExperimentConfig, model: &Classifier) -> ModuleOptimizer {
    // Burn's configs hold these as f32.
    let (beta_1, beta_2, epsilon, decay) =
        (config.beta_1 as f32, config.beta_2 as f32, config.epsilon as f32, config.weight_decay as f32);
    let added_decay = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
    let momentum = MomentumConfig { momentum: config.momentum, dampening: 0.0, nesterov: config.nesterov };
    let adamw =
        AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_epsilon(epsilon).with_weight_decay(decay);
    match config.optimizer {
        OptimizerName::Sgd if added_decay.is_none() => SgdStep.into(),
        OptimizerName::Sgd => SgdConfig::new().with_weight_decay(added_decay).init(),
        OptimizerName::Momentum => SgdConfig::new().with_weight_decay(added_decay).with_momentum(Some(momentum)).init(),
        OptimizerName::Adam => AdamConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(epsilon)
            .with_weight_decay(added_decay)
            .init(),
        OptimizerName::Adamw => adamw.init(),
        OptimizerName::Muon => {
            // Burn keeps linear weights as [inputs, outputs], so the scaling has to be one that a transpose leaves as it is.
            let muon = MuonConfig::new()
                .with_weight_decay(added_decay)
                .with_momentum(MomentumConfig { nesterov: true, ..momentum })
                .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
            adamw.init().with_group(hidden_matrices(model), muon.build(), None)
        }
    }
}

/// The learning rates of a step, one for each group of parameters.
#[derive(Clone, Debug)]
pub struct LearningRates {
    /// For all parameters, or for Muon's.
    base: f64,
    /// For what Muon leaves to `AdamW`, and the group it does not.
    adamw: Option<(f64, ParamGroup)>,
}

impl LearningRates {
    /// The config's learning rates.
    #[must_use]
    pub fn new(config: &ExperimentConfig, model: &Classifier) -> Self {
        let adamw =
            (config.optimizer == OptimizerName::Muon).then(|| (config.adamw_learning_rate, hidden_matrices(model)));
        Self { base: config.learning_rate, adamw }
    }

    /// The learning rate that records show, times `factor`.
    #[must_use]
    pub fn base(&self, factor: f64) -> f64 {
        self.base * factor
    }

    /// All learning rates times `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> ModuleLearningRate {
        match &self.adamw {
            None => (self.base * factor).into(),
            Some((adamw, muons)) => {
                ModuleLrScheduler::new(adamw * factor).with_group(muons.clone(), self.base * factor).step()
            }
        }
    }
}

/// The matrices between the network's first and last layer: what Muon is for.
fn hidden_matrices(model: &Classifier) -> ParamGroup {
    let mut parameters = Parameters::default();
    model.visit(&mut parameters);
    let layer = |path: &str| path.rsplit_once('.').map_or(path, |(layer, _)| layer).to_owned();
    let first = parameters.found.first().map(|(path, _)| layer(path));
    let last = parameters.found.last().map(|(path, _)| layer(path));
    let hidden = parameters.found.iter().filter(|(path, rank)| {
        let layer = Some(layer(path));
        *rank == 2 && layer != first && layer != last
    });
    ParamGroup::from_paths(hidden.map(|(path, _)| path.clone()).collect())
}

/// Collects (path, rank) of every parameter.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: Vec<(String, usize)>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), D));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kindling_models::{ImageShape, ModelName};

    use super::*;

    #[test]
    fn muon_trains_the_matrices_between_the_first_layer_and_the_last() {
        let hidden = |model: ModelName| {
            let network = model.config(None).unwrap().init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
            let model = Classifier::new(network, 0.0);
            let mut parameters = Parameters::default();
            model.visit(&mut parameters);
            let group = hidden_matrices(&model);
            let id = burn::module::ParamId::new();
            let matched = parameters.found.into_iter().filter(|(path, _)| group.matches(&id, Some(path)));
            matched.map(|(path, _)| path).collect::<Vec<_>>()
        };
        assert_eq!(hidden(ModelName::Mlp), ["network.Mlp.layers.1.weight"]);
        assert_eq!(hidden(ModelName::MlpDeep).len(), 3);
        assert_eq!(hidden(ModelName::Cnn), ["network.Cnn.fc1.weight"]);
    }
}
