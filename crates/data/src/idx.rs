//! The IDX format of MNIST: a big-endian header and then bytes, usually inside gzip.
//!
//! Source: <http://yann.lecun.com/exdb/mnist/>, "file formats for the MNIST database".

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use crate::DataError;

const IMAGES_MAGIC: u32 = 2051;
const LABELS_MAGIC: u32 = 2049;
/// More than any set in this format; a header beyond it is damaged.
const MOST_BYTES: u64 = 1 << 33;

/// An images file: `count * height * width` bytes.
pub(crate) struct Images {
    pub(crate) pixels: Vec<u8>,
    pub(crate) count: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// SHA-256 of the unpacked file.
    pub(crate) sha256: [u8; 32],
}

/// A labels file: one byte for each image.
pub(crate) struct Labels {
    pub(crate) labels: Vec<u8>,
    /// SHA-256 of the unpacked file.
    pub(crate) sha256: [u8; 32],
}

/// Reads an images file, unpacking it if its name ends in `.gz`.
pub(crate) fn read_images(path: &Path) -> Result<Images, DataError> {
    let (header, pixels, sha256) = read(open(path)?, path, IMAGES_MAGIC, "images", 3)?;
    let [count, height, width] = header[..] else { unreachable!("read returns as many sizes as asked for") };
    Ok(Images { pixels, count, height, width, sha256 })
}

/// Reads a labels file, unpacking it if its name ends in `.gz`.
pub(crate) fn read_labels(path: &Path) -> Result<Labels, DataError> {
    let (_, labels, sha256) = read(open(path)?, path, LABELS_MAGIC, "labels", 1)?;
    Ok(Labels { labels, sha256 })
}

/// The sizes in the header, the bytes after it, and the SHA-256 of both.
type Content = (Vec<usize>, Vec<u8>, [u8; 32]);

/// Reads a header of `rank` sizes and exactly as many bytes as they announce.
fn read(mut reader: Box<dyn Read>, path: &Path, magic: u32, what: &str, rank: usize) -> Result<Content, DataError> {
    const AGAIN: &str = "delete the file and get it again";
    let malformed = |message: String| DataError::malformed(path, message);
    let mut header = vec![0; 4 * (1 + rank)];
    let found = read_up_to(&mut *reader, &mut header)
        .map_err(|error| malformed(format!("expected a header of {} bytes: {error} ({AGAIN})", header.len())))?;
    if found == 0 {
        return Err(malformed(format!("the file is empty ({AGAIN})")));
    }
    if found < header.len() {
        return Err(malformed(format!("expected a header of {} bytes, found {found} bytes ({AGAIN})", header.len())));
    }
    let mut sizes = header.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    let found_magic = sizes.next().unwrap_or_default();
    if found_magic != magic {
        return Err(malformed(format!(
            "expected {what} in IDX format (magic number {magic}), found magic number {found_magic}; is it another file?"
        )));
    }
    let sizes: Vec<usize> = sizes.map(|size| size as usize).collect();
    let announced = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
    let expected = match announced {
        Some(0) => return Err(malformed(format!("the header announces no {what}: {sizes:?}"))),
        Some(bytes) if bytes <= MOST_BYTES => bytes,
        _ => return Err(malformed(format!("the header announces an absurd size: {sizes:?} ({AGAIN})"))),
    };

    // Memory follows what arrives, not what the header says; one byte more than announced is enough to know.
    let mut content = Vec::with_capacity(usize::try_from(expected.min(1 << 26)).unwrap_or_default());
    let outcome = reader.take(expected + 1).read_to_end(&mut content);
    let count = sizes[0];
    let items = content.len() as u64 / (expected / count as u64);
    match outcome {
        Err(error) => Err(malformed(format!("expected {count} {what}, found {items}: {error} ({AGAIN})"))),
        Ok(_) if (content.len() as u64) < expected => {
            Err(malformed(format!("expected {count} {what}, found {items} (the file is cut short; {AGAIN})")))
        }
        Ok(_) if content.len() as u64 > expected => {
            Err(malformed(format!("expected {count} {what}, found more bytes than the header announces ({AGAIN})")))
        }
        Ok(_) => {
            let sha256 = Sha256::new().chain_update(&header).chain_update(&content).finalize().into();
            Ok((sizes, content, sha256))
        }
    }
}

fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = BufReader::new(File::open(path).map_err(DataError::io(path))?);
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    Ok(if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) })
}

