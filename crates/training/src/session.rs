//! The training loop: a learning strategy inside burn-train's `SupervisedTraining`.
//!
//! Burn's own strategy stops only between epochs and loses the unfinished one, returns the last weights instead of
//! the best, and keeps its optimizer to itself. This one holds model and optimizer, so that a checkpoint can be taken
//! after any step.

use std::{cell::RefCell, time::Instant};

use burn::{
    data::dataloader::{DataLoader, Progress, split::split_dataloader},
    module::Module,
    optim::ModuleOptimizer,
    tensor::Device,
    train::{
        EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
        SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
    },
};
use kindling_data::ImageBatch;
use kindling_record::{EpochRecord, RunDirectory, RunStatus, StepLog, StepRecord};

use crate::{
    BatchFigures, BatchOutput, Checkpoint, Classifier, Event, ExperimentConfig, LearningRates, OnEvent, Phase,
    Protocol, Schedule, TrainingError, checkpoint,
    clip::clipped,
    divergence,
    early_stopping::{best_epoch, stopped_early},
    gradients,
    replicas::{Replicas, Step},
};

type Processor = SupervisedTrainingEventProcessor<Classifier>;

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

/// One process's part of a run.
pub(crate) struct Session {
    pub(crate) config: ExperimentConfig,
    pub(crate) directory: RunDirectory,
    /// Where training stands: the record and the position within the unfinished epoch.
    pub(crate) state: Checkpoint,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) rates: LearningRates,
    pub(crate) schedule: Schedule,
    pub(crate) step_log: StepLog,
    /// Where to train, with autodiff: each has its share of every batch.
    pub(crate) devices: Vec<Device>,
    pub(crate) replicas: Replicas,
    /// Called on each training event.
    pub(crate) on_event: OnEvent,
    /// Set by the loop.
    pub(crate) end: Option<Result<End, TrainingError>>,
    /// When the program started; taken by the first step.
    pub(crate) program_start: Option<Instant>,
    /// When this part of the run started, and the seconds of the parts before.
    pub(crate) started: Instant,
    pub(crate) seconds_before: f64,
}

/// Hands a [`Session`] to burn-train and back.
pub(crate) struct Strategy(pub(crate) RefCell<Option<Session>>);

impl SupervisedLearningStrategy<Classifier> for Strategy {
    fn fit(
        &self,
        components: TrainingComponents<Classifier>,
        learner: Learner<Classifier>,
        train: TrainLoader<Classifier>,
        valid: ValidLoader<Classifier>,
        _starting_epoch: usize,
    ) -> (Classifier, Processor) {
        let mut processor = components.event_processor;
        let start = learner.model();
        // The learner's copy goes, so that after the first step the weights have one owner.
        drop(learner);
        let mut session = self.0.borrow_mut();
        let Some(session) = session.as_mut() else { return (start, processor) };
        let train = split_dataloader(train, &session.devices);
        let outcome = session.run(start.clone(), &mut processor, &train, &*valid, &components.interrupter);
        let (model, end) = match outcome {
            Ok((model, end)) => (model, Ok(end)),
            Err(error) => (start, Err(error)),
        };
        session.end = Some(end);
        (model, processor)
    }
}

/// What came of one epoch's training steps.
enum Steps {
    Done,
    Stopped,
    Diverged,
}

impl Session {
    /// Trains until the last epoch, a stop, or a loss that is not finite.
    fn run(
        &mut self,
        mut model: Classifier,
        processor: &mut Processor,
        train: &[TrainLoader<Classifier>],
        valid: &dyn DataLoader<ImageBatch>,
        interrupter: &Interrupter,
    ) -> Result<(Classifier, End), TrainingError> {
        while self.state.record.epochs.len() < self.config.epochs && self.state.record.stopped_early.is_none() {
            let steps;
            (model, steps) = self.train_epoch(model, processor, train, interrupter)?;
            match steps {
                Steps::Done => {}
                Steps::Stopped => return self.interrupt(model),
                Steps::Diverged => return self.diverge(model),
            }
            let evaluated = Instant::now();
            let Some(figures) = self.evaluate_epoch(&model, processor, valid, interrupter)? else {
                return self.interrupt(model);
            };
            let evaluation_seconds = evaluated.elapsed().as_secs_f64();
            self.state.record.timings.evaluation_seconds += evaluation_seconds;
            self.finish_epoch(figures, evaluation_seconds);
            if !figures.loss_sum.is_finite() {
                self.state.record.diverged = Some(divergence::locate(&model, None, self.state.step));
                return self.diverge(model);
            }
            self.save(&model)?;
            self.directory.write_record(&self.state.record)?;
            if let Some(epoch) = self.state.record.epochs.last() {
                (self.on_event)(Event::Epoch { record: epoch, epochs: self.config.epochs });
            }
            report(interrupter, processor.process_train(LearnerEvent::EndEpoch(self.state.record.epochs.len())))?;
        }
        Ok((model, End::Trained))
    }

