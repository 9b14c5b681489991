//! Weights and gradients on their way between devices that only this program reaches: the numbers of many tensors
//! travel in one piece, so that each way is one message.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};

use crate::{Step, Sums, TrainingError};

/// A module's weights and buffers, on the host.
pub(crate) struct CarriedWeights(TensorData);

/// A step whose gradients are on the host; its sums are on the device that computed them.
pub(crate) struct CarriedStep {
    /// The parameters that have a gradient, in the module's order.
    parameters: Vec<ParamId>,
    numbers: Option<TensorData>,
    pub(crate) sums: Sums,
}

impl CarriedWeights {
    /// Reads those of `module`, which has no autodiff.
    ///
    /// # Errors
    /// When its device fails, or when it has none.
    pub(crate) fn of<M: Module>(module: &M) -> Result<Self, TrainingError> {
        let mut flat = Flat { gradients: None, found: Vec::new(), parameters: Vec::new() };
        module.visit(&mut flat);
        let numbers = flat.read()?;
        numbers.map(Self).ok_or_else(|| TrainingError::backend("expected a module with parameters, found none"))
    }

    /// `module`, the one that was read, with its weights and buffers on `device`.
    pub(crate) fn placed<M: Module>(&self, module: M, device: &Device) -> M {
        module.map(&mut Place { numbers: Pieces::new(self.0.clone(), device), device })
    }
}

impl CarriedStep {
    /// Reads the gradients of `step` for the parameters of `module`.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn of<M: Module>(module: &M, step: Step) -> Result<Self, TrainingError> {
        let mut flat = Flat { gradients: Some(&step.gradients), found: Vec::new(), parameters: Vec::new() };
        module.visit(&mut flat);
        let parameters = std::mem::take(&mut flat.parameters);
        Ok(Self { parameters, numbers: flat.read()?, sums: step.sums })
    }

    /// The gradients on `device`, for the parameters of `module`.
    pub(crate) fn gradients<M: Module>(self, module: &M, device: &Device) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        if let Some(numbers) = self.numbers {
            let numbers = Pieces::new(numbers, device);
            module.visit(&mut Register { numbers, parameters: &self.parameters, gradients: &mut gradients });
        }
        gradients
    }
}

/// Collects the numbers of a module's parameters, or of their gradients.
struct Flat<'a> {
    gradients: Option<&'a GradientsParams>,
    found: Vec<Tensor<1>>,
    parameters: Vec<ParamId>,
}

impl Flat<'_> {
    fn read(self) -> Result<Option<TensorData>, TrainingError> {
        if self.found.is_empty() {
            return Ok(None);
        }
        Tensor::cat(self.found, 0).try_into_data().map(Some).map_err(TrainingError::backend)
    }
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val()),
        };
        if let Some(tensor) = tensor {
            self.parameters.push(param.id);
            self.found.push(tensor.flatten(0, D - 1));
        }
    }
}

/// Cuts the numbers that [`Flat`] collected into tensors again.
struct Pieces {
    numbers: Tensor<1>,
    taken: usize,
}

impl Pieces {
    fn new(numbers: TensorData, device: &Device) -> Self {
        Self { numbers: Tensor::from_data(numbers, device), taken: 0 }
    }

    fn next<const D: usize>(&mut self, like: &Tensor<D>) -> Tensor<D> {
        let shape = like.shape();
        let start = self.taken;
        self.taken += shape.num_elements();
        self.numbers.clone().slice(start..self.taken).reshape(shape)
    }
}

struct Place<'a> {
    numbers: Pieces,
    device: &'a Device,
}

impl ModuleMapper for Place<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| self.numbers.next(&tensor))
    }

    // Rare, and few numbers.
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|tensor| Tensor::from_data(tensor.into_data(), self.device))
    }
}

struct Register<'a> {
    numbers: Pieces,
    parameters: &'a [ParamId],
    gradients: &'a mut GradientsParams,
}

impl ModuleVisitor for Register<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.parameters.contains(&param.id) {
            let gradient = self.numbers.next(&param.val());
            self.gradients.register(param.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        feed::Epoch,
        parameters::{each_number, initialize},
        source::Plan,
        task::training_step,
        tests::{Net, Table},
    };

    fn numbers(net: &Net, gradients: Option<&GradientsParams>) -> Vec<f64> {
        let mut numbers = Vec::new();
        let see = |_: &_, values: &mut dyn Iterator<Item = f64>| {
            numbers.extend(values);
            true
        };
        each_number(net, gradients, see).unwrap();
        numbers
    }

    #[test]
    fn weights_and_gradients_arrive_as_they_left() {
        let device = Device::flex().autodiff();
        let net = Net::new(&device);
        initialize(&net);
        let plain = net.valid();
        let remote = CarriedWeights::of(&plain).unwrap().placed(plain, &Device::flex()).train();
        assert_eq!(numbers(&remote, None), numbers(&net, None));

        let batches = Plan { batch_size: 20, limit: None, order: crate::Order::File };
        let batch = || Epoch::new(batches, 1, 20).make(&Table::new(20, 1), 0..20, &device).unwrap();
        let step = training_step(&remote, batch()).unwrap();
        let wanted = numbers(&remote, Some(&step.gradients));
        let arrived = CarriedStep::of(&remote, step).unwrap().gradients(&net, &device.clone().inner());
        let own = training_step(&net, batch()).unwrap().gradients;
        assert_eq!(arrived.len(), own.len());
        assert_eq!(numbers(&net, Some(&arrived)), wanted);
        assert_eq!(wanted, numbers(&net, Some(&own)));
    }
}
