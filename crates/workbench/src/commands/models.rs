use anyhow::Result;
use clap::Args;
use kindling_config::{Config, Partial, Precision};
use kindling_models::{ImageShape, LayerSummary, trainable_parameters};
use kindling_report::{grouped, table};
use serde_json::{Map, Value, json};

use crate::{
    Workbench,
    arguments::with_set,
    backend::{self, Request},
    data::likely_shape,
    outcome::Outcome,
    output::{notice, print, told},
    terminal,
};

/// Arguments of `models`.
#[derive(Args)]
pub(crate) struct ModelsArguments {
    /// The network whose layers are listed [default: one line for each network]
    model: Option<String>,
    /// Set a key of the network, as in hidden=256,128; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "model")]
    set: Vec<String>,
    /// Size of the images in pixels: a number, or HEIGHTxWIDTH [default: 28]
    #[arg(long, value_name = "SIZE")]
    image_size: Option<String>,
    /// Channels of the images [default: grey]
    #[arg(long, value_name = "CHANNELS", value_parser = ["grey", "rgb"])]
    channels: Option<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// The command `models`.
pub(crate) fn models(workbench: &Workbench, arguments: &ModelsArguments) -> Result<Outcome> {
    let backend = Request::new(backend::default_name(), None, &[])?.open(Precision::F32)?;
    let (device, _) = backend.first();
    let config = config(workbench, arguments)?;
    let shape = likely_shape(&config.data);
    let mut all: Vec<(&str, &Map<String, Value>, Vec<LayerSummary>)> = Vec::new();
    let sections: Vec<_> = workbench.networks().iter().map(|network| (network, network.section().keys)).collect();
    if arguments.model.is_some() {
        let network = workbench.network_of(&config.network)?;
        let keys = &config.network.keys;
        all.push((network.name(), keys, network.layers(keys, shape, device)?));
    }
    for (network, keys) in sections.iter().filter(|_| arguments.model.is_none()) {
        match network.layers(keys, shape, device) {
            Ok(layers) => all.push((network.name(), keys, layers)),
            // The network may be for images of another size.
            Err(error) => notice(format_args!("left out: {}: {}", network.name(), told(&error.into()))),
        }
    }
    if arguments.json {
        let models = all.iter().map(|(name, _, layers)| {
            let rows = layers.iter().map(|layer| {
                let LayerSummary { name, kind, shape, parameters } = layer;
                json!({ "name": name, "kind": kind, "shape": shape, "parameters": parameters })
            });
            json!({ "name": name, "parameters": trainable_parameters(layers), "layers": rows.collect::<Vec<_>>() })
        });
        print(serde_json::to_string_pretty(&models.collect::<Vec<_>>())?);
        return Ok(Outcome::Done);
    }
    let width = terminal::width();
    if let (Some(_), [(name, _, layers)]) = (&arguments.model, &all[..]) {
        print(format_args!("{name}: {} trainable parameters", grouped(trainable_parameters(layers))));
        let rows = layers.iter().map(|layer| {
            let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
            vec![layer.name.clone(), layer.kind.clone(), shape.join(" x "), grouped(layer.parameters)]
        });
        print(table(&["layer", "kind", "weight", "parameters"], &[3], width, rows) + "\n");
    } else {
        let rows = all
            .iter()
            .map(|(name, keys, layers)| vec![(*name).to_owned(), grouped(trainable_parameters(layers)), shown(keys)]);
        print(table(&["model", "parameters", "keys"], &[1], width, rows) + "\n");
    }
    let program = workbench.program();
    let ImageShape { channels, height, width, .. } = shape;
    print(format_args!(
        "For images of {channels} x {height} x {width} in ten classes. Layers, and other widths: {program} models mlp \
         --set hidden=256,128; all keys: {program} config"
    ));
    Ok(Outcome::Done)
}

/// A network's keys as `--set` takes them, with fractions to four places.
fn shown(keys: &Map<String, Value>) -> String {
    let value = |value: &Value| match (value, value.as_array()) {
        (Value::Number(number), _) if number.is_f64() => number
            .as_f64()
            .map_or_else(String::new, |it| format!("{it:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()),
        (Value::String(text), _) => text.clone(),
        (_, Some(values)) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        _ => value.to_string(),
    };
    keys.iter().map(|(key, it)| format!("{key}={}", value(it))).collect::<Vec<_>>().join(" ")
}

/// The config of the network and the images that the arguments name; of any network where they name none.
fn config(workbench: &Workbench, arguments: &ModelsArguments) -> Result<Config> {
    let registry = workbench.registry();
    let mut partial = Partial::default();
    if let Some(model) = arguments.model.as_ref().or(registry.networks.first().map(|network| &network.name)) {
        partial.set("network.name", json!(model));
    }
    partial = with_set(partial, &arguments.set, &registry)?;
    for (key, text) in [("data.image_size", &arguments.image_size), ("data.channels", &arguments.channels)] {
        if let Some(text) = text {
            partial = partial.with_text(key, text, &registry)?;
        }
    }
    workbench.resolve(partial)
}
