use burn::{
    module::Module,
    nn::{Linear, conv::Conv2d},
    tensor::{Device, Tensor, TensorData},
};
use kindling_kernels::{
    Activation, ChannelOrder, Epilogue, Pool,
    nn::{self, BatchNorm, BatchNormConfig},
};
use serde::{Deserialize, Serialize};

use crate::{ImageShape, ModelError, Network, NetworkConfig, Whitening, init::Initializer, whitening};

/// The network of airbench94, which trains to 94 % of CIFAR-10 within seconds on a GPU: Jordan, "94% on CIFAR-10 in 3.29
/// seconds on a single GPU", <https://arxiv.org/abs/2404.00498>, and `airbench94.py` in KellerJordan/cifar10-airbench.
///
/// A frozen 2x2 convolution with a bias that trains, GELU, groups of two 3x3 convolutions (the first with 2x2 max pooling)
/// with batch norm and GELU each, 3x3 max pooling, and a linear layer without a bias. Batch norm trains its shift alone.
/// The frozen filters are there to whiten the images' patches. With [`Whitening::Images`] they do, as in the paper: the
/// network [adapts](NetworkConfig::adapt) to training images. Otherwise they are the orthonormal cosines of the patches, each
/// with both signs, which decorrelate natural images and leave their variances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AirbenchConfig {
    /// The share of a new batch in batch norm's running statistics: PyTorch's `momentum`, which is 1 minus airbench's own.
    pub batch_norm_momentum: f64,
    /// What the logits are multiplied by.
    pub scaling_factor: f64,
    /// What the frozen filters are made from.
    pub whitening: Whitening,
    /// How many directions the frozen filters keep, those of the largest variance or of the lowest frequencies; all where
    /// there is no number. Each is there with both signs.
    pub whitening_directions: Option<usize>,
    /// Rows and columns of a frozen filter. An odd one keeps the images' size, an even one takes a row and a column away.
    pub whitening_size: usize,
    /// Pixels from one frozen filter's place to the next: 1 in the original; with 2 the first layer halves its images.
    pub whitening_stride: usize,
    /// Channels of each group.
    pub widths: Vec<usize>,
}

/// See [`AirbenchConfig`]; `whiten.weight`, `groups.0.conv1.weight`, `groups.0.norm1.bias`, `head.weight` and so on in
/// PyTorch's naming.
#[derive(Module, Debug)]
pub struct Airbench {
    pub(crate) whiten: Conv2d,
    groups: Vec<Group>,
    head: Linear,
    scaling_factor: f64,
}

/// Two convolutions, the first of which pools.
#[derive(Module, Debug)]
struct Group {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
}

/// What batch norm adds to the variance, as in `airbench94.py`.
const EPSILON: f64 = 1e-12;

impl Default for AirbenchConfig {
    /// The preset `airbench`.
    fn default() -> Self {
        Self {
            batch_norm_momentum: 0.4,
            scaling_factor: 1.0 / 9.0,
            whitening: Whitening::Cosines,
            whitening_directions: None,
            whitening_size: 2,
            whitening_stride: 1,
            widths: vec![64, 256, 256],
        }
    }
}

impl NetworkConfig for AirbenchConfig {
    type Network = Airbench;

