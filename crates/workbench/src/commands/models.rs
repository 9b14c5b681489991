use anyhow::Result;
use clap::Args;
use kindling_config::{Partial, Precision};
use kindling_models::{ImageShape, LayerSummary, trainable_parameters};
use kindling_report::{grouped, table};
use serde_json::json;

use crate::{
    Workbench,
    arguments::with_set,
    backend::{self, Request},
    outcome::Outcome,
    output::{notice, print, told},
    terminal,
};

/// Arguments of `models`.
#[derive(Args)]
pub(crate) struct ModelsArguments {
    /// The network [default: all of them]
    model: Option<String>,
    /// Set a key of the network, as in hidden=256,128; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "model")]
    set: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// The command `models`.
pub(crate) fn models(workbench: &Workbench, arguments: &ModelsArguments) -> Result<Outcome> {
    let backend = Request::new(backend::default_name(), None, None)?.open(Precision::F32)?;
    let (device, _) = backend.first();
    let mut all: Vec<(&str, Vec<LayerSummary>)> = Vec::new();
    if let Some(model) = &arguments.model {
        let mut partial = Partial::default();
        partial.set("network.name", json!(model));
        let choice = workbench.resolve(with_set(partial, &arguments.set, &workbench.registry())?)?.network;
        let network = workbench.network_of(&choice)?;
        all.push((network.name(), network.layers(&choice.keys, ImageShape::MNIST, device)?));
    }
    for network in workbench.networks().iter().filter(|_| arguments.model.is_none()) {
        match network.layers(&network.section().keys, ImageShape::MNIST, device) {
            Ok(layers) => all.push((network.name(), layers)),
            // The network may be for images of another size.
            Err(error) => notice(format_args!("left out: {}: {}", network.name(), told(&error.into()))),
        }
    }
    if arguments.json {
        let models = all.iter().map(|(name, layers)| {
            let rows = layers.iter().map(|layer| {
                let LayerSummary { name, kind, shape, parameters } = layer;
                json!({ "name": name, "kind": kind, "shape": shape, "parameters": parameters })
            });
            json!({ "name": name, "parameters": trainable_parameters(layers), "layers": rows.collect::<Vec<_>>() })
        });
        print(serde_json::to_string_pretty(&models.collect::<Vec<_>>())?);
        return Ok(Outcome::Done);
    }
    for (name, layers) in &all {
        print(format_args!("{name}: {} trainable parameters", grouped(trainable_parameters(layers))));
        let rows = layers.iter().map(|layer| {
            let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
            vec![layer.name.clone(), layer.kind.clone(), shape.join(" x "), grouped(layer.parameters)]
        });
        print(table(&["layer", "kind", "weight", "parameters"], &[3], terminal::width(), rows) + "\n");
    }
    let program = workbench.program();
    print(format_args!(
        "For images of 1 x 28 x 28 in ten classes. Other widths: {program} models mlp --set hidden=256,128; all \
         keys: {program} config"
    ));
    Ok(Outcome::Done)
}
