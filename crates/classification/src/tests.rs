//! Whole runs on few small images: stopped anywhere, resumed, and compared with runs that are never stopped.

mod adapting;
mod colour;

use std::{fs, sync::LazyLock};

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use kindling_config::{Config, Sampler};
use kindling_data::{ImageData, ImageSet, synthetic};
use kindling_models::{CnnConfig, ImageShape, MlpConfig, ModelError, Network, NetworkConfig};
use kindling_record::{EpochRecord, RunDirectory, RunStatus, TestRecord};
use kindling_training::{Event, Host, Order, Place, TrainingError, weights};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{AnyNetwork, ClassificationError, Predictor, Views, WorkloadConfig, fixtures, network, run::fresh};

const OPTIMIZERS: [&str; 5] = ["sgd", "momentum", "adam", "adamw", "muon"];
const SCHEDULES: [&str; 4] = ["constant", "step", "cosine", "one-cycle"];
const PROTOCOLS: [&str; 2] = ["validated", "assignment"];

/// Every third row and column of the first drawn shapes: 10x10 pixels, 84 images to train on, 30 to test on.
static SHAPES: LazyLock<ImageData> = LazyLock::new(|| {
    let mut drawn = synthetic::draw();
    let small = |set: &ImageSet, count: usize| {
        let pixels = (0..count).flat_map(|index| {
            let rows = set.image(index).chunks(28).step_by(3);
            rows.flat_map(|row| row.iter().copied().step_by(3))
        });
        ImageSet::new(pixels.collect(), set.labels()[..count].to_vec(), [1, 10, 10]).unwrap()
    };
    let (train, test) = (small(&drawn.train, 84), small(&drawn.test, 30));
    drawn.train = train;
    drawn.test = test;
    drawn
});

/// A directory in memory, where the system has such a place: runs reach the disk after each epoch.
fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn new_run(place: &TempDir) -> RunDirectory {
    RunDirectory::create(place.path(), "run").unwrap()
}

/// A host that stops the run after so many batches.
fn stopping(batches: usize) -> Host {
    let mut host = patient();
    let stop = host.interrupter.clone();
    let mut seen = 0;
    host.on_event = Box::new(move |event| {
        if let Event::Step { .. } = event {
            seen += 1;
            if seen == batches {
                stop.stop(None);
            }
        }
    });
    host
}

/// A host that never stops the run.
fn patient() -> Host {
    Host::silent(Place::new(Device::flex()))
}

/// What a run leaves that a resumed one must leave as well.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: RunStatus,
    weights: Vec<u8>,
    steps: Vec<u8>,
    epochs: Vec<EpochRecord>,
    best_epoch: Option<usize>,
    test: Option<TestRecord>,
    frozen: Vec<String>,
}

fn outcome(directory: &RunDirectory) -> Outcome {
    let record = directory.read_record().unwrap();
    let without_times =
        |epoch: EpochRecord| EpochRecord { seconds: 0.0, samples_per_second: 0.0, evaluation_seconds: 0.0, ..epoch };
    Outcome {
        status: record.status,
        weights: fs::read(directory.weights()).unwrap(),
        steps: fs::read(directory.steps()).unwrap(),
        epochs: record.epochs.into_iter().map(without_times).collect(),
        best_epoch: record.best_epoch,
        test: record.test,
        frozen: record.frozen,
    }
}

fn small(name: &str) -> Box<dyn AnyNetwork> {
    match name {
        "mlp" => network("mlp", &MlpConfig { hidden: vec![8, 6] }),
        _ => network("cnn", &CnnConfig { channels: vec![2, 3], hidden: 4 }),
    }
}

/// A config with everything that a resume could lose: moments, statistics of batch norms, a place in the schedule, in the
/// order and in the augmentations.
fn config(name: &str, optimizer: &str, schedule: &str, protocol: &str, augment: &[&str], training: Value) -> Config {
    let mut choice = small(name).section().keys;
    choice.insert("name".to_owned(), name.into());
    let mut all = json!({ "epochs": 3, "batch_size": 4, "limit_batches": 3 });
    let Value::Object(training) = training else { panic!("the section is an object") };
    all.as_object_mut().unwrap().extend(training);
    fixtures::config(json!({
        "network": choice, "data": { "name": "synthetic", "augment": augment }, "optimizer": optimizer,
        "schedule": schedule, "protocol": protocol, "training": all,
    }))
}

/// What comes of a run that is never stopped.
fn whole(place: &TempDir, network: &dyn AnyNetwork, config: &Config) -> Outcome {
    let directory = new_run(place);
    network.train(config, &SHAPES, &directory, patient()).unwrap();
    outcome(&directory)
}

