//! Bytes to pixels: limits are checked before allocation, panics are contained, time is limited.
//!
//! [`formats`] decodes, pure and synchronous; [`preprocess`] samples; this file is the stage around both.

mod error;
pub mod formats;
mod gif;
mod jpeg;
pub mod pixels;
pub mod preprocess;
pub mod raster;
mod sniff;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

pub use self::error::Error;
use self::pixels::Pixels;
use self::preprocess::Sampling;
use self::raster::Limits;
pub use self::raster::{Format, Size};

/// A decoded image, sampled to what the model takes.
#[derive(Debug)]
pub struct Picture {
    pub pixels: Pixels,
    /// The size of the original.
    pub size: Size,
    /// The format of the original, by its magic bytes.
    pub format: Format,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Whether TIFF is decoded.
    pub allow_tiff: bool,
    /// How many images are decoded at once.
    pub permits: usize,
    /// How long one image may take.
    pub timeout: Duration,
}

/// Images of at most this many pixels do not wait for memory: theirs is counted for each permit.
const SMALL: u64 = 4_000_000;
/// The unit of the memory for large images: a semaphore's permits are 32-bit numbers.
const UNIT: u64 = 1 << 20;

/// The most memory that decoding takes with these limits: the largest image, and small ones beside it.
///
/// Pixels are [`raster::BYTES_PER_PIXEL`] each, and a decoder may take [`raster::WORKING_MEMORY`] besides, and a copy of its
/// file, which has at most `file_bytes`.
pub fn memory(max_pixels: u64, permits: usize, file_bytes: u64) -> u64 {
    let each = pixel_memory(SMALL.min(max_pixels)).saturating_add(raster::WORKING_MEMORY).saturating_add(file_bytes);
    pixel_memory(max_pixels).saturating_add(each.saturating_mul(permits as u64))
}

fn pixel_memory(pixels: u64) -> u64 {
    pixels.saturating_mul(raster::BYTES_PER_PIXEL)
}

/// The decode stage: a bounded number of images at a time, each on a thread of its own. Large ones share the memory of one
/// largest image.
pub struct Decoder {
    settings: Settings,
    sampling: Sampling,
    permits: Arc<Semaphore>,
    /// For images that are not small.
    room: Arc<Semaphore>,
}

impl Decoder {
    pub fn new(settings: Settings, sampling: Sampling) -> Self {
        let permits = Arc::new(Semaphore::new(settings.permits.clamp(1, Semaphore::MAX_PERMITS)));
        let room = Arc::new(Semaphore::new(units(settings.max_pixels) as usize));
        Self { settings, sampling, permits, room }
    }

    /// Decodes one image and samples it for the model.
    pub async fn decode(&self, bytes: Bytes) -> Result<Picture, Error> {
        let Settings { max_pixels, allow_tiff, .. } = self.settings;
        let Sampling { preprocess, size } = self.sampling;
        let headers = bytes.clone();
        let measured = self
            .contained(move || formats::measure(&headers, &Limits { max_pixels, allow_tiff, accept_truncated: 0 }))
            .await?;
        // Not part of the image's own time.
        let room = self.room(measured).await?;
        self.contained(move || {
            let raster = formats::decode(&bytes, &Limits { max_pixels: measured, allow_tiff, accept_truncated: 0 })?;
            let pixels = preprocess.apply(&raster, size);
            let picture = Picture { pixels, size: raster.size, format: raster.format };
            // Held by the thread, which may still run after its caller has given up.
            drop((raster, room));
            Ok(picture)
        })
        .await
    }

    /// Waits until there is memory for that many pixels.
    async fn room(&self, pixels: u64) -> Result<Option<OwnedSemaphorePermit>, Error> {
        if pixels <= SMALL {
            return Ok(None);
        }
        let room = Arc::clone(&self.room).acquire_many_owned(units(pixels)).await;
        room.map(Some).map_err(|_| Error::Stopped)
    }

    /// Runs work that may hang or panic.
    ///
    /// The thread holds the permit, not the caller: a thread that overruns keeps it until it ends, so that hostile images can
    /// slow decoding but never pile up. It is a plain thread because a runtime waits for its blocking threads when it stops, and a
    /// stuck decoder must not prevent the process from ending.
    async fn contained<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let (answer, answered) = oneshot::channel();
        let run = move || {
            // A decoder that panicked is dropped with all its state, so none of it is used again.
            let result = catch_unwind(AssertUnwindSafe(work));
            drop(permit);
            // The caller may have given up.
            let _ = answer.send(result);
        };
        thread::Builder::new().name("decode".into()).spawn(run).map_err(|error| {
            tracing::error!(%error, "no thread for decoding");
            Error::Stopped
        })?;
        let limit = self.settings.timeout;
        match timeout(limit, answered).await {
            Err(_) => Err(Error::Timeout { limit }),
            Ok(Err(_)) => Err(Error::Stopped),
            Ok(Ok(Err(panic))) => Err(Error::Panicked { reason: message(panic.as_ref()) }),
            Ok(Ok(Ok(result))) => result,
        }
    }
}

/// The memory of an image's pixels in [`UNIT`]s, at most the largest number that a semaphore counts.
fn units(pixels: u64) -> u32 {
    u32::try_from(pixel_memory(pixels).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests;
