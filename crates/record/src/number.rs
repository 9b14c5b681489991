//! JSON has no NaN and no infinity: such numbers are written as `"NaN"`, `"inf"` and `"-inf"`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Finite(f64),
    NonFinite(String),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        if value.is_finite() { Self::Finite(value) } else { Self::NonFinite(value.to_string()) }
    }
}

impl TryFrom<Number> for f64 {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        match number {
            Number::Finite(value) => Ok(value),
            Number::NonFinite(text) => match text.as_str() {
                "NaN" => Ok(f64::NAN),
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                _ => Err(format!("expected a number, \"NaN\", \"inf\" or \"-inf\", found \"{text}\"")),
            },
        }
    }
}

/// Writes a number of any kind, for `#[serde(serialize_with)]`.
///
/// # Errors
/// The serializer's.
// serde hands the field over by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Number::from(*value).serialize(serializer)
}

/// Reads what [`serialize`] writes.
///
/// # Errors
/// The deserializer's, or when it is some other text.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
}
