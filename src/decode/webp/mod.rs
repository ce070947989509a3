//! WebP. The container is read here, and the decoder sees a file of one image alone: it believes other flags and chunks than
//! libwebp, and so Pillow, does.

mod bits;
mod container;
mod lossless;

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use self::container::{Bitstream, Container, Image, damaged};
use super::raster::{Limits, Raster, Samples};
use super::{Error, Format};

/// The flag of alpha in the header of an extended file.
const ALPHA: u8 = 0x10;
/// The bit of a lossless bitstream that says so, and its byte in a file that begins with one.
const LOSSLESS_ALPHA: u8 = 0x10;
const LOSSLESS_ALPHA_AT: usize = 24;
/// Bits of the first byte of an alpha chunk: its compression, of which 1 is that of lossless images.
const COMPRESSION: u8 = 3;

/// The pixels of the canvas, or of a bitstream that is larger.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
    let container = Container::read(bytes, limits)?;
    Ok(container.canvas.pixels().max(container.image.size.pixels()))
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let container = Container::read(bytes, limits)?;
    let image = container.image;
    if let Bitstream::Lossless(payload) = image.bitstream {
        lossless::check_image(payload, image.size)?;
    }
    if let Some([first, rest @ ..]) = image.alpha
        && first & COMPRESSION == 1
    {
        lossless::check_alpha(rest, image.size)?;
    }
    let samples = on_canvas(pixels(&image, container.alpha)?, &container);
    Ok(Raster {
        size: container.canvas,
        format: Format::WebP,
        samples,
        orientation: container.orientation(),
        missing: 0.0,
    })
}

fn pixels(image: &Image<'_>, alpha: bool) -> Result<Samples, Error> {
    let mut decoder = WebPDecoder::new(Cursor::new(rewritten(image, alpha))).map_err(|error| decoder_error(&error))?;
    let mut limits = ::image::Limits::no_limits();
    limits.max_alloc = Some(image.size.memory());
    decoder.set_limits(limits).map_err(|error| decoder_error(&error))?;
    let color = decoder.color_type();
    if decoder.dimensions() != (image.size.width, image.size.height) {
        return Err(damaged("its bitstream is of another size"));
    }
    let mut bytes = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut bytes).map_err(|error| decoder_error(&error))?;
    Ok(if color == ColorType::Rgba8 { Samples::Rgba8(bytes) } else { Samples::Rgb8(bytes) })
}

fn decoder_error(error: &ImageError) -> Error {
    match error {
        ImageError::Unsupported(error) => Error::Variant { format: Format::WebP, reason: error.to_string() },
        other => damaged(other.to_string()),
    }
}

/// A file of this image alone. A lossless bitstream itself says whether its alpha is used, but an animation knows better.
fn rewritten(image: &Image<'_>, alpha: bool) -> Vec<u8> {
    let mut all = b"RIFF\0\0\0\0WEBP".to_vec();
    let mut chunk = |kind: &[u8; 4], payload: &[u8]| {
        all.extend(kind);
        all.extend((payload.len() as u32).to_le_bytes());
        all.extend(payload);
        // Up to an even length.
        if payload.len() % 2 == 1 {
            all.push(0);
        }
    };
    if let Some(alpha) = image.alpha {
        let sides = [image.size.width, image.size.height].map(|side| (side - 1).to_le_bytes());
        let [[w0, w1, w2, _], [h0, h1, h2, _]] = sides;
        chunk(b"VP8X", &[ALPHA, 0, 0, 0, w0, w1, w2, h0, h1, h2]);
        chunk(b"ALPH", alpha);
    }
    match image.bitstream {
        Bitstream::Lossy(payload) => chunk(b"VP8 ", payload),
        Bitstream::Lossless(payload) => chunk(b"VP8L", payload),
    }
    if alpha && let (Bitstream::Lossless(_), Some(hint)) = (image.bitstream, all.get_mut(LOSSLESS_ALPHA_AT)) {
        *hint |= LOSSLESS_ALPHA;
    }
    let length = (all.len() - 8) as u32;
    all[4..8].copy_from_slice(&length.to_le_bytes());
    all
}

/// The image on its canvas, which is transparent or black, with alpha if the file is said to have it.
fn on_canvas(samples: Samples, container: &Container<'_>) -> Samples {
    let Container { canvas, left, top, image, alpha, .. } = container;
    let (channels, bytes) = match samples {
        Samples::Rgb8(bytes) => (3, bytes),
        Samples::Rgba8(bytes) => (4, bytes),
        other @ (Samples::Grey8(_) | Samples::Grey16(_)) => return other,
    };
    let wanted = if *alpha { 4 } else { 3 };
    if image.size == *canvas && channels == wanted {
        return if *alpha { Samples::Rgba8(bytes) } else { Samples::Rgb8(bytes) };
    }
    let mut all = vec![0; canvas.pixels() as usize * wanted];
    let stride = canvas.width as usize * wanted;
    let rows = all.chunks_exact_mut(stride).skip(*top as usize);
    for (row, line) in rows.zip(bytes.chunks_exact(image.size.width as usize * channels)) {
        let row = row[*left as usize * wanted..].chunks_exact_mut(wanted);
        for (to, from) in row.zip(line.chunks_exact(channels)) {
            to[..3].copy_from_slice(&from[..3]);
            if let Some(to) = to.get_mut(3) {
                *to = from.get(3).copied().unwrap_or(255);
            }
        }
    }
    if *alpha { Samples::Rgba8(all) } else { Samples::Rgb8(all) }
}
