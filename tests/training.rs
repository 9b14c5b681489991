//! What training must achieve.

use std::fs;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kindling_classification::{Classifier, init_optimizer, learning_rates};
use kindling_config::Optimizer;
use kindling_data::ImageBatch;
use kindling_models::{AirbenchConfig, ImageShape, MlpConfig, NetworkConfig, Preset, ResnetConfig, WrnConfig, presets};
use kindling_record::RunRecord;
use kindling_training::training_step;

use crate::{
    backends::{check_losses, losses},
    program::{FUSED, config, in_workspace, kindling, only_run, only_run_in, record, text},
};

/// Eight drawn shapes with eight labels that have nothing to do with them.
fn batch(device: &Device) -> ImageBatch {
    let shapes = kindling_data::synthetic::draw();
    let bytes = (0..8).flat_map(|index| shapes.train.image(index));
    let pixels: Vec<f32> = bytes.map(|&byte| f32::from(byte) / 255.0).collect();
    ImageBatch {
        images: Tensor::from_data(TensorData::new(pixels, [8, 1, 28, 28]), device),
        targets: Tensor::<1, Int>::from_data(TensorData::new((0..8).collect::<Vec<i32>>(), [8]), device),
        mixed: None,
    }
}

/// Checks that the network gets every image of [`batch`] right in the end.
fn check_overfits(name: &str, network: &impl NetworkConfig, chosen: &Optimizer) {
    let device = Device::flex().autodiff();
    let mut model = Classifier::new(network.init(ImageShape::MNIST, 1, &device).unwrap(), 0.0);
    let (mut optimizer, rates) = (init_optimizer(chosen, &model), learning_rates(chosen, &model));
    let batch = batch(&device);
    let mut accuracy = 0.0;
    for _ in 0..150 {
        let step = training_step(&model, batch.clone()).unwrap();
        // After the loss.
        accuracy = step.sums.read().unwrap().mean(1);
        model = optimizer.step(rates.scaled(1.0), model, step.gradients);
    }
    assert!((accuracy - 1.0).abs() < 1e-12, "{name} with {chosen:?}: {accuracy}");
}

