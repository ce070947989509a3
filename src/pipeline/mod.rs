//! READ FIRST: the way of one message through the stages, and the meaning of each failure.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::now_ms;
use crate::embedder::{self, EmbeddedImage, Embedder};
use crate::extract::{self, Priority};
use crate::indexer::{self, Indexer};
use crate::message::{self, Envelope, ImageReference, Operation};
use crate::metrics::{Metrics, Stage};
use crate::outcome::{Outcome, Reason, Verdict};
use crate::store::Document;
use crate::{decode, fetch};

/// The stages, wired once per process and shared by all messages.
pub struct Pipeline {
    embedder: Embedder,
    indexer: Indexer,
    metrics: Arc<Metrics>,
    /// Leave out images whose stored document is the same already; costs a look-up per image.
    skip_unchanged: bool,
}

/// Why a message could not be processed; each stage's own error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Message(#[from] message::Error),
    #[error(transparent)]
    Embed(#[from] embedder::Error),
    #[error(transparent)]
    Index(#[from] indexer::Error),
}

impl Pipeline {
    pub fn new(embedder: Embedder, indexer: Indexer, metrics: Arc<Metrics>) -> Self {
        Self { embedder, indexer, metrics, skip_unchanged: false }
    }

    /// Leaves out images whose stored document is the same already.
    #[must_use]
    pub fn skip_unchanged(mut self, skip: bool) -> Self {
        self.skip_unchanged = skip;
        self
    }

    /// Takes one message from its body to a durable outcome.
    ///
    /// # Errors
    /// The error of the stage that failed; [`Failure::verdict`] says what it means.
    pub async fn process(&self, envelope: &Envelope) -> Result<Outcome, Failure> {
        let reference = message::parse(envelope)?;
        self.metrics.unknown_fields(reference.unknown_fields.len());
        let Some(url) = reference.url.as_ref().filter(|_| reference.operation == Operation::Upsert) else {
            return Ok(self.indexer.delete(reference.id, reference.version).await?);
        };
        let bytes = self.embedder.fetch(url).await?;
        let content = Content { bytes: bytes.len() as u64, sha256: format!("{:x}", Sha256::digest(&bytes)) };
        if self.skip_unchanged && self.indexer.is_unchanged(&reference, &content.sha256).await? {
            return Ok(Outcome::Unchanged);
        }
        let embedded = self.embedder.embed(bytes, Priority::Ingest).await?;
        let written = self.indexer.put(document(reference, content, embedded));
        Ok(self.metrics.timed(Stage::Index, written).await?)
    }

    /// Waits for pending writes; called after the last message.
    pub async fn finish(self) {
        self.indexer.finish().await;
    }
}

struct Content {
    bytes: u64,
    sha256: String,
}

fn document(reference: ImageReference, content: Content, embedded: EmbeddedImage) -> Document {
    let EmbeddedImage { size, format, embedding } = embedded;
    Document {
        id: reference.id,
        url: reference.url.map(String::from).unwrap_or_default(),
        collection: reference.collection,
        version: reference.version,
        width: size.width,
        height: size.height,
        bytes: content.bytes,
        format: format.name().to_owned(),
        content_sha256: content.sha256,
        indexed_at_ms: now_ms(),
        metadata: reference.metadata,
        embedding: Some(embedding),
    }
}

/// Failures allowed where waiting commonly helps: the retry queues span the longest outage that is granted to a single
/// image host.
const TRANSIENT_BUDGET: u32 = 5;
/// Failures allowed where waiting seldom helps: a host may answer 401, 403, 404 or 410 until its object store has
/// caught up with an upload, rarely for longer.
const REFUSED_BUDGET: u32 = 2;

/// How long a message waits at a time for a host that has failed.
const OUTAGE_DELAY: Duration = Duration::from_mins(1);
/// How long it waits in all. Every message of the host returns after each delay, so without an end they would become
/// too many.
const MAX_OUTAGE: Duration = Duration::from_hours(1);

impl Failure {
    /// The HTTP status of the image host, where it answered with an error.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Embed(error) => error.http_status(),
            Self::Message(_) | Self::Index(_) => None,
        }
    }

    /// The meaning of this failure: the one table, exhaustive on purpose.
    pub fn verdict(&self) -> Verdict {
        use Verdict::{AwaitHost, DeadLetter, Defer, Requeue, Retry};
        match self {
            Self::Message(_) => DeadLetter(Reason::InvalidMessage),
            Self::Embed(embedder::Error::Fetch(error)) => match error {
                fetch::Error::Refused(_) => DeadLetter(Reason::RefusedAddress),
                fetch::Error::Redirect { .. } => DeadLetter(Reason::RefusedRedirect),
                fetch::Error::UnknownHost { .. } => DeadLetter(Reason::UnknownHost),
                fetch::Error::TooLarge { .. } => DeadLetter(Reason::BodyTooLarge),
                fetch::Error::Encoding { .. } => DeadLetter(Reason::NotAnImage),
                fetch::Error::File { .. } => DeadLetter(Reason::UnreadableFile),
                fetch::Error::Status { status, retry_after, .. } => match status {
                    401 | 403 | 404 | 410 => {
                        Retry { reason: Reason::HostRefused, budget: REFUSED_BUDGET, after: *retry_after }
                    }
                    408 | 425 | 429 | 500..=599 => {
                        Retry { reason: Reason::HostFailed, budget: TRANSIENT_BUDGET, after: *retry_after }
                    }
                    _other => DeadLetter(Reason::HostRefused),
                },
                fetch::Error::NoAnswer(_) => {
                    Retry { reason: Reason::HostFailed, budget: TRANSIENT_BUDGET, after: None }
                }
                fetch::Error::Failing { .. } => {
                    AwaitHost { reason: Reason::HostFailed, longest: MAX_OUTAGE, after: OUTAGE_DELAY }
                }
                fetch::Error::Busy { .. } => Defer,
                fetch::Error::Offline { .. } | fetch::Error::Setup { .. } => Requeue,
            },
            Self::Embed(embedder::Error::Decode(error)) => match error {
                decode::Error::Empty | decode::Error::Unknown { .. } => DeadLetter(Reason::NotAnImage),
                decode::Error::Unsupported { .. } | decode::Error::Variant { .. } => {
                    DeadLetter(Reason::UnsupportedFormat)
                }
                decode::Error::TooLarge { .. } | decode::Error::TooLong { .. } => DeadLetter(Reason::ImageTooLarge),
                decode::Error::Malformed { .. } => DeadLetter(Reason::MalformedImage),
                decode::Error::Timeout { .. } => DeadLetter(Reason::DecodeTimeout),
                decode::Error::Panicked { .. } => DeadLetter(Reason::DecoderPanic),
                decode::Error::Stopped => Requeue,
            },
            Self::Embed(embedder::Error::Extract(error)) => match error {
                extract::Error::Degenerate(_) => DeadLetter(Reason::DegenerateVector),
                extract::Error::Model(_) | extract::Error::Stopped => Requeue,
            },
            Self::Index(error) => match error {
                indexer::Error::Rejected { .. } => DeadLetter(Reason::DocumentRejected),
                indexer::Error::TooLarge => DeadLetter(Reason::DocumentTooLarge),
                indexer::Error::Failed { .. } => {
                    Retry { reason: Reason::StoreFailed, budget: TRANSIENT_BUDGET, after: None }
                }
                indexer::Error::Unavailable { .. }
                | indexer::Error::Paused { .. }
                | indexer::Error::Lookup(_)
                | indexer::Error::Stopped => Requeue,
            },
        }
    }
}

#[cfg(test)]
mod tests;
