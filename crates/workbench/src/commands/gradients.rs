use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use kindling_record::{GradientRecord, StepRecord, read_steps};
use kindling_report::{LineChart, Run, gradient_chart, table};
use serde_json::json;

use crate::{
    Workbench,
    arguments::{ConfigArguments, PlaceArguments},
    figure,
    outcome::Outcome,
    output::print,
    sweep::{Planned, request, sweep},
    terminal,
};

/// Steps at either end whose means are compared.
const WINDOW: usize = 10;

/// Arguments of `gradients`.
#[derive(Args)]
pub(crate) struct GradientsArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// How many steps to take and to record; at most those of an epoch
    #[arg(long, value_name = "N", default_value_t = 100)]
    steps: usize,
    #[command(flatten)]
    place: PlaceArguments,
    /// Write the curves to FILE.svg or FILE.png
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the steps as JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The command `gradients`.
pub(crate) fn gradients(workbench: &Workbench, arguments: &GradientsArguments) -> Result<Outcome> {
    // The program may start itself again here, and a config from a pipe can be read only once.
    request(&arguments.place)?;
    let mut partial = arguments.config.partial(&workbench.registry())?;
    for (key, value) in [("epochs", 1), ("limit_batches", arguments.steps), ("gradient_steps", arguments.steps)] {
        partial.set(&format!("training.{key}"), value.into());
    }
    let config = workbench.resolve(partial)?;
    let planned = Planned { name: format!("{}-gradients", config.network.name), config };
    if let Some(path) = &arguments.output {
        figure::check(path)?;
    }
    let swept = sweep(workbench, std::slice::from_ref(&planned), &arguments.place)?;
    let outcome = swept.outcome();
    let Some(run) = swept.runs.into_iter().flatten().next() else { return Ok(outcome) };
    let steps = read_steps(&run.directory.steps())?;
    let chart = gradient_chart(&steps);
    let kept = arguments.output.as_ref().map_or(Outcome::Done, |path| figure::keep(&chart, path));
    show(arguments, &run, &steps, &chart)?;
    Ok(if outcome == Outcome::Done { kept } else { outcome })
}

fn show(arguments: &GradientsArguments, run: &Run, steps: &[StepRecord], chart: &LineChart) -> Result<()> {
    if arguments.json {
        let steps: Vec<_> = steps.iter().filter(|step| step.gradient.is_some()).collect();
        print(serde_json::to_string_pretty(&json!({ "run": run.record.id, "steps": steps }))?);
        return Ok(());
    }
    let gradients: Vec<&GradientRecord> = steps.iter().filter_map(|step| step.gradient.as_ref()).collect();
    let first = gradients.first().context("the run has no step with gradients")?;
    let window = WINDOW.min(gradients.len());
    let mut rows = vec![row("all", run.record.parameters, &gradients, |gradient| {
        Some((gradient.mean, gradient.mean_abs, gradient.norm))
    })];
    for (index, layer) in first.layers.iter().enumerate() {
        rows.push(row(&layer.layer, layer.parameters, &gradients, |gradient| {
            gradient.layers.get(index).map(|layer| (layer.mean, layer.mean_abs, layer.norm))
        }));
    }
    let early = format!("|mean|, steps 1-{window}");
    let late = format!("steps {}-{}", gradients.len() + 1 - window, gradients.len());
    let header = ["layer", "parameters", "mean", &early, &late, "ratio", "norm, first", "last"];
    print(table(&header, &[1, 2, 3, 4, 5, 6, 7], terminal::width(), rows));
    print(format_args!(
        "gradients of the loss before each step: their mean over all {} steps, the mean of their absolute values and \
         their norm as means over the {window} steps at either end",
        gradients.len()
    ));
    if let Some(width) = terminal::width() {
        print(figure::terminal(chart, width));
    }
    print(run.directory.path().display());
    Ok(())
}

/// A row of the table; `statistics` gives the mean, the mean of the absolute values and the norm of a step's gradients.
fn row(
    name: &str,
    parameters: usize,
    gradients: &[&GradientRecord],
    statistics: impl Fn(&GradientRecord) -> Option<(f64, f64, f64)>,
) -> Vec<String> {
    let window = WINDOW.min(gradients.len());
    let (early, late) = (&gradients[..window], &gradients[gradients.len() - window..]);
    let mean = |gradients: &[&GradientRecord], pick: fn((f64, f64, f64)) -> f64| {
        gradients.iter().filter_map(|gradient| statistics(gradient)).map(pick).sum::<f64>() / gradients.len() as f64
    };
    let absolute = (mean(early, |(_, absolute, _)| absolute), mean(late, |(_, absolute, _)| absolute));
    vec![
        name.to_owned(),
        kindling_report::grouped(parameters),
        format!("{:+.2e}", mean(gradients, |(mean, _, _)| mean)),
        format!("{:.2e}", absolute.0),
        format!("{:.2e}", absolute.1),
        format!("{:.2}", absolute.1 / absolute.0),
        format!("{:.3}", mean(early, |(_, _, norm)| norm)),
        format!("{:.3}", mean(late, |(_, _, norm)| norm)),
    ]
}
