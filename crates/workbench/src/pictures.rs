//! Pictures: greyscale images from a data set's bytes, PNG and JPEG files, and drawing in the terminal.

use std::{env, fs, io::Cursor, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits,
    LumaA,
};
use kindling_data::ImageSet;

use crate::jpeg;

/// Columns between pictures that are side by side.
pub(crate) const GAP: usize = 2;

/// The first bytes of a PNG file.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Terminals with kitty's protocol and with sixel, by what their names in `TERM` contain.
const KITTY: [&str; 2] = ["kitty", "ghostty"];
const SIXEL: [&str; 4] = ["foot", "mlterm", "contour", "sixel"];

/// The image with the given index.
///
/// # Errors
/// When there is none.
pub(crate) fn of(set: &ImageSet, index: usize) -> Result<GrayImage> {
    let [height, width] = set.size();
    let pixels = set.pixels().chunks_exact(height * width).nth(index);
    pixels
        .and_then(|pixels| GrayImage::from_raw(width as u32, height as u32, pixels.to_vec()))
        .with_context(|| format!("expected an image below {}, found {index}", set.count()))
}

/// The image with every pixel made a square of `factor` times `factor`.
pub(crate) fn enlarged(image: &GrayImage, factor: u32) -> GrayImage {
    let (width, height) = image.dimensions();
    GrayImage::from_fn(width * factor, height * factor, |x, y| *image.get_pixel(x / factor, y / factor))
}

/// The image as a PNG file.
///
/// # Errors
/// When it has no pixel.
pub(crate) fn png(image: &GrayImage) -> Result<Vec<u8>> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).context("a picture cannot be encoded")?;
    Ok(file.into_inner())
}

