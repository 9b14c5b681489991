//! Where a network looks: how the probability of its class changes when a part of the image is covered (Zeiler and Fergus
//! 2014, section 4.2, <https://arxiv.org/abs/1311.2901>).

use kindling_data::ImageSet;
use serde::Serialize;

use super::player::{Player, most_probable};
use crate::WebError;

/// What covering each of many squares of an image does to the probability of its most probable class.
#[derive(Debug, Serialize)]
pub(super) struct Map {
    /// The class.
    class: usize,
    /// Its probability without a cover.
    probability: f32,
    /// Side of the squares in pixels, `[height, width]`.
    patch: [usize; 2],
    /// What the squares are covered with, a byte for each channel.
    cover: Vec<u8>,
    patches: Vec<Patch>,
}

/// A square that was covered.
#[derive(Debug, Serialize)]
struct Patch {
    /// Its first column.
    x: usize,
    /// Its first row.
    y: usize,
    /// How much lower the probability is with it covered.
    drop: f32,
}

/// The map of the only image of `image`, with squares of a fifth of the image that overlap by half.
///
/// The cover is the background where the images are grey and of a set's own, and otherwise the image's mean colour.
pub(super) fn map(player: &Player, image: &ImageSet) -> Result<Map, WebError> {
    let [channels, height, width] = image.shape();
    let pixels = image.image(0);
    let plane = height * width;
    let mean = |channel: &[u8]| (channel.iter().map(|&value| u64::from(value)).sum::<u64>() / plane as u64) as u8;
    let preparation = player.preparation();
    let cover: Vec<u8> = match preparation.fit {
        None => vec![preparation.background; channels],
        Some(_) => pixels.chunks_exact(plane).map(mean).collect(),
    };
    let patch = [height, width].map(|side| side.div_ceil(5));
    let places = starts(height, patch[0]).flat_map(|y| starts(width, patch[1]).map(move |x| (x, y)));
    let places: Vec<_> = places.collect();
    let mut covered = pixels.to_vec();
    for &(x, y) in &places {
        let mut pixels = pixels.to_vec();
        for (channel, &value) in pixels.chunks_exact_mut(plane).zip(&cover) {
            channel.chunks_exact_mut(width).skip(y).take(patch[0]).for_each(|row| row[x..x + patch[1]].fill(value));
        }
        covered.extend(pixels);
    }
    // The image itself comes first.
    let labels = vec![0; places.len() + 1];
    let rows = player.probabilities(&ImageSet::new(covered, labels, image.shape())?)?;
    let (class, probability) = most_probable(&rows[0]);
    let patches = places.iter().zip(&rows[1..]).map(|(&(x, y), row)| Patch { x, y, drop: probability - row[class] });
    Ok(Map { class, probability, patch, cover, patches: patches.collect() })
}

/// Where the patches begin: half a patch apart, the last at the end of the side.
fn starts(side: usize, patch: usize) -> impl Iterator<Item = usize> {
    let last = side - patch;
    (0..last).step_by(patch.div_ceil(2)).chain([last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_cover_every_pixel_of_a_side_whatever_its_length() {
        for side in 1_usize..300 {
            let patch = side.div_ceil(5);
            let starts: Vec<_> = starts(side, patch).collect();
            assert_eq!((starts[0], starts[starts.len() - 1] + patch), (0, side));
            assert!(
                starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= patch),
                "{side}: {starts:?}"
            );
            assert!(starts.len() <= 11, "{side}: {starts:?}");
        }
    }
}
