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

    const SMALL: ImageShape = ImageShape { height: 9, width: 10, classes: 3 };

    fn networks() -> Vec<NetworkConfig> {
        vec![
            NetworkConfig::Mlp(MlpConfig { hidden: vec![] }),
            NetworkConfig::Mlp(MlpConfig { hidden: vec![5, 4] }),
            NetworkConfig::Cnn(CnnConfig { channels: vec![2, 3], hidden: 4 }),
            // Its linear layers are those of the cnn above.
            NetworkConfig::Cnn(CnnConfig { channels: vec![2, 3, 12], hidden: 4 }),
        ]
    }

    #[test]
    fn presets_have_the_references_parameter_counts_and_the_deep_cnn_its_own() {
        let counts = ModelName::ALL.map(|model| trainable_parameters(&model.layers()));
        assert_eq!(counts, [669_706, 1_195_018, 1_863_690, 421_834, 241_994]);
    }

    #[test]
    fn widths_that_no_number_counts_are_counted_as_the_largest_one() {
        for hidden in [vec![99_999_999_999; 2], vec![usize::MAX], vec![usize::MAX; 3]] {
            let layers = NetworkConfig::Mlp(MlpConfig { hidden: hidden.clone() }).layers(ImageShape::MNIST).unwrap();
            assert_eq!(trainable_parameters(&layers), usize::MAX, "{hidden:?}");
            assert_eq!(layers[0].output, hidden[..1]);
        }
        let cnn = NetworkConfig::Cnn(CnnConfig { channels: vec![usize::MAX; 3], hidden: usize::MAX });
        assert_eq!(trainable_parameters(&cnn.layers(ImageShape::MNIST).unwrap()), usize::MAX);
    }

    #[test]
    fn a_third_block_has_names_of_its_own_and_a_cnn_of_two_has_none_of_them() {
        /// The network's parameters in their order, by PyTorch's names but for batch norm's.
        #[derive(Default)]
        struct Names {
            path: Vec<String>,
            found: Vec<String>,
        }
        impl ModuleVisitor for Names {
            fn enter_module(&mut self, name: &str, _container_type: &str) {
                self.path.push(name.to_owned());
            }
            fn exit_module(&mut self, _name: &str, _container_type: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
                self.found.push(self.path[1..].join("."));
            }
        }
        let names = |config: &NetworkConfig| {
            let mut names = Names::default();
            config.init(SMALL, 1, &Device::flex()).unwrap().visit(&mut names);
            names.found
        };
        let networks = networks();
        let deep = names(&networks[3]);
        assert_eq!(deep[..4], ["conv1.weight", "conv1.bias", "bn1.gamma", "bn1.beta"]);
        let (third, others): (Vec<_>, Vec<_>) = deep.iter().cloned().partition(|name| name.contains('3'));
        let trained: Vec<_> = third.iter().filter(|name| !name.contains("running")).collect();
        assert_eq!(trained, ["conv3.weight", "conv3.bias", "bn3.gamma", "bn3.beta"]);
        assert_eq!(others, names(&networks[2]));
        let position = |name: &str| deep.iter().position(|found| found == name);
        assert!(position("bn2.beta") < position("conv3.weight") && position("bn3.beta") < position("fc1.weight"));
    }

    #[test]
    fn a_third_block_is_drawn_after_the_second() {
        let weights = |config: &NetworkConfig| all_weights(&config.init(SMALL, 1, &Device::flex().autodiff()).unwrap());
        let (two, three) = (weights(&networks()[2]), weights(&networks()[3]));
        // conv1, bn1, conv2, bn2: weights and biases, scales and shifts.
        let first_blocks = (2 * 9 + 2) + 2 * 2 + (2 * 9 * 3 + 3) + 2 * 3;
        assert_eq!(two[..first_blocks], three[..first_blocks]);
        assert_ne!(two[first_blocks..][..10], three[first_blocks..][..10]);
    }

    fn all_weights(network: &impl Module) -> Vec<f32> {
        struct All(Vec<f32>);
        impl ModuleVisitor for All {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    self.0.extend(param.val().into_data().iter::<f32>());
                }
            }
        }
        let mut all = All(Vec::new());
        network.visit(&mut all);
        all.0
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
        let [linear, mlp, cnn, deep] = &networks()[..] else { panic!("four networks") };
        let bytes = mlp.init(SMALL, 1, &Device::flex()).unwrap().to_safetensors().unwrap();
        for config in [linear, cnn, deep] {
            let network = config.init(SMALL, 1, &Device::flex()).unwrap();
            assert!(matches!(network.with_safetensors(bytes.clone()), Err(ModelError::Weights(_))));
        }
        let bytes = cnn.init(SMALL, 1, &Device::flex()).unwrap().to_safetensors().unwrap();
        let network = deep.init(SMALL, 1, &Device::flex()).unwrap();
        assert!(network.with_safetensors(bytes).unwrap_err().to_string().contains("conv3.weight"));
        // All of the cnn's tensors are there, in their shapes, and a third block's as well.
        let bytes = deep.init(SMALL, 1, &Device::flex()).unwrap().to_safetensors().unwrap();
        let network = cnn.init(SMALL, 1, &Device::flex()).unwrap();
        assert!(network.with_safetensors(bytes).unwrap_err().to_string().contains("found `bn3."));
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
        let small = ImageShape { width: 7, ..ImageShape::MNIST };
        let error = ModelName::CnnDeep.config(None).unwrap().layers(small).unwrap_err();
        assert!(error.to_string().contains("at least 8x8 pixels, found 28x7"));
        let error = NetworkConfig::Cnn(CnnConfig { channels: vec![8], hidden: 4 }).layers(SMALL).unwrap_err();
        assert_eq!(error.to_string(), "a cnn has two or three convolution blocks, found 1 with channels [8]");
        assert_eq!(
            "resnet".parse::<ModelName>().unwrap_err().to_string(),
            "no model `resnet`; there are mlp, mlp-deep, mlp-wide, cnn, cnn-deep"
        );
    }
}
