//! BMP, as Pillow reads it: what its writers get wrong is known, and read as they meant it.
//!
//! Where Pillow itself reads something else than the format says, the file is refused: neither reading would be right for
//! everyone.

mod header;
mod runs;

use image::metadata::Orientation;

use self::header::{Header, Layout, damaged, variant};
use super::raster::{Limits, Raster, Samples, gathered, unpacked};
use super::{Error, Format, Size};

/// The size in the header, checked.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    Ok(Header::read(bytes, limits)?.size)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let header = Header::read(bytes, limits)?;
    let indices;
    let rows = if let Layout::Runs { wide } = header.layout {
        indices = runs::indices(bytes, &header, wide)?;
        Rows { bytes: &indices, stride: header.size.width as usize, header: &header }
    } else {
        Rows::packed(bytes, &header)?
    };
    let samples = match header.layout {
        Layout::Indexed => rows.colored(usize::from(header.bits))?,
        Layout::Runs { .. } => rows.colored(8)?,
        Layout::Rgb555 => Samples::Rgb8(rows.words(|word| [word >> 10 & 31, word >> 5 & 31, word & 31], [31, 31, 31])),
        Layout::Rgb565 => Samples::Rgb8(rows.words(|word| [word >> 11, word >> 5 & 63, word & 31], [31, 63, 31])),
        Layout::Bytes { order: [r, g, b], alpha } => {
            let pixel = usize::from(header.bits / 8);
            let pixels = rows.iter().flat_map(|row| row.chunks_exact(pixel));
            match alpha {
                None => Samples::Rgb8(gathered(header.size, pixels.map(|pixel| [pixel[r], pixel[g], pixel[b]]))),
                Some(a) => {
                    Samples::Rgba8(gathered(header.size, pixels.map(|pixel| [pixel[r], pixel[g], pixel[b], pixel[a]])))
                }
            }
        }
    };
    Ok(Raster { size: header.size, format: Format::Bmp, samples, orientation: Orientation::NoTransforms, missing: 0.0 })
}

/// The rows in the order of the file.
struct Rows<'a> {
    bytes: &'a [u8],
    /// From one row to the next.
    stride: usize,
    header: &'a Header<'a>,
}

impl<'a> Rows<'a> {
    /// Rows of whole four bytes; what fills the last one up may be missing.
    fn packed(bytes: &'a [u8], header: &'a Header<'a>) -> Result<Self, Error> {
        let (row, height) = (header.row(), header.size.height as usize);
        let stride = row.next_multiple_of(4);
        let bytes = bytes.get(header.offset..).unwrap_or_default();
        let length = stride * (height - 1) + row;
        let bytes = bytes.get(..length).ok_or_else(|| damaged("the file ends before the image does"))?;
        Ok(Self { bytes, stride, header })
    }

    /// From the top.
    fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let height = self.header.size.height as usize;
        let (bytes, stride, top_down) = (self.bytes, self.stride, self.header.top_down);
        let row = if matches!(self.header.layout, Layout::Runs { .. }) { stride } else { self.header.row() };
        (0..height).map(move |y| &bytes[stride * if top_down { y } else { height - 1 - y }..][..row])
    }

    /// 16-bit pixels of three values with these maxima, spread to 0..=255 as Pillow does, without rounding.
    fn words(&self, split: impl Fn(u16) -> [u16; 3], most: [u16; 3]) -> Vec<u8> {
        let words = self.iter().flat_map(|row| row.as_chunks::<2>().0);
        let values = words.map(|word| split(u16::from_le_bytes(*word)));
        let spread = |values: [u16; 3]| [0, 1, 2].map(|i| (u32::from(values[i]) * 255 / u32::from(most[i])) as u8);
        gathered(self.header.size, values.map(spread))
    }

    /// Indices of that many bits, coloured.
    fn colored(&self, bits: usize) -> Result<Samples, Error> {
        let size = self.header.size;
        let indices = unpacked(self.iter(), size.width as usize, bits);
        let Header { palette, stride, colors, .. } = *self.header;
        if palette.len() / stride > 256 {
            return Err(damaged("its palette has more than 256 colours"));
        }
        let mut table = [[0; 3]; 256];
        for (color, listed) in table.iter_mut().zip(palette.chunks_exact(stride)) {
            *color = [listed[2], listed[1], listed[0]];
        }
        if is_grey(palette, stride, colors) {
            // Pillow takes such indices for samples, whatever their number of bits.
            let as_samples = if colors == 2 { bits == 1 && !self.has_runs() } else { bits == 8 };
            if !as_samples {
                return Err(variant(format!("{} bits for {colors} shades of grey", self.header.bits)));
            }
            let factor = if colors == 2 { 255 } else { 1 };
            return Ok(Samples::Grey8(gathered(size, indices.map(|index| [factor * index]))));
        }
        Ok(Samples::Rgb8(gathered(size, indices.map(|index| table[usize::from(index)]))))
    }

    fn has_runs(&self) -> bool {
        matches!(self.header.layout, Layout::Runs { .. })
    }
}

/// Whether a palette is black and white, or each grey at its own place.
fn is_grey(palette: &[u8], stride: usize, colors: usize) -> bool {
    (0..colors).all(|index| {
        let grey = if colors == 2 { 255 * index } else { index } as u8;
        palette.get(index * stride..).and_then(|rest| rest.get(..3)) == Some(&[grey; 3])
    })
}
