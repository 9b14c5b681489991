//! A run from its first step to its end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use burn::{module::Module, store::ModuleRecord, tensor::Device};
use kindling_record::{RunDirectory, RunRecord, RunStatus, StepLog, read_steps, replace_file};

use crate::{
    Checkpoint, Event, Host, Order, Phase, Place, Task, Trainer, TrainingError,
    checkpoint::{self, Newest},
    early_stopping::Monitor,
    ema::Ema,
    feed::{Epoch, SharedSource},
    freeze::frozen_layers,
    guard::message,
    replicas::Replicas,
    schedule::RunRates,
    session::{End, Session},
    shell::{Show, inside},
    source::{self, Plan},
    warm_up::{WarmUp, warm_up},
    weights,
};

/// Training samples, and those evaluated after each epoch.
pub(crate) type Sources<T> = [SharedSource<<T as Task>::Batch>; 2];

/// What burn-train's dashboard panics with when its user chooses to kill the training.
const KILLED: &str = "Killing training from user input.";

/// Runs `training` so that nothing leaves it but a result, and writes a failure into the record.
///
/// Burn panics where a backend fails; this is the boundary that catches it.
pub(crate) fn guard(
    directory: &RunDirectory,
    place: &Place,
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
    if let Some(server) = place.lost_server() {
        return lost(directory, server, &error);
    }
    log::error!("{error}");
    let failure = |record| RunRecord { status: RunStatus::Failed, error: Some(error.to_string()), ..record };
    // Where this fails too, the first error is the one that tells.
    if let Err(second) = directory.read_record().map(failure).and_then(|record| directory.write_record(&record)) {
        log::error!("the record could not be brought up to date: {second}");
    }
    Err(error)
}

/// Ends the run as interrupted, because `server` is gone with what was on it.
pub(crate) fn lost(directory: &RunDirectory, server: &str, error: &TrainingError) -> Result<RunRecord, TrainingError> {
    log::error!("{server} is lost: {error}");
    // The lines of the log that were written before the run ended.
    let step = read_steps(&directory.steps()).ok().and_then(|steps| steps.last().map(|step| step.step));
    let when = step.map_or_else(|| "before the first step".to_owned(), |step| format!("after step {step}"));
    let kept = match checkpoint::latest_step(&directory.checkpoints()) {
        Some(step) => format!("the checkpoint of step {step} is kept"),
        None => "there is no checkpoint yet, and a resume begins anew".to_owned(),
    };
    let error = format!("the server {server} was lost {when}; {kept}");
    let record = RunRecord { status: RunStatus::Interrupted, error: Some(error), ..directory.read_record()? };
    directory.write_record(&record)?;
    Ok(record)
}

/// The first device, with autodiff.
pub(crate) fn tracked(host: &Host) -> Device {
    host.place.devices.first().cloned().unwrap_or_default().autodiff()
}

/// Tells which layers keep their weights, if any do.
fn tell_frozen<T: Task>(task: &T, host: &mut Host) {
    let (layers, parameters) = frozen_layers(task, T::ROOT);
    if !layers.is_empty() {
        (host.on_event)(Event::Frozen { layers: &layers, parameters });
    }
}

pub(crate) fn run<T: Task>(
    mut trainer: Trainer<T>,
    [train, valid]: Sources<T>,
    monitor: Monitor,
    mut state: Checkpoint,
    start: Option<Newest>,
    directory: &RunDirectory,
) -> Result<RunRecord, TrainingError> {
    let tracked = tracked(&trainer.host);
    let plan = trainer.plan();
    let mut rates = rates(&trainer, state.batches);
    state.parameters = checkpoint::shapes(&trainer.task);
    let Trainer { mut task, mut optimizer, settings, mut host, graph, .. } = trainer;
    let mut averaged = None;
    let is_new = start.is_none();
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
    if let Some(weights) = state.record.initial_weights.as_ref().filter(|_| is_new) {
        (host.on_event)(Event::InitialWeights(weights));
        // What a run starts from may be gone when it is resumed.
        let averaged = ema.as_ref().map(|ema| ema.module(&task));
        checkpoint::save(&directory.checkpoints(), &state, &task, averaged, &optimizer)?;
    }
    tell_frozen(&task, &mut host);
    let replicas = Replicas::new(tracked.clone(), &host.place.others(), settings.micro_batches, &train);
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
        checkpoint_every: host.place.checkpoint_every,
        on_event: host.on_event,
        on_step: trainer.on_step,
        on_epoch: trainer.on_epoch,
        device: tracked.clone(),
        train,
        plan,
        valid,
        evaluated,
        replicas,
        graph: graph.map(|make| make(&tracked)),
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
        (task, End::Trained) => finish(session, &task, test, directory, &|| host.interrupter.should_stop()),
        (_, End::Interrupted | End::Diverged) => Ok(session.state.record),
    }
}

/// The learning rates of a run whose epochs have so many batches.
pub(crate) fn rates<T: Task>(trainer: &Trainer<T>, batches: usize) -> RunRates {
    let (rates, schedule) = (trainer.rates.clone(), trainer.schedule.clone());
    RunRates { schedule, rates, batches, epochs: trainer.settings.epochs, shown: f64::NAN }
}

/// Tests the weights that the run keeps, and writes them.
fn finish<T: Task>(
    mut session: Session<T>,
    last: &T,
    test: Option<SharedSource<T::Batch>>,
    directory: &RunDirectory,
    should_stop: &dyn Fn() -> bool,
) -> Result<RunRecord, TrainingError> {
    let clock = Instant::now();
    let averaged = session.ema.is_some() && session.settings.ema_evaluate;
    let task = match (&session.ema, session.settings.keeps_last) {
        (Some(ema), true) if averaged => ema.module(last),
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
    let weights = weights::with_metadata(&weights::write(&task, T::ROOT)?, &session.settings.weights_metadata)?;
    directory.ensure_held()?;
    replace_file(&directory.weights(), &weights)?;
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
