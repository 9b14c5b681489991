use burn::{
    lr_scheduler::module_lr_scheduler::ModuleLearningRate,
    module::Module,
    optim::{GradientsParams, ModuleOptimizer},
};
use kindling_record::DivergenceRecord;

use crate::parameters::{each_number, name};

/// What the steps whose losses are not read yet began with: from it they can be taken again, up to the one that diverged.
pub(crate) struct Kept<M> {
    pub(crate) task: M,
    pub(crate) optimizer: ModuleOptimizer,
    /// The first of the steps, and the index of its batch.
    pub(crate) step: usize,
    pub(crate) batch: usize,
    /// The learning rates of the steps.
    pub(crate) rates: Vec<ModuleLearningRate>,
}

impl<M: Module> Kept<M> {
    /// Before the step `step` on the batch `batch`.
    pub(crate) fn new(task: &M, optimizer: &ModuleOptimizer, step: usize, batch: usize) -> Self {
        // A copy with running statistics of its own.
        Self { task: task.valid().train(), optimizer: optimizer.clone(), step, batch, rates: Vec::new() }
    }
}

/// Finds the first layer whose weights or running statistics, or else whose gradients, are not finite. Names are those
/// inside `root`.
pub(crate) fn locate<M: Module>(
    module: &M,
    root: &str,
    gradients: Option<&GradientsParams>,
    step: usize,
) -> DivergenceRecord {
    // Folds the batch statistics that are still pending into the running ones.
    let _ = module.valid();
    let first = |gradients| {
        let mut found = None;
        // What cannot be read back is no reason to say less about the rest.
        let _ = each_number(module, gradients, |parameter, mut numbers| {
            if Iterator::any(&mut numbers, |number| !number.is_finite()) {
                found = Some(name(&parameter.path, root).to_owned());
            }
            found.is_none()
        });
        found
    };
    let weight = first(None).map(|path| (path, ""));
    let found = weight.or_else(|| first(Some(gradients?)).map(|path| (path, "gradient of ")));
    let Some((path, of)) = found else {
        return DivergenceRecord { step, layer: None, quantity: "loss".to_owned() };
    };
    let (layer, parameter) = path.rsplit_once('.').unwrap_or(("", &path));
    DivergenceRecord { step, layer: Some(layer.to_owned()), quantity: format!("{of}{parameter}") }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{ModuleMapper, Param, ParamId},
        tensor::{Device, Tensor},
    };

    use super::*;
    use crate::{
        tests::{Net, batch},
        training_step,
    };

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
            if !self.names.contains(&self.path[1..].join(".").as_str()) {
                return param;
            }
            self.ids.push(param.id);
            param
                .map(|tensor| Tensor::from_inner(tensor.inner().mul_scalar(0.0).add_scalar(self.number)).require_grad())
        }
    }

    fn put(names: &'static [&'static str], number: f32) -> (Net, Vec<ParamId>) {
        let mut put = Put { path: Vec::new(), names, number, ids: Vec::new() };
        let net = Net::new(&Device::flex().autodiff()).map(&mut put);
        assert_eq!(put.ids.len(), names.len());
        (net, put.ids)
    }

    fn gradients(net: &Net) -> GradientsParams {
        training_step(net, batch(2, &Device::flex().autodiff())).unwrap().gradients
    }

    fn place(record: &DivergenceRecord) -> (Option<&str>, &str) {
        assert_eq!(record.step, 7);
        (record.layer.as_deref(), &record.quantity)
    }

    #[test]
    fn the_first_layer_with_weights_that_are_not_finite_is_named() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (net, _) = put(&["norm.beta", "second.weight"], number);
            // Every gradient is no number then; the weights come first.
            for gradients in [None, Some(&gradients(&net))] {
                let record = locate(&net, "net", gradients, 7);
                assert_eq!(place(&record), (Some("norm"), "beta"), "{number}");
            }
        }
    }

    #[test]
    fn with_finite_weights_the_first_layer_with_such_a_gradient_is_named_and_else_the_loss() {
        let (net, ids) = put(&["second.weight"], 0.25);
        let mut gradients = gradients(&net);
        assert_eq!(place(&locate(&net, "net", Some(&gradients), 7)), (None, "loss"));
        assert_eq!(place(&locate(&net, "net", None, 7)), (None, "loss"));
        let gradient = gradients.remove::<2>(ids[0]).unwrap();
        gradients.register(ids[0], gradient.mul_scalar(0.0).div_scalar(0.0));
        assert_eq!(place(&locate(&net, "net", Some(&gradients), 7)), (Some("second"), "gradient of weight"));
    }
}
