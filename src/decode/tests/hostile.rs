//! Files that are inconsistent, truncated or malicious.

use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::decode::formats::{decode, measure};
use crate::decode::preprocess::Preprocess;
use crate::decode::raster::Limits;

pub(super) const LIMITS: Limits = Limits { max_pixels: 1_000_000, allow_tiff: true, accept_truncated: 0 };

fn images() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

pub(super) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(images().join(name)).unwrap()
}

/// Every file of a folder, in the order of names.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 24);
    all
}

/// Every fixture that is shown.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let jpeg = files(&images().join("../jpeg")).into_iter().filter(|(name, _)| !name.starts_with("cut-"));
    files(&images()).into_iter().chain(jpeg).collect()
}

fn png_chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut checksum = flate2::Crc::new();
    checksum.update(&name);
    checksum.update(body);
    [&(body.len() as u32).to_be_bytes()[..], &name, body, &checksum.sum().to_be_bytes()].concat()
}

fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &png_chunk(*b"IHDR", &header), &chunks.concat(), &png_chunk(*b"IEND", b"")].concat()
}

fn deflated_zeros(length: usize) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        encoder.write_all(&block).unwrap();
    }
    encoder.finish().unwrap()
}

fn too_large<T>(result: Result<T, Error>) -> (u32, u32) {
    match result {
        Err(Error::TooLarge { width, height, .. }) => (width, height),
        other => panic!("not refused for its size: {:?}", other.map(|_| "decoded")),
    }
}

