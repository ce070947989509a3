//! Image files.

use imgdex::testing::decode::Error;
use imgdex::testing::decode::Preprocess;
use imgdex::testing::decode::decode;
use imgdex::testing::decode::{Limits, Raster, Samples};

/// Enough for every fixture, and little enough to be fast.
pub const MAX_PIXELS: u64 = 1 << 18;
/// The longest error that a person would read.
const LONGEST_ERROR: usize = 500;

/// An image is decoded into exactly its pixels and can be sampled, or is refused with a reason.
pub fn check(bytes: &[u8]) {
    let bytes = with_true_checksums(bytes);
    match decode(&bytes, &limits(MAX_PIXELS)) {
        Ok(raster) => {
            holds_its_pixels(&raster);
            is_refused_for_one_pixel_less(&bytes, &raster);
            for way in [Preprocess::KerasImagenetV2, Preprocess::Imgdex2] {
                way.apply(&raster, 224);
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() <= LONGEST_ERROR, "{text:?}");
        }
    }
}

fn limits(max_pixels: u64) -> Limits {
    Limits { max_pixels, allow_tiff: true, accept_truncated: 0 }
}

fn pixels(raster: &Raster) -> u64 {
    u64::from(raster.size.width) * u64::from(raster.size.height)
}

fn holds_its_pixels(raster: &Raster) {
    let (samples, channels) = match &raster.samples {
        Samples::Grey8(samples) => (samples.len(), 1),
        Samples::Grey16(samples) => (samples.len(), 1),
        Samples::Rgb8(samples) => (samples.len(), 3),
        Samples::Rgba8(samples) => (samples.len(), 4),
    };
    let pixels = pixels(raster);
    assert!((1..=MAX_PIXELS).contains(&pixels), "{:?}", raster.size);
    assert_eq!(samples as u64, pixels * channels, "{:?} {:?}", raster.format, raster.size);
}

fn is_refused_for_one_pixel_less(bytes: &[u8], raster: &Raster) {
    let result = decode(bytes, &limits(pixels(raster) - 1));
    assert!(matches!(result, Err(Error::TooLarge { .. })), "{:?} {:?}: {result:?}", raster.format, raster.size);
}

/// A PNG with the checksums that its chunks should have: with a wrong one nothing behind it would ever be reached.
fn with_true_checksums(bytes: &[u8]) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    let mut bytes = bytes.to_vec();
    let mut at = SIGNATURE.len();
    while bytes.starts_with(SIGNATURE)
        && let Some(length) = bytes.get(at..).and_then(<[u8]>::first_chunk)
    {
        let end = at + 8 + u32::from_be_bytes(*length) as usize;
        let Some(chunk) = bytes.get(at + 4..end) else { break };
        let mut checksum = flate2::Crc::new();
        checksum.update(chunk);
        if let Some(stored) = bytes.get_mut(end..end + 4) {
            stored.copy_from_slice(&checksum.sum().to_be_bytes());
        }
        at = end + 4;
    }
    bytes
}
