//! A module's parameters with their paths.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};

use crate::TrainingError;

/// One of a module's floating-point tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Where it is in the module, such as `layers.0.weight`.
    pub path: String,
    /// The module that holds it, such as `layers.0`.
    pub layer: String,
    /// The type of that module, such as `Linear`.
    pub kind: String,
    /// Its shape in Burn's layout: a linear weight is `[inputs, outputs]`.
    pub shape: Vec<usize>,
    /// Whether training changes it; running statistics and frozen parameters are not.
    pub trainable: bool,
    /// Its id.
    pub id: ParamId,
}

/// Returns the parameters of `module` in its order, without initialising those that are not yet.
///
/// On a device without autodiff only parameters that are not initialised are known to be trainable.
#[must_use]
pub fn named_parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    walk(module, &mut Each(|parameter| parameters.push(parameter)));
    parameters
}

/// Returns the number of trainable numbers in `parameters`, or the largest number there is where they are more.
#[must_use]
pub fn trainable_parameters(parameters: &[Parameter]) -> usize {
    let size = |parameter: &Parameter| parameter.shape.iter().fold(1_usize, |size, &side| size.saturating_mul(side));
    let trainable = parameters.iter().filter(|parameter| parameter.trainable);
    trainable.fold(0, |sum, parameter| sum.saturating_add(size(parameter)))
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
    let mut visitor = Numbers { gradients, see, result: Ok(true) };
    walk(module, &mut visitor);
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

trait See {
    fn see<const D: usize>(&mut self, parameter: Parameter, param: &Param<Tensor<D>>);
}

struct Each<F>(F);

impl<F: FnMut(Parameter)> See for Each<F> {
    fn see<const D: usize>(&mut self, parameter: Parameter, _param: &Param<Tensor<D>>) {
        (self.0)(parameter);
    }
}

struct Numbers<'a, F> {
    gradients: Option<&'a GradientsParams>,
    see: F,
    /// Whether it has more to see.
    result: Result<bool, TrainingError>,
}

impl<F: FnMut(&Parameter, &mut dyn Iterator<Item = f64>) -> bool> See for Numbers<'_, F> {
    fn see<const D: usize>(&mut self, parameter: Parameter, param: &Param<Tensor<D>>) {
        if !matches!(self.result, Ok(true)) {
            return;
        }
        let tensor = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val().without_autodiff()),
        };
        let Some(tensor) = tensor else { return };
        let see = |values: burn::tensor::TensorData| (self.see)(&parameter, &mut values.iter::<f64>());
        self.result = tensor.try_into_data().map(see).map_err(TrainingError::backend);
    }
}

fn walk<M: Module, S: See>(module: &M, see: &mut S) {
    module.visit(&mut Walk { path: Vec::new(), see });
}

struct Walk<'a, S> {
    /// Names, and types of the modules that they are in.
    path: Vec<(String, String)>,
    see: &'a mut S,
}

impl<S: See> ModuleVisitor for Walk<'_, S> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let joined = |path: &[(String, String)]| {
            path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
        };
        let kind = self.path.last().map_or("", |(_, kind)| kind.rsplit(':').next().unwrap_or(kind));
        let parameter = Parameter {
            path: joined(&self.path),
            layer: joined(&self.path[..self.path.len().saturating_sub(1)]),
            kind: kind.to_owned(),
            shape: param.lazy_shape().to_vec(),
            trainable: !param.is_initialized() || param.val().is_require_grad(),
            id: param.id,
        };
        self.see.see(parameter, param);
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
