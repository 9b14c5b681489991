//! Images in the orders of others, and as a layer has them: `[pixels, channels]` with the channels in whole vectors.

use std::ops::{Deref, Range};

use crate::{
    ChannelOrder,
    cpu::{output::Target, scratch::Scratch},
};

use super::{
    Images,
    plan::{Border, Grid},
};

/// Turns a matrix of rows `[.., from_row]` into one of columns: `to[column * to_row + row] = from[row * from_row + column]`.
#[inline(always)]
pub(super) fn turn(
    rows: usize,
    columns: usize,
    from: &[f32],
    from_row: usize,
    mut set: impl FnMut(usize, usize, &[f32]),
) {
    const SIDE: usize = 8;
    for row in (0..rows).step_by(SIDE) {
        let height = SIDE.min(rows - row);
        for column in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - column);
            let mut turned = [[0.0; SIDE]; SIDE];
            if height == SIDE && width == SIDE {
                for y in 0..SIDE {
                    let from = &from[(row + y) * from_row + column..][..SIDE];
                    for x in 0..SIDE {
                        turned[x][y] = from[x];
                    }
                }
            } else {
                for y in 0..height {
                    for x in 0..width {
                        turned[x][y] = from[(row + y) * from_row + column + x];
                    }
                }
            }
            for (x, turned) in turned.iter().enumerate().take(width) {
                set(column + x, row, &turned[..height]);
            }
        }
    }
}

/// An image as it lies where it lies so already, or a copy.
pub(super) enum Padded<'a> {
    Borrowed(&'a [f32]),
    Copied(Scratch),
}

impl Deref for Padded<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(floats) => floats,
            Self::Copied(scratch) => scratch,
        }
    }
}

impl Padded<'_> {
    /// An image with its channels inside, in pixels of `channels` numbers.
    #[inline(always)]
    pub(super) fn image(images: Images<'_>, image: usize, channels: usize) -> Padded<'_> {
        let floats = images.image(image);
        if images.is_padded(channels) {
            return Padded::Borrowed(floats);
        }
        let mut padded = Scratch::take(images.pixels() * channels);
        copy_inside(images, floats, &mut padded, channels);
        Padded::Copied(padded)
    }

    /// Every `stride`th pixel of an image, for an image of `size`; channels that it lacks are zeros.
    #[inline(always)]
    pub(super) fn strided(
        images: Images<'_>,
        image: usize,
        channels: usize,
        stride: usize,
        [height, width]: [usize; 2],
    ) -> Padded<'_> {
        let whole = Self::image(images, image, if stride == 1 { channels } else { images.channels });
        if stride == 1 {
            return whole;
        }
        let mut strided = Scratch::zeroed(height * width * channels);
        for (pixel, to) in strided.chunks_exact_mut(channels).enumerate() {
            let from = (pixel / width * images.width + pixel % width) * stride * images.channels;
            to[..images.channels].copy_from_slice(&whole[from..][..images.channels]);
        }
        Padded::Copied(strided)
    }
}

/// Lays an image out with its channels inside, in pixels of at least as many numbers; those beyond are zeros.
#[inline(always)]
fn copy_inside(images: Images<'_>, floats: &[f32], to: &mut [f32], channels: usize) {
    let (pixels, own) = (images.pixels(), images.channels);
    match images.order {
        ChannelOrder::Last => {
            for (to, from) in to.chunks_exact_mut(channels).zip(floats.chunks_exact(own)) {
                to[..own].copy_from_slice(from);
            }
        }
        ChannelOrder::First if own == 1 => {
            to.iter_mut().step_by(channels).zip(floats).for_each(|(to, from)| *to = *from);
        }
        ChannelOrder::First => turn(
            own,
            pixels,
            floats,
            pixels,
            #[inline(always)]
            |pixel, channel, values| to[pixel * channels + channel..][..values.len()].copy_from_slice(values),
        ),
    }
    if own < channels {
        to.chunks_exact_mut(channels).for_each(|pixel| pixel[own..].fill(0.0));
    }
}

/// Puts an image with its channels inside, `[height, width, channels]`, into a border of zeros that is there already.
/// What lies beyond the border's end is left out.
#[inline(always)]
pub(super) fn put_inside(
    image: &[f32],
    [height, width]: [usize; 2],
    channels: usize,
    border: Border,
    bordered: &mut [f32],
) {
    let [top, left] = border.corner;
    let rows = height.min(border.size[0].saturating_sub(top));
    let count = width.min(border.size[1].saturating_sub(left)) * channels;
    if count == 0 {
        return;
    }
    for (y, from) in image.chunks_exact(width * channels).enumerate().take(rows) {
        bordered[((y + top) * border.size[1] + left) * channels..][..count].copy_from_slice(&from[..count]);
    }
}

/// Writes an image, whose pixels have `stride` numbers, in an order of channels.
///
/// # Safety
/// Nobody else uses the image's place in `to` meanwhile.
#[inline(always)]
pub(super) unsafe fn write_image(
    to: Target<'_>,
    start: usize,
    order: ChannelOrder,
    channels: usize,
    pixels: &[f32],
    stride: usize,
) {
    let count = pixels.len() / stride;
    match order {
        // SAFETY: the caller's promise.
        ChannelOrder::Last if channels == stride => unsafe { to.copy(start, pixels) },
        ChannelOrder::Last => {
            for (pixel, from) in pixels.chunks_exact(stride).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { to.copy(start + pixel * channels, &from[..channels]) };
            }
        }
        ChannelOrder::First => turn(
            count,
            channels,
            pixels,
            stride,
            #[inline(always)]
            |channel, pixel, values| {
                // SAFETY: the caller's promise.
                unsafe { to.copy(start + channel * count + pixel, values) };
            },
        ),
    }
}

/// Images as they are convolved, one after another. What lies beyond them is zero.
#[derive(Clone, Copy)]
pub(super) struct Bordered<'a> {
    pub(super) floats: &'a [f32],
    /// With the border that they are stored in, and where the image begins in it.
    pub(super) border: Border,
    /// Rows and columns of zeros before the border, which are not stored.
    pub(super) beyond: usize,
    /// Numbers of a pixel.
    pub(super) channels: usize,
}

/// Images as a kernel sees them: as they lie where they have their channels inside and need no border, or copies.
pub(super) struct Inside<'a> {
    images: Padded<'a>,
    border: Border,
    beyond: usize,
    channels: usize,
}

impl<'a> Inside<'a> {
    #[inline(always)]
    pub(super) fn new(x: Images<'a>, images: Range<usize>, grid: Grid) -> Self {
        let (border, channels) = (grid.border(), x.channels);
        let needs_none = border.size == grid.size && border.corner == [0, 0];
        if (needs_none || grid.winograd) && x.is_padded(channels) {
            let pixels = channels * x.pixels();
            let images = Padded::Borrowed(&x.floats[images.start * pixels..images.end * pixels]);
            let beyond = if grid.winograd { grid.padding } else { 0 };
            return Self { images, border: Border { size: grid.size, corner: [0; 2] }, beyond, channels };
        }
        let floats = border.pixels() * channels;
        let mut bordered = Scratch::zeroed(images.len() * floats);
        for (image, bordered) in images.zip(bordered.chunks_exact_mut(floats)) {
            put_inside(&Padded::image(x, image, channels), grid.size, channels, border, bordered);
        }
        Self { images: Padded::Copied(bordered), border, beyond: 0, channels }
    }

    #[inline(always)]
    pub(super) fn bordered(&self) -> Bordered<'_> {
        Bordered { floats: &self.images, border: self.border, beyond: self.beyond, channels: self.channels }
    }
}
