//! Image classification.
