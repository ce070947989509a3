//! Bytes to pixels: limits are checked before allocation, and on Linux each image is decoded by a process that can do nothing
//! else.
//!
//! [`formats`] decodes, pure and synchronous; [`preprocess`] samples; [`job`] is what is asked of one image; this file is the stage
//! around them, [`sandbox`] the processes.

mod bmp;
mod error;
mod exif;
pub mod format;
pub mod formats;
mod gif;
pub mod job;
mod jpeg;
pub mod pixels;
mod png;
pub mod preprocess;
pub mod raster;
mod room;
#[cfg(target_os = "linux")]
pub mod sandbox;
mod sniff;
mod thread;
mod tiff;
mod webp;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::error::Error;
pub use self::format::{Format, Size};
use self::job::{Decoded, Job, Product, Request};
use self::pixels::Pixels;
use self::preprocess::Sampling;
use self::preprocess::view::View;
use self::raster::Limits;
use self::room::Room;
use crate::metrics::Metrics;

/// A decoded image, sampled to what the model takes.
#[derive(Debug)]
pub struct Picture {
    pub pixels: Pixels,
    /// The size of the original.
    pub size: Size,
    /// The format of the original, by its magic bytes.
    pub format: Format,
    /// The share of the image that its file lacks, 0 to 1.
    pub missing: f32,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// The largest file.
    pub max_file_bytes: u64,
    /// Whether TIFF is decoded.
    pub allow_tiff: bool,
    /// The most that may be missing of a JPEG whose file ends too early, in per cent.
    pub accept_truncated: u8,
    /// How many images are decoded at once.
    pub permits: usize,
    pub isolation: Isolation,
}

/// Where images are decoded.
#[derive(Clone, Debug)]
pub enum Isolation {
    /// In processes of this program that can do nothing else. Linux only.
    #[cfg(target_os = "linux")]
    Processes { program: PathBuf },
    /// On threads of this process.
    Threads,
}

/// What keeps a decoder from anything but decoding.
#[derive(Clone, Copy, Debug)]
pub enum Guard {
    #[cfg(target_os = "linux")]
    Process(sandbox::guard::Guards),
    None,
}

/// Images of at most this many pixels do not wait for memory: theirs is counted for each permit.
const SMALL: u64 = 4_000_000;
/// A process that decodes, without an image: its own data and the pages of the program that only it has.
const PROCESS: u64 = 16 << 20;

/// The most memory that decoding takes with these limits: the largest image, and small ones beside it.
///
/// Pixels are [`raster::BYTES_PER_PIXEL`] each, and a decoder may take [`raster::WORKING_MEMORY`] besides, its file,
/// which has at most `file_bytes`, and a copy of that.
pub fn memory(max_pixels: u64, permits: usize, file_bytes: u64) -> u64 {
    let each = memory_of_one(SMALL.min(max_pixels), file_bytes).saturating_add(PROCESS);
    pixel_memory(max_pixels).saturating_add(each.saturating_mul(permits as u64))
}

/// The most memory that one image takes.
fn memory_of_one(pixels: u64, file_bytes: u64) -> u64 {
    pixel_memory(pixels).saturating_add(raster::WORKING_MEMORY).saturating_add(file_bytes.saturating_mul(2))
}

fn pixel_memory(pixels: u64) -> u64 {
    pixels.saturating_mul(raster::BYTES_PER_PIXEL)
}

/// The longest that one image may take on a processor: many times what any sound one takes, and little for a small one.
///
/// Measured at 2.1 GHz: 5 to 30 ns a pixel for photographs of every format; 60 ns a byte for a progressive JPEG of high quality.
fn cpu_time(pixels: u64, file_bytes: u64) -> Duration {
    const LEAST: Duration = Duration::from_secs(2);
    LEAST + Duration::from_nanos(pixels.saturating_mul(200).saturating_add(file_bytes.saturating_mul(600)).min(1 << 50))
}

/// The decode stage: a bounded number of images at a time. Large ones share the memory of one largest image.
pub struct Decoder {
    settings: Settings,
    sampling: Sampling,
    permits: Arc<Semaphore>,
    backend: Backend,
}

