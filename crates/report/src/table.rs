use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use kindling_record::{RunRecord, RunStatus};

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

/// The cell with blanks that no line is broken at inside its figures.
fn bound(cell: &str) -> String {
    let figures = [("± ", "±\u{a0}"), (" %", "\u{a0}%"), ("(n = ", "(n\u{a0}=\u{a0}")];
    figures.iter().fold(cell.to_owned(), |text, (from, to)| text.replace(from, to))
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

/// The runs, one a row, with the status to show for each and the test accuracy as `test`, folded to fit `width` columns if given.
#[must_use]
pub fn runs_table(runs: &[(RunStatus, RunRecord)], width: Option<u16>) -> String {
    let header = ["run", "model", "backend", "status", "epochs", "test", "time"];
    let rows = runs.iter().map(|(status, record)| {
        let planned = record.config.get("epochs").map_or_else(|| "?".to_owned(), ToString::to_string);
        let limited = if is_limited(record) { " (limited)" } else { "" };
        let data = match record.dataset.name.as_str() {
            "fashion-mnist" => String::new(),
            other => format!(" on {other}"),
        };
        vec![
            record.id.clone(),
            format!("{}{data}{limited}", record.model),
            record.backend.clone(),
            status.to_string(),
            format!("{}/{planned}", record.epochs.len()),
            record.test.as_ref().map_or_else(String::new, |test| percent(test.accuracy)),
            duration(record.seconds),
        ]
    });
    table(&header, &[4, 5, 6], width, rows)
}

/// What a run came to, in a few lines.
#[must_use]
pub fn summary(record: &RunRecord) -> String {
    let mut lines = Vec::new();
    let limited = if is_limited(record) { ", limited to a few batches" } else { "" };
    lines.push(format!(
        "{} ({} parameters) on {}{limited}, protocol {}, {}: {}",
        record.model,
        grouped(record.parameters),
        record.dataset.name,
        record.dataset.protocol,
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
    if let Some(test) = &record.test {
        let which = match (record.dataset.protocol.as_str(), record.best_epoch) {
            ("validated", Some(epoch)) => format!("weights of epoch {epoch}, the lowest valid loss"),
            _ => "weights of the last epoch".to_owned(),
        };
        lines.push(format!("test accuracy {}, test loss {:.4} ({which}; n = 1)", percent(test.accuracy), test.loss));
    }
    let speed = record.images_per_second.map_or_else(String::new, |speed| {
        // Speeds are whole numbers of images well below 2^53.
        let speed = speed.round() as usize;
        format!(", {} training images/s", grouped(speed))
    });
    lines.push(format!("{} of training and evaluation{speed}", duration(record.seconds)));
    lines.join("\n")
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

fn is_limited(record: &RunRecord) -> bool {
    record.config.get("limit_batches").is_some_and(|limit| !limit.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_folded_table_keeps_figures_on_their_lines() {
        let row = ["mlp, learning rate 0.1", "87.43 ± 0.31 % (n = 3)", "0.3512 ± 0.0123 (n = 3)"].map(str::to_owned);
        for width in [44, 52, 60, 68_u16] {
            let header = ["configuration", "test accuracy", "test loss"];
            let text = table(&header, &[1, 2], Some(width), [row.to_vec()]);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(text.lines().count() > 3 && widest <= usize::from(width), "{text}");
            assert_eq!((text.matches("(n = 3)").count(), text.matches("± 0.31 %").count()), (2, 1), "{text}");
            assert!(!text.contains('\u{a0}'));
        }
        // Rather too wide than a figure in pieces.
        let narrow = table(&["", "loss", "accuracy"], &[1, 2], Some(20), [row.to_vec()]);
        assert!(narrow.matches("(n = 3)").count() == 2 && narrow.contains("± 0.0123"), "{narrow}");
    }
}
