//! The first steps on a backend that compiles its kernels when it first needs them.

use std::sync::Arc;

use burn::{
    data::dataloader::{DataLoader, split::split_dataloader},
    module::Module,
    optim::ModuleOptimizer,
    tensor::Device,
    train::InferenceStep,
};
use kindling_data::BatchLoader;
use kindling_models::ImageShape;

use crate::{
    Classifier, Event, ExperimentConfig, Host, LearningRates, TrainingError,
    clip::clipped,
    replicas::{Replicas, Step},
};

/// Takes a training and an evaluation step with weights that are thrown away, for every size in which batches come, so
/// that kernels are compiled and autotuned before the clock of the first epoch runs. Returns whether that was done: a stop
/// between two steps ends it.
///
/// `loaders` are those of training and of the evaluation after each epoch.
pub(crate) fn warm_up(
    config: &ExperimentConfig,
    shape: ImageShape,
    loaders: [&BatchLoader; 2],
    devices: &[Device],
    replicas: &Replicas,
    (optimizer, rates): (&ModuleOptimizer, &LearningRates),
    host: &mut Host,
) -> Result<bool, TrainingError> {
    let [train, evaluation] = loaders;
    let Some(device) = devices.first() else { return Ok(true) };
    let mut continues = |images, training| {
        (host.on_event)(Event::WarmUp { model: config.model.as_str(), images, training });
        !host.interrupter.should_stop()
    };
    let mut optimizer = ModuleOptimizer::clone(optimizer);
    let mut model = Classifier::new(config.network()?.init(shape, config.seed, device)?, config.label_smoothing);
    for first in first_and_last(train) {
        let slices = split_dataloader(Arc::new(train.starting_at(1, first)) as Arc<dyn DataLoader<_>>, devices);
        let mut iterators: Vec<_> = slices.iter().map(|slice| slice.iter()).collect();
        let Some(shares) = Replicas::next_batches(&mut iterators)? else { continue };
        if !continues(shares.images(), true) {
            return Ok(false);
        }
        let Step { gradients, .. } = replicas.step(&model, shares)?;
        let gradients = clipped(config, &model, gradients);
        model = optimizer.step(rates.scaled(1.0), model, gradients);
    }
    let model = model.valid();
    for first in first_and_last(evaluation) {
        if let Some(batch) = evaluation.starting_at(1, first).iter().next() {
            let batch = batch.map_err(TrainingError::backend)?;
            if !continues(batch.whole, false) {
                return Ok(false);
            }
            InferenceStep::step(&model, batch).read().map_err(TrainingError::backend)?;
        }
    }
    Ok(!host.interrupter.should_stop())
}

/// The batches that stand for all: those in between have the size of the first.
fn first_and_last(loader: &BatchLoader) -> Vec<usize> {
    match loader.batches() {
        0 => Vec::new(),
        1 => vec![0],
        count => vec![0, count - 1],
    }
}
