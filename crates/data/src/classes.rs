//! Names of classes: from `classes.txt`, from EMNIST's mapping files, or their numbers.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use crate::{DataError, error::listed, listing::Listing};

/// Labels of IDX files are bytes.
const MOST: usize = 256;

/// The classes of a set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    /// In the order of the labels.
    pub(crate) names: Vec<String>,
    /// Labels that no image is meant to have; their names are their numbers.
    pub(crate) unused: Vec<usize>,
}

/// A name and the line of the file that it stands in, from 1; none for a label that is left out.
type Line = Option<(usize, String)>;

/// Names the classes of a set whose images have the labels `occurring`.
///
/// `classes.txt` has a name in each line; an empty line leaves out a label that no image has. Without it, EMNIST's
/// `<prefix>mapping.txt` is read.
pub(crate) fn read(listing: &Listing, prefix: &str, occurring: &BTreeSet<usize>) -> Result<Classes, DataError> {
    let count = occurring.last().map_or(0, |largest| largest + 1);
    if let Some(path) = listing.file("classes.txt") {
        return named(path, &from_lines(path, count, occurring)?);
    }
    if let Some(path) = listing.file(&format!("{prefix}mapping.txt")) {
        return named(path, &from_mapping(path, count, occurring)?);
    }
    Ok(Classes { names: (0..count).map(|label| label.to_string()).collect(), unused: Vec::new() })
}