enum Backend {
    #[cfg(target_os = "linux")]
    Processes(sandbox::pool::Pool),
    Threads(Room),
}

impl Isolation {
    /// The best of this system.
    pub fn best() -> Self {
        #[cfg(target_os = "linux")]
        {
            // This very program, even where its file has been replaced since.
            Self::Processes { program: "/proc/self/exe".into() }
        }
        #[cfg(not(target_os = "linux"))]
        {
            Self::Threads
        }
    }
}

impl Decoder {
    pub fn new(settings: Settings, sampling: Sampling, metrics: Arc<Metrics>) -> Self {
        let permits = Arc::new(Semaphore::new(settings.permits.clamp(1, Semaphore::MAX_PERMITS)));
        let room = Room::new(settings.max_pixels);
        let Settings { max_pixels, max_file_bytes, .. } = settings;
        let backend = match &settings.isolation {
            #[cfg(target_os = "linux")]
            Isolation::Processes { program } => {
                Backend::Processes(sandbox::pool::Pool::new(program, max_pixels, max_file_bytes, room, metrics))
            }
            Isolation::Threads => Backend::Threads(room),
        };
        Self { settings, sampling, permits, backend }
    }

    /// Decodes one image and samples all of it for the model.
    pub async fn decode(&self, bytes: Bytes) -> Result<Picture, Error> {
        let request = Request::Pixels { sampling: self.sampling, view: View::default() };
        let Decoded { size, format, missing, products } = self.run(bytes, vec![request]).await?;
        match products.into_iter().next() {
            Some(Product::Pixels(pixels)) => Ok(Picture { pixels, size, format, missing }),
            None => Err(Error::Stopped),
        }
    }

    /// Decodes one image once, for all that is asked of it.
    pub async fn run(&self, bytes: Bytes, requests: Vec<Request>) -> Result<Decoded, Error> {
        let Settings { max_pixels, allow_tiff, accept_truncated, .. } = self.settings;
        let job = Job { limits: Limits { max_pixels, allow_tiff, accept_truncated }, requests };
        let permit = self.permit().await?;
        match &self.backend {
            #[cfg(target_os = "linux")]
            Backend::Processes(pool) => pool.decode(job, bytes, permit).await,
            Backend::Threads(room) => thread::decode(job, bytes, room, permit).await,
        }
    }

    /// Makes sure that images can be decoded, and says what guards the decoders.
    pub async fn prepare(&self) -> Result<Guard, Error> {
        match &self.backend {
            #[cfg(target_os = "linux")]
            Backend::Processes(pool) => pool.prepare(self.permit().await?).await.map(Guard::Process),
            Backend::Threads(_) => Ok(Guard::None),
        }
    }

    /// Has a decoder try what it must not be able to do; the error says who refused it.
    #[cfg(target_os = "linux")]
    pub async fn attempt(&self, attempt: sandbox::wire::Attempt) -> Result<Result<(), String>, Error> {
        match &self.backend {
            Backend::Processes(pool) => pool.attempt(attempt, self.permit().await?).await,
            Backend::Threads(_) => Ok(Ok(())),
        }
    }

    /// Has decoders try to reach what lies outside of them, and names what they could. Nothing is tried where nothing guards them.
    pub async fn escapes(&self) -> Result<Vec<&'static str>, Error> {
        let mut possible = Vec::new();
        #[cfg(target_os = "linux")]
        if matches!(self.backend, Backend::Processes(_)) {
            for attempt in sandbox::wire::Attempt::ESCAPES {
                if self.attempt(attempt).await?.is_ok() {
                    possible.push(attempt.name());
                }
            }
        }
        Ok(possible)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Stopped)
    }
}

impl Guard {
    /// Whether everything that this program knows is in force.
    pub fn is_complete(self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Process(guards) => guards.seccomp,
            Self::None => false,
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(target_os = "linux")]
            Self::Process(guards) => write!(f, "in processes of their own: {guards}"),
            Self::None => f.write_str("in this process, whose memory nothing limits: this system has no sandbox"),
        }
    }
}

#[cfg(test)]
mod tests;
