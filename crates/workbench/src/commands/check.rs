use anyhow::{Context, Result};
use clap::Args;
use kindling_classification::{AnyNetwork, CheckDevice, CheckResult};
use kindling_config::{Config, Precision};
use kindling_data::ImageData;

use crate::{
    Workbench,
    arguments::{ConfigArguments, PlaceArguments},
    backend::{self, Backend},
    commands::train::with_weights,
    data,
    outcome::Outcome,
    output::{notice, print},
    relaunch, signals,
};

/// Arguments of `check`.
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

/// A config with the network, data and backend that it needs, opened without a run.
pub(super) struct Trial<'a> {
    pub(super) config: Config,
    pub(super) network: &'a dyn AnyNetwork,
    pub(super) data: ImageData,
    pub(super) backend: Backend,
}

/// Opens the network, data and backend that the arguments name, and checks that they can be trained.
pub(super) fn open<'a>(
    workbench: &'a Workbench,
    config: &ConfigArguments,
    place: &PlaceArguments,
) -> Result<Trial<'a>> {
    let request = place.device.request((backend::default_name(), None))?;
    relaunch::with(&request.environment())?;
    let config = with_weights(config.resolve(workbench)?, &place.runs_dir.path)?;
    let network = workbench.network_of(&config.network)?;
    let backend = request.open(config.training.precision)?;
    place.kernels.unwrap_or_default().choose();
    signals::install()?;
    let data = data::load(workbench, &config.data, place.data_dir.as_deref())?;
    network.check(&config, &data, &backend.place())?;
    notice(format_args!("backend: {} on {}", backend.name, backend.device_name));
    Ok(Trial { config, network, data, backend })
}

/// The command `check`.
pub(crate) fn check(workbench: &Workbench, arguments: &CheckArguments) -> Result<Outcome> {
    let Trial { config, network, data, backend } = open(workbench, &arguments.config, &arguments.place)?;
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
    let precision = config.training.precision;
    if precision != Precision::F32 {
        notice(format_args!("gradients are compared with slopes of the loss in f32 alone, not in {precision}"));
    }
    let name = network.name();
    let (device, largest) = backend.first();
    let device = CheckDevice { device, largest, repeats_bits: backend.repeats_bits() };
    let results = network
        .sanity_checks(&config, &data, device, &mut show)
        .with_context(|| format!("{name} cannot be checked"))?;
    let failed = results.iter().filter(|result| !result.passed).count();
    if arguments.json {
        print(serde_json::to_string_pretty(&results)?);
    } else if failed == 0 {
        print(format_args!("{name} is ready to train: all {} checks passed", results.len()));
    } else {
        print(format_args!("{failed} of {} checks failed", results.len()));
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}
