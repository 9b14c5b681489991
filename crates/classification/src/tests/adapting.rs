//! Networks that adapt to the first training images.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::{
    module::{Initializer, Module},
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use kindling_models::{AirbenchConfig, ImageShape, ModelError, Network, NetworkConfig, Whitening};
use kindling_record::{RunDirectory, RunStatus};
use kindling_training::weights;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{SHAPES, colour::tensor, config, new_run, outcome, patient, place, stopping};
use crate::{
    LearningRateRange, fixtures, lr_range,
    network::network,
    run::{Start, fresh, fresh_for, initial},
    splits::{image_shape, splits},
};

/// A linear layer that begins with ten training images for its weights.
#[derive(Clone, Serialize, Deserialize)]
struct TemplatesConfig {
    wanted: usize,
}

#[derive(Module, Debug)]
struct Templates {
    classify: Linear,
}

impl Network for Templates {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.classify.forward(images.flatten(1, 3))
    }
}

/// How often a network that wants this many images adapted: one number for each test.
static ADAPTED: [AtomicUsize; 13] = [const { AtomicUsize::new(0) }; 13];

impl NetworkConfig for TemplatesConfig {
    type Network = Templates;

    fn init(&self, shape: ImageShape, _seed: u64, device: &Device) -> Result<Templates, ModelError> {
        let pixels = shape.channels * shape.height * shape.width;
        // Nothing is drawn: other tests draw from Burn's generator meanwhile.
        let classify = LinearConfig::new(pixels, shape.classes).with_initializer(Initializer::Zeros);
        Ok(Templates { classify: classify.init(device) })
    }

    fn sample(&self, _shape: ImageShape) -> usize {
        self.wanted
    }

