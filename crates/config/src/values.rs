//! Values that have a text of their own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ConfigError, Kind};

/// Height and width of images, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl ImageSize {
    /// The longest side: far above what a classifier is trained on.
    pub const LONGEST: usize = 4096;

    /// The size that a value is for the key of this path: a text, or a whole number for a square.
    pub(crate) fn read(path: &str, value: &Value) -> Result<Self, ConfigError> {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let side = |text: &str| text.parse().ok().filter(|side| (1..=Self::LONGEST).contains(side));
        let (height, width) = text.split_once('x').unwrap_or((&text, &text));
        side(height).zip(side(width)).map(|(height, width)| Self { height, width }).ok_or_else(|| {
            let wanted = format!("{} of 1 to {} pixels a side", Kind::Size, Self::LONGEST);
            ConfigError::invalid(path, wanted, value)
        })
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.height, self.width))
    }
}

impl FromStr for ImageSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::read("image_size", &text.into())
    }
}

impl From<ImageSize> for String {
    fn from(size: ImageSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for ImageSize {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

/// Weights of the classes in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClassWeights {
    /// `n / (classes * n_c)` for a class with `n_c` of the `n` training images, as scikit-learn's.
    #[serde(rename = "balanced")]
    Balanced,
    /// One for each class, each at least 0 and one above it.
    #[serde(untagged)]
    Given(Vec<f64>),
}

impl ClassWeights {
    /// The weights that a value describes for the key of this path.
    pub(crate) fn read(path: &str, value: &Value) -> Result<Self, ConfigError> {
        let weights = serde_json::from_value(value.clone()).ok().filter(|weights| match weights {
            Self::Balanced => true,
            Self::Given(weights) => {
                weights.iter().all(|weight| *weight >= 0.0) && weights.iter().any(|weight| *weight > 0.0)
            }
        });
        let wanted = || format!("{}, each at least 0 and one above 0", Kind::Weights);
        weights.ok_or_else(|| ConfigError::invalid(path, wanted(), value))
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balanced => f.pad("balanced"),
            Self::Given(weights) => f.pad(&weights.iter().map(f64::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_size_is_a_side_or_height_and_width() {
        let size = |height, width| Some(ImageSize { height, width });
        let read = |value| ImageSize::read("data.image_size", &value).ok();
        assert_eq!((read(json!(32)), read(json!("32"))), (size(32, 32), size(32, 32)));
        assert_eq!(read(json!("64x48")), size(64, 48));
        for wrong in [json!(0), json!(4097), json!("64x"), json!("64x48x3"), json!("wide"), json!(3.5), json!("-1x2")] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
        let message = "64x0".parse::<ImageSize>().unwrap_err().to_string();
        let wanted = "a size such as 32 or 64x48 (height x width) of 1 to 4096 pixels a side";
        assert_eq!(message, format!("image_size: expected {wanted}, found \"64x0\""));
        let size = ImageSize { height: 64, width: 48 };
        assert_eq!(serde_json::from_value::<ImageSize>(json!(size)).unwrap(), size);
    }

    #[test]
    fn class_weights_are_balanced_or_numbers_of_which_one_counts() {
        let read = |value| ClassWeights::read("training.class_weights", &value).ok();
        assert_eq!(read(json!("balanced")), Some(ClassWeights::Balanced));
        assert_eq!(read(json!([1, 0, 0.5])), Some(ClassWeights::Given(vec![1.0, 0.0, 0.5])));
        for wrong in [json!([]), json!([0, 0]), json!([1, -1]), json!("even")] {
            assert_eq!(read(wrong.clone()), None, "{wrong}");
        }
        assert_eq!(json!([ClassWeights::Balanced, ClassWeights::Given(vec![2.0])]), json!(["balanced", [2.0]]));
    }
}
