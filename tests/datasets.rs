//! Data sets as people have them, from their files to a trained network.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{GrayImage, Rgb, RgbImage};
use kindling_data::{ImageSet, synthetic};
use serde_json::Value;

use crate::program::{command, only_run_in, record, text};

/// Runs the program with a cache of its own, and returns standard output.
fn run(place: &Path, arguments: &[&str]) -> String {
    let output = command(place, arguments).env("KINDLING_CACHE_DIR", place.join("cache")).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(place: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(place, &[arguments, &["--json"]].concat())).unwrap()
}

/// Writes the first images of a split as IDX files, and as pictures in a directory for each class.
fn write_both(place: &Path, split: [&str; 2], set: &ImageSet, count: usize) {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let pixels: Vec<u8> = (0..count).flat_map(|index| set.image(index)).copied().collect();
    let labels: Vec<u8> = set.labels()[..count].iter().map(|&label| label as u8).collect();
    let file = |name: &str| place.join("idx").join(format!("{}-{name}", split[0]));
    fs::create_dir_all(place.join("idx")).unwrap();
    fs::write(file("images-idx3-ubyte"), [words(&[2051, count as u32, 28, 28]), pixels].concat()).unwrap();
    fs::write(file("labels-idx1-ubyte"), [words(&[2049, count as u32]), labels.clone()].concat()).unwrap();
    for (index, label) in labels.iter().enumerate() {
        let class = place.join("pictures").join(split[1]).join(label.to_string());
        fs::create_dir_all(&class).unwrap();
        let picture = GrayImage::from_raw(28, 28, set.image(index).to_vec()).unwrap();
        picture.save(class.join(format!("{index:05}.png"))).unwrap();
    }
}

#[test]
fn pictures_in_folders_train_to_the_same_file_as_the_idx_set_that_they_were_written_from() {
    let place = tempfile::tempdir().unwrap();
    let data = synthetic::draw();
    write_both(place.path(), ["train", "train"], &data.train, 400);
    write_both(place.path(), ["t10k", "test"], &data.test, 100);
    let train = |dataset: &str, directory: &str| {
        let arguments = [
            &["train", "mlp", "--hidden", "16", "--epochs", "2", "--augment", "flip,crop:padding=2,rotate,erase"][..],
            &["--dataset", dataset, "--data-dir", directory, "--runs-dir", &format!("runs of {dataset}")],
        ];
        run(place.path(), &arguments.concat());
        let trained = only_run_in(&place.path().join(format!("runs of {dataset}")));
        fs::read(trained.join("model.safetensors")).unwrap()
    };
    assert!(train("idx", "idx") == train("folder", "pictures"));
}

/// Writes 60 photographs of different sizes and formats, 48 of a red class and 12 of a green one, in one piece.
fn write_photographs(place: &Path) -> PathBuf {
    for index in 0..60_u32 {
        let (class, colour) = if index % 5 == 0 { ("green", Rgb([20, 180, 30])) } else { ("red", Rgb([200, 40, 20])) };
        let directory = place.join("photographs").join(class);
        fs::create_dir_all(&directory).unwrap();
        let picture = RgbImage::from_pixel(20 + index % 7, 15 + index % 4, colour);
        let ending = ["png", "jpg", "bmp", "webp", "tiff", "gif"][index as usize % 6];
        picture.save(directory.join(format!("{index:02}.{ending}"))).unwrap();
    }
    place.join("photographs")
}

