//! A run from start to end.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use burn::{module::Module, store::ModuleRecord, tensor::Device};
use kindling_record::{DatasetRecord, RunDirectory, RunRecord, RunStatus, SCHEMA, StepLog, Timings, now, replace_file};

use crate::{
    Checkpoint, Event, Host, Order, Phase, Source, Task, Trainer, TrainingError,
    checkpoint::{self, Newest},
    early_stopping::Monitor,
    ema::Ema,
    feed::{Epoch, SharedSource},
    guard::message,
    named_parameters,
    parameters::initialize,
    replicas::Replicas,
    schedule::RunRates,
    session::{End, Session},
    shell::{Show, inside},
    source::{self, Plan},
    trainable_parameters,
    warm_up::{WarmUp, warm_up},
    weights,
};

/// The version of Burn that this crate was written for.
pub const BURN_VERSION: &str = "0.22.1";
/// What burn-train's dashboard panics with when its user chooses to kill the training.
const KILLED: &str = "Killing training from user input.";

/// Training samples, and those evaluated after each epoch.
pub(crate) type Sources<T> = [SharedSource<<T as Task>::Batch>; 2];

pub(crate) fn fit<T: Task>(
    mut trainer: Trainer<T>,
    directory: &RunDirectory,
    sources: Sources<T>,
) -> Result<RunRecord, TrainingError> {
    let taken = || TrainingError::Taken { path: directory.path().to_path_buf() };
    if !directory.is_new() {
        return Err(taken());
    }
    let _lock = directory.lock()?;
    // Another process may have trained here before this one had the lock.
    if !directory.is_new() {
        return Err(taken());
    }
    let monitor = trainer.check()?;
    check_sources(&sources)?;
    let config = std::mem::replace(&mut trainer.config, Ok(serde_json::Map::new()))?;
    trainer.task = on_device(trainer.task, &trainer.host)?;
    let place = &trainer.host.place;
    let record = RunRecord {
        schema: SCHEMA,
        id: directory.id(),
        status: RunStatus::Running,
        started: now(),
        parts: vec![place.part()],
        config,
        backend: place.backend.clone(),
        device: place.device_name.clone(),
        versions: versions(),
        machine: place.machine.clone(),
        dataset: dataset(&trainer, &sources),
        model: trainer.settings.name.clone(),
        parameters: trainable_parameters(&named_parameters(&trainer.task)),
        metrics: T::METRICS.iter().map(|metric| metric.record()).collect(),
        monitor: monitor.name.clone(),
        epochs: Vec::new(),
        best_epoch: None,
        stopped_early: None,
        test: None,
        seconds: 0.0,
        samples_per_second: None,
        timings: Timings::default(),
        diverged: None,
        error: None,
    };
    directory.write_record(&record)?;
    log::info!("started {} on {}", directory.id(), place.device_name);
    let state = at_start(record, &trainer, &sources);
    guard(directory, || run(trainer, sources, monitor, state, None, directory))
}

pub(crate) fn resume<T: Task>(
    mut trainer: Trainer<T>,
    directory: &RunDirectory,
    sources: Sources<T>,
) -> Result<RunRecord, TrainingError> {
    let _lock = directory.lock()?;
    let old = directory.read_record()?;
    let done = old.epochs.len();
    // A run that was finished with fewer epochs than it was to have stopped early: its checkpoint says so.
    let is_over = old.status == RunStatus::Finished && trainer.settings.epochs == done;
    if old.status == RunStatus::Diverged || is_over {
        return Ok(old);
    }
    let monitor = trainer.check()?;
    check_sources(&sources)?;
    let (wanted, found) = (&old.dataset, dataset(&trainer, &sources));
    if wanted.sha256 != found.sha256 {
        let told = |dataset: &DatasetRecord| format!("{} with the digest {}", dataset.name, dataset.sha256);
        return Err(TrainingError::OtherData { wanted: told(wanted), found: told(&found) });
    }
    let (was_finished, stopped_early) = (old.status == RunStatus::Finished, old.stopped_early.clone());
    let finished = old.clone();
    let (mut state, start) = starting_point(&trainer, old, directory, &sources)?;
    let (planned, epochs) = (state.epochs, trainer.settings.epochs);
    if was_finished && epochs == planned {
        return Ok(finished);
    }
    extend(&trainer, &mut state, done, stopped_early)?;
    let batches = trainer.plan().samples(sources[0].len()).div_ceil(trainer.settings.batch_size);
    if state.batches != batches {
        return Err(TrainingError::Setting {
            name: "batch_size",
            wanted: format!("the {} batches in an epoch that the run was begun with", state.batches),
            found: batches.to_string(),
        });
    }
    let config = std::mem::replace(&mut trainer.config, Ok(serde_json::Map::new()))?;
    let place = &trainer.host.place;
    state.record.parts.push(place.part());
    state.record = RunRecord {
        // A run may have been renamed since.
        id: directory.id(),
        status: RunStatus::Running,
        config,
        backend: place.backend.clone(),
        device: place.device_name.clone(),
        versions: versions(),
        machine: place.machine.clone(),
        error: None,
        ..state.record
    };
    if epochs != planned {
        log::info!("{epochs} epochs in place of {planned}");
    }
    trainer.task = on_device(trainer.task, &trainer.host)?;
    if let Some(start) = &start {
        check_parameters(&trainer.task, start, directory)?;
    }
    directory.write_record(&state.record)?;
    log::info!("resumed {} on {} after step {}", directory.id(), place.device_name, state.step);
    guard(directory, || run(trainer, sources, monitor, state, start, directory))
}

