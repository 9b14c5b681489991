use burn::{
    module::{Module, Param},
    nn::{self as burn_nn, PaddingConfig2d, conv::Conv2dConfig},
    store::{BurnToPyTorchAdapter, ModuleSnapshot},
    tensor::{Device, Distribution, Tensor, Tolerance, activation::relu, module::max_pool2d, ops::MaxPoolOptions},
};

use super::*;
use crate::{Activation, ChannelOrder, Epilogue, Pool};

fn plain() -> Device {
    Device::flex()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

#[track_caller]
fn assert_close<const D: usize>(found: &Tensor<D>, wanted: &Tensor<D>) {
    // The largest are near 3, and sums of 27 f32 in another order, which Winograd's transforms enlarge.
    found.to_data().assert_approx_eq::<f32>(&wanted.to_data(), Tolerance::absolute(1e-4));
}

#[test]
fn a_linear_layer_gives_what_burns_own_gives_with_and_without_bias_and_relu() {
    for device in [plain(), plain().autodiff()] {
        for (bias, with_relu) in [(true, false), (true, true), (false, false), (false, true)] {
            let activation = if with_relu { Activation::Relu } else { Activation::None };
            let ours = LinearConfig::new(7, 5).with_bias(bias).with_activation(activation).init(&device);
            let burns = burn_nn::Linear { weight: ours.weight.clone(), bias: ours.bias.clone() };
            assert_eq!(ours.bias.is_some(), bias);
            let x = random([3, 7], &device);
            let wanted = burns.forward(x.clone());
            let wanted = if with_relu { relu(wanted) } else { wanted };
            assert_close(&ours.forward(x.clone()), &wanted);
            let function = if with_relu { linear_relu(x, &burns) } else { linear(x, &burns) };
            assert_close(&function, &wanted);
        }
    }
}

#[test]
fn initial_weights_are_lazy_and_fill_pytorchs_range_evenly() {
    let layer = LinearConfig::new(784, 512).init(&plain());
    assert!(!layer.weight.is_initialized());
    let values: Vec<f32> = layer.weight.val().into_data().iter::<f32>().collect();
    let bound = 1.0 / 28.0; // 1/sqrt(784)
    assert!(values.iter().all(|value| value.abs() <= bound));
    let mean_square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
    // The variance of U(-b, b) is b²/3; 400,000 draws come within a thousandth of it.
    assert!((mean_square / (bound * bound / 3.0) - 1.0).abs() < 5e-3);
}

#[test]
fn a_block_gives_what_burns_layers_give_one_after_the_other() {
    let device = plain().autodiff();
    for channels_last in [false, true] {
        let block = ConvBlockConfig::new(3, 4).with_channels_last(channels_last).init(&device);
        let norm = burn_nn::BatchNormConfig::new(4).init(&device);
        let x = random([2, 3, 9, 8], &device);
        let wanted = pooled(relu(norm.forward(block.conv.forward(x.clone()))));
        assert_close(&block.forward(x.clone()), &wanted);
        // In evaluation by the statistics that training has left.
        let trained = block.valid();
        let x = x.inner();
        let norm = trained.norm.as_ref().unwrap();
        let wanted = pooled(relu(norm.forward(trained.conv.forward(x.clone()))));
        assert_close(&trained.forward(x), &wanted);
    }
}

fn pooled(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([2, 2]))
}

#[test]
fn a_block_before_training_takes_a_mean_of_zero_and_a_variance_of_one() {
    let block = ConvBlockConfig::new(2, 3).init(&plain());
    let x = random([2, 2, 6, 6], &plain());
    assert_close(&block.forward(x.clone()), &pooled(relu(block.conv.forward(x) / (1.0 + 1e-5f32).sqrt())));
}

