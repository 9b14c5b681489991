//! Networks that leave as ONNX files; what is in these is tested in the crate `exchange`.

use std::fs;

use serde_json::Value;

use crate::program::{kindling, text};

#[test]
fn a_cnn_leaves_with_its_batch_norms_or_with_these_inside_its_convolutions() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let done = |arguments: &[&str]| {
        let output = kindling(place, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let network = ["cnn", "--set=network.channels=[2,3]", "--hidden", "4", "--dataset", "synthetic"];
    done(&[&["train"], &network[..], &["--epochs=1", "--name=original"]].concat());
    let run = fs::read_dir(place.join("runs")).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let printed = done(&["export", &run, "--format", "onnx"]);
    assert_eq!(printed.lines().last(), Some(&*format!("{run}.onnx")));
    done(&["export", &run, "--format", "onnx", "--fold-batch-norm", "--output", "folded.onnx"]);

    // The plain file has the run's weights, by their names.
    let import = |file: &str| {
        let keys = ["import", file, "--name", "back", "--network"];
        kindling(place, &[&keys[..], &network[..]].concat())
    };
    let output = import(&format!("{run}.onnx"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let metrics = |run: &str| {
        let found: Value = serde_json::from_str(&done(&["evaluate", run, "--json"])).unwrap();
        found["loss"].as_f64().unwrap()
    };
    assert!((metrics(&run) - metrics("back")).abs() < 1e-12);
    let output = import("folded.onnx");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("bn1.running_mean"), "{}", text(&output.stderr));
}