    /// Trains on what is left of the current epoch.
    fn train_epoch(
        &mut self,
        mut model: Classifier,
        processor: &mut Processor,
        loaders: &[TrainLoader<Classifier>],
        interrupter: &Interrupter,
    ) -> Result<(Classifier, Steps), TrainingError> {
        let epoch = self.epoch();
        let total_items = loaders.iter().map(|loader| loader.num_items()).sum();
        report(interrupter, processor.process_train(LearnerEvent::StartSplit { epoch_number: epoch, total_items }))?;
        let (images_before, seconds_before) = (self.state.images, self.state.epoch_seconds);
        if let Some(start) = self.program_start.take() {
            self.state.record.timings.start_up_seconds = start.elapsed().as_secs_f64();
        }
        let clock = Instant::now();
        let mut outcome = Steps::Done;
        let mut iterators: Vec<_> = loaders.iter().map(|loader| loader.iter()).collect();
        loop {
            let Some(shares) = Replicas::next_batches(&mut iterators)? else { break };
            let step = self.state.step + 1;
            let Step { gradients, mut figures } = self.replicas.step(&model, shares)?;
            let factor = self.schedule.factor(step);
            let learning_rate = self.rates.base(factor);
            let is_wanted = self.config.gradient_steps.is_some_and(|steps| step <= steps);
            let gradient = is_wanted.then(|| gradients::statistics(&model, &gradients)).transpose()?;
            self.step_log.append(&StepRecord { step, epoch, loss: figures.loss(), learning_rate, gradient })?;
            if !figures.loss_sum.is_finite() {
                self.state.record.diverged = Some(divergence::locate(&model, Some(&gradients), step));
                outcome = Steps::Diverged;
                break;
            }
            let gradients = clipped(&self.config, &model, gradients);
            model = self.optimizer.step(self.rates.scaled(factor), model, gradients);
            self.advance(step, &figures);

            let seen = self.state.images - images_before;
            figures.images_per_second = seen as f64 / clock.elapsed().as_secs_f64();
            let item = TrainingItem::new(
                BatchOutput::Read(figures),
                // The first device's share reaches to the end of every batch.
                iterators[0].progress(),
                Some(step),
                Some(learning_rate.into()),
            );
            report(interrupter, processor.process_train(LearnerEvent::ProcessedItem(item)))?;
            (self.on_event)(Event::Step { phase: Phase::Train });
            if interrupter.should_stop() {
                outcome = Steps::Stopped;
                break;
            }
        }
        let seconds = clock.elapsed().as_secs_f64();
        self.state.epoch_seconds = seconds_before + seconds;
        self.state.record.timings.training_seconds += seconds;
        report(interrupter, processor.process_train(LearnerEvent::EndSplit(epoch)))?;
        Ok((model, outcome))
    }

    /// Evaluates the epoch's weights, unless asked to stop.
    fn evaluate_epoch(
        &mut self,
        model: &Classifier,
        processor: &mut Processor,
        loader: &dyn DataLoader<ImageBatch>,
        interrupter: &Interrupter,
    ) -> Result<Option<BatchFigures>, TrainingError> {
        let epoch = self.epoch();
        let total_items = loader.num_items();
        report(interrupter, processor.process_valid(LearnerEvent::StartSplit { epoch_number: epoch, total_items }))?;
        let model = model.valid();
        let mut sums = BatchFigures::default();
        let mut iterator = loader.iter();
        while let Some(batch) = iterator.next() {
            let batch = batch.map_err(TrainingError::backend)?;
            let figures = InferenceStep::step(&model, batch).read().map_err(TrainingError::backend)?;
            sums.add(&figures);
            let progress: Progress = iterator.progress();
            let item = TrainingItem::new(BatchOutput::Read(figures), progress, None, None);
            report(interrupter, processor.process_valid(LearnerEvent::ProcessedItem(item)))?;
            (self.on_event)(Event::Step { phase: Phase::Evaluate });
            if interrupter.should_stop() {
                return Ok(None);
            }
        }
        report(interrupter, processor.process_valid(LearnerEvent::EndSplit(epoch)))?;
        Ok(Some(sums))
    }

