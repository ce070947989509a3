//! Documents, writes, and the outcome of a write.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Blocked;
use crate::embedding::Embedding;

/// One stored image; in this form also a line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique in its store, across collections.
    pub id: String,
    pub url: String,
    pub collection: String,
    /// Orders the writes of one id.
    pub version: u64,
    /// Width of the image in pixels, as stored in the file.
    pub width: u32,
    /// Height of the image in pixels, as stored in the file.
    pub height: u32,
    /// Size of the image file in bytes.
    pub bytes: u64,
    /// `jpeg`, `png`, ...
    pub format: String,
    /// SHA-256 of the image file, hexadecimal.
    pub content_sha256: String,
    /// When the document was made, in ms since the epoch.
    pub indexed_at_ms: u64,
    /// The producer's metadata, unchanged.
    pub metadata: Map<String, Value>,
    /// The features; absent in a document read without them.
    pub embedding: Option<Embedding>,
}

/// One write of a batch.
#[derive(Clone, Debug)]
pub enum Write {
    /// Store the document, unless a newer version is stored.
    Put(Box<Document>),
    /// Remove the document, unless a newer version is stored.
    Delete {
        id: String,
        /// The version of the deletion.
        version: u64,
    },
}

/// The outcome of one write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The document is durable.
    Indexed,
    /// The document is gone, or did not exist.
    Deleted,
    /// A newer version is stored.
    Stale,
    /// The document was refused for its content.
    Rejected {
        /// The store's error type.
        kind: String,
        reason: String,
    },
    /// Refused for now: the store is overloaded, or a shard is not available.
    Busy {
        /// Whether the store is overloaded (429), so that fewer concurrent requests help.
        overload: bool,
        reason: String,
    },
    /// The index as a whole takes no writes.
    Blocked { cause: Blocked, reason: String },
}