#[test]
fn batch_norm_gathers_the_variance_of_the_population() {
    let device = plain().autodiff();
    let norm = BatchNorm::new(1, &device);
    let x = Tensor::<2>::from_floats([[1.0], [3.0], [5.0]], &device);
    let y = norm.forward(x); // mean 3, variance 8/3 of the batch, 4 of the population
    let scale = (8.0f32 / 3.0 + 1e-5).sqrt();
    assert_close(&y.inner(), &Tensor::from_floats([[-2.0 / scale], [0.0], [2.0 / scale]], &plain()));
    let norm = norm.valid();
    assert_close(&norm.running_mean.value(), &Tensor::from_floats([0.3], &plain()));
    assert_close(&norm.running_var.value(), &Tensor::from_floats([0.9 + 0.4], &plain()));
    let y = norm.forward(Tensor::<2>::from_floats([[1.3]], &plain()));
    assert_close(&y, &Tensor::from_floats([[1.0 / (1.3f32 + 1e-5).sqrt()]], &plain()));
}

#[test]
fn the_running_statistics_of_a_block_are_those_of_the_layer_by_itself() {
    let device = plain().autodiff();
    let block = ConvBlockConfig::new(1, 2).init(&device);
    let norm = BatchNorm::new(2, &device);
    for _ in 0..3 {
        let x = random([4, 1, 6, 6], &device);
        let _ = norm.forward(block.conv.forward(x.clone()));
        let _ = block.forward(x);
    }
    let (block, norm) = (block.norm.unwrap().valid(), norm.valid());
    assert_close(&block.running_mean.value(), &norm.running_mean.value());
    assert_close(&block.running_var.value(), &norm.running_var.value());
}

#[test]
fn batch_norm_takes_its_own_momentum_and_epsilon() {
    let device = plain().autodiff();
    let norm = BatchNormConfig::new(1).with_momentum(0.4).with_epsilon(1.0).init(&device);
    let x = Tensor::<4>::from_floats([[[[1.0, 5.0]]]], &device);
    let y = norm.forward(x); // mean 3, variance 4 of the batch, 8 of the population
    assert_close(&y.inner(), &Tensor::from_floats([[[[-2.0 / 5.0f32.sqrt(), 2.0 / 5.0f32.sqrt()]]]], &plain()));
    let norm = norm.valid();
    assert_close(&norm.running_mean.value(), &Tensor::from_floats([1.2], &plain()));
    assert_close(&norm.running_var.value(), &Tensor::from_floats([0.6 + 3.2], &plain()));
}

#[test]
fn batch_norm_whose_scale_alone_is_frozen_is_in_training() {
    let device = plain().autodiff();
    let mut norm = BatchNorm::new(2, &device);
    norm.gamma = norm.gamma.set_require_grad(false);
    let before = running(&norm);
    let gradients = norm.forward(random::<3>([4, 2, 5], &device)).powi_scalar(2).sum().backward();
    assert_ne!(running(&norm), before);
    assert!(norm.gamma.val().grad(&gradients).is_none() && norm.beta.val().grad(&gradients).is_some());
}

#[test]
fn layers_give_what_burns_layers_give_one_after_the_other() {
    let device = plain().autodiff();
    // The end of a residual block that halves its images.
    let convolution = Conv2dConfig::new([6, 8], [3, 3])
        .with_stride([2, 2])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_groups(2)
        .with_bias(false)
        .init(&device);
    let (ours, burns) = (BatchNorm::new(8, &device), burn_nn::BatchNormConfig::new(8).init(&device));
    let (x, residual) = (random([2, 6, 9, 8], &device), random([2, 5, 9, 8], &device));
    let order = ChannelOrder::Last;
    let epilogue = Epilogue { activation: Activation::Relu, residual_stride: 2, order, ..Epilogue::default() };
    let found = conv_layer(x.clone(), Some(&convolution), Some(&ours), Some(residual.clone()), epilogue);
    let rows = Tensor::from_ints([0, 2, 4, 6, 8], &device);
    let strided = residual.select(2, rows.clone()).select(3, rows.slice(0..4)); // [2, 5, 5, 4]
    let fitted = Tensor::cat(vec![strided, Tensor::zeros([2, 3, 5, 4], &device)], 1);
    assert_close(&found, &relu(burns.forward(convolution.forward(x)) + fitted));
    // Without a convolution, and with its activation alone.
    let x = random([2, 8, 5, 4], &device);
    let pool = Some(Pool::Global);
    let found = conv_layer(x.clone(), None, None, None, Epilogue { pool, ..Epilogue::default() });
    assert_close(&found, &x.clone().mean_dim(3).mean_dim(2));
    let silu = Epilogue { activation: Activation::Silu, ..Epilogue::default() };
    assert_close(&conv_layer(x.clone(), None, None, None, silu), &burn::tensor::activation::silu(x));
}

