//! burn-train's side: its metrics, events and renderers around a loop of our own.
//!
//! Burn's own loop stops only between epochs and loses the unfinished one, returns the last weights instead of the best,
//! and keeps its optimizer to itself. Here a module without content stands in for the model, so that burn-train's code is
//! compiled once for all tasks.

use std::{cell::RefCell, path::Path, rc::Rc, sync::Arc};

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderIterator, Progress},
        dataset::DatasetError,
    },
    module::{Module, Param},
    optim::{GradientsParams, SgdConfig},
    tensor::{Device, Tensor},
    train::{
        EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
        SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader, TrainOutput, TrainStep, TrainingComponents,
        TrainingItem, TrainingStrategy, ValidLoader,
        metric::{Metric as BurnMetric, Numeric},
        renderer::MetricsRenderer,
    },
};

use crate::{
    Metric, TrainingError,
    metrics::{NoMetricFiles, SampleMean, Shown},
};

/// Stands in for the model in burn-train's types.
#[derive(Module, Debug)]
pub(crate) struct Shell {
    /// burn-train asks a model for its devices.
    nothing: Param<Tensor<1>>,
}

impl TrainStep for Shell {
    type Input = ();
    type Output = Shown;

    fn step(&self, _input: ()) -> TrainOutput<Shown> {
        TrainOutput { grads: GradientsParams::new(), item: Shown::default() }
    }
}

impl InferenceStep for Shell {
    type Input = ();
    type Output = Shown;

    fn step(&self, _input: ()) -> Shown {
        Shown::default()
    }
}

/// A loader without batches.
struct NoBatches;

impl DataLoader<()> for NoBatches {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<()> + 'a> {
        Box::new(Self)
    }

    fn num_items(&self) -> usize {
        0
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<()>> {
        Arc::new(Self)
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<()>> {
        Arc::new(Self)
    }
}

impl Iterator for NoBatches {
    type Item = Result<(), DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl DataLoaderIterator<()> for NoBatches {
    fn progress(&self) -> Progress {
        Progress::new(0, 0, None)
    }
}

/// Adds one of burn-train's own metrics.
pub(crate) type AddMetric = Box<dyn FnOnce(Training) -> Training>;
type Training = SupervisedTraining<Shell>;

/// Adds a metric that needs no output of the task, such as the CPU load.
pub(crate) fn add_metric<M: BurnMetric<Input = ()> + Numeric + 'static>(metric: M) -> AddMetric {
    Box::new(move |training| training.metric_train_numeric(metric))
}

/// What is shown of a run, and by what.
pub(crate) struct Show {
    pub(crate) metrics: &'static [Metric],
    /// What samples are called.
    pub(crate) samples: &'static str,
    pub(crate) more: Vec<AddMetric>,
    pub(crate) renderer: Box<dyn MetricsRenderer>,
    pub(crate) interrupter: Interrupter,
    pub(crate) device: Device,
    /// Epochs that are done, and epochs of the run.
    pub(crate) done: usize,
    pub(crate) epochs: usize,
}

/// Runs `work` inside burn-train, on this thread; the renderer is gone when this returns.
pub(crate) fn inside<R: 'static>(
    directory: &Path,
    show: Show,
    work: impl FnOnce(Reporter<'_>) -> R + 'static,
) -> Result<R, TrainingError> {
    let loader = || Arc::new(NoBatches) as Arc<dyn DataLoader<()>>;
    let mut training = SupervisedTraining::new(directory, loader(), loader())
        .num_epochs(show.epochs)
        .renderer(show.renderer)
        .with_interrupter(show.interrupter)
        .with_application_logger(None)
        .with_metric_logger(NoMetricFiles);
    for metric in SampleMean::all(show.metrics) {
        training = training.metric_train_numeric(metric.clone()).metric_valid_numeric(metric);
    }
    training = training
        .metric_train_numeric(SampleMean::learning_rate())
        .metric_train_numeric(SampleMean::throughput(show.samples));
    training = show.more.into_iter().fold(training, |training, add| add(training));
    if show.done > 0 {
        // Only tells the renderer where to begin: without checkpointers burn-train loads nothing.
        training = training.checkpoint(show.done);
    }
    let result = Rc::new(RefCell::new(None));
    let (place, samples) = (result.clone(), show.samples);
    let work: Work = Box::new(move |processor, interrupter| {
        *place.borrow_mut() = Some(work(Reporter { processor, interrupter, samples }));
    });
    // burn-train takes its strategy in an `Arc` and runs it on the thread that launches.
    #[allow(clippy::arc_with_non_send_sync)]
    let strategy = Arc::new(Strategy(RefCell::new(Some(work))));
    // A learner cannot be made without an optimizer.
    let shell = Shell { nothing: Param::from_tensor(Tensor::zeros([1], &show.device)) };
    let learner = Learner::new(shell, SgdConfig::new().init(), 0.0);
    let _ = training.with_training_strategy(TrainingStrategy::Custom(strategy)).launch(learner);
    let result = result.take();
    result.ok_or_else(|| TrainingError::backend("the training loop was never entered"))
}

type Processor = SupervisedTrainingEventProcessor<Shell>;
type Work = Box<dyn FnOnce(&mut Processor, &Interrupter)>;

struct Strategy(RefCell<Option<Work>>);

impl SupervisedLearningStrategy<Shell> for Strategy {
    fn fit(
        &self,
        components: TrainingComponents<Shell>,
        learner: Learner<Shell>,
        _train: TrainLoader<Shell>,
        _valid: ValidLoader<Shell>,
        _starting_epoch: usize,
    ) -> (Shell, Processor) {
        let mut processor = components.event_processor;
        if let Some(work) = self.0.take() {
            work(&mut processor, &components.interrupter);
        }
        (learner.model(), processor)
    }
}

/// Tells burn-train what happens in the loop.
pub(crate) struct Reporter<'a> {
    processor: &'a mut Processor,
    interrupter: &'a Interrupter,
    samples: &'static str,
}

