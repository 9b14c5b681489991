//! The typed config.
