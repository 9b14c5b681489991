//! The binary files of CIFAR-10 and CIFAR-100, <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{DataError, Dataset, ImageData, ImageSet, Load, digest::fingerprint, table_files};

/// Channels, rows and columns of an image, which the files have in this order.
const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;

/// CIFAR-10 or CIFAR-100 in its binary version: the files as they are in the archive, or the archive's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cifar {
    /// Whether the classes of CIFAR-100 are its 20 coarse ones.
    pub coarse: bool,
}

/// A version of the set by its files.
struct Version {
    name: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// The file of the classes' names, one a line, with those of the coarse classes.
    names: [&'static str; 2],
    /// Bytes of labels before an image's pixels.
    labels: usize,
    /// Number of classes, and of coarse ones.
    classes: [usize; 2],
}

const VERSIONS: [Version; 2] = [
    Version {
        name: "CIFAR-10",
        folder: "cifar-10-batches-bin",
        train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        test: "test_batch.bin",
        names: ["batches.meta.txt", ""],
        labels: 1,
        classes: [10, 0],
    },
    Version {
        name: "CIFAR-100",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: "test.bin",
        names: ["fine_label_names.txt", "coarse_label_names.txt"],
        labels: 2,
        classes: [100, 20],
    },
];

impl Dataset for Cifar {
    const HELP: &'static [(&'static str, &'static str)] = &[("coarse", "Take CIFAR-100's 20 coarse classes")];

    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        let named = table_files::directory(load, "cifar")?;
        let (directory, version) = found(named, self.coarse)?;
        let [fine, coarse] = version.classes;
        let count = if self.coarse { coarse } else { fine };
        if count == 0 {
            return Err(DataError::Unusable(format!(
                "`data.coarse` requires CIFAR-100 (got CIFAR-10 in {})",
                directory.display()
            )));
        }
        let classes = classes(&directory.join(version.names[usize::from(self.coarse)]), count)?;
        // CIFAR-100's coarse label stands before the fine one.
        let place = if self.coarse { 0 } else { version.labels - 1 };
        let mut digest = Sha256::new();
        let mut read = |names: &[&str]| {
            let (mut pixels, mut labels) = (Vec::new(), Vec::new());
            for name in names {
                let path = directory.join(name);
                let bytes = read(&path)?;
                digest.update(&bytes);
                append(&path, &bytes, (version.labels, place, count), &mut pixels, &mut labels)?;
            }
            ImageSet::new(pixels, labels, SHAPE)
        };
        let (train, test) = (read(version.train)?, read(&[version.test])?);
        let sha256 = fingerprint([&digest.finalize()[..], &[u8::from(self.coarse)]]);
        Ok(ImageData::of_files("cifar", named, classes, [train, test], sha256))
    }
}

/// The directory that has the files of a version: `named` itself, or the archive's folder in it. Of two versions it is the
/// one with coarse classes where those are wanted.
fn found(named: &Path, coarse: bool) -> Result<(PathBuf, &'static Version), DataError> {
    let has_files = |version: &'static Version| {
        let directories = [named.to_path_buf(), named.join(version.folder)];
        let directory = directories.into_iter().find(|directory| directory.join(version.test).is_file());
        directory.map(|directory| (directory, version))
    };
    let mut found: Vec<_> = VERSIONS.iter().filter_map(has_files).collect();
    if coarse && found.len() > 1 {
        found.retain(|(_, version)| version.classes[1] > 0);
    }
    match (found.pop(), found.pop()) {
        (Some(only), None) => return Ok(only),
        (Some(one), Some(other)) => {
            let found = [other, one].map(|(directory, version)| format!("{} in {}", version.name, directory.display()));
            let message =
                format!("expected one version of CIFAR, found {}; name the folder of one", found.join(" and "));
            return Err(DataError::malformed(named, message));
        }
        (None, _) => {}
    }
    let entries = fs::read_dir(named).map_err(DataError::io(named))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let found = crate::error::listed(files);
    Err(DataError::Missing {
        directory: named.to_path_buf(),
        wanted: "the binary version of CIFAR-10 (data_batch_1.bin … test_batch.bin) or CIFAR-100 (train.bin, test.bin)"
            .to_owned(),
        found: if found.is_empty() { "an empty directory".to_owned() } else { found },
    })
}

/// A file's bytes, unless it is larger than any of the set's.
fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    const MOST: u64 = 1 << 30;
    let found = fs::metadata(path).map_err(DataError::io(path))?;
    if !found.is_file() || found.len() > MOST {
        let message = format!("expected a file of at most {MOST} bytes, found {} bytes", found.len());
        return Err(DataError::malformed(path, message));
    }
    fs::read(path).map_err(DataError::io(path))
}

/// The names of the classes, one a line; their numbers where the file is not there.
fn classes(path: &Path, count: usize) -> Result<Vec<String>, DataError> {
    if !path.is_file() {
        return Ok((0..count).map(|label| label.to_string()).collect());
    }
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() == count {
        return Ok(names);
    }
    Err(DataError::malformed(path, format!("expected {count} names of classes, one a line, found {}", names.len())))
}

