//! The codes of a scan's blocks.

/// What is wrong with a file.
pub(super) type Flaw = &'static str;

const SHORT: Flaw = "its data end before the picture is complete";
const CODE: Flaw = "its data have a code that means nothing";

/// Codes up to this many bits are looked up; nearly all of them are.
const AHEAD: usize = 9;

/// A Huffman table: how many codes there are of each length from 1, and what they mean, in their order (C.2).
#[derive(Default)]
pub(super) struct Table {
    counts: [u8; 16],
    values: Vec<u8>,
    /// For each of the next [`AHEAD`] bits, the symbol of the code they begin with and its length; 0 where it is longer.
    short: Vec<(u8, u8)>,
}

impl Table {
    pub(super) fn new(counts: [u8; 16], values: Vec<u8>) -> Self {
        let mut short = vec![(0, 0); 1 << AHEAD];
        let mut values_left = values.iter();
        let mut code = 0;
        for (length, &count) in (1..=AHEAD).zip(&counts) {
            code <<= 1;
            for &value in values_left.by_ref().take(count.into()) {
                let first = code << (AHEAD - length);
                // A table may claim more codes than there are.
                if let Some(entries) = short.get_mut(first..first + (1 << (AHEAD - length))) {
                    entries.fill((value, length as u8));
                }
                code += 1;
            }
        }
        Self { counts, values, short }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// The part of each block that a scan has.
pub(super) struct Scan {
    /// The first and the last of its coefficients.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Whether it adds a bit to what earlier scans had.
    pub(super) refines: bool,
}

impl Scan {
    /// Reads the codes of one block; `run` counts the blocks to come that have none (F.2.2, G.2).
    pub(super) fn read_block(
        &self,
        bits: &mut Bits<'_>,
        [dc, ac]: [&Table; 2],
        nonzero: &mut u64,
        run: &mut usize,
    ) -> Result<(), Flaw> {
        let mut index = self.first;
        if index == 0 {
            if self.refines {
                bits.take(1)?;
            } else {
                let (size, length) = bits.symbol(dc)?;
                // No number has more, and no more are ready.
                if size > 15 {
                    return Err(CODE);
                }
                bits.drop(length + usize::from(size))?;
            }
            index = 1;
        }
        if self.refines {
            return self.refine(bits, ac, nonzero, run, index);
        }
        if *run > 0 {
            *run -= 1;
            return Ok(());
        }
        while index <= self.last {
            let (symbol, length) = bits.symbol(ac)?;
            let [zeros, size] = [usize::from(symbol >> 4), usize::from(symbol & 15)];
            if size == 0 && zeros < 15 {
                bits.drop(length)?;
                // A run of blocks, which other scans than progressive ones do not have.
                if zeros > 0 && self.first == 0 {
                    return Err(CODE);
                }
                *run = (1 << zeros) - 1 + bits.take(zeros)?;
                return Ok(());
            }
            bits.drop(length + size)?;
            index += zeros;
            if size > 0 {
                *nonzero |= 1 << in_block(index, self.last)?;
            }
            index += 1;
        }
        Ok(())
    }

    /// The same where earlier scans had the coefficients from `index` on, but for their last bits (G.1.2.3).
    fn refine(
        &self,
        bits: &mut Bits<'_>,
        ac: &Table,
        nonzero: &mut u64,
        run: &mut usize,
        mut index: usize,
    ) -> Result<(), Flaw> {
        while *run == 0 && index <= self.last {
            let (symbol, length) = bits.symbol(ac)?;
            bits.drop(length)?;
            let [mut zeros, size] = [usize::from(symbol >> 4), usize::from(symbol & 15)];
            if size == 0 && zeros < 15 {
                *run = (1 << zeros) + bits.take(zeros)?;
                break;
            }
            bits.take(size)?;
            // Passes over so many that are still zero; the others have a bit each.
            while index <= self.last {
                if (*nonzero >> index) & 1 == 1 {
                    bits.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                index += 1;
            }
            if size > 0 {
                *nonzero |= 1 << in_block(index, self.last)?;
            }
            index += 1;
        }
        if *run > 0 {
            *run -= 1;
            for _ in (index..=self.last).filter(|index| (*nonzero >> index) & 1 == 1) {
                bits.take(1)?;
            }
        }
        Ok(())
    }
}

fn in_block(index: usize, last: usize) -> Result<usize, Flaw> {
    if index <= last { Ok(index) } else { Err(CODE) }
}

/// The bits of an interval, the highest of each byte first.
pub(super) struct Bits<'a> {
    /// The bytes that are not in `buffer` yet; a zero follows each 0xFF.
    bytes: &'a [u8],
    /// The next bits, from the highest; zeros follow.
    buffer: u64,
    /// How many bits of `buffer` are the interval's.
    count: usize,
}

impl<'a> Bits<'a> {
    /// Those of an interval, from its first.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, buffer: 0, count: 0 }
    }

    /// Whether only padding is left: the rest of a byte, and zeros.
    pub(super) fn is_at_end(&self) -> bool {
        self.buffer << (self.count % 8) == 0 && self.bytes.iter().all(|&byte| byte == 0)
    }

    /// Makes 32 bits ready, as far as there are so many: a code and its number have 31 at most.
    #[inline]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some((&next, rest)) = self.bytes.split_first_chunk::<4>()
            && !next.contains(&0xFF)
        {
            self.buffer |= u64::from(u32::from_be_bytes(next)) << (32 - self.count);
            self.bytes = rest;
            self.count += 32;
            return;
        }
        self.refill_bytes();
    }

    #[cold]
    fn refill_bytes(&mut self) {
        while self.count <= 56 {
            let Some((&next, rest)) = self.bytes.split_first() else { return };
            self.bytes = if next == 0xFF { rest.get(1..).unwrap_or_default() } else { rest };
            self.buffer |= u64::from(next) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Passes over `count` bits, at most 31 after a [`refill`](Self::refill).
    fn drop(&mut self, count: usize) -> Result<(), Flaw> {
        self.count = self.count.checked_sub(count).ok_or(SHORT)?;
        self.buffer <<= count;
        Ok(())
    }

    /// The next `count` bits, at most 15, as a number.
    fn take(&mut self, count: usize) -> Result<usize, Flaw> {
        self.refill();
        // Two shifts, since there may be no bit to take.
        let number = (self.buffer >> 1 >> (63 - count)) as usize;
        self.drop(count)?;
        Ok(number)
    }

    /// The symbol of the next code and the code's length; passes over neither. Codes of a length are numbers in a row,
    /// and those one bit longer begin behind them.
    #[inline]
    fn symbol(&mut self, table: &Table) -> Result<(u8, usize), Flaw> {
        self.refill();
        match table.short.get((self.buffer >> (64 - AHEAD)) as usize) {
            Some(&(symbol, length)) if length > 0 => Ok((symbol, length.into())),
            _ => self.long_symbol(table),
        }
    }

    /// The same for a code of any length.
    #[cold]
    fn long_symbol(&self, table: &Table) -> Result<(u8, usize), Flaw> {
        let (mut first, mut shorter) = (0, 0);
        for (length, count) in (1..).zip(table.counts.map(usize::from)) {
            let code = (self.buffer >> (64 - length)) as usize;
            if code < first + count {
                return Ok((*table.values.get(shorter + code - first).ok_or(CODE)?, length));
            }
            shorter += count;
            first = (first + count) << 1;
        }
        Err(if self.count < 16 { SHORT } else { CODE })
    }
}
