//! The one way from a URL or the bytes of an image to its embedding: fetch, decode, extract.
//!
//! The pipeline, `embed` and `search` use it, and none of them repeats the order of these stages.

use std::sync::Arc;

use bytes::Bytes;
use url::Url;

use crate::decode::{self, Decoder, Format, Size};
use crate::embedding::Embedding;
use crate::extract::{self, Extractor, Priority};
use crate::fetch::{self, Fetcher};
use crate::metrics::{Metrics, Stage};

/// The stages that turn images into embeddings, wired once per process.
pub struct Embedder {
    fetcher: Arc<Fetcher>,
    decoder: Decoder,
    extractor: Extractor,
    metrics: Arc<Metrics>,
}

/// An image's embedding, with the properties of the file that decoding found.
#[derive(Debug)]
pub struct EmbeddedImage {
    /// The size of the image as stored in the file.
    pub size: Size,
    /// The format of the file, by its magic bytes.
    pub format: Format,
    /// Whether a part of the image is missing in its file.
    pub truncated: bool,
    pub embedding: Embedding,
}

/// Why an image has no embedding; each stage's own error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Decode(#[from] decode::Error),
    #[error(transparent)]
    Extract(#[from] extract::Error),
}

impl Embedder {
    pub fn new(fetcher: Arc<Fetcher>, decoder: Decoder, extractor: Extractor, metrics: Arc<Metrics>) -> Self {
        Self { fetcher, decoder, extractor, metrics }
    }

    /// The bytes of an image, within the limits of the fetcher.
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, Error> {
        Ok(self.metrics.timed(Stage::Fetch, self.fetcher.get(url)).await?)
    }

    /// Decodes an image and computes its features.
    pub async fn embed(&self, bytes: Bytes, priority: Priority) -> Result<EmbeddedImage, Error> {
        let picture = self.metrics.timed(Stage::Decode, self.decoder.decode(bytes)).await?;
        let (size, format, truncated) = (picture.size, picture.format, picture.missing > 0.0);
        let embedding = self.metrics.timed(Stage::Extract, self.extractor.embed(picture.pixels, priority)).await?;
        Ok(EmbeddedImage { size, format, truncated, embedding })
    }
}

impl Error {
    /// The HTTP status of the image host, where it answered with an error.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Fetch(fetch::Error::Status { status, .. }) => Some(*status),
            _ => None,
        }
    }
}
