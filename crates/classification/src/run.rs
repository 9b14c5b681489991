//! What a config makes of the engine: a network with its weights, and a [`Trainer`] with everything it needs.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use burn::{module::Module, optim::GradientsParams, tensor::Device};
use kindling_config::{Config, Protocol, Schedule};
use kindling_data::{ImageBatch, ImageData, ImageSet, ImageSource, Normalization};
use kindling_models::{ImageShape, NetworkConfig};
use kindling_record::{InitialWeightsRecord, RecordError, RunDirectory};
use kindling_training::{
    Host, Order, Rows, Source, Task, Trainer, TrainingError, clip_by_global_norm, freeze, initialize,
    weights::{self, compare, transfer},
};
use serde_json::json;

use crate::{
    ClassificationError, Classifier, Views, init_optimizer, learning_rates,
    splits::{class_weights, dataset_record, image_shape, normalization, source, splits, train_order, train_source},
};

/// The classifier with fresh weights on `device`, which the config's seed decides, and the first images of the training
/// split `train` where the network adapts to them.
pub(crate) fn fresh<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    train: &ImageSet,
    device: &Device,
) -> Result<Classifier<C::Network>, ClassificationError> {
    let shape = image_shape(data);
    let mut model = fresh_for(network, config, shape, device)?;
    let count = network.sample(shape).min(train.count());
    if count > 0 {
        let first: Vec<usize> = (0..count).collect();
        // Normalized on the host, as what does not fit the device is: every device gets the same numbers.
        let source = ImageSource::new(train.select(&first), normalization(config, train)?, "first");
        let batch = source.with_largest(Some(0)).batch(&Rows::new(&first, 0), device);
        let ImageBatch { images, .. } = batch.map_err(TrainingError::Source)?;
        model.network = seeded(device, config.training.seed, || network.adapt(model.network, images))?;
        // However they were computed, what was trainable still is.
        if device.is_autodiff() {
            model.network = model.network.valid().train();
        }
    }
    Ok(model)
}

/// The classifier with fresh weights, which the config's seed alone decides, for images of any shape.
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
    Ok(Classifier::new(network, config.training.label_smoothing).viewed(Views::of(config)))
}

/// Where the weights of a training come from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// The network, and for what it has, this file.
    New(Option<&'a str>),
    /// A checkpoint, which has them all.
    Checkpoint,
}

/// A classifier, and the file that its weights come from, if any.
pub(crate) type Initial<C> = (Classifier<<C as NetworkConfig>::Network>, Option<InitialWeightsRecord>);

/// The classifier that training on `train` starts from: fresh but for what the file of `start` has, with the config's class
/// weights, and with what it freezes.
///
/// # Errors
/// When the file cannot be read, has none of the network's tensors or not all that are to be frozen, or the class weights
/// or the patterns do not fit.
pub(crate) fn initial<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    train: &ImageSet,
    start: Start<'_>,
    device: &Device,
) -> Result<Initial<C>, ClassificationError> {
    let model = match start {
        Start::New(_) => fresh(network, config, data, train, device)?,
        Start::Checkpoint => fresh_for(network, config, image_shape(data), device)?,
    };
    let model = model.weighted(class_weights(config, data, train)?);
    let (root, patterns) = (Classifier::<C::Network>::ROOT, &config.training.freeze);
    let Start::New(Some(path)) = start else { return Ok((freeze(model, root, patterns)?.0, None)) };
    let (model, found) = transfer(model, root, Path::new(path))?;
    let (model, frozen) = freeze(model, root, patterns)?;
    found.check_frozen(&frozen)?;
    let (source, sha256, taken) = (path.to_owned(), found.sha256, found.taken.len());
    let record = InitialWeightsRecord { source, sha256, taken, fresh: found.fresh, unused: found.unused };
    Ok((model, Some(record)))
}

/// Checks that a training can start from the file `weights`, of which only names and shapes are read.
///
/// # Errors
/// As for [`initial`].
pub(crate) fn check_weights<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    weights: &str,
    device: &Device,
) -> Result<(), ClassificationError> {
    let seed = config.training.seed;
    // Shapes are those of weights that are drawn.
    let (network, found) = seeded(device, seed, || {
        let network = network.init(image_shape(data), seed, device)?;
        let found = compare(&network, "", Path::new(weights))?;
        Ok::<_, ClassificationError>((network, found))
    })?;
    let (_, frozen) = freeze(network, "", &config.training.freeze)?;
    Ok(found.check_frozen(&frozen)?)
}

/// Runs `work` with the device's generator at its start for `seed`. Burn has one generator for the whole process, so
/// only one piece of work runs at a time.
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

/// Everything that training `network` as `config` says takes, after [`check_host`](crate::fit::check_host), from `start`.
/// The file that a run started from is not read to resume it: it may be gone.
///
/// # Errors
/// When there are too few images for a validation split, or the network, its weights or the data do not fit together.
pub(crate) fn prepare<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    host: Host,
    start: Start<'_>,
) -> Result<Run<C>, ClassificationError> {
    let largest = host.place.largest_tensor;
    let splits = splits(config, data)?;
    let (devices, has_graph) = (host.place.devices.clone(), host.place.graph);
    let normalization = normalization(config, &splits.train)?;
    let device = devices[0].clone().autodiff();
    let (model, initial_weights) = initial(network, config, data, &splits.train, start, &device)?;
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
        .dataset(dataset_record(config, data, &splits, &normalization))
        .weights_metadata(weights_metadata(data, &normalization))
        .host(host);
    if let Some(record) = initial_weights {
        trainer = trainer.initial_weights(record);
    }
    if train_order(config) == Order::File {
        trainer = trainer.in_order();
    }
    if has_graph {
        trainer = trainer.graph();
    }
    let train = train_source(config, data, splits.train, &normalization, largest);
    let evaluation = |set, split| source(config, data, set, split, &normalization, largest);
    let test = evaluation(splits.test, "test");
    let (trainer, evaluated) = match (&config.protocol, splits.valid) {
        (Protocol::Validated(_), Some(valid)) => (trainer.test(test), evaluation(valid, "valid")),
        _ => (trainer.keep_last(), test),
    };
    // Part of starting up, not of the first epoch.
    for device in &devices {
        train.preload(device);
    }
    evaluated.preload(&devices[0]);
    Ok((trainer, train, evaluated))
}

/// What the use of the weights file takes beside the tensors: the images' shape, and the numbers that pixels in [0, 1] are
/// normalized by, as JSON lists.
pub(crate) fn weights_metadata(data: &ImageData, normalization: &Normalization) -> BTreeMap<String, String> {
    let ImageShape { channels, height, width, .. } = image_shape(data);
    let entries = [
        ("channels", json!(channels)),
        ("height", json!(height)),
        ("width", json!(width)),
        ("pixel_mean", json!(normalization.mean)),
        ("pixel_std", json!(normalization.std)),
    ];
    entries.map(|(name, value)| (name.to_owned(), value.to_string())).into()
}

fn schedule(schedule: &Schedule) -> kindling_training::Schedule {
    use kindling_training::Schedule as Engine;
    let engine = match schedule {
        Schedule::Constant(_) => Engine::constant(),
        Schedule::Step(step) => Engine::step(step.step_epochs, step.step_factor),
        Schedule::Cosine(_) => Engine::cosine(),
        Schedule::Linear(_) => Engine::linear(),
        Schedule::WarmRestarts(restarts) => Engine::warm_restarts(restarts.restart_epochs, restarts.restart_factor),
        Schedule::OneCycle(_) => Engine::one_cycle(),
    };
    engine.warm_up(schedule.warm_up_epochs())
}
