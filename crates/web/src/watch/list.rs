//! The table of all runs.

use kindling_record::{MetricRecord, RunRecord};
use kindling_report::{duration, grouped, swatch, value_text};
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    badge, button,
    compare::Ticks,
    library::{Progress, Watched, seed},
    link,
    steps::Position,
};

/// So many metrics have a column.
const METRICS: usize = 3;
/// As much of a config is searched for the text of the filter.
const SEARCHED: usize = 1000;
/// What runs can be filtered by.
const STATUSES: [&str; 7] = ["running", "finished", "interrupted", "diverged", "failed", "imported", "damaged"];

/// What stands above the table.
pub(super) fn controls(runs: &[Watched], place: &str) -> Markup {
    html! {
        p.note { "In " code { (place) } "." }
        form #filter .controls role="search" action="/" {
            label { "Search" input #text type="search" placeholder="name, network, data, optimizer" autocomplete="off"; }
            label {
                "Status"
                select #status {
                    option value="" { "all" }
                    @for status in STATUSES { option value=(status) { (status) } }
                }
            }
            label #sorting { "Sort by" select #sort { option value="" { "as they come" } } }
            span #shown .note {}
        }
        noscript { p.message { "Without JavaScript this page shows the " (runs.len()) " runs as they were when it was loaded." } }
    }
}

/// The runs, a row for each; `position` tells where the step log of one stands that is being trained.
pub(super) fn table(
    runs: &[Watched],
    ticks: &Ticks<'_>,
    can_act: bool,
    position: impl Fn(&Watched) -> Option<Position>,
) -> Markup {
    if runs.is_empty() {
        return html! { p.message { "There are no runs yet; they appear here as soon as one is started." } };
    }
    let metrics = metrics(runs);
    let titles = metrics.iter().map(|metric| format!("best {}", metric.name));
    let head = ["run", "status", "progress", "network", "data"].map(str::to_owned).into_iter().chain(titles);
    let head: Vec<String> = head.chain(["samples/s", "seed", "started (UTC)"].map(str::to_owned)).collect();
    html! {
        div.scroll role="region" tabindex="0" aria-label="Runs" {
            table.runs {
                thead {
                    tr {
                        th scope="col" { span.unseen { "compare" } }
                        @for title in &head {
                            th scope="col" aria-sort="none" { button.sort type="button" { (title) } }
                        }
                        @if can_act { th scope="col" { span.unseen { "action" } } }
                    }
                }
                tbody {
                    @for run in runs { (row(run, &metrics, ticks, can_act, &head, position(run))) }
                }
            }
        }
    }
}

fn row(
    run: &Watched,
    metrics: &[MetricRecord],
    ticks: &Ticks<'_>,
    can_act: bool,
    head: &[String],
    position: Option<Position>,
) -> Markup {
    let color = ticks.color(&run.id);
    let status = run.status.map_or_else(|| "damaged".to_owned(), |status| status.to_string());
    html! {
        tr data-key=(run.id) data-status=(status) data-text=(searched(run)) {
            td.tick {
                label {
                    input type="checkbox" name="tick" value=(run.id) checked[color.is_some()] disabled[run.record.is_err()]
                        aria-label={ "Compare " (run.id) };
                    @if let Some(color) = color { (PreEscaped(swatch(color))) }
                }
            }
            th scope="row" data-value=(run.id) { a href=(link(&run.id)) { (run.id) } }
            td data-label="status" data-value=(status) { (badge(run)) }
            @match &run.record {
                Err(message) => td.wide colspan=(head.len() - 2) { span.note { (message) } },
                Ok(record) => (cells(run, record, metrics, position)),
            }
            @if can_act { td.action { (button(run)) } }
        }
    }
}

fn cells(run: &Watched, record: &RunRecord, metrics: &[MetricRecord], position: Option<Position>) -> Markup {
    let progress = run.progress(position);
    let speed = record.epochs.last().map(|epoch| epoch.samples_per_second).or(record.samples_per_second);
    let split = record.monitor.split_once('/').map_or("valid", |(split, _)| split);
    let best = record.epochs.iter().find(|epoch| Some(epoch.epoch) == record.best_epoch);
    html! {
        td data-label="progress" data-value=[progress.map(|progress| progress.epochs)] {
            @if let Some(progress) = progress { (bar(&progress, &run.id)) }
        }
        td data-label="network" data-value=(record.model) { (record.model) }
        td data-label="data" data-value=(record.dataset.name) { (record.dataset.name) }
        @for metric in metrics {
            @let value = best.and_then(|best| best.get(&format!("{split}/{}", metric.name)));
            td.number data-label={ "best " (metric.name) } data-value=[value]
                title=[best.map(|best| format!("{split}, epoch {}", best.epoch))] {
                @if let Some(value) = value {
                    (value_text(metric, value))
                    @if split != "valid" { " " span.note { (split) } }
                } @else { "–" }
            }
        }
        td.number data-label="samples/s" data-value=[speed] {
            (speed.map_or_else(|| "–".to_owned(), |speed| grouped(speed.round() as usize)))
        }
        td.number data-label="seed" data-value=[seed(record)] {
            (seed(record).map_or_else(|| "–".to_owned(), |seed| seed.to_string()))
        }
        td data-label="started (UTC)" data-value=(record.started) {
            time datetime=(record.started) { (started(record)) }
        }
    }
}

/// Epochs of epochs as a bar and in words, with the time that is left.
pub(super) fn bar(progress: &Progress, id: &str) -> Markup {
    html! {
        @if let Some(planned) = progress.planned {
            progress max=(planned) value=(format!("{:.3}", progress.epochs)) aria-label={ "Epochs of " (id) } {}
            span.epochs { (grouped(progress.epochs as usize)) " of " (grouped(planned)) }
        } @else {
            span.epochs { (grouped(progress.epochs as usize)) " epochs" }
        }
        @if let Some(rest) = progress.rest { " " span.note.rest { "about " (time(rest)) " left" } }
    }
}

/// An estimated time: tenths of seconds would be more than anyone knows.
fn time(seconds: f64) -> String {
    if seconds < 59.5 { format!("{seconds:.0} s") } else { duration(seconds) }
}

/// When a run was started, to the minute.
pub(super) fn started(record: &RunRecord) -> String {
    record.started.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// The metrics of all runs, the loss first.
fn metrics(runs: &[Watched]) -> Vec<MetricRecord> {
    let mut metrics: Vec<MetricRecord> = Vec::new();
    for metric in runs.iter().filter_map(|run| run.record.as_ref().ok()).flat_map(|record| &record.metrics) {
        if metrics.iter().all(|known| known.name != metric.name) {
            metrics.push(metric.clone());
        }
    }
    metrics.sort_by_key(|metric| metric.name != "loss");
    metrics.truncate(METRICS);
    metrics
}

/// What the filter looks at.
fn searched(run: &Watched) -> String {
    let mut text = run.id.clone();
    if let Ok(record) = &run.record {
        for word in [&record.model, &record.dataset.name, &record.backend] {
            text.extend([" ", word]);
        }
        record.config.values().for_each(|value| words(value, &mut text));
    }
    text.chars().take(SEARCHED).collect::<String>().to_lowercase()
}

/// Adds the texts in a config.
fn words(value: &Value, text: &mut String) {
    match value {
        Value::String(word) => text.extend([" ", word]),
        Value::Array(values) => values.iter().for_each(|value| words(value, text)),
        Value::Object(section) => section.values().for_each(|value| words(value, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
