//! Whether the data, the devices and the memory can carry a run, before anything is allocated.

use burn::tensor::{Device, Tensor};
use kindling_config::{Config, ConfigError, Normalize, Optimizer, Precision};
use kindling_data::{ImageData, ImageSet, ImageSource};
use kindling_kernels::is_on_host;
use kindling_models::{ImageShape, ModelError, Network, NetworkConfig};
use kindling_training::{Place, TrainingError, freeze, named_parameters, trainable_parameters};

use crate::{
    ClassificationError,
    classifier::METRICS,
    optimizer::check_optimizer,
    run::{check_weights, seeded},
    splits::{class_weights, dtype, image_shape, normalization, splits},
};

/// Checks that `data` and `place` can carry the training of `network` that `config` describes: what a training would
/// say before its first step.
///
/// # Errors
/// When the network cannot take the images or gives no logits `[batch, classes]`, training it takes more memory than
/// there is, there are too few images for a validation split, or too few in a batch for every device to get one; when
/// numbers for channels or classes do not fit the data's, or the weights to start from not the network.
pub(crate) fn check<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    place: &Place,
) -> Result<(), ClassificationError> {
    check_host(network, config, data, place)?;
    let train = splits(config, data)?.train;
    class_weights(config, data, &train)?;
    // Those of the training split fit its images, and are read off them when training begins.
    if config.data.normalize == Normalize::Given {
        normalization(config, &data.train)?;
    }
    let device = &place.devices[0];
    if let Some(weights) = &config.training.weights {
        check_weights(network, config, data, weights, &device.clone().autodiff())?;
    }
    // Where kernels are compiled, those for so few images would be compiled for this alone.
    if place.compiles_kernels { Ok(()) } else { check_logits(network, config, data, device) }
}

/// As [`check`], without a look at the splits.
pub(crate) fn check_host<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    place: &Place,
) -> Result<(), ClassificationError> {
    check_monitor(config)?;
    let device = check_devices(config, &place.devices)?;
    if place.graph {
        check_graph(config, place)?;
    }
    let parts = place.devices.len() * config.training.accumulate;
    check_planes(network, config, image_shape(data), (config.training.batch_size / parts).max(1))?;
    // Lazy parameters take no memory.
    let network = network.init(image_shape(data), config.training.seed, &device.clone().autodiff())?;
    check_optimizer(&config.optimizer, &config.network, &network)?;
    let parameters = trainable_parameters(&named_parameters(&network));
    let (network, _) = freeze(network, "", &config.training.freeze)?;
    let trained = trainable_parameters(&named_parameters(&network));
    let needed = bytes(config, data, place, (parameters, trained));
    // No machine has half of all addresses: what would take that is refused whether or not the limit is known.
    if needed <= place.memory.unwrap_or(u64::MAX / 2) as f64 {
        return Ok(());
    }
    Err(TrainingError::CannotFit { what: described(config), parameters, needed, memory: place.memory }.into())
}

/// Whether a batch norm has more than one number of a channel to normalize by, where so many images come at once: one is
/// its own mean, and PyTorch refuses it too.
pub(crate) fn check_planes<C: NetworkConfig>(
    network: &C,
    config: &Config,
    shape: ImageShape,
    images: usize,
) -> Result<(), ModelError> {
    if images.saturating_mul(network.normalized_pixels(shape)) > 1 {
        return Ok(());
    }
    let (name, ImageShape { height, width, .. }) = (&config.network.name, shape);
    Err(ModelError::Invalid(format!(
        "network `{name}`: of an image of {height}x{width} pixels its last batch norms have one number in a channel, and a \
         part of a batch has one image: a batch norm needs two numbers at least; take larger batches or larger images"
    )))
}

