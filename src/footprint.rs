//! The most memory that a worker takes, from its settings alone. Pure.
//!
//! | what | bound |
//! |---|---|
//! | the program and the network | measured for two threads, and more for each further one |
//! | files of images | `--max-inflight-bytes`, and one `--max-image-bytes` beyond it ([`crate::fetch`]) |
//! | growing image buffers | one `--max-image-bytes` for each core: the old and the new buffer at once |
//! | receiving | the HTTP client's read-ahead, for each message in flight |
//! | decoders | one image of `--max-image-pixels`, and small ones on the other cores ([`decode::memory`]) |
//! | network inputs | one for each message in flight: after decoding it waits for the network as pixels |
//! | messages and documents | for each message in flight its body, and its metadata parsed |
//! | requests to the store | `--bulks-in-flight` batches, each as it is built and as it is sent |
//!
//! At most `--prefetch` messages are in flight: the broker sends no more before some are settled. Not counted is a body
//! that is larger than any reference may be: it is refused as soon as it arrives, but the broker decides how large it
//! may be (`max_message_size`). Not counted either is freed memory that the allocator keeps.

use std::fmt;

use crate::decode;
use crate::model::manifest::Manifest;

/// A worker with `vgg16` and two threads right after batches of eight images: 570 MiB, of which 370 are packed weights
/// and most of the rest the maps between two layers.
const PROGRAM: u64 = 640 << 20;
/// The buffers of each further thread.
const THREAD: u64 = 2 << 20;
/// The maps that each further thread adds: with more threads more layers take a batch as a whole.
const MAPS: u64 = 34 << 20;
/// From so many further threads on, all layers do.
const MAPS_UP_TO: u64 = 7;
/// What one connection may have read ahead: hyper's largest buffer, a TLS record, the window of gzip.
const RECEIVING: u64 = 512 << 10;
/// A reference of the largest URL, metadata and id, as JSON.
const MESSAGE: u64 = 64 << 10;
/// The most that parsed metadata takes: many tiny values take far more memory than their text of at most 32 KiB.
const METADATA: u64 = 512 << 10;

/// The settings that the bound depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Messages in flight.
    pub prefetch: usize,
    /// Largest file of an image.
    pub max_image_bytes: u64,
    /// Most bytes of all files together.
    pub max_inflight_bytes: u64,
    /// Most pixels of an image.
    pub max_image_pixels: u64,
    /// Cores that the process may use.
    pub cores: usize,
    /// Threads of the network.
    pub threads: usize,
    /// Largest batch for the store in bytes.
    pub bulk_bytes: usize,
    /// Batches for the store at once.
    pub bulks_in_flight: usize,
}

/// The bound, term by term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound([(&'static str, u64); 8]);

impl Bound {
    pub fn of(settings: &Settings) -> Self {
        let Settings { max_image_bytes, max_inflight_bytes, max_image_pixels, cores, .. } = *settings;
        let messages = settings.prefetch as u64;
        let times = u64::saturating_mul;
        Self([
            ("the program and the network", program(settings.threads as u64)),
            ("files of images", max_inflight_bytes.saturating_add(max_image_bytes)),
            ("growing image buffers", times(cores as u64, max_image_bytes)),
            ("receiving", times(messages, RECEIVING)),
            ("decoders", decode::memory(max_image_pixels, cores, max_image_bytes)),
            ("network inputs", times(messages, Manifest::largest_input_bytes() as u64)),
            // The body as delivered and as it is read.
            ("messages and documents", times(messages, 2 * MESSAGE + METADATA)),
            ("requests to the store", times(2 * settings.bulks_in_flight as u64, settings.bulk_bytes as u64)),
        ])
    }

    /// Name and bytes of each part.
    pub fn terms(&self) -> &[(&'static str, u64)] {
        &self.0
    }

    /// In bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |total, (_, bytes)| total.saturating_add(*bytes))
    }
}

/// Maps and buffers of the network grow with its threads.
fn program(threads: u64) -> u64 {
    let further = threads.saturating_sub(2);
    PROGRAM + further.min(MAPS_UP_TO) * MAPS + further.saturating_mul(THREAD)
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(f, "{} MiB", mib(self.total()))?;
        for (number, (what, bytes)) in self.0.iter().enumerate() {
            write!(f, "{} {what} {}", if number == 0 { ":" } else { "," }, mib(*bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        prefetch: 80,
        max_image_bytes: 32 << 20,
        max_inflight_bytes: 256 << 20,
        max_image_pixels: 100_000_000,
        cores: 2,
        threads: 2,
        bulk_bytes: 8 << 20,
        bulks_in_flight: 2,
    };

    /// A part of the bound in MiB.
    fn term(settings: &Settings, what: &str) -> u64 {
        let bound = Bound::of(settings);
        bound.terms().iter().filter(|(name, _)| *name == what).map(|(_, bytes)| bytes >> 20).sum()
    }

    #[test]
    fn every_part_follows_its_settings() {
        let bound = Bound::of(&SETTINGS);
        assert_eq!(bound.total(), bound.terms().iter().map(|(_, bytes)| bytes).sum::<u64>());
        assert_eq!(term(&SETTINGS, "files of images"), 288);
        assert_eq!(term(&SETTINGS, "growing image buffers"), 64);
        assert_eq!(term(&SETTINGS, "receiving"), 40);
        // 1240 for the largest image; for each core 50 for a small one, 64 to work with, 64 for its file and a copy, 16 for its process.
        assert_eq!(term(&SETTINGS, "decoders"), 1239 + 2 * 193 + 1);
        assert_eq!(term(&SETTINGS, "network inputs"), 11);
        assert_eq!(term(&SETTINGS, "messages and documents"), 50);
        assert_eq!(term(&SETTINGS, "requests to the store"), 32);

        let threads = |threads| term(&Settings { threads, ..SETTINGS }, "the program and the network");
        assert_eq!([1, 2, 4, 64].map(threads), [640, 640, 712, 640 + 7 * 34 + 62 * 2]);
        let few = Settings { prefetch: 8, ..SETTINGS };
        assert_eq!(term(&few, "receiving"), 4);
        let small = Settings { max_image_pixels: 1_000_000, ..SETTINGS };
        assert_eq!(term(&small, "decoders"), (13_000_000 + 2 * (13_000_000 + (144 << 20))) >> 20);
        let text = bound.to_string();
        assert!(
            text.starts_with(&format!(
                "{} MiB: the program and the network 640, files",
                bound.total().div_ceil(1 << 20)
            )),
            "{text}"
        );
    }

    #[test]
    fn senseless_settings_do_not_overflow() {
        let senseless = Settings { max_image_bytes: u64::MAX, max_image_pixels: u64::MAX, ..SETTINGS };
        assert_eq!(Bound::of(&senseless).total(), u64::MAX);
    }
}
