//! Arrays filled in chunks by all threads, and bytes made into numbers.

use super::{Level, output::Output, parallel};

/// Returns an array of `length` numbers that is filled in chunks of `chunk` (the last may be shorter) on all threads: `work`
/// gets each chunk's number and its places, which are zeros. Which thread fills which chunk is not determined.
///
/// # Panics
/// When `chunk` is 0, or when `work` panics.
pub fn filled(length: usize, chunk: usize, work: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    assert!(chunk > 0, "a chunk has at least one number");
    let mut output = Output::new(length);
    let target = output.target();
    parallel::for_each(length.div_ceil(chunk), |index| {
        let (start, count) = (index * chunk, chunk.min(length - index * chunk));
        // SAFETY: each task has a chunk of its own, which has values from here on. By the thread that needs it next, in its
        // cache, this takes next to no time.
        let places = unsafe {
            target.place(start, count).write_bytes(0, count);
            target.slice(start, count)
        };
        work(index, places);
    });
    // SAFETY: every element is in one of the chunks.
    unsafe { output.finish() }
}

/// Normalizes bytes: `(byte / 255 - mean) / std` in `f32`, with the same bits on every CPU.
///
/// # Panics
/// When `out` has another length.
pub fn normalize_bytes(bytes: &[u8], mean: f32, std: f32, out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len(), "one number for each byte");
    Level::best().vectorize(
        #[inline(always)]
        || {
            for (&byte, out) in bytes.iter().zip(out.iter_mut()) {
                *out = (f32::from(byte) / 255.0 - mean) / std;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_filled_once_by_its_number() {
        for (length, chunk) in [(0, 3), (1, 3), (3, 3), (10, 3), (1000, 7), (5, 100)] {
            let out = filled(length, chunk, |index, places| {
                assert!(places.len() == chunk || (index + 1) * chunk > length);
                for place in places.iter_mut() {
                    *place += 1.0 + index as f32;
                }
            });
            let wanted: Vec<f32> = (0..length).map(|at| 1.0 + (at / chunk) as f32).collect();
            assert_eq!(out, wanted);
        }
    }

    #[test]
    fn normalized_bytes_have_the_bits_of_the_plain_expression() {
        let bytes: Vec<u8> = (0..=255).chain(7..31).collect();
        for (mean, std) in [(0.0, 1.0), (0.2860, 0.3530), (0.5, 0.1)] {
            let mut out = vec![f32::NAN; bytes.len()];
            normalize_bytes(&bytes, mean, std, &mut out);
            for (byte, out) in bytes.iter().zip(out) {
                assert_eq!(out.to_bits(), ((f32::from(*byte) / 255.0 - mean) / std).to_bits());
            }
        }
    }
}
