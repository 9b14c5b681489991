//! Whole runs on few small images: stopped anywhere, resumed, and compared with runs that are never stopped.

mod damaged;

use std::{cell::RefCell, fs, path::Path, rc::Rc, sync::LazyLock, time::Instant};

use burn::{tensor::Device, train::Interrupter};
use kindling_data::{ImageData, ImageSet, synthetic};
use kindling_models::ModelName;
use kindling_record::{EpochRecord, MachineRecord, RunDirectory, RunRecord, RunStatus, TestRecord};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    AugmentationName, Event, ExperimentConfig, Host, OptimizerName, Phase, Protocol, ScheduleName, Settings, Silent,
    TrainingError, resume, train,
};

const OPTIMIZERS: [OptimizerName; 5] =
    [OptimizerName::Sgd, OptimizerName::Momentum, OptimizerName::Adam, OptimizerName::Adamw, OptimizerName::Muon];
const SCHEDULES: [ScheduleName; 4] =
    [ScheduleName::Constant, ScheduleName::Step, ScheduleName::Cosine, ScheduleName::OneCycle];

/// Every third row and column of the first drawn shapes: 10x10 pixels, 84 images to train on, 30 to test on.
pub(crate) static SHAPES: LazyLock<ImageData> = LazyLock::new(|| {
    let drawn = synthetic::draw();
    let small = |set: &ImageSet, count: usize| {
        let pixels = set.pixels().chunks(28 * 28).take(count).flat_map(|image| {
            let rows = image.chunks(28).step_by(3);
            rows.flat_map(|row| row.iter().copied().step_by(3))
        });
        ImageSet::new(pixels.collect(), set.labels()[..count].to_vec(), 10, 10).unwrap()
    };
    ImageData { train: small(&drawn.train, 84), test: small(&drawn.test, 30), ..drawn }
});

/// A record of so many epochs.
pub(crate) fn record(epochs: usize, best_epoch: Option<usize>) -> RunRecord {
    let epoch = |epoch: usize| {
        json!({
            "epoch": epoch, "train_loss": 0.1 * epoch as f64, "train_accuracy": 0.5, "learning_rate": 0.1, "seconds": 1.0,
            "images_per_second": 64.0, "evaluation_seconds": 0.1,
        })
    };
    let record = json!({
        "schema": kindling_record::SCHEMA, "id": "mlp", "status": "running", "started": "2026-01-02T03:04:05Z",
        "parts": [], "config": { "model": "mlp" }, "backend": "flex", "device": "a processor", "versions": {},
        "machine": { "platform": "linux x86_64", "processor": null, "threads": 2 },
        "dataset": {
            "name": "synthetic", "source": null, "sha256": "00ff", "protocol": "validated", "train": 256, "valid": 64,
            "test": 64, "classes": [], "height": 10, "width": 10, "background": 0,
        },
        "model": "mlp", "parameters": 1, "epochs": (1..=epochs).map(epoch).collect::<Vec<_>>(), "best_epoch": best_epoch,
        "stopped_early": null, "test": null, "seconds": 5.0, "images_per_second": null,
        "timings": {
            "start_up_seconds": 0.0, "compilation_seconds": 0.0, "training_seconds": 4.0, "evaluation_seconds": 1.0,
            "checkpoint_seconds": 0.0,
        },
        "diverged": null, "error": null,
    });
    serde_json::from_value(record).unwrap()
}

