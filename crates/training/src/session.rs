//! The training loop, in which a checkpoint can be taken after any step.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use burn::{optim::ModuleOptimizer, tensor::Device};
use kindling_record::{EpochRecord, RunDirectory, RunStatus, StepLog, StepRecord};

use crate::{
    Checkpoint, DeferredSums, Event, OnEvent, Phase, Task, Totals, TrainingError, checkpoint,
    divergence::locate,
    early_stopping::Monitor,
    ema::Ema,
    feed::{Epoch, SharedSource},
    graph::StepGraph,
    metrics::Shown,
    replicas::Replicas,
    schedule::RunRates,
    shell::Reporter,
    source::Plan,
};

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All epochs are done, or early stopping found it enough.
    Trained,
    /// Asked to stop; a checkpoint holds the step reached.
    Interrupted,
    /// A loss was not finite; the record says where.
    Diverged,
}

/// Called after each step, when its loss is read; a reason to stop interrupts the run.
pub type OnStep = Box<dyn FnMut(&StepRecord) -> ControlFlow<String>>;
/// Called after each epoch; a reason to stop ends the run as early stopping does.
pub type OnEpoch = Box<dyn FnMut(&EpochRecord) -> ControlFlow<String>>;

/// The plain values among a trainer's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) epochs: usize,
    pub(crate) batch_size: usize,
    pub(crate) seed: u64,
    pub(crate) is_shuffled: bool,
    pub(crate) limit_batches: Option<usize>,
    /// The split that is evaluated after each epoch.
    pub(crate) evaluated: String,
    pub(crate) monitor: Option<String>,
    pub(crate) patience: Option<usize>,
    pub(crate) keeps_last: bool,
    pub(crate) clip_norm: Option<f64>,
    pub(crate) micro_batches: usize,
    pub(crate) ema_decay: Option<f64>,
    pub(crate) ema_evaluate: bool,
    pub(crate) gradient_steps: Option<usize>,
    pub(crate) workers: usize,
    /// In how many steps losses are read, where that is not up to the device.
    pub(crate) read_every: Option<usize>,
    pub(crate) weights_metadata: BTreeMap<String, String>,
}

/// One process's part of a run.
pub(crate) struct Session<T: Task> {
    pub(crate) settings: Settings,
    pub(crate) directory: RunDirectory,
    /// Where training stands: the record and the position within the unfinished epoch.
    pub(crate) state: Checkpoint,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) rates: RunRates,
    pub(crate) ema: Option<Ema>,
    pub(crate) monitor: Monitor,
    pub(crate) step_log: StepLog,
    /// What to train on, and how its epochs are cut into batches.
    pub(crate) train: SharedSource<T::Batch>,
    pub(crate) plan: Plan,
    /// What to evaluate after each epoch.
    pub(crate) valid: SharedSource<T::Batch>,
    pub(crate) evaluated: Epoch,
    /// The first device, with autodiff.
    pub(crate) device: Device,
    pub(crate) replicas: Replicas<T>,
    /// Takes whole steps, where the run is to repeat them.
    pub(crate) graph: Option<Box<dyn StepGraph<T>>>,
    /// Called on each training event.
    pub(crate) on_event: OnEvent,
    pub(crate) on_step: Vec<OnStep>,
    pub(crate) on_epoch: Vec<OnEpoch>,
    /// How often the midst of an epoch leaves a checkpoint.
    pub(crate) checkpoint_every: Option<Duration>,
    /// When the program started; taken by the first step.
    pub(crate) program_start: Option<Instant>,
    /// When this part of the run started, and the seconds of the parts before.
    pub(crate) started: Instant,
    pub(crate) seconds_before: f64,
}

/// What came of one epoch's training steps.
pub(crate) enum Steps {
    Done,
    Stopped,
    Diverged,
}

impl<T: Task> Session<T> {
    /// Trains until the last epoch, a stop, or a loss that is not finite.
    pub(crate) fn run(&mut self, mut task: T, reporter: &mut Reporter<'_>) -> Result<(T, End), TrainingError> {
        while self.state.record.epochs.len() < self.settings.epochs && self.state.record.stopped_early.is_none() {
            let steps;
            (task, steps) = self.train_epoch(task, reporter)?;
            match steps {
                Steps::Done => {}
                Steps::Stopped => return self.interrupt(task),
                Steps::Diverged => return self.diverge(task),
            }
            let clock = Instant::now();
            let Some(totals) = self.evaluate_epoch(&task, reporter)? else { return self.interrupt(task) };
            let evaluation_seconds = clock.elapsed().as_secs_f64();
            self.state.record.timings.evaluation_seconds += evaluation_seconds;
            self.finish_epoch(&totals, evaluation_seconds);
            if !totals.is_finite() {
                self.state.record.diverged = Some(locate(&task, T::ROOT, None, self.state.step));
                return self.diverge(task);
            }
            if let Some(epoch) = self.state.record.epochs.last() {
                for callback in &mut self.on_epoch {
                    if let ControlFlow::Break(reason) = callback(epoch) {
                        self.state.record.stopped_early.get_or_insert(reason);
                    }
                }
            }
            self.save(&task)?;
            self.directory.write_record(&self.state.record)?;
            if let Some(epoch) = self.state.record.epochs.last() {
                (self.on_event)(Event::Epoch { record: epoch, epochs: self.settings.epochs });
            }
            reporter.end_epoch(self.state.record.epochs.len())?;
        }
        Ok((task, End::Trained))
    }

