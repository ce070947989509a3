//! WebP. The container is checked before the decoder sees it: the decoder trusts the lengths that it reads, and it refuses files
//! whose feature flags announce a chunk that is missing, which libwebp, and so Pillow, decodes.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;

use super::raster::{Limits, Raster, decoder_error, finish, malformed, size};
use super::{Error, Format, Size};

/// Feature flags of the VP8X chunk (RFC 9649, section 2.7).
const ALPHA: u8 = 0x10;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;
/// The offset of the flags when the first chunk is VP8X.
const FLAGS_AT: usize = 20;
/// `RIFF`, size, `WEBP`.
const HEADER: usize = 12;
/// Bytes of an ANMF chunk before its own chunks.
const FRAME_HEADER: usize = 16;

/// The pixels of the canvas, or of a bitstream that is larger.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<u64, Error> {
    let container = Container::checked(bytes, limits)?;
    let canvas = size(&container.decoder()?, Format::WebP, limits)?;
    Ok(container.bitstreams.iter().map(|size| size.pixels()).fold(canvas.pixels(), u64::max))
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let container = Container::checked(bytes, limits)?;
    let mut raster = finish(container.decoder()?, Format::WebP, limits)?;
    if let Some(exif) = container.exif {
        // Some writers keep the prefix of EXIF in JPEG.
        let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
        raster.orientation = Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms);
    }
    Ok(raster)
}

/// The facts about a file that decoding needs.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag of the file's header")]
struct Container<'a> {
    /// The file up to the length in its header.
    file: &'a [u8],
    extended: bool,
    animated: bool,
    /// Lossless bitstreams carry alpha themselves, lossy ones need a chunk.
    alpha: bool,
    xmp: bool,
    exif: Option<&'a [u8]>,
    /// The sizes of the bitstreams: one may be much larger than the canvas.
    bitstreams: Vec<Size>,
}

impl<'a> Container<'a> {
    fn checked(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let container =
            Self::read(bytes).ok_or_else(|| malformed(Format::WebP, "the file ends before the image does"))?;
        for size in &container.bitstreams {
            limits.check(Format::WebP, *size)?;
        }
        Ok(container)
    }

    fn decoder(&self) -> Result<WebPDecoder<Cursor<Cow<'a, [u8]>>>, Error> {
        WebPDecoder::new(Cursor::new(self.corrected())).map_err(decoder_error(Format::WebP))
    }

    /// Reads the chunks; `None` if one reaches beyond the end.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
        let file = bytes.get(..length.checked_add(8)?)?;
        let mut container = Self {
            file,
            extended: false,
            animated: false,
            alpha: false,
            xmp: false,
            exif: None,
            bitstreams: Vec::new(),
        };
        container.walk(file.get(HEADER..)?)?;
        Some(container)
    }

    fn walk(&mut self, mut chunks: &'a [u8]) -> Option<()> {
        // Fewer than eight bytes are not a chunk.
        while let Some((header, rest)) = chunks.split_first_chunk::<8>() {
            let [kind @ .., a, b, c, d] = header;
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            let payload = rest.get(..length)?;
            match kind {
                b"VP8X" => self.extended = true,
                b"ALPH" => self.alpha = true,
                b"EXIF" => self.exif = Some(payload),
                b"XMP " => self.xmp = true,
                b"VP8 " => self.bitstreams.extend(lossy_size(payload)),
                b"VP8L" => {
                    self.alpha = true;
                    self.bitstreams.extend(lossless_size(payload));
                }
                // Only the first frame is decoded.
                b"ANMF" if !self.animated => {
                    self.animated = true;
                    self.walk(payload.get(FRAME_HEADER..)?)?;
                }
                _ => {}
            }
            // Chunks have even lengths; the last one's padding may be missing.
            chunks = rest.get(length + length % 2..).unwrap_or_default();
        }
        Some(())
    }

    /// The file without the flags of missing chunks.
    fn corrected(&self) -> Cow<'a, [u8]> {
        let Some(flags) = self.file.get(FLAGS_AT).filter(|_| self.extended) else {
            return Cow::Borrowed(self.file);
        };
        let mut false_flags = 0;
        if self.exif.is_none() {
            false_flags |= EXIF;
        }
        if !self.xmp {
            false_flags |= XMP;
        }
        if !self.alpha && !self.animated {
            false_flags |= ALPHA;
        }
        if flags & false_flags == 0 {
            return Cow::Borrowed(self.file);
        }
        let mut corrected = self.file.to_vec();
        corrected[FLAGS_AT] &= !false_flags;
        Cow::Owned(corrected)
    }
}

/// RFC 6386, section 9.1: a key frame's tag, start code, 14-bit width and height.
fn lossy_size(payload: &[u8]) -> Option<Size> {
    let [w0, w1, h0, h1] = *payload.get(6..)?.first_chunk()?;
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some(Size { width: side(w0, w1), height: side(h0, h1) })
}

/// RFC 9649, section 3.4: a signature byte, then 14-bit width - 1 and height - 1.
fn lossless_size(payload: &[u8]) -> Option<Size> {
    let bits = u32::from_le_bytes(*payload.get(1..)?.first_chunk()?);
    Some(Size { width: (bits & 0x3fff) + 1, height: (bits >> 14 & 0x3fff) + 1 })
}
