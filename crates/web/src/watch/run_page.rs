//! The page of one run.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    iter,
    path::Path,
    sync::PoisonError,
};

use kindling_record::{RunRecord, RunStatus};
use kindling_report::{
    Block, Group, KeptGradients, Split, TableBlock, configurations, duration, evaluated_splits, evaluation_blocks,
    fragment, gradient_blocks, grouped, how_it_was_run, metrics, value_text,
};
use maud::{Markup, PreEscaped, html};

use super::{
    Part, badge, button,
    compare::{epoch_charts, shown, step_part},
    library::{Library, Stamp, Watched, seed},
    list::{bar, started},
};

/// So many lines of the log are shown, of so many of its last bytes.
const LOG: (usize, u64) = (200, 32 << 10);
/// So many of the last epochs are in the table.
const EPOCHS: usize = 500;

/// The parts of the page of `run`.
pub(super) fn parts<'a>(run: &'a Watched, library: &Library, can_act: bool, program: &'a str) -> Vec<Part<'a>> {
    let log = run.directory.log();
    let log_state = Stamp::of(&log);
    let mut parts = vec![Part::of("state", &state(run, library, can_act))];
    if run.record.is_ok() {
        let gradients = library.steps(run);
        let kept = gradients.lock().unwrap_or_else(PoisonError::into_inner).gradients.len();
        let evaluation = Stamp::of(&run.directory.evaluation());
        parts.extend([
            Part::from("curves", run.stamp, || curves(run)),
            step_part(&[(run, 0)], library),
            Part::from("gradients", (run.stamp, kept), move || {
                let steps = gradients.lock().unwrap_or_else(PoisonError::into_inner).gradients.clone();
                gradient_charts(run, steps)
            }),
            Part::from("evaluation", (run.stamp, run.status.map(|status| status.to_string()), evaluation), || {
                evaluation_of(run, program)
            }),
            Part::from("config", (run.stamp, run.status.map(|status| status.to_string())), || config(run, program)),
        ]);
    }
    parts.push(Part::from("log", log_state, move || log_of(&log)));
    parts
}

/// Where the run stands, and what is known of it in numbers.
fn state(run: &Watched, library: &Library, can_act: bool) -> Markup {
    html! {
        p.state {
            (badge(run))
            @if let Some(progress) = run.progress(library.position(run)) { " " (bar(&progress, &run.id)) }
            @if can_act { " " (button(run)) }
        }
        @match &run.record {
            Err(message) => p.message.error { (message) },
            Ok(record) => {
                @for message in messages(record) { p.message { (message) } }
                dl.facts {
                    @for (name, value) in facts(run, record) { div { dt { (name) } dd { (value) } } }
                }
            }
        }
    }
}

/// How the run ended, where there is more to say of it than a word.
fn messages(record: &RunRecord) -> Vec<String> {
    let diverged = record.diverged.as_ref().map(|diverged| {
        let place = diverged.layer.as_ref().map_or_else(String::new, |layer| format!(" in {layer}"));
        format!(
            "Diverged at step {}: the first number that is not finite is the {}{place}.",
            diverged.step, diverged.quantity
        )
    });
    let stopped = record.stopped_early.as_ref().map(|reason| format!("Stopped early: {reason}."));
    let ended = if record.status == RunStatus::Interrupted { "Interrupted" } else { "Failed" };
    let error = record.error.as_ref().map(|error| format!("{ended}: {error}"));
    [diverged, stopped, error].into_iter().flatten().collect()
}

fn facts(run: &Watched, record: &RunRecord) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let groups: Vec<Group> = run.group().into_iter().collect();
    let best = record.epochs.iter().find(|epoch| Some(epoch.epoch) == record.best_epoch);
    let split = record.monitor.split_once('/').map_or("valid", |(split, _)| split);
    for metric in metrics(&groups) {
        let name = &metric.name;
        if let Some((best, value)) = best.and_then(|best| Some((best, best.get(&format!("{split}/{name}"))?))) {
            facts.push((format!("{split} {name}, epoch {}", best.epoch), value_text(&metric, value)));
        }
        if let Some(value) = record.test.as_ref().and_then(|test| test.get(name)) {
            facts.push((format!("test {name}"), value_text(&metric, value)));
        }
    }
    let mut add = |name: &str, value: String| facts.push((name.to_owned(), value));
    if let Some(speed) = record.samples_per_second {
        add("samples/s", grouped(speed.round() as usize));
    }
    add("time", duration(record.seconds));
    add("started (UTC)", started(record));
    add("network", format!("{}, {} parameters", record.model, grouped(record.parameters)));
    let data = &record.dataset;
    let [train, valid, test] = [data.train, data.valid, data.test].map(grouped);
    add("data", format!("{}: {train} train, {valid} valid, {test} test", data.name));
    add("device", format!("{} ({})", record.device, record.backend));
    if let Some(seed) = seed(record) {
        add("seed", seed.to_string());
    }
    facts
}

