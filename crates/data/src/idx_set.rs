//! Any data set in MNIST's format: KMNIST, EMNIST, your own.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    DataError, ImageData, ImageSet, classes,
    digest::{fingerprint, hexadecimal},
    idx,
    image_set::described,
    listing::{Listing, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS},
};

/// Loads the set in `directory`.
///
/// The files have MNIST's four names, or one prefix before each (`emnist-letters-train-images-idx3-ubyte`), with EMNIST's
/// `test` for `t10k` if need be. Case and separators do not count, and a file may lie in a folder of its own name. What
/// is gzip is unpacked, whatever its name. Counts, sizes and the number of classes are what the files say; `classes.txt`
/// may name the classes, one a line, with an empty line for a label that no image has, and without it EMNIST's
/// `<prefix>mapping.txt` does. `transpose` swaps rows and columns, which EMNIST needs. There is no checksum to compare
/// with.
pub fn load(directory: &Path, transpose: bool) -> Result<ImageData, DataError> {
    let listing = Listing::read(directory)?;
    let prefix = listing.prefix()?;
    let named = |name: &str| format!("{prefix}{name}");
    let train = read_pair(&listing, &[named(TRAIN_IMAGES)], &[named(TRAIN_LABELS)])?;
    let emnist = |name: &str| [named(name), named(&name.replacen("t10k", "test", 1))];
    let test = read_pair(&listing, &emnist(TEST_IMAGES), &emnist(TEST_LABELS))?;
    if train.set.size() != test.set.size() {
        let [train, test] = [&train.set, &test.set].map(|set| described(set.shape()));
        let message = format!("train images are {train}, test images are {test}; they must agree");
        return Err(DataError::malformed(directory, message));
    }
    let labels: BTreeSet<usize> =
        train.set.labels().iter().chain(test.set.labels()).copied().map(usize::from).collect();
    let classes = classes::read(&listing, prefix, &labels)?;
    let turned = |set: ImageSet| if transpose { set.transposed() } else { set };
    let sha256 = fingerprint(train.sha256.iter().chain(&test.sha256).map(<[u8; 32]>::as_slice));
    let sets = [train.set, test.set].map(turned);
    Ok(ImageData { unused: classes.unused, ..ImageData::of_files("idx", directory, classes.names, sets, sha256) })
}

/// Images with their labels, and the digests of the two files.
pub(crate) struct Pair {
    pub(crate) set: ImageSet,
    pub(crate) sha256: [[u8; 32]; 2],
    pub(crate) paths: [PathBuf; 2],
}

/// Reads an images file and its labels file, each under the first of its names that is there.
pub(crate) fn read_pair(listing: &Listing, image_names: &[String], label_names: &[String]) -> Result<Pair, DataError> {
    let paths = [listing.find(image_names)?.to_path_buf(), listing.find(label_names)?.to_path_buf()];
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
    let labels = labels.labels.into_iter().map(u16::from).collect();
    Ok(Pair { set: ImageSet::new(images.pixels, labels, [1, images.height, images.width])?, sha256, paths })
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

#[cfg(test)]
mod tests {
    use std::fs;

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
    fn every_file_may_be_named_and_packed_in_a_way_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        let expected = load(directory.path(), false).unwrap();
        let place = |name: &str| directory.path().join(name);
        fs::rename(place("train-images-idx3-ubyte.gz"), place("Train-Images.idx3-ubyte")).unwrap();
        fs::rename(place("train-labels-idx1-ubyte"), place("TRAIN_LABELS.IDX1-UBYTE.GZ")).unwrap();
        fs::rename(place("t10k-images-idx3-ubyte"), place("images")).unwrap();
        fs::create_dir(place("test-images.idx3-ubyte")).unwrap();
        fs::rename(place("images"), place("test-images.idx3-ubyte/test-images.idx3-ubyte")).unwrap();
        let labels = fs::read(place("t10k-labels-idx1-ubyte")).unwrap();
        fs::write(place("t10k-labels-idx1-ubyte"), [gzip(&labels[..9]), gzip(&labels[9..]), vec![0; 512]].concat())
            .unwrap();
        let found = load(directory.path(), false).unwrap();
        assert_eq!((found.train, found.test, found.sha256), (expected.train, expected.test, expected.sha256));
    }

    #[test]
    fn a_transposed_set_has_its_sides_swapped() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "", "t10k");
        assert_eq!(load(directory.path(), true).unwrap().train.size(), [3, 2]);
    }

    #[test]
    fn classes_come_from_classes_txt_or_else_from_the_mapping_of_the_prefix() {
        let directory = tempfile::tempdir().unwrap();
        write_set(directory.path(), "letters-", "test");
        let mapping = "0 97\n1 98\n2 99\n3 100\n4 101\n6 65 102\n";
        fs::write(directory.path().join("letters-mapping.txt"), mapping).unwrap();
        let data = load(directory.path(), false).unwrap();
        assert_eq!((data.classes.join(" ").as_str(), data.unused), ("a b c d e 5 A/f", vec![5]));
        fs::write(directory.path().join("classes.txt"), "v\nw\nx\ny\nz\n").unwrap();
        assert_eq!(load(directory.path(), false).unwrap().classes, ["v", "w", "x", "y", "z"]);
        fs::write(directory.path().join("classes.txt"), "v\nw\n").unwrap();
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
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(message(file.path()).ends_with("expected the directory of the data set's files, found a file"));
    }
}
