use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use burn::{
    data::dataloader::DataLoader,
    module::Module,
    optim::{ModuleOptimizer, OptimizerRecord},
    store::ModuleRecord,
    tensor::Device,
    train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy},
};
use kindling_data::{ImageBatch, ImageData, Order, Splits};
use kindling_models::{ImageShape, trainable_parameters};
use kindling_record::{RunDirectory, RunRecord, RunStatus, SCHEMA, StepLog, Timings, now, replace_file};

use crate::{
    Checkpoint, Classifier, Evaluation, Event, ExperimentConfig, Host, LearningRates, MakeRenderer, Phase, Prediction,
    Protocol, Schedule, Settings, TrainingError, checkpoint, evaluate,
    evaluation::evaluate_each,
    fit::check_host,
    init_optimizer,
    metrics::{ImageMean, NoMetricFiles},
    predict::{contained, trained_network},
    replicas::Replicas,
    session::{End, Session, Strategy},
    splits::{dataset, loader, shape, splits, train_loader},
    warm_up::warm_up,
};

/// The version of Burn that the workspace pins.
pub const BURN_VERSION: &str = "0.22.1";
/// What burn-train's dashboard panics with when its user chooses to kill the training.
const KILLED: &str = "Killing training from user input.";

/// Trains what `config` describes on `data` and leaves everything in `directory`, which must be new.
///
/// The record's status says how it ended: finished, interrupted or diverged.
///
/// # Errors
/// When the directory holds another run, of which nothing is touched; when [`check`](crate::check) finds something; and
/// when something fails: unless it is the directory that does, the record then says `failed` and why.
pub fn train(
    config: &ExperimentConfig,
    data: &ImageData,
    directory: &RunDirectory,
    host: Host,
) -> Result<RunRecord, TrainingError> {
    if !directory.is_new() {
        return Err(TrainingError::Taken { path: directory.path().to_path_buf() });
    }
    let _lock = directory.lock()?;
    // Another process may have trained here before this one had the lock.
    if !directory.is_new() {
        return Err(TrainingError::Taken { path: directory.path().to_path_buf() });
    }
    check_host(config, data, &host.devices, host.memory)?;
    let splits = splits(config, data)?;
    let shape = shape(data);
    let record = RunRecord {
        schema: SCHEMA,
        id: directory.id(),
        status: RunStatus::Running,
        started: now(),
        parts: vec![host.part()],
        config: config.to_object(),
        backend: host.backend.clone(),
        device: host.device_name.clone(),
        versions: versions(),
        machine: host.machine.clone(),
        dataset: dataset(config, data, &splits),
        model: config.model.to_string(),
        parameters: trainable_parameters(&config.network()?.layers(shape)?),
        epochs: Vec::new(),
        best_epoch: None,
        stopped_early: None,
        test: None,
        seconds: 0.0,
        images_per_second: None,
        timings: Timings::default(),
        diverged: None,
        error: None,
    };
    directory.write_record(&record)?;
    let state = Checkpoint::at_start(record);
    log::info!("started {} on {}", directory.id(), host.device_name);
    guard(directory, || run(config, splits, shape, state, None, directory, host))
}

/// Resumes the run in `directory` from its latest checkpoint, or from the start if it has none.
///
/// A checkpoint that is damaged is passed over for an older one that leads to the same end, which
/// [`Event::DamagedCheckpoint`] tells.
///
/// # Errors
/// As [`train`], and when another process writes the run, its checkpoints are damaged or gone, or it was begun on other
/// data. A run that has nothing left to do is returned as it is.
pub fn resume(data: &ImageData, directory: &RunDirectory, mut host: Host) -> Result<RunRecord, TrainingError> {
    let _lock = directory.lock()?;
    let old = directory.read_record()?;
    if matches!(old.status, RunStatus::Finished | RunStatus::Diverged) {
        return Ok(old);
    }
    let config = Settings::from_object(old.config.clone())?.resolve()?;
    check_data(&old, data)?;
    check_host(&config, data, &host.devices, host.memory)?;
    let (mut state, start) = starting_point(&config, old, directory, &mut host)?;
    state.record.parts.push(host.part());
    state.record = RunRecord {
        // A run may have been renamed since.
        id: directory.id(),
        status: RunStatus::Running,
        backend: host.backend.clone(),
        device: host.device_name.clone(),
        versions: versions(),
        machine: host.machine.clone(),
        error: None,
        ..state.record
    };
    let splits = splits(&config, data)?;
    directory.write_record(&state.record)?;
    log::info!("resumed {} on {} after step {}", directory.id(), host.device_name, state.step);
    guard(directory, || run(&config, splits, shape(data), state, start, directory, host))
}

