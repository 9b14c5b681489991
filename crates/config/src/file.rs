//! Config files: JSON or TOML in UTF-8, with or without a byte order mark. Whatever else a file holds is named.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::{ConfigError, error::start};

/// Reads the value that a config file holds.
///
/// # Errors
/// When it is neither JSON nor TOML, which names what it seems to be, or when an object has a key twice.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ConfigError> {
    let text = decode(bytes)?;
    let value = match format(text) {
        Format::Json => serde_json::from_str::<Strict>(text).map_err(|error| error.to_string()),
        Format::Toml => toml::from_str::<Strict>(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| format!(" in line {}", 1 + before.matches('\n').count()));
            format!("{}{}", error.message(), line.unwrap_or_default())
        }),
        Format::Other(found) => return Err(ConfigError::Format(found)),
    };
    value.map(|strict| strict.0).map_err(ConfigError::Malformed)
}

/// The object that a config file holds.
pub(crate) fn object(value: Value) -> Result<Map<String, Value>, ConfigError> {
    match value {
        Value::Object(object) => Ok(object),
        other => {
            let found = start(&other.to_string());
            Err(ConfigError::Malformed(format!("expected an object of keys and values, found {found}")))
        }
    }
}

/// The text without its byte order mark.
fn decode(bytes: &[u8]) -> Result<&str, ConfigError> {
    let found = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{' | b'[', 0, ..] | [0, b'{' | b'[', ..] => {
            "text in UTF-16; save it as UTF-8".to_owned()
        }
        _ if bytes.contains(&0) => "a binary file".to_owned(),
        _ => match str::from_utf8(bytes) {
            Ok(text) => return Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
                format!("text in another encoding than UTF-8 in line {line}, such as Latin-1; save it as UTF-8")
            }
        },
    };
    Err(ConfigError::Format(found))
}

enum Format {
    Json,
    Toml,
    /// Neither; what it seems to be.
    Other(String),
}

/// What a text seems to be.
fn format(text: &str) -> Format {
    let text = text.trim();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next().unwrap_or_default();
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_alphanumeric() || "_\"'".contains(c))
            && name.chars().all(|c| c.is_alphanumeric() || " _-.\"'".contains(c))
    };
    let table = line.trim_start_matches('[').split_once(']');
    let is_table =
        line.starts_with('[') && table.is_some_and(|(name, _)| name.starts_with(char::is_alphabetic) && is_name(name));
    let has_key = |sign| line.split_once(sign).is_some_and(|(key, _)| is_name(key.trim()));
    let is_yaml = ["---", "- "].iter().any(|start| line.starts_with(start))
        || line.ends_with(':')
        || (line.contains(": ") && has_key(':'));
    if text.is_empty() {
        Format::Other("an empty file".to_owned())
    } else if text.starts_with('{') {
        Format::Json
    } else if line.starts_with('{') || line.starts_with("//") || line.starts_with("/*") {
        Format::Other("JSON with comments, which JSON does not have".to_owned())
    } else if is_table || has_key('=') || line.is_empty() {
        Format::Toml
    } else if is_yaml {
        Format::Other("what looks like YAML".to_owned())
    } else if line.starts_with('[') {
        Format::Json
    } else {
        Format::Other(format!("`{}`", start(text.lines().next().unwrap_or_default())))
    }
}

/// A JSON value whose objects have every key once, where serde_json's own takes the last value of a key; and in which TOML's
/// dates, infinities and not-a-numbers, which JSON does not have, are errors.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