/// Whether `network` makes logits `[batch, classes]` of a batch of two images, on `device`.
fn check_logits<C: NetworkConfig>(
    network: &C,
    config: &Config,
    data: &ImageData,
    device: &Device,
) -> Result<(), ClassificationError> {
    let (shape, seed) = (image_shape(data), config.training.seed);
    let images = Tensor::<4>::zeros([2, shape.channels, shape.height, shape.width], device);
    // Lazy weights are drawn here.
    let logits = seeded(device, seed, || Ok::<_, ModelError>(network.init(shape, seed, device)?.forward(images)))?;
    let (found, wanted) = (logits.dims(), [2, shape.classes]);
    if found == wanted {
        return Ok(());
    }
    Err(ModelError::Invalid(format!(
        "network `{}`: forward returned {found:?} for two images; expected {wanted:?}",
        config.network.name
    ))
    .into())
}

/// The network with its keys, in a line.
fn described(config: &Config) -> String {
    let keys = config.network.keys.iter().map(|(key, value)| format!(", {key} {value}"));
    format!("network {}{}", config.network.name, keys.collect::<String>())
}

/// The least that training takes, in bytes: weights, and for those that are not frozen gradients, the optimizer's
/// moments and averages; the images in memory, if they are not in a mapped file, and once more on a device with memory
/// of its own.
///
/// What the layers put out for a batch comes on top: only the network itself knows how much that is.
fn bytes(config: &Config, data: &ImageData, place: &Place, (parameters, trained): (usize, usize)) -> f64 {
    let number = if config.training.precision == Precision::F32 { 4.0 } else { 2.0 };
    let moments = match config.optimizer {
        Optimizer::Sgd(_) => 0.0,
        // Muon's matrices have one, and what it leaves to AdamW two.
        Optimizer::Momentum(_) | Optimizer::Muon(_) => 1.0,
        Optimizer::Adam(_) | Optimizer::Adamw(_) => 2.0,
    };
    let averages = if config.training.ema_decay.is_some() { 1.0 } else { 0.0 };
    let is_on_host = place.devices.first().is_some_and(is_on_host);
    let images = |set: &ImageSet, is_augmented: bool| {
        let pixels = set.count() * set.shape().iter().product::<usize>();
        // Batches of augmented images, and of what a device does not take in one piece, come from the host.
        let fits = pixels as u64 <= place.largest_tensor.unwrap_or(ImageSource::LARGEST);
        let copies = usize::from(!set.is_mapped()) + usize::from(!is_on_host && !is_augmented && fits);
        (pixels * copies) as f64
    };
    let evaluated = images(&data.test, false) + data.valid.as_ref().map_or(0.0, |valid| images(valid, false));
    let images = images(&data.train, !config.data.augment.is_empty()) + evaluated;
    number * (parameters as f64 + trained as f64 * (1.0 + moments + averages)) + images
}

/// Whether a classifier has the metric that decides which epoch is the best.
fn check_monitor(config: &Config) -> Result<(), ClassificationError> {
    let (split, found) = (config.protocol.evaluated_split(), config.protocol.monitor());
    let known = METRICS.map(|metric| format!("{split}/{}", metric.name));
    if known.iter().any(|known| known == found) {
        return Ok(());
    }
    let wanted = known.join(" or ");
    Err(ConfigError::Invalid { key: "protocol.monitor".to_owned(), wanted, found: found.to_owned() }.into())
}