/// Reads a PNG or JPEG file, whatever its name, and applies its orientation.
///
/// # Errors
/// When it cannot be read, is no such picture, takes more than 512 MiB, or is cut or damaged.
pub(crate) fn read(path: &Path) -> Result<DynamicImage> {
    // Once, since it may be a pipe.
    let file = fs::read(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let decoded = || -> ImageResult<DynamicImage> {
        let mut decoder = ImageReader::new(Cursor::new(&file)).with_guessed_format()?.into_decoder()?;
        Limits::default().reserve(decoder.total_bytes())?;
        let orientation = decoder.orientation()?;
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    };
    let picture = decoded().map_err(|error| match error {
        ImageError::IoError(error) => anyhow!("{}: {error}", path.display()),
        error => anyhow!("{}: expected a picture in PNG or JPEG that can be decoded, found: {error}", path.display()),
    })?;
    let flaw = if file.starts_with(PNG) { png_flaw(&file) } else { jpeg::check(&file).err() };
    match flaw {
        None => Ok(picture),
        Some(flaw) => bail!("{}: the picture is cut or damaged ({flaw})", path.display()),
    }
}

/// What is wrong with a PNG file that was decoded: its data have been checked, but not whether the file has its end.
fn png_flaw(file: &[u8]) -> Option<&'static str> {
    let mut rest = file.get(PNG.len()..).unwrap_or_default();
    // A chunk is its length, its kind, so many bytes, and a checksum.
    while let Some((&[a, b, c, d, kind @ ..], _)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 12;
        match rest.get(length..) {
            Some(_) if kind == *b"IEND" => return None,
            Some(behind) => rest = behind,
            None => break,
        }
    }
    Some("it ends before its last chunk")
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
pub(crate) fn show(images: &[GrayImage], columns: usize) -> Result<()> {
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
fn strip(images: &[GrayImage]) -> GrayAlphaImage {
    let width: u32 = images.iter().map(|image| image.width() + GAP as u32).sum();
    let height = images.iter().map(GrayImage::height).max().unwrap_or_default();
    let mut strip = GrayAlphaImage::new(width.saturating_sub(GAP as u32), height);
    let mut left = 0;
    for image in images {
        for (x, y, pixel) in image.enumerate_pixels() {
            strip.put_pixel(left + x, y, LumaA([pixel.0[0], u8::MAX]));
        }
        left += image.width() + GAP as u32;
    }
    strip
}

#[cfg(test)]
mod tests {
    use image::{Luma, RgbImage};
    use kindling_data::synthetic;

    use super::*;

    fn ramp() -> GrayImage {
        GrayImage::from_fn(3, 2, |x, y| Luma([(x * 40 + y * 120) as u8]))
    }

    #[test]
    fn an_image_of_the_set_is_read_row_by_row() {
        let set = ImageSet::new((0..18).collect(), vec![0, 1, 2], 2, 3).unwrap();
        let image = of(&set, 1).unwrap();
        assert_eq!((image.dimensions(), image.get_pixel(2, 0).0, image.get_pixel(0, 1).0), ((3, 2), [8], [9]));
        assert_eq!(of(&set, 3).unwrap_err().to_string(), "expected an image below 3, found 3");
    }

    #[test]
    fn enlarging_repeats_pixels_and_a_png_gives_them_back() {
        let large = enlarged(&ramp(), 4);
        assert_eq!(large.dimensions(), (12, 8));
        for (x, y, pixel) in large.enumerate_pixels() {
            assert_eq!(pixel, ramp().get_pixel(x / 4, y / 4));
        }
        let place = tempfile::tempdir().unwrap();
        // The content decides, not the name.
        let path = place.path().join("picture.jpg");
        fs::write(&path, png(&large).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap().into_luma8(), large);
    }

    #[test]
    fn jpeg_is_read_and_what_is_no_picture_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("picture.jpeg");
        RgbImage::from_pixel(16, 8, image::Rgb([200, 200, 200])).save(&path).unwrap();
        let picture = read(&path).unwrap().into_luma8();
        assert_eq!(picture.dimensions(), (16, 8));
        // JPEG keeps an even grey to within a level or two.
        assert!(picture.pixels().all(|pixel| pixel.0[0].abs_diff(200) <= 3));

        let path = place.path().join("note.png");
        fs::write(&path, "no picture").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("note.png: expected a picture in PNG or JPEG"), "{message}");
        fs::write(&path, &png(&ramp()).unwrap()[..40]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("note.png"));
        assert!(read(&place.path().join("none.png")).unwrap_err().to_string().contains("none.png: "));
    }

    #[test]
    fn a_picture_that_is_cut_anywhere_or_damaged_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("picture");
        let jpeg = include_bytes!("jpeg/baseline.jpg").to_vec();
        for whole in [png(&ramp()).unwrap(), jpeg] {
            fs::write(&path, [&whole[..], b"what some programs append"].concat()).unwrap();
            read(&path).unwrap();
            for length in (8..whole.len()).step_by(7).chain(whole.len() - 4..whole.len()) {
                fs::write(&path, &whole[..length]).unwrap();
                let message = read(&path).unwrap_err().to_string();
                assert!(message.contains("picture: "), "{length}: {message}");
            }
            let mut damaged = whole;
            let middle = damaged.len() * 3 / 4;
            damaged[middle - 5..middle + 5].copy_from_slice(b"0123456789");
            fs::write(&path, damaged).unwrap();
            read(&path).unwrap_err();
        }
    }

    #[test]
    fn pictures_beside_one_another_are_gap_columns_apart() {
        assert_eq!([27, 28, 57, 58, 100].map(|columns| beside(28, columns)), [1, 1, 1, 2, 3]);
        let set = synthetic::draw().test;
        let strip = strip(&[of(&set, 0).unwrap(), of(&set, 1).unwrap()]);
        assert_eq!(strip.dimensions(), (58, 28));
        assert_eq!(strip.get_pixel(57, 27).0, [set.pixels()[2 * 784 - 1], 255]);
        assert!((0..28).all(|y| strip.get_pixel(28, y).0[1] == 0 && strip.get_pixel(29, y).0[1] == 0));
    }
}
