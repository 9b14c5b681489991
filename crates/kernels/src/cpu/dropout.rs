//! Dropout whose mask is a function of a key and of each number's index.

use super::{Level, output::Output, parallel};

/// Numbers in a task. The masks depend on it.
const BLOCK: usize = 1 << 15;

/// Each number of x times `1 / (1 - probability)`, or times zero with that probability, which is below 1. Which ones
/// are dropped is a function of the key and of their index alone. The gradient of x is the same function of that of the
/// output.
pub(crate) fn apply(level: Level, x: &[f32], key: u64, probability: f64) -> Vec<f32> {
    // Of 2³² hashes.
    let dropped = (probability * 4_294_967_296.0) as u32;
    let scale = (1.0 / (1.0 - probability)) as f32;
    let mut output = Output::new(x.len());
    let target = output.target();
    parallel::for_each(x.len().div_ceil(BLOCK), |block| {
        let x = &x[block * BLOCK..x.len().min((block + 1) * BLOCK)];
        let y = target.place(block * BLOCK, x.len());
        let key = split_mix(key, block as u64);
        let [low, high] = [key as u32, (key >> 32) as u32];
        level.vectorize(
            #[inline(always)]
            || {
                // Copies: a loop whose writes might change what the closure has captured is not made of vectors.
                let (y, low, high, dropped, scale) = (y, low, high, dropped, scale);
                for (index, x) in x.iter().enumerate() {
                    let hash = mix(mix(index as u32 ^ low) ^ high);
                    let factor = if hash < dropped { 0.0 } else { scale };
                    // SAFETY: each task has a block of its own.
                    unsafe { y.add(index).write(x * factor) };
                }
            },
        );
    });
    // SAFETY: the tasks have written every block.
    unsafe { output.finish() }
}

/// The number at `index` of `SplitMix64`'s sequence (Steele, Lea and Flood 2014) from a seed.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mixed = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A permutation of the numbers that changes half of the bits for each that is changed: the best of C. Wellons' hash
/// prospector (github.com/skeeto/hash-prospector).
#[inline(always)]
fn mix(number: u32) -> u32 {
    let mixed = (number ^ (number >> 16)).wrapping_mul(0x21F0_AAAD);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x735A_2D97);
    mixed ^ (mixed >> 15)
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // What is compared so is the same to the last bit.
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// More than two tasks.
    const LENGTH: usize = 3 * BLOCK - 77;

    fn mask(level: Level, key: u64, probability: f64) -> Vec<f32> {
        apply(level, &vec![1.0; LENGTH], key, probability)
    }

    fn dropped(mask: &[f32]) -> f64 {
        mask.iter().filter(|&&factor| factor == 0.0).count() as f64 / mask.len() as f64
    }

    #[test]
    fn as_many_are_dropped_as_the_probability_says_and_the_rest_is_scaled() {
        for (key, probability) in [(0, 0.1), (1, 0.5), (u64::MAX, 0.9)] {
            let mask = mask(Level::best(), key, probability);
            let scale = (1.0 / (1.0 - probability)) as f32;
            assert!(mask.iter().all(|&factor| factor == 0.0 || factor == scale));
            // Five standard deviations.
            let bound = 5.0 * (probability * (1.0 - probability) / LENGTH as f64).sqrt();
            assert!((dropped(&mask) - probability).abs() < bound, "{} of {probability}", dropped(&mask));
        }
    }

    #[test]
    fn masks_of_neighbouring_keys_and_neighbouring_numbers_are_independent() {
        let masks: Vec<Vec<f32>> = (0..8).map(|key| mask(Level::best(), key, 0.5)).collect();
        // How often two factors agree, within five standard deviations of half of the time.
        let check = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>, what: &str| {
            let (mut count, mut same) = (0.0_f64, 0.0);
            for (left, right) in pairs {
                count += 1.0;
                same += if left == right { 1.0 } else { 0.0 };
            }
            assert!((same / count - 0.5).abs() < 5.0 * (0.25 / count).sqrt(), "{what}: {same} of {count}");
        };
        for (key, mask) in masks.iter().enumerate() {
            for other in &masks[key + 1..] {
                check(&mut mask.iter().zip(other), "two keys");
            }
            for apart in [1, 2, 3, 8, 64, 1024, BLOCK] {
                check(&mut mask.iter().zip(&mask[apart..]), "two numbers");
            }
        }
    }

    #[test]
    fn a_mask_depends_on_nothing_but_key_and_index() {
        let x: Vec<f32> = (0..LENGTH).map(|index| index as f32 - 5e4).collect();
        let expected = apply(Level::best(), &x, 7, 0.3);
        for level in Level::available() {
            assert!(apply(level, &x, 7, 0.3) == expected, "{level}");
            assert!(apply(level, &x[..LENGTH / 2], 7, 0.3) == expected[..LENGTH / 2], "fewer numbers, {level}");
        }
        // What a task calls runs on the task's thread alone.
        let alone: [Mutex<Vec<f32>>; 2] = Default::default();
        parallel::for_each(2, |task| *alone[task].lock().unwrap() = apply(Level::best(), &x, 7, 0.3));
        for found in alone {
            assert!(found.into_inner().unwrap() == expected, "one thread");
        }
        assert!(apply(Level::best(), &x, 8, 0.3) != expected, "another key");
    }

    #[test]
    fn nan_stays_nan_where_it_is_dropped() {
        assert!(apply(Level::best(), &[f32::NAN; 100], 1, 0.5).iter().all(|number| number.is_nan()));
    }
}