/// Adds the images of a file: each has `labels` bytes, of which the one at `place` counts, and its pixels.
fn append(
    path: &Path,
    bytes: &[u8],
    (labels_each, place, classes): (usize, usize, usize),
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u16>,
) -> Result<(), DataError> {
    let record = labels_each + PIXELS;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let message = format!(
            "expected a multiple of {record} bytes ({labels_each} of labels and {PIXELS} of pixels for each image), found \
             {}; the file is cut short or another version's (delete it and get the binary version again)",
            bytes.len()
        );
        return Err(DataError::malformed(path, message));
    }
    for (index, image) in bytes.chunks_exact(record).enumerate() {
        let label = image[place];
        if usize::from(label) >= classes {
            let message = format!("expected labels below {classes}, found {label} for image {index}");
            return Err(DataError::malformed(path, message));
        }
        labels.push(label.into());
        pixels.extend_from_slice(&image[labels_each..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(labels: &[u8], first: u8) -> Vec<u8> {
        labels.iter().copied().chain((0..PIXELS).map(|pixel| first.wrapping_add(pixel as u8))).collect()
    }

    fn load(directory: &Path, coarse: bool) -> Result<ImageData, DataError> {
        let images = crate::ImageOptions::default();
        Cifar { coarse }.load(&mut Load { directory: Some(directory), images, on_event: &mut |_| {} })
    }

    fn cifar_10(directory: &Path) {
        for (batch, name) in (0..).zip(VERSIONS[0].train) {
            fs::write(directory.join(name), [image(&[batch], batch), image(&[9 - batch], 7)].concat()).unwrap();
        }
        fs::write(directory.join("test_batch.bin"), image(&[3], 100)).unwrap();
    }

    #[test]
    fn the_batches_of_cifar_10_follow_one_another_in_the_archives_folder_or_named_itself() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("cifar-10-batches-bin");
        fs::create_dir(&inner).unwrap();
        cifar_10(&inner);
        let data = load(place.path(), false).unwrap();
        assert_eq!((data.train.count(), data.train.shape(), data.test.labels()), (10, SHAPE, &[3_u16][..]));
        assert_eq!(data.train.labels(), [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
        assert_eq!(data.train.image(2)[..3], [1, 2, 3]);
        assert_eq!((data.classes[9].as_str(), &data.sha256), ("9", &load(&inner, false).unwrap().sha256));
        let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
        fs::write(inner.join("batches.meta.txt"), names).unwrap();
        assert_eq!(load(place.path(), false).unwrap().classes[9], "truck");
        let message = load(place.path(), true).unwrap_err().to_string();
        assert!(message.starts_with("`data.coarse` requires CIFAR-100 (got CIFAR-10 in "), "{message}");
    }

    #[test]
    fn cifar_100_has_fine_and_coarse_classes() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("train.bin"), [image(&[19, 99], 0), image(&[2, 41], 5)].concat()).unwrap();
        fs::write(place.path().join("test.bin"), image(&[4, 7], 9)).unwrap();
        let [fine, coarse] = [false, true].map(|coarse| load(place.path(), coarse).unwrap());
        assert_eq!((fine.train.labels(), fine.classes.len()), (&[99_u16, 41][..], 100));
        assert_eq!((coarse.train.labels(), coarse.classes.len()), (&[19_u16, 2][..], 20));
        assert_ne!(fine.sha256, coarse.sha256);
    }

    #[test]
    fn of_two_versions_the_one_with_coarse_classes_is_taken_for_those_and_none_otherwise() {
        let place = tempfile::tempdir().unwrap();
        let [ten, hundred] = [&VERSIONS[0], &VERSIONS[1]].map(|version| place.path().join(version.folder));
        for folder in [&ten, &hundred] {
            fs::create_dir(folder).unwrap();
        }
        cifar_10(&ten);
        fs::write(hundred.join("train.bin"), image(&[19, 99], 0)).unwrap();
        fs::write(hundred.join("test.bin"), image(&[4, 7], 9)).unwrap();
        let message = load(place.path(), false).unwrap_err().to_string();
        assert!(message.contains("expected one version of CIFAR, found CIFAR-10 in "), "{message}");
        assert!(message.contains(" and CIFAR-100 in ") && message.ends_with("name the folder of one"), "{message}");
        assert_eq!(load(place.path(), true).unwrap().classes.len(), 20);
        assert_eq!([&ten, &hundred].map(|folder| load(folder, false).unwrap().classes.len()), [10, 100]);
    }

    #[test]
    fn what_is_not_cifar_is_told_with_the_way_on() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("data_batch_1"), "pickled").unwrap();
        let message = load(place.path(), false).unwrap_err().to_string();
        assert!(message.contains("expected the binary version of CIFAR-10") && message.ends_with("found data_batch_1"));
        cifar_10(place.path());
        let cut = |bytes: &[u8]| {
            fs::write(place.path().join("data_batch_3.bin"), bytes).unwrap();
            load(place.path(), false).unwrap_err().to_string()
        };
        assert!(cut(&image(&[1], 0)[..3000]).contains("data_batch_3.bin: expected a multiple of 3073 bytes"));
        assert!(cut(&image(&[10], 0)).contains("expected labels below 10, found 10 for image 0"));
        fs::write(place.path().join("data_batch_3.bin"), image(&[1], 0)).unwrap();
        fs::write(place.path().join("batches.meta.txt"), "cat\n").unwrap();
        let message = load(place.path(), false).unwrap_err().to_string();
        assert!(message.ends_with("batches.meta.txt: expected 10 names of classes, one a line, found 1"), "{message}");
    }
}