/// Fills `buffer` as far as the reader goes and returns how far that was; a gzip that ends early has just ended.
fn read_up_to(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{cell::Cell, fs, io::Write, path::PathBuf, rc::Rc};

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    /// The bytes of an IDX file with the given magic number and sizes.
    pub(crate) fn idx(magic: u32, sizes: &[u32], content: &[u8]) -> Vec<u8> {
        let words = std::iter::once(&magic).chain(sizes).flat_map(|word| word.to_be_bytes());
        words.chain(content.iter().copied()).collect()
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    /// Reads `bytes` as an images file and checks the message of the error.
    fn check(name: &str, bytes: &[u8], expected: &str) {
        let (_directory, path) = written(name, bytes);
        let message = read_images(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        assert!(message.contains(name), "{message:?} does not name the file");
    }

    #[test]
    fn damaged_files_are_refused_with_what_was_wanted_and_found() {
        let good = idx(IMAGES_MAGIC, &[3, 2, 2], &[7; 12]);
        check("empty", &[], "the file is empty");
        check("empty.gz", &[], "the file is empty");
        check("header", &good[..10], "expected a header of 16 bytes, found 10 bytes");
        check("labels", &idx(LABELS_MAGIC, &[3], &[7; 3]), "expected a header of 16 bytes, found 11 bytes");
        check("magic", &idx(2052, &[3, 2, 2], &[7; 12]), "(magic number 2051), found magic number 2052");
        check("short", &good[..good.len() - 1], "expected 3 images, found 2 (the file is cut short");
        check("long", &[&good[..], &[1]].concat(), "found more bytes than the header announces");
        check("none", &idx(IMAGES_MAGIC, &[0, 2, 2], &[]), "announces no images");
        check("absurd", &idx(IMAGES_MAGIC, &[u32::MAX; 3], &[]), "an absurd size");
        check("text.gz", b"this is no gzip at all", "invalid gzip header");
        let pixels: Vec<u8> = (0..400_u32).map(|i| ((i * i * 31) >> 3) as u8).collect();
        let packed = gzip(&idx(IMAGES_MAGIC, &[100, 2, 2], &pixels));
        check("cut.gz", &packed[..packed.len() / 2], "expected 100 images, found");
    }

    #[test]
    fn a_gzip_that_unpacks_to_far_more_than_its_header_says_is_not_unpacked() {
        struct Counting<R>(R, Rc<Cell<usize>>);
        impl<R: Read> Read for Counting<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.read(buffer)?;
                self.1.set(self.1.get() + count);
                Ok(count)
            }
        }
        // 64 MiB of zeros behind a header that says 4 bytes.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&idx(IMAGES_MAGIC, &[1, 2, 2], &[])).unwrap();
        for _ in 0..64 {
            encoder.write_all(&vec![0; 1 << 20]).unwrap();
        }
        let bomb = io::Cursor::new(encoder.finish().unwrap());
        let unpacked = Rc::new(Cell::new(0));
        let reader = Box::new(Counting(GzDecoder::new(bomb), unpacked.clone()));
        let error = read(reader, Path::new("bomb.gz"), IMAGES_MAGIC, "images", 3).unwrap_err().to_string();
        assert!(error.contains("found more bytes than the header announces"), "{error}");
        assert!(unpacked.get() < 1 << 10, "{} bytes were unpacked", unpacked.get());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_is_read_back(count in 1_usize..9, height in 1_usize..6, width in 1_usize..6, seed: u8, packed: bool) {
            let pixels: Vec<u8> = (0..count * height * width).map(|i| seed.wrapping_add(i as u8)).collect();
            let bytes = idx(IMAGES_MAGIC, &[count as u32, height as u32, width as u32], &pixels);
            let (_directory, path) =
                if packed { written("images.gz", &gzip(&bytes)) } else { written("images", &bytes) };
            let images = read_images(&path).unwrap();
            prop_assert_eq!((images.count, images.height, images.width), (count, height, width));
            prop_assert_eq!(images.pixels, pixels);
            prop_assert_eq!(images.sha256[..].to_vec(), Sha256::digest(&bytes).to_vec());
        }

        #[test]
        fn a_cut_or_altered_file_is_an_error_and_never_a_panic(cut in 0_usize..60, at in 0_usize..60, value: u8, packed: bool) {
            let bytes = idx(IMAGES_MAGIC, &[11, 2, 2], &[9; 44]);
            let mut file = if packed { gzip(&bytes) } else { bytes.clone() };
            file.truncate(file.len().saturating_sub(1 + cut % file.len()));
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
            let (_directory, path) = written(if packed { "images.gz" } else { "images" }, &file);
            // A changed count can make a shorter file whole again; anything else is refused.
            if let Ok(images) = read_images(&path) {
                prop_assert!(images.pixels.len() < 44);
            }
        }
    }
}
