//! Pixels moved by a [`Map`]: rows copied where it is one of whole pixels, sampled where it is not.

use kindling_config::Edge;
use kindling_kernels::normalize_bytes;

use super::map::{Map, Whole};

/// Columns whose places are computed before they are sampled.
const BLOCK: usize = 16;

/// Copies an image by whole pixels, bytes as they are.
///
/// # Shapes
/// - image and out: `[channels, height, width]`
/// - backgrounds: `[channels]`
pub(crate) fn copy(
    image: &[u8],
    [_, height, width]: [usize; 3],
    whole: Whole,
    edge: Edge,
    backgrounds: &[u8],
    out: &mut [u8],
) {
    let Whole { is_mirrored, down, right } = whole;
    // The columns that come from within the image.
    let start = (-right).clamp(0, width as isize) as usize;
    let end = (width as isize - right).clamp(start as isize, width as isize) as usize;
    let planes = image.chunks_exact(height * width).zip(out.chunks_exact_mut(height * width));
    for ((plane, out), &background) in planes.zip(backgrounds) {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let from = row as isize + down;
            let from = if edge == Edge::Reflect { reflected(from, height) as isize } else { from };
            if !(0..height as isize).contains(&from) {
                out.fill(background);
                continue;
            }
            let from = &plane[from as usize * width..][..width];
            if start < end {
                let (first, last) = ((start as isize + right) as usize, (end as isize + right) as usize);
                if is_mirrored {
                    let from = &from[width - last..width - first];
                    out[start..end].iter_mut().zip(from.iter().rev()).for_each(|(out, &byte)| *out = byte);
                } else {
                    out[start..end].copy_from_slice(&from[first..last]);
                }
            }
            if edge == Edge::Reflect {
                for column in (0..start).chain(end..width) {
                    let place = reflected(column as isize + right, width);
                    out[column] = from[if is_mirrored { width - 1 - place } else { place }];
                }
            } else {
                out[..start].fill(background);
                out[end..].fill(background);
            }
        }
    }
}

/// The place that is `place` where a side is mirrored at its first and last pixel, which are not repeated.
fn reflected(place: isize, side: usize) -> usize {
    let last = side as isize - 1;
    if last == 0 {
        return 0;
    }
    let place = place.rem_euclid(2 * last);
    place.min(2 * last - place) as usize
}

/// The places of a row's pixels in the image with its border, and how much of each neighbour they are.
struct Block {
    /// Of the upper left neighbour.
    first: [i32; BLOCK],
    /// Upper left, upper right, lower left, lower right, background.
    weights: [[f32; BLOCK]; 5],
}

impl Block {
    /// Sets it to columns and rows of the image, for a border of one pixel and rows of `stride` pixels with it.
    #[inline]
    fn set(&mut self, mut columns: [f32; BLOCK], mut rows: [f32; BLOCK], [across, down]: &[Axis; 2], stride: usize) {
        across.place(&mut columns);
        down.place(&mut rows);
        let (last_left, last_top) = (across.last as i32 + 1, down.last as i32 + 1);
        for index in 0..BLOCK {
            let (x, y) = (columns[index], rows[index]);
            let (left, top) = (floor(x).min(last_left), floor(y).min(last_top));
            self.first[index] = top * stride as i32 + left;
            let (right_share, lower_share) = (x - left as f32, y - top as f32);
            let inside = across.inside(x) * down.inside(y);
            let (upper, lower) = ((1.0 - lower_share) * inside, lower_share * inside);
            self.weights[0][index] = upper * (1.0 - right_share);
            self.weights[1][index] = upper * right_share;
            self.weights[2][index] = lower * (1.0 - right_share);
            self.weights[3][index] = lower * right_share;
            self.weights[4][index] = 1.0 - inside;
        }
    }
}

/// The whole number at or below `place`, from 0 to 2^22. What the language has for it is not compiled to vectors.
#[inline]
fn floor(place: f32) -> i32 {
    // The sum has whole numbers alone, in its lowest bits.
    const SHIFT: f32 = (1 << 23) as f32;
    let nearest = place + SHIFT;
    (nearest.to_bits() & 0x7f_ffff) as i32 - i32::from(nearest - SHIFT > place)
}

