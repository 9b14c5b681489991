use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kindling_classification::{LearningRateRange, RangePoint, RangeTest, SMOOTHING};
use kindling_config::Optimizer;
use kindling_report::{Axis, LineChart, Point, Series, Style};

use crate::{
    Workbench,
    arguments::{ConfigArguments, PlaceArguments},
    commands::check::{Trial, open},
    figure,
    outcome::Outcome,
    output::print,
    terminal,
};

/// Arguments of `lr-find`.
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

/// The command `lr-find`.
pub(crate) fn lr_find(workbench: &Workbench, arguments: &LrFindArguments) -> Result<Outcome> {
    if let Some(path) = &arguments.output {
        figure::check(path)?;
    }
    let Trial { config, network, data, backend } = open(workbench, &arguments.config, &arguments.place)?;
    let range = LearningRateRange { start: arguments.start, end: arguments.end, steps: arguments.steps };
    let test = network
        .lr_range_test(&config, &data, backend.first(), range)
        .with_context(|| format!("no learning rate can be found for {}", network.name()))?;
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
        print(format_args!("a tenth of the rate with the lowest smoothed loss: {tenth:.2e}"));
    }
    if let (Optimizer::Muon(muon), Some(rate)) = (&config.optimizer, test.suggestion)
        && muon.learning_rate > 0.0
    {
        let beside = rate * muon.adamw_learning_rate / muon.learning_rate;
        print(format_args!("beside Muon, AdamW's rate kept its proportion: --adamw-learning-rate {beside:.2e}"));
    }
    print(match test.suggestion {
        Some(rate) => format!("suggested learning rate: {rate:.2e} (where the smoothed loss falls most steeply)"),
        None => "no suggestion: the smoothed loss falls nowhere; try another --start, --end, or optimizer".to_owned(),
    });
    Ok(outcome)
}

fn chart(test: &RangeTest) -> LineChart {
    let series = |label: &str, color: usize, style: Style, value: fn(&RangePoint) -> f64| Series {
        label: label.to_owned(),
        points: test.points.iter().map(|point| Point { x: point.learning_rate, y: value(point), std: None }).collect(),
        color,
        style,
    };
    let mut all = vec![
        series("loss of each batch", 6, Style::Reference, |point| point.loss),
        series("smoothed (exponential moving average)", 0, Style::Measured, |point| point.smoothed),
    ];
    if let Some(rate) = test.suggestion {
        let mark = Point { x: rate, y: f64::NAN, std: None };
        all.push(Series { label: format!("suggested: {rate:.2e}"), points: vec![mark], color: 1, style: Style::Mark });
    }
    // The range of an exploding loss would flatten the rest of the curve.
    let first = test.points.first().map_or(1.0, |point| point.loss);
    let range = first.is_finite().then_some((0.0, 1.6 * first));
    LineChart {
        x: Axis { label: "learning rate".to_owned(), logarithmic: true, range: None },
        y: Axis { label: "training loss (nats)".to_owned(), logarithmic: false, range },
        series: all,
    }
}
