//! Kindling's networks against PyTorch's numbers: `assets/golden`, made by the script there.

use std::{fs, path::PathBuf};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
    train::TrainStep,
};
use kindling_data::ImageBatch;
use kindling_models::{CnnConfig, ImageShape, MlpConfig, Network, NetworkConfig};
use kindling_training::{Classifier, ExperimentConfig, LearningRates, Settings, clip_by_global_norm, init_optimizer};
use serde_json::Value;

/// Relative to the largest number of a tensor: f32 sums of a few hundred terms in another order than PyTorch's.
const TOLERANCE: f64 = 1e-4;
/// What 20 steps make of that: each goes on with the rounding of the last, and batch norms over 36 numbers enlarge it.
const TOLERANCE_AFTER_TRAINING: f64 = 1e-3;
/// Tensors with nothing larger than this are compared absolutely.
const SMALLEST_SCALE: f64 = 1e-3;

struct Golden {
    document: Value,
    network: Network,
    device: Device,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/golden").join(name)
}

/// A device of every backend of the build that needs no server; one that finds no device fails the tests.
#[allow(deprecated)] // ndarray and libtorch: see the program's backends
pub(crate) fn devices() -> Vec<(&'static str, Device)> {
    vec![
        #[cfg(feature = "flex")]
        ("flex", Device::flex()),
        #[cfg(feature = "ndarray")]
        ("ndarray", Device::ndarray()),
        #[cfg(feature = "wgpu")]
        ("wgpu", Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "libtorch")]
        ("libtorch", Device::libtorch()),
    ]
}

impl Golden {
    fn load(name: &str, device: &Device) -> Self {
        let document: Value =
            serde_json::from_str(&fs::read_to_string(path(&format!("{name}.json"))).unwrap()).unwrap();
        let side = |key: &str| usize::try_from(document["shape"][key].as_u64().unwrap()).unwrap();
        let shape = ImageShape { height: side("height"), width: side("width"), classes: side("classes") };
        let config = match name {
            "mlp" => NetworkConfig::Mlp(MlpConfig { hidden: vec![7, 5] }),
            "cnn" => NetworkConfig::Cnn(CnnConfig { channels: vec![3, 5], hidden: 6 }),
            _ => NetworkConfig::Cnn(CnnConfig { channels: vec![3, 5, 4], hidden: 6 }),
        };
        let weights = fs::read(path(&format!("{name}.start.safetensors"))).unwrap();
        let network = config.init(shape, 0, &device.clone().autodiff()).unwrap().with_safetensors(weights).unwrap();
        Self { document, network, device: device.clone() }
    }

    fn numbers(&self, key: &str) -> Vec<f64> {
        numbers(&self.document[key])
    }

