//! Sheets of images.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{
    DynamicImage, ImageFormat, RgbImage,
    imageops::{FilterType, overlay, resize},
};
use kuva::render::render::{Primitive, Scene, TextAnchor};
use maud::{PreEscaped, html};

use super::{Ink, PNG_WIDTH, Picture, Pictures, Plot, WIDTH, escaped, png, text_width};
use crate::ReportError;

/// Between the images.
const GAP: f64 = 12.0;
/// Height of a line of a caption, in sizes of its letters.
const LINE: f64 = 1.25;
/// The longest caption, in lines.
const LINES: usize = 3;
/// A picture in a page has no more pixels in a row or column: a sheet shows no more of them.
const LARGEST: u32 = 256;

impl Plot for Pictures {
    fn svg(&self) -> String {
        self.drawn(Ink::Paper)
    }

    fn inline_svg(&self) -> String {
        self.drawn(Ink::Page)
    }

    fn png(&self) -> Result<Vec<u8>, ReportError> {
        let failed = |error: image::ImageError| ReportError::Plot {
            plot: "sheet of images".to_owned(),
            message: error.to_string(),
        };
        let layout = self.layout();
        let captions = png("sheet of images", &Self::captions(&layout))?;
        let mut sheet = image::load_from_memory_with_format(&captions, ImageFormat::Png).map_err(failed)?.into_rgb8();
        let scale = PNG_WIDTH / WIDTH;
        for (index, picture) in self.pictures.iter().enumerate() {
            let Some(image) = rgb(picture) else { continue };
            let (x, y) = layout.place(index);
            let fitted = scaled(&image, (layout.side * scale) as u32);
            let start = |middle: f64, pixels: u32| (middle * scale - f64::from(pixels) / 2.0).round() as i64;
            let (left, top) = (x + layout.side / 2.0, y + layout.rise / 2.0);
            overlay(&mut sheet, &fitted, start(left, fitted.width()), start(top, fitted.height()));
        }
        encoded(sheet).map_err(failed)
    }
}

/// Where everything stands on a sheet.
struct Layout {
    columns: usize,
    /// Width of an image's place, and its height where no image is higher than wide.
    side: f64,
    /// Height of an image's place.
    rise: f64,
    /// Size of the captions' letters.
    size: u32,
    /// The lines of each picture's caption.
    captions: Vec<Vec<String>>,
    /// Height of a row, with captions and gap.
    row: f64,
    /// Height of the sheet.
    height: f64,
}

impl Layout {
    /// Left upper corner of an image's place.
    fn place(&self, index: usize) -> (f64, f64) {
        let (row, column) = (index / self.columns, index % self.columns);
        (GAP + column as f64 * (self.side + GAP), GAP + row as f64 * self.row)
    }

    /// Height of the base of a caption's line within its place.
    fn base(&self, line: usize) -> f64 {
        self.rise + 4.0 + f64::from(self.size) * (0.95 + line as f64 * LINE)
    }
}

impl Pictures {
    fn layout(&self) -> Layout {
        let columns = self.columns.max(1);
        let side = (WIDTH - GAP) / columns as f64 - GAP;
        // Small images have room for small captions only.
        let font = match side {
            ..90.0 => 9,
            90.0..130.0 => 10,
            _ => 12,
        };
        let share = |picture: &Picture| {
            let [height, width] = picture.size.map(|pixels| pixels.max(1) as f64);
            (height / width).min(1.0)
        };
        let rise = side * self.pictures.iter().map(share).fold(0.0, f64::max);
        let captions: Vec<_> =
            self.pictures.iter().map(|picture| lines(&picture.caption, side + GAP / 2.0, font)).collect();
        let most = captions.iter().map(Vec::len).max().unwrap_or_default();
        let row = rise + 4.0 + most as f64 * f64::from(font) * LINE + GAP;
        let height = (GAP + self.pictures.len().div_ceil(columns) as f64 * row).ceil();
        Layout { columns, side, rise, size: font, captions, row, height }
    }

    fn drawn(&self, ink: Ink) -> String {
        let (theme, layout) = (ink.theme(), self.layout());
        let side = layout.side;
        let view = format!("0 0 {WIDTH} {}", layout.height);
        let sheet = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(view) width="100%" font-family="DejaVu Sans, Verdana, Arial, sans-serif"
                font-size=(layout.size) fill=(theme.text_color) {
                rect width="100%" height="100%" fill=(theme.background) {}
                @for (index, picture) in self.pictures.iter().enumerate() {
                    @let (x, y) = layout.place(index);
                    // Pixels are to be seen where they are larger than those of a screen.
                    @let is_small = picture.size.iter().all(|&pixels| (pixels as f64) < side);
                    image x=(x) y=(y) width=(side) height=(layout.rise) style=[is_small.then_some("image-rendering: pixelated")]
                        href=(data_uri(picture)) {}
                    @for (line, text) in layout.captions[index].iter().enumerate() {
                        text x=(x + side / 2.0) y=(y + layout.base(line)) text-anchor="middle" { (text) }
                    }
                }
            }
        };
        let PreEscaped(text) = sheet;
        text
    }

    fn captions(layout: &Layout) -> Scene {
        let mut scene = Scene::new(WIDTH, layout.height);
        scene.background_color = Some(Ink::Paper.theme().background);
        for (index, lines) in layout.captions.iter().enumerate() {
            let (left, top) = layout.place(index);
            for (line, text) in lines.iter().enumerate() {
                scene.add(Primitive::Text {
                    x: left + layout.side / 2.0,
                    y: top + layout.base(line),
                    content: escaped(text),
                    size: layout.size,
                    anchor: TextAnchor::Middle,
                    rotate: None,
                    bold: false,
                    color: None,
                });
            }
        }
        scene
    }
}