/// How the crate `toml` gives a date to a visitor.
const TOML_DATE: &str = "$__toml_private_datetime";

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("expected a finite number, found {value}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if key == TOML_DATE {
                return Err(A::Error::custom("expected a number, text, list or table, found a date"));
            }
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is there twice")));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: impl AsRef<[u8]>) -> String {
        parse(bytes.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(parse(b"\xef\xbb\xbf{\"epochs\": 3}\r\n").unwrap(), serde_json::json!({ "epochs": 3 }));
    }

    #[test]
    fn values_are_those_that_serde_json_reads() {
        let text = r#"{"a": [1, -2, 0.1, 1e300, 18446744073709551615, null, true, "é\n\u00e9"], "b": {"c": []}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_wherever_it_is() {
        for text in [
            r#"{"seed": 1, "epochs": 1, "seed": 2}"#,
            r#"{"schema": 2, "config": {"seed": 1, "seed": 1}}"#,
            r#"[{"seed": 1}, {"seed": [1], "seed": 1}]"#,
        ] {
            assert!(message(text).starts_with("config: `seed` is there twice at line 1"), "{}", message(text));
        }
    }

    #[test]
    fn what_is_neither_json_nor_toml_is_named() {
        let checks: &[(&[u8], &str)] = &[
            (b"", "an empty file"),
            (b"\xef\xbb\xbf \n", "an empty file"),
            (b"model: mlp\nepochs: 3\n", "what looks like YAML"),
            (b"---\nmodel: mlp\n", "what looks like YAML"),
            (b"# a run\nhidden:\n  - 64\n", "what looks like YAML"),
            (b"- model: mlp\n", "what looks like YAML"),
            (b"// a run\n{\"epochs\": 3}", "JSON with comments, which JSON does not have"),
            (b"# a run\n{\"epochs\": 3}", "JSON with comments, which JSON does not have"),
            (b"model,epochs\nmlp,3\n", "`model,epochs`"),
            (b"<config><epochs>3</epochs></config> and more of it", "`<config><epochs>3</epochs></config> and …`"),
            (b"--epochs=3", "`--epochs=3`"),
            (b"\xff\xfe{\0\"\0", "text in UTF-16; save it as UTF-8"),
            (b"\0{\0\"", "text in UTF-16; save it as UTF-8"),
            (b"PK\x03\x04\0\0", "a binary file"),
            (
                b"{\n\"name\": \"caf\xe9\"}",
                "text in another encoding than UTF-8 in line 2, such as Latin-1; save it as UTF-8",
            ),
        ];
        for (bytes, found) in checks {
            assert_eq!(message(bytes), format!("expected a config in JSON or TOML, found {found}"));
        }
    }

    #[test]
    fn json_with_a_mistake_is_still_json() {
        for text in ["{", "{\"epochs\": 3,}", "{epochs: 3}", "[[64], [32]", "[{\"a\": 1}", "[\n  \"flip\"\n"] {
            assert!(message(text).starts_with("config: "), "{text}: {}", message(text));
        }
        let message = parse(b"[1, 2]").and_then(object).unwrap_err().to_string();
        assert_eq!(message, "config: expected an object of keys and values, found [1,2]");
    }

    #[test]
    fn toml_is_read_as_the_same_json() {
        for text in [
            "a.b = 1\na.c = [\"x\", 0.5]\n",
            "# a run\n\n[a]\nb = 1\nc = [\"x\", 5e-1]\n",
            "\u{feff}a = { b = 1, c = [\"x\", 0.5] }",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::json!({"a": {"b": 1, "c": ["x", 0.5]}}), "{text}");
        }
        assert_eq!(parse(b"# nothing\n").unwrap(), serde_json::json!({}));
        assert_eq!(parse(b"seed = 18446744073709551615").unwrap(), serde_json::json!({ "seed": u64::MAX }));
    }

    #[test]
    fn mistakes_in_toml_are_named_with_their_line() {
        assert_eq!(message("[a]\nb = 1\nb = 2"), "config: duplicate key in line 3");
        assert_eq!(message("a = 1\nb = nan"), "config: expected a finite number, found NaN in line 2");
        assert!(message("a = 1979-05-27").starts_with("config: expected a number, text, list or table, found a date"));
        assert!(message("[a]\nb = \n").contains("in line 2"));
    }
}
