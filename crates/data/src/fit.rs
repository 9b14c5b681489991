//! Brings pictures to the size and the channels that are asked for.

use std::{borrow::Cow, cell::RefCell, iter};

use fast_image_resize::{
    FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::{U8, U8x3},
};
use image::DynamicImage;
use kindling_config::{Channels, Fit, ImageSize};
use rayon::prelude::*;

use crate::{DataError, ImageData, ImageOptions, ImageSet, digest::fingerprint};

/// The shares of red, green and blue in grey, in 65,536ths: those of ITU-R BT.601, as Pillow has them.
const LUMA: [u32; 3] = [19_595, 38_470, 7_471];

thread_local! {
    /// Keeps its memory from one picture to the next.
    static RESIZER: RefCell<Resizer> = RefCell::default();
}

/// Returns the pixels of a picture as an image of `shape`.
///
/// # Shapes
/// `shape` and the pixels are `[channels, height, width]`, with one channel for grey or three for colour.
///
/// # Errors
/// When `shape` has another number of channels, or no pixel.
pub fn fitted_picture(picture: &DynamicImage, shape: [usize; 3], fit: Fit) -> Result<Vec<u8>, DataError> {
    let mut out = vec![0; shape.iter().product()];
    self::fit(picture, shape, fit, &mut out).map_err(DataError::Unusable)?;
    Ok(out)
}

/// Writes the pixels of a picture to `out` as an image of `shape`, channel by channel.
///
/// Transparent parts show white behind them. A picture of this size stays as it is. Another is resized by averaging
/// (bilinear with antialiasing, as torchvision's `Resize`): with [`Fit::Crop`] so that it covers the size, of which the
/// middle is taken; with [`Fit::Pad`] so that it has room in the middle of a canvas, which has the median colour of the
/// picture's border; with [`Fit::Stretch`] to the size.
pub(crate) fn fit(picture: &DynamicImage, shape: [usize; 3], fit: Fit, out: &mut [u8]) -> Result<(), String> {
    let [channels, height, width] = shape;
    if ![1, 3].contains(&channels) {
        return Err(format!("expected 1 or 3 channels, found {channels}"));
    }
    let pixels = if channels == 1 { grey(picture) } else { colour(picture) };
    let size = [picture.height() as usize, picture.width() as usize];
    let fitted = resized(pixels, channels, size, [height, width], fit)?;
    for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
        let values = fitted.iter().skip(channel).step_by(channels);
        plane.iter_mut().zip(values).for_each(|(pixel, value)| *pixel = *value);
    }
    Ok(())
}

/// One byte a pixel.
fn grey(picture: &DynamicImage) -> Cow<'_, [u8]> {
    match picture {
        DynamicImage::ImageLuma8(picture) => Cow::Borrowed(picture.as_raw()),
        DynamicImage::ImageLuma16(_) => Cow::Owned(picture.to_luma8().into_raw()),
        _ if picture.color().has_color() => {
            Cow::Owned(colour(picture).as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect())
        }
        _ => {
            let picture = picture.to_luma_alpha8();
            Cow::Owned(
                picture.as_raw().as_chunks::<2>().0.iter().map(|&[value, alpha]| over_white(value, alpha)).collect(),
            )
        }
    }
}

/// Three bytes a pixel.
fn colour(picture: &DynamicImage) -> Cow<'_, [u8]> {
    match picture {
        DynamicImage::ImageRgb8(picture) => Cow::Borrowed(picture.as_raw()),
        _ if !picture.color().has_color() => Cow::Owned(grey(picture).iter().flat_map(|&value| [value; 3]).collect()),
        _ if picture.color().has_alpha() => {
            let picture = picture.to_rgba8();
            let pixels = picture.as_raw().as_chunks::<4>().0.iter();
            Cow::Owned(pixels.flat_map(|&[r, g, b, alpha]| [r, g, b].map(|value| over_white(value, alpha))).collect())
        }
        _ => Cow::Owned(picture.to_rgb8().into_raw()),
    }
}

fn luma(pixel: [u8; 3]) -> u8 {
    let sum: u32 = iter::zip(pixel, LUMA).map(|(value, share)| u32::from(value) * share).sum();
    ((sum + 0x8000) >> 16) as u8
}

