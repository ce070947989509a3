//! The body of a bulk request, and the outcomes that its response reports. Pure.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error_class::{ErrorClass, OVERLOAD};
use crate::store::{Blocked, Document, Write, WriteOutcome};

/// The parts of the response that decide the outcome of each item. `_index` matters for deletions only.
pub(super) const FILTER_PATH: &str = "items.*.status,items.*.error.type,items.*.error.reason,\
    items.*.error.caused_by.reason,items.delete._index";

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
        Write::Delete { id, .. } => FIXED + id.len(),
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

/// The body of a bulk request: one action per write, in order.
///
/// Versions are external: a write older than the stored document is a conflict. An equal version is written, so that
/// sending the same bytes again is harmless.
pub(super) fn body(writes: &[Write], encoding: VectorEncoding) -> Result<Vec<u8>, serde_json::Error> {
    // Most of a document is its vector: 2732 bytes of base64 for 512 values, or about 5000 of decimals.
    let per_write = if encoding == VectorEncoding::Base64 { 3400 } else { 6400 };
    let mut body = Vec::with_capacity(writes.len() * per_write);
    let mut buffers = Base64Buffers::default();
    for write in writes {
        match write {
            Write::Put(document) => {
                line(&mut body, &Action::Index(ActionMetadata::new(&document.id, document.version)))?;
                line(&mut body, &DocumentSource::new(document, encoding, &mut buffers))?;
            }
            Write::Delete { id, version } => line(&mut body, &Action::Delete(ActionMetadata::new(id, *version)))?,
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
#[serde(rename_all = "lowercase")]
enum Action<'a> {
    Index(ActionMetadata<'a>),
    Delete(ActionMetadata<'a>),
}

#[derive(Serialize)]
struct ActionMetadata<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: u64,
    version_type: &'static str,
}

impl<'a> ActionMetadata<'a> {
    fn new(id: &'a str, version: u64) -> Self {
        Self { id, version, version_type: "external_gte" }
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
    /// An item is for another kind of action than was sent.
    #[error("item {0} of the answer to a bulk request is for another action")]
    Order(usize),
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Item<'a> {
    #[serde(borrow)]
    Index(ItemResult<'a>),
    #[serde(borrow)]
    Delete(ItemResult<'a>),
}

#[derive(Deserialize)]
struct ItemResult<'a> {
    status: u16,
    #[serde(borrow, rename = "_index")]
    index: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<ItemError<'a>>,
}

#[derive(Deserialize)]
struct ItemError<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
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
pub fn read(response: &[u8], writes: &[Write], alias: &str) -> Result<Vec<WriteOutcome>, Error> {
    let Response { items } = serde_json::from_slice(response)?;
    if items.len() != writes.len() {
        return Err(Error::Count { sent: writes.len(), answered: items.len() });
    }
    let outcomes = items.into_iter().zip(writes).enumerate().map(|(at, (item, write))| match (item, write) {
        (Item::Index(result), Write::Put(_)) => Ok(result.of_index()),
        (Item::Delete(result), Write::Delete { .. }) => Ok(result.of_delete(alias)),
        (Item::Index(_), Write::Delete { .. }) | (Item::Delete(_), Write::Put(_)) => Err(Error::Order(at)),
    });
    outcomes.collect()
}

impl ItemResult<'_> {
    fn of_index(self) -> WriteOutcome {
        match (self.status, self.error) {
            (200 | 201, None) => WriteOutcome::Indexed,
            (status, error) => failed(status, error),
        }
    }

    fn of_delete(self, alias: &str) -> WriteOutcome {
        match (self.status, self.error) {
            (200, None) => WriteOutcome::Deleted,
            // Not found in an index behind the alias: already deleted. An index with the alias's own name was created by
            // this request, because the alias is missing.
            (404, None) if self.index.as_deref().is_some_and(|index| index != alias) => WriteOutcome::Deleted,
            (404, None) => WriteOutcome::Blocked {
                cause: Blocked::IndexMissing,
                reason: format!("a deletion was answered by an index named {alias}, where an alias is expected"),
            },
            (status, error) => failed(status, error),
        }
    }
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
