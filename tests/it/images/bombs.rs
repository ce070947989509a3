//! Small files that ask for much: the memory of the process that decodes them, and the time, stay within those of an image.

use std::path::Path;
use std::time::{Duration, Instant};

use imgdex::testing::decode::{Preprocess, Sampling, Settings, memory};

use crate::support::bombs::{self, Bits, Bomb, chunk, extended, groups, run_lengths, webp};
use crate::support::decoders::{Observed, settings};

const SAMPLING: Sampling = Sampling { preprocess: Preprocess::Imgdex2, size: 224 };
/// Far more than any of them takes, and far less than a bomb would.
const TIME: Duration = Duration::from_secs(10);

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
}

/// Decodes within bounds of memory and time; the error is what a dead letter would say.
async fn bounded(name: &str, file: &[u8]) -> Result<(), String> {
    let Settings { max_pixels, max_file_bytes, .. } = settings(1);
    let bound = memory(max_pixels, 1, max_file_bytes);
    let stage = Observed::new(1, SAMPLING);
    let peak = stage.peak_memory();
    let start = Instant::now();
    let result = stage.decoder.decode(file.to_vec().into()).await;
    let took = start.elapsed();
    let peak = peak.bytes();
    println!(
        "{name}: {} bytes, {took:?}, {} MiB: {:?}",
        file.len(),
        peak >> 20,
        result.as_ref().map(|picture| picture.size)
    );
    assert!(peak < bound, "{name}: {peak} bytes");
    assert!(took < TIME, "{name}: {took:?}");
    // The permit is back, and so is a decoder.
    stage.decoder.decode(fixture("rgb.png").into()).await.unwrap();
    result.map(drop).map_err(|error| error.to_string())
}

async fn refused(name: &str, file: &[u8], reason: &str) {
    let error = bounded(name, file).await.unwrap_err();
    assert!(error.starts_with("damaged ") && error.contains(reason), "{name}: {error}, and not: {reason}");
}

#[tokio::test]
async fn bombs_are_refused_by_their_headers() {
    for Bomb { name, file } in bombs::all() {
        refused(name, &file, "").await;
    }
}

#[tokio::test]
async fn lossless_webp_does_not_ask_for_more_codes_than_it_has_blocks() {
    for cache_bits in [None, Some(1), Some(11)] {
        for count in [2, 4096, 65_536] {
            let bomb = webp(&[chunk(*b"VP8L", &groups(count, Some((1, 1)), cache_bits))]);
            refused("1 x 1", &bomb, &format!("{count} groups of prefix codes for 1 blocks")).await;
        }
        // Each group may have a block, but not so many groups.
        let bomb = webp(&[chunk(*b"VP8L", &groups(5000, Some((512, 512)), cache_bits))]);
        refused("512 x 512", &bomb, "5000 groups of prefix codes for 16384 blocks").await;
        // Or each is too large.
        let bomb = webp(&[chunk(*b"VP8L", &groups(4000, Some((512, 512)), cache_bits))]);
        refused("large tables", &bomb, "its 4000 groups of prefix codes are too large").await;
        // As many as the most diligent encoder makes.
        let codes = [groups(2600, Some((512, 512)), cache_bits), vec![0; 512 * 512 * 2]].concat();
        let image = webp(&[chunk(*b"VP8L", &codes)]);
        bounded("2600 groups", &image).await.unwrap();
    }
}

#[tokio::test]
async fn codes_are_counted_in_alpha_and_in_frames_too() {
    let lossy = fixture("lossy-alpha.webp");
    let at = lossy.windows(4).position(|kind| kind == b"VP8 ").unwrap();
    let (bitstream, alpha) = (lossy[at..].to_vec(), [&[1][..], &groups(65_536, None, None)].concat());
    let bomb = webp(&[extended(0x10, 96, 64), chunk(*b"ALPH", &alpha), bitstream.clone()]);
    refused("alpha", &bomb, "65536 groups of prefix codes for 384 blocks").await;
    // Without the flag it is not decoded.
    let ignored = webp(&[extended(0, 96, 64), chunk(*b"ALPH", &alpha), bitstream]);
    bounded("alpha that does not count", &ignored).await.unwrap();

    let frame = [&[0; 16][..], &chunk(*b"VP8L", &groups(65_536, Some((1, 1)), None))].concat();
    let bomb = webp(&[extended(0x12, 1, 1), chunk(*b"ANIM", &[0; 6]), chunk(*b"ANMF", &frame)]);
    refused("frame", &bomb, "65536 groups of prefix codes for 1 blocks").await;
}

#[tokio::test]
async fn lossless_webp_has_each_transform_once_and_a_colour_cache_of_few_bits() {
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
    )
    .await;
    for count in [0, 12, 15] {
        let bomb = image(&|bits| {
            bits.push(0, 1).push(1, 1).push(count, 4);
        });
        refused("cache", &bomb, &format!("a colour cache of {count} bits")).await;
    }
}

#[tokio::test]
async fn many_chunks_cost_no_more_than_their_bytes() {
    let lossy = fixture("lossy.webp")[12..].to_vec();
    let empty = chunk(*b"ABCD", &[]).repeat(1_000_000);
    bounded("chunks", &webp(&[extended(0, 320, 240), empty, lossy])).await.unwrap();
    let frames = chunk(*b"ANMF", &[0; 16]).repeat(500_000);
    let bomb = webp(&[extended(2, 320, 240), chunk(*b"ANIM", &[0; 6]), frames]);
    refused("frames", &bomb, "it has no image").await;
    // Blocks of pixels that are empty, extensions that are empty.
    let gif = fixture("plain.gif");
    let table = 13 + (3 << ((gif[10] & 7) + 1));
    let extensions = [0x21, 0xfe, 0].repeat(1_000_000);
    bounded("extensions", &[&gif[..table], &extensions, &gif[table..]].concat()).await.unwrap();
    let png = fixture("rgb.png");
    let header = 33;
    let empty = [0, 0, 0, 0, b'I', b'D', b'A', b'T', 0x35, 0xaf, 0x06, 0x1e].repeat(1_000_000);
    bounded("image data", &[&png[..header], &empty, &png[header..]].concat()).await.unwrap();
}

#[tokio::test]
async fn run_lengths_end_where_the_image_does() {
    refused("empty", &run_lengths(1000, 1000, &[]), "the file ends before the image does").await;
    refused("end at once", &run_lengths(1000, 1000, &[0, 1]), "the file ends before the image does").await;
    bounded("too many rows", &run_lengths(1000, 2, &[255, 3, 255, 3, 255, 3, 255, 3, 0, 0].repeat(100_000)))
        .await
        .unwrap();
    // Ends of lines where a line has just ended set no pixels.
    refused("lines", &run_lengths(1000, 1000, &[0, 0].repeat(1_000_000)), "the file ends before the image does").await;
}

#[tokio::test]
async fn directories_and_tiles_of_tiff_are_bounded() {
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
    bounded("circle", &patched(directory + 2 + 12 * count, &(directory as u32).to_le_bytes())).await.unwrap();
    refused("directory", &patched(directory, &[0xff, 0xff]), "its directory is cut off").await;
    let strips = patched(entry(273) + 4, &u32::MAX.to_le_bytes());
    assert!(bounded("strips", &strips).await.unwrap_err().starts_with("damaged tiff"));
    // Tags of rows per strip and of compression become those of a huge tile.
    let mut tiles = patched(entry(278), &[322u16.to_le_bytes(), 4u16.to_le_bytes()].concat());
    tiles[entry(278) + 8..][..4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    refused("tiles", &tiles, "its tiles have 2147483648 pixels").await;
}
