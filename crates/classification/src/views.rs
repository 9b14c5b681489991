use std::{cmp::Ordering, fmt};

use burn::tensor::{FloatDType, Tensor};
use kindling_config::{Config, TestTimeAugmentation};

/// Test-time augmentation: the views of an image whose logits are averaged. Without any it is the image alone.
///
/// `flip` adds the mirrored image, with equal weight. `shift` gives half the weight to the image and a quarter each to the
/// image moved by a pixel to the upper left and to the lower right; the pixel that comes in at an edge is the one beside
/// the edge's own, as PyTorch's `pad(mode="reflect")` has it. With both, each of the three has its mirrored image beside it,
/// as in `airbench94.py` of KellerJordan/cifar10-airbench.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views(Vec<TestTimeAugmentation>);

impl FromIterator<TestTimeAugmentation> for Views {
    fn from_iter<I: IntoIterator<Item = TestTimeAugmentation>>(augmentations: I) -> Self {
        let mut all: Vec<_> = augmentations.into_iter().collect();
        all.sort();
        all.dedup();
        Self(all)
    }
}

impl fmt::Display for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        f.write_str(&if names.is_empty() { "none".to_owned() } else { names.join(",") })
    }
}

impl Views {
    /// Those of the config's final test.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        config.protocol.test_time_augmentation().iter().copied().collect()
    }

    /// The names of the augmentations, as records have them.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Returns the mean of the logits that `network` gives the views of `images`, which may be normalized already. The mean
    /// is in f32, unless the image is its only view. One view is computed after the other.
    ///
    /// # Shapes
    /// - images: `[batch, channels, height, width]`
    /// - logits: `[batch, classes]`
    pub fn mean_logits(&self, images: Tensor<4>, network: impl Fn(Tensor<4>) -> Tensor<2>) -> Tensor<2> {
        if self.0.is_empty() {
            return network(images);
        }
        let has = |augmentation| self.0.contains(&augmentation);
        let logits = |view| network(view).cast(FloatDType::F32);
        let with_mirrored = |view: Tensor<4>| {
            if has(TestTimeAugmentation::Flip) {
                (logits(view.clone()) + logits(view.flip([3]))).mul_scalar(0.5)
            } else {
                logits(view)
            }
        };
        if !has(TestTimeAugmentation::Shift) {
            return with_mirrored(images);
        }
        let moved = |by| with_mirrored(moved(moved(images.clone(), 2, by), 3, by));
        let shifted = moved(Ordering::Less) + moved(Ordering::Greater);
        with_mirrored(images.clone()).mul_scalar(0.5) + shifted.mul_scalar(0.25)
    }
}

