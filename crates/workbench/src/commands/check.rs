use anyhow::{Context, Result};
use clap::Args;
use kindling_training::{CheckDevice, CheckResult, Precision, sanity_checks};

use crate::{
    arguments::{ConfigArguments, PlaceArguments},
    backend,
    commands::Outcome,
    data,
    output::{notice, print},
    relaunch, signals,
};

/// Arguments of `kindling check`.
#[derive(Args)]
pub(crate) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    place: PlaceArguments,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// `kindling check`
pub(crate) fn check(arguments: &CheckArguments) -> Result<Outcome> {
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
    let mut show = |result: &CheckResult| {
        if arguments.json {
            return;
        }
        let sign = if result.passed { "✓" } else { "✗" };
        print(format_args!("{sign} {}: {} (wanted: {})", result.name, result.found, result.wanted));
        if !result.passed {
            print(format_args!("  look at: {}", result.advice));
        }
    };
    let device = CheckDevice {
        device: &backend.devices[0],
        largest: backend.largest_tensor,
        repeats_bits: backend.repeats_bits(),
    };
    if config.precision != Precision::F32 {
        notice(format_args!(
            "gradients are compared with slopes of the loss in f32 alone, not in {}",
            config.precision
        ));
    }
    let results = sanity_checks(&config, &data, device, &mut show)
        .with_context(|| format!("{} cannot be checked", config.model))?;
    let failed = results.iter().filter(|result| !result.passed).count();
    if arguments.json {
        print(serde_json::to_string_pretty(&results)?);
    } else if failed == 0 {
        print(format_args!("{} is ready to train: all {} checks passed", config.model, results.len()));
    } else {
        print(format_args!("{failed} of {} checks failed", results.len()));
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}
