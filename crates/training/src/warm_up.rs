//! The first steps on a backend that compiles its kernels when it first needs them.

use burn::{optim::ModuleOptimizer, tensor::Device};

use crate::{
    Event, OnEvent, Step, Task, TrainingError,
    clip::clip_by_global_norm,
    feed::{Epoch, Feed, SharedSource},
    replicas::Replicas,
    schedule::RunRates,
};

/// What a warm-up goes through.
pub(crate) struct WarmUp<'a, T: Task> {
    /// The task to be trained, on the first device with autodiff; copies of it are.
    pub(crate) task: &'a T,
    /// Name of the task.
    pub(crate) model: &'a str,
    /// Training samples, and those evaluated after each epoch.
    pub(crate) sources: [&'a SharedSource<T::Batch>; 2],
    pub(crate) epochs: [&'a Epoch; 2],
    pub(crate) device: &'a Device,
    pub(crate) replicas: &'a Replicas<T>,
    pub(crate) optimizer: &'a ModuleOptimizer,
    pub(crate) rates: &'a RunRates,
    pub(crate) clip_norm: Option<f64>,
}

/// Takes a training and an evaluation step with weights that are thrown away, for every size in which batches come, so
/// that kernels are compiled and autotuned before the clock of the first epoch runs. Returns whether that was done: a stop
/// between two steps ends it.
pub(crate) fn warm_up<T: Task>(
    warm: &WarmUp<'_, T>,
    on_event: &mut OnEvent,
    should_stop: &dyn Fn() -> bool,
) -> Result<bool, TrainingError> {
    let ([train, evaluation], [epoch, evaluated]) = (warm.sources, warm.epochs);
    let mut continues = |samples, training| {
        on_event(Event::WarmUp { model: warm.model, samples, training });
        !should_stop()
    };
    let mut optimizer = ModuleOptimizer::clone(warm.optimizer);
    // A copy with running statistics of its own.
    let mut task = warm.task.valid().train();
    for batch in first_and_last(epoch) {
        if !continues(epoch.range(batch).len(), true) {
            return Ok(false);
        }
        let parts = Feed::new(train, epoch, batch, warm.replicas.parts(), warm.device, 0).next()?;
        let Step { mut gradients, sums } = warm.replicas.step(&task, epoch, batch, parts)?;
        sums.read()?;
        if let Some(limit) = warm.clip_norm {
            gradients = clip_by_global_norm(&task, gradients, limit);
        }
        task = optimizer.step(warm.rates.sample(), task, gradients);
    }
    let task = task.valid();
    let plain = warm.device.clone().inner();
    for batch in first_and_last(evaluated) {
        if !continues(evaluated.range(batch).len(), false) {
            return Ok(false);
        }
        let batch = evaluated.make(&**evaluation, evaluated.range(batch), &plain).map_err(TrainingError::Source)?;
        task.evaluate(batch).read()?;
    }
    Ok(!should_stop())
}

/// The batches that stand for all: those in between have the size of the first.
fn first_and_last(epoch: &Epoch) -> Vec<usize> {
    match epoch.batches() {
        0 => Vec::new(),
        1 => vec![0],
        count => vec![0, count - 1],
    }
}
