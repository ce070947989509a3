//! Bytes to a raster: which decoder, and how large the image is. Pure, synchronous, limits before allocation.

use super::format::Format;
use super::raster::{Limits, Raster};
use super::{Error, bmp, gif, jpeg, png, sniff, tiff, webp};

/// The pixels that a decoder holds for the first frame of an image. Reads only the headers.
///
/// # Errors
/// Those of [`decode`] that the headers show.
pub fn measure(bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
    let format = sniff::sniff(bytes, limits.allow_tiff)?;
    Ok(match format {
        Format::Jpeg => jpeg::open(bytes, limits)?.size.pixels(),
        Format::Gif => gif::measure(bytes, limits)?.pixels(),
        Format::WebP => webp::measure(bytes, limits)?,
        Format::Png => png::measure(bytes, limits)?.pixels(),
        Format::Bmp => bmp::measure(bytes, limits)?.pixels(),
        Format::Tiff => tiff::measure(bytes, limits)?.pixels(),
    })
}

/// Decodes the first frame of an image.
///
/// # Errors
/// Any [`Error`] except those of the stage (killed, time-out, panic, stop).
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let format = sniff::sniff(bytes, limits.allow_tiff)?;
    match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Gif => gif::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
        Format::Png => png::decode(bytes, limits),
        Format::Bmp => bmp::decode(bytes, limits),
        Format::Tiff => tiff::decode(bytes, limits),
    }
}
