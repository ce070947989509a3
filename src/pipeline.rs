//! READ FIRST: the walk of one message, and what each failure on it means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::decode::{self, Decoder};
use crate::extract::{self, Extractor};
use crate::fetch::{self, Fetcher};
use crate::index::{self, Indexer};
use crate::message::{self, Envelope, ImageReference, Operation, hex};
use crate::metrics::{Metrics, Stage};
use crate::store::{Document, now_ms};

/// The stages, wired once per process and shared by all messages.
pub struct Pipeline {
    fetcher: Arc<Fetcher>,
    decoder: Decoder,
    extractor: Extractor,
    indexer: Indexer,
    metrics: Arc<Metrics>,
    /// Leave out images whose stored document already says the same; costs a look-up per image.
    skip_unchanged: bool,
}

/// What became of a message that was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The document is durable.
    Indexed,
    /// The document is gone, or was not there.
    Deleted,
    /// The store holds a newer version.
    Stale,
    /// The stored document already has this content, collection, URL and metadata.
    Unchanged,
}

/// Why a message could not be processed; each stage's own error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The body is not a valid reference.
    #[error(transparent)]
    Message(#[from] message::Error),
    /// The image could not be had.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The bytes could not be decoded.
    #[error(transparent)]
    Decode(#[from] decode::Error),
    /// The features could not be computed.
    #[error(transparent)]
    Extract(#[from] extract::Error),
    /// The store did not take the document.
    #[error(transparent)]
    Index(#[from] index::Error),
}

impl Pipeline {
    /// Wires the stages.
    pub fn new(
        fetcher: Arc<Fetcher>,
        decoder: Decoder,
        extractor: Extractor,
        indexer: Indexer,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { fetcher, decoder, extractor, indexer, metrics, skip_unchanged: false }
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
    /// The failure of the stage that failed; [`Failure::verdict`] says what it means.
    pub async fn process(&self, envelope: &Envelope) -> Result<Outcome, Failure> {
        let reference = message::parse(envelope)?;
        self.metrics.unknown_fields(reference.unknown_fields.len());
        let Some(url) = reference.url.as_ref().filter(|_| reference.operation == Operation::Upsert) else {
            return Ok(self.indexer.delete(reference.id, reference.version).await?);
        };
        let bytes = self.timed(Stage::Fetch, self.fetcher.get(url)).await?;
        let content = Content { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
        if self.skip_unchanged && self.indexer.holds(&reference, &content.sha256).await? {
            return Ok(Outcome::Unchanged);
        }
        let picture = self.timed(Stage::Decode, self.decoder.decode(bytes)).await?;
        let (size, format) = (picture.size, picture.format);
        let embedding = self.timed(Stage::Extract, self.extractor.embed(picture.pixels)).await?;
        let document = document(reference, content, size, format, embedding);
        Ok(self.timed(Stage::Index, self.indexer.put(document)).await?)
    }

    /// Waits for writes that are on their way; called after the last message.
    pub async fn finish(self) {
        self.indexer.finish().await;
    }

    async fn timed<T>(&self, stage: Stage, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.metrics.stage(stage, start.elapsed());
        result
    }
}

struct Content {
    bytes: u64,
    sha256: String,
}

fn document(
    reference: ImageReference,
    content: Content,
    size: decode::Size,
    format: decode::Format,
    embedding: crate::embedding::Embedding,
) -> Document {
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

/// What is to be done with a message that failed. [`crate::broker::receipt`] does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message's own fault: to the dead-letter queue with this reason.
    DeadLetter(Reason),
    /// Its image host's fault, perhaps for a while: to a retry queue; to the dead letters with this reason after
    /// `budget` such failures.
    Retry {
        /// The reason of the dead letter when the budget is used up.
        reason: Reason,
        /// How many failures are allowed.
        budget: u32,
        /// The host's own wish (`Retry-After`).
        after: Option<Duration>,
    },
    /// Its host fails everybody, for a while or for good: to a retry queue, with the failure noted and not counted, for the
    /// message was not tried; to the dead letters when that has gone on for too long.
    Outlast {
        /// The reason of the dead letter.
        reason: Reason,
        /// How long it may go on.
        longest: Duration,
        /// When it makes sense to come back.
        after: Duration,
    },
    /// Nobody's fault: its host has too much to do, or we have. To a retry queue, with no failure counted.
    PutOff,
    /// Not the message's fault: back to the queue, with no failure counted.
    GiveBack,
}

/// Failures allowed where waiting commonly helps: the broker's retry tiers take a message through the longest outages
/// that a single image host is given.
const TRANSIENT_BUDGET: u32 = 5;
/// Failures allowed where waiting seldom helps: a host that says 401, 403, 404 or 410 may do so while its object store
/// catches up with an upload, rarely longer.
const REFUSED_BUDGET: u32 = 2;

/// How long a message waits at a time for a host that fails everybody.
const OUTAGE_REST: Duration = Duration::from_mins(1);
/// How long it waits in all. Every message of the host comes back in every rest, so for ever would be too many in the end.
const LONGEST_OUTAGE: Duration = Duration::from_hours(1);

impl Failure {
    /// What this failure means: the one table, exhaustive on purpose.
    pub fn verdict(&self) -> Verdict {
        use Verdict::{DeadLetter, GiveBack, Outlast, PutOff, Retry};
        match self {
            Self::Message(_) => DeadLetter(Reason::InvalidMessage),
            Self::Fetch(error) => match error {
                fetch::Error::Scheme { .. }
                | fetch::Error::UserInfo
                | fetch::Error::NoHost
                | fetch::Error::LocalFile
                | fetch::Error::Port { .. }
                | fetch::Error::Host { .. }
                | fetch::Error::Address { .. } => DeadLetter(Reason::RefusedAddress),
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
                fetch::Error::Resolve { .. }
                | fetch::Error::Connect { .. }
                | fetch::Error::Timeout { .. }
                | fetch::Error::Broken { .. } => {
                    Retry { reason: Reason::HostFailed, budget: TRANSIENT_BUDGET, after: None }
                }
                fetch::Error::Failing { .. } => {
                    Outlast { reason: Reason::HostFailed, longest: LONGEST_OUTAGE, after: OUTAGE_REST }
                }
                fetch::Error::Busy { .. } => PutOff,
                fetch::Error::Offline { .. } | fetch::Error::Setup { .. } => GiveBack,
            },
            Self::Decode(error) => match error {
                decode::Error::Empty | decode::Error::Unknown { .. } => DeadLetter(Reason::NotAnImage),
                decode::Error::Unsupported { .. } | decode::Error::Variant { .. } => {
                    DeadLetter(Reason::UnsupportedFormat)
                }
                decode::Error::TooLarge { .. } | decode::Error::TooLong { .. } => DeadLetter(Reason::ImageTooLarge),
                decode::Error::Malformed { .. } => DeadLetter(Reason::MalformedImage),
                decode::Error::Timeout { .. } => DeadLetter(Reason::DecodeTimeout),
                decode::Error::Panicked { .. } => DeadLetter(Reason::DecoderPanic),
                decode::Error::Stopped => GiveBack,
            },
            Self::Extract(error) => match error {
                extract::Error::Degenerate(_) => DeadLetter(Reason::DegenerateVector),
                extract::Error::Model(_) | extract::Error::Stopped => GiveBack,
            },
            Self::Index(error) => match error {
                index::Error::Rejected { .. } => DeadLetter(Reason::DocumentRejected),
                index::Error::TooLarge => DeadLetter(Reason::DocumentTooLarge),
                index::Error::Failed { .. } => {
                    Retry { reason: Reason::StoreFailed, budget: TRANSIENT_BUDGET, after: None }
                }
                index::Error::Unavailable { .. }
                | index::Error::Paused { .. }
                | index::Error::Lookup(_)
                | index::Error::Stopped => GiveBack,
            },
        }
    }
}

/// Why a message was dead-lettered: the reason header, and the label of `imgdex_dead_letters_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The body is not a valid reference.
    InvalidMessage,
    /// Scheme, port, host or address is not allowed.
    RefusedAddress,
    /// A redirect leads where none may lead.
    RefusedRedirect,
    /// The host name does not exist.
    UnknownHost,
    /// The host answered with a client error.
    HostRefused,
    /// The host failed more often than allowed.
    HostFailed,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// A local file cannot be read.
    UnreadableFile,
    /// The bytes are not an image.
    NotAnImage,
    /// A format that is not decoded.
    UnsupportedFormat,
    /// More pixels or decoder memory than allowed.
    ImageTooLarge,
    /// A known format, but damaged.
    MalformedImage,
    /// Decoding took too long.
    DecodeTimeout,
    /// The decoder panicked.
    DecoderPanic,
    /// The features are zero or not finite.
    DegenerateVector,
    /// The store refused the document.
    DocumentRejected,
    /// The store refused the document for its size.
    DocumentTooLarge,
    /// The store failed on the document more often than allowed, while it took others.
    StoreFailed,
    /// Ends the worker whenever it is processed, even alone.
    Poison,
}

impl Reason {
    /// Every reason, for declaring the metric's label values.
    pub const ALL: [Self; 19] = [
        Self::InvalidMessage,
        Self::RefusedAddress,
        Self::RefusedRedirect,
        Self::UnknownHost,
        Self::HostRefused,
        Self::HostFailed,
        Self::BodyTooLarge,
        Self::UnreadableFile,
        Self::NotAnImage,
        Self::UnsupportedFormat,
        Self::ImageTooLarge,
        Self::MalformedImage,
        Self::DecodeTimeout,
        Self::DecoderPanic,
        Self::DegenerateVector,
        Self::DocumentRejected,
        Self::DocumentTooLarge,
        Self::StoreFailed,
        Self::Poison,
    ];

    /// The code: stable, `snake_case`.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidMessage => "invalid_message",
            Self::RefusedAddress => "refused_address",
            Self::RefusedRedirect => "refused_redirect",
            Self::UnknownHost => "unknown_host",
            Self::HostRefused => "host_refused",
            Self::HostFailed => "host_failed",
            Self::BodyTooLarge => "body_too_large",
            Self::UnreadableFile => "unreadable_file",
            Self::NotAnImage => "not_an_image",
            Self::UnsupportedFormat => "unsupported_format",
            Self::ImageTooLarge => "image_too_large",
            Self::MalformedImage => "malformed_image",
            Self::DecodeTimeout => "decode_timeout",
            Self::DecoderPanic => "decoder_panic",
            Self::DegenerateVector => "degenerate_vector",
            Self::DocumentRejected => "document_rejected",
            Self::DocumentTooLarge => "document_too_large",
            Self::StoreFailed => "store_failed",
            Self::Poison => "poison",
        }
    }
}

#[cfg(test)]
#[path = "pipeline/tests.rs"]
mod tests;
