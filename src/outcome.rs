//! Outcome, verdict and reason of a message: shared by stages, broker and metrics.
//!
//! Imports nothing of this crate, so that stages, broker and metrics can name an outcome without knowing each other.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

/// What became of a message that was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The document is durable.
    Indexed,
    /// The tombstone is durable, whether or not there was a document.
    Deleted,
    /// The store holds a newer version, or the image is deleted at this version.
    Stale,
    /// A deletion, and the store holds a newer version or this same deletion.
    StaleDeletion,
    /// The stored document already has this content, collection, URL and metadata; or there is no document to delete.
    Unchanged,
}

/// What happens to a message that failed. [`crate::broker::receipt`] performs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The message's own fault: to the dead-letter queue with this reason.
    DeadLetter(Reason),
    /// Its image host's fault, perhaps transient: to a retry queue; after `budget` such failures to the dead-letter queue.
    Retry {
        /// The reason of the dead letter when the budget is used up.
        reason: Reason,
        /// How many failures are allowed.
        budget: u32,
        /// The delay that the host asked for (`Retry-After`).
        after: Option<Duration>,
    },
    /// Its host fails every request, perhaps for good: to a retry queue. The failure is recorded and not counted, because
    /// the message itself was not tried. After `longest` to the dead-letter queue.
    AwaitHost {
        /// The reason of the dead letter after `longest`.
        reason: Reason,
        /// How long the host may be awaited, from the message's first failure.
        longest: Duration,
        /// The delay before the next try.
        after: Duration,
    },
    /// Not tried, because its host or this worker is at capacity: to a retry queue, with no failure counted.
    Defer,
    /// Not the message's fault: back to the queue, with no failure counted.
    Requeue,
}

/// Why a message was dead-lettered: the reason header, and the label of `imgdex_dead_letters_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The body is not a valid reference.
    InvalidMessage,
    /// An upsert that is older than tombstones are kept: what it would bring back may have been deleted.
    Expired,
    /// Scheme, port, host or address is not allowed.
    RefusedAddress,
    /// A redirect is not allowed: its target, scheme or number.
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
    /// The process that decoded the image was killed, by its limits or by a crash.
    DecoderKilled,
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
    /// The code: stable, `snake_case`.
    pub fn code(self) -> &'static str {
        self.into()
    }
}

/// What killed a process that decodes images: the label of `imgdex_decoder_killed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum KillCause {
    /// It needed more memory than the image may take.
    Memory,
    /// It took more time than the image may take.
    Time,
    /// A signal: a crash, or a `kill` from outside.
    Signal,
    /// It made a system call that decoding does not need.
    SystemCall,
}

impl KillCause {
    /// The label.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