/// Weights and optimizer of a checkpoint.
type Start = (ModuleRecord, OptimizerRecord);

/// Where the run of the record `old` is resumed.
fn starting_point(
    config: &ExperimentConfig,
    old: RunRecord,
    directory: &RunDirectory,
    host: &mut Host,
) -> Result<(Checkpoint, Option<Start>), TrainingError> {
    let path = directory.checkpoints();
    let record = directory.path().join("run.json");
    let unusable = |causes| TrainingError::NoCheckpoint { path: path.clone(), causes, record: record.clone() };
    // The last weights need no others.
    let needs_best = config.protocol == Protocol::Validated;
    let newest = checkpoint::load_newest(&path, needs_best).map_err(|damages| {
        match damages.iter().find(|damage| damage.is_unread) {
            Some(damage) => damage.clone().into(),
            None => unusable(damages.iter().map(ToString::to_string).collect()),
        }
    })?;
    let Some(newest) = newest else {
        if old.epochs.is_empty() {
            // No step of the parts before is left.
            return Ok((Checkpoint::at_start(RunRecord { parts: Vec::new(), ..old }), None));
        }
        let cause = format!("expected one of the {} epochs in run.json, found none", old.epochs.len());
        return Err(unusable(vec![cause]));
    };
    let (steps, wanted) = (directory.steps(), newest.state.steps_bytes);
    let found = fs::metadata(&steps).map_or(0, |metadata| metadata.len());
    if found < wanted {
        return Err(unusable(vec![format!("{}: expected at least {wanted} bytes, found {found}", steps.display())]));
    }
    for damage in &newest.damages {
        log::warn!("{damage}: resuming from {}", newest.place.display());
        let (path, message, instead) = (&damage.path, &damage.message, &newest.place);
        (host.on_event)(Event::DamagedCheckpoint { path, message, instead });
    }
    Ok((newest.state, Some((newest.weights, newest.optimizer))))
}

/// Tests the weights of the finished run in `directory` on `device`, which has no autodiff and takes `largest` bytes in
/// one piece, as the run itself did at its end: the figures, and what the network makes of each image in the test file's
/// order.
///
/// # Errors
/// When the weights cannot be read, the run was tested on other data, or the device fails.
pub fn test(
    data: &ImageData,
    directory: &RunDirectory,
    device: &Device,
    largest: Option<u64>,
) -> Result<(Evaluation, Vec<Prediction>), TrainingError> {
    let record = directory.read_record()?;
    check_data(&record, data)?;
    let config = Settings::from_object(record.config)?.resolve()?;
    contained(|| {
        let network = trained_network(directory, &config, shape(data), device)?;
        let test = loader(&config, &splits(&config, data)?.test, Order::File, (device, largest));
        evaluate_each(&network, &test, data.classes.len())
    })
}

/// Whether `data` is what the run of `record` was begun with.
///
/// # Errors
/// [`TrainingError::OtherData`] when it is not.
pub fn check_data(record: &RunRecord, data: &ImageData) -> Result<(), TrainingError> {
    if record.dataset.sha256 == data.sha256 {
        return Ok(());
    }
    Err(TrainingError::OtherData {
        wanted: format!("{} with SHA-256 {}", record.dataset.name, record.dataset.sha256),
        found: format!("{} with SHA-256 {}", data.name, data.sha256),
    })
}

