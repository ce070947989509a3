//! The body of a bulk request, and the outcomes that its response reports. Pure.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error_class::{ErrorClass, OVERLOAD};
use crate::store::{Document, Revision, Tombstone, Write, WriteOutcome};

/// The parts of the response that decide the outcome of each item.
pub(super) const FILTER_PATH: &str =
    "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";

/// How vectors are encoded in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VectorEncoding {
    /// Base64 of big-endian float32: the cheapest to write and to parse; from Elasticsearch 9.3 on.
    Base64,
    /// A JSON array of the shortest decimals that give the same float32; every version.
    Decimals,
}

/// About how many bytes this write adds to a bulk request, in the longer encoding of vectors.
pub fn estimated_bytes(write: &Write) -> usize {
    /// Action line, field names and numbers of a document without its variable parts.
    const FIXED: usize = 600;
    match write {
        Write::Delete(tombstone) => FIXED + tombstone.id.len() + tombstone.collection.len(),
        Write::Put(document) => {
            let metadata: usize = document.metadata.iter().map(|(k, v)| k.len() + json_bytes(v)).sum();
            // Base64 of float32 takes 16/3 bytes per value, shortest decimals about 12.
            let vector = document.embedding.as_ref().map_or(0, |e| e.dims() * 12);
            FIXED + document.id.len() + document.url.len() + metadata + vector
        }
    }
}

fn json_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(values) => values.iter().map(json_bytes).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 3 + json_bytes(v)).sum::<usize>() + 2,
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// The body of a bulk request: one action per write, in order. A deletion is a document, too.
///
/// Versions are external: a write against which the stored document stands is a conflict ([`Revision::replaces`]).
/// Sending the same bytes again is harmless.
pub(super) fn body(writes: &[Write], encoding: VectorEncoding) -> Result<Vec<u8>, serde_json::Error> {
    // Most of a document is its vector: 2732 bytes of base64 for 512 values, or about 5000 of decimals.
    let per_write = if encoding == VectorEncoding::Base64 { 3400 } else { 6400 };
    let mut body = Vec::with_capacity(writes.len() * per_write);
    let mut buffers = Base64Buffers::default();
    for write in writes {
        line(&mut body, &Action { index: ActionMetadata::new(write.id(), write.revision()) })?;
        match write {
            Write::Put(document) => line(&mut body, &DocumentSource::new(document, encoding, &mut buffers))?,
            Write::Delete(tombstone) => line(&mut body, &TombstoneSource::new(tombstone))?,
        }
    }
    Ok(body)
}

fn line(body: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *body, value)?;
    body.push(b'\n');
    Ok(())
}

#[derive(Serialize)]
struct Action<'a> {
    index: ActionMetadata<'a>,
}

#[derive(Serialize)]
struct ActionMetadata<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: u64,
    version_type: &'static str,
}

impl<'a> ActionMetadata<'a> {
    fn new(id: &'a str, revision: Revision) -> Self {
        let (version, version_type) = revision.external();
        Self { id, version, version_type }
    }
}

/// The `_source` of a document: its fields as the mapping names them.
#[derive(Serialize)]
struct DocumentSource<'a> {
    id: &'a str,
    url: &'a str,
    collection: &'a str,
    version: u64,
    width: u32,
    height: u32,
    bytes: u64,
    format: &'a str,
    content_sha256: &'a str,
    indexed_at: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_vector: Option<Vector<'a>>,
}

impl<'a> DocumentSource<'a> {
    fn new(document: &'a Document, encoding: VectorEncoding, buffers: &'a mut Base64Buffers) -> Self {
        let values = document.embedding.as_ref().map(crate::embedding::Embedding::as_slice);
        Self {
            id: &document.id,
            url: &document.url,
            collection: &document.collection,
            version: document.version,
            width: document.width,
            height: document.height,
            bytes: document.bytes,
            format: &document.format,
            content_sha256: &document.content_sha256,
            indexed_at: document.indexed_at_ms,
            metadata: &document.metadata,
            image_vector: values.map(|values| match encoding {
                VectorEncoding::Base64 => Vector::Base64(buffers.encode(values)),
                VectorEncoding::Decimals => Vector::Decimals(values),
            }),
        }
    }
}

