//! Ten drawn shapes, for tests and for trials without a network; every record says so.

use kindling_training::stream;
use rand::{Rng, RngExt};

use crate::{ImageData, ImageSet};

/// Names of the shapes, in the order of their labels.
pub const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "frame", "triangle", "diamond", "cross", "saltire", "horizontal bars", "vertical bars"];

const TRAIN: usize = 6_000;
const TEST: usize = 1_000;
const SIDE: usize = 28;

/// Draws the set: 6,000 train and 1,000 test images of 28x28, always the same.
///
/// A shape differs from the next of its class in place, size, brightness and noise, so that learning it takes some
/// steps and a network that learns nothing shows it.
#[must_use]
pub fn draw() -> ImageData {
    let [train, test] = [draw_split("train", TRAIN), draw_split("test", TEST)];
    ImageData::new("synthetic", CLASSES.map(str::to_owned).to_vec(), train, test)
        .unwrap_or_else(|error| unreachable!("labels and sizes are those drawn here: {error}"))
}

fn draw_split(split: &str, count: usize) -> ImageSet {
    let mut pixels = Vec::with_capacity(count * SIDE * SIDE);
    let mut labels = Vec::with_capacity(count);
    for index in 0..count {
        let mut random = stream(0, split, index as u64);
        let label = random.random_range(0..CLASSES.len());
        draw_shape(label, &mut random, &mut pixels);
        labels.push(label as u16);
    }
    ImageSet::new(pixels, labels, [1, SIDE, SIDE])
        .unwrap_or_else(|error| unreachable!("a label for each image: {error}"))
}

fn draw_shape(label: usize, random: &mut impl Rng, pixels: &mut Vec<u8>) {
    let radius: f32 = random.random_range(6.0..11.0);
    let centre = [random.random_range(11.0..17.0_f32), random.random_range(11.0..17.0_f32)];
    let ink: f32 = random.random_range(120.0..255.0);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (x, y) = ((column as f32 - centre[0]) / radius, (row as f32 - centre[1]) / radius);
            let inked = if is_inside(label, x, y) { ink } else { 0.0 };
            let noise: f32 = random.random_range(-30.0..30.0);
            pixels.push((inked + noise).clamp(0.0, 255.0) as u8);
        }
    }
}

/// Whether a shape of radius 1 around the origin covers the point.
fn is_inside(label: usize, x: f32, y: f32) -> bool {
    // Not `hypot`: that is the platform's, which may round another way.
    let round = (x * x + y * y).sqrt();
    let square = x.abs().max(y.abs());
    match label {
        0 => round < 1.0,
        1 => (0.6..1.0).contains(&round),
        2 => square < 0.85,
        3 => (0.5..0.85).contains(&square),
        4 => y < 0.8 && x.abs() < (y + 1.0) * 0.6,
        5 => x.abs() + y.abs() < 1.0,
        6 => square < 1.0 && x.abs().min(y.abs()) < 0.25,
        7 => square < 0.85 && (x.abs() - y.abs()).abs() < 0.3,
        8 => square < 0.9 && ((y + 1.0) * 2.5).rem_euclid(2.0) < 1.0,
        _ => square < 0.9 && ((x + 1.0) * 2.5).rem_euclid(2.0) < 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `draw().sha256` is on every platform.
    const SHA256: &str = "34c2f49662eb464029233f9b2e69c861572eb6c1bdde9e348dcb3bc6b7740931";

    #[test]
    fn the_drawn_set_is_the_same_everywhere_and_has_every_class() {
        let data = draw();
        assert_eq!((data.train.count(), data.test.count(), data.train.size()), (TRAIN, TEST, [SIDE, SIDE]));
        assert_eq!(data.sha256, SHA256);
        for class in 0..10 {
            assert!(data.test.labels().iter().filter(|&&label| label == class).count() > 50);
        }
    }
}
