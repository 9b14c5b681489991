//! Turns a picture of any kind into one like the images that a network was trained on.
//!
//! The steps are those by which Fashion-MNIST was made from pictures in a shop (Xiao et al. 2017, section 2,
//! <https://arxiv.org/abs/1708.07747>), without its sharpening, and with a better filter than leaving pixels out.

use image::{
    DynamicImage, GrayImage, Luma, LumaA,
    imageops::{self, FilterType},
};

use kindling_config::Fit;

use crate::{
    DataError,
    fit::{fitted_picture, over_white},
};

/// The largest difference from the background that still counts as background: 5 % of the range, as in the paper.
const CLOSE: u8 = 12;

/// How a picture becomes an image like those that a network was trained on.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// `[channels, height, width]` of the images.
    pub shape: [usize; 3],
    /// How pictures are brought to the size, where the images were made from pictures or are in colour; none for the grey
    /// images of a set's own.
    pub fit: Option<Fit>,
    /// The background of the images, for grey ones of a set's own.
    pub background: u8,
}

impl Preparation {
    /// The pixels of the picture as such an image, `[channels, height, width]`. For grey images of a set's own it is
    /// [`prepared`], or [`as_it_is`].
    ///
    /// # Errors
    /// When nothing stands out from the background, or the shape has no pixel.
    pub fn image(&self, picture: &DynamicImage, as_is: bool) -> Result<Vec<u8>, DataError> {
        let [_, height, width] = self.shape;
        match self.fit {
            Some(fit) => fitted_picture(picture, self.shape, fit),
            None if as_is => Ok(as_it_is(picture, [height, width]).into_raw()),
            None => Ok(prepared(picture, [height, width], self.background)?.into_raw()),
        }
    }
}

/// The picture in grey on a background like `usual`, without edges that show background alone, as large as
/// `[height, width]` allows, in the middle. One that has this size already is only made grey and, if need be, inverted.
///
/// What is transparent counts as white. The background is the median of the pixels at the border; where it is more than
/// half the range away from `usual`, the picture is inverted.
///
/// # Errors
/// When nothing stands out from the background.
pub fn prepared(picture: &DynamicImage, size: [usize; 2], usual: u8) -> Result<GrayImage, DataError> {
    let mut image = grey(picture);
    if background(&image).abs_diff(usual) > u8::MAX / 2 {
        imageops::invert(&mut image);
    }
    if has_size(&image, size) {
        return Ok(image);
    }
    let background = background(&image);
    Ok(fitted(&trimmed(&image, background)?, size, background))
}

/// The picture in grey, as large as `[height, width]` allows, in the middle; neither inverted nor trimmed.
#[must_use]
pub fn as_it_is(picture: &DynamicImage, size: [usize; 2]) -> GrayImage {
    let image = grey(picture);
    if has_size(&image, size) { image } else { fitted(&image, size, background(&image)) }
}

fn has_size(image: &GrayImage, [height, width]: [usize; 2]) -> bool {
    image.dimensions() == (width as u32, height as u32)
}

/// The luma, over white where the picture is transparent.
fn grey(picture: &DynamicImage) -> GrayImage {
    let picture = picture.to_luma_alpha8();
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        let LumaA([luma, alpha]) = *picture.get_pixel(x, y);
        Luma([over_white(luma, alpha)])
    })
}

/// The median of the pixels at the border.
fn background(image: &GrayImage) -> u8 {
    let (width, height) = image.dimensions();
    let is_border = |x: u32, y: u32| x == 0 || y == 0 || x + 1 == width || y + 1 == height;
    let mut border: Vec<u8> =
        image.enumerate_pixels().filter(|&(x, y, _)| is_border(x, y)).map(|(_, _, pixel)| pixel.0[0]).collect();
    border.sort_unstable();
    border.get(border.len() / 2).copied().unwrap_or_default()
}

