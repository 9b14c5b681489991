//! How a run begins, new or again: what is checked before anything is written.

use std::{fs, sync::Arc};

use kindling_record::{DatasetRecord, RunDirectory, RunRecord, RunStatus};

use crate::{
    Checkpoint, Host, Metric, Source, Task, Trainer, TrainingError,
    checkpoint::{self, Newest, shapes},
    feed::SharedSource,
    freeze::frozen,
    host::versions,
    parameters::initialize,
    run::{Sources, guard, rates, run, tracked},
};

impl<T: Task> Trainer<T> {
    /// Trains on `train`, evaluates on `valid` after each epoch, and leaves everything in `directory`, which must be new.
    ///
    /// The record's status says how it ended: finished, interrupted or diverged.
    ///
    /// # Errors
    /// When the directory holds another run, of which nothing is touched; when a setting is wrong; and when something
    /// fails: unless it is the directory that does, the record then says `failed` and why.
    pub fn fit(
        self,
        directory: &RunDirectory,
        train: impl Source<Batch = T::Batch> + 'static,
        valid: impl Source<Batch = T::Batch> + 'static,
    ) -> Result<RunRecord, TrainingError> {
        fit(self, directory, [Arc::new(train), Arc::new(valid)])
    }

    /// Resumes the run in `directory` from its latest checkpoint, or from the start if it has none, to the same bits as if
    /// it had never stopped. With more epochs than it was to have, it trains further, where the schedule allows it.
    ///
    /// A checkpoint that is damaged is passed over for an older one that leads to the same end, which
    /// [`Event::DamagedCheckpoint`](crate::Event::DamagedCheckpoint) tells.
    ///
    /// # Errors
    /// As [`fit`](Self::fit), and when another process writes the run, its checkpoints are damaged or gone, or it was begun
    /// on other data or with another task. A run that has nothing left to do is returned as it is.
    pub fn resume(
        self,
        directory: &RunDirectory,
        train: impl Source<Batch = T::Batch> + 'static,
        valid: impl Source<Batch = T::Batch> + 'static,
    ) -> Result<RunRecord, TrainingError> {
        resume(self, directory, [Arc::new(train), Arc::new(valid)])
    }
}

fn fit<T: Task>(
    mut trainer: Trainer<T>,
    directory: &RunDirectory,
    sources: Sources<T>,
) -> Result<RunRecord, TrainingError> {
    let taken = || TrainingError::Taken { path: directory.path().to_path_buf() };
    if !directory.is_new() {
        return Err(taken());
    }
    let lock = directory.lock()?;
    let directory = &lock.directory();
    // Another process may have trained here before this one had the lock.
    if !directory.is_new() {
        return Err(taken());
    }
    let monitor = trainer.check()?;
    check_sources(&sources)?;
    let config = trainer.take_config()?;
    trainer.task = on_device(trainer.task, &trainer.host)?;
    let (frozen, parameters) = frozen(&trainer.task, T::ROOT);
    let place = &trainer.host.place;
    let record = RunRecord {
        parts: vec![place.part()],
        config,
        model: trainer.settings.name.clone(),
        parameters,
        initial_weights: trainer.initial_weights.take(),
        frozen,
        metrics: T::METRICS.iter().map(Metric::record).collect(),
        monitor: monitor.name.clone(),
        ..place.record(directory.id(), RunStatus::Running, dataset(&trainer, &sources))
    };
    directory.write_record(&record)?;
    log::info!("started {} on {}", directory.id(), place.device_name);
    let state = at_start(record, &trainer, &sources);
    let place = place.clone();
    guard(directory, &place, || run(trainer, sources, monitor, state, None, directory))
}

