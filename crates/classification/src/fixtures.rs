//! Configs for tests.

use kindling_config::{Config, Partial, Registry, Section};
use kindling_data::Synthetic;
use kindling_models::{CnnConfig, MlpConfig};
use serde::Serialize;
use serde_json::Value;

/// What `partial` says and nothing more, for the presets' networks and the drawn shapes.
pub(crate) fn config(partial: Value) -> Config {
    let Value::Object(mut object) = partial else { panic!("a config is an object") };
    object.entry("data").or_insert_with(|| "synthetic".into());
    Partial::from_object(object).and_then(|partial| partial.resolve(&registry())).unwrap()
}

fn registry() -> Registry {
    let networks = vec![
        section("mlp", &MlpConfig { hidden: vec![512; 2] }),
        section("cnn", &CnnConfig { channels: vec![32, 64], hidden: 128 }),
    ];
    Registry { networks, datasets: vec![section("synthetic", &Synthetic {})] }
}

fn section(name: &str, config: &impl Serialize) -> Section {
    let Ok(Value::Object(keys)) = serde_json::to_value(config) else { panic!("a config is an object") };
    Section { name: name.to_owned(), keys, help: Vec::new() }
}