/// Whether a step of the run can be recorded and repeated, as far as the config tells.
fn check_graph(config: &Config, place: &Place) -> Result<(), TrainingError> {
    let training = &config.training;
    #[allow(clippy::float_cmp)] // Exactly 1 changes nothing.
    let is_one_rate = config.optimizer.bias_rate_factor() == 1.0;
    let is_plain = is_one_rate && matches!(&config.optimizer, Optimizer::Sgd(sgd) if sgd.weight_decay <= 0.0);
    kindling_training::check_graph([
        ("another optimizer, weight decay, or `optimizer.bias_rate_factor`", !is_plain),
        ("several devices", place.devices.len() > 1),
        ("`training.accumulate`", training.accumulate > 1),
        ("`training.clip_norm`", training.clip_norm.is_some()),
        ("`training.ema_decay`", training.ema_decay.is_some()),
        ("`training.gradient_steps`", training.gradient_steps.is_some()),
    ])?;
    if !place.servers.is_empty() || place.devices.iter().any(is_on_host) {
        return Err(TrainingError::Setting {
            name: "graph",
            wanted: "a GPU of this machine that records steps (wgpu, vulkan, cuda, metal, rocm)".to_owned(),
            found: format!("the backend {}", place.backend),
        });
    }
    Ok(())
}