fn resume<T: Task>(
    mut trainer: Trainer<T>,
    directory: &RunDirectory,
    sources: Sources<T>,
) -> Result<RunRecord, TrainingError> {
    let lock = directory.lock()?;
    let directory = &lock.directory();
    let old = directory.read_record()?;
    // A run that was finished with fewer epochs than it was to have stopped early: its checkpoint says so.
    let is_over = old.status == RunStatus::Finished && trainer.settings.epochs == old.epochs.len();
    if old.status == RunStatus::Diverged || is_over {
        return Ok(old);
    }
    let monitor = trainer.check()?;
    check_sources(&sources)?;
    let (wanted, found) = (&old.dataset, dataset(&trainer, &sources));
    if wanted.sha256 != found.sha256 {
        let told = |dataset: &DatasetRecord| format!("{} with the digest {}", dataset.name, dataset.sha256);
        return Err(TrainingError::OtherData { wanted: told(wanted), found: told(&found) });
    }
    let (mut state, start) = starting_point(&trainer, &old, directory, &sources)?;
    let (planned, epochs) = (state.epochs, trainer.settings.epochs);
    if old.status == RunStatus::Finished && epochs == planned {
        return Ok(old);
    }
    extend(&trainer, &mut state, &old)?;
    let batches = batches(&trainer, &sources);
    if state.batches != batches {
        return Err(TrainingError::Setting {
            name: "batch_size",
            wanted: format!("the {} batches in an epoch that the run was started with", state.batches),
            found: batches.to_string(),
        });
    }
    let config = trainer.take_config()?;
    let place = &trainer.host.place;
    let place = place.clone();
    state.record.parts.push(place.part());
    state.record = RunRecord {
        // A run may have been renamed since.
        id: directory.id(),
        status: RunStatus::Running,
        config,
        backend: place.backend.clone(),
        device: place.device_name.clone(),
        versions: versions(),
        machine: place.machine.clone(),
        error: None,
        ..state.record
    };
    if epochs != planned {
        log::info!("{epochs} epochs in place of {planned}");
    }
    trainer.task = on_device(trainer.task, &trainer.host)?;
    if let Some(start) = &start {
        check_parameters(&trainer.task, start, directory)?;
    }
    check_frozen(&trainer.task, &old)?;
    directory.write_record(&state.record)?;
    log::info!("resumed {} on {} after step {}", directory.id(), place.device_name, state.step);
    guard(directory, &place, || run(trainer, sources, monitor, state, start, directory))
}

/// Sees to it that the run of `state` may have as many epochs as the trainer has.
fn extend<T: Task>(trainer: &Trainer<T>, state: &mut Checkpoint, old: &RunRecord) -> Result<(), TrainingError> {
    let (epochs, done) = (trainer.settings.epochs, old.epochs.len());
    if epochs == state.epochs {
        return Ok(());
    }
    let fails = |reason: String| Err(TrainingError::CannotExtend { epochs, done, reason });
    if epochs < done {
        return fails("a run cannot be shortened; train another with fewer".to_owned());
    }
    if let Some(reason) = &old.stopped_early {
        return fails(format!("it ended early ({reason}); train another with more patience"));
    }
    if let Some(schedule) = rates(trainer, 1).fixed_by_epochs() {
        let planned = state.epochs;
        return fails(format!(
            "its schedule `{schedule}` was laid out for {planned} epochs; train another with {epochs}"
        ));
    }
    state.epochs = epochs;
    Ok(())
}

/// The splits must have samples.
fn check_sources<B>(sources: &[SharedSource<B>; 2]) -> Result<(), TrainingError> {
    for (name, source) in ["training source", "evaluation source"].into_iter().zip(sources) {
        if source.is_empty() {
            let (wanted, found) = ("at least one sample".to_owned(), "none".to_owned());
            return Err(TrainingError::Setting { name, wanted, found });
        }
    }
    Ok(())
}

/// The task on the first device, with autodiff and with every parameter drawn.
fn on_device<T: Task>(task: T, host: &Host) -> Result<T, TrainingError> {
    let device = tracked(host);
    crate::contained(|| {
        initialize(&task);
        let is_there = task.devices().iter().all(|other| other.is_autodiff() && *other == device);
        // A copy with running statistics of its own.
        Ok(if is_there { task } else { task.valid().train().fork(&device) })
    })
}

