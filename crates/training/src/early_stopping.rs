use kindling_record::EpochRecord;

use crate::{ExperimentConfig, StoppingMetric, config::name_of};

/// The first epoch with the lowest figure; a figure that is no number is never the lowest.
pub(crate) fn best_epoch(epochs: &[EpochRecord], figure: impl Fn(&EpochRecord) -> f64) -> Option<usize> {
    let numbers = epochs.iter().filter(|epoch| !figure(epoch).is_nan());
    numbers.min_by(|a, b| figure(a).total_cmp(&figure(b))).map(|epoch| epoch.epoch)
}

/// Why training ends after these epochs, if early stopping ends it.
pub(crate) fn stopped_early(config: &ExperimentConfig, epochs: &[EpochRecord]) -> Option<String> {
    let (patience, metric) = (config.early_stopping?, config.early_stopping_metric?);
    let best = best_epoch(epochs, |epoch| match metric {
        StoppingMetric::ValidLoss => epoch.valid_loss.unwrap_or(f64::NAN),
        StoppingMetric::ValidAccuracy => -epoch.valid_accuracy.unwrap_or(f64::NAN),
        StoppingMetric::TestLoss => epoch.test_loss.unwrap_or(f64::NAN),
    })?;
    let metric = name_of(&metric);
    (epochs.len() - best >= patience && epochs.len() < config.epochs)
        .then(|| format!("{metric} has not improved for {patience} epochs, since epoch {best}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    /// Epochs with these losses and accuracies on the validation images.
    fn epochs(figures: &[(f64, f64)]) -> Vec<EpochRecord> {
        let record = |(epoch, &(loss, accuracy)): (usize, &(f64, f64))| EpochRecord {
            epoch,
            train_loss: 0.0,
            train_accuracy: 0.0,
            valid_loss: Some(loss),
            valid_accuracy: Some(accuracy),
            test_loss: None,
            test_accuracy: None,
            learning_rate: 0.1,
            seconds: 0.0,
            images_per_second: 0.0,
            evaluation_seconds: 0.0,
        };
        (1..).zip(figures).map(record).collect()
    }

    #[test]
    fn the_best_epoch_is_the_first_with_the_lowest_number() {
        let best = |figures: &[f64]| {
            let figures: Vec<_> = figures.iter().map(|&loss| (loss, 0.0)).collect();
            best_epoch(&epochs(&figures), |epoch| epoch.valid_loss.unwrap())
        };
        assert_eq!(best(&[0.5, 0.3, 0.4]), Some(2));
        assert_eq!(best(&[0.5, 0.3, 0.3]), Some(2));
        assert_eq!(best(&[f64::NAN, 0.9, f64::INFINITY]), Some(2));
        assert_eq!(best(&[-f64::NAN, f64::NAN]), None);
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn early_stopping_waits_for_its_patience_and_watches_the_metric_of_the_config() {
        let reason = |settings: &str, figures: &[(f64, f64)]| {
            let settings = format!(r#"{{"model": "mlp", "epochs": 6, {settings}}}"#);
            let config = Settings::from_json(&settings).unwrap().resolve().unwrap();
            stopped_early(&config, &epochs(figures))
        };
        let patience = r#""early_stopping": 2"#;
        // The loss is lowest at once; the accuracy rises later.
        let figures = [(0.5, 0.1), (0.6, 0.3), (0.7, 0.2)];
        assert_eq!(reason(patience, &figures[..2]), None);
        assert_eq!(
            reason(patience, &figures).as_deref(),
            Some("valid_loss has not improved for 2 epochs, since epoch 1")
        );
        let accuracy = format!(r#"{patience}, "early_stopping_metric": "valid_accuracy""#);
        assert_eq!(reason(&accuracy, &figures), None);
        let later = [&figures[..], &[(0.8, 0.3)]].concat();
        assert_eq!(
            reason(&accuracy, &later).as_deref(),
            Some("valid_accuracy has not improved for 2 epochs, since epoch 2")
        );
        assert_eq!(reason(r#""seed": 1"#, &later), None);
        // The last epoch ends the run by itself.
        let all = [&[(0.5, 0.1)][..], &[(0.6, 0.1); 5]].concat();
        assert_eq!(reason(patience, &all), None);
        assert!(reason(patience, &all[..5]).is_some());
    }
}
