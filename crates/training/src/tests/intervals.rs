//! Runs whose losses are read every so many steps: all leave the same.

use std::{cell::RefCell, collections::BTreeMap, ops::ControlFlow, rc::Rc};

use kindling_record::{DivergenceRecord, read_steps};
use proptest::prelude::*;
use serde_json::Value;

use super::{runs::cases, *};

/// Every file of a run but the times in it. Of the optimizer's state only that it is there: Burn writes it in an order of
/// its own, with gaps that depend on it; runs that are resumed read it.
fn files(directory: &RunDirectory) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut places = vec![directory.path().to_path_buf()];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                places.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            let name = path.strip_prefix(directory.path()).unwrap().display().to_string();
            if name == "run.json" || name.ends_with("state.json") {
                let mut json: Value = serde_json::from_slice(&bytes).unwrap();
                remove_times(&mut json);
                bytes = json.to_string().into_bytes();
            } else if name.ends_with("optimizer.bpk") {
                bytes.clear();
            }
            files.insert(name, bytes);
        }
    }
    files
}

/// Removes times, what depends on them, and the run's name.
fn remove_times(json: &mut Value) {
    match json {
        Value::Object(entries) => {
            let is_time = |key: &str| {
                let names = ["seconds", "samples_per_second", "timings", "started", "id"];
                names.contains(&key) || key.ends_with("_seconds")
            };
            entries.retain(|key, _| !is_time(key));
            if let Some(Value::Object(sums)) = entries.get_mut("crc32") {
                sums.retain(|part, _| part != "checkpoint" && part != "optimizer.bpk");
            }
            entries.values_mut().for_each(remove_times);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_times),
        _ => {}
    }
}

/// What is told of a run: the steps by its callback, and the phases of its events.
type Told = Rc<RefCell<(Vec<String>, Vec<Phase>)>>;

