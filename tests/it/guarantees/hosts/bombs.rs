//! Files that are no images, and malicious images.

use std::io::{Read, copy, repeat};
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// A file, and the reason of its dead letter.
pub struct Bad {
    pub what: String,
    pub bytes: Vec<u8>,
    pub reason: &'static str,
}

/// The header of a PNG.
#[derive(Clone, Copy)]
pub struct Png {
    pub width: u32,
    pub height: u32,
    /// Bits per channel.
    pub depth: u8,
    /// 2: RGB, 6: RGBA.
    pub colour: u8,
}

impl Png {
    /// The file with these chunks between header and end.
    pub fn with(self, chunks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
        let sides = [self.width.to_be_bytes(), self.height.to_be_bytes()].concat();
        let header = [&sides[..], &[self.depth, self.colour, 0, 0, 0]].concat();
        let all = [(*b"IHDR", header)].into_iter().chain(chunks.iter().cloned()).chain([(*b"IEND", Vec::new())]);
        all.fold(b"\x89PNG\r\n\x1a\n".to_vec(), |file, (name, body)| {
            let mut checksum = flate2::Crc::new();
            checksum.update(&name);
            checksum.update(&body);
            [&file[..], &(body.len() as u32).to_be_bytes(), &name, &body, &checksum.sum().to_be_bytes()].concat()
        })
    }
}

/// Zeros, compressed with zlib.
pub fn deflated_zeros(length: u64) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    copy(&mut repeat(0).take(length), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// Zeros, compressed with gzip.
pub fn gzipped_zeros(length: u64) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    copy(&mut repeat(0).take(length), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)).unwrap()
}

