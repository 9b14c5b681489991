//! Runs that are stopped and resumed.

use std::{cell::RefCell, ops::ControlFlow, rc::Rc};

use proptest::prelude::*;

use super::*;

fn cases() -> impl Strategy<Value = Case> {
    let shape = (0_usize..5, 0_usize..5, 2_usize..4, 3_usize..20, 3_usize..5, any::<u64>());
    let more = (
        prop::option::of(0.05..2.0_f64),
        prop::option::of(1_usize..3),
        prop::option::of(1_usize..9),
        1_usize..4,
        prop::option::of((0.5..0.99_f64, any::<bool>())),
        0_usize..3,
        any::<bool>(),
    );
    (shape, more).prop_map(|((optimizer, schedule, epochs, batch_size, limit, seed), more)| {
        let (clip, patience, gradients, micro_batches, ema, workers, last) = more;
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
    }
}

#[test]
fn every_optimizer_and_schedule_is_resumed_from_each_phase() {
    for optimizer in 0..5 {
        let ema = (optimizer % 2 == 0).then_some((0.8, true));
        let case = Case { optimizer, schedule: optimizer, ema, last: optimizer == 3, ..Case::default() };
        let place = place();
        let directory = new_run(&place);
        let stopped = |record: Result<RunRecord, TrainingError>, phase| {
            assert_eq!(record.unwrap().status, RunStatus::Interrupted, "{optimizer}, {phase:?}");
        };
        stopped(case.fit(&directory, stopping(2, |phase| phase == Phase::Train)), Phase::Train);
        for (batch, phase) in [(1, Phase::Evaluate), (5, Phase::Evaluate), (2, Phase::Test), (3, Phase::Test)] {
            stopped(case.resume(&directory, stopping(batch, move |found| found == phase)), phase);
        }
        assert_eq!(case.resume(&directory, patient()).unwrap().status, RunStatus::Finished);
        assert!(outcome(&directory) == case.whole(&place), "{optimizer}");
    }
}

#[test]
fn a_finished_run_trained_further_equals_one_that_was_that_long_from_the_start() {
    for optimizer in [1, 2] {
        let short = Case { optimizer, ema: Some((0.9, false)), ..Case::default() };
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
