use anyhow::Result;
use kindling_models::{ModelName, trainable_parameters};
use kindling_report::{grouped, table};
use serde_json::json;

use crate::{arguments::ModelsArguments, commands::Outcome, output::print, terminal};

/// `kindling models`
pub(crate) fn models(arguments: &ModelsArguments) -> Result<Outcome> {
    if arguments.json {
        let models: Vec<_> = ModelName::ALL
            .into_iter()
            .map(|model| {
                let layers = model.layers();
                let rows: Vec<_> = layers
                    .iter()
                    .map(|layer| {
                        json!({
                            "name": layer.name,
                            "kind": layer.kind,
                            "output": layer.output,
                            "parameters": layer.parameters,
                        })
                    })
                    .collect();
                json!({ "name": model, "parameters": trainable_parameters(&layers), "layers": rows })
            })
            .collect();
        print(serde_json::to_string_pretty(&models)?);
        return Ok(Outcome::Done);
    }
    for model in ModelName::ALL {
        let layers = model.layers();
        print(format!("{model}: {} trainable parameters", grouped(trainable_parameters(&layers))));
        let rows = layers.iter().map(|layer| {
            let shape: Vec<String> = layer.output.iter().map(ToString::to_string).collect();
            let parameters = if layer.parameters == 0 { String::new() } else { grouped(layer.parameters) };
            vec![layer.name.clone(), layer.kind.clone(), shape.join(" x "), parameters]
        });
        print(table(&["layer", "kind", "output", "parameters"], &[3], terminal::width(), rows) + "\n");
    }
    print("An image is 1 x 28 x 28 with values in [0, 1]. Other widths: kindling train mlp --hidden 256,128");
    Ok(Outcome::Done)
}
