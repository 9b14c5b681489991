//! The IDX format of MNIST: a big-endian header and then bytes, usually inside gzip.
//!
//! Source: <http://yann.lecun.com/exdb/mnist/>, "file formats for the MNIST database".

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};

use crate::{DataError, signature};

const IMAGES_MAGIC: u32 = 2051;
const LABELS_MAGIC: u32 = 2049;
/// More than any set in this format; a header beyond it is damaged.
const MOST_BYTES: u64 = 1 << 33;

/// An images file: `count * height * width` bytes.
#[derive(Debug)]
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

/// Reads an images file, unpacking it if it is gzip, whatever its name is.
pub(crate) fn read_images(path: &Path) -> Result<Images, DataError> {
    let (header, pixels, sha256) = read(open(path)?, path, IMAGES_MAGIC, "images")?;
    let [count, height, width] = header[..] else {
        unreachable!("read returns as many sizes as the magic number says")
    };
    Ok(Images { pixels, count, height, width, sha256 })
}

/// Reads a labels file, unpacking it if it is gzip, whatever its name is.
pub(crate) fn read_labels(path: &Path) -> Result<Labels, DataError> {
    let (_, labels, sha256) = read(open(path)?, path, LABELS_MAGIC, "labels")?;
    Ok(Labels { labels, sha256 })
}

/// The sizes in the header, the bytes after it, and the SHA-256 of both.
type Content = (Vec<usize>, Vec<u8>, [u8; 32]);

/// Reads a header with as many sizes as the last byte of `magic` says, and exactly as many bytes as they announce.
fn read(mut reader: Box<dyn Read>, path: &Path, magic: u32, what: &str) -> Result<Content, DataError> {
    const AGAIN: &str = "delete the file and get it again";
    let malformed = |message: String| DataError::malformed(path, message);
    let wanted = 4 * (1 + magic as usize % 256);
    let mut header = Vec::new();
    let outcome = reader.by_ref().take(wanted as u64).read_to_end(&mut header);
    if let Err(error) = outcome {
        return Err(malformed(format!(
            "expected a header of {wanted} bytes, found {}: {error} ({AGAIN})",
            header.len()
        )));
    }
    if header.is_empty() {
        return Err(malformed(format!("the file is empty ({AGAIN})")));
    }
    let mut words = header.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    if let Some(found) = words.next().filter(|&found| found != magic) {
        // What cannot be read cannot be looked at.
        let _ = reader.take(signature::LENGTH as u64).read_to_end(&mut header);
        return Err(malformed(mismatch(magic, what, found, &header)));
    }
    if header.len() < wanted {
        return Err(malformed(format!("expected a header of {wanted} bytes, found {} bytes ({AGAIN})", header.len())));
    }
    let sizes: Vec<usize> = words.map(|size| size as usize).collect();
    let announced = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
    let expected = match (announced, &sizes[..]) {
        (Some(0), [0, ..]) => return Err(malformed(format!("the header announces no {what}"))),
        (Some(0), [_, height_and_width @ ..]) => {
            let size = height_and_width.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            return Err(malformed(format!("the header announces {what} of {size} pixels ({AGAIN})")));
        }
        (Some(bytes), _) if bytes <= MOST_BYTES => bytes,
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

/// Says what a file is that begins with `start`, and so with the magic number `found` where `wanted` should be.
fn mismatch(wanted: u32, what: &str, found: u32, start: &[u8]) -> String {
    let swapped = match found {
        IMAGES_MAGIC => Some("images"),
        LABELS_MAGIC => Some("labels"),
        _ => None,
    };
    let expected = elements(wanted).unwrap_or_default();
    match (swapped, elements(found)) {
        (Some(other), Some(elements)) => {
            format!("expected {what} ({expected}), found {other} ({elements}): images and labels may be swapped")
        }
        (_, Some(elements)) => {
            format!("expected {what} ({expected}), found {elements} (magic number {found}); convert the file")
        }
        _ => {
            let (found, then) = match (signature::describe(start), elements(found.swap_bytes())) {
                (Some(other), _) => (other.to_owned(), "; convert or unpack it, or get the file again"),
                (_, Some(elements)) => (format!("{elements} in little-endian byte order"), "; convert the file"),
                _ => (format!("magic number {found}"), "; is it another file?"),
            };
            format!("expected {what} in IDX format (magic number {wanted}), found {found}{then}")
        }
    }
}

/// What IDX files with this magic number hold: the third byte is the elements' type, the fourth the number of dimensions.
fn elements(magic: u32) -> Option<String> {
    let [0, 0, element, rank @ 1..=255] = magic.to_be_bytes() else { return None };
    let element = match element {
        0x08 => "unsigned bytes",
        0x09 => "signed bytes",
        0x0b => "16-bit integers",
        0x0c => "32-bit integers",
        0x0d => "32-bit floats",
        0x0e => "64-bit floats",
        _ => return None,
    };
    Some(format!("{element} in {rank} dimension{}", if rank == 1 { "" } else { "s" }))
}

fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            DataError::malformed(path, "a link to a file that is not there")
        }
        _ => DataError::io(path)(error),
    })?;
    let mut file = BufReader::new(file);
    let is_gzip = file.fill_buf().map_err(DataError::io(path))?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(Members(Some(GzDecoder::new(file)))) } else { Box::new(file) })
}

