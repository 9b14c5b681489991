use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor, TensorData},
};
use kindling_kernels::nn::named_parameters;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{init::Initializer, *};

pub(crate) const SMALL: ImageShape = ImageShape { channels: 1, height: 9, width: 10, classes: 3 };

/// Calls `$body` with the config of each of some small networks, whose types differ.
macro_rules! for_each_network {
    (|$config:ident| $body:expr) => {{
        for $config in [MlpConfig { hidden: vec![] }, MlpConfig { hidden: vec![5, 4] }] {
            $body
        }
        // The linear layers of both are the same.
        for $config in [vec![2, 3], vec![2, 3, 12]].map(|channels| CnnConfig { channels, hidden: 4 }) {
            $body
        }
        let $config = ResnetConfig { depth: 8, width: 2 };
        $body;
        for $config in [1, 2].map(|factor| WrnConfig { depth: 10, dropout: 0.5, factor, width: 2 }) {
            $body
        }
        for $config in [(2, Whitening::Cosines), (3, Whitening::Images)].map(|(whitening_size, whitening)| {
            AirbenchConfig { widths: vec![5], whitening, whitening_size, ..AirbenchConfig::default() }
        }) {
            $body
        }
    }};
}

/// Values of all trainable parameters in order. The network has to be on a device with autodiff.
fn trained(network: &impl Module) -> Vec<f32> {
    struct Trained(Vec<f32>);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().is_require_grad() {
                self.0.extend(param.val().into_data().iter::<f32>());
            }
        }
    }
    let mut trained = Trained(Vec::new());
    network.visit(&mut trained);
    trained.0
}

fn preset_layers(preset: &Preset, shape: ImageShape) -> Vec<LayerSummary> {
    fn of(config: &impl NetworkConfig, shape: ImageShape) -> Vec<LayerSummary> {
        layers(&config.init(shape, 1, &Device::flex()).unwrap())
    }
    match preset {
        Preset::Mlp(config) => of(config, shape),
        Preset::Cnn(config) => of(config, shape),
        Preset::Resnet(config) => of(config, shape),
        Preset::Wrn(config) => of(config, shape),
        Preset::Airbench(config) => of(config, shape),
    }
}

#[test]
fn presets_have_the_references_parameter_counts_and_the_others_their_own() {
    let count = |preset: &Preset, shape| trainable_parameters(&preset_layers(preset, shape));
    let counts = presets().map(|(name, preset)| (name, count(&preset, ImageShape::MNIST)));
    let expected = [
        ("mlp", 669_706),
        ("mlp-deep", 1_195_018),
        ("mlp-wide", 1_863_690),
        ("cnn", 421_834),
        ("cnn-deep", 241_994),
        ("resnet", 269_434),
        ("resnet-8", 75_002),
        ("resnet-20", 269_434),
        ("resnet-32", 463_866),
        ("wrn", 2_748_602),
        ("wrn-16-4", 2_748_602),
        ("airbench", 1_962_120),
    ];
    assert_eq!(counts, expected);
    assert_eq!(REFERENCE, [0, 1, 2, 3].map(|index| expected[index].0));
    assert_eq!(presets()[0].1, Preset::Mlp(MlpConfig::default()));
    assert_eq!(presets()[3].1, Preset::Cnn(CnnConfig::default()));
    // By `make_golden.py counts`.
    let colour = ImageShape { channels: 3, height: 32, width: 32, classes: 10 };
    let expected = [269_722, 75_290, 269_722, 464_154, 2_748_890, 2_748_890, 1_971_352];
    let counts: Vec<_> = presets()[5..].iter().map(|(_, preset)| count(preset, colour)).collect();
    assert_eq!(counts, expected);
}

