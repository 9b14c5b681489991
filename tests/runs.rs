//! What runs are called, which of them are repetitions, and what they know of the data that they were trained on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::program::{command, kindling, only_run, record, text, write_rows};

const SMALL: [&str; 10] =
    ["mlp", "--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "5", "--json"];

fn printed(place: &Path, arguments: &[&str]) -> Value {
    let output = kindling(place, arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Trains a run in `place`, the only one there.
fn trained(place: &Path) -> PathBuf {
    printed(place, &[&["train"], &SMALL[..]].concat());
    only_run(place)
}

/// Copies the files of a run, which has no directories but its checkpoints.
fn copy(run: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_run_goes_by_its_directorys_name_and_a_copy_of_it_counts_for_nothing() {
    let place = tempfile::tempdir().unwrap();
    let run = trained(place.path());
    let best = run.with_file_name("best");
    fs::rename(run, &best).unwrap();
    copy(&best, &best.with_file_name("copy"));
    let listed = printed(place.path(), &["runs", "--json"]);
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["best", "copy"]);

    // From within, with nobody left who reads what is printed: the evaluation is kept all the same.
    let mut evaluate =
        command(&best, &["evaluate", "."]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(evaluate.stdout.take());
    assert!(evaluate.wait_with_output().unwrap().status.success());
    assert!(best.join("evaluation.json").is_file());

    let compared = kindling(place.path(), &["compare", "best", "copy"]);
    assert!(compared.status.success(), "{}", text(&compared.stderr));
    let shown = text(&compared.stdout);
    let counted = &printed(place.path(), &["compare", "best", "copy", "--json"])[0];
    let expected = (&json!(1), &json!(["best"]), &json!(["copy"]));
    assert_eq!((&counted["n"], &counted["runs"], &counted["repeats"]), expected);
    assert!(shown.contains("Each seed counts once. Left out: copy (seed 42 beside best)."), "{shown}");
}

#[test]
fn composed_kernels_are_a_sweep_of_their_own_and_a_configuration_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    let sweep = |more: &[&str]| printed(place.path(), &[&["sweep"], &SMALL[..], &["--seed", "3,3"], more].concat());
    let first = sweep(&[]);
    assert_eq!(first[0]["runs"].as_array().unwrap().len(), 1, "{first}");
    let composed = sweep(&["--kernels", "composed"]);
    let path = |groups: &Value| groups[0]["runs"][0]["path"].as_str().unwrap().to_owned();
    assert_ne!(path(&first), path(&composed));
    assert_eq!(path(&sweep(&["--kernels", "composed"])), path(&composed), "the same run is not made again");
    let compare = ["compare", &path(&first), &path(&composed)];
    let both = printed(place.path(), &[&compare[..], &["--json"]].concat());
    let both = both.as_array().unwrap();
    assert!(both.len() == 2 && both[0]["label"] != both[1]["label"], "{both:?}");
    let shown = text(&kindling(place.path(), &compare).stdout);
    assert!(shown.contains("composed kernels") && shown.contains("fused "), "{shown}");
}

#[test]
fn predict_needs_no_data_set_and_inverts_what_is_unlike_the_runs_own_images() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("light");
    fs::create_dir(&data).unwrap();
    write_rows(&data, 255);
    // Dark rows on a light background.
    for split in ["train", "t10k"] {
        let path = data.join(format!("x-{split}-images-idx3-ubyte"));
        let mut file = fs::read(&path).unwrap();
        file[16..].iter_mut().for_each(|pixel| *pixel = 255 - *pixel);
        fs::write(&path, file).unwrap();
    }
    let train = ["train", "mlp", "--hidden", "8", "--dataset", "idx", "--data-dir", "light", "--epochs", "1"];
    assert!(kindling(place.path(), &train).status.success());
    let run = only_run(place.path());
    let known = record(&run).dataset.images.unwrap();
    assert_eq!((known.height, known.width, known.background), (8, 6, 255));
    fs::remove_dir_all(&data).unwrap();

    for (name, ink, paper) in [("light.png", 0, 255), ("dark.png", 255, 0)] {
        let picture = image::GrayImage::from_fn(6, 8, |_, y| image::Luma([if y == 1 { ink } else { paper }]));
        picture.save(place.path().join(name)).unwrap();
    }
    let predicted = |more: &[&str]| {
        let pictures = ["predict", run.to_str().unwrap(), "light.png", "dark.png", "--json"];
        let answers = printed(place.path(), &[&pictures[..], more].concat());
        [0, 1].map(|index| answers[index]["predictions"].clone())
    };
    let ([light, dark], [light_as_is, dark_as_is]) = (predicted(&[]), predicted(&["--as-is"]));
    assert!(light == light_as_is && dark != dark_as_is);
    assert_eq!(light, dark);
}

#[test]
fn what_cannot_be_written_is_found_out_before_anything_is_trained() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    let sweep = [&["sweep"], &SMALL[..], &["--runs-dir", "file/runs"]].concat();
    let reproduce = ["reproduce", "--only", "1.6", "--quick", "--output", "file/report"];
    for (arguments, reason) in
        [(&sweep[..], "file/runs: "), (&reproduce, "file/report cannot be written to: file is no")]
    {
        let refused = kindling(place.path(), arguments);
        let said = text(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains(reason), "{said}");
        assert!(!said.contains("backend:") && !said.contains("data:"), "{said}");
    }
}
