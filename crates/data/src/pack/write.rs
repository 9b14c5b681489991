use std::io::{self, Seek, SeekFrom, Write};

use flate2::Crc;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{BLOCK, Header, MAGIC, PIXELS, Plan, Request, Sample, Unreadable, VERSION, read::crc32};
use crate::{DataError, LoadEvent, digest::hexadecimal, error::shown, image_set::image_size};

/// Bytes of pixels that are in memory at once: half of them are decoded while the other half is written.
const MOST_BYTES: usize = 1 << 26;
/// Images between two reports of progress.
const MOST_IMAGES: usize = 1 << 10;

/// Why a file was not written.
pub(super) enum Failure {
    Io(io::Error),
    /// Pictures that cannot be read, each with its reason.
    Unreadable(Vec<String>),
    /// A picture could not be read, though it may be another time.
    Data(DataError),
    /// The plan makes no set.
    Plan(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Decodes all pictures on all processors, a block while the one before is written, and writes them in order.
pub(super) fn write<K: Sync, W: Write + Seek + Send>(
    out: W,
    request: &Request<'_>,
    plan: Plan<K>,
    decode: &(impl Fn(&K, &mut [u8]) -> Result<(), Unreadable> + Sync),
    on_event: &mut dyn FnMut(LoadEvent),
) -> Result<(), Failure> {
    let size = image_size(plan.shape).map_err(|error| Failure::Plan(error.to_string()))?;
    let total = plan.splits.iter().map(Vec::len).sum();
    let classes = plan.classes.len();
    let samples = || plan.splits.iter().flatten();
    if total == 0 {
        return Err(Failure::Plan("expected pictures, found none".to_owned()));
    }
    if let Some(Sample { label, name, .. }) = samples().find(|sample| usize::from(sample.label) >= classes) {
        return Err(Failure::Plan(format!("{name}: expected a label below {classes}, found {label}")));
    }
    on_event(LoadEvent::Decoding { total });
    let mut writer = Writer::new(out, size, &plan.classes, plan.shape)?;
    let mut skipped = Vec::new();
    let count = images_in_a_block(size);
    let blocks = plan.splits.iter().enumerate().flat_map(|(split, samples)| {
        let blocks = samples.chunks(count);
        blocks.map(move |samples| (split, samples))
    });
    let mut decoded: Option<Decoded<'_, K>> = None;
    let mut spare = Vec::new();
    // One round more than there are blocks, for the last to be written.
    for block in blocks.map(Some).chain([None]) {
        let buffer = std::mem::take(&mut spare);
        let (next, written) = rayon::join(
            || block.map(|(split, samples)| Decoded::new(split, samples, buffer, size, decode)),
            || decoded.take().map(|decoded| writer.add(&decoded).map(|()| decoded.pixels)).transpose(),
        );
        spare = written?.unwrap_or_default();
        let Some(next) = next.transpose().map_err(Failure::Data)? else { break };
        on_event(LoadEvent::Decoded(next.samples.len()));
        let reasons = next.reasons.iter().zip(next.samples);
        skipped.extend(
            reasons.filter_map(|(reason, sample)| Some(shown(&format!("{}: {}", sample.name, reason.as_ref()?)))),
        );
        // What cannot become a file is still looked through, so that all that is unreadable is known.
        if request.skip_unreadable || skipped.is_empty() {
            decoded = Some(next);
        } else {
            spare = next.pixels;
        }
    }
    let is_empty = skipped.len() == total;
    if is_empty || !skipped.is_empty() && !request.skip_unreadable {
        return Err(Failure::Unreadable(skipped));
    }
    for (split, name) in ["train", "validation", "test"].into_iter().enumerate() {
        let samples = &plan.splits[split];
        if writer.counts[split] == 0 && !samples.is_empty() {
            let before: usize = (0..split).map(|earlier| plan.splits[earlier].len() - writer.counts[earlier]).sum();
            return Err(Failure::Plan(format!(
                "none of the {} pictures of the {name} split can be read, such as {}; replace or remove them",
                samples.len(),
                skipped[before]
            )));
        }
    }
    writer.finish(request.key, plan.classes, plan.shape, skipped)?;
    Ok(())
}

/// As many images as fit twice into [`MOST_BYTES`], and at least one.
pub(super) fn images_in_a_block(size: usize) -> usize {
    (MOST_BYTES / 2 / size).clamp(1, MOST_IMAGES)
}

/// A block of pictures that are decoded.
struct Decoded<'a, K> {
    split: usize,
    samples: &'a [Sample<K>],
    pixels: Vec<u8>,
    /// Why each picture is unreadable; none for those that are not.
    reasons: Vec<Option<String>>,
}

impl<'a, K: Sync> Decoded<'a, K> {
    fn new(
        split: usize,
        samples: &'a [Sample<K>],
        mut pixels: Vec<u8>,
        size: usize,
        decode: &(impl Fn(&K, &mut [u8]) -> Result<(), Unreadable> + Sync),
    ) -> Result<Self, DataError> {
        pixels.resize(samples.len() * size, 0);
        let images = pixels.par_chunks_exact_mut(size).zip(samples);
        let reasons = images.map(|(image, sample)| match decode(&sample.item, image) {
            Ok(()) => Ok(None),
            Err(Unreadable::Picture(reason)) => Ok(Some(reason)),
            Err(Unreadable::Fatal(error)) => Err(error),
        });
        let reasons = reasons.collect::<Result<_, _>>()?;
        Ok(Self { split, samples, pixels, reasons })
    }
}

/// Writes pixels, and keeps what comes after them.
struct Writer<W> {
    out: W,
    size: usize,
    /// Checksum of the block that is not full yet, and those of the full ones.
    block: Crc,
    checksums: Vec<u8>,
    /// Over all there is of the content so far.
    hash: Sha256,
    counts: [usize; 3],
    split: usize,
    labels: Vec<u8>,
    /// The labels before the current split's, in bytes.
    hashed_labels: usize,
    offsets: Vec<u8>,
    text: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    fn new(mut out: W, size: usize, classes: &[String], shape: [usize; 3]) -> io::Result<Self> {
        // The first page is filled in when the file is whole.
        out.write_all(&[0; PIXELS])?;
        let mut hash = Sha256::new();
        for side in shape {
            hash.update((side as u64).to_le_bytes());
        }
        hash.update((classes.len() as u64).to_le_bytes());
        for class in classes {
            hash.update((class.len() as u64).to_le_bytes());
            hash.update(class);
        }
        Ok(Self {
            out,
            size,
            block: Crc::new(),
            checksums: Vec::new(),
            hash,
            counts: [0; 3],
            split: 0,
            labels: Vec::new(),
            hashed_labels: 0,
            offsets: 0_u64.to_le_bytes().to_vec(),
            text: Vec::new(),
        })
    }

