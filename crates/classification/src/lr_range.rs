//! The learning-rate range test.

use burn::tensor::Device;
use kindling_config::{Config, ConfigError};
use kindling_data::ImageData;
use kindling_models::NetworkConfig;
use kindling_record::number;
use kindling_training::{DeferredSums, Step, batches, training_step};
use serde::Serialize;

use crate::{
    ClassificationError, init_optimizer,
    optimizer::unit_learning_rates,
    run::{Start, clipped, initial},
    splits::{normalization, splits, train_order, train_source},
};

/// Share of the past in the moving average of the losses, as in fastai's `lr_find`.
pub const SMOOTHING: f64 = 0.98;
/// Where the smoothed loss exceeds its least by this factor, the test ends.
const EXPLODED: f64 = 4.0;
/// Steps at the start whose average still is of too few losses to go by.
const SETTLING: usize = 10;

/// The learning rates that a range test goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRateRange {
    /// The first.
    pub start: f64,
    /// The last.
    pub end: f64,
    /// In so many steps, each larger by the same factor.
    pub steps: usize,
}

/// One step of a range test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RangePoint {
    /// From 1.
    pub step: usize,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Mean loss over its batch, before its update, in nats.
    #[serde(serialize_with = "number::serialize")]
    pub loss: f64,
    /// The losses so far as an exponential moving average with [`SMOOTHING`], corrected for its start.
    #[serde(serialize_with = "number::serialize")]
    pub smoothed: f64,
}

/// What came of a range test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RangeTest {
    /// The steps, up to the first with a loss that is not finite or has exploded.
    pub points: Vec<RangePoint>,
    /// The learning rate at which the smoothed loss falls most steeply over the logarithm of the learning rate; none
    /// where it falls nowhere.
    pub suggestion: Option<f64>,
    /// A tenth of the learning rate at which the smoothed loss is least: fastai's other rule; none where it falls
    /// nowhere.
    pub tenth_of_minimum: Option<f64>,
}

/// Trains with a learning rate that grows from step to step, and finds where the loss falls fastest.
///
/// Smith 2015, <https://arxiv.org/abs/1506.01186>; the rules are those of fastai's `lr_find`,
/// <https://docs.fast.ai/callback.schedule.html>, which look at the curve from its first tenth to five steps before its
/// end, where these look at it from the eleventh step to its minimum. The config's schedule does not matter, and its own
/// learning rate only as `AdamW`'s keeps its proportion to it beside Muon. `device` has no autodiff and takes `largest`
/// bytes in one piece.
///
/// # Errors
/// When the range makes no sense, the network cannot take the images, or the device fails.
pub(crate) fn lr_range_test<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    (device, largest): (&Device, Option<u64>),
    range: LearningRateRange,
) -> Result<RangeTest, ClassificationError> {
    if !(range.start > 0.0 && range.start < range.end && range.end.is_finite() && range.steps >= 2 * SETTLING) {
        return Err(ConfigError::Invalid {
            key: "learning rate".to_owned(),
            wanted: format!("a range from above 0 to something larger, in at least {} steps", 2 * SETTLING),
            found: format!("{} to {} in {}", range.start, range.end, range.steps),
        }
        .into());
    }
    let points = measure(network, config, data, (device, largest), range)?;
    Ok(conclude(points))
}

fn measure<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    (device, largest): (&Device, Option<u64>),
    range: LearningRateRange,
) -> Result<Vec<RangePoint>, ClassificationError> {
    let tracked = device.clone().autodiff();
    let train = splits(config, data)?.train;
    let start = Start::New(config.training.weights.as_deref());
    let (mut model, _) = initial(network, config, data, &train, start, &tracked)?;
    let mut optimizer = init_optimizer(&config.optimizer, &model);
    let rates = unit_learning_rates(&config.optimizer, &model);
    let normalization = normalization(config, &train)?;
    let source = train_source(config, data, train, &normalization, largest);
    let (batch_size, limit, order) = (config.training.batch_size, config.training.limit_batches, train_order(config));
    let growth = (range.end / range.start).powf(1.0 / (range.steps - 1) as f64);
    let mut points: Vec<RangePoint> = Vec::new();
    let (mut average, mut least) = (0.0, f64::INFINITY);
    let mut deferred = DeferredSums::new(device);
    let mut taken = 0;
    for epoch in 1.. {
        if taken == range.steps {
            break;
        }
        for batch in batches(&source, batch_size, limit, order, epoch, &tracked).take(range.steps - taken) {
            let learning_rate = range.start * growth.powi(taken as i32);
            taken += 1;
            let Step { gradients, sums } = training_step(&model, batch?)?;
            deferred.push((taken, learning_rate), sums);
            if deferred.is_due() || taken == range.steps {
                // Steps after the one where the test ends are left out.
                for ((step, learning_rate), totals) in deferred.read()? {
                    let loss = totals.loss();
                    average = SMOOTHING * average + (1.0 - SMOOTHING) * loss;
                    let smoothed = average / (1.0 - SMOOTHING.powi(step as i32));
                    points.push(RangePoint { step, learning_rate, loss, smoothed });
                    least = least.min(smoothed);
                    if !loss.is_finite() || (step > SETTLING && smoothed > EXPLODED * least) {
                        return Ok(points);
                    }
                }
            }
            let gradients = clipped(config, &model, gradients);
            model = optimizer.step(rates.scaled(learning_rate), model, gradients);
        }
    }
    Ok(points)
}

