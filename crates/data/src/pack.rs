//! Packed files: pictures decoded once, and mapped into memory from then on.
//!
//! A set of pictures is decoded into one file in the user's cache, `packed/<data set>-<key>.kindling`. The key is a digest
//! over the files' names, sizes and times, and over what is done to them, so that a set that changes gets a new file. The
//! file is written under a temporary name and takes its own when it is whole; `<file>.lock` is locked meanwhile, so that of
//! two processes one waits for the other. A file that is damaged, foreign, or of another version is made again.
//!
//! A file is verified whenever it is opened: its header, labels and names always, and all pixels up to 1 GiB; of a larger
//! file's pixels evenly spaced blocks, at most 256. Nobody else may change a file while it is mapped: one that another
//! program cuts short ends the process with a bus error (SIGBUS).
//!
//! # Format
//!
//! All numbers are little-endian. Version 1:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `89 4b 4e 44 4c 0d 0a 1a`: `KNDL` in the manner of PNG |
//! | 8 | 4 | version, u32 |
//! | 12 | 4 | CRC-32 of the header, u32 |
//! | 16 | 8 | where the header begins, u64 |
//! | 24 | 8 | length of the header, u64; the file ends with it |
//! | 32 | 4064 | zeros |
//! | 4096 | images * channels * height * width | pixels: the images for training, validation and testing one after the other, each `[channels, height, width]` |
//! | then | images * 2 | labels, u16, from 0 |
//! | then | (images + 1) * 8 | where each name begins and the last one ends in the text of the names, u64 |
//! | then | `text_bytes` | text of the names: of each image where it comes from, in UTF-8 |
//! | then | blocks * 4 | CRC-32 of each MiB of pixels, u32; the last block may be shorter |
//! | then | as above | header: [`Header`] as JSON |
//!
//! The CRC-32 is that of zlib and PNG.

mod read;
mod write;

use std::{
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Seek, Write},
    path::Path,
    time::Duration,
};

use kindling_config::Fit;
use serde::{Deserialize, Serialize};

use crate::{DataError, ImageSet, LoadEvent, cache};

const MAGIC: [u8; 8] = *b"\x89KNDL\r\n\x1a";
const VERSION: u32 = 1;
/// Where pixels begin: a page.
const PIXELS: usize = 4096;
/// Pixels that have a checksum of their own.
const BLOCK: usize = 1 << 20;
/// The most unreadable pictures that an error lists.
const MOST_LISTED: usize = 1000;
/// A temporary file that nothing was written to for so long is left over.
const LEFT_OVER: Duration = Duration::from_hours(24);

/// What a packed file says about itself.
#[derive(Serialize, Deserialize)]
struct Header {
    /// The key that the file was made for.
    key: String,
    /// Names of the classes, in the order of the labels.
    classes: Vec<String>,
    /// `[channels, height, width]` of every image.
    shape: [usize; 3],
    /// Number of images for training, validation and testing.
    counts: [usize; 3],
    /// Length of the text of the names.
    text_bytes: usize,
    /// CRC-32 of all between the pixels and the header.
    tables_crc32: u32,
    /// [`Packed::sha256`].
    sha256: String,
    /// Unreadable pictures that were left out, with their reasons.
    skipped: Vec<String>,
}

/// A picture to be decoded.
pub(crate) struct Sample<K> {
    /// The class, from 0.
    pub(crate) label: u16,
    /// Where it comes from: a file relative to the set's directory, or a table's file and line or row.
    pub(crate) name: String,
    /// What is decoded.
    pub(crate) item: K,
}

/// Why a picture has no pixels.
pub(crate) enum Unreadable {
    /// The picture is to blame, for this reason: it may be left out.
    Picture(String),
    /// The machine is to blame: another time the picture may be read.
    Fatal(DataError),
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Self::Picture(reason)
    }
}

impl From<DataError> for Unreadable {
    /// A file that is not there, may not be read, or is no picture is unreadable; any other failure to read is fatal.
    fn from(error: DataError) -> Self {
        use io::ErrorKind::{NotFound, PermissionDenied};
        match error {
            DataError::Io { source, .. } if matches!(source.kind(), NotFound | PermissionDenied) => {
                Self::Picture(source.to_string())
            }
            DataError::Malformed { message, .. } => Self::Picture(message),
            error => Self::Fatal(error),
        }
    }
}