/// A byte in front of white.
pub(crate) fn over_white(value: u8, alpha: u8) -> u8 {
    let [value, alpha] = [value, alpha].map(u32::from);
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// Pixels of `channels` bytes each, resized from one `[height, width]` to another.
fn resized(
    pixels: Cow<'_, [u8]>,
    channels: usize,
    from: [usize; 2],
    to: [usize; 2],
    fit: Fit,
) -> Result<Cow<'_, [u8]>, String> {
    if from == to {
        return Ok(pixels);
    }
    if [from, to].as_flattened().contains(&0) {
        return Err("expected at least one pixel, found none".to_owned());
    }
    let [ratio_height, ratio_width] = [0, 1].map(|axis| to[axis] as f64 / from[axis] as f64);
    match fit {
        Fit::Stretch => scaled(&pixels, channels, from, to, [0.0, 0.0], from.map(|side| side as f64)).map(Cow::Owned),
        Fit::Crop => {
            let ratio = ratio_height.max(ratio_width);
            // The whole picture at its new size, cut as torchvision's `Resize` does.
            let all = [0, 1].map(|axis| ((from[axis] as f64 * ratio + 1e-6) as usize).max(to[axis]) as f64);
            let window = [0, 1].map(|axis| to[axis] as f64 * from[axis] as f64 / all[axis]);
            let before = |axis: usize| ((all[axis] - to[axis] as f64) / 2.0).round_ties_even();
            let place = [0, 1].map(|axis| before(axis) * from[axis] as f64 / all[axis]);
            scaled(&pixels, channels, from, to, place, window).map(Cow::Owned)
        }
        Fit::Pad => {
            let ratio = ratio_height.min(ratio_width);
            let inner = [0, 1].map(|axis| ((from[axis] as f64 * ratio).round() as usize).clamp(1, to[axis]));
            let small = scaled(&pixels, channels, from, inner, [0.0, 0.0], from.map(|side| side as f64))?;
            let mut canvas = border(&pixels, channels, from).repeat(to[0] * to[1]);
            let [top, left] = [0, 1].map(|axis| (to[axis] - inner[axis]) / 2);
            for (row, line) in small.chunks_exact(inner[1] * channels).enumerate() {
                let start = ((top + row) * to[1] + left) * channels;
                canvas[start..start + line.len()].copy_from_slice(line);
            }
            Ok(Cow::Owned(canvas))
        }
    }
}

/// The part of `pixels` that begins at `place` (`[top, left]`) and has this `size` (`[height, width]`), resized to `to`.
fn scaled(
    pixels: &[u8],
    channels: usize,
    from: [usize; 2],
    to: [usize; 2],
    place: [f64; 2],
    size: [f64; 2],
) -> Result<Vec<u8>, String> {
    // Rounding must not lead beyond the picture.
    let [top, left] = place.map(|start| start.max(0.0));
    let [height, width] = [size[0].min(from[0] as f64 - top), size[1].min(from[1] as f64 - left)];
    let mut out = vec![0; to[0] * to[1] * channels];
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(left, top, width, height)
        .use_alpha(false);
    // For these two kinds of pixels alone: for all kinds there are, it is half the compile time of this crate.
    match channels {
        1 => resize::<U8>(pixels, from, &mut out, to, &options)?,
        _ => resize::<U8x3>(pixels, from, &mut out, to, &options)?,
    }
    Ok(out)
}

fn resize<P: PixelTrait>(
    pixels: &[u8],
    from: [usize; 2],
    out: &mut [u8],
    to: [usize; 2],
    options: &ResizeOptions,
) -> Result<(), String> {
    let [from, to] = [from, to].map(|size| size.map(|side| side as u32));
    let source = TypedImageRef::<P>::from_buffer(from[1], from[0], pixels).map_err(|error| error.to_string())?;
    let mut image = TypedImage::<P>::from_buffer(to[1], to[0], out).map_err(|error| error.to_string())?;
    let resized = RESIZER.with_borrow_mut(|resizer| resizer.resize_typed(&source, &mut image, options));
    resized.map_err(|error| error.to_string())
}

/// The median of each channel at the border.
fn border(pixels: &[u8], channels: usize, [height, width]: [usize; 2]) -> Vec<u8> {
    let columns = (0..width).flat_map(|column| [[0, column], [height - 1, column]]);
    let rows = (0..height).flat_map(|row| [[row, 0], [row, width - 1]]);
    let places: Vec<usize> = columns.chain(rows).map(|[row, column]| (row * width + column) * channels).collect();
    let median = |channel: usize| {
        let mut values: Vec<u8> = places.iter().map(|place| pixels[place + channel]).collect();
        let middle = values.len() / 2;
        *values.select_nth_unstable(middle).1
    };
    (0..channels).map(median).collect()
}