/// A fixture with other bytes at this position.
fn patched(name: &str, at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = fixture(name);
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// The position of these bytes in a fixture.
fn find(name: &str, bytes: &[u8]) -> usize {
    fixture(name).windows(bytes.len()).position(|window| window == bytes).unwrap()
}

/// All bad files.
pub fn all() -> Vec<Bad> {
    let groups = [no_images(), other_formats(), cut_off(), lying_headers(), too_large(), inflating()];
    groups.into_iter().flatten().collect()
}

fn bad(what: impl Into<String>, bytes: impl Into<Vec<u8>>, reason: &'static str) -> Bad {
    Bad { what: what.into(), bytes: bytes.into(), reason }
}

fn no_images() -> Vec<Bad> {
    let noise: Vec<u8> = (0..10_000_u32).map(|n| (n * 31 % 251) as u8 | 1).collect();
    let texts =
        [("text", &b"no image"[..]), ("json", br#"{"error": "not found"}"#), ("nothing", b""), ("zeros", &[0; 100])];
    let mut all: Vec<_> = texts.into_iter().map(|(what, bytes)| bad(what, bytes, "not_an_image")).collect();
    all.push(bad("noise", noise, "not_an_image"));
    all.push(bad("half-a-signature", &b"\xff\xd8"[..], "not_an_image"));
    all
}

fn other_formats() -> Vec<Bad> {
    let formats: [(&str, &[u8]); 12] = [
        ("html", b"<!doctype html><title>no image</title>"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>"),
        ("xml-bomb", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;&b;'>]><svg>&d;</svg>"),
        ("pdf", b"%PDF-1.7\n"),
        ("postscript", b"%!PS\n{} loop"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
        ("zip", b"PK\x03\x04\0\0\0\0"),
        ("program", b"\x7fELF\x02\x01\x01"),
        ("avif", b"\0\0\0\x20ftypavif\0\0\0\0"),
        ("jpeg-xl", b"\xff\x0a\0\0"),
        ("icon", b"\0\0\x01\0\x01\0"),
        ("tiff", b"II*\0\x08\0\0\0"),
    ];
    formats.into_iter().map(|(what, bytes)| bad(what, bytes, "unsupported_format")).collect()
}

fn cut_off() -> Vec<Bad> {
    let names = [
        "baseline-420.jpg",
        "progressive.jpg",
        "cmyk-adobe.jpg",
        "rgb.png",
        "interlaced.png",
        "rgba16.png",
        "plain.gif",
        "animated.gif",
        "lossy.webp",
        "lossless.webp",
        "lossy-alpha.webp",
        "rgb.bmp",
    ];
    let cut = |name: &&str| {
        let bytes = fixture(name);
        bad(format!("cut-off-{name}"), &bytes[..bytes.len() * 2 / 5], "malformed_image")
    };
    names.iter().map(cut).collect()
}

fn lying_headers() -> Vec<Bad> {
    let signatures: [(&str, &[u8], &str); 5] = [
        ("jpeg", b"\xff\xd8\xff\xe0", "malformed_image"),
        ("png", b"\x89PNG\r\n\x1a\n", "malformed_image"),
        ("gif", b"GIF89a", "malformed_image"),
        ("webp", b"RIFF\x40\0\0\0WEBPVP8 ", "malformed_image"),
        // The decoder reads the noise as an unknown version.
        ("bmp", b"BM", "unsupported_format"),
    ];
    let noise = [0x55; 200];
    let mut all: Vec<_> = signatures
        .into_iter()
        .map(|(what, start, reason)| bad(format!("only-the-signature-of-{what}"), [start, &noise].concat(), reason))
        .collect();
    let png = |width, height| Png { width, height, depth: 8, colour: 2 };
    let little = || vec![(*b"IDAT", deflated_zeros(1000))];
    all.push(bad("png-of-no-size", png(0, 0).with(&little()), "malformed_image"));
    all.push(bad("png-with-less-than-it-says", png(9_000, 9_000).with(&little()), "malformed_image"));
    all.push(bad("png-without-pixels", png(10, 10).with(&[]), "malformed_image"));
    let frame = find("baseline-420.jpg", &[0xff, 0xc0]);
    for (what, process) in [("lossless", 0xc3), ("hierarchical", 0xc5), ("lossless-arithmetic", 0xcb)] {
        let jpeg = patched("baseline-420.jpg", frame, &[0xff, process]);
        all.push(bad(format!("jpeg-said-to-be-{what}"), jpeg, "unsupported_format"));
    }
    let progressive = patched("baseline-420.jpg", frame, &[0xff, 0xc2]);
    all.push(bad("jpeg-said-to-be-progressive", progressive, "malformed_image"));
    // A chunk that claims two gigabytes.
    let exif = find("oriented.webp", b"EXIF") + 4;
    all.push(bad(
        "webp-with-a-huge-chunk",
        patched("oriented.webp", exif, &[0xff, 0xff, 0xff, 0x7f]),
        "malformed_image",
    ));
    all
}

fn too_large() -> Vec<Bad> {
    let png = |width, height| Png { width, height, depth: 8, colour: 2 }.with(&[(*b"IDAT", deflated_zeros(1000))]);
    let frame = find("baseline-420.jpg", &[0xff, 0xc0]) + 5;
    let bitstream = find("lossy-alpha.webp", &[0x9d, 0x01, 0x2a]) + 3;
    let descriptor = find("plain.gif", &[0x2c, 0, 0, 0, 0, 96, 0, 64, 0]) + 5;
    let sides = [40_000_u32.to_le_bytes(), 30_000_u32.to_le_bytes()].concat();
    let files = [
        ("png", png(50_000, 50_000)),
        ("png-beyond-numbers", png(u32::MAX, u32::MAX)),
        ("png-line", png(100_000_001, 1)),
        ("jpeg", patched("baseline-420.jpg", frame, &[0xff, 0xdc, 0xff, 0xdc])),
        ("gif", patched("plain.gif", 6, &[0xff; 4])),
        ("gif-frame", patched("plain.gif", descriptor, &[0xff; 4])),
        ("webp", patched("oriented.webp", 24, &[0xff, 0x3f, 0, 0xff, 0x3f, 0])),
        ("webp-bitstream", patched("lossy-alpha.webp", bitstream, &[0xff, 0x3f, 0xff, 0x3f])),
        ("bmp", patched("rgb.bmp", 18, &sides)),
    ];
    files.map(|(what, bytes)| bad(format!("too-large-{what}"), bytes, "image_too_large")).into()
}

/// Small files that inflate to 128 MiB.
fn inflating() -> Vec<Bad> {
    const MUCH: u64 = 128 << 20;
    let png = Png { width: 10, height: 10, depth: 8, colour: 2 };
    let profile = [b"x\0\0", &deflated_zeros(MUCH)[..]].concat();
    vec![
        bad("png-with-a-bomb-for-a-profile-and-no-pixels", png.with(&[(*b"iCCP", profile)]), "malformed_image"),
        bad("gzip-bomb-for-an-image", gzipped_zeros(MUCH), "unsupported_format"),
    ]
}
