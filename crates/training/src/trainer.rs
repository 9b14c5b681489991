use std::{any::type_name, collections::BTreeMap, ops::ControlFlow, sync::Arc};

use burn::{
    optim::ModuleOptimizer,
    train::{
        Interrupter,
        metric::{Metric as BurnMetric, Numeric},
    },
};
use kindling_record::{DatasetRecord, EpochRecord, InitialWeightsRecord, StepRecord};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    FixedBatch, Host, LearningRates, Order, Place, RateSchedule, Schedule, Source, Task, TrainingError,
    early_stopping::Monitor,
    feed::SharedSource,
    graph::{Graph, MakeGraph, check_graph},
    lines,
    session::{OnEpoch, OnStep, Settings},
    shell::{AddMetric, add_metric},
    source::Plan,
};

/// Trains a [`Task`] into a run directory.
///
/// Defaults: ten epochs in batches of 64, shuffled with the seed 42, at a constant learning rate of
/// 0.001, on the device of the task's parameters.
#[must_use]
pub struct Trainer<T: Task> {
    pub(crate) task: T,
    pub(crate) optimizer: ModuleOptimizer,
    pub(crate) settings: Settings,
    pub(crate) rates: LearningRates,
    pub(crate) schedule: RateSchedule,
    pub(crate) host: Host,
    pub(crate) config: Option<Result<Map<String, Value>, TrainingError>>,
    pub(crate) dataset: Option<DatasetRecord>,
    pub(crate) initial_weights: Option<InitialWeightsRecord>,
    pub(crate) test: Option<SharedSource<T::Batch>>,
    pub(crate) metrics: Vec<AddMetric>,
    pub(crate) on_step: Vec<OnStep>,
    pub(crate) on_epoch: Vec<OnEpoch>,
    pub(crate) graph: Option<MakeGraph<T>>,
}

impl<T: Task> Trainer<T> {
    /// Trains `task` with any of Burn's optimizers.
    pub fn new(task: T, optimizer: impl Into<ModuleOptimizer>) -> Self {
        let name = type_name::<T>().split('<').next().and_then(|name| name.rsplit("::").next()).unwrap_or("task");
        let settings = Settings {
            name: name.to_lowercase(),
            epochs: 10,
            batch_size: 64,
            seed: 42,
            is_shuffled: true,
            limit_batches: None,
            evaluated: "valid".to_owned(),
            monitor: None,
            patience: None,
            keeps_last: false,
            clip_norm: None,
            micro_batches: 1,
            ema_decay: None,
            ema_evaluate: false,
            gradient_steps: None,
            workers: 0,
            read_every: None,
            weights_metadata: BTreeMap::new(),
        };
        let device = task.devices().into_iter().next().unwrap_or_default();
        Self {
            task,
            optimizer: optimizer.into(),
            settings,
            rates: 0.001.into(),
            schedule: Schedule::constant().into(),
            host: lines::host(Place::new(device)),
            config: None,
            dataset: None,
            initial_weights: None,
            test: None,
            metrics: Vec::new(),
            on_step: Vec::new(),
            on_epoch: Vec::new(),
            graph: None,
        }
    }

    /// Name of the task in records; by default the type's name in lower case.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// The learning rate before the schedule, for all parameters or for groups of them.
    pub fn learning_rate(mut self, rate: impl Into<LearningRates>) -> Self {
        self.rates = rate.into();
        self
    }

    /// How the learning rate changes: a [`Schedule`], or one of Burn's schedulers, which has a rate of its own.
    pub fn schedule(mut self, schedule: impl Into<RateSchedule>) -> Self {
        self.schedule = schedule.into();
        self
    }

