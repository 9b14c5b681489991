use burn::{
    module::{Module, ParamGroup},
    optim::ModuleOptimizer,
};
use kindling_config::{Choice, ConfigError, MuonFilters, Optimizer};
use kindling_kernels::WeightDecay;
use kindling_training::{LearningRates, Parameter, named_parameters};

use crate::steps::{Adam, Momentum, Muon, Sgd};

/// The config's optimizer, with PyTorch's semantics; `model` is what it trains.
#[must_use]
pub fn init_optimizer<M: Module>(optimizer: &Optimizer, model: &M) -> ModuleOptimizer {
    match optimizer {
        Optimizer::Sgd(it) => decaying(model, (it.weight_decay, it.decay_biases), |weight_decay| Sgd { weight_decay }),
        Optimizer::Momentum(it) => decaying(model, (it.weight_decay, it.decay_biases), |weight_decay| Momentum {
            momentum: it.momentum,
            nesterov: it.nesterov,
            weight_decay,
        }),
        Optimizer::Adam(it) => decaying(model, (it.weight_decay, it.decay_biases), |weight_decay| Adam {
            betas: [it.beta_1, it.beta_2],
            epsilon: it.epsilon,
            weight_decay: WeightDecay::Added(weight_decay),
        }),
        Optimizer::Adamw(it) => decaying(model, (it.weight_decay, it.decay_biases), |weight_decay| Adam {
            betas: [it.beta_1, it.beta_2],
            epsilon: it.epsilon,
            weight_decay: WeightDecay::Decoupled(weight_decay),
        }),
        Optimizer::Muon(it) => {
            let rest = decaying(model, (it.weight_decay, it.decay_biases), |weight_decay| Adam {
                betas: [it.beta_1, it.beta_2],
                epsilon: it.epsilon,
                weight_decay: WeightDecay::Decoupled(weight_decay),
            });
            let (momentum, weight_decay) = (it.momentum, it.weight_decay);
            let muon = |normalized| Muon { momentum, weight_decay, scaling: it.scaling, normalized };
            let optimizer = rest.with_group(ParamGroup::from_paths(hidden_matrices(model)), muon(false), None);
            if it.filters == MuonFilters::Adamw {
                return optimizer;
            }
            let normalized = it.filters == MuonFilters::NormalizedMuon;
            optimizer.with_group(ParamGroup::from_paths(trained(model, FILTER)), muon(normalized), None)
        }
    }
}

