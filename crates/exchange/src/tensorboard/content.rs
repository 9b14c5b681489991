//! What of a run goes into its event file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use image::{ImageDecoder, codecs::png::PngDecoder};
use kindling_record::{
    EpochRecord, EvaluationRecord, GradientRecord, MistakeRecord, RunDirectory, RunRecord, RunStatus, StepRecord,
    unix_seconds,
};
use kindling_report::{grouped, markdown, percent};
use serde_json::{Map, Value as Json};

use super::{
    event::{
        Event, Hyperparameter, Image, Kind, Session, SessionEnd, SessionLog, SessionStart, Status, Summary, Value, What,
    },
    times::{Times, now},
};
use crate::ExchangeError;

/// How much of a run is written.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// When the run was started, and by how many processes it was trained.
    pub(super) started: String,
    pub(super) parts: usize,
    /// How many bytes of the step log, and the last line of them.
    bytes: u64,
    line: Vec<u8>,
    /// The last step and the last epoch.
    step: usize,
    pub(super) epochs: usize,
    /// Whether what a run has at its end is written.
    pub(super) has_ended: bool,
    /// Time of the last event, in seconds since 1970, UTC: no later event is before it.
    pub(super) wall_time: f64,
    /// When the run was last looked at, the same.
    pub(super) looked: f64,
}

impl Position {
    pub(super) fn start(record: &RunRecord) -> Self {
        Self {
            started: record.started.clone(),
            parts: record.parts.len(),
            bytes: 0,
            line: Vec::new(),
            step: 0,
            epochs: 0,
            has_ended: false,
            wall_time: unix_seconds(&record.started).unwrap_or_default(),
            looked: now(),
        }
    }

    /// Where the run stands, as TensorBoard counts; in epochs where the run has no step log.
    fn place(&self) -> i64 {
        if self.step == 0 { self.epochs as i64 } else { self.step as i64 }
    }
}

/// The steps in the log from the position on, which moves behind them; none where the log is not the one that was read.
///
/// Steps of epochs after the one that follows the record's last wait: what the record has to say of the epochs between
/// comes first.
///
/// # Errors
/// When the log cannot be read, or a whole line of it is no step.
pub(super) fn new_steps(
    path: &Path,
    record: &RunRecord,
    position: &mut Position,
) -> Result<Option<Vec<StepRecord>>, ExchangeError> {
    let known = position.line.len();
    let mut content = Vec::new();
    match File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(position.bytes - known as u64)).map_err(ExchangeError::io(path))?;
            file.read_to_end(&mut content).map_err(ExchangeError::io(path))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(ExchangeError::io(path)(error)),
    }
    let Some(new) = content.strip_prefix(&position.line[..]) else { return Ok(None) };
    let mut steps: Vec<StepRecord> = Vec::new();
    for line in new.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let step: StepRecord = serde_json::from_slice(line).map_err(|error| ExchangeError::Steps {
            path: path.to_path_buf(),
            place: position.bytes,
            message: error.to_string(),
        })?;
        if step.epoch > record.epochs.len() + 1 {
            break;
        }
        if step.step <= position.step {
            return Ok(None);
        }
        position.step = step.step;
        position.bytes += line.len() as u64;
        position.line = line.to_vec();
        steps.push(step);
    }
    Ok(Some(steps))
}

/// Writes what a file begins with: its version, the session start, and how the run is run.
pub(super) fn write_start(to: &mut Vec<u8>, record: &RunRecord, position: &mut Position) -> Result<(), ExchangeError> {
    let start = position.wall_time;
    write(to, start, 0, What::FileVersion("brain.Event:2".to_owned()))?;
    write(to, start, 0, What::SessionLog(SessionLog { status: 1 }))?;
    let config = format!("```json\n{:#}\n```", Json::Object(record.config.clone()));
    let hparams = SessionStart { hparams: hyperparameters(&record.config), start_time_secs: start };
    for value in [
        Value::text("run", how_it_is_run(record)),
        Value::text("config", config),
        Value::session(Session::Start(hparams)),
    ] {
        write_values(to, start, 0, vec![value])?;
    }
    Ok(())
}