/// Sees to it that the run of `state` may have as many epochs as the trainer has.
fn extend<T: Task>(
    trainer: &Trainer<T>,
    state: &mut Checkpoint,
    done: usize,
    stopped_early: Option<String>,
) -> Result<(), TrainingError> {
    let epochs = trainer.settings.epochs;
    if epochs == state.epochs {
        return Ok(());
    }
    let fails = |reason: String| Err(TrainingError::CannotExtend { epochs, done, reason });
    if epochs < done {
        return fails("a run cannot be shortened; train another with fewer".to_owned());
    }
    if let Some(reason) = stopped_early {
        return fails(format!("it ended early ({reason}); train another with more patience"));
    }
    if let Some(schedule) = rates(trainer, 1).fixed_by_epochs() {
        let planned = state.epochs;
        return fails(format!(
            "its schedule `{schedule}` was laid out for {planned} epochs; train another with {epochs}"
        ));
    }
    state.epochs = epochs;
    Ok(())
}

/// The splits must have samples.
fn check_sources<B>(sources: &[SharedSource<B>; 2]) -> Result<(), TrainingError> {
    for (name, source) in ["training source", "evaluation source"].into_iter().zip(sources) {
        if source.is_empty() {
            let (wanted, found) = ("at least one sample".to_owned(), "none".to_owned());
            return Err(TrainingError::Setting { name, wanted, found });
        }
    }
    Ok(())
}

/// The task on the first device, with autodiff and with every parameter drawn.
fn on_device<T: Task>(task: T, host: &Host) -> Result<T, TrainingError> {
    let device = tracked(host);
    crate::contained(|| {
        initialize(&task);
        let is_there = task.devices().iter().all(|other| other.is_autodiff() && *other == device);
        // A copy with running statistics of its own.
        Ok(if is_there { task } else { task.valid().train().fork(&device) })
    })
}

fn tracked(host: &Host) -> Device {
    host.place.devices.first().cloned().unwrap_or_default().autodiff()
}

fn dataset<T: Task>(trainer: &Trainer<T>, sources: &Sources<T>) -> DatasetRecord {
    let (plan, [train, valid]) = (trainer.plan(), sources);
    let splits = [Some(train), Some(valid), trainer.test.as_ref()].into_iter().flatten();
    trainer.dataset.clone().unwrap_or_else(|| DatasetRecord {
        name: "data".to_owned(),
        sha256: splits.map(|split| split.digest()).collect::<Vec<_>>().join(","),
        train: plan.samples(train.len()),
        valid: plan.samples(valid.len()),
        test: trainer.test.as_ref().map_or(0, |test| plan.samples(test.len())),
        images: None,
    })
}

fn at_start<T: Task>(record: RunRecord, trainer: &Trainer<T>, sources: &Sources<T>) -> Checkpoint {
    let batches = trainer.plan().samples(sources[0].len()).div_ceil(trainer.settings.batch_size);
    Checkpoint::at_start(record, trainer.settings.epochs, batches)
}

