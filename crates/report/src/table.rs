//! Tables for a terminal and in Markdown, and how counts, times and fractions are written.

use std::iter;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use kindling_record::{MetricRecord, Metrics, RunRecord, RunStatus};

pub(crate) use crate::run::NONE;
use crate::{
    metrics::{metrics_of, value_text},
    run::{is_limited, key},
};

/// comfy-table's list of 19 characters for the parts of a grid: here only the line under the header.
const HEADER_LINE_ONLY: &str = "     ──            ";

/// A table with the given header, the columns `right` set to the right, folded to fit `width` columns if given, but not
/// within `± 0.31 %` and `(n = 3)`.
#[must_use]
pub fn table(
    header: &[&str],
    right: &[usize],
    width: Option<u16>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_preset(HEADER_LINE_ONLY).set_header(header.to_vec());
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.iter().map(|cell| bound(cell)).collect()).collect();
    let longest_word = |column: usize| {
        let words = rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.split(' '));
        words.map(|word| word.chars().count()).max().unwrap_or_default()
    };
    table.add_rows(&rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest_word(index) as u16 + 1)));
        }
        if index == 0 {
            // Names are there to be copied.
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.to_string().replace('\u{a0}', " ")
}

/// The cell with blanks that no line is broken at inside its numbers.
fn bound(cell: &str) -> String {
    let numbers = [("± ", "±\u{a0}"), (" %", "\u{a0}%"), ("(n = ", "(n\u{a0}=\u{a0}")];
    numbers.iter().fold(cell.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The same in Markdown.
#[must_use]
pub fn markdown(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let rule = (0..header.len()).map(|column| if right.contains(&column) { "--:" } else { "---" }.to_owned());
    let mut lines = vec![line(header.iter().map(|&name| name.to_owned()).collect()), line(rule.collect())];
    // A bar would begin another cell.
    lines.extend(rows.into_iter().map(|row| line(row.iter().map(|cell| cell.replace('|', "\\|")).collect())));
    lines.join("\n")
}

/// The runs, one a row, with the status to show for each; folded to fit `width` columns if given.
///
/// The metrics are those on the test split, or where a run has none those of its best epoch, as the column `split`
/// says.
#[must_use]
pub fn runs_table(runs: &[(RunStatus, RunRecord)], width: Option<u16>) -> String {
    let shown: Vec<Shown<'_>> = runs.iter().map(|(_, record)| Shown::of(record)).collect();
    let mut metrics = metrics_of(runs.iter().map(|(_, record)| record));
    metrics.retain(|metric| shown.iter().any(|shown| shown.get(&metric.name).is_some()));
    let mut header = vec!["run", "model", "backend", "status", "epochs", "split"];
    header.extend(metrics.iter().map(|metric| metric.name.as_str()));
    header.push("time");
    let right: Vec<usize> = iter::once(4).chain(6..header.len()).collect();
    let rows = runs.iter().zip(&shown).map(|((status, record), shown)| {
        let mut row = vec![
            record.id.clone(),
            format!("{}{}", record.model, on_data(record)),
            record.backend.clone(),
            status.to_string(),
            epochs_text(record),
            shown.split.clone(),
        ];
        let value = |metric: &MetricRecord| shown.get(&metric.name).map(|value| value_text(metric, value));
        row.extend(metrics.iter().map(|metric| value(metric).unwrap_or_default()));
        let is_trained = record.status != RunStatus::Imported;
        row.push(if is_trained { duration(record.seconds) } else { String::new() });
        row
    });
    table(&header, &right, width, rows)
}

/// The metrics to show for a run.
struct Shown<'a> {
    /// What they are of: `test`, or `valid, epoch 3`.
    split: String,
    prefix: &'a str,
    metrics: Option<&'a Metrics>,
}

impl<'a> Shown<'a> {
    fn of(record: &'a RunRecord) -> Self {
        if let Some(test) = &record.test {
            return Self { split: "test".to_owned(), prefix: "test", metrics: Some(&test.metrics) };
        }
        let best = record.epochs.iter().find(|epoch| Some(epoch.epoch) == record.best_epoch);
        let prefix = record.monitor.split_once('/').map_or("valid", |(split, _)| split);
        let split = best.map_or_else(String::new, |epoch| format!("{prefix}, epoch {}", epoch.epoch));
        Self { split, prefix, metrics: best.map(|epoch| &epoch.metrics) }
    }

    fn get(&self, metric: &str) -> Option<f64> {
        self.metrics?.get(&format!("{}/{metric}", self.prefix))
    }
}

/// ` on fashion-mnist (limited)`: nothing for the whole Fashion-MNIST.
fn on_data(record: &RunRecord) -> String {
    let limited = if is_limited(record) { " (limited)" } else { "" };
    match record.dataset.name.as_str() {
        "fashion-mnist" | "" => limited.to_owned(),
        other => format!(" on {other}{limited}"),
    }
}

/// The epochs that the run has and those that its config wants: `3/10`; the first alone where the config does not say. An
/// imported run has none.
fn epochs_text(record: &RunRecord) -> String {
    if record.status == RunStatus::Imported {
        return String::new();
    }
    let planned = key(record, "training.epochs").map_or_else(String::new, |planned| format!("/{planned}"));
    format!("{}{planned}", record.epochs.len())
}

/// The result of a run in a few lines.
#[must_use]
pub fn summary(record: &RunRecord) -> String {
    let mut lines = Vec::new();
    let limited = if is_limited(record) { ", limited to a few batches" } else { "" };
    let protocol = record.dataset.images.as_ref().map(|images| format!(", protocol {}", images.protocol));
    lines.push(format!(
        "{} ({} parameters) on {}{limited}{}, {}: {}",
        record.model,
        grouped(record.parameters),
        record.dataset.name,
        protocol.unwrap_or_default(),
        record.backend,
        record.status
    ));
    if let Some(reason) = &record.stopped_early {
        lines.push(format!("stopped early: {reason}"));
    }
    if let Some(diverged) = &record.diverged {
        let place = diverged.layer.as_ref().map_or(String::new(), |layer| format!(" in {layer}"));
        lines.push(format!(
            "diverged at step {}: the first number that is not finite is the {}{place}; try a lower learning rate",
            diverged.step, diverged.quantity
        ));
    }
    let shown = Shown::of(record);
    let values = metrics_of([record]).into_iter().filter_map(|metric| {
        let value = value_text(&metric, shown.get(&metric.name)?);
        Some(format!("{} {} {value}", shown.prefix, metric.name))
    });
    let values = values.collect::<Vec<_>>().join(", ");
    if !values.is_empty() {
        lines.push(format!("{values} ({}; n = 1)", weights(record)));
    }
    if record.status == RunStatus::Imported {
        return lines.join("\n");
    }
    let throughput = record.samples_per_second.map_or_else(String::new, |throughput| {
        // Whole numbers of samples, well below 2^53.
        format!(", {} training {}/s", grouped(throughput.round() as usize), samples(record))
    });
    lines.push(format!("{} of training and evaluation{throughput}", duration(record.seconds)));
    lines.join("\n")
}

/// Which weights were tested: `weights of epoch 7, the lowest valid loss`.
fn weights(record: &RunRecord) -> String {
    if record.status == RunStatus::Imported {
        return record
            .initial_weights
            .as_ref()
            .map_or_else(String::new, |weights| format!("weights of {}", weights.source));
    }
    let metric = record.monitor.split_once('/').map_or(record.monitor.as_str(), |(_, name)| name);
    let is_higher = record.metrics.iter().any(|known| known.name == metric && known.higher_is_better);
    let reports_last = record.test.is_some() && record.monitor.starts_with("test/");
    match record.best_epoch.filter(|_| !reports_last) {
        Some(epoch) => {
            let end = if is_higher { "highest" } else { "lowest" };
            format!("weights of epoch {epoch}, the {end} {}", record.monitor.replace('/', " "))
        }
        None => "weights of the last epoch".to_owned(),
    }
}

/// What the run's samples are called in a throughput: images or samples.
pub(crate) fn samples(record: &RunRecord) -> &'static str {
    if record.dataset.images.is_some() { "images" } else { "samples" }
}

