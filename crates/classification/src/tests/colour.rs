//! Runs on images in colour with uneven classes, from the seed and from other weights.

use std::{fs, sync::LazyLock};

use burn::tensor::Device;
use kindling_config::{Config, Protocol, TestTimeAugmentation};
use kindling_data::{ImageData, ImageSet, synthetic};
use kindling_record::{RunDirectory, RunStatus, TestRecord};
use kindling_training::Place;
use serde_json::{Value, json};

use super::{SHAPES, new_run, outcome, patient, place, small, stopping};
use crate::{ClassificationError, Predictor, Views, fixtures, top_k};

/// The same shapes in colour at 32x32 pixels: nine in ten of the images are of the first two classes.
static COLOURED: LazyLock<ImageData> = LazyLock::new(|| {
    let drawn = synthetic::draw();
    let coloured = |set: &ImageSet, count: usize| {
        let is_kept = |index: &usize| set.labels()[*index] < 2 || index.is_multiple_of(36);
        let kept: Vec<usize> = (0..set.count()).filter(is_kept).take(count).collect();
        let pixels = kept.iter().flat_map(|&index| {
            let image = set.image(index);
            let pixel = move |row: usize, column: usize| image.get(row * 28 + column).copied().filter(|_| column < 28);
            let place = |place: usize| pixel(place % 1024 / 32, place % 32).unwrap_or(0) / (1 + place / 1024) as u8;
            (0..3 * 1024).map(place).collect::<Vec<_>>()
        });
        let labels = kept.iter().map(|&index| set.labels()[index]).collect();
        ImageSet::new(pixels.collect(), labels, [3, 32, 32]).unwrap()
    };
    ImageData::new("coloured", drawn.classes.clone(), coloured(&drawn.train, 60), coloured(&drawn.test, 20)).unwrap()
});

/// A run on images in colour, with everything that uneven classes ask for.
fn coloured(name: &str, training: &Value) -> Config {
    let mut choice = small(name).section().keys;
    choice.insert("name".to_owned(), name.into());
    let mut all = json!({ "epochs": 2, "batch_size": 16, "label_smoothing": 0.1, "class_weights": "balanced" });
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    fixtures::config(json!({
        "network": choice, "optimizer": "adam", "training": all,
        "protocol": { "name": "validated", "folds": 3, "fold": 2 },
        "data": {
            "name": "synthetic", "normalize": "auto", "sampler": "balanced",
            "augment": ["flip", "crop", "color", "mixup"],
        },
    }))
}

#[test]
fn uneven_images_in_colour_are_trained_tested_and_predicted_with_their_own_numbers() {
    let device = Device::flex();
    for name in ["mlp", "cnn"] {
        let (place, network) = (place(), small(name));
        let directory = new_run(&place);
        let mut config = coloured(name, &json!({}));
        if let Protocol::Validated(protocol) = &mut config.protocol {
            protocol.test_time_augmentation = vec![TestTimeAugmentation::Shift, TestTimeAugmentation::Flip];
        }
        let record = network.train(&config, &COLOURED, &directory, patient()).unwrap();
        assert_eq!(record.status, RunStatus::Finished);
        assert!(record.epochs.iter().all(|epoch| epoch.metrics.0.values().all(|value| value.is_finite())));
        let images = record.dataset.images.as_ref().unwrap();
        assert_eq!((images.channels, images.height, images.width), (3, 32, 32));
        assert_eq!((record.dataset.train, record.dataset.valid, record.dataset.test), (40, 20, 20));
        // The second and third channels are a half and a third of the first.
        assert_eq!((images.pixel_mean.len(), images.pixel_std.len()), (3, 3));
        assert!(images.pixel_mean[0] > 1.9 * images.pixel_mean[1] && images.pixel_std[0] > 2.5 * images.pixel_std[2]);
        assert_eq!(images.counts.train.len(), 10);

        let test = |views: &Views| network.test(&config, &COLOURED, &directory, views, (&device, None)).unwrap();
        let (evaluation, predictions) = test(&Views::of(&config));
        assert_eq!(TestRecord::from(evaluation.clone()), *record.test.as_ref().unwrap());
        assert_eq!(record.test.as_ref().unwrap().test_time_augmentation, ["flip", "shift"]);
        assert!((top_k(&predictions, 10)[0] - evaluation.accuracy).abs() < 1e-15);
        let predictor = Predictor::open(&*network, &config, &record, &directory, (&device, None)).unwrap();
        let rows = predictor.probabilities(&COLOURED.test).unwrap();
        // The same numbers from batches of the same size.
        let confidences = rows.iter().zip(&predictions).map(|(row, it)| f64::from(row[it.predicted]));
        assert_eq!(confidences.collect::<Vec<_>>(), predictions.iter().map(|it| it.confidence).collect::<Vec<_>>());
        let (plain, predictions) = test(&Views::default());
        assert!((plain.loss - evaluation.loss).abs() > 1e-6, "{plain:?}, {evaluation:?}");
        let predictor = predictor.viewed(Views::default());
        let rows = predictor.probabilities(&COLOURED.test).unwrap();
        let confidences = rows.iter().zip(&predictions).map(|(row, it)| f64::from(row[it.predicted]));
        assert_eq!(confidences.collect::<Vec<_>>(), predictions.iter().map(|it| it.confidence).collect::<Vec<_>>());
        let grey = predictor.probabilities(&SHAPES.test).unwrap_err();
        assert!(matches!(grey, ClassificationError::Data(_)), "{grey}");

        // What the file says beside the tensors.
        let bytes = fs::read(directory.weights()).unwrap();
        let entry = |key: &str| header(&bytes).0["__metadata__"][key].as_str().unwrap_or_default().to_owned();
        assert_eq!([entry("channels"), entry("height"), entry("width")], ["3", "32", "32"]);
        assert_eq!(serde_json::from_str::<Vec<f64>>(&entry("pixel_std")).unwrap(), images.pixel_std);
    }
}

