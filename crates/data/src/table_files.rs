//! Files that each hold many images: which split each is, by its name; and what sets of files have in common.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rayon::prelude::*;

use crate::{DataError, Load, digest::fingerprint, error::listed};

/// Shares of training, validation and test images of a set in one piece, unless others are asked for.
pub(crate) const SHARES: [f64; 3] = [0.8, 0.1, 0.1];
/// Seed of that split, unless another is asked for.
pub(crate) const SPLIT_SEED: u64 = 42;
/// The help of the keys that sets of files have in common.
pub(crate) const SPLIT_HELP: (&str, &str) =
    ("split", "Shares of train, validation and test images, where the set is in one piece");
pub(crate) const SPLIT_SEED_HELP: (&str, &str) =
    ("split_seed", "Seed of that split, the same for all runs that are compared");
pub(crate) const SKIP_UNREADABLE_HELP: (&str, &str) =
    ("skip_unreadable", "Leave out pictures that cannot be read, and record them");

/// The files of a set by split; the first has all of them where their names have none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Where they are.
    directory: PathBuf,
    pub(crate) splits: [Vec<PathBuf>; 3],
}

impl Files {
    /// The files in `directory` that end in one of `endings`; `directory` may be such a file itself.
    ///
    /// # Errors
    /// When there is none, or some files say their split and others do not.
    pub(crate) fn find(directory: &Path, endings: &[&str]) -> Result<Self, DataError> {
        let is_wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            !name.starts_with('.') && endings.iter().any(|ending| name.ends_with(ending)) && path.is_file()
        };
        if directory.is_file() {
            let splits = [vec![directory.to_path_buf()], Vec::new(), Vec::new()];
            return Ok(Self { directory: directory.parent().unwrap_or(Path::new("")).to_path_buf(), splits });
        }
        let entries = fs::read_dir(directory).map_err(DataError::io(directory))?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let all = entries.map_err(DataError::io(directory))?;
        let mut files: Vec<PathBuf> = all.iter().filter(|path| is_wanted(path)).cloned().collect();
        files.sort();
        if files.is_empty() {
            let names = listed(all.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()));
            return Err(DataError::Missing {
                directory: directory.to_path_buf(),
                wanted: format!("files that end in {}", endings.join(" or ")),
                found: if names.is_empty() { "an empty directory".to_owned() } else { names },
            });
        }
        let (named, nameless): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|path| split_of(path).is_some());
        match (named.is_empty(), nameless.first()) {
            (true, _) => Ok(Self { directory: directory.to_path_buf(), splits: [nameless, Vec::new(), Vec::new()] }),
            (false, Some(other)) => Err(DataError::malformed(
                other,
                format!(
                    "expected `train`, `valid` or `test` in the file's name, as {} has it; rename the file or move it away",
                    named[0].file_name().unwrap_or_default().to_string_lossy()
                ),
            )),
            (false, None) => {
                let mut found = Self { directory: directory.to_path_buf(), ..Self::default() };
                for path in named {
                    found.splits[split_of(&path).unwrap_or_default()].push(path);
                }
                Ok(found)
            }
        }
    }

    /// All files, split by split.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.splits.iter().flatten()
    }

    /// A digest over the names within the directory, sizes and modification times of the files and of the `pictures` that
    /// they name, and over `options`: the key of the packed file.
    ///
    /// # Errors
    /// When a file cannot be looked at; a picture may be missing.
    pub(crate) fn key(&self, options: &str, pictures: &[PathBuf]) -> Result<String, DataError> {
        let mut text = format!("{options}\n");
        let mut add = |path: &Path, [bytes, modified]: [u64; 2]| {
            let name = path.strip_prefix(&self.directory).unwrap_or(path);
            let _ = writeln!(text, "{}\n{bytes} {modified}", name.display());
        };
        for (split, paths) in self.splits.iter().enumerate() {
            add(Path::new(&format!("split {split}")), [0, 0]);
            for path in paths {
                add(path, stamp(path).map_err(DataError::io(path))?);
            }
        }
        let stamps: Vec<[u64; 2]> = pictures.par_iter().map(|path| stamp(path).unwrap_or_default()).collect();
        pictures.iter().zip(stamps).for_each(|(path, stamp)| add(path, stamp));
        Ok(fingerprint([text.as_bytes()]))
    }
}

