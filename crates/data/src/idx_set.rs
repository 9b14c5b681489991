//! Any data set in MNIST's format: KMNIST, EMNIST, your own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    DataError, ImageData, ImageSet, idx,
    image_set::{fingerprint, hexadecimal},
};

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// Loads the set in `directory`.
///
/// The files have MNIST's four names, or one prefix before each (`emnist-letters-train-images-idx3-ubyte`, and
/// EMNIST's `test` for `t10k`), optionally with `.gz`. Counts, sizes and the number of classes are what the files
/// say; `classes.txt` may name the classes, one a line. `transpose` swaps rows and columns, which EMNIST needs.
/// There is no checksum to compare with.
pub fn load(directory: &Path, transpose: bool) -> Result<ImageData, DataError> {
    let prefix = prefix(directory)?;
    let train = read_pair(directory, &[format!("{prefix}{TRAIN_IMAGES}")], &[format!("{prefix}{TRAIN_LABELS}")])?;
    let emnist = |name: &str| [format!("{prefix}{name}"), format!("{prefix}{}", name.replacen("t10k", "test", 1))];
    let test = read_pair(directory, &emnist(TEST_IMAGES), &emnist(TEST_LABELS))?;
    if train.set.size() != test.set.size() {
        let [[train_height, train_width], [height, width]] = [train.set.size(), test.set.size()];
        return Err(DataError::malformed(
            directory,
            format!("train images are {train_height}x{train_width}, test images are {height}x{width}; they must agree"),
        ));
    }
    let largest = train.set.labels().iter().chain(test.set.labels()).max().copied().unwrap_or_default();
    let classes = class_names(directory, usize::from(largest) + 1)?;
    let turned = |set: ImageSet| if transpose { set.transposed() } else { set };
    Ok(ImageData {
        name: "idx",
        source: Some(std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf())),
        classes,
        sha256: fingerprint(train.sha256.iter().chain(&test.sha256).map(<[u8; 32]>::as_slice)),
        train: turned(train.set),
        test: turned(test.set),
    })
}

/// Images with their labels, and the digests of the two files.
pub(crate) struct Pair {
    pub(crate) set: ImageSet,
    pub(crate) sha256: [[u8; 32]; 2],
    pub(crate) paths: [PathBuf; 2],
}

/// Reads an images file and its labels file, each under the first of its names that is there.
pub(crate) fn read_pair(directory: &Path, image_names: &[String], label_names: &[String]) -> Result<Pair, DataError> {
    let paths = [find(directory, image_names)?, find(directory, label_names)?];
    let images = idx::read_images(&paths[0])?;
    let labels = idx::read_labels(&paths[1])?;
    if images.count != labels.labels.len() {
        return Err(DataError::malformed(
            &paths[1],
            format!(
                "expected {} labels, one for each image in {}, found {}",
                images.count,
                paths[0].display(),
                labels.labels.len()
            ),
        ));
    }
    let sha256 = [images.sha256, labels.sha256];
    Ok(Pair { set: ImageSet::new(images.pixels, labels.labels, images.height, images.width)?, sha256, paths })
}

/// Checks that every label of the pair names one of `classes` classes.
pub(crate) fn check_labels(pair: &Pair, classes: usize) -> Result<(), DataError> {
    match pair.set.labels().iter().position(|&label| usize::from(label) >= classes) {
        Some(index) => Err(DataError::malformed(
            &pair.paths[1],
            format!("expected labels below {classes}, found {} for image {index}", pair.set.labels()[index]),
        )),
        None => Ok(()),
    }
}

