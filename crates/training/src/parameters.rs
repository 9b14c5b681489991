//! A module's parameters, their values and their gradients.

use std::collections::HashMap;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};
use kindling_kernels::nn::{Parameter, named_parameters};

use crate::TrainingError;

/// Returns the number of trainable numbers in `parameters`, or the largest number there is where they are more.
#[must_use]
pub fn trainable_parameters(parameters: &[Parameter]) -> usize {
    let trainable = parameters.iter().filter(|parameter| parameter.trainable);
    trainable.fold(0, |sum, parameter| sum.saturating_add(parameter.count()))
}

/// Touches every parameter in the module's order, so that those that are drawn from a generator are drawn in it.
pub fn initialize<M: Module>(module: &M) {
    struct Touch;
    impl ModuleVisitor for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }
    module.visit(&mut Touch);
}

/// Shows `see` each parameter with its numbers, or with those of its gradient where `gradients` are given and it has one,
/// read back to the host, in the module's order, until it returns false.
pub(crate) fn each_number<M: Module>(
    module: &M,
    gradients: Option<&GradientsParams>,
    see: impl FnMut(&Parameter, &mut dyn Iterator<Item = f64>) -> bool,
) -> Result<(), TrainingError> {
    let parameters = named_parameters(module).into_iter().map(|parameter| (parameter.id, parameter)).collect();
    let mut visitor = Numbers { parameters, gradients, see, result: Ok(true) };
    module.visit(&mut visitor);
    visitor.result.map(|_| ())
}

/// `path` as names in files and messages have it: without `root`, the task's [`ROOT`](crate::Task::ROOT).
pub(crate) fn name<'a>(path: &'a str, root: &str) -> &'a str {
    match path.strip_prefix(root) {
        Some("") => "",
        Some(rest) => rest.strip_prefix('.').unwrap_or(path),
        None => path,
    }
}

struct Numbers<'a, F> {
    parameters: HashMap<ParamId, Parameter>,
    gradients: Option<&'a GradientsParams>,
    see: F,
    /// Whether it has more to see.
    result: Result<bool, TrainingError>,
}

impl<F: FnMut(&Parameter, &mut dyn Iterator<Item = f64>) -> bool> ModuleVisitor for Numbers<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(parameter) = self.parameters.get(&param.id).filter(|_| matches!(self.result, Ok(true))) else {
            return;
        };
        let tensor = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val().without_autodiff()),
        };
        let Some(tensor) = tensor else { return };
        let see = |values: burn::tensor::TensorData| (self.see)(parameter, &mut values.iter::<f64>());
        self.result = tensor.try_into_data().map(see).map_err(TrainingError::backend);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::tests::Net;

    #[test]
    fn parameters_have_their_paths_types_and_shapes_and_running_statistics_are_not_trainable() {
        let net = Net::new(&Device::flex().autodiff());
        initialize(&net);
        let parameters = named_parameters(&net);
        let found: Vec<_> = parameters
            .iter()
            .map(|parameter| (parameter.path.as_str(), parameter.kind.as_str(), parameter.trainable))
            .collect();
        assert_eq!(
            found,
            [
                ("net.first.weight", "Linear", true),
                ("net.first.bias", "Linear", true),
                ("net.norm.gamma", "BatchNorm", true),
                ("net.norm.beta", "BatchNorm", true),
                ("net.norm.running_mean", "BatchNorm", false),
                ("net.norm.running_var", "BatchNorm", false),
                ("net.second.weight", "Linear", true),
                ("net.second.bias", "Linear", true),
            ]
        );
        assert_eq!((parameters[0].layer.as_str(), &parameters[0].shape[..]), ("net.first", &[3, 4][..]));
        assert_eq!(trainable_parameters(&parameters), 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2);
        assert_eq!(name(&parameters[0].path, "net"), "first.weight");
        assert_eq!(name("other.weight", "net"), "other.weight");
    }
}