/// Size of a file in bytes, and when it was modified, in nanoseconds since 1970.
fn stamp(path: &Path) -> io::Result<[u64; 2]> {
    fs::metadata(path).map(|metadata| stamped(&metadata))
}

/// As [`stamp`], of a file that was looked at already.
pub(crate) fn stamped(metadata: &fs::Metadata) -> [u64; 2] {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    [metadata.len(), modified.map_or(0, |time| time.as_nanos() as u64)]
}

/// The split that a file's name says: its place in a plan's splits.
fn split_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_string_lossy();
    name.split(|c: char| !c.is_ascii_alphabetic()).find_map(split_word)
}

/// The split that a word means, in letters of any size: its place in a plan's splits.
pub(crate) fn split_word(word: &str) -> Option<usize> {
    match &*word.to_ascii_lowercase() {
        "train" | "training" => Some(0),
        "valid" | "val" | "validation" | "dev" => Some(1),
        "test" | "testing" => Some(2),
        _ => None,
    }
}

/// The directory that the user names.
///
/// # Errors
/// When none is named.
pub(crate) fn directory<'a>(load: &Load<'a>, name: &str) -> Result<&'a Path, DataError> {
    load.directory.ok_or_else(|| {
        DataError::Directory(format!("data set `{name}` needs the directory of its files: --data-dir DIR"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_says_its_split_in_words_of_its_own() {
        let cases = [
            ("fashion-mnist_train.csv", Some(0)),
            ("Test.CSV", Some(2)),
            ("validation-00000-of-00001.parquet", Some(1)),
            ("my_val.csv", Some(1)),
            ("trainers.csv", None),
            ("latest.csv", None),
        ];
        for (name, expected) in cases {
            assert_eq!(split_of(Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn files_are_found_by_split_and_a_mixture_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let add = |name: &str| fs::write(place.path().join(name), "").unwrap();
        let message = Files::find(place.path(), &[".csv"]).unwrap_err().to_string();
        assert!(message.ends_with("expected files that end in .csv, found an empty directory"), "{message}");
        ["b.csv", "a.csv", "notes.txt", ".hidden.csv"].into_iter().for_each(add);
        let whole = Files::find(place.path(), &[".csv"]).unwrap();
        let names = |files: &[PathBuf]| -> Vec<String> {
            files.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&whole.splits[0]), ["a.csv", "b.csv"]);
        add("test.csv");
        let message = Files::find(place.path(), &[".csv"]).unwrap_err().to_string();
        assert!(message.contains("a.csv: expected `train`, `valid` or `test` in the file's name, as test.csv has it"));
    }

    #[test]
    fn a_key_changes_with_a_file_and_with_the_options() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("train.csv"), "1").unwrap();
        let key = |options| Files::find(place.path(), &[".csv"]).unwrap().key(options, &[]).unwrap();
        let first = key("32x32");
        assert_eq!((first.clone(), first != key("28x28")), (key("32x32"), true));
        fs::write(place.path().join("train.csv"), "12").unwrap();
        assert_ne!(key("32x32"), first);
    }

    #[test]
    fn a_key_has_the_pictures_that_are_named_and_no_directory() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("set");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("train.csv"), "1").unwrap();
        let key = |directory: &Path| {
            let pictures = [directory.join("a.png"), directory.join("none.png")];
            Files::find(directory, &[".csv"]).unwrap().key("", &pictures).unwrap()
        };
        let missing = key(&directory);
        fs::write(directory.join("a.png"), "broken").unwrap();
        let broken = key(&directory);
        fs::write(directory.join("a.png"), "repaired").unwrap();
        let repaired = key(&directory);
        assert!(missing != broken && broken != repaired);
        assert_eq!(key(&directory.join("..").join("set")), repaired);
        let file = directory.join("train.csv");
        let of_file = |file: &Path| Files::find(file, &[".csv"]).unwrap().key("", &[]).unwrap();
        assert_eq!(of_file(&file), of_file(&directory.join("../set/train.csv")));
    }
}