prop_compose! {
    fn configs()(
        // Most are small: the others take as long as ten of these.
        name in prop::sample::select(vec!["mlp", "mlp", "mlp", "cnn"]),
        optimizer in prop::sample::select(OPTIMIZERS.to_vec()),
        schedule in prop::sample::select(SCHEDULES.to_vec()),
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
        augment in prop::sample::subsequence(vec!["shift", "flip", "rotate", "erase", "mixup", "cutmix"], 0..=3),
        clip_norm in prop::option::of(0.05..2.0_f64),
        label_smoothing in prop::sample::select(vec![0.0, 0.2]),
        ema_decay in prop::option::of(0.1..0.9_f64),
        (accumulate, batch_size, seed) in (1_usize..3, 3_usize..20, any::<u64>()),
        (class_weights, is_balanced) in (prop::option::of(Just("balanced")), any::<bool>()),
    ) -> Config {
        let training = json!({
            "clip_norm": clip_norm, "label_smoothing": label_smoothing, "ema_decay": ema_decay,
            "ema_evaluate": ema_decay.is_some(), "accumulate": accumulate, "batch_size": batch_size, "seed": seed,
            "class_weights": class_weights,
        });
        let mut config = config(name, optimizer, schedule, protocol, &augment, training);
        config.data.sampler = if is_balanced { Sampler::Balanced } else { Sampler::Uniform };
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(
        config in configs(), stops in prop::collection::vec(1_usize..20, 0..=3),
    ) {
        let (place, network) = (place(), small(&config.network.name));
        let directory = new_run(&place);
        let mut hosts = stops.into_iter().map(stopping).chain([patient()]);
        let mut status = network.train(&config, &SHAPES, &directory, hosts.next().unwrap()).unwrap().status;
        for host in hosts {
            status = network.resume(&config, &SHAPES, &directory, host).unwrap().status;
        }
        prop_assert_eq!(status, RunStatus::Finished);
        prop_assert!(outcome(&directory) == whole(&place, &*network, &config));
    }
}

#[test]
fn a_run_keeps_what_its_images_and_its_network_were() {
    let (place, mlp) = (place(), small("mlp"));
    let directory = new_run(&place);
    let config = config("mlp", "sgd", "constant", "assignment", &[], json!({}));
    let record = mlp.train(&config, &SHAPES, &directory, patient()).unwrap();
    let images = record.dataset.images.as_ref().unwrap();
    assert_eq!((images.height, images.width, images.background), (10, 10, SHAPES.train.background()));
    assert_eq!((images.channels, &images.pixel_mean, &images.pixel_std), (1, &vec![0.0], &vec![1.0]));
    let counts = [&images.counts.train, &images.counts.valid, &images.counts.test].map(|it| it.iter().sum::<usize>());
    assert_eq!(counts, [84, 0, 30]);
    assert_eq!((record.dataset.train, record.dataset.valid, record.dataset.test), (12, 0, 12));
    assert_eq!((record.model.as_str(), record.monitor.as_str()), ("mlp", "test/loss"));
    assert_eq!(record.parameters, 100 * 8 + 8 + 8 * 6 + 6 + 6 * 10 + 10);
    assert_eq!(record.config, config.to_object());
    let names: Vec<_> = record.metrics.iter().map(|metric| (metric.name.as_str(), metric.higher_is_better)).collect();
    assert_eq!(names, [("loss", false), ("accuracy", true)]);
    // The last epoch's metrics are those of the test, which has the confusion matrix as well.
    let (epoch, test) = (record.epochs.last().unwrap(), record.test.as_ref().unwrap());
    assert_eq!(epoch.get("test/accuracy"), test.get("accuracy"));
    assert_eq!(test.confusion.as_ref().unwrap().iter().flatten().sum::<usize>(), 12);

    // The weights that it leaves give the same metrics, and a row of probabilities for each image.
    let device = Device::flex();
    let own = Views::of(&config);
    let (evaluation, predictions) = mlp.test(&config, &SHAPES, &directory, &own, (&device, None)).unwrap();
    assert_eq!(TestRecord::from(evaluation), *test);
    assert_eq!(predictions.len(), 12);
    let predictor = Predictor::open(&*mlp, &config, &record, &directory, (&device, None)).unwrap();
    let rows = predictor.probabilities(&SHAPES.test).unwrap();
    assert_eq!((rows.len(), rows[0].len()), (30, 10));
    let mut other = SHAPES.clone();
    other.sha256 = "another".to_owned();
    let refused = mlp.test(&config, &other, &directory, &own, (&device, None)).unwrap_err();
    assert!(matches!(refused, ClassificationError::Training(TrainingError::OtherData { .. })), "{refused}");
}

#[test]
fn a_finished_run_trained_further_ends_as_one_that_was_planned_so() {
    let (place, mlp) = (place(), small("mlp"));
    let planned =
        |epochs: usize| config("mlp", "adam", "constant", "validated", &["flip"], json!({ "epochs": epochs }));
    let directory = new_run(&place);
    mlp.train(&planned(2), &SHAPES, &directory, patient()).unwrap();
    mlp.resume(&planned(3), &SHAPES, &directory, patient()).unwrap();
    assert!(outcome(&directory) == whole(&place, &*mlp, &planned(3)));
}

#[test]
fn training_that_does_not_fit_is_refused_before_anything_is_written() {
    let (place, mlp) = (place(), small("mlp"));
    let directory = new_run(&place);
    let mut host = patient();
    host.place.memory = Some(1000);
    let config = config("mlp", "sgd", "constant", "validated", &[], json!({}));
    let error = mlp.train(&config, &SHAPES, &directory, host).unwrap_err();
    assert!(matches!(error, ClassificationError::Training(TrainingError::CannotFit { .. })), "{error}");
    assert!(directory.is_new());
}

#[test]
fn steps_on_random_images_can_be_timed() {
    let config = config("mlp", "sgd", "constant", "validated", &[], json!({}));
    for trains in [true, false] {
        let workload = WorkloadConfig {
            shape: ImageShape { channels: 3, height: 4, width: 2, classes: 10 },
            batch_size: 16_384,
            trains,
            order: Order::File,
            kernels: kindling_kernels::Kernels::Auto,
        };
        let mut workload = small("mlp").workload(&config, workload, (&Device::flex(), None)).unwrap();
        assert_eq!(workload.images(), 16_384);
        // More than an epoch's two.
        assert!(!workload.run(3).unwrap().is_zero());
    }
}

/// A user's network, of Burn's own layers.
#[derive(Clone, Serialize, Deserialize)]
struct OwnConfig {
    width: usize,
}

#[derive(Module, Debug)]
struct Own {
    first: Linear,
    last: Linear,
}

impl Network for Own {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = images.flatten::<2>(1, 3); // [batch, pixels]
        self.last.forward(burn::tensor::activation::relu(self.first.forward(x)))
    }
}

