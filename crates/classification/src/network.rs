use std::marker::PhantomData;

use burn::tensor::Device;
use kindling_config::{Config, ConfigError, Section};
use kindling_data::ImageData;
use kindling_models::{ImageShape, LayerSummary, NetworkConfig};
use kindling_record::{RunDirectory, RunRecord};
use kindling_training::{
    Host, Order, Place, TrainingError, batches, contained,
    weights::{Rename, WeightsFile},
};
use serde_json::{Map, Value};

use crate::{
    CheckDevice, CheckResult, ClassificationError, Evaluation, Imported, LearningRateRange, Prediction, RangeTest,
    ReferenceStep, TrainedNetwork, Views, Workload, WorkloadConfig,
    evaluation::evaluate_each,
    fit, imported, lr_range, reference_step,
    run::{self, Start},
    sanity,
    splits::{check_data, image_shape, recorded_normalization, source},
    workload,
};

/// A network that a config can name, with everything that can be done with it, whatever its type.
///
/// Each method takes the network's keys from the config's section `network` and contains panics of the backend: they
/// are errors. A `device` has no autodiff; with it goes how many bytes it takes in one piece, where that is known.
pub trait AnyNetwork: Send + Sync {
    /// Name in configs.
    fn name(&self) -> &str;

    /// The name, the complete default keys and their help, for the registry of configs.
    fn section(&self) -> Section;

    /// Whether these keys, complete as in a config, are values that the network's type takes.
    ///
    /// # Errors
    /// When one is not, with its path.
    fn check_keys(&self, keys: &Map<String, Value>) -> Result<(), ConfigError>;

    /// The layers of the network with these keys, from the network itself; nothing is allocated on `device`.
    ///
    /// # Errors
    /// When the keys make no network for such images.
    fn layers(
        &self,
        keys: &Map<String, Value>,
        shape: ImageShape,
        device: &Device,
    ) -> Result<Vec<LayerSummary>, ClassificationError>;

    /// Checks that `data` and `place` can carry the run: what [`train`](Self::train) would say before its first step.
    ///
    /// # Errors
    /// When the network cannot take the images, training it takes more memory than there is, there are too few images
    /// for a validation split, or too few in a batch for every device to get one.
    fn check(&self, config: &Config, data: &ImageData, place: &Place) -> Result<(), ClassificationError>;

    /// Trains what `config` describes on `data` and leaves everything in `directory`, which must be new. The config's
    /// weights are the path of a file.
    ///
    /// The record's status says how it ended: finished, interrupted or diverged.
    ///
    /// # Errors
    /// When the directory holds another run, of which nothing is touched; when [`check`](Self::check) finds something;
    /// and when something fails: unless it is the directory that does, the record then says `failed` and why.
    fn train(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        host: Host,
    ) -> Result<RunRecord, ClassificationError>;

    /// Resumes the run in `directory`; `config` is its record's. With another number of epochs it trains a finished run
    /// further, where the schedule allows it.
    ///
    /// # Errors
    /// As [`train`](Self::train), and when another process writes the run, its checkpoints are damaged or gone, it was
    /// begun on other data, or it cannot be trained further.
    fn resume(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        host: Host,
    ) -> Result<RunRecord, ClassificationError>;

    /// Tests the weights of the finished run in `directory`, with the views of its config as the run itself did at its
    /// end: its metrics, and what the network makes of each test image in the file's order.
    ///
    /// # Errors
    /// When the weights cannot be read, the run was tested on other data, or the device fails.
    fn test(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        views: &Views,
        device: (&Device, Option<u64>),
    ) -> Result<(Evaluation, Vec<Prediction>), ClassificationError>;

    /// The network with the weights of the run in `directory`, for images of this shape.
    ///
    /// # Errors
    /// When the weights cannot be read or are for images of another shape, or the device fails.
    fn trained(
        &self,
        config: &Config,
        directory: &RunDirectory,
        shape: ImageShape,
        device: &Device,
    ) -> Result<Box<dyn TrainedNetwork>, ClassificationError>;

    /// The network with the tensors of `file`, whose names are read as `renames` say; what it lacks is drawn from the
    /// config's seed. The classes and the normalization are those of `data`.
    ///
    /// # Errors
    /// When the network cannot take the images, a tensor cannot be read, or the device fails.
    fn import(
        &self,
        config: &Config,
        data: &ImageData,
        file: &WeightsFile,
        renames: &[Rename],
        device: &Device,
    ) -> Result<Imported, ClassificationError>;

    /// Checks whether the network can learn from `data`; each result is told as it is found.
    ///
    /// # Errors
    /// When the network cannot take the images, or the device fails.
    fn sanity_checks(
        &self,
        config: &Config,
        data: &ImageData,
        device: CheckDevice<'_>,
        on_check: &mut dyn FnMut(&CheckResult),
    ) -> Result<Vec<CheckResult>, ClassificationError>;

    /// Trains with a learning rate that grows from step to step, and finds where the loss falls fastest.
    ///
    /// # Errors
    /// When the range makes no sense, the network cannot take the images, or the device fails.
    fn lr_range_test(
        &self,
        config: &Config,
        data: &ImageData,
        device: (&Device, Option<u64>),
        range: LearningRateRange,
    ) -> Result<RangeTest, ClassificationError>;

    /// Makes steps on random images that can be timed.
    ///
    /// # Errors
    /// When the network cannot take the images, or the device fails.
    fn workload(
        &self,
        config: &Config,
        workload: WorkloadConfig,
        device: (&Device, Option<u64>),
    ) -> Result<Box<dyn Workload>, ClassificationError>;

