//! The headers of a BMP: which of seven kinds, where the pixels are, and how they are written.

use super::super::Error;
use super::super::format::{Format, Size};
use super::super::raster::{Limits, malformed};

/// `BM`, the file's size, four bytes for programs, the offset of the pixels.
const FILE_HEADER: usize = 14;
/// The header of OS/2 1.x, whose sides have 16 bits, and whose colours three bytes.
const CORE: usize = 12;
/// That of OS/2 2.x, whose compressions have numbers of their own.
const OS2: usize = 64;

/// How the pixels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// 1, 4 or 8 bits.
    Indexed,
    /// Runs of indices of 4 or 8 bits.
    Runs { wide: bool },
    /// Five bits each.
    Rgb555,
    /// Five, six, and five bits.
    Rgb565,
    /// Three or four bytes, of which these are red, green, blue and perhaps alpha.
    Bytes { order: [usize; 3], alpha: Option<usize> },
}

/// What the headers say.
pub(super) struct Header<'a> {
    pub(super) size: Size,
    pub(super) bits: u16,
    pub(super) layout: Layout,
    pub(super) top_down: bool,
    /// For indices: blue, green, red, and in some files a fourth byte.
    pub(super) palette: &'a [u8],
    /// Bytes of one of its colours.
    pub(super) stride: usize,
    /// How many colours the file says it has: the palette may be cut off.
    pub(super) colors: usize,
    /// Where the pixels begin.
    pub(super) offset: usize,
}

impl<'a> Header<'a> {
    pub(super) fn read(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let cut = || damaged("the file ends before the image does");
        let offset = long(bytes, 10).ok_or_else(cut)? as usize;
        let length = long(bytes, FILE_HEADER).ok_or_else(cut)? as usize;
        if !matches!(length, CORE | 40 | 52 | 56 | OS2 | 108 | 124) {
            return Err(variant(format!("a header of {length} bytes")));
        }
        let info = bytes.get(FILE_HEADER..FILE_HEADER + length).ok_or_else(cut)?;
        let mut end = FILE_HEADER + length;
        let short_at = |at| short(info, at).unwrap_or_default();
        let long_at = |at| long(info, at).unwrap_or_default();
        let core = length == CORE;
        let (width, height, bits) = if core {
            (u32::from(short_at(4)), u32::from(short_at(6)), short_at(10))
        } else {
            (long_at(4), long_at(8), short_at(14))
        };
        let (compression, listed) = if core { (0, 0) } else { (long_at(16), long_at(32)) };
        // A negative height, as far as the highest byte shows it.
        let top_down = !core && info[11] == 0xff;
        let size = Size { width, height: if top_down { height.wrapping_neg() } else { height } };
        limits.check(Format::Bmp, size)?;

        let layout = match compression {
            0 => plain(bits)?,
            1 | 2 if matches!(bits, 1 | 4 | 8) => Layout::Runs { wide: compression == 1 },
            3 if length == OS2 => return Err(variant("compressed as in a fax")),
            4 if length == OS2 => return Err(variant("24-bit runs")),
            3 => {
                let masks = match length {
                    40 => {
                        end += 12;
                        [long(bytes, 54), long(bytes, 58), long(bytes, 62), Some(0)]
                    }
                    52 => [long(info, 40), long(info, 44), long(info, 48), Some(0)],
                    _ => [long(info, 40), long(info, 44), long(info, 48), long(info, 52)],
                };
                masked(bits, masks.map(Option::unwrap_or_default))?
            }
            4 => return Err(variant("it holds a JPEG")),
            5 => return Err(variant("it holds a PNG")),
            other => return Err(variant(format!("compression {other} of {bits} bits"))),
        };

        let mut header = Self { size, bits, layout, top_down, palette: &[], stride: 4, colors: 0, offset };
        if bits <= 8 {
            header.stride = if core { 3 } else { 4 };
            header.colors = if listed == 0 { 1 << bits } else { listed as usize };
            if header.colors > 1 << 16 {
                return Err(damaged(format!("a palette of {} colours", header.colors)));
            }
            let rest = bytes.get(end..).unwrap_or_default();
            header.palette = &rest[..rest.len().min(header.colors * header.stride)];
            // Some writers leave the palette out of the offset.
            if offset == FILE_HEADER + length {
                header.offset += 4 * header.colors;
            }
        }
        // Others leave the offset out.
        if header.offset == 0 {
            header.offset = end + header.palette.len();
        }
        Ok(header)
    }

    /// Bytes of one row, without what fills it up to a multiple of four.
    pub(super) fn row(&self) -> usize {
        (self.size.width as usize * usize::from(self.bits)).div_ceil(8)
    }
}

/// The layout without compression.
fn plain(bits: u16) -> Result<Layout, Error> {
    match bits {
        1 | 4 | 8 => Ok(Layout::Indexed),
        16 => Ok(Layout::Rgb555),
        // A fourth byte is not alpha here: most writers leave it at zero.
        24 | 32 => Ok(Layout::Bytes { order: [2, 1, 0], alpha: None }),
        _ => Err(variant(format!("{bits} bits per pixel"))),
    }
}

/// The layouts of masks for red, green, blue and alpha that Pillow knows, which are all that are in use.
fn masked(bits: u16, masks: [u32; 4]) -> Result<Layout, Error> {
    let bytes = |order, alpha| Ok(Layout::Bytes { order, alpha });
    match (bits, masks) {
        (16, [0xf800, 0x07e0, 0x001f, _]) => Ok(Layout::Rgb565),
        (16, [0x7c00, 0x03e0, 0x001f, _]) => Ok(Layout::Rgb555),
        (24, [0xff_0000, 0xff00, 0xff, _]) | (32, [0xff_0000, 0xff00, 0xff, 0]) => bytes([2, 1, 0], None),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0]) => bytes([3, 2, 1], None),
        (32, [0xff00_0000, 0xff00, 0xff, 0]) => bytes([3, 1, 0], None),
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0xff]) => bytes([3, 2, 1], Some(0)),
        (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => bytes([0, 1, 2], Some(3)),
        (32, [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0]) => bytes([2, 1, 0], Some(3)),
        (32, [0xff00_0000, 0xff00, 0xff, 0xff_0000]) => bytes([3, 1, 0], Some(2)),
        (_, [r, g, b, a]) => Err(variant(format!("{bits} bits per pixel by the masks {r:x}, {g:x}, {b:x}, {a:x}"))),
    }
}

pub(super) fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::Bmp, reason)
}

pub(super) fn variant(reason: impl Into<String>) -> Error {
    Error::Variant { format: Format::Bmp, reason: reason.into() }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}
