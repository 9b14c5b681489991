//! How a figure of the gradients changes from the first steps to the last.

use kindling_record::GradientRecord;

use crate::{Sample, reproduction::figures::NONE};

/// Steps at either end that are held against each other.
const WINDOW: usize = 10;

/// A figure at the beginning and at the end: means over a window of steps and over the runs.
pub(crate) struct Trend {
    pub(crate) first: Sample,
    pub(crate) last: Sample,
    /// The end as a multiple of the beginning, over the runs.
    pub(crate) ratio: Option<Sample>,
    /// How many runs fell.
    pub(crate) fell: usize,
}

/// Beginning and end of a figure, in windows that do not overlap.
pub(crate) fn trend(runs: &[Vec<GradientRecord>], figure: impl Fn(&GradientRecord) -> Option<f64>) -> Option<Trend> {
    let mut ends = Vec::new();
    for run in runs {
        let figures: Vec<f64> = run.iter().filter_map(&figure).collect();
        let window = WINDOW.min(figures.len() / 2);
        let mean = |figures: &[f64]| Sample::of(figures.iter().copied()).map(|sample| sample.mean);
        if let Some(both) = mean(&figures[..window]).zip(mean(&figures[figures.len() - window..])) {
            ends.push(both);
        }
    }
    let ratios = ends.iter().filter(|(first, _)| *first > 0.0).map(|(first, last)| last / first);
    Some(Trend {
        first: Sample::of(ends.iter().map(|(first, _)| *first))?,
        last: Sample::of(ends.iter().map(|(_, last)| *last))?,
        ratio: Sample::of(ratios),
        fell: ends.iter().filter(|(first, last)| last < first).count(),
    })
}

/// How many steps the windows of these runs have.
pub(crate) fn window(runs: &[Vec<GradientRecord>]) -> usize {
    runs.iter().map(|run| WINDOW.min(run.len() / 2)).min().unwrap_or(0)
}

/// Gradients are far from 1, and not all are positive.
fn shown(sample: Sample) -> String {
    let n = sample.n;
    match sample.deviation {
        Some(deviation) => format!("{:.3e} ± {deviation:.1e} (n = {n})", sample.mean),
        None => format!("{:.3e} (n = {n})", sample.mean),
    }
}

/// Beginning, end and their ratio as a table's cells.
pub(crate) fn cells(trend: &Trend, is_signed: bool) -> [String; 3] {
    // A mean near zero has either sign, and multiples of it say nothing.
    let ratio = trend.ratio.filter(|_| !is_signed).map(|ratio| ratio.fixed(2));
    [shown(trend.first), shown(trend.last), ratio.unwrap_or_else(|| NONE.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(absolute: &[f64]) -> Vec<GradientRecord> {
        let gradient = |&mean_abs: &f64| GradientRecord { mean: 0.0, mean_abs, norm: 1.0, layers: Vec::new() };
        absolute.iter().map(gradient).collect()
    }

    #[test]
    fn windows_do_not_overlap() {
        assert_eq!([window(&[run(&[1.0; 100])]), window(&[run(&[1.0; 5])]), window(&[])], [10, 2, 0]);
        let found = trend(&[run(&[4.0, 2.0, 9.0, 1.0, 2.0])], |gradient| Some(gradient.mean_abs)).unwrap();
        let shown = cells(&found, false);
        assert_eq!(shown, ["3.000e0 (n = 1)", "1.500e0 (n = 1)", "0.50 (n = 1)"]);
        assert_eq!(cells(&found, true)[2], NONE);
    }

    #[test]
    fn runs_that_fall_are_counted() {
        let runs = [run(&[4.0, 2.0]), run(&[2.0, 4.0])];
        let found = trend(&runs, |gradient| Some(gradient.mean_abs)).unwrap();
        assert_eq!((found.fell, found.first.n), (1, 2));
        assert!(trend(&[run(&[1.0])], |gradient| Some(gradient.mean_abs)).is_none());
    }
}
