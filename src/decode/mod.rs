//! Bytes to pixels: limits before allocation, panics contained, a cap on time.
//!
//! [`raster`] decodes, pure and synchronous; [`crate::model::preprocess`] samples; this file is the stage around both.

pub mod raster;

mod gif;
mod jpeg;
mod sniff;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::model::Pixels;
use crate::model::preprocess::Preprocess;

/// Width and height of the image as it is stored, before any orientation is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG, the first frame of an APNG.
    Png,
    /// WebP, the first frame of an animation.
    WebP,
    /// GIF, the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF, only where it is allowed.
    Tiff,
}

impl Format {
    /// The name stored in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        }
    }
}

/// A decoded image, sampled to what the model takes.
#[derive(Debug)]
pub struct Picture {
    /// The network input.
    pub pixels: Pixels,
    /// The size of the original.
    pub size: Size,
    /// The format of the original, by its magic bytes.
    pub format: Format,
}

/// Why there are no pixels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// No known magic bytes.
    #[error("not an image: it begins with {begins}")]
    Unknown {
        /// The first bytes, readable.
        begins: String,
    },
    /// A format that is recognised and not decoded.
    #[error("{format} is not supported{hint}")]
    Unsupported {
        /// The format's name.
        format: &'static str,
        /// What can be done, or nothing.
        hint: &'static str,
    },
    /// A format that is decoded, in a kind that is not: arithmetic coding, floating-point samples.
    #[error("this kind of {format} is not supported: {reason}")]
    Variant {
        /// The format's name.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// More pixels than allowed.
    #[error("the image has {width} x {height} pixels, more than {limit} in all")]
    TooLarge {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// The most pixels allowed.
        limit: u64,
    },
    /// The decoder gave up.
    #[error("damaged {format}: {reason}")]
    Malformed {
        /// The format's name.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// Decoding took longer than allowed.
    #[error("decoding took longer than {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The decoder panicked; contained.
    #[error("the decoder panicked: {reason}")]
    Panicked {
        /// The panic's message.
        reason: String,
    },
    /// The process is stopping.
    #[error("decoding has stopped")]
    Stopped,
}

/// Limits of decoding, and what to make of the pixels.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How pixels become network input.
    pub preprocess: Preprocess,
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Whether TIFF is decoded.
    pub allow_tiff: bool,
    /// How many images are decoded at once.
    pub permits: usize,
    /// How long one image may take.
    pub timeout: Duration,
}

/// The decode stage: a bounded number of images at a time, each on a thread of its own.
pub struct Decoder {
    settings: Settings,
    permits: Arc<Semaphore>,
}

impl Decoder {
    /// A stage with these limits.
    pub fn new(settings: Settings) -> Self {
        let permits = Arc::new(Semaphore::new(settings.permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self { settings, permits }
    }

    /// Decodes one image and samples it for the model.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn decode(&self, bytes: Bytes) -> Result<Picture, Error> {
        let Settings { preprocess, max_pixels, allow_tiff, .. } = self.settings;
        self.contained(move || {
            let raster = raster::decode(&bytes, &raster::Limits { max_pixels, allow_tiff })?;
            Ok(Picture { pixels: preprocess.apply(&raster), size: raster.size, format: raster.format })
        })
        .await
    }

    /// Runs work that may hang or panic.
    ///
    /// The thread holds the permit, not the caller: one that overruns keeps its place until it ends, so that hostile
    /// images can slow decoding but never pile up. It is a plain thread because a runtime waits for its blocking
    /// threads when it stops, and a stuck decoder must not keep the process from ending.
    async fn contained<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let (answer, answered) = oneshot::channel();
        let run = move || {
            // A decoder that panicked is dropped with all it had, so no broken state is seen again.
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
