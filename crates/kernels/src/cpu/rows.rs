//! Rows of a matrix, in any order.

use super::{output::Output, parallel};

/// Rows in a task.
const ROWS: usize = 16;

/// The rows of a matrix at `indices`, one after another.
///
/// # Panics
/// When there is no such row.
pub(crate) fn select(matrix: &[f32], length: usize, indices: &[usize]) -> Vec<f32> {
    let mut selected = Output::new(indices.len() * length);
    let to = selected.target();
    parallel::for_each(indices.len().div_ceil(ROWS), |block| {
        for row in block * ROWS..indices.len().min((block + 1) * ROWS) {
            // SAFETY: each task has rows of its own.
            unsafe { to.copy(row * length, &matrix[indices[row] * length..][..length]) };
        }
    });
    // SAFETY: the tasks have written every row.
    unsafe { selected.finish() }
}
