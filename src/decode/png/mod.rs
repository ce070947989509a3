//! PNG. The chunks are read here, and the `png` crate sees a file of the header and the image data alone: it panics on palettes
//! of a wrong length, needs the end of the file, and refuses metadata that are merely odd. Palettes and transparent colours are
//! applied as Pillow applies them.

mod chunks;
mod text;

use std::io::Cursor;

use ::png::{ColorType, DecodeOptions, Decoder, DecodingError};
use flate2::{Decompress, FlushDecompress, Status};

use self::chunks::{File, damaged};
use super::raster::{Limits, Raster, Samples, gathered, spread, unpacked};
use super::{Error, Format, Size};

/// Alpha where nothing is transparent.
const OPAQUE: u8 = 255;

/// The size in the header, checked.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    chunks::size(bytes, limits)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let size = chunks::size(bytes, limits)?;
    let file = File::read(bytes)?;
    if file.data().any(|chunk| !chunk.is_intact()) {
        check_data(&file, size)?;
    }
    let packed = unfiltered(&file, size)?;
    let samples = samples(&file, size, packed)?;
    Ok(Raster { size, format: Format::Png, samples, orientation: file.orientation(), missing: 0.0 })
}

/// Samples as the file packs them.
struct Packed {
    color: ColorType,
    depth: u8,
    bytes: Vec<u8>,
}

impl Packed {
    /// Values of up to eight bits.
    fn values(&self, size: Size) -> impl Iterator<Item = u8> {
        let (width, depth) = (size.width as usize, usize::from(self.depth));
        unpacked(self.bytes.chunks_exact((width * depth).div_ceil(8)), width, depth)
    }
}

/// The image data without compression, filters and interlacing.
fn unfiltered(file: &File<'_>, size: Size) -> Result<Packed, Error> {
    let mut options = DecodeOptions::default();
    options.set_ignore_checksums(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(rewritten(file)), options);
    // Nothing but rows is left to be allocated.
    decoder.set_limits(::png::Limits { bytes: size.memory() as usize });
    let mut reader = decoder.read_info().map_err(|error| decoder_error(&error))?;
    let (color, depth) = reader.output_color_type();
    let length = reader.output_buffer_size().ok_or_else(|| damaged("its rows are too long"))?;
    let mut bytes = vec![0; length];
    reader.next_frame(&mut bytes).map_err(|error| decoder_error(&error))?;
    Ok(Packed { color, depth: depth as u8, bytes })
}

/// A file of the header, the image data and an end. Checksums are left out; they are not read.
fn rewritten(file: &File<'_>) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    const FRAMING: usize = 12;
    // As large as it gets: a vector that grows takes twice as much.
    let data: usize = file.data().map(|data| data.payload.len() + FRAMING).sum();
    let mut all = Vec::with_capacity(SIGNATURE.len() + file.header.len() + data + 2 * FRAMING);
    all.extend(SIGNATURE);
    let mut chunk = |kind: &[u8; 4], payload: &[u8]| {
        all.extend((payload.len() as u32).to_be_bytes());
        all.extend(kind);
        all.extend(payload);
        all.extend([0; 4]);
    };
    chunk(b"IHDR", &file.header);
    for data in file.data() {
        chunk(b"IDAT", data.payload);
    }
    chunk(b"IEND", &[]);
    all
}

