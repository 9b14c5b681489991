//! The boundary that panics do not cross: Burn panics where a backend fails.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::TrainingError;

/// Runs `work`, and turns a panic into [`TrainingError::Backend`].
///
/// # Errors
/// Those of `work`, and what a panic said.
pub fn contained<T>(work: impl FnOnce() -> Result<T, TrainingError>) -> Result<T, TrainingError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(TrainingError::backend(message(&*panic))))
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_backend_is_an_error_with_its_message() {
        let error = contained::<()>(|| panic!("out of memory")).unwrap_err();
        assert_eq!(error.to_string(), "training failed: out of memory");
    }
}