    const HELP: &'static [(&'static str, &'static str)] = &[
        ("batch_norm_momentum", "Share of a new batch in batch norm's running statistics, from 0 to 1"),
        ("scaling_factor", "What the logits are multiplied by"),
        ("whitening", "Frozen first filters: `cosines`, or whitening filters of the first training `images`"),
        ("whitening_directions", "How many of these filters are kept, the largest variances first; each in both signs"),
        ("whitening_size", "Rows and columns of those filters; an odd number keeps the images' size"),
        ("whitening_stride", "Pixels from one of their places to the next"),
        ("widths", "Channels of each group of two convolutions; every group halves its images"),
    ];

    fn init(&self, shape: ImageShape, seed: u64, device: &Device) -> Result<Airbench, ModelError> {
        let [height, width] = self.pooled(shape)?;
        let mut initializer = Initializer::new(seed, device);
        let directions = self.directions(shape.channels)?;
        let mut whiten = initializer.whitening_convolution(shape.channels, self.whitening_size, directions);
        whiten.stride = [self.whitening_stride; 2];
        let inputs = [directions.saturating_mul(2)].into_iter().chain(self.widths.iter().copied());
        let norm = |channels| {
            let config = BatchNormConfig::new(channels).with_momentum(self.batch_norm_momentum).with_epsilon(EPSILON);
            let mut norm = config.init(device);
            norm.gamma = norm.gamma.set_require_grad(false);
            norm
        };
        let group = |(inputs, &outputs): (usize, &usize)| Group {
            conv1: initializer.dirac_convolution(inputs, outputs),
            norm1: norm(outputs),
            conv2: initializer.dirac_convolution(outputs, outputs),
            norm2: norm(outputs),
        };
        let groups = inputs.zip(&self.widths).map(group).collect();
        let features = self.widths.last().map_or(0, |channels| channels.saturating_mul(height * width));
        let head = initializer.linear_without_bias(features, shape.classes);
        Ok(Airbench { whiten, groups, head, scaling_factor: self.scaling_factor })
    }

    fn sample(&self, ImageShape { channels, height, width, .. }: ImageShape) -> usize {
        match self.whitening {
            Whitening::Cosines => 0,
            Whitening::Images => whitening::sample(channels * height * width),
        }
    }

    fn adapt(&self, mut network: Airbench, images: Tensor<4>) -> Result<Airbench, ModelError> {
        if self.whitening == Whitening::Images {
            let [_, channels, height, width] = images.dims();
            let data = images.try_into_data().map_err(|error| ModelError::Invalid(error.to_string()))?;
            let images: Vec<f32> = data.iter::<f32>().collect();
            let mut filters = whitening::of_images(&images, [channels, height, width], self.whitening_size);
            filters.truncate(self.directions(channels)? * channels * self.whitening_size.pow(2));
            let filters = whitening::in_both_signs(filters);
            network.whiten.weight = network.whiten.weight.map(|weight| {
                let device = weight.device();
                let data = TensorData::new(filters, weight.dims());
                device.memory_persistent_allocations(data, |data| Tensor::from_data(data, &device))
            });
        }
        Ok(network)
    }
}

impl AirbenchConfig {
    /// Directions in which patches of so many channels are filtered.
    fn directions(&self, channels: usize) -> Result<usize, ModelError> {
        let all = channels.saturating_mul(self.whitening_size.saturating_pow(2));
        match self.whitening_directions {
            None => Ok(all),
            Some(directions) if (1..=all).contains(&directions) => Ok(directions),
            Some(found) => {
                let message =
                    format!("whitening_directions must be from 1 to the {all} numbers of a patch (got {found})");
                Err(ModelError::Invalid(message))
            }
        }
    }

    /// Height and width that are left for the linear layer, if the config makes a network.
    fn pooled(&self, shape: ImageShape) -> Result<[usize; 2], ModelError> {
        if self.widths.is_empty() {
            return Err(ModelError::Invalid("an airbench has at least one group (got no widths)".to_owned()));
        }
        if self.widths.contains(&0) {
            return Err(ModelError::EmptyLayer { key: "widths", widths: self.widths.clone() });
        }
        if !(0.0..=1.0).contains(&self.batch_norm_momentum) {
            let found = self.batch_norm_momentum;
            return Err(ModelError::Invalid(format!("batch_norm_momentum must be from 0 to 1 (got {found})")));
        }
        let (size, stride) = (self.whitening_size, self.whitening_stride);
        if size == 0 || stride == 0 {
            let message = format!("whitening_size and whitening_stride must be at least 1 (got {size} and {stride})");
            return Err(ModelError::Invalid(message));
        }
        // An even first convolution takes a row and a column away, every group halves, and the last pooling takes 3x3 pixels.
        let lost = usize::from(size.is_multiple_of(2));
        let halved = u32::try_from(self.widths.len()).map_or(usize::MAX, |groups| 2_usize.saturating_pow(groups));
        let least = (halved.saturating_mul(3) - 1).saturating_mul(stride).saturating_add(lost + 1).max(size);
        let ImageShape { height, width, .. } = shape;
        if height.min(width) < least {
            return Err(ModelError::TooSmall { network: "an airbench", least, height, width });
        }
        Ok([height, width].map(|side| ((side - lost - 1) / stride + 1) / halved / 3))
    }
}