#[test]
fn the_table_has_pytorchs_names_and_layout() {
    let table: Vec<_> = preset_layers(&presets()[3].1, ImageShape::MNIST)
        .into_iter()
        .map(|layer| format!("{} {} {:?} {}", layer.name, layer.kind, layer.shape, layer.parameters))
        .collect();
    let expected = [
        "conv1 Conv2d [32, 1, 3, 3] 320",
        "bn1 BatchNorm [32] 64",
        "conv2 Conv2d [64, 32, 3, 3] 18496",
        "bn2 BatchNorm [64] 128",
        "fc1 Linear [128, 3136] 401536",
        "fc2 Linear [10, 128] 1290",
    ];
    assert_eq!(table, expected);
    let names = |index: usize| -> Vec<_> {
        preset_layers(&presets()[index].1, ImageShape::MNIST).into_iter().map(|layer| layer.name).collect()
    };
    assert_eq!(names(0), ["layers.0", "layers.1", "layers.2"]);
    assert_eq!(names(6)[..4], ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1"]);
    assert_eq!(names(10)[..5], ["conv0", "group0.0.bn0", "group0.0.conv0", "group0.0.bn1", "group0.0.conv1"]);
    assert_eq!(names(11)[..4], ["whiten", "groups.0.conv1", "groups.0.norm1", "groups.0.conv2"]);
}

#[test]
fn widths_that_no_memory_holds_are_counted_and_those_that_no_number_counts_are_the_largest_one() {
    let device = Device::flex();
    let count = |hidden: Vec<usize>| {
        trainable_parameters(&layers(&MlpConfig { hidden }.init(ImageShape::MNIST, 1, &device).unwrap()))
    };
    assert_eq!(count(vec![99_999_999_999]), 99_999_999_999 * (784 + 1 + 10) + 10);
    for hidden in [vec![99_999_999_999; 2], vec![usize::MAX], vec![usize::MAX; 3]] {
        assert_eq!(count(hidden.clone()), usize::MAX, "{hidden:?}");
    }
    for channels in [vec![usize::MAX; 3], vec![1 << 40; 2]] {
        let cnn = CnnConfig { channels, hidden: usize::MAX };
        let layers = layers(&cnn.init(ImageShape::MNIST, 1, &device).unwrap());
        assert_eq!(trainable_parameters(&layers), usize::MAX, "{cnn:?}");
        assert_eq!(layers[1].shape, cnn.channels[..1]);
    }
    let widest = |config: Preset| trainable_parameters(&preset_layers(&config, ImageShape::MNIST));
    let width = usize::MAX;
    assert_eq!(widest(Preset::Resnet(ResnetConfig { depth: 8, width })), usize::MAX);
    assert_eq!(widest(Preset::Wrn(WrnConfig { width, ..WrnConfig::default() })), usize::MAX);
    let widths = vec![width; 3];
    assert_eq!(widest(Preset::Airbench(AirbenchConfig { widths, ..AirbenchConfig::default() })), usize::MAX);
}

#[test]
fn the_table_counts_what_the_network_trains() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for_each_network!(|config| {
            let network = config.init(SMALL, 1, &device).unwrap();
            let counted = trainable_parameters(&layers(&network));
            assert_eq!(counted, trained(&network.valid().train()).len(), "{config:?}");
        });
    }
}

#[test]
fn a_third_block_is_drawn_after_the_second() {
    let weights = |channels: &[usize]| {
        let config = CnnConfig { channels: channels.to_vec(), hidden: 4 };
        trained(&config.init(SMALL, 1, &Device::flex().autodiff()).unwrap())
    };
    let (two, three) = (weights(&[2, 3]), weights(&[2, 3, 12]));
    // conv1, bn1, conv2, bn2: weights and biases, scales and shifts.
    let first_blocks = (2 * 9 + 2) + 2 * 2 + (2 * 9 * 3 + 3) + 2 * 3;
    assert_eq!(two[..first_blocks], three[..first_blocks]);
    assert_ne!(two[first_blocks..][..10], three[first_blocks..][..10]);
}

#[test]
fn a_third_block_has_names_of_its_own_and_a_cnn_of_two_has_none_of_them() {
    let names = |channels: &[usize]| -> Vec<String> {
        let config = CnnConfig { channels: channels.to_vec(), hidden: 4 };
        let network = config.init(SMALL, 1, &Device::flex()).unwrap();
        layers(&network).into_iter().map(|layer| layer.name).collect()
    };
    assert_eq!(names(&[2, 3, 12]), ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "fc1", "fc2"]);
    assert_eq!(names(&[2, 3]), ["conv1", "bn1", "conv2", "bn2", "fc1", "fc2"]);
}