fn from_lines(path: &Path, count: usize, occurring: &BTreeSet<usize>) -> Result<Vec<Line>, DataError> {
    let mut names: Vec<Line> = Vec::new();
    for (number, line) in lines(path)? {
        if !line.is_empty() {
            names.push(Some((number, line)));
        } else if !occurring.contains(&names.len()) {
            names.push(None);
        }
    }
    // Empty lines at the end mean nothing.
    names.truncate(names.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
    if names.len() < count {
        let left_out: Vec<_> = (0..count).filter(|label| !occurring.contains(label)).collect();
        let is_complete = names.iter().all(Option::is_some) && !left_out.is_empty();
        let then = if is_complete {
            format!("; labels that no image has take an empty line each: {}", listed(left_out))
        } else {
            String::new()
        };
        let message = format!(
            "expected at least {count} names, one a line, since a label is {}; found {}{then}",
            count - 1,
            names.len()
        );
        return Err(DataError::malformed(path, message));
    }
    Ok(names)
}

/// A line of a mapping has a label and the code points of the characters that it stands for: `1 65 97` is `A/a`.
fn from_mapping(path: &Path, count: usize, occurring: &BTreeSet<usize>) -> Result<Vec<Line>, DataError> {
    let mut names: Vec<Line> = vec![None; count];
    for (number, line) in lines(path)?.into_iter().filter(|(_, line)| !line.is_empty()) {
        let numbers: Option<Vec<u32>> = line.split_whitespace().map(|number| number.parse().ok()).collect();
        let parsed = numbers.as_deref().and_then(|numbers| match numbers {
            [label, points @ ..] if !points.is_empty() && (*label as usize) < MOST => {
                let characters = points.iter().map(|&point| char::from_u32(point).filter(|c| !c.is_control()));
                Some((*label as usize, characters.map(|c| c.map(String::from)).collect::<Option<Vec<_>>>()?.join("/")))
            }
            _ => None,
        });
        let Some((label, name)) = parsed else {
            let message = format!(
                "line {number}: expected a label below {MOST} and code points of its characters, such as `1 65 97`, \
                 found `{line}`; classes.txt can name the classes instead"
            );
            return Err(DataError::malformed(path, message));
        };
        names.resize(names.len().max(label + 1), None);
        if let Some((first, _)) = names[label].replace((number, name)) {
            let message = format!("lines {first} and {number} both name label {label}");
            return Err(DataError::malformed(path, message));
        }
    }
    let nameless = occurring.iter().filter(|&&label| names[label].is_none());
    match listed(nameless) {
        nameless if nameless.is_empty() => Ok(names),
        nameless => {
            let message = format!(
                "no line names these labels, which images have: {nameless}; classes.txt can name the classes instead"
            );
            Err(DataError::malformed(path, message))
        }
    }
}

/// Takes each label's number where it has no name, and refuses two classes of one name.
fn named(path: &Path, lines: &[Line]) -> Result<Classes, DataError> {
    if lines.len() > MOST {
        let message = format!("expected at most {MOST} names, since a label is a byte; found {}", lines.len());
        return Err(DataError::malformed(path, message));
    }
    let mut first_lines = HashMap::new();
    for (number, name) in lines.iter().flatten() {
        if let Some(first) = first_lines.insert(name.as_str(), number) {
            let message = format!("lines {first} and {number} both name a class `{name}`; give each a name of its own");
            return Err(DataError::malformed(path, message));
        }
    }
    let unused = (0..lines.len()).filter(|&label| lines[label].is_none()).collect();
    let number = |label: usize| match label.to_string() {
        taken if first_lines.contains_key(taken.as_str()) => format!("unused {label}"),
        free => free,
    };
    let names = lines.iter().enumerate();
    let names = names.map(|(label, line)| line.as_ref().map_or_else(|| number(label), |(_, name)| name.clone()));
    Ok(Classes { names: names.collect(), unused })
}

/// The lines of a text file with their numbers, without the spaces around them: UTF-8, or UTF-16 with a byte order mark.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, DataError> {
    let bytes = fs::read(path).map_err(DataError::io(path))?;
    let decoded = match bytes[..] {
        [0xff, 0xfe, ..] => utf16(&bytes, u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(&bytes, u16::from_be_bytes),
        _ => utf8(&bytes),
    };
    let (text, is_whole) = match decoded {
        Ok(text) => (text, true),
        Err(beginning) => (beginning, false),
    };
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let is_text = |line: &str| !line.contains(|c: char| c.is_control() && c != '\t');
    let damaged = text.split('\n').position(|line| !is_text(line));
    // What cannot be decoded comes after all that could be.
    if let Some(line) = damaged.or_else(|| (!is_whole).then(|| text.split('\n').count() - 1)) {
        let message = format!("line {} is not text in UTF-8; save the file in this encoding", line + 1);
        return Err(DataError::malformed(path, message));
    }
    let is_around = |c: char| c.is_whitespace() || c == '\u{feff}';
    Ok(text.lines().enumerate().map(|(line, text)| (line + 1, text.trim_matches(is_around).to_owned())).collect())
}

/// The text, or as much of its beginning as can be decoded.
fn utf8(bytes: &[u8]) -> Result<String, String> {
    let decoded = str::from_utf8(bytes).map(str::to_owned);
    decoded.map_err(|error| String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned())
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let pairs = bytes.chunks_exact(2);
    let is_odd = !pairs.remainder().is_empty();
    let mut text = String::new();
    for character in char::decode_utf16(pairs.map(|pair| unit([pair[0], pair[1]]))) {
        match character {
            Ok(character) => text.push(character),
            Err(_) => return Err(text),
        }
    }
    if is_odd { Err(text) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The classes of a set whose images have `occurring`, in a directory with this file.
    fn classes(file: &str, content: &[u8], occurring: &[usize]) -> Result<Classes, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(file), content).unwrap();
        let listing = Listing::read(directory.path()).unwrap();
        read(&listing, "emnist-letters-", &occurring.iter().copied().collect()).map_err(|error| {
            let message = error.to_string();
            assert!(message.contains(file), "{message:?} does not name the file");
            message
        })
    }

    fn names(content: &[u8], occurring: &[usize]) -> Vec<String> {
        classes("classes.txt", content, occurring).unwrap().names
    }

    fn message(file: &str, content: &[u8], occurring: &[usize]) -> String {
        classes(file, content, occurring).unwrap_err()
    }

    #[test]
    fn lines_are_read_in_every_encoding_that_says_what_it_is() {
        let text = "Ä\r\nb b\r\nc";
        let utf16 =
            |unit: fn(u16) -> [u8; 2]| "\u{feff}Ä\r\nb b\r\nc".encode_utf16().flat_map(unit).collect::<Vec<_>>();
        let marked = format!("\u{feff}{text}\r\n");
        let old = text.replace("\r\n", "\r");
        let contents =
            [text.as_bytes(), marked.as_bytes(), old.as_bytes(), &utf16(u16::to_le_bytes), &utf16(u16::to_be_bytes)];
        for content in contents {
            assert_eq!(names(content, &[0, 1, 2]), ["Ä", "b b", "c"], "{content:?}");
        }
        assert_eq!(classes("Classes.TXT", b"a\nb\n", &[0, 1]).unwrap().names, ["a", "b"]);
    }

    #[test]
    fn what_is_no_text_is_an_error_with_its_line_that_says_utf_8_once() {
        let surrogate = b"\xff\xfea\0\n\0\x00\xd8b\0";
        let checks: [(&[u8], usize); 6] = [
            (b"caf\xe9\nth\xe9\n", 1),
            (b"tea\r\ncaf\xe9\r\n", 2),
            (b"tea\rcaf\xe9", 2),
            (b"a\0\n\0b\0\n\0", 1),
            (surrogate, 2),
            (b"\xff\xfea\0\n", 1),
        ];
        for (content, line) in checks {
            let message = message("classes.txt", content, &[0, 1]);
            assert!(message.contains(&format!("classes.txt: line {line} is not text")), "{message}");
            assert_eq!(message.matches("UTF-8").count(), 1, "{message}");
        }
    }

    #[test]
    fn an_empty_line_leaves_out_a_label_that_no_image_has_and_is_nothing_elsewhere() {
        let classes = |content: &str, occurring: &[usize]| {
            let Classes { names, unused } = classes("classes.txt", content.as_bytes(), occurring).unwrap();
            (names.join(" "), unused)
        };
        assert_eq!(classes("\nA\nB\nC\n", &[1, 2, 3]), ("0 A B C".to_owned(), vec![0]));
        assert_eq!(classes("A\n\nC\n", &[0, 2]), ("A 1 C".to_owned(), vec![1]));
        assert_eq!(classes("\n1\n0\n", &[1, 2]), ("unused 0 1 0".to_owned(), vec![0]));
        for content in ["A\nB\nC\n\n \n\n", "\nA\nB\nC", "A\n\nB\n\nC\n", "\u{feff}\n\nA\nB\nC"] {
            assert_eq!(classes(content, &[0, 1, 2]), ("A B C".to_owned(), vec![]), "{content:?}");
        }
        assert_eq!(classes("A\nB\nC\nD\n\n", &[0, 1]), ("A B C D".to_owned(), vec![]));
    }

    #[test]
    fn too_few_too_many_and_doubled_names_are_refused() {
        let check = |content: &str, occurring: &[usize], expected: &str| {
            let message = message("classes.txt", content.as_bytes(), occurring);
            assert!(message.ends_with(expected), "{message:?} does not end in {expected:?}");
        };
        check(
            "a\nb\n",
            &[0, 4],
            "since a label is 4; found 2; labels that no image has take an empty line each: 1, 2, 3",
        );
        check("A\n\nB\n", &[0, 1, 2], "expected at least 3 names, one a line, since a label is 2; found 2");
        check("\n\n", &[0], "expected at least 1 names, one a line, since a label is 0; found 0");
        check("a\nb\n\na\n", &[0, 1, 2], "lines 1 and 4 both name a class `a`; give each a name of its own");
        check(&"a\n".repeat(300), &[0], "expected at most 256 names, since a label is a byte; found 300");
    }

    #[test]
    fn a_mapping_of_emnist_names_classes_by_their_characters() {
        let file = "emnist-letters-mapping.txt";
        let letters = classes(file, b"1 65 97\r\n2 66 98 \r\n3 67 99\r\n", &[1, 2, 3]).unwrap();
        assert_eq!(letters, Classes { names: ["0", "A/a", "B/b", "C/c"].map(String::from).to_vec(), unused: vec![0] });
        assert_eq!(classes(file, b"0 48\n1 49\n", &[0]).unwrap().names, ["0", "1"]);
        assert_eq!(classes("EMNIST_letters_mapping.txt", b"0 48", &[0]).unwrap().names, ["0"]);
        let found = message(file, b"1 65 97\n2 B\n", &[1, 2]);
        assert!(found.contains("line 2: expected a label below 256 and code points"), "{found}");
        for wrong in ["1", "256 65", "1 1114112", "1 10", "-1 65"] {
            assert!(message(file, wrong.as_bytes(), &[1]).contains("line 1: expected"), "{wrong}");
        }
        assert!(message(file, b"1 65\n1 66\n", &[1]).ends_with("lines 1 and 2 both name label 1"));
        assert!(message(file, b"1 65\n", &[1, 2]).contains("no line names these labels, which images have: 2;"));
    }
}