/// The smallest part that has every pixel that is not close to the background.
fn trimmed(image: &GrayImage, background: u8) -> Result<GrayImage, DataError> {
    let seen = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0].abs_diff(background) > CLOSE);
    let corners = seen
        .map(|(x, y, _)| [x, y, x, y])
        .reduce(|[left, top, right, bottom], [x, y, ..]| [left.min(x), top.min(y), right.max(x), bottom.max(y)]);
    let Some([left, top, right, bottom]) = corners else {
        return Err(DataError::Unusable(
            "nothing stands out from the background: no pixel is more than 5 % lighter or darker than the border"
                .to_owned(),
        ));
    };
    Ok(imageops::crop_imm(image, left, top, right - left + 1, bottom - top + 1).to_image())
}

/// The image scaled until a side fits, its shape kept, in the middle of a canvas of `[height, width]`.
fn fitted(image: &GrayImage, [height, width]: [usize; 2], background: u8) -> GrayImage {
    let (columns, rows) = image.dimensions();
    let scale = (width as f64 / f64::from(columns)).min(height as f64 / f64::from(rows));
    let scaled = |side: u32, most: usize| ((f64::from(side) * scale).round() as u32).clamp(1, most as u32);
    let (columns, rows) = (scaled(columns, width), scaled(rows, height));
    let image = imageops::resize(image, columns, rows, FilterType::Lanczos3);
    let (width, height) = (width as u32, height as u32);
    let mut canvas = GrayImage::from_pixel(width, height, Luma([background]));
    imageops::replace(&mut canvas, &image, i64::from((width - columns) / 2), i64::from((height - rows) / 2));
    canvas
}

#[cfg(test)]
mod tests {
    use image::{Rgba, RgbaImage};

    use super::*;

    const MNIST: [usize; 2] = [28, 28];

    /// A rectangle of `ink` on `paper`, `columns` by `rows` with its upper left corner at (30, 10).
    fn rectangle(paper: u8, ink: u8, columns: u32, rows: u32) -> DynamicImage {
        let is_inked = |x: u32, y: u32| (30..30 + columns).contains(&x) && (10..10 + rows).contains(&y);
        GrayImage::from_fn(200, 150, |x, y| Luma([if is_inked(x, y) { ink } else { paper }])).into()
    }

