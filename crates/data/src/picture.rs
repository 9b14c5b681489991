//! Pictures from files: JPEG, PNG, WebP, GIF (its first frame), BMP and TIFF, upright and whole.

mod codes;
mod jpeg;

use std::{
    fs::File,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, metadata::Orientation};

use crate::DataError;

/// How the names of picture files end, in small letters.
pub const ENDINGS: [&str; 9] = ["jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// The most bytes that a picture's file and its pixels may have.
const MOST_BYTES: u64 = 512 << 20;
/// Nearly all headers are within so many bytes.
const HEADER: u64 = 64 << 10;

/// The first bytes of a PNG file and of a JPEG file.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = &[0xFF, 0xD8];

/// Reads a picture, whatever the file's name, and applies its orientation.
///
/// # Errors
/// When it cannot be read, or is not what [`decode`] takes.
pub fn read(path: &Path) -> Result<DynamicImage, DataError> {
    // Once, since it may be a pipe, and not to the end of one that has none.
    let mut file = Vec::new();
    let read = File::open(path).and_then(|opened| opened.take(MOST_BYTES + 1).read_to_end(&mut file));
    read.map_err(DataError::io(path))?;
    if file.len() as u64 > MOST_BYTES {
        let message = format!("expected a picture of at most {} MiB, found a larger file", MOST_BYTES >> 20);
        return Err(DataError::malformed(path, message));
    }
    decode(&file).map_err(|message| DataError::malformed(path, message))
}

/// Decodes a picture and applies its orientation. The content tells the format.
///
/// # Errors
/// When it is no picture of a known format, takes more than 512 MiB, or is cut or damaged.
pub fn decode(file: &[u8]) -> Result<DynamicImage, String> {
    contained(|| decoded(file))
}

/// Runs `work`, which gives a file to a decoder, and turns a panic into an error: decoders are careful, and yet a file is
/// whatever somebody gives, and the error gets the picture's name.
fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
        Err(format!("the decoder of the picture's format fails: {text}"))
    })
}

fn decoded(file: &[u8]) -> Result<DynamicImage, String> {
    let mut decoder = decoder(file)?;
    let bytes = decoder.total_bytes();
    if bytes > MOST_BYTES {
        let (width, height) = decoder.dimensions();
        let [bytes, most] = [bytes, MOST_BYTES].map(|bytes| bytes >> 20);
        return Err(format!(
            "{height}x{width} pixels take {bytes} MiB, a picture may take {most} MiB (make it smaller)"
        ));
    }
    // What is wrong with the description of a picture is not wrong with the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    // Decoders show a part of a picture that is cut or damaged.
    let flaw = match file {
        _ if file.starts_with(PNG) => png_flaw(file),
        _ if file.starts_with(JPEG) => jpeg::check(file).err(),
        _ => None,
    };
    if let Some(flaw) = flaw {
        return Err(format!("the picture is cut or damaged ({flaw})"));
    }
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Returns the `[height, width]` of a picture that stands upright, and whether it is grey, from its header alone.
///
/// # Errors
/// When the file cannot be read, or has no header of a known format.
pub fn dimensions(path: &Path) -> Result<([usize; 2], bool), DataError> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEADER).read_to_end(&mut bytes).map_err(DataError::io(path))?;
    let mut header = header(&bytes);
    if header.is_err() && bytes.len() as u64 == HEADER {
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(DataError::io(path))?;
        header = self::header(&bytes);
    }
    header.map_err(|message| DataError::malformed(path, message))
}

fn header(file: &[u8]) -> Result<([usize; 2], bool), String> {
    contained(|| described(file))
}

fn described(file: &[u8]) -> Result<([usize; 2], bool), String> {
    let mut decoder = decoder(file)?;
    let (width, height) = decoder.dimensions();
    let size = [height as usize, width as usize];
    // The description stands behind the pixels of a PNG or WebP file, if it likes, where decoding finds it as well.
    let size = match decoder.orientation().unwrap_or(Orientation::NoTransforms) {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            [size[1], size[0]]
        }
        _ => size,
    };
    Ok((size, !decoder.color_type().has_color()))
}