#[test]
fn photographs_of_every_format_train_a_network_in_colour_that_knows_them() {
    let place = tempfile::tempdir().unwrap();
    let photographs = write_photographs(place.path());
    fs::write(photographs.join("red/cut.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let folder = ["--dataset", "folder", "--data-dir", "photographs", "--image-size", "16", "--skip-unreadable"];
    let train = [
        &["train", "mlp", "--hidden", "16", "--epochs", "6", "--batch-size", "8", "--normalize", "auto"][..],
        &["--class-weights", "balanced", "--sampler", "balanced", "--augment", "flip,crop,color,cutmix"],
        &folder,
    ]
    .concat();
    let printed = json(place.path(), &train);
    let counts = &printed["dataset"]["counts"];
    assert_eq!((counts["train"].to_string(), counts["test"].to_string()), ("[10,38]".to_owned(), "[1,5]".to_owned()));
    assert!(
        printed["dataset"]["skipped"][0].as_str().unwrap().contains("cut.png"),
        "{}",
        printed["dataset"]["skipped"]
    );
    let (mean, std) = (&printed["dataset"]["pixel_mean"], &printed["dataset"]["pixel_std"]);
    assert_eq!((mean.as_array().unwrap().len(), std.as_array().unwrap().len()), (3, 3));
    let runs = place.path().join("runs");
    let trained = only_run_in(&runs);
    assert_eq!(record(&trained).test.unwrap().get("accuracy"), Some(1.0));

    let id = trained.file_name().unwrap().to_str().unwrap();
    let evaluation = json(place.path(), &["evaluate", id]);
    assert_eq!((&evaluation["balanced_accuracy"], &evaluation["macro_f1"]), (&1.0.into(), &1.0.into()));
    let picture = place.path().join("new.jpg");
    RgbImage::from_pixel(300, 200, Rgb([30, 170, 40])).save(&picture).unwrap();
    let answers = json(place.path(), &["predict", id, "new.jpg", "photographs/red/01.jpg"]);
    let classes = [0, 1].map(|index: usize| answers[index]["predictions"][0]["class"].as_str().unwrap());
    assert_eq!(classes, ["green", "red"]);
    run(place.path(), &["report", id, "--output", "report"]);
    let page = fs::read_to_string(place.path().join("report/report.html")).unwrap();
    assert!(page.contains("Balanced accuracy") && page.contains("cut.png"));
    // What was decoded once is not decoded again.
    fs::remove_file(place.path().join("new.jpg")).unwrap();
    let packed = || fs::read_dir(place.path().join("cache/packed")).unwrap().map(|entry| entry.unwrap().path());
    let files = || packed().filter(|path| path.extension().unwrap() == "kindling").count();
    assert_eq!(files(), 1);
    let samples =
        [&["samples", "--augmented", "--augment", "flip,cutmix", "--output", "sheet.png"][..], &folder].concat();
    run(place.path(), &samples);
    assert_eq!(files(), 1);
}

#[test]
fn folds_are_repetitions_and_their_mean_is_told() {
    let place = tempfile::tempdir().unwrap();
    let small = ["--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "5"];
    let groups = json(place.path(), &[&["sweep", "mlp", "--folds", "3"][..], &small].concat());
    let [group] = &groups.as_array().unwrap()[..] else { panic!("{groups}") };
    assert_eq!((&group["test"]["accuracy"]["n"], group["runs"].as_array().unwrap().len()), (&3.into(), 3));
    let folds: Vec<_> = group["runs"].as_array().unwrap().iter().map(|run| run["fold"].as_u64().unwrap()).collect();
    assert_eq!(folds, [1, 2, 3]);
}

#[test]
fn weights_of_another_run_are_where_training_starts_and_frozen_layers_stay_as_they_were() {
    let place = tempfile::tempdir().unwrap();
    let small = ["--hidden", "8,6", "--dataset", "synthetic", "--epochs", "1", "--limit-batches", "5", "--json"];
    run(place.path(), &[&["train", "mlp", "--name", "first"][..], &small].concat());
    let first = only_run_in(&place.path().join("runs"));
    let id = first.file_name().unwrap().to_str().unwrap();
    let second = [&["train", "mlp", "--runs-dir", "second", "--weights"][..], &[&format!("../runs/{id}")], &small];
    // A run of another directory is named by its path.
    fs::create_dir(place.path().join("inner")).unwrap();
    let inner = place.path().join("inner");
    let output = command(&inner, &[&second.concat()[..], &["--freeze", "layers.0"]].concat()).output().unwrap();
    assert!(text(&output.stderr).contains("frozen: layers.0 (6,280 parameters)"), "{}", text(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let started = &printed["initial_weights"];
    assert_eq!((&started["taken"], started["fresh"].as_array().unwrap().len()), (&6.into(), 0));
    assert_eq!(printed["frozen"].as_array().unwrap().len(), 2);
    let second = only_run_in(&place.path().join("inner/second"));
    let tensors = [&first, &second].map(|run| fs::read(run.join("model.safetensors")).unwrap());
    let [before, after] = tensors.each_ref().map(|file| tensor(file, "layers.0.weight"));
    assert!(before == after, "a frozen layer keeps its weights");
    let [before, after] = tensors.each_ref().map(|file| tensor(file, "layers.1.weight"));
    assert!(before != after, "the others are trained");
}

/// The bytes of a tensor in a safetensors file.
fn tensor<'a>(file: &'a [u8], name: &str) -> &'a [u8] {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let [start, end] = [0, 1].map(|end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize);
    &file[8 + length..][start..end]
}