/// The curves over the epochs, and their numbers.
fn curves(run: &Watched) -> String {
    let groups: Vec<Group> = run.group().into_iter().collect();
    let splits: Vec<Split> = iter::once(Split::Train).chain(evaluated_splits(&groups)).collect();
    let charts = shown(epoch_charts(&groups, &[0], &[splits]));
    let Some(table) = run.record.as_ref().ok().and_then(|record| epochs(record, &groups)) else { return charts };
    let table = fragment(&[Block::Details("Numbers of each epoch".to_owned(), vec![Block::Table(table)])]);
    html! { h2 { "Curves" } (PreEscaped(charts)) (PreEscaped(table)) }.into_string()
}

/// The epochs in numbers, the last first.
fn epochs(record: &RunRecord, groups: &[Group]) -> Option<TableBlock> {
    let splits = record.epochs.last()?.splits();
    let metrics = metrics(groups);
    let columns: Vec<_> = splits
        .iter()
        .flat_map(|split| metrics.iter().map(move |metric| (format!("{split}/{}", metric.name), metric)))
        .collect();
    let names = columns.iter().map(|(name, _)| name.replace('/', " "));
    let header: Vec<String> =
        iter::once("epoch".to_owned()).chain(names).chain(["learning rate", "seconds"].map(str::to_owned)).collect();
    let rows = record.epochs.iter().rev().take(EPOCHS).map(|epoch| {
        let values = columns.iter().map(|(name, metric)| epoch.get(name).map(|value| value_text(metric, value)));
        let mut row = vec![epoch.epoch.to_string()];
        row.extend(values.map(Option::unwrap_or_default));
        row.extend([epoch.learning_rate.to_string(), format!("{:.1}", epoch.seconds)]);
        row
    });
    let caption = "Metrics after each epoch, the last first; those of the training samples are means over the epoch.";
    Some(TableBlock { caption: caption.to_owned(), right: (0..header.len()).collect(), header, rows: rows.collect() })
}

fn gradient_charts(run: &Watched, steps: Vec<kindling_record::StepRecord>) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let kept = KeptGradients { label: run.id.clone(), color: Some(0), steps: vec![steps] };
    html! { h2 { "Gradients" } (PreEscaped(fragment(&gradient_blocks(&[kept], "run")))) }.into_string()
}

/// The confusion matrix and what `evaluate` found out, if there is any.
fn evaluation_of(run: &Watched, program: &str) -> String {
    let has_matrix = run.record.as_ref().is_ok_and(|record| {
        record.test.as_ref().is_some_and(|test| test.confusion.is_some()) || run.directory.evaluation().exists()
    });
    let Some(group) = run.group().filter(|_| has_matrix) else { return String::new() };
    let blocks = shown(evaluation_blocks(&group.runs[0], "run"));
    let more = !run.directory.evaluation().exists();
    html! {
        h2 { "Test set" }
        (PreEscaped(blocks))
        @if more {
            p.note {
                code { (program) " evaluate " (run.id) }
                " adds precision and recall of each class, calibration, and pictures of mistakes."
            }
        }
    }
    .into_string()
}

fn config(run: &Watched, program: &str) -> String {
    let groups: Vec<Group> = run.group().into_iter().collect();
    let mut blocks = vec![Block::Heading("Config".to_owned())];
    blocks.extend(configurations(&groups));
    blocks.push(Block::Details("How it was run, and how to run it again".to_owned(), how_it_was_run(&groups, program)));
    fragment(&blocks)
}

/// The last lines of the log.
fn log_of(path: &Path) -> String {
    let text = last_lines(path);
    html! {
        @match text {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {},
            Err(error) => { h2 { "Log" } p.message.error { (path.display()) ": " (error) } },
            Ok(text) => { h2 { "Log" } pre #log tabindex="0" aria-label="The last lines of the log" { code { (text) } } },
        }
    }
    .into_string()
}

fn last_lines(path: &Path) -> io::Result<String> {
    let (most, bytes) = LOG;
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    // The first line is not whole.
    let skipped = usize::from(from > 0);
    let lines: Vec<&str> = text.lines().skip(skipped).collect();
    let kept = lines[lines.len().saturating_sub(most)..].join("\n");
    Ok(kept.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect())
}