/// Samples an image between its pixels: pixels in [0, 1].
///
/// As torchvision does it with a `fill`: bilinear, where pixels outside the image are black, then blended with the
/// background by the share of the neighbours that are outside.
///
/// # Shapes
/// - image and out: `[channels, height, width]`
/// - backgrounds: `[channels]`
// A matrix and its places are written so.
#[allow(clippy::many_single_char_names, clippy::similar_names)]
pub(crate) fn sample(
    image: &[u8],
    [channels, height, width]: [usize; 3],
    map: &Map,
    edge: Edge,
    backgrounds: &[u8],
    padded: &mut Vec<f32>,
    out: &mut [f32],
) {
    let stride = width + 2;
    pad(image, [channels, height, width], padded);
    let axis = |side: usize, bounds: Option<[f64; 2]>| {
        let [first, last] = bounds.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        Axis { last: side as f32 - 1.0, bounds: [first as f32, last as f32], edge }
    };
    let axes = [axis(width, map.bounds.map(|bounds| bounds[0])), axis(height, map.bounds.map(|bounds| bounds[1]))];
    let [a, b, c, d, e, f] = map.matrix;
    let (a, d) = (a as f32, d as f32);
    let mut block = Block { first: [0; BLOCK], weights: [[0.0; BLOCK]; 5] };
    for row in 0..height {
        let (x, y) = ((b * row as f64 + c) as f32, (e * row as f64 + f) as f32);
        for start in (0..width).step_by(BLOCK) {
            let (mut columns, mut rows) = ([0.0; BLOCK], [0.0; BLOCK]);
            for index in 0..BLOCK {
                let column = (start + index) as f32;
                columns[index] = x + a * column;
                rows[index] = y + d * column;
            }
            block.set(columns, rows, &axes, stride);
            let Block { first, weights } = &block;
            for (channel, &background) in backgrounds.iter().enumerate() {
                let plane = &padded[channel * stride * (height + 2)..];
                let background = f32::from(background) / 255.0;
                let out = &mut out[(channel * height + row) * width + start..][..BLOCK.min(width - start)];
                for (index, out) in out.iter_mut().enumerate() {
                    let near = &plane[first[index] as usize..][..stride + 2];
                    *out = near[0] * weights[0][index]
                        + near[1] * weights[1][index]
                        + near[stride] * weights[2][index]
                        + near[stride + 1] * weights[3][index]
                        + background * weights[4][index];
                }
            }
        }
    }
}

/// One direction of an image.
#[derive(Clone, Copy)]
struct Axis {
    /// The last pixel's place.
    last: f32,
    bounds: [f32; 2],
    edge: Edge,
}

impl Axis {
    /// Brings places into the image with its border, and counts them from that.
    #[inline]
    fn place(&self, places: &mut [f32; BLOCK]) {
        let [first, last] = self.bounds;
        for place in &mut *places {
            *place = place.max(first).min(last);
        }
        if self.edge == Edge::Reflect {
            let period = (2.0 * self.last).max(1.0);
            for place in &mut *places {
                let along = place.abs() - ((place.abs() / period) as i32 as f32) * period;
                *place = along.min(period - along).min(self.last);
            }
        }
        let end = self.last + 2.0;
        for place in places {
            *place = (*place + 1.0).max(0.0).min(end);
        }
    }

    /// The share of a place's neighbours that is inside the image.
    #[inline]
    fn inside(&self, place: f32) -> f32 {
        place.min(self.last + 2.0 - place).min(1.0)
    }
}