#[test]
fn blocks_are_what_their_config_says() {
    let device = plain();
    let config =
        ConvBlockConfig::new(4, 6).with_kernel(5).with_stride(2).with_groups(2).with_bias(false).with_norm(false);
    let config = config.with_activation(Activation::Gelu).with_pool(Some(Pool::Average { size: 2, stride: 1 }));
    let block = config.init(&device);
    assert!(block.conv.bias.is_none() && block.norm.is_none());
    let x = random([2, 4, 9, 8], &device);
    let wanted = burn::tensor::activation::gelu(block.conv.forward(x.clone())); // [2, 6, 5, 4]
    let wanted =
        burn::tensor::module::avg_pool2d(wanted, burn::tensor::ops::AvgPoolOptions::new([2, 2]).with_stride([1, 1]));
    assert_close(&block.forward(x), &wanted);
    let written = config.to_string();
    assert!(written.contains("Gelu") && written.contains("Average"), "{written}");
}

#[test]
fn convolutions_that_are_no_layers_are_refused() {
    for (config, part) in [
        (Conv2dConfig::new([1, 1], [3, 3]).with_stride([1, 2]), "one stride"),
        (Conv2dConfig::new([1, 1], [3, 3]).with_dilation([2, 2]), "no dilation"),
        (Conv2dConfig::new([1, 1], [3, 3]).with_padding(PaddingConfig2d::Same), "the same explicit padding"),
        (
            Conv2dConfig::new([1, 1], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 0)),
            "the same explicit padding",
        ),
    ] {
        let convolution = config.init(&plain());
        let layer = || conv_layer(random([1, 1, 5, 5], &plain()), Some(&convolution), None, None, Epilogue::default());
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(layer()))).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains(part));
    }
}

#[test]
fn every_parameter_of_the_modules_gets_a_gradient() {
    let device = plain().autodiff();
    let block = ConvBlockConfig::new(1, 2).with_channels_last(true).init(&device);
    let layer = LinearConfig::new(2 * 3 * 3, 4).init(&device);
    let y = layer.forward(block.forward(random([4, 1, 6, 6], &device)).flatten(1, 3));
    let gradients = y.powi_scalar(2).sum().backward();
    assert!(block.conv.weight.val().grad(&gradients).is_some());
    let norm = block.norm.unwrap();
    assert!(norm.gamma.val().grad(&gradients).is_some() && norm.beta.val().grad(&gradients).is_some());
    assert!(layer.weight.val().grad(&gradients).is_some());
    assert!(layer.bias.unwrap().val().grad(&gradients).is_some());
}

/// The running statistics of a layer, to the bit.
fn running(norm: &BatchNorm) -> Vec<Vec<u32>> {
    let norm = norm.valid();
    [norm.running_mean.value(), norm.running_var.value()].map(bits).to_vec()
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    tensor.into_data().iter::<f32>().map(f32::to_bits).collect()
}

/// A block that has seen some batches.
fn trained(inputs: usize, outputs: usize, device: &Device) -> ConvBlock {
    let block = ConvBlockConfig::new(inputs, outputs).init(device);
    (0..3).for_each(|_| drop(block.forward(random([4, inputs, 8, 8], device))));
    block.valid().train()
}

