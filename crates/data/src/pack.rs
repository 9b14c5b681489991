//! Packed files: pictures decoded once, and mapped into memory from then on.
//!
//! A set of pictures is decoded into one file in the user's cache, `packed/<data set>-<key>.kindling`. The key is a digest
//! over the files' names, sizes and times, and over what is done to them, so that a set that changes gets a new file. The
//! file is written under a temporary name and takes its own when it is whole; `<file>.lock` is locked meanwhile, so that of
//! two processes one waits for the other. A file that is damaged, foreign, or of another version is made again.
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
//! | then | `text_bytes` | text of the names: of each image the file it comes from, in UTF-8 |
//! | then | blocks * 4 | CRC-32 of each MiB of pixels, u32; the last block may be shorter |
//! | then | as above | header: [`Header`] as JSON |
//!
//! The CRC-32 is that of zlib and PNG.

mod read;
mod write;

use std::{
    env,
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use kindling_config::Fit;
use serde::{Deserialize, Serialize};

use crate::{DataError, ImageSet, LoadEvent};

const MAGIC: [u8; 8] = *b"\x89KNDL\r\n\x1a";
const VERSION: u32 = 1;
/// Where pixels begin: a page.
const PIXELS: usize = 4096;
/// Pixels that have a checksum of their own.
const BLOCK: usize = 1 << 20;
/// Environment variable that names the directory for what can be made or fetched again.
const CACHE_VARIABLE: &str = "KINDLING_CACHE_DIR";
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
    /// The file it comes from, relative to the set's directory.
    pub(crate) name: String,
    /// What is decoded.
    pub(crate) item: K,
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
/// `plan` is asked only where there is none. `decode` fills an image's bytes, planar; its error is the reason why a
/// picture is unreadable. Memory is bounded however large the set is.
///
/// # Errors
/// When `plan` fails, pictures are unreadable and not to be skipped, or the file cannot be written.
pub(crate) fn packed<K: Sync>(
    request: &Request<'_>,
    on_event: &mut dyn FnMut(LoadEvent),
    plan: impl FnOnce(&mut dyn FnMut(LoadEvent)) -> Result<Plan<K>, DataError>,
    decode: impl Fn(&K, &mut [u8]) -> Result<(), String> + Sync,
) -> Result<Packed, DataError> {
    // Unit tests leave nothing in the user's cache: they put it beside what is packed.
    let beside = || request.source.ancestors().find(|path| path.is_dir()).map(|directory| directory.join(".cache"));
    let cache = if cfg!(test) { beside() } else { cache_directory() };
    let cache = cache.ok_or_else(|| {
        let message = format!("no cache directory for packed pictures: set HOME, or name one with {CACHE_VARIABLE}");
        DataError::Unusable(message)
    })?;
    packed_in(&cache.join("packed"), request, on_event, plan, decode)
}

/// The user's directory for what can be made or fetched again.
pub(crate) fn cache_directory() -> Option<PathBuf> {
    let named = env::var_os(CACHE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(dirs::cache_dir()?.join("kindling")))
}

fn packed_in<K: Sync>(
    directory: &Path,
    request: &Request<'_>,
    on_event: &mut dyn FnMut(LoadEvent),
    plan: impl FnOnce(&mut dyn FnMut(LoadEvent)) -> Result<Plan<K>, DataError>,
    decode: impl Fn(&K, &mut [u8]) -> Result<(), String> + Sync,
) -> Result<Packed, DataError> {
    let path = directory.join(format!("{}-{}.kindling", request.name, request.key));
    let packed = if let Ok(Some(packed)) = read::open(&path, request.key) {
        packed
    } else {
        fs::create_dir_all(directory).map_err(|error| cannot_write(directory, 0, &error))?;
        let _lock = locked(&path, request, on_event)?;
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

/// Locks the file beside `path` until the lock is dropped; waits for whoever has it.
fn locked(path: &Path, request: &Request<'_>, on_event: &mut dyn FnMut(LoadEvent)) -> Result<File, DataError> {
    let lock = path.with_added_extension("lock");
    let failed = |error: &io::Error| cannot_write(&lock, 0, error);
    let file = File::options().create(true).append(true).open(&lock).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let source = request.source.display();
            on_event(LoadEvent::Notice(format!("waiting for another process that packs the pictures of {source}")));
            file.lock().map_err(|error| failed(&error))?;
        }
        // Some file systems have no locks: then two processes may both make the file, and the second replaces it.
        Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => return Err(failed(&error)),
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    Ok(file)
}

/// Decodes all pictures into a file that takes the name `path` when it is whole; `writer` stands between.
fn make<K: Sync, W: Write + Seek + Send>(
    path: &Path,
    request: &Request<'_>,
    plan: Plan<K>,
    decode: &(impl Fn(&K, &mut [u8]) -> Result<(), String> + Sync),
    on_event: &mut dyn FnMut(LoadEvent),
    writer: impl FnOnce(File) -> W,
) -> Result<(), DataError> {
    let total = plan.splits.iter().map(Vec::len).sum::<usize>();
    let bytes = (total as u64).saturating_mul(plan.shape.iter().map(|&side| side as u64).product());
    let failed = |error: &io::Error| cannot_write(path, bytes, error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let prefix = format!(".{}-", path.file_name().unwrap_or_default().to_string_lossy());
    remove_left_overs(directory, &prefix);
    let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory).map_err(|error| failed(&error))?;
    let writer = file.reopen().map(writer).map_err(|error| failed(&error))?;
    match write::write(writer, request, plan, decode, on_event) {
        Ok(()) => {}
        Err(write::Failure::Io(error)) => return Err(failed(&error)),
        Err(write::Failure::Unreadable(reasons)) => return Err(unreadable(request, &reasons, total)),
        Err(write::Failure::Plan(message)) => return Err(DataError::malformed(request.source, message)),
    }
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    on_event(LoadEvent::Packed(path.to_path_buf()));
    Ok(())
}

/// Removes what a process that was killed has left of this file, under this name's lock, and what is left of others.
fn remove_left_overs(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        let is_old = name.starts_with('.') && name.contains(".kindling-") && age.is_some_and(|age| age > LEFT_OVER);
        if name.starts_with(prefix) || is_old {
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
    let message = format!("cannot be written: {error}{wanted}; {CACHE_VARIABLE} names another directory for the cache");
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
