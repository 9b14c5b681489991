//! How the keys of a config are declared, and what is known about each of them.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Augmentation, ClassWeights, ConfigError, ImageSize, Kind, Range};

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

    /// A value of the key as serde writes it; `path` is that of the key.
    pub(crate) fn read(&self, path: &str, value: &Value) -> Result<Value, ConfigError> {
        let read = self.kind.read(path, value)?;
        if !self.range.admits(&read) {
            return Err(ConfigError::invalid(path, self.range.words(), value));
        }
        Ok(read)
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
typed!(Augmentation = Augmentation, ImageSize = Size, ClassWeights = Weights,);

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
