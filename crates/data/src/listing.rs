//! The files of a directory, found by what their names mean, and what a directory has in place of MNIST's files.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use crate::{DataError, error::listed, signature};

pub(crate) const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
pub(crate) const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";
pub(crate) const TEST_IMAGES: &str = "t10k-images-idx3-ubyte";
pub(crate) const TEST_LABELS: &str = "t10k-labels-idx1-ubyte";

/// How the [`key`] of every name above ends, and of EMNIST's.
const KEYS: [&str; 6] = ["train-images", "train-labels", "t10k-images", "t10k-labels", "test-images", "test-labels"];

/// What people have in place of IDX files, by the ends of the names, and the data set that reads it.
const OTHERS: [(&str, &[&str], Option<&str>); 9] = [
    ("CSV files", &["csv"], Some("csv")),
    ("pictures", &["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff"], Some("folder")),
    ("Parquet files", &["parquet"], Some("parquet")),
    ("CIFAR's binary files", &["bin"], Some("cifar")),
    ("NumPy files", &["npy", "npz"], None),
    ("HDF5 files", &["h5", "hdf5"], None),
    ("MATLAB files", &["mat"], None),
    ("pickled files", &["pkl", "pickle", "pt", "pth"], None),
    ("archives", &["zip", "tar", "tgz", "7z", "rar"], None),
];

/// Entries looked at to find out what a directory has: enough to see it, and soon done.
const MOST_ENTRIES: usize = 10_000;
/// `DIR/train/CLASS/1.png` is the deepest that is looked at.
const LEVELS: usize = 3;

/// The entries of a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    directory: PathBuf,
    /// In order; a folder's name ends in `/`.
    names: Vec<String>,
    /// The first of one meaning is the one to take.
    files: Vec<Named>,
}

/// A file and what its name means. The order is that of preference.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// Whether it is a link that leads nowhere, lies in a folder of its name, is spelled in a way of its own, is packed.
    faults: [bool; 4],
    path: PathBuf,
    key: String,
}

impl Listing {
    /// Reads the names in `directory`, and those in its folders that are called as one of MNIST's files is: archives
    /// unpack to `train-images-idx3-ubyte/train-images-idx3-ubyte`. Hidden files are left out.
    pub(crate) fn read(directory: &Path) -> Result<Self, DataError> {
        if directory.is_file() {
            let what = first_bytes(directory).as_deref().and_then(signature::describe);
            let what = what.map(|what| format!(" ({what})")).unwrap_or_default();
            let message = format!("expected the directory of the data set's files, found a file{what}");
            return Err(DataError::malformed(directory, message));
        }
        let (mut names, mut files) = (Vec::new(), Vec::new());
        for (name, path) in entries(directory)? {
            if path.is_dir() {
                let own = key(&name);
                if is_of_set(&own) {
                    let within = entries(&path)?.into_iter().filter(|(name, _)| key(name) == own);
                    files.extend(within.filter_map(|(name, path)| Named::new(&name, path, true)));
                }
                names.push(format!("{name}/"));
            } else {
                files.extend(Named::new(&name, path, false));
                names.push(name);
            }
        }
        names.sort();
        files.sort();
        Ok(Self { directory: directory.to_path_buf(), names, files })
    }

    /// The file that is called `name`, in any spelling, if there is one.
    pub(crate) fn file(&self, name: &str) -> Option<&Path> {
        let key = key(name);
        self.files.iter().find(|file| file.key == key).map(|file| &*file.path)
    }

    /// The file that has the first of `names` that is there.
    pub(crate) fn find(&self, names: &[String]) -> Result<&Path, DataError> {
        names.iter().find_map(|name| self.file(name)).ok_or_else(|| DataError::Missing {
            directory: self.directory.clone(),
            wanted: names.iter().map(|name| format!("{name}[.gz]")).collect::<Vec<_>>().join(" or "),
            found: self.describe(),
        })
    }

    /// What stands before `train-images-idx3-ubyte`: nothing, or the one prefix there is.
    pub(crate) fn prefix(&self) -> Result<&str, DataError> {
        let train_images = key(TRAIN_IMAGES);
        let prefixes: BTreeSet<&str> =
            self.files.iter().filter_map(|file| file.key.strip_suffix(&train_images)).collect();
        match prefixes.first() {
            // `find` says what is missing. The empty one is the first.
            None | Some(&"") => Ok(""),
            Some(&only) if prefixes.len() == 1 => Ok(only),
            Some(_) => {
                let prefixes = listed(&prefixes);
                let message =
                    format!("expected one data set, found several: {prefixes}; give each a directory of its own");
                Err(DataError::malformed(&self.directory, message))
            }
        }
    }

