//! A decoded image, the limits on it, and the way from a decoder of the `image` crate to one.

use image::error::ImageError;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use strum::IntoStaticStr;

use super::Error;

/// Width and height of the image as it is stored, before any orientation is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG, the first frame of an APNG.
    Png,
    /// WebP, the first frame of an animation.
    WebP,
    /// GIF, the first frame.
    Gif,
    Bmp,
    /// TIFF, only where it is allowed.
    Tiff,
}

impl Format {
    /// The name stored in documents.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Clone, Copy, Debug)]
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
/// The most memory that a pixel takes while its image is decoded. The measured peaks, file and working memory apart: 12.1
/// bytes for an animated WebP, 12.0 for a 16-bit PNG with alpha, 11.0 for a progressive CMYK JPEG; 3.0 for a common photograph.
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

    /// What a decoder may allocate for an image of this size.
    pub(super) fn memory(self) -> image::Limits {
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(self.pixels().saturating_mul(MAX_PIXEL_BYTES).saturating_add(WORKING_MEMORY));
        limits
    }
}

/// The size that a decoder of the `image` crate has read, checked.
pub(super) fn size(decoder: &impl ImageDecoder, format: Format, limits: &Limits) -> Result<Size, Error> {
    let (width, height) = decoder.dimensions();
    let size = Size { width, height };
    limits.check(format, size)?;
    Ok(size)
}

/// Runs a decoder of the `image` crate from its header to the samples.
pub(super) fn finish(mut decoder: impl ImageDecoder, format: Format, limits: &Limits) -> Result<Raster, Error> {
    let size = size(&decoder, format, limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let length = decoder.total_bytes();
    if length > size.pixels() * MAX_PIXEL_BYTES {
        return Err(Error::Variant { format: format.name(), reason: format!("{color:?} samples") });
    }
    decoder.set_limits(size.memory()).map_err(decoder_error(format))?;
    let mut buffer = vec![0; length as usize];
    decoder.read_image(&mut buffer).map_err(decoder_error(format))?;
    Ok(Raster { size, format, samples: samples(format, color, buffer)?, orientation, missing: 0.0 })
}

/// Converts samples of any decoder to the four layouts. 16-bit colour keeps its high byte, as Pillow does.
fn samples(format: Format, color: ColorType, buffer: Vec<u8>) -> Result<Samples, Error> {
    Ok(match color {
        ColorType::L8 => Samples::Grey8(buffer),
        ColorType::La8 => Samples::Rgba8(spread(&buffer)),
        ColorType::Rgb8 => Samples::Rgb8(buffer),
        ColorType::Rgba8 => Samples::Rgba8(buffer),
        ColorType::L16 => Samples::Grey16(words(&buffer).collect()),
        ColorType::La16 => Samples::Rgba8(spread(&high_bytes(&buffer))),
        ColorType::Rgb16 => Samples::Rgb8(high_bytes(&buffer)),
        ColorType::Rgba16 => Samples::Rgba8(high_bytes(&buffer)),
        other => return Err(Error::Variant { format: format.name(), reason: format!("{other:?} samples") }),
    })
}

fn words(buffer: &[u8]) -> impl Iterator<Item = u16> {
    buffer.as_chunks::<2>().0.iter().map(|word| u16::from_ne_bytes(*word))
}

fn high_bytes(buffer: &[u8]) -> Vec<u8> {
    words(buffer).map(|word| (word >> 8) as u8).collect()
}

/// Grey with alpha to RGBA.
fn spread(buffer: &[u8]) -> Vec<u8> {
    buffer.as_chunks::<2>().0.iter().flat_map(|&[grey, alpha]| [grey, grey, grey, alpha]).collect()
}

pub(super) fn malformed(format: Format, reason: impl Into<String>) -> Error {
    Error::Malformed { format: format.name(), reason: reason.into() }
}

/// An error of the `image` crate, with the format's name.
pub(super) fn decoder_error(format: Format) -> impl Fn(ImageError) -> Error {
    move |error| match error {
        ImageError::Unsupported(error) => Error::Variant { format: format.name(), reason: error.to_string() },
        other => malformed(format, other.to_string()),
    }
}
