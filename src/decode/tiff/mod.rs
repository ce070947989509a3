//! TIFF. What the samples mean is decided here, by the kinds that Pillow knows; the `tiff` crate reads them as mere numbers.

mod directory;

use std::io::Cursor;

use ::tiff::decoder::{Decoder, DecodingResult};
use ::tiff::{TiffError, TiffUnsupportedError};

use self::directory::{Directory, damaged};
use super::raster::{Limits, Raster, Samples, WORKING_MEMORY, gathered, spread, unpacked};
use super::{Error, Format, Size, exif};

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const SAMPLES: u16 = 277;
const PLANAR: u16 = 284;
const COLOR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const ORIENTATION: u16 = 274;
const XMP: u16 = 700;

/// `PhotometricInterpretation` of grey whose zero is black.
const BLACK_IS_ZERO: u16 = 1;
/// Most pixels of a tile, unless the image has more: tiles are larger than small images.
const TILE_PIXELS: u64 = 1 << 24;

/// Extra samples that an error shows.
const MOST_SHOWN: usize = 8;

/// What a pixel's samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Grey {
        inverted: bool,
    },
    GreyAlpha,
    Palette,
    Rgb,
    Rgba,
    /// Colour that is already multiplied by alpha.
    Premultiplied,
    Cmyk,
}

/// What the tags say of the pixels.
struct Layout<'a> {
    directory: Directory<'a>,
    size: Size,
    meaning: Meaning,
    bits: u8,
    /// Of a pixel, those without meaning too.
    samples: usize,
    planar: bool,
}

