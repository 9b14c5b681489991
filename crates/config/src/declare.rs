//! How the keys of a config are declared, and what is known about each of them.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

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

    /// Whether `value` is of this kind.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Self::Whole => value.is_u64() || value.is_i64(),
            Self::Number => value.is_number(),
            Self::Truth => value.is_boolean(),
            Self::Text | Self::Table => value.is_string() || value.is_object(),
            Self::Choice(names) => value.as_str().is_some_and(|name| names.contains(&name)),
            Self::List(kind) => value.as_array().is_some_and(|values| values.iter().all(|value| kind.admits(value))),
            Self::Any => true,
        }
    }

    /// The value as serde writes one of this kind: a list of one for a single value, and 1 as 1.0 where fractions may stand.
    pub(crate) fn normalized(self, value: Value) -> Value {
        match (self, value) {
            (Self::List(each), Value::Array(values)) => {
                values.into_iter().map(|value| each.normalized(value)).collect()
            }
            (Self::List(each), value) if each.admits(&value) => Value::Array(vec![each.normalized(value)]),
            (Self::Number, value) => value.as_f64().map_or(value, Value::from),
            (_, value) => value,
        }
    }

    /// Whether values are lists.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::List(_))
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
    /// Zero or more.
    NotNegative,
    /// More than zero.
    Positive,
    /// From zero up to, but not, one.
    Fraction,
}

impl Range {
    /// The range in words; empty for any number.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::AtLeastOne => "at least 1",
            Self::NotNegative => "at least 0",
            Self::Positive => "above 0",
            Self::Fraction => "at least 0 and below 1",
        }
    }

    /// Whether `value`, if it is a number, is in the range.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        value.as_f64().is_none_or(|number| match self {
            Self::Any => true,
            Self::AtLeastOne => number >= 1.0,
            Self::NotNegative => number >= 0.0,
            Self::Positive => number > 0.0,
            Self::Fraction => (0.0..1.0).contains(&number),
        })
    }
}

/// A key of a section, as declared.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) range: Range,
    pub(crate) flag: Option<&'static str>,
}

impl Field {
    pub(crate) const fn new<T: Typed>(
        name: &'static str,
        help: &'static str,
        range: Range,
        flag: Option<&'static str>,
    ) -> Self {
        Self { name, help, kind: T::KIND, range, flag }
    }
}

/// A variant of a section, as declared.
#[derive(Debug)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// Its keys with their defaults.
    pub(crate) defaults: fn() -> Map<String, Value>,
}

/// A type that a key may have.
pub(crate) trait Typed {
    const KIND: Kind;
}

macro_rules! typed {
    ($($type:ty = $kind:ident,)*) => {
        $(impl Typed for $type {
            const KIND: Kind = Kind::$kind;
        })*
    };
}

typed!(usize = Whole, u64 = Whole, f64 = Number, bool = Truth, String = Text,);

impl<T: Typed> Typed for Option<T> {
    const KIND: Kind = T::KIND;
}

impl<T: Typed> Typed for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
}

/// The fields of a struct as a JSON object.
pub(crate) fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        other => unreachable!("a struct with plain fields is a JSON object, found {other:?}"),
    }
}

/// Defines an enum whose values have names in JSON and in flags.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type { $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)+ }

        impl $type {
            /// All of them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name in files and flags.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl Typed for $type {
            const KIND: Kind = Kind::Choice(&[$($name),+]);
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = ConfigError;

            fn from_str(name: &str) -> Result<Self, ConfigError> {
                let known = Self::ALL.into_iter().find(|value| value.name() == name);
                known.ok_or_else(|| {
                    ConfigError::invalid(&stringify!($type).to_lowercase(), Self::KIND.to_string(), &Value::from(name))
                })
            }
        }
    };
}

/// Defines a section with variants: its keys, each once, with help, type, range and flag; and for each variant a struct of
/// the keys that it has with their defaults. The first variant is the default.
macro_rules! variants {
    (
        $(#[$doc:meta])*
        $type:ident {
            $($(#[doc = $help:literal])+ $key:ident: $key_type:ty, $range:ident, $flag:expr;)+
        }
        $($(#[doc = $variant_doc:literal])+ $variant:ident = $name:literal { $($field:ident: $default:expr),* })+
    ) => {
        $(macro_rules! $key {
            (help) => { concat!($($help),+) };
            (type) => { $key_type };
        })+

        $($(#[doc = $variant_doc])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $variant {
            $(#[doc = $field!(help)] pub $field: $field!(type),)*
        }

        impl Default for $variant {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl From<$variant> for $type {
            fn from(variant: $variant) -> Self {
                Self::$variant(variant)
            }
        })+

        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        pub enum $type {
            $($(#[doc = $variant_doc])+ #[serde(rename = $name)] $variant($variant),)+
        }

        impl $type {
            pub(crate) const FIELDS: &[Field] = &[
                $(Field::new::<$key_type>(stringify!($key), concat!($($help),+), Range::$range, $flag)),+
            ];

            pub(crate) const VARIANTS: &[Variant] =
                &[$(Variant { name: $name, defaults: || object(&$variant::default()) }),+];

            /// Name of the variant in files and flags.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }
        }

        impl Default for $type {
            fn default() -> Self {
                let variants = [$(Self::$variant($variant::default())),+];
                let [first, ..] = variants;
                first
            }
        }
    };
}

/// Defines a section without variants of its own; each key with help, type, default, range and flag. Fields in `other` are
/// no declared keys.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $type:ident {
            $($(#[doc = $help:literal])+ $key:ident: $key_type:ty = $default:expr, $range:ident, $flag:expr;)+
        }
        other { $($(#[$other_doc:meta])* $other:ident: $other_type:ty),* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $type {
            $($(#[doc = $help])+ pub $key: $key_type,)+
            $($(#[$other_doc])* pub $other: $other_type,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self { $($key: $default,)+ $($other: <$other_type>::default(),)* }
            }
        }

        impl $type {
            pub(crate) const FIELDS: &[Field] = &[
                $(Field::new::<$key_type>(stringify!($key), concat!($($help),+), Range::$range, $flag)),+
            ];

            /// The declared keys with their defaults.
            pub(crate) fn defaults() -> Map<String, Value> {
                let mut keys = object(&Self::default());
                keys.retain(|key, _| Self::FIELDS.iter().any(|field| field.name == key));
                keys
            }
        }
    };
}
