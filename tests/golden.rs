//! Kindling's networks against PyTorch's numbers: `assets/golden`, made by the script there.

use std::{collections::HashMap, fs, path::PathBuf};

use burn::{
    module::{ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};
use kindling_classification::{Classifier, init_optimizer, learning_rates};
use kindling_config::{Config, Partial};
use kindling_data::ImageBatch;
use kindling_models::{
    AirbenchConfig, CnnConfig, ImageShape, MlpConfig, Network, NetworkConfig, ResnetConfig, WrnConfig,
};
use kindling_training::{clip_by_global_norm, named_parameters, training_step, weights};
use kindling_workbench::Workbench;
use serde_json::Value;

/// Relative to the largest number of a tensor: f32 sums of a few hundred terms in another order than PyTorch's.
const TOLERANCE: f64 = 1e-4;
/// What 20 steps make of that: each goes on with the rounding of the last, and batch norms over 36 numbers enlarge it.
const TOLERANCE_AFTER_TRAINING: f64 = 1e-3;
/// Tensors with nothing larger than this are compared absolutely.
const SMALLEST_SCALE: f64 = 1e-3;

struct Golden<N> {
    document: Value,
    network: N,
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

/// Calls `$check` with each of the networks on each of the devices. What they are called begins with the file's name.
macro_rules! check_all {
    ($check:ident) => {
        for (backend, device) in devices() {
            let what = |name: &str| format!("{name} on {backend}");
            $check(&what("mlp"), &Golden::load("mlp", &MlpConfig { hidden: vec![7, 5] }, &device));
            for (name, channels) in [("cnn", vec![3, 5]), ("cnn-deep", vec![3, 5, 4])] {
                $check(&what(name), &Golden::load(name, &CnnConfig { channels, hidden: 6 }, &device));
            }
            // Every shape is another kernel to compile, by a software driver for seconds: there one residual network has to do.
            let compiles = backend == "wgpu";
            for (name, depth, width) in [("resnet", 8, 4), ("resnet-colour", 14, 3)].into_iter().take(2 - usize::from(compiles)) {
                $check(&what(name), &Golden::load(name, &ResnetConfig { depth, width }, &device));
            }
            if compiles {
                continue;
            }
            for (name, depth, factor, width) in [("wrn", 10, 2, 2), ("wrn-narrow", 16, 1, 3)] {
                let wrn = WrnConfig { depth, dropout: 0.0, factor, width };
                $check(&what(name), &Golden::load(name, &wrn, &device));
            }
            let airbench = AirbenchConfig { widths: vec![5, 6], ..AirbenchConfig::default() };
            $check(&what("airbench"), &Golden::load("airbench", &airbench, &device));
        }
    };
}

impl<N: Network> Golden<N> {
    fn load(name: &str, config: &impl NetworkConfig<Network = N>, device: &Device) -> Self {
        let document: Value =
            serde_json::from_str(&fs::read_to_string(path(&format!("{name}.json"))).unwrap()).unwrap();
        let size = |key: &str| usize::try_from(document["shape"][key].as_u64().unwrap()).unwrap();
        let [channels, height, width, classes] = ["channels", "height", "width", "classes"].map(size);
        let shape = ImageShape { channels, height, width, classes };
        let network = config.init(shape, 0, &device.clone().autodiff()).unwrap();
        let start = fs::read(path(&format!("{name}.start.safetensors"))).unwrap();
        Self { network: weights::read(network, "", start).unwrap(), document, device: device.clone() }
    }

    fn numbers(&self, key: &str) -> Vec<f64> {
        numbers(&self.document[key])
    }

    /// The batches of all steps in order, for training.
    fn batches(&self) -> Vec<ImageBatch> {
        let size = |key: &str| usize::try_from(self.document["shape"][key].as_u64().unwrap()).unwrap();
        let [batch, channels, height, width] = ["batch", "channels", "height", "width"].map(size);
        let device = self.device.clone().autodiff();
        let pixels: Vec<f32> = self.numbers("images").iter().map(|&byte| byte as f32 / 255.0).collect();
        let targets: Vec<i32> = self.numbers("targets").iter().map(|&target| target as i32).collect();
        pixels
            .chunks(batch * channels * height * width)
            .zip(targets.chunks(batch))
            .cycle()
            .take(size("steps"))
            .map(|(pixels, targets)| ImageBatch {
                images: Tensor::from_data(TensorData::new(pixels.to_vec(), [batch, channels, height, width]), &device),
                targets: Tensor::<1, Int>::from_data(TensorData::new(targets.to_vec(), [batch]), &device),
                mixed: None,
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
fn losses<N: Network>(golden: &Golden<N>, config: &Config) -> (Vec<f64>, Classifier<N>) {
    let mut model = Classifier::new(golden.network.clone(), config.training.label_smoothing);
    let mut optimizer = init_optimizer(&config.optimizer, &model);
    let rates = learning_rates(&config.optimizer, &model).scaled(1.0);
    let mut losses = Vec::new();
    for batch in golden.batches() {
        let step = training_step(&model, batch).unwrap();
        losses.push(step.sums.read().unwrap().loss());
        let gradients = match config.training.clip_norm {
            Some(limit) => clip_by_global_norm(&model, step.gradients, limit),
            None => step.gradients,
        };
        model = optimizer.step(rates.clone(), model, gradients);
    }
    (losses, model)
}

/// The config that keys without their sections describe.
fn config(keys: &Value) -> Config {
    let mut partial = Partial::default();
    for (key, value) in keys.as_object().unwrap() {
        partial.set(key, value.clone());
    }
    partial.resolve(&Workbench::new("kindling").registry()).unwrap()
}

fn sgd() -> Config {
    config(&serde_json::json!({ "network": "mlp" }))
}

#[test]
fn logits_are_pytorchs_in_training_and_in_evaluation_mode() {
    fn check_logits<N: Network>(what: &str, golden: &Golden<N>) {
        let images = golden.batches().remove(0).images;
        // Evaluation first: a forward pass in training mode moves the running statistics.
        let evaluated = golden.network.valid().forward(images.clone().inner());
        check(what, &values(evaluated), &golden.numbers("logits_evaluation"));
        check(what, &values(golden.network.forward(images)), &golden.numbers("logits_train"));
    }
    check_all!(check_logits);
}

/// Compares gradients with the golden ones of these names.
struct Gradients<'a> {
    what: &'a str,
    expected: &'a Value,
    found: &'a GradientsParams,
    names: HashMap<ParamId, String>,
    checked: usize,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.found.get::<D>(param.id) else { return };
        let name = &self.names[&param.id];
        let is_linear = D == 2;
        let gradient = if is_linear { values(gradient.swap_dims(0, 1)) } else { values(gradient) };
        let what = format!("{name} of {}", self.what);
        let expected = |name: &str| numbers(&self.expected[name]);
        if name.starts_with("conv") && name.ends_with("bias") {
            // Zero in exact arithmetic, since batch norm follows: PyTorch's numbers are rounding, as ours may be, of
            // sums whose terms are as large as the weight's gradients.
            let scale = expected(&name.replace("bias", "weight")).into_iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let largest = gradient.iter().chain(&expected(name)).fold(0.0, |a: f64, b| a.max(b.abs()));
            assert!(largest <= TOLERANCE * scale, "{what}: {largest} is not zero beside {scale}");
        } else {
            check(&what, &gradient, &expected(name));
        }
        self.checked += 1;
    }
}

#[test]
fn gradients_are_pytorchs_for_every_parameter() {
    fn check_gradients<N: Network>(what: &str, golden: &Golden<N>) {
        let model = Classifier::new(golden.network.clone(), 0.0);
        let step = training_step(&model, golden.batches().remove(0)).unwrap();
        // With PyTorch's names for batch norm.
        let name = |path: String| path.replace("gamma", "weight").replace("beta", "bias");
        let parameters = named_parameters(&model.network).into_iter();
        let names = parameters.map(|parameter| (parameter.id, name(parameter.path))).collect();
        let expected = &golden.document["gradients"];
        let mut gradients = Gradients { what, expected, found: &step.gradients, names, checked: 0 };
        model.network.visit(&mut gradients);
        assert_eq!(gradients.checked, expected.as_object().unwrap().len(), "{what}");
    }
    check_all!(check_gradients);
}

#[test]
fn twenty_steps_of_sgd_follow_pytorchs_losses_and_end_at_its_logits() {
    fn check_steps<N: Network>(what: &str, golden: &Golden<N>) {
        let (losses, model) = losses(golden, &sgd());
        check(what, &losses, &golden.numbers("losses"));
        let images = golden.batches().remove(0).images.inner();
        let logits = values(model.network.valid().forward(images));
        let expected = golden.numbers("logits_evaluation_after_training");
        check_within(TOLERANCE_AFTER_TRAINING, what, &logits, &expected);
    }
    check_all!(check_steps);
}

#[test]
fn batch_norms_running_statistics_are_pytorchs() {
    fn check_statistics<N: Network>(what: &str, golden: &Golden<N>) {
        let (_, model) = losses(golden, &sgd());
        let bytes = weights::write(&model.network.valid(), "").unwrap();
        let reference = golden.document["running"].as_object().unwrap();
        // The mlp has none.
        assert_eq!(reference.is_empty(), what.starts_with("mlp"));
        for (tensor, expected) in reference {
            let what = format!("{tensor} of {what}");
            check_within(TOLERANCE_AFTER_TRAINING, &what, &tensor_of(&bytes, tensor), &numbers(expected));
        }
    }
    check_all!(check_statistics);
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
        let golden = Golden::load("mlp", &MlpConfig { hidden: vec![7, 5] }, &device);
        for variant in variants {
            let (losses, _) = losses(&golden, &config(&variant["config"]));
            check(&format!("{} on {backend}", variant["config"]), &losses, &numbers(&variant["losses"]));
        }
    }
}