/// Unpacks gzip of any number of members, as bgzip, `pigz -i` and concatenation make it; zeros may follow the last one,
/// which flate2's own decoder of many members takes for a damaged one.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() || !another_follows(member.get_mut())? {
                return Ok(count);
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Whether another member comes after the zeros that are next in `reader`, if any; they are consumed.
fn another_follows(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = reader.fill_buf()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let (next, is_end) = (bytes.get(zeros).copied(), bytes.is_empty());
        reader.consume(zeros);
        match next {
            Some(0x1f) => return Ok(true),
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes follow the gzip data")),
            None if is_end => return Ok(false),
            None => {}
        }
    }
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
        check("short", &good[..good.len() - 1], "expected 3 images, found 2 (the file is cut short");
        check("long", &[&good[..], &[1]].concat(), "found more bytes than the header announces");
        check("none", &idx(IMAGES_MAGIC, &[0, 2, 2], &[]), "announces no images");
        check("flat", &idx(IMAGES_MAGIC, &[3, 0, 28], &[]), "announces images of 0x28 pixels");
        check("absurd", &idx(IMAGES_MAGIC, &[u32::MAX; 3], &[]), "an absurd size");
        let pixels: Vec<u8> = (0..400_u32).map(|i| ((i * i * 31) >> 3) as u8).collect();
        let packed = gzip(&idx(IMAGES_MAGIC, &[100, 2, 2], &pixels));
        check("cut.gz", &packed[..packed.len() / 2], "expected 100 images, found");
        check("first-bytes.gz", &packed[..7], "expected a header of 16 bytes, found 0: ");
        check("more.gz", &[&packed[..], b"more"].concat(), "found 100: other bytes follow the gzip data");
        check("cut-member.gz", &[&packed[..], &packed[..7]].concat(), "expected 100 images, found 100: ");
    }

    #[test]
    fn a_file_that_is_something_else_is_refused_with_what_it_is() {
        let images = "expected images (unsigned bytes in 3 dimensions), found ";
        let checks: [(&[u8], &str); 8] = [
            (
                &idx(LABELS_MAGIC, &[3], &[7; 3]),
                "labels (unsigned bytes in 1 dimension): images and labels may be swapped",
            ),
            (&idx(0xd04, &[1; 4], &[0; 4]), "32-bit floats in 4 dimensions (magic number 3332); convert"),
            (&idx(0xc02, &[1; 2], &[0; 4]), "32-bit integers in 2 dimensions (magic number 3074); convert"),
            (b"\x03\x08\0\0\x03\0\0\0", "unsigned bytes in 3 dimensions in little-endian byte order; convert"),
            (b"<html><title>Not found</title></html>", "an HTML or XML page (a failed download?); convert or unpack"),
            (b"label,1x1,1x2,1x3\n5,0,0,0\n", "text such as CSV; convert"),
            (&gzip(&idx(IMAGES_MAGIC, &[1; 3], &[7])), "gzip data; convert or unpack"),
            (&[0xde, 0xad, 0xbe, 0xef, 0], "magic number 3735928559; is it another file?"),
        ];
        for (bytes, expected) in checks {
            check("something.gz", &gzip(bytes), expected);
        }
        check("labels", checks[0].0, images);
        check("text.gz", b"this is no gzip at all", "images in IDX format (magic number 2051), found text; convert");
        let (_directory, path) = written("images", &idx(IMAGES_MAGIC, &[1; 3], &[7]));
        let message = read_labels(&path).err().unwrap().to_string();
        assert!(message.contains("expected labels (unsigned bytes in 1 dimension), found images ("), "{message}");
    }

    #[test]
    fn gzip_of_several_members_is_unpacked_to_its_end_whatever_the_name() {
        let pixels: Vec<u8> = (0..300_000_u32).map(|i| ((i * i) >> 7) as u8).collect();
        let bytes = idx(IMAGES_MAGIC, &[100, 50, 60], &pixels);
        let members: Vec<Vec<u8>> = bytes.chunks(65_280).map(gzip).collect();
        let whole = members.concat();
        let with = |more: &[u8]| [&whole[..], more].concat();
        let in_headers = [gzip(&bytes[..7]), gzip(&[]), gzip(&bytes[7..16]), gzip(&bytes[16..])].concat();
        for packed in
            [&whole, &with(&gzip(&[])), &with(&[0; 9000]), &with(&[&[0; 9000][..], &gzip(&[])].concat()), &in_headers]
        {
            for name in ["images.gz", "images"] {
                let (_directory, path) = written(name, packed);
                assert_eq!(read_images(&path).unwrap().pixels, pixels);
            }
        }
        check("missing.gz", &members[..3].concat(), "expected 100 images, found 65 (the file is cut short");
        let (_directory, path) = written("plain.gz", &bytes);
        assert_eq!(read_images(&path).unwrap().pixels, pixels);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_named_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(read_images(&path).unwrap_err().to_string().ends_with("images: a link to a file that is not there"));
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
        let reader = Box::new(Counting(Members(Some(GzDecoder::new(bomb))), unpacked.clone()));
        let error = read(reader, Path::new("bomb.gz"), IMAGES_MAGIC, "images").unwrap_err().to_string();
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