/// A directory in memory, where the system has such a place: runs reach the disk after each epoch.
pub(crate) fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Changes the byte in the middle.
pub(crate) fn alter(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn host(interrupter: &Interrupter, on_event: impl FnMut(Event<'_>) + 'static) -> Host {
    Host {
        devices: vec![Device::flex()],
        largest_tensor: None,
        memory: None,
        compiles_kernels: false,
        backend: "flex".to_owned(),
        device_name: "a processor".to_owned(),
        kernels: "fused".to_owned(),
        instructions: "none".to_owned(),
        machine: MachineRecord { platform: "linux x86_64".to_owned(), processor: None, threads: 1 },
        interrupter: interrupter.clone(),
        renderer: Box::new(|_| Box::new(Silent)),
        on_event: Box::new(on_event),
        program_start: Instant::now(),
    }
}

/// A host that stops the run after so many batches for which `counts`.
fn stopping(batches: usize, counts: impl Fn(Phase) -> bool + 'static) -> Host {
    let interrupter = Interrupter::new();
    let stop = interrupter.clone();
    let mut seen = 0;
    host(&interrupter, move |event| {
        if let Event::Step { phase } = event {
            seen += usize::from(counts(phase));
            if seen == batches {
                stop.stop(None);
            }
        }
    })
}

/// A host that never stops the run.
fn patient() -> Host {
    host(&Interrupter::new(), |_| {})
}

/// What a run leaves that a resumed one must leave as well.
#[derive(PartialEq)]
struct Outcome {
    status: RunStatus,
    weights: Vec<u8>,
    steps: Vec<u8>,
    epochs: Vec<EpochRecord>,
    best_epoch: Option<usize>,
    stopped_early: Option<String>,
    test: Option<TestRecord>,
}

fn outcome(directory: &RunDirectory) -> Outcome {
    let record = directory.read_record().unwrap();
    let without_times =
        |epoch: EpochRecord| EpochRecord { seconds: 0.0, images_per_second: 0.0, evaluation_seconds: 0.0, ..epoch };
    Outcome {
        status: record.status,
        weights: fs::read(directory.weights()).unwrap(),
        steps: fs::read(directory.steps()).unwrap(),
        epochs: record.epochs.into_iter().map(without_times).collect(),
        best_epoch: record.best_epoch,
        stopped_early: record.stopped_early,
        test: record.test,
    }
}

fn new_run(place: &TempDir) -> RunDirectory {
    RunDirectory::create(place.path(), "run").unwrap()
}

/// What comes of a run that is never stopped.
fn whole(place: &TempDir, config: &ExperimentConfig) -> Outcome {
    let directory = new_run(place);
    train(config, &SHAPES, &directory, patient()).unwrap();
    outcome(&directory)
}

/// A network with a matrix for Muon, and everything that a resume could lose: moments, statistics of batch norms, a place
/// in the schedule, in the order and in the augmentations.
fn settings(optimizer: OptimizerName, schedule: ScheduleName, protocol: Protocol, model: ModelName) -> Settings {
    Settings {
        model: Some(model),
        hidden: (model == ModelName::Mlp).then(|| vec![8, 6]),
        optimizer: Some(optimizer),
        schedule: Some(schedule),
        step_epochs: Some(1),
        protocol: Some(protocol),
        epochs: Some(3),
        batch_size: Some(4),
        limit_batches: Some(3),
        ..Settings::default()
    }
}

fn configs() -> impl Strategy<Value = ExperimentConfig> {
    use AugmentationName::{Erase, Flip, Shift};
    let network = (
        prop::sample::select(OPTIMIZERS.to_vec()),
        prop::sample::select(SCHEDULES.to_vec()),
        prop::sample::select(vec![Protocol::Validated, Protocol::Assignment]),
        // Most are small: the others take as long as ten of these.
        prop::sample::select(vec![ModelName::Mlp, ModelName::Mlp, ModelName::Mlp, ModelName::Cnn]),
    );
    let more = (
        prop::sample::subsequence(vec![Shift, Flip, Erase], 0..=3),
        prop::option::of(0.05..2.0_f64),
        prop::sample::select(vec![0.0, 0.2]),
        prop::option::of(1_usize..3),
        prop::option::of(1_usize..9),
        (2_usize..4, 3_usize..20, 3_usize..5, any::<u64>()),
    );
    (network, more).prop_map(|((optimizer, schedule, protocol, model), more)| {
        let (augment, clip_norm, label_smoothing, early_stopping, gradient_steps, sizes) = more;
        let (epochs, batch_size, limit_batches, seed) = sizes;
        let settings = Settings {
            augment: Some(augment),
            clip_norm,
            label_smoothing: Some(label_smoothing),
            early_stopping,
            gradient_steps,
            epochs: Some(epochs),
            batch_size: Some(batch_size),
            limit_batches: Some(limit_batches),
            seed: Some(seed),
            ..settings(optimizer, schedule, protocol, model)
        };
        settings.resolve().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(
        config in configs(), stops in prop::collection::vec(1_usize..24, 0..=5),
    ) {
        let place = place();
        let directory = new_run(&place);
        let mut hosts = stops.into_iter().map(|batches| stopping(batches, |_| true)).chain([patient()]);
        let mut status = train(&config, &SHAPES, &directory, hosts.next().unwrap()).unwrap().status;
        for host in hosts {
            status = resume(&SHAPES, &directory, host).unwrap().status;
        }
        prop_assert_eq!(status, RunStatus::Finished);
        prop_assert!(outcome(&directory) == whole(&place, &config));
    }
}

#[test]
fn every_optimizer_schedule_and_protocol_is_resumed_from_each_phase() {
    for (index, optimizer) in OPTIMIZERS.into_iter().enumerate() {
        let protocol = [Protocol::Validated, Protocol::Assignment][index % 2];
        let model = [ModelName::Mlp, ModelName::Cnn][index / 2 % 2];
        let config = settings(optimizer, SCHEDULES[index % 4], protocol, model).resolve().unwrap();
        let place = place();
        let directory = new_run(&place);
        let stopped = |record: Result<RunRecord, TrainingError>, phase| {
            assert_eq!(record.unwrap().status, RunStatus::Interrupted, "{optimizer:?}, {phase:?}");
        };
        stopped(train(&config, &SHAPES, &directory, stopping(2, |phase| phase == Phase::Train)), Phase::Train);
        for (batch, phase) in [(1, Phase::Evaluate), (5, Phase::Evaluate), (2, Phase::Test), (3, Phase::Test)] {
            stopped(resume(&SHAPES, &directory, stopping(batch, move |found| found == phase)), phase);
        }
        assert_eq!(resume(&SHAPES, &directory, patient()).unwrap().status, RunStatus::Finished);
        assert!(outcome(&directory) == whole(&place, &config), "{optimizer:?}");
    }
}

#[test]
fn warm_up_tells_each_step_changes_nothing_and_can_be_stopped() {
    let place = place();
    let settings = settings(OptimizerName::Adam, ScheduleName::Cosine, Protocol::Validated, ModelName::Mlp);
    let config = Settings { batch_size: Some(30), limit_batches: None, ..settings }.resolve().unwrap();
    let whole = whole(&place, &config);

    let told = Rc::new(RefCell::new(Vec::new()));
    let seen = told.clone();
    let warm = host(&Interrupter::new(), move |event| match event {
        Event::WarmUp { model, images, training } => seen.borrow_mut().push(format!("{model} {images} {training}")),
        Event::Compiling => seen.borrow_mut().push("compiling".to_owned()),
        Event::Compiled { .. } => seen.borrow_mut().push("compiled".to_owned()),
        _ => {}
    });
    let directory = new_run(&place);
    train(&config, &SHAPES, &directory, Host { compiles_kernels: true, ..warm }).unwrap();
    // Ten of the 84 images are for validation.
    let expected = ["compiling", "mlp 30 true", "mlp 14 true", "mlp 10 false", "compiled"];
    assert_eq!(*told.borrow(), expected);
    assert!(outcome(&directory) == whole);

    let interrupter = Interrupter::new();
    let stop = interrupter.clone();
    let stopped = host(&interrupter, move |event| match event {
        Event::WarmUp { images: 14, .. } => stop.stop(None),
        Event::WarmUp { training: false, .. } | Event::Compiled { .. } | Event::Step { .. } => panic!("{event:?}"),
        _ => {}
    });
    let directory = new_run(&place);
    let record = train(&config, &SHAPES, &directory, Host { compiles_kernels: true, ..stopped }).unwrap();
    assert_eq!((record.status, record.epochs.len()), (RunStatus::Interrupted, 0));
    assert_eq!(directory.read_record().unwrap().status, RunStatus::Interrupted);
    resume(&SHAPES, &directory, patient()).unwrap();
    assert!(outcome(&directory) == whole);
}

#[test]
fn a_run_keeps_what_its_images_and_its_host_were() {
    let config = settings(OptimizerName::Sgd, ScheduleName::Constant, Protocol::Assignment, ModelName::Mlp);
    let place = place();
    let directory = new_run(&place);
    train(&config.resolve().unwrap(), &SHAPES, &directory, stopping(1, |_| true)).unwrap();
    let dataset = directory.read_record().unwrap().dataset;
    let background = SHAPES.train.background();
    assert_eq!((dataset.height, dataset.width, dataset.background), (10, 10, background));
    assert_eq!((dataset.train, dataset.valid, dataset.test), (12, 0, 12));

    // A renamed run is called by its new name, whatever its checkpoints say, and has a part by another host.
    let renamed = place.path().join("renamed");
    fs::rename(directory.path(), &renamed).unwrap();
    let directory = RunDirectory::find(place.path(), "renamed").unwrap();
    resume(&SHAPES, &directory, Host { instructions: "AVX2".to_owned(), ..patient() }).unwrap();
    let text = fs::read_to_string(renamed.join("run.json")).unwrap();
    let record: RunRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(record.id, "renamed");
    let instructions: Vec<_> = record.parts.iter().map(|part| part.instructions.as_str()).collect();
    assert_eq!(instructions, ["none", "AVX2"]);
}

#[test]
fn training_that_does_not_fit_is_refused_before_anything_is_written() {
    let config = settings(OptimizerName::Sgd, ScheduleName::Constant, Protocol::Validated, ModelName::Mlp);
    let place = place();
    let directory = new_run(&place);
    let error = train(&config.resolve().unwrap(), &SHAPES, &directory, Host { memory: Some(1000), ..patient() });
    assert!(matches!(error.unwrap_err(), TrainingError::CannotFit { .. }));
    assert!(directory.is_new());
}