#[test]
fn logits_have_one_row_for_each_image_and_one_column_for_each_class() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for shape in [SMALL, ImageShape { channels: 3, ..SMALL }] {
            for_each_network!(|config| {
                let network = config.init(shape, 1, &device).unwrap();
                let images = Tensor::zeros([7, shape.channels, shape.height, shape.width], &device);
                assert_eq!(network.forward(images).dims(), [7, 3], "{config:?}");
            });
        }
    }
}

#[test]
fn images_in_colour_of_any_size_make_the_first_layers_as_wide_as_they_are() {
    let shape = ImageShape { channels: 3, height: 32, width: 48, classes: 7 };
    let table = |layers: Vec<LayerSummary>| -> Vec<_> {
        layers.into_iter().map(|layer| format!("{} {:?} {}", layer.name, layer.shape, layer.parameters)).collect()
    };
    let device = Device::flex();
    // In PyTorch: Conv2d(3, 32, 3), BatchNorm2d(32), Conv2d(32, 64, 3), BatchNorm2d(64), Linear(64 * 8 * 12, 128),
    // Linear(128, 7)
    let cnn = table(layers(&CnnConfig::default().init(shape, 1, &device).unwrap()));
    let expected = [
        "conv1 [32, 3, 3, 3] 896",
        "bn1 [32] 64",
        "conv2 [64, 32, 3, 3] 18496",
        "bn2 [64] 128",
        "fc1 [128, 6144] 786560",
        "fc2 [7, 128] 903",
    ];
    assert_eq!(cnn, expected);
    let mlp = table(layers(&MlpConfig { hidden: vec![16] }.init(shape, 1, &device).unwrap()));
    assert_eq!(mlp, ["layers.0 [16, 4608] 73744", "layers.1 [7, 16] 119"]);
}

#[test]
fn the_seed_decides_the_weights_whatever_is_needed_first() {
    let config = CnnConfig { channels: vec![2, 3], hidden: 4 };
    let network = |seed| config.init(SMALL, seed, &Device::flex().autodiff()).unwrap();
    assert_eq!(trained(&network(1)), trained(&network(1)));
    assert_ne!(trained(&network(1)), trained(&network(2)));

    let device = Device::flex().autodiff();
    let two_layers = || {
        let mut initializer = Initializer::new(1, &device);
        (initializer.linear(3, 2), initializer.linear(2, 4))
    };
    let ((first, second), (other_first, other_second)) = (two_layers(), two_layers());
    let forwards = (trained(&first), trained(&second));
    let other_second = trained(&other_second);
    assert_eq!(forwards, (trained(&other_first), other_second));
}

/// What one stream gives when a network's parameters, of these (count, fan-in), are drawn one after the other.
fn drawn(seed: u64, parameters: &[(usize, usize)]) -> Vec<f32> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[16..23].copy_from_slice(b"weights");
    let mut random = ChaCha8Rng::from_seed(key);
    let mut values = Vec::new();
    for &(count, fan_in) in parameters {
        let bound = 1.0 / (fan_in as f32).sqrt();
        values.extend((0..count).map(|_| random.random_range(-bound..bound)));
    }
    values
}

#[test]
fn lazy_weights_are_those_of_one_stream_drawn_in_order() {
    let device = Device::flex().autodiff();
    let mlp = MlpConfig::default().init(ImageShape::MNIST, 42, &device).unwrap();
    let sizes = [(784 * 512, 784), (512, 784), (512 * 512, 512), (512, 512), (512 * 10, 512), (10, 512)];
    assert!(trained(&mlp) == drawn(42, &sizes));
    // Pinned, so that a run of a seed begins from the same weights in every version.
    let pinned = TensorData::from(PINNED);
    TensorData::from(&trained(&mlp)[..PINNED.len()]).assert_eq(&pinned, true);

    let cnn = CnnConfig { channels: vec![2, 3], hidden: 4 }.init(SMALL, 7, &device).unwrap();
    let drawn = drawn(7, &[(18, 9), (2, 9), (54, 18), (3, 18), (12 * 4, 12), (4, 12), (12, 4), (3, 4)]);
    let norm = |channels: usize| [vec![1.0; channels], vec![0.0; channels]].concat();
    let expected = [&drawn[..20], &norm(2), &drawn[20..77], &norm(3), &drawn[77..]].concat();
    assert_eq!(trained(&cnn), expected);
}