/// The optimizer that `with` makes of a weight decay, for all parameters: for norms and biases of none, where they do not
/// decay.
fn decaying<M: Module, O: burn::optim::Optimizer>(
    model: &M,
    (weight_decay, decay_biases): (f64, bool),
    with: impl Fn(f64) -> O,
) -> ModuleOptimizer {
    let optimizer = ModuleOptimizer::from(with(weight_decay));
    if decay_biases || weight_decay <= 0.0 {
        return optimizer;
    }
    optimizer.with_group(ParamGroup::from_paths(trained(model, VECTOR)), with(0.0), None)
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
    let Optimizer::Muon(muon) = optimizer else { return Ok(()) };
    if !by_muon(muon, model).is_empty() {
        return Ok(());
    }
    let has_filters = !trained(model, FILTER).is_empty();
    let way = if has_filters { "; with `optimizer.filters=muon` it would train the filters" } else { "" };
    Err(ConfigError::Invalid {
        key: "optimizer.name".to_owned(),
        wanted: format!(
            "another than `muon` for the network `{}`, which has no matrix between its first and its last layer, so that \
             AdamW would train all of it (`adamw`{way})",
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
    let base = if let Optimizer::Muon(muon) = optimizer { adamw(muon.adamw_learning_rate) } else { shown };
    let (mut rates, factor) = (LearningRates::from(base), optimizer.bias_rate_factor());
    #[allow(clippy::float_cmp)] // Exactly 1 changes nothing.
    if factor != 1.0 {
        rates = rates.with_group(ParamGroup::from_paths(trained(model, VECTOR)), base * factor);
    }
    if let Optimizer::Muon(muon) = optimizer {
        rates = rates.with_group(ParamGroup::from_paths(by_muon(muon, model)), shown);
    }
    rates.shown_as(shown)
}

/// Dimensions of scales, shifts and biases.
const VECTOR: usize = 1;
/// Dimensions of a convolution's filters.
const FILTER: usize = 4;

/// The paths of the parameters of so many dimensions that require gradients.
fn trained<M: Module>(model: &M, dimensions: usize) -> Vec<String> {
    let wanted = |parameter: &Parameter| parameter.trainable && parameter.shape.len() == dimensions;
    named_parameters(model).into_iter().filter(wanted).map(|parameter| parameter.path).collect()
}

/// The paths of the parameters that Muon trains.
fn by_muon<M: Module>(muon: &kindling_config::Muon, model: &M) -> Vec<String> {
    let mut paths = hidden_matrices(model);
    if muon.filters != MuonFilters::Adamw {
        paths.extend(trained(model, FILTER));
    }
    paths
}

/// The paths of the matrices between the network's first and last layer: what Muon is for.
fn hidden_matrices<M: Module>(model: &M) -> Vec<String> {
    let parameters = named_parameters(model);
    let ends = [parameters.first(), parameters.last()].map(|end| end.map(|parameter| parameter.layer.clone()));
    let hidden = move |parameter: &Parameter| {
        parameter.shape.len() == 2 && !ends.iter().flatten().any(|end| *end == parameter.layer)
    };
    parameters.into_iter().filter(hidden).map(|parameter| parameter.path).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::{
        module::{ModuleMapper, ModuleVisitor, Param},
        nn::{
            Linear, LinearConfig,
            conv::{Conv2d, Conv2dConfig},
        },
        optim::GradientsParams,
        tensor::{Device, Tensor, TensorData},
    };
    use kindling_models::{AirbenchConfig, CnnConfig, ImageShape, MlpConfig, NetworkConfig, ResnetConfig};
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Classifier, fixtures};

    fn optimizer(keys: &Value) -> Optimizer {
        fixtures::config(json!({ "network": "mlp", "optimizer": keys })).optimizer
    }

    fn hidden(config: &impl NetworkConfig) -> Vec<String> {
        let model = Classifier::new(config.init(ImageShape::MNIST, 1, &Device::flex()).unwrap(), 0.0);
        hidden_matrices(&model)
    }

    #[test]
    fn muon_trains_the_matrices_between_the_first_layer_and_the_last() {
        assert_eq!(hidden(&MlpConfig { hidden: vec![8, 8] }), ["network.layers.1.weight"]);
        assert_eq!(hidden(&MlpConfig { hidden: vec![8; 4] }).len(), 3);
        assert_eq!(hidden(&CnnConfig { channels: vec![2, 2], hidden: 4 }), ["network.fc1.weight"]);
    }

    #[test]
    fn muon_is_refused_where_there_is_nothing_that_it_is_for() {
        let resnet = ResnetConfig { depth: 8, width: 4 }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let narrow = MlpConfig { hidden: vec![8] }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let deep = MlpConfig { hidden: vec![8, 8] }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let network = fixtures::config(json!({ "network": "mlp" })).network;
        let muon = optimizer(&json!("muon"));
        let message = check_optimizer(&muon, &network, &resnet).unwrap_err().to_string();
        let expected =
            "optimizer.name: expected another than `muon` for the network `mlp`, which has no matrix between";
        assert!(message.starts_with(expected), "{message}");
        assert!(message.contains("with `optimizer.filters=muon`"), "{message}");
        assert!(check_optimizer(&muon, &network, &deep).is_ok());
        assert!(check_optimizer(&optimizer(&json!("adamw")), &network, &resnet).is_ok());
        for filters in ["muon", "normalized-muon"] {
            let muon = optimizer(&json!({ "name": "muon", "filters": filters }));
            assert!(check_optimizer(&muon, &network, &resnet).is_ok());
            let message = check_optimizer(&muon, &network, &narrow).unwrap_err().to_string();
            assert!(!message.contains("filters="), "{message}");
        }
    }

    #[test]
    fn filters_that_are_frozen_are_not_for_muon() {
        let device = Device::flex().autodiff();
        let airbench = AirbenchConfig { widths: vec![2, 3], ..AirbenchConfig::default() };
        let airbench = airbench.init(ImageShape::MNIST, 1, &device).unwrap();
        let groups = ["groups.0.conv1", "groups.0.conv2", "groups.1.conv1", "groups.1.conv2"];
        assert_eq!(trained(&airbench, FILTER), groups.map(|layer| format!("{layer}.weight")));
        let cnn = CnnConfig { channels: vec![2, 2], hidden: 4 }.init(ImageShape::MNIST, 1, &device).unwrap();
        assert_eq!(trained(&cnn, FILTER), ["conv1.weight", "conv2.weight"]);
        let (cnn, _) = kindling_training::freeze(cnn, "", &["conv1".to_owned()]).unwrap();
        assert_eq!(trained(&cnn, FILTER), ["conv2.weight"]);
    }

    /// What `assets/golden/make_golden.py` writes of its `optimizers`.
    #[derive(Deserialize)]
    struct Golden {
        start: Vec<Vec<f32>>,
        gradients: Vec<Vec<Vec<f32>>>,
        runs: Vec<Run>,
    }

    #[derive(Deserialize)]
    struct Run {
        config: Value,
        end: Vec<Vec<f32>>,
    }

    #[derive(Module, Debug)]
    struct Small {
        filters: Conv2d,
        hidden: Linear,
        last: Linear,
    }

    /// The numbers of parameters in the module's order.
    struct Numbers<'a>(std::slice::Iter<'a, Vec<f32>>, GradientsParams);

    impl Numbers<'_> {
        fn next<const D: usize>(&mut self, like: &Tensor<D>) -> Tensor<D> {
            Tensor::from_data(TensorData::new(self.0.next().unwrap().clone(), like.shape()), &like.device())
        }
    }

    impl ModuleMapper for Numbers<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| self.next(&tensor).require_grad())
        }
    }

    impl ModuleVisitor for Numbers<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.next(&param.val().inner());
            self.1.register(param.id, gradient);
        }
    }

    #[derive(Default)]
    struct Found(Vec<Vec<f32>>);

    impl ModuleVisitor for Found {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data().try_to_vec().unwrap());
        }
    }

    #[test]
    fn groups_scalings_and_filters_are_pytorchs_also_after_a_record() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/golden/optimizers.json");
        let golden: Golden = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let device = Device::flex().autodiff();
        let small = Small {
            filters: Conv2dConfig::new([1, 6], [2, 2]).init(&device),
            hidden: LinearConfig::new(3, 7).init(&device),
            last: LinearConfig::new(7, 2).init(&device),
        };
        let small = small.map(&mut Numbers(golden.start.iter(), GradientsParams::new()));
        assert_eq!(golden.runs.len(), 8);
        for Run { config, end } in &golden.runs {
            let config = optimizer(config);
            let rates = learning_rates(&config, &small).scaled(1.0);
            for is_recorded in [false, true] {
                let mut model = small.clone();
                let mut steps = init_optimizer(&config, &model);
                for gradients in &golden.gradients {
                    let mut numbers = Numbers(gradients.iter(), GradientsParams::new());
                    model.visit(&mut numbers);
                    model = steps.step(rates.clone(), model, numbers.1);
                    if is_recorded {
                        let record = steps.into_bytes().unwrap();
                        steps = init_optimizer(&config, &model).from_bytes(record).unwrap();
                    }
                }
                let mut found = Found::default();
                model.visit(&mut found);
                for (parameter, (found, expected)) in found.0.iter().zip(end).enumerate() {
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(expected) {
                        // Roundings of three steps of numbers of about 1, through five iterations of Muon.
                        let is_close = (found - expected).abs() < 2e-5;
                        assert!(is_close, "{config:?}: {found} is not {expected} in parameter {parameter}");
                    }
                }
            }
        }
    }

    #[test]
    fn norms_and_biases_have_no_rate_of_their_own_by_default() {
        let small = MlpConfig { hidden: vec![8, 8] }.init(ImageShape::MNIST, 1, &Device::flex()).unwrap();
        let rate = |keys: &Value, path: &str| {
            let rates = unit_learning_rates(&optimizer(keys), &small).scaled(1.0);
            rates.lr_from_param(burn::module::ParamId::new(), Some(path)).to_string()
        };
        let (weight, bias) = ("layers.1.weight", "layers.1.bias");
        assert_eq!([weight, bias].map(|path| rate(&json!("sgd"), path)), ["1"; 2]);
        let sgd = json!({ "name": "sgd", "bias_rate_factor": 64 });
        assert_eq!([weight, bias].map(|path| rate(&sgd, path)), ["1", "64"]);
        let muon = json!({
            "name": "muon", "learning_rate": 0.5, "adamw_learning_rate": 0.25, "bias_rate_factor": 4,
        });
        assert_eq!([weight, bias, "layers.0.weight"].map(|path| rate(&muon, path)), ["1", "2", "0.5"]);
    }
}
