use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Bool, Int, Tensor},
};

/// One of a module's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Path in the module: `fc1.weight`, by Burn's names (batch norm's are `gamma` and `beta`).
    pub path: String,
    /// Path of the module that declares it: `fc1`; empty for the root.
    pub layer: String,
    /// Name of that module's type: `Linear`.
    pub kind: String,
    /// Shape in Burn's layout: a linear layer's weight is `[inputs, outputs]`.
    pub shape: Vec<usize>,
    /// Whether training changes it. State such as batch norm's running statistics and frozen parameters are not trainable.
    pub trainable: bool,
    /// What optimizers and gradients know it by.
    pub id: ParamId,
}

impl Parameter {
    /// How many numbers it holds, or `usize::MAX` if they are more.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().fold(1, |count: usize, &side| count.saturating_mul(side))
    }
}

/// The parameters of a module in order. Those that are lazy stay so: nothing is drawn or allocated.
#[must_use]
pub fn named_parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut names = Names::default();
    module.visit(&mut names);
    names.found
}

#[derive(Default)]
struct Names {
    path: Vec<String>,
    /// Type of what contains each part of the path: `Struct:Linear` contains `weight`.
    containers: Vec<String>,
    found: Vec<Parameter>,
}

impl Names {
    fn add(&mut self, id: ParamId, shape: Vec<usize>, trainable: bool) {
        // A parameter belongs to the innermost type of a user's, and not to the `Vec` that may hold it.
        let name = |container: &String| {
            ["Struct:", "Enum:"].iter().find_map(|prefix| container.strip_prefix(prefix)).map(ToOwned::to_owned)
        };
        let declared = self.containers.iter().enumerate().rev().find_map(|(depth, it)| Some((depth, name(it)?)));
        let (depth, kind) = declared.unwrap_or_default();
        self.found.push(Parameter {
            path: self.path.join("."),
            layer: self.path[..depth].join("."),
            kind,
            shape,
            trainable,
            id,
        });
    }
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.id, param.lazy_shape().to_vec(), is_trainable(param));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.id, param.lazy_shape().to_vec(), false);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.id, param.lazy_shape().to_vec(), false);
    }
}

/// Whether a parameter requires a gradient in training, on whichever device it is.
///
/// Burn shows that only of a parameter with a value on a device with autodiff: a clone gets both, a value of one number.
fn is_trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    let value = Tensor::zeros([1; D], &param.lazy_device());
    let clone = param.clone().transform_for_load(value, param.id);
    clone.valid().train().val().is_require_grad()
}
