//! Checks that a JPEG file has its whole picture. Decoders show a part of one that is cut or damaged; here its codes are
//! read once more, and must fill the picture exactly.
//!
//! Sections, tables and figures are those of ITU-T T.81, <https://www.w3.org/Graphics/JPEG/itu-t81.pdf>.

use super::codes::{Bits, Flaw, Scan, Table};

const CUT: Flaw = "it ends before its end-of-image marker";
const SEGMENT: Flaw = "a segment is shorter than what it should hold";

/// Reads all codes of a file that begins as a JPEG does. One of a kind that cannot be read here, such as one with
/// arithmetic coding, is only searched for its end.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(file: &[u8]) -> Result<(), Flaw> {
    let mut picture = Picture::default();
    let mut rest = file;
    loop {
        // Any number of fill bytes may stand before a marker (B.1.1.2).
        let start = rest.iter().position(|&byte| byte == 0xFF).ok_or(CUT)?;
        let length = rest[start..].iter().position(|&byte| byte != 0xFF).ok_or(CUT)?;
        let marker = rest[start + length];
        rest = &rest[start + length + 1..];
        match marker {
            // End of image.
            0xD9 => return Ok(()),
            // Stuffing, a restart, start of image: nothing belongs to them.
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let [high, low, ..] = rest else { return Err(CUT) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let segment = rest.get(2..length).ok_or(CUT)?;
        rest = &rest[length..];
        match marker {
            0xC0..=0xC2 => picture.read_frame(segment, marker == 0xC2).ok_or(SEGMENT)?,
            0xC4 => picture.read_tables(segment).ok_or(SEGMENT)?,
            0xDD => {
                let interval = segment.first_chunk().ok_or(SEGMENT)?;
                picture.interval = u16::from_be_bytes(*interval).into();
            }
            0xDA => {
                let (intervals, behind) = intervals(rest)?;
                picture.read_scan(segment, &intervals)?;
                rest = behind;
            }
            _ => {}
        }
    }
}

/// The picture's properties from the segments before a scan.
#[derive(Default)]
struct Picture {
    is_progressive: bool,
    components: Vec<Component>,
    /// Minimum coded units in a row and in a column of scans with several components (A.2.3).
    units: [usize; 2],
    /// Huffman tables for DC and for AC.
    tables: [[Table; 4]; 2],
    /// Minimum coded units between two restarts; 0 where there are none.
    interval: usize,
}

struct Component {
    id: u8,
    /// Blocks of it in a row and in a column of a unit.
    sampling: [usize; 2],
    /// Blocks with a part of the picture, in a row and in a column.
    blocks: [usize; 2],
    /// Blocks in a row, with those that fill its last unit.
    stride: usize,
    /// For each block of a progressive picture, which coefficients are not zero so far.
    nonzero: Vec<u64>,
}

impl Picture {
    /// Figure B.3.
    fn read_frame(&mut self, segment: &[u8], is_progressive: bool) -> Option<()> {
        let [_, size @ ..] = segment else { return None };
        let (&[a, b, c, d, count], components) = size.split_first_chunk()?;
        let [height, width] = [[a, b], [c, d]].map(|bytes| usize::from(u16::from_be_bytes(bytes)));
        let components = components.get(..3 * usize::from(count))?.chunks_exact(3);
        let sampling = |component: &[u8]| [component[1] >> 4, component[1] & 15].map(usize::from);
        let largest = |axis: usize| components.clone().map(|component| sampling(component)[axis]).max();
        let largest = [largest(0)?, largest(1)?];
        if largest.contains(&0) {
            return None;
        }
        self.is_progressive = is_progressive;
        self.units = [width.div_ceil(8 * largest[0]), height.div_ceil(8 * largest[1])];
        let component = |component: &[u8]| {
            let sampling = sampling(component);
            let stride = self.units[0] * sampling[0];
            let blocks = [width * sampling[0], height * sampling[1]];
            Component {
                id: component[0],
                sampling,
                blocks: [blocks[0].div_ceil(8 * largest[0]), blocks[1].div_ceil(8 * largest[1])],
                stride,
                nonzero: vec![0; if is_progressive { stride * self.units[1] * sampling[1] } else { 0 }],
            }
        };
        self.components = components.map(component).collect();
        Some(())
    }

    /// Figure B.7.
    fn read_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let (values, rest) = rest.split_at_checked(counts.iter().map(|&count| usize::from(count)).sum())?;
            let table = self.tables.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))?;
            *table = Table::new(*counts, values.to_vec());
            segment = rest;
        }
        Some(())
    }

    /// Figure B.4, and the codes of the scan that it begins.
    fn read_scan(&mut self, header: &[u8], intervals: &[&[u8]]) -> Result<(), Flaw> {
        let Some((&count, rest)) = header.split_first() else { return Err(SEGMENT) };
        let (parts, rest) = rest.split_at_checked(2 * usize::from(count)).ok_or(SEGMENT)?;
        let &[first, last, approximation] = rest else { return Err(SEGMENT) };
        let scan = if self.is_progressive {
            Scan { first: first.into(), last: usize::from(last).min(63), refines: approximation >> 4 > 0 }
        } else {
            Scan { first: 0, last: 63, refines: false }
        };
        let Self { is_progressive, components, tables, .. } = self;
        let part = |part: &[u8]| {
            let component = components.iter().position(|component| component.id == part[0])?;
            let table = |class: usize, place: u8| tables[class].get(usize::from(place));
            let tables = [table(0, part[1] >> 4)?, table(1, part[1] & 15)?];
            let needed = [scan.first == 0 && !scan.refines, scan.last > 0];
            // Motion JPEG leaves out the standard tables.
            let are_known = tables.iter().zip(needed).all(|(table, needed)| !needed || !table.is_empty());
            are_known.then_some((component, tables))
        };
        let Some(parts) = parts.chunks_exact(2).map(part).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let [columns, rows] = match &parts[..] {
            [(only, _)] => components[*only].blocks,
            _ => self.units,
        };
        let units = columns * rows;
        let interval = if self.interval == 0 { units } else { self.interval };
        // A restart may stand at the very end.
        let used =
            intervals.len() - usize::from(intervals.len() > 1 && intervals.last().is_some_and(|last| last.is_empty()));
        if units == 0 || used != units.div_ceil(interval) {
            return Err("its restart markers are not where they should be");
        }
        for (index, bytes) in intervals[..used].iter().enumerate() {
            let mut bits = Bits::new(bytes);
            let mut run = 0;
            for unit in index * interval..units.min((index + 1) * interval) {
                let [column, row] = [unit % columns, unit / columns];
                for (component, tables) in &parts {
                    let component = &mut components[*component];
                    let [across, down] = if parts.len() == 1 { [1, 1] } else { component.sampling };
                    for block in 0..across * down {
                        let mut any = 0;
                        let nonzero = if *is_progressive {
                            let [x, y] = [column * across + block % across, row * down + block / across];
                            component.nonzero.get_mut(y * component.stride + x).ok_or(SEGMENT)?
                        } else {
                            &mut any
                        };
                        scan.read_block(&mut bits, *tables, nonzero, &mut run)?;
                    }
                }
            }
            // Some cameras pad with zeros.
            if run > 0 || !bits.is_at_end() {
                return Err("its data do not end where the picture is complete");
            }
        }
        Ok(())
    }
}

