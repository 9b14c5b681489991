//! A config as a TOML file with comments.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::{
    Registry, Section,
    keys::{Key, SECTIONS, keys},
};

/// Most characters of a line of comment, but for longer words.
const WIDTH: usize = 120;

/// The sections of a complete config as TOML, each key with a comment.
pub(crate) fn toml(config: &Map<String, Value>, registry: &Registry) -> String {
    // Two networks may have keys of one name that mean different things.
    let chosen = |sections: &[Section], table: &str| {
        let name = config.get(table).and_then(|values| values.get("name")).and_then(Value::as_str);
        sections.iter().filter(|section| Some(section.name.as_str()) == name).cloned().collect()
    };
    let all = keys(registry);
    let known = keys(&Registry {
        networks: chosen(&registry.networks, "network"),
        datasets: chosen(&registry.datasets, "data"),
    });
    let mut text = String::new();
    for table in &SECTIONS {
        let Some(Value::Object(values)) = config.get(table.name) else { continue };
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{separator}[{}]", table.name);
        let described = known.iter().filter(|key| key.path.split('.').next() == Some(table.name));
        let mut left = values.clone();
        for key in described {
            let name = key.path.split_once('.').map_or("", |(_, name)| name);
            if let Some(value) = left.remove(name) {
                let key = all.iter().find(|other| name == "name" && other.path == key.path).unwrap_or(key);
                line(&mut text, name, &value, &comment(key));
            }
        }
        for (name, value) in &left {
            line(&mut text, name, value, "");
        }
    }
    text
}

fn line(text: &mut String, name: &str, value: &Value, comment: &str) {
    let mut width = 0;
    for word in comment.split_whitespace() {
        // Comments are wrapped, since those of lists of choices are long.
        let start = if width == 0 {
            "# "
        } else if width + word.len() < WIDTH {
            " "
        } else {
            "\n# "
        };
        width = if start == " " { width + 1 + word.len() } else { 2 + word.len() };
        let _ = write!(text, "{start}{word}");
    }
    if width > 0 {
        text.push('\n');
    }
    let _ = match written(value) {
        Some(value) => writeln!(text, "{} = {value}", key(name)),
        None => writeln!(text, "# {} =", key(name)),
    };
}

/// What a key means and takes.
fn comment(key: &Key) -> String {
    let choices = if key.choices.is_empty() { String::new() } else { format!("one of {}", key.choices.join(", ")) };
    let takes = [key.range, &choices].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    match (key.help.is_empty(), takes.is_empty()) {
        (true, _) => takes,
        (false, true) => key.help.clone(),
        (false, false) => format!("{} ({takes})", key.help),
    }
}

/// A value in TOML; nothing for a null and for a list that holds one.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(string(text)),
        Value::Array(values) => {
            let values: Option<Vec<String>> = values.iter().map(written).collect();
            Some(format!("[{}]", values?.join(", ")))
        }
        Value::Object(object) => {
            let (names, keys): (Vec<_>, Vec<_>) = object.iter().partition(|(key, _)| *key == "name");
            let entries = names.into_iter().chain(keys).filter(|(_, value)| !value.is_null());
            let entries: Option<Vec<String>> =
                entries.map(|(name, value)| Some(format!("{} = {}", key(name), written(value)?))).collect();
            Some(format!("{{ {} }}", entries?.join(", ")))
        }
    }
}

/// A text in quotes: as in JSON, but for the control character that only TOML escapes.
fn string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_bare { name.to_owned() } else { string(name) }
}

#[cfg(test)]
mod tests {
    use crate::{Partial, keys::tests::registry};

    #[test]
    fn a_config_is_printed_with_a_comment_for_each_key() {
        let mut partial = Partial::from_file("network = 'cnn'\noptimizer = 'momentum'").unwrap();
        partial.set("network.activation", "a \"b\"\u{7f}".into());
        let text = partial.resolve(&registry()).unwrap().to_toml(&registry());
        let expected = r#"[network]
# The network (one of mlp, cnn)
name = "cnn"
activation = "a \"b\"\u007f"
channels = [32, 64]
# dropout =
# Width of the hidden layer
hidden = 128
rate = 0.5

[data]
"#;
        assert!(text.starts_with(expected), "{text}");
        let expected = r#"
[optimizer]
# Update rule; all but muon have PyTorch's semantics and defaults (one of sgd, momentum, adam, adamw, muon)
name = "momentum"
# Learning rate, before the schedule (at least 0)
learning_rate = 0.01
# Momentum (at least 0 and below 1)
momentum = 0.9
# Whether momentum is Nesterov's; that of muon always is
nesterov = false
# Weight decay: decoupled with adamw and muon, otherwise added to the gradient (at least 0)
weight_decay = 0.0
# Whether norms and biases (parameters of one dimension) decay as well
decay_biases = true
# Factor of the learning rate of norms and biases (parameters of one dimension) (at least 0)
bias_rate_factor = 1.0

[schedule]
"#;
        assert!(text.contains(expected), "{text}");
        assert!(text.lines().all(|line| line.len() <= super::WIDTH), "{text}");
        let grown = Partial::from_file("network = 'mlp'\ndata.augment = 'crop'\ndata.image_size = 8").unwrap();
        let data = grown.resolve(&registry()).unwrap().to_toml(&registry());
        assert!(data.contains("\naugment = [{ name = \"crop\", edge = \"background\", padding = 4 }]\n"), "{data}");
        assert!(data.contains("\nimage_size = \"8x8\"\n# Channels"), "{data}");
        assert!(text.contains("# Largest norm of all gradients taken together (above 0)\n# clip_norm =\n"), "{text}");
    }
}
