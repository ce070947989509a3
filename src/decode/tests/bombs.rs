//! Small files that ask for much: the memory and the time that they cost are in proportion to their pixels.

use std::time::{Duration, Instant};

use super::hostile::{LIMITS, fixture, peak_memory};
use crate::decode::Error;
use crate::decode::formats::decode;

/// What a refused or decoded small file may cost, and the tests beside it in this process.
const MEMORY: u64 = 512 << 20;
const TIME: Duration = Duration::from_secs(10);

/// Decodes within bounds of memory and time.
fn bounded(name: &str, file: &[u8]) -> Result<(), Error> {
    let (before, start) = (peak_memory(), Instant::now());
    let result = decode(file, &LIMITS).map(drop);
    let (grown, took) = (peak_memory() - before, start.elapsed());
    assert!(grown < MEMORY, "{name}: {grown} bytes more");
    assert!(took < TIME, "{name}: {took:?}");
    result
}

fn refused(name: &str, file: &[u8], reason: &str) {
    match bounded(name, file) {
        Err(error @ Error::Malformed { .. }) => {
            assert!(error.to_string().contains(reason), "{name}: {error}, and not: {reason}");
        }
        other => panic!("{name}: {other:?}"),
    }
}

// --- lossless WebP ------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn push(&mut self, value: u32, count: u32) -> &mut Self {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A code of one symbol.
    fn single(&mut self, symbol: u32) -> &mut Self {
        self.push(0b101, 3).push(symbol, 8)
    }

    /// A code of eleven symbols, of 1 to 10 bits: the decoder's table for it is as large as its tables are.
    fn large_table(&mut self) -> &mut Self {
        // The codes of the lengths 1 to 10, first bit lowest.
        const CODES: [(u32, u32); 10] = [
            (0b000, 3),
            (0b100, 3),
            (0b010, 3),
            (0b110, 3),
            (0b001, 3),
            (0b101, 3),
            (0b0011, 4),
            (0b1011, 4),
            (0b0111, 4),
            (0b1111, 4),
        ];
        const ORDER: [u32; 14] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10];
        // Lengths of the codes in which the lengths 1 to 10 are written.
        let length =
            |symbol: u32| [0, 3, 4][usize::from((1..=10).contains(&symbol)) + usize::from((7..=10).contains(&symbol))];
        self.push(0, 1).push(10, 4);
        for symbol in ORDER {
            self.push(length(symbol), 3);
        }
        // Eleven lengths follow.
        self.push(1, 1).push(1, 3).push(9, 4);
        for (code, length) in CODES.into_iter().chain([CODES[9]]) {
            self.push(code, length);
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, bit)| u8::from(*bit) << at).sum();
        self.0.chunks(8).map(byte).collect()
    }
}

/// A lossless image of so many groups of codes; of a header too, if its size is to be said.
fn groups(groups: u32, size: Option<(u32, u32)>, cache_bits: Option<u32>) -> Vec<u8> {
    let mut bits = Bits::default();
    if let Some((width, height)) = size {
        bits.push(0x2f, 8).push(width - 1, 14).push(height - 1, 14).push(1, 1).push(0, 3);
    }
    bits.push(0, 1);
    match cache_bits {
        None => bits.push(0, 1),
        Some(count) => bits.push(1, 1).push(count, 4),
    };
    // Blocks of 4 x 4 pixels, all of which ask for the last group.
    let last = groups - 1;
    bits.push(1, 1).push(0, 3).push(0, 1).single(last & 255).single(last >> 8).single(0).single(0).single(0);
    for _ in 0..groups * 5 {
        bits.large_table();
    }
    bits.push(0, 31).push(0, 31);
    bits.bytes()
}

fn chunk(kind: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let padding = &[0][..payload.len() % 2];
    [&kind[..], &(payload.len() as u32).to_le_bytes(), payload, padding].concat()
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(*b"RIFF", &[&b"WEBP"[..], &chunks.concat()].concat())
}

/// The header of an extended file.
fn extended(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let [[w0, w1, w2, _], [h0, h1, h2, _]] = [width - 1, height - 1].map(u32::to_le_bytes);
    chunk(*b"VP8X", &[flags, 0, 0, 0, w0, w1, w2, h0, h1, h2])
}

#[test]
fn lossless_webp_does_not_ask_for_more_codes_than_it_has_blocks() {
    for cache_bits in [None, Some(1), Some(11)] {
        for count in [2, 4096, 65_536] {
            let bomb = webp(&[chunk(*b"VP8L", &groups(count, Some((1, 1)), cache_bits))]);
            refused("1 x 1", &bomb, &format!("{count} groups of prefix codes for 1 blocks"));
        }
        // Each group may have a block, but not so many groups.
        let bomb = webp(&[chunk(*b"VP8L", &groups(5000, Some((512, 512)), cache_bits))]);
        refused("512 x 512", &bomb, "5000 groups of prefix codes for 16384 blocks");
        // Or each is too large.
        let bomb = webp(&[chunk(*b"VP8L", &groups(4000, Some((512, 512)), cache_bits))]);
        refused("large tables", &bomb, "its 4000 groups of prefix codes are too large");
        // As many as the most diligent encoder makes.
        let codes = [groups(2600, Some((512, 512)), cache_bits), vec![0; 512 * 512 * 2]].concat();
        let image = webp(&[chunk(*b"VP8L", &codes)]);
        bounded("2600 groups", &image).unwrap();
    }
}

