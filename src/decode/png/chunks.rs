//! The chunks of a PNG that decide about its pixels: those before the image data, the image data, and the metadata after them.
//!
//! As tolerant as Pillow and browsers: the file may end after the image data, and what follows them may be damaged.

use super::super::format::{Format, Size};
use super::super::raster::{Limits, malformed};
use super::super::{Error, exif};
use super::text;
use image::metadata::Orientation;

/// The signature at the beginning.
const SIGNATURE: usize = 8;
/// Bytes of a header chunk, and where it starts.
const HEADER: usize = 13;
const HEADER_AT: usize = SIGNATURE + 8;

/// What a file says of its pixels.
pub(super) struct File<'a> {
    /// The whole header chunk, without its checksum.
    pub(super) header: [u8; HEADER],
    pub(super) palette: Option<&'a [u8]>,
    pub(super) transparency: Option<&'a [u8]>,
    /// From the first chunk of image data.
    data: Chunks<'a>,
    exif: Option<&'a [u8]>,
    profile: Option<text::Text<'a>>,
    xmp: Option<text::Text<'a>>,
}

impl<'a> File<'a> {
    /// Finds the chunks; whatever is not needed is passed over.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let header = bytes.get(HEADER_AT..).and_then(<[u8]>::first_chunk);
        let header = *header.ok_or_else(|| damaged("it does not begin with a header"))?;
        let mut chunks = Chunks { rest: &bytes[SIGNATURE..] };
        let mut file = Self {
            header,
            palette: None,
            transparency: None,
            data: chunks.clone(),
            exif: None,
            profile: None,
            xmp: None,
        };
        let mut frames = None;
        let mut cover = true;
        loop {
            file.data = chunks.clone();
            let chunk = chunks.next().ok_or_else(|| damaged("the file ends before the image does"))?;
            match &chunk.kind {
                b"IDAT" => break,
                b"IEND" => return Err(damaged("it has no image data")),
                _ if !chunk.kind.iter().all(u8::is_ascii_alphanumeric) => {
                    return Err(damaged("it has a chunk without a name"));
                }
                b"IHDR" | b"PLTE" | b"tRNS" if !chunk.is_intact() => {
                    return Err(damaged(format!("the checksum of {} is wrong", name(chunk.kind))));
                }
                // Of an animation whose first frame is the image data; it then fills the canvas.
                b"fcTL" if chunk.is_intact() => {
                    let whole = [&header[..8], &[0; 8]].concat();
                    cover = false;
                    if chunk.payload.get(4..20) != Some(&whole) {
                        return Err(damaged("the first frame of the animation does not fill the image"));
                    }
                }
                b"acTL" if chunk.is_intact() => frames = chunk.payload.first_chunk().copied().map(u32::from_be_bytes),
                // Other damaged chunks are as if they were not there.
                _ if chunk.is_intact() => file.keep(&chunk)?,
                _ => {}
            }
        }
        // The metadata of an animation end where its second frame begins, or its first one after a cover that is no part of it.
        let animated = frames.is_some_and(|frames| frames > u32::from(!cover));
        let after = chunks.skip_while(|chunk| &chunk.kind == b"IDAT");
        for chunk in after.take_while(|chunk| !(animated && &chunk.kind == b"fcTL") && &chunk.kind != b"IEND") {
            // A palette is too late here.
            if &chunk.kind != b"PLTE" && chunk.is_whole() {
                file.keep(&chunk)?;
            }
        }
        Ok(file)
    }

    fn keep(&mut self, chunk: &Chunk<'a>) -> Result<(), Error> {
        let slot = match &chunk.kind {
            b"PLTE" => &mut self.palette,
            b"tRNS" => &mut self.transparency,
            b"eXIf" => {
                self.exif = Some(chunk.payload);
                return Ok(());
            }
            b"tEXt" | b"zTXt" | b"iTXt" => {
                self.keep_text(chunk);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if slot.replace(chunk.payload).is_some() {
            return Err(damaged(format!("it has {} twice", name(chunk.kind))));
        }
        Ok(())
    }

    fn keep_text(&mut self, chunk: &Chunk<'a>) {
        let Some(text) = text::Text::read(chunk.kind, chunk.payload) else { return };
        match text.key {
            b"exif" => self.exif = text.plain().or(self.exif),
            b"Raw profile type exif" => self.profile = Some(text),
            b"XML:com.adobe.xmp" => self.xmp = Some(text),
            _ => {}
        }
    }

    /// The payloads of the image data; the last one may be cut off.
    pub(super) fn data(&self) -> impl Iterator<Item = Chunk<'a>> {
        self.data.clone().take_while(|chunk| &chunk.kind == b"IDAT")
    }

    /// How a viewer turns the image.
    pub(super) fn orientation(&self) -> Orientation {
        let profile = self.profile.as_ref().filter(|_| self.exif.is_none()).and_then(text::Text::profile);
        let xmp = self.xmp.as_ref().and_then(text::Text::content);
        exif::orientation(self.exif.or(profile.as_deref()), xmp.as_deref())
    }
}

/// The size in the header, checked; Apple's variant refused by name.
pub(super) fn size(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    // Written by Xcode for iPhones: without zlib's envelope, blue first, alpha premultiplied. Nothing else shows it.
    if bytes.get(SIGNATURE + 4..HEADER_AT) == Some(b"CgBI") {
        return Err(Error::Variant { format: Format::Png, reason: "Apple's CgBI, made for iPhones".into() });
    }
    let read = || {
        // Length, "IHDR", width, height.
        let header = bytes.get(SIGNATURE + 4..HEADER_AT + 8)?;
        let width = header.strip_prefix(b"IHDR")?.first_chunk()?;
        let height = header.last_chunk()?;
        Some(Size { width: u32::from_be_bytes(*width), height: u32::from_be_bytes(*height) })
    };
    let size = read().ok_or_else(|| damaged("it does not begin with a header"))?;
    limits.check(Format::Png, size)?;
    Ok(size)
}

pub(super) fn damaged(reason: impl Into<String>) -> Error {
    malformed(Format::Png, reason)
}

fn name(kind: [u8; 4]) -> String {
    String::from_utf8_lossy(&kind).into_owned()
}

pub(super) struct Chunk<'a> {
    kind: [u8; 4],
    length: u32,
    /// At most `length` bytes: fewer where the file ends.
    pub(super) payload: &'a [u8],
    checksum: Option<[u8; 4]>,
}

impl Chunk<'_> {
    /// Whether all bytes are there.
    fn is_whole(&self) -> bool {
        self.payload.len() as u64 == u64::from(self.length)
    }

    /// Whether the checksum is right.
    pub(super) fn is_intact(&self) -> bool {
        let mut checksum = flate2::Crc::new();
        checksum.update(&self.kind);
        checksum.update(self.payload);
        self.checksum == Some(checksum.sum().to_be_bytes())
    }
}

#[derive(Clone)]
struct Chunks<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length);
        let (payload, rest) = rest.split_at(rest.len().min(length as usize));
        self.rest = rest.get(4..).unwrap_or_default();
        Some(Chunk { kind: *kind, length, payload, checksum: rest.first_chunk().copied() })
    }
}