/// A fraction as a percentage with two decimals.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

/// Seconds as people read them.
#[must_use]
pub fn duration(seconds: f64) -> String {
    // No run takes 2^53 seconds.
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A count with a comma before every three digits.
#[must_use]
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run_report::fixtures::run;

    #[test]
    fn an_imported_run_has_no_epochs_and_no_times() {
        let place = tempfile::tempdir().unwrap();
        let weights = json!({ "source": "fm.pt", "sha256": "00", "taken": 6, "fresh": [], "unused": [] });
        let changes =
            json!({ "status": "imported", "initial_weights": weights, "parts": [], "epochs": [], "seconds": 0.0 });
        let imported = run(place.path(), "cnn-1", changes).record;
        let said = summary(&imported);
        assert!(said.ends_with("test loss 0.5000, test accuracy 75.00 % (weights of fm.pt; n = 1)"), "{said}");
        let text = runs_table(&[(RunStatus::Imported, imported)], None);
        assert!(text.contains("imported") && !text.contains("0/") && !text.contains(" s "), "{text}");
    }

    #[test]
    fn a_run_is_summed_up_by_its_test_metrics_or_else_by_those_of_its_best_epoch() {
        let place = tempfile::tempdir().unwrap();
        let tested = run(place.path(), "mlp-1", json!({})).record;
        let said = summary(&tested);
        assert!(said.contains("test loss 0.5000, test accuracy 75.00 % (weights of the last epoch; n = 1)"), "{said}");
        assert!(said.ends_with("40.0 s of training and evaluation, 1,234 training images/s"), "{said}");
        let values = json!({ "train/loss": 0.5, "valid/loss": 2.5, "valid/psnr": 31.25 });
        let epoch = json!({
            "epoch": 1, "metrics": values, "learning_rate": 0.1, "seconds": 1.0, "samples_per_second": 1.0,
            "evaluation_seconds": 1.0,
        });
        let metrics = json!([
            { "name": "loss", "higher_is_better": false, "unit": null },
            { "name": "psnr", "higher_is_better": true, "unit": "dB" },
        ]);
        let changes = json!({ "metrics": metrics, "monitor": "valid/psnr", "epochs": [epoch], "test": null });
        let mut other = run(place.path(), "autoencoder-1", changes).record;
        other.dataset.images = None;
        let said = summary(&other);
        let expected = "valid loss 2.5000, valid psnr 31.2500 (weights of epoch 1, the highest valid psnr; n = 1)";
        assert!(said.contains(expected) && said.ends_with("1,234 training samples/s"), "{said}");
        let both = [(RunStatus::Finished, tested), (RunStatus::Running, other)];
        let text = runs_table(&both, None);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][4..], ["epochs", "split", "loss", "accuracy", "psnr", "time"]);
        assert_eq!(lines[2][4..], ["1/3", "test", "0.5000", "75.00", "%", "40.0", "s"]);
        assert_eq!(lines[3][4..], ["1/3", "valid,", "epoch", "1", "2.5000", "31.2500", "40.0", "s"]);
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        let shown = [0, 999, 1000, 669_706, 1_195_018].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "669,706", "1,195,018"]);
    }

    #[test]
    fn durations_use_the_units_that_fit() {
        let shown = [0.04, 59.4, 61.0, 3599.0, 3600.0, 7384.0].map(duration);
        assert_eq!(shown, ["0.0 s", "59.4 s", "1 min 01 s", "59 min 59 s", "1 h 00 min", "2 h 03 min"]);
    }

    #[test]
    fn a_table_aligns_its_numbers_to_the_right() {
        let text = table(
            &["a", "n"],
            &[1],
            None,
            [vec!["x".to_owned(), "1".to_owned()], vec!["y".to_owned(), "10".to_owned()]],
        );
        assert!(text.contains("x   1") && text.contains("y  10"), "{text}");
    }

    #[test]
    fn a_folded_table_keeps_numbers_on_their_lines() {
        let row = ["mlp, learning rate 0.1", "87.43 ± 0.31 % (n = 3)", "0.3512 ± 0.0123 (n = 3)"].map(str::to_owned);
        for width in [44, 52, 60, 68_u16] {
            let header = ["configuration", "test accuracy", "test loss"];
            let text = table(&header, &[1, 2], Some(width), [row.to_vec()]);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(text.lines().count() > 3 && widest <= usize::from(width), "{text}");
            assert_eq!((text.matches("(n = 3)").count(), text.matches("± 0.31 %").count()), (2, 1), "{text}");
            assert!(!text.contains('\u{a0}'));
        }
        // Rather too wide than a number in pieces.
        let narrow = table(&["", "loss", "accuracy"], &[1, 2], Some(20), [row.to_vec()]);
        assert!(narrow.matches("(n = 3)").count() == 2 && narrow.contains("± 0.0123"), "{narrow}");
    }
}
