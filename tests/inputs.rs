//! Data sets as people have them: how files are named, packed and encoded, and what is in their place.

use std::{fs, path::Path};

use kindling_record::RunRecord;

use crate::program::{kindling, text, write_rows};

/// The labels 1, 2, 3, 1, ... of 60 images: an IDX file in two members of gzip, cut within the header.
const GZIPPED_LABELS: [&[u8]; 2] = [
    b"\x1f\x8b\x08\0\0\0\0\0\x02\x03c`\xe0`d`\0\0{\xe3\xb4u\x06\0\0\0",
    b"\x1f\x8b\x08\0\0\0\0\0\x02\x03c\xb0adb&\x1b\x01\0`\r\xf1\xf5>\0\0\0",
];

const TRAIN: [&str; 10] =
    ["train", "mlp", "--hidden", "4", "--epochs", "1", "--dataset", "idx", "--json", "--data-dir"];

fn move_file(place: &Path, from: &str, to: &str) {
    fs::create_dir_all(place.join(to).parent().unwrap()).unwrap();
    fs::rename(place.join(from), place.join(to)).unwrap();
}

#[test]
fn a_set_with_names_packing_and_encoding_of_its_own_is_trained_on() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path();
    write_rows(path, 255);
    for split in ["train", "t10k"] {
        fs::remove_file(path.join(format!("x-{split}-labels-idx1-ubyte"))).unwrap();
    }
    move_file(path, "x-train-images-idx3-ubyte", "X-Train-Images.IDX3-ubyte.GZ");
    move_file(path, "x-t10k-images-idx3-ubyte", "x-test-images.idx3-ubyte/x-test-images.idx3-ubyte");
    fs::write(path.join("x-train-labels.idx1-ubyte"), GZIPPED_LABELS.concat()).unwrap();
    fs::write(path.join("x_t10k_labels.gz"), [GZIPPED_LABELS[0], GZIPPED_LABELS[1], &[0; 512]].concat()).unwrap();
    fs::write(path.join("classes.txt"), "\u{feff}\r\ntop\r\nmiddle\r\nbottom\r\n").unwrap();
    let output = kindling(path, &[&TRAIN[..], &["."]].concat());
    let stderr = text(&output.stderr);
    assert!(output.status.success() && !stderr.contains("warning"), "{stderr}");
    let record: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record.dataset.classes(), ["0", "top", "middle", "bottom"]);
}

#[test]
fn labels_that_cannot_be_learned_are_told_once_each() {
    let place = tempfile::tempdir().unwrap();
    write_rows(place.path(), 255);
    let labels = [&[0_u8, 0, 8, 1, 0, 0, 0, 60][..], &[1; 60]].concat();
    fs::write(place.path().join("x-train-labels-idx1-ubyte"), labels).unwrap();
    let output = kindling(place.path(), &[&TRAIN[..], &["."]].concat());
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let warnings: Vec<_> = stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    let [one, only] = warnings[..] else { panic!("{stderr}") };
    assert!(one.contains("the training images have one class, `1`"), "{one}");
    assert!(only.contains("only test images (40) have the classes `0`, `2`"), "{only}");
}

#[test]
fn what_is_no_set_in_idx_format_is_refused_by_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("csv/mnist_train.csv", b"5,0,0,0\n");
    write("pictures/train/cat/1.png", b"");
    write("page/train-images-idx3-ubyte.gz", b"<!DOCTYPE html><title>Not found</title>");
    write("page/train-labels-idx1-ubyte.gz", b"");
    write("latin/classes.txt", b"caf\xe9\nth\xe9\nlait\n");
    write_rows(&place.path().join("latin"), 255);
    let checks = [
        ("csv", "found CSV files such as mnist_train.csv; --dataset csv reads CSV files"),
        ("pictures", "found folders of pictures such as train/cat/1.png; --dataset folder reads pictures"),
        ("csv/mnist_train.csv", "expected the directory of the data set's files, found a file (text such as CSV)"),
        ("page", "train-images-idx3-ubyte.gz: expected images in IDX format (magic number 2051), found an HTML or XML"),
        ("latin", "classes.txt: line 1 is not text in UTF-8"),
    ];
    for (directory, expected) in checks {
        let output = kindling(place.path(), &[&TRAIN[..], &[directory]].concat());
        let stderr = text(&output.stderr);
        assert!(stderr.matches(expected).count() == 1, "{directory}: {stderr}");
        assert!(stderr.matches("UTF-8").count() <= 1, "{directory}: {stderr}");
        assert_eq!(output.status.code(), Some(1), "{directory}: {stderr}");
    }
    assert!(!place.path().join("runs").exists(), "nothing is left of a run that never began");
}
