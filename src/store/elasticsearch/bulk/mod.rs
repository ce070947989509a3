//! The bulk request: its bytes out, the meaning of its items in. Pure.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error_class::{Meaning, OVERLOAD};
use crate::store::{Blocked, Document, Write, Written};

/// What is kept of the answer: enough to judge every item, and nothing else. `_index` is looked at for deletions only.
pub const FILTER_PATH: &str = "items.*.status,items.*.error.type,items.*.error.reason,\
    items.*.error.caused_by.reason,items.delete._index";

/// How vectors are written into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorForm {
    /// Base64 of big-endian float32: the cheapest to write and to read; from Elasticsearch 9.3.
    Base64,
    /// A JSON array of the shortest decimals that lead back to the same float32; every version.
    Decimals,
}

/// The body of a bulk request: one action per write, in order.
///
/// Versions are external: a write that is older than what is stored is answered with a conflict. An equal version is
/// taken, so that sending the same bytes again is harmless.
///
/// # Errors
/// When a document cannot be written as JSON.
pub fn body(writes: &[Write], form: VectorForm) -> Result<Vec<u8>, serde_json::Error> {
    // Most of a document is its vector: 2732 bytes of base64 for 512 values, or about 5000 of decimals.
    let per_write = if form == VectorForm::Base64 { 3400 } else { 6400 };
    let mut body = Vec::with_capacity(writes.len() * per_write);
    let mut scratch = Scratch::default();
    for write in writes {
        match write {
            Write::Put(document) => {
                line(&mut body, &Action::Index(Target::new(&document.id, document.version)))?;
                line(&mut body, &Source::new(document, form, &mut scratch))?;
            }
            Write::Delete { id, version } => line(&mut body, &Action::Delete(Target::new(id, *version)))?,
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
    Index(Target<'a>),
    Delete(Target<'a>),
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: u64,
    version_type: &'static str,
}

impl<'a> Target<'a> {
    fn new(id: &'a str, version: u64) -> Self {
        Self { id, version, version_type: "external_gte" }
    }
}

/// A document as the mapping has it.
#[derive(Serialize)]
struct Source<'a> {
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

impl<'a> Source<'a> {
    fn new(document: &'a Document, form: VectorForm, scratch: &'a mut Scratch) -> Self {
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
            image_vector: values.map(|values| match form {
                VectorForm::Base64 => Vector::Base64(scratch.base64(values)),
                VectorForm::Decimals => Vector::Decimals(values),
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
struct Scratch {
    bytes: Vec<u8>,
    text: String,
}

impl Scratch {
    fn base64(&mut self, values: &[f32]) -> &str {
        self.bytes.clear();
        self.bytes.extend(values.iter().flat_map(|value| value.to_be_bytes()));
        self.text.clear();
        STANDARD.encode_string(&self.bytes, &mut self.text);
        &self.text
    }
}

/// Why an answer says nothing about the items.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, cut off, or not of this shape.
    #[error("the answer to a bulk request cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The items cannot be matched with the writes.
    #[error("the answer to a bulk request of {sent} items has {answered}")]
    Count {
        /// Items sent.
        sent: usize,
        /// Items answered.
        answered: usize,
    },
    /// An item answers another kind of action than was sent.
    #[error("item {0} of the answer to a bulk request is for another action")]
    Order(usize),
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Item<'a> {
    #[serde(borrow)]
    Index(Fate<'a>),
    #[serde(borrow)]
    Delete(Fate<'a>),
}

#[derive(Deserialize)]
struct Fate<'a> {
    status: u16,
    #[serde(borrow, rename = "_index")]
    index: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Cause<'a>>,
}

#[derive(Deserialize)]
struct Cause<'a> {
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

/// Reads the answer: what became of each write, in order.
///
/// # Errors
/// When the answer does not have exactly one item of the right kind per write. Nothing is known about any of them
/// then; sending the same bytes again is safe.
pub fn read(answer: &[u8], writes: &[Write], alias: &str) -> Result<Vec<Written>, Error> {
    let Answer { items } = serde_json::from_slice(answer)?;
    if items.len() != writes.len() {
        return Err(Error::Count { sent: writes.len(), answered: items.len() });
    }
    let judged = items.into_iter().zip(writes).enumerate().map(|(at, (item, write))| match (item, write) {
        (Item::Index(fate), Write::Put(_)) => Ok(fate.of_index()),
        (Item::Delete(fate), Write::Delete { .. }) => Ok(fate.of_delete(alias)),
        (Item::Index(_), Write::Delete { .. }) | (Item::Delete(_), Write::Put(_)) => Err(Error::Order(at)),
    });
    judged.collect()
}

impl Fate<'_> {
    fn of_index(self) -> Written {
        match (self.status, self.error) {
            (200 | 201, None) => Written::Indexed,
            (status, error) => failed(status, error),
        }
    }

    fn of_delete(self, alias: &str) -> Written {
        match (self.status, self.error) {
            (200, None) => Written::Deleted,
            // Not found in an index behind the alias is the wanted state. An index that has the alias's own name was
            // created by this very request, because the alias is missing.
            (404, None) if self.index.as_deref().is_some_and(|index| index != alias) => Written::Deleted,
            (404, None) => Written::Blocked {
                cause: Blocked::IndexMissing,
                reason: format!("a deletion was answered by an index named {alias}, where an alias is expected"),
            },
            (status, error) => failed(status, error),
        }
    }
}

fn failed(status: u16, error: Option<Cause<'_>>) -> Written {
    let Some(error) = error else {
        let reason = format!("an item was answered with status {status} and no error");
        return Written::Busy { overload: status == OVERLOAD, reason };
    };
    let kind = error.kind.into_owned();
    let first = error.reason.as_deref().unwrap_or_default();
    let meaning = Meaning::of(status, &kind, first);
    let reason = match error.caused_by.and_then(|cause| cause.reason) {
        Some(cause) => format!("{first}: {cause}"),
        None => first.to_owned(),
    };
    match meaning {
        Meaning::Conflict => Written::Stale,
        Meaning::Blocked(cause) => Written::Blocked { cause, reason: format!("{kind}: {reason}") },
        Meaning::Busy => Written::Busy { overload: status == OVERLOAD, reason: format!("{status} {kind}: {reason}") },
        Meaning::TooLarge | Meaning::Refused => Written::Rejected { kind, reason },
    }
}

#[cfg(test)]
mod tests;