/// The size that the tags say, checked.
pub(super) fn measure(bytes: &[u8], limits: &Limits) -> Result<Size, Error> {
    Ok(Layout::read(bytes, limits)?.size)
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, Error> {
    let layout = Layout::read(bytes, limits)?;
    let numbers = layout.numbers()?;
    let samples = layout.samples(numbers)?;
    let directory = &layout.directory;
    let turned =
        exif::by_number(directory.number_of(ORIENTATION)?.map(|number| number as u32), directory.bytes_of(XMP));
    Ok(Raster { size: layout.size, format: Format::Tiff, samples, orientation: turned, missing: 0.0 })
}

impl<'a> Layout<'a> {
    fn read(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let directory = Directory::read(bytes)?;
        let number = |tag, missing| Ok::<_, Error>(directory.number_of(tag)?.unwrap_or(missing));
        let length = |tag| Ok::<_, Error>(u32::try_from(number(tag, 0)?).unwrap_or(u32::MAX));
        let size = Size { width: length(WIDTH)?, height: length(HEIGHT)? };
        limits.check(Format::Tiff, size)?;
        let tile = number(TILE_WIDTH, 1)?.saturating_mul(number(TILE_HEIGHT, 1)?);
        if tile > size.pixels().max(TILE_PIXELS) {
            return Err(damaged(format!("its tiles have {tile} pixels")));
        }
        if number(FILL_ORDER, 1)? != 1 {
            return Err(variant("bits in reverse order"));
        }
        match number(COMPRESSION, 1)? {
            // Of their own sizes, and with their own colours.
            6 | 7 => return Err(variant("it holds JPEGs")),
            _ => {}
        }
        let formats = directory.numbers(SAMPLE_FORMAT)?;
        if formats.contains(&3) {
            return Err(variant("floating-point samples"));
        }
        if formats.iter().any(|format| *format != 1) {
            return Err(variant("samples that are not whole positive numbers"));
        }
        let samples = number(SAMPLES, 1)? as usize;
        let listed = directory.numbers(BITS)?;
        let bits = listed.first().copied().unwrap_or(1);
        if (listed.len() > 1 && listed.len() < samples) || listed.iter().take(samples).any(|other| *other != bits) {
            return Err(variant("samples of several depths"));
        }
        let extra = directory.numbers(EXTRA_SAMPLES)?;
        let photometric =
            directory.number_of(PHOTOMETRIC)?.ok_or_else(|| variant("it does not say what its samples mean"))?;
        let meaning = meaning(photometric, bits, samples, &extra).ok_or_else(|| {
            variant(format!(
                "{samples} samples of {bits} bits, interpretation {photometric}, extra samples {:?}",
                extra.get(..MOST_SHOWN).unwrap_or(&extra)
            ))
        })?;
        let planar = samples > 1 && number(PLANAR, 1)? == 2;
        // Pillow takes other planes for something else.
        if planar && !(bits == 8 && matches!(meaning, Meaning::Rgb | Meaning::Rgba | Meaning::Cmyk) && extra.len() < 2)
        {
            return Err(variant(format!("planes of {meaning:?} samples of {bits} bits")));
        }
        Ok(Self { directory, size, meaning, bits: bits as u8, samples, planar })
    }

    /// The samples as the file has them, rows of bits filled up to whole bytes.
    fn numbers(&self) -> Result<DecodingResult, Error> {
        // As grey they are not changed, whatever their number.
        let file = self.directory.alone(PHOTOMETRIC, BLACK_IS_ZERO);
        let file = file.ok_or_else(|| damaged("the interpretation of its samples cannot be read"))?;
        let mut limits = ::tiff::decoder::Limits::default();
        let row = (self.size.width as usize * self.samples * usize::from(self.bits)).div_ceil(8);
        limits.decoding_buffer_size = row * self.size.height as usize;
        limits.intermediate_buffer_size = limits.decoding_buffer_size.saturating_add(WORKING_MEMORY as usize);
        let decoder = Decoder::new(Cursor::new(file)).map_err(|error| decoder_error(&error))?;
        let mut numbers = DecodingResult::U8(Vec::new());
        let layout =
            decoder.with_limits(limits).read_image_to_buffer(&mut numbers).map_err(|error| decoder_error(&error))?;
        if numbers.as_buffer(0).as_bytes().len() < layout.complete_len {
            return Err(damaged("its planes are too large"));
        }
        Ok(numbers)
    }

    fn samples(&self, numbers: DecodingResult) -> Result<Samples, Error> {
        let bytes = match (numbers, self.meaning) {
            (DecodingResult::U16(grey), Meaning::Grey { .. }) => return Ok(Samples::Grey16(grey)),
            // Colour keeps its high bytes.
            (DecodingResult::U16(words), _) => words.iter().map(|word| (word >> 8) as u8).collect(),
            (DecodingResult::U8(bytes), _) => bytes,
            _ => return Err(variant("samples that are not whole positive numbers")),
        };
        let bytes = if self.planar { self.interleaved(&bytes) } else { bytes };
        let size = self.size;
        let pixels = || bytes.chunks_exact(self.samples);
        let four = || pixels().map(|pixel| [pixel[0], pixel[1], pixel[2], pixel[3]]);
        Ok(match self.meaning {
            Meaning::Grey { inverted } => {
                let most = (255u16 >> (8 - self.bits)) as u8;
                let spread = |value: u8| [(value * (255 / most)) ^ if inverted { 255 } else { 0 }];
                Samples::Grey8(gathered(size, self.values(&bytes).map(spread)))
            }
            Meaning::GreyAlpha => Samples::Rgba8(spread(&bytes)),
            Meaning::Palette => {
                let colors = self.palette()?;
                Samples::Rgb8(gathered(size, self.values(&bytes).map(|index| colors[usize::from(index)])))
            }
            Meaning::Rgb => Samples::Rgb8(gathered(size, pixels().map(|pixel| [pixel[0], pixel[1], pixel[2]]))),
            Meaning::Rgba => Samples::Rgba8(gathered(size, four())),
            Meaning::Premultiplied => Samples::Rgba8(gathered(size, four().map(divided))),
            Meaning::Cmyk => Samples::Rgb8(gathered(size, four().map(rgb))),
        })
    }

    /// Single samples of up to eight bits.
    fn values(&self, bytes: &[u8]) -> impl Iterator<Item = u8> {
        let (width, bits) = (self.size.width as usize, usize::from(self.bits));
        unpacked(bytes.chunks_exact((width * bits).div_ceil(8)), width, bits)
    }

    /// One plane after the other to one pixel after the other.
    fn interleaved(&self, planes: &[u8]) -> Vec<u8> {
        let pixels = self.size.pixels() as usize;
        let mut bytes = Vec::with_capacity(pixels * self.samples);
        for pixel in 0..pixels {
            bytes.extend((0..self.samples).map(|plane| planes[plane * pixels + pixel]));
        }
        bytes
    }

    /// The colours, red first, then green, then blue, of which the high bytes count. What the file does not have is black.
    fn palette(&self) -> Result<[[u8; 3]; 256], Error> {
        let listed = self.directory.numbers(COLOR_MAP)?;
        let count = listed.len() / 3;
        let mut colors = [[0; 3]; 256];
        if count == 0 || count > colors.len() {
            return Err(damaged(format!("a palette of {count} colours")));
        }
        for (index, color) in colors.iter_mut().enumerate().take(count) {
            *color = [0, 1, 2].map(|channel| (listed[channel * count + index] >> 8) as u8);
        }
        Ok(colors)
    }
}

/// The meanings that Pillow knows; the extra samples say which they are.
fn meaning(photometric: u64, bits: u64, samples: usize, extra: &[u64]) -> Option<Meaning> {
    Some(match (photometric, bits, samples, extra) {
        // Pillow does not turn 16-bit samples round, and so does not know what zero means.
        (0, 1 | 2 | 4 | 8, 1, []) => Meaning::Grey { inverted: true },
        (1, 1 | 2 | 4 | 8 | 16, 1, []) => Meaning::Grey { inverted: false },
        (1, 8, 2, [2]) => Meaning::GreyAlpha,
        (2, 8 | 16, 3, []) | (2, 8 | 16, 4, [0]) | (2, 8, 5, [0, 0]) | (2, 8, 6, [0, 0, 0]) => Meaning::Rgb,
        // Corel Draw writes 999.
        (2, 8 | 16, 4, [] | [2]) | (2, 8, 4, [999]) | (2, 8, 5, [2, 0]) | (2, 8, 6, [2, 0, 0]) => Meaning::Rgba,
        (2, 8 | 16, 4, [1]) | (2, 8, 5, [1, 0]) | (2, 8, 6, [1, 0, 0]) => Meaning::Premultiplied,
        (3, 1 | 2 | 4 | 8, 1, []) => Meaning::Palette,
        (5, 8 | 16, 4, []) | (5, 8, 5, [0]) | (5, 8, 6, [0, 0]) => Meaning::Cmyk,
        _ => return None,
    })
}

/// Pillow's `unpackRGBa`: without rounding.
fn divided([r, g, b, alpha]: [u8; 4]) -> [u8; 4] {
    if alpha == 0 {
        return [0; 4];
    }
    let [r, g, b] = [r, g, b].map(|value| (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8);
    [r, g, b, alpha]
}

/// Pillow's `cmyk2rgb`: black is taken off, and so is each ink in proportion.
fn rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

fn variant(reason: impl Into<String>) -> Error {
    Error::Variant { format: Format::Tiff, reason: reason.into() }
}

fn decoder_error(error: &TiffError) -> Error {
    match error {
        TiffError::UnsupportedError(TiffUnsupportedError::UnsupportedCompressionMethod(method)) => {
            variant(format!("compressed by {method:?}"))
        }
        TiffError::UnsupportedError(_) => variant(error.to_string()),
        _ => damaged(error.to_string()),
    }
}
