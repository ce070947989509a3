//! The container of a WebP (RFC 9649, section 2), read as libwebp reads it: the flags of the header say what counts.

use super::super::format::{Format, Size};
use super::super::raster::{Limits, malformed};
use super::super::{Error, exif};
use image::metadata::Orientation;

/// Feature flags of the VP8X chunk (RFC 9649, section 2.7).
const ALPHA: u8 = 0x10;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;
const ANIMATION: u8 = 0x02;
/// `RIFF`, size, `WEBP`.
const HEADER: usize = 12;
/// Bytes of an ANMF chunk before its own chunks.
const FRAME_HEADER: usize = 16;

/// The first image of a file, and where it lies.
pub(super) struct Container<'a> {
    /// Without the header of an extended file: the size of the image.
    pub(super) canvas: Size,
    /// Of the image on the canvas.
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) image: Image<'a>,
    /// Whether alpha counts.
    pub(super) alpha: bool,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

/// An image: a bitstream, and alpha for one that has none.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) size: Size,
    pub(super) bitstream: Bitstream<'a>,
    pub(super) alpha: Option<&'a [u8]>,
}

#[derive(Clone, Copy)]
pub(super) enum Bitstream<'a> {
    Lossy(&'a [u8]),
    Lossless(&'a [u8]),
}

impl<'a> Container<'a> {
    pub(super) fn read(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let length = bytes.get(4..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
        let chunks = length.and_then(|length| bytes.get(HEADER..(length as usize).checked_add(8)?)).ok_or_else(cut)?;
        let mut chunks = Chunks { rest: chunks };
        let all = chunks.clone();
        let first = chunks.next().ok_or_else(cut)??;
        if &first.kind == b"VP8X" {
            Self::extended(first.payload, chunks, limits)
        } else {
            // What follows the image in a simple file is ignored.
            if !matches!(&first.kind, b"VP8 " | b"VP8L") {
                return Err(damaged("it does not begin with an image or an extended header"));
            }
            let image = Image::read(all, limits)?;
            let alpha = matches!(image.bitstream, Bitstream::Lossless(payload) if lossless_alpha(payload));
            Ok(Self { canvas: image.size, left: 0, top: 0, image, alpha, exif: None, xmp: None })
        }
    }

    fn extended(header: &[u8], mut chunks: Chunks<'a>, limits: &Limits) -> Result<Self, Error> {
        let &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..] = header else { return Err(cut()) };
        let canvas = Size { width: long([w0, w1, w2]) + 1, height: long([h0, h1, h2]) + 1 };
        limits.check(Format::WebP, canvas)?;
        let animated = flags & ANIMATION != 0;
        let (mut image, mut exif, mut xmp) = (None, None, None);
        let mut controlled = false;
        loop {
            let here = chunks.clone();
            let Some(chunk) = chunks.next() else { break };
            let chunk = chunk?;
            match &chunk.kind {
                b"ALPH" | b"VP8 " | b"VP8L" => {
                    if animated || controlled {
                        return Err(damaged("it is an animation with an image outside of its frames"));
                    }
                    if image.is_some() {
                        return Err(damaged("it has two images"));
                    }
                    let mut still = Image::read(here, limits)?;
                    // The image may have two chunks.
                    if still.alpha.is_some() {
                        chunks.next();
                    }
                    if flags & ALPHA == 0 {
                        still.alpha = None;
                    }
                    if still.size != canvas {
                        return Err(damaged("its image is not of the size of its canvas"));
                    }
                    image = Some((0, 0, still));
                }
                b"ANIM" => controlled = true,
                b"ANMF" if !controlled => return Err(damaged("its frames precede what an animation begins with")),
                // Only the first frame is decoded, and frames without the flag are ignored.
                // An empty frame is passed over.
                b"ANMF" if animated && image.is_none() && chunk.payload.len() > FRAME_HEADER => {
                    image = Some(frame(chunk.payload, canvas, limits)?);
                }
                b"EXIF" if flags & EXIF != 0 && exif.is_none() => exif = Some(chunk.payload),
                b"XMP " if flags & XMP != 0 && xmp.is_none() => xmp = Some(chunk.payload),
                _ => {}
            }
        }
        let (left, top, image) = image.ok_or_else(|| damaged("it has no image"))?;
        // A lossless still image says itself whether alpha counts.
        let alpha = match image.bitstream {
            Bitstream::Lossless(payload) if !animated => lossless_alpha(payload),
            _ => flags & ALPHA != 0,
        };
        Ok(Self { canvas, left, top, image, alpha, exif, xmp })
    }

    /// How a viewer turns the image.
    pub(super) fn orientation(&self) -> Orientation {
        exif::orientation(self.exif, self.xmp)
    }
}

/// A frame of an animation: left, top, and its image.
fn frame<'a>(payload: &'a [u8], canvas: Size, limits: &Limits) -> Result<(u32, u32, Image<'a>), Error> {
    let (header, chunks) = payload.split_first_chunk::<FRAME_HEADER>().ok_or_else(cut)?;
    // The size of the bitstream counts, not that of the frame.
    let [x0, x1, x2, y0, y1, y2, ..] = *header;
    let (left, top) = (2 * long([x0, x1, x2]), 2 * long([y0, y1, y2]));
    let image = Image::read(Chunks { rest: chunks }, limits)?;
    if left + image.size.width > canvas.width || top + image.size.height > canvas.height {
        return Err(damaged("its first frame does not fit"));
    }
    Ok((left, top, image))
}

