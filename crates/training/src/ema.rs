use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use kindling_kernels as kernels;

/// An exponential moving average of the trainable parameters, which starts from the initial ones.
pub(crate) struct Ema {
    decay: f64,
    /// By parameter, without autodiff.
    averages: GradientsParams,
}

impl Ema {
    /// Starts from the parameters of `module`, which is on a device with autodiff.
    pub(crate) fn new<M: Module>(module: &M, decay: f64) -> Self {
        let mut ema = Self { decay, averages: GradientsParams::new() };
        ema.take(module, 0.0);
        ema
    }

    /// Takes the averages back from what [`module`](Self::module) gave.
    pub(crate) fn restore<M: Module>(&mut self, averaged: &M) {
        self.take(averaged, 0.0);
    }

    /// Takes the parameters after a step into the averages.
    pub(crate) fn update<M: Module>(&mut self, module: &M) {
        self.take(module, self.decay);
    }

    fn take<M: Module>(&mut self, module: &M, decay: f64) {
        module.visit(&mut Take { averages: &mut self.averages, decay });
    }

    /// Returns `module` without autodiff and with the averages in place of its trainable parameters; running statistics are
    /// its own.
    pub(crate) fn module<M: Module>(&self, module: &M) -> M {
        module.valid().map(&mut Put(&self.averages))
    }
}

struct Take<'a> {
    averages: &'a mut GradientsParams,
    decay: f64,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let old = self.averages.remove::<D>(param.id);
        if old.is_none() && !value.is_require_grad() {
            return;
        }
        let value = value.without_autodiff();
        let average = match old.filter(|_| self.decay > 0.0) {
            Some(old) => kernels::moving_average(old, value, self.decay),
            None => value,
        };
        self.averages.register(param.id, average);
    }
}

/// Puts tensors in the place of the parameters that they are kept for.
pub(crate) struct Put<'a>(pub(crate) &'a GradientsParams);

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.get::<D>(param.id) {
            Some(average) => param.map(|_| average),
            None => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{parameters::each_number, tests::Net};

    fn first(module: &Net) -> f64 {
        let mut first = f64::NAN;
        each_number(module, None, |_, values| {
            first = values.next().unwrap();
            false
        })
        .unwrap();
        first
    }

    struct Set(f64);

    impl ModuleMapper for Set {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let requires = param.val().is_require_grad();
            param.map(|tensor| tensor.detach().mul_scalar(0.0).add_scalar(self.0).detach().set_require_grad(requires))
        }
    }

    #[test]
    fn averages_follow_the_formula_and_leave_running_statistics_as_they_are() {
        let net = Net::new(&Device::flex().autodiff()).map(&mut Set(1.0));
        let mut ema = Ema::new(&net, 0.75);
        for value in [3.0, 7.0] {
            ema.update(&net.clone().map(&mut Set(value)));
        }
        // ((1 * 0.75 + 3 * 0.25) * 0.75 + 7 * 0.25).
        let averaged = ema.module(&net.valid().train().map(&mut Set(9.0)));
        assert_eq!(first(&averaged).to_bits(), 2.875_f64.to_bits());
        let mut statistics = Vec::new();
        each_number(&averaged, None, |parameter, values| {
            if parameter.path.contains("running") {
                statistics.extend(values);
            }
            true
        })
        .unwrap();
        assert!(statistics.len() == 8 && statistics.iter().all(|value: &f64| value.to_bits() == 9.0_f64.to_bits()));
        let mut restored = Ema::new(&net, 0.75);
        restored.restore(&averaged);
        assert_eq!(first(&restored.module(&net)).to_bits(), 2.875_f64.to_bits());
    }
}