/// First weights of the preset `mlp` for seed 42, by ChaCha8 in Python: `((word >> 9) / 2^23) * (2 / 28) - 1 / 28`.
const PINNED: [f32; 4] = [0.015_418_172, 0.035_590_384, 0.028_429_11, -0.030_790_653];

#[test]
fn initial_weights_fill_pytorchs_range_evenly() {
    let mlp = MlpConfig::default().init(ImageShape::MNIST, 1, &Device::flex().autodiff()).unwrap();
    let weights = &trained(&mlp)[..784 * 512];
    let bound = 1.0 / 28.0; // 1/sqrt(784)
    let mean_square = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
    assert!(weights.iter().all(|w| w.abs() <= bound));
    // The variance of U(-b, b) is b²/3; 400,000 draws come within a thousandth of it.
    assert!((mean_square / (bound * bound / 3.0) - 1.0).abs() < 5e-3);
}

#[test]
fn airbench_trains_the_shifts_of_its_batch_norms_alone_and_by_the_batchs_statistics() {
    let device = Device::flex().autodiff();
    let airbench = AirbenchConfig { widths: vec![5], ..AirbenchConfig::default() };
    let network = airbench.init(SMALL, 1, &device).unwrap();
    let rows: Vec<_> = layers(&network).into_iter().map(|layer| (layer.name, layer.parameters)).collect();
    let counts = [("whiten", 8), ("groups.0.conv1", 9 * 8 * 5), ("groups.0.norm1", 5), ("groups.0.conv2", 9 * 5 * 5)];
    assert_eq!(rows[..4], counts.map(|(name, count)| (name.to_owned(), count)));
    let images = Tensor::random([4, 1, 9, 10], burn::tensor::Distribution::Default, &device);
    let trained = network.forward(images.clone()).into_data();
    assert!(trained != network.valid().forward(images.inner()).into_data());
}

#[test]
fn airbench_adapts_its_frozen_filters_to_images_and_nothing_else() {
    for (device, size, kept) in [(Device::flex(), 2, None), (Device::flex().autodiff(), 3, Some(8))] {
        let config = |whitening, whitening_size| AirbenchConfig {
            whitening,
            whitening_size,
            whitening_directions: kept,
            widths: vec![5],
            ..AirbenchConfig::default()
        };
        let adapting = config(Whitening::Images, size);
        assert_eq!((adapting.sample(SMALL), config(Whitening::Cosines, size).sample(SMALL)), (5000, 0));
        let images = Tensor::<4>::random([20, 1, 9, 10], burn::tensor::Distribution::Default, &device);
        let rest = |network: &Airbench| (named_parameters(network), trained(network));
        let fresh = adapting.init(SMALL, 1, &device).unwrap();
        let adapted = adapting.adapt(fresh.clone(), images.clone()).unwrap();
        assert_eq!(rest(&fresh), rest(&adapted));
        let whiten = |network: &Airbench| {
            let values: Vec<f32> = network.whiten.weight.val().into_data().iter::<f32>().collect();
            (network.whiten.weight.dims(), values)
        };
        let numbers: Vec<f32> = images.clone().into_data().iter::<f32>().collect();
        let mut filters = whitening::of_images(&numbers, [1, 9, 10], size);
        let kept = kept.unwrap_or(size * size);
        filters.truncate(kept * size * size);
        assert_eq!(whiten(&adapted), ([2 * kept, 1, size, size], whitening::in_both_signs(filters)));
        // Cosines are the same for all images.
        let fixed = config(Whitening::Cosines, size);
        assert_eq!(whiten(&fixed.adapt(fresh.clone(), images).unwrap()), whiten(&fresh));
    }
}

