//! A decoded image, and the limits on it.

use image::metadata::Orientation;
use serde::{Deserialize, Serialize};

use super::Error;
use super::format::{Format, Size};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Most pixels.
    pub max_pixels: u64,
    /// Whether TIFF is decoded.
    pub allow_tiff: bool,
    /// How many per cent of a JPEG image may be missing where its file ends too early. What is there is decoded then, and the
    /// rest is grey, as Pillow has it with `LOAD_TRUNCATED_IMAGES`. Usually 0.
    pub accept_truncated: u8,
}

/// A decoded image: the samples of its first frame as the file stores them, row by row from the top.
#[derive(Debug)]
pub struct Raster {
    pub size: Size,
    pub format: Format,
    /// The samples; always `width * height` pixels.
    pub samples: Samples,
    /// How a viewer would turn the image, from its EXIF data or TIFF tag; not applied yet.
    pub orientation: Orientation,
    /// The share of the image that its file does not hold, 0 to 1; never more than [`Limits::accept_truncated`].
    pub missing: f32,
}

/// Samples of a raster, interleaved.
#[derive(Debug)]
pub enum Samples {
    /// One byte per pixel.
    Grey8(Vec<u8>),
    /// One 16-bit value per pixel. A layout of its own because models reduce it in different ways.
    Grey16(Vec<u16>),
    /// Three bytes per pixel.
    Rgb8(Vec<u8>),
    /// Four bytes per pixel; alpha is not premultiplied.
    Rgba8(Vec<u8>),
}

/// The longest side: for each pixel of a side, sampling keeps some bytes that [`BYTES_PER_PIXEL`] does not count.
const MAX_SIDE: u32 = 1 << 20;
/// The widest pixel of any decoder: 16-bit RGBA.
const MAX_PIXEL_BYTES: u64 = 8;
/// What a decoder may allocate besides the image itself: colour profiles, tables, windows.
pub const WORKING_MEMORY: u64 = 64 << 20;
/// The most memory that a pixel takes while its image is decoded. The peaks, file and working memory apart: 12.0
/// bytes for a 16-bit PNG or TIFF with alpha, 11.0 for a progressive CMYK JPEG; 3.0 for a common photograph.
pub const BYTES_PER_PIXEL: u64 = 13;

impl Limits {
    /// Refuses what is empty or too large, before anything of that size is allocated.
    pub(super) fn check(&self, format: Format, size: Size) -> Result<(), Error> {
        let Size { width, height } = size;
        if width == 0 || height == 0 {
            return Err(malformed(format, "it has no pixels"));
        }
        if size.pixels() > self.max_pixels {
            return Err(Error::TooLarge { width, height, limit: self.max_pixels });
        }
        if width.max(height) > MAX_SIDE {
            return Err(Error::TooLong { width, height, limit: MAX_SIDE });
        }
        Ok(())
    }
}

impl Size {
    pub(super) fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes that a decoder may allocate for an image of this size.
    pub(super) fn memory(self) -> u64 {
        self.pixels().saturating_mul(MAX_PIXEL_BYTES).saturating_add(WORKING_MEMORY)
    }
}

/// The bytes of all pixels, without room for more: the vector does not grow by doubling.
pub(super) fn gathered<const CHANNELS: usize>(size: Size, pixels: impl Iterator<Item = [u8; CHANNELS]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size.pixels() as usize * CHANNELS);
    for pixel in pixels {
        bytes.extend(pixel);
    }
    bytes
}

/// The values of rows in which several share a byte, the first one in its highest bits. A row begins with a byte of its own.
pub(super) fn unpacked<'a>(
    rows: impl Iterator<Item = &'a [u8]>,
    width: usize,
    bits: usize,
) -> impl Iterator<Item = u8> {
    let (per_byte, mask) = (8 / bits, (255u16 >> (8 - bits)) as u8);
    rows.flat_map(move |row| {
        (0..width).map(move |x| row[x / per_byte] >> ((per_byte - 1 - x % per_byte) * bits) & mask)
    })
}

/// Grey with alpha to RGBA.
pub(super) fn spread(buffer: &[u8]) -> Vec<u8> {
    buffer.as_chunks::<2>().0.iter().flat_map(|&[grey, alpha]| [grey, grey, grey, alpha]).collect()
}

pub(super) fn malformed(format: Format, reason: impl Into<String>) -> Error {
    Error::Malformed { format, reason: reason.into() }
}
