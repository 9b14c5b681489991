//! What the program refuses, in which words, and with which exit code; and what it leaves undone then.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::program::{SHORT, VARIABLES, command, kindling, only_run, small_files, text};

/// Checks that each of the commands ends with this exit code and message, prints no result and leaves no run.
fn refused(place: &Path, code: i32, checks: &[(&[&str], &str)]) {
    for &(arguments, expected) in checks {
        let output = kindling(place, arguments);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(stderr.matches("os error").count() <= 1, "a cause is said twice: {stderr}");
    }
    assert!(!place.join("runs").exists(), "nothing is left of a run that never began");
}

#[test]
fn bad_arguments_exit_with_2_and_say_what_was_wanted() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("bad.json"), r#"{"model": "mlp", "learning-rate": 1}"#).unwrap();
    fs::write(place.path().join("bad.toml"), "network = \"mlp\"\n[training]\nepoch = 3\n").unwrap();
    fs::write(place.path().join("bad.yaml"), "model: mlp\n").unwrap();
    let checks: &[(&[&str], &str)] = &[
        (&["train", "mlp", "--backend", "tpu"], "no backend `tpu`; there are flex, ndarray, wgpu, vulkan, libtorch"),
        #[cfg(not(feature = "rocm"))]
        (&["train", "mlp", "--backend", "rocm"], "it comes with: just train rocm"),
        #[cfg(not(feature = "ndarray"))]
        (&["train", "mlp", "--backend", "ndarray"], "it comes with: just train-ndarray"),
        #[cfg(feature = "ndarray")]
        (
            &["train", "mlp", "--backend", "ndarray", "--precision", "f16"],
            "precision f16: ndarray on this device computes in f32; choose one",
        ),
        (
            &["train", "mlp", "--precision", "f16", "--optimizer", "adam"],
            "training.precision: expected f32 or bf16 with the",
        ),
        #[cfg(not(feature = "remote"))]
        (&["serve"], "this build cannot serve; one that can comes with: just serve"),
        (&["bench", "mlp", "--repeats", "0"], "--repeats: expected at least 1, found 0"),
        (&["train", "mlp", "--dataset", "idx"], "data set `idx` needs the directory of its files: --data-dir DIR"),
        (&["train", "mlp", "--dataset", "synthetic", "--data-dir", "."], "data set `synthetic` takes no --data-dir"),
        (&["train", "mlp", "--dashboard", "always"], "--dashboard always needs a terminal"),
        (&["train", "mlp", "--name", "a b"], "`a b` cannot name a run"),
        (
            &["train", "vgg"],
            "invalid value 'vgg' for '[MODEL]'\n  [possible values: mlp, mlp-deep, mlp-wide, cnn, cnn-deep, resnet, \
             resnet-8, resnet-20, resnet-32, wrn, wrn-16-4, airbench]",
        ),
        (&["train"], "`network` is missing; the command `models` lists what there is"),
        (&["train", "mlp", "--epochs", "0"], "training.epochs: expected at least 1, found 0"),
        (&["train", "mlp", "--epochs", "ten"], "--epochs ten: training.epochs: expected a whole number, found \"ten\""),
        (&["train", "mlp", "--epoch", "1"], "unexpected argument '--epoch' found"),
        (&["train", "mlp", "--kernels", "fast"], "invalid value 'fast' for '--kernels <KERNELS>'"),
        (&["resume", "mlp", "--kernels", "fast"], "[possible values: auto, composed]"),
        (&["evaluate", "mlp", "--kernels", "fast"], "[possible values: auto, composed]"),
        (&["bench", "--kernels", "auto,fast"], "[possible values: auto, composed]"),
        (&["bench", "mlp", "--tolerance", "0"], "--tolerance: expected a number above 0, found 0"),
        (&["bench", "mlp", "--pytorch-variants", "fast"], "[possible values: eager, channels_last, compiled, "),
        (&["bench", "mlp", "--optimizers", "adamax"], "adamax"),
        (
            &["train", "resnet", "--dataset", "synthetic", "--set", "depth=21"],
            "the depth of a resnet must be 6n + 2 with n from 1 to 200 (got 21)",
        ),
        (
            &["train", "airbench", "--dataset", "synthetic", "--image-size", "24"],
            "an airbench pools its images: this one needs at least 25x25 pixels (got 24x24); use an mlp or a resnet",
        ),
        (
            &["train", "resnet-8", "--dataset", "synthetic", "--optimizer", "muon"],
            "optimizer.name: expected another than `muon` for the network `resnet-8`, which has no matrix between",
        ),
        (
            &["train", "resnet-8", "--dataset", "synthetic", "--image-size", "4", "--batch-size", "1"],
            "network `resnet-8`: of an image of 4x4 pixels its last batch norms have one number in a channel",
        ),
        (
            &["train", "mlp", "--accumulate", "65"],
            "training.accumulate: expected at most the 64 images of training.batch_size, found 65",
        ),
        (&["train", "cnn", "--hidden", "8,8"], "network.hidden: expected a whole number, found [8,8]"),
        (
            &["train", "mlp", "--set", "network.channels=8"],
            "`network.channels` requires network `cnn` or `cnn-deep` (got `mlp`)",
        ),
        (
            &["train", "mlp", "--set", "network.hiden=8"],
            "--set network.hiden=8: config: unknown key `network.hiden`; did you mean `network.hidden`?",
        ),
        (&["train", "mlp", "--optimizer", "sdg"], "invalid value 'sdg' for '--optimizer <OPTIMIZER>'"),
        (&["train", "mlp", "--nesterov"], "`optimizer.nesterov` requires optimizer `momentum` (got `sgd`)"),
        (
            &["train", "mlp", "--monitor", "test/loss"],
            "protocol.monitor: expected a metric such as valid/loss with the protocol `validated`, found test/loss",
        ),
        (
            &["train", "mlp", "--dataset", "synthetic", "--monitor", "valid/f1"],
            "protocol.monitor: expected valid/loss or valid/accuracy, found valid/f1",
        ),
        (
            &["train", "mlp", "--set", "beta2=1"],
            "--set beta2=1: config: unknown key `beta2`; did you mean `optimizer.beta_2`?",
        ),
        (&["train", "--config", "bad.json"], "unknown key `learning-rate`; did you mean `optimizer.learning_rate`?"),
        (
            &["train", "--config", "bad.toml"],
            "bad.toml: config: unknown key `training.epoch`; did you mean `training.epochs`?",
        ),
        (
            &["check", "--config", "bad.yaml"],
            "error: bad.yaml: expected a config in JSON or TOML, found what looks like YAML",
        ),
        (&["samples", "--output", "a.pdf"], "error: expected a file that ends in .svg or .png, found a.pdf\n"),
        (&["predict", "mlp", "-x.png"], "to pass '-x.png' as a value, use '-- -x.png'"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    ];
    refused(place.path(), 2, checks);
}