/// Where the run of the record `old` is resumed.
fn starting_point<T: Task>(
    trainer: &Trainer<T>,
    old: RunRecord,
    directory: &RunDirectory,
    sources: &Sources<T>,
) -> Result<(Checkpoint, Option<Newest>), TrainingError> {
    let path = directory.checkpoints();
    let record = directory.path().join("run.json");
    let unusable = |causes| TrainingError::NoCheckpoint { path: path.clone(), causes, record: record.clone() };
    // The last weights need no others.
    let newest = checkpoint::load_newest(&path, !trainer.settings.keeps_last).map_err(|damages| {
        match damages.iter().find(|damage| damage.is_unread) {
            Some(damage) => damage.clone().into(),
            None => unusable(damages.iter().map(ToString::to_string).collect()),
        }
    })?;
    let Some(newest) = newest else {
        if old.epochs.is_empty() {
            // No step of the parts before is left.
            return Ok((at_start(RunRecord { parts: Vec::new(), ..old }, trainer, sources), None));
        }
        let cause = format!("expected one of the {} epochs in run.json, found none", old.epochs.len());
        return Err(unusable(vec![cause]));
    };
    let (steps, wanted) = (directory.steps(), newest.state.steps_bytes);
    let found = fs::metadata(&steps).map_or(0, |metadata| metadata.len());
    if found < wanted {
        return Err(unusable(vec![format!("{}: expected at least {wanted} bytes, found {found}", steps.display())]));
    }
    Ok((newest.state.clone(), Some(newest)))
}