    /// Evaluates the epoch's weights, or their moving averages, unless asked to stop.
    fn evaluate_epoch(&mut self, task: &T, reporter: &mut Reporter<'_>) -> Result<Option<Totals>, TrainingError> {
        let epoch = self.evaluated.clone();
        reporter.start_evaluation(self.epoch(), epoch.samples())?;
        let task = match &self.ema {
            Some(ema) if self.settings.ema_evaluate => ema.module(task),
            _ => task.valid(),
        };
        let (mut sums, mut deferred) = (Totals::default(), self.deferred());
        let device = self.device.clone().inner();
        for index in 0..epoch.batches() {
            let range = epoch.range(index);
            let end = range.end;
            let batch = epoch.make(&*self.valid, range, &device).map_err(TrainingError::Source)?;
            deferred.push(end, task.evaluate(batch));
            if deferred.is_due() || index + 1 == epoch.batches() {
                for (end, totals) in deferred.read()? {
                    sums.add(&totals);
                    reporter.evaluated(Shown { totals, samples_per_second: 0.0 }, (end, epoch.samples()))?;
                    (self.on_event)(Event::Step { phase: Phase::Evaluate });
                }
            }
            if reporter.should_stop() {
                return Ok(None);
            }
        }
        reporter.end_evaluation(self.epoch())?;
        Ok(Some(sums))
    }

    /// Sums that are read as often as the settings or the device say.
    pub(crate) fn deferred<L>(&self) -> DeferredSums<L> {
        self.settings.read_every.map_or_else(|| DeferredSums::new(&self.device), DeferredSums::every)
    }

    /// The epoch that is being trained, from 1.
    pub(crate) fn epoch(&self) -> usize {
        self.state.record.epochs.len() + 1
    }

    /// Adds the epoch to the record.
    fn finish_epoch(&mut self, evaluated: &Totals, evaluation_seconds: f64) {
        let (epoch, state) = (self.epoch(), &mut self.state);
        let mut metrics = state.totals(T::METRICS).metrics("train", T::METRICS);
        metrics.0.extend(evaluated.metrics(&self.settings.evaluated, T::METRICS).0);
        let record = EpochRecord {
            epoch,
            metrics,
            learning_rate: self.rates.shown,
            seconds: state.epoch_seconds,
            samples_per_second: state.samples as f64 / state.epoch_seconds,
            evaluation_seconds,
        };
        log::info!("epoch {epoch}: {record}");
        let epochs = &mut state.record.epochs;
        epochs.push(record);
        state.record.best_epoch = self.monitor.best_epoch(epochs);
        let patience = self.settings.patience;
        state.record.stopped_early =
            patience.and_then(|patience| self.monitor.stopped_early(epochs, patience, self.settings.epochs));
        if let Some(reason) = &state.record.stopped_early {
            log::info!("stopped early: {reason}");
        }
        state.begin_epoch();
    }

    pub(crate) fn save(&mut self, task: &T) -> Result<(), TrainingError> {
        let clock = Instant::now();
        self.directory.ensure_held()?;
        self.state.steps_bytes = self.step_log.flush()?;
        self.count_seconds();
        let averaged = self.ema.as_ref().map(|ema| ema.module(task));
        checkpoint::save(&self.directory.checkpoints(), &self.state, task, averaged, &self.optimizer)?;
        self.state.record.timings.checkpoint_seconds += clock.elapsed().as_secs_f64();
        Ok(())
    }

    fn interrupt(&mut self, task: T) -> Result<(T, End), TrainingError> {
        self.save(&task)?;
        log::info!("interrupted at step {}; a checkpoint holds it", self.state.step);
        self.state.record.status = RunStatus::Interrupted;
        self.directory.write_record(&self.state.record)?;
        Ok((task, End::Interrupted))
    }

    fn diverge(&mut self, task: T) -> Result<(T, End), TrainingError> {
        self.directory.ensure_held()?;
        self.step_log.flush()?;
        self.count_seconds();
        self.state.record.status = RunStatus::Diverged;
        self.directory.write_record(&self.state.record)?;
        log::error!("diverged: {:?}", self.state.record.diverged);
        Ok((task, End::Diverged))
    }

    /// Brings the record's totals up to date.
    pub(crate) fn count_seconds(&mut self) {
        let record = &mut self.state.record;
        record.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        let (samples, seconds) = record.epochs.iter().fold((0.0, 0.0), |(samples, seconds), epoch| {
            (samples + epoch.samples_per_second * epoch.seconds, seconds + epoch.seconds)
        });
        record.samples_per_second = (seconds > 0.0).then(|| samples / seconds);
    }
}