impl ImageData {
    /// Brings all images to the size and the channels of `options`. Nothing changes where they have them.
    ///
    /// # Errors
    /// When images of 2 or 4 channels should become grey or coloured.
    pub fn fitted(self, options: &ImageOptions) -> Result<Self, DataError> {
        let [channels, height, width] = self.train.shape();
        let ImageSize { height, width } = options.size.unwrap_or(ImageSize { height, width });
        let shape = [options.channels.map_or(channels, Channels::count), height, width];
        if shape == self.train.shape() {
            return Ok(self);
        }
        if shape[0] != channels && ![1, 3].contains(&channels) {
            return Err(DataError::Unusable(format!(
                "{}: expected images of 1 or 3 channels, found {channels}; leave out --channels",
                self.name
            )));
        }
        let all = |set: &ImageSet| fitted_set(set, shape, options.fit);
        let text = format!("{shape:?} {}", options.fit);
        Ok(Self {
            train: all(&self.train)?,
            valid: self.valid.as_ref().map(all).transpose()?,
            test: all(&self.test)?,
            sha256: fingerprint([self.sha256.as_bytes(), text.as_bytes()]),
            ..self
        })
    }
}

fn fitted_set(set: &ImageSet, shape: [usize; 3], fit: Fit) -> Result<ImageSet, DataError> {
    let [channels, height, width] = shape;
    let [_, from @ ..] = set.shape();
    let mut pixels = vec![0; set.count() * channels * height * width];
    let fitted = |(index, out): (usize, &mut [u8])| {
        let image = set.image(index);
        let plane = from[0] * from[1];
        let planes: Cow<'_, [u8]> = if set.channels() == 3 && channels == 1 {
            Cow::Owned((0..plane).map(|place| luma([0, 1, 2].map(|channel| image[channel * plane + place]))).collect())
        } else {
            Cow::Borrowed(image)
        };
        for (out, source) in out.chunks_exact_mut(height * width).zip(planes.chunks_exact(plane)) {
            out.copy_from_slice(&resized(Cow::Borrowed(source), 1, from, [height, width], fit)?);
        }
        if set.channels() == 1 {
            (1..channels).for_each(|channel| out.copy_within(..height * width, channel * height * width));
        }
        Ok(())
    };
    let images = pixels.par_chunks_exact_mut(channels * height * width).enumerate();
    images.map(fitted).collect::<Result<(), String>>().map_err(DataError::Unusable)?;
    ImageSet::new(pixels, set.labels().to_vec(), shape)
}