#[test]
fn frozen_blocks_compute_as_in_evaluation_and_leave_their_statistics() {
    let device = plain().autodiff();
    let block = trained(16, 16, &device).freeze();
    let before = running(block.norm.as_ref().unwrap());
    let x = random([2, 16, 8, 8], &device);
    let y = block.forward(x.clone());
    assert_eq!(bits(y.clone().inner()), bits(block.valid().forward(x.clone().inner())));
    let x = x.flatten::<2>(1, 3);
    let norm = BatchNorm::new(16 * 64, &device).freeze();
    let normalised = norm.forward(x.clone());
    assert_eq!(bits(normalised.inner()), bits(norm.valid().forward(x.inner())));
    let own = block.norm.unwrap();
    assert_eq!(running(&own), before);
    let layer = LinearConfig::new(16 * 16, 3).init(&device);
    let gradients = layer.forward(y.flatten(1, 3)).sum().backward();
    assert!(layer.weight.val().grad(&gradients).is_some());
    assert!(block.conv.weight.val().grad(&gradients).is_none() && own.gamma.val().grad(&gradients).is_none());
}

#[test]
fn gradients_pass_through_frozen_layers_to_what_is_trained_before_and_inside_them() {
    let device = plain().autodiff();
    for freezes_all in [true, false] {
        let mut block = trained(3, 5, &device);
        if freezes_all {
            block = block.freeze();
        } else {
            // The convolution is trained, by the statistics of before.
            block.norm = block.norm.map(Module::freeze);
        }
        let head = LinearConfig::new(5 * 3 * 3, 2).with_activation(Activation::Relu).init(&device).freeze();
        let x = random([2, 3, 7, 6], &device).require_grad();
        let norm = block.norm.as_ref().unwrap();
        let ([mean, variance], [gamma, beta]) = (norm.running(&device), norm.learned());
        let convolved = block.conv.forward(x.clone());
        let normalised = burn::tensor::module::batch_norm(convolved, gamma, beta, mean, variance, norm.epsilon);
        let burns = pooled(relu(normalised)).flatten::<2>(1, 3);
        let burns = burn_nn::Linear { weight: head.weight.clone(), bias: head.bias.clone() }.forward(burns);
        let wanted = relu(burns).sum().backward();
        let found = head.forward(block.forward(x.clone()).flatten(1, 3)).sum().backward();
        assert_close(&x.grad(&found).unwrap(), &x.grad(&wanted).unwrap());
        let (weight, bias) = (block.conv.weight.val(), block.conv.bias.as_ref().unwrap().val());
        assert_eq!(weight.grad(&found).is_none(), freezes_all);
        if !freezes_all {
            assert_close(&weight.grad(&found).unwrap(), &weight.grad(&wanted).unwrap());
            assert_close(&bias.grad(&found).unwrap(), &bias.grad(&wanted).unwrap());
        }
        assert!(head.weight.val().grad(&found).is_none());
    }
}

#[derive(Module, Debug)]
struct Small {
    block: ConvBlock,
    fc: Linear,
}

#[test]
fn files_have_pytorchs_names_and_layout_by_burns_adapter() {
    let small = Small {
        block: ConvBlockConfig::new(1, 2).init(&plain()),
        fc: LinearConfig::new(18, 4).with_activation(Activation::Relu).init(&plain()),
    };
    let found: Vec<_> = small
        .collect(None, Some(Box::new(BurnToPyTorchAdapter)), false)
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor.shape.to_vec()))
        .collect();
    let wanted = [
        ("block.conv.weight", vec![2, 1, 3, 3]),
        ("block.conv.bias", vec![2]),
        ("block.norm.weight", vec![2]),
        ("block.norm.bias", vec![2]),
        ("block.norm.running_mean", vec![2]),
        ("block.norm.running_var", vec![2]),
        ("fc.weight", vec![4, 18]),
        ("fc.bias", vec![4]),
    ];
    assert_eq!(found, wanted.map(|(name, shape)| (name.to_owned(), shape)));
}