impl Reporter<'_> {
    /// Whether the run is asked to stop.
    pub(crate) fn should_stop(&self) -> bool {
        self.interrupter.should_stop()
    }

    pub(crate) fn start_training(&mut self, epoch: usize, samples: usize) -> Result<(), TrainingError> {
        let result =
            self.processor.process_train(LearnerEvent::StartSplit { epoch_number: epoch, total_items: samples });
        self.report(result)
    }

    /// A training step is done; `position` samples of `total` are.
    pub(crate) fn trained(
        &mut self,
        shown: Shown,
        (position, total): (usize, usize),
        step: usize,
        learning_rate: f64,
    ) -> Result<(), TrainingError> {
        let progress = Progress::new(position, total, Some(self.samples.to_owned()));
        let item = TrainingItem::new(shown, progress, Some(step), Some(learning_rate.into()));
        let result = self.processor.process_train(LearnerEvent::ProcessedItem(item));
        self.report(result)
    }

    pub(crate) fn end_training(&mut self, epoch: usize) -> Result<(), TrainingError> {
        let result = self.processor.process_train(LearnerEvent::EndSplit(epoch));
        self.report(result)
    }

    pub(crate) fn start_evaluation(&mut self, epoch: usize, samples: usize) -> Result<(), TrainingError> {
        let result =
            self.processor.process_valid(LearnerEvent::StartSplit { epoch_number: epoch, total_items: samples });
        self.report(result)
    }

    pub(crate) fn evaluated(&mut self, shown: Shown, (position, total): (usize, usize)) -> Result<(), TrainingError> {
        let progress = Progress::new(position, total, Some(self.samples.to_owned()));
        let item = TrainingItem::new(shown, progress, None, None);
        let result = self.processor.process_valid(LearnerEvent::ProcessedItem(item));
        self.report(result)
    }

    pub(crate) fn end_evaluation(&mut self, epoch: usize) -> Result<(), TrainingError> {
        let result = self.processor.process_valid(LearnerEvent::EndSplit(epoch));
        self.report(result)
    }

    pub(crate) fn end_epoch(&mut self, epoch: usize) -> Result<(), TrainingError> {
        let result = self.processor.process_train(LearnerEvent::EndEpoch(epoch));
        self.report(result)
    }

    /// An error of the event processor ends the session; burn-train's own error, if it has one, says more.
    fn report(&self, result: Result<(), burn::train::EventProcessorError>) -> Result<(), TrainingError> {
        if let Some(error) = self.interrupter.error() {
            return Err(TrainingError::Backend(error.to_string()));
        }
        result.map_err(TrainingError::backend)
    }
}
