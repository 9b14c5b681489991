use std::{fs::File, io, path::Path, sync::Arc};

use flate2::Crc;
use memmap2::Mmap;
use rayon::prelude::*;

use super::{BLOCK, Header, MAGIC, PIXELS, Packed, VERSION};
use crate::{
    ImageSet,
    image_set::{NameTable, Storage, image_size},
};

/// Up to so many blocks are all verified: 1 GiB.
const MOST_VERIFIED: usize = 1 << 10;
/// So many of a larger file's blocks are verified, evenly spaced.
const SPOT_CHECKS: usize = 1 << 8;

/// Maps the packed file at `path`; none where there is no file. The error says what is wrong with it.
pub(super) fn open(path: &Path, key: &str) -> Result<Option<Packed>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // SAFETY: a mapped file must not change. This program never writes to a packed file that has its name: another takes
    // its place, while this one stays as it is where it is mapped. That other programs leave the cache alone is
    // assumed: bytes that they change are only other pixels, but a file that they cut short is a SIGBUS.
    #[allow(unsafe_code)]
    let bytes = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
    parse(bytes, key).map(Some)
}

fn parse(bytes: Mmap, key: &str) -> Result<Packed, String> {
    let header = header(&bytes)?;
    if header.key != key {
        return Err("the file was made for other pictures".to_owned());
    }
    let places = Places::of(&header).filter(|places| places.end == start_of_header(&bytes));
    let places = places.ok_or("damaged (its numbers do not agree)")?;
    if crc32(&bytes[places.labels..places.end]) != header.tables_crc32 {
        return Err("damaged (labels or names)".to_owned());
    }
    check_pixels(&bytes[PIXELS..places.labels], &bytes[places.checksums..places.end])?;
    let labels = bytes[places.labels..places.offsets].chunks_exact(2);
    let labels: Vec<u16> = labels.map(|label| u16::from_le_bytes([label[0], label[1]])).collect();
    if labels.iter().any(|&label| usize::from(label) >= header.classes.len()) {
        return Err("damaged (a label names no class)".to_owned());
    }
    let storage = Arc::new(Storage::Mapped(bytes));
    let mut first = 0;
    let splits = header.counts.map(|count| {
        let names = NameTable { offsets: places.offsets, text: places.text, first };
        let labels = labels[first..first + count].to_vec();
        let start = PIXELS + first * places.image;
        first += count;
        (count > 0).then(|| ImageSet::stored(storage.clone(), start, Some(names), labels, header.shape))
    });
    Ok(Packed { classes: header.classes, splits, sha256: header.sha256, skipped: header.skipped })
}

fn header(bytes: &[u8]) -> Result<Header, String> {
    if bytes.get(..MAGIC.len()) != Some(&MAGIC) {
        return Err("not a packed file of Kindling's".to_owned());
    }
    let version = bytes.get(8..12).map(number).ok_or("the file is cut short")?;
    if version != u64::from(VERSION) {
        return Err(format!("expected version {VERSION} of the packed format, found {version}"));
    }
    let page = bytes.get(..PIXELS).ok_or("the file is cut short")?;
    let (start, length) = (start_of_header(bytes), number(&bytes[24..32]) as usize);
    if start.checked_add(length) != Some(bytes.len()) || page[32..].iter().any(|&byte| byte != 0) {
        return Err("damaged, or cut short".to_owned());
    }
    let header = &bytes[start..];
    if u64::from(crc32(header)) != number(&bytes[12..16]) {
        return Err("damaged (its header)".to_owned());
    }
    serde_json::from_slice(header).map_err(|error| format!("its header is not understood: {error}"))
}

fn start_of_header(bytes: &[u8]) -> usize {
    number(&bytes[16..24]) as usize
}

/// Where the parts of a packed file begin.
struct Places {
    /// Bytes of an image.
    image: usize,
    labels: usize,
    offsets: usize,
    text: usize,
    checksums: usize,
    end: usize,
}

impl Places {
    /// None where the numbers are too large to be those of a file.
    fn of(header: &Header) -> Option<Self> {
        let image = image_size(header.shape).ok()?;
        let images = header.counts.iter().try_fold(0_usize, |sum, &count| sum.checked_add(count))?;
        let pixels = images.checked_mul(image)?;
        let labels = PIXELS.checked_add(pixels)?;
        let offsets = labels.checked_add(images.checked_mul(size_of::<u16>())?)?;
        let text = offsets.checked_add(images.checked_add(1)?.checked_mul(size_of::<u64>())?)?;
        let checksums = text.checked_add(header.text_bytes)?;
        let end = checksums.checked_add(pixels.div_ceil(BLOCK) * size_of::<u32>())?;
        Some(Self { image, labels, offsets, text, checksums, end })
    }
}

/// Compares blocks of pixels with their checksums: all of them, or evenly spaced ones of a large file.
fn check_pixels(pixels: &[u8], checksums: &[u8]) -> Result<(), String> {
    let blocks = pixels.len().div_ceil(BLOCK);
    let step = if blocks <= MOST_VERIFIED { 1 } else { blocks.div_ceil(SPOT_CHECKS) };
    let is_damaged = |&block: &usize| {
        let bytes = &pixels[block * BLOCK..((block + 1) * BLOCK).min(pixels.len())];
        u64::from(crc32(bytes)) != number(&checksums[block * 4..block * 4 + 4])
    };
    match (0..blocks).into_par_iter().step_by(step).find_any(is_damaged) {
        Some(block) => Err(format!("damaged (pixels between bytes {} and {})", block * BLOCK, (block + 1) * BLOCK)),
        None => Ok(()),
    }
}

pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte))
}