#[test]
fn every_model_and_every_optimizer_overfits_one_batch() {
    let optimizer = |name: &str| config(&format!(r#"{{"network": "mlp", "optimizer": "{name}"}}"#)).optimizer;
    for (name, preset) in presets() {
        match preset {
            Preset::Mlp(network) => check_overfits(name, &network, &optimizer("sgd")),
            Preset::Cnn(network) => check_overfits(name, &network, &optimizer("sgd")),
            // Smaller ones of their kind, for the time's sake.
            Preset::Resnet(_) | Preset::Wrn(_) | Preset::Airbench(_) => {}
        }
    }
    check_overfits("resnet", &ResnetConfig { depth: 8, width: 4 }, &optimizer("sgd"));
    check_overfits("wrn", &WrnConfig { depth: 10, factor: 2, width: 4, dropout: 0.0 }, &optimizer("sgd"));
    // Its logits are scaled down, which plain SGD's usual rate is too slow for.
    let airbench = AirbenchConfig { widths: vec![8, 16, 16], ..AirbenchConfig::default() };
    check_overfits("airbench", &airbench, &optimizer("adam"));
    for name in ["momentum", "adam", "adamw", "muon"] {
        check_overfits("mlp", &MlpConfig::default(), &optimizer(name));
    }
}

/// The gate on real data: it needs Fashion-MNIST where the program finds it.
#[test]
fn an_mlp_reaches_0_76_after_one_epoch_of_fashion_mnist_in_file_order() {
    let place = tempfile::tempdir().unwrap();
    let arguments = ["train", "mlp", "--epochs", "1", "--protocol", "assignment", "--seed", "1", "--json"];
    let output = in_workspace(place.path(), &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let record: RunRecord = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((record.dataset.train, record.dataset.test), (60_000, 10_000));
    let accuracy = record.test.unwrap().get("accuracy").unwrap();
    assert!(accuracy >= 0.76, "{accuracy}");
}

#[test]
fn fused_and_composed_kernels_differ_by_rounding_alone_and_the_record_says_which() {
    for &backend in FUSED {
        let place = tempfile::tempdir().unwrap();
        let trained = |kernels: &str| {
            let arguments = [
                "train",
                "mlp",
                "--hidden",
                "32",
                "--dataset",
                "synthetic",
                "--learning-rate",
                "0.01",
                "--epochs",
                "1",
                "--limit-batches",
                "50",
                "--backend",
                backend,
                "--kernels",
                kernels,
                "--runs-dir",
                kernels,
            ];
            let output = kindling(place.path(), &arguments);
            assert!(output.status.success(), "{}", text(&output.stderr));
            only_run_in(&place.path().join(kernels))
        };
        let [fused, composed] = ["auto", "composed"].map(trained);
        assert_eq!(record(&fused).parts[0].kernels, format!("fused, {}", kindling_kernels::Level::best()));
        assert_eq!(record(&composed).parts[0].kernels, "composed");
        assert_eq!(losses(&fused).len(), 50);
        // They sum in another order, as another backend does.
        check_losses(backend, &losses(&fused), &losses(&composed));
        let weights = |run: &std::path::Path| fs::read(run.join("model.safetensors")).unwrap();
        assert!(weights(&fused) != weights(&composed), "{backend}: the same bits come of the same operations");

        // And one's weights are evaluated by the other.
        let run = fused.to_str().unwrap();
        let evaluated = kindling(place.path(), &["evaluate", run, "--kernels", "composed", "--json"]);
        assert!(evaluated.status.success(), "{}", text(&evaluated.stderr));
        let found: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
        assert_eq!(found["kernels"], "composed");
        let own = record(&fused).test.unwrap().get("accuracy").unwrap();
        // Of 1,000 images, rounding may move one across a boundary.
        assert!((found["accuracy"].as_f64().unwrap() - own).abs() <= 0.0015, "{backend}: {found}, {own}");
    }
}

#[test]
fn the_best_epoch_is_the_one_that_is_tested_and_kept() {
    let place = tempfile::tempdir().unwrap();
    // A rate this high makes the valid loss jump about, so that the last epoch is rarely the best.
    let arguments = [
        "train",
        "mlp",
        "--hidden",
        "32",
        "--dataset",
        "synthetic",
        "--epochs",
        "6",
        "--learning-rate",
        "0.9",
        "--seed",
        "3",
    ];
    assert!(kindling(place.path(), &arguments).status.success());
    let run = only_run(place.path());
    let record = record(&run);
    let losses = record.epochs.iter().map(|epoch| (epoch.epoch, epoch.get("valid/loss").unwrap()));
    let (lowest, _) = losses.min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap();
    assert_eq!(record.best_epoch, Some(lowest));
    assert!(lowest < 6, "the case tells nothing if the last epoch is the best");

    // Training just that many epochs ends with the same weights: they are the best epoch's, not the last's.
    let epochs = lowest.to_string();
    let shorter = [&arguments[..7], &[epochs.as_str()], &arguments[8..], &["--runs-dir", "b/runs"]].concat();
    assert!(kindling(place.path(), &shorter).status.success());
    let other = only_run(&place.path().join("b"));
    let bytes = |run: &std::path::Path| fs::read(run.join("model.safetensors")).unwrap();
    assert!(bytes(&run) == bytes(&other));
}

#[test]
fn early_stopping_ends_after_its_patience_and_says_why() {
    let place = tempfile::tempdir().unwrap();
    // A rate of zero never improves on the first epoch.
    let arguments = [
        "train",
        "mlp",
        "--hidden",
        "8",
        "--dataset",
        "synthetic",
        "--epochs",
        "9",
        "--limit-batches",
        "2",
        "--learning-rate",
        "0",
        "--early-stopping",
        "2",
        "--json",
    ];
    let record: RunRecord = serde_json::from_slice(&kindling(place.path(), &arguments).stdout).unwrap();
    assert_eq!(record.epochs.len(), 3);
    assert_eq!(record.best_epoch, Some(1));
    assert_eq!(record.stopped_early.as_deref(), Some("valid/loss has not improved since epoch 1 (patience 2)"));
    assert_eq!(record.status.to_string(), "finished");
}

#[test]
fn the_last_short_batch_weighs_what_it_holds() {
    let place = tempfile::tempdir().unwrap();
    let arguments =
        ["train", "mlp", "--hidden", "8", "--dataset", "synthetic", "--epochs", "1", "--batch-size", "640", "--json"];
    let record: RunRecord = serde_json::from_slice(&kindling(place.path(), &arguments).stdout).unwrap();
    let steps = kindling_record::read_steps(&only_run(place.path()).join("steps.jsonl")).unwrap();
    let images = record.dataset.train;
    let sizes: Vec<usize> = (0..steps.len()).map(|index| 640.min(images - index * 640)).collect();
    assert!(sizes.iter().sum::<usize>() == images && sizes[sizes.len() - 1] < 640);
    let sum: f64 = steps.iter().zip(&sizes).map(|(step, &size)| step.loss * size as f64).sum();
    assert!((record.epochs[0].get("train/loss").unwrap() - sum / images as f64).abs() < 1e-9);
}
