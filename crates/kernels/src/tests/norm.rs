//! Layer norm and dropout of tensors, against Burn's own; the slices' numbers are tested beside them.

use burn::{
    backend::Flex,
    module::Module,
    nn as burn_nn,
    store::{BurnToPyTorchAdapter, ModuleSnapshot},
    tensor::{Device, Distribution, Tensor, TensorData, Tolerance, module},
};

use crate::{
    composed, dropout,
    host::Host,
    layer_norm,
    nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig},
};

fn devices() -> Vec<Device> {
    vec![
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ]
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

#[track_caller]
fn assert_close<const D: usize>(found: &Tensor<D>, wanted: &Tensor<D>) {
    // Sums of 21 products or of 30 rows, in another order, of numbers up to about 5.
    found.to_data().assert_approx_eq::<f32>(&wanted.to_data(), Tolerance::absolute(2e-5));
}

/// The numbers of x, gamma and beta; those that `tracked` names have gradients.
fn leaves(device: &Device, tracked: [bool; 3]) -> [Tensor<1>; 3] {
    [(21 * 5 * 6, 0), (21, 1), (21, 2)].map(|(count, which)| {
        let numbers = (0..count).map(|index| (index as f32 * 1.7 + which as f32).sin() + 0.3).collect();
        let tensor = Tensor::from_data(TensorData::new::<f32, _>(numbers, [count]), device);
        if tracked[which] { tensor.require_grad() } else { tensor }
    })
}

/// A layer norm of a view `[5, 6, 21]` that does not lie in the order of its dimensions.
fn normalized([x, gamma, beta]: [Tensor<1>; 3], ours: bool) -> Tensor<3> {
    let x = x.reshape([21, 5, 6]).permute([1, 2, 0]);
    if ours { layer_norm(x, gamma, beta, 1e-5) } else { module::layer_norm(x, gamma, Some(beta), 1e-5) }
}

/// The gradients of a loss whose gradient differs from number to number.
fn gradients(leaves: &[Tensor<1>; 3], ours: bool) -> [Option<Tensor<1>>; 3] {
    let y = normalized(leaves.clone(), ours);
    let gradients = (y.clone().sin() + y.powi_scalar(2)).sum().div_scalar(30.0).backward();
    leaves.each_ref().map(|leaf| leaf.grad(&gradients))
}

#[test]
fn a_layer_norm_and_its_gradients_are_burns() {
    for device in devices() {
        for device in [device.clone(), device.clone().autodiff()] {
            let leaves = leaves(&device, [false; 3]);
            assert_close(&normalized(leaves.clone(), true), &normalized(leaves, false));
        }
        for tracked in [[true; 3], [false, true, true], [true, false, false], [false, false, true]] {
            let leaves = leaves(&device.clone().autodiff(), tracked);
            for ((ours, burns), tracked) in
                gradients(&leaves, true).into_iter().zip(gradients(&leaves, false)).zip(tracked)
            {
                assert_eq!([ours.is_some(), burns.is_some()], [tracked; 2]);
                if let (Some(ours), Some(burns)) = (ours, burns) {
                    assert_close(&ours, &burns);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "layer norm has one gamma and one beta for each feature")]
fn a_layer_norm_of_other_features_panics() {
    let [gamma, beta] = [4, 5].map(|features| Tensor::<1>::ones([features], &Device::flex()));
    let _ = layer_norm(Tensor::<2>::ones([2, 4], &Device::flex()), gamma, beta, 1e-5);
}

#[test]
fn a_dropout_scales_or_drops_each_number_and_its_gradient_alike() {
    for device in devices() {
        let device = device.autodiff();
        // Of a view that does not lie in the order of its dimensions.
        let leaf = random([40, 50], &device).require_grad();
        let x = leaf.clone().transpose();
        let y = dropout(x.clone(), 0.25);
        let gradients = y.clone().sum().backward();
        let mask = leaf.grad(&gradients).unwrap().transpose();
        let scale = 1.0 / 0.75;
        let dropped = floats(&mask).iter().filter(|&&factor| factor == 0.0).count();
        assert!(floats(&mask).iter().all(|factor| *factor == 0.0 || (factor - scale).abs() < 1e-6));
        // A mean of 500 and a standard deviation of 19.
        assert!((400..600).contains(&dropped), "{dropped} of 2000 are dropped");
        assert_close(&y.inner(), &(x.inner() * mask));
        let untracked = floats(&dropout(Tensor::<2>::ones([40, 50], &device), 0.25).inner());
        assert!((400..600).contains(&untracked.iter().filter(|&&factor| factor == 0.0).count()));
    }
}

#[test]
fn each_dropout_draws_a_mask_of_its_own() {
    for device in devices() {
        let ones = Tensor::<1>::ones([1000], &device.autodiff());
        assert!(floats(&dropout(ones.clone(), 0.5)) != floats(&dropout(ones, 0.5)));
    }
}

/// A dropout of 2000 ones by Burn's operations.
fn composed_dropout<B: Host>() -> Vec<f32> {
    let ones = B::float_from_data(TensorData::new(vec![1.0_f32; 2000], [2000]), &B::Device::default());
    B::floats(&composed::dropout::<B>(ones, 0.25)).unwrap().to_vec()
}

#[test]
fn the_composition_drops_as_many() {
    let y = composed_dropout::<Flex>();
    let dropped = y.iter().filter(|&&factor| factor == 0.0).count();
    assert!(y.iter().all(|factor| *factor == 0.0 || (factor - 1.0 / 0.75).abs() < 1e-6));
    assert!((400..600).contains(&dropped), "{dropped} of 2000 are dropped");
}

#[test]
fn a_dropout_layer_does_nothing_without_autodiff_when_frozen_or_with_probability_zero() {
    let layer = DropoutConfig::new(0.5).init();
    let [plain, trained] = [Device::flex(), Device::flex().autodiff()];
    let ones = |device: &Device| Tensor::<2>::ones([20, 20], device);
    let changes = |layer: &Dropout, device: &Device| floats(&layer.forward(ones(device))) != [1.0; 400];
    assert!(changes(&layer, &trained));
    assert!(!changes(&layer, &plain));
    assert!(!changes(&layer.valid(), &trained));
    assert!(!changes(&layer.clone().freeze(), &trained));
    assert!(!changes(&DropoutConfig::new(0.0).init(), &trained));
}

#[test]
#[should_panic(expected = "a dropout probability is in [0, 1), found 1")]
fn a_dropout_of_everything_panics() {
    let _ = dropout(Tensor::<1>::ones([2], &Device::flex()), 1.0);
}

#[derive(Module, Debug)]
struct Small {
    norm: LayerNorm,
    dropout: Dropout,
}

#[test]
fn files_have_pytorchs_names_by_burns_adapter() {
    let small = Small { norm: LayerNormConfig::new(3).init(&Device::flex()), dropout: DropoutConfig::new(0.5).init() };
    let found: Vec<_> = small
        .collect(None, Some(Box::new(BurnToPyTorchAdapter)), false)
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor.shape.to_vec()))
        .collect();
    assert_eq!(found, [("norm.weight", vec![3]), ("norm.bias", vec![3])].map(|(name, shape)| (name.to_owned(), shape)));
    assert_eq!(small.num_params(), 6);
}

#[test]
fn a_layer_norm_module_is_burns() {
    for device in devices() {
        let ours = LayerNormConfig::new(9).with_epsilon(0.1).init(&device);
        let burns = burn_nn::LayerNormConfig::new(9).with_epsilon(0.1).init(&device);
        let x = random([4, 9], &device);
        assert_close(&ours.forward(x.clone()), &burns.forward(x));
    }
}
