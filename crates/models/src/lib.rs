//! The image classifiers of Kindling.
//!
//! [`NetworkConfig`] says what a network is made of and [`NetworkConfig::init`] makes it; [`ModelName`] names the
//! presets. A [`Network`] maps images `[batch, 1, height, width]` to logits `[batch, classes]` and is PyTorch's
//! equal: the same weights and batches give the same logits, gradients and running statistics
//! (`assets/golden` has the proof).
//!
//! This crate knows neither data sets nor losses: softmax, targets and optimizers belong to training.

mod batch_norm;
mod cnn;
mod fused;
mod init;
mod layers;
mod mlp;
mod network;
mod preset;

pub use batch_norm::BatchNorm;
pub use cnn::{Cnn, CnnConfig};
pub use layers::{LayerSummary, trainable_parameters};
pub use mlp::{Mlp, MlpConfig};
pub use network::{ModelError, Network, NetworkConfig};
pub use preset::ModelName;

/// What the data asks of a network's first and last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Pixels in a column.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

impl ImageShape {
    /// MNIST's and Fashion-MNIST's: 28x28 in ten classes.
    pub const MNIST: Self = Self { height: 28, width: 28, classes: 10 };
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, ModuleVisitor, Param},
        tensor::{Device, Tensor},
    };

    use super::*;

    const SMALL: ImageShape = ImageShape { height: 9, width: 6, classes: 3 };

    fn networks() -> Vec<NetworkConfig> {
        vec![
            NetworkConfig::Mlp(MlpConfig { hidden: vec![] }),
            NetworkConfig::Mlp(MlpConfig { hidden: vec![5, 4] }),
            NetworkConfig::Cnn(CnnConfig { channels: [2, 3], hidden: 4 }),
        ]
    }

    #[test]
    fn presets_have_the_references_parameter_counts() {
        let counts = ModelName::ALL.map(|model| trainable_parameters(&model.layers()));
        assert_eq!(counts, [669_706, 1_195_018, 1_863_690, 421_834]);
    }

    #[test]
    fn the_table_counts_what_the_network_trains() {
        struct Trained(usize);
        impl ModuleVisitor for Trained {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    self.0 += param.val().shape().num_elements();
                }
            }
        }
        let device = Device::flex().autodiff();
        for model in ModelName::ALL {
            let network = model.config(None).unwrap().init(ImageShape::MNIST, 1, &device).unwrap();
            let mut trained = Trained(0);
            network.visit(&mut trained);
            assert_eq!(trained.0, trainable_parameters(&model.layers()), "{model}");
        }
    }

    #[test]
    fn logits_have_one_row_for_each_image_and_one_column_for_each_class() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            for config in networks() {
                let network = config.init(SMALL, 1, &device).unwrap();
                let images = Tensor::zeros([7, 1, SMALL.height, SMALL.width], &device);
                assert_eq!(network.forward(images).dims(), [7, 3], "{config:?}");
                let last = config.layers(SMALL).unwrap().pop().unwrap();
                assert_eq!(last.output, [3], "{config:?}");
            }
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let weights = |seed| networks()[2].init(SMALL, seed, &Device::flex()).unwrap().to_safetensors().unwrap();
        assert!(weights(1) == weights(1));
        assert!(weights(1) != weights(2));
    }

    #[test]
    fn initial_weights_fill_pytorchs_range_evenly() {
        let Network::Mlp(mlp) =
            ModelName::Mlp.config(None).unwrap().init(ImageShape::MNIST, 1, &Device::flex()).unwrap()
        else {
            panic!("the preset is an mlp")
        };
        let record: Vec<f32> = mlp_weights(&mlp);
        let bound = 1.0 / 28.0; // 1/sqrt(784)
        let mean_square = record.iter().map(|w| w * w).sum::<f32>() / record.len() as f32;
        assert!(record.iter().all(|w| w.abs() <= bound));
        // The variance of U(-b, b) is b²/3; 400,000 draws come within a thousandth of it.
        assert!((mean_square / (bound * bound / 3.0) - 1.0).abs() < 5e-3);
    }

    fn mlp_weights(mlp: &Mlp) -> Vec<f32> {
        struct First(Option<Vec<f32>>);
        impl ModuleVisitor for First {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.get_or_insert_with(|| param.val().into_data().iter::<f32>().collect());
            }
        }
        let mut first = First(None);
        mlp.visit(&mut first);
        first.0.unwrap()
    }

    #[test]
    fn weights_survive_a_round_trip_through_safetensors() {
        for config in networks() {
            let original = config.init(SMALL, 1, &Device::flex()).unwrap();
            let bytes = original.to_safetensors().unwrap();
            let other = config.init(SMALL, 2, &Device::flex()).unwrap();
            let loaded = other.with_safetensors(bytes.clone()).unwrap();
            assert!(loaded.to_safetensors().unwrap() == bytes, "{config:?}");
        }
    }

    #[test]
    fn weights_of_another_network_are_refused() {
        let [linear, mlp, cnn] = &networks()[..] else { panic!("three networks") };
        let bytes = mlp.init(SMALL, 1, &Device::flex()).unwrap().to_safetensors().unwrap();
        for config in [linear, cnn] {
            let network = config.init(SMALL, 1, &Device::flex()).unwrap();
            assert!(matches!(network.with_safetensors(bytes.clone()), Err(ModelError::Weights(_))));
        }
        let network = mlp.init(SMALL, 1, &Device::flex()).unwrap();
        assert!(matches!(network.with_safetensors(b"no weights".to_vec()), Err(ModelError::Weights(_))));
    }

    #[test]
    fn what_cannot_be_built_is_refused_with_the_reason() {
        let message = |result: Result<NetworkConfig, ModelError>| result.unwrap_err().to_string();
        assert_eq!(message(ModelName::Cnn.config(Some(&[8]))), "hidden widths go with the model `mlp`, not with `cnn`");
        assert_eq!(message(ModelName::Mlp.config(Some(&[8, 0]))), "hidden widths must be at least 1, found [8, 0]");
        let tiny = ImageShape { height: 3, ..ImageShape::MNIST };
        let error = ModelName::Cnn.config(None).unwrap().init(tiny, 1, &Device::flex()).unwrap_err();
        assert!(error.to_string().contains("at least 4x4 pixels, found 3x28"));
        assert_eq!(
            "resnet".parse::<ModelName>().unwrap_err().to_string(),
            "no model `resnet`; there are mlp, mlp-deep, mlp-wide, cnn"
        );
    }
}