#[test]
fn configs_survive_a_round_trip_and_refuse_keys_they_do_not_have() {
    // Each key has its line of help.
    fn check_help<C: NetworkConfig + Default>() {
        let keys = serde_json::to_value(C::default()).unwrap();
        let helped: Vec<_> = C::HELP.iter().map(|(key, _)| (*key).to_owned()).collect();
        assert_eq!(helped, keys.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    }
    let cnn = CnnConfig { channels: vec![8, 16], hidden: 32 };
    let json = serde_json::to_value(&cnn).unwrap();
    assert_eq!(json, serde_json::json!({ "channels": [8, 16], "hidden": 32 }));
    assert_eq!(serde_json::from_value::<CnnConfig>(json).unwrap(), cnn);
    let error = serde_json::from_value::<MlpConfig>(serde_json::json!({ "hidden": [], "width": 1 })).unwrap_err();
    assert!(error.to_string().contains("unknown field `width`"));
    check_help::<MlpConfig>();
    check_help::<CnnConfig>();
    check_help::<ResnetConfig>();
    check_help::<WrnConfig>();
    check_help::<AirbenchConfig>();
}

#[test]
fn what_cannot_be_built_is_refused_with_the_reason() {
    let device = Device::flex();
    let mlp = |hidden: Vec<usize>| MlpConfig { hidden }.init(SMALL, 1, &device).unwrap_err().to_string();
    let cnn = |channels: &[usize], hidden, shape| {
        let config = CnnConfig { channels: channels.to_vec(), hidden };
        config.init(shape, 1, &device).unwrap_err().to_string()
    };
    assert_eq!(mlp(vec![8, 0]), "hidden widths must be at least 1 (got [8, 0])");
    assert_eq!(cnn(&[0, 2], 4, SMALL), "channels must be at least 1 (got [0, 2])");
    assert_eq!(cnn(&[2, 2], 0, SMALL), "the hidden width must be at least 1 (got [0])");
    assert_eq!(cnn(&[8], 4, SMALL), "a cnn has two or three convolution blocks (got 1 with channels [8])");
    let tiny = ImageShape { height: 3, ..ImageShape::MNIST };
    assert!(cnn(&[32, 64], 128, tiny).contains("at least 4x4 pixels (got 3x28)"));
    let small = ImageShape { width: 7, ..ImageShape::MNIST };
    assert!(cnn(&[32, 64, 128], 128, small).contains("at least 8x8 pixels (got 28x7)"));
    let pixel = ImageShape { channels: 3, height: 1, width: 1, classes: 2 };
    assert!(cnn(&[32, 64], 128, pixel).contains("at least 4x4 pixels (got 1x1)"));
    assert!(MlpConfig::default().init(pixel, 1, &device).is_ok());

    let resnet = |depth, width| ResnetConfig { depth, width }.init(SMALL, 1, &device).unwrap_err().to_string();
    assert_eq!(resnet(21, 16), "the depth of a resnet must be 6n + 2 with n from 1 to 200 (got 21)");
    for depth in [0, 2, 7, 1208, usize::MAX] {
        assert!(resnet(depth, 16).ends_with(&format!("(got {depth})")), "{depth}");
    }
    assert_eq!(resnet(8, 0), "the width must be at least 1 (got [0])");
    assert!(ResnetConfig { depth: 8, width: 2 }.init(pixel, 1, &device).is_ok());
    let wrn = |change: fn(&mut WrnConfig)| {
        let mut config = WrnConfig::default();
        change(&mut config);
        config.init(SMALL, 1, &device).unwrap_err().to_string()
    };
    assert_eq!(wrn(|wrn| wrn.depth = 20), "the depth of a wrn must be 6n + 4 with n from 1 to 200 (got 20)");
    assert_eq!(wrn(|wrn| wrn.factor = 0), "the factor must be at least 1 (got [0])");
    assert_eq!(wrn(|wrn| wrn.width = 0), "the width must be at least 1 (got [0])");
    assert_eq!(wrn(|wrn| wrn.dropout = 1.0), "dropout must be at least 0 and below 1 (got 1)");
}
