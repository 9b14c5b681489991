//! Images of a data set as pictures: as PNG files, and drawn in the terminal.

use std::{env, io::Cursor};

use anyhow::{Context, Result};
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage, RgbaImage, imageops::FilterType};
use kindling_data::ImageSet;

/// Columns between pictures that are side by side.
pub(crate) const GAP: usize = 2;

/// Pixels that the longer side of an enlarged picture has at least, if the largest factor is enough for that.
const LARGE: u32 = 112;
/// The largest factor; reports undo factors up to it.
const LARGEST_FACTOR: u32 = 8;

/// Terminals with kitty's protocol and with sixel, by what their names in `TERM` contain.
const KITTY: [&str; 2] = ["kitty", "ghostty"];
const SIXEL: [&str; 4] = ["foot", "mlterm", "contour", "sixel"];

/// The image with the given index.
///
/// # Errors
/// When there is none.
pub(crate) fn of(set: &ImageSet, index: usize) -> Result<DynamicImage> {
    let count = set.count();
    let pixels = (index < count).then(|| set.image(index));
    pixels
        .and_then(|pixels| planar(pixels, set.shape()))
        .with_context(|| format!("expected an image below {count}, found {index}"))
}

/// The picture of planar pixels `[channels, height, width]`: in grey, or in colour where there are three channels or
/// more. None where the pixels do not fill the shape.
pub(crate) fn planar(pixels: &[u8], [channels, height, width]: [usize; 3]) -> Option<DynamicImage> {
    let (columns, rows, size) = (width as u32, height as u32, height * width);
    if pixels.len() != channels * size {
        return None;
    }
    if channels < 3 {
        return GrayImage::from_raw(columns, rows, pixels.get(..size)?.to_vec()).map(Into::into);
    }
    let color = |x: u32, y: u32| {
        let pixel = y as usize * width + x as usize;
        Rgb([pixels[pixel], pixels[size + pixel], pixels[2 * size + pixel]])
    };
    Some(RgbImage::from_fn(columns, rows, color).into())
}

/// The image with every pixel made a square, as large as it takes for the picture of a small image to be seen well.
pub(crate) fn enlarged(image: &DynamicImage) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    let factor = LARGE.div_ceil(width.max(height).max(1)).clamp(1, LARGEST_FACTOR);
    image.resize_exact(width * factor, height * factor, FilterType::Nearest)
}

/// The image as a PNG file.
///
/// # Errors
/// When it has no pixel.
pub(crate) fn png(image: &DynamicImage) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).context("a picture cannot be encoded")?;
    Ok(file.into_inner())
}

/// How many images of a width in pixels fit side by side into a number of columns: at least one.
pub(crate) fn beside(width: usize, columns: usize) -> usize {
    ((columns + GAP) / (width + GAP)).max(1)
}

/// Draws images beside one another in a terminal with escape sequences, [`GAP`] columns apart: by its own graphics if it
/// is known to have them, otherwise by half blocks, a column for each pixel in a row. Shrinks them to fit `columns`.
///
/// # Errors
/// When the terminal cannot be written to.
pub(crate) fn show(images: &[DynamicImage], columns: usize) -> Result<()> {
    let strip = strip(images);
    let width = strip.width().min(columns as u32).max(1);
    let height = strip.height() * width / strip.width().max(1);
    // viuer queries the terminal and waits for its answer without a limit: only terminals that answer are queried.
    let terminal = env::var("TERM").unwrap_or_default();
    let is_one_of = |names: &[&str]| names.iter().any(|name| terminal.contains(name));
    let config = viuer::Config {
        absolute_offset: false,
        transparent: true,
        width: Some(width),
        height: Some(height.div_ceil(2).max(1)),
        use_kitty: is_one_of(&KITTY),
        use_sixel: is_one_of(&SIXEL),
        ..viuer::Config::default()
    };
    viuer::print(&strip.into(), &config).context("the terminal cannot show pictures")?;
    if config.use_sixel && viuer::is_sixel_supported() {
        // The other ways leave the cursor below the picture.
        crate::output::print("");
    }
    Ok(())
}

/// One image of all, with transparent columns between them.
fn strip(images: &[DynamicImage]) -> RgbaImage {
    let width: u32 = images.iter().map(|image| image.width() + GAP as u32).sum();
    let height = images.iter().map(DynamicImage::height).max().unwrap_or_default();
    let mut strip = RgbaImage::new(width.saturating_sub(GAP as u32), height);
    let mut left = 0;
    for image in images {
        image::imageops::replace(&mut strip, &image.to_rgba8(), left, 0);
        left += i64::from(image.width()) + GAP as i64;
    }
    strip
}

#[cfg(test)]
mod tests {
    use image::Luma;
    use kindling_data::synthetic;

    use super::*;

    #[test]
    fn an_image_of_the_set_is_read_row_by_row() {
        let set = ImageSet::new((0..18).collect(), vec![0, 1, 2], [1, 2, 3]).unwrap();
        let image = of(&set, 1).unwrap().into_luma8();
        assert_eq!((image.dimensions(), image.get_pixel(2, 0).0, image.get_pixel(0, 1).0), ((3, 2), [8], [9]));
        assert_eq!(of(&set, 3).unwrap_err().to_string(), "expected an image below 3, found 3");
    }

    #[test]
    fn an_image_of_three_channels_is_read_plane_by_plane() {
        let set = ImageSet::new((0..36).collect(), vec![0, 1], [3, 2, 3]).unwrap();
        let image = of(&set, 1).unwrap();
        assert!(image.color().has_color());
        assert_eq!(image.into_rgb8().get_pixel(1, 1).0, [22, 28, 34]);
        assert!(planar(&[0; 5], [3, 1, 2]).is_none());
    }

    #[test]
    fn enlarging_repeats_pixels_and_a_png_gives_them_back() {
        let ramp = GrayImage::from_fn(30, 28, |x, y| Luma([(x * 4 + y * 5) as u8]));
        let large = enlarged(&ramp.clone().into());
        assert_eq!((large.width(), large.height()), (120, 112));
        for (x, y, pixel) in large.to_luma8().enumerate_pixels() {
            assert_eq!(pixel, ramp.get_pixel(x / 4, y / 4));
        }
        assert_eq!(image::load_from_memory(&png(&large).unwrap()).unwrap(), large);
        let photo = DynamicImage::new_rgb8(80, 300);
        assert_eq!(enlarged(&photo), photo);
    }

    #[test]
    fn pictures_beside_one_another_are_gap_columns_apart() {
        assert_eq!([27, 28, 57, 58, 100].map(|columns| beside(28, columns)), [1, 1, 1, 2, 3]);
        let set = synthetic::draw().test;
        let strip = strip(&[of(&set, 0).unwrap(), of(&set, 1).unwrap()]);
        assert_eq!(strip.dimensions(), (58, 28));
        let last = set.image(1)[783];
        assert_eq!(strip.get_pixel(57, 27).0, [last, last, last, 255]);
        assert!((0..28).all(|y| strip.get_pixel(28, y).0[3] == 0 && strip.get_pixel(29, y).0[3] == 0));
    }
}
