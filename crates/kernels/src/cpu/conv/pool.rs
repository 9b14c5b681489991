//! Pooling of an image `[height, width, channels]` with its channels in whole vectors, and its gradient.

use pulp::Simd;

use crate::Pool;

/// The pixels of pool number `pool`: the first, and how many there are down and across.
#[inline(always)]
fn window(pool: Pool, size: [usize; 2], number: usize) -> (usize, [usize; 2]) {
    match pool {
        Pool::Global => (0, size),
        Pool::Max { size: pixels, stride } | Pool::Average { size: pixels, stride } => {
            let across = (size[1] - pixels) / stride + 1;
            ((number / across * size[1] + number % across) * stride, [pixels; 2])
        }
    }
}

/// What a pool's pixels are multiplied with where it is their mean.
#[inline(always)]
fn share<S: Simd>(simd: S, pool: Pool, [height, width]: [usize; 2]) -> Option<S::f32s> {
    let average = !matches!(pool, Pool::Max { .. });
    average.then(|| simd.splat_f32s(1.0 / (height * width) as f32))
}

/// Whether `value` takes the place of the largest so far: as in PyTorch the first of equals, but the last NaN.
#[inline(always)]
pub(super) fn is_larger<S: Simd>(simd: S, value: S::f32s, largest: S::f32s) -> S::m32s {
    let is_number = simd.equal_f32s(value, value);
    simd.or_m32s(simd.greater_than_f32s(value, largest), simd.not_m32s(is_number))
}

/// Pools an image of `size` into `to`.
#[inline(always)]
pub(super) fn forward<S: Simd>(simd: S, pool: Pool, size: [usize; 2], channels: usize, image: &[f32], to: &mut [f32]) {
    let vectors = channels / S::F32_LANES;
    let (image, to) = (S::as_simd_f32s(image).0, S::as_mut_simd_f32s(to).0);
    for (number, to) in to.chunks_exact_mut(vectors).enumerate() {
        let (first, [height, width]) = window(pool, size, number);
        let share = share(simd, pool, [height, width]);
        let first = &image[first * vectors..];
        to.copy_from_slice(&first[..vectors]);
        for y in 0..height {
            for x in usize::from(y == 0)..width {
                let pixel = &first[(y * size[1] + x) * vectors..][..vectors];
                for (to, value) in to.iter_mut().zip(pixel) {
                    *to = match share {
                        Some(_) => simd.add_f32s(*to, *value),
                        None => simd.select_f32s(is_larger(simd, *value, *to), *value, *to),
                    };
                }
            }
        }
        if let Some(share) = share {
            for to in to {
                *to = simd.mul_f32s(*to, share);
            }
        }
    }
}

/// Adds the gradient `dy` of the pools to that of the image, `to`, which begins as zeros; `image` is what was pooled, and
/// counts for max pooling alone.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Two images and two gradients.
pub(super) fn backward<S: Simd>(
    simd: S,
    pool: Pool,
    size: [usize; 2],
    channels: usize,
    image: &[f32],
    dy: &[f32],
    to: &mut [f32],
) {
    let vectors = channels / S::F32_LANES;
    let (image, dy, to) = (S::as_simd_f32s(image).0, S::as_simd_f32s(dy).0, S::as_mut_simd_f32s(to).0);
    let zero = simd.splat_f32s(0.0);
    for (number, dy) in dy.chunks_exact(vectors).enumerate() {
        let (first, [height, width]) = window(pool, size, number);
        let place = |y: usize, x: usize| (first + y * size[1] + x) * vectors;
        let share = share(simd, pool, [height, width]);
        for (v, dy) in dy.iter().enumerate() {
            if let Some(share) = share {
                let part = simd.mul_f32s(*dy, share);
                for y in 0..height {
                    for x in 0..width {
                        let to = &mut to[place(y, x) + v];
                        *to = simd.add_f32s(*to, part);
                    }
                }
                continue;
            }
            let (mut largest, mut index) = (image[place(0, 0) + v], simd.splat_u32s(0));
            for at in 1..height * width {
                let value = image[place(at / width, at % width) + v];
                let larger = is_larger(simd, value, largest);
                largest = simd.select_f32s(larger, value, largest);
                index = simd.select_u32s(larger, simd.splat_u32s(at as u32), index);
            }
            for at in 0..height * width {
                let to = &mut to[place(at / width, at % width) + v];
                let here = simd.equal_u32s(index, simd.splat_u32s(at as u32));
                *to = simd.add_f32s(*to, simd.select_f32s(here, *dy, zero));
            }
        }
    }
}
