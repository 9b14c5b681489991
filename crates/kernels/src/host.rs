use burn::{
    backend::{
        Backend, DispatchDevice, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Shape, TensorData},
};

/// Whether the device's tensors are in the program's own memory: flex, ndarray, and libtorch on the CPU.
#[must_use]
pub fn is_on_host(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "libtorch")]
        DispatchDevice::LibTorch(device) => *device == burn::backend::libtorch::LibTorchDevice::Cpu,
        #[allow(unreachable_patterns)] // Where no other backend is compiled in.
        _ => false,
    }
}

/// A backend whose tensors may be in the program's own memory, where the fused operations reach them.
pub(crate) trait Host: Backend {
    /// Whether they are: a tensor of `f32` that is packed is then a slice.
    const ON_HOST: bool = false;

    /// The same tensor, its elements one after another in the order of its dimensions.
    fn packed(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor
    }

    /// The elements of a packed tensor, if they are `f32` in the program's memory.
    fn floats(_tensor: &FloatTensor<Self>) -> Option<&[f32]> {
        None
    }

    /// The elements of a packed tensor to write to, if in addition nobody else holds it.
    fn floats_mut(_tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]> {
        None
    }

    /// The elements of a tensor of whole numbers, if they are in the program's memory and none is negative.
    fn indices(_tensor: &IntTensor<Self>) -> Option<Vec<usize>> {
        None
    }

    /// A tensor on the device of another.
    fn tensor(floats: Vec<f32>, shape: Shape, like: &FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_from_data(TensorData::new(floats, shape), &like.device())
    }
}

#[cfg(feature = "flex")]
impl Host for burn::backend::Flex {
    const ON_HOST: bool = true;

    fn packed(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
    }

    fn floats(tensor: &FloatTensor<Self>) -> Option<&[f32]> {
        tensor.as_slice()
    }

    fn floats_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]> {
        let (start, end) = tensor.layout().contiguous_offsets()?;
        if tensor.dtype() != DType::F32 {
            return None;
        }
        tensor.try_storage_mut()?.get_mut(start..end)
    }

    fn indices(tensor: &IntTensor<Self>) -> Option<Vec<usize>> {
        match tensor.dtype() {
            DType::I64 => all_indices(tensor.as_slice::<i64>()?.iter().copied()),
            DType::I32 => all_indices(tensor.as_slice::<i32>()?.iter().copied()),
            _ => None,
        }
    }
}

#[cfg(any(feature = "flex", feature = "ndarray"))]
fn all_indices<T: Copy + TryInto<usize>>(numbers: impl Iterator<Item = T>) -> Option<Vec<usize>> {
    numbers.map(|number| number.try_into().ok()).collect()
}

#[cfg(feature = "ndarray")]
impl Host for burn::backend::NdArray {
    const ON_HOST: bool = true;

    fn packed(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        use burn::backend::ndarray::NdArrayTensor;
        match tensor {
            NdArrayTensor::F32(floats) if floats.view().as_slice().is_none() => {
                NdArrayTensor::F32(floats.view().as_standard_layout().into_owned().into_shared().into())
            }
            packed => packed,
        }
    }

    fn floats(tensor: &FloatTensor<Self>) -> Option<&[f32]> {
        use burn::backend::ndarray::NdArrayTensor;
        match tensor {
            NdArrayTensor::F32(floats) => floats.view().to_slice(),
            _ => None,
        }
    }

    fn floats_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]> {
        use burn::backend::ndarray::NdArrayTensor;
        match tensor {
            NdArrayTensor::F32(floats) if floats.is_unique() => floats.ensure_owned().as_slice_mut(),
            _ => None,
        }
    }

    fn indices(tensor: &IntTensor<Self>) -> Option<Vec<usize>> {
        use burn::backend::ndarray::NdArrayTensor;
        match tensor {
            NdArrayTensor::I64(numbers) => all_indices(numbers.view().iter().copied()),
            NdArrayTensor::I32(numbers) => all_indices(numbers.view().iter().copied()),
            _ => None,
        }
    }
}

#[cfg(feature = "cube")]
impl Host for burn::backend::Cube {}
#[cfg(feature = "remote")]
impl Host for burn::backend::Remote {}
#[cfg(feature = "capture")]
impl Host for burn::backend::capture::CaptureBackend {}