impl NetworkConfig for OwnConfig {
    type Network = Own;

    fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Own, ModelError> {
        if self.width == 0 {
            return Err(ModelError::Invalid("width must be at least 1 (got 0)".to_owned()));
        }
        let pixels = shape.channels * shape.height * shape.width;
        Ok(Own {
            first: LinearConfig::new(pixels, self.width).init(device),
            last: LinearConfig::new(self.width, shape.classes).init(device),
        })
    }
}

#[test]
fn weights_that_burn_draws_are_decided_by_the_seed() {
    // Burn has one generator for all threads: in a process of its own no other test draws from it meanwhile.
    const ALONE: &str = "KINDLING_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "tests::weights_that_burn_draws_are_decided_by_the_seed";
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args([name, "--exact"]).env(ALONE, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let start = |seed: u64| {
        let config = config("mlp", "sgd", "constant", "validated", &[], json!({ "seed": seed }));
        let device = Device::flex().autodiff();
        let model = fresh(&OwnConfig { width: 5 }, &config, &SHAPES, &SHAPES.train, &device).unwrap();
        weights::write(&model.network.valid(), "").unwrap()
    };
    assert!(start(1) == start(1));
    assert!(start(1) != start(2));
}

#[test]
fn keys_that_make_no_network_are_an_error_that_names_it() {
    let own = network("own", &OwnConfig { width: 3 });
    let keys = |width: usize| json!({ "width": width }).as_object().unwrap().clone();
    let layers = |width: usize| own.layers(&keys(width), ImageShape::MNIST, &Device::flex());
    let found: Vec<_> = layers(4).unwrap().into_iter().map(|layer| (layer.name, layer.parameters)).collect();
    assert_eq!(found, [("first".to_owned(), 784 * 4 + 4), ("last".to_owned(), 4 * 10 + 10)]);
    assert_eq!(layers(0).unwrap_err().to_string(), "width must be at least 1 (got 0)");
    let wrong = own.layers(json!({ "width": "wide" }).as_object().unwrap(), ImageShape::MNIST, &Device::flex());
    let message = wrong.unwrap_err().to_string();
    assert!(message.starts_with("config: network.width: invalid type: string \"wide\""), "{message}");
}
