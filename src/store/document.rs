//! What is stored, and what becomes of a write.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Blocked;
use crate::embedding::Embedding;

/// One stored image; in this form also a line of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique in its store, across collections.
    pub id: String,
    /// Where the image is.
    pub url: String,
    /// The collection it belongs to.
    pub collection: String,
    /// Orders writes of one id.
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
    /// Whatever the producer sent along.
    pub metadata: Map<String, Value>,
    /// The features; absent in a document read without them.
    pub embedding: Option<Embedding>,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Write {
    /// Store the document, unless a newer version is there.
    Put(Box<Document>),
    /// Remove the document, unless a newer version is there.
    Delete {
        /// The document's id.
        id: String,
        /// The deletion's version.
        version: u64,
    },
}

/// What became of one write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Durable.
    Indexed,
    /// Gone, or was not there.
    Deleted,
    /// A newer version is stored.
    Stale,
    /// Refused for what it holds.
    Rejected {
        /// The store's error type.
        kind: String,
        /// The store's reason.
        reason: String,
    },
    /// Not now: too busy, or a shard is not available.
    Busy {
        /// Whether the store has too much to do (429), so that fewer requests at a time help.
        overload: bool,
        /// The store's reason.
        reason: String,
    },
    /// The whole index does not take writes.
    Blocked {
        /// Why.
        cause: Blocked,
        /// The store's reason.
        reason: String,
    },
}
