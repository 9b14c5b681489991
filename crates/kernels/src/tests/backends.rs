//! Through Burn's tensors, on the backends that have the operations.

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::{
    backend::Flex,
    tensor::{DType, Device, FloatDType, Int, Shape, Tensor, TensorData},
};

use super::{
    Numbers, check_distance, check_elements,
    conv_case::{ConvCase, Sizes, numbers},
    cross_entropy::{CROSS_ENTROPY_CLOSE, cross_entropy_case, plain_cross_entropy},
    distance, doubles, floats,
    linear::{LinearCase, linear_by_burn, plain_linear},
    plain_conv::{PlainLayer, some_layers},
    tensor,
};
use crate::{ChannelOrder, ConvLayer, ConvTensors, Epilogue, KernelOps, cpu::linear, host::Host};

fn devices() -> Vec<Device> {
    vec![
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ]
}

/// Each device, without and with gradients.
fn all_devices() -> Vec<Device> {
    devices().into_iter().flat_map(|device| [device.clone(), device.autodiff()]).collect()
}

fn check_layer(
    ours: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
    burns: impl Fn(Tensor<2>, Tensor<2>, Tensor<1>) -> Tensor<2>,
) {
    let case = LinearCase::new(linear::Sizes { batch: 9, inputs: 20, outputs: 33 }, 11);
    let (expected, expected_gradients) = case.differentiate(&Device::flex().autodiff(), burns);
    for device in all_devices() {
        let (x, weight, bias) = case.tensors(&device);
        check_distance("y", &floats(ours(x, weight, bias)), &expected);
    }
    for device in devices() {
        let (y, gradients) = case.differentiate(&device.autodiff(), &ours);
        check_distance("y with gradients", &y, &expected);
        for (found, expected) in gradients.iter().zip(&expected_gradients) {
            check_distance("a gradient", found, expected);
        }
    }
}

/// The same shape, of numbers in another order, with rows that are apart in memory.
fn transposed(tensor: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = tensor.dims();
    tensor.reshape([columns, rows]).transpose()
}

#[test]
fn a_linear_layer_is_burns_on_each_device() {
    check_layer(crate::linear, |x, weight, bias| linear_by_burn(x, weight, bias, false));
    check_layer(crate::linear_relu, |x, weight, bias| linear_by_burn(x, weight, bias, true));
    check_layer(
        |x, weight, bias| transposed(crate::linear_relu(transposed(x), transposed(weight), bias)),
        |x, weight, bias| transposed(linear_by_burn(transposed(x), transposed(weight), bias, true)),
    );
}

const ORDERS: [ChannelOrder; 2] = [ChannelOrder::First, ChannelOrder::Last];

fn singles(numbers: Vec<f64>) -> Vec<f32> {
    numbers.into_iter().map(|number| number as f32).collect()
}

#[test]
fn convolution_layers_are_those_of_plain_loops_on_each_device() {
    for (seed, sizes) in (60..).zip(some_layers()) {
        let case = ConvCase::real(sizes, seed);
        let (arrays, given) = (case.arrays(), case.given());
        let plain = PlainLayer::forward(sizes, &arrays, given.clone());
        let wanted = plain.backward(&arrays, &doubles(&case.dy), given.is_some());
        for order in ORDERS {
            let case = ConvCase { sizes: Sizes { orders: [order; 3], ..sizes }, ..case.clone() };
            for device in all_devices() {
                let (x, tensors) = case.tensors(&device, DType::F32);
                let y = crate::conv_layer(x, tensors, sizes.layer).output;
                check_distance(&format!("y of {sizes:?} on {device:?}"), &floats(y), &plain.output);
            }
            for device in devices() {
                let (y, gradients) = case.differentiate(&device.clone().autodiff(), DType::F32);
                let what = format!("{sizes:?} on {device:?}");
                check_distance(&format!("y with gradients of {what}"), &singles(y), &plain.output);
                case.check_gradients(&what, &gradients.map(|gradient| gradient.map(singles)), &wanted);
            }
        }
    }
}

/// The outputs of two blocks in a row, and the gradients of x and of the second's input.
fn in_a_row(case: &ConvCase, order: ChannelOrder, device: &Device, dtype: DType) -> [Vec<f64>; 3] {
    let (x, tensors) = case.tensors(&device.clone().autodiff(), dtype);
    let x = x.require_grad();
    let layer = case.sizes.layer;
    let first = ConvLayer { epilogue: Epilogue { order, ..layer.epilogue }, ..layer };
    // Rows for columns, so that the pixels of an image are apart in memory.
    let turned = ConvTensors { weight: tensors.weight.clone().map(|weight| weight.swap_dims(2, 3)), ..tensors.clone() };
    let y =
        crate::conv_layer(crate::conv_layer(x.clone().swap_dims(2, 3), turned, first).output, tensors, layer).output;
    let gradients = y.clone().powi_scalar(2).sum().backward();
    let z = crate::conv_layer(x.clone().swap_dims(2, 3).inner(), case.tensors(device, dtype).1, layer).output;
    [numbers(y), numbers(x.grad(&gradients).unwrap()), numbers(z)]
}

