//! What is refused, and in which words.

use super::*;

fn message(change: impl FnOnce(Trainer<Net>) -> Trainer<Net>) -> String {
    let place = place();
    let directory = new_run(&place);
    let trainer = change(Case::default().trainer(patient()));
    let error = trainer.fit(&directory, Table::new(41, 1), Table::new(13, 2)).unwrap_err();
    assert!(matches!(error, TrainingError::Setting { .. }), "{error}");
    assert!(directory.is_new(), "nothing is written");
    error.to_string()
}

#[test]
fn settings_out_of_range_are_refused_before_anything_is_written() {
    assert_eq!(message(|trainer| trainer.epochs(0)), "epochs: expected at least 1, found 0");
    assert_eq!(message(|trainer| trainer.accumulate(0)), "accumulate: expected at least 1, found 0");
    assert_eq!(message(|trainer| trainer.read_every(0)), "read_every: expected at least 1, found 0");
    assert_eq!(
        message(|trainer| trainer.batch_size(4).accumulate(5)),
        "accumulate: expected at most the 4 samples of a batch, found 5"
    );
    assert_eq!(message(|trainer| trainer.clip_norm(0.0)), "clip_norm: expected a finite number above 0, found 0");
    assert_eq!(message(|trainer| trainer.ema(1.0, true)), "ema: expected a decay from 0 up to, but not, 1, found 1");
    assert_eq!(
        message(|trainer| trainer.monitor("valid/f1")),
        "monitor: expected one of `train/loss`, `train/accuracy`, `valid/loss`, `valid/accuracy`, found `valid/f1`"
    );
    let two = Place { devices: vec![Device::flex(); 2], ..Place::new(Device::flex()) };
    assert_eq!(
        message(|trainer| trainer.on(two).batch_size(1)),
        "batch_size: expected at least one sample for each of the 2 devices, found 1"
    );
    let wanted =
        "plain gradient descent on one GPU, on whole batches that are not made ahead, and nothing else in a step";
    assert_eq!(
        message(|trainer| trainer.graph().clip_norm(1.0)),
        format!("graph: expected {wanted}, found `clip_norm`")
    );
    assert!(message(|trainer| trainer.graph().workers(1)).ends_with("found `workers`"));
    assert!(message(|trainer| trainer.config(&7)).starts_with("config: expected a struct or map"));
}

#[test]
fn empty_sources_and_batches_that_cannot_be_made_are_errors() {
    let place = place();
    let fit = |train: Table| {
        let directory = new_run(&place);
        let error = Case::default().trainer(patient()).fit(&directory, train, Table::new(13, 2)).unwrap_err();
        (error.to_string(), directory)
    };
    assert_eq!(fit(Table::new(0, 1)).0, "training source: expected at least one sample, found none");
    let missing =
        Table { missing: Some(crate::epoch_order(crate::Order::Shuffled { seed: 7 }, 1, 41)[0]), ..Table::new(41, 1) };
    let (message, directory) = fit(missing);
    assert!(message.starts_with("a batch cannot be made: row "), "{message}");
    let record = directory.read_record().unwrap();
    assert_eq!((record.status, record.error), (RunStatus::Failed, Some(message)));
}

#[test]
fn other_data_another_task_and_other_batches_are_refused_on_resume() {
    let place = place();
    let directory = new_run(&place);
    let case = Case::default();
    case.fit(&directory, stopping(2, |_| true)).unwrap();
    let before = fs::read(directory.path().join("run.json")).unwrap();
    let refused = |trainer: Trainer<Net>, table: Table| {
        let error = trainer.resume(&directory, table, Table::new(13, 2)).unwrap_err();
        assert!(fs::read(directory.path().join("run.json")).unwrap() == before);
        error
    };
    let error = refused(case.trainer(patient()), Table::new(41, 9));
    assert!(matches!(error, TrainingError::OtherData { .. }));
    assert!(error.to_string().contains("digest 41 of 1,13 of 2,11 of 3, and the data here is data with"), "{error}");

    let error = refused(case.trainer(patient()).limit_batches(2), Table::new(41, 1));
    assert_eq!(
        error.to_string(),
        "batch_size: expected the 3 batches in an epoch that the run was started with, found 2"
    );

    let mut other = case.trainer(patient());
    other.task = Net::plain(&Device::flex());
    let error = refused(other, Table::new(41, 1));
    assert!(matches!(error, TrainingError::Mismatch { .. }));
    assert!(error.to_string().contains("`net.norm.beta`: expected [4], found none"), "{error}");
    assert_eq!(case.resume(&directory, patient()).unwrap().status, RunStatus::Finished);
}
