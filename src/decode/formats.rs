//! Bytes to a raster: which decoder, and how large the image is. Pure, synchronous, limits before allocation.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder};

use super::raster::{Format, Limits, Raster, Size, decoder_error, finish, malformed, size};
use super::{Error, gif, jpeg, sniff, webp};

/// The pixels that a decoder holds for the first frame of an image. Reads only the headers.
///
/// # Errors
/// Those of [`decode`] that the headers show.
pub fn measure(bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
    let format = sniff::sniff(bytes, limits.allow_tiff)?;
    Ok(match format {
        Format::Jpeg => jpeg::open(bytes, limits)?.size.pixels(),
        Format::Gif => gif::open(bytes, limits)?.size.pixels(),
        Format::WebP => webp::measure(bytes, limits)?,
        Format::Png => png_size(bytes, limits)?.pixels(),
        Format::Bmp => {
            size(&BmpDecoder::new(Cursor::new(bytes)).map_err(decoder_error(format))?, format, limits)?.pixels()
        }
        Format::Tiff => {
            size(&TiffDecoder::new(Cursor::new(bytes)).map_err(decoder_error(format))?, format, limits)?.pixels()
        }
    })
}

/// Decodes the first frame of an image.
///
/// # Errors
/// Any [`Error`] except those of the stage (time-out, panic, stop).
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let format = sniff::sniff(bytes, limits.allow_tiff)?;
    match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        Format::Gif => gif::decode(bytes, limits),
        Format::WebP => webp::decode(bytes, limits),
        Format::Png => {
            // The decoder inflates a colour profile before it reports the size, so it needs its limits first.
            let memory = png_size(bytes, limits)?.memory();
            finish(PngDecoder::with_limits(Cursor::new(bytes), memory).map_err(decoder_error(format))?, format, limits)
        }
        Format::Bmp => finish(BmpDecoder::new(Cursor::new(bytes)).map_err(decoder_error(format))?, format, limits),
        Format::Tiff => finish(TiffDecoder::new(Cursor::new(bytes)).map_err(decoder_error(format))?, format, limits),
    }
}

/// The size in a PNG's header, checked.
fn png_size(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    let read = || {
        // Signature, length, "IHDR", width, height.
        let header = bytes.get(12..24)?;
        let width = header.strip_prefix(b"IHDR")?.first_chunk()?;
        let height = header.last_chunk()?;
        Some(Size { width: u32::from_be_bytes(*width), height: u32::from_be_bytes(*height) })
    };
    let size = read().ok_or_else(|| malformed(Format::Png, "it does not begin with a header"))?;
    limits.check(Format::Png, size)?;
    Ok(size)
}
