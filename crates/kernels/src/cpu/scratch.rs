use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    slice,
};

/// A cache line, which is also the longest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Lines that a thread keeps at most, 64 MB: what the layers of usual networks take at once. More goes back to the system.
const MOST: usize = 1 << 20;

thread_local! {
    /// The one that was dropped last comes last.
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of floats on a cache line's boundary that its thread keeps when it is dropped, for the next one to take.
///
/// What it holds at first is what somebody left there.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    length: usize,
}

impl Scratch {
    pub(crate) fn take(length: usize) -> Self {
        let wanted = length.div_ceil(16);
        let mut lines = KEPT.with_borrow_mut(|kept| {
            // The smallest that is long enough, else the longest.
            let fits = (0..kept.len()).filter(|&i| kept[i].len() >= wanted).min_by_key(|&i| kept[i].len());
            let chosen = fits.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
            chosen.map(|i| kept.remove(i)).unwrap_or_default()
        });
        if lines.len() < wanted {
            // Another one, without copying what is of no use.
            lines = Vec::new();
            lines.resize(wanted, Line([0.0; 16]));
        }
        Self { lines, length }
    }

    pub(crate) fn zeroed(length: usize) -> Self {
        let mut scratch = Self::take(length);
        scratch.fill(0.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends takes its buffers along.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            kept.push(lines);
            let mut total: usize = kept.iter().map(Vec::len).sum();
            while total > MOST {
                total -= kept.remove(0).len();
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is sixteen floats without padding, and there are at least `length / 16` of them.
        unsafe { slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<usize> {
        KEPT.with_borrow(|kept| kept.iter().map(Vec::len).collect())
    }

    #[test]
    fn a_thread_keeps_its_buffers_up_to_a_limit_and_gives_back_the_oldest() {
        // A thread of its own, which has kept nothing so far.
        std::thread::spawn(|| {
            drop([Scratch::take(100), Scratch::take(16 * MOST - 200)]);
            assert_eq!(kept(), [7, MOST - 12]);
            // The smallest that is long enough is taken, and is the last to be dropped.
            drop(Scratch::take(50));
            assert_eq!(kept(), [MOST - 12, 7]);
            drop([Scratch::take(80), Scratch::take(90)]);
            assert_eq!(kept(), [7, MOST - 12]);
            drop([Scratch::take(16 * MOST), Scratch::take(10)]);
            assert_eq!(kept().iter().sum::<usize>(), 7);
            drop(Scratch::take(16 * MOST + 1));
            assert!(kept().is_empty());
        })
        .join()
        .unwrap();
    }
}
