//! Runs that are stopped and resumed.

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow, rc::Rc};

use kindling_record::InitialWeightsRecord;
use proptest::prelude::*;

use super::*;
use crate::{checkpoint::latest_step, parameters::each_number, run::lost, weights};

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let shape = (0_usize..5, 0_usize..7, 2_usize..4, 3_usize..20, 3_usize..5, any::<u64>());
    let more = (
        prop::option::of(0.05..2.0_f64),
        prop::option::of(1_usize..3),
        prop::option::of(1_usize..9),
        1_usize..4,
        prop::option::of((0.5..0.99_f64, any::<bool>())),
        0_usize..3,
        any::<bool>(),
        0..FROZEN.len(),
    );
    (shape, more).prop_map(|((optimizer, schedule, epochs, batch_size, limit, seed), more)| {
        let (clip, patience, gradients, micro_batches, ema, workers, last, frozen) = more;
        Case {
            optimizer,
            schedule,
            epochs,
            batch_size,
            limit,
            seed,
            clip,
            patience,
            gradients,
            micro_batches,
            ema,
            workers,
            last,
            frozen,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_run_stopped_anywhere_and_resumed_ends_with_the_same_bits(
        case in cases(), stops in prop::collection::vec(1_usize..24, 0..=5),
    ) {
        let place = place();
        let directory = new_run(&place);
        let mut hosts = stops.into_iter().map(|batches| stopping(batches, |_| true)).chain([patient()]);
        let mut status = case.fit(&directory, hosts.next().unwrap()).unwrap().status;
        for host in hosts {
            status = case.resume(&directory, host).unwrap().status;
        }
        prop_assert_eq!(status, RunStatus::Finished);
        // Threads that make batches ahead change nothing.
        let inline = Case { workers: 0, ..case };
        prop_assert!(outcome(&directory) == inline.whole(&place));
        check_frozen(&directory, inline.frozen, false);
    }
}

/// Frozen parameters, and the statistics of a frozen batch norm, end with the bits that they began with, and the others do
/// not, if their `steps` are long enough to tell.
fn check_frozen(directory: &RunDirectory, frozen: usize, steps: bool) {
    let net = weights::read(Net::new(&Device::flex()), "net", fs::read(directory.weights()).unwrap()).unwrap();
    let (before, after) = (values(&Net::new(&Device::flex())), values(&net));
    let is_kept = |path: &str| match frozen {
        0 => false,
        1 => !path.contains("second"),
        2 => path.contains("gamma") || path.contains("running"),
        _ => path.contains("second") || path == "net.first.bias",
    };
    for ((path, before), (_, after)) in before.iter().zip(&after) {
        assert!(before == after || !is_kept(path), "{path}, {frozen}");
        // In front of a batch norm by the batch's statistics a bias has no gradient but for rounding.
        assert!(before != after || is_kept(path) || !steps || path == "net.first.bias", "{path}, {frozen}");
    }
    let record = directory.read_record().unwrap();
    assert_eq!(record.parameters, 3 * 4 + 4 + 2 * 4 + 4 * 2 + 2);
    let names: [&[&str]; 4] = [
        &[],
        &["first.weight", "first.bias", "norm.weight", "norm.bias"],
        &["norm.weight"],
        &["first.bias", "second.weight", "second.bias"],
    ];
    assert_eq!(record.frozen, names[frozen]);
}

/// The path and the bits of each parameter.
fn values(net: &Net) -> Vec<(String, Vec<u64>)> {
    let mut values = Vec::new();
    each_number(net, None, |parameter, numbers| {
        values.push((parameter.path.clone(), numbers.map(f64::to_bits).collect()));
        true
    })
    .unwrap();
    values
}

#[test]
fn runs_with_frozen_layers_on_several_devices_are_resumed_to_the_same_bits() {
    for frozen in 1..FROZEN.len() {
        let case = Case {
            frozen,
            optimizer: 4,
            batch_size: 8,
            micro_batches: 2,
            clip: Some(0.3),
            gradients: Some(4),
            ema: Some((0.7, true)),
            ..Case::default()
        };
        let two = |host: Host| Host { place: Place { devices: vec![Device::flex(); 2], ..host.place.clone() }, ..host };
        let place = place();
        let (whole, stopped) = (new_run(&place), new_run(&place));
        assert_eq!(case.fit(&whole, two(patient())).unwrap().status, RunStatus::Finished);
        assert_eq!(case.fit(&stopped, two(stopping(2, |_| true))).unwrap().status, RunStatus::Interrupted);
        assert_eq!(case.resume(&stopped, two(stopping(3, |_| true))).unwrap().status, RunStatus::Interrupted);
        assert_eq!(case.resume(&stopped, two(patient())).unwrap().status, RunStatus::Finished);
        assert!(outcome(&stopped) == outcome(&whole), "{frozen}");
        check_frozen(&whole, frozen, true);
        // Layers without gradients have no statistics of them.
        let step = fs::read_to_string(whole.steps()).unwrap().lines().next().unwrap().to_owned();
        assert_eq!(step.contains("\"first\""), frozen != 1);
    }
}

#[test]
fn a_run_is_resumed_with_the_layers_frozen_that_it_was_started_with() {
    let place = place();
    let directory = new_run(&place);
    let case = Case { frozen: 2, ..Case::default() };
    case.fit(&directory, stopping(2, |_| true)).unwrap();
    let error = Case { frozen: 0, ..case.clone() }.resume(&directory, patient()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "freeze: expected the frozen parameters that the run was started with (`norm.weight`), found none"
    );
    assert_eq!(case.resume(&directory, patient()).unwrap().status, RunStatus::Finished);
}

#[test]
fn weights_from_elsewhere_are_told_kept_in_the_record_and_needed_for_no_resume() {
    let place = place();
    let elsewhere = weights::write(&Net::numbered(1, &Device::flex()), "net").unwrap();
    let path = place.path().join("elsewhere.safetensors");
    fs::write(&path, elsewhere).unwrap();
    let (net, found) = weights::transfer(Net::new(&Device::flex()), "net", &path).unwrap();
    let record = InitialWeightsRecord {
        source: path.display().to_string(),
        sha256: found.sha256,
        taken: found.taken.len(),
        fresh: found.fresh,
        unused: found.unused,
    };
    assert_eq!((record.taken, record.fresh.len(), record.unused.len()), (8, 0, 0));
    let case = Case { ema: Some((0.5, false)), ..Case::default() };
    let entries = BTreeMap::from([("classes".to_owned(), "two".to_owned())]);
    let fit = |directory: &RunDirectory, host: Host| {
        let mut trainer = case.trainer(host).initial_weights(record.clone()).weights_metadata(entries.clone());
        trainer.task = net.clone();
        trainer.fit(directory, Table::new(41, 1), Table::new(13, 2)).unwrap()
    };
    let whole = new_run(&place);
    fit(&whole, patient());
    assert!(outcome(&whole).weights.windows(18).any(|window| window == br#""classes":"two","f"#));

    let told = Rc::new(RefCell::new(Vec::new()));
    let (seen, interrupter) = (told.clone(), Interrupter::new());
    let stop = interrupter.clone();
    // Before the first step.
    let stopped = host(&interrupter, move |event| {
        if let Event::InitialWeights(record) = event {
            seen.borrow_mut().push(record.clone());
            stop.stop(None);
        }
    });
    let compiling = Place { compiles_kernels: true, ..stopped.place.clone() };
    let directory = new_run(&place);
    assert_eq!(fit(&directory, Host { place: compiling, ..stopped }).status, RunStatus::Interrupted);
    assert_eq!(*told.borrow(), std::slice::from_ref(&record));
    // By a task that has its weights from the seed.
    fs::remove_file(&path).unwrap();
    let trainer = case.trainer(patient()).weights_metadata(entries.clone());
    let resumed = trainer.resume(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap();
    assert_eq!(resumed.initial_weights.as_ref(), Some(&record));
    assert!(outcome(&directory) == outcome(&whole));

    // Killed before anything was kept.
    let lost = new_run(&place);
    fit(&lost, patient());
    fs::remove_dir_all(lost.checkpoints()).unwrap();
    lost.write_record(&RunRecord { status: RunStatus::Running, epochs: Vec::new(), ..lost.read_record().unwrap() })
        .unwrap();
    let error = case.resume(&lost, patient()).unwrap_err();
    assert!(error.to_string().contains("it was stopped before the weights of "), "{error}");
}

#[test]
fn every_optimizer_and_schedule_is_resumed_from_each_phase() {
    // Seven schedules, and five optimizers, which begin again.
    for number in 0..7 {
        let ema = (number % 2 == 0).then_some((0.8, true));
        let case = Case { optimizer: number, schedule: number, ema, last: number == 3, ..Case::default() };
        let place = place();
        let directory = new_run(&place);
        let stopped = |record: Result<RunRecord, TrainingError>, phase| {
            assert_eq!(record.unwrap().status, RunStatus::Interrupted, "{number}, {phase:?}");
        };
        stopped(case.fit(&directory, stopping(2, |phase| phase == Phase::Train)), Phase::Train);
        for (batch, phase) in [(1, Phase::Evaluate), (5, Phase::Evaluate), (2, Phase::Test), (3, Phase::Test)] {
            stopped(case.resume(&directory, stopping(batch, move |found| found == phase)), phase);
        }
        assert_eq!(case.resume(&directory, patient()).unwrap().status, RunStatus::Finished);
        assert!(outcome(&directory) == case.whole(&place), "{number}");
    }
}

#[test]
fn a_finished_run_trained_further_equals_one_that_was_that_long_from_the_start() {
    for (optimizer, schedule) in [(1, 0), (2, 5)] {
        let short = Case { optimizer, schedule, ema: Some((0.9, false)), ..Case::default() };
        let long = Case { epochs: 5, ..short.clone() };
        let place = place();
        let directory = new_run(&place);
        assert_eq!(short.fit(&directory, patient()).unwrap().status, RunStatus::Finished);
        assert!(long.resume(&directory, stopping(4, |_| true)).unwrap().status == RunStatus::Interrupted);
        let record = long.resume(&directory, patient()).unwrap();
        assert_eq!((record.epochs.len(), record.config["epochs"].as_u64()), (5, Some(5)));
        assert!(outcome(&directory) == long.whole(&place));
        // With as many epochs as it has, there is nothing left to do.
        let before = fs::read(directory.path().join("run.json")).unwrap();
        long.resume(&directory, patient()).unwrap();
        assert!(fs::read(directory.path().join("run.json")).unwrap() == before);
    }
}

#[test]
fn a_run_that_cannot_be_trained_further_says_why() {
    let refused = |case: &Case, epochs: usize| {
        let place = place();
        let directory = new_run(&place);
        case.fit(&directory, patient()).unwrap();
        let before = outcome(&directory);
        let error = Case { epochs, ..case.clone() }.resume(&directory, patient()).unwrap_err();
        assert!(matches!(error, TrainingError::CannotExtend { .. }), "{error}");
        assert!(outcome(&directory) == before);
        error.to_string()
    };
    let cosine = Case { schedule: 2, ..Case::default() };
    assert_eq!(
        refused(&cosine, 6),
        "epochs: 6 for a run that has 3: its schedule `cosine` was laid out for 3 epochs; train another with 6"
    );
    assert!(refused(&Case::default(), 2).contains("a run cannot be shortened"));
    let impatient = Case { epochs: 20, patience: Some(1), schedule: 1, ..Case::default() };
    assert!(refused(&impatient, 30).contains("it ended early (valid/loss has not improved since epoch"));
}

#[test]
fn warm_up_tells_each_step_changes_nothing_and_can_be_stopped() {
    let place = place();
    let case = Case { optimizer: 2, schedule: 2, batch_size: 30, limit: 9, ..Case::default() };
    let whole = case.whole(&place);

    let told = Rc::new(RefCell::new(Vec::new()));
    let seen = told.clone();
    let compiling = |host: Host| Host { place: Place { compiles_kernels: true, ..host.place.clone() }, ..host };
    let warm = host(&Interrupter::new(), move |event| match event {
        Event::WarmUp { model, samples, training } => seen.borrow_mut().push(format!("{model} {samples} {training}")),
        Event::Compiling => seen.borrow_mut().push("compiling".to_owned()),
        Event::Compiled { .. } => seen.borrow_mut().push("compiled".to_owned()),
        _ => {}
    });
    let directory = new_run(&place);
    case.fit(&directory, compiling(warm)).unwrap();
    let expected = ["compiling", "net 30 true", "net 11 true", "net 13 false", "compiled"];
    assert_eq!(*told.borrow(), expected);
    assert!(outcome(&directory) == whole);

    let interrupter = Interrupter::new();
    let stop = interrupter.clone();
    let stopped = host(&interrupter, move |event| match event {
        Event::WarmUp { samples: 11, .. } => stop.stop(None),
        Event::WarmUp { training: false, .. } | Event::Compiled { .. } | Event::Step { .. } => panic!("{event:?}"),
        _ => {}
    });
    let directory = new_run(&place);
    let record = case.fit(&directory, compiling(stopped)).unwrap();
    assert_eq!((record.status, record.epochs.len()), (RunStatus::Interrupted, 0));
    assert_eq!(directory.read_record().unwrap().status, RunStatus::Interrupted);
    case.resume(&directory, patient()).unwrap();
    assert!(outcome(&directory) == whole);
}

#[test]
fn a_run_that_dies_in_the_midst_of_an_epoch_is_resumed_from_a_checkpoint_there() {
    let place = place();
    let case = Case { optimizer: 2, ema: Some((0.7, true)), ..Case::default() };
    let whole = case.whole(&place);
    let mut steps = 0;
    let dying = host(&Interrupter::new(), move |event| {
        steps += usize::from(matches!(event, Event::Step { phase: Phase::Train }));
        assert!(steps < 6, "the device is gone");
    });
    let directory = new_run(&place);
    let often = Place { checkpoint_every: Some(Duration::ZERO), ..dying.place.clone() };
    let error = case.fit(&directory, Host { place: often, ..dying }).unwrap_err();
    assert!(error.to_string().contains("the device is gone"), "{error}");
    // The second of three epochs with three steps each.
    assert_eq!(latest_step(&directory.checkpoints()), Some(5));
    case.resume(&directory, patient()).unwrap();
    assert!(outcome(&directory) == whole);
}

#[test]
fn a_run_whose_server_is_lost_is_interrupted_and_says_what_is_left_of_it() {
    let place = place();
    let directory = new_run(&place);
    Case::default().fit(&directory, stopping(2, |_| true)).unwrap();
    let error = TrainingError::backend("no answer");
    let record = lost(&directory, "ws://gpu-2:3000", &error).unwrap();
    assert_eq!(directory.read_record().unwrap(), record);
    assert_eq!(record.status, RunStatus::Interrupted);
    assert_eq!(
        record.error.unwrap(),
        "the server ws://gpu-2:3000 was lost after step 2; the checkpoint of step 2 is kept"
    );
    let record = Case::default().resume(&directory, patient()).unwrap();
    assert_eq!((record.status, record.error), (RunStatus::Finished, None));
    // A device that answers is not lost.
    let device = Device::flex();
    assert_eq!(Place { servers: vec!["ws://gpu:3000".to_owned()], ..Place::new(device) }.lost_server(), None);
}

#[test]
fn a_run_keeps_what_its_data_and_its_host_were() {
    let case = Case { last: true, ..Case::default() };
    let place = place();
    let directory = new_run(&place);
    case.fit(&directory, stopping(1, |_| true)).unwrap();
    let dataset = directory.read_record().unwrap().dataset;
    assert_eq!((dataset.train, dataset.valid, dataset.test), (12, 12, 11));
    assert_eq!(dataset.sha256, "41 of 1,13 of 2,11 of 3");

    // A renamed run is called by its new name, whatever its checkpoints say, and has a part by another host.
    let renamed = place.path().join("renamed");
    fs::rename(directory.path(), &renamed).unwrap();
    let directory = RunDirectory::find(place.path(), "renamed").unwrap();
    let host = patient();
    let avx2 = Place { instructions: "AVX2".to_owned(), ..host.place.clone() };
    let record = case.resume(&directory, Host { place: avx2, ..host }).unwrap();
    let text = fs::read_to_string(renamed.join("run.json")).unwrap();
    assert_eq!(serde_json::from_str::<RunRecord>(&text).unwrap().id, "renamed");
    let instructions: Vec<_> = record.parts.iter().map(|part| part.instructions.as_str()).collect();
    assert_eq!(instructions, ["none", "AVX2"]);
    let metrics: Vec<_> = record.epochs[0].metrics.0.keys().map(String::as_str).collect();
    assert_eq!(metrics, ["train/accuracy", "train/loss", "valid/accuracy", "valid/loss"]);
    assert_eq!(record.test.unwrap().metrics.0.len(), 2);
}

#[test]
fn callbacks_see_every_step_and_epoch_and_may_stop_the_run() {
    let place = place();
    let directory = new_run(&place);
    let case = Case { epochs: 4, ..Case::default() };
    let seen = Rc::new(RefCell::new((0, 0)));
    let [steps, epochs] = [seen.clone(), seen.clone()];
    let trainer = case.trainer(patient()).on_step(move |step| {
        steps.borrow_mut().0 += 1;
        if step.step == 2 { ControlFlow::Break("two are enough".to_owned()) } else { ControlFlow::Continue(()) }
    });
    let record = trainer.fit(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap();
    assert_eq!((record.status, seen.borrow().0), (RunStatus::Interrupted, 2));
    let trainer = case.trainer(patient()).on_epoch(move |epoch| {
        epochs.borrow_mut().1 += 1;
        if epoch.epoch == 3 { ControlFlow::Break("good enough".to_owned()) } else { ControlFlow::Continue(()) }
    });
    let record = trainer.resume(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap();
    assert_eq!((record.status, record.epochs.len(), seen.borrow().1), (RunStatus::Finished, 3, 3));
    assert_eq!(record.stopped_early.as_deref(), Some("good enough"));
}

#[test]
fn with_evaluated_averages_the_weights_that_are_kept_are_the_averages() {
    let place = place();
    let outcome = |ema| Case { ema, last: true, ..Case::default() }.whole(&place);
    let (plain, kept, evaluated) = (outcome(None), outcome(Some((0.5, false))), outcome(Some((0.5, true))));
    assert!(plain == kept, "averages that are only kept change nothing");
    assert!(plain.weights != evaluated.weights && plain.steps == evaluated.steps);
    assert!(plain.epochs[0].get("valid/loss") != evaluated.epochs[0].get("valid/loss"));
    assert!(plain.epochs[0].get("train/loss") == evaluated.epochs[0].get("train/loss"));
}