/// Where the checksum of a chunk is wrong or cut off, that of the compressed data decides, as with Pillow, which reads no other.
fn check_data(file: &File<'_>, size: Size) -> Result<(), Error> {
    // No image has more bytes: filter bytes of up to seven passes, and 16-bit RGBA.
    let most = size.memory();
    let mut inflate = Decompress::new(true);
    let mut buffer = vec![0; 1 << 16];
    for chunk in file.data() {
        let mut rest = chunk.payload;
        while !rest.is_empty() {
            let before = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(rest, &mut buffer, FlushDecompress::None)
                .map_err(|error| damaged(format!("the image data are corrupt: {error}")))?;
            rest = &rest[(inflate.total_in() - before.0) as usize..];
            let stuck = before == (inflate.total_in(), inflate.total_out());
            if status == Status::StreamEnd || stuck || inflate.total_out() > most {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Packed samples to one of the layouts, by Pillow's rules.
fn samples(file: &File<'_>, size: Size, packed: Packed) -> Result<Samples, Error> {
    let transparency = file.transparency;
    let depth = packed.depth;
    Ok(match (packed.color, depth) {
        // Pillow's mode for it has no transparent colour.
        (ColorType::Grayscale, 16) => {
            transparency.map(keys::<1>).transpose()?;
            Samples::Grey16(packed.bytes.as_chunks::<2>().0.iter().map(|word| u16::from_be_bytes(*word)).collect())
        }
        (ColorType::Grayscale, _) => {
            let key = transparency.map(keys::<1>).transpose()?;
            // Of two values, any but 0 is white; other values are compared after they are spread to 0..=255.
            let key = key.map(|[key]| if depth == 1 && key != 0 { 255 } else { key as u8 });
            let scale = 255 / ((1u16 << depth) - 1) as u8;
            let grey = packed.values(size).map(move |value| value * scale);
            match key {
                None => Samples::Grey8(gathered(size, grey.map(|grey| [grey]))),
                Some(key) => Samples::Rgba8(gathered(
                    size,
                    grey.map(|grey| [grey, grey, grey, if grey == key { 0 } else { OPAQUE }]),
                )),
            }
        }
        (ColorType::Rgb, _) => {
            let key = transparency.map(keys::<3>).transpose()?;
            let rgb = if depth == 16 { high_bytes(&packed.bytes) } else { packed.bytes };
            match key {
                None => Samples::Rgb8(rgb),
                Some(key) => {
                    // The low bytes, also of 16-bit samples, which have been reduced to their high bytes by then.
                    let key = key.map(|value| value as u8);
                    let pixels = rgb.as_chunks::<3>().0.iter();
                    Samples::Rgba8(gathered(
                        size,
                        pixels.map(|rgb| [rgb[0], rgb[1], rgb[2], if *rgb == key { 0 } else { OPAQUE }]),
                    ))
                }
            }
        }
        (ColorType::Indexed, _) => {
            let palette = Palette::read(file)?;
            let indices = packed.values(size);
            if transparency.is_some() {
                Samples::Rgba8(gathered(size, indices.map(|index| palette.colors[usize::from(index)])))
            } else {
                Samples::Rgb8(gathered(size, indices.map(|index| palette.rgb(index))))
            }
        }
        (ColorType::GrayscaleAlpha, 16) => Samples::Rgba8(spread(&high_bytes(&packed.bytes))),
        (ColorType::GrayscaleAlpha, _) => Samples::Rgba8(spread(&packed.bytes)),
        (ColorType::Rgba, 16) => Samples::Rgba8(high_bytes(&packed.bytes)),
        (ColorType::Rgba, _) => Samples::Rgba8(packed.bytes),
    })
}

/// 16-bit samples without their low bytes.
fn high_bytes(bytes: &[u8]) -> Vec<u8> {
    bytes.as_chunks::<2>().0.iter().map(|[high, _]| *high).collect()
}

/// The transparent colour of an image without palette.
fn keys<const N: usize>(chunk: &[u8]) -> Result<[u16; N], Error> {
    let words = chunk.as_chunks::<2>().0.first_chunk::<N>();
    let words = words.ok_or_else(|| damaged("its transparent colour is cut off"))?;
    Ok(words.map(u16::from_be_bytes))
}

/// Colours and their alpha. What the file does not have is black and opaque.
struct Palette {
    colors: [[u8; 4]; 256],
}

impl Palette {
    fn read(file: &File<'_>) -> Result<Self, Error> {
        let listed = file.palette.ok_or_else(|| damaged("it has no palette"))?;
        let alphas = file.transparency.unwrap_or_default();
        let mut colors = [[0, 0, 0, OPAQUE]; 256];
        // Bytes after the last whole colour do not count.
        let listed = listed.as_chunks::<3>().0;
        if listed.len() > colors.len() || alphas.len() > colors.len() {
            return Err(damaged("its palette has more than 256 colours"));
        }
        for (color, &[r, g, b]) in colors.iter_mut().zip(listed) {
            *color = [r, g, b, OPAQUE];
        }
        for (color, alpha) in colors.iter_mut().zip(alphas) {
            color[3] = *alpha;
        }
        Ok(Self { colors })
    }

    fn rgb(&self, index: u8) -> [u8; 3] {
        let [r, g, b, _] = self.colors[usize::from(index)];
        [r, g, b]
    }
}

fn decoder_error(error: &DecodingError) -> Error {
    damaged(error.to_string())
}
