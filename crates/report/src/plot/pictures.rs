//! Sheets of images: as images in SVG, and as rectangles where there are only pixels to draw.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{GrayImage, ImageFormat};
use kuva::render::{
    color::Color,
    render::{Primitive, Scene, TextAnchor},
};
use maud::{PreEscaped, html};

use super::{Ink, Picture, Pictures, Plot, WIDTH, png};
use crate::ReportError;

/// Between the images.
const GAP: f64 = 12.0;
/// For the line under an image.
const LINE: f64 = 22.0;

impl Plot for Pictures {
    fn svg(&self) -> String {
        self.drawn(Ink::Paper)
    }

    fn inline_svg(&self) -> String {
        self.drawn(Ink::Page)
    }

    fn png(&self) -> Result<Vec<u8>, ReportError> {
        png("sheet of images", &self.scene())
    }
}

impl Pictures {
    /// Side of an image's place, and height of the sheet.
    fn sizes(&self) -> (f64, f64) {
        let columns = self.columns.max(1);
        let side = (WIDTH - GAP) / columns as f64 - GAP;
        (side, GAP + self.pictures.len().div_ceil(columns) as f64 * (side + LINE + GAP))
    }

    /// Left upper corner of an image's place.
    fn place(&self, index: usize) -> (f64, f64) {
        let ((side, _), columns) = (self.sizes(), self.columns.max(1));
        (GAP + (index % columns) as f64 * (side + GAP), GAP + (index / columns) as f64 * (side + LINE + GAP))
    }

    fn drawn(&self, ink: Ink) -> String {
        let theme = ink.theme();
        let (side, height) = self.sizes();
        let view = format!("0 0 {WIDTH} {height}");
        let sheet = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(view) width="100%" font-family="DejaVu Sans, Verdana, Arial, sans-serif"
                font-size=(font_size(side)) fill=(theme.text_color) {
                rect width="100%" height="100%" fill=(theme.background) {}
                @for (index, picture) in self.pictures.iter().enumerate() {
                    @let (x, y) = self.place(index);
                    image x=(x) y=(y) width=(side) height=(side) style="image-rendering: pixelated" href=(data_uri(picture)) {}
                    text x=(x + side / 2.0) y=(y + side + 15.0) text-anchor="middle" { (picture.caption) }
                }
            }
        };
        let PreEscaped(text) = sheet;
        text
    }

    fn scene(&self) -> Scene {
        let (side, height) = self.sizes();
        let mut scene = Scene::new(WIDTH, height);
        for (index, picture) in self.pictures.iter().enumerate() {
            let (left, top) = self.place(index);
            let [rows, columns] = picture.size.map(|pixels| pixels.max(1));
            let pixel = side / rows.max(columns).max(1) as f64;
            for (position, value) in picture.pixels.iter().enumerate() {
                scene.add(Primitive::Rect {
                    x: left + (position % columns) as f64 * pixel,
                    y: top + (position / columns) as f64 * pixel,
                    // Neighbours overlap, so that no seam shows.
                    width: pixel + 0.3,
                    height: pixel + 0.3,
                    fill: Color::from(format!("#{value:02x}{value:02x}{value:02x}")),
                    stroke: None,
                    stroke_width: None,
                    opacity: None,
                });
            }
            scene.add(Primitive::Text {
                x: left + side / 2.0,
                y: top + side + 15.0,
                content: picture.caption.clone(),
                size: font_size(side),
                anchor: TextAnchor::Middle,
                rotate: None,
                bold: false,
                color: None,
            });
        }
        scene
    }
}

/// Small images have room for small captions only.
fn font_size(side: f64) -> u32 {
    if side < 90.0 { 9 } else { 12 }
}

/// The image as a PNG within the text; nothing to see where its pixels are not as many as its size says.
fn data_uri(picture: &Picture) -> String {
    let [height, width] = picture.size;
    let mut bytes = Cursor::new(Vec::new());
    if let Some(image) = GrayImage::from_raw(width as u32, height as u32, picture.pixels.clone()) {
        // Writing to memory does not fail.
        let _ = image.write_to(&mut bytes, ImageFormat::Png);
    }
    format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_its_place_and_its_line() {
        let picture =
            |caption: &str| Picture { caption: caption.to_owned(), size: [2, 2], pixels: vec![0, 85, 170, 255] };
        let sheet = Pictures { columns: 2, pictures: vec![picture("bag"), picture("a < b"), picture("coat")] };
        let drawn = sheet.svg();
        assert_eq!(drawn.matches("data:image/png;base64,iVBOR").count(), 3);
        assert!(drawn.contains("a &lt; b") && drawn.contains(">coat<"));
        assert!(sheet.png().unwrap().starts_with(b"\x89PNG"));
        assert!(Pictures { columns: 0, pictures: Vec::new() }.svg().contains("</svg>"));
    }
}
