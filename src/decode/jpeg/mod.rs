//! JPEG as libjpeg-turbo decodes it (accurate integer IDCT, fancy upsampling): the samples are those of Pillow.
//!
//! [`markers`] reads the headers, and refuses what is not worth decoding; [`libjpeg`] decodes.

mod libjpeg;
mod markers;

use self::libjpeg::{Bounds, Decoded, ENDED, Failure, Layout};
use self::markers::{Headers, Place};
use super::raster::{Limits, Raster, Samples, WORKING_MEMORY, malformed};
use super::{Error, Format, Size, exif};

/// The longest side that libjpeg decodes.
const MAX_SIDE: u32 = 65_500;
/// Bytes per pixel that the decoder may take besides the samples: two for each coefficient of four components.
const COEFFICIENT_BYTES: u64 = 8;

/// Headers that have been read.
pub(super) struct Opened<'a> {
    /// Of the image as stored.
    pub(super) size: Size,
    headers: Headers<'a>,
}

/// Reads the headers, and checks the size.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Opened<'a>, Error> {
    let headers = Headers::read(bytes)?;
    let size = headers.size;
    limits.check(Format::Jpeg, size)?;
    if size.width.max(size.height) > MAX_SIDE {
        return Err(Error::TooLong { width: size.width, height: size.height, limit: MAX_SIDE });
    }
    Ok(Opened { size, headers })
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let Opened { size, headers } = open(bytes, limits)?;
    let bounds = Bounds {
        width: size.width,
        height: size.height,
        table_streams: headers.table_streams,
        scans: headers.scans(),
        memory: size.pixels().saturating_mul(COEFFICIENT_BYTES).saturating_add(WORKING_MEMORY),
        arithmetic: headers.arithmetic,
        stop_at_end: limits.accept_truncated == 0,
    };
    if headers.scans() == 0 {
        return Err(truncated(1.0, limits));
    }
    let Decoded { layout, samples, ended } =
        libjpeg::decode(headers.whole, &bounds).map_err(|failure| match failure {
            Failure::Ended(place) => truncated(headers.missing(place), limits),
            Failure::Unsupported(reason) => Error::Variant { format: Format::Jpeg, reason },
            Failure::Damaged(reason) => malformed(Format::Jpeg, reason),
        })?;
    let missing = match ended {
        Some(place) => headers.missing(place),
        None if !headers.scans_are_complete() => headers.missing(Place { scan: headers.scans() + 1, row: 0 }),
        None => 0.0,
    };
    if missing > f32::from(limits.accept_truncated) / 100.0 {
        return Err(truncated(missing, limits));
    }
    let orientation = exif::orientation(headers.exif, headers.xmp);
    let samples = match layout {
        Layout::Grey => Samples::Grey8(samples),
        Layout::Rgb | Layout::RgbOfCmyk => Samples::Rgb8(samples),
    };
    Ok(Raster { size, format: Format::Jpeg, samples, orientation, missing })
}

/// The refusal of an image of which a share is missing. The decoder would fill it with grey, and the features would be of an image
/// that does not exist.
fn truncated(missing: f32, limits: &Limits) -> Error {
    match limits.accept_truncated {
        0 => malformed(Format::Jpeg, ENDED),
        percent => malformed(
            Format::Jpeg,
            format!("{ENDED}: {:.1} % of it is missing, more than {percent} %", missing * 100.0),
        ),
    }
}
