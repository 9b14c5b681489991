//! When steps and epochs took place.

use std::time::SystemTime;

use kindling_record::{RunRecord, StepRecord, unix_seconds};

/// Times of what is written, in seconds since 1970, UTC.
pub(super) struct Times {
    /// Of each new step.
    pub(super) steps: Vec<f64>,
    /// Of the end of each epoch of the record, from the first; none where it is not known.
    pub(super) epochs: Vec<f64>,
    /// Of the run's end, or of the last look at it.
    pub(super) end: f64,
}

impl Times {
    /// Those of a whole run, whose step log was last written at `modified`: counted from its start in seconds that it
    /// spent on start-up, epochs and evaluations, and spread evenly within an epoch. Steps of an epoch that is not over
    /// take as long as those of the epoch before; of a first epoch, they share what is left of the run's time.
    pub(super) fn recorded(record: &RunRecord, steps: &[StepRecord], modified: SystemTime) -> Self {
        let start = unix_seconds(&record.started).unwrap_or_default();
        let (mut times, mut epochs) = (Vec::with_capacity(steps.len()), Vec::with_capacity(record.epochs.len()));
        let mut clock = start + record.timings.start_up_seconds + record.timings.compilation_seconds;
        let mut rest = steps;
        let mut pace = None;
        for epoch in &record.epochs {
            let (own, others) = rest.split_at(rest.partition_point(|step| step.epoch <= epoch.epoch));
            let seconds = epoch.seconds / own.len().max(1) as f64;
            times.extend((1..=own.len()).map(|index| clock + seconds * index as f64));
            clock += epoch.seconds + epoch.evaluation_seconds;
            epochs.push(clock);
            (rest, pace) = (others, Some(seconds));
        }
        let left = if record.seconds > 0.0 { start + record.seconds } else { since_1970(modified) } - clock;
        let seconds = pace.unwrap_or_else(|| left.max(0.0) / rest.len().max(1) as f64);
        times.extend((1..=rest.len()).map(|index| clock + seconds * index as f64));
        Self { steps: times, epochs, end: start + record.seconds }
    }

    /// Those of so many steps that took place between two times, evenly spread.
    pub(super) fn between(from: f64, to: f64, steps: usize) -> Self {
        let seconds = (to - from).max(0.0) / steps.max(1) as f64;
        Self { steps: (1..=steps).map(|index| from + seconds * index as f64).collect(), epochs: Vec::new(), end: to }
    }
}

/// The time, in seconds since 1970, UTC.
pub(super) fn now() -> f64 {
    since_1970(SystemTime::now())
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
