//! READ FIRST: the way of one message through the stages, and the meaning of each failure.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::now_ms;
use crate::embedder::{self, EmbeddedImage, Embedder};
use crate::extract::{self, Priority};
use crate::indexer::{self, Indexer};
use crate::message::{self, Envelope, ImageReference, Operation, VersionSource};
use crate::metrics::{Metrics, Stage};
use crate::outcome::{Outcome, Reason, Verdict};
use crate::store::{Document, Tombstone};
use crate::{decode, fetch};

/// The stages, wired once per process and shared by all messages.
pub struct Pipeline {
    embedder: Embedder,
    indexer: Indexer,
    metrics: Arc<Metrics>,
    input: Input,
}

/// Where references come from, which decides what their age and order mean.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A command: they are given now. Images whose stored document is the same already are left out, which costs a look-up
    /// per image, and a deletion without a version is one of what is stored now.
    Command,
    /// A queue, in which a message may wait for any time and come again.
    Queue {
        /// How long deletions are remembered. An upsert that is older may be of an image whose deletion is forgotten.
        retention: Duration,
    },
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
    #[error("a deletion needs a version, or its message a timestamp: when it happens to be delivered orders nothing")]
    UnorderedDeletion,
    #[error(
        "the message is from {} ago, and deletions are remembered for {}: the image may have been deleted since; to index it \
         all the same: imgdex dlq replay --force",
        humantime::format_duration(*age),
        humantime::format_duration(*retention)
    )]
    Expired { age: Duration, retention: Duration },
}

impl Pipeline {
    pub fn new(embedder: Embedder, indexer: Indexer, metrics: Arc<Metrics>, input: Input) -> Self {
        Self { embedder, indexer, metrics, input }
    }

    /// Takes one message from its body to a durable outcome.
    ///
    /// # Errors
    /// The error of the stage that failed; [`Failure::verdict`] says what it means.
    pub async fn process(&self, envelope: &Envelope) -> Result<Outcome, Failure> {
        let reference = message::parse(envelope)?;
        self.metrics.unknown_fields(reference.unknown_fields.len());
        if let Input::Queue { .. } = self.input
            && reference.version_source == VersionSource::FirstReceipt
        {
            self.metrics.message_without_order();
        }
        let Some(url) = reference.url.as_ref().filter(|_| reference.operation == Operation::Upsert) else {
            return self.delete(reference).await;
        };
        self.check_age(envelope)?;
        let bytes = self.embedder.fetch(url).await?;
        let content = Content { bytes: bytes.len() as u64, sha256: format!("{:x}", Sha256::digest(&bytes)) };
        if matches!(self.input, Input::Command) && self.indexer.is_unchanged(&reference, &content.sha256).await? {
            return Ok(Outcome::Unchanged);
        }
        let embedded = self.embedder.embed(bytes, Priority::Ingest).await?;
        let written = self.indexer.put(document(reference, content, embedded));
        Ok(self.metrics.timed(Stage::Index, written).await?)
    }

    async fn delete(&self, reference: ImageReference) -> Result<Outcome, Failure> {
        let ImageReference { id, collection, version_source, mut version, .. } = reference;
        match (version_source, self.input) {
            (VersionSource::Body | VersionSource::Published, _) => {}
            (VersionSource::FirstReceipt, Input::Queue { .. }) => return Err(Failure::UnorderedDeletion),
            // At the stored version, of which the deletion wins the tie: the time would bar every later version of a producer
            // who counts 1, 2, 3.
            (VersionSource::FirstReceipt, Input::Command) => match self.indexer.stored_version(&id).await? {
                Some(stored) => version = stored,
                None => return Ok(Outcome::Unchanged),
            },
        }
        let outcome =
            self.indexer.delete(Tombstone { id: id.clone(), version, collection, deleted_at_ms: now_ms() }).await?;
        if outcome == Outcome::StaleDeletion {
            tracing::info!(id, version, "nothing to delete: a newer version is stored, or this deletion is known");
        }
        Ok(outcome)
    }

    /// Refuses an upsert that is older than deletions are remembered.
    fn check_age(&self, envelope: &Envelope) -> Result<(), Failure> {
        let Input::Queue { retention } = self.input else { return Ok(()) };
        let age = envelope.age(now_ms());
        if age <= retention {
            return Ok(());
        }
        // For people: without fractions.
        Err(Failure::Expired { age: Duration::from_secs(age.as_secs()), retention })
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
    let EmbeddedImage { size, format, truncated, embedding } = embedded;
    let format = format.name();
    Document {
        id: reference.id,
        url: reference.url.map(String::from).unwrap_or_default(),
        collection: reference.collection,
        version: reference.version,
        width: size.width,
        height: size.height,
        bytes: content.bytes,
        format: if truncated { format!("{format}-truncated") } else { format.to_owned() },
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

/// The longest that retry queues hold a message that is tried as often as allowed; `tier` is the longest delay of one queue.
pub fn longest_wait(tier: Duration) -> Duration {
    MAX_OUTAGE.saturating_add(tier.saturating_mul(TRANSIENT_BUDGET))
}

impl Failure {
    /// The HTTP status of the image host, where it answered with an error.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Embed(error) => error.http_status(),
            Self::Message(_) | Self::Index(_) | Self::UnorderedDeletion | Self::Expired { .. } => None,
        }
    }

    /// The meaning of this failure: the one table, exhaustive on purpose.
    pub fn verdict(&self) -> Verdict {
        use Verdict::{AwaitHost, DeadLetter, Defer, Requeue, Retry};
        match self {
            Self::Message(_) | Self::UnorderedDeletion => DeadLetter(Reason::InvalidMessage),
            Self::Expired { .. } => DeadLetter(Reason::Expired),
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
                decode::Error::Killed { .. } => DeadLetter(Reason::DecoderKilled),
                decode::Error::Unavailable { .. } | decode::Error::Stopped => Requeue,
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
