//! The steps of an epoch, taken ahead of their losses.

use std::{ops::ControlFlow, time::Instant};

use burn::optim::GradientsParams;
use kindling_record::{DivergenceRecord, GradientRecord, StepRecord};
use rand::Rng;

use crate::{
    DeferredSums, Event, Phase, Step, Sums, Task, Totals, TrainingError,
    clip::clip_by_global_norm,
    divergence::{Kept, locate},
    feed::{Epoch, Feed},
    gradients,
    metrics::Shown,
    session::{Session, Steps},
    shell::Reporter,
    stream,
};

/// An epoch that is being trained.
struct Running<T> {
    epoch: Epoch,
    /// When this session began with it, later by the time that checkpoints took, and how many of its samples were done
    /// before.
    clock: Instant,
    /// Until when its time is counted.
    counted: Instant,
    samples_before: usize,
    /// The steps whose losses are not read yet, and what they began with, where they may be several.
    deferred: DeferredSums<Taken>,
    kept: Option<Kept<T>>,
}

/// A step whose loss is not read yet.
struct Taken {
    step: usize,
    /// Samples of the epoch that are done with it.
    position: usize,
    learning_rate: f64,
    gradient: Option<GradientRecord>,
}

/// The step that is taken at the moment, with the weights that it begins with.
struct Current<'a, T> {
    step: usize,
    task: &'a T,
    /// None where the step is done already.
    gradients: Option<&'a GradientsParams>,
}

impl<T: Task> Session<T> {
    /// Trains on what is left of the current epoch.
    ///
    /// Losses are read in one go now and then. What is logged, counted and told is what was read, so that steps after one
    /// that diverged leave no trace.
    pub(crate) fn train_epoch(
        &mut self,
        mut task: T,
        reporter: &mut Reporter<'_>,
    ) -> Result<(T, Steps), TrainingError> {
        let epoch = Epoch::new(self.plan, self.epoch(), self.train.len());
        reporter.start_training(self.epoch(), epoch.samples())?;
        if let Some(start) = self.program_start.take() {
            self.state.record.timings.start_up_seconds = start.elapsed().as_secs_f64();
        }
        let (clock, samples_before) = (Instant::now(), self.state.samples);
        let mut running =
            Running { epoch, clock, counted: clock, samples_before, deferred: self.deferred(), kept: None };
        let (first, count) = (self.state.batch, running.epoch.batches());
        let (parts, workers) = (self.replicas.parts(), self.settings.workers);
        let mut feed = Feed::new(&self.train, &running.epoch, first, parts, &self.device, workers);
        let mut outcome = Steps::Done;
        for batch in first..count {
            let step = self.state.step + running.deferred.len() + 1;
            if running.deferred.is_empty() {
                self.refresh(&mut task);
                let is_ahead = !running.deferred.is_immediate() || self.graph.is_some();
                running.kept = is_ahead.then(|| Kept::new(&task, &self.optimizer, step, batch));
            }
            let rates = self.rates.next(step);
            let (gradients, sums) = match self.step(&mut task, &running.epoch, (step, batch), &mut feed, rates.base()) {
                Ok(found) => found,
                // The steps before it come first.
                Err(error) => match self.read(&mut running, None, reporter)? {
                    ControlFlow::Continue(_) => return Err(error),
                    ControlFlow::Break(()) => {
                        outcome = Steps::Diverged;
                        break;
                    }
                },
            };
            if let Some(kept) = &mut running.kept {
                kept.rates.push(rates.clone());
            }
            let is_wanted = self.settings.gradient_steps.is_some_and(|steps| step <= steps);
            let shown = gradients.as_ref().filter(|_| is_wanted);
            let gradient = shown.map(|shown| gradients::statistics(&task, T::ROOT, shown)).transpose()?;
            let (position, learning_rate) = (running.epoch.range(batch).end, self.rates.shown);
            running.deferred.push(Taken { step, position, learning_rate, gradient }, sums.clone());

            let mut stops = false;
            if running.deferred.is_due() || batch + 1 == count || reporter.should_stop() {
                let current = Current { step, task: &task, gradients: gradients.as_ref() };
                match self.read(&mut running, Some(current), reporter)? {
                    ControlFlow::Continue(is_stopped) => stops = is_stopped,
                    ControlFlow::Break(()) => {
                        outcome = Steps::Diverged;
                        break;
                    }
                }
            }
            if let Some(gradients) = gradients {
                let gradients = self.clipped(&task, gradients);
                task = self.optimizer.step(rates, task, gradients);
                if let Some(ema) = &mut self.ema {
                    ema.update(&task);
                }
                if let Some(graph) = &mut self.graph {
                    graph.compare(&task, &sums)?;
                }
            }
            // A stop that is asked for while losses wait has them read with the next step.
            if running.deferred.is_empty() && (stops || reporter.should_stop()) {
                outcome = Steps::Stopped;
                break;
            }
            let is_due = self.checkpoint_every.is_some_and(|every| running.counted.elapsed() >= every);
            if is_due && running.deferred.is_empty() && batch + 1 < count {
                self.count_time(&mut running);
                self.refresh(&mut task);
                self.save(&task)?;
                running.clock += running.counted.elapsed();
                running.counted = Instant::now();
            }
        }
        self.count_time(&mut running);
        reporter.end_training(self.epoch())?;
        self.refresh(&mut task);
        Ok((task, outcome))
    }

    /// Counts the time of the steps since it was last counted.
    fn count_time(&mut self, running: &mut Running<T>) {
        let seconds = running.counted.elapsed().as_secs_f64();
        running.counted = Instant::now();
        self.state.epoch_seconds += seconds;
        self.state.record.timings.training_seconds += seconds;
    }