    /// First and last column and row that are not dark.
    fn bounds(image: &GrayImage) -> [u32; 4] {
        let lit: Vec<_> = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] > 100).collect();
        let (columns, rows) = (lit.iter().map(|pixel| pixel.0), lit.iter().map(|pixel| pixel.1));
        [columns.clone().min(), columns.max(), rows.clone().min(), rows.max()].map(Option::unwrap)
    }

    #[test]
    fn a_dark_background_is_kept_and_a_light_one_is_inverted() {
        let dark = prepared(&rectangle(0, 220, 100, 50), MNIST, 0).unwrap();
        let light = prepared(&rectangle(255, 35, 100, 50), MNIST, 0).unwrap();
        assert_eq!(dark, light);
        assert_eq!((dark.get_pixel(0, 0).0, dark.get_pixel(14, 14).0), ([0], [220]));
    }

    #[test]
    fn for_a_run_on_a_light_background_a_light_picture_is_kept_and_a_dark_one_is_inverted() {
        let [light, dark] = [(240, 30), (15, 225)].map(|(paper, ink)| rectangle(paper, ink, 100, 50));
        let kept = prepared(&light, MNIST, 255).unwrap();
        assert_eq!(kept, prepared(&dark, MNIST, 255).unwrap());
        assert_eq!((kept.get_pixel(0, 0).0, kept.get_pixel(14, 14).0), ([240], [30]));
    }

    #[test]
    fn a_background_half_the_range_away_is_still_like_the_runs() {
        for (usual, alike, unlike) in [(0, 127, 128), (255, 128, 127), (60, 187, 188), (200, 73, 72)] {
            let paper_of = |paper: u8| {
                let ink = if paper > 100 { 0 } else { 255 };
                prepared(&rectangle(paper, ink, 100, 50), MNIST, usual).unwrap().get_pixel(0, 0).0[0]
            };
            assert_eq!((paper_of(alike), paper_of(unlike)), (alike, 255 - unlike), "{usual}");
        }
    }

    #[test]
    fn the_shape_is_kept_the_longest_side_fills_the_canvas_and_the_rest_is_centred() {
        // 100 x 50 becomes 28 x 14, and 28 - 14 rows are left: seven above, seven below.
        assert_eq!(bounds(&prepared(&rectangle(0, 255, 100, 50), MNIST, 0).unwrap()), [0, 27, 7, 20]);
        assert_eq!(bounds(&prepared(&rectangle(255, 0, 30, 120), MNIST, 0).unwrap()), [10, 16, 0, 27]);
        // Small ones grow, and a canvas may have sides of its own.
        assert_eq!(bounds(&prepared(&rectangle(0, 255, 10, 10), MNIST, 0).unwrap()), [0, 27, 0, 27]);
        let wide = prepared(&rectangle(0, 255, 50, 50), [20, 40], 0).unwrap();
        assert_eq!((wide.dimensions(), bounds(&wide)), ((40, 20), [10, 29, 0, 19]));
    }

    #[test]
    fn what_is_close_to_the_background_is_trimmed_and_what_is_not_is_kept() {
        let mut picture = rectangle(0, 255, 50, 50).into_luma8();
        picture.put_pixel(199, 149, Luma([12]));
        assert_eq!(bounds(&prepared(&picture.clone().into(), MNIST, 0).unwrap()), [0, 27, 0, 27]);
        picture.put_pixel(199, 149, Luma([13]));
        assert_ne!(bounds(&prepared(&picture.into(), MNIST, 0).unwrap()), [0, 27, 0, 27]);
    }

    #[test]
    fn a_picture_of_one_colour_is_refused_with_the_reason() {
        for colour in [0, 127, 128, 255] {
            let picture = GrayImage::from_pixel(60, 40, Luma([colour])).into();
            let message = prepared(&picture, MNIST, 0).unwrap_err().to_string();
            assert!(message.starts_with("nothing stands out from the background"), "{message}");
            let blank = as_it_is(&picture, MNIST);
            // Lanczos weights are normalised to within rounding.
            assert!(blank.pixels().all(|pixel| pixel.0[0].abs_diff(colour) <= 1));
        }
    }

    #[test]
    fn what_is_transparent_counts_as_white() {
        let ink = Rgba([255, 255, 255, 255]);
        let is_inked = |x: u32, y: u32| (10..20).contains(&x) && (10..20).contains(&y);
        let glass = RgbaImage::from_fn(40, 40, |x, y| if is_inked(x, y) { ink } else { Rgba([0, 0, 0, 0]) });
        assert!(prepared(&glass.into(), MNIST, 0).is_err(), "white on what counts as white");
        // Black with an opacity of 128 of 255, on white.
        let half = RgbaImage::from_pixel(2, 2, Rgba([0, 0, 0, 128]));
        assert!(grey(&half.into()).pixels().all(|pixel| pixel.0 == [127]));
    }

    #[test]
    fn an_image_of_the_right_size_is_only_inverted() {
        let image = GrayImage::from_fn(28, 28, |x, y| Luma([if x == 3 && y > 5 { 200 } else { (x % 3) as u8 }]));
        assert_eq!(prepared(&image.clone().into(), MNIST, 0).unwrap(), image);
        let mut inverted = image.clone();
        imageops::invert(&mut inverted);
        assert_eq!(prepared(&inverted.clone().into(), MNIST, 0).unwrap(), image);
        assert_eq!(as_it_is(&inverted.clone().into(), MNIST), inverted);
    }

    #[test]
    fn as_it_is_neither_inverts_nor_trims() {
        let image = as_it_is(&rectangle(255, 0, 100, 50), MNIST);
        // 200 x 150 becomes 28 x 21, and the rectangle a seventh of it.
        assert_eq!((image.get_pixel(27, 27).0, image.get_pixel(27, 0).0), ([255], [255]));
        let dark: Vec<_> = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] < 128).collect();
        // (30, 10) to (130, 60), times 0.14, three rows down.
        assert!(dark.iter().all(|&(x, y, _)| (4..=18).contains(&x) && (4..=11).contains(&y)));
        assert!(dark.len() > 80, "{} dark pixels of about 98", dark.len());
    }
}