/// All pictures of a set.
pub(crate) struct Plan<K> {
    /// Names of the classes, in the order of the labels.
    pub(crate) classes: Vec<String>,
    /// `[channels, height, width]` of every image.
    pub(crate) shape: [usize; 3],
    /// Train, validation, and test.
    pub(crate) splits: [Vec<Sample<K>>; 3],
}

/// Which set is asked for.
pub(crate) struct Request<'a> {
    /// Name of the data set, such as `folder`.
    pub(crate) name: &'a str,
    /// The directory or file the user named.
    pub(crate) source: &'a Path,
    /// Hexadecimal digest over the names, sizes and times of the files, and the options.
    pub(crate) key: &'a str,
    /// How pictures are brought to size.
    pub(crate) fit: Option<Fit>,
    /// Whether unreadable pictures are left out instead of being an error.
    pub(crate) skip_unreadable: bool,
}

/// A set in a packed file.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Names of the classes, in the order of the labels.
    pub(crate) classes: Vec<String>,
    /// Train, validation, and test; none where there is no image.
    pub(crate) splits: [Option<ImageSet>; 3],
    /// SHA-256 of the content: shape, classes, and the pixels and labels of each split, hexadecimal.
    pub(crate) sha256: String,
    /// Unreadable pictures that are left out, with their reasons.
    pub(crate) skipped: Vec<String>,
}

/// Opens the packed file of a set, or makes it first.
///
/// `plan` is asked only where there is none. `decode` fills an image's bytes, planar.
///
/// At most 64 MiB of images are in memory at once, or two images where those take more. Not bounded are the plan and the
/// tables of the file, which grow with the number of pictures; each thread also holds the picture that it decodes, of up to
/// 512 MiB.
///
/// # Errors
/// When `plan` fails, pictures are unreadable and not to be skipped, or are all that a split has, reading one fails for
/// another reason, or the file cannot be written.
pub(crate) fn packed<K: Sync>(
    request: &Request<'_>,
    on_event: &mut dyn FnMut(LoadEvent),
    plan: impl FnOnce(&mut dyn FnMut(LoadEvent)) -> Result<Plan<K>, DataError>,
    decode: impl Fn(&K, &mut [u8]) -> Result<(), Unreadable> + Sync,
) -> Result<Packed, DataError> {
    // Unit tests leave nothing in the user's cache: they put it beside what is packed.
    let beside = || request.source.ancestors().find(|path| path.is_dir()).map(|directory| directory.join(".cache"));
    let cache = if cfg!(test) { beside() } else { cache::directory() };
    let cache = cache.ok_or_else(|| {
        let message = format!("no cache directory for packed pictures: set HOME, or name one with {}", cache::VARIABLE);
        DataError::Unusable(message)
    })?;
    packed_in(&cache.join("packed"), request, on_event, plan, decode)
}

fn packed_in<K: Sync>(
    directory: &Path,
    request: &Request<'_>,
    on_event: &mut dyn FnMut(LoadEvent),
    plan: impl FnOnce(&mut dyn FnMut(LoadEvent)) -> Result<Plan<K>, DataError>,
    decode: impl Fn(&K, &mut [u8]) -> Result<(), Unreadable> + Sync,
) -> Result<Packed, DataError> {
    let path = directory.join(format!("{}-{}.kindling", request.name, request.key));
    let packed = if let Ok(Some(packed)) = read::open(&path, request.key) {
        packed
    } else {
        fs::create_dir_all(directory).map_err(|error| cannot_write(directory, 0, &error))?;
        let lock = locked(&path, request, on_event)?;
        remove_left_overs(directory, lock.as_ref().map(|_| temporary_prefix(&path)).as_deref());
        match read::open(&path, request.key) {
            // Another process made it meanwhile.
            Ok(Some(packed)) => packed,
            outcome => {
                if let Err(reason) = outcome {
                    on_event(LoadEvent::Notice(format!("{}: {reason}; it is made again", path.display())));
                }
                make(&path, request, plan(on_event)?, &decode, on_event, |file| file)?;
                let made = read::open(&path, request.key);
                made.and_then(|packed| packed.ok_or("the file is gone".to_owned())).map_err(|reason| {
                    DataError::malformed(&path, format!("cannot be read right after it was written: {reason}"))
                })?
            }
        }
    };
    let total = packed.splits.iter().flatten().map(ImageSet::count).sum::<usize>() + packed.skipped.len();
    match &packed.skipped[..] {
        [] => {}
        [first, ..] if request.skip_unreadable => on_event(LoadEvent::Notice(format!(
            "{} of {total} pictures are unreadable and left out, such as {first}",
            packed.skipped.len()
        ))),
        skipped => return Err(unreadable(request, skipped, total)),
    }
    Ok(packed)
}

