use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use kindling_record::DivergenceRecord;

use crate::Classifier;

/// Finds the first layer whose weights, or else whose gradients, are not finite.
pub(crate) fn locate(model: &Classifier, gradients: Option<&GradientsParams>, step: usize) -> DivergenceRecord {
    let mut search = Search { path: Vec::new(), gradients: None, found: None };
    model.visit(&mut search);
    if search.found.is_none() && gradients.is_some() {
        search.gradients = gradients;
        model.visit(&mut search);
    }
    match search.found {
        None => DivergenceRecord { step, layer: None, quantity: "loss".to_owned() },
        Some(path) => {
            let (layer, parameter) = path.rsplit_once('.').unwrap_or(("", &path));
            let quantity =
                if search.gradients.is_some() { format!("gradient of {parameter}") } else { parameter.to_owned() };
            DivergenceRecord { step, layer: Some(layer.to_owned()), quantity }
        }
    }
}

struct Search<'a> {
    path: Vec<String>,
    /// Looks at these where given, at the parameters otherwise.
    gradients: Option<&'a GradientsParams>,
    found: Option<String>,
}

impl ModuleVisitor for Search<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.is_some() {
            return;
        }
        let tensor = match self.gradients {
            None => Some(param.val().inner()),
            Some(gradients) => gradients.get::<D>(param.id),
        };
        let values = tensor.and_then(|tensor| tensor.try_into_data().ok());
        if values.is_some_and(|values| values.iter::<f32>().any(|value| !value.is_finite())) {
            // `network.Mlp.layers.0.weight`: the first two are the wrapper's, not the network's.
            self.found = Some(self.path.iter().skip(2).cloned().collect::<Vec<_>>().join("."));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{ModuleMapper, ParamId},
        tensor::{Device, TensorData},
        train::TrainStep,
    };
    use kindling_data::ImageBatch;
    use kindling_models::{ImageShape, MlpConfig, NetworkConfig};

    use super::*;

    const SHAPE: ImageShape = ImageShape { height: 2, width: 2, classes: 3 };

    fn model() -> Classifier {
        let config = NetworkConfig::Mlp(MlpConfig { hidden: vec![5, 4] });
        Classifier::new(config.init(SHAPE, 1, &Device::flex().autodiff()).unwrap(), 0.0)
    }

    fn gradients(model: &Classifier) -> GradientsParams {
        let device = Device::flex().autodiff();
        let images = Tensor::from_data(TensorData::new(vec![0.5_f32; 8], [2, 1, 2, 2]), &device);
        let targets = Tensor::from_data(TensorData::new(vec![0, 2], [2]), &device);
        TrainStep::step(model, ImageBatch { images, targets, whole: 2 }).grads
    }

    /// Puts a number into tensors, and remembers which they are.
    struct Put {
        path: Vec<String>,
        names: &'static [&'static str],
        number: f32,
        ids: Vec<ParamId>,
    }

    impl ModuleMapper for Put {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !self.names.contains(&self.path[2..].join(".").as_str()) {
                return param;
            }
            self.ids.push(param.id);
            param
                .map(|tensor| Tensor::from_inner(tensor.inner().mul_scalar(0.0).add_scalar(self.number)).require_grad())
        }
    }

    fn put(names: &'static [&'static str], number: f32) -> (Classifier, Vec<ParamId>) {
        let mut put = Put { path: Vec::new(), names, number, ids: Vec::new() };
        let model = model().map(&mut put);
        assert_eq!(put.ids.len(), names.len());
        (model, put.ids)
    }

    fn place(record: &DivergenceRecord) -> (Option<&str>, &str) {
        assert_eq!(record.step, 7);
        (record.layer.as_deref(), &record.quantity)
    }

    #[test]
    fn the_first_layer_with_weights_that_are_not_finite_is_named() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (model, _) = put(&["layers.1.bias", "layers.2.weight"], number);
            // Every gradient is no number then; the weights come first.
            for gradients in [None, Some(&gradients(&model))] {
                let record = locate(&model, gradients, 7);
                assert_eq!(place(&record), (Some("layers.1"), "bias"), "{number}");
            }
        }
    }

    #[test]
    fn with_finite_weights_the_first_layer_with_such_a_gradient_is_named_and_else_the_loss() {
        let (model, ids) = put(&["layers.2.weight"], 0.25);
        let mut gradients = gradients(&model);
        assert_eq!(place(&locate(&model, Some(&gradients), 7)), (None, "loss"));
        assert_eq!(place(&locate(&model, None, 7)), (None, "loss"));
        let gradient = gradients.remove::<2>(ids[0]).unwrap();
        gradients.register(ids[0], gradient.mul_scalar(0.0).div_scalar(0.0));
        assert_eq!(place(&locate(&model, Some(&gradients), 7)), (Some("layers.2"), "gradient of weight"));
    }
}
