use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    slice,
};

/// A cache line, which is also the longest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
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
            chosen.map(|i| kept.swap_remove(i)).unwrap_or_default()
        });
        if lines.len() < wanted {
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
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(lines));
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