/// The data up to the next marker that is no restart, in pieces between restarts; and the rest.
fn intervals(data: &[u8]) -> Result<(Vec<&[u8]>, &[u8]), Flaw> {
    let mut intervals = Vec::new();
    let (mut start, mut place) = (0, 0);
    loop {
        let end = place + data[place..].iter().position(|&byte| byte == 0xFF).ok_or(CUT)?;
        place = end + data[end..].iter().position(|&byte| byte != 0xFF).ok_or(CUT)?;
        match data[place] {
            0x00 if place == end + 1 => {}
            restart @ 0xD0..=0xD7 if usize::from(restart - 0xD0) == intervals.len() % 8 => {
                intervals.push(&data[start..end]);
                start = place + 1;
            }
            0xD0..=0xD7 => return Err("its restart markers are out of order"),
            0x00 => return Err("its data have fill bytes before no marker"),
            _ => {
                intervals.push(&data[start..end]);
                return Ok((intervals, &data[place - 1..]));
            }
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Colours at half their size; coefficients bit by bit; a restart after every three units.
    const FILES: [&[u8]; 3] =
        [include_bytes!("baseline.jpg"), include_bytes!("progressive.jpg"), include_bytes!("restarts.jpg")];

    /// Where the codes of the first scan begin.
    fn codes(file: &[u8]) -> usize {
        file.windows(2).position(|bytes| bytes == [0xFF, 0xDA]).unwrap() + 14
    }

    #[test]
    fn whole_files_of_every_kind_pass_with_whatever_people_put_into_them() {
        for file in FILES {
            assert_eq!(check(file), Ok(()));
            assert_eq!(check(&[file, b"a second picture, or a film"].concat()), Ok(()));
            // A thumbnail, with an end of its own.
            let length = u16::try_from(FILES[0].len() + 2).unwrap().to_be_bytes();
            let thumbnail = [&file[..2], &[0xFF, 0xE1], &length, FILES[0], &file[2..]].concat();
            assert_eq!(check(&thumbnail), Ok(()));
            // Fill bytes before a marker, and zeros behind the codes.
            let filled = [&file[..2], &[0xFF; 3], &file[2..file.len() - 2], &[0, 0, 0xFF, 0xFF, 0xD9]].concat();
            assert_eq!(check(&filled), Ok(()));
        }
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused_also_where_a_thumbnail_has_an_end() {
        for file in FILES {
            let length = u16::try_from(file.len() + 2).unwrap().to_be_bytes();
            let with_thumbnail = [&file[..2], &[0xFF, 0xE1], &length, file, &file[2..]].concat();
            for whole in [file, &with_thumbnail] {
                for length in 0..whole.len() {
                    assert_eq!(check(&whole[..length]), Err(CUT), "{length} of {}", whole.len());
                }
            }
        }
    }

    #[test]
    fn a_picture_that_was_closed_before_it_was_complete_is_refused() {
        for file in [FILES[0], FILES[2]] {
            for length in codes(file)..file.len() - 2 {
                let closed = [&file[..length], &[0xFF, 0xD9]].concat();
                assert!(check(&closed).is_err(), "{length} of {}", file.len());
            }
        }
    }

    #[test]
    fn codes_that_were_written_over_do_not_fill_the_picture() {
        let other: Vec<u8> = (0..64).map(|index| ((index * 37 + 11) % 255) as u8).collect();
        for file in [FILES[0], FILES[2]] {
            for start in codes(file)..file.len() - 2 - other.len() {
                let mut damaged = file.to_vec();
                damaged[start..start + other.len()].copy_from_slice(&other);
                assert!(check(&damaged).is_err(), "from byte {start}");
            }
        }
    }

    #[test]
    fn restarts_out_of_their_order_are_refused() {
        let mut file = FILES[2].to_vec();
        let restart = file.windows(2).position(|bytes| bytes == [0xFF, 0xD1]).unwrap();
        file[restart + 1] = 0xD2;
        assert_eq!(check(&file), Err("its restart markers are out of order"));
    }
}