/// Checks the digests of the pair's files, given in hexadecimal.
pub(crate) fn check_sha256(pair: &Pair, expected: [&str; 2]) -> Result<(), DataError> {
    for ((path, found), expected) in pair.paths.iter().zip(&pair.sha256).zip(expected) {
        let found = hexadecimal(found);
        if found != expected {
            return Err(DataError::malformed(
                path,
                format!(
                    "expected SHA-256 {expected} of the unpacked content, found {found}; it is damaged or another data \
                     set (delete it and run again, or use --dataset idx)"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether `directory` has a file `name` or `name.gz`.
pub(crate) fn has(directory: &Path, name: &str) -> bool {
    directory.join(name).is_file() || directory.join(format!("{name}.gz")).is_file()
}

fn find(directory: &Path, names: &[String]) -> Result<PathBuf, DataError> {
    let candidates = names.iter().flat_map(|name| [directory.join(name), directory.join(format!("{name}.gz"))]);
    if let Some(path) = candidates.into_iter().find(|path| path.is_file()) {
        return Ok(path);
    }
    let present = file_names(directory)?;
    Err(DataError::Missing {
        directory: directory.to_path_buf(),
        wanted: names.iter().map(|name| format!("{name}[.gz]")).collect::<Vec<_>>().join(" or "),
        found: match present.len() {
            0 => "an empty directory".to_owned(),
            _ => present.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
        },
    })
}

fn file_names(directory: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(DataError::io(directory))? {
        names.push(entry.map_err(DataError::io(directory))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What stands before `train-images-idx3-ubyte`: nothing, or the one prefix there is.
fn prefix(directory: &Path) -> Result<String, DataError> {
    let names = file_names(directory)?;
    let mut prefixes: Vec<&str> =
        names.iter().filter_map(|name| name.strip_suffix(".gz").unwrap_or(name).strip_suffix(TRAIN_IMAGES)).collect();
    prefixes.dedup();
    match prefixes[..] {
        // `find` says what is missing.
        [] => Ok(String::new()),
        [only] => Ok(only.to_owned()),
        [..] if prefixes.contains(&"") => Ok(String::new()),
        [..] => Err(DataError::malformed(
            directory,
            format!("expected one data set, found several: {}; give each a directory of its own", prefixes.join(", ")),
        )),
    }
}

fn class_names(directory: &Path, count: usize) -> Result<Vec<String>, DataError> {
    let path = directory.join("classes.txt");
    if !path.exists() {
        return Ok((0..count).map(|class| class.to_string()).collect());
    }
    let text = fs::read_to_string(&path).map_err(DataError::io(&path))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if names.len() < count {
        let message = format!(
            "expected at least {count} names, one a line, since a label is {}; found {}",
            count - 1,
            names.len()
        );
        return Err(DataError::malformed(path, message));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idx::tests::{gzip, idx};

    /// Writes a set of 3 train and 2 test images of 2x3 pixels with labels up to 4.
    fn write_set(directory: &Path, prefix: &str, test: &str) {
        let pixels: Vec<u8> = (0..18).collect();
        let write = |name: String, bytes: Vec<u8>| fs::write(directory.join(name), bytes).unwrap();
        write(format!("{prefix}train-images-idx3-ubyte.gz"), gzip(&idx(2051, &[3, 2, 3], &pixels)));
        write(format!("{prefix}train-labels-idx1-ubyte"), idx(2049, &[3], &[0, 4, 1]));
        write(format!("{prefix}{test}-images-idx3-ubyte"), idx(2051, &[2, 2, 3], &pixels[..12]));
        write(format!("{prefix}{test}-labels-idx1-ubyte"), idx(2049, &[2], &[2, 3]));
    }

    fn message(directory: &Path) -> String {
        load(directory, false).unwrap_err().to_string()
    }

    #[test]
    fn sets_with_and_without_a_prefix_are_found() {
        for (prefix, test) in [("", "t10k"), ("kmnist-", "t10k"), ("emnist-letters-", "test")] {
            let directory = tempfile::tempdir().unwrap();
            write_set(directory.path(), prefix, test);
            let data = load(directory.path(), false).unwrap();
            assert_eq!((data.train.count(), data.test.count(), data.train.size()), (3, 2, [2, 3]), "{prefix}");
            assert_eq!(data.classes, ["0", "1", "2", "3", "4"]);
        }
    }

    #[test]
    fn a_transposed_set_has_its_sides_swapped() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        assert_eq!(load(directory.path(), true).unwrap().train.size(), [3, 2]);
    }

    #[test]
    fn classes_come_from_classes_txt_when_it_names_enough() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        fs::write(directory.path().join("classes.txt"), "a\nb\nc\nd\ne\n").unwrap();
        assert_eq!(load(directory.path(), false).unwrap().classes, ["a", "b", "c", "d", "e"]);
        fs::write(directory.path().join("classes.txt"), "a\nb\n").unwrap();
        assert!(message(directory.path()).contains("expected at least 5 names"));
    }

    #[test]
    fn a_missing_file_is_named_together_with_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        assert!(message(directory.path()).contains("found an empty directory"));
        write_set(directory.path(), "", "t10k");
        fs::remove_file(directory.path().join("t10k-labels-idx1-ubyte")).unwrap();
        let message = message(directory.path());
        assert!(message.contains("expected t10k-labels-idx1-ubyte[.gz]"), "{message}");
        assert!(message.contains("found t10k-images-idx3-ubyte"), "{message}");
    }

    #[test]
    fn image_and_label_counts_that_differ_are_an_error_with_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        fs::write(directory.path().join("t10k-labels-idx1-ubyte"), idx(2049, &[5], &[0; 5])).unwrap();
        let message = message(directory.path());
        assert!(message.contains("expected 2 labels") && message.contains("found 5"), "{message}");
    }

    #[test]
    fn train_and_test_images_of_different_sizes_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        fs::write(directory.path().join("t10k-images-idx3-ubyte"), idx(2051, &[2, 3, 2], &[0; 12])).unwrap();
        assert!(message(directory.path()).contains("train images are 2x3, test images are 3x2"));
    }

    #[test]
    fn two_sets_in_one_directory_are_an_error_that_names_them() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "a-", "t10k");
        write_set(directory.path(), "b-", "t10k");
        assert!(message(directory.path()).contains("found several: a-, b-"));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_with_its_path() {
        assert!(message(Path::new("/no/such/place")).starts_with("/no/such/place: "));
    }
}