fn dataset<T: Task>(trainer: &Trainer<T>, sources: &Sources<T>) -> DatasetRecord {
    let (plan, [train, valid]) = (trainer.plan(), sources);
    let splits = [Some(train), Some(valid), trainer.test.as_ref()].into_iter().flatten();
    trainer.dataset.clone().unwrap_or_else(|| DatasetRecord {
        name: "data".to_owned(),
        sha256: splits.map(Source::digest).collect::<Vec<_>>().join(","),
        train: plan.samples(train.len()),
        valid: plan.samples(valid.len()),
        test: trainer.test.as_ref().map_or(0, |test| plan.samples(test.len())),
        images: None,
    })
}

fn at_start<T: Task>(record: RunRecord, trainer: &Trainer<T>, sources: &Sources<T>) -> Checkpoint {
    Checkpoint::at_start(record, trainer.settings.epochs, batches(trainer, sources))
}

/// Steps of an epoch.
fn batches<T: Task>(trainer: &Trainer<T>, sources: &Sources<T>) -> usize {
    trainer.plan().samples(sources[0].len()).div_ceil(trainer.settings.batch_size)
}

/// Where the run of the record `old` is resumed.
fn starting_point<T: Task>(
    trainer: &Trainer<T>,
    old: &RunRecord,
    directory: &RunDirectory,
    sources: &Sources<T>,
) -> Result<(Checkpoint, Option<Newest>), TrainingError> {
    let path = directory.checkpoints();
    let record = directory.path().join("run.json");
    let unusable = |causes| TrainingError::NoCheckpoint { path: path.clone(), causes, record: record.clone() };
    // The last weights need no others.
    let newest = checkpoint::load_newest(&path, !trainer.settings.keeps_last).map_err(|damages| {
        match damages.iter().find(|damage| damage.is_unread) {
            Some(damage) => damage.clone().into(),
            None => unusable(damages.iter().map(ToString::to_string).collect()),
        }
    })?;
    let Some(newest) = newest else {
        if let Some(weights) = &old.initial_weights {
            let cause = format!("it was stopped before the weights of {} were in one", weights.source);
            return Err(unusable(vec![cause]));
        }
        if old.epochs.is_empty() {
            // No step of the parts before is left.
            return Ok((at_start(RunRecord { parts: Vec::new(), ..old.clone() }, trainer, sources), None));
        }
        let cause = format!("expected one of the {} epochs in run.json, found none", old.epochs.len());
        return Err(unusable(vec![cause]));
    };
    let (steps, wanted) = (directory.steps(), newest.state.steps_bytes);
    let found = fs::metadata(&steps).map_or(0, |metadata| metadata.len());
    if found < wanted {
        return Err(unusable(vec![format!("{}: expected at least {wanted} bytes, found {found}", steps.display())]));
    }
    Ok((newest.state.clone(), Some(newest)))
}

/// Whether the task has the parameters of the checkpoint.
fn check_parameters<T: Task>(task: &T, start: &Newest, directory: &RunDirectory) -> Result<(), TrainingError> {
    let found = shapes(task);
    let wanted = &start.state.parameters;
    let differs = wanted.keys().chain(found.keys()).find(|path| wanted.get(*path) != found.get(*path));
    let Some(path) = differs else { return Ok(()) };
    let told = |shape: Option<&Vec<usize>>| shape.map_or("none".to_owned(), |shape| format!("{shape:?}"));
    let difference = format!("`{path}`: expected {}, found {}", told(wanted.get(path)), told(found.get(path)));
    Err(TrainingError::Mismatch { path: directory.checkpoints(), difference })
}

/// Whether the task has the frozen parameters of the run.
fn check_frozen<T: Task>(task: &T, old: &RunRecord) -> Result<(), TrainingError> {
    let (found, _) = frozen(task, T::ROOT);
    if found == old.frozen {
        return Ok(());
    }
    let told = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    Err(TrainingError::Setting {
        name: "freeze",
        wanted: format!("the frozen parameters that the run was started with ({})", told(&old.frozen)),
        found: told(&found),
    })
}
