use anyhow::Result;
use clap::Args;

use crate::{Workbench, arguments::ConfigArguments, outcome::Outcome, output::print};

/// Arguments of `config`.
#[derive(Args)]
pub(crate) struct ConfigCommandArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print JSON instead of TOML with comments
    #[arg(long)]
    json: bool,
}

/// The command `config`.
pub(crate) fn config(workbench: &Workbench, arguments: &ConfigCommandArguments) -> Result<Outcome> {
    let config = arguments.config.resolve(workbench)?;
    if arguments.json {
        print(serde_json::to_string_pretty(&config.to_object())?);
    } else {
        print(config.to_toml(&workbench.registry()).trim_end());
    }
    Ok(Outcome::Done)
}