    /// Takes one training step on a batch of `images` random images of this shape, and returns all of its numbers.
    ///
    /// # Errors
    /// When the network cannot take the images, or the device fails.
    fn reference_step(
        &self,
        config: &Config,
        shape: ImageShape,
        images: usize,
        device: &Device,
    ) -> Result<ReferenceStep, ClassificationError>;
}

/// Registers a network under `name`; the fields of `config` are the defaults of its keys.
///
/// # Panics
/// When `config` is neither a struct with named fields nor one without fields, or [`NetworkConfig::HELP`] names a key
/// that is none of them.
#[must_use]
pub fn network<C: NetworkConfig>(name: &str, config: &C) -> Box<dyn AnyNetwork> {
    Box::new(Registered::<C> { section: Section::of(name, config, C::HELP), config: PhantomData })
}

/// A network's name and its default keys.
struct Registered<C> {
    section: Section,
    config: PhantomData<fn() -> C>,
}

impl<C: NetworkConfig> Registered<C> {
    /// The network that these keys describe.
    fn parsed(&self, keys: &Map<String, Value>) -> Result<C, ClassificationError> {
        Ok(self.section.parsed("network", keys)?)
    }

    /// Hands a run that can be carried to `work`.
    fn run(
        &self,
        config: &Config,
        data: &ImageData,
        host: Host,
        start: Start<'_>,
        work: impl FnOnce(run::Run<C>) -> Result<RunRecord, TrainingError>,
    ) -> Result<RunRecord, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| {
            fit::check_host(&network, config, data, &host.place)?;
            Ok(work(run::prepare(&network, config, data, host, start)?)?)
        })
    }
}

/// Runs `work`, and makes an error of a panic: Burn panics where a backend fails.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ClassificationError>) -> Result<T, ClassificationError> {
    contained(|| Ok(work()))?
}

impl<C: NetworkConfig> AnyNetwork for Registered<C> {
    fn name(&self) -> &str {
        &self.section.name
    }

    fn section(&self) -> Section {
        self.section.clone()
    }

    fn check_keys(&self, keys: &Map<String, Value>) -> Result<(), ConfigError> {
        self.section.parsed::<C>("network", keys).map(drop)
    }

    fn layers(
        &self,
        keys: &Map<String, Value>,
        shape: ImageShape,
        device: &Device,
    ) -> Result<Vec<LayerSummary>, ClassificationError> {
        let network = self.parsed(keys)?;
        // With autodiff, so that parameters which are no longer lazy are known as such.
        guarded(|| Ok(kindling_models::layers(&network.init(shape, 0, &device.clone().autodiff())?)))
    }

    fn check(&self, config: &Config, data: &ImageData, place: &Place) -> Result<(), ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| fit::check(&network, config, data, place))
    }

    fn train(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        host: Host,
    ) -> Result<RunRecord, ClassificationError> {
        let start = Start::New(config.training.weights.as_deref());
        self.run(config, data, host, start, |(trainer, train, evaluated)| trainer.fit(directory, train, evaluated))
    }

    fn resume(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        host: Host,
    ) -> Result<RunRecord, ClassificationError> {
        check_data(&directory.read_record()?, data)?;
        self.run(config, data, host, Start::Checkpoint, |(trainer, train, evaluated)| {
            trainer.resume(directory, train, evaluated)
        })
    }

    fn test(
        &self,
        config: &Config,
        data: &ImageData,
        directory: &RunDirectory,
        views: &Views,
        (device, largest): (&Device, Option<u64>),
    ) -> Result<(Evaluation, Vec<Prediction>), ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        let record = directory.read_record()?;
        check_data(&record, data)?;
        guarded(|| {
            let network = run::trained(&network, config, image_shape(data), directory, device)?;
            let normalization = recorded_normalization(config, &record, data.train.channels())?;
            let test = source(config, data, data.test.clone(), "test", &normalization, largest);
            let (batch_size, limit) = (config.training.batch_size, config.training.limit_batches);
            Ok(evaluate_each(&network, views, &mut batches(&test, batch_size, limit, Order::File, 0, device))?)
        })
    }

    fn trained(
        &self,
        config: &Config,
        directory: &RunDirectory,
        shape: ImageShape,
        device: &Device,
    ) -> Result<Box<dyn TrainedNetwork>, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| Ok(Box::new(run::trained(&network, config, shape, directory, device)?) as Box<dyn TrainedNetwork>))
    }

    fn import(
        &self,
        config: &Config,
        data: &ImageData,
        file: &WeightsFile,
        renames: &[Rename],
        device: &Device,
    ) -> Result<Imported, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| imported::import(&network, config, data, file, renames, device))
    }

    fn sanity_checks(
        &self,
        config: &Config,
        data: &ImageData,
        device: CheckDevice<'_>,
        on_check: &mut dyn FnMut(&CheckResult),
    ) -> Result<Vec<CheckResult>, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| sanity::sanity_checks(&network, config, data, device, on_check))
    }

    fn lr_range_test(
        &self,
        config: &Config,
        data: &ImageData,
        device: (&Device, Option<u64>),
        range: LearningRateRange,
    ) -> Result<RangeTest, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| lr_range::lr_range_test(&network, config, data, device, range))
    }

    fn workload(
        &self,
        config: &Config,
        workload: WorkloadConfig,
        (device, largest): (&Device, Option<u64>),
    ) -> Result<Box<dyn Workload>, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| workload::workload(&network, config, workload, device, largest))
    }

    fn reference_step(
        &self,
        config: &Config,
        shape: ImageShape,
        images: usize,
        device: &Device,
    ) -> Result<ReferenceStep, ClassificationError> {
        let network = self.parsed(&config.network.keys)?;
        guarded(|| reference_step::reference_step(&network, config, shape, images, device))
    }
}