#[derive(Module, Debug)]
struct Mixed {
    blocks: Vec<ConvBlock>,
    scale: Param<Tensor<1>>,
    head: Option<Linear>,
    tail: burn_nn::BatchNorm,
    choice: Choice,
}

#[derive(Module, Debug)]
enum Choice {
    Own(Linear),
}

fn mixed(device: &Device) -> Mixed {
    Mixed {
        blocks: vec![ConvBlockConfig::new(1, 2).init(device)],
        scale: burn_nn::Initializer::Ones.init([3], device),
        head: Some(LinearConfig::new(4, 5).with_bias(false).init(device)),
        tail: burn_nn::BatchNormConfig::new(6).init(device),
        choice: Choice::Own(LinearConfig::new(1, 1).init(device)),
    }
}

#[test]
fn parameters_have_the_paths_and_kinds_of_their_layers_and_stay_lazy() {
    for device in [plain(), plain().autodiff()] {
        let module = mixed(&device);
        let found: Vec<_> = named_parameters(&module)
            .into_iter()
            .map(|it| format!("{} | {} {} {:?} {}", it.path, it.layer, it.kind, it.shape, it.trainable))
            .collect();
        let wanted = [
            "blocks.0.conv.weight | blocks.0.conv Conv2d [2, 1, 3, 3] true",
            "blocks.0.conv.bias | blocks.0.conv Conv2d [2] true",
            "blocks.0.norm.gamma | blocks.0.norm BatchNorm [2] true",
            "blocks.0.norm.beta | blocks.0.norm BatchNorm [2] true",
            "blocks.0.norm.running_mean | blocks.0.norm BatchNorm [2] false",
            "blocks.0.norm.running_var | blocks.0.norm BatchNorm [2] false",
            "scale |  Mixed [3] true",
            "head.weight | head Linear [4, 5] true",
            "tail.gamma | tail BatchNorm [6] true",
            "tail.beta | tail BatchNorm [6] true",
            "tail.running_mean | tail BatchNorm [6] false",
            "tail.running_var | tail BatchNorm [6] false",
            "choice.Own.weight | choice.Own Linear [1, 1] true",
            "choice.Own.bias | choice.Own Linear [1] true",
        ];
        assert_eq!(found, wanted);
        assert!(!module.scale.is_initialized() && !module.blocks[0].conv.weight.is_initialized());
    }
}

#[test]
fn frozen_parameters_are_not_trainable_whether_lazy_or_not_and_in_validation_too() {
    for device in [plain(), plain().autodiff()] {
        for draw in [false, true] {
            let mut module = mixed(&device);
            if draw {
                let _ = module.head.as_ref().map(|head| head.weight.val());
            }
            module.head = module.head.map(Module::freeze);
            for module in [module.clone(), module.valid()] {
                let parameters = named_parameters(&module);
                let trainable = |path: &str| parameters.iter().find(|it| it.path == path).unwrap().trainable;
                assert!(!trainable("head.weight") && trainable("scale") && !trainable("tail.running_var"));
            }
        }
    }
}

#[test]
fn parameters_of_absurd_sizes_are_named_and_counted_without_being_made() {
    let mut block = ConvBlockConfig::new(1, 1).init(&plain());
    block.conv = Conv2dConfig::new([1 << 55, 1 << 10], [3, 3]).init(&plain());
    block.norm = Some(BatchNorm::new(usize::MAX, &plain()));
    let parameters = named_parameters(&block);
    assert_eq!(parameters[0].count(), usize::MAX);
    assert_eq!(parameters[2].shape, [usize::MAX]);
    assert_eq!(named_parameters(&LinearConfig::new(1 << 40, 1 << 20).init(&plain()))[0].count(), 1 << 60);
}