/// A caption in lines that are no wider than `width`, broken between words; what has no room ends in `…`.
fn lines(caption: &str, width: f64, size: u32) -> Vec<String> {
    let fits = |text: &str| text_width(text, size) <= width;
    let mut lines: Vec<String> = Vec::new();
    for word in caption.split_whitespace() {
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match longer.filter(|longer| fits(longer)) {
            Some(longer) => {
                lines.pop();
                lines.push(longer);
            }
            None => lines.push(word.to_owned()),
        }
    }
    let is_cut = lines.len() > LINES;
    lines.truncate(LINES);
    let last = lines.len().saturating_sub(1);
    for (index, line) in lines.iter_mut().enumerate() {
        if is_cut && index == last {
            line.push('…');
        }
        while !fits(line) && line.chars().count() > 2 {
            line.truncate(line.trim_end_matches('…').char_indices().last().map_or(0, |(at, _)| at));
            line.push('…');
        }
    }
    lines
}

/// The picture in colours that files have; nothing where its pixels are not as many as its size says.
fn rgb(picture: &Picture) -> Option<RgbImage> {
    let [height, width] = picture.size;
    let pixels = height * width;
    if picture.pixels.len() != picture.channels * pixels || picture.pixels.is_empty() {
        return None;
    }
    let plane = |channel: usize| if picture.channels < 3 { 0 } else { channel * pixels };
    let interleaved = (0..pixels).flat_map(|index| [0, 1, 2].map(|channel| picture.pixels[plane(channel) + index]));
    RgbImage::from_raw(width as u32, height as u32, interleaved.collect())
}

/// The image with its longer side as long as `side`: enlarged in squares, reduced smoothly.
fn scaled(image: &RgbImage, side: u32) -> RgbImage {
    let longer = image.width().max(image.height());
    let filter = if longer < side { FilterType::Nearest } else { FilterType::Triangle };
    let scaled = |pixels: u32| (u64::from(pixels) * u64::from(side) / u64::from(longer)).max(1) as u32;
    resize(image, scaled(image.width()), scaled(image.height()), filter)
}

fn encoded(image: RgbImage) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    // A grey picture is a third as large as one.
    let is_grey = image.pixels().all(|pixel| pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2]);
    let image = DynamicImage::ImageRgb8(image);
    let image = if is_grey { DynamicImage::ImageLuma8(image.into_luma8()) } else { image };
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// The image as a PNG within the text; nothing to see where its pixels are not as many as its size says.
fn data_uri(picture: &Picture) -> String {
    let image = rgb(picture)
        .map(|image| if image.width().max(image.height()) > LARGEST { scaled(&image, LARGEST) } else { image });
    // Writing to memory does not fail.
    let bytes = image.and_then(|image| encoded(image).ok()).unwrap_or_default();
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(caption: &str, channels: usize, pixels: &[u8]) -> Picture {
        Picture { caption: caption.to_owned(), size: [2, 2], channels, pixels: pixels.to_vec() }
    }

    #[test]
    fn every_image_has_its_place_and_its_caption() {
        let grey = |caption| picture(caption, 1, &[0, 85, 170, 255]);
        let sheet = Pictures { columns: 2, pictures: vec![grey("bag"), grey("a < b"), grey("coat")] };
        let drawn = sheet.svg();
        assert_eq!(drawn.matches("data:image/png;base64,iVBOR").count(), 3);
        assert!(drawn.contains("a &lt; b") && drawn.contains(">coat<"));
        assert!(sheet.png().unwrap().starts_with(b"\x89PNG"));
        assert!(Pictures { columns: 0, pictures: Vec::new() }.svg().contains("</svg>"));
    }

    #[test]
    fn a_sheet_has_the_colours_of_its_images_and_leaves_out_one_without_pixels() {
        let red_and_blue = picture("", 3, &[255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
        let sheet = Pictures { columns: 1, pictures: vec![red_and_blue.clone(), picture("", 3, &[0])] };
        let drawn = image::load_from_memory(&sheet.png().unwrap()).unwrap().into_rgb8();
        // The first place is a square below the gap.
        assert_eq!([drawn.get_pixel(480, 100).0, drawn.get_pixel(480, 800).0], [[255, 0, 0], [0, 0, 255]]);
        assert_eq!(rgb(&red_and_blue).unwrap().get_pixel(1, 1).0, [0, 0, 255]);
    }

    #[test]
    fn large_images_are_reduced_to_what_a_page_shows() {
        let large = Picture { caption: String::new(), size: [100, 1024], channels: 1, pixels: vec![7; 102_400] };
        let uri = data_uri(&large);
        let bytes = STANDARD.decode(uri.split_once(',').unwrap().1).unwrap();
        let image = image::load_from_memory(&bytes).unwrap();
        assert_eq!((image.width(), image.height(), image.color().has_color()), (256, 25, false));
    }

    #[test]
    fn captions_are_broken_between_words_and_cut_where_they_have_no_room() {
        assert_eq!(lines("Coat as Shirt, 0.988", 1000.0, 12), ["Coat as Shirt, 0.988"]);
        let narrow = lines("n02085620-Chihuahua as Pekinese, 0.988", 70.0, 9);
        assert!(narrow.len() == 3 && narrow[0].starts_with("n0208") && narrow[0].ends_with('…'), "{narrow:?}");
        assert!(narrow.iter().all(|line| text_width(line, 9) <= 70.0), "{narrow:?}");
        assert!(lines("one two three four five six", 20.0, 9)[2].ends_with('…'));
        assert!(lines("", 10.0, 9).is_empty());
    }
}
