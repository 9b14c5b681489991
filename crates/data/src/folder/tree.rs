//! The pictures in a directory's directories.

use std::{
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::{
    DataError,
    digest::hexadecimal,
    error::listed,
    picture::ENDINGS,
    table_files::{split_word, stamped},
};

/// More directories than so many are no classes.
const MOST_CLASSES: usize = 10_000;
/// From so many on, classes of one picture each are no classes.
const MANY_CLASSES: usize = 10;

/// The pictures of a set, by split.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) directory: PathBuf,
    /// In the order of their bytes.
    pub(super) classes: Vec<String>,
    /// Train, validation, and test, each in order; all in the first where the set is in one piece.
    pub(super) splits: [Vec<Picture>; 3],
    /// What is worth knowing about the directory.
    pub(super) notices: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Picture {
    pub(super) label: u16,
    pub(super) path: PathBuf,
    /// Where the path within the class begins in `path`, in bytes.
    start: usize,
    /// Its size and time.
    stamp: [u64; 2],
}

impl Picture {
    fn new(class: &Path, label: u16, path: PathBuf, metadata: Option<&fs::Metadata>) -> Self {
        Self { label, path, start: class.as_os_str().len() + 1, stamp: metadata.map(stamped).unwrap_or_default() }
    }

    /// Its path within its class, and its class: what the order of a split is by.
    fn place(&self) -> (&[u8], u16) {
        (self.path.as_os_str().as_encoded_bytes().get(self.start..).unwrap_or_default(), self.label)
    }
}

impl Tree {
    /// Looks for pictures in `directory`.
    ///
    /// # Errors
    /// When directories cannot be read, or have no classes with pictures.
    pub(super) fn read(directory: &Path) -> Result<Self, DataError> {
        if directory.is_file() {
            return Err(DataError::malformed(directory, "expected the directory of the pictures, found a file"));
        }
        let whole = Entries::read(directory)?;
        let mut strays = Vec::new();
        let roots = match whole.splits(directory)? {
            Some(Roots { splits, others }) => {
                strays = others;
                splits
                    .into_iter()
                    .map(|root| root.map_or(Ok(Entries::default()), |root| Entries::read(&root)))
                    .collect()
            }
            None => Ok(vec![whole]),
        };
        let mut roots: Vec<Entries> = roots?;
        let names = roots[0].directories.iter().map(|path| class_name(path)).collect::<Result<Vec<_>, _>>();
        let mut classes = names?;
        classes.sort();
        if classes.is_empty() {
            return Err(no_classes(&roots[0]));
        }
        if classes.len() > MOST_CLASSES {
            return Err(too_many(&roots[0].path, &format!("{} directories", classes.len())));
        }
        let mut splits = [const { Vec::new() }; 3];
        let mut unknown = Vec::new();
        for (split, root) in splits.iter_mut().zip(&mut roots) {
            strays.append(&mut root.files);
            let in_class = |path: &PathBuf| {
                let label = classes.binary_search(&class_name(path)?).ok();
                Ok((label, pictures(path, label.unwrap_or_default() as u16)?))
            };
            let found = root.directories.par_iter().map(in_class).collect::<Result<Vec<_>, DataError>>()?;
            for ((label, (mut pictures, mut others)), path) in found.into_iter().zip(&root.directories) {
                match label {
                    None if !pictures.is_empty() => unknown.push(path),
                    _ => split.append(&mut pictures),
                }
                strays.append(&mut others);
            }
            split.par_sort_unstable_by(|a, b| a.place().cmp(&b.place()));
        }
        if !unknown.is_empty() {
            let unknown = listed(unknown.iter().map(|path| path.display()));
            let message = format!("the training pictures lack classes that other splits have: {unknown}");
            return Err(DataError::malformed(&roots[0].path, message));
        }
        let tree = Self { directory: directory.to_path_buf(), classes, splits, notices: Vec::new() };
        tree.checked(&roots[0].path, &strays)
    }

    /// Checks that there are pictures in classes, and adds the notices.
    fn checked(mut self, root: &Path, strays: &[PathBuf]) -> Result<Self, DataError> {
        let strays: Vec<String> = strays.iter().map(|path| self.relative(path)).collect();
        let [train, valid, test] = &self.splits;
        if train.is_empty() {
            return Err(DataError::Missing {
                directory: root.to_path_buf(),
                wanted: format!(
                    "pictures in the directories of the classes (names that end in {})",
                    ENDINGS.join(", ")
                ),
                found: if strays.is_empty() { "none".to_owned() } else { listed(strays) },
            });
        }
        if self.classes.len() > MANY_CLASSES && train.len() <= self.classes.len() {
            let found = format!("{} directories with {} pictures in all", self.classes.len(), train.len());
            return Err(too_many(root, &found));
        }
        let at = self.directory.display();
        if root != self.directory && valid.is_empty() && test.is_empty() {
            self.notices.push(format!("{at}: no validation and no test pictures; the training pictures are split"));
        }
        let mut is_empty = vec![true; self.classes.len()];
        for picture in train {
            is_empty[usize::from(picture.label)] = false;
        }
        let empty: Vec<&String> =
            self.classes.iter().zip(is_empty).filter_map(|(c, empty)| empty.then_some(c)).collect();
        if !empty.is_empty() {
            self.notices.push(format!("{at}: no pictures to train on in the directories of {}", listed(empty)));
        }
        if !strays.is_empty() {
            let (count, files) = (strays.len(), if strays.len() == 1 { "entry is" } else { "entries are" });
            self.notices.push(format!("{at}: {count} {files} no picture of a class, and left out: {}", listed(strays)));
        }
        Ok(self)
    }

    /// A picture's path within the directory.
    pub(super) fn name(&self, picture: &Picture) -> String {
        self.relative(&picture.path)
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.directory).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// A digest over the classes, the pictures' paths within the directory, their sizes and times, and `options`.
    pub(super) fn key(&self, options: &str) -> String {
        let mut hash = Sha256::new_with_prefix(options);
        self.classes.iter().for_each(|class| hash.update(format!("\0{class}")));
        for (index, split) in self.splits.iter().enumerate() {
            for picture in split {
                let path = picture.path.strip_prefix(&self.directory).unwrap_or(&picture.path);
                hash.update([0, index as u8]);
                hash.update(path.as_os_str().as_encoded_bytes());
                // No path has a zero in it.
                hash.update([0]);
                picture.stamp.iter().for_each(|number| hash.update(number.to_le_bytes()));
            }
        }
        hexadecimal(&hash.finalize())
    }
}

/// What a directory has, without what is hidden, in order.
#[derive(Debug, Default)]
struct Entries {
    path: PathBuf,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

/// The directories of train, validation and test, and all other entries beside them.
struct Roots {
    splits: [Option<PathBuf>; 3],
    others: Vec<PathBuf>,
}

impl Entries {
    fn read(path: &Path) -> Result<Self, DataError> {
        let mut found = Self { path: path.to_path_buf(), ..Self::default() };
        for entry in fs::read_dir(path).map_err(DataError::io(path))? {
            let entry = entry.map_err(DataError::io(path))?;
            if is_hidden(&entry.file_name()) {
                continue;
            }
            let mut kind = entry.file_type().map_err(DataError::io(entry.path()))?;
            if kind.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(metadata) => kind = metadata.file_type(),
                    // A link that leads nowhere.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(DataError::io(entry.path())(error)),
                }
            }
            let is_class = kind.is_dir() && !holds_runs(&entry.path());
            if is_class { &mut found.directories } else { &mut found.files }.push(entry.path());
        }
        found.directories.sort();
        found.files.sort();
        Ok(found)
    }

    /// The directories of the splits; none where there are classes instead.
    fn splits(&self, directory: &Path) -> Result<Option<Roots>, DataError> {
        let mut splits = [const { None }; 3];
        let mut others = self.files.clone();
        for path in &self.directories {
            let Some(split) = path.file_name().and_then(OsStr::to_str).and_then(split_word) else {
                others.push(path.clone());
                continue;
            };
            if let Some(first) = splits[split].replace(path.clone()) {
                let message = format!("expected one directory of this split, found {} as well", path.display());
                return Err(DataError::malformed(first, message));
            }
        }
        match &splits {
            // A vehicle.
            [Some(train), ..] if others.len() > self.files.len() && Self::read(train)?.directories.is_empty() => {
                Ok(None)
            }
            [Some(_), ..] => Ok(Some(Roots { splits, others })),
            // Classes may be called so.
            _ if others.len() > self.files.len() || splits.iter().all(Option::is_none) => Ok(None),
            _ => Err(DataError::Missing {
                directory: directory.to_path_buf(),
                wanted: "a directory `train`".to_owned(),
                found: listed(
                    splits.iter().flatten().map(|path| path.file_name().unwrap_or_default().to_string_lossy()),
                ),
            }),
        }
    }
}

