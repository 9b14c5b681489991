//! One training step with all of its numbers, to be taken again by another program.

use burn::{
    module::Module,
    optim::GradientsParams,
    tensor::{Device, Element, ExecutionError, Int, Tensor, TensorData},
};
use kindling_config::Config;
use kindling_data::{ImageBatch, ImageSource, Normalization};
use kindling_kernels::nn::named_parameters;
use kindling_models::{ImageShape, Network, NetworkConfig};
use kindling_training::{Order, batches, weights};

use crate::{
    ClassificationError, cross_entropy, init_optimizer, learning_rates, run::fresh_for, workload::random_images,
};

/// A network's weights, a batch, and the losses that a device makes of them.
#[derive(Clone, Debug)]
pub struct ReferenceStep {
    /// Number of trainable parameters.
    pub parameters: usize,
    /// The weights before the step: a safetensors file with PyTorch's names and layout.
    pub weights: Vec<u8>,
    /// The images as the network takes them: `[batch, channels, height, width]`, row by row.
    pub images: Vec<f32>,
    /// The class of each image.
    pub targets: Vec<i64>,
    /// The mean cross entropy of the batch: of the fresh network in training; of the same weights in evaluation, with
    /// the running statistics that the first left; and in training again, after one step of the optimizer.
    pub losses: [f64; 3],
}

/// Takes a step of `network` with a batch of `images` images on `device`, which has no autodiff.
pub(crate) fn reference_step<C: NetworkConfig>(
    network: &C,
    config: &Config,
    shape: ImageShape,
    images: usize,
    device: &Device,
) -> Result<ReferenceStep, ClassificationError> {
    let device = device.clone().autodiff();
    let model = fresh_for(network, config, shape, &device)?;
    let trainable = named_parameters(&model.network).into_iter().filter(|parameter| parameter.trainable);
    let parameters = trainable.map(|parameter| parameter.count()).sum();
    let weights = weights::write(&model.network.valid(), "")?;
    let source = ImageSource::new(random_images(shape, images)?, Normalization::default(), "random");
    let batch = batches(&source, images, None, Order::File, 1, &device).next();
    let ImageBatch { images, targets, .. } = batch.ok_or_else(|| ClassificationError::backend("no images"))??;

    let first = loss(&model.network, &images, &targets);
    let evaluated = loss(&model.network.valid(), &images.clone().inner(), &targets.clone().inner());
    let gradients = GradientsParams::from_grads(first.backward(), &model);
    let rates = learning_rates(&config.optimizer, &model);
    let model = init_optimizer(&config.optimizer, &model).step(rates.scaled(1.0), model, gradients);
    let after = loss(&model.network, &images, &targets);
    let losses = [first.inner(), evaluated, after.inner()].map(|loss| numbers(loss.try_into_data()));
    let [first, evaluated, after] = losses;
    Ok(ReferenceStep {
        parameters,
        weights,
        images: numbers(images.inner().try_into_data())?,
        targets: numbers(targets.inner().try_into_data())?,
        losses: [first?[0], evaluated?[0], after?[0]],
    })
}

/// The mean cross entropy of a batch, `[1]`.
fn loss<N: Network>(network: &N, images: &Tensor<4>, targets: &Tensor<1, Int>) -> Tensor<1> {
    cross_entropy(network.forward(images.clone()), targets.clone(), 0.0).mean()
}

/// The numbers of a tensor that was read back.
fn numbers<T: Element>(data: Result<TensorData, ExecutionError>) -> Result<Vec<T>, ClassificationError> {
    Ok(data.map_err(ClassificationError::backend)?.iter::<T>().collect())
}

#[cfg(test)]
mod tests {
    use kindling_models::CnnConfig;
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    #[test]
    fn a_reference_step_has_the_batch_and_losses_that_its_weights_make_again() {
        let config = fixtures::config(json!({ "network": { "name": "cnn" }, "optimizer": { "learning_rate": 0.01 } }));
        let cnn = CnnConfig { channels: vec![2, 3], hidden: 4 };
        let shape = ImageShape { channels: 3, height: 8, width: 9, classes: 5 };
        let step = reference_step(&cnn, &config, shape, 6, &Device::flex()).unwrap();
        let [first, evaluated, after] = step.losses;
        assert!(after < first && (evaluated - first).abs() > 1e-4, "{:?}", step.losses);
        assert_eq!((step.images.len(), step.targets.len()), (6 * 3 * 8 * 9, 6));
        let device = Device::flex().autodiff();
        let network = weights::read(cnn.init(shape, 7, &device).unwrap(), "", step.weights).unwrap();
        let images = Tensor::<4>::from_data(TensorData::new(step.images, [6, 3, 8, 9]), &device);
        let again = loss(&network, &images, &Tensor::from_data(TensorData::new(step.targets, [6]), &device));
        assert!((f64::from(again.into_scalar::<f32>()) - first).abs() < 1e-6);
        assert_eq!(step.parameters, (2 * 27 + 2 + 4) + (3 * 18 + 3 + 6) + (3 * 4 * 4 + 4) + (4 * 5 + 5));
    }
}