/// The bytes of a tensor in a safetensors file.
pub(super) fn tensor<'a>(file: &'a [u8], name: &str) -> &'a [u8] {
    let (header, tensors) = header(file);
    let offset = |end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    &tensors[offset(0)..offset(1)]
}

/// The header of a safetensors file, and what follows it.
fn header(file: &[u8]) -> (Value, &[u8]) {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (serde_json::from_slice(header).unwrap(), tensors)
}

#[test]
fn a_run_from_other_weights_with_frozen_layers_keeps_these_and_resumes_to_the_same_bits() {
    let (place, cnn) = (place(), small("cnn"));
    let first = RunDirectory::create(place.path(), "first").unwrap();
    cnn.train(&coloured("cnn", &json!({})), &COLOURED, &first, patient()).unwrap();
    // Two classes fewer make the last layer another.
    let eight = COLOURED.train.labels().iter().enumerate().filter(|(_, label)| **label < 8).map(|(index, _)| index);
    let eight = COLOURED.train.select(&eight.collect::<Vec<_>>());
    let data = ImageData::new("eight", COLOURED.classes[..8].to_vec(), eight.clone(), eight).unwrap();
    let weights = first.weights().display().to_string();
    let config = coloured("cnn", &json!({ "weights": weights, "freeze": ["conv*", "bn1"], "seed": 7 }));

    let whole = RunDirectory::create(place.path(), "whole").unwrap();
    let record = cnn.train(&config, &data, &whole, patient()).unwrap();
    let initial = record.initial_weights.unwrap();
    assert_eq!((initial.source.as_str(), initial.sha256.len()), (weights.as_str(), 64));
    assert!(initial.fresh.iter().any(|name| name.starts_with("fc2.weight")), "{:?}", initial.fresh);
    assert_eq!(initial.unused, [""; 0]);
    assert_eq!(record.frozen, ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "conv2.weight", "conv2.bias"]);
    let [before, after] = [&first, &whole].map(|directory| fs::read(directory.weights()).unwrap());
    for name in ["conv1.weight", "conv2.bias", "bn1.weight", "bn1.running_mean", "bn1.running_var"] {
        assert!(tensor(&before, name) == tensor(&after, name), "{name} is frozen");
    }
    for name in ["bn2.weight", "bn2.running_mean", "fc1.weight"] {
        assert!(tensor(&before, name) != tensor(&after, name), "{name} is trained");
    }

    for stop in [1, 2, 3] {
        let directory = RunDirectory::create(place.path(), &format!("stopped-{stop}")).unwrap();
        cnn.train(&config, &data, &directory, stopping(stop)).unwrap();
        cnn.resume(&config, &data, &directory, patient()).unwrap();
        assert!(outcome(&directory) == outcome(&whole), "stopped after {stop} batches");
    }
}

#[test]
fn what_does_not_fit_the_network_or_the_data_is_refused_before_anything_is_written() {
    let (place, cnn) = (place(), small("cnn"));
    let directory = new_run(&place);
    let fails = |training: Value| {
        let config = coloured("cnn", &training);
        let check = cnn.check(&config, &COLOURED, &Place::new(Device::flex())).unwrap_err().to_string();
        let train = cnn.train(&config, &COLOURED, &directory, patient()).unwrap_err().to_string();
        assert_eq!(check, train);
        assert!(directory.is_new());
        check
    };
    let message = fails(json!({ "freeze": ["conv7"] }));
    assert!(message.contains("conv7") && message.contains("fc2"), "{message}");
    let message = fails(json!({ "class_weights": [1.0, 2.0] }));
    assert!(message.contains("each of the 10 classes"), "{message}");
    let message = fails(json!({ "weights": "nowhere.safetensors" }));
    assert!(message.contains("nowhere.safetensors"), "{message}");

    // Of eight classes: the last layer is another.
    let eight = RunDirectory::create(place.path(), "eight").unwrap();
    let few = COLOURED.train.labels().iter().enumerate().filter(|(_, label)| **label < 8).map(|(index, _)| index);
    let few = COLOURED.train.select(&few.collect::<Vec<_>>());
    let few = ImageData::new("eight", COLOURED.classes[..8].to_vec(), few.clone(), few).unwrap();
    cnn.train(&coloured("cnn", &json!({})), &few, &eight, patient()).unwrap();
    let weights = eight.weights().display().to_string();
    let message = fails(json!({ "weights": weights, "freeze": ["conv1", "fc2"] }));
    assert!(message.starts_with("freeze: `fc2.weight` is frozen but not taken from the weights ("), "{message}");
    assert!(message.contains("and neither are `fc2.bias`; leave it out of"), "{message}");
}