impl<'a> Image<'a> {
    /// The image that begins with the next chunk. Its own size may be much larger than that of the canvas.
    fn read(mut chunks: Chunks<'a>, limits: &Limits) -> Result<Self, Error> {
        let mut alpha = None;
        loop {
            let chunk = chunks.next().ok_or_else(cut)??;
            let (size, bitstream) = match &chunk.kind {
                b"ALPH" if alpha.is_none() => {
                    alpha = Some(chunk.payload);
                    continue;
                }
                b"VP8 " => (lossy_size(chunk.payload), Bitstream::Lossy(chunk.payload)),
                b"VP8L" if alpha.is_none() => (lossless_size(chunk.payload), Bitstream::Lossless(chunk.payload)),
                _ => return Err(damaged("it has no image")),
            };
            let size = size.ok_or_else(cut)?;
            limits.check(Format::WebP, size)?;
            return Ok(Self { size, bitstream, alpha });
        }
    }
}

pub(super) fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::WebP, reason)
}

fn cut() -> Error {
    damaged("the file ends before the image does")
}

fn long([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

struct Chunk<'a> {
    kind: [u8; 4],
    payload: &'a [u8],
}

#[derive(Clone)]
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // Fewer than eight bytes are not a chunk.
        let (header, rest) = self.rest.split_first_chunk::<8>()?;
        let [kind @ .., a, b, c, d] = *header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(payload) = rest.get(..length) else {
            self.rest = &[];
            return Some(Err(cut()));
        };
        // Chunks have even lengths; the last one's padding may be missing.
        self.rest = rest.get(length + length % 2..).unwrap_or_default();
        Some(Ok(Chunk { kind, payload }))
    }
}

/// RFC 6386, section 9.1: a key frame's tag, start code, 14-bit width and height.
fn lossy_size(payload: &[u8]) -> Option<Size> {
    let [w0, w1, h0, h1] = *payload.get(6..)?.first_chunk()?;
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some(Size { width: side(w0, w1), height: side(h0, h1) })
}

/// RFC 9649, section 3.4: a signature byte, then 14-bit width - 1 and height - 1, and whether alpha is used.
fn lossless_size(payload: &[u8]) -> Option<Size> {
    let bits = u32::from_le_bytes(*payload.get(1..)?.first_chunk()?);
    Some(Size { width: (bits & 0x3fff) + 1, height: (bits >> 14 & 0x3fff) + 1 })
}

fn lossless_alpha(payload: &[u8]) -> bool {
    payload.get(4).is_some_and(|byte| byte & 0x10 != 0)
}