/// Whether the task has the parameters of the checkpoint.
fn check_parameters<T: Task>(task: &T, start: &Newest, directory: &RunDirectory) -> Result<(), TrainingError> {
    let found: BTreeMap<_, _> =
        named_parameters(task).into_iter().map(|parameter| (parameter.path, parameter.shape)).collect();
    let wanted = &start.state.parameters;
    let differs = wanted.keys().chain(found.keys()).find(|path| wanted.get(*path) != found.get(*path));
    let Some(path) = differs else { return Ok(()) };
    let told = |shape: Option<&Vec<usize>>| shape.map_or("none".to_owned(), |shape| format!("{shape:?}"));
    let difference = format!("`{path}`: expected {}, found {}", told(wanted.get(path)), told(found.get(path)));
    Err(TrainingError::Mismatch { path: directory.checkpoints(), difference })
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

fn run<T: Task>(
    mut trainer: Trainer<T>,
    [train, valid]: Sources<T>,
    monitor: Monitor,
    mut state: Checkpoint,
    start: Option<Newest>,
    directory: &RunDirectory,
) -> Result<RunRecord, TrainingError> {
    let tracked = tracked(&trainer.host);
    let plan = trainer.plan();
    let rates = rates(&trainer, state.batches);
    let Trainer { mut task, mut optimizer, settings, mut host, .. } = trainer;
    let mut averaged = None;
    if let Some(newest) = start {
        for damage in &newest.damages {
            log::warn!("{damage}: resuming from {}", newest.place.display());
            let (path, message, instead) = (&damage.path, &damage.message, &newest.place);
            (host.on_event)(Event::DamagedCheckpoint { path, message, instead });
        }
        task = load(task, newest.weights, directory)?;
        optimizer = optimizer.load_record(newest.optimizer);
        averaged = newest.averaged;
    }
    let mut ema = settings.ema_decay.map(|decay| Ema::new(&task, decay));
    if let (Some(ema), Some(averaged)) = (&mut ema, averaged) {
        ema.restore(&load(task.valid(), averaged, directory)?);
    }
    let devices: Vec<_> = host.place.devices.iter().map(|device| device.clone().autodiff()).collect();
    let replicas = Replicas::new(tracked.clone(), &devices[1..], settings.micro_batches, &train);
    let evaluated = Epoch::new(Plan { order: Order::File, ..plan }, 0, valid.len());
    if host.place.compiles_kernels {
        (host.on_event)(Event::Compiling);
        let clock = Instant::now();
        let warm = WarmUp {
            task: &task,
            model: &settings.name,
            sources: [&train, &valid],
            epochs: [&Epoch::new(plan, 1, train.len()), &evaluated],
            device: &tracked,
            replicas: &replicas,
            optimizer: &optimizer,
            rates: &rates,
            clip_norm: settings.clip_norm,
        };
        let is_warm = warm_up(&warm, &mut host.on_event, &|| host.interrupter.should_stop())?;
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
    let test = trainer.test.take().or_else(|| (settings.evaluated == "test").then(|| valid.clone()));
    let done = state.record.epochs.len();
    let mut rates = rates;
    rates.skip(state.step);
    let mut session = Session {
        rates,
        ema,
        monitor,
        step_log: StepLog::open(&directory.steps(), state.steps_bytes)?,
        directory: directory.clone(),
        seconds_before: state.record.seconds,
        started: Instant::now(),
        program_start: Some(host.program_start),
        on_event: host.on_event,
        on_step: trainer.on_step,
        on_epoch: trainer.on_epoch,
        device: tracked,
        train,
        plan,
        valid,
        evaluated,
        replicas,
        optimizer,
        state,
        settings,
    };
    let show = Show {
        metrics: T::METRICS,
        samples: T::SAMPLES,
        more: trainer.metrics,
        renderer: (host.renderer)(done),
        interrupter: host.interrupter.clone(),
        device: session.device.clone().inner(),
        done,
        epochs: session.settings.epochs,
    };
    let (session, outcome) = inside(directory.path(), show, move |mut reporter| {
        let outcome = session.run(task, &mut reporter);
        (session, outcome)
    })?;
    match outcome? {
        (task, End::Trained) => finish(session, task, test, directory, &|| host.interrupter.should_stop()),
        (_, End::Interrupted | End::Diverged) => Ok(session.state.record),
    }
}

fn rates<T: Task>(trainer: &Trainer<T>, batches: usize) -> RunRates {
    let (rates, schedule) = (trainer.rates.clone(), trainer.schedule.clone());
    RunRates { schedule, rates, batches, epochs: trainer.settings.epochs, shown: f64::NAN }
}

/// Tests the weights that the run keeps, and writes them.
fn finish<T: Task>(
    mut session: Session<T>,
    last: T,
    test: Option<SharedSource<T::Batch>>,
    directory: &RunDirectory,
    should_stop: &dyn Fn() -> bool,
) -> Result<RunRecord, TrainingError> {
    let clock = Instant::now();
    let averaged = session.ema.is_some() && session.settings.ema_evaluate;
    let task = match (&session.ema, session.settings.keeps_last) {
        (Some(ema), true) if averaged => ema.module(&last),
        (_, true) => last.valid(),
        (_, false) => {
            let best = checkpoint::load_best_weights(&directory.checkpoints(), &session.state, averaged)?;
            load(last.valid(), best, directory)?
        }
    };
    if let Some(test) = test {
        let device = session.device.clone().inner();
        let Plan { batch_size, limit, .. } = session.plan;
        let mut is_stopped = false;
        let mut batches = source::batches(&*test, batch_size, limit, Order::File, 0, &device).enumerate();
        // A batch is done when the next one is asked for.
        let mut watched = std::iter::from_fn(|| {
            let next = batches.next();
            if next.as_ref().is_none_or(|(index, _)| *index > 0) {
                (session.on_event)(Event::Step { phase: Phase::Test });
                is_stopped |= should_stop();
            }
            next.map(|(_, batch)| batch).filter(|_| !is_stopped)
        });
        let tested = task.test(&mut watched)?;
        if is_stopped {
            // The last epoch's checkpoint holds everything already.
            let record = RunRecord { status: RunStatus::Interrupted, ..session.state.record };
            directory.write_record(&record)?;
            return Ok(record);
        }
        log::info!("tested: {:?}", tested.metrics.0);
        session.state.record.test = Some(tested);
    }
    replace_file(&directory.weights(), &weights::write(&task, T::ROOT)?)?;
    session.state.record.timings.evaluation_seconds += clock.elapsed().as_secs_f64();
    session.count_seconds();
    let mut record = session.state.record;
    record.status = RunStatus::Finished;
    directory.write_record(&record)?;
    Ok(record)
}

fn load<M: Module>(module: M, weights: ModuleRecord, directory: &RunDirectory) -> Result<M, TrainingError> {
    module
        .try_load_record(weights)
        .map_err(|error| TrainingError::Checkpoint { path: directory.checkpoints(), message: error.to_string() })
}

fn versions() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("kindling".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), BURN_VERSION.to_owned()),
    ])
}