/// Locks the file beside `path` until the lock is dropped; waits for the process that has it. None where the file system has no
/// locks: then two processes may both make the file, and the second replaces it.
fn locked(path: &Path, request: &Request<'_>, on_event: &mut dyn FnMut(LoadEvent)) -> Result<Option<File>, DataError> {
    let lock = path.with_added_extension("lock");
    let failed = |error: &io::Error| cannot_write(&lock, 0, error);
    let file = File::options().create(true).append(true).open(&lock).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let source = request.source.display();
            on_event(LoadEvent::Notice(format!("waiting for another process that packs the pictures of {source}")));
            file.lock().map_err(|error| failed(&error))?;
            Ok(Some(file))
        }
        Err(TryLockError::Error(_)) => Ok(None),
        Ok(()) => Ok(Some(file)),
    }
}

/// Decodes all pictures into a file that takes the name `path` when it is whole; `writer` stands between.
fn make<K: Sync, W: Write + Seek + Send>(
    path: &Path,
    request: &Request<'_>,
    plan: Plan<K>,
    decode: &(impl Fn(&K, &mut [u8]) -> Result<(), Unreadable> + Sync),
    on_event: &mut dyn FnMut(LoadEvent),
    writer: impl FnOnce(File) -> W,
) -> Result<(), DataError> {
    let total = plan.splits.iter().map(Vec::len).sum::<usize>();
    let bytes = (total as u64).saturating_mul(plan.shape.iter().map(|&side| side as u64).product());
    let failed = |error: &io::Error| cannot_write(path, bytes, error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let prefix = temporary_prefix(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    // As any other file's, so that a cache can be shared; otherwise a temporary file is its owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(directory).map_err(|error| failed(&error))?;
    on_event(LoadEvent::Temporary(file.path().to_path_buf()));
    let writer = file.reopen().map(writer).map_err(|error| failed(&error))?;
    match write::write(writer, request, plan, decode, on_event) {
        Ok(()) => {}
        Err(write::Failure::Io(error)) => return Err(failed(&error)),
        Err(write::Failure::Unreadable(reasons)) => return Err(unreadable(request, &reasons, total)),
        Err(write::Failure::Data(error)) => return Err(error),
        Err(write::Failure::Plan(message)) => return Err(DataError::malformed(request.source, message)),
    }
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    on_event(LoadEvent::Packed(path.to_path_buf()));
    Ok(())
}

/// How the names of the temporary files for `path` begin.
fn temporary_prefix(path: &Path) -> String {
    format!(".{}-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what killed processes have left: the temporary files whose names begin with `locked`, which only the holder of
/// the lock makes, and the others once they are old.
fn remove_left_overs(directory: &Path, locked: Option<&str>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        let is_old = name.starts_with('.') && name.contains(".kindling-") && age.is_some_and(|age| age > LEFT_OVER);
        if is_old || locked.is_some_and(|prefix| name.starts_with(prefix)) {
            // What cannot be removed only takes space.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Why a file of `bytes` pixels cannot be written to the cache, and what to do.
fn cannot_write(path: &Path, bytes: u64, error: &io::Error) -> DataError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let wanted = if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        format!(" (the packed pictures take {} MiB)", bytes.div_ceil(1 << 20))
    } else {
        String::new()
    };
    let message =
        format!("cannot be written: {error}{wanted}; {} names another directory for the cache", cache::VARIABLE);
    DataError::malformed(path, message)
}

fn unreadable(request: &Request<'_>, reasons: &[String], total: usize) -> DataError {
    let mut message = format!("{} of {total} pictures cannot be read:", reasons.len());
    for reason in reasons.iter().take(MOST_LISTED) {
        let _ = write!(message, "\n  {reason}");
    }
    if reasons.len() > MOST_LISTED {
        let _ = write!(message, "\n  and {} more", reasons.len() - MOST_LISTED);
    }
    message.push_str("\nreplace or remove them");
    if reasons.len() < total {
        message.push_str(", or leave them out with --skip-unreadable");
    }
    DataError::malformed(request.source, message)
}

#[cfg(test)]
mod tests;
