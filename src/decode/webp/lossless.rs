//! A lossless image (RFC 9649, section 3) as far as its prefix codes reach. The decoder allocates tables for as many groups of
//! codes as the image asks for, which a few bytes can do a million times; so they are counted before it sees them.

use super::super::Error;
use super::super::format::Size;
use super::super::raster::WORKING_MEMORY;
use super::bits::{Bits, Code, Lengths};
use super::container::damaged;

/// Most groups of codes. Encoders stay below 2,600, the most blocks that libwebp's makes.
const MOST_GROUPS: usize = 4096;
/// The alphabets of one group: green with the lengths of copies, red, blue, alpha, distances.
const ALPHABETS: [usize; 5] = [256 + LENGTHS, 256, 256, 256, 40];
const LENGTHS: usize = 24;
/// Symbols of the first alphabet from here on are places of the colour cache.
const CACHED: u32 = 256 + LENGTHS as u32;

/// Checks the payload of a VP8L chunk.
pub(super) fn check_image(payload: &[u8], size: Size) -> Result<(), Error> {
    let mut bits = Bits::new(payload);
    let signature = bits.read(8)?;
    // Width, height and whether alpha is used have been read before.
    bits.read(29)?;
    let version = bits.read(3)?;
    if signature != 0x2f || version != 0 {
        return Err(damaged("it does not begin as a lossless image does"));
    }
    check(&mut bits, size)
}

/// Checks the lossless image of an ALPH chunk, which has no header.
pub(super) fn check_alpha(payload: &[u8], size: Size) -> Result<(), Error> {
    check(&mut Bits::new(payload), size)
}

fn check(bits: &mut Bits<'_>, size: Size) -> Result<(), Error> {
    let (mut width, height) = (size.width, size.height);
    let mut seen = [false; 4];
    while bits.flag()? {
        let kind = bits.read(2)? as usize;
        if std::mem::replace(&mut seen[kind], true) {
            return Err(damaged("it has a transform twice"));
        }
        match kind {
            0 | 1 => {
                let block = bits.read(3)? + 2;
                SubImage::new(blocks(width, block), blocks(height, block)).read(bits)?;
            }
            2 => {}
            _ => {
                let colors = bits.read(8)? + 1;
                SubImage::new(colors, 1).read(bits)?;
                // Several indices share a pixel.
                width = match colors {
                    0..=2 => blocks(width, 3),
                    3..=4 => blocks(width, 2),
                    5..=16 => blocks(width, 1),
                    _ => width,
                };
            }
        }
    }
    let cache = cache_bits(bits)?;
    let groups = if bits.flag()? {
        let block = bits.read(3)? + 2;
        let entropy = SubImage::new(blocks(width, block), blocks(height, block));
        let pixels = entropy.pixels;
        let groups = entropy.read(bits)?.into_iter().map(|pixel| (pixel >> 8 & 0xffff) as usize + 1).max();
        let groups = groups.unwrap_or(1);
        if groups > pixels || groups > MOST_GROUPS {
            return Err(damaged(format!("it has {groups} groups of prefix codes for {pixels} blocks")));
        }
        groups
    } else {
        1
    };
    let mut memory = 0;
    for _ in 0..groups {
        for lengths in group(bits, cache)? {
            memory += lengths.memory();
        }
        if memory > WORKING_MEMORY {
            return Err(damaged(format!("its {groups} groups of prefix codes are too large")));
        }
    }
    Ok(())
}

