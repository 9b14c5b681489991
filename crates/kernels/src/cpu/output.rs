use std::marker::PhantomData;

/// An array that tasks fill, without filling it with zeros first.
pub(crate) struct Output {
    floats: Vec<f32>,
    length: usize,
}

impl Output {
    pub(crate) fn new(length: usize) -> Self {
        Self { floats: Vec::with_capacity(length), length }
    }

    /// Where tasks write.
    pub(crate) fn target(&mut self) -> Target<'_> {
        Target { start: self.floats.as_mut_ptr(), length: self.length, owner: PhantomData }
    }

    /// The array.
    ///
    /// # Safety
    /// Every element has been written.
    pub(crate) unsafe fn finish(mut self) -> Vec<f32> {
        // SAFETY: `new` made room for them, and by the caller's promise they have values.
        unsafe { self.floats.set_len(self.length) };
        self.floats
    }
}

/// The places of an array that tasks write to, each task to its own.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a, T = f32> {
    start: *mut T,
    length: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a task that writes promises that nobody else uses the place.
unsafe impl<T: Send> Sync for Target<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Target<'_, T> {}

impl<'a, T: Copy> Target<'a, T> {
    /// The places of an array that has values already.
    pub(crate) fn of(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), length: values.len(), owner: PhantomData }
    }

    /// The address of `length` elements from `start` on.
    ///
    /// # Panics
    /// When the array does not have them.
    pub(crate) fn place(self, start: usize, length: usize) -> *mut T {
        assert!(start <= self.length && length <= self.length - start, "a place outside of its array");
        // SAFETY: within the array, or one past its end.
        unsafe { self.start.add(start) }
    }

    /// `length` elements from `start` on.
    ///
    /// # Safety
    /// They have values, or are written before they are read, and while the slice is used nobody else uses any of them.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(self, start: usize, length: usize) -> &'a mut [T] {
        // SAFETY: `place` has checked the bounds, the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.place(start, length), length) }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// Nobody else uses it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set(self, at: usize, value: T) {
        // SAFETY: `place` has checked the bounds, the rest is the caller's promise.
        unsafe { self.place(at, 1).write(value) };
    }

    /// Writes some elements.
    ///
    /// # Safety
    /// Nobody else uses them meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn copy(self, start: usize, values: &[T]) {
        // SAFETY: `place` has checked the bounds, the rest is the caller's promise.
        unsafe { self.place(start, values.len()).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }
}
