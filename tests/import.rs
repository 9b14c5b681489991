//! Runs that leave for other programs, and weights that come from them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::program::{kindling, record, text};

const TRAIN: [&str; 9] =
    ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--name=original"];

/// `import FILE` for the network of [`TRAIN`], without its width.
const NETWORK: [&str; 4] = ["--network", "mlp", "--dataset", "synthetic"];

fn done(place: &Path, arguments: &[&str]) -> String {
    let output = kindling(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What is said to arguments that are refused with this exit code.
fn refused(place: &Path, code: i32, arguments: &[&str]) -> String {
    let output = kindling(place, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    said
}

fn last_line(printed: &str) -> PathBuf {
    printed.lines().last().unwrap().into()
}

/// What `evaluate` finds, without what differs from one time to the next.
fn evaluated(place: &Path, run: &str) -> Value {
    let mut found: Value = serde_json::from_str(&done(place, &["evaluate", run, "--json"])).unwrap();
    let keys = found.as_object_mut().unwrap();
    keys.remove("evaluated");
    keys.remove("run");
    found
}

fn replaced(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut file = file.to_vec();
    while let Some(at) = file.windows(from.len()).position(|window| window == from.as_bytes()) {
        file[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    file
}

/// A safetensors file with this header, and so many zeros behind it.
fn safetensors(header: &str, zeros: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; zeros]].concat()
}

#[test]
fn weights_that_leave_and_come_back_are_a_run_like_any_other_but_for_its_training() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    done(place, &TRAIN);
    let original = evaluated(place, "original");
    let formats: &[&str] = if cfg!(feature = "onnx") { &["safetensors", "onnx"] } else { &["safetensors"] };
    for format in formats {
        let file = format!("weights.{format}");
        assert_eq!(done(place, &["export", "original", "--format", format, "--output", &file]).trim_end(), file);
        let import = [&["import", &file, "--hidden=8", "--name", format], &NETWORK[..]].concat();
        let run = place.join(last_line(&done(place, &import)));
        let found = record(&run);
        assert_eq!((found.status.to_string().as_str(), found.model.as_str()), ("imported", "mlp"));
        assert!(found.epochs.is_empty() && found.test.is_none() && found.parts.is_empty(), "{found:?}");
        let weights = found.initial_weights.unwrap();
        assert_eq!((weights.source.as_str(), weights.taken, weights.fresh.len()), (file.as_str(), 4, 0));
        assert_eq!(evaluated(place, format), original);
        let tested = record(&run).test.unwrap();
        assert_eq!(serde_json::to_value(tested.get("accuracy")).unwrap(), original["accuracy"]);
        assert_eq!(serde_json::to_value(tested.confusion).unwrap(), original["confusion"]);
    }
    // Everything that takes weights takes them, and nothing pretends that they were trained here.
    let listed = done(place, &["runs"]);
    let rows: Vec<_> = listed.lines().filter(|line| line.contains("imported")).collect();
    assert!(rows.len() == formats.len() && rows.iter().all(|row| !row.contains("0/")), "{listed}");
    let compared: Value =
        serde_json::from_str(&done(place, &["compare", "original", "safetensors", "--json"])).unwrap();
    assert_eq!(compared.as_array().or_else(|| compared["groups"].as_array()).unwrap().len(), 2, "{compared}");
    let alone = done(place, &["compare", "safetensors"]);
    assert!(alone.contains("test accuracy") && alone.contains("imported from weights.safetensors"), "{alone}");
    done(place, &["report", "safetensors", "--output", "report"]);
    assert!(fs::read_to_string(place.join("report/report.md")).unwrap().contains("imported from weights.safetensors"));
    let said = refused(place, 2, &["resume", "safetensors"]);
    assert!(said.contains("was imported: there is nothing to resume; train another run from its weights"), "{said}");
    assert!(said.contains("/run.json --weights "), "{said}");
    let further = ["train", "mlp", "--hidden=8", "--dataset=synthetic", "--epochs=1", "--limit-batches=1"];
    let output = kindling(place, &[&further[..], &["--weights", "safetensors"]].concat());
    assert!(text(&output.stderr).contains("weights: 4 of 4 tensors from "), "{}", text(&output.stderr));
}

#[test]
fn names_are_mapped_by_hand_and_shapes_are_checked() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    done(place, &TRAIN);
    done(place, &["export", "original", "--format=safetensors", "--output=original.safetensors"]);
    let file = fs::read(place.join("original.safetensors")).unwrap();
    fs::write(place.join("other.safetensors"), replaced(&file, "layers.0", "blocks.a")).unwrap();
    let import = |more: &[&'static str]| [&["import", "other.safetensors"], &NETWORK[..], more].concat();
    let said = refused(place, 1, &import(&["--hidden=8"]));
    let expected = [
        "other.safetensors: 2 of the 4 tensors of `mlp` are in the file",
        "missing: layers.0.weight 8x784, layers.0.bias 8",
        "in the file and not used: blocks.a.bias 8, blocks.a.weight 8x784",
        "--rename FROM=TO",
    ];
    for expected in expected {
        assert!(said.contains(expected), "{said}");
    }
    let said = refused(place, 2, &import(&["--hidden=8", "--rename", "block.a=layers.0"]));
    assert!(said.contains("--rename block.a=…: no tensor") && said.contains("did you mean `blocks.a`?"), "{said}");
    let said = refused(place, 1, &import(&["--hidden=9", "--rename=blocks.a=layers.0"]));
    assert!(said.contains("layers.0.weight (9x784 here, 8x784 in the file)"), "{said}");
    assert_eq!(fs::read_dir(place.join("runs")).unwrap().count(), 1, "nothing is left of what was refused");

    done(place, &import(&["--hidden=8", "--rename", "blocks.a=layers.0", "--name=whole"]));
    assert_eq!(evaluated(place, "whole"), evaluated(place, "original"));
    let run = place.join(last_line(&done(place, &import(&["--hidden=8", "--partial"]))));
    let weights = record(&run).initial_weights.unwrap();
    assert_eq!((weights.taken, weights.fresh), (2, vec!["layers.0.weight".to_owned(), "layers.0.bias".to_owned()]));
    assert_eq!(weights.unused, ["blocks.a.bias", "blocks.a.weight"]);
}

#[test]
fn files_that_hold_no_weights_are_refused_by_what_they_are_and_run_nothing() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let trap = place.join("trap");
    let unicode = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    // {"state_dict": os.system("touch ...")}, as protocol 2 has it.
    let (key, command) = (unicode("state_dict"), unicode(&format!("touch {}", trap.display())));
    let pickle = [b"\x80\x02}", &key[..], b"cposix\nsystem\n", &command, b"\x85Rs."].concat();
    let tensor = |kind: &str, bytes: usize| {
        let header =
            format!(r#"{{"layers.0.weight":{{"dtype":"{kind}","shape":[8,784],"data_offsets":[0,{bytes}]}}}}"#);
        safetensors(&header, bytes)
    };
    let mut huge = tensor("F32", 8 * 784 * 4);
    huge[5] = 1; // a header of a terabyte
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("empty.pt", Vec::new(), "found an empty file"),
        (
            "text.txt",
            b"weights".to_vec(),
            ".safetensors, as PyTorch's .pt of a state_dict, or as .onnx, found none of them",
        ),
        ("text.pt", b"weights".to_vec(), "expected weights as .safetensors, or as PyTorch's .pt of a state_dict"),
        ("text.onnx", b"weights".to_vec(), "expected a whole ONNX file"),
        ("pickle.pt", pickle, "`posix.system` (nothing of it was run)"),
        ("none.safetensors", safetensors("{}", 0), "found a file without tensors"),
        ("cut.safetensors", tensor("F32", 8 * 784 * 4)[..500].to_vec(), "expected a whole safetensors file"),
        ("huge.safetensors", huge, "expected a whole safetensors file"),
        ("ints.safetensors", tensor("I32", 8 * 784 * 4), "layers.0.weight (I32 in the file)"),
        ("archive.pt", b"PK\x03\x04 and nothing".to_vec(), "found a file that cannot be read"),
        ("missing.pt", b"".to_vec(), "missing.pt"),
    ];
    for (name, content, expected) in cases {
        if name != "missing.pt" {
            fs::write(place.join(name), content).unwrap();
        }
        let said = refused(place, 1, &[&["import", name, "--hidden=8"], &NETWORK[..]].concat());
        assert!(said.contains(expected), "{name}: {said}");
    }
    let said = refused(place, 1, &[&["import", ".", "--hidden=8"], &NETWORK[..]].concat());
    assert!(said.contains("expected a file of weights, found a directory"), "{said}");
    assert!(!trap.exists() && !place.join("runs").exists());
}

#[test]
fn a_run_is_exported_in_each_format_and_nothing_that_is_there_is_replaced_unasked() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    done(place, &[&TRAIN[..], &["--gradient-steps=2"]].concat());
    evaluated(place, "original");
    let id = only_id(place);
    let export = |format: &'static str| ["export", "original", "--format", format];
    for (format, name) in [("safetensors", format!("{id}.safetensors")), ("burn", format!("{id}.bpk"))] {
        assert_eq!(last_line(&done(place, &export(format))), Path::new(&name));
        let first = fs::read(place.join(&name)).unwrap();
        let said = refused(place, 2, &export(format));
        assert!(said.contains(&format!("{name} is there already; --force replaces it")), "{said}");
        done(place, &[&export(format)[..], &["--force"]].concat());
        assert!(fs::read(place.join(&name)).unwrap() == first, "the same run is the same bytes");
    }
    let tables = place.join(last_line(&done(place, &export("csv"))));
    for name in ["epochs", "steps", "gradients", "test", "confusion", "classes"] {
        assert!(fs::read_to_string(tables.join(format!("{name}.csv"))).unwrap().lines().count() > 1, "{name}");
    }
    let hub = place.join(last_line(&done(place, &[&export("huggingface")[..], &["--license=mit"]].concat())));
    let read = |name: &str| fs::read_to_string(hub.join(name)).unwrap();
    let config: Value = serde_json::from_str(&read("config.json")).unwrap();
    assert_eq!(config["architecture"], serde_json::json!({ "name": "mlp", "hidden": [8] }));
    assert_eq!((&config["image_size"], &config["num_labels"]), (&serde_json::json!([28, 28]), &10.into()));
    let card = read("README.md");
    for expected in ["---\nlicense: \"mit\"\n", "model-index:", "## Mistakes", "not real images", "NETWORKS[kind]"] {
        assert!(card.contains(expected), "{expected}: {card}");
    }
    assert!(read("network.py").contains("class Mlp"));
    // The folder is enough to import the weights, and to train the same again.
    let weights = hub.join("model.safetensors");
    let import = ["import", weights.to_str().unwrap(), "--config"];
    done(place, &[&import[..], &[hub.join("kindling.json").to_str().unwrap(), "--name=hub"]].concat());
    assert_eq!(evaluated(place, "hub"), evaluated(place, "original"));

    let onto = ["export", "original", "--force", "--output=runs"];
    let said = refused(place, 2, &[&onto[..], &["--format=burn"]].concat());
    assert!(said.contains("runs is a directory, and --format burn writes a file"), "{said}");
    let said = refused(place, 2, &["export", "original", "hub", "--format=burn"]);
    assert!(said.contains("--format burn requires one run (got 2)"), "{said}");
    let said = refused(place, 2, &["export", "original", "--format=csv", "--license=mit"]);
    assert!(said.contains("--license requires --format huggingface (got csv)"), "{said}");
    done(place, &["export", "original", "hub", "--format=csv", "--output=both"]);
    assert!(place.join("both").join(&id).join("epochs.csv").is_file());
}

#[test]
fn a_run_that_is_not_finished_has_measurements_and_no_weights_to_export() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    done(place, &TRAIN);
    let path = place.join("runs").join(only_id(place)).join("run.json");
    let written = fs::read_to_string(&path).unwrap().replace(r#""status": "finished""#, r#""status": "interrupted""#);
    fs::write(&path, written).unwrap();
    done(place, &["export", "original", "--format=csv"]);
    let said = refused(place, 2, &["export", "original", "--format=safetensors"]);
    assert!(said.contains("only a finished run has weights to use: ") && said.contains("resume"), "{said}");
}

/// The id of the one run that is there.
fn only_id(place: &Path) -> String {
    crate::program::only_run(place).file_name().unwrap().to_string_lossy().into_owned()
}