    /// What the directory has, where a file of the set is missing.
    fn describe(&self) -> String {
        if self.names.is_empty() {
            return "an empty directory".to_owned();
        }
        if self.files.iter().any(|file| is_of_set(&file.key)) {
            return listed(&self.names);
        }
        let within = files_within(&self.directory);
        if let Some(path) = within.iter().find(|path| is_of_set(&key(&file_name(path)))) {
            let is_of_other_name = |folder: &&Path| key(&file_name(folder)) != key(&file_name(path));
            let folder = path.ancestors().skip(1).find(is_of_other_name).unwrap_or(Path::new(""));
            return format!("{}; name the directory {}", path.display(), self.directory.join(folder).display());
        }
        let kinds = OTHERS.iter().filter_map(|&(kind, extensions, dataset)| {
            let path = within.iter().find(|path| extensions.contains(&extension(path).as_str()))?;
            let folders = if kind == "pictures" && path.components().count() > 1 { "folders of " } else { "" };
            let way_on = dataset.map(|dataset| format!("--dataset {dataset} reads {kind}"));
            Some((format!("{folders}{kind} such as {}", path.display()), way_on))
        });
        let (kinds, ways_on): (Vec<String>, Vec<Option<String>>) = kinds.unzip();
        let ways_on: Vec<String> = ways_on.into_iter().flatten().collect();
        match (kinds.is_empty(), ways_on.is_empty()) {
            (true, _) => listed(&self.names),
            (false, true) => format!(
                "{}; data sets are read from pictures, tables and MNIST's IDX files: unpack archives, and convert other \
                 formats",
                kinds.join(", ")
            ),
            (false, false) => format!("{}; {}", kinds.join(", "), ways_on.join(", ")),
        }
    }
}

impl Named {
    /// None for what is no file, such as a pipe.
    fn new(name: &str, path: PathBuf, is_in_folder: bool) -> Option<Self> {
        let is_missing = match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return None,
            metadata => metadata.is_err(),
        };
        let plain = name.strip_suffix(".gz").unwrap_or(name);
        let is_spelled_right =
            [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS].iter().any(|n| plain.ends_with(n));
        let is_packed = name.to_lowercase().strip_suffix(".gz").is_some();
        Some(Self { faults: [is_missing, is_in_folder, !is_spelled_right, is_packed], path, key: key(name) })
    }
}

/// What a name means: in small letters, with a dash for every separator, and without what only tells the format at its end.
/// `Train_Images.IDX3-ubyte.GZ` is `train-images`, as `train-images-idx3-ubyte` is.
fn key(name: &str) -> String {
    let name = name.to_lowercase().replace(['.', '_', ' '], "-");
    let mut key = name.as_str();
    while let Some((rest, "gz" | "gzip" | "idx" | "idx1" | "idx2" | "idx3" | "ubyte" | "int")) = key.rsplit_once('-') {
        key = rest;
    }
    key.to_owned()
}

/// Whether a file with this key is one of a set.
fn is_of_set(key: &str) -> bool {
    KEYS.iter().any(|end| key.ends_with(end))
}

/// Names and paths of what `directory` has, without hidden files.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let entries = fs::read_dir(directory).map_err(DataError::io(directory))?;
    let named = entries.map(|entry| entry.map(|entry| (file_name(&entry.path()), entry.path())));
    let mut named = named.collect::<Result<Vec<_>, _>>().map_err(DataError::io(directory))?;
    named.retain(|(name, _)| !name.starts_with('.'));
    Ok(named)
}

/// Paths of the files in `directory` and its folders, from there, in order, the nearest first; what cannot be read is
/// left out.
fn files_within(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = VecDeque::from([(PathBuf::new(), 1)]);
    while let Some((folder, level)) = folders.pop_front() {
        let mut names: Vec<_> = entries(&directory.join(&folder)).into_iter().flatten().take(MOST_ENTRIES).collect();
        names.sort();
        for (_, path) in names {
            let path = folder.join(path.file_name().unwrap_or_default());
            if !directory.join(&path).is_dir() {
                found.push(path);
            } else if level < LEVELS {
                folders.push_back((path, level + 1));
            }
        }
        if found.len() + folders.len() > MOST_ENTRIES {
            break;
        }
    }
    found
}

fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(signature::LENGTH as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How a name ends, before `.gz`, in small letters.
fn extension(path: &Path) -> String {
    let name = file_name(path).to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').map(|(_, extension)| extension.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files; each holds its own path.
    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    /// Which of `files` is taken for the training images.
    fn taken(files: &[&str]) -> Option<String> {
        let directory = directory(files);
        let listing = Listing::read(directory.path()).unwrap();
        let prefix = listing.prefix().unwrap();
        listing.file(&format!("{prefix}{TRAIN_IMAGES}")).map(|path| fs::read_to_string(path).unwrap())
    }

    fn found(files: &[&str]) -> String {
        let directory = directory(files);
        let error = Listing::read(directory.path()).unwrap().find(&[TRAIN_IMAGES.to_owned()]).unwrap_err().to_string();
        let (_, found) = error.split_once(": expected train-images-idx3-ubyte[.gz], found ").unwrap();
        found.replace(directory.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn a_file_is_found_under_every_name_that_people_give_it() {
        for name in [
            "train-images-idx3-ubyte",
            "train-images-idx3-ubyte.gz",
            "train-images-idx3-ubyte.GZ",
            "train-images.idx3-ubyte",
            "train-images.idx3-ubyte.gz",
            "Train_Images.IDX3-ubyte.Gz",
            "TRAIN-IMAGES-IDX3-UBYTE",
            "train-images.idx",
            "train-images-idx3-ubyte/train-images-idx3-ubyte",
            "train-images.idx3-ubyte.gz/train-images.idx3-ubyte",
            "EMNIST-Letters-train-images-idx3-ubyte.gz",
            "emnist-letters-train-images-idx3-ubyte/emnist-letters-train-images-idx3-ubyte",
        ] {
            assert_eq!(taken(&[name]).as_deref(), Some(name));
        }
        for name in ["train-images.csv", "train-images/cat", "train-images-idx3-ubyte.zip", "._train-images-idx3-ubyte"]
        {
            assert_eq!(taken(&[name]), None, "{name}");
        }
    }

    #[test]
    fn of_several_files_of_one_meaning_the_usual_plain_one_is_taken() {
        let ranked = [
            "train-images-idx3-ubyte",
            "train-images-idx3-ubyte.gz",
            "train-images.idx3-ubyte",
            "train_images_idx3_ubyte",
            "Train.images.idx3-ubyte.gz",
            "train-images/train-images",
        ];
        for first in 0..ranked.len() {
            assert_eq!(taken(&ranked[first..]).as_deref(), Some(ranked[first]));
        }
        assert_eq!(taken(&["a-train-images-idx3-ubyte", "train-images.idx"]).as_deref(), Some("train-images.idx"));
    }

    #[test]
    fn what_a_directory_has_in_place_of_a_set_is_named() {
        let formats = "; data sets are read from pictures, tables and MNIST's IDX files: unpack archives, and convert \
                       other formats";
        let several = (0..10).map(|index| format!("{index}.txt")).collect::<Vec<_>>();
        let checks: [(&[&str], &str); 10] = [
            (&[".hidden"], "an empty directory"),
            (&["b.txt", "a/c.txt"], "a/, b.txt"),
            (&several.iter().map(String::as_str).collect::<Vec<_>>(), "6.txt, 7.txt and 2 more"),
            (&["t10k-images-idx3-ubyte", "mnist.csv"], "mnist.csv, t10k-images-idx3-ubyte"),
            (
                &["mnist_test.csv", "mnist_train.CSV.gz"],
                "CSV files such as mnist_test.csv; --dataset csv reads CSV files",
            ),
            (&["x.npz", "y.tar.gz"], &format!("NumPy files such as x.npz, archives such as y.tar.gz{formats}")),
            (&["x.npz", "1.JPG"], "pictures such as 1.JPG, NumPy files such as x.npz; --dataset folder reads pictures"),
            (&["train/cat/1.png"], "folders of pictures such as train/cat/1.png; --dataset folder reads pictures"),
            (
                &["MNIST/raw/t10k-labels-idx1-ubyte.gz", "a.csv"],
                "MNIST/raw/t10k-labels-idx1-ubyte.gz; name the directory DIR/MNIST/raw",
            ),
            (
                &["raw/t10k-labels-idx1-ubyte/t10k-labels.idx1-ubyte"],
                "raw/t10k-labels-idx1-ubyte/t10k-labels.idx1-ubyte; name the directory DIR/raw",
            ),
        ];
        for (files, expected) in checks {
            let found = found(files);
            assert!(found.ends_with(expected), "{found:?} does not end in {expected:?}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_called_one() {
        let directory = directory(&["a,b.csv"]);
        let path = directory.path().join("a,b.csv");
        let message = Listing::read(&path).unwrap_err().to_string();
        assert!(message.ends_with("expected the directory of the data set's files, found a file (text such as CSV)"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_taken_when_there_is_nothing_else() {
        let directory = directory(&["train-images.gz"]);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, directory.path().join(name)).unwrap();
        link("nowhere", TRAIN_IMAGES);
        link("train-images.gz", TRAIN_LABELS);
        link("nowhere", TEST_LABELS);
        let listing = Listing::read(directory.path()).unwrap();
        let names =
            [TRAIN_IMAGES, TRAIN_LABELS, TEST_LABELS, TEST_IMAGES].map(|name| listing.file(name).map(file_name));
        assert_eq!(
            names,
            [Some("train-images.gz"), Some(TRAIN_LABELS), Some(TEST_LABELS), None].map(|n| n.map(String::from))
        );
    }
}