#[test]
fn two_blocks_in_a_row_on_turned_images_are_the_composition_on_each_device() {
    let case = ConvCase::real(Sizes::block(3, [16, 16], [10, 9]), 13);
    for order in ORDERS {
        let wanted = in_a_row(&case, order, &Device::flex(), DType::F64);
        for device in devices() {
            for (found, wanted) in in_a_row(&case, order, &device, DType::F32).into_iter().zip(&wanted) {
                check_distance("a number", &singles(found), wanted);
            }
        }
    }
}

#[test]
fn layers_that_nobody_differentiates_are_forgotten() {
    let device = Device::flex().autodiff();
    let weight = Tensor::<4>::ones([3, 3, 1, 1], &device).require_grad();
    let plain = weight.clone().inner();
    let layer = ConvLayer { stride: 1, padding: 0, groups: 1, epsilon: None, epilogue: Epilogue::NONE };
    let tensors = ConvTensors { weight: Some(weight), ..ConvTensors::default() };
    let once = |x| crate::conv_layer(x, tensors.clone(), layer).output;
    drop(once(once(Tensor::ones([1, 3, 2, 2], &device))));
    drop(tensors);
    // Burn frees what is left of other graphs after each backward pass, a layer at a time.
    let mut passes = (0..100).map(|_| drop(Tensor::<1>::ones([1], &device).require_grad().backward()));
    assert!(passes.any(|()| plain.can_mut()));
}

#[test]
fn only_what_requires_a_gradient_has_one() {
    let block = Sizes::block(3, [4, 4], [6, 5]);
    let case = ConvCase::real(Sizes { residual: Some([4, 6, 5]), ..block }, 70);
    for device in devices().into_iter().map(Device::autodiff) {
        let (_, all) = case.differentiate(&device, DType::F32);
        let (x, tensors) = case.tensors(&device, DType::F32);
        let residual = tensors.residual.clone().unwrap().require_grad();
        let tensors = ConvTensors { residual: Some(residual.clone()), ..tensors };
        let weight = tensors.weight.clone().unwrap();
        let y = crate::conv_layer(x.clone(), tensors, case.sizes.layer).output;
        let dy = tensor(&case.dy, y.dims(), &device);
        let gradients = (y * dy).sum().backward();
        assert!(x.grad(&gradients).is_none() && weight.grad(&gradients).is_none());
        assert!(Some(numbers(residual.grad(&gradients).unwrap())) == all[5], "{device:?}");
    }
}

#[test]
fn a_cross_entropy_is_that_of_plain_loops_on_each_device() {
    let (batch, classes) = (300, 10);
    let (logits, targets, dlosses) = cross_entropy_case(batch, classes);
    let numbers: Vec<i64> = targets.iter().map(|&target| target as i64).collect();
    for smoothing in [0.0, 0.1] {
        let (losses, dlogits) = plain_cross_entropy(&doubles(&logits), &targets, smoothing, &doubles(&dlosses));
        for device in all_devices() {
            let targets = Tensor::<1, Int>::from_data(TensorData::new(numbers.clone(), Shape::new([batch])), &device);
            let logits = tensor(&logits, [batch, classes], &device);
            if !device.is_autodiff() {
                let found = floats(crate::cross_entropy(logits, targets, smoothing));
                check_elements("losses", &found, &losses, |_| CROSS_ENTROPY_CLOSE);
                continue;
            }
            let logits = logits.require_grad();
            let found = crate::cross_entropy(logits.clone(), targets, smoothing);
            let gradients = (found.clone() * tensor(&dlosses, [batch], &device)).sum().backward();
            check_elements("losses", &floats(found), &losses, |_| CROSS_ENTROPY_CLOSE);
            let found = floats(logits.grad(&gradients).unwrap());
            check_elements("dlogits", &found, &dlogits, |_| CROSS_ENTROPY_CLOSE);
        }
    }
}

