//! Whether the data, the devices and the memory can carry a run, before anything is allocated.

use burn::tensor::Device;
use kindling_data::ImageData;
use kindling_models::{LayerSummary, trainable_parameters};

use crate::{
    ConfigError, ExperimentConfig, OptimizerName, Precision, TrainingError,
    splits::{shape, splits},
};

/// Whether `data`, `devices` and `memory`, in bytes, can carry what `config` asks for: what [`train`](crate::train) would
/// say before its first step.
///
/// # Errors
/// When the network cannot take the images, training it takes more memory than there is, there are too few images for a
/// validation split, or too few in a batch for every device to get one.
pub fn check(
    config: &ExperimentConfig,
    data: &ImageData,
    devices: &[Device],
    memory: Option<u64>,
) -> Result<(), TrainingError> {
    check_host(config, data, devices, memory)?;
    splits(config, data).map(|_| ())
}

/// As [`check`], without a look at the splits.
pub(crate) fn check_host(
    config: &ExperimentConfig,
    data: &ImageData,
    devices: &[Device],
    memory: Option<u64>,
) -> Result<(), TrainingError> {
    check_devices(config, devices)?;
    let layers = config.network()?.layers(shape(data))?;
    let needed = bytes(config, data, &layers);
    // No machine has half of all addresses: what would take that is refused whether or not the limit is known.
    if needed <= memory.unwrap_or(u64::MAX / 2) as f64 {
        return Ok(());
    }
    let what = match &config.hidden {
        Some(hidden) => format!("hidden {}", hidden.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        None => config.model.to_string(),
    };
    Err(TrainingError::CannotFit { what, parameters: trainable_parameters(&layers), needed, memory })
}

/// The least that training takes, in bytes: weights, gradients, the optimizer's moments, the layers' outputs for a
/// batch, and the images, as bytes and on the device.
fn bytes(config: &ExperimentConfig, data: &ImageData, layers: &[LayerSummary]) -> f64 {
    let number = if config.precision == Precision::F32 { 4.0 } else { 2.0 };
    let moments = match config.optimizer {
        OptimizerName::Sgd => 0.0,
        // Muon's matrices have one, and what it leaves to AdamW two.
        OptimizerName::Momentum | OptimizerName::Muon => 1.0,
        OptimizerName::Adam | OptimizerName::Adamw => 2.0,
    };
    // In floating point, where no width is too large to be counted.
    let parameters: f64 = layers.iter().map(|layer| layer.parameters as f64).sum();
    let size = |layer: &LayerSummary| layer.output.iter().map(|&side| side as f64).product::<f64>();
    // What has no parameters is at the end of its block: the one output that every backend keeps for the backward pass.
    let outputs: f64 = layers.iter().filter(|layer| layer.parameters == 0).map(size).sum();
    let batch = config.batch_size.min(data.train.count()) as f64;
    let pixels = (data.train.pixels().len() + data.test.pixels().len()) as f64;
    number * (parameters * (2.0 + moments) + outputs * batch) + pixels * (1 + size_of::<f32>()) as f64
}

/// Whether the devices can do what `config` asks for.
fn check_devices(config: &ExperimentConfig, devices: &[Device]) -> Result<(), TrainingError> {
    if devices.is_empty() {
        return Err(TrainingError::backend("expected a device to train on, found none"));
    }
    if config.batch_size < devices.len() {
        return Err(ConfigError::Invalid {
            field: "batch_size",
            wanted: format!("an image for each of the {} devices at least", devices.len()),
            found: config.batch_size.to_string(),
        }
        .into());
    }
    for device in devices {
        let (wanted, found) = (config.precision, device.settings().float_dtype);
        if found != wanted.dtype() {
            return Err(TrainingError::Backend(format!("expected a device set up for {wanted}, found {found:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kindling_data::ImageSet;

    use super::*;
    use crate::Settings;

    /// 40 images of 2x5 pixels in three classes to train on, 20 to test on.
    fn images() -> ImageData {
        let set = |count: usize| {
            let labels = (0..count).map(|image| (image % 3) as u8).collect();
            ImageSet::new(vec![0; count * 10], labels, 2, 5).unwrap()
        };
        let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
        let (train, test) = (set(40), set(20));
        ImageData { name: "idx", source: None, classes, unused: vec![], sha256: String::new(), train, test }
    }

    fn checked(settings: &str, memory: Option<u64>) -> Result<(), TrainingError> {
        let config = Settings::from_json(settings).and_then(Settings::resolve).unwrap();
        check(&config, &images(), &[Device::flex()], memory)
    }

    /// The least memory that is enough.
    fn needed(settings: &str) -> u64 {
        let (mut low, mut high) = (0, 1 << 20);
        while low < high {
            let middle = u64::midpoint(low, high);
            if checked(settings, Some(middle)).is_ok() { high = middle } else { low = middle + 1 }
        }
        low
    }

    #[test]
    fn the_estimate_counts_weights_gradients_moments_outputs_and_images() {
        let images: u64 = 60 * 10 * 5;
        let parameters = (10 * 7 + 7) + (7 * 3 + 3);
        let batch = |images: u64| 7 * images * 4;
        let settings = |more: &str| format!(r#"{{"model": "mlp", "hidden": [7], "batch_size": 16{more}}}"#);
        assert_eq!(needed(&settings("")), parameters * 2 * 4 + batch(16) + images);
        for (optimizer, copies) in [("momentum", 3), ("adam", 4), ("adamw", 4), ("muon", 3)] {
            let more = format!(r#", "optimizer": "{optimizer}""#);
            assert_eq!(needed(&settings(&more)), parameters * copies * 4 + batch(16) + images, "{optimizer}");
        }
        // A batch has no more images than there are.
        let large = r#"{"model": "mlp", "hidden": [7], "batch_size": 1000000000}"#;
        assert_eq!(needed(large), parameters * 2 * 4 + batch(40) + images);
    }

    #[test]
    fn widths_beyond_every_memory_are_refused_with_an_estimate() {
        let message = |hidden: &str, memory| {
            checked(&format!(r#"{{"model": "mlp", "hidden": [{hidden}]}}"#), memory).unwrap_err().to_string()
        };
        let wide = message("16,99999999", Some(24 << 30));
        assert!(wide.starts_with("hidden 16,99999999: 2,000,000,159 parameters "), "{wide}");
        assert!(wide.contains("about 30 GiB") && wide.contains("this machine has 24 GiB"), "{wide}");
        // More than any number of 64 bits counts, with and without a known limit.
        for memory in [None, Some(24 << 30)] {
            let absurd = message("99999999999,99999999999", memory);
            assert!(
                absurd.starts_with("hidden 99999999999,99999999999: more than 18,446,744,073,709,551,615"),
                "{absurd}"
            );
            assert!(!absurd.contains("inf") && !absurd.contains("NaN"), "{absurd}");
        }
        let most = usize::MAX.to_string();
        assert!(message(&format!("{most},{most}"), None).starts_with(&format!("hidden {most},{most}: more than")));
        assert!(checked(r#"{"model": "mlp", "hidden": [16, 99999999]}"#, None).is_ok());
    }
}