/// A trainer of `net` that reads its losses every `steps` steps, with what it tells.
fn telling(case: &Case, net: &Net, steps: usize) -> (Trainer<Net>, Told) {
    let told = Told::default();
    let [callback, events] = [told.clone(), told.clone()];
    let host = host(&Interrupter::new(), move |event| {
        if let Event::Step { phase } = event {
            events.borrow_mut().1.push(phase);
        }
    });
    let mut trainer = case.trainer(host).read_every(steps).on_step(move |step| {
        callback.borrow_mut().0.push(format!("{step:?}"));
        ControlFlow::Continue(())
    });
    // Parameters have numbers of their own in checkpoints.
    trainer.task = net.clone();
    (trainer, told)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_run_leaves_and_tells_the_same_however_many_steps_are_read_at_a_time(case in cases()) {
        let place = place();
        let patterns: Vec<_> = FROZEN[case.frozen].iter().map(|&pattern| pattern.to_owned()).collect();
        let (net, _) = freeze(Net::new(&Device::flex()), Net::ROOT, &patterns).unwrap();
        let run = |steps| {
            let directory = new_run(&place);
            let (trainer, told) = telling(&case, &net, steps);
            trainer.fit(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap();
            (files(&directory), told.take())
        };
        let (files, told) = run(1);
        for steps in [3, 7] {
            let (found, found_told) = run(steps);
            prop_assert_eq!(files.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
            for (name, bytes) in &files {
                prop_assert!(*bytes == found[name], "{} differs with {} steps", name, steps);
            }
            prop_assert_eq!(&found_told, &told);
        }
    }

    #[test]
    fn a_run_stopped_and_resumed_with_other_intervals_ends_with_the_same_bits(
        case in cases(), stops in prop::collection::vec((1_usize..24, 1_usize..9), 0..=3), last in 1_usize..9,
    ) {
        let place = place();
        let directory = new_run(&place);
        let mut parts = stops.into_iter().map(|(batches, steps)| (stopping(batches, |_| true), steps)).chain([(patient(), last)]);
        let tables = || (Table::new(41, 1), Table::new(13, 2));
        let ((train, valid), (host, steps)) = (tables(), parts.next().unwrap());
        case.trainer(host).read_every(steps).fit(&directory, train, valid).unwrap();
        for (host, steps) in parts {
            let (train, valid) = tables();
            case.trainer(host).read_every(steps).resume(&directory, train, valid).unwrap();
        }
        let inline = Case { workers: 0, ..case };
        prop_assert!(outcome(&directory) == inline.whole(&place));
    }
}

#[test]
fn a_stop_keeps_every_step_that_was_taken() {
    let case = Case { limit: 7, ..Case::default() };
    // Asked for by an event of the second step, or by its callback: both come when the third is taken.
    for by_callback in [false, true] {
        let place = place();
        let directory = new_run(&place);
        let host = if by_callback { patient() } else { stopping(2, |_| true) };
        let seen = Rc::new(RefCell::new(Vec::new()));
        let steps = seen.clone();
        let trainer = case.trainer(host).read_every(3).on_step(move |record| {
            steps.borrow_mut().push(record.step);
            if by_callback && record.step == 2 {
                ControlFlow::Break("two are enough".to_owned())
            } else {
                ControlFlow::Continue(())
            }
        });
        let record = trainer.fit(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap();
        assert_eq!(record.status, RunStatus::Interrupted);
        assert_eq!(*seen.borrow(), [1, 2, 3]);
        assert_eq!(read_steps(&directory.steps()).unwrap().len(), 3);
        assert!(directory.checkpoints().join("step-00000003-batch-000003").is_dir());
        assert_eq!(case.resume(&directory, patient()).unwrap().status, RunStatus::Finished);
        assert!(outcome(&directory) == case.whole(&place));
    }
}

/// What a run of `case` that diverges leaves and tells, with any number of steps read at a time.
fn diverged(case: &Case, net: &Net, devices: usize, learning_rate: f64, train: &Table) -> DivergenceRecord {
    let place = place();
    let run = |steps| {
        let directory = new_run(&place);
        let (trainer, told) = telling(case, net, steps);
        let mut trainer = trainer.learning_rate(learning_rate);
        trainer.host.place.devices = vec![Device::flex(); devices];
        let record = trainer.fit(&directory, train.clone(), Table::new(13, 2)).unwrap();
        assert_eq!(record.status, RunStatus::Diverged);
        let steps = read_steps(&directory.steps()).unwrap();
        let found = record.diverged.unwrap();
        assert_eq!(steps.last().unwrap().step, found.step);
        assert!(!steps.last().unwrap().loss.is_finite());
        (found, files(&directory), told.take())
    };
    let immediate = run(1);
    for steps in [2, 3, 7, 64] {
        assert!(run(steps) == immediate, "{steps}, {:?}", immediate.0);
    }
    // The step that diverged is logged, and told to nobody.
    assert_eq!(immediate.2.0.len(), immediate.0.step - 1);
    immediate.0
}

#[test]
fn a_divergence_is_found_later_and_recorded_as_if_at_once() {
    let case = Case { optimizer: 2, limit: 9, gradients: Some(2), ema: Some((0.9, true)), ..Case::default() };
    let place = |found: &DivergenceRecord| (found.step, found.layer.clone(), found.quantity.clone());
    let is = |step, layer: &str, quantity: &str| (step, Some(layer.to_owned()), quantity.to_owned());
    let (norm, plain) = (Net::new(&Device::flex()), Net::plain(&Device::flex()));
    let case = Case { clip: Some(0.5), micro_batches: 2, ..case };
    for (batch, devices) in [(0, 1), (4, 1), (8, 2)] {
        // In the second of nine batches' epochs.
        let row = crate::epoch_order(crate::Order::Shuffled { seed: case.seed }, 2, 41)[batch * case.batch_size];
        let table = Table { nan: Some((2, row)), ..Table::new(41, 1) };
        let step = 9 + batch + 1;
        assert_eq!(place(&diverged(&case, &norm, devices, 0.05, &table)), is(step, "norm", "running_mean"));
        assert_eq!(place(&diverged(&case, &plain, devices, 0.05, &table)), is(step, "first", "gradient of weight"));
    }
    // Weights that a step makes infinite.
    let case = Case { optimizer: 1, schedule: 1, clip: None, micro_batches: 1, ..case };
    let found = diverged(&case, &plain, 1, 1e39, &Table::new(41, 1));
    assert_eq!(place(&found), is(2, "first", "weight"));
}

#[test]
fn a_batch_that_cannot_be_made_ends_a_run_after_the_steps_before_it() {
    let case = Case { limit: 9, ..Case::default() };
    let order = crate::epoch_order(crate::Order::Shuffled { seed: case.seed }, 1, 41);
    let place = place();
    // The first row of the fifth batch, and of the third.
    let run = |steps, is_nan: bool| {
        let table = Table { missing: Some(order[16]), nan: is_nan.then_some((1, order[8])), ..Table::new(41, 1) };
        let directory = new_run(&place);
        let record = case.trainer(patient()).read_every(steps).fit(&directory, table, Table::new(13, 2));
        let end = record.map(|record| record.diverged.unwrap().step).map_err(|error| error.to_string());
        (end, read_steps(&directory.steps()).unwrap().len())
    };
    for steps in [1, 3, 7] {
        assert_eq!(run(steps, false), (Err(format!("a batch cannot be made: row {} is missing", order[16])), 4));
        assert_eq!(run(steps, true), (Ok(3), 3));
    }
}