    /// Passes over the training samples.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.settings.epochs = epochs;
        self
    }

    /// Samples in a batch.
    pub fn batch_size(mut self, samples: usize) -> Self {
        self.settings.batch_size = samples;
        self
    }

    /// Seed of the order in which each epoch sees the samples, and of what is random in a step: before each, Burn's
    /// generator is seeded with a function of it and of the step, so that dropout is resumed exactly as well.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Takes the samples in the source's order in every epoch.
    pub fn in_order(mut self) -> Self {
        self.settings.is_shuffled = false;
        self
    }

    /// Ends every pass over a split after so many batches.
    pub fn limit_batches(mut self, batches: impl Into<Option<usize>>) -> Self {
        self.settings.limit_batches = batches.into();
        self
    }

    /// Name of the split that is evaluated after each epoch; `valid` by default.
    pub fn evaluated_as(mut self, split: impl Into<String>) -> Self {
        self.settings.evaluated = split.into();
        self
    }

    /// The metric that decides which epoch is the best, such as `valid/accuracy`; by default the loss of the split that is
    /// evaluated.
    pub fn monitor(mut self, metric: impl Into<String>) -> Self {
        self.settings.monitor = Some(metric.into());
        self
    }

    /// Ends training after so many epochs without a better one.
    pub fn patience(mut self, epochs: impl Into<Option<usize>>) -> Self {
        self.settings.patience = epochs.into();
        self
    }

    /// Keeps the last epoch's weights instead of the best epoch's.
    pub fn keep_last(mut self) -> Self {
        self.settings.keeps_last = true;
        self
    }

    /// Scales gradients so that their norm, all taken together, is at most this.
    pub fn clip_norm(mut self, norm: impl Into<Option<f64>>) -> Self {
        self.settings.clip_norm = norm.into();
        self
    }

    /// Computes each batch in so many parts, one after the other, whose gradients are accumulated: the same step with less
    /// memory, but for rounding and for the statistics of batch norms.
    pub fn accumulate(mut self, micro_batches: usize) -> Self {
        self.settings.micro_batches = micro_batches;
        self
    }

    /// Keeps an exponential moving average of the trainable parameters with this decay for each step, starting from the
    /// initial ones. With `evaluate`, evaluations and the run's final weights are those.
    pub fn ema(mut self, decay: impl Into<Option<f64>>, evaluate: bool) -> Self {
        (self.settings.ema_decay, self.settings.ema_evaluate) = (decay.into(), evaluate);
        self
    }

    /// Writes statistics of the gradients of the first steps into the step log.
    pub fn gradient_steps(mut self, steps: impl Into<Option<usize>>) -> Self {
        self.settings.gradient_steps = steps.into();
        self
    }

    /// Prepares batches ahead on so many threads, for sources that decode. The batches do not depend on it.
    pub fn workers(mut self, threads: usize) -> Self {
        self.settings.workers = threads;
        self
    }

    /// Reads the losses from the device every so many steps; by default each step's at once where tensors are in the
    /// program's memory, and elsewhere as many as take 100 ms, 64 at most.
    ///
    /// The run's log, record, weights and callbacks do not depend on it, only when they are told: a loss that is not finite
    /// is found that late and recorded at its own step, and a stop that a callback asks for comes after the steps that
    /// were taken meanwhile.
    pub fn read_every(mut self, steps: impl Into<Option<usize>>) -> Self {
        self.settings.read_every = steps.into();
        self
    }

    /// Records a step of plain stochastic gradient descent on the device and repeats it, on backends that can (Burn's wgpu,
    /// vulkan, metal, cuda and rocm), so that the host no longer submits its operations one by one. The run's results have
    /// the same bits: the first two steps are taken both ways, and where they differ, as with another optimizer or with
    /// dropout, the run ends with an error. Batches of another size than the whole ones are taken without it.
    pub fn graph(mut self) -> Self
    where
        T::Batch: FixedBatch,
    {
        self.graph = Some(|device| Box::new(Graph::new(device)));
        self
    }

    /// Where to train.
    pub fn on(mut self, place: Place) -> Self {
        self.host.place = place;
        self
    }

    /// Where to train, and what shows and stops it.
    pub fn host(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// Stops the run after the current step when it is asked to.
    pub fn interrupter(mut self, interrupter: Interrupter) -> Self {
        self.host.interrupter = interrupter;
        self
    }

    /// Shows burn-train's dashboard.
    #[cfg(feature = "tui")]
    pub fn dashboard(mut self) -> Self {
        let interrupter = self.host.interrupter.clone();
        self.host.renderer = Box::new(move |done| {
            let done = (done > 0).then_some(done);
            Box::new(burn::train::renderer::tui::TuiMetricsRendererWrapper::new(interrupter, done))
        });
        self.host.on_event = Box::new(|_| ());
        self
    }

    /// Shows nothing.
    pub fn silent(mut self) -> Self {
        self.host = Host { program_start: self.host.program_start, ..Host::silent(self.host.place) };
        self
    }

    /// The config to store in `run.json`, which the trainer does not interpret; by default its own settings. Reports take runs
    /// whose configs differ in `training.seed` alone for repetitions of one another.
    pub fn config(mut self, config: &impl Serialize) -> Self {
        self.config = Some(match serde_json::to_value(config) {
            Ok(Value::Object(object)) => Ok(object),
            other => Err(TrainingError::Setting {
                name: "config",
                wanted: "a struct or map with named values".to_owned(),
                found: other.map_or_else(|error| error.to_string(), |value| value.to_string()),
            }),
        });
        self
    }

    /// The data set's entry in `run.json`; by default the sources' lengths and digests.
    pub fn dataset(mut self, dataset: DatasetRecord) -> Self {
        self.dataset = Some(dataset);
        self
    }

    /// The weights from elsewhere that the task has already, for `run.json` and
    /// [`Event::InitialWeights`](crate::Event::InitialWeights): see [`weights::transfer`](crate::weights::transfer).
    ///
    /// [`resume`](Self::resume) keeps what the run's record says.
    pub fn initial_weights(mut self, record: InitialWeightsRecord) -> Self {
        self.initial_weights = Some(record);
        self
    }

    /// Entries of `model.safetensors`'s metadata beside `format: pt`, such as the names of the classes.
    pub fn weights_metadata(mut self, entries: BTreeMap<String, String>) -> Self {
        self.settings.weights_metadata = entries;
        self
    }

    /// A split on which the final weights are evaluated once, at the end.
    pub fn test(mut self, source: impl Source<Batch = T::Batch> + 'static) -> Self {
        self.test = Some(Arc::new(source));
        self
    }

    /// Shows one of burn-train's own metrics in the dashboard beside the task's, such as the CPU load.
    pub fn metric(mut self, metric: impl BurnMetric<Input = ()> + Numeric + 'static) -> Self {
        self.metrics.push(add_metric(metric));
        self
    }

    /// Calls `callback` after each step, when its loss is [read](Self::read_every); a reason to stop interrupts the run, which
    /// can be resumed.
    pub fn on_step(mut self, callback: impl FnMut(&StepRecord) -> ControlFlow<String> + 'static) -> Self {
        self.on_step.push(Box::new(callback));
        self
    }

    /// Calls `callback` after each epoch; a reason to stop ends the run as early stopping does.
    pub fn on_epoch(mut self, callback: impl FnMut(&EpochRecord) -> ControlFlow<String> + 'static) -> Self {
        self.on_epoch.push(Box::new(callback));
        self
    }

    /// How the training samples are cut into batches.
    pub(crate) fn plan(&self) -> Plan {
        let Settings { batch_size, limit_batches: limit, seed, is_shuffled, .. } = self.settings;
        let order = if is_shuffled { Order::Shuffled { seed } } else { Order::File };
        Plan { batch_size, limit, order }
    }

    /// The config that the run's record keeps.
    pub(crate) fn take_config(&mut self) -> Result<Map<String, Value>, TrainingError> {
        self.config.take().unwrap_or_else(|| {
            let settings = &self.settings;
            let own = json!({
                "optimizer": { "learning_rate": self.rates.shown },
                "schedule": { "name": self.schedule.to_string() },
                "training": {
                    "epochs": settings.epochs, "batch_size": settings.batch_size, "seed": settings.seed,
                    "order": if settings.is_shuffled { "shuffled" } else { "file" },
                    "limit_batches": settings.limit_batches, "clip_norm": settings.clip_norm,
                    "accumulate": settings.micro_batches, "patience": settings.patience,
                    "ema_decay": settings.ema_decay, "ema_evaluate": settings.ema_evaluate,
                },
            });
            Ok(own.as_object().cloned().unwrap_or_default())
        })
    }

    /// Checks the settings by themselves.
    pub(crate) fn check(&self) -> Result<Monitor, TrainingError> {
        let settings = &self.settings;
        let fails =
            |name, wanted: &str, found: String| Err(TrainingError::Setting { name, wanted: wanted.to_owned(), found });
        let counts = [
            ("epochs", Some(settings.epochs)),
            ("batch_size", Some(settings.batch_size)),
            ("limit_batches", settings.limit_batches),
            ("patience", settings.patience),
            ("accumulate", Some(settings.micro_batches)),
            ("read_every", settings.read_every),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return fails(name, "at least 1", "0".to_owned());
        }
        let devices = self.host.place.devices.len();
        if devices == 0 {
            return fails("devices", "at least one", "none".to_owned());
        }
        if settings.micro_batches > settings.batch_size {
            let wanted = format!("at most the {} samples of a batch", settings.batch_size);
            return fails("accumulate", &wanted, settings.micro_batches.to_string());
        }
        if settings.batch_size < devices {
            let wanted = format!("at least one sample for each of the {devices} devices");
            return fails("batch_size", &wanted, settings.batch_size.to_string());
        }
        if self.graph.is_some() {
            check_graph([
                ("several devices", devices > 1),
                ("`accumulate`", settings.micro_batches > 1),
                ("`clip_norm`", settings.clip_norm.is_some()),
                ("`ema`", settings.ema_decay.is_some()),
                ("`gradient_steps`", settings.gradient_steps.is_some()),
                ("`workers`", settings.workers > 0),
            ])?;
        } else if self.host.place.graph {
            return fails("graph", "a trainer with a graph", "one without".to_owned());
        }
        if let Some(norm) = settings.clip_norm.filter(|norm| !(norm.is_finite() && *norm > 0.0)) {
            return fails("clip_norm", "a finite number above 0", norm.to_string());
        }
        if let Some(decay) = settings.ema_decay.filter(|decay| !(0.0..1.0).contains(decay)) {
            return fails("ema", "a decay from 0 up to, but not, 1", decay.to_string());
        }
        let Some(loss) = T::METRICS.first() else {
            return fails("metrics", "a task with a loss", "none".to_owned());
        };
        let name = settings.monitor.clone().unwrap_or_else(|| format!("{}/{}", settings.evaluated, loss.name));
        let splits = ["train", &settings.evaluated];
        let pairs = splits.iter().flat_map(|split| T::METRICS.iter().map(move |metric| (split, metric)));
        let known = pairs.map(|(split, metric)| (format!("{split}/{}", metric.name), metric));
        if let Some((_, metric)) = known.clone().find(|(known, _)| *known == name) {
            return Ok(Monitor { name, higher_is_better: metric.higher_is_better });
        }
        let names: Vec<_> = known.map(|(name, _)| format!("`{name}`")).collect();
        fails("monitor", &format!("one of {}", names.join(", ")), format!("`{name}`"))
    }
}
