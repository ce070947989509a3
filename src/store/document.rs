//! Documents and tombstones, writes, and the outcome of a write.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Blocked, Revision};
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
    /// `jpeg`, `png`, ...; `jpeg-truncated` where a part of the image is missing in its file.
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

/// A deletion. It takes the place of the document for as long as an older write may still arrive, and keeps that write from
/// bringing the image back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub id: String,
    /// The version of the deletion.
    pub version: u64,
    /// That of the reference that asked for the deletion.
    pub collection: String,
    /// When the tombstone was made, in ms since the epoch; how long it is kept counts from here.
    pub deleted_at_ms: u64,
}

/// What a store has under an id.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    Live(Box<Document>),
    Deleted(Tombstone),
}

impl Stored {
    pub fn id(&self) -> &str {
        match self {
            Self::Live(document) => &document.id,
            Self::Deleted(tombstone) => &tombstone.id,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Self::Live(document) => Revision::Upsert(document.version),
            Self::Deleted(tombstone) => Revision::Deletion(tombstone.version),
        }
    }

    /// The document, unless it is deleted.
    pub fn live(self) -> Option<Document> {
        match self {
            Self::Live(document) => Some(*document),
            Self::Deleted(_) => None,
        }
    }
}

/// One write of a batch: done unless what is stored stands by [`Revision::replaces`].
#[derive(Clone, Debug)]
pub enum Write {
    Put(Box<Document>),
    Delete(Tombstone),
}

impl Write {
    pub fn id(&self) -> &str {
        match self {
            Self::Put(document) => &document.id,
            Self::Delete(tombstone) => &tombstone.id,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(document) => Revision::Upsert(document.version),
            Self::Delete(tombstone) => Revision::Deletion(tombstone.version),
        }
    }
}

/// The outcome of one write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The document is durable.
    Indexed,
    /// The tombstone is durable, whether or not there was a document.
    Deleted,
    /// What is stored stands: [`Revision::replaces`] says no.
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
