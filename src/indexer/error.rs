//! Why a write is not durable.

use std::time::Duration;

use crate::store;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refuses this document for its content.
    #[error("the store refused the document: {kind}: {reason}")]
    Rejected {
        /// The store's error type.
        kind: String,
        reason: String,
    },
    #[error("the document is larger than the store takes in one request")]
    TooLarge,
    #[error("the store did not take the document for {held:?}: {reason}")]
    Unavailable {
        /// How long it was tried.
        held: Duration,
        /// The last reason.
        reason: String,
    },
    #[error("the store failed on this document for {held:?} while it took others: {reason}")]
    Failed {
        /// How long it was tried.
        held: Duration,
        /// The last reason.
        reason: String,
    },
    /// The store takes no writes at all, or refuses nearly all documents.
    #[error("the store takes no writes: {reason}")]
    Paused { reason: String },
    #[error(transparent)]
    Lookup(store::Error),
    #[error("the indexer has stopped")]
    Stopped,
}
