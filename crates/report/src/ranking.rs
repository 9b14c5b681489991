//! Which of many configurations are shown in colour and in detail.

use crate::{
    metrics::metric,
    run::{Group, Run},
};

/// As many configurations can be told apart in a chart.
const MOST: usize = 10;
/// As many stand out where there are more.
const PROMINENT: usize = 8;

/// The groups that charts show in colour, in their order: all of up to ten, else the eight that are best by the metric
/// that they monitor.
pub(crate) fn prominent(groups: &[Group]) -> Vec<usize> {
    if groups.len() <= MOST {
        return (0..groups.len()).collect();
    }
    let monitor = groups.iter().flat_map(|group| &group.runs).map(|run| run.record.monitor.as_str()).next();
    let name = monitor.and_then(|monitor| monitor.split_once('/')).map_or("loss", |(_, name)| name);
    let sign = if metric(groups, name).higher_is_better { -1.0 } else { 1.0 };
    let rank = |group: &Group| {
        let sample = group.sample(monitored).filter(|sample| !sample.mean.is_nan());
        sample.map_or(f64::INFINITY, |sample| sign * sample.mean)
    };
    let mut best: Vec<usize> = (0..groups.len()).collect();
    best.sort_by(|&a, &b| rank(&groups[a]).total_cmp(&rank(&groups[b])));
    best.truncate(PROMINENT);
    best.sort_unstable();
    best
}

/// The value of the metric that the run monitors, at its best epoch.
fn monitored(run: &Run) -> Option<f64> {
    let best = run.record.best_epoch?;
    run.record.epochs.iter().find(|epoch| epoch.epoch == best)?.get(&run.record.monitor)
}
