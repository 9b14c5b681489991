//! Folders for the Hugging Face hub: weights, a config, and a model card.

mod card;

use std::{collections::BTreeMap, path::Path};

use kindling_data::Normalization;
use kindling_record::{RunStatus, replace_file};
use serde_json::{Map, Value, json};

use crate::{ExchangeError, ExportedRun, weights};

/// What a folder has beside what the run's record says.
#[derive(Clone, Copy, Debug)]
pub struct HubOptions<'a> {
    /// Identifier of the weights' licence, as the hub has it: `mit`, `apache-2.0`. Without one the card says `unknown`: the
    /// licence is for the one who trained them to choose.
    pub license: Option<&'a str>,
    /// Name of the program that trained them and that reads them again.
    pub program: &'a str,
    /// The network in PyTorch, as a Python file whose `NETWORKS` has it by the first part of its name; none where there is no
    /// such code.
    pub pytorch: Option<&'a str>,
}

/// Writes into `folder`, which is there:
///
/// - `model.safetensors`: the weights under PyTorch's names, as [`weights::safetensors`] has them;
/// - `config.json`: the network (`architecture`), the images' size and normalization, and the classes (`id2label`);
/// - `README.md`: the model card, with metrics, data, recipe, mistakes, limits, and how to use the weights;
/// - `kindling.json`: the complete config, with which the program trains the same again, or imports the weights;
/// - `network.py`: the network in PyTorch, where there is one.
///
/// # Errors
/// When the run was not trained on images, its weights or its evaluation cannot be read, or a file cannot be written.
pub fn write(run: &ExportedRun<'_>, options: &HubOptions<'_>, folder: &Path) -> Result<(), ExchangeError> {
    let evaluation = run.directory.read_evaluation()?;
    let json = |value: &Value| format!("{value:#}\n").into_bytes();
    let mut files = vec![
        ("model.safetensors", weights::safetensors(run)?),
        ("config.json", json(&config(run)?)),
        ("README.md", card::card(run, evaluation.as_ref(), options)?.into_bytes()),
        ("kindling.json", json(&Value::Object(recipe(run)))),
    ];
    files.extend(options.pytorch.map(|code| ("network.py", code.as_bytes().to_vec())));
    for (name, content) in files {
        replace_file(&folder.join(name), &content)?;
    }
    Ok(())
}

/// The content of `config.json`.
fn config(run: &ExportedRun<'_>) -> Result<Value, ExchangeError> {
    let shape = run.shape()?;
    let Normalization { mean, std } = run.normalization()?;
    let each = |numbers: &[f64]| match numbers {
        [one] => vec![*one; shape.channels],
        numbers => numbers.to_vec(),
    };
    let labels = run.classes().iter().enumerate();
    let id2label: BTreeMap<String, &String> = labels.clone().map(|(label, class)| (label.to_string(), class)).collect();
    let label2id: BTreeMap<&String, usize> = labels.map(|(label, class)| (class, label)).collect();
    Ok(json!({
        "library_name": "kindling",
        "kindling_version": env!("CARGO_PKG_VERSION"),
        "run": run.record.id,
        "architecture": run.config.network,
        "num_channels": shape.channels,
        "image_size": [shape.height, shape.width],
        "image_mean": each(&mean),
        "image_std": each(&std),
        "rescale_factor": 1.0 / 255.0,
        "num_labels": shape.classes,
        "id2label": id2label,
        "label2id": label2id,
    }))
}

/// The run's config. Of a file that training started from, only the name is the same elsewhere; an imported run's is the
/// weights themselves.
fn recipe(run: &ExportedRun<'_>) -> Map<String, Value> {
    let mut config = run.record.config.clone();
    if let Some(weights) = config.get_mut("training").and_then(|training| training.get_mut("weights")) {
        let path = weights.as_str().filter(|_| run.record.status != RunStatus::Imported);
        *weights = json!(path.and_then(|path| Path::new(path).file_name()?.to_str()));
    }
    config
}
