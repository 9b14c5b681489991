//! What a config makes of the engine: a network with its weights, and a [`Trainer`] with everything it needs.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use burn::{module::Module, optim::GradientsParams, tensor::Device};
use kindling_config::{Config, Protocol, Schedule};
use kindling_data::{ImageData, ImageSource};
use kindling_models::{ImageShape, NetworkConfig};
use kindling_record::{RecordError, RunDirectory};
use kindling_training::{Host, Order, Trainer, clip_by_global_norm, initialize, weights};

use crate::{
    ClassificationError, Classifier, init_optimizer, learning_rates,
    splits::{dataset_record, image_shape, source, splits, train_order, train_source},
};

/// The classifier with fresh weights on `device`, which the config's seed alone decides.
pub(crate) fn fresh<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    device: &Device,
) -> Result<Classifier<C::Network>, ClassificationError> {
    fresh_for(network, config, image_shape(data), device)
}

/// As [`fresh`], for images of any shape.
pub(crate) fn fresh_for<C: NetworkConfig>(
    network: &C,
    config: &Config,
    shape: ImageShape,
    device: &Device,
) -> Result<Classifier<C::Network>, ClassificationError> {
    let seed = config.training.seed;
    let network = seeded(device, seed, || {
        let network = network.init(shape, seed, device)?;
        // Burn's own layers draw when they are first used, in whatever order that is.
        initialize(&network);
        Ok::<_, ClassificationError>(network)
    })?;
    Ok(Classifier::new(network, config.training.label_smoothing))
}

/// Runs `work` with the device's generator at its start for `seed`. Burn has one generator for the whole process, so only
/// one piece of work runs at a time.
pub(crate) fn seeded<T>(device: &Device, seed: u64, work: impl FnOnce() -> T) -> T {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    work()
}

/// The network with the weights that the run in `directory` ended with, on `device`, which has no autodiff.
pub(crate) fn trained<C: NetworkConfig>(
    network: &C,
    config: &Config,
    shape: ImageShape,
    directory: &RunDirectory,
    device: &Device,
) -> Result<C::Network, ClassificationError> {
    let path = directory.weights();
    let bytes = fs::read(&path).map_err(|source| RecordError::Io { path, source })?;
    let network = network.init(shape, config.training.seed, device)?;
    Ok(weights::read(network, "", bytes)?)
}

/// The gradients of `module`, clipped where the config asks for it.
pub(crate) fn clipped<M: Module>(config: &Config, module: &M, gradients: GradientsParams) -> GradientsParams {
    match config.training.clip_norm {
        Some(limit) => clip_by_global_norm(module, gradients, limit),
        None => gradients,
    }
}

/// A trainer with its training source and the source that is evaluated after each epoch.
pub(crate) type Run<C> = (Trainer<Classifier<<C as NetworkConfig>::Network>>, ImageSource, ImageSource);

/// Everything that training `network` as `config` says takes, after [`check_host`](crate::fit::check_host).
///
/// # Errors
/// When there are too few images for a validation split, or the network cannot take them.
pub(crate) fn prepare<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    host: Host,
) -> Result<Run<C>, ClassificationError> {
    let largest = host.place.largest_tensor;
    let splits = splits(config, data)?;
    let devices = host.place.devices.clone();
    let model = fresh(network, config, data, &devices[0].clone().autodiff())?;
    let optimizer = init_optimizer(&config.optimizer, &model);
    let rates = learning_rates(&config.optimizer, &model);
    let training = &config.training;
    let mut trainer = Trainer::new(model, optimizer)
        .name(&config.network.name)
        .learning_rate(rates)
        .schedule(schedule(&config.schedule))
        .epochs(training.epochs)
        .batch_size(training.batch_size)
        .seed(training.seed)
        .limit_batches(training.limit_batches)
        .evaluated_as(config.protocol.evaluated_split())
        .monitor(config.protocol.monitor())
        .patience(training.early_stopping)
        .clip_norm(training.clip_norm)
        .accumulate(training.accumulate)
        .ema(training.ema_decay, training.ema_evaluate)
        .gradient_steps(training.gradient_steps)
        .config(config)
        .dataset(dataset_record(config, data, &splits))
        .host(host);
    if train_order(config) == Order::File {
        trainer = trainer.in_order();
    }
    let train = train_source(config, data, splits.train, largest);
    let test = source(config, data, splits.test, "test", largest);
    let (trainer, evaluated) = match (&config.protocol, splits.valid) {
        (Protocol::Validated(_), Some(valid)) => (trainer.test(test), source(config, data, valid, "valid", largest)),
        _ => (trainer.keep_last(), test),
    };
    // Part of starting up, not of the first epoch.
    for device in &devices {
        train.preload(device);
    }
    evaluated.preload(&devices[0]);
    Ok((trainer, train, evaluated))
}

fn schedule(schedule: &Schedule) -> kindling_training::Schedule {
    use kindling_training::Schedule as Engine;
    let engine = match schedule {
        Schedule::Constant(_) => Engine::constant(),
        Schedule::Step(step) => Engine::step(step.step_epochs, step.step_factor),
        Schedule::Cosine(_) => Engine::cosine(),
        Schedule::OneCycle(_) => Engine::one_cycle(),
    };
    engine.warm_up(schedule.warm_up_epochs())
}