    fn adapt(&self, mut network: Templates, images: Tensor<4>) -> Result<Templates, ModelError> {
        if images.dims()[0] != self.wanted {
            return Err(ModelError::Invalid(format!("expected {} images (got {})", self.wanted, images.dims()[0])));
        }
        ADAPTED[self.wanted.min(12)].fetch_add(1, Ordering::Relaxed);
        let templates = images.narrow(0, 0, 10).flatten::<2>(1, 3).transpose(); // [pixels, classes]
        network.classify.weight = network.classify.weight.map(|_| templates);
        Ok(network)
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn a_network_adapts_to_the_first_images_of_the_training_split_normalized_and_in_the_files_order() {
    let mut config = config("mlp", "sgd", "constant", "validated", &["flip", "shift", "mixup"], json!({}));
    (config.data.pixel_mean, config.data.pixel_std) = (vec![0.25], vec![0.5]);
    let train = splits(&config, &SHAPES).unwrap().train;
    let expected: Vec<f32> = (0..10).flat_map(|index| train.image(index)).map(|&byte| f32::from(byte)).collect();
    for device in [Device::flex(), Device::flex().autodiff()] {
        let model = fresh(&TemplatesConfig { wanted: 10 }, &config, &SHAPES, &train, &device).unwrap();
        let weight = model.network.classify.weight.val();
        assert_eq!(weight.device().is_autodiff(), device.is_autodiff());
        let found = floats(weight.transpose());
        // A pixel is divided by 255 and normalized, each rounded once.
        let is_near = |(found, byte): (&f32, &f32)| (found - (byte / 255.0 - 0.25) / 0.5).abs() < 1e-6;
        assert!(found.len() == 1000 && found.iter().zip(&expected).all(is_near));
        assert_eq!(model.network.classify.weight.is_require_grad(), device.is_autodiff());
    }
    // Where there are fewer images, it gets all; what it does not take is an error.
    let error = fresh(&TemplatesConfig { wanted: 500 }, &config, &SHAPES, &train, &Device::flex()).err().unwrap();
    assert_eq!(error.to_string(), format!("expected 500 images (got {})", train.count()));
}

#[test]
fn a_network_adapts_once_in_a_new_run_and_never_in_a_resumed_one() {
    let (place, templates) = (place(), network("templates", &TemplatesConfig { wanted: 11 }));
    let mut config = config("mlp", "adam", "constant", "validated", &["flip"], json!({}));
    (config.network.name, config.network.keys) = ("templates".to_owned(), templates.section().keys);
    let count = || ADAPTED[11].load(Ordering::Relaxed);
    let directory = new_run(&place);
    assert_eq!(count(), 0);
    templates.train(&config, &SHAPES, &directory, stopping(4)).unwrap();
    assert_eq!(count(), 1);
    assert_eq!(templates.resume(&config, &SHAPES, &directory, patient()).unwrap().status, RunStatus::Finished);
    assert_eq!(count(), 1);
    let whole = RunDirectory::create(place.path(), "whole").unwrap();
    templates.train(&config, &SHAPES, &whole, patient()).unwrap();
    assert_eq!(count(), 2);
    assert!(outcome(&directory) == outcome(&whole));
    // The range test begins as a run does.
    let range = LearningRateRange { start: 1e-4, end: 1.0, steps: 20 };
    lr_range::lr_range_test(&TemplatesConfig { wanted: 11 }, &config, &SHAPES, (&Device::flex(), None), range).unwrap();
    assert_eq!(count(), 3);
}

#[test]
fn weights_to_start_from_replace_what_a_network_adapted() {
    let (place, device) = (place(), Device::flex().autodiff());
    let config = config("mlp", "sgd", "constant", "validated", &[], json!({}));
    let (templates, train) = (TemplatesConfig { wanted: 12 }, splits(&config, &SHAPES).unwrap().train);
    let path = place.path().join("weights.safetensors");
    let other = fresh_for(&templates, &config, image_shape(&SHAPES), &device).unwrap().network;
    std::fs::write(&path, weights::write(&other.clone().valid(), "").unwrap()).unwrap();
    let start = |start| initial(&templates, &config, &SHAPES, &train, start, &device).unwrap().0.network;
    let weight = |templates: Templates| floats(templates.classify.weight.val());
    assert!(weight(start(Start::New(None))) != weight(other.clone()));
    assert_eq!(weight(start(Start::New(path.to_str()))), weight(other));
}

#[test]
fn a_whitened_airbench_keeps_its_filters_in_training_and_when_it_is_resumed() {
    let airbench = AirbenchConfig {
        whitening: Whitening::Images,
        whitening_size: 3,
        widths: vec![3],
        ..AirbenchConfig::default()
    };
    let (place, any) = (place(), network("airbench", &airbench));
    let mut config = fixtures::config(json!({
        "network": "mlp", "optimizer": "adam", "protocol": "validated",
        "data": { "name": "synthetic", "augment": ["shift"] },
        "training": { "epochs": 2, "batch_size": 8, "limit_batches": 3, "ema_decay": 0.5 },
    }));
    (config.network.name, config.network.keys) = ("airbench".to_owned(), any.section().keys);
    let [stopped, whole] = ["stopped", "whole"].map(|name| RunDirectory::create(place.path(), name).unwrap());
    any.train(&config, &SHAPES, &stopped, stopping(4)).unwrap();
    any.resume(&config, &SHAPES, &stopped, patient()).unwrap();
    any.train(&config, &SHAPES, &whole, patient()).unwrap();
    assert!(outcome(&stopped) == outcome(&whole));

    let device = Device::flex();
    let filters = |network| tensor(&weights::write(&network, "").unwrap(), "whiten.weight").to_vec();
    let train = splits(&config, &SHAPES).unwrap().train;
    let begun = filters(fresh(&airbench, &config, &SHAPES, &train, &device).unwrap().network);
    let cosines = filters(fresh_for(&airbench, &config, image_shape(&SHAPES), &device).unwrap().network);
    let trained = crate::run::trained(&airbench, &config, image_shape(&SHAPES), &whole, &device).unwrap();
    assert!(begun == filters(trained) && begun != cosines);
}