/// The images moved by a pixel along an axis, to lower or to higher places; a side of one pixel is its own reflection.
///
/// # Shapes
/// - images, also moved: `[batch, channels, height, width]`
fn moved(images: Tensor<4>, axis: usize, to: Ordering) -> Tensor<4> {
    let side = images.dims()[axis];
    if side < 2 {
        return images;
    }
    let part = |from, length| images.clone().narrow(axis, from, length);
    let parts = match to {
        Ordering::Less => vec![part(1, side - 1), part(side - 2, 1)],
        Ordering::Greater => vec![part(1, 1), part(0, side - 1)],
        Ordering::Equal => return images,
    };
    Tensor::cat(parts, axis)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;

    fn views(names: &[&str]) -> Views {
        names.iter().map(|name| name.parse::<TestTimeAugmentation>().unwrap()).collect()
    }

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn image(pixels: &[f32], height: usize, width: usize) -> Tensor<4> {
        Tensor::from_data(TensorData::new(pixels.to_vec(), [1, 1, height, width]), &Device::flex())
    }

    /// A network whose logits are the pixels.
    fn pixels(images: Tensor<4>) -> Tensor<2> {
        images.flatten::<2>(1, 3)
    }

    // import torch, torch.nn.functional as F
    // x = torch.arange(12.).reshape(1, 1, 3, 4) ** 2
    // p = F.pad(x, (1,) * 4, "reflect")
    // print(p[..., :3, :4].flatten().tolist(), p[..., 2:, 2:].flatten().tolist())
    const DOWN_RIGHT: [f32; 12] = [25.0, 16.0, 25.0, 36.0, 1.0, 0.0, 1.0, 4.0, 25.0, 16.0, 25.0, 36.0];
    const UP_LEFT: [f32; 12] = [25.0, 36.0, 49.0, 36.0, 81.0, 100.0, 121.0, 100.0, 25.0, 36.0, 49.0, 36.0];

    fn squares() -> Vec<f32> {
        (0..12_u8).map(|number| f32::from(number).powi(2)).collect()
    }

    fn mirrored(pixels: &[f32], width: usize) -> Vec<f32> {
        pixels.chunks(width).flat_map(|row| row.iter().rev().copied()).collect()
    }

    #[test]
    fn logits_are_averaged_over_the_views_by_their_weights() {
        let image = image(&squares(), 3, 4);
        let of = |names: &[&str]| numbers(views(names).mean_logits(image.clone(), pixels));
        let weighted = |parts: &[(f32, Vec<f32>)]| -> Vec<f32> {
            (0..12).map(|pixel| parts.iter().map(|(weight, pixels)| weight * pixels[pixel]).sum()).collect()
        };
        assert_eq!(of(&[]), squares());
        assert_eq!(of(&["flip"]), weighted(&[(0.5, squares()), (0.5, mirrored(&squares(), 4))]));
        let shift = weighted(&[(0.5, squares()), (0.25, UP_LEFT.to_vec()), (0.25, DOWN_RIGHT.to_vec())]);
        assert_eq!(of(&["shift"]), shift);
        // Mirroring views is mirroring their mean, of logits that are pixels.
        let both = weighted(&[(0.5, shift.clone()), (0.5, mirrored(&shift, 4))]);
        assert_eq!(of(&["shift", "flip", "shift"]), both);
    }

    #[test]
    fn a_linear_network_gives_the_mean_by_hand() {
        // Two pixels in a row, a, b: moved either way they are b, a, and mirrored as well.
        let weights = Tensor::<2>::from_data([[1.0, -2.0], [3.0, 5.0]], &Device::flex());
        let network = |images: Tensor<4>| pixels(images).matmul(weights.clone());
        let plain = |a: f32, b: f32| vec![a + 3.0 * b, -2.0 * a + 5.0 * b];
        let mean = |first: f32, logits: [Vec<f32>; 2]| -> Vec<f32> {
            (0..2).map(|class| first * logits[0][class] + (1.0 - first) * logits[1][class]).collect()
        };
        let views_of = |names: &[&str]| numbers(views(names).mean_logits(image(&[2.0, 8.0], 1, 2), network));
        let logits = || [plain(2.0, 8.0), plain(8.0, 2.0)];
        for names in [&["flip"][..], &["shift"], &["flip", "shift"]] {
            assert_eq!(views_of(names), mean(0.5, logits()), "{names:?}");
        }
        assert_eq!(views_of(&[]), mean(1.0, logits()));
    }

    proptest! {
        #[test]
        fn of_a_symmetric_image_the_mirrored_view_changes_nothing_and_of_a_constant_one_none_does(
            rows in prop::collection::vec(prop::collection::vec(-3.0..3.0_f32, 1..5), 1..5), constant in -3.0..3.0_f32,
        ) {
            let half = rows[0].len();
            let symmetric: Vec<f32> = rows.iter().flat_map(|row| {
                let row: Vec<f32> = row.iter().copied().cycle().take(half).collect();
                row.clone().into_iter().chain(row.into_iter().rev().skip(1))
            }).collect();
            let width = 2 * half - 1;
            let symmetric = image(&symmetric, rows.len(), width);
            let flipped = views(&["flip"]).mean_logits(symmetric.clone(), pixels);
            prop_assert_eq!(numbers(flipped), numbers(pixels(symmetric.clone())));
            // One pixel along a side, as in some of these, is its own reflection.
            let all = views(&["flip", "shift"]);
            let constant = symmetric.full_like(constant);
            prop_assert_eq!(numbers(all.mean_logits(constant.clone(), pixels)), numbers(pixels(constant)));
        }
    }

    #[test]
    fn names_are_sorted_and_said_once() {
        assert_eq!(views(&["shift", "flip", "shift"]).names(), ["flip", "shift"]);
        assert_eq!(views(&["shift", "flip"]).to_string(), "flip,shift");
        assert_eq!(Views::default().to_string(), "none");
    }
}