/// The image in [0, 1] with a black border of one pixel.
fn pad(image: &[u8], [channels, height, width]: [usize; 3], padded: &mut Vec<f32>) {
    let stride = width + 2;
    padded.resize(channels * (height + 2) * stride, 0.0);
    let planes = image.chunks_exact(height * width).zip(padded.chunks_exact_mut((height + 2) * stride));
    for (plane, padded) in planes {
        padded[..stride].fill(0.0);
        padded[(height + 1) * stride..].fill(0.0);
        for (row, out) in plane.chunks_exact(width).zip(padded[stride..].chunks_exact_mut(stride)) {
            (out[0], out[width + 1]) = (0.0, 0.0);
            normalize_bytes(row, 0.0, 1.0, &mut out[1..=width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 3] = [2, 3, 4];

    fn image() -> Vec<u8> {
        (1..=24).collect()
    }

    fn copied(whole: Whole, edge: Edge) -> Vec<u8> {
        let mut out = vec![0; 24];
        copy(&image(), SHAPE, whole, edge, &[100, 200], &mut out);
        out
    }

    #[test]
    fn rows_are_copied_and_the_background_of_each_channel_comes_in() {
        let whole = |is_mirrored, down, right| Whole { is_mirrored, down, right };
        assert_eq!(copied(whole(false, 0, 0), Edge::Background), image());
        let down = copied(whole(false, 1, -1), Edge::Background);
        assert_eq!(down[..12], [100, 5, 6, 7, 100, 9, 10, 11, 100, 100, 100, 100]);
        assert_eq!(down[12..], [200, 17, 18, 19, 200, 21, 22, 23, 200, 200, 200, 200]);
        let mirrored = copied(whole(true, 0, 1), Edge::Background);
        assert_eq!(mirrored[..12], [3, 2, 1, 100, 7, 6, 5, 100, 11, 10, 9, 100]);
        for far in [whole(false, 9, 0), whole(true, 0, -9), whole(false, -3, 4)] {
            assert_eq!(copied(far, Edge::Background)[..12], [100; 12], "{far:?}");
        }
    }

    #[test]
    fn a_reflection_does_not_repeat_the_edge_and_goes_on_as_far_as_it_is_asked_for() {
        let whole = |is_mirrored, down, right| Whole { is_mirrored, down, right };
        let up = copied(whole(false, -1, -2), Edge::Reflect);
        assert_eq!(up[..12], [7, 6, 5, 6, 3, 2, 1, 2, 7, 6, 5, 6]);
        let mirrored = copied(whole(true, 0, -1), Edge::Reflect);
        assert_eq!(mirrored[..4], [3, 4, 3, 2]);
        // Period 6 across, 4 down.
        assert_eq!(copied(whole(false, 40, -60), Edge::Reflect), image());
        let mut line = [0; 3];
        copy(&[1, 2, 3], [1, 1, 3], whole(false, 5, 0), Edge::Reflect, &[0], &mut line);
        assert_eq!(line, [1, 2, 3]);
    }

    #[test]
    fn a_map_in_whole_pixels_is_sampled_to_what_copying_gives() {
        let map = Map::IDENTITY.flip(4).shift(1, -1);
        for edge in [Edge::Background, Edge::Reflect] {
            let expected = copied(map.whole(4).unwrap(), edge);
            let (mut out, mut padded) = (vec![f32::NAN; 24], vec![f32::NAN; 7]);
            sample(&image(), SHAPE, &map, edge, &[100, 200], &mut padded, &mut out);
            let bytes: Vec<u8> = out.iter().map(|pixel| (pixel * 255.0).round() as u8).collect();
            assert_eq!(bytes, expected, "{edge:?}");
        }
    }

    #[test]
    fn places_far_outside_are_background() {
        let mut map = Map::IDENTITY;
        for far in [1e9, -1e9, 1e300, f64::NAN] {
            map.matrix[2] = far;
            let (mut out, mut padded) = (vec![f32::NAN; 24], Vec::new());
            for edge in [Edge::Background, Edge::Reflect] {
                sample(&image(), SHAPE, &map, edge, &[100, 200], &mut padded, &mut out);
                assert!(out.iter().all(|pixel| (0.0..=1.0).contains(pixel)), "{edge:?} {far}");
            }
            sample(&image(), SHAPE, &map, Edge::Background, &[100, 200], &mut padded, &mut out);
            assert_eq!(out, [vec![100.0 / 255.0; 12], vec![200.0 / 255.0; 12]].concat(), "{far}");
        }
    }
}
