//! Bits and prefix codes of lossless WebP (RFC 9649, sections 3.1 and 3.7.2).

use super::super::Error;
use super::container::damaged;

/// The longest prefix code.
const LONGEST: usize = 15;

/// Reads bits from the lowest of each byte on.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, at least 32 of them; zeros beyond the end.
    fn peek(&self) -> u32 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let mut next = [0; 8];
        let length = rest.len().min(8);
        next[..length].copy_from_slice(&rest[..length]);
        (u64::from_le_bytes(next) >> (self.at % 8)) as u32
    }

    fn skip(&mut self, count: usize) -> Result<(), Error> {
        self.at += count;
        if self.at > self.bytes.len() * 8 {
            return Err(damaged("the image ends before its last pixel"));
        }
        Ok(())
    }

    /// Up to 31 bits.
    pub(super) fn read(&mut self, count: usize) -> Result<u32, Error> {
        let value = self.peek() & ((1 << count) - 1);
        self.skip(count)?;
        Ok(value)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.read(1)? == 1)
    }
}

/// A prefix code: for each symbol the length of its code.
pub(super) struct Lengths(Vec<u8>);

impl Lengths {
    /// Reads one code of an alphabet (section 3.7.2.1).
    pub(super) fn read(bits: &mut Bits<'_>, alphabet: usize) -> Result<Self, Error> {
        let mut lengths = vec![0; alphabet];
        if bits.flag()? {
            let two = bits.flag()?;
            let width = if bits.flag()? { 8 } else { 1 };
            let symbols = [Some(width), two.then_some(8)];
            for width in symbols.into_iter().flatten() {
                let symbol = bits.read(width)? as usize;
                *lengths.get_mut(symbol).ok_or_else(unknown_symbol)? = 1;
            }
            return Ok(Self(lengths));
        }
        let inner = Self::inner(bits)?.code()?;
        let mut left = alphabet;
        if bits.flag()? {
            let width = 2 + 2 * bits.read(3)? as usize;
            left = 2 + bits.read(width)? as usize;
            if left > alphabet {
                return Err(unknown_symbol());
            }
        }
        let (mut symbol, mut previous) = (0, 8);
        while symbol < alphabet && left > 0 {
            left -= 1;
            let (length, count) = match inner.read(bits)? {
                16 => (previous, 3 + bits.read(2)?),
                17 => (0, 3 + bits.read(3)?),
                18 => (0, 11 + bits.read(7)?),
                length => {
                    if length != 0 {
                        previous = length as u8;
                    }
                    (length as u8, 1)
                }
            };
            let run = lengths.get_mut(symbol..symbol + count as usize).ok_or_else(unknown_symbol)?;
            run.fill(length);
            symbol += count as usize;
        }
        Ok(Self(lengths))
    }

    /// The code in which the lengths are written.
    fn inner(bits: &mut Bits<'_>) -> Result<Self, Error> {
        const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let count = 4 + bits.read(4)? as usize;
        let mut lengths = vec![0; ORDER.len()];
        for place in ORDER.into_iter().take(count) {
            lengths[place] = bits.read(3)? as u8;
        }
        Ok(Self(lengths))
    }

    /// What the decoder allocates for this code: a table of up to ten bits, and nodes for the longer codes.
    pub(super) fn memory(&self) -> u64 {
        const TABLE_BITS: u8 = 10;
        const NODE: u64 = 16;
        if self.0.iter().filter(|length| **length > 0).count() < 2 {
            return 0;
        }
        let longest = self.0.iter().copied().max().unwrap_or_default();
        let longer = self.0.iter().filter(|length| **length > TABLE_BITS).count() as u64;
        (4 << longest.min(TABLE_BITS)) + 2 * NODE * longer
    }

    /// A table to read symbols by.
    pub(super) fn code(&self) -> Result<Code, Error> {
        let mut counts = [0u32; LONGEST + 1];
        for length in &self.0 {
            counts[usize::from(*length)] += 1;
        }
        counts[0] = 0;
        let symbols = counts.iter().sum::<u32>();
        if symbols < 2 {
            // Of a single symbol nothing is written.
            let symbol = self.0.iter().position(|length| *length > 0).ok_or_else(unknown_symbol)?;
            return Ok(Code { table: vec![(symbol as u16, 0)], width: 0 });
        }
        let width = counts.iter().rposition(|count| *count > 0).unwrap_or_default();
        let mut next = [0; LONGEST + 1];
        let mut code = 0;
        for length in 1..=width {
            next[length] = code;
            code = (code + counts[length]) << 1;
        }
        if code != 2 << width {
            return Err(damaged("it has a prefix code that is not complete"));
        }
        let mut table = vec![(0, 0); 1 << width];
        for (symbol, &length) in self.0.iter().enumerate().filter(|(_, length)| **length > 0) {
            let length = usize::from(length);
            let first = (next[length].reverse_bits() >> (32 - length)) as usize;
            next[length] += 1;
            for entry in table.iter_mut().skip(first).step_by(1 << length) {
                *entry = (symbol as u16, length as u8);
            }
        }
        Ok(Code { table, width })
    }
}

fn unknown_symbol() -> Error {
    damaged("it has a prefix code of symbols that there are not")
}

/// For each sequence of `width` bits the symbol that they begin with, and the length of its code.
pub(super) struct Code {
    table: Vec<(u16, u8)>,
    width: usize,
}

impl Code {
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Result<u32, Error> {
        let (symbol, length) = self.table[(bits.peek() & ((1 << self.width) - 1)) as usize];
        bits.skip(usize::from(length))?;
        Ok(u32::from(symbol))
    }
}