/// Reads the two rules off the curve.
fn conclude(points: Vec<RangePoint>) -> RangeTest {
    let usable: Vec<RangePoint> =
        points.iter().skip(SETTLING).take_while(|point| point.smoothed.is_finite()).copied().collect();
    let lowest = usable.iter().enumerate().min_by(|(_, a), (_, b)| a.smoothed.total_cmp(&b.smoothed));
    // Where the first is the least, it never fell.
    let lowest = lowest.map(|(index, point)| (index, *point)).filter(|(index, _)| *index > 0);
    let Some((lowest, minimum)) = lowest else {
        return RangeTest { points, suggestion: None, tenth_of_minimum: None };
    };
    // Central differences on the way down.
    let slope = |pair: &[RangePoint]| {
        (pair[2].smoothed - pair[0].smoothed) / (pair[2].learning_rate / pair[0].learning_rate).ln()
    };
    let steepest = usable[..=lowest].windows(3).min_by(|a, b| slope(a).total_cmp(&slope(b)));
    let suggestion = steepest.filter(|pair| slope(pair) < 0.0).map(|pair| pair[1].learning_rate);
    RangeTest { points, suggestion, tenth_of_minimum: Some(minimum.learning_rate / 10.0) }
}

#[cfg(test)]
mod tests {
    use kindling_data::synthetic;
    use kindling_models::MlpConfig;
    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn curve(loss: impl Fn(f64) -> f64) -> Vec<RangePoint> {
        let point = |step: usize| {
            let learning_rate = 10_f64.powf(-5.0 + 0.05 * step as f64);
            let smoothed = loss(learning_rate.log10());
            RangePoint { step, learning_rate, loss: smoothed, smoothed }
        };
        (1..=120).map(point).collect()
    }

    #[test]
    fn the_suggestion_lies_where_the_curve_falls_fastest() {
        // Flat, then down like a logistic curve about 1e-2, then up from 10^0 on.
        let test = conclude(curve(|x| 2.3 - 1.8 / (1.0 + (-4.0 * (x + 2.0)).exp()) + (x.max(0.0) * 3.0).powi(2)));
        // Within a step of the grid, a twentieth of a decade.
        assert!((test.suggestion.unwrap().log10() + 2.0).abs() < 0.06, "{:?}", test.suggestion);
        assert!(test.tenth_of_minimum.unwrap() < 1.0 && test.tenth_of_minimum.unwrap() > 1e-3);
    }

    #[test]
    fn a_curve_that_never_falls_or_is_no_number_suggests_nothing() {
        for loss in [|x| 3.0 + x, |_| f64::NAN] {
            let nothing = conclude(curve(loss));
            assert_eq!((nothing.suggestion, nothing.tenth_of_minimum), (None, None));
        }
    }

    #[test]
    fn a_test_on_real_steps_covers_its_range_and_ends_where_the_loss_explodes() {
        let (network, data) = (MlpConfig { hidden: vec![16] }, synthetic::draw());
        let config = fixtures::config(json!({ "network": { "name": "mlp", "hidden": [16] } }));
        let device = Device::flex();
        let range = LearningRateRange { start: 1e-4, end: 1e6, steps: 100 };
        let test = lr_range_test(&network, &config, &data, (&device, None), range).unwrap();
        assert!((test.points[0].learning_rate - 1e-4).abs() < 1e-12);
        assert!(test.points.len() < 100, "a rate of a million explodes before the end");
        assert!(test.suggestion.unwrap() < 100.0);
        let json = serde_json::to_string(&RangePoint { loss: f64::NAN, smoothed: f64::INFINITY, ..test.points[0] });
        assert!(json.unwrap().contains(r#""loss":"NaN","smoothed":"inf""#));
        let wrong = LearningRateRange { start: 1.0, end: 0.1, steps: 100 };
        let error = lr_range_test(&network, &config, &data, (&device, None), wrong).unwrap_err();
        assert!(error.to_string().contains("1 to 0.1"));
    }
}
