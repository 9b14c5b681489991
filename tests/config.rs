//! `kindling config`: what it prints is the config that was typed, complete, and can be read back.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::program::{SHORT, kindling, only_run, record, text, with};

/// Keys of every section, those of the network and of the data set among them.
const TYPED: [&str; 16] = [
    "cnn",
    "--set",
    "network.channels=4,8",
    "--set",
    "network.hidden=16",
    "--dataset",
    "idx",
    "--transpose",
    "--augment",
    "shift,flip",
    "--optimizer",
    "adam",
    "--set",
    "optimizer.beta_1=.8",
    "--clip-norm",
    "1",
];

fn printed(place: &Path, arguments: &[&str]) -> String {
    let output = kindling(place, &with(&["config"], arguments));
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn object(place: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(place, &with(arguments, &["--json"]))).unwrap()
}

#[test]
fn a_printed_config_says_what_was_typed_and_is_read_back_as_the_same() {
    let place = tempfile::tempdir().unwrap();
    let typed = object(place.path(), &TYPED);
    assert_eq!(typed["network"], json!({ "name": "cnn", "channels": [4, 8], "hidden": 16 }));
    let data = json!({
        "name": "idx", "transpose": true, "normalize": "given", "pixel_mean": [0.0], "pixel_std": [1.0], "fit": "crop",
        "augment": [{ "name": "flip", "probability": 0.5, "alternate": false }, { "name": "shift", "pixels": 2 }],
        "sampler": "uniform", "image_size": null, "channels": null,
    });
    assert_eq!(typed["data"], data);
    assert_eq!((&typed["optimizer"]["name"], &typed["optimizer"]["beta_1"]), (&json!("adam"), &json!(0.8)));
    assert_eq!((&typed["training"]["clip_norm"], &typed["training"]["epochs"]), (&json!(1.0), &json!(10)));

    let toml = printed(place.path(), &TYPED);
    // A key with its comment; one without a value is a comment itself.
    assert!(toml.contains("\n# Decay of the first moment (at least 0 and below 1)\nbeta_1 = 0.8\n"), "{toml}");
    assert!(toml.contains("\n# early_stopping =\n"), "{toml}");
    // The mlp's key of the same name means another thing.
    assert!(toml.contains("\n# Width of the hidden linear layer\nhidden = 16\n"), "{toml}");
    fs::write(place.path().join("config.toml"), &toml).unwrap();
    let file = ["--config", "config.toml"];
    assert_eq!(printed(place.path(), &file), toml);
    assert_eq!(object(place.path(), &file), typed);
    // Flags and --set override it.
    let changed = object(place.path(), &with(&file, &["--epochs", "3", "--set", "network.hidden=8"]));
    assert_eq!((&changed["training"]["epochs"], &changed["network"]["hidden"]), (&json!(3), &json!(8)));
    assert_eq!(changed["network"]["channels"], typed["network"]["channels"]);
}

#[test]
fn a_run_keeps_the_config_that_is_printed_for_it_and_has_the_layers_that_it_says() {
    let place = tempfile::tempdir().unwrap();
    let typed = ["mlp", "--set", "network.hidden=12", "--set", "limit_batches=2"];
    let typed = with(&typed, &["--dataset", "synthetic", "--epochs", "1"]);
    fs::write(place.path().join("config.toml"), printed(place.path(), &typed)).unwrap();
    let output = kindling(place.path(), &["train", "--config", "config.toml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let record = record(&only_run(place.path()));
    assert_eq!(Value::Object(record.config), object(place.path(), &typed));
    assert_eq!(record.parameters, 784 * 12 + 12 + 12 * 10 + 10);
}

#[test]
fn a_records_config_is_printed_and_another_variant_drops_the_keys_of_the_one_before() {
    let place = tempfile::tempdir().unwrap();
    assert!(kindling(place.path(), &with(&SHORT, &["--optimizer", "momentum", "--momentum", "0.5"])).status.success());
    let run = only_run(place.path()).join("run.json");
    let file = ["--config", run.to_str().unwrap()];
    let kept = object(place.path(), &file);
    assert_eq!(kept["optimizer"]["momentum"], json!(0.5));
    let adam = object(place.path(), &with(&file, &["--optimizer", "adam"]));
    let expected = json!({
        "name": "adam", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0,
        "decay_biases": true, "bias_rate_factor": 1.0,
    });
    assert_eq!(adam["optimizer"], expected);
    assert_eq!(adam["network"], kept["network"]);
}