#[test]
fn a_step_of_descent_leaves_a_tensor_that_somebody_holds_as_it_was() {
    let mut numbers = Numbers(16);
    let (parameter, gradient) = (numbers.reals(40_000), numbers.reals(40_000));
    // Half a number is exact, so that there is one rounding only, the same for everybody.
    let expected: Vec<f32> =
        parameter.iter().zip(&gradient).map(|(&parameter, &gradient)| parameter - 0.5 * gradient).collect();
    for device in all_devices() {
        let tensors = || [&parameter, &gradient].map(|numbers| tensor(numbers, [200, 200], &device));
        let [moved, by] = tensors();
        assert!(floats(crate::sgd_step(moved, by, 0.5)) == expected, "{device:?}");
        let [held, by] = tensors();
        assert!(floats(crate::sgd_step(held.clone(), by, 0.5)) == expected, "{device:?}");
        assert!(floats(held) == parameter, "{device:?}");
        // Of tensors that do not lie in the order of their dimensions.
        let [moved, by] = tensors().map(Tensor::transpose);
        assert!(floats(crate::sgd_step(moved, by, 0.5).transpose()) == expected, "{device:?}");
    }
}

/// Where a parameter's numbers lie before and after a step.
fn places<B: Host + KernelOps>() -> [*const f32; 2] {
    let tensor = || B::float_from_data(TensorData::new(vec![1.0_f32; 100], Shape::new([100])), &B::Device::default());
    let parameter = tensor();
    let before = B::floats(&parameter).unwrap().as_ptr();
    let parameter = B::sgd_step(parameter, tensor(), 0.5, 0.0);
    [before, B::floats(&parameter).unwrap().as_ptr()]
}

#[test]
fn a_step_of_descent_stays_in_the_memory_of_a_tensor_that_nobody_else_holds() {
    let [before, after] = places::<Flex>();
    assert_eq!(before, after);
    #[cfg(feature = "ndarray")]
    {
        let [before, after] = places::<NdArray>();
        assert_eq!(before, after);
    }
}

fn double<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.cast(FloatDType::F64)
}

/// Fails where they are of another type.
fn from_double<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn numbers_of_another_type_stay_of_that_type() {
    let layer = LinearCase::new(linear::Sizes { batch: 9, inputs: 20, outputs: 33 }, 17);
    let case = ConvCase::real(Sizes::block(3, [3, 5], [7, 6]), 18);
    for device in all_devices() {
        // As exact as f64 is: f32 would be 1e-7 away.
        let (x, weight, bias) = layer.tensors(&device);
        let y = from_double(crate::linear_relu(double(x), double(weight), double(bias)));
        assert!(distance(&y, &plain_linear(layer.sizes, &layer.arrays(), true)) <= 1e-12, "{device:?}");

        let (x, tensors) = case.tensors(&device, DType::F64);
        let y = from_double(crate::conv_layer(x, tensors, case.sizes.layer).output);
        let plain = PlainLayer::forward(case.sizes, &case.arrays(), None);
        assert!(distance(&y, &plain.output) <= 1e-12, "{device:?}");
    }
    // ndarray has no bf16. Its numbers have eight bits: every factor and every result is off by up to 2⁻⁹ of itself.
    let (x, weight, bias) = layer.tensors(&Device::flex());
    let y = crate::linear(x.cast(FloatDType::BF16), weight.cast(FloatDType::BF16), bias.cast(FloatDType::BF16));
    assert_eq!(y.dtype(), DType::BF16);
    let y = floats(y.cast(FloatDType::F32));
    assert!(distance(&y, &plain_linear(layer.sizes, &layer.arrays(), false)) <= 8.0 / 512.0);
}

#[test]
fn flex_and_ndarray_are_on_the_host_with_and_without_gradients() {
    assert!(all_devices().iter().all(crate::is_on_host));
}

#[test]
fn rows_come_in_the_order_of_their_indices() {
    for device in all_devices() {
        let matrix = Tensor::<1, Int>::arange(0..60, &device).float().reshape([20, 3]);
        let indices: Vec<i32> = (0..37).map(|index| index * 7 % 20).collect();
        let selected = crate::select_rows(matrix.clone(), Tensor::from_ints(indices.as_slice(), &device));
        assert_eq!(selected.dims(), [37, 3], "{device:?}");
        let expected = matrix.clone().select(0, Tensor::<1, Int>::from_ints(indices.as_slice(), &device));
        assert!(floats(selected) == floats(expected), "{device:?}");

        // The third and the first column of the transposed view, which is packed first.
        let columns = crate::select_rows(matrix.transpose(), Tensor::from_ints([2, 0], &device));
        let expected: Vec<f32> = [2, 0].into_iter().flat_map(|c| (0..20).map(move |r| (r * 3 + c) as f32)).collect();
        assert!(floats(columns) == expected, "{device:?}");
    }
}

#[test]
fn gradients_pass_to_the_rows_that_were_selected() {
    for device in devices().into_iter().map(Device::autodiff) {
        let matrix = Tensor::<2>::ones([4, 2], &device).require_grad();
        let selected = crate::select_rows(matrix.clone(), Tensor::from_ints([1, 3, 1], &device));
        let gradients = selected.sum().backward();
        assert!(floats(matrix.grad(&gradients).unwrap()) == [0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
