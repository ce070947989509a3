//! The pixels of a GIF: variable-length codes for strings of indices, in rows that may be interlaced. As strict, and as lenient,
//! as Pillow's `GifDecode.c`.

use super::super::Error;
use super::blocks::{Frame, Reader};
use super::{cut, damaged};

/// The longest code.
const MOST_BITS: u32 = 12;
const TABLE: usize = 1 << MOST_BITS;

/// Decodes the pixels of a frame onto its canvas.
pub(super) fn decode(frame: &Frame<'_>, canvas: &mut [u8]) -> Result<(), Error> {
    let mut codes = Codes { blocks: Reader { rest: frame.data }, block: &[], buffer: 0, filled: 0 };
    let mut rows = Rows::new(frame, canvas);
    let bits = u32::from(frame.bits);
    if bits > MOST_BITS {
        return Err(damaged(format!("its pixels have {bits} bits")));
    }
    let (clear, end) = (1usize << bits, (1usize << bits) + 1);
    // For each code the one without its last index, and that index.
    let (mut links, mut values) = (vec![0; TABLE], vec![0; TABLE]);
    let mut string = Vec::with_capacity(TABLE);
    let (mut width, mut next) = (bits + 1, clear + 2);
    let (mut last, mut first): (Option<usize>, u8) = (None, 0);
    loop {
        let code = codes.next(width)?;
        if code == clear {
            (width, next, last) = (bits + 1, clear + 2, None);
            continue;
        }
        if code == end {
            return Err(cut());
        }
        string.clear();
        let mut at = code;
        if let Some(last) = last {
            if code > next {
                return Err(damaged("its pixels have a code that there is not yet"));
            }
            if code == next {
                string.push(first);
                at = last;
            }
            while at >= clear {
                // Strings end at the table's size, so that no circle of links is followed for ever.
                if string.len() >= TABLE || at >= TABLE {
                    return Err(damaged("its pixels have a code that there is not"));
                }
                string.push(values[at]);
                at = links[at];
            }
            first = at as u8;
            if next < TABLE {
                (values[next], links[next]) = (first, last);
                if next == (1 << width) - 1 && width < MOST_BITS {
                    width += 1;
                }
                next += 1;
            }
        } else if code > clear {
            return Err(damaged("its pixels begin with a code that there is not"));
        }
        first = at as u8;
        string.push(first);
        last = Some(code);
        for &index in string.iter().rev() {
            if rows.push(index).is_none() {
                return Ok(());
            }
        }
    }
}

/// The codes of a sequence of blocks.
struct Codes<'a> {
    blocks: Reader<'a>,
    block: &'a [u8],
    buffer: u32,
    filled: u32,
}

impl Codes<'_> {
    fn next(&mut self, width: u32) -> Result<usize, Error> {
        while self.filled < width {
            let Some((byte, rest)) = self.block.split_first() else {
                self.block = self.blocks.pixels().ok_or_else(cut)?;
                continue;
            };
            self.block = rest;
            self.buffer |= u32::from(*byte) << self.filled;
            self.filled += 8;
        }
        let code = self.buffer & ((1 << width) - 1);
        self.buffer >>= width;
        self.filled -= width;
        Ok(code as usize)
    }
}

/// Where the next pixel lies.
struct Rows<'a> {
    canvas: &'a mut [u8],
    stride: usize,
    width: usize,
    /// The rows of the frame that are still to come, each by the place of its first pixel.
    starts: Box<dyn Iterator<Item = usize>>,
    /// Of the present row.
    start: usize,
    x: usize,
}

impl<'a> Rows<'a> {
    fn new(frame: &Frame<'_>, canvas: &'a mut [u8]) -> Self {
        let (stride, height) = (frame.canvas.width as usize, frame.size.height as usize);
        let first = frame.top as usize * stride + frame.left as usize;
        let passes: &[(usize, usize)] = if frame.interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
        let rows = passes.iter().flat_map(move |&(begin, step)| (begin..height).step_by(step));
        let mut starts: Box<dyn Iterator<Item = usize>> = Box::new(rows.map(move |y| first + y * stride));
        let start = starts.next().unwrap_or(first);
        Self { canvas, stride, width: frame.size.width as usize, starts, start, x: 0 }
    }

    /// Sets a pixel; `None` after the last one.
    fn push(&mut self, index: u8) -> Option<()> {
        debug_assert!(self.x < self.width && self.width <= self.stride);
        self.canvas[self.start + self.x] = index;
        self.x += 1;
        if self.x == self.width {
            self.x = 0;
            self.start = self.starts.next()?;
        }
        Some(())
    }
}
