//! The blocks of a GIF up to its first frame, taken apart as Pillow's `GifImageFile` does.

use super::super::Error;
use super::super::format::{Format, Size};
use super::super::raster::Limits;
use super::{cut, damaged};

/// Signature, sides, flags, background, aspect.
const SCREEN: usize = 13;
/// Of flags: whether a table of colours follows, and its number of bits less one.
const TABLE: u8 = 0x80;
const TABLE_BITS: u8 = 7;
const INTERLACED: u8 = 0x40;
/// The labels of extensions that are read.
const CONTROL: u8 = 0xf9;
const COMMENT: u8 = 0xfe;
const APPLICATION: u8 = 0xff;

/// The first frame, before its pixels are decoded.
pub(super) struct Frame<'a> {
    /// Wide enough for the frame.
    pub(super) canvas: Size,
    pub(super) size: Size,
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) interlaced: bool,
    pub(super) transparent: Option<u8>,
    /// `None` where indices are shades of grey.
    pub(super) palette: Option<&'a [u8]>,
    /// Bits of an index, as the compression begins.
    pub(super) bits: u8,
    /// The blocks of its pixels, and what follows them.
    pub(super) data: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads up to the first frame, and checks the sizes.
    pub(super) fn first(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader { rest: bytes };
        let screen = reader.take(SCREEN);
        let &[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _] = screen else { return Err(cut()) };
        let palette = reader.palette(flags).filter(|palette| !is_grey(palette));
        let mut transparent = None;
        loop {
            match reader.byte() {
                None | Some(b';') => return Err(damaged("it has no frame")),
                Some(b'!') => {
                    if let Some(key) = reader.extension()? {
                        transparent = Some(key);
                    }
                }
                Some(b',') => break,
                // Garbage.
                Some(_) => {}
            }
        }
        let &[x0, x1, y0, y1, width0, width1, height0, height1, flags] = reader.take(9) else { return Err(cut()) };
        let short = |low, high| u32::from(u16::from_le_bytes([low, high]));
        let (mut left, mut top) = (short(x0, x1), short(y0, y1));
        let mut size = Size { width: short(width0, width1), height: short(height0, height1) };
        let canvas = Size { width: short(w0, w1).max(left + size.width), height: short(h0, h1).max(top + size.height) };
        // One that Pillow does not keep leaves that of the whole file.
        let palette = reader.palette(flags).filter(|palette| !is_grey(palette)).or(palette);
        let bits = reader.byte().ok_or_else(cut)?;
        limits.check(Format::Gif, canvas)?;
        // Pillow takes a frame without width at the left edge for the whole canvas.
        if left == 0 && size.width == 0 {
            (left, top, size) = (0, 0, canvas);
        }
        limits.check(Format::Gif, size)?;
        let interlaced = flags & INTERLACED != 0;
        Ok(Self { canvas, size, left, top, interlaced, transparent, palette, bits, data: reader.rest })
    }
}

/// Whether each index is its own shade of grey. Pillow keeps no such table, and so knows the shades beyond its end.
fn is_grey(palette: &[u8]) -> bool {
    palette.chunks(3).enumerate().all(|(index, color)| color == [index as u8; 3])
}

/// The bytes that are left.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// So many bytes, or those that there are.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).first().copied()
    }

    /// The table of colours that the flags announce.
    fn palette(&mut self, flags: u8) -> Option<&'a [u8]> {
        (flags & TABLE != 0).then(|| self.take(3 << ((flags & TABLE_BITS) + 1)))
    }

    /// The next block of data; `None` at the end of a sequence.
    fn data(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|length| *length > 0)?;
        Some(self.take(length.into()))
    }

    fn skip_data(&mut self) {
        while self.data().is_some_and(|block| !block.is_empty()) {}
    }

    /// Reads over an extension. The transparent colour, if it has one: that of an earlier one counts until then.
    fn extension(&mut self) -> Result<Option<u8>, Error> {
        let label = self.byte().ok_or_else(cut)?;
        let block = self.data();
        let mut transparent = None;
        match (label, block) {
            (CONTROL, Some(block)) => match *block {
                [flags, _, _, key, ..] if flags & 1 != 0 => transparent = Some(key),
                [flags, _, _, ..] if flags & 1 == 0 => {}
                _ => return Err(damaged("its control extension is too short")),
            },
            // A comment without text ends at once; all others are read on, as Pillow does.
            (COMMENT, None) => return Ok(None),
            (APPLICATION, Some(block)) if block.starts_with(b"NETSCAPE2.0") => {
                self.data();
            }
            _ => {}
        }
        self.skip_data();
        Ok(transparent)
    }

    /// A block of compressed pixels; `None` after the last one, or if it is cut off.
    pub(super) fn pixels(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first()?;
        let (block, rest) = rest.split_at_checked((*length).into())?;
        self.rest = rest;
        Some(block).filter(|block| !block.is_empty())
    }
}