/// Overwrites bytes of a fixture.
fn patched(name: &str, patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = fixture(name);
    for &(at, patch) in patches {
        bytes[at..at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

#[test]
fn headers_show_how_many_pixels_decoding_holds() {
    for (name, bytes) in fixtures() {
        let measured = measure(&bytes, &LIMITS).unwrap();
        let exact = Limits { max_pixels: measured, ..LIMITS };
        let size = decode(&bytes, &exact).unwrap_or_else(|error| panic!("{name}: {measured} pixels: {error}")).size;
        assert!(measured >= size.pixels(), "{name}: {measured} pixels for {size:?}");
    }
}

#[test]
fn sizes_are_refused_by_the_header_alone() {
    // Only a header follows, so a decoder that continued would report missing data instead.
    let header_only = |width, height| png(width, height, &[])[..33].to_vec();
    assert_eq!(too_large(decode(&header_only(50_000, 50_000), &LIMITS)), (50_000, 50_000));
    assert_eq!(too_large(decode(&header_only(u32::MAX, u32::MAX), &LIMITS)), (u32::MAX, u32::MAX));

    let longest = 1 << 20;
    let limits = Limits { max_pixels: 1 << 22, ..LIMITS };
    for (width, height) in [(longest + 1, 1), (1, longest + 1)] {
        let refused = decode(&header_only(width, height), &limits);
        assert!(matches!(refused, Err(Error::TooLong { .. })), "{width} x {height}: {:?}", refused.map(|_| "decoded"));
    }
    assert!(!matches!(decode(&header_only(longest, 1), &limits), Err(Error::TooLong { .. })));

    let jpeg = fixture("baseline-420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let jpeg = patched("baseline-420.jpg", &[(frame + 5, &[0xff, 0xdc, 0xff, 0xdc])]);
    assert_eq!(too_large(decode(&jpeg, &LIMITS)), (65_500, 65_500));

    let gif = patched("plain.gif", &[(6, &[0xff, 0xff, 0xff, 0xff])]);
    assert_eq!(too_large(decode(&gif, &LIMITS)), (65_535, 65_535));

    let bmp = patched("rgb.bmp", &[(18, &40_000u32.to_le_bytes()), (22, &30_000u32.to_le_bytes())]);
    assert_eq!(too_large(decode(&bmp, &LIMITS)), (40_000, 30_000));

    // Canvas of an extended file: two 24-bit values, minus one.
    let webp = patched("oriented.webp", &[(24, &[0xff, 0x3f, 0, 0xff, 0x3f, 0])]);
    assert_eq!(too_large(decode(&webp, &LIMITS)), (16_384, 16_384));
}

#[test]
fn a_small_canvas_does_not_hide_a_huge_frame() {
    // The bitstream of an extended WebP says its own size.
    let webp = fixture("lossy-alpha.webp");
    let start = webp.windows(3).position(|code| code == [0x9d, 0x01, 0x2a]).unwrap() + 3;
    let webp = patched("lossy-alpha.webp", &[(start, &[0xff, 0x3f, 0xff, 0x3f])]);
    assert_eq!(too_large(decode(&webp, &LIMITS)), (16_383, 16_383));

    let gif = fixture("plain.gif");
    let descriptor = gif.windows(9).position(|d| d == [0x2c, 0, 0, 0, 0, 96, 0, 64, 0]).unwrap();
    let gif = patched("plain.gif", &[(descriptor + 5, &[0xff, 0xff, 0xff, 0xff])]);
    assert_eq!(too_large(decode(&gif, &LIMITS)), (65_535, 65_535));
}

#[test]
fn the_limit_on_pixels_is_exact() {
    let png = fixture("50x3000.png");
    let limits = |max_pixels| Limits { max_pixels, ..LIMITS };
    assert!(decode(&png, &limits(150_000)).is_ok());
    assert_eq!(too_large(decode(&png, &limits(149_999))), (50, 3000));
}

#[test]
fn deflate_bombs_cost_no_more_than_their_image() {
    const BOMB: usize = 512 << 20;
    let zeros = deflated_zeros(BOMB);
    let pixels = png_chunk(*b"IDAT", &zeros);
    let profile = png_chunk(*b"iCCP", &[b"x\0\0", &zeros[..]].concat());
    let text = png_chunk(*b"zTXt", &[b"Raw profile type exif\0\0", &zeros[..]].concat());
    let honest = png_chunk(*b"IDAT", &deflated_zeros(1 << 20));
    for (name, bomb) in [
        ("pixels", png(10, 10, &[pixels])),
        ("profile", png(10, 10, &[profile, honest.clone()])),
        ("text", png(10, 10, &[text, honest])),
    ] {
        let before = peak_memory();
        let start = Instant::now();
        // Data after the pixels is ignored; a profile over its limit may be left out or refused.
        let _ = decode(&bomb, &LIMITS);
        let (grown, took) = (peak_memory() - before, start.elapsed());
        assert!(grown < (BOMB >> 1) as u64, "{name}: {grown} bytes more");
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
}

/// The peak resident memory of this process, in bytes.
pub(super) fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn lengths_beyond_the_file_are_refused() {
    // The last four bytes before the payload of a chunk are its length.
    let webp = fixture("oriented.webp");
    let exif = webp.windows(4).position(|kind| kind == b"EXIF").unwrap();
    let webp = patched("oriented.webp", &[(exif + 4, &[0xff, 0xff, 0xff, 0x7f])]);
    assert!(matches!(decode(&webp, &LIMITS), Err(Error::Malformed { format: Format::WebP, .. })));
}

#[test]
fn flags_of_missing_chunks_are_ignored() {
    // The flags announce EXIF, XMP and alpha in a file that has none of them.
    let vp8 = fixture("lossy.webp")[12..].to_vec();
    let canvas = [0x1c, 0, 0, 0, 63, 1, 0, 239, 0, 0];
    let body = [&b"WEBPVP8X\x0a\0\0\0"[..], &canvas, &vp8].concat();
    let file = [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat();
    let corrected = decode(&file, &LIMITS).unwrap();
    let plain = decode(&fixture("lossy.webp"), &LIMITS).unwrap();
    let (raster::Samples::Rgba8(corrected), raster::Samples::Rgb8(plain)) = (corrected.samples, plain.samples) else {
        panic!("not four channels and three");
    };
    let opaque: Vec<_> = plain.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
    assert_eq!(corrected, opaque);
}

#[test]
fn files_that_are_cut_off_are_refused_by_name() {
    for (name, bytes) in fixtures() {
        // Less than half: the first frame of an animation may be whole by then.
        let cut = &bytes[..bytes.len() * 2 / 5];
        match decode(cut, &LIMITS).map(|raster| raster.size) {
            Err(error @ (Error::Malformed { .. } | Error::Unknown { .. })) => {
                let message = error.to_string();
                assert!(message.starts_with("damaged ") || message.starts_with("not an image"), "{name}: {message}");
            }
            other => panic!("{name}: a part of the file gives {other:?}"),
        }
        for length in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            let _ = decode(&bytes[..length], &LIMITS);
        }
    }
}

#[test]
fn corrupted_files_give_an_image_or_an_error_and_never_a_panic() {
    // Of the odd files there are many of each kind.
    const ROUNDS: usize = 30;
    const ODD_ROUNDS: usize = 8;
    let mut random = fastrand::Rng::with_seed(0x1dea);
    let (mut decoded, mut refused) = (0, 0);
    let odd = files(&images().with_file_name("odd")).into_iter().map(|file| (file, ODD_ROUNDS));
    for ((name, bytes), rounds) in fixtures().into_iter().map(|file| (file, ROUNDS)).chain(odd) {
        for round in 0..rounds {
            let mut corrupted = bytes.clone();
            // Wrong headers do most harm, so half of the rounds change only these.
            let reach = if round % 2 == 0 { corrupted.len() } else { corrupted.len().min(200) };
            for _ in 0..random.usize(1..=8) {
                let at = random.usize(..reach);
                match random.u8(..4) {
                    0 => corrupted[at] = random.u8(..),
                    1 => corrupted[at] ^= 1 << random.u8(..8),
                    2 => corrupted[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(..5)],
                    _ => corrupted[at..(at + 4).min(bytes.len())].fill(0xff),
                }
            }
            if random.u8(..8) == 0 {
                corrupted.truncate(random.usize(..corrupted.len()));
            }
            let result = catch_unwind(|| {
                decode(&corrupted, &LIMITS).map(|raster| {
                    Preprocess::KerasImagenetV2.apply(&raster, 224);
                    Preprocess::Imgdex2.apply(&raster, 224);
                })
            });
            match result {
                Ok(Ok(())) => decoded += 1,
                Ok(Err(error)) => {
                    refused += 1;
                    assert!(!error.to_string().is_empty());
                }
                Err(panic) => panic!("{name}, round {round}: a panic: {panic:?}"),
            }
        }
    }
    // Both must happen often, or the changes are too few or too many to test anything.
    assert!(decoded > 500 && refused > 500, "{decoded} decoded, {refused} refused");
}