    /// Makes `task` the one after the last step.
    fn refresh(&mut self, task: &mut T) {
        if let Some(graph) = &mut self.graph {
            graph.refresh(task);
        }
    }

    /// Takes the step `step` on the batch `batch`, which `feed` gives, and what it measured: the whole of it where the graph
    /// can, which the last batch of an epoch may be too small for, and otherwise as far as its gradients.
    fn step(
        &mut self,
        task: &mut T,
        epoch: &Epoch,
        (step, batch): (usize, usize),
        feed: &mut Feed<T::Batch>,
        rate: f64,
    ) -> Result<(Option<GradientsParams>, Sums), TrainingError> {
        let own = feed.next()?;
        let is_whole = epoch.range(batch).len() == self.settings.batch_size;
        if let (Some(graph), [own]) = (self.graph.as_mut().filter(|_| is_whole), &own[..])
            && let Some(sums) = graph.step(task, own, rate)?
        {
            return Ok((None, sums));
        }
        self.refresh(task);
        let Step { gradients, sums } = self.gradients(task, epoch, (step, batch), own)?;
        Ok((Some(gradients), sums))
    }

    /// The gradients of the step `step` on the batch `batch`, whose parts for the first device are `own`.
    fn gradients(
        &self,
        task: &T,
        epoch: &Epoch,
        (step, batch): (usize, usize),
        own: Vec<T::Batch>,
    ) -> Result<Step, TrainingError> {
        // What is random in a step, such as dropout, is a function of the seed and the step.
        let seed = stream(self.settings.seed, "step", step as u64).next_u64();
        self.device.seed(seed);
        self.replicas.seed(seed);
        self.replicas.step(task, epoch, batch, own)
    }

    fn clipped(&self, task: &T, gradients: GradientsParams) -> GradientsParams {
        match self.settings.clip_norm {
            Some(limit) => clip_by_global_norm(task, gradients, limit),
            None => gradients,
        }
    }

    /// Reads the losses that wait, and says whether a callback stops the run; breaks where one is not finite, which the
    /// record then has.
    fn read(
        &mut self,
        running: &mut Running<T>,
        current: Option<Current<'_, T>>,
        reporter: &mut Reporter<'_>,
    ) -> Result<ControlFlow<(), bool>, TrainingError> {
        let read = running.deferred.read()?;
        let step = match self.take(read, running, reporter)? {
            ControlFlow::Continue(stops) => return Ok(ControlFlow::Continue(stops)),
            ControlFlow::Break(step) => step,
        };
        let at_hand = current.filter(|current| current.step == step && current.gradients.is_some());
        let found = match (at_hand, running.kept.take()) {
            (Some(Current { task, gradients, .. }), _) => Ok(locate(task, T::ROOT, gradients, step)),
            (None, Some(kept)) => self.locate_again(kept, &running.epoch, step),
            (None, None) => Err(TrainingError::backend("nothing is kept of it")),
        };
        self.state.record.diverged = Some(found.unwrap_or_else(|error| {
            log::warn!("step {step} cannot be taken again to find where it diverged: {error}");
            DivergenceRecord { step, layer: None, quantity: "loss".to_owned() }
        }));
        Ok(ControlFlow::Break(()))
    }

    /// Logs, counts and tells the steps that were read, and says whether a callback stops the run; breaks with the first
    /// step whose loss is not finite, after which nothing counts.
    fn take(
        &mut self,
        read: Vec<(Taken, Totals)>,
        running: &Running<T>,
        reporter: &mut Reporter<'_>,
    ) -> Result<ControlFlow<usize, bool>, TrainingError> {
        let new: usize = read.iter().map(|(_, totals)| totals.samples).sum();
        let seen = self.state.samples - running.samples_before + new;
        let samples_per_second = seen as f64 / running.clock.elapsed().as_secs_f64();
        let mut stops = false;
        for (Taken { step, position, learning_rate, gradient }, totals) in read {
            let record = StepRecord { step, epoch: self.epoch(), loss: totals.loss(), learning_rate, gradient };
            self.directory.ensure_held_lately()?;
            self.step_log.append(&record)?;
            if !totals.is_finite() {
                return Ok(ControlFlow::Break(step));
            }
            self.state.take(&totals, T::METRICS);
            let shown = Shown { totals, samples_per_second };
            reporter.trained(shown, (position, running.epoch.samples()), step, learning_rate)?;
            (self.on_event)(Event::Step { phase: Phase::Train });
            for callback in &mut self.on_step {
                if let ControlFlow::Break(reason) = callback(&record) {
                    log::info!("a callback stops the run: {reason}");
                    stops = true;
                }
            }
        }
        Ok(ControlFlow::Continue(stops))
    }

    /// Finds where a step diverged whose weights and gradients are gone: takes the steps since what is kept again.
    fn locate_again(&self, kept: Kept<T>, epoch: &Epoch, diverged: usize) -> Result<DivergenceRecord, TrainingError> {
        let Kept { mut task, mut optimizer, step: first, batch, rates } = kept;
        let mut feed = Feed::new(&self.train, epoch, batch, self.replicas.parts(), &self.device, 0);
        for (step, rates) in (first..diverged).zip(rates) {
            let Step { gradients, .. } = self.gradients(&task, epoch, (step, batch + step - first), feed.next()?)?;
            let gradients = self.clipped(&task, gradients);
            task = optimizer.step(rates, task, gradients);
        }
        let last = (diverged, batch + diverged - first);
        let Step { gradients, .. } = self.gradients(&task, epoch, last, feed.next()?)?;
        Ok(locate(&task, T::ROOT, Some(&gradients), diverged))
    }
}
