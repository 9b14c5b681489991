//! The same bits for any number of threads, and the threads.

use std::{
    panic,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    conv_case::{ConvCase, Sizes},
    linear::LinearCase,
    plain_conv::some_layers,
};
use crate::{
    ConvLayer,
    cpu::{Level, linear, parallel},
};

/// The bits of everything that some cases come to.
fn bits(level: Level, (layer, convolutions): &(LinearCase, Vec<ConvCase>)) -> Vec<u32> {
    let y = layer.forward(level, true);
    let gradients = layer.backward(level, Some(&y), true);
    let mut arrays = vec![y, gradients.x.unwrap(), gradients.weight, gradients.bias];
    for case in convolutions {
        let (y, statistics, saved) = case.train(level);
        arrays.extend([case.infer(level), y]);
        arrays.extend(statistics.into_iter().flatten());
        arrays.extend(case.gradients(level, &saved).into_iter().flatten());
    }
    arrays.iter().flatten().map(|number| number.to_bits()).collect()
}

#[test]
fn bits_depend_neither_on_the_run_nor_on_the_number_of_threads() {
    let layers = some_layers().into_iter().map(|sizes| Sizes { batch: 17, ..sizes });
    let block = Sizes::block(33, [16, 20], [8, 9]);
    let layers = layers.chain([block, Sizes { layer: ConvLayer { stride: 2, ..block.layer }, ..block }]);
    let cases = (
        LinearCase::new(linear::Sizes { batch: 130, inputs: 600, outputs: 300 }, 8),
        (9..).zip(layers).map(|(seed, sizes)| ConvCase::real(sizes, seed)).collect::<Vec<_>>(),
    );
    let mut spoiled = cases.clone();
    spoiled.0.x.fill(f32::NAN);
    spoiled.1.iter_mut().for_each(|case| case.x.fill(f32::NAN));
    for level in Level::available() {
        let expected = bits(level, &cases);
        // What this leaves in the buffers that operations share must not be seen by the next.
        bits(level, &spoiled);
        assert!(bits(level, &cases) == expected, "another run, {level}");
        // What a task calls runs on the task's thread alone.
        let alone: [Mutex<Vec<u32>>; 2] = Default::default();
        parallel::for_each(2, |task| *alone[task].lock().unwrap() = bits(level, &cases));
        for found in alone {
            assert!(found.into_inner().unwrap() == expected, "one thread, {level}");
        }
    }
}

// Threads.

fn each_task_runs_once(tasks: usize) {
    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    parallel::for_each(tasks, |task| {
        runs[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks} tasks");
}

/// Whether two tasks run at once, so that each sees the other begin. Another test may have the pool for itself, so it is
/// tried for a while.
fn threads_share_tasks() -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let (arrived, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
        parallel::for_each(2, |_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let waiting = Instant::now();
            while arrived.load(Ordering::SeqCst) < 2 && waiting.elapsed() < Duration::from_millis(20) {
                thread::yield_now();
            }
            met.fetch_add(arrived.load(Ordering::SeqCst) / 2, Ordering::SeqCst);
        });
        if met.into_inner() == 2 {
            return true;
        }
    }
    false
}

#[test]
fn every_task_runs_once() {
    [0, 1, 2, 3, 1000].into_iter().for_each(each_task_runs_once);
}

#[test]
fn every_task_of_a_call_from_within_a_task_runs_once() {
    parallel::for_each(5, |_| parallel::for_each(3, |_| each_task_runs_once(100)));
}

#[test]
fn every_task_of_several_threads_calls_runs_once() {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| [2, 3, 1000].into_iter().for_each(each_task_runs_once)));
        }
    });
}

#[test]
fn a_panic_in_a_task_is_the_calls_and_the_pool_goes_on() {
    for _ in 0..5 {
        // Every thread that takes part meets one.
        let call = panic::catch_unwind(|| parallel::for_each(64, |task| assert!(task < 32, "half of the tasks panic")));
        assert!(call.is_err());
    }
    [2, 3, 1000].into_iter().for_each(each_task_runs_once);
    assert!(crate::threads() == 1 || threads_share_tasks());
}