/// Whether a directory is that of the runs, which a program that is started among the pictures makes there.
fn holds_runs(path: &Path) -> bool {
    let has_run = |entry: fs::DirEntry| entry.path().join("run.json").is_file();
    path.ends_with("runs") && fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(has_run))
}

/// Whether users do not see such a file, or other systems made it.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
        || ["__MACOSX", "Thumbs.db", "desktop.ini"].iter().any(|hidden| name.eq_ignore_ascii_case(hidden))
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&&*ending))
}

fn class_name(path: &Path) -> Result<String, DataError> {
    let name = path.file_name().unwrap_or_default();
    name.to_str()
        .map(str::to_owned)
        .ok_or_else(|| DataError::malformed(path, "a class has a name that is no UTF-8; rename the directory"))
}

/// All pictures in a class's directory, and all other files.
fn pictures(class: &Path, label: u16) -> Result<(Vec<Picture>, Vec<PathBuf>), DataError> {
    let (mut pictures, mut others) = (Vec::new(), Vec::new());
    let walk = WalkDir::new(class).follow_links(true).min_depth(1).into_iter();
    for entry in walk.filter_entry(|entry| !is_hidden(entry.file_name())) {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) if entry.file_type().is_file() && is_picture(entry.path()) => {
                let metadata = entry.metadata().ok();
                pictures.push(Picture::new(class, label, entry.into_path(), metadata.as_ref()));
            }
            Ok(entry) => others.push(entry.into_path()),
            Err(error) => {
                let path = error.path().unwrap_or(class).to_path_buf();
                if let Some(ancestor) = error.loop_ancestor() {
                    let message = format!("the symbolic link leads back to {}; remove it", ancestor.display());
                    return Err(DataError::malformed(path, message));
                }
                let error = error.into_io_error().unwrap_or_else(|| ErrorKind::Other.into());
                match error.kind() {
                    _ if path.file_name().is_some_and(is_hidden) => {}
                    // A link that leads nowhere is a picture that cannot be read.
                    ErrorKind::NotFound if is_picture(&path) => pictures.push(Picture::new(class, label, path, None)),
                    ErrorKind::NotFound => others.push(path),
                    _ => return Err(DataError::io(path)(error)),
                }
            }
        }
    }
    Ok((pictures, others))
}

fn no_classes(root: &Entries) -> DataError {
    let pictures = root.files.iter().filter(|path| is_picture(path)).count();
    let names = || listed(root.files.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()));
    DataError::Missing {
        directory: root.path.clone(),
        wanted: "a directory for each class, with its pictures".to_owned(),
        found: match (pictures, root.files.len()) {
            (_, 0) => "an empty directory".to_owned(),
            (0, _) => names(),
            (pictures, _) => format!("no directory, but {pictures} pictures ({})", names()),
        },
    }
}

fn too_many(root: &Path, found: &str) -> DataError {
    DataError::malformed(
        root,
        format!(
            "expected a directory for each class, with all pictures of the class, and at most {MOST_CLASSES} classes, \
             found {found}"
        ),
    )
}