fn decoder(file: &[u8]) -> Result<impl ImageDecoder + '_, String> {
    if file.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() {
        return Err("expected a picture (JPEG, PNG, WebP, GIF, BMP or TIFF), found something else".to_owned());
    }
    reader.into_decoder().map_err(undecodable)
}

fn undecodable(error: ImageError) -> String {
    match error {
        ImageError::IoError(error) => format!("the picture is cut or damaged ({error})"),
        error => format!("expected a picture that can be decoded, found: {error}"),
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

#[cfg(test)]
pub(crate) mod tests {
    use flate2::Crc;
    use image::{ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};

    use std::fs;

    use super::*;

    /// A PNG file whose header says that it has these sides, with colour and without any pixel.
    pub(crate) fn bomb(side: u32) -> Vec<u8> {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let mut crc = Crc::new();
            crc.update(&[kind, data].concat());
            [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
        };
        let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        [PNG, &chunk(b"IHDR", &header), &chunk(b"IDAT", &[0x78, 0x9C, 1]), &chunk(b"IEND", &[])].concat()
    }

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn colours() -> RgbImage {
        RgbImage::from_fn(6, 4, |x, y| Rgb([(x * 40) as u8, (y * 60) as u8, 200]))
    }

    fn header(bytes: &[u8]) -> ([usize; 2], bool) {
        super::header(bytes).unwrap()
    }

    #[test]
    fn every_format_is_known_by_its_content() {
        let exact = [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff];
        for format in exact {
            let file = encoded(&colours().into(), format);
            assert_eq!(decode(&file).unwrap().to_rgb8(), colours(), "{format:?}");
            assert_eq!(header(&file), ([4, 6], false), "{format:?}");
        }
        for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
            let even = RgbImage::from_pixel(16, 8, Rgb([200, 40, 90]));
            let file = encoded(&even.into(), format);
            let picture = decode(&file).unwrap().to_rgb8();
            assert_eq!((picture.dimensions(), header(&file)), ((16, 8), ([8, 16], false)), "{format:?}");
            // They keep an even colour to within a level or two.
            let is_near = |pixel: &Rgb<u8>| pixel.0.iter().zip([200, 40, 90]).all(|(a, b)| a.abs_diff(b) <= 4);
            assert!(picture.pixels().all(is_near), "{format:?}: {:?}", picture.get_pixel(0, 0));
        }
    }

    #[test]
    fn the_first_frame_of_an_animation_is_the_picture() {
        let mut file = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut file);
        for colour in [[255, 0, 0, 255], [0, 0, 255, 255]] {
            encoder.encode_frame(image::Frame::new(image::RgbaImage::from_pixel(3, 2, Rgba(colour)))).unwrap();
        }
        drop(encoder);
        assert_eq!(decode(&file).unwrap().to_rgb8(), RgbImage::from_pixel(3, 2, Rgb([255, 0, 0])));
    }

    #[test]
    fn grey_of_any_depth_is_grey_and_a_palette_gives_its_colours() {
        let pictures: [DynamicImage; 3] = [
            image::GrayImage::from_pixel(2, 3, Luma([7])).into(),
            image::ImageBuffer::from_pixel(2, 3, Luma([0x8080_u16])).into(),
            image::GrayAlphaImage::from_pixel(2, 3, LumaA([7, 9])).into(),
        ];
        for picture in pictures {
            let file = encoded(&picture, ImageFormat::Png);
            assert_eq!((header(&file), decode(&file).unwrap().color()), (([3, 2], true), picture.color()));
        }
        let mut file = Vec::new();
        let indices = [0, 1, 1, 0];
        image::codecs::bmp::BmpEncoder::new(&mut file)
            .encode_with_palette(&indices, 2, 2, image::ExtendedColorType::L8, Some(&[[255, 0, 0], [0, 255, 0]]))
            .unwrap();
        let pixels = decode(&file).unwrap().to_rgb8();
        assert_eq!((pixels.get_pixel(0, 0).0, pixels.get_pixel(1, 0).0), ([255, 0, 0], [0, 255, 0]));
    }

    #[test]
    fn the_four_colours_of_print_become_those_of_a_screen() {
        // Pillow's `Image.new("CMYK", (8, 8), (0, 255, 255, 0))` with its right half of (255, 255, 0, 0), as JPEG.
        let file = include_bytes!("picture/cmyk.jpg");
        let picture = decode(file).unwrap().to_rgb8();
        assert_eq!(header(file), ([8, 8], false));
        for (x, colour) in [(1, [255, 0, 0]), (6, [0, 0, 255])] {
            let found = picture.get_pixel(x, 1).0;
            assert!(found.iter().zip(colour).all(|(a, b): (&u8, u8)| a.abs_diff(b) <= 6), "{found:?}");
        }
    }

    #[test]
    fn a_picture_stands_as_its_camera_was_held() {
        let mut upright = RgbImage::from_pixel(16, 8, Rgb([0, 0, 0]));
        (0..8).for_each(|y| (0..8).for_each(|x| upright.put_pixel(x, y, Rgb([255, 255, 255]))));
        let file = encoded(&upright.into(), ImageFormat::Jpeg);
        // Big-endian TIFF with one entry: tag 0x112, a short, one of it, 6 (turn by a quarter, clockwise).
        let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let length = (exif.len() as u16 + 2).to_be_bytes();
        let turned = [&file[..2], &[0xFF, 0xE1], &length, exif, &file[2..]].concat();
        let picture = decode(&turned).unwrap().to_luma8();
        assert_eq!((picture.dimensions(), header(&turned)), ((8, 16), ([16, 8], false)));
        // What is on the left comes to the top.
        assert!(picture.get_pixel(4, 2).0[0] > 240 && picture.get_pixel(4, 13).0[0] < 15);
    }

    #[test]
    fn what_is_no_picture_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("note.png");
        let message = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            assert!(dimensions(&path).unwrap_err().to_string().contains("note.png: "));
            read(&path).unwrap_err().to_string()
        };
        assert!(message(b"no picture").contains("note.png: expected a picture (JPEG, PNG,"));
        assert!(message(b"").ends_with("note.png: the file is empty"));
        assert!(message(&encoded(&colours().into(), ImageFormat::Png)[..20]).contains("note.png: "));
        assert!(read(&place.path().join("none.png")).unwrap_err().to_string().contains("none.png: "));
    }

    #[test]
    fn a_panic_of_a_decoder_is_an_error_with_its_message() {
        let error = contained::<()>(|| panic!("index out of bounds")).unwrap_err();
        assert_eq!(error, "the decoder of the picture's format fails: index out of bounds");
        assert_eq!(contained(|| Ok(3)), Ok(3));
    }

    #[test]
    fn a_picture_that_is_too_large_is_refused_before_its_pixels_are_read() {
        let message = decode(&bomb(40_000)).unwrap_err();
        assert_eq!(message, "40000x40000 pixels take 4577 MiB, a picture may take 512 MiB (make it smaller)");
        assert_eq!(header(&bomb(40_000)), ([40_000, 40_000], false));
    }

    #[test]
    fn a_picture_that_is_cut_anywhere_or_damaged_is_refused() {
        let jpeg = include_bytes!("picture/baseline.jpg").to_vec();
        for whole in [encoded(&colours().into(), ImageFormat::Png), jpeg] {
            decode(&[&whole[..], b"what some programs append"].concat()).unwrap();
            for length in (0..whole.len()).step_by(7).chain(whole.len() - 4..whole.len()) {
                decode(&whole[..length]).unwrap_err();
            }
            let mut damaged = whole;
            let middle = damaged.len() * 3 / 4;
            damaged[middle - 5..middle + 5].copy_from_slice(b"0123456789");
            decode(&damaged).unwrap_err();
        }
        for format in [ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Tiff] {
            let whole = encoded(&colours().into(), format);
            assert!(decode(&whole[..whole.len() / 2]).is_err(), "{format:?}");
        }
    }

    #[test]
    fn a_header_may_be_longer_than_what_is_read_first() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("picture.jpg");
        let file = encoded(&colours().into(), ImageFormat::Jpeg);
        let comment = [&[0xFF, 0xFE, 0xFF, 0xFF][..], &vec![b' '; 0xFFFD]].concat();
        fs::write(&path, [&file[..2], &comment, &comment, &file[2..]].concat()).unwrap();
        assert_eq!(dimensions(&path).unwrap(), ([4, 6], false));
    }
}