/// Runs `training` so that nothing leaves it but a result, and writes a failure into the record.
///
/// Burn panics where a backend fails; this is the boundary that catches it.
fn guard(
    directory: &RunDirectory,
    training: impl FnOnce() -> Result<RunRecord, TrainingError>,
) -> Result<RunRecord, TrainingError> {
    let error = match catch_unwind(AssertUnwindSafe(training)) {
        Ok(Ok(record)) => return Ok(record),
        Ok(Err(error)) => error,
        Err(panic) => match message(&*panic) {
            // By the dashboard's user: the last checkpoint holds what there is.
            KILLED => {
                let record = RunRecord { status: RunStatus::Interrupted, ..directory.read_record()? };
                directory.write_record(&record)?;
                return Ok(record);
            }
            message => TrainingError::Backend(message.to_owned()),
        },
    };
    log::error!("{error}");
    let failure = |record| RunRecord { status: RunStatus::Failed, error: Some(error.to_string()), ..record };
    // Where this fails too, the first error is the one that tells.
    if let Err(second) = directory.read_record().map(failure).and_then(|record| directory.write_record(&record)) {
        log::error!("the record could not be brought up to date: {second}");
    }
    Err(error)
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

fn run(
    config: &ExperimentConfig,
    splits: Splits,
    shape: ImageShape,
    state: Checkpoint,
    start: Option<Start>,
    directory: &RunDirectory,
    mut host: Host,
) -> Result<RunRecord, TrainingError> {
    let device = host.devices[0].clone();
    let tracked = device.clone().autodiff();
    let mut model = Classifier::new(config.network()?.init(shape, config.seed, &tracked)?, config.label_smoothing);
    let mut optimizer = init_optimizer(config, &model);
    if let Some((weights, moments)) = start {
        model = load(model, weights, directory)?;
        optimizer = optimizer.load_record(moments);
    }
    let largest = host.largest_tensor;
    let train = train_loader(config, &splits.train, (&tracked, largest))
        .starting_at(state.record.epochs.len() + 1, state.batch);
    let test = loader(config, &splits.test, Order::File, (&device, largest));
    let each_epoch = splits.valid.as_ref().map(|valid| loader(config, valid, Order::File, (&device, largest)));
    // On the device from here on.
    drop(splits);
    let devices: Vec<_> = host.devices.iter().map(|device| device.clone().autodiff()).collect();
    let replicas = Replicas::new(tracked.clone(), &devices[1..]);
    let rates = LearningRates::new(config, &model);
    let mut state = state;
    if host.compiles_kernels {
        (host.on_event)(Event::Compiling);
        let clock = Instant::now();
        let loaders = [&train, each_epoch.as_ref().unwrap_or(&test)];
        let is_warm = warm_up(config, shape, loaders, &devices, &replicas, (&optimizer, &rates), &mut host)?;
        let seconds = clock.elapsed().as_secs_f64();
        state.record.timings.compilation_seconds += seconds;
        if !is_warm {
            // No step was taken: what a resume starts from is what this part started from.
            let record = RunRecord { status: RunStatus::Interrupted, ..state.record };
            directory.write_record(&record)?;
            return Ok(record);
        }
        // Start-up is what lies before the first step, but for this.
        host.program_start += clock.elapsed();
        log::info!("compiled and autotuned kernels in {seconds:.1} s");
        (host.on_event)(Event::Compiled { seconds });
    }
    let test: Arc<dyn DataLoader<ImageBatch>> = Arc::new(test);
    let each_epoch: Arc<dyn DataLoader<ImageBatch>> =
        each_epoch.map_or_else(|| test.clone(), |valid| Arc::new(valid) as _);

    let session = Session {
        schedule: Schedule::new(config, train.batches()),
        rates,
        step_log: StepLog::open(&directory.steps(), state.steps_bytes)?,
        config: config.clone(),
        directory: directory.clone(),
        seconds_before: state.record.seconds,
        started: Instant::now(),
        program_start: Some(host.program_start),
        end: None,
        on_event: host.on_event,
        devices,
        replicas,
        optimizer,
        state,
    };
    let interrupter = host.interrupter;
    let (session, model) = launch(session, model, Arc::new(train), each_epoch, host.renderer, interrupter.clone())?;
    match session.end {
        Some(Ok(End::Trained)) => finish(session, model, &*test, shape, directory, &interrupter),
        Some(Ok(End::Interrupted | End::Diverged)) => Ok(session.state.record),
        Some(Err(error)) => Err(error),
        None => Err(TrainingError::Backend("the training loop was never entered".to_owned())),
    }
}

/// Runs the session inside burn-train, up to its last epoch; the renderer is gone when this returns.
fn launch(
    session: Session,
    model: Classifier,
    train: Arc<dyn DataLoader<ImageBatch>>,
    each_epoch: Arc<dyn DataLoader<ImageBatch>>,
    renderer: MakeRenderer,
    interrupter: Interrupter,
) -> Result<(Session, Classifier), TrainingError> {
    let done = session.state.record.epochs.len();
    // The session holds the optimizer that is used; burn-train's learner cannot be made without one.
    let learner = Learner::new(model, ModuleOptimizer::clone(&session.optimizer), session.config.learning_rate);
    let mut training = SupervisedTraining::new(session.directory.path(), train, each_epoch)
        .num_epochs(session.config.epochs)
        .renderer(renderer(done))
        .with_interrupter(interrupter)
        .with_application_logger(None)
        .with_metric_logger(NoMetricFiles)
        .metric_train_numeric(ImageMean::loss())
        .metric_valid_numeric(ImageMean::loss())
        .metric_train_numeric(ImageMean::accuracy())
        .metric_valid_numeric(ImageMean::accuracy())
        .metric_train_numeric(ImageMean::learning_rate())
        .metric_train_numeric(ImageMean::images_per_second());
    if done > 0 {
        // Only tells the renderer where to begin: without checkpointers burn-train loads nothing.
        training = training.checkpoint(done);
    }
    // burn-train takes its strategy in an `Arc` and runs it on the thread that launches.
    #[allow(clippy::arc_with_non_send_sync)]
    let strategy = Arc::new(Strategy(RefCell::new(Some(session))));
    let model = training.with_training_strategy(TrainingStrategy::Custom(strategy.clone())).launch(learner).model;
    let session = strategy.0.take();
    session.map(|session| (session, model)).ok_or_else(|| TrainingError::backend("the training loop lost its session"))
}

/// Tests the weights that the protocol names, and writes them.
fn finish(
    mut session: Session,
    last: Classifier,
    test: &dyn DataLoader<ImageBatch>,
    shape: ImageShape,
    directory: &RunDirectory,
    interrupter: &Interrupter,
) -> Result<RunRecord, TrainingError> {
    let clock = Instant::now();
    let model = match session.config.protocol {
        Protocol::Validated => {
            load(last, checkpoint::load_best_weights(&directory.checkpoints(), &session.state)?, directory)?
        }
        Protocol::Assignment => last,
    };
    let mut should_stop = || {
        (session.on_event)(Event::Step { phase: Phase::Test });
        interrupter.should_stop()
    };
    let Some(evaluation) = evaluate(&model.network, test, shape.classes, &mut should_stop)? else {
        // The last epoch's checkpoint holds everything already.
        let record = RunRecord { status: RunStatus::Interrupted, ..session.state.record };
        directory.write_record(&record)?;
        return Ok(record);
    };
    log::info!("test loss {:.4}, test accuracy {:.4}", evaluation.loss, evaluation.accuracy);
    replace_file(&directory.weights(), &model.network.to_safetensors()?)?;
    session.state.record.timings.evaluation_seconds += clock.elapsed().as_secs_f64();
    session.count_seconds();
    let mut record = session.state.record;
    record.test = Some(evaluation.into());
    record.status = RunStatus::Finished;
    directory.write_record(&record)?;
    Ok(record)
}

fn load(model: Classifier, weights: ModuleRecord, directory: &RunDirectory) -> Result<Classifier, TrainingError> {
    model
        .try_load_record(weights)
        .map_err(|error| TrainingError::Checkpoint { path: directory.checkpoints(), message: error.to_string() })
}

fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("kindling".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), BURN_VERSION.to_owned()),
    ])
}