/// The first of the devices, where all of them can do what `config` asks for.
fn check_devices<'a>(config: &Config, devices: &'a [Device]) -> Result<&'a Device, ClassificationError> {
    let first =
        devices.first().ok_or_else(|| ClassificationError::backend("expected a device to train on, found none"))?;
    if config.training.batch_size < devices.len() {
        return Err(ConfigError::Invalid {
            key: "training.batch_size".to_owned(),
            wanted: format!("at least one image for each of the {} devices", devices.len()),
            found: config.training.batch_size.to_string(),
        }
        .into());
    }
    for device in devices {
        let (wanted, found) = (config.training.precision, device.settings().float_dtype);
        if found != dtype(wanted) {
            return Err(ClassificationError::backend(format!(
                "expected a device set up for {wanted}, found {found:?}"
            )));
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use kindling_data::ImageSet;
    use kindling_models::{MlpConfig, ResnetConfig};
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures;

    /// 40 images of 2x5 pixels in three classes to train on, 20 to test on.
    fn images() -> ImageData {
        let set = |count: usize| {
            let labels = (0..count).map(|image| (image % 3) as u16).collect();
            ImageSet::new(vec![0; count * 10], labels, [1, 2, 5]).unwrap()
        };
        ImageData::new("idx", ["a", "b", "c"].map(str::to_owned).to_vec(), set(40), set(20)).unwrap()
    }

    /// A network that gives logits of this shape whatever the images are.
    #[derive(Clone, Serialize, Deserialize)]
    struct Fixed {
        shape: [usize; 2],
    }

    #[derive(Module, Debug)]
    struct FixedNetwork {
        shape: [usize; 2],
    }

    impl NetworkConfig for Fixed {
        type Network = FixedNetwork;

        fn init(&self, _: ImageShape, _: u64, _: &Device) -> Result<FixedNetwork, ModelError> {
            Ok(FixedNetwork { shape: self.shape })
        }
    }

    impl Network for FixedNetwork {
        fn forward(&self, images: Tensor<4>) -> Tensor<2> {
            Tensor::zeros(self.shape, &images.device())
        }
    }

    fn checked(
        hidden: &[usize],
        optimizer: &str,
        training: &Value,
        memory: Option<u64>,
    ) -> Result<(), ClassificationError> {
        let config = fixtures::config(json!({
            "network": { "name": "mlp", "hidden": hidden }, "optimizer": optimizer, "training": training,
        }));
        let mut place = Place::new(Device::flex());
        // Without a look at the logits: some of these networks fit nowhere.
        (place.memory, place.compiles_kernels) = (memory, true);
        check(&MlpConfig { hidden: hidden.to_vec() }, &config, &images(), &place)
    }

    /// The least memory that is enough.
    fn needed(optimizer: &str, training: &Value) -> u64 {
        let (mut low, mut high) = (0, 1 << 20);
        while low < high {
            let middle = u64::midpoint(low, high);
            let is_enough = checked(&[7], optimizer, training, Some(middle)).is_ok();
            if is_enough { high = middle } else { low = middle + 1 }
        }
        low
    }

    #[test]
    fn a_network_that_gives_no_logits_for_each_image_and_class_is_refused() {
        let config = fixtures::config(json!({ "network": "mlp" }));
        for (shape, wanted) in [([2, 3], None), ([2, 7], Some("[2, 7]")), ([1, 3], Some("[1, 3]"))] {
            let checked = check(&Fixed { shape }, &config, &images(), &Place::new(Device::flex()));
            let message = checked.err().map(|error| error.to_string());
            let expected =
                wanted.map(|found| format!("network `mlp`: forward returned {found} for two images; expected [2, 3]"));
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_batch_norm_of_a_single_number_is_refused() {
        let config = fixtures::config(json!({ "network": "mlp" }));
        let resnet = ResnetConfig { depth: 8, width: 4 };
        let check = |side, images| {
            let shape = ImageShape { channels: 1, height: side, width: side, classes: 3 };
            check_planes(&resnet, &config, shape, images).map_err(|error| error.to_string())
        };
        for side in [1, 4] {
            let message = check(side, 1).unwrap_err();
            assert!(message.contains(&format!("an image of {side}x{side} pixels")), "{message}");
            assert!(check(side, 2).is_ok());
        }
        assert!(check(5, 1).is_ok());
        let shape = ImageShape { channels: 1, height: 1, width: 1, classes: 3 };
        assert!(check_planes(&MlpConfig { hidden: vec![2] }, &config, shape, 1).is_ok());
    }

    #[test]
    fn the_estimate_counts_weights_gradients_moments_averages_and_images() {
        // Bytes that lie in the host's memory, where the device has them as well.
        let images: u64 = 60 * 10;
        let parameters = (10 * 7 + 7) + (7 * 3 + 3);
        for (optimizer, copies) in [("sgd", 2), ("momentum", 3), ("adam", 4), ("adamw", 4)] {
            assert_eq!(needed(optimizer, &json!({})), parameters * copies * 4 + images, "{optimizer}");
        }
        assert_eq!(needed("sgd", &json!({ "ema_decay": 0.9 })), parameters * 3 * 4 + images);
        let frozen = 10 * 7 + 7;
        let expected = (parameters + (parameters - frozen) * 3) * 4 + images;
        assert_eq!(needed("adam", &json!({ "freeze": ["layers.0"] })), expected);
    }

    #[test]
    fn a_graph_of_several_learning_rates_is_refused() {
        let message = |optimizer: Value| {
            let config = fixtures::config(json!({ "network": "mlp", "optimizer": optimizer }));
            check_graph(&config, &Place::new(Device::flex())).unwrap_err().to_string()
        };
        let several = message(json!({ "name": "sgd", "bias_rate_factor": 64 }));
        assert!(several.contains("`optimizer.bias_rate_factor`"), "{several}");
        let one = message(json!({ "name": "sgd", "decay_biases": false }));
        assert!(one.contains("found the backend"), "{one}");
    }

    #[test]
    fn widths_beyond_every_memory_are_refused_with_an_estimate() {
        let message = |hidden: &[usize], memory| checked(hidden, "sgd", &json!({}), memory).unwrap_err().to_string();
        let wide = message(&[16, 99_999_999], Some(8 << 30));
        assert!(wide.starts_with("network mlp, hidden [16,99999999]: 2,000,000,159 parameters "), "{wide}");
        assert!(wide.contains("about 15 GiB") && wide.contains("this machine has 8.0 GiB"), "{wide}");
        // More than any number of 64 bits counts, with and without a known limit.
        for memory in [None, Some(24 << 30)] {
            let absurd = message(&[99_999_999_999; 2], memory);
            assert!(absurd.contains("]: more than 18,446,744,073,709,551,615"), "{absurd}");
            assert!(!absurd.contains("inf") && !absurd.contains("NaN"), "{absurd}");
        }
        assert!(message(&[usize::MAX; 2], None).contains("]: more than"));
        assert!(checked(&[16, 99_999_999], "sgd", &json!({}), None).is_ok());
    }
}