impl Group {
    /// `[batch, inputs, height, width]` to `[batch, outputs, height / 2, width / 2]`, or to a third of that with the
    /// last pooling.
    fn forward(&self, x: Tensor<4>, pool: Option<Pool>) -> Tensor<4> {
        let pooled = Epilogue { pool: Some(Pool::MAX_2), pool_first: true, ..GELU };
        let x = nn::conv_layer(x, Some(&self.conv1), Some(&self.norm1), None, pooled);
        let order = if pool.is_some() { ChannelOrder::First } else { ChannelOrder::Last };
        nn::conv_layer(x, Some(&self.conv2), Some(&self.norm2), None, Epilogue { pool, order, ..GELU })
    }
}

/// A GELU, with the channels inside for the next layer.
const GELU: Epilogue = Epilogue { activation: Activation::Gelu, order: ChannelOrder::Last, ..Epilogue::NONE };

impl Network for Airbench {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // In the margin: the preset on images of 32x32 pixels in ten classes.
        let x = nn::conv_layer(images, Some(&self.whiten), None, None, GELU); // [batch, 24, 31, 31]
        let Some((last, groups)) = self.groups.split_last() else { return x.flatten(1, 3) };
        let x = groups.iter().fold(x, |x, group| group.forward(x, None)); // [batch, 256, 7, 7]
        let x = last.forward(x, Some(Pool::Max { size: 3, stride: 3 })); // [batch, 256, 1, 1]
        nn::linear(x.flatten(1, 3), &self.head).mul_scalar(self.scaling_factor) // [batch, 10]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::SMALL;

    #[test]
    fn what_makes_no_network_is_refused_with_what_was_wanted() {
        let device = Device::flex();
        let airbench = |widths: &[usize], batch_norm_momentum, shape| {
            let config = AirbenchConfig { batch_norm_momentum, widths: widths.to_vec(), ..AirbenchConfig::default() };
            config.init(shape, 1, &device).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(airbench(&[], 0.4, SMALL).unwrap_err(), "an airbench has at least one group (got no widths)");
        assert_eq!(airbench(&[4, 0], 0.4, SMALL).unwrap_err(), "widths must be at least 1 (got [4, 0])");
        assert_eq!(airbench(&[4], 1.5, SMALL).unwrap_err(), "batch_norm_momentum must be from 0 to 1 (got 1.5)");
        let small = airbench(&[4; 3], 0.4, SMALL).unwrap_err();
        assert!(small.contains("an airbench pools its images: this one needs at least 25x25 pixels"), "{small}");
        assert!(airbench(&[4; 99], 0.4, SMALL).is_err());
        let least = ImageShape { height: 25, width: 25, ..SMALL };
        assert_eq!(airbench(&[4; 3], 0.4, least), Ok(()));
        let whitening = |whitening_size| {
            let config = AirbenchConfig { widths: vec![4; 3], whitening_size, ..AirbenchConfig::default() };
            config.init(least, 1, &device).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(whitening(0).unwrap_err(), "whitening_size and whitening_stride must be at least 1 (got 0 and 1)");
        assert_eq!(whitening(1), Ok(()));
        assert_eq!(whitening(3), Ok(()));
        assert!(whitening(26).unwrap_err().contains("this one needs at least 26x26 pixels (got 25x25)"));
        assert!(whitening(usize::MAX).is_err());
        let config =
            AirbenchConfig { widths: vec![4; 2], whitening_size: 4, whitening_stride: 2, ..AirbenchConfig::default() };
        assert!(config.init(ImageShape { height: 24, ..least }, 1, &device).is_ok());
        let small = config.init(ImageShape { height: 23, ..least }, 1, &device).map(drop).unwrap_err();
        assert!(small.to_string().contains("24x24 pixels (got 23x25)"), "{small}");
        let directions = |count| {
            let config = AirbenchConfig { whitening_directions: Some(count), ..AirbenchConfig::default() };
            config.init(least, 1, &device).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(directions(4), Ok(()));
        assert!(
            directions(5).unwrap_err().ends_with("from 1 to the 4 numbers of a patch (got 5)")
                && directions(0).is_err()
        );
    }
}
