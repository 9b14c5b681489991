//! Measured curves over epochs, each with the reference's in its colour.

use crate::{
    Block, Figure, Group, Point, ReportError, Run, Series, Style,
    curves::{Against, Quantity, Split, chart, figure},
    groups::counted,
    reproduction::reference::Epoch,
};

/// A row's curve, and the reference's; empty where there is none.
pub(crate) struct Curve<'a> {
    group: Group,
    reference: &'a [Epoch],
}

impl<'a> Curve<'a> {
    pub(crate) fn new(label: &str, runs: &[Run], reference: &'a [Epoch]) -> Self {
        Self { group: Group { label: label.to_owned(), runs: runs.to_vec(), ..Group::default() }, reference }
    }
}

/// Test loss or accuracy after each epoch. Nothing where no run has finished an epoch.
///
/// # Errors
/// When the curves cannot be made.
pub(crate) fn test_chart(
    name: &str,
    what: &str,
    quantity: Quantity,
    curves: &[Curve<'_>],
) -> Result<Option<Block>, ReportError> {
    let groups: Vec<Group> = curves.iter().map(|curve| curve.group.clone()).collect();
    let mut plot = chart(&groups, quantity, &[Split::Test], Against::Epoch)?;
    if plot.series.is_empty() {
        return Ok(None);
    }
    let references: Vec<Series> =
        curves.iter().enumerate().filter_map(|(color, curve)| reference(curve, color, quantity)).collect();
    let counts = counted(groups.iter().map(|group| group.count(|epoch| figure(epoch, quantity, Split::Test))));
    let of_reference = if references.is_empty() { "" } else { " Broken lines are the reference's (n = 1)." };
    let caption = format!(
        "{what}: test {quantity} after each epoch; means and, as bands, standard deviations over the seeds ({counts}).\
         {of_reference}"
    );
    plot.series.extend(references);
    Ok(Some(Block::Chart(Figure { name: name.to_owned(), caption, plot })))
}

fn reference(curve: &Curve<'_>, color: usize, quantity: Quantity) -> Option<Series> {
    let points = curve.reference.iter().filter_map(|epoch| {
        let y = match quantity {
            Quantity::Loss => epoch.test_loss?,
            Quantity::Accuracy => epoch.test_accuracy,
        };
        Some(Point { x: epoch.epoch as f64, y, deviation: None })
    });
    let points: Vec<Point> = points.collect();
    let label = format!("{}, reference", curve.group.label);
    (!points.is_empty()).then_some(Series { label, points, color, style: Style::Reference })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reproduction::fixtures::{reference, trained};

    #[test]
    fn a_reference_has_the_colour_of_what_it_is_compared_with() {
        let place = tempfile::tempdir().unwrap();
        let runs = [trained(place.path(), "a", &[0.5, 0.75], &json!({}))];
        let reference = reference();
        let curves = [
            Curve::new("rate 1", &[], reference.learning_rates.curve("1")),
            Curve::new("rate 0.1", &runs, reference.learning_rates.curve("0.1")),
        ];
        let chart = test_chart("name", "Rates", Quantity::Accuracy, &curves).unwrap();
        let Some(Block::Chart(figure)) = chart else { panic!("{chart:?}") };
        let series: Vec<_> =
            figure.plot.series.iter().map(|one| (one.label.as_str(), one.color, one.points.len())).collect();
        assert_eq!(series, [("rate 0.1", 1, 2), ("rate 1, reference", 0, 10), ("rate 0.1, reference", 1, 10)]);
        assert!(figure.caption.contains("(n = 1)") && figure.caption.contains("Broken lines"));
        // It printed no losses for these.
        let losses = test_chart("name", "Rates", Quantity::Loss, &curves).unwrap();
        let Some(Block::Chart(figure)) = losses else { panic!("{losses:?}") };
        assert_eq!(figure.plot.series.len(), 1);
        assert!(!figure.caption.contains("Broken lines"));
    }

    #[test]
    fn without_a_finished_epoch_there_is_no_chart() {
        let reference = reference();
        let curves = [Curve::new("rate 1", &[], reference.learning_rates.curve("1"))];
        assert!(test_chart("name", "Rates", Quantity::Accuracy, &curves).unwrap().is_none());
    }
}