/// The `_source` of a tombstone. That it has no other field is what makes it one ([`super::live`]).
#[derive(Serialize)]
struct TombstoneSource<'a> {
    id: &'a str,
    version: u64,
    collection: &'a str,
    indexed_at: u64,
}

impl<'a> TombstoneSource<'a> {
    fn new(tombstone: &'a Tombstone) -> Self {
        let Tombstone { id, version, collection, deleted_at_ms } = tombstone;
        Self { id, version: *version, collection, indexed_at: *deleted_at_ms }
    }
}

enum Vector<'a> {
    Base64(&'a str),
    Decimals(&'a [f32]),
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Base64(text) => serializer.serialize_str(text),
            Self::Decimals(values) => values.serialize(serializer),
        }
    }
}

/// Buffers that the vectors of one body share.
#[derive(Default)]
struct Base64Buffers {
    bytes: Vec<u8>,
    text: String,
}

impl Base64Buffers {
    fn encode(&mut self, values: &[f32]) -> &str {
        self.bytes.clear();
        self.bytes.extend(values.iter().flat_map(|value| value.to_be_bytes()));
        self.text.clear();
        STANDARD.encode_string(&self.bytes, &mut self.text);
        &self.text
    }
}

/// Why no item's outcome can be read from a response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, cut off, or not of this shape.
    #[error("the answer to a bulk request cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The items cannot be matched with the writes.
    #[error("the answer to a bulk request of {sent} items has {answered}")]
    Count { sent: usize, answered: usize },
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow)]
    index: ItemResult<'a>,
}

#[derive(Deserialize)]
pub(super) struct ItemResult<'a> {
    pub(super) status: u16,
    #[serde(borrow)]
    pub(super) error: Option<ItemError<'a>>,
}

#[derive(Deserialize)]
pub(super) struct ItemError<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    caused_by: Option<CausedBy<'a>>,
}

#[derive(Deserialize)]
struct CausedBy<'a> {
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

/// Reads the outcome of each write from the response, in order.
///
/// # Errors
/// When the response does not have exactly one item of the right kind per write. Then no outcome is known; sending the
/// same bytes again is safe.
pub fn read(response: &[u8], writes: &[Write]) -> Result<Vec<WriteOutcome>, Error> {
    let Response { items } = serde_json::from_slice(response)?;
    if items.len() != writes.len() {
        return Err(Error::Count { sent: writes.len(), answered: items.len() });
    }
    let outcomes =
        items.into_iter().zip(writes).map(|(Item { index: result }, write)| match (result.status, result.error) {
            (200 | 201, None) => match write {
                Write::Put(_) => WriteOutcome::Indexed,
                Write::Delete(_) => WriteOutcome::Deleted,
            },
            (status, error) => failed(status, error),
        });
    Ok(outcomes.collect())
}

fn failed(status: u16, error: Option<ItemError<'_>>) -> WriteOutcome {
    let Some(error) = error else {
        let reason = format!("an item was answered with status {status} and no error");
        return WriteOutcome::Busy { overload: status == OVERLOAD, reason };
    };
    let kind = error.kind.into_owned();
    let first = error.reason.as_deref().unwrap_or_default();
    let class = ErrorClass::of(status, &kind, first);
    let reason = match error.caused_by.and_then(|cause| cause.reason) {
        Some(cause) => format!("{first}: {cause}"),
        None => first.to_owned(),
    };
    match class {
        ErrorClass::Conflict => WriteOutcome::Stale,
        ErrorClass::Blocked(cause) => WriteOutcome::Blocked { cause, reason: format!("{kind}: {reason}") },
        ErrorClass::Busy => {
            WriteOutcome::Busy { overload: status == OVERLOAD, reason: format!("{status} {kind}: {reason}") }
        }
        ErrorClass::TooLarge | ErrorClass::Refused => WriteOutcome::Rejected { kind, reason },
    }
}

#[cfg(test)]
mod tests;
