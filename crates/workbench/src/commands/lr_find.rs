use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kindling_report::{Axis, LineChart, Point, Series, Style};
use kindling_training::{LearningRateRange, OptimizerName, RangePoint, RangeTest, SMOOTHING, lr_range_test};

use crate::{
    arguments::{ConfigArguments, PlaceArguments},
    backend,
    commands::Outcome,
    data, figure,
    output::{notice, print},
    relaunch, signals, terminal,
};

/// Arguments of `kindling lr-find`.
#[derive(Args)]
pub(crate) struct LrFindArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The first learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-5)]
    start: f64,
    /// The last learning rate, unless the loss explodes before
    #[arg(long, value_name = "X", default_value_t = 10.0)]
    end: f64,
    /// Training steps from the first to the last
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,
    #[command(flatten)]
    place: PlaceArguments,
    /// Write the curve to FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the steps and the suggestion as JSON
    #[arg(long)]
    json: bool,
}

/// `kindling lr-find`
pub(crate) fn lr_find(arguments: &LrFindArguments) -> Result<Outcome> {
    if let Some(path) = &arguments.output {
        figure::check(path)?;
    }
    let place = &arguments.place;
    let request = place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment())?;
    let config = arguments.config.settings()?.resolve()?;
    let backend = request.open(config.precision)?;
    place.kernels.unwrap_or_default().choose();
    signals::install()?;
    let data = data::load(&config, place.data_dir.as_deref())?;
    kindling_training::check(&config, &data, &backend.devices, backend.memory())?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    let range = LearningRateRange { start: arguments.start, end: arguments.end, steps: arguments.steps };
    let test = lr_range_test(&config, &data, (&backend.devices[0], backend.largest_tensor), range)
        .with_context(|| format!("no learning rate can be found for {}", config.model))?;
    let chart = chart(&test);
    let outcome = arguments.output.as_ref().map_or(Outcome::Done, |path| figure::keep(&chart, path));
    if arguments.json {
        print(serde_json::to_string_pretty(&test)?);
        return Ok(outcome);
    }
    if let Some(width) = terminal::width() {
        print(figure::terminal(&chart, width));
    }
    print(format_args!(
        "{} steps from {:.2e} to {:.2e}; smoothed: exponential moving average, {SMOOTHING}",
        test.points.len(),
        arguments.start,
        test.points.last().map_or(arguments.end, |point| point.learning_rate)
    ));
    if let Some(tenth) = test.tenth_of_minimum {
        print(format_args!("a tenth of the rate with the least smoothed loss: {tenth:.2e}"));
    }
    if let (OptimizerName::Muon, Some(rate)) = (config.optimizer, test.suggestion)
        && config.learning_rate > 0.0
    {
        let beside = rate * config.adamw_learning_rate / config.learning_rate;
        print(format_args!("beside Muon, AdamW's rate kept its proportion: --adamw-learning-rate {beside:.2e}"));
    }
    print(match test.suggestion {
        Some(rate) => format!("suggested learning rate: {rate:.2e} (where the smoothed loss falls most steeply)"),
        None => "no suggestion: the smoothed loss falls nowhere; try another --start, --end, or optimizer".to_owned(),
    });
    Ok(outcome)
}

fn chart(test: &RangeTest) -> LineChart {
    let series = |label: &str, color: usize, style: Style, figure: fn(&RangePoint) -> f64| Series {
        label: label.to_owned(),
        points: test
            .points
            .iter()
            .map(|point| Point { x: point.learning_rate, y: figure(point), deviation: None })
            .collect(),
        color,
        style,
    };
    let mut all = vec![
        series("loss of each batch", 6, Style::Reference, |point| point.loss),
        series("smoothed (exponential moving average)", 0, Style::Measured, |point| point.smoothed),
    ];
    if let Some(rate) = test.suggestion {
        let mark = Point { x: rate, y: f64::NAN, deviation: None };
        all.push(Series { label: format!("suggested: {rate:.2e}"), points: vec![mark], color: 1, style: Style::Mark });
    }
    // An exploding loss would press the rest to the floor.
    let first = test.points.first().map_or(1.0, |point| point.loss);
    let range = first.is_finite().then_some((0.0, 1.6 * first));
    LineChart {
        x: Axis { label: "learning rate".to_owned(), logarithmic: true, range: None },
        y: Axis { label: "training loss (nats)".to_owned(), logarithmic: false, range },
        series: all,
    }
}