/// Writes the steps and what else is new in the record, in the order in which it came about, and moves the position.
pub(super) fn write_news(
    to: &mut Vec<u8>,
    directory: &RunDirectory,
    record: &RunRecord,
    steps: &[StepRecord],
    times: &Times,
    position: &mut Position,
) -> Result<(), ExchangeError> {
    let mut steps = steps.iter().zip(&times.steps).peekable();
    // `new_steps` has moved the position already.
    let mut step_so_far = steps.peek().map_or(position.step, |(step, _)| step.step - 1);
    loop {
        let epoch = record.epochs.get(position.epochs);
        let of_epoch = |(step, _): &(&StepRecord, &f64)| epoch.is_none_or(|epoch| step.epoch <= epoch.epoch);
        while let Some((step, time)) = steps.next_if(of_epoch) {
            position.wall_time = position.wall_time.max(*time);
            step_so_far = step.step;
            write_values(to, position.wall_time, step.step as i64, step_values(step))?;
        }
        let Some(epoch) = epoch else { break };
        if let Some(time) = times.epochs.get(position.epochs) {
            position.wall_time = position.wall_time.max(*time);
        }
        position.epochs += 1;
        let place = if step_so_far == 0 { position.epochs } else { step_so_far };
        write_values(to, position.wall_time, place as i64, epoch_values(epoch))?;
    }
    if record.status != RunStatus::Running && !position.has_ended {
        position.has_ended = true;
        position.wall_time = position.wall_time.max(times.end);
        let (time, place) = (position.wall_time, position.place());
        for value in end_values(directory, record)? {
            write_values(to, time, place, vec![value])?;
        }
    }
    Ok(())
}

fn write_values(to: &mut Vec<u8>, time: f64, step: i64, value: Vec<Value>) -> Result<(), ExchangeError> {
    if value.is_empty() { Ok(()) } else { write(to, time, step, What::Summary(Summary { value })) }
}

fn write(to: &mut Vec<u8>, wall_time: f64, step: i64, what: What) -> Result<(), ExchangeError> {
    Event { wall_time, step, what: Some(what) }.write(to).map_err(ExchangeError::io("an event"))
}

fn step_values(step: &StepRecord) -> Vec<Value> {
    let mut values =
        vec![Value::scalar("step/loss", step.loss), Value::scalar("step/learning_rate", step.learning_rate)];
    let Some(GradientRecord { mean, mean_abs, norm, layers }) = &step.gradient else { return values };
    let all = [("norm", *norm), ("mean", *mean), ("mean_abs", *mean_abs)];
    values.extend(all.map(|(name, value)| Value::scalar(format!("step/gradient_{name}"), value)));
    for layer in layers {
        let own = [("norm", layer.norm), ("mean", layer.mean), ("mean_abs", layer.mean_abs)];
        values.extend(own.map(|(name, value)| Value::scalar(format!("gradient_{name}/{}", layer.layer), value)));
    }
    values
}

fn epoch_values(epoch: &EpochRecord) -> Vec<Value> {
    let metric = |(name, value): (&String, &f64)| {
        // Charts are grouped by what stands first: the splits of a metric belong together.
        let tag = name.split_once('/').map_or_else(|| name.clone(), |(split, metric)| format!("{metric}/{split}"));
        Value::scalar(tag, *value)
    };
    let own = [
        ("learning_rate", epoch.learning_rate),
        ("seconds", epoch.seconds),
        ("evaluation_seconds", epoch.evaluation_seconds),
        ("samples_per_second", epoch.samples_per_second),
    ];
    let own = own.map(|(name, value)| Value::scalar(format!("epoch/{name}"), value));
    epoch.metrics.0.iter().map(metric).chain(own).collect()
}

/// What a run has once it has ended: its test, its evaluation, its mistakes, its status.
fn end_values(directory: &RunDirectory, record: &RunRecord) -> Result<Vec<Value>, ExchangeError> {
    let test = record.test.iter().flat_map(|test| &test.metrics.0);
    let mut values: Vec<Value> = test.map(|(name, value)| Value::scalar(name, *value)).collect();
    if let Some(evaluation) = directory.read_evaluation()? {
        values.extend(evaluation_values(&evaluation));
        for (index, mistake) in evaluation.mistakes.iter().enumerate() {
            values.extend(mistake_value(directory, record, mistake, index + 1)?);
        }
    }
    let status = match record.status {
        RunStatus::Running => Status::Running,
        RunStatus::Finished => Status::Success,
        RunStatus::Diverged | RunStatus::Failed => Status::Failure,
        RunStatus::Interrupted | RunStatus::Imported => Status::Unknown,
    };
    let end_time_secs = unix_seconds(&record.started).unwrap_or_default() + record.seconds;
    values.push(Value::session(Session::End(SessionEnd { status: status.into(), end_time_secs })));
    Ok(values)
}

