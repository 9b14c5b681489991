//! Brightness, contrast and saturation as torchvision changes them, of pixels in [0, 1].

/// Weights of red, green and blue in grey: torchvision's `rgb_to_grayscale`.
const GREY: [f32; 3] = [0.2989, 0.587, 0.114];

/// Factors by which the pixels of an image are changed, in this order; 1 changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Color {
    pub(crate) brightness: f32,
    pub(crate) contrast: f32,
    /// Of images with three channels.
    pub(crate) saturation: f32,
}

impl Color {
    /// Changes an image of so many channels.
    #[allow(clippy::float_cmp)] // A factor of exactly 1 changes nothing.
    pub(crate) fn apply(&self, channels: usize, pixels: &mut [f32]) {
        if self.brightness != 1.0 {
            blend(pixels, self.brightness, 0.0);
        }
        if self.contrast != 1.0 {
            let grey = mean_grey(channels, pixels);
            blend(pixels, self.contrast, grey);
        }
        if self.saturation != 1.0 && channels == 3 {
            saturate(pixels, self.saturation);
        }
    }
}

/// Moves the pixels away from `other`, which a factor of 0 would make them.
fn blend(pixels: &mut [f32], factor: f32, other: f32) {
    let rest = other * (1.0 - factor);
    for pixel in pixels {
        *pixel = clamped(*pixel * factor + rest);
    }
}

fn saturate(pixels: &mut [f32], factor: f32) {
    let plane = pixels.len() / 3;
    let (red, rest) = pixels.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let grey = (*red * GREY[0] + *green * GREY[1] + *blue * GREY[2]) * (1.0 - factor);
        for pixel in [red, green, blue] {
            *pixel = clamped(*pixel * factor + grey);
        }
    }
}

/// `f32::clamp` compiles to branches where NaN has to pass.
#[allow(clippy::manual_clamp)]
fn clamped(pixel: f32) -> f32 {
    pixel.max(0.0).min(1.0)
}

/// The mean of the image in grey.
fn mean_grey(channels: usize, pixels: &[f32]) -> f32 {
    let plane = pixels.len() / channels;
    let means = pixels.chunks_exact(plane).map(|plane_pixels| sum(plane_pixels) / plane as f64);
    if channels == 3 {
        means.zip(GREY).map(|(mean, weight)| mean * f64::from(weight)).sum::<f64>() as f32
    } else {
        (means.sum::<f64>() / channels as f64) as f32
    }
}

/// The sum in an order of its own, the same on every machine, that needs no number to wait for the one before.
fn sum(pixels: &[f32]) -> f64 {
    let of_part = |part: &[f32]| {
        let mut lanes = [0.0_f32; 8];
        let eights = part.chunks_exact(8);
        let rest: f32 = eights.remainder().iter().sum();
        for eight in eights {
            lanes.iter_mut().zip(eight).for_each(|(lane, pixel)| *lane += pixel);
        }
        f64::from(lanes.iter().sum::<f32>() + rest)
    };
    pixels.chunks(1024).map(of_part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Color = Color { brightness: 1.0, contrast: 1.0, saturation: 1.0 };

    fn changed(color: Color, channels: usize, pixels: &[f32]) -> Vec<f32> {
        let mut pixels = pixels.to_vec();
        color.apply(channels, &mut pixels);
        pixels
    }

    #[test]
    fn factors_of_one_change_nothing_and_factors_of_zero_leave_black_the_mean_or_grey() {
        let pixels = [0.0, 1.0, 0.25, 0.5, 0.75, 0.25];
        assert_eq!(changed(NONE, 3, &pixels), pixels);
        assert_eq!(changed(Color { brightness: 0.0, ..NONE }, 3, &pixels), [0.0; 6]);
        assert_eq!(changed(Color { contrast: 0.0, ..NONE }, 1, &[0.0, 1.0, 0.5, 0.0]), [0.375; 4]);
        let grey = changed(Color { saturation: 0.0, ..NONE }, 3, &pixels);
        assert_eq!(grey[..2], grey[2..4]);
        assert_eq!(grey[..2], grey[4..]);
        assert_eq!(changed(Color { saturation: 0.0, ..NONE }, 1, &pixels), pixels, "grey images have no saturation");
    }

    #[test]
    fn pixels_stay_in_their_range() {
        let strong = Color { brightness: 3.0, contrast: 5.0, saturation: 4.0 };
        assert!(changed(strong, 3, &[0.1, 0.9, 0.5, 0.2, 0.7, 1.0]).iter().all(|pixel| (0.0..=1.0).contains(pixel)));
    }

    #[test]
    fn a_sum_has_every_pixel_once() {
        for length in [0, 1, 7, 8, 9, 1023, 1024, 1025, 3000] {
            let pixels: Vec<f32> = (0..length).map(|index| (index % 7) as f32).collect();
            let expected: u32 = (0..length).map(|index| index % 7).sum();
            assert!((sum(&pixels) - f64::from(expected)).abs() < 1e-9, "{length}");
        }
    }
}
