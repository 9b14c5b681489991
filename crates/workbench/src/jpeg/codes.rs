//! The codes of a scan's blocks.

/// What is wrong with a file.
pub(super) type Flaw = &'static str;

const SHORT: Flaw = "its data end before the picture is complete";
const CODE: Flaw = "its data have a code that means nothing";

/// A Huffman table: how many codes there are of each length from 1, and what they mean, in their order (C.2).
#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) counts: [u8; 16],
    pub(super) values: Vec<u8>,
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
        [dc, ac]: &[Table; 2],
        nonzero: &mut u64,
        run: &mut usize,
    ) -> Result<(), Flaw> {
        let mut index = self.first;
        if index == 0 {
            let size = if self.refines { 1 } else { bits.symbol(dc)?.into() };
            bits.take(size)?;
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
            let (zeros, size) = bits.pair(ac)?;
            if size == 0 && zeros < 15 {
                // A run of blocks, which other scans than progressive ones do not have.
                if zeros > 0 && self.first == 0 {
                    return Err(CODE);
                }
                *run = (1 << zeros) - 1 + bits.take(zeros)?;
                return Ok(());
            }
            index += zeros;
            bits.take(size)?;
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
            let (mut zeros, size) = bits.pair(ac)?;
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
            let known = (index..=self.last).filter(|index| (*nonzero >> index) & 1 == 1).count();
            bits.take(known)?;
        }
        Ok(())
    }
}

fn in_block(index: usize, last: usize) -> Result<usize, Flaw> {
    if index <= last { Ok(index) } else { Err(CODE) }
}

/// The bits of an interval, the highest of each byte first.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    /// Those of an interval, from its first.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The bytes of which no bit was read.
    pub(super) fn bytes_left(&self) -> &[u8] {
        self.bytes.get(self.position.div_ceil(8)..).unwrap_or_default()
    }

    /// The next `count` bits as a number.
    fn take(&mut self, count: usize) -> Result<usize, Flaw> {
        let mut number = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.position / 8).ok_or(SHORT)?;
            number = (number << 1) | usize::from((byte >> (7 - self.position % 8)) & 1);
            self.position += 1;
        }
        Ok(number)
    }

    /// The symbol of the next code. Codes of a length are numbers in a row, and those one bit longer begin behind them.
    fn symbol(&mut self, table: &Table) -> Result<u8, Flaw> {
        let (mut code, mut first, mut shorter) = (0, 0, 0);
        for count in table.counts.map(usize::from) {
            code |= self.take(1)?;
            if code < first + count {
                return table.values.get(shorter + code - first).copied().ok_or(CODE);
            }
            shorter += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(CODE)
    }

    /// The same for an AC coefficient: zeros before it, and the number of its bits.
    fn pair(&mut self, table: &Table) -> Result<(usize, usize), Flaw> {
        let symbol = usize::from(self.symbol(table)?);
        Ok((symbol >> 4, symbol & 15))
    }
}