fn evaluation_values(evaluation: &EvaluationRecord) -> Vec<Value> {
    let metrics = [
        ("loss", Some(evaluation.loss)),
        ("accuracy", Some(evaluation.accuracy)),
        ("balanced_accuracy", evaluation.balanced_accuracy),
        ("macro_f1", evaluation.macro_f1),
        ("weighted_f1", evaluation.weighted_f1),
        ("calibration_error", Some(evaluation.calibration.error)),
    ];
    let metrics = metrics.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let top_k =
        evaluation.top_k.iter().enumerate().map(|(index, value)| (format!("top_{}_accuracy", index + 1), *value));
    let scalar = |(name, value)| Value::scalar(format!("evaluation/{name}"), value);
    let mut values: Vec<Value> = metrics.chain(top_k).map(scalar).collect();
    let shown = |fraction: Option<f64>| fraction.map_or_else(|| "–".to_owned(), percent);
    let rows = evaluation.classes.iter().map(|class| {
        vec![class.name.clone(), grouped(class.images), shown(class.precision), shown(class.recall), shown(class.f1)]
    });
    let table = markdown(&["class", "images", "precision", "recall", "F1"], &[1, 2, 3, 4], rows);
    values.push(Value::text("evaluation/classes", table));
    values
}

/// The picture of a mistake, the `rank`th; nothing where the file is gone or is no PNG.
fn mistake_value(
    directory: &RunDirectory,
    record: &RunRecord,
    mistake: &MistakeRecord,
    rank: usize,
) -> Result<Option<Value>, ExchangeError> {
    let Some(name) = Path::new(&mistake.picture).file_name() else { return Ok(None) };
    let path = directory.mistakes().join(name);
    let encoded_image_string = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ExchangeError::io(path)(error)),
    };
    let Ok(decoder) = PngDecoder::new(std::io::Cursor::new(&encoded_image_string)) else { return Ok(None) };
    let (width, height) = decoder.dimensions();
    let colorspace = decoder.color_type().channel_count().into();
    let class = |label: usize| record.dataset.classes().get(label).cloned().unwrap_or_else(|| label.to_string());
    let (target, predicted) = (class(mistake.target), class(mistake.predicted));
    let from = mistake.file.as_ref().map(|file| format!(" ({file})")).unwrap_or_default();
    let description = format!(
        "test image {}{from}: {target}, taken for {predicted} with a probability of {}",
        mistake.index,
        percent(mistake.confidence)
    );
    let image = Image { height: height as i32, width: width as i32, colorspace, encoded_image_string };
    Ok(Some(Value::image(format!("mistakes/{rank:02} {target} as {predicted}"), image, description)))
}

/// The run's data, machine and parts, in Markdown.
fn how_it_is_run(record: &RunRecord) -> String {
    let data = &record.dataset;
    let machine = &record.machine;
    let versions: Vec<String> = record.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let [train, valid, test] = [data.train, data.valid, data.test].map(grouped);
    let mut rows = vec![
        ("run", record.id.clone()),
        ("model", format!("{}, {} parameters", record.model, grouped(record.parameters))),
        ("data", format!("{}, {train} to train, {valid} to validate, {test} to test", data.name)),
        ("data, SHA-256", data.sha256.clone()),
        ("monitor", record.monitor.clone()),
        ("versions", versions.join(", ")),
        (
            "machine",
            format!(
                "{}, {}, {} threads",
                machine.platform,
                machine.processor.as_deref().unwrap_or("unknown processor"),
                machine.threads
            ),
        ),
    ];
    if let Some(weights) = &record.initial_weights {
        rows.push(("starting weights", format!("{}, SHA-256 {}", weights.source, weights.sha256)));
    }
    rows.extend(record.parts.iter().map(|part| {
        let [backend, kernels, devices, _] = part.setup().in_words();
        ("part", format!("{}: {backend} on {}, {kernels}, {devices}", part.started, part.device))
    }));
    markdown(&["", ""], &[], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]))
}

/// The config's keys with dots between the sections, without those that have no value.
fn hyperparameters(config: &Map<String, Json>) -> BTreeMap<String, Hyperparameter> {
    let mut found = BTreeMap::new();
    for (key, value) in config {
        let kind = match value {
            Json::Null => continue,
            Json::Object(section) => {
                let inner = hyperparameters(section).into_iter();
                found.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
                continue;
            }
            Json::Bool(value) => Kind::Bool(*value),
            Json::Number(number) => Kind::Number(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Kind::Text(text.clone()),
            Json::Array(_) => Kind::Text(value.to_string()),
        };
        found.insert(key.clone(), Hyperparameter { kind: Some(kind) });
    }
    found
}