    /// Adds the pictures of the block that could be read.
    fn add<K>(&mut self, decoded: &Decoded<'_, K>) -> io::Result<()> {
        while self.split < decoded.split {
            self.end_split();
        }
        let mut readable = decoded.samples.iter().zip(&decoded.reasons).filter(|(_, reason)| reason.is_none());
        self.counts[self.split] += readable.clone().count();
        for (sample, _) in readable.by_ref() {
            self.labels.extend(sample.label.to_le_bytes());
            self.text.extend(shown(&sample.name).as_bytes());
            self.offsets.extend((self.text.len() as u64).to_le_bytes());
        }
        // Neighbours are written at once.
        let images = decoded.pixels.chunks_exact(self.size).zip(&decoded.reasons).collect::<Vec<_>>();
        let mut start = 0;
        for run in images.chunk_by(|(_, left), (_, right)| left.is_none() == right.is_none()) {
            let end = start + run.len() * self.size;
            if run.first().is_some_and(|(_, reason)| reason.is_none()) {
                self.add_pixels(&decoded.pixels[start..end])?;
            }
            start = end;
        }
        Ok(())
    }

    fn add_pixels(&mut self, mut pixels: &[u8]) -> io::Result<()> {
        self.out.write_all(pixels)?;
        self.hash.update(pixels);
        while !pixels.is_empty() {
            let (now, later) = pixels.split_at(pixels.len().min(BLOCK - self.block.amount() as usize));
            self.block.update(now);
            if self.block.amount() as usize == BLOCK {
                self.end_block();
            }
            pixels = later;
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.checksums.extend(self.block.sum().to_le_bytes());
        self.block.reset();
    }

    fn end_split(&mut self) {
        self.hash.update(&self.labels[self.hashed_labels..]);
        self.hash.update((self.counts[self.split] as u64).to_le_bytes());
        self.hashed_labels = self.labels.len();
        self.split += 1;
    }

    /// Writes what comes after the pixels, and then the first page.
    fn finish(mut self, key: &str, classes: Vec<String>, shape: [usize; 3], skipped: Vec<String>) -> io::Result<()> {
        while self.split < self.counts.len() {
            self.end_split();
        }
        if self.block.amount() > 0 {
            self.end_block();
        }
        let text_bytes = self.text.len();
        let tables = [self.labels, self.offsets, self.text, self.checksums];
        let (mut crc, mut end) = (Crc::new(), PIXELS + self.counts.iter().sum::<usize>() * self.size);
        for table in &tables {
            self.out.write_all(table)?;
            crc.update(table);
            end += table.len();
        }
        let header = Header {
            key: key.to_owned(),
            classes,
            shape,
            counts: self.counts,
            text_bytes,
            tables_crc32: crc.sum(),
            sha256: hexadecimal(&self.hash.finalize()),
            skipped,
        };
        let header = serde_json::to_vec(&header)?;
        self.out.write_all(&header)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&MAGIC)?;
        self.out.write_all(&VERSION.to_le_bytes())?;
        self.out.write_all(&crc32(&header).to_le_bytes())?;
        self.out.write_all(&(end as u64).to_le_bytes())?;
        self.out.write_all(&(header.len() as u64).to_le_bytes())?;
        self.out.flush()
    }
}