    /// The epoch that is being trained, from 1.
    fn epoch(&self) -> usize {
        self.state.record.epochs.len() + 1
    }

    fn advance(&mut self, step: usize, figures: &BatchFigures) {
        let state = &mut self.state;
        state.step = step;
        state.batch += 1;
        state.images += figures.images;
        state.loss_sum += figures.loss_sum;
        state.correct += figures.correct;
    }

    /// Adds the epoch to the record.
    fn finish_epoch(&mut self, figures: BatchFigures, evaluation_seconds: f64) {
        let epoch = self.epoch();
        let state = &mut self.state;
        let (loss, accuracy) = (figures.loss(), figures.accuracy());
        let validated = self.config.protocol == Protocol::Validated;
        let images = state.images as f64;
        let record = EpochRecord {
            epoch,
            train_loss: state.loss_sum / images,
            train_accuracy: state.correct as f64 / images,
            valid_loss: validated.then_some(loss),
            valid_accuracy: validated.then_some(accuracy),
            test_loss: (!validated).then_some(loss),
            test_accuracy: (!validated).then_some(accuracy),
            learning_rate: self.rates.base(self.schedule.factor(state.step)),
            seconds: state.epoch_seconds,
            images_per_second: images / state.epoch_seconds,
            evaluation_seconds,
        };
        log::info!("epoch {epoch}: {record}");
        let epochs = &mut state.record.epochs;
        epochs.push(record);
        state.record.best_epoch = best_epoch(epochs, |epoch| epoch.valid_loss.or(epoch.test_loss).unwrap_or(f64::NAN));
        state.record.stopped_early = stopped_early(&self.config, epochs);
        if let Some(reason) = &state.record.stopped_early {
            log::info!("stopped early: {reason}");
        }
        (state.batch, state.images, state.loss_sum, state.correct, state.epoch_seconds) = (0, 0, 0.0, 0, 0.0);
    }

    fn save(&mut self, model: &Classifier) -> Result<(), TrainingError> {
        let clock = Instant::now();
        self.state.steps_bytes = self.step_log.flush()?;
        self.count_seconds();
        checkpoint::save(&self.directory.checkpoints(), &self.state, model, &self.optimizer)?;
        self.state.record.timings.checkpoint_seconds += clock.elapsed().as_secs_f64();
        Ok(())
    }

    fn interrupt(&mut self, model: Classifier) -> Result<(Classifier, End), TrainingError> {
        self.save(&model)?;
        log::info!("interrupted at step {}; a checkpoint holds it", self.state.step);
        self.state.record.status = RunStatus::Interrupted;
        self.directory.write_record(&self.state.record)?;
        Ok((model, End::Interrupted))
    }

    fn diverge(&mut self, model: Classifier) -> Result<(Classifier, End), TrainingError> {
        self.step_log.flush()?;
        self.count_seconds();
        self.state.record.status = RunStatus::Diverged;
        self.directory.write_record(&self.state.record)?;
        log::error!("diverged: {:?}", self.state.record.diverged);
        Ok((model, End::Diverged))
    }

    /// Brings the record's totals up to date.
    pub(crate) fn count_seconds(&mut self) {
        let record = &mut self.state.record;
        record.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        let (images, seconds) = record.epochs.iter().fold((0.0, 0.0), |(images, seconds), epoch| {
            (images + epoch.images_per_second * epoch.seconds, seconds + epoch.seconds)
        });
        record.images_per_second = (seconds > 0.0).then(|| images / seconds);
    }
}

/// An error of the event processor ends the session; burn-train's own error, if it has one, says more.
fn report(
    interrupter: &Interrupter,
    result: Result<(), burn::train::EventProcessorError>,
) -> Result<(), TrainingError> {
    if let Some(error) = interrupter.error() {
        return Err(TrainingError::Backend(error.to_string()));
    }
    result.map_err(TrainingError::backend)
}
