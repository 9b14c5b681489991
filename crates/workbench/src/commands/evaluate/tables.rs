use kindling_record::{ClassRecord, EvaluationRecord, RunRecord};
use kindling_report::{grouped, percent, table, with_views};

use crate::{output::print, terminal};

/// Columns that the confusion matrix may take.
const COLUMNS: usize = 80;

/// Prints the evaluation of a run's weights.
pub(super) fn show(evaluation: &EvaluationRecord, record: &RunRecord) {
    print(format_args!(
        "test accuracy {}, test loss {:.4}, calibration error {} on {} ({} images){}",
        percent(evaluation.accuracy),
        evaluation.loss,
        percent(evaluation.calibration.error),
        evaluation.backend,
        grouped(evaluation.images),
        with_views(&evaluation.test_time_augmentation)
    ));
    let metrics = [
        ("balanced accuracy", evaluation.balanced_accuracy),
        ("macro F1", evaluation.macro_f1),
        ("weighted F1", evaluation.weighted_f1),
    ];
    let mut more: Vec<String> =
        metrics.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", percent(value?)))).collect();
    // The most probable class alone is the accuracy.
    let top = evaluation.top_k.iter().enumerate().skip(1);
    more.extend(top.map(|(index, value)| format!("top-{} {}", index + 1, percent(*value))));
    if !more.is_empty() {
        print(more.join(", "));
    }
    if let Some((test, accuracy)) = record.test.as_ref().and_then(|test| Some((test, test.get("accuracy")?))) {
        let difference = (evaluation.accuracy - accuracy) * 100.0;
        print(format_args!(
            "the run itself, on {}{}: {} (difference {difference:+.2} points)",
            record.backend,
            with_views(&test.test_time_augmentation),
            percent(accuracy)
        ));
    }
    let classes = &evaluation.classes;
    let fraction = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent);
    let rows = classes.iter().enumerate().map(|(label, class)| {
        let metrics = [class.precision, class.recall, class.f1].map(fraction);
        [vec![numbered(label, classes), grouped(class.images)], metrics.to_vec()].concat()
    });
    let header = ["class", "images", "precision", "recall", "F1"];
    print(format_args!("\n{}", table(&header, &[1, 2, 3, 4], terminal::width(), rows)));
    match matrix(&evaluation.confusion, classes) {
        Some(matrix) => {
            print("\nconfusion: a row for each class, a column for what its images were taken for");
            print(matrix);
        }
        None => print(format_args!("\nthe confusion matrix of {} classes is too wide to show", classes.len())),
    }
    if evaluation.confused.is_empty() {
        return;
    }
    let named = |label: usize| numbered(label, classes);
    let rows = evaluation.confused.iter().map(|pair| {
        let share = pair.images as f64 / classes[pair.target].images.max(1) as f64;
        vec![named(pair.target), named(pair.predicted), grouped(pair.images), percent(share)]
    });
    let header = ["class", "taken for", "images", "of the class"];
    print(format_args!("\n{}", table(&header, &[2, 3], terminal::width(), rows)));
    let files = evaluation.mistakes.iter().filter_map(|mistake| Some((mistake, mistake.file.clone()?)));
    let rows: Vec<Vec<String>> = files
        .map(|(mistake, file)| vec![named(mistake.target), named(mistake.predicted), percent(mistake.confidence), file])
        .collect();
    if !rows.is_empty() {
        let header = ["class", "taken for", "confidence", "file of a confident mistake"];
        print(format_args!("\n{}", table(&header, &[2], terminal::width(), rows)));
    }
}

/// The label and the name of a class, the labels right-aligned: ` 7 Sneaker`.
fn numbered(label: usize, classes: &[ClassRecord]) -> String {
    let digits = classes.len().saturating_sub(1).to_string().len();
    format!("{label:>digits$} {}", classes[label].name)
}

/// The confusion matrix with the labels above its columns and names cut to fit, or `None` where it is too wide.
fn matrix(confusion: &[Vec<usize>], classes: &[ClassRecord]) -> Option<String> {
    let labels: Vec<String> = (0..classes.len()).map(|label| label.to_string()).collect();
    let counts = confusion.iter().flatten().map(|count| count.to_string().len());
    // Two blanks follow every column, one follows the last.
    let column = 2 + counts.chain(labels.iter().map(String::len)).max()?;
    let names = COLUMNS.checked_sub(1 + column * classes.len())?;
    if names < labels.last()?.len() {
        return None;
    }
    let rows = confusion.iter().enumerate().map(|(label, counts)| {
        let name = numbered(label, classes).chars().take(names).collect::<String>();
        std::iter::once(name).chain(counts.iter().map(ToString::to_string)).collect::<Vec<_>>()
    });
    let header: Vec<&str> = std::iter::once("").chain(labels.iter().map(String::as_str)).collect();
    let right: Vec<usize> = (1..=classes.len()).collect();
    Some(table(&header, &right, None, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(names: &[&str]) -> Vec<ClassRecord> {
        let record =
            |name: &&str| ClassRecord { name: (*name).to_owned(), images: 0, precision: None, recall: None, f1: None };
        names.iter().map(record).collect()
    }

    #[test]
    fn the_matrix_of_ten_classes_fits_80_columns_whatever_their_names() {
        let long = "a name of far more than eighty characters, which no table on a terminal has room for, no, none";
        for name in ["Bag", long] {
            let text = matrix(&vec![vec![1000; 10]; 10], &classes(&[name; 10])).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
            assert_eq!(text.lines().count(), 12, "{text}");
            assert!(text.contains(&format!("9 {}", &name[..3])), "{text}");
        }
    }

    #[test]
    fn a_matrix_too_wide_for_80_columns_is_left_out() {
        assert!(matrix(&vec![vec![0; 47]; 47], &classes(&["x"; 47])).is_none());
        let narrow = matrix(&vec![vec![7; 16]; 16], &classes(&["letter"; 16])).unwrap();
        assert!(narrow.lines().all(|line| line.chars().count() <= COLUMNS), "{narrow}");
    }
}
