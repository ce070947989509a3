//! JPEG with zune-jpeg directly: the headers are parsed once, and the file is not copied.
//!
//! Four-component files are taken as Pillow takes them: stored inverted, with or without Adobe's marker, then converted
//! by `R = K - (255 - C) * K / 255`, which is zune's `C * K / 255` rounded the same way (no tie is possible: 255 is odd).

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::raster::{Limits, Raster, Samples, malformed};
use super::{Error, Format, Size};

/// A decoder that has read the headers.
pub(super) struct Opened<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    options: DecoderOptions,
    /// Of the image as stored.
    pub(super) size: Size,
    color: ColorSpace,
}

/// Reads the headers, and checks the size.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, Error> {
    // Lenient like libjpeg, which warns and continues. `Limits` checks the size, so its own limit on sides is raised.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| decoder_error(&error))?;
    let (Some((width, height)), Some(color)) = (decoder.dimensions(), decoder.input_colorspace()) else {
        return Err(malformed(Format::Jpeg, "it has no frame header"));
    };
    let size = Size { width: width as u32, height: height as u32 };
    limits.check(Format::Jpeg, size)?;
    Ok(Opened { decoder, options, size, color })
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let Opened { mut decoder, options, size, color } = open(bytes, limits)?;
    if !is_complete(bytes) {
        return Err(malformed(Format::Jpeg, "the file ends before the image does"));
    }
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));

    let grey = color == ColorSpace::Luma;
    decoder.set_options(options.jpeg_set_out_colorspace(if grey { ColorSpace::Luma } else { ColorSpace::RGB }));
    let expected = size.pixels() as usize * if grey { 1 } else { 3 };
    let buffer = decoder.decode().map_err(|error| decoder_error(&error))?;
    if buffer.len() != expected {
        return Err(malformed(Format::Jpeg, format!("{} bytes of samples, not {expected}", buffer.len())));
    }
    let samples = if grey { Samples::Grey8(buffer) } else { Samples::Rgb8(buffer) };
    Ok(Raster { size, format: Format::Jpeg, samples, orientation: orientation.unwrap_or(Orientation::NoTransforms) })
}

fn decoder_error(error: &DecodeErrors) -> Error {
    match error {
        DecodeErrors::Unsupported(scheme) => Error::Variant { format: Format::Jpeg, reason: format!("{scheme:?}") },
        other => malformed(Format::Jpeg, format!("{other:?}")),
    }
}

/// Whether the end-of-image marker follows the scans. Without it the decoder would silently fill the missing part with grey, and
/// the features would be of an image that does not exist. Pillow refuses such files too.
fn is_complete(bytes: &[u8]) -> bool {
    const TEM: u8 = 0x01;
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    let mut at = 2;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
        at += found + 1;
        match bytes.get(at) {
            Some(&EOI) => return true,
            // Stuffing, fill bytes, restarts: inside or between scans, without a length.
            None | Some(&(0 | 0xff | TEM | 0xd0..=0xd7 | SOI)) => {}
            // A segment is skipped whole, so that the end marker of a thumbnail does not count.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(&[high, low]) => at += 1 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
    false
}