#[cfg(test)]
mod tests {
    use image::{GrayAlphaImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;
    use crate::synthetic;

    fn pattern() -> GrayImage {
        GrayImage::from_fn(12, 9, |x, y| Luma([((x * x * 7 + y * 13 + x * y * 5) % 256) as u8]))
    }

    fn fitted(picture: impl Into<DynamicImage>, shape: [usize; 3], fit: Fit) -> Vec<u8> {
        fitted_picture(&picture.into(), shape, fit).unwrap()
    }

    /// `[[(x * x * 7 + y * 13 + x * y * 5) % 256 for x in range(12)] for y in range(9)]` as a Pillow image through
    /// torchvision 0.24: `Resize((4, 5))`, `Compose([Resize(4), CenterCrop(4)])`, and the first two rows of
    /// `Resize((11, 13))`.
    #[test]
    fn resizing_is_torchvisions_to_within_a_step() {
        let stretched =
            [25, 98, 156, 147, 152, 61, 140, 138, 134, 127, 100, 143, 134, 144, 150, 132, 112, 142, 129, 118];
        let cropped = [25, 98, 156, 147, 61, 140, 138, 134, 100, 143, 134, 144, 132, 112, 142, 129];
        let enlarged = [
            0, 6, 24, 54, 95, 148, 214, 182, 123, 155, 81, 175, 79, 9, 19, 40, 73, 118, 174, 150, 108, 159, 194, 124,
            222, 128,
        ];
        let cases = [
            ([1, 4, 5], Fit::Stretch, &stretched[..]),
            ([1, 4, 4], Fit::Crop, &cropped),
            ([1, 11, 13], Fit::Stretch, &enlarged),
        ];
        for (shape, fit, expected) in cases {
            let found = fitted(pattern(), shape, fit);
            // Both round to whole steps twice: rows first, then columns.
            assert!(found.iter().zip(expected).all(|(a, b): (&u8, &u8)| a.abs_diff(*b) <= 1), "{fit:?}: {found:?}");
        }
    }

    #[test]
    fn a_picture_of_the_size_asked_for_is_copied_channel_by_channel() {
        assert_eq!(fitted(pattern(), [1, 9, 12], Fit::Crop), pattern().into_raw());
        let colours = RgbImage::from_raw(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(fitted(colours, [3, 1, 2], Fit::Pad), [1, 4, 2, 5, 3, 6]);
        assert_eq!(fitted(GrayImage::from_pixel(1, 1, Luma([9])), [3, 1, 1], Fit::Crop), [9; 3]);
    }

    #[test]
    fn grey_weighs_colours_as_pillow_does() {
        // `Image.fromarray(numpy.array([[[200, 100, 50], [10, 20, 250]]], "uint8")).convert("L")`
        let colours = RgbImage::from_raw(2, 1, vec![200, 100, 50, 10, 20, 250]).unwrap();
        assert_eq!(fitted(colours, [1, 1, 2], Fit::Crop), [124, 43]);
    }

    #[test]
    fn white_shows_through_what_is_transparent_and_deep_pixels_keep_their_upper_bits() {
        let clear = RgbaImage::from_pixel(1, 1, Rgba([10, 20, 30, 0]));
        assert_eq!(fitted(clear, [3, 1, 1], Fit::Crop), [255; 3]);
        let half = GrayAlphaImage::from_pixel(1, 1, LumaA([55, 127]));
        assert_eq!(fitted(half, [1, 1, 1], Fit::Crop), [155]);
        let deep: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_pixel(1, 1, Rgb([0xFFFF, 0x8080, 0]));
        assert_eq!(fitted(deep, [3, 1, 1], Fit::Crop), [255, 128, 0]);
        let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_pixel(1, 1, Luma([0x4040]));
        assert_eq!(fitted(deep, [1, 1, 1], Fit::Crop), [64]);
    }

    #[test]
    fn cropping_takes_the_middle_padding_surrounds_it_and_stretching_keeps_all() {
        // Black on the left, white in the middle, black on the right.
        let wide = GrayImage::from_fn(12, 4, |x, _| Luma([if (4..8).contains(&x) { 255 } else { 0 }]));
        assert_eq!(fitted(wide.clone(), [1, 4, 4], Fit::Crop), [255; 16]);
        let padded = fitted(wide.clone(), [1, 12, 12], Fit::Pad);
        let expected = [vec![0; 48], wide.clone().into_raw(), vec![0; 48]].concat();
        assert_eq!(padded, expected);
        let stretched = fitted(wide, [1, 1, 3], Fit::Stretch);
        assert!(stretched[0] < 64 && stretched[1] > 180 && stretched[2] < 64, "{stretched:?}");
    }

    #[test]
    fn pictures_of_one_pixel_and_of_one_row_fit_any_size() {
        for [width, height] in [[1, 1], [1000, 1], [1, 999], [3, 7]] {
            for fit in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                for [rows, columns] in [[1, 1], [28, 28], [5, 33]] {
                    let picture = RgbImage::from_pixel(width, height, Rgb([7, 8, 9]));
                    let found = fitted(picture, [3, rows, columns], fit);
                    let expected = [7, 8, 9].map(|value| vec![value; rows * columns]).concat();
                    assert_eq!(found, expected, "{width}x{height}");
                }
            }
        }
    }

    #[test]
    fn images_in_memory_are_brought_to_size_and_a_digest_says_so() {
        let data = synthetic::draw();
        let options = ImageOptions {
            size: Some(ImageSize { height: 32, width: 20 }),
            channels: Some(Channels::Rgb),
            fit: Fit::Stretch,
        };
        let fitted = data.clone().fitted(&options).unwrap();
        assert_eq!((fitted.train.shape(), fitted.test.shape()), ([3, 32, 20], [3, 32, 20]));
        assert_eq!((fitted.train.labels(), fitted.fit), (data.train.labels(), None));
        let image = fitted.train.image(1).to_vec();
        assert_eq!((&image[..640], &image[640..1280]), (&image[1280..], &image[1280..]));
        assert_ne!(fitted.sha256, data.sha256);
        let again = fitted.clone().fitted(&options).unwrap();
        assert_eq!(again.sha256, fitted.sha256);
        let grey = ImageOptions { channels: Some(Channels::Grey), size: None, ..options };
        assert_eq!(data.clone().fitted(&grey).unwrap().sha256, data.sha256);
        // Equal channels have themselves as their grey.
        let back = fitted.fitted(&grey).unwrap();
        assert_eq!((back.train.shape(), back.train.image(1)), ([1, 32, 20], &image[..640]));
    }
}
