//! Recipes, and `kindling claim`: every seed in a process of its own, nothing trained twice, and said as it is.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use burn::tensor::Device;
use serde_json::{Value, json};

use crate::{
    program::{kindling, only_run, record, text, with},
    resume::{Training, stopped_run},
};

/// A claim that takes a moment: another network, on drawn shapes.
const QUICK: [&str; 14] = [
    "claim",
    "assignment-cnn",
    "--set",
    "network.name=mlp",
    "--set",
    "network.hidden=8",
    "--set",
    "data.name=synthetic",
    "--set",
    "limit_batches=2",
    "--set",
    "batch_size=16",
    "--set",
    "epochs=2",
];

/// What `NAME.json` says.
fn claimed(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("assignment-cnn.json")).unwrap()).unwrap()
}

fn seed(record: &Value, index: usize) -> &Value {
    &record["seeds"][index]
}

#[test]
fn every_recipe_is_a_config_that_flags_override() {
    let place = tempfile::tempdir().unwrap();
    for name in ["fast94", "small96", "tiny", "assignment-cnn", "assignment-mlp"] {
        let output = kindling(place.path(), &["config", "--recipe", name, "--batch-size", "96", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let config: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(config["training"]["batch_size"], 96, "{name}");
    }
    let runs = kindling(place.path(), &["sweep", "--recipe", "fast94", "--learning-rate", "0.2,0.4", "--dry-run"]);
    assert_eq!(text(&runs.stdout).lines().count(), 2, "{}", text(&runs.stderr));
    let both = kindling(place.path(), &["train", "--recipe", "fast94", "--config", "a.toml"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_changed_claim_is_said_to_be_changed_and_its_runs_are_not_trained_again() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &with(&QUICK, &["--seeds", "2", "--json"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reports = place.path().join("reports/claim-assignment-cnn");
    let found = claimed(&reports);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), found);
    assert!(!place.path().join("assets").exists(), "the figures on record are those of the recipe");

    assert_eq!((&found["verdict"]["holds"], found["changed"].as_array().unwrap().len()), (&Value::Null, 6));
    let reasons = found["verdict"]["reasons"].to_string();
    assert!(reasons.contains("the recipe is changed, so the claim is not judged: network.name=mlp"), "{reasons}");
    assert!(reasons.contains("finished seeds: 2; the claim is about the mean of 5"), "{reasons}");
    assert_eq!((&found["test_accuracy"]["n"], &found["config"]["training"]["seed"]), (&json!(2), &json!(1)));
    let command = found["command"].as_str().unwrap();
    assert!(command.starts_with("kindling claim assignment-cnn --seeds 2 --set network.name=mlp"), "{command}");
    for index in 0..2 {
        let seed = seed(&found, index);
        let run = place.path().join("runs").join(seed["run"].as_str().unwrap());
        assert_eq!(
            (&seed["seed"], &seed["status"], &seed["parts"]),
            (&json!(index + 1), &json!("finished"), &json!(1))
        );
        assert_eq!(seed["test_accuracy"].as_f64(), record(&run).test.unwrap().get("accuracy"));
        // The process is alive for longer than the run is.
        assert!(seed["wall_is_measured"] == true && seed["wall_seconds"].as_f64().unwrap() > record(&run).seconds);
        let weights = kindling_training::weights::digest(&run.join("model.safetensors")).unwrap();
        assert_eq!(seed["weights_sha256"], weights.as_str());
        assert!(run.join("evaluation.json").is_file());
    }
    assert!(found["seeds"][0]["weights_sha256"] != found["seeds"][1]["weights_sha256"]);
    let page = fs::read_to_string(reports.join("assignment-cnn.md")).unwrap();
    assert!(page.contains("**assignment-cnn is not judged: changed: network.name=mlp"), "{page}");
    assert!(page.contains(seed(&found, 1)["weights_sha256"].as_str().unwrap()), "{page}");
    assert!(reports.join("report.html").is_file());

    let all = |name: &str| {
        let runs = fs::read_dir(place.path().join("runs")).unwrap().map(|run| run.unwrap().path());
        let mut files: Vec<_> = runs.map(|run| (run.join(name), fs::read(run.join(name)).unwrap())).collect();
        files.sort();
        files
    };
    let before = all("run.json");
    let again = kindling(place.path(), &with(&QUICK, &["--seeds", "2"]));
    let said = text(&again.stderr);
    assert!(again.status.success() && said.contains("is there: finished"), "{said}");
    assert_eq!(all("run.json"), before);
    assert_eq!(claimed(&reports)["seeds"], found["seeds"]);
    // Of fewer seeds, from the runs that are there.
    let fewer = kindling(place.path(), &with(&QUICK, &["--seeds", "1", "--report-only", "--output", "mine"]));
    assert!(fewer.status.success(), "{}", text(&fewer.stderr));
    assert_eq!(claimed(&place.path().join("mine"))["seeds"].as_array().unwrap().len(), 1);
}

#[test]
fn an_interrupted_seed_is_said_to_be_unfinished_and_the_same_command_resumes_it() {
    let place = tempfile::tempdir().unwrap();
    // So many epochs that it never ends by itself, however fast the machine is.
    let endless = with(&QUICK[..12], &["--set", "epochs=1000000", "--seeds", "1"]);
    for (parts, signal) in [(1, "-INT"), (2, "-TERM")] {
        // The signal reaches this program, and through it the one that trains.
        let claim = Training::start(place.path(), &endless);
        claim.signal(signal);
        let (code, said) = claim.end();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("the same command resumes it"), "{said}");
        let run = only_run(place.path());
        assert!(run.join("checkpoints/index.json").is_file());
        assert_eq!((record(&run).status.to_string().as_str(), record(&run).parts.len()), ("interrupted", parts));
        let found = claimed(&place.path().join("reports/claim-assignment-cnn"));
        let seed = seed(&found, 0);
        assert_eq!((&seed["status"], &seed["test_accuracy"]), (&json!("interrupted"), &Value::Null));
        assert_eq!((&found["test_accuracy"], &found["verdict"]["holds"]), (&Value::Null, &Value::Null));
        let reasons = found["verdict"]["reasons"].to_string();
        let epochs = record(&run).epochs.len();
        assert!(reasons.contains(&format!("seed 1: interrupted, {epochs} of 1000000 epochs, validation")), "{reasons}");
        // The sum over its parts.
        let measured: Value = serde_json::from_slice(&fs::read(run.join("claim.json")).unwrap()).unwrap();
        let seconds: Vec<f64> =
            measured["parts"].as_array().unwrap().iter().map(|part| part[1].as_f64().unwrap()).collect();
        assert_eq!((seconds.len(), seed["wall_is_measured"].as_bool()), (parts, Some(true)));
        assert!((seed["wall_seconds"].as_f64().unwrap() - seconds.iter().sum::<f64>()).abs() < 1e-9);
    }
}

#[test]
fn a_run_that_another_command_began_is_finished_and_its_time_is_said_to_be_unmeasured() {
    let place = tempfile::tempdir().unwrap();
    let typed = with(&["config", "--recipe", "assignment-cnn", "--json"], &QUICK[2..]);
    let config = text(&kindling(place.path(), &typed).stdout);
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["training"]["seed"] = json!(1);
    let run = stopped_run(&place.path().join("runs"), &config.to_string(), ("flex", Device::flex()), 3);
    let output = kindling(place.path(), &with(&QUICK, &["--seeds", "1"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(only_run(place.path()), run);
    let found = claimed(&place.path().join("reports/claim-assignment-cnn"));
    let seed = seed(&found, 0);
    assert_eq!((&seed["status"], &seed["parts"]), (&json!("finished"), &json!(2)));
    assert_eq!(seed["wall_is_measured"], false);
    let page = fs::read_to_string(place.path().join("reports/claim-assignment-cnn/assignment-cnn.md")).unwrap();
    assert!(page.contains("| about "), "{page}");
}

#[test]
fn pytorch_trains_each_seed_once_beside_ours() {
    let place = tempfile::tempdir().unwrap();
    // In the place of Python: what the peer writes, if it is given what it needs.
    let python = place.path().join("python");
    let script = r#"#!/bin/sh
echo "$@" >> calls
while [ $# -gt 0 ]; do
    case $1 in --output) output=$2 ;; --seed) seed=$2 ;; --config) config=$2 ;; esac
    shift
done
grep -q synthetic "$config" || exit 1
epoch='{"epoch": 1, "seconds": 20.5, "valid_accuracy": 0.9, "valid_loss": 0.3, "train_loss": 0.4}'
echo "{\"torch\": \"2.9.0\", \"threads\": 2, \"seed\": $seed, \"parameters\": 6370, \"epochs\": [$epoch], \"best_epoch\": 1,
    \"test_accuracy\": 0.$((90 + seed)), \"test_loss\": 0.3, \"wall_seconds\": 1000}" > "$output"
"#;
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = with(&QUICK, &["--seeds", "2", "--pytorch", python.to_str().unwrap()]);
    let refused = kindling(place.path(), &arguments);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("there is no assets/claims/pytorch_peer.py"), "{}", text(&refused.stderr));
    fs::create_dir_all(place.path().join("assets/claims")).unwrap();
    fs::write(place.path().join("assets/claims/pytorch_peer.py"), "").unwrap();
    for _ in 0..2 {
        let output = kindling(place.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_to_string(place.path().join("calls")).unwrap().lines().count(), 2);
    let reports = place.path().join("reports/claim-assignment-cnn");
    let found = claimed(&reports);
    assert_eq!((&found["pytorch"][1]["seed"], &found["pytorch"][1]["test_accuracy"]), (&json!(2), &json!(0.92)));
    let page = fs::read_to_string(reports.join("assignment-cnn.md")).unwrap();
    assert!(page.contains("test accuracy 91.50 ± 0.71 %"), "{page}");
    let ratios = [0, 1].map(|index| 1000.0 / seed(&found, index)["wall_seconds"].as_f64().unwrap());
    let median = ratios.iter().sum::<f64>() / 2.0;
    assert!(page.contains(&format!("takes {median:.2} times as long as Kindling (median over 2 pairs)")), "{page}");
    // No path of this machine.
    assert!(found["command"].as_str().unwrap().ends_with(" --pytorch python3"));
}

#[test]
fn claims_are_listed_with_what_is_on_record() {
    let place = tempfile::tempdir().unwrap();
    let output = kindling(place.path(), &["claims"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    assert!(["fast94", "small96", "tiny", "assignment-cnn"].iter().all(|name| listed.contains(name)), "{listed}");
    assert!(kindling(place.path(), &with(&QUICK, &["--seeds", "1", "--output", "mine"])).status.success());
    let output = kindling(place.path(), &["claims", "--json", "--output", "mine"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["target_accuracy"]), (&json!("fast94"), &json!(0.94)));
    assert_eq!((&listed[0]["record"], &listed[3]["record"]), (&Value::Null, &claimed(&place.path().join("mine"))));
    fs::write(place.path().join("mine/tiny.json"), "{}").unwrap();
    let refused = kindling(place.path(), &["claims", "--output", "mine"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("mine/tiny.json is no record of a claim"), "{}", text(&refused.stderr));
}

#[test]
fn arguments_of_a_claim_that_make_no_sense_are_refused_before_anything_is_trained() {
    let place = tempfile::tempdir().unwrap();
    for (arguments, message) in [
        (&["claim", "fast95"][..], "invalid value 'fast95'"),
        (&["claim", "fast94", "--set", "training.seed=3"], "use --first-seed and --seeds"),
        (&["claim", "fast94", "--set", "epoch"], "expected KEY=VALUE"),
        (&["claim", "fast94", "--seeds", "0"], "0 is not in"),
    ] {
        let output = kindling(place.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
    let none = kindling(place.path(), &with(&QUICK, &["--report-only"]));
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("expected runs of assignment-cnn in runs, found none"));
    assert!(!place.path().join("runs").exists());
}
