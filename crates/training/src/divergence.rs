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
