//! Which metrics runs have, and how their values are shown.

use kindling_record::{MetricRecord, RunRecord};

use crate::{run::Group, statistics::Sample};

/// The metrics that the groups' runs have: the loss first, the others in the order of the records.
///
/// Where runs do not agree on a metric's unit or direction, the first of them decides.
#[must_use]
pub fn metrics(groups: &[Group]) -> Vec<MetricRecord> {
    metrics_of(groups.iter().flat_map(|group| &group.runs).map(|run| &run.record))
}

/// The same of these records.
pub(crate) fn metrics_of<'a>(records: impl IntoIterator<Item = &'a RunRecord>) -> Vec<MetricRecord> {
    let mut metrics: Vec<MetricRecord> = Vec::new();
    for metric in records.into_iter().flat_map(|record| &record.metrics) {
        if metrics.iter().all(|known| known.name != metric.name) {
            metrics.push(metric.clone());
        }
    }
    metrics.sort_by_key(|metric| metric.name != "loss");
    metrics
}

/// The metric `name` as the groups' records have it; one of which nothing else is known where they have none.
pub(crate) fn metric(groups: &[Group], name: &str) -> MetricRecord {
    let unknown = || MetricRecord { name: name.to_owned(), higher_is_better: false, unit: None };
    metrics(groups).into_iter().find(|metric| metric.name == name).unwrap_or_else(unknown)
}

/// Whether its values are fractions, which tables show in percent: a metric without a unit whose name ends in
/// `accuracy`.
pub(crate) fn is_fraction(metric: &MetricRecord) -> bool {
    metric.unit.is_none() && metric.name.ends_with("accuracy")
}

/// Its name with its unit, for a column or an axis: `test loss (nats)`.
pub(crate) fn titled(text: &str, metric: &MetricRecord) -> String {
    metric.unit.as_ref().map_or_else(|| text.to_owned(), |unit| format!("{text} ({unit})"))
}

/// One of its values: a fraction in percent, any other number with four decimals, or as `1.234e-5` where those would
/// not show it.
#[must_use]
pub fn value_text(metric: &MetricRecord, value: f64) -> String {
    if is_fraction(metric) { format!("{:.2} %", value * 100.0) } else { number(value) }
}

/// Mean and standard deviation of its values: `87.43 ± 0.31 %`, `0.3512 ± 0.0123`.
pub(crate) fn sample_text(metric: &MetricRecord, sample: &Sample) -> String {
    let Some(std) = sample.std else { return value_text(metric, sample.mean) };
    if is_fraction(metric) {
        format!("{:.2} ± {:.2} %", sample.mean * 100.0, std * 100.0)
    } else if is_plain(sample.mean) {
        format!("{:.4} ± {std:.4}", sample.mean)
    } else {
        format!("{:.3e} ± {std:.1e}", sample.mean)
    }
}

/// Which of `samples` are the best: several where they are equal, none where there is nothing to choose from.
pub(crate) fn best(metric: &MetricRecord, samples: &[Option<Sample>]) -> Vec<usize> {
    let known = || samples.iter().enumerate().filter_map(|(index, sample)| Some((index, sample.as_ref()?.mean)));
    let means = known().map(|(_, mean)| mean).filter(|mean| !mean.is_nan());
    let best = if metric.higher_is_better { means.reduce(f64::max) } else { means.reduce(f64::min) };
    let is_worse = known().any(|(_, mean)| Some(mean) != best);
    known().filter(|&(_, mean)| is_worse && Some(mean) == best).map(|(index, _)| index).collect()
}

pub(crate) fn number(value: f64) -> String {
    if is_plain(value) { format!("{value:.4}") } else { format!("{value:.3e}") }
}

/// Whether four decimals show it.
fn is_plain(value: f64) -> bool {
    value == 0.0 || !value.is_finite() || (1e-3..1e5).contains(&value.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, unit: Option<&str>) -> MetricRecord {
        MetricRecord { name: name.to_owned(), higher_is_better: name != "loss", unit: unit.map(str::to_owned) }
    }

    #[test]
    fn fractions_are_shown_in_percent_and_other_numbers_so_that_they_can_be_read() {
        let (accuracy, loss) = (metric("top-5-accuracy", None), metric("loss", Some("nats")));
        assert_eq!(value_text(&accuracy, 0.8743), "87.43 %");
        assert_eq!(
            [0.351_24, 12.0, 1.5e-6, 2.5e7, 0.0].map(|value| value_text(&loss, value)),
            ["0.3512", "12.0000", "1.500e-6", "2.500e7", "0.0000"]
        );
        let sample = Sample::of([0.5, 0.7]).unwrap();
        assert_eq!(sample_text(&accuracy, &sample), "60.00 ± 14.14 %");
        assert_eq!(sample_text(&loss, &sample), "0.6000 ± 0.1414");
        // A metric in a unit of its own is no fraction.
        assert_eq!(value_text(&metric("accuracy", Some("mm")), 0.5), "0.5000");
        assert_eq!(titled("test loss", &loss), "test loss (nats)");
    }

    #[test]
    fn the_best_value_is_the_lowest_or_the_highest_and_never_a_nan() {
        let samples = [Some(f64::NAN), Some(0.2), None, Some(0.1)].map(Sample::of);
        assert_eq!(best(&metric("loss", None), &samples), [3]);
        assert_eq!(best(&metric("accuracy", None), &samples), [1]);
        assert_eq!(best(&metric("loss", None), &[samples[1], samples[1], Sample::of([0.5])]), [0, 1]);
        assert!(best(&metric("loss", None), &[samples[1], samples[1]]).is_empty());
    }
}
