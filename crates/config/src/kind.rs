//! What values keys take.

use std::fmt;

use serde_json::Value;

use crate::{Augmentation, ClassWeights, ConfigError, ImageSize, declare::object};

/// What values a key takes, by their types in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Whole,
    /// An integer or a floating-point number.
    Number,
    /// `true` or `false`.
    Truth,
    /// A string; for a key of a user's own also an object, which serde makes of an enum's variants with fields.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An [`Augmentation`]: its name, a text such as `crop:padding=2`, or an object.
    Augmentation,
    /// An [`ImageSize`]: a text such as `64x48`, or a whole number.
    Size,
    /// [`ClassWeights`]: `balanced`, or a list of numbers.
    Weights,
    /// A list of values of one kind.
    List(&'static Kind),
    /// An object.
    Table,
    /// Anything; for a key of a user's own whose default is null.
    Any,
}

impl Kind {
    /// The kind of the values that may stand where `default` stands.
    #[must_use]
    pub fn of(default: &Value) -> Self {
        let kind = |value: &Value| match value {
            Value::Null => Self::Any,
            Value::Bool(_) => Self::Truth,
            Value::Number(number) if number.is_f64() => Self::Number,
            Value::Number(_) => Self::Whole,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List(&Self::Any),
            Value::Object(_) => Self::Table,
        };
        match default.as_array().and_then(|values| values.first()).map(kind) {
            Some(Self::Truth) => Self::List(&Self::Truth),
            Some(Self::Number) => Self::List(&Self::Number),
            Some(Self::Whole) => Self::List(&Self::Whole),
            Some(Self::Text) => Self::List(&Self::Text),
            Some(Self::Table) => Self::List(&Self::Table),
            _ => kind(default),
        }
    }

    /// Whether `value` is of this kind; what a text or an object holds is seen when it is read.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Self::Whole => value.is_u64() || value.is_i64(),
            Self::Number => value.is_number(),
            Self::Truth => value.is_boolean(),
            Self::Text | Self::Table | Self::Augmentation => value.is_string() || value.is_object(),
            Self::Size => value.is_string() || value.is_u64(),
            Self::Weights => value == "balanced" || Self::List(&Self::Number).admits(value),
            Self::Choice(names) => value.as_str().is_some_and(|name| names.contains(&name)),
            Self::List(kind) => value.as_array().is_some_and(|values| values.iter().all(|value| kind.admits(value))),
            Self::Any => true,
        }
    }

    /// The value as serde writes one of this kind: a list of one for a single value, 1.0 for 1 where fractions may
    /// stand, all parameters of an augmentation. `path` is that of the key.
    pub(crate) fn read(self, path: &str, value: &Value) -> Result<Value, ConfigError> {
        match (self, value) {
            (Self::List(each), value) if !value.is_array() && each.admits(value) => {
                Ok(Value::Array(vec![each.read(path, value)?]))
            }
            (kind, value) if !kind.admits(value) => Err(ConfigError::invalid(path, kind.to_string(), value)),
            (Self::List(each), Value::Array(values)) => values.iter().map(|value| each.read(path, value)).collect(),
            (Self::Number, value) => Ok(value.as_f64().map_or_else(|| value.clone(), Value::from)),
            (Self::Augmentation, value) => Augmentation::read(path, value).map(|one| object(&one).into()),
            (Self::Size, value) => ImageSize::read(path, value).map(|size| size.to_string().into()),
            (Self::Weights, Value::Array(_)) => {
                ClassWeights::read(path, value)?;
                Self::List(&Self::Number).read(path, value)
            }
            (_, value) => Ok(value.clone()),
        }
    }

    /// Whether values are lists, or may be.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::List(_) | Self::Weights)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("a whole number"),
            Self::Number => f.write_str("a number"),
            Self::Truth => f.write_str("true or false"),
            Self::Text => f.write_str("a text"),
            Self::Choice(names) => f.write_str(&either(names)),
            Self::Augmentation => f.write_str("an augmentation such as \"flip\" or \"crop:padding=2\""),
            Self::Size => f.write_str("a size such as 32 or 64x48 (height x width)"),
            Self::Weights => f.write_str("balanced, or a number for each class"),
            Self::List(Self::Augmentation) => f.write_str("a list of augmentations such as \"crop:padding=2\""),
            Self::List(Self::Choice(names)) => write!(f, "a list of {}", names.join(", ")),
            Self::List(Self::Whole) => f.write_str("a list of whole numbers"),
            Self::List(Self::Number) => f.write_str("a list of numbers"),
            Self::List(Self::Text) => f.write_str("a list of texts"),
            Self::List(_) => f.write_str("a list"),
            Self::Table => f.write_str("an object"),
            Self::Any => f.write_str("a value"),
        }
    }
}

/// `a, b or c`
pub(crate) fn either(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// What numbers a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Any finite number; no number at all.
    Any,
    /// 1, 2, and so on.
    AtLeastOne,
    /// 2, 3, and so on.
    AtLeastTwo,
    /// Zero or more.
    NotNegative,
    /// More than zero.
    Positive,
    /// From zero up to, but not, one.
    Fraction,
    /// From zero to one.
    Share,
    /// From zero to half a turn, in degrees.
    HalfTurn,
    /// From zero up to, but not, a right angle, in degrees.
    Acute,
    /// From one to [`ImageSize::LONGEST`].
    Side,
}

impl Range {
    /// The range in words; empty for any number.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::AtLeastOne => "at least 1",
            Self::AtLeastTwo => "at least 2",
            Self::NotNegative => "at least 0",
            Self::Positive => "above 0",
            Self::Fraction => "at least 0 and below 1",
            Self::Share => "0 to 1",
            Self::HalfTurn => "0 to 180",
            Self::Acute => "at least 0 and below 90",
            Self::Side => "1 to 4096",
        }
    }

    /// Whether `value`, if it is a number or a list of them, is in the range.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        if let Value::Array(values) = value {
            return values.iter().all(|value| self.admits(value));
        }
        value.as_f64().is_none_or(|number| match self {
            Self::Any => true,
            Self::AtLeastOne => number >= 1.0,
            Self::AtLeastTwo => number >= 2.0,
            Self::NotNegative => number >= 0.0,
            Self::Positive => number > 0.0,
            Self::Fraction => (0.0..1.0).contains(&number),
            Self::Share => (0.0..=1.0).contains(&number),
            Self::HalfTurn => (0.0..=180.0).contains(&number),
            Self::Acute => (0.0..90.0).contains(&number),
            Self::Side => (1.0..=ImageSize::LONGEST as f64).contains(&number),
        })
    }
}