#[test]
fn codes_are_counted_in_alpha_and_in_frames_too() {
    let lossy = fixture("lossy-alpha.webp");
    let at = lossy.windows(4).position(|kind| kind == b"VP8 ").unwrap();
    let (bitstream, alpha) = (lossy[at..].to_vec(), [&[1][..], &groups(65_536, None, None)].concat());
    let bomb = webp(&[extended(0x10, 96, 64), chunk(*b"ALPH", &alpha), bitstream.clone()]);
    refused("alpha", &bomb, "65536 groups of prefix codes for 384 blocks");
    // Without the flag it is not decoded.
    let ignored = webp(&[extended(0, 96, 64), chunk(*b"ALPH", &alpha), bitstream]);
    bounded("alpha that does not count", &ignored).unwrap();

    let frame = [&[0; 16][..], &chunk(*b"VP8L", &groups(65_536, Some((1, 1)), None))].concat();
    let bomb = webp(&[extended(0x12, 1, 1), chunk(*b"ANIM", &[0; 6]), chunk(*b"ANMF", &frame)]);
    refused("frame", &bomb, "65536 groups of prefix codes for 1 blocks");
}

#[test]
fn lossless_webp_has_each_transform_once_and_a_colour_cache_of_few_bits() {
    let image = |rest: &dyn Fn(&mut Bits)| {
        let mut bits = Bits::default();
        bits.push(0x2f, 8).push(0, 28).push(0, 4);
        rest(&mut bits);
        bits.push(0, 31).push(0, 31);
        webp(&[chunk(*b"VP8L", &bits.bytes())])
    };
    // Twice the subtraction of green, which has no data.
    refused(
        "transforms",
        &image(&|bits| {
            bits.push(0b101, 3).push(0b101, 3);
        }),
        "a transform twice",
    );
    for count in [0, 12, 15] {
        let bomb = image(&|bits| {
            bits.push(0, 1).push(1, 1).push(count, 4);
        });
        refused("cache", &bomb, &format!("a colour cache of {count} bits"));
    }
}

#[test]
fn many_chunks_cost_no_more_than_their_bytes() {
    let lossy = fixture("lossy.webp")[12..].to_vec();
    let empty = chunk(*b"ABCD", &[]).repeat(1_000_000);
    bounded("chunks", &webp(&[extended(0, 320, 240), empty, lossy])).unwrap();
    let frames = chunk(*b"ANMF", &[0; 16]).repeat(500_000);
    let bomb = webp(&[extended(2, 320, 240), chunk(*b"ANIM", &[0; 6]), frames]);
    refused("frames", &bomb, "it has no image");
    // Blocks of pixels that are empty, extensions that are empty.
    let gif = fixture("plain.gif");
    let table = 13 + (3 << ((gif[10] & 7) + 1));
    let extensions = [0x21, 0xfe, 0].repeat(1_000_000);
    bounded("extensions", &[&gif[..table], &extensions, &gif[table..]].concat()).unwrap();
    let png = fixture("rgb.png");
    let header = 33;
    let empty = [0, 0, 0, 0, b'I', b'D', b'A', b'T', 0x35, 0xaf, 0x06, 0x1e].repeat(1_000_000);
    bounded("image data", &[&png[..header], &empty, &png[header..]].concat()).unwrap();
}

// --- BMP and TIFF -------------------------------------------------------------------------------------------------------

/// A bitmap of run lengths with a palette of 256 colours.
fn run_lengths(width: i32, height: i32, runs: &[u8]) -> Vec<u8> {
    let info = [40, width as u32, height as u32, 1 | 8 << 16, 1, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat();
    let header = [&b"BM"[..], &[0; 8], &(54u32 + 1024).to_le_bytes()].concat();
    let palette = [7; 1024];
    [&header, &info, &palette[..], runs].concat()
}

#[test]
fn run_lengths_end_where_the_image_does() {
    refused("empty", &run_lengths(1000, 1000, &[]), "the file ends before the image does");
    refused("end at once", &run_lengths(1000, 1000, &[0, 1]), "the file ends before the image does");
    bounded("too many rows", &run_lengths(1000, 2, &[255, 3, 255, 3, 255, 3, 255, 3, 0, 0].repeat(100_000))).unwrap();
    // Ends of lines where a line has just ended set no pixels.
    refused("lines", &run_lengths(1000, 1000, &[0, 0].repeat(1_000_000)), "the file ends before the image does");
}

#[test]
fn directories_and_tiles_of_tiff_are_bounded() {
    let tiff = fixture("rgb.tiff");
    let directory = u32::from_le_bytes([tiff[4], tiff[5], tiff[6], tiff[7]]) as usize;
    let count = usize::from(u16::from_le_bytes([tiff[directory], tiff[directory + 1]]));
    let entry = |tag: u16| {
        (0..count).map(|index| directory + 2 + 12 * index).find(|at| tiff[*at..*at + 2] == tag.to_le_bytes()).unwrap()
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = tiff.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // The next directory is the first one again.
    bounded("circle", &patched(directory + 2 + 12 * count, &(directory as u32).to_le_bytes())).unwrap();
    refused("directory", &patched(directory, &[0xff, 0xff]), "its directory is cut off");
    let strips = patched(entry(273) + 4, &u32::MAX.to_le_bytes());
    assert!(matches!(bounded("strips", &strips), Err(Error::Malformed { format: "tiff", .. })));
    // Tags of rows per strip and of compression become those of a huge tile.
    let mut tiles = patched(entry(278), &[322u16.to_le_bytes(), 4u16.to_le_bytes()].concat());
    tiles[entry(278) + 8..][..4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    refused("tiles", &tiles, "its tiles have 2147483648 pixels");
}
