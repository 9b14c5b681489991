use kindling_record::EpochRecord;

/// The metric that decides which epoch is the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Monitor {
    /// Split and metric, such as `valid/loss`.
    pub(crate) name: String,
    pub(crate) higher_is_better: bool,
}

impl Monitor {
    /// The first epoch with the best value; one that is no number is never the best.
    pub(crate) fn best_epoch(&self, epochs: &[EpochRecord]) -> Option<usize> {
        let sign = if self.higher_is_better { -1.0 } else { 1.0 };
        let values = epochs.iter().filter_map(|epoch| Some((epoch.epoch, sign * epoch.get(&self.name)?)));
        let numbers = values.filter(|(_, value)| !value.is_nan());
        numbers.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(epoch, _)| epoch)
    }

    /// Why training ends after these epochs of `planned`, if it has not improved for `patience` of them.
    pub(crate) fn stopped_early(&self, epochs: &[EpochRecord], patience: usize, planned: usize) -> Option<String> {
        let best = self.best_epoch(epochs)?;
        (epochs.len() - best >= patience && epochs.len() < planned)
            .then(|| format!("{} has not improved since epoch {best} (patience {patience})", self.name))
    }
}

#[cfg(test)]
mod tests {
    use kindling_record::Metrics;

    use super::*;

    /// Epochs with these losses and accuracies on the validation split.
    fn epochs(metrics: &[(f64, f64)]) -> Vec<EpochRecord> {
        let record = |(epoch, &(loss, accuracy)): (usize, &(f64, f64))| EpochRecord {
            epoch,
            metrics: Metrics([("valid/loss".to_owned(), loss), ("valid/accuracy".to_owned(), accuracy)].into()),
            learning_rate: 0.1,
            seconds: 0.0,
            samples_per_second: 0.0,
            evaluation_seconds: 0.0,
        };
        (1..).zip(metrics).map(record).collect()
    }

    fn loss() -> Monitor {
        Monitor { name: "valid/loss".to_owned(), higher_is_better: false }
    }

    #[test]
    fn the_best_epoch_is_the_first_with_the_lowest_number() {
        let best = |losses: &[f64]| {
            let metrics: Vec<_> = losses.iter().map(|&loss| (loss, 0.0)).collect();
            loss().best_epoch(&epochs(&metrics))
        };
        assert_eq!(best(&[0.5, 0.3, 0.4]), Some(2));
        assert_eq!(best(&[0.5, 0.3, 0.3]), Some(2));
        assert_eq!(best(&[f64::NAN, 0.9, f64::INFINITY]), Some(2));
        assert_eq!(best(&[-f64::NAN, f64::NAN]), None);
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn early_stopping_waits_for_its_patience_and_watches_its_metric() {
        // The loss is lowest at once; the accuracy rises later.
        let metrics = [(0.5, 0.1), (0.6, 0.3), (0.7, 0.2)];
        assert_eq!(loss().stopped_early(&epochs(&metrics[..2]), 2, 6), None);
        assert_eq!(
            loss().stopped_early(&epochs(&metrics), 2, 6).as_deref(),
            Some("valid/loss has not improved since epoch 1 (patience 2)")
        );
        let accuracy = Monitor { name: "valid/accuracy".to_owned(), higher_is_better: true };
        assert_eq!(accuracy.stopped_early(&epochs(&metrics), 2, 6), None);
        let later = [&metrics[..], &[(0.8, 0.3)]].concat();
        assert_eq!(
            accuracy.stopped_early(&epochs(&later), 2, 6).as_deref(),
            Some("valid/accuracy has not improved since epoch 2 (patience 2)")
        );
        // The last epoch ends the run by itself.
        let all = [&[(0.5, 0.1)][..], &[(0.6, 0.1); 5]].concat();
        assert_eq!(loss().stopped_early(&epochs(&all), 2, 6), None);
        assert!(loss().stopped_early(&epochs(&all[..5]), 2, 6).is_some());
    }
}