/// The number of blocks of `1 << bits` along a side.
fn blocks(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

fn cache_bits(bits: &mut Bits<'_>) -> Result<usize, Error> {
    if !bits.flag()? {
        return Ok(0);
    }
    match bits.read(4)? {
        count @ 1..=11 => Ok(count as usize),
        count => Err(damaged(format!("it has a colour cache of {count} bits"))),
    }
}

/// The five codes of a group.
fn group(bits: &mut Bits<'_>, cache: usize) -> Result<[Lengths; 5], Error> {
    let extra = if cache > 0 { 1 << cache } else { 0 };
    let [green, red, blue, alpha, distance] = ALPHABETS;
    Ok([
        Lengths::read(bits, green + extra)?,
        Lengths::read(bits, red)?,
        Lengths::read(bits, blue)?,
        Lengths::read(bits, alpha)?,
        Lengths::read(bits, distance)?,
    ])
}

/// An image within the image, which has one group of codes: of at most a sixteenth of its pixels.
struct SubImage {
    width: u32,
    pixels: usize,
}

impl SubImage {
    fn new(width: u32, height: u32) -> Self {
        Self { width, pixels: width as usize * height as usize }
    }

    /// Alpha, red, green and blue of each pixel.
    fn read(&self, bits: &mut Bits<'_>) -> Result<Vec<u32>, Error> {
        let cache_bits = cache_bits(bits)?;
        let mut cache = vec![0; if cache_bits > 0 { 1 << cache_bits } else { 0 }];
        let place = |pixel: u32| (pixel.wrapping_mul(0x1e35_a7bd) >> (32 - cache_bits)) as usize;
        let codes = group(bits, cache_bits)?;
        let [green, red, blue, alpha, distances] = codes.each_ref().map(Lengths::code);
        let (green, red, blue, alpha, distances) = (green?, red?, blue?, alpha?, distances?);
        let mut pixels: Vec<u32> = Vec::with_capacity(self.pixels);
        while pixels.len() < self.pixels {
            let first = green.read(bits)?;
            let begin = pixels.len();
            if first < 256 {
                let (red, blue, alpha) = (red.read(bits)?, blue.read(bits)?, alpha.read(bits)?);
                pixels.push(alpha << 24 | red << 16 | first << 8 | blue);
            } else if first < CACHED {
                let length = copied(bits, first - 256)?;
                let distance = self.distance(bits, &distances)?;
                if distance > begin || length > self.pixels - begin {
                    return Err(damaged("it copies pixels that there are not"));
                }
                for _ in 0..length {
                    pixels.push(pixels[pixels.len() - distance]);
                }
            } else {
                pixels.push(cache[(first - CACHED) as usize]);
            }
            if cache_bits > 0 {
                for pixel in &pixels[begin..] {
                    cache[place(*pixel)] = *pixel;
                }
            }
        }
        Ok(pixels)
    }

    /// How far back pixels are copied from. The shortest distances mean the nearest pixels of the rows above (section 3.6.2.2).
    fn distance(&self, bits: &mut Bits<'_>, code: &Code) -> Result<usize, Error> {
        let symbol = code.read(bits)?;
        let distance = copied(bits, symbol)?;
        let Some((x, y)) = NEAREST.get(distance - 1) else { return Ok(distance - NEAREST.len()) };
        Ok((i64::from(*x) + i64::from(*y) * i64::from(self.width)).max(1) as usize)
    }
}

/// A length or distance by its symbol and the bits after it.
fn copied(bits: &mut Bits<'_>, symbol: u32) -> Result<usize, Error> {
    if symbol < 4 {
        return Ok(symbol as usize + 1);
    }
    let extra = (symbol as usize - 2) >> 1;
    let base = (2 + (symbol as usize & 1)) << extra;
    Ok(base + bits.read(extra)? as usize + 1)
}

/// To the left, and up, of the pixels that the first distances mean.
#[rustfmt::skip]
const NEAREST: [(i8, i8); 120] = [
    (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1), (2, 2), (-2, 2),
    (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3), (3, 2), (-3, 2), (0, 4), (4, 0),
    (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3), (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4),
    (-3, 4), (4, 3), (-4, 3), (5, 0), (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2),
    (4, 4), (-4, 4), (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
    (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6), (6, 3), (-6, 3),
    (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1), (4, 6), (-4, 6), (6, 4), (-6, 4),
    (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7), (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5),
    (8, 0), (4, 7), (-4, 7), (7, 4), (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7),
    (7, 5), (-7, 5), (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
];