#[test]
fn what_is_not_there_exits_with_1_and_says_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("empty")).unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    let checks: &[(&[&str], &str)] = &[
        (&["train", "mlp", "--data-dir", "empty"], "found an empty directory"),
        (&["train", "mlp", "--data-dir", "none"], "none: No such file or directory (os error 2)"),
        (&["train", "mlp", "--dataset", "synthetic", "--runs-dir", "file"], "error: file"),
        (&["train", "--config", "none.json"], "none.json cannot be read: No such file or directory (os error 2)"),
        (&["resume", "none"], "no run `none` in runs; the command `runs` lists what is there"),
    ];
    refused(place.path(), 1, checks);
}

#[test]
fn nothing_is_done_for_a_result_that_cannot_be_written() {
    let place = tempfile::tempdir().unwrap();
    for command in [&["lr-find", "mlp"][..], &["gradients", "mlp"], &["samples"]] {
        let arguments = [command, &["--dataset", "synthetic", "--output", "none/curve.svg"]].concat();
        let output = kindling(place.path(), &arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{command:?}");
        let reason = "there is no directory none; create it, or name another file";
        let expected = format!("error: none/curve.svg cannot be written: {reason}\n");
        assert_eq!(text(&output.stderr), expected, "{command:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_in_the_end_is_printed() {
    let place = tempfile::tempdir().unwrap();
    let find = ["lr-find", "mlp", "--hidden", "16", "--dataset", "synthetic", "--steps", "20"];
    let samples = ["samples", "--dataset", "synthetic"];
    for (arguments, printed) in [(&find[..], "20 steps from"), (&samples, "label")] {
        let arguments = [arguments, &["--output", "result.svg"]].concat();
        let output = small_files(place.path(), 1, &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("error: result.svg: File too large"), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(printed), "{}", text(&output.stdout));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "half a file is left");
    }
}

#[test]
fn a_burn_device_that_is_not_the_backend_is_refused_before_it_can_panic() {
    let place = tempfile::tempdir().unwrap();
    let output = command(place.path(), &SHORT).env("BURN_DEVICE", "cuda").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("BURN_DEVICE is cuda and the backend is flex"), "{}", text(&output.stderr));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let place = tempfile::tempdir().unwrap();
    let empty = VARIABLES.map(|name| (name, ""));
    let output = |arguments: &[&str]| command(place.path(), arguments).envs(empty).output().unwrap();
    let trained = output(&SHORT);
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    assert!(only_run(place.path()).join("run.json").exists());
    // Where KINDLING_DATA_DIR names no directory, the usual ones are looked at, and this one is the first of them.
    let usual = place.path().join("data/fashion-mnist");
    fs::create_dir_all(&usual).unwrap();
    for name in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        fs::write(usual.join(format!("{name}-ubyte")), "not an IDX file").unwrap();
    }
    let refused = output(&["samples"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("data/fashion-mnist/train-"), "{}", text(&refused.stderr));
}

#[test]
fn images_too_small_for_the_network_are_refused_before_a_run_is_made() {
    let place = tempfile::tempdir().unwrap();
    for split in ["train", "t10k"] {
        let words = |numbers: &[u32]| numbers.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let write = |name: &str, head: Vec<u8>, body: Vec<u8>| {
            fs::write(place.path().join(format!("{split}-{name}")), [head, body].concat()).unwrap();
        };
        write("images-idx3-ubyte", words(&[2051, 4, 3, 3]), vec![7; 36]);
        write("labels-idx1-ubyte", words(&[2049, 4]), vec![0, 1, 0, 1]);
    }
    let output = kindling(place.path(), &["train", "cnn", "--dataset", "idx", "--data-dir", "."]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("needs at least 4x4 pixels (got 3x3)"), "{}", text(&output.stderr));
    assert!(!place.path().join("runs").exists());
}

#[test]
fn a_bench_whose_pytorch_cannot_take_part_says_so_and_fails_at_its_end() {
    let place = tempfile::tempdir().unwrap();
    let python = place.path().join("python");
    let about = r#"{"torch": "2", "python": "3", "threads": 1, "device": "cpu", "tf32": false, "variants": ["eager"]}"#;
    let refusal = r#"{"ok": false, "error": "no such optimizer"}"#;
    fs::write(&python, format!("#!/bin/sh\necho '{about}'\nwhile read -r line; do echo '{refusal}'; done\n")).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let short =
        ["--batch-sizes", "4", "--modes", "infer", "--repeats", "1", "--seconds", "0.001", "--backends", "flex"];
    let output = kindling(place.path(), &[&["bench", "mlp", "--pytorch", "./python"], &short[..]].concat());
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("pytorch eager: left out: PyTorch: no such optimizer"), "{message}");
    assert!(
        message.contains("left out where it has no peer, as said above: eager at mlp, batch 4, infer, sgd"),
        "{message}"
    );
    // What was timed is not lost.
    assert!(text(&output.stdout).contains("flex"));
}