    /// The batches in order, for training.
    fn batches(&self) -> Vec<ImageBatch> {
        let size = |key: &str| usize::try_from(self.document["shape"][key].as_u64().unwrap()).unwrap();
        let (batch, height, width) = (size("batch"), size("height"), size("width"));
        let device = self.device.clone().autodiff();
        let pixels: Vec<f32> = self.numbers("images").iter().map(|&byte| byte as f32 / 255.0).collect();
        let targets: Vec<i32> = self.numbers("targets").iter().map(|&target| target as i32).collect();
        pixels
            .chunks(batch * height * width)
            .zip(targets.chunks(batch))
            .map(|(pixels, targets)| ImageBatch {
                images: Tensor::from_data(TensorData::new(pixels.to_vec(), [batch, 1, height, width]), &device),
                targets: Tensor::<1, Int>::from_data(TensorData::new(targets.to_vec(), [batch]), &device),
                whole: batch,
            })
            .collect()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn check(what: &str, found: &[f64], expected: &[f64]) {
    check_within(TOLERANCE, what, found, expected);
}

fn check_within(tolerance: f64, what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(SMALLEST_SCALE, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= tolerance, "{what}[{index}]: {found} is not {expected} (error {error:.1e} of {scale})");
    }
}

/// Losses of `config`'s optimizer on the golden batches, from the golden weights.
fn losses(golden: &Golden, config: &ExperimentConfig) -> (Vec<f64>, Classifier) {
    let mut model = Classifier::new(golden.network.clone(), config.label_smoothing);
    let mut optimizer = init_optimizer(config, &model);
    let rates = LearningRates::new(config, &model).scaled(1.0);
    let mut losses = Vec::new();
    for batch in golden.batches() {
        let output = TrainStep::step(&model, batch);
        losses.push(output.item.read().unwrap().loss());
        let gradients = match config.clip_norm {
            Some(limit) => clip_by_global_norm(&model, output.grads, limit),
            None => output.grads,
        };
        model = optimizer.step(rates.clone(), model, gradients);
    }
    (losses, model)
}

fn sgd() -> ExperimentConfig {
    Settings::from_json(r#"{"model": "mlp"}"#).unwrap().resolve().unwrap()
}

#[test]
fn logits_are_pytorchs_in_training_and_in_evaluation_mode() {
    for (backend, device) in devices() {
        for name in ["mlp", "cnn", "cnn-deep"] {
            let golden = Golden::load(name, &device);
            let images = golden.batches().remove(0).images;
            let what = format!("{name} on {backend}");
            // Evaluation first: a forward pass in training mode moves the running statistics.
            let evaluated = golden.network.valid().forward(images.clone().inner());
            check(&what, &values(evaluated), &golden.numbers("logits_evaluation"));
            check(&what, &values(golden.network.forward(images)), &golden.numbers("logits_train"));
        }
    }
}

#[test]
fn gradients_are_pytorchs_for_every_parameter() {
    struct Check<'a> {
        golden: &'a Golden,
        backend: &'a str,
        gradients: &'a GradientsParams,
        path: Vec<String>,
        checked: usize,
    }
    impl ModuleVisitor for Check<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
            // Without the names of the wrapper and the variant, and with PyTorch's for batch norm.
            let name = self.path[2..].join(".").replace("gamma", "weight");
            let name = name.replace("beta", "bias");
            let is_linear = D == 2;
            let gradient = if is_linear { values(gradient.swap_dims(0, 1)) } else { values(gradient) };
            let what = format!("{name} on {}", self.backend);
            let expected = |name: &str| numbers(&self.golden.document["gradients"][name]);
            if name.starts_with("conv") && name.ends_with("bias") {
                // Zero in exact arithmetic, since batch norm follows: PyTorch's numbers are rounding, as ours may be, of sums
                // whose terms are as large as the weight's gradients.
                let scale = expected(&name.replace("bias", "weight")).into_iter().fold(0.0, |a: f64, b| a.max(b.abs()));
                let largest = gradient.iter().chain(&expected(&name)).fold(0.0, |a: f64, b| a.max(b.abs()));
                assert!(largest <= TOLERANCE * scale, "{what}: {largest} is not zero beside {scale}");
            } else {
                check(&what, &gradient, &expected(&name));
            }
            self.checked += 1;
        }
    }
    for (backend, device) in devices() {
        for (name, count) in [("mlp", 6), ("cnn", 12), ("cnn-deep", 16)] {
            let golden = Golden::load(name, &device);
            let model = Classifier::new(golden.network.clone(), 0.0);
            let output = TrainStep::step(&model, golden.batches().remove(0));
            let path = Vec::new();
            let mut visitor = Check { golden: &golden, backend, gradients: &output.grads, path, checked: 0 };
            model.visit(&mut visitor);
            assert_eq!(visitor.checked, count, "{name} on {backend}");
        }
    }
}

#[test]
fn twenty_steps_of_sgd_follow_pytorchs_losses_and_end_at_its_logits() {
    for (backend, device) in devices() {
        for name in ["mlp", "cnn", "cnn-deep"] {
            let golden = Golden::load(name, &device);
            let what = format!("{name} on {backend}");
            let (losses, model) = losses(&golden, &sgd());
            check(&what, &losses, &golden.numbers("losses"));
            let images = golden.batches().remove(0).images.inner();
            let logits = values(model.network.valid().forward(images));
            let expected = golden.numbers("logits_evaluation_after_training");
            check_within(TOLERANCE_AFTER_TRAINING, &what, &logits, &expected);
        }
    }
}

#[test]
fn batch_norms_running_statistics_are_pytorchs() {
    for (backend, device) in devices() {
        for (name, statistics) in [("cnn", 4), ("cnn-deep", 6)] {
            let golden = Golden::load(name, &device);
            let (_, model) = losses(&golden, &sgd());
            let bytes = model.network.valid().to_safetensors().unwrap();
            let reference = golden.document["running"].as_object().unwrap();
            assert_eq!(reference.len(), statistics);
            for (tensor, expected) in reference {
                let what = format!("{tensor} of {name} on {backend}");
                check_within(TOLERANCE_AFTER_TRAINING, &what, &tensor_of(&bytes, tensor), &numbers(expected));
            }
        }
    }
}

fn tensor_of(bytes: &[u8], name: &str) -> Vec<f64> {
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let document: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset =
        |index: usize| 8 + header + usize::try_from(document[name]["data_offsets"][index].as_u64().unwrap()).unwrap();
    bytes[offset(0)..offset(1)]
        .chunks_exact(4)
        .map(|word| f64::from(f32::from_le_bytes(word.try_into().unwrap())))
        .collect()
}

#[test]
fn optimizers_smoothing_and_clipping_follow_pytorchs_losses() {
    let document: Value = serde_json::from_str(&fs::read_to_string(path("variants.json")).unwrap()).unwrap();
    let variants = document["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 9);
    for (backend, device) in devices() {
        let golden = Golden::load("mlp", &device);
        for variant in variants {
            let config = Settings::from_json(variant["config"].to_string()).unwrap().resolve().unwrap();
            let (losses, _) = losses(&golden, &config);
            check(&format!("{} on {backend}", variant["config"]), &losses, &numbers(&variant["losses"]));
        }
    }
}
